//! `pglagoon demo`: a real primary with replicas, pglagoon in front of them, a workload through it, and a view of what
//! goes where. With `--check` the servers' own counters decide whether it went where it should.
//!
//! pglagoon runs as a child process, `pglagoon serve`, as it would anywhere. Everything else lives in the playground's
//! folder and goes with it, also when this process is killed.

mod check;
mod observe;
mod view;
pub(super) mod workload;

use std::fmt;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::playground::{self, DATABASE, Options, PASSWORD, Playground, SUPERUSER, USER, free_port};
use observe::Observer;
use view::View;
use workload::Workload;

/// What `pglagoon demo` is told.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// Run for some seconds, verify on the servers what went where, and exit with 0 or 1
    #[arg(long)]
    pub check: bool,
    /// Streaming replicas beside the primary
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=8))]
    pub replicas: u8,
    /// Clients of the workload
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=500))]
    pub clients: u16,
    /// End after so many seconds [default: at Ctrl-C; with --check 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: Option<u32>,
    /// The directory of PostgreSQL's server programs [default: the newest that is installed]
    #[arg(long, value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,
}

/// Runs the demo to its end.
pub fn run(args: &DemoArgs) -> ExitCode {
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::from)
        .and_then(|runtime| runtime.block_on(demo(args)));
    match outcome {
        Ok(passed) => passed,
        // Nobody is there to be told: whoever read our output has left.
        Err(Error::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // Where stderr is closed too, the exit code remains.
            let _ = writeln!(io::stderr(), "demo: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn demo(args: &DemoArgs) -> Result<ExitCode, Error> {
    // From the start: whoever ends the demo while it starts must not see it stay.
    let mut stop = Stop::listen()?;
    let mut out = io::stdout();
    let replicas = usize::from(args.replicas);
    writeln!(out, "demo: starting a PostgreSQL primary and {replicas} streaming replicas ...")?;
    let playground =
        Playground::start(&Options { bin: args.pg_bin.clone(), replicas, ..Options::default() })?;
    writeln!(
        out,
        "demo: PostgreSQL {} runs in {}",
        playground.installation().version(),
        playground.folder().display()
    )?;
    workload::lay_tables(&playground)?;

    let mut lagoon = Lagoon::start(&playground)?;
    lagoon.wait_ready().await?;
    // The readers' own table is left alone: servers report their counts late, and these reads would be found among theirs.
    lagoon.wait_splitting(&playground, "SELECT count(*) FROM notes").await?;
    let before = check::Counts::read(&playground)?;

    let workload = Arc::new(Workload::new(lagoon.client_config(), usize::from(args.clients)));
    let observer = Observer::connect(&playground, lagoon.http).await?;
    let view = View::new(out.is_terminal(), lagoon.addresses(&playground));
    view.welcome(&mut out)?;
    let running = workload.start();
    let until = args.seconds.or(args.check.then_some(CHECK_SECONDS)).map(u64::from).map(Duration::from_secs);
    let died = watch(&mut lagoon, observer, &workload, &view, until, &mut stop, &mut out).await?;
    workload.stop();
    for client in running {
        client.await.map_err(|_| Error::Workload)?;
    }
    if let Some(status) = died {
        return Err(Error::Lagoon { status, log: lagoon.log_tail() });
    }

    writeln!(out, "\ndemo: ending pglagoon and the servers ...")?;
    let ended = lagoon.terminate().await?;
    let code = match args.check {
        false => ExitCode::SUCCESS,
        true => check::report(&before, &playground, &workload.totals(), ended, &mut out)?,
    };
    drop(playground);
    writeln!(out, "demo: nothing is left behind")?;
    Ok(code)
}

/// How long `--check` lets the workload run unless it is told.
const CHECK_SECONDS: u32 = 5;

/// Shows what goes on, once a second, until the time is over or somebody ends it; the status of pglagoon if that ended
/// first.
async fn watch(
    lagoon: &mut Lagoon,
    mut observer: Observer,
    workload: &Workload,
    view: &View,
    until: Option<Duration>,
    stop: &mut Stop,
    out: &mut impl Write,
) -> Result<Option<ExitStatus>, Error> {
    let mut beat = tokio::time::interval(Duration::from_secs(1));
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let began = Instant::now();
    // The first tick comes at once, and is the start of the first second.
    beat.tick().await;
    loop {
        // All branches are cancel safe: signals and ticks are kept until they are received.
        tokio::select! {
            () = stop.told() => return Ok(None),
            _ = beat.tick() => {}
        }
        if let Some(status) = lagoon.has_ended()? {
            return Ok(Some(status));
        }
        let observed = observer.observe().await;
        view.show(began.elapsed(), &observed, &workload.take_second(), &workload.totals(), out)?;
        if until.is_some_and(|until| began.elapsed() >= until) {
            return Ok(None);
        }
    }
}

/// Ctrl-C or SIGTERM.
pub(super) struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    pub(super) fn listen() -> io::Result<Stop> {
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Stop { interrupt, terminate })
    }

    /// Ends when somebody wants us to end. Cancel safe.
    pub(super) async fn told(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// `pglagoon serve` as a child process.
pub(super) struct Lagoon {
    child: Child,
    address: SocketAddr,
    http: SocketAddr,
    home: PathBuf,
}

impl Lagoon {
    pub(super) fn start(playground: &Playground) -> Result<Lagoon, Error> {
        let home = playground.folder().join("pglagoon");
        fs::create_dir(&home)?;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let http = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let config = home.join("pglagoon.toml");
        fs::write(&config, configuration(playground, address, http))?;
        let log = fs::File::create(home.join("log"))?;
        let child = Command::new(std::env::current_exe()?)
            .args(["serve", "--config"])
            .arg(&config)
            // In the playground's folder, so that the playground's watcher ends it should this process be killed; in a
            // process group of its own, so that Ctrl-C reaches this process only.
            .current_dir(&home)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Lagoon { child, address, http, home })
    }

    pub(super) async fn wait_ready(&mut self) -> Result<(), Error> {
        const LIMIT: Duration = Duration::from_secs(30);
        let deadline = Instant::now() + LIMIT;
        loop {
            if observe::get(self.http, "/ready").await.is_some_and(|answer| answer.is_ok()) {
                return Ok(());
            }
            if let Some(status) = self.has_ended()? {
                return Err(Error::Lagoon { status, log: self.log_tail() });
            }
            if Instant::now() > deadline {
                return Err(Error::NotReady { log: self.log_tail() });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until reads go to replicas. What is not known of names yet goes to the primary, and names become known once the
    /// first client has come: `read` is what that client reads.
    pub(super) async fn wait_splitting(&mut self, playground: &Playground, read: &str) -> Result<(), Error> {
        const LIMIT: Duration = Duration::from_secs(10);
        if playground.replicas().is_empty() {
            return Ok(());
        }
        let (client, connection) = self.client_config().connect(tokio_postgres::NoTls).await?;
        let driver = tokio::spawn(connection);
        let deadline = Instant::now() + LIMIT;
        // Without success the demo goes on: then it has something to show, and the check something to find.
        while Instant::now() < deadline && !observe::reads_from_replicas(self.http).await {
            client.simple_query(read).await?;
        }
        drop(client);
        // Its error is the same that the client would have seen.
        let _ = driver.await;
        Ok(())
    }

    /// Asks it to end as an operator would, and waits for that.
    pub(super) async fn terminate(&mut self) -> Result<ExitStatus, Error> {
        const LIMIT: Duration = Duration::from_secs(15);
        let pid = self.child.id().to_string();
        Command::new("/bin/sh").args(["-c", "kill -TERM \"$1\"", "kill", &pid]).status()?;
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.has_ended()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                self.child.kill()?;
                return Ok(self.child.wait()?);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) fn has_ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    pub(super) fn client_config(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.address.port()).user(USER).password(PASSWORD).dbname(DATABASE);
        config.application_name("demo");
        config
    }

    fn addresses(&self, playground: &Playground) -> view::Addresses {
        let url = |database| format!("postgresql://{USER}:{PASSWORD}@{}/{database}", self.address);
        view::Addresses {
            version: playground.installation().version().to_string(),
            database: url(DATABASE),
            console: url("pglagoon"),
            metrics: format!("http://{}/metrics", self.http),
            log: self.home.join("log"),
        }
    }

    pub(super) fn log_tail(&self) -> String {
        let log = fs::read(self.home.join("log")).unwrap_or_default();
        let tail = &log[log.len().saturating_sub(4096)..];
        String::from_utf8_lossy(tail).into_owned()
    }
}

impl Drop for Lagoon {
    fn drop(&mut self) {
        // It has ended already unless something went wrong before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What pglagoon is told: the servers, but not their roles.
fn configuration(playground: &Playground, address: SocketAddr, http: SocketAddr) -> String {
    let servers: Vec<String> =
        playground.nodes().iter().map(|node| format!("{:?}", node.address())).collect();
    format!(
        "[listen]\n\
         address = \"{address}\"\n\
         \n\
         [http]\n\
         address = \"{http}\"\n\
         \n\
         [users.{USER}]\n\
         password = \"{PASSWORD}\"\n\
         \n\
         [admin]\n\
         users = [\"{USER}\"]\n\
         \n\
         # Small, so that there is something to wait for.\n\
         [pool]\n\
         size = 6\n\
         \n\
         [monitor]\n\
         user = \"{SUPERUSER}\"\n\
         password = \"{PASSWORD}\"\n\
         database = \"postgres\"\n\
         \n\
         # Where a primary dies for good here, commits have waited for the replica that is promoted.\n\
         [routing]\n\
         on_lost_write = \"reset\"\n\
         \n\
         # Which one is the primary is found out.\n\
         [databases.{DATABASE}]\n\
         servers = [{}]\n",
        servers.join(", ")
    )
}

/// Why the demo ended early.
#[derive(Debug)]
pub(super) enum Error {
    Playground(playground::Error),
    Io(io::Error),
    /// pglagoon ended by itself.
    Lagoon {
        status: ExitStatus,
        log: String,
    },
    NotReady {
        log: String,
    },
    /// Our own connection to a server.
    Server(tokio_postgres::Error),
    /// A client of the workload panicked.
    Workload,
}

impl From<playground::Error> for Error {
    fn from(error: playground::Error) -> Self {
        Error::Playground(error)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Error::Io(error)
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Error::Server(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Playground(error) => error.fmt(f),
            Error::Io(error) => error.fmt(f),
            Error::Lagoon { status, log } => {
                write!(f, "pglagoon ended with {status}; its log ends with:\n{log}")
            }
            Error::NotReady { log } => write!(f, "pglagoon did not become ready; its log ends with:\n{log}"),
            Error::Server(error) => write!(f, "a server did not answer: {error}"),
            Error::Workload => f.write_str("a client of the workload failed"),
        }
    }
}
