//! Real PostgreSQL servers for a short while: one primary and its streaming replicas, in a temporary folder, on free
//! loopback ports. `pglagoon demo` shows on them, and the real-server tests run on them.
//!
//! Invariants:
//! - The servers never run as root: started by root, they run as `postgres` (or `nobody`) and own their folders.
//! - Nothing is left behind, however this process ends. A watcher, a small shell in a process group of its own, reads a
//!   pipe that only this process holds open; when it ends of file it kills every process whose working directory lies in
//!   the folder, and removes the folder. [`Drop`] closes that pipe and waits: there is one way of cleaning up.
//! - Every wait ends at an event (the server's own status file, a row in `pg_stat_replication`, the end of a process), or
//!   in an error that quotes the server's log.

mod installation;
mod node;

use std::fmt;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

pub use installation::{Installation, Version};
pub use node::{Node, Stop};

/// The superuser: trusted over the Unix socket, [`PASSWORD`] over TCP.
pub const SUPERUSER: &str = "postgres";
/// The application's user, owner of [`DATABASE`].
pub const USER: &str = "app";
/// The application's database.
pub const DATABASE: &str = "app";
/// The password of every user here. The servers listen on loopback only, for a short while.
pub const PASSWORD: &str = "secret";
/// A second ordinary user, whose password the servers keep as MD5.
pub const MD5_USER: &str = "old";

/// What to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// The servers' programs; `None`: the newest that is installed.
    pub bin: Option<PathBuf>,
    /// Streaming replicas beside the primary.
    pub replicas: usize,
    /// `max_connections` of every server.
    pub max_connections: u32,
    /// Whether each replica has a replication slot on the primary.
    pub slots: Slots,
    /// More lines for every server's `postgresql.conf`; they win over the playground's own.
    pub settings: Vec<(String, String)>,
    /// Where an initialised data directory is kept for the next start; `None`: it is made anew each time.
    pub template_cache: Option<PathBuf>,
    /// Where the folder is made; `None`: the system's temporary folder.
    pub parent: Option<PathBuf>,
}

/// Whether each replica has a replication slot on the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slots {
    /// The primary keeps 256 MB of WAL for replicas that fell behind.
    None,
    /// The primary keeps WAL for as long as a replica needs it.
    PerReplica,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            bin: None,
            replicas: 2,
            max_connections: 100,
            slots: Slots::None,
            settings: Vec::new(),
            template_cache: None,
            parent: None,
        }
    }
}

/// A primary, its replicas and their folder. Dropping it ends and removes all of them.
#[derive(Debug)]
pub struct Playground {
    installation: Installation,
    nodes: Vec<Node>,
    folder: PathBuf,
    watcher: Watcher,
}

impl Playground {
    /// Starts the primary and its replicas, and returns when every replica streams.
    ///
    /// # Errors
    /// No PostgreSQL is installed, no unprivileged user can be found to run it, or a server does not come up.
    pub fn start(options: &Options) -> Result<Playground, Error> {
        let installation = match &options.bin {
            Some(bin) => Installation::at(bin)?,
            None => Installation::newest()?,
        };
        let owner = Owner::find()?;
        let folder = fresh_folder(options.parent.as_deref())?;
        let watcher = Watcher::start(&folder)?;
        let mut playground = Playground { installation, nodes: Vec::new(), folder, watcher };
        playground.bring_within_reach(owner)?;
        playground.fill(options, owner)?;
        Ok(playground)
    }

    /// The programs may lie where only root may look, in a home folder for example: then the servers run from a copy.
    fn bring_within_reach(&mut self, owner: Owner) -> Result<(), Error> {
        if owner.can_run(&self.installation) {
            return Ok(());
        }
        let unreachable = || Error::CannotRun { program: self.installation.program("postgres") };
        let prefix = self.installation.bin().parent().ok_or_else(unreachable)?;
        let copied = self.folder.join("postgresql");
        copy(prefix, &copied)?;
        let installation = Installation::at(&copied.join("bin"))?;
        if !owner.can_run(&installation) {
            return Err(unreachable());
        }
        self.installation = installation;
        Ok(())
    }

    fn fill(&mut self, options: &Options, owner: Owner) -> Result<(), Error> {
        let template = template(&self.installation, options, &self.folder, owner)?;
        let sockets = self.folder.join("sockets");
        fs::create_dir(&sockets).map_err(Error::io("make", &sockets))?;
        owner.give(&sockets)?;
        for place in 0..=options.replicas {
            let node =
                Node::lay(place, &template, &self.folder, &sockets, &self.installation, owner, options)?;
            self.nodes.push(node);
        }
        let (primary, replicas) = self.nodes.split_first_mut().expect("place 0 was pushed above");
        primary.launch()?;
        primary.settle()?;
        for replica in replicas.iter_mut() {
            if options.slots == Slots::PerReplica {
                primary.sql(&format!("SELECT pg_create_physical_replication_slot('{}')", replica.name()))?;
            }
            replica.follow(primary, options.slots)?;
            replica.launch()?;
        }
        for replica in replicas.iter_mut() {
            replica.settle()?;
        }
        self.wait_streaming(options.replicas)
    }

    /// Waits until that many replicas stream from the primary.
    ///
    /// # Errors
    /// They do not within 30 seconds.
    pub fn wait_streaming(&self, replicas: usize) -> Result<(), Error> {
        self.primary()
            .sql(&format!(
                "DO $$ BEGIN
                   FOR turn IN 1..3000 LOOP
                     PERFORM pg_stat_clear_snapshot();
                     IF (SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming') >= {replicas} THEN
                       RETURN;
                     END IF;
                     PERFORM pg_sleep(0.01);
                   END LOOP;
                   RAISE 'not every replica streams after 30 seconds';
                 END $$"
            ))
            .map(drop)
    }

    /// Waits until every running replica has replayed all that the primary has written.
    ///
    /// # Errors
    /// One does not within 30 seconds, or a server does not answer.
    pub fn wait_caught_up(&self) -> Result<(), Error> {
        let target = self.primary().sql("SELECT pg_current_wal_insert_lsn()")?;
        for replica in self.replicas().iter().filter(|replica| replica.is_running()) {
            replica.wait_replayed(target.trim())?;
        }
        Ok(())
    }

    /// The server that began as the primary.
    pub fn primary(&self) -> &Node {
        &self.nodes[0]
    }

    /// The servers that began as replicas.
    pub fn replicas(&self) -> &[Node] {
        &self.nodes[1..]
    }

    /// All servers, the primary first.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// One server, by its place: 0 is the primary.
    pub fn node_mut(&mut self, place: usize) -> &mut Node {
        &mut self.nodes[place]
    }

    /// The installation that runs here.
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// The folder that holds everything; what else is put there goes with it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        self.watcher.finish();
        self.nodes.clear();
    }
}

/// The user that runs the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// Whoever runs this process.
    Ourselves,
    /// We are root: this user instead.
    Other {
        /// Its user id.
        uid: u32,
        /// Its group id.
        gid: u32,
    },
}

impl Owner {
    fn find() -> Result<Owner, Error> {
        let our_uid = fs::metadata("/proc/self").map_err(Error::io("read", "/proc/self"))?.uid();
        if our_uid != 0 {
            return Ok(Owner::Ourselves);
        }
        let passwd = fs::read_to_string("/etc/passwd").map_err(Error::io("read", "/etc/passwd"))?;
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| passwd.lines().find_map(|line| ids_of(line, name)))
            .map(|(uid, gid)| Owner::Other { uid, gid })
            .ok_or(Error::NoUser)
    }

    /// A command that runs as this user, with nothing of the caller's terminal, in a process group of its own: Ctrl-C
    /// must reach this process only.
    fn command(self, installation: &Installation, program: &str) -> Command {
        let mut command = installation.command(program);
        command.stdin(Stdio::null()).process_group(0).current_dir("/");
        if let Owner::Other { uid, gid } = self {
            command.uid(uid).gid(gid).env("HOME", "/nonexistent");
        }
        command
    }

    fn give(self, path: &Path) -> Result<(), Error> {
        match self {
            Owner::Ourselves => Ok(()),
            Owner::Other { uid, gid } => {
                chown(path, Some(uid), Some(gid)).map_err(Error::io("give away", path))
            }
        }
    }

    fn can_run(self, installation: &Installation) -> bool {
        self.command(installation, "postgres")
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

fn ids_of(line: &str, name: &str) -> Option<(u32, u32)> {
    let mut fields = line.split(':');
    let found = fields.next()? == name;
    let ids = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
    found.then_some(ids)
}

/// An initialised data directory, cleanly shut down: each server starts as a copy of it. A replica needs no
/// `pg_basebackup` then, because a copy of a stopped primary is a base backup.
fn template(
    installation: &Installation,
    options: &Options,
    folder: &Path,
    owner: Owner,
) -> Result<PathBuf, Error> {
    let Some(cache) = &options.template_cache else {
        return make_template(installation, folder, owner);
    };
    let kept = cache.join(format!("pg-template-{}-{TEMPLATE_FORMAT}", installation.version()));
    if !kept.is_dir() {
        fs::create_dir_all(cache).map_err(Error::io("make", cache))?;
        let made = make_template(installation, folder, owner)?;
        // As unique as the folder: several tests of one process may find no template at once.
        let unique = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let unique = cache.join(format!("pg-template-{}.{unique}", installation.version()));
        copy(&made, &unique)?;
        // Another process may have been as quick: its template is as good as ours.
        if fs::rename(&unique, &kept).is_err() {
            fs::remove_dir_all(&unique).map_err(Error::io("remove", &unique))?;
        }
    }
    Ok(kept)
}

fn make_template(installation: &Installation, folder: &Path, owner: Owner) -> Result<PathBuf, Error> {
    let home = folder.join("template");
    fs::create_dir(&home).map_err(Error::io("make", &home))?;
    owner.give(&home)?;
    let data = home.join("data");
    let mut initdb = owner.command(installation, "initdb");
    initdb.arg("-D").arg(&data).args([
        "--username=postgres",
        "--auth-local=trust",
        "--auth-host=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--no-sync",
        // Small segments keep the copies small.
        "--wal-segsize=1",
    ]);
    run(&mut initdb)?;
    let hba = data.join("pg_hba.conf");
    fs::write(&hba, HBA).map_err(Error::io("write", &hba))?;
    let script = home.join("roles.sql");
    fs::write(&script, roles()).map_err(Error::io("write", &script))?;
    let mut single = owner.command(installation, "postgres");
    single.args(["--single", "-D"]).arg(&data).args([
        // A replica refuses to start with less than what the primary had when this was last written.
        "-c",
        "max_connections=10",
        "-c",
        "fsync=off",
        "postgres",
    ]);
    single.stdin(fs::File::open(&script).map_err(Error::io("open", &script))?);
    run(&mut single)?;
    Ok(data)
}

/// Raised whenever what [`make_template`] writes changes, so that an older copy in a cache is not used.
const TEMPLATE_FORMAT: u32 = 2;

const HBA: &str = "\
local  all          all                      trust
local  replication  all                      trust
host   all          old        127.0.0.1/32  md5
host   all          all        127.0.0.1/32  scram-sha-256
host   replication  all        127.0.0.1/32  scram-sha-256
";

/// One command per line, as single-user mode reads them.
fn roles() -> String {
    format!(
        "ALTER ROLE {SUPERUSER} PASSWORD '{PASSWORD}'\n\
         CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'\n\
         CREATE DATABASE {DATABASE} OWNER {USER}\n\
         SET password_encryption = 'md5'\n\
         CREATE ROLE {MD5_USER} LOGIN PASSWORD '{PASSWORD}'\n"
    )
}

/// Cleans up when this process ends, in whatever way.
#[derive(Debug)]
struct Watcher {
    shell: Child,
    /// Held open for as long as the playground lives. Never inherited by another child: the standard library opens
    /// pipes with close-on-exec.
    life_line: Option<ChildStdin>,
}

impl Watcher {
    fn start(folder: &Path) -> Result<Watcher, Error> {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", CLEAN_UP, "pglagoon-playground-watcher"])
            .arg(folder)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(Error::io("start", "/bin/sh"))?;
        let life_line = shell.stdin.take();
        Ok(Watcher { shell, life_line })
    }

    fn finish(&mut self) {
        drop(self.life_line.take());
        // Waiting can only fail if the shell was reaped already, which nobody else does.
        let _ = self.shell.wait();
    }
}

/// A PostgreSQL or pglagoon process belongs to the folder if its working directory lies in it: PostgreSQL's all work in
/// their data directory, also those whose postmaster is gone. (A person's shell may stand there too, and is spared.) They
/// are asked to stop at once, which lets a postmaster give its shared memory back, and killed if they do not within five
/// seconds. The search is repeated until it finds nothing; a zombie has no working directory and is not found. A server
/// that was killed has left its status file, and in the seventh line of that the System V segment that it leaked.
const CLEAN_UP: &str = r#"
trap '' INT TERM HUP
read -r _
ours() {
  find /proc -maxdepth 2 -name cwd -lname "$1/*" 2>/dev/null | while IFS=/ read -r _ _ pid _; do
    case $(cat "/proc/$pid/comm" 2>/dev/null) in postgres|pglagoon) echo "$pid" ;; esac
  done
}
signal=QUIT turns=0
while pids=$(ours "$1") && [ -n "$pids" ]; do
  [ $((turns % 25)) = 0 ] && kill -$signal $pids 2>/dev/null && kill -CONT $pids 2>/dev/null
  turns=$((turns + 1))
  [ $turns -ge 250 ] && signal=KILL
  sleep 0.02
done
for status in "$1"/*/data/postmaster.pid; do
  [ -f "$status" ] && set -- "$1" $(sed -n 7p "$status") && [ -n "$3" ] && ipcrm -m "$3" 2>/dev/null
done
rm -rf "$1"
"#;

/// A new folder that others may pass through but not list, so that the servers' user reaches its own part of it.
fn fresh_folder(parent: Option<&Path>) -> Result<PathBuf, Error> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = parent.join(format!("pglagoon-{}-{number}", std::process::id()));
        match fs::create_dir(&folder) {
            Ok(()) => {
                let passable = fs::Permissions::from_mode(0o711);
                fs::set_permissions(&folder, passable).map_err(Error::io("open up", &folder))?;
                // The watcher compares it with what /proc says, which knows no symbolic links.
                return folder.canonicalize().map_err(Error::io("find", &folder));
            }
            Err(taken) if taken.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(other) => return Err(Error::io("make", &folder)(other)),
        }
    }
}

/// A port that was free a moment ago, below those that the kernel gives to outgoing connections. Whoever uses it must be
/// ready to find it taken.
///
/// # Errors
/// None of a hundred ports can be had.
pub fn free_port() -> io::Result<u16> {
    const TRIES: usize = 100;
    const PORTS: std::ops::Range<u64> = 10_240..32_768;
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        // The standard library's source of seeds: no two processes should try the same ports in the same order.
        let random = RandomState::new().hash_one(()) % (PORTS.end - PORTS.start);
        let port = (PORTS.start + random) as u16;
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Copies a folder with its owners and permissions.
fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    run(Command::new("cp").arg("-a").arg("--reflink=auto").arg(from).arg(to))
}

/// Runs a program to its end; what it said is in the error.
fn run(command: &mut Command) -> Result<(), Error> {
    output(command).map(drop)
}

/// Runs a program to its end and returns what it printed.
fn output(command: &mut Command) -> Result<String, Error> {
    let program = PathBuf::from(command.get_program());
    let output = command.output().map_err(Error::io("start", &program))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Failed { program, said })
}

/// Why the playground cannot be had.
#[derive(Debug)]
pub enum Error {
    /// No server programs in the places looked at.
    NotInstalled {
        /// What was looked at, for people.
        looked: String,
    },
    /// We are root, and there is neither a user `postgres` nor `nobody`.
    NoUser,
    /// The unprivileged user may not run the programs.
    CannotRun {
        /// The program.
        program: PathBuf,
    },
    /// A program ended with an error.
    Failed {
        /// The program.
        program: PathBuf,
        /// What it said.
        said: String,
    },
    /// A server ended or did not become ready.
    NotReady {
        /// Its name.
        node: String,
        /// The end of its log.
        log: String,
    },
    /// The operating system refused.
    Io {
        /// What was tried, as a verb.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
}

impl Error {
    fn io(verb: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { verb, path, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotInstalled { looked } => {
                write!(f, "no PostgreSQL server is installed (looked at {looked}); `make setup` installs one")
            }
            Error::NoUser => f.write_str(
                "PostgreSQL does not run as root, and there is no user `postgres` or `nobody` to run it",
            ),
            Error::CannotRun { program } => write!(
                f,
                "{} cannot be run by the unprivileged user that PostgreSQL needs, and neither can a copy of it",
                program.display()
            ),
            Error::Failed { program, said } => write!(f, "{} failed: {said}", program.display()),
            Error::NotReady { node, log } => {
                write!(f, "{node} did not become ready; its log ends with:\n{log}")
            }
            Error::Io { verb, path, source } => write!(f, "cannot {verb} {}: {source}", path.display()),
        }
    }
}

impl std::error::Error for Error {}
