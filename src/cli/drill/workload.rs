//! The checked workload. *Authors* write numbered rows, remember which were acknowledged, and read their own newest one
//! back; *readers*, one client in four, read an author's newest, so that reads are seen also while no write comes through.
//! What they saw is a [`Journal`]; judging it is the report's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, Statement};

use super::fault::InFlight;
use crate::cli::demo::workload::{Chance, explain};

/// The clients, and what they have seen.
pub(super) struct Workload {
    config: Config,
    table: String,
    in_flight: InFlight,
    began: Instant,
    stop: AtomicBool,
    journal: Mutex<Journal>,
}

/// What all clients saw.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pub(super) operations: Vec<Operation>,
    pub(super) acknowledged: Vec<Acknowledged>,
    /// Rows of which the client cannot know whether they are there.
    pub(super) unknown_writes: u64,
    /// Connections that ended before the workload did.
    pub(super) connections_lost: u64,
}

/// A row whose commit was acknowledged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acknowledged {
    pub(super) client: i32,
    pub(super) number: i32,
    /// Since the workload's start.
    pub(super) at: Duration,
}

/// One thing that a client did. Times are since the workload's start.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) client: i32,
    pub(super) kind: Kind,
    pub(super) began: Duration,
    pub(super) ended: Duration,
    pub(super) outcome: Outcome,
}

impl Operation {
    /// Whether it asked for something and got it.
    pub(super) fn has_succeeded(&self) -> bool {
        self.kind != Kind::Connect && !matches!(self.outcome, Outcome::Failed(_))
    }

    /// Whether it wrote.
    pub(super) fn is_write(&self) -> bool {
        matches!(self.kind, Kind::Write | Kind::Transaction)
    }
}

/// What it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Connect,
    /// Outside a transaction.
    Read,
    /// A statement alone.
    Write,
    /// BEGIN, a write, a read, COMMIT.
    Transaction,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// It read an older row than this connection had written or seen before.
    Stale,
    Failed(Failure),
}

/// An error as the client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// The SQLSTATE, or [`CONNECTION_LOST`], [`CANNOT_CONNECT`], [`NO_ANSWER`].
    pub(super) code: String,
    pub(super) text: String,
}

/// The connection ended without an error message.
pub(super) const CONNECTION_LOST: &str = "connection lost";
/// No connection was to be had, and no SQLSTATE said why.
pub(super) const CANNOT_CONNECT: &str = "cannot connect";
/// Nothing came within [`ANSWER_WITHIN`].
pub(super) const NO_ANSWER: &str = "no answer";

/// What a client is told whose writes may be lost.
pub(super) const TOLD: &str = "08007";

/// Longer than pglagoon holds clients by default (30 s): what is not answered by then never will be.
const ANSWER_WITHIN: Duration = Duration::from_secs(45);

impl Failure {
    fn of(error: &tokio_postgres::Error, without_code: &str) -> Failure {
        let code = error.code().map_or(without_code, |code| code.code()).to_owned();
        Failure { code, text: explain(error) }
    }

    /// Whether a write that failed so may be there all the same: no connection any more to say otherwise (class 08, which
    /// has 08007 for exactly this).
    fn leaves_unknown(&self) -> bool {
        self.code.starts_with("08") || self.code == CONNECTION_LOST || self.code == NO_ANSWER
    }
}

/// One client over all of its connections.
struct Actor {
    client: i32,
    part: Part,
    /// The number of its newest row, acknowledged or not. None is used twice.
    written: i32,
    /// The newest row that this connection has written or seen: it must not see an older one. A new connection promises
    /// nothing of what another had seen.
    floor: i32,
    chance: Chance,
}

/// What a client does.
#[derive(Clone, Copy)]
enum Part {
    Author,
    Reader {
        /// The client whose rows it reads.
        of: i32,
    },
}

impl Actor {
    fn new(client: i32) -> Actor {
        let part = match client % 4 {
            3 => Part::Reader { of: client - 1 },
            _ => Part::Author,
        };
        Actor { client, part, written: 0, floor: 0, chance: Chance::new(client as u64) }
    }

    /// The client whose rows it reads.
    fn reads_of(&self) -> i32 {
        match self.part {
            Part::Author => self.client,
            Part::Reader { of } => of,
        }
    }
}

impl Workload {
    pub(super) fn new(config: Config, table: String, in_flight: InFlight) -> Workload {
        Workload {
            config,
            table,
            in_flight,
            began: Instant::now(),
            stop: AtomicBool::new(false),
            journal: Mutex::default(),
        }
    }

    /// Starts that many clients.
    pub(super) fn start(self: &Arc<Self>, clients: u16) -> Vec<tokio::task::JoinHandle<()>> {
        (0..i32::from(clients))
            .map(|client| {
                let workload = Arc::clone(self);
                tokio::spawn(async move { workload.client(Actor::new(client)).await })
            })
            .collect()
    }

    /// Since the workload's start.
    pub(super) fn clock(&self) -> Duration {
        self.began.elapsed()
    }

    /// How many clients have done something by now.
    pub(super) fn busy_clients(&self) -> usize {
        let journal = self.journal.lock().expect("no client panics while it notes");
        let done = journal.operations.iter().filter(|operation| operation.kind == Kind::Read);
        done.map(|operation| operation.client).collect::<std::collections::BTreeSet<_>>().len()
    }

    /// Whether a write has succeeded that began then or later.
    pub(super) fn has_written_since(&self, moment: Duration) -> bool {
        let journal = self.journal.lock().expect("no client panics while it notes");
        journal.operations.iter().any(|done| done.is_write() && done.has_succeeded() && done.began >= moment)
    }

    /// Lets every client end after its present operation.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// What was seen; after the clients' end.
    pub(super) fn take_journal(&self) -> Journal {
        std::mem::take(&mut self.journal.lock().expect("no client panics while it notes"))
    }

    /// A client works on one connection for as long as that lives.
    async fn client(&self, mut actor: Actor) {
        while self.goes_on() {
            let began = self.clock();
            let connected =
                within_limit(Session::open(&self.config, &self.table, actor.client), CANNOT_CONNECT);
            match connected.await {
                Ok(session) => {
                    self.note(&actor, Kind::Connect, began, Outcome::Done);
                    actor.floor = 0;
                    self.work(&session, &mut actor).await;
                    self.keep(|journal| journal.connections_lost += u64::from(self.goes_on()));
                }
                Err(failure) => {
                    self.note(&actor, Kind::Connect, began, Outcome::Failed(failure));
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    /// Until the connection is gone.
    async fn work(&self, session: &Session, actor: &mut Actor) {
        while self.goes_on() {
            match self.turn(session, actor).await {
                Ok(()) => continue,
                Err(failure) if failure.code == NO_ANSWER => break,
                Err(_) => {}
            }
            // Behind a fatal error comes the connection's end, a little later: it is no error of its own.
            tokio::time::sleep(RETRY_AFTER).await;
            if session.client.is_closed() {
                break;
            }
        }
    }

    /// A write if it is an author's, and a few reads.
    async fn turn(&self, session: &Session, actor: &mut Actor) -> Result<(), Failure> {
        if let Part::Author = actor.part {
            let kind = match actor.chance.next() % 3 {
                0 => Kind::Transaction,
                _ => Kind::Write,
            };
            self.write(session, actor, kind).await?;
        }
        for _ in 0..1 + actor.chance.next() % 3 {
            actor.chance.think().await;
            self.read(session, actor).await?;
        }
        Ok(())
    }

    async fn write(&self, session: &Session, actor: &mut Actor, kind: Kind) -> Result<(), Failure> {
        actor.written += 1;
        let (client, number, began) = (actor.client, actor.written, self.clock());
        let written = match kind {
            Kind::Transaction => within_limit(session.transaction(client, number), CONNECTION_LOST).await,
            _ => within_limit(session.insert(client, number), CONNECTION_LOST).await.map(|()| number),
        };
        let outcome = judge(&written, number);
        match &written {
            Ok(_) => actor.floor = number,
            Err(failure) => self.hear(actor, failure),
        }
        self.keep(|journal| match &written {
            Ok(_) => journal.acknowledged.push(Acknowledged { client, number, at: self.clock() }),
            Err(failure) => journal.unknown_writes += u64::from(failure.leaves_unknown()),
        });
        self.note(actor, kind, began, outcome);
        written.map(drop)
    }

    async fn read(&self, session: &Session, actor: &mut Actor) -> Result<(), Failure> {
        let began = self.clock();
        let found = within_limit(session.newest(actor.reads_of()), CONNECTION_LOST).await;
        self.note(actor, Kind::Read, began, judge(&found, actor.floor));
        match found {
            Ok(found) => actor.floor = actor.floor.max(found),
            Err(failure) => {
                self.hear(actor, &failure);
                return Err(failure);
            }
        }
        Ok(())
    }

    /// A client that is told that what it wrote or saw may be lost can expect none of it.
    fn hear(&self, actor: &mut Actor, failure: &Failure) {
        if self.in_flight == InFlight::MayLose && failure.code == TOLD {
            actor.floor = 0;
        }
    }

    fn note(&self, actor: &Actor, kind: Kind, began: Duration, outcome: Outcome) {
        let operation = Operation { client: actor.client, kind, began, ended: self.clock(), outcome };
        self.keep(|journal| journal.operations.push(operation));
    }

    fn keep(&self, add: impl FnOnce(&mut Journal)) {
        add(&mut self.journal.lock().expect("no client panics while it notes"));
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

const RETRY_AFTER: Duration = Duration::from_millis(100);

/// A read that found `found` where it must not find less than `floor`.
fn judge(found: &Result<i32, Failure>, floor: i32) -> Outcome {
    match found {
        Ok(found) if *found < floor => Outcome::Stale,
        Ok(_) => Outcome::Done,
        Err(failure) => Outcome::Failed(failure.clone()),
    }
}

async fn within_limit<T>(
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    without_code: &str,
) -> Result<T, Failure> {
    match tokio::time::timeout(ANSWER_WITHIN, work).await {
        Ok(answer) => answer.map_err(|error| Failure::of(&error, without_code)),
        Err(_) => Err(Failure {
            code: NO_ANSWER.to_owned(),
            text: format!("nothing came within {ANSWER_WITHIN:?}"),
        }),
    }
}

/// One connection, and how its statements are sent.
struct Session {
    client: Client,
    speech: Speech,
    insert: String,
    newest: String,
    /// Ends with the client.
    _driver: Driver,
}

/// The protocol's ways: each client has one.
enum Speech {
    Simple,
    /// Extended, by the unnamed statement.
    Unnamed,
    /// As prepared; a transaction is sent as a whole before any of it is answered.
    Pipelined {
        insert: Statement,
        newest: Statement,
    },
    /// Extended, by statements prepared at the start.
    Prepared {
        insert: Statement,
        newest: Statement,
    },
}

/// The task that moves the connection's bytes: it ends with its session, also when nothing answers any more.
struct Driver(tokio::task::JoinHandle<Result<(), tokio_postgres::Error>>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Session {
    async fn open(config: &Config, table: &str, number: i32) -> Result<Session, tokio_postgres::Error> {
        let (client, connection) = config.connect(NoTls).await?;
        let driver = Driver(tokio::spawn(connection));
        let insert = format!("INSERT INTO {table} (client, number) VALUES ($1, $2)");
        let newest = format!("SELECT coalesce(max(number), 0) FROM {table} WHERE client = $1");
        // One client in four reads only: it shall not be the same speech that these have.
        let speech = match (number + number / 4) % 4 {
            0 => Speech::Simple,
            1 => Speech::Unnamed,
            2 => Speech::Prepared {
                insert: client.prepare(&insert).await?,
                newest: client.prepare(&newest).await?,
            },
            _ => Speech::Pipelined {
                insert: client.prepare(&insert).await?,
                newest: client.prepare(&newest).await?,
            },
        };
        Ok(Session { client, speech, insert, newest, _driver: driver })
    }

    async fn insert(&self, client: i32, number: i32) -> Result<(), tokio_postgres::Error> {
        match &self.speech {
            Speech::Simple => {
                let sql = self.insert.replace("$1", &client.to_string()).replace("$2", &number.to_string());
                self.client.batch_execute(&sql).await
            }
            Speech::Unnamed => {
                let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
                    [(&client, Type::INT4), (&number, Type::INT4)];
                self.client.query_typed(&self.insert, &values).await.map(drop)
            }
            Speech::Prepared { insert, .. } | Speech::Pipelined { insert, .. } => {
                self.client.execute(insert, &[&client, &number]).await.map(drop)
            }
        }
    }

    /// The number of the client's newest row, 0 if there is none.
    async fn newest(&self, client: i32) -> Result<i32, tokio_postgres::Error> {
        match &self.speech {
            Speech::Simple => {
                let answer =
                    self.client.simple_query(&self.newest.replace("$1", &client.to_string())).await?;
                Ok(first_number(&answer))
            }
            Speech::Unnamed => {
                let rows = self.client.query_typed(&self.newest, &[(&client, Type::INT4)]).await?;
                Ok(rows.first().map_or(0, |row| row.get(0)))
            }
            Speech::Prepared { newest, .. } | Speech::Pipelined { newest, .. } => {
                Ok(self.client.query_one(newest, &[&client]).await?.get(0))
            }
        }
    }

    /// Writes a row and returns what the transaction then saw as the newest.
    async fn transaction(&self, client: i32, number: i32) -> Result<i32, tokio_postgres::Error> {
        let in_turn = async {
            self.client.batch_execute("BEGIN").await?;
            self.insert(client, number).await?;
            let found = self.newest(client).await?;
            self.client.batch_execute("COMMIT").await?;
            Ok(found)
        };
        let outcome = match self.speech {
            Speech::Pipelined { .. } => self.pipelined_transaction(client, number).await,
            Speech::Simple | Speech::Unnamed | Speech::Prepared { .. } => in_turn.await,
        };
        if outcome.is_err() {
            // What matters has failed before; whether this does, the next statement tells.
            let _ = self.client.batch_execute("ROLLBACK").await;
        }
        outcome
    }
}

impl Session {
    /// All of it is sent before any of it is answered: each future sends when it is polled first.
    async fn pipelined_transaction(&self, client: i32, number: i32) -> Result<i32, tokio_postgres::Error> {
        let (begun, inserted, found, committed) = tokio::join!(
            self.client.batch_execute("BEGIN"),
            self.insert(client, number),
            self.newest(client),
            self.client.batch_execute("COMMIT")
        );
        // What is not known of the commit counts more than why.
        committed?;
        begun.and(inserted)?;
        found
    }
}

fn first_number(answer: &[SimpleQueryMessage]) -> i32 {
    let rows = answer.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    rows.filter_map(|value| value.parse().ok()).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: &str) -> Failure {
        Failure { code: code.to_owned(), text: String::new() }
    }

    #[test]
    fn a_read_of_less_than_was_seen_is_stale() {
        assert_eq!(judge(&Ok(6), 7), Outcome::Stale);
        assert_eq!(judge(&Ok(7), 7), Outcome::Done);
        assert_eq!(judge(&Ok(9), 7), Outcome::Done, "a row of unknown fate may be there");
        assert_eq!(judge(&Err(failure("40001")), 7), Outcome::Failed(failure("40001")));
    }

    #[test]
    fn a_lost_answer_leaves_a_write_unknown_and_an_error_does_not() {
        assert!(
            ["08007", "08006", CONNECTION_LOST, NO_ANSWER].iter().all(|code| failure(code).leaves_unknown())
        );
        assert!(["40001", "57P01", "53300"].iter().all(|code| !failure(code).leaves_unknown()));
    }
}
