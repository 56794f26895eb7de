//! The virtual database: SHOW and the operators' commands, over the simple and the extended query protocol.
//!
//! ```text
//!   bytes --receive--> Conversation --next--> Want::Table(show)  --table--> bytes
//!                                         |-> Want::Operate(..)  --done---> bytes
//!                                         |-> Want::Input | Flush | Close
//! ```
//!
//! [`Conversation`] is pure; [`Console::serve`] carries out what it wants. An error inside a batch skips to Sync. There
//! are no transactions: BEGIN, COMMIT and ROLLBACK are accepted because drivers send them, and change nothing.

mod command;

pub use command::{Command, parse};

use super::tables::{Averages, Show, Table, by_database};
use super::{Observed, Operated, Operation, Rights};
use crate::error::{ErrorSource, Report};
use crate::lock::lock;
use crate::wire::backend::{
    Column, Format, Formats, Severity, TransactionStatus, write_bare, write_command_complete, write_data_row,
    write_no_parameters, write_ready, write_report, write_row_description,
};
use crate::wire::frontend::{Bind, Parse, Target, executed_portal, query};
use crate::wire::{BackendTag, FrontendTag, Reader, Scanner, SqlState, Step};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The ParameterStatus pairs of a console login. The version is the PgBouncer whose console this one answers like.
pub fn parameters() -> &'static [(&'static str, &'static str)] {
    &[
        ("server_version", "1.25.2/pglagoon"),
        ("client_encoding", "UTF8"),
        ("server_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("TimeZone", "UTC"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
        ("is_superuser", "off"),
    ]
}

/// The virtual database. There is one for all its connections: it keeps the sample from which averages are made.
pub struct Console {
    observed: Arc<dyn Observed>,
    operated: Arc<dyn Operated>,
    averages: Mutex<Averages>,
}

/// What an operator has asked for. The log has it once, with what came of it; or that nobody waited for that.
struct Errand<'a> {
    user: &'a str,
    operation: Operation,
    outcome: Option<Result<String, Report>>,
}

impl Drop for Errand<'_> {
    fn drop(&mut self) {
        let Errand { user, operation, outcome } = self;
        match outcome {
            Some(Ok(outcome)) => tracing::info!(user, ?operation, outcome, "console"),
            Some(Err(report)) => tracing::warn!(user, ?operation, %report, "console: refused, or not done"),
            None => tracing::info!(user, ?operation, "console: not waited for"),
        }
    }
}

impl Console {
    /// A console over what can be seen and done. `now` begins the first period of the averages.
    pub fn new(observed: Arc<dyn Observed>, operated: Arc<dyn Operated>, now: Instant) -> Self {
        Console { observed, operated, averages: Mutex::new(Averages::new(now)) }
    }

    /// Takes the sample for averages if it is due. SHOW does so too; somebody who calls it about once in
    /// [`super::tables::PERIOD`] keeps the averages to that period when nobody looks for a while.
    pub fn sample(&self, now: Instant) {
        let is_due = lock(&self.averages).is_due(now);
        // To add up what thousands of pools have counted takes milliseconds, and drives what queries need out of the caches.
        if is_due {
            self.averages_at(now);
        }
    }

    /// Speaks with a client whose login is complete, ReadyForQuery included, until it leaves. `early` is what was
    /// read from it beyond the login.
    ///
    /// # Errors
    /// The stream's own, and a client that does not read its results.
    ///
    /// # Cancel safety
    /// May be dropped at any time; an operation under way goes on.
    pub async fn serve<S>(&self, stream: &mut S, early: &[u8], user: &str, rights: Rights) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut conversation = Conversation::new(rights);
        conversation.receive(early);
        let mut out = Vec::new();
        loop {
            let want = conversation.next(&mut out);
            if !matches!(want, Want::Table(_)) {
                send(stream, &mut out).await?;
            }
            match want {
                Want::Flush => {}
                Want::Input => {
                    if receive(stream, &mut conversation).await? == 0 {
                        return Ok(());
                    }
                }
                Want::Table(show) => {
                    conversation.table(&self.table(show, Instant::now()), &mut out);
                    send(stream, &mut out).await?;
                }
                Want::Operate(operation) => {
                    let mut errand = Errand { user, operation: operation.clone(), outcome: None };
                    let Some(done) = self.operate(operation, stream, &mut conversation).await? else {
                        return Ok(());
                    };
                    errand.outcome = Some(done.clone());
                    drop(errand);
                    conversation.done(done, &mut out);
                }
                Want::Close => return stream.shutdown().await,
            }
        }
    }

    /// Waits for the operation; `None` if the client leaves meanwhile.
    async fn operate<S>(
        &self,
        operation: Operation,
        stream: &mut S,
        conversation: &mut Conversation,
    ) -> io::Result<Option<Result<String, Report>>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut pending = self.operated.operate(operation);
        loop {
            // Both branches are cancel safe: `pending` stays, and a read that is dropped has read nothing.
            tokio::select! {
                done = &mut pending => return Ok(Some(done)),
                read = receive(stream, conversation), if conversation.has_room() => {
                    if read? == 0 {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn table(&self, show: Show, now: Instant) -> Table {
        let averages = match show {
            Show::Stats | Show::StatsAverages | Show::Totals => self.averages_at(now),
            _ => BTreeMap::new(),
        };
        show.table(&*self.observed, &averages)
    }

    fn averages_at(&self, now: Instant) -> BTreeMap<String, super::tables::Figures> {
        let totals = by_database(&self.observed.stats());
        let mut averages = lock(&self.averages);
        averages.sample(now, &totals);
        averages.at(now, &totals)
    }
}

async fn receive<S: AsyncRead + Unpin>(stream: &mut S, conversation: &mut Conversation) -> io::Result<usize> {
    let mut bytes = [0; READ];
    let read = stream.read(&mut bytes).await?;
    conversation.receive(&bytes[..read]);
    Ok(read)
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, out: &mut Vec<u8>) -> io::Result<()> {
    if !out.is_empty() {
        let written = async {
            stream.write_all(out).await?;
            stream.flush().await
        };
        tokio::time::timeout(WRITE_TIMEOUT, written).await.map_err(|_| io::ErrorKind::TimedOut)??;
        out.clear();
    }
    Ok(())
}

/// How long a client may take to read a result.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes read at once.
const READ: usize = 2048;

/// The longest message, in bytes; the longest command is far shorter.
const MAX_MESSAGE: usize = 64 * 1024;

/// Prepared statements, and portals, that one connection may have.
const MAX_PREPARED: usize = 256;

/// The longest name of a prepared statement or portal, in bytes.
const MAX_NAME: usize = 256;

/// Bytes of output after which it is written before more input is looked at.
const FLUSH_AT: usize = 64 * 1024;

/// What a [`Conversation`] needs before it can go on. The output so far may be written at any time.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Want {
    /// More bytes from the client.
    Input,
    /// The output should be written before going on.
    Flush,
    /// A table: answer with [`Conversation::table`].
    Table(Show),
    /// An operation: answer with [`Conversation::done`].
    Operate(Operation),
    /// The end.
    Close,
}

/// One client's side of the console, without its socket.
pub struct Conversation {
    rights: Rights,
    input: Vec<u8>,
    passed: usize,
    statements: HashMap<Box<[u8]>, Command>,
    portals: HashMap<Box<[u8]>, Portal>,
    state: Conversing,
}

/// A command that was bound.
#[derive(Debug, Clone)]
struct Portal {
    command: Command,
    formats: Formats,
}

/// ```text
///   Ready --command that needs an answer--> Asked --table/done--> Ready
///     |  ^                                    |
///   error in a batch   Sync                 error in a batch
///     v  |                                    v
///   Skipping <--------------------------------+
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
enum Conversing {
    /// Reads messages.
    Ready,
    /// A command waits for its answer.
    Asked(Asked),
    /// Ignores messages up to Sync.
    Skipping,
    /// Has ended.
    Closed,
}

/// What the answer to a command needs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    via: Via,
    tag: &'static str,
    formats: Formats,
}

/// How a command came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Via {
    /// As a Query: its columns come with it, and ReadyForQuery after it.
    Query,
    /// As an Execute.
    Execute,
}

impl Conversation {
    /// Begins after the login.
    pub fn new(rights: Rights) -> Self {
        Conversation {
            rights,
            input: Vec::new(),
            passed: 0,
            statements: HashMap::new(),
            portals: HashMap::new(),
            state: Conversing::Ready,
        }
    }

    /// Takes bytes from the client.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.input.drain(..self.passed);
        self.passed = 0;
        self.input.extend_from_slice(bytes);
    }

    /// Whether it makes sense to read more while an operation runs.
    pub fn has_room(&self) -> bool {
        self.input.len() - self.passed < MAX_MESSAGE
    }

    /// Goes on as far as it can and appends what it has to say.
    pub fn next(&mut self, out: &mut Vec<u8>) -> Want {
        loop {
            if self.state == Conversing::Closed {
                return Want::Close;
            }
            if out.len() >= FLUSH_AT {
                return Want::Flush;
            }
            let (tag, body) = match self.message() {
                Ok(Some(message)) => message,
                Ok(None) => return Want::Input,
                Err(report) => {
                    self.end(&report, out);
                    continue;
                }
            };
            if let Some(want) = self.take(tag, &body, out) {
                return want;
            }
        }
    }

    /// The answer to [`Want::Table`].
    pub fn table(&mut self, table: &Table, out: &mut Vec<u8>) {
        let Some(Asked { via, tag, formats }) = self.answered() else { return };
        if via == Via::Query {
            write_row_description(out, table.columns, &formats);
        }
        for row in &table.rows {
            let values = row.iter().map(|value| value.as_deref());
            if let Err(report) = write_values(out, table.columns, &formats, values) {
                return self.fail(via, &report, out);
            }
        }
        write_command_complete(out, tag);
        self.close_query(via, out);
    }

    /// The answer to [`Want::Operate`].
    pub fn done(&mut self, done: Result<String, Report>, out: &mut Vec<u8>) {
        let Some(Asked { via, tag, .. }) = self.answered() else { return };
        match done {
            Ok(text) => {
                if !text.is_empty() {
                    notice(out, &text, "");
                }
                write_command_complete(out, tag);
                self.close_query(via, out);
            }
            Err(report) => self.fail(via, &report, out),
        }
    }

    /// The command that waits for its answer, if one does, which waits no longer.
    fn answered(&mut self) -> Option<Asked> {
        match std::mem::replace(&mut self.state, Conversing::Ready) {
            Conversing::Asked(asked) => Some(asked),
            other => {
                self.state = other;
                None
            }
        }
    }

    /// The next message, if all of it is there.
    fn message(&mut self) -> Result<Option<(FrontendTag, Vec<u8>)>, Report> {
        let rest = &self.input[self.passed..];
        let span = match Scanner::<FrontendTag>::default().step(rest) {
            Ok(Step::Message(span)) if span.len() > MAX_MESSAGE => {
                return Err(too_much("message", MAX_MESSAGE));
            }
            Ok(Step::Message(span)) if span.is_whole() => span,
            Ok(_) => return Ok(None),
            Err(error) => return Err(Report::protocol(error.to_string())),
        };
        let body = span.body(rest).to_vec();
        self.passed += span.len();
        Ok(Some((span.tag(), body)))
    }

    fn take(&mut self, tag: FrontendTag, body: &[u8], out: &mut Vec<u8>) -> Option<Want> {
        let done = match tag {
            FrontendTag::TERMINATE => {
                self.state = Conversing::Closed;
                Ok(None)
            }
            FrontendTag::SYNC => {
                self.state = Conversing::Ready;
                self.portals.clear();
                write_ready(out, TransactionStatus::Idle);
                Ok(None)
            }
            _ if self.state == Conversing::Skipping => Ok(None),
            FrontendTag::QUERY => return self.query(body, out),
            FrontendTag::PARSE => self.prepare(body, out).map(|()| None),
            FrontendTag::BIND => self.bind(body, out).map(|()| None),
            FrontendTag::DESCRIBE => self.describe(body, out).map(|()| None),
            FrontendTag::CLOSE => self.close(body, out).map(|()| None),
            FrontendTag::EXECUTE => self.execute(body, out),
            // What is written is flushed before more is read.
            FrontendTag::FLUSH => Ok(None),
            // As PostgreSQL: what is left of a COPY that failed is ignored.
            FrontendTag::COPY_DATA | FrontendTag::COPY_DONE | FrontendTag::COPY_FAIL => Ok(None),
            FrontendTag::FUNCTION_CALL => {
                self.fail(Via::Query, &unsupported("function calls are not supported here"), out);
                return None;
            }
            tag => {
                self.end(&Report::protocol(format!("invalid frontend message type {}", tag.0)), out);
                return None;
            }
        };
        done.unwrap_or_else(|report| {
            self.fail(Via::Execute, &report, out);
            None
        })
    }

    fn query(&mut self, body: &[u8], out: &mut Vec<u8>) -> Option<Want> {
        self.portals.clear();
        let run = match query(body).ok_or_else(malformed).and_then(parse) {
            Ok(command) => self.run(&command, Via::Query, Formats::TEXT, out),
            Err(report) => Err(report),
        };
        run.unwrap_or_else(|report| {
            self.fail(Via::Query, &report, out);
            None
        })
    }

    fn prepare(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Report> {
        let message = Parse::new(body).ok_or_else(malformed)?;
        if !message.name.is_empty() && self.statements.contains_key(message.name) {
            let name = String::from_utf8_lossy(message.name);
            let text = format!("prepared statement \"{name}\" already exists");
            return Err(fault(SqlState::DUPLICATE_PREPARED_STATEMENT, text));
        }
        let command = parse(message.text)?;
        keep(&mut self.statements, message.name, command, "prepared statement")?;
        write_bare(out, BackendTag::PARSE_COMPLETE);
        Ok(())
    }

    fn bind(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Report> {
        let head = Bind::new(body).ok_or_else(malformed)?;
        let command = self.statements.get(head.statement).ok_or_else(|| no_statement(head.statement))?;
        let codes = result_formats(&body[head.head..]).ok_or_else(malformed)?;
        let portal = Portal { command: command.clone(), formats: formats(&codes, command.columns())? };
        keep(&mut self.portals, head.portal, portal, "portal")?;
        write_bare(out, BackendTag::BIND_COMPLETE);
        Ok(())
    }

    fn describe(&self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Report> {
        let (command, formats) = match Target::new(body).ok_or_else(malformed)? {
            Target::Statement(name) => {
                let command = self.statements.get(name).ok_or_else(|| no_statement(name))?;
                write_no_parameters(out);
                // Formats are not known before Bind: text by the protocol.
                (command, &Formats::TEXT)
            }
            Target::Portal(name) => {
                let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                (&portal.command, &portal.formats)
            }
        };
        match command.columns() {
            [] => write_bare(out, BackendTag::NO_DATA),
            columns => write_row_description(out, columns, formats),
        }
        Ok(())
    }

    fn close(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Report> {
        match Target::new(body).ok_or_else(malformed)? {
            Target::Statement(name) => drop(self.statements.remove(name)),
            Target::Portal(name) => drop(self.portals.remove(name)),
        }
        write_bare(out, BackendTag::CLOSE_COMPLETE);
        Ok(())
    }

    fn execute(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<Option<Want>, Report> {
        let name = executed_portal(body).ok_or_else(malformed)?;
        let Portal { command, formats } = self.portals.get(name).ok_or_else(|| no_portal(name))?.clone();
        self.run(&command, Via::Execute, formats, out)
    }

    /// The one place where a command runs: its privilege is checked here, however it came.
    fn run(
        &mut self,
        command: &Command,
        via: Via,
        formats: Formats,
        out: &mut Vec<u8>,
    ) -> Result<Option<Want>, Report> {
        let tag = command.tag();
        if self.rights < command.needs() {
            let text = format!("permission denied: {tag} is for users of admin.users");
            return Err(fault(SqlState::INSUFFICIENT_PRIVILEGE, text));
        }
        let want = match command {
            Command::Show(show) => Want::Table(*show),
            Command::Operate(operation) => Want::Operate(operation.clone()),
            at_once => {
                answer_at_once(at_once, via, &formats, out)?;
                self.close_query(via, out);
                return Ok(None);
            }
        };
        self.state = Conversing::Asked(Asked { via, tag, formats });
        Ok(Some(want))
    }

    fn fail(&mut self, via: Via, report: &Report, out: &mut Vec<u8>) {
        report.write(out, Severity::Error);
        self.state = match via {
            Via::Query => Conversing::Ready,
            Via::Execute => Conversing::Skipping,
        };
        self.close_query(via, out);
    }

    fn end(&mut self, report: &Report, out: &mut Vec<u8>) {
        report.write(out, Severity::Fatal);
        self.state = Conversing::Closed;
    }

    fn close_query(&self, via: Via, out: &mut Vec<u8>) {
        if via == Via::Query {
            write_ready(out, TransactionStatus::Idle);
        }
    }
}

/// Commands that need nothing but themselves.
fn answer_at_once(command: &Command, via: Via, formats: &Formats, out: &mut Vec<u8>) -> Result<(), Report> {
    let columns = command.columns();
    if via == Via::Query && !columns.is_empty() {
        write_row_description(out, columns, formats);
    }
    match command {
        Command::Empty => {
            write_bare(out, BackendTag::EMPTY_QUERY_RESPONSE);
            return Ok(());
        }
        Command::Help => notice(out, "Console usage", command::HELP),
        Command::Set => notice(out, "ignored: the console has no settings of its own", ""),
        Command::Setting(setting) => {
            write_values(out, columns, formats, [Some(setting.value)].into_iter())?;
        }
        Command::One => write_values(out, columns, formats, [Some("1")].into_iter())?,
        Command::Transaction(_) | Command::Show(_) | Command::Operate(_) => {}
    }
    write_command_complete(out, command.tag());
    Ok(())
}

/// Appends a row in the formats that were asked for; nothing, if a value is out of its type's range.
fn write_values<'a>(
    out: &mut Vec<u8>,
    columns: &[Column],
    formats: &Formats,
    values: impl Iterator<Item = Option<&'a str>>,
) -> Result<(), Report> {
    let encoded = formats.of(columns).zip(values).map(|((column, format), value)| {
        let encode = |text| format.encode(column.kind, text).ok_or_else(|| out_of_range(column, text));
        value.map(encode).transpose()
    });
    let row: Vec<Option<Cow<'a, [u8]>>> = encoded.collect::<Result<_, _>>()?;
    write_data_row(out, row.into_iter());
    Ok(())
}

fn notice(out: &mut Vec<u8>, text: &str, detail: &str) {
    write_report(out, Severity::Notice, SqlState::SUCCESSFUL_COMPLETION, text, detail, "");
}

/// Keeps a named thing within the limits; the unnamed one is replaced.
fn keep<T>(map: &mut HashMap<Box<[u8]>, T>, name: &[u8], thing: T, what: &'static str) -> Result<(), Report> {
    if name.len() > MAX_NAME {
        return Err(too_much("name", MAX_NAME));
    }
    if map.len() >= MAX_PREPARED && !map.contains_key(name) {
        return Err(fault(SqlState::PROGRAM_LIMIT_EXCEEDED, format!("more than {MAX_PREPARED} {what}s")));
    }
    map.insert(name.into(), thing);
    Ok(())
}

/// The result format codes that stand behind a Bind's names. `None`: it is not well formed, or has parameters.
fn result_formats(rest: &[u8]) -> Option<Vec<i16>> {
    let mut reader = Reader::new(rest);
    let parameter_formats = reader.int16()?;
    reader.bytes(usize::try_from(parameter_formats).ok()? * 2)?;
    if reader.int16()? != 0 {
        return None;
    }
    let count = usize::try_from(reader.int16()?).ok()?;
    let (codes, _) = reader.bytes(count * 2)?.as_chunks::<2>();
    reader.rest().is_empty().then(|| codes.iter().map(|&code| i16::from_be_bytes(code)).collect())
}

/// What a Bind's codes mean: none is text for all, one is for all, otherwise there is one for each column.
fn formats(codes: &[i16], columns: &[Column]) -> Result<Formats, Report> {
    match codes {
        // As PostgreSQL: a command without a result may come with any formats.
        _ if columns.is_empty() => Ok(Formats::TEXT),
        [] => Ok(Formats::TEXT),
        [code] => format(*code).map(Formats::All),
        codes if codes.len() == columns.len() => {
            codes.iter().map(|&code| format(code)).collect::<Result<_, _>>().map(Formats::Each)
        }
        codes => {
            let (count, columns) = (codes.len(), columns.len());
            let text =
                format!("bind message has {count} result formats but the result has {columns} columns");
            Err(Report::protocol(text))
        }
    }
}

fn format(code: i16) -> Result<Format, Report> {
    let unknown = || fault(SqlState::INVALID_PARAMETER_VALUE, format!("unsupported format code: {code}"));
    Format::new(code).ok_or_else(unknown)
}

fn malformed() -> Report {
    Report::protocol("malformed message, or parameters where there are none")
}

fn fault(code: SqlState, text: impl Into<String>) -> Report {
    Report::new(ErrorSource::Client, code, text.into())
}

fn unsupported(text: &'static str) -> Report {
    fault(SqlState::FEATURE_NOT_SUPPORTED, text)
}

fn too_much(what: &str, limit: usize) -> Report {
    fault(SqlState::PROGRAM_LIMIT_EXCEEDED, format!("{what} longer than {limit} bytes"))
}

fn out_of_range(column: &Column, value: &str) -> Report {
    fault(code(b"22003"), format!("{} is out of range for the type of column {}", value, column.name))
        .hint("Ask for the result as text.")
}

fn no_statement(name: &[u8]) -> Report {
    let text = format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name));
    fault(code(b"26000"), text)
}

fn no_portal(name: &[u8]) -> Report {
    fault(code(b"34000"), format!("portal \"{}\" does not exist", String::from_utf8_lossy(name)))
}

fn code(code: &[u8; 5]) -> SqlState {
    SqlState::new(code).expect("five characters")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::fake::{Fake, outcome};
    use crate::admin::{Scope, Shutdown};
    use crate::wire::backend::{ColumnType, Fields, command_tag};
    use crate::wire::frontend::{
        write_close_statement, write_describe_statement, write_query, write_sync, write_terminate,
    };
    use tokio::io::duplex;

    /// Messages from a client.
    #[derive(Default, Clone)]
    struct Client(Vec<u8>);

    impl Client {
        fn query(mut self, text: &str) -> Self {
            write_query(&mut self.0, text.as_bytes());
            self
        }

        fn parse(mut self, name: &str, text: &str) -> Self {
            Parse::write(&mut self.0, name.as_bytes(), text.as_bytes(), &[0, 0]);
            self
        }

        /// Without parameters; one result format for all columns.
        fn bind(mut self, portal: &str, statement: &str, format: u8) -> Self {
            let rest = [0, 0, 0, 0, 0, 1, 0, format];
            assert!(Bind::write_head(&mut self.0, portal.as_bytes(), statement.as_bytes(), rest.len()));
            self.0.extend_from_slice(&rest);
            self
        }

        fn describe(mut self, name: &str) -> Self {
            write_describe_statement(&mut self.0, name.as_bytes());
            self
        }

        fn describe_portal(self, name: &str) -> Self {
            self.raw(b'D', format!("P{name}\0").as_bytes())
        }

        fn execute(self, portal: &str) -> Self {
            self.raw(b'E', format!("{portal}\0\0\0\0\0").as_bytes())
        }

        fn close(mut self, name: &str) -> Self {
            write_close_statement(&mut self.0, name.as_bytes());
            self
        }

        fn sync(mut self) -> Self {
            write_sync(&mut self.0);
            self
        }

        fn terminate(mut self) -> Self {
            write_terminate(&mut self.0);
            self
        }

        fn raw(mut self, tag: u8, body: &[u8]) -> Self {
            self.0.push(tag);
            self.0.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
            self.0.extend_from_slice(body);
            self
        }
    }

    /// Plays a client's bytes in these parts and answers what came back.
    fn play<'a>(rights: Rights, parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let mut conversation = Conversation::new(rights);
        let (mut out, mut written) = (Vec::new(), Vec::new());
        for part in parts {
            conversation.receive(part);
            loop {
                let want = conversation.next(&mut out);
                written.append(&mut out);
                match want {
                    Want::Input => break,
                    Want::Flush => {}
                    Want::Table(show) => {
                        conversation.table(&show.table(&Fake::default(), &BTreeMap::new()), &mut out);
                    }
                    Want::Operate(operation) => conversation.done(outcome(&operation), &mut out),
                    Want::Close => return [written, b"X".to_vec()].concat(),
                }
            }
        }
        written
    }

    /// One line for each message; `end` if the console closes.
    fn transcript(bytes: &[u8]) -> Vec<String> {
        let mut rest = bytes;
        let mut lines = Vec::new();
        while !rest.is_empty() {
            if rest == b"X" {
                lines.push("end".into());
                break;
            }
            let Ok(Step::Message(span)) = Scanner::<BackendTag>::default().step(rest) else {
                panic!("{rest:?}")
            };
            assert!(span.is_whole());
            lines.push(line(span.tag(), span.body(rest)));
            rest = &rest[span.len()..];
        }
        lines
    }

    fn line(tag: BackendTag, body: &[u8]) -> String {
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        match tag {
            BackendTag::READY_FOR_QUERY => "ready".into(),
            BackendTag::PARSE_COMPLETE => "parsed".into(),
            BackendTag::BIND_COMPLETE => "bound".into(),
            BackendTag::CLOSE_COMPLETE => "closed".into(),
            BackendTag::NO_DATA => "no data".into(),
            BackendTag::PARAMETER_DESCRIPTION => "no parameters".into(),
            BackendTag::EMPTY_QUERY_RESPONSE => "empty".into(),
            BackendTag::COMMAND_COMPLETE => format!("done {}", text(command_tag(body))),
            BackendTag::ROW_DESCRIPTION => format!("{} columns", u16::from_be_bytes([body[0], body[1]])),
            BackendTag::DATA_ROW => format!("row {}", row(body).join("|")),
            BackendTag::ERROR_RESPONSE => {
                format!("{} {}", text(Fields::new(body).text(b'S')), text(Fields::new(body).text(b'C')))
            }
            BackendTag::NOTICE_RESPONSE => format!("notice {}", text(Fields::new(body).text(b'M'))),
            tag => panic!("{tag:?}"),
        }
    }

    fn row(body: &[u8]) -> Vec<String> {
        let mut reader = Reader::new(body);
        let count = reader.int16().unwrap();
        let value = |_| match reader.int32().unwrap() {
            -1 => "NULL".to_owned(),
            length => String::from_utf8(reader.bytes(length as usize).unwrap().to_vec()).unwrap(),
        };
        (0..count).map(value).collect()
    }

    fn said(rights: Rights, client: Client) -> Vec<String> {
        transcript(&play(rights, [&client.0[..]]))
    }

    #[test]
    fn simple_queries() {
        let cases: [(&str, &[&str]); 9] = [
            ("SHOW VERSION", &["1 columns", "row pglagoon 0.1.0", "done SHOW"]),
            ("SHOW client_encoding;", &["1 columns", "row UTF8", "done SHOW"]),
            ("SELECT 1", &["1 columns", "row 1", "done SELECT 1"]),
            (";", &["empty"]),
            ("BEGIN", &["done BEGIN"]),
            ("RESUME app", &["notice nothing was paused", "done RESUME"]),
            ("PAUSE app", &["done PAUSE"]),
            ("RELOAD", &["ERROR 22023"]),
            ("SHOW moon", &["ERROR 42601"]),
        ];
        for (text, expected) in cases {
            let expected: Vec<_> = expected.iter().chain(&["ready"]).copied().collect();
            assert_eq!(said(Rights::Admin, Client::default().query(text)), expected, "{text}");
        }
    }

    #[test]
    fn help_is_a_notice() {
        let bytes = play(Rights::Stats, [&Client::default().query("SHOW HELP").0[..]]);
        assert_eq!(transcript(&bytes), ["notice Console usage", "done SHOW", "ready"]);
        assert!(String::from_utf8_lossy(&bytes).contains("KILL_CLIENT id"));
    }

    #[test]
    fn the_extended_protocol() {
        let client = Client::default()
            .parse("s", "SHOW STATE")
            .describe("s")
            .bind("", "s", 0)
            .describe_portal("")
            .execute("")
            .close("s")
            .sync();
        let expected = [
            "parsed",
            "no parameters",
            "2 columns",
            "bound",
            "2 columns",
            "row active|yes",
            "row paused|no",
            "row suspended|no",
            "row draining|no",
            "done SHOW",
            "closed",
            "ready",
        ];
        assert_eq!(said(Rights::Stats, client), expected);

        let client =
            Client::default().parse("", "RESUME").bind("", "", 1).describe_portal("").execute("").sync();
        let expected = ["parsed", "bound", "no data", "notice nothing was paused", "done RESUME", "ready"];
        assert_eq!(said(Rights::Admin, client), expected);

        let client = Client::default().parse("", "").bind("", "", 0).describe("").execute("").sync();
        assert_eq!(
            said(Rights::Stats, client),
            ["parsed", "bound", "no parameters", "no data", "empty", "ready"]
        );
    }

    #[test]
    fn an_error_in_a_batch_skips_to_sync() {
        let whole = Client::default().parse("", "SHOW VERSION").bind("", "", 0).execute("").sync();
        let cases = [
            (Client::default().parse("", "SHOW moon"), vec!["ERROR 42601"]),
            (Client::default().bind("", "nosuch", 0), vec!["ERROR 26000"]),
            (Client::default().execute("nosuch"), vec!["ERROR 34000"]),
            (
                Client::default().parse("s", "RELOAD").bind("", "s", 0).execute(""),
                vec!["parsed", "bound", "ERROR 22023"],
            ),
            (Client::default().parse("s", "SHOW STATS").bind("", "s", 2), vec!["parsed", "ERROR 22023"]),
            (Client::default().parse("s", ";").parse("s", ";"), vec!["parsed", "ERROR 42P05"]),
            (Client::default().raw(b'B', b"\0\0\0\0\0\x01"), vec!["ERROR 26000"]),
            (Client::default().raw(b'P', b"x"), vec!["ERROR 08P01"]),
        ];
        for (mut client, mut expected) in cases {
            client = client.query("SHOW VERSION").execute("").sync();
            client.0.extend_from_slice(&whole.0);
            expected.extend(["ready", "parsed", "bound", "row pglagoon 0.1.0", "done SHOW", "ready"]);
            assert_eq!(said(Rights::Admin, client), expected);
        }
    }

    #[test]
    fn binds_with_parameters_or_wrong_formats_are_refused() {
        let bind = |rest: &[u8]| {
            let client =
                Client::default().parse("s", "SHOW STATE").raw(b'B', &[b"\0s\0", rest].concat()).sync();
            said(Rights::Admin, client)[1].clone()
        };
        assert_eq!(bind(&[0, 0, 0, 0, 0, 0]), "bound");
        assert_eq!(bind(&[0, 0, 0, 0, 0, 1, 0, 1]), "bound");
        assert_eq!(bind(&[0, 0, 0, 0, 0, 2, 0, 1, 0, 0]), "bound");
        assert_eq!(bind(&[0, 0, 0, 0, 0, 2, 0, 1, 0, 2]), "ERROR 22023", "there is no format 2");
        assert_eq!(bind(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]), "ERROR 08P01", "a parameter");
        assert_eq!(
            bind(&[0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0]),
            "ERROR 08P01",
            "three formats for two columns"
        );
        assert_eq!(bind(&[0, 0, 0, 0, 0xff, 0xff]), "ERROR 08P01");
        assert_eq!(bind(&[0, 0]), "ERROR 08P01");
    }

    type Cells = Vec<Option<Vec<u8>>>;

    /// The format codes of the last RowDescription, and the rows.
    fn result(bytes: &[u8]) -> (Vec<i16>, Vec<Cells>) {
        let (mut codes, mut rows) = (Vec::new(), Vec::new());
        let mut rest = bytes;
        while let Ok(Step::Message(span)) = Scanner::<BackendTag>::default().step(rest) {
            let mut reader = Reader::new(span.body(rest));
            match span.tag() {
                BackendTag::ROW_DESCRIPTION => {
                    let count = reader.int16().unwrap();
                    let column = |_| (reader.string(), reader.bytes(16), reader.int16().unwrap()).2;
                    codes = (0..count).map(column).collect();
                }
                BackendTag::DATA_ROW => {
                    let count = reader.int16().unwrap();
                    let value = |_| match reader.int32().unwrap() {
                        -1 => None,
                        length => Some(reader.bytes(length as usize).unwrap().to_vec()),
                    };
                    rows.push((0..count).map(value).collect());
                }
                _ => {}
            }
            rest = &rest[span.len()..];
        }
        (codes, rows)
    }

    #[test]
    fn each_column_comes_in_the_format_that_bind_asked_for() {
        let lists = |formats: &[u8]| {
            let bind = [b"\0s\0\0\0\0\0", formats].concat();
            let client = Client::default().parse("s", "SHOW LISTS").raw(b'B', &bind);
            let (codes, rows) =
                result(&play(Rights::Stats, [&client.describe_portal("").execute("").sync().0[..]]));
            (codes, rows[2].clone())
        };
        let row = |name: &[u8], items: &[u8]| vec![Some(name.to_vec()), Some(items.to_vec())];
        let (text, binary) = (row(b"peers", b"0"), row(b"peers", &[0; 4]));
        assert_eq!(lists(&[0, 0]), (vec![0, 0], text.clone()));
        assert_eq!(lists(&[0, 1, 0, 0]), (vec![0, 0], text.clone()));
        assert_eq!(lists(&[0, 1, 0, 1]), (vec![1, 1], binary.clone()));
        assert_eq!(lists(&[0, 2, 0, 0, 0, 1]), (vec![0, 1], binary));
        assert_eq!(lists(&[0, 2, 0, 1, 0, 0]), (vec![1, 0], text));
    }

    #[test]
    fn a_statement_is_described_as_text_whatever_was_bound() {
        let client =
            Client::default().parse("s", "SELECT 1").bind("", "s", 1).describe("s").execute("").sync();
        let (codes, rows) = result(&play(Rights::Stats, [&client.0[..]]));
        assert_eq!((codes, rows), (vec![0], vec![vec![Some(vec![0, 0, 0, 1])]]));
    }

    #[test]
    fn every_table_can_be_sent_in_binary() {
        for (name, show) in Show::ALL {
            let client =
                Client::default().parse("", &format!("SHOW {name}")).bind("", "", 1).execute("").sync();
            let bytes = play(Rights::Stats, [&client.0[..]]);
            let (_, rows) = result(&bytes);
            assert_eq!(rows.is_empty(), matches!(show, Show::Peers | Show::PeerPools), "{name}");
            assert!(rows.iter().all(|row| row.len() == show.columns().len()), "{name}");
            assert!(String::from_utf8_lossy(&bytes).contains("SHOW\0"), "{name} is completed");
        }
    }

    #[test]
    fn a_value_out_of_range_ends_the_batch_and_not_the_connection() {
        let table = Table {
            columns: &[Column { name: "items", kind: ColumnType::Int4 }],
            rows: vec![vec![None], vec![Some("2147483648".into())]],
        };
        for (format, answer) in
            [(0, vec!["row NULL", "row 2147483648", "done SHOW"]), (1, vec!["row NULL", "ERROR 22003"])]
        {
            let mut conversation = Conversation::new(Rights::Stats);
            conversation
                .receive(&Client::default().parse("", "SHOW LISTS").bind("", "", format).execute("").0);
            let mut out = Vec::new();
            assert_eq!(conversation.next(&mut out), Want::Table(Show::Lists));
            conversation.table(&table, &mut out);
            conversation.receive(&Client::default().sync().0);
            assert_eq!(conversation.next(&mut out), Want::Input);
            let expected: Vec<_> = ["parsed", "bound"].into_iter().chain(answer).chain(["ready"]).collect();
            assert_eq!(transcript(&out), expected);
        }
    }

    #[test]
    fn every_order_needs_an_admin_however_it_comes() {
        for text in [
            "PAUSE",
            "PAUSE app",
            "RESUME",
            "RELOAD",
            "KILL_CLIENT 7",
            "SHUTDOWN",
            "SHUTDOWN WAIT_FOR_CLIENTS",
        ] {
            assert_eq!(
                said(Rights::Stats, Client::default().query(text)),
                ["ERROR 42501", "ready"],
                "{text}"
            );
            let client = Client::default().parse("", text).bind("", "", 0).execute("").sync();
            assert_eq!(said(Rights::Stats, client), ["parsed", "bound", "ERROR 42501", "ready"], "{text}");
        }
        for (name, _) in Show::ALL {
            let said = said(Rights::Stats, Client::default().query(&format!("SHOW {name}")));
            assert_eq!(said[said.len() - 2..], ["done SHOW", "ready"], "{name}");
        }
    }

    #[test]
    fn any_cut_of_the_input_gives_the_same_output() {
        let client = Client::default()
            .query("SHOW POOLS")
            .parse("s", "SHOW CLIENTS")
            .bind("p", "s", 0)
            .execute("p")
            .parse("", "SHOW moon")
            .execute("p")
            .sync()
            .query("RESUME")
            .query("SHOW HELP")
            .raw(b'F', b"whatever")
            .terminate()
            .query("SHOW POOLS");
        let bytes = &client.0[..];
        let whole = play(Rights::Admin, [bytes]);
        assert_eq!(transcript(&whole).last().map(String::as_str), Some("end"));
        for cut in 0..bytes.len() {
            assert_eq!(play(Rights::Admin, [&bytes[..cut], &bytes[cut..]]), whole, "cut at {cut}");
        }
        assert_eq!(play(Rights::Admin, bytes.chunks(1)), whole);
    }

    #[test]
    fn limits() {
        let end = ["FATAL 54000", "end"];
        assert_eq!(said(Rights::Admin, Client::default().query(&" ".repeat(MAX_MESSAGE))), end);
        assert_eq!(
            said(Rights::Admin, Client(b"Q\x7f\xff\xff\xff".to_vec())),
            end,
            "before the rest has come"
        );
        assert_eq!(said(Rights::Admin, Client(b"Q\0\0\0\x03".to_vec())), ["FATAL 08P01", "end"]);
        assert_eq!(said(Rights::Admin, Client::default().raw(b'?', b"")), ["FATAL 08P01", "end"]);

        let mut client =
            (0..MAX_PREPARED).fold(Client::default(), |client, n| client.parse(&format!("s{n}"), ";"));
        client = client.parse("one too many", ";").sync().close("s0").parse("s", ";").sync();
        let said = said(Rights::Admin, client);
        assert_eq!(said[MAX_PREPARED..], ["ERROR 54000", "ready", "closed", "parsed", "ready"]);
    }

    #[test]
    fn pipelined_output_is_flushed_in_between() {
        let client = (0..2000).fold(Client::default(), |client, _| client.query("SHOW HELP"));
        let mut conversation = Conversation::new(Rights::Stats);
        conversation.receive(&client.0);
        let mut out = Vec::new();
        assert_eq!(conversation.next(&mut out), Want::Flush);
        assert!(out.len() < FLUSH_AT + 4096);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, tag in "[QPBDECHSFX]") {
            let client = Client::default().raw(tag.as_bytes()[0], &bytes).sync();
            transcript(&play(Rights::Admin, [&client.0[..]]));
            play(Rights::Admin, [&bytes[..]]);
        }
    }

    fn console() -> (Arc<Fake>, Console) {
        let fake = Arc::new(Fake::default());
        (Arc::clone(&fake), Console::new(fake.clone(), fake, Instant::now()))
    }

    async fn in_time<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(10), future).await.expect("in time")
    }

    #[tokio::test]
    async fn a_client_over_a_stream() {
        const EARLY: usize = 7;
        let (fake, console) = console();
        let (mut near, mut far) = duplex(16);
        let client =
            Client::default().query("SHOW VERSION").query("KILL_CLIENT 7").query("SHUTDOWN").terminate();
        let talk = async {
            let (mut reading, mut writing) = tokio::io::split(&mut near);
            let mut answer = Vec::new();
            let (written, read) =
                tokio::join!(writing.write_all(&client.0[EARLY..]), reading.read_to_end(&mut answer));
            written.unwrap();
            read.unwrap();
            answer
        };
        let (served, answer) = in_time(async {
            tokio::join!(console.serve(&mut far, &client.0[..EARLY], "app", Rights::Admin), talk)
        })
        .await;
        served.unwrap();
        let expected = [
            "1 columns",
            "row pglagoon 0.1.0",
            "done SHOW",
            "ready",
            "done KILL_CLIENT",
            "ready",
            "done SHUTDOWN",
            "ready",
        ];
        assert_eq!(transcript(&answer), expected);
        let orders = [Operation::KillClient(7), Operation::Shutdown(Shutdown::Now)];
        assert_eq!(*fake.operations.lock().unwrap(), orders);
    }

    #[tokio::test]
    async fn a_client_that_leaves_during_an_operation_is_noticed() {
        let (fake, console) = console();
        let (mut near, mut far) = duplex(64);
        near.write_all(&Client::default().query("PAUSE").query("SHOW POOLS").0).await.unwrap();
        drop(near);
        in_time(console.serve(&mut far, &[], "app", Rights::Admin)).await.unwrap();
        assert_eq!(*fake.operations.lock().unwrap(), [Operation::Pause(Scope::All)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_dropped() {
        let (_, console) = console();
        let (mut near, mut far) = duplex(64);
        near.write_all(&Client::default().query("SHOW POOLS").0).await.unwrap();
        let error = console.serve(&mut far, &[], "app", Rights::Stats).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    /// A real driver, with the handshake that the frontend room would have made.
    #[tokio::test]
    async fn tokio_postgres_speaks_with_it() {
        use crate::wire::backend::{write_authentication_ok, write_key_data, write_parameter_status};
        use crate::wire::{ClientKey, startup};

        let (_, console) = console();
        let (near, mut far) = duplex(4096);
        let serving = async {
            let mut packet = vec![0; 8];
            far.read_exact(&mut packet).await.unwrap();
            let length = startup::packet_length(&packet).unwrap().unwrap();
            far.read_exact(&mut vec![0; length - 8]).await.unwrap();
            let mut out = Vec::new();
            write_authentication_ok(&mut out);
            parameters().iter().for_each(|(name, value)| write_parameter_status(&mut out, name, value));
            write_key_data(&mut out, &ClientKey::new(1, &[0; 4]));
            write_ready(&mut out, TransactionStatus::Idle);
            far.write_all(&out).await.unwrap();
            console.serve(&mut far, &[], "app", Rights::Stats).await.unwrap();
        };
        let asking = async {
            let mut config = tokio_postgres::Config::new();
            let (client, connection) =
                config.user("app").dbname("pglagoon").connect_raw(near, tokio_postgres::NoTls).await.unwrap();
            let connection = tokio::spawn(connection);
            let rows = client.query("SHOW STATE", &[]).await.unwrap();
            assert_eq!((rows.len(), rows[0].get::<_, &str>("value")), (4, "yes"));
            // This driver asks for binary results, always.
            let rows = client.query("SHOW POOLS", &[]).await.unwrap();
            assert!(rows.iter().any(|row| row.get::<_, i32>("cl_waiting") == 4));
            assert_eq!(client.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
            let rows = client.simple_query("SHOW POOLS").await.unwrap();
            assert!(rows.iter().any(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get("cl_waiting") == Some("4"),
                _ => false,
            }));
            let error = client.batch_execute("PAUSE").await.unwrap_err();
            assert_eq!(error.code().map(|code| code.code()), Some("42501"));
            drop(client);
            connection.await.unwrap().unwrap();
        };
        in_time(async { tokio::join!(serving, asking) }).await;
    }
}
