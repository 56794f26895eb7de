//! Where a fault is rehearsed: a cluster of our own with pglagoon before it, made anew for each fault, or the operator's
//! staging cluster. Steps are taken by [`Hands`], beside the workload's clients and not instead of them.

use std::collections::HashSet;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_postgres::{Config, NoTls, SimpleQueryMessage};

use super::Error;
use super::fault::{REPLICAS, Staging, Step};
use crate::cli::demo::{self, Lagoon};
use crate::cli::playground::{self, Options, Playground, Slots};

/// One fault's world.
pub(super) struct Stage {
    // Dropped in this order: pglagoon ends before its servers.
    lagoon: Option<Lagoon>,
    hands: Hands,
    clients: Config,
    table: String,
    truth: Truth,
}

/// Where the rows are counted in the end.
enum Truth {
    /// On the primary itself.
    Primary,
    /// Where this leads to.
    Connection(Box<Config>),
}

impl Stage {
    /// A primary, replicas, pglagoon.
    pub(super) async fn built_in(bin: Option<PathBuf>) -> Result<Stage, Error> {
        let playground = Playground::start(&Options { bin, replicas: REPLICAS, ..Options::default() })?;
        let mut lagoon = Lagoon::start(&playground)?;
        lagoon.wait_ready().await?;
        let clients = lagoon.client_config();
        let table = "pglagoon_drill".to_owned();
        lay_table(&clients, &table).await?;
        playground.wait_caught_up()?;
        lagoon.wait_splitting(&playground, &format!("SELECT count(*) FROM {table}")).await?;
        let hands = Hands::new(Ground::BuiltIn { playground, primary: 0 });
        Ok(Stage { lagoon: Some(lagoon), hands, clients, table, truth: Truth::Primary })
    }

    /// The operator's, with a table of our own in it.
    pub(super) async fn staging(staging: &Staging) -> Result<Stage, Error> {
        let clients = connection("url", &staging.url)?;
        let truth = match &staging.check_url {
            Some(url) => connection("check_url", url)?,
            None => clients.clone(),
        };
        // Of a name that nothing else has: it is dropped in the end.
        let table = format!("pglagoon_drill_{}", std::process::id());
        lay_table(&clients, &table).await?;
        let hands = Hands::new(Ground::Staging { limit: staging.command_timeout() });
        Ok(Stage { lagoon: None, hands, clients, table, truth: Truth::Connection(Box::new(truth)) })
    }

    pub(super) fn clients(&self) -> Config {
        self.clients.clone()
    }

    pub(super) fn table(&self) -> String {
        self.table.clone()
    }

    pub(super) fn hands(&self) -> &Hands {
        &self.hands
    }

    /// Client and number of each row that is there. A primary that is just coming back is waited for.
    pub(super) async fn rows(&self) -> Result<HashSet<(i32, i32)>, Error> {
        let sql = format!("SELECT client || '|' || number FROM {}", self.table);
        let lines = match &self.truth {
            Truth::Primary => self.hands.ask_primary(sql).await?,
            Truth::Connection(config) => persist(async || ask(config, &sql).await).await?,
        };
        let row = |line: &str| {
            let (client, number) = line.split_once('|')?;
            Some((client.parse().ok()?, number.parse().ok()?))
        };
        Ok(lines.lines().filter_map(row).collect())
    }

    /// Takes the table away, where it would be left behind.
    ///
    /// # Errors
    /// pglagoon ended by itself, or the table cannot be dropped.
    pub(super) async fn clear(mut self) -> Result<(), Error> {
        let Some(lagoon) = &mut self.lagoon else {
            let sql = format!("DROP TABLE {}", self.table);
            return Ok(persist(async || run(&self.clients, &sql).await).await?);
        };
        match lagoon.has_ended()? {
            Some(status) => Err(demo::Error::Lagoon { status, log: lagoon.log_tail() }.into()),
            None => Ok(()),
        }
    }
}

fn connection(key: &str, url: &str) -> Result<Config, Error> {
    let mut config: Config = url.parse().map_err(|error| Error::Refused(format!("{key}: {error}")))?;
    if config.get_application_name().is_none() {
        config.application_name("pglagoon drill");
    }
    Ok(config)
}

async fn lay_table(config: &Config, table: &str) -> Result<(), tokio_postgres::Error> {
    run(config, &format!("CREATE TABLE {table} (client int, number int, PRIMARY KEY (client, number))")).await
}

async fn run(config: &Config, sql: &str) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    // Ends with the client; its error shows in the question.
    tokio::spawn(connection);
    client.batch_execute(sql).await
}

/// The first column, a line per row; from the primary, because a plain transaction runs nowhere else.
async fn ask(config: &Config, sql: &str) -> Result<String, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    // Ends with the client; its error shows in the question.
    tokio::spawn(connection);
    client.batch_execute("BEGIN").await?;
    let answer = client.simple_query(sql).await?;
    client.batch_execute("COMMIT").await?;
    let values = answer.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(values.collect::<Vec<_>>().join("\n"))
}

/// Tries again for a while: after a fault, servers come back in their own time.
async fn persist<T>(
    mut attempt: impl AsyncFnMut() -> Result<T, tokio_postgres::Error>,
) -> Result<T, tokio_postgres::Error> {
    const LIMIT: Duration = Duration::from_secs(60);
    let deadline = Instant::now() + LIMIT;
    loop {
        match attempt().await {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(200)).await,
            answer => return answer,
        }
    }
}

/// Takes steps on threads where waiting holds up no client.
#[derive(Clone)]
pub(super) struct Hands {
    ground: Arc<Mutex<Ground>>,
}

/// What steps are taken on.
enum Ground {
    BuiltIn {
        playground: Playground,
        /// The place of the server that is the primary by right.
        primary: usize,
    },
    Staging {
        /// How long one command may take.
        limit: Duration,
    },
}

impl Hands {
    fn new(ground: Ground) -> Hands {
        Hands { ground: Arc::new(Mutex::new(ground)) }
    }

    /// Takes one step to its end. Steps that overlap, because one was abandoned, wait for each other.
    pub(super) async fn take(&self, step: &Step) -> Result<(), Error> {
        let taken = step.clone();
        self.blocking(move |ground| ground.take(&taken))
            .await
            .map_err(|why| Error::Step { step: step.to_string(), why: why.to_string() })
    }

    async fn ask_primary(&self, sql: String) -> Result<String, Error> {
        self.blocking(move |ground| match ground {
            Ground::BuiltIn { playground, primary } => Ok(playground.nodes()[*primary].sql(&sql)?),
            Ground::Staging { .. } => Ok(String::new()),
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Ground) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let ground = Arc::clone(&self.ground);
        tokio::task::spawn_blocking(move || work(&mut ground.lock().expect("no step panics")))
            .await
            .map_err(|_| demo::Error::Workload)?
    }
}

impl Ground {
    fn take(&mut self, step: &Step) -> Result<(), Error> {
        match (self, step) {
            (Ground::Staging { limit }, Step::Command(command)) => run_command(command, *limit),
            (Ground::BuiltIn { playground, primary }, step) => {
                take_on(playground, step)?;
                if let Step::Promote(place) = step {
                    *primary = *place;
                }
                Ok(())
            }
            (Ground::Staging { .. }, _) => {
                Err(Error::Refused("a staging cluster knows commands only".into()))
            }
        }
    }
}

fn take_on(playground: &mut Playground, step: &Step) -> Result<(), playground::Error> {
    match *step {
        Step::AwaitCommitsOf(place) => {
            let name = playground.nodes()[place].name().to_owned();
            playground.primary().sql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'"))?;
            playground.primary().reload()?;
            playground.wait_caught_up()
        }
        Step::Kill(place) => playground.node_mut(place).kill(),
        Step::Stop(place) => playground.node_mut(place).stop(playground::Stop::Fast),
        Step::Start(place) => playground.node_mut(place).start(),
        Step::Promote(place) => playground.nodes()[place].promote(),
        Step::Follow { replica, primary } => {
            let nodes = playground.nodes();
            nodes[replica].follow(&nodes[primary], Slots::None)?;
            nodes[replica].reload()
        }
        Step::PauseReplay(place) => playground.nodes()[place].pause_replay(),
        Step::ResumeReplay(place) => playground.nodes()[place].resume_replay(),
        Step::Freeze(place) => playground.nodes()[place].freeze(),
        Step::Thaw(place) => playground.nodes()[place].thaw(),
        // The built-in faults have none.
        Step::Command(_) => Ok(()),
    }
}

/// What it prints goes to our stderr: stdout is the report's.
fn run_command(command: &str, limit: Duration) -> Result<(), Error> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .process_group(0)
        .spawn()?;
    match wait(&mut child, limit)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(Error::Refused(format!("it ended with {status}"))),
        None => {
            // The group: what a shell has started would go on without it.
            let group = child.id().to_string();
            Command::new("/bin/sh").args(["-c", "kill -KILL -\"$1\"", "kill", &group]).status()?;
            child.wait()?;
            Err(Error::Refused(format!("it did not end within {limit:?}")))
        }
    }
}

fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>, Error> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_must_succeed_in_time() {
        assert!(run_command("exit 0", Duration::from_secs(60)).is_ok());
        let failed = run_command("exit 7", Duration::from_secs(60)).unwrap_err().to_string();
        assert!(failed.contains('7'), "{failed}");
        let late = run_command("sleep 600 & wait", Duration::from_millis(50)).unwrap_err().to_string();
        assert!(late.contains("within 50ms"), "{late}");
    }
}
