//! One server of the playground: a data directory, a port, and a postmaster while it runs.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::{Error, Installation, Options, Owner, SUPERUSER, Slots, copy, free_port, output, run};

/// One server: laid, started, stopped, killed, frozen, promoted at will.
#[derive(Debug)]
pub struct Node {
    name: String,
    port: u16,
    home: PathBuf,
    sockets: PathBuf,
    installation: Installation,
    owner: Owner,
    postmaster: Option<Child>,
}

/// How a server is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// SIGINT: sessions are ended, a checkpoint is written.
    Fast,
    /// SIGQUIT: as a crash, but told to every process; the next start recovers.
    Immediate,
}

impl Node {
    /// Lays the files of the server at `place` (0: the primary); it does not run yet.
    pub(super) fn lay(
        place: usize,
        template: &Path,
        folder: &Path,
        sockets: &Path,
        installation: &Installation,
        owner: Owner,
        options: &Options,
    ) -> Result<Node, Error> {
        let name = if place == 0 { "primary".to_owned() } else { format!("replica{place}") };
        let home = folder.join(&name);
        fs::create_dir(&home).map_err(Error::io("make", &home))?;
        owner.give(&home)?;
        let node = Node {
            name,
            port: free_port().map_err(Error::io("find a free port for", &home))?,
            home,
            sockets: sockets.to_path_buf(),
            installation: installation.clone(),
            owner,
            postmaster: None,
        };
        copy(template, &node.data())?;
        node.write("postgresql.conf", &node.settings(options))?;
        Ok(node)
    }

    /// Makes it a replica of `primary` from its next start on; one that is a replica already, from its next reload on.
    ///
    /// # Errors
    /// Its files cannot be written.
    pub fn follow(&self, primary: &Node, slots: Slots) -> Result<(), Error> {
        let slot = match slots {
            Slots::None => String::new(),
            Slots::PerReplica => format!("primary_slot_name = '{}'\n", self.name),
        };
        self.write(
            "postgresql.auto.conf",
            &format!(
                "primary_conninfo = 'host={} port={} user={SUPERUSER} application_name={}'\n{slot}",
                primary.sockets.display(),
                primary.port,
                self.name
            ),
        )?;
        self.write("standby.signal", "")
    }

    /// Waits for the first start to succeed. A port that somebody else took since it was chosen is replaced.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        const TRIES: usize = 5;
        for _ in 1..TRIES {
            match self.wait_ready() {
                Err(Error::NotReady { log, .. }) if log.contains("could not bind") => {
                    self.port = free_port().map_err(Error::io("find a free port for", &self.home))?;
                    self.launch()?;
                }
                done => return done,
            }
        }
        self.wait_ready()
    }

    /// Starts it again after [`Node::stop`] or [`Node::kill`], on its old port, and waits until it takes connections.
    ///
    /// # Errors
    /// It ends, or is not ready within a minute.
    pub fn start(&mut self) -> Result<(), Error> {
        self.launch()?;
        self.wait_ready()
    }

    /// Starts it without waiting.
    pub(super) fn launch(&mut self) -> Result<(), Error> {
        assert!(self.postmaster.is_none(), "{} runs already", self.name);
        let log_path = self.log_path();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(&log_path)
            .map_err(Error::io("open", &log_path))?;
        let both = log.try_clone().map_err(Error::io("open", &log_path))?;
        let postgres = self.installation.program("postgres");
        let child = self
            .owner
            .command(&self.installation, "postgres")
            .arg("-D")
            .arg(self.data())
            .args(["-c", &format!("port={}", self.port)])
            .current_dir(self.data())
            .stdout(Stdio::from(log))
            .stderr(Stdio::from(both))
            .spawn()
            .map_err(Error::io("start", &postgres))?;
        self.postmaster = Some(child);
        Ok(())
    }

    /// Waits until it takes connections: the postmaster writes `ready` into the eighth line of its status file, once
    /// its sockets listen and, on a replica, its data is consistent.
    ///
    /// # Source
    /// `src/include/utils/pidfile.h`, and `wait_for_postmaster_start` in `src/bin/pg_ctl/pg_ctl.c`.
    pub fn wait_ready(&mut self) -> Result<(), Error> {
        let pid = self.postmaster.as_ref().map(Child::id).unwrap_or_default().to_string();
        let status_file = self.data().join("postmaster.pid");
        let deadline = Instant::now() + READY_WITHIN;
        while Instant::now() < deadline {
            let status = fs::read_to_string(&status_file).unwrap_or_default();
            let mut lines = status.lines();
            if lines.next() == Some(&pid) && lines.nth(6).is_some_and(|word| word.trim() == "ready") {
                return Ok(());
            }
            if self.reap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(Error::NotReady { node: self.name.clone(), log: self.log_tail() })
    }

    /// Stops it and waits for its end.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub fn stop(&mut self, how: Stop) -> Result<(), Error> {
        let signal = match how {
            Stop::Fast => "INT",
            Stop::Immediate => "QUIT",
        };
        let Some(postmaster) = &mut self.postmaster else { return Ok(()) };
        signal_pids(signal, &[postmaster.id()])?;
        postmaster.wait().map_err(Error::io("wait for", &self.home))?;
        self.postmaster = None;
        Ok(())
    }

    /// Stops it and starts it again.
    ///
    /// # Errors
    /// As [`Node::stop`] and [`Node::start`].
    pub fn restart(&mut self, how: Stop) -> Result<(), Error> {
        self.stop(how)?;
        self.start()
    }

    /// SIGKILL to all its processes at once, as if its machine had gone; its kernel still answers with resets.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub fn kill(&mut self) -> Result<(), Error> {
        self.signal_all("KILL")?;
        if let Some(mut postmaster) = self.postmaster.take() {
            postmaster.wait().map_err(Error::io("wait for", &self.home))?;
        }
        // A backend that was just being started may have outlived its postmaster.
        while !self.pids().is_empty() {
            self.signal_all("KILL")?;
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// SIGSTOP to all its processes: connections stay open and new ones are accepted by the kernel, but nothing answers.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub fn freeze(&self) -> Result<(), Error> {
        self.signal_all("STOP")
    }

    /// SIGCONT: ends [`Node::freeze`].
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub fn thaw(&self) -> Result<(), Error> {
        self.signal_all("CONT")
    }

    /// Makes a replica a primary, and waits until it is one.
    ///
    /// # Errors
    /// It is not a replica, or not promoted within a minute.
    pub fn promote(&self) -> Result<(), Error> {
        match self.sql("SELECT pg_promote(true, 60)")?.trim() {
            "t" => Ok(()),
            other => {
                Err(Error::NotReady { node: self.name.clone(), log: format!("pg_promote said {other}") })
            }
        }
    }

    /// Holds a replica's replay where it is; returns once nothing more is replayed.
    ///
    /// # Errors
    /// It is not a running replica.
    pub fn pause_replay(&self) -> Result<(), Error> {
        self.sql(
            "DO $$ BEGIN
               PERFORM pg_wal_replay_pause();
               FOR turn IN 1..1000 LOOP
                 IF pg_get_wal_replay_pause_state() = 'paused' THEN RETURN; END IF;
                 PERFORM pg_sleep(0.01);
               END LOOP;
               RAISE 'replay was not paused after 10 seconds';
             END $$",
        )
        .map(drop)
    }

    /// Ends [`Node::pause_replay`].
    ///
    /// # Errors
    /// It is not a running replica.
    pub fn resume_replay(&self) -> Result<(), Error> {
        self.sql("SELECT pg_wal_replay_resume()").map(drop)
    }

    /// Waits until a replica has replayed up to a position, such as `0/3000060`.
    ///
    /// # Errors
    /// It has not after 30 seconds.
    pub fn wait_replayed(&self, position: &str) -> Result<(), Error> {
        self.sql(&format!(
            "DO $$ BEGIN
               FOR turn IN 1..3000 LOOP
                 -- An insert position may stand behind a page header that replay has not crossed yet.
                 IF pg_wal_lsn_diff('{position}', pg_last_wal_replay_lsn()) <= 40 THEN RETURN; END IF;
                 PERFORM pg_sleep(0.01);
               END LOOP;
               RAISE 'replay did not reach {position} within 30 seconds';
             END $$"
        ))
        .map(drop)
    }

    /// Runs SQL as the superuser in [`super::DATABASE`], and returns its rows: `|` between columns, a line per row.
    ///
    /// # Errors
    /// The server's error.
    pub fn sql(&self, text: &str) -> Result<String, Error> {
        self.sql_in(super::DATABASE, text)
    }

    /// As [`Node::sql`], in another database.
    ///
    /// # Errors
    /// The server's error.
    pub fn sql_in(&self, database: &str, text: &str) -> Result<String, Error> {
        output(
            self.installation
                .command("psql")
                .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-U", SUPERUSER, "-d", database])
                .arg("-h")
                .arg(&self.sockets)
                .args(["-p", &self.port.to_string(), "-c", text]),
        )
    }

    /// `primary`, `replica1` ...; what it began as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its Unix socket.
    pub fn socket_directory(&self) -> &Path {
        &self.sockets
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Whether it was started and not stopped since.
    pub fn is_running(&self) -> bool {
        self.postmaster.is_some()
    }

    /// The file that its messages go to.
    pub fn log_path(&self) -> PathBuf {
        self.home.join("log")
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    /// Reloads its configuration files.
    ///
    /// # Errors
    /// It does not run.
    pub fn reload(&self) -> Result<(), Error> {
        self.sql("SELECT pg_reload_conf()").map(drop)
    }

    fn settings(&self, options: &Options) -> String {
        let mut text = format!(
            "listen_addresses = '127.0.0.1'\n\
             unix_socket_directories = '{}'\n\
             max_connections = {}\n\
             superuser_reserved_connections = 5\n\
             shared_buffers = '16MB'\n\
             fsync = off\n\
             full_page_writes = off\n\
             wal_level = replica\n\
             max_wal_senders = 10\n\
             max_replication_slots = 10\n\
             wal_keep_size = '256MB'\n\
             min_wal_size = '16MB'\n\
             hot_standby = on\n\
             hot_standby_feedback = off\n\
             wal_receiver_status_interval = '1s'\n\
             wal_retrieve_retry_interval = '100ms'\n\
             log_min_messages = warning\n\
             log_line_prefix = '%m [%p] %u@%d '\n\
             max_prepared_transactions = 10\n\
             timezone = 'UTC'\n\
             dynamic_shared_memory_type = mmap\n",
            self.sockets.display(),
            options.max_connections,
        );
        for (name, value) in &options.settings {
            text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        text
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.data().join(name);
        fs::write(&path, text).map_err(Error::io("write", &path))?;
        self.owner.give(&path)
    }

    fn reap(&mut self) -> Option<ExitStatus> {
        let ended = self.postmaster.as_mut()?.try_wait().ok().flatten();
        if ended.is_some() {
            self.postmaster = None;
        }
        ended
    }

    fn signal_all(&self, signal: &str) -> Result<(), Error> {
        signal_pids(signal, &self.pids())
    }

    /// All its processes: they work in its data directory.
    fn pids(&self) -> Vec<u32> {
        let data = self.data();
        let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
        processes
            .filter_map(Result::ok)
            .filter(|process| fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == data))
            .filter_map(|process| process.file_name().to_str()?.parse().ok())
            .collect()
    }

    fn log_tail(&self) -> String {
        const TAIL: u64 = 4096;
        let mut text = Vec::new();
        if let Ok(mut log) = fs::File::open(self.log_path()) {
            let length = log.metadata().map_or(0, |facts| facts.len());
            // A log that cannot be read leaves the tail empty: the error that quotes it is the one to tell.
            let _ = log
                .seek(SeekFrom::Start(length.saturating_sub(TAIL)))
                .and_then(|_| log.read_to_end(&mut text));
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Node {
    /// The playground's watcher has ended the process already; this only takes its exit status.
    fn drop(&mut self) {
        if let Some(mut postmaster) = self.postmaster.take() {
            let _ = postmaster.kill();
            let _ = postmaster.wait();
        }
    }
}

/// How long a server may take to start: recovery after a kill included, on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Sends a signal by the shell's `kill`: the library forbids itself unsafe code. That a process has ended meanwhile is
/// no error.
fn signal_pids(signal: &str, pids: &[u32]) -> Result<(), Error> {
    if pids.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = pids.iter().map(u32::to_string).collect();
    run(Command::new("/bin/sh").args(["-c", &format!("kill -{signal} {} 2>/dev/null; true", list.join(" "))]))
}
