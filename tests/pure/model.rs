//! A PostgreSQL backend as far as its protocol goes: frontend bytes in, backend bytes out, no database behind it.
//!
//! It knows a few statements by their text: `select ...` (`$1`, `1/0`, `from rowsN`, `from missing`, `from changing`),
//! `insert`, `do`, `alter`, COPY, SET / SHOW / RESET, transaction commands, PREPARE / EXECUTE / DEALLOCATE, DISCARD ALL
//! and LISTEN. What it does with messages, errors, implicit transactions and settings follows `postgres.c`.

use crate::notation::{Writer, string};
use pglagoon::routing::Role;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What all servers share.
#[derive(Debug, Default)]
pub struct Database {
    /// Grows with each ALTER: statements on `changing` that were prepared before are stale.
    pub version: u32,
    /// Writes that arrived at a replica.
    pub writes_on_replicas: Vec<String>,
}

pub type Names = BTreeMap<String, String>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Idle,
    Implicit,
    Open,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Normal,
    SkipToSync,
    CopyIn { extended: bool, rows: usize },
}

#[derive(Debug, Clone)]
struct Statement {
    command: Option<Command>,
    version: u32,
    parameters: usize,
}

#[derive(Debug)]
struct Portal {
    statement: Statement,
    parameters: Vec<String>,
    rows: Option<VecDeque<String>>,
    is_done: bool,
}

/// An error: its SQLSTATE and its message.
type Failure = (&'static str, String);

#[derive(Debug)]
pub struct Model {
    pub role: Role,
    defaults: Names,
    pub settings: Names,
    local: Names,
    block: Block,
    /// Settings at the start of the transaction and at each savepoint.
    snapshots: Vec<(String, Names)>,
    mode: Mode,
    bodies: BTreeMap<Vec<u8>, Statement>,
    portals: BTreeMap<Vec<u8>, Portal>,
    prepared: BTreeMap<String, Command>,
    pub listening: BTreeSet<String>,
    reported: Names,
    input: Vec<u8>,
    /// An Execute ran since the last Sync.
    has_executed: bool,
    buffered: Vec<u8>,
    out: Vec<u8>,
    pub is_gone: bool,
    /// A cancel request hits the next simple Query.
    pub is_canceled: bool,
    /// Rows that the transaction under way has written.
    written: usize,
    /// Rows that were committed.
    pub committed: usize,
}

const REPORTED: [(&str, &str); 2] = [("application_name", "application_name"), ("timezone", "TimeZone")];
const KNOWN: [(&str, &str); 8] = [
    ("application_name", ""),
    ("role", "none"),
    ("search_path", "public"),
    ("session_authorization", "app"),
    ("statement_timeout", "0"),
    ("timezone", "UTC"),
    ("transaction_isolation", "read committed"),
    ("work_mem", "4MB"),
];

impl Model {
    pub fn new(role: Role, startup: &[(String, String)]) -> Self {
        let mut defaults: Names =
            KNOWN.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        defaults.extend(startup.iter().cloned());
        let mut model = Model {
            role,
            settings: defaults.clone(),
            defaults,
            local: Names::new(),
            block: Block::Idle,
            snapshots: Vec::new(),
            mode: Mode::Normal,
            bodies: BTreeMap::new(),
            portals: BTreeMap::new(),
            prepared: BTreeMap::new(),
            listening: BTreeSet::new(),
            reported: Names::new(),
            input: Vec::new(),
            has_executed: false,
            buffered: Vec::new(),
            out: Vec::new(),
            is_gone: false,
            is_canceled: false,
            written: 0,
            committed: 0,
        };
        // The greeting has told these.
        model.report();
        model.buffered.clear();
        model
    }

    /// The bytes that have left the server.
    pub fn output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Nothing is under way.
    pub fn is_quiescent(&self) -> bool {
        self.block == Block::Idle
            && self.mode == Mode::Normal
            && self.input.is_empty()
            && self.buffered.is_empty()
            && self.out.is_empty()
    }

    /// The names of its prepared statements, without the unnamed one.
    pub fn statement_names(&self) -> impl Iterator<Item = &[u8]> {
        self.bodies.keys().map(Vec::as_slice).filter(|name| !name.is_empty())
    }

    pub fn default_of(&self, name: &str) -> &str {
        &self.defaults[name]
    }

    /// Reads bytes from the client and does what they say.
    pub fn feed(&mut self, bytes: &[u8], database: &mut Database) {
        self.input.extend_from_slice(bytes);
        while !self.is_gone && self.input.len() >= 5 {
            let length = u32::from_be_bytes(self.input[1..5].try_into().unwrap()) as usize + 1;
            if self.input.len() < length {
                break;
            }
            let message: Vec<u8> = self.input.drain(..length).collect();
            self.message(message[0], &message[5..], database);
            if self.buffered.len() > 8192 {
                self.flush();
            }
        }
    }

    fn message(&mut self, tag: u8, body: &[u8], database: &mut Database) {
        if let Mode::CopyIn { extended, rows } = self.mode {
            return self.copy_message(tag, body, extended, rows);
        }
        match tag {
            b'X' => self.is_gone = true,
            b'd' | b'c' | b'f' => {}
            b'S' => {
                self.mode = Mode::Normal;
                self.has_executed = false;
                self.finish();
                self.ready();
            }
            _ if self.mode == Mode::SkipToSync => {}
            b'H' => self.flush(),
            b'Q' => self.query(body, database),
            b'F' => {
                self.start();
                match self.check_aborted(Some(&Command::Do)) {
                    Ok(()) => {
                        self.buffered.message(b'V', |out| out.extend_from_slice(&(-1i32).to_be_bytes()))
                    }
                    Err(failure) => self.error(failure),
                }
                self.has_executed = false;
                self.finish();
                self.ready();
            }
            _ => {
                self.start();
                let answer = match tag {
                    b'P' => self.parse(body, database),
                    b'B' => self.bind(body, database),
                    b'D' => self.describe(body),
                    b'E' => self.execute(body, database),
                    b'C' => self.close(body),
                    _ => panic!("pglagoon sent a message of type {:?}", tag as char),
                };
                if let Err(failure) = answer {
                    self.error(failure);
                    self.mode = Mode::SkipToSync;
                }
            }
        }
    }

    // --- Transactions ----------------------------------------------------------------------------------------------

    fn start(&mut self) {
        if self.block == Block::Idle {
            self.block = Block::Implicit;
            self.snapshots = vec![(String::new(), self.settings.clone())];
        }
    }

    /// The end of a Query, or Sync.
    fn finish(&mut self) {
        if self.block == Block::Implicit {
            self.commit();
            self.end();
        }
    }

    fn commit(&mut self) {
        self.committed += std::mem::take(&mut self.written);
    }

    fn end(&mut self) {
        self.block = Block::Idle;
        self.written = 0;
        self.snapshots.clear();
        self.local.clear();
        self.portals.clear();
    }

    fn error(&mut self, (code, text): Failure) {
        self.written = 0;
        match self.block {
            Block::Implicit => {
                self.settings = self.snapshots[0].1.clone();
                self.end();
            }
            Block::Open => {
                self.settings = self.snapshots.last().unwrap().1.clone();
                self.block = Block::Failed;
                self.portals.clear();
            }
            Block::Idle | Block::Failed => {}
        }
        let routine = if text.starts_with("cached plan") { "RevalidateCachedQuery" } else { "somewhere" };
        self.buffered.message(b'E', |out| {
            for (letter, value) in
                [(b'S', "ERROR"), (b'V', "ERROR"), (b'C', code), (b'M', &text), (b'R', routine)]
            {
                out.push(letter);
                string(out, value.as_bytes());
            }
            out.push(0);
        });
        self.flush();
    }

    fn ready(&mut self) {
        self.report();
        let status = match self.block {
            Block::Idle => b'I',
            Block::Implicit => unreachable!("a ReadyForQuery inside an implicit transaction"),
            Block::Open => b'T',
            Block::Failed => b'E',
        };
        self.buffered.message(b'Z', |out| out.push(status));
        self.flush();
    }

    fn report(&mut self) {
        for (name, reported) in REPORTED {
            let value = self.settings[name].clone();
            if self.reported.get(name) != Some(&value) {
                self.buffered.message(b'S', |out| {
                    string(out, reported.as_bytes());
                    string(out, value.as_bytes());
                });
                self.reported.insert(name.to_owned(), value);
            }
        }
    }

    fn flush(&mut self) {
        self.out.append(&mut self.buffered);
    }

    // --- Messages --------------------------------------------------------------------------------------------------

    fn query(&mut self, body: &[u8], database: &mut Database) {
        self.bodies.remove(&b""[..]);
        self.portals.remove(&b""[..]);
        self.has_executed = false;
        self.start();
        let text = String::from_utf8_lossy(&body[..body.len() - 1]).into_owned();
        let result = match std::mem::take(&mut self.is_canceled) {
            true => Err(("57014", "canceling statement due to user request".to_owned())),
            false => self.simple(&text, database),
        };
        if let Err(failure) = result {
            self.error(failure);
        } else if matches!(self.mode, Mode::CopyIn { .. }) {
            return;
        }
        self.finish();
        self.ready();
    }

    fn simple(&mut self, text: &str, database: &mut Database) -> Result<(), Failure> {
        let commands = parse_all(text)?;
        if commands.is_empty() {
            self.buffered.message(b'I', |_| {});
        }
        let is_alone = commands.len() == 1;
        for command in commands {
            self.check_aborted(Some(&command))?;
            self.start();
            command.analyse()?;
            if command.returns_rows(self) {
                let columns = command.columns(database.version);
                row_description(&mut self.buffered, &columns);
            }
            let (rows, tag) = self.run(&command, &[], is_alone, database)?;
            for row in &rows {
                data_row(&mut self.buffered, row);
            }
            if let Some(tag) = tag {
                self.complete(&tag.replace('#', &rows.len().to_string()));
            }
        }
        Ok(())
    }

    fn complete(&mut self, tag: &str) {
        self.buffered.message(b'C', |out| string(out, tag.as_bytes()));
    }

    fn check_aborted(&self, command: Option<&Command>) -> Result<(), Failure> {
        let ends =
            matches!(command, None | Some(Command::Commit | Command::Rollback | Command::RollbackTo(_)));
        if self.block == Block::Failed && !ends {
            let text = "current transaction is aborted, commands ignored until end of transaction block";
            return Err(("25P02", text.to_owned()));
        }
        Ok(())
    }

    fn parse(&mut self, body: &[u8], database: &mut Database) -> Result<(), Failure> {
        let mut parts = body.splitn(3, |&byte| byte == 0);
        let (name, text) = (parts.next().unwrap(), parts.next().unwrap());
        if name.is_empty() {
            self.bodies.remove(&b""[..]);
        }
        let text = String::from_utf8_lossy(text).into_owned();
        let mut commands = parse_all(&text)?;
        if commands.len() > 1 {
            return Err(("42601", "cannot insert multiple commands into a prepared statement".to_owned()));
        }
        let command = commands.pop();
        if let Some(command) = &command {
            self.check_aborted(Some(command))?;
            command.analyse()?;
        }
        if !name.is_empty() && self.bodies.contains_key(name) {
            return Err(("42P05", format!("prepared statement \"{}\" already exists", name.escape_ascii())));
        }
        let parameters = (1..9).take_while(|n| text.contains(&format!("${n}"))).count();
        self.bodies.insert(name.to_vec(), Statement { command, version: database.version, parameters });
        self.buffered.message(b'1', |_| {});
        Ok(())
    }

    fn statement(&self, name: &[u8]) -> Result<Statement, Failure> {
        self.bodies.get(name).cloned().ok_or_else(|| {
            let text = match name {
                b"" => "unnamed prepared statement does not exist".to_owned(),
                _ => format!("prepared statement \"{}\" does not exist", name.escape_ascii()),
            };
            ("26000", text)
        })
    }

    fn bind(&mut self, body: &[u8], database: &mut Database) -> Result<(), Failure> {
        let mut parts = body.splitn(3, |&byte| byte == 0);
        let (portal, name) = (parts.next().unwrap(), parts.next().unwrap());
        let mut rest = parts.next().unwrap();
        let statement = self.statement(name)?;
        let int16 = |rest: &mut &[u8]| {
            let (head, tail) = rest.split_at(2);
            *rest = tail;
            usize::from(u16::from_be_bytes(head.try_into().unwrap()))
        };
        let formats = int16(&mut rest);
        rest = &rest[2 * formats..];
        let parameters: Vec<String> = (0..int16(&mut rest))
            .map(|_| {
                let (head, tail) = rest.split_at(4);
                let (value, tail) = tail.split_at(u32::from_be_bytes(head.try_into().unwrap()) as usize);
                rest = tail;
                String::from_utf8_lossy(value).into_owned()
            })
            .collect();
        if parameters.len() != statement.parameters {
            return Err(("08P01", "bind message supplies the wrong number of parameters".to_owned()));
        }
        self.check_aborted(statement.command.as_ref())?;
        if matches!(&statement.command, Some(Command::Select(Select::Changing)))
            && statement.version != database.version
        {
            return Err(("0A000", "cached plan must not change result type".to_owned()));
        }
        if !portal.is_empty() && self.portals.contains_key(portal) {
            return Err(("42P03", format!("cursor \"{}\" already exists", portal.escape_ascii())));
        }
        let portal = portal.to_vec();
        self.portals.insert(portal, Portal { statement, parameters, rows: None, is_done: false });
        self.buffered.message(b'2', |_| {});
        Ok(())
    }

    fn describe(&mut self, body: &[u8]) -> Result<(), Failure> {
        let name = &body[1..body.len() - 1];
        let statement = match body[0] {
            b'S' => {
                let statement = self.statement(name)?;
                // PostgreSQL describes one without rows even then; one that must first be prepared anew cannot be.
                self.check_aborted(statement.command.as_ref())?;
                self.buffered.message(b't', |out| {
                    out.extend_from_slice(&(statement.parameters as u16).to_be_bytes());
                    (0..statement.parameters).for_each(|_| out.extend_from_slice(&25u32.to_be_bytes()));
                });
                statement
            }
            _ => {
                let statement = self.portal(name)?.statement.clone();
                self.check_rows_in_aborted(&statement)?;
                statement
            }
        };
        match statement.command.filter(|command| command.returns_rows(self)) {
            Some(command) => row_description(&mut self.buffered, &command.columns(statement.version)),
            None => self.buffered.message(b'n', |_| {}),
        }
        Ok(())
    }

    fn check_rows_in_aborted(&self, statement: &Statement) -> Result<(), Failure> {
        match &statement.command {
            Some(command) if command.returns_rows(self) => self.check_aborted(Some(command)),
            _ => Ok(()),
        }
    }

    fn portal(&mut self, name: &[u8]) -> Result<&mut Portal, Failure> {
        self.portals
            .get_mut(name)
            .ok_or_else(|| ("34000", format!("portal \"{}\" does not exist", name.escape_ascii())))
    }

    fn execute(&mut self, body: &[u8], database: &mut Database) -> Result<(), Failure> {
        let end = body.iter().position(|&byte| byte == 0).unwrap();
        let name = &body[..end];
        let limit = u32::from_be_bytes(body[end + 1..].try_into().unwrap()) as usize;
        let portal = self.portal(name)?;
        let (command, parameters) = (portal.statement.command.clone(), portal.parameters.clone());
        let (is_done, is_started) = (portal.is_done, portal.rows.is_some());
        let Some(command) = command else {
            self.buffered.message(b'I', |_| {});
            return Ok(());
        };
        self.check_aborted(Some(&command))?;
        if is_done {
            return Err(("55000", format!("portal \"{}\" cannot be run", name.escape_ascii())));
        }
        let is_show = matches!(command, Command::Show(_));
        let mut tag = Some(if is_show { "SHOW" } else { "SELECT #" }.to_owned());
        if !is_started {
            let is_first = !std::mem::replace(&mut self.has_executed, true);
            let (rows, command_tag) = self.run(&command, &parameters, is_first, database)?;
            tag = command_tag;
            if let Some(portal) = self.portals.get_mut(name) {
                portal.rows = Some(rows.into());
            }
        }
        if matches!(self.mode, Mode::CopyIn { .. }) {
            return Ok(());
        }
        let returns_rows = command.returns_rows(self);
        let mut sent = 0;
        if let Some(portal) = self.portals.get_mut(name) {
            let rows = portal.rows.as_mut().unwrap();
            while (limit == 0 || sent < limit)
                && let Some(row) = rows.pop_front()
            {
                data_row(&mut self.buffered, &row);
                sent += 1;
            }
            if limit > 0 && sent == limit && returns_rows {
                self.buffered.message(b's', |_| {});
                return Ok(());
            }
            portal.is_done = !returns_rows;
        }
        if let Some(tag) = tag {
            self.complete(&tag.replace('#', &sent.to_string()));
        }
        Ok(())
    }

    fn close(&mut self, body: &[u8]) -> Result<(), Failure> {
        let name = &body[1..body.len() - 1];
        match body[0] {
            b'S' => drop(self.bodies.remove(name)),
            _ => drop(self.portals.remove(name)),
        }
        self.buffered.message(b'3', |_| {});
        Ok(())
    }

    fn copy_message(&mut self, tag: u8, body: &[u8], extended: bool, rows: usize) {
        let failure = match tag {
            b'd' if body.starts_with(b"dup") => ("23505", "duplicate key value".to_owned()),
            b'd' => {
                self.mode = Mode::CopyIn { extended, rows: rows + 1 };
                return;
            }
            b'H' | b'S' => return,
            b'c' => {
                self.mode = Mode::Normal;
                self.written += rows;
                self.complete(&format!("COPY {rows}"));
                if !extended {
                    self.finish();
                    self.ready();
                }
                return;
            }
            b'f' => ("57014", "COPY from stdin failed".to_owned()),
            b'X' => {
                self.is_gone = true;
                return;
            }
            _ => ("08P01", "unexpected message type during COPY from stdin".to_owned()),
        };
        self.error(failure);
        self.mode = if extended { Mode::SkipToSync } else { Mode::Normal };
        if !extended {
            self.ready();
        }
    }

    // --- Statements ------------------------------------------------------------------------------------------------

    /// Rows and the tag of the command; `#` in it stands for the number of rows. No tag: COPY has begun.
    fn run(
        &mut self,
        command: &Command,
        parameters: &[String],
        is_alone: bool,
        database: &mut Database,
    ) -> Result<(Vec<String>, Option<String>), Failure> {
        let tag = |tag: &str| Ok((Vec::new(), Some(tag.to_owned())));
        if command.writes() && self.role == Role::Replica {
            database.writes_on_replicas.push(format!("{command:?}"));
            return Err(("25006", "cannot execute a write in a read-only transaction".to_owned()));
        }
        match command {
            Command::Begin => {
                if self.block == Block::Implicit {
                    self.block = Block::Open;
                } else {
                    self.warning("there is already a transaction in progress");
                }
                tag("BEGIN")
            }
            Command::Commit => {
                let is_failed = self.block == Block::Failed;
                if self.block == Block::Implicit {
                    self.warning("there is no transaction in progress");
                    return tag("COMMIT");
                }
                self.commit();
                self.end_block();
                tag(if is_failed { "ROLLBACK" } else { "COMMIT" })
            }
            Command::Rollback => {
                self.written = 0;
                match self.block {
                    Block::Implicit => self.warning("there is no transaction in progress"),
                    _ => {
                        self.settings = self.snapshots[0].1.clone();
                        self.end_block();
                    }
                }
                tag("ROLLBACK")
            }
            Command::Savepoint(name) => {
                if self.block != Block::Open {
                    return Err(("25P01", "SAVEPOINT can only be used in transaction blocks".to_owned()));
                }
                self.snapshots.push((name.clone(), self.settings.clone()));
                tag("SAVEPOINT")
            }
            Command::RollbackTo(name) => {
                if self.block == Block::Implicit {
                    return Err((
                        "25P01",
                        "ROLLBACK TO SAVEPOINT can only be used in transaction blocks".to_owned(),
                    ));
                }
                let Some(at) = self.snapshots.iter().rposition(|(savepoint, _)| savepoint == name) else {
                    return Err(("3B001", format!("savepoint \"{name}\" does not exist")));
                };
                self.snapshots.truncate(at + 1);
                self.settings = self.snapshots[at].1.clone();
                self.block = Block::Open;
                tag("ROLLBACK")
            }
            Command::Set { name, value, is_local } => {
                self.set(name, value, *is_local)?;
                tag("SET")
            }
            Command::Reset(name) => {
                let default = self.defaults.get(name).cloned().ok_or_else(|| unknown_setting(name))?;
                self.set(name, &default, false)?;
                tag("RESET")
            }
            Command::ResetAll => {
                self.local.clear();
                let identity = ["role", "session_authorization"];
                for name in self.defaults.keys().filter(|name| !identity.contains(&name.as_str())) {
                    self.settings.insert(name.clone(), self.defaults[name].clone());
                }
                tag("RESET")
            }
            Command::SetConfig(name, value) => {
                self.set(name, value, false)?;
                Ok((vec![value.clone()], Some("SELECT #".to_owned())))
            }
            Command::Current(names) => {
                let value =
                    |name| self.local.get(name).or(self.settings.get(name)).cloned().unwrap_or_default();
                let values: Vec<String> = names.iter().map(value).collect();
                Ok((vec![values.join(COLUMN)], Some("SELECT #".to_owned())))
            }
            Command::State(kinds) => {
                let is_there = |kind: &&str| match *kind {
                    "pg_listening_channels" => !self.listening.is_empty(),
                    "from_sql" => !self.prepared.is_empty(),
                    _ => false,
                };
                let values: Vec<&str> =
                    kinds.iter().map(|kind| if is_there(kind) { "t" } else { "f" }).collect();
                Ok((vec![values.join(COLUMN)], Some("SELECT #".to_owned())))
            }
            Command::DiscardSequences => tag("DISCARD SEQUENCES"),
            Command::Show(name) => {
                let value = self.local.get(name).or(self.settings.get(name));
                Ok((vec![value.cloned().ok_or_else(|| unknown_setting(name))?], Some("SHOW".to_owned())))
            }
            Command::DiscardAll => {
                if self.block != Block::Implicit || !is_alone {
                    let text = "DISCARD ALL cannot run inside a transaction block";
                    return Err(("25001", text.to_owned()));
                }
                self.settings = self.defaults.clone();
                self.snapshots[0].1 = self.settings.clone();
                self.forget_statements();
                self.portals.clear();
                self.listening.clear();
                tag("DISCARD ALL")
            }
            Command::DeallocateAll => {
                self.forget_statements();
                tag("DEALLOCATE ALL")
            }
            Command::Deallocate(name) => {
                if self.prepared.remove(name).is_none() && self.bodies.remove(name.as_bytes()).is_none() {
                    return Err(("26000", format!("prepared statement \"{name}\" does not exist")));
                }
                tag("DEALLOCATE")
            }
            Command::Prepare(name, command) => {
                self.prepared.insert(name.clone(), (**command).clone());
                tag("PREPARE")
            }
            Command::Execute(name) => match self.executed(name).cloned() {
                Some(command) => self.run(&command, parameters, is_alone, database),
                None => Err(("26000", format!("prepared statement \"{name}\" does not exist"))),
            },
            Command::Listen(name) => {
                self.listening.insert(name.clone());
                tag("LISTEN")
            }
            Command::Unlisten => {
                self.listening.clear();
                tag("UNLISTEN")
            }
            Command::Select(Select::Failing) => Err(("22012", "division by zero".to_owned())),
            Command::Select(select) => Ok((select.rows(parameters), Some("SELECT #".to_owned()))),
            Command::Insert { is_duplicate: true } => {
                Err(("23505", "duplicate key value violates unique constraint".to_owned()))
            }
            Command::Insert { is_duplicate: false } => {
                self.written += 1;
                tag("INSERT 0 1")
            }
            Command::Do => Err(("P0001", "raised".to_owned())),
            Command::Alter => {
                database.version += 1;
                tag("ALTER TABLE")
            }
            Command::CopyIn => {
                self.buffered.message(b'G', |out| out.extend_from_slice(&[0, 0, 0]));
                self.flush();
                self.mode = Mode::CopyIn { extended: self.has_executed, rows: 0 };
                Ok((Vec::new(), None))
            }
            Command::CopyOut => {
                self.buffered.message(b'H', |out| out.extend_from_slice(&[0, 0, 0]));
                self.buffered.message(b'd', |out| out.extend_from_slice(b"line\n"));
                self.buffered.message(b'c', |_| {});
                tag("COPY 1")
            }
        }
    }

    /// What EXECUTE runs: of what came by a Parse, that which PREPARE would have taken.
    fn executed(&self, name: &str) -> Option<&Command> {
        let parsed = self.bodies.get(name.as_bytes()).and_then(|statement| statement.command.as_ref());
        let is_planned = |command: &&Command| {
            matches!(command, Command::Select(_) | Command::Insert { .. } | Command::SetConfig(..))
        };
        self.prepared.get(name).or(parsed.filter(is_planned))
    }

    fn forget_statements(&mut self) {
        // The unnamed statement is kept apart, and stays.
        self.bodies.retain(|name, _| name.is_empty());
        self.prepared.clear();
    }

    /// COMMIT or ROLLBACK of a block: what follows in the same Query or batch is in a new implicit transaction.
    fn end_block(&mut self) {
        self.end();
        self.start();
    }

    fn set(&mut self, name: &str, value: &str, is_local: bool) -> Result<(), Failure> {
        if !self.defaults.contains_key(name) {
            return Err(unknown_setting(name));
        }
        if value == "bad" {
            return Err(("22023", format!("invalid value for parameter \"{name}\": \"bad\"")));
        }
        if is_local {
            if self.block == Block::Open {
                self.local.insert(name.to_owned(), value.to_owned());
            } else {
                self.warning("SET LOCAL can only be used in transaction blocks");
            }
        } else {
            self.local.remove(name);
            self.settings.insert(name.to_owned(), value.to_owned());
            if name == "session_authorization" {
                self.settings.insert("role".to_owned(), "none".to_owned());
            }
        }
        Ok(())
    }

    fn warning(&mut self, text: &str) {
        self.buffered.message(b'N', |out| {
            for (letter, value) in [(b'S', "WARNING"), (b'V', "WARNING"), (b'C', "25P01"), (b'M', text)] {
                out.push(letter);
                string(out, value.as_bytes());
            }
            out.push(0);
        });
    }
}

fn unknown_setting(name: &str) -> Failure {
    ("42704", format!("unrecognized configuration parameter \"{name}\""))
}

fn row_description(out: &mut Vec<u8>, columns: &[String]) {
    out.message(b'T', |out| {
        out.extend_from_slice(&(columns.len() as u16).to_be_bytes());
        for column in columns {
            string(out, column.as_bytes());
            out.extend_from_slice(&[0; 6]);
            out.extend_from_slice(&25u32.to_be_bytes());
            out.extend_from_slice(&[0; 8]);
        }
    });
}

fn data_row(out: &mut Vec<u8>, value: &str) {
    out.message(b'D', |out| {
        let columns: Vec<&str> = value.split(COLUMN).collect();
        out.extend_from_slice(&(columns.len() as u16).to_be_bytes());
        for column in columns {
            out.extend_from_slice(&(column.len() as u32).to_be_bytes());
            out.extend_from_slice(column.as_bytes());
        }
    });
}

/// What a text may say.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Command {
    Begin,
    Commit,
    Rollback,
    Savepoint(String),
    RollbackTo(String),
    Set {
        name: String,
        value: String,
        is_local: bool,
    },
    Reset(String),
    ResetAll,
    SetConfig(String, String),
    /// What settings are, as one row.
    Current(Vec<String>),
    /// Whether state of these kinds is there, as one row.
    State(Vec<&'static str>),
    DiscardSequences,
    Show(String),
    DiscardAll,
    DeallocateAll,
    Deallocate(String),
    Prepare(String, Box<Command>),
    Execute(String),
    Listen(String),
    Unlisten,
    Select(Select),
    Insert {
        is_duplicate: bool,
    },
    Do,
    Alter,
    CopyIn,
    CopyOut,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Select {
    Literal(String),
    Parameter { rows: usize },
    Rows(usize),
    Changing,
    Failing,
    Missing,
}

impl Select {
    fn rows(&self, parameters: &[String]) -> Vec<String> {
        match self {
            Select::Literal(text) => vec![text.clone()],
            Select::Parameter { rows } => vec![parameters.first().cloned().unwrap_or_default(); *rows],
            Select::Rows(count) => (1..=*count).map(|n| n.to_string()).collect(),
            Select::Changing => vec!["changing".to_owned()],
            Select::Failing | Select::Missing => Vec::new(),
        }
    }
}

impl Command {
    fn writes(&self) -> bool {
        matches!(self, Command::Insert { .. } | Command::Do | Command::Alter | Command::CopyIn)
    }

    /// What is found out before it runs.
    fn analyse(&self) -> Result<(), Failure> {
        match self {
            Command::Select(Select::Missing) => {
                Err(("42P01", "relation \"missing\" does not exist".to_owned()))
            }
            _ => Ok(()),
        }
    }

    fn returns_rows(&self, model: &Model) -> bool {
        match self {
            Command::Execute(name) => model.executed(name).is_some_and(|command| command.returns_rows(model)),
            _ => matches!(
                self,
                Command::Select(_)
                    | Command::Show(_)
                    | Command::SetConfig(..)
                    | Command::Current(_)
                    | Command::State(_)
            ),
        }
    }

    fn columns(&self, version: u32) -> Vec<String> {
        match self {
            Command::Select(Select::Changing) => (0..=version).map(|n| format!("c{n}")).collect(),
            _ => vec!["c".to_owned()],
        }
    }
}

fn parse_all(text: &str) -> Result<Vec<Command>, Failure> {
    text.split(';').map(str::trim).filter(|text| !text.is_empty()).map(parse_one).collect()
}

fn parse_one(text: &str) -> Result<Command, Failure> {
    let lower = text.to_ascii_lowercase();
    let words: Vec<&str> = lower.split_ascii_whitespace().collect();
    let unquoted = |text: &str| text.trim().trim_matches(['\'', '"']).to_owned();
    let after = |prefix: &str| unquoted(&text[prefix.len()..]);
    Ok(match words[..] {
        ["begin", ..] => Command::Begin,
        ["commit"] => Command::Commit,
        ["rollback"] => Command::Rollback,
        ["savepoint", name] => Command::Savepoint(name.to_owned()),
        ["rollback", "to", name] => Command::RollbackTo(name.to_owned()),
        ["show", name] => Command::Show(name.to_owned()),
        ["reset", "all"] => Command::ResetAll,
        ["reset", "session", "authorization"] => Command::Reset("session_authorization".to_owned()),
        ["reset", name] => Command::Reset(unquoted(name)),
        ["set", "time", "zone", ..] => set("timezone", &after("set time zone"), false),
        ["set", "role", ..] => set("role", &after("set role"), false),
        ["set", "session", "authorization", ..] => {
            set("session_authorization", &after("set session authorization"), false)
        }
        ["set", "local", name, "to" | "=", value] => set(&unquoted(name), &unquoted(value), true),
        ["set", name, "to" | "=", ..] => {
            let value = text.splitn(4, ' ').nth(3).unwrap_or_default();
            set(&unquoted(name), &unquoted(value), false)
        }
        ["discard", "all"] => Command::DiscardAll,
        ["deallocate", "all"] => Command::DeallocateAll,
        ["discard", "sequences"] => Command::DiscardSequences,
        ["deallocate", name] => Command::Deallocate(unquoted(name)),
        ["unlisten", "*"] => Command::Unlisten,
        ["prepare", name, "as", ..] => {
            let (_, statement) = text.split_once(" as ").unwrap();
            Command::Prepare(name.to_owned(), Box::new(parse_one(statement)?))
        }
        ["execute", name] => Command::Execute(name.to_owned()),
        ["listen", name] => Command::Listen(name.to_owned()),
        ["insert", ..] => Command::Insert { is_duplicate: lower.contains("'dup'") },
        ["do", ..] => Command::Do,
        ["alter", ..] => Command::Alter,
        ["copy", _, "from", "stdin"] => Command::CopyIn,
        ["copy", _, "to", "stdout"] => Command::CopyOut,
        ["select", ..] => select(text, &lower),
        _ => return Err(("42601", format!("syntax error at or near \"{}\"", words[0]))),
    })
}

fn set(name: &str, value: &str, is_local: bool) -> Command {
    Command::Set { name: name.to_owned(), value: value.to_owned(), is_local }
}

/// Between the columns of a row.
const COLUMN: &str = "\u{1f}";

/// What tells the checks of state apart.
const STATE: [&str; 5] =
    ["pg_my_temp_schema", "is_holdable", "pg_locks", "pg_listening_channels", "from_sql"];

fn select(text: &str, lower: &str) -> Command {
    if lower.contains("current_setting(") {
        let names = lower.split("current_setting('").skip(1).filter_map(|rest| rest.split('\'').next());
        return Command::Current(names.map(str::to_owned).collect());
    }
    if lower.contains("exists (select from pg_catalog.") {
        return Command::State(STATE.into_iter().filter(|kind| lower.contains(kind)).collect());
    }
    if let Some(at) = lower.find("set_config(") {
        let arguments = &text[at + "set_config(".len()..];
        let parts: Vec<String> =
            arguments.split(',').map(|part| part.trim_matches([' ', '\'', ')']).to_owned()).collect();
        return Command::SetConfig(parts[0].clone(), parts[1].clone());
    }
    let rows = lower.split_once("from rows").map(|(_, count)| count.parse().unwrap_or(1));
    Command::Select(match rows {
        _ if lower.contains("1/0") => Select::Failing,
        _ if lower.contains("missing") => Select::Missing,
        _ if lower.contains("changing") => Select::Changing,
        rows if lower.contains("$1") => Select::Parameter { rows: rows.unwrap_or(1) },
        Some(rows) => Select::Rows(rows),
        None => Select::Literal(text["select".len()..].trim().trim_matches('\'').to_owned()),
    })
}
