//! A primary that goes away: clients that are in no transaction are held and served, and the others are told what became of
//! theirs. Nobody is disconnected, and no write is lost that was acknowledged.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pglagoon::cli::playground::{Playground, Stop};

use crate::harness::{Setup, Stand, eventually, eventually_async, quote, table, value};
use crate::raw::{
    Message, Raw, bind, cancel_request, copy_data, copy_done, execute, first_column, parse, query, sync, tags,
};

/// Clients that write while the primary goes away.
const WRITERS: usize = 24;

fn trusting(setup: Setup) -> Setup {
    setup.set("auth", "method", quote("trust"))
}

/// Its errors, and how its last ReadyForQuery says that it stands.
fn told(answer: &[Message]) -> (Vec<String>, char) {
    let codes = answer.iter().filter(|message| message.tag == 'E').map(Message::code);
    (codes.collect(), answer.last().expect("an answer").status())
}

fn told_once(answer: &[Message]) -> (String, char) {
    let (codes, status) = told(answer);
    assert_eq!(codes.len(), 1, "{answer:?}");
    (codes[0].clone(), status)
}

/// What a client knows of two rows that it wrote together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Acknowledged,
    Undone,
    Unknown,
}

/// How a pair of rows is written.
#[derive(Debug, Clone, Copy)]
pub enum Way {
    /// In a block, answer by answer.
    Block,
    /// In a block that is sent at once.
    Pipeline,
    /// In a block of batches in the extended protocol.
    Batches,
    /// By one statement.
    Simple,
    /// By one statement in the extended protocol.
    Extended,
}

impl Way {
    pub const ALL: [Way; 5] = [Way::Block, Way::Extended, Way::Pipeline, Way::Batches, Way::Simple];
    pub const WITHOUT_BLOCK: [Way; 2] = [Way::Simple, Way::Extended];

    /// What is sent at a time: messages, or sequences of them, each of which has a ReadyForQuery.
    fn bursts(self, key: &str) -> Vec<Vec<Vec<u8>>> {
        let insert = |half: &str| format!("INSERT INTO notes (word) VALUES ('{key} {half}')");
        let both = format!("INSERT INTO notes (word) VALUES ('{key} a'), ('{key} b')");
        let batch = |sql: &[&str]| {
            let run = |sql: &&str| [parse("", sql), bind("", "", &[]), execute("", 0)].concat();
            sql.iter().map(run).chain([sync()]).collect::<Vec<_>>().concat()
        };
        let block = ["BEGIN", &insert("a"), &insert("b"), "COMMIT"];
        match self {
            Way::Block => block.iter().map(|sql| vec![query(sql)]).collect(),
            Way::Pipeline => vec![block.iter().map(|sql| query(sql)).collect()],
            Way::Batches => {
                vec![vec![batch(&block[..2])], vec![batch(&block[2..3])], vec![batch(&block[3..])]]
            }
            Way::Simple => vec![vec![query(&both)]],
            Way::Extended => vec![vec![batch(&[&both])]],
        }
    }
}

/// Clients that write.
pub struct Writers<'a> {
    /// Their keys begin with this.
    pub mark: &'static str,
    /// Each in one of these ways.
    pub ways: &'a [Way],
    pub login: &'a (dyn Fn() -> Raw + Sync),
}

/// A client that writes pairs of rows.
struct Writer {
    mark: &'static str,
    number: usize,
    way: Way,
    raw: Raw,
    known: BTreeMap<String, Known>,
    /// How often it was told of a loss.
    losses: usize,
}

impl Writer {
    fn new(writers: &Writers<'_>, number: usize) -> Self {
        let way = writers.ways[number % writers.ways.len()];
        let raw = (writers.login)();
        Writer { mark: writers.mark, number, way, raw, known: BTreeMap::new(), losses: 0 }
    }

    /// Writes one pair. Panics if the connection ends.
    fn write(&mut self) {
        let key = format!("{}{}.{}", self.mark, self.number, self.known.len());
        let mut codes = Vec::new();
        for burst in self.way.bursts(&key) {
            self.raw.send(&burst.concat());
            let mut status = 'I';
            for _ in &burst {
                let (more, stands) = told(&self.raw.until_ready());
                codes.extend(more);
                status = stands;
            }
            if !codes.is_empty() {
                // As an application does: whatever it was, the transaction is over.
                if status != 'I' {
                    assert_eq!(told(&self.raw.query("ROLLBACK")), (vec![], 'I'));
                }
                break;
            }
        }
        self.losses += usize::from(!codes.is_empty());
        let known = match codes.iter().map(String::as_str).max() {
            None => Known::Acknowledged,
            _ if codes.iter().any(|code| code == "08007") => Known::Unknown,
            _ => Known::Undone,
        };
        for code in &codes {
            assert!(["40001", "08007", "25P02"].contains(&code.as_str()), "{codes:?}");
        }
        self.known.insert(key, known);
    }
}

/// Says that it is over when it is dropped, be it by a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Has clients write while something happens, and compares what they know with what is there.
pub fn write_while(playground: &mut Playground, writers: &Writers<'_>, event: impl FnOnce(&mut Playground)) {
    let is_over = AtomicBool::new(false);
    let counts: [AtomicUsize; WRITERS] = Default::default();
    let write = |number: usize| {
        let mut writer = Writer::new(writers, number);
        while !is_over.load(Ordering::Relaxed) {
            writer.write();
            counts[number].fetch_add(1, Ordering::Relaxed);
        }
        writer
    };
    let have_written = |since: &[usize]| {
        counts.iter().zip(since).all(|(count, since)| count.load(Ordering::Relaxed) >= since + 3)
    };
    let writers: Vec<Writer> = std::thread::scope(|scope| {
        let write = &write;
        let threads: Vec<_> = (0..WRITERS).map(|number| scope.spawn(move || write(number))).collect();
        // Whoever fails here must not wait for those who write for ever.
        let is_over = Over(&is_over);
        eventually("all write", || have_written(&[0; WRITERS]));
        event(playground);
        let since: Vec<usize> = counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        eventually("all write again", || have_written(&since));
        drop(is_over);
        threads.into_iter().map(|thread| thread.join().expect("nobody is disconnected")).collect()
    });

    let primary = playground.nodes().iter().find(|node| {
        node.is_running() && node.sql("SELECT pg_is_in_recovery()").is_ok_and(|answer| answer.trim() == "f")
    });
    let rows = primary.expect("a primary").sql_in("app", "SELECT word FROM notes").unwrap();
    let rows: std::collections::BTreeSet<&str> = rows.lines().map(str::trim).collect();
    for writer in &writers {
        assert!(writer.losses <= 1, "client {} was told {} times", writer.number, writer.losses);
        for (key, known) in &writer.known {
            let halves =
                ["a", "b"].iter().filter(|half| rows.contains(format!("{key} {half}").as_str())).count();
            let holds = match known {
                Known::Acknowledged => halves == 2,
                Known::Undone => halves == 0,
                Known::Unknown => halves != 1,
            };
            assert!(holds, "{key}: {known:?}, and {halves} rows are there");
        }
    }
    let lost: usize = writers.iter().map(|writer| writer.losses).sum();
    assert!(lost > 0, "the fault met nobody: this proves nothing");
}

/// As [`write_while`], in all ways, through the pglagoon that belongs to the servers.
fn write_there_while(stand: &mut Stand, mark: &'static str, event: impl FnOnce(&mut Playground)) {
    let port = stand.lagoon.port;
    let writers = Writers { mark, ways: &Way::ALL, login: &|| Raw::login(port) };
    write_while(&mut stand.playground, &writers, event);
}

#[test]
fn clients_live_through_a_crash_of_the_primary() {
    let mut stand = Stand::new(|setup| trusting(setup).set("pool", "size", "10"));
    write_there_while(&mut stand, "w", |playground| {
        playground.node_mut(0).kill().unwrap();
        playground.node_mut(0).start().unwrap();
    });
}

#[test]
fn clients_live_through_an_immediate_stop_and_a_restart() {
    let mut stand = Stand::new(|setup| trusting(setup).set("pool", "size", "10"));
    write_there_while(&mut stand, "immediate", |playground| {
        playground.node_mut(0).restart(Stop::Immediate).unwrap()
    });
    write_there_while(&mut stand, "fast", |playground| playground.node_mut(0).restart(Stop::Fast).unwrap());
}

#[test]
fn what_a_server_says_as_it_stops_is_not_said_to_clients_that_stay() {
    let mut stand = Stand::new(trusting);
    let (mut client, mut other) = (Raw::login(stand.lagoon.port), Raw::login(stand.lagoon.port));
    client.send(&query("INSERT INTO notes (word) SELECT 'lost' FROM pg_sleep(100)"));
    let underway = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    eventually("its query runs", || stand.playground.primary().sql(underway).unwrap().trim() == "1");
    stand.playground.node_mut(0).restart(Stop::Immediate).unwrap();
    let answer = client.until_ready();
    assert_eq!((tags(&answer), answer[0].code()), ("E Z".into(), "08007".into()), "{answer:?}");
    assert!(answer[0].field('M').contains("immediate shutdown"), "{answer:?}");
    assert_eq!(first_column(&other.query("SELECT 1")), ["1"]);
}

#[test]
fn clients_live_through_a_promotion() {
    let mut stand = Stand::new(|setup| {
        trusting(setup).set("pool", "size", "10").set("routing", "on_lost_write", quote("reset"))
    });
    replicate_synchronously(&stand.playground);
    write_there_while(&mut stand, "w", |playground| {
        playground.node_mut(0).kill().unwrap();
        playground.replicas()[0].promote().unwrap();
    });
}

/// What is acknowledged is on both replicas: a promotion loses nothing, though pglagoon cannot always know that.
pub fn replicate_synchronously(playground: &Playground) {
    playground.primary().sql("ALTER SYSTEM SET synchronous_standby_names = 'FIRST 2 (*)'").unwrap();
    playground.primary().sql("SELECT pg_reload_conf()").unwrap();
}

#[test]
fn nothing_is_committed_on_a_primary_of_yesterday() {
    // That what the client saw there may be lost is another matter.
    let stand = Stand::new(|setup| trusting(setup).set("routing", "on_lost_write", quote("reset")));
    let [mut client, mut other, mut slow] = [(); 3].map(|()| Raw::login(stand.lagoon.port));
    client.query("BEGIN");
    assert_eq!(told(&client.query("INSERT INTO notes (word) VALUES ('yesterday')")), (vec![], 'T'));
    // It would end there in an hour, as a commit does for which there is no standby.
    slow.send(&query("INSERT INTO notes (word) SELECT 'yesterday' FROM pg_sleep(3600)"));
    let underway = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    eventually("it runs", || stand.playground.primary().sql(underway).unwrap().trim() == "1");
    // It never learns of it.
    stand.playground.replicas()[0].promote().unwrap();
    eventually("the new primary is known", || {
        let seen = first_column(&other.query("SELECT note('new')"));
        let is_there =
            stand.playground.replicas()[0].sql_in("app", "SELECT count(*) FROM notes WHERE word = 'new'");
        !seen.is_empty() && is_there.unwrap().trim() != "0"
    });
    assert_eq!(told_once(&client.query("COMMIT")), ("40001".into(), 'I'));
    assert_eq!(told_once(&slow.until_ready()), ("08007".into(), 'I'));
    assert_eq!(told(&client.query("SELECT note('today')")), (vec![], 'I'));
    let count = "SELECT count(*) FROM notes WHERE word = 'yesterday'";
    for node in [stand.playground.primary(), &stand.playground.replicas()[0]] {
        assert_eq!(node.sql_in("app", count).unwrap().trim(), "0");
    }
    assert_eq!(
        stand.playground.replicas()[0].sql_in("app", &count.replace("yesterday", "today")).unwrap().trim(),
        "1"
    );
}

#[test]
fn a_commit_whose_answer_was_lost_is_reported_as_unknown() {
    let mut stand = Stand::new(|setup| trusting(setup).set("pool", "size", "10"));
    let primary = stand.playground.primary();
    let mut clients: Vec<Raw> = (0..8).map(|_| Raw::login(stand.lagoon.port)).collect();
    clients[2].query("SET pglagoon.consistency = 'primary'");
    for client in &mut clients[3..] {
        client.query("BEGIN");
        assert_eq!(told(&client.query("INSERT INTO notes (word) VALUES ('block')")), (vec![], 'T'));
    }
    // Commits wait for a standby that does not exist.
    primary.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").unwrap();
    primary.sql("SELECT pg_reload_conf()").unwrap();
    eventually("commits wait", || primary.sql("SHOW synchronous_standby_names").unwrap().trim() == "nobody");
    let run = |sql: &str| [parse("", sql), bind("", "", &[]), execute("", 0), sync()].concat();
    let slow = "SELECT pg_sleep(60), note('slow')";
    let requests = [
        (query("INSERT INTO notes (word) VALUES ('alone')"), ("08007", 'I')),
        (run("INSERT INTO notes (word) VALUES ('alone')"), ("08007", 'I')),
        (query("SELECT pg_sleep(60)"), ("40001", 'I')),
        (query("COMMIT"), ("08007", 'I')),
        (run("COMMIT"), ("08007", 'I')),
        (query(slow), ("40001", 'E')),
        (run(slow), ("40001", 'E')),
        (query("COPY notes (word) FROM STDIN"), ("40001", 'E')),
    ];
    for (client, (request, _)) in clients.iter_mut().zip(&requests) {
        client.send(request);
    }
    clients[7].until('G');
    clients[7].send(&copy_data(b"copied\n"));
    eventually("all hang", || {
        let condition =
            "(wait_event IN ('SyncRep', 'PgSleep') OR (wait_event = 'ClientRead' AND query LIKE 'COPY%'))";
        stand.backends(0, condition) == 8
    });
    primary.sql("ALTER SYSTEM RESET synchronous_standby_names").unwrap();
    stand.playground.node_mut(0).kill().unwrap();
    for (client, (_, (code, status))) in clients.iter_mut().zip(&requests) {
        assert_eq!(told_once(&client.until_ready()), ((*code).to_owned(), *status));
    }
    stand.playground.node_mut(0).start().unwrap();
    // The one that copies has not heard yet.
    clients[7].send(&[copy_data(b"too\n"), copy_done()].concat());
    for (client, (_, (_, status))) in clients.iter_mut().zip(&requests) {
        if *status == 'E' {
            assert_eq!(told_once(&client.query("SELECT 1")), ("25P02".to_owned(), 'E'));
            assert_eq!(told(&client.query("ROLLBACK")), (vec![], 'I'));
        }
        assert_eq!(first_column(&client.query("SELECT note('after')")), ["after"]);
    }
    let primary = stand.playground.primary();
    let kept =
        primary.sql_in("app", "SELECT count(*) FROM notes WHERE word IN ('slow', 'copied', 'too')").unwrap();
    assert_eq!(kept.trim(), "0");
}

#[test]
fn a_client_that_is_idle_in_a_transaction_is_told_at_its_next_request() {
    let mut stand = Stand::new(trusting);
    let mut clients: Vec<Raw> = (0..3).map(|_| Raw::login(stand.lagoon.port)).collect();
    for client in &mut clients {
        client.query("SET work_mem = '5MB'");
        client.query("BEGIN");
        client.query("CREATE TEMP TABLE passing (i int) ON COMMIT DROP");
        assert_eq!(told(&client.query("INSERT INTO notes (word) VALUES ('idle')")), (vec![], 'T'));
    }
    stand.playground.node_mut(0).restart(Stop::Immediate).unwrap();
    wait_noticed(&stand, 3);
    let [working, committing, leaving] = &mut clients[..] else { panic!("three clients") };
    assert_eq!(told_once(&working.query("SELECT 1")), ("40001".into(), 'E'));
    assert_eq!(told(&working.query("ROLLBACK")), (vec![], 'I'));
    assert_eq!(told_once(&committing.query("COMMIT")), ("40001".into(), 'I'));
    assert_eq!(told(&leaving.query("ROLLBACK")), (vec![], 'I'));
    for client in &mut clients {
        assert_eq!(first_column(&client.query("SHOW work_mem")), ["5MB"]);
        assert_eq!(first_column(&client.query("SELECT note('after')")), ["after"]);
    }
    assert_eq!(stand.playground.primary().sql_in("app", "SELECT count(*) FROM notes").unwrap().trim(), "3");
}

#[test]
fn a_terminated_backend_is_no_end_of_its_client() {
    let stand = Stand::new(trusting);
    let terminate = |condition: &str| {
        let sql = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'app' AND {condition}"
        );
        let ended = stand.playground.primary().sql(&sql).unwrap();
        assert_eq!(ended.trim(), "1", "{condition}");
    };
    let mut client = Raw::login(stand.lagoon.port);
    client.query("BEGIN");
    client.query("INSERT INTO notes (word) VALUES ('idle')");
    terminate("state = 'idle in transaction' AND query LIKE 'INSERT INTO notes%'");
    assert_eq!(told_once(&client.query("SELECT 1")), ("40001".into(), 'E'));
    assert_eq!(told(&client.query("ROLLBACK")), (vec![], 'I'));

    client.query("BEGIN");
    client.send(&query("SELECT pg_sleep(60), note('busy')"));
    eventually("it sleeps", || stand.backends(0, "wait_event = 'PgSleep'") == 1);
    terminate("wait_event = 'PgSleep'");
    let answer = client.until_ready();
    assert_eq!(told_once(&answer), ("40001".into(), 'E'));
    let error = answer.iter().find(|message| message.tag == 'E').unwrap();
    assert_eq!(error.field('V'), "ERROR");
    assert!(error.field('M').contains("57P01"), "{error:?}");
    assert_eq!(told(&client.query("ROLLBACK")), (vec![], 'I'));
    assert_eq!(first_column(&client.query("SELECT note('after')")), ["after"]);

    // What only that server connection had is lost: this is said, as on a direct connection.
    client.query("CREATE TEMP TABLE kept (i int)");
    eventually("it is pinned", || {
        stand.backends(0, "query LIKE 'SELECT %pg_my_temp_schema%' AND state = 'idle'") == 1
    });
    terminate("query LIKE 'SELECT %pg_my_temp_schema%' AND state = 'idle'");
    let end = client.until_end();
    let fatal = end.last().expect("a last word");
    assert_eq!((fatal.field('V').as_str(), fatal.code().as_str()), ("FATAL", "57P01"));
    assert!(fatal.field('D').contains("temporary_relation"), "{fatal:?}");
}

#[test]
fn reads_whose_server_goes_away_in_any_way_run_again() {
    let mut stand = Stand::new(|setup| {
        trusting(setup).set("routing", "consistency", quote("eventual")).set("pool", "size", "10")
    });
    let slow = "SELECT pg_sleep(3), 'seen'";
    let second_column = |row: &Message| row.columns().remove(1).unwrap_or_default();
    let ways: [&dyn Fn(&mut Stand); 3] = [
        &|stand| {
            for replica in stand.playground.replicas() {
                replica
                    .sql(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'",
                    )
                    .unwrap();
            }
        },
        &|stand| stand.playground.node_mut(1).restart(Stop::Immediate).unwrap(),
        &|stand| {
            stand.playground.node_mut(2).kill().unwrap();
        },
    ];
    for (turn, end) in ways.into_iter().enumerate() {
        let marked = format!("{slow} /* turn{turn} */");
        let run = |sql: &str| [parse("", sql), bind("", "", &[]), execute("", 0)].concat();
        let second = [bind("", "", &[]), execute("", 0)].concat();
        let requests =
            [query(&marked), [run(&marked), sync()].concat(), [run(&marked), second, sync()].concat()];
        let mut clients: Vec<Raw> = (0..8).map(|_| Raw::login(stand.lagoon.port)).collect();
        eventually("both replicas are used", || {
            clients[0].query(&format!("SELECT 1 /* used{turn} */"));
            stand.ran_on(&format!("used{turn}"))[1..].iter().all(|count| *count > 0)
        });
        for (place, client) in clients.iter_mut().enumerate() {
            client.send(&requests[place % 3]);
        }
        eventually("both replicas read", || {
            let reading = |place: usize| stand.backends(place, "wait_event = 'PgSleep'");
            reading(1) > 0 && reading(2) > 0 && reading(0) + reading(1) + reading(2) == 8
        });
        end(&mut stand);
        for (place, client) in clients.iter_mut().enumerate() {
            let answer = client.until_ready();
            let seen: Vec<_> =
                answer.iter().filter(|message| message.tag == 'D').map(second_column).collect();
            let times = if place % 3 == 2 { 2 } else { 1 };
            assert_eq!((told(&answer).0, seen), (vec![], vec!["seen".to_owned(); times]), "{answer:?}");
        }
    }
}

#[test]
fn a_read_that_somebody_ends_does_not_run_again_and_one_whose_server_stops_does() {
    let mut stand = Stand::new(|setup| trusting(setup).set("routing", "consistency", quote("eventual")));
    let mut client = Raw::login(stand.lagoon.port);
    eventually("replicas are used", || {
        client.query("SELECT 1 /* used */");
        stand.ran_on("used")[1..].iter().any(|count| *count > 0)
    });
    let ran_for = |stand: &Stand, seconds: f32| {
        let sleeps = format!(
            "wait_event = 'PgSleep' AND clock_timestamp() > query_start + interval '{seconds} seconds'"
        );
        (0..3).find(|place| matches!(stand.try_backends(*place, &sleeps), Ok(1)))
    };
    let has_run_for = |stand: &Stand, seconds: f32| {
        let mut place = None;
        eventually("it has run for so long", || {
            place = ran_for(stand, seconds);
            place.is_some()
        });
        place.expect("waited for")
    };
    let end = |stand: &Stand, place: usize, how: &str| {
        let sql = format!("SELECT {how}(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
        stand.playground.nodes()[place].sql(&sql).unwrap();
    };
    let read = query("SELECT pg_sleep(30), 'seen'");

    client.send(&read);
    let replica = has_run_for(&stand, 2.2);
    end(&stand, replica, "pg_terminate_backend");
    let answer = client.until_ready();
    assert_eq!((replica > 0, told_once(&answer)), (true, ("57P01".into(), 'I')), "{answer:?}");
    assert_eq!(ran_for(&stand, 0.0), None);
    assert_eq!(first_column(&client.query("SELECT 'goes on'")), ["goes on"]);

    // Not for so long that it would have been picked out.
    client.send(&read);
    let replica = has_run_for(&stand, 0.0);
    end(&stand, replica, "pg_terminate_backend");
    let again = has_run_for(&stand, 0.2);

    // It is the server that stops.
    has_run_for(&stand, 2.2);
    stand.playground.node_mut(again).restart(Stop::Fast).unwrap();
    let elsewhere = has_run_for(&stand, 0.0);
    end(&stand, elsewhere, "pg_cancel_backend");
    assert_eq!(told_once(&client.until_ready()), ("57014".into(), 'I'));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_client_is_told_why_served_in_turn_and_may_leave() {
    let mut stand = Stand::new(|setup| {
        trusting(setup)
            .set("pool", "size", "1")
            .set("pool", "hold_limit", "6")
            .set("pool", "hold_timeout", quote("60s"))
            // Less than they are held for, which does not count.
            .set("pool", "checkout_timeout", quote("2s"))
    });
    let port = stand.lagoon.port;
    let console = stand.lagoon.console().await;
    let waiting = async || {
        let clients = table(&console, "SHOW CLIENTS").await;
        clients.iter().filter(|client| client["state"] == "waiting").count()
    };
    let mut clients: Vec<Raw> = (0..7).map(|_| Raw::login(port)).collect();
    for client in &mut clients {
        // Their settings are known to servers, their statements have been looked at.
        assert_eq!(told(&client.query("SELECT note('before')")), (vec![], 'I'));
    }
    stand.playground.node_mut(0).stop(Stop::Immediate).unwrap();
    for (place, client) in clients.iter_mut().enumerate().take(6) {
        // The fourth has begun a transaction that no server knows of.
        if place == 3 {
            assert_eq!(told(&client.query("BEGIN")), (vec![], 'T'));
        }
        client.send(&query(&format!("SELECT note('turn {place}'), pg_sleep(0.3)")));
        eventually_async("it is held", async || waiting().await == place + 1).await;
    }
    let began = Instant::now();
    let (code, status) = told_once(&clients[6].query("SELECT note('too many')"));
    assert_eq!((code.as_str(), status), ("57P03", 'I'));
    assert!(began.elapsed() < Duration::from_secs(3), "at once");

    // It hears why, once.
    let notice = clients[0].until('N').pop().expect("a notice");
    assert!(notice.field('M').starts_with("pglagoon is holding this request: no primary"), "{notice:?}");
    assert_eq!((notice.field('V').as_str(), notice.code().as_str()), ("NOTICE", "00000"));
    // One asks for its request to be cancelled, one leaves.
    let (pid, secret) = clients[5].key.clone().expect("a key");
    Raw::connect(port).send(&cancel_request(pid, &secret));
    assert_eq!(told_once(&clients[5].until_ready()), ("57014".into(), 'I'));
    clients.remove(4).vanish();
    eventually_async("four are left", async || waiting().await == 4).await;

    stand.playground.node_mut(0).start().unwrap();
    for (place, client) in clients.iter_mut().enumerate().take(4) {
        let answer = client.until_ready();
        assert_eq!(first_column(&answer), [format!("turn {place}")], "{answer:?}");
        let notices = answer.iter().filter(|message| message.tag == 'N').count();
        assert!(notices <= usize::from(place > 0), "{answer:?}");
    }
    assert_eq!(told(&clients[3].query("COMMIT")), (vec![], 'I'));
    for client in &mut clients {
        assert_eq!(told(&client.query("SELECT note('after')")), (vec![], 'I'));
    }
    let turns = "SELECT string_agg(substr(word, 6), '' ORDER BY id) FROM notes WHERE word LIKE 'turn%'";
    let turns = stand.playground.primary().sql_in("app", turns).unwrap();
    assert_eq!(turns.trim(), "0123");
}

/// Who only reads needs no primary, and does not stand behind those who do.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_read_from_while_writers_are_held() {
    let mut stand = Stand::new(trusting);
    let console = stand.lagoon.console().await;
    let mut readers: Vec<Raw> = (0..3).map(|_| Raw::login(stand.lagoon.port)).collect();
    let mut writer = Raw::login(stand.lagoon.port);
    let read = "SELECT count(*) FROM numbers";
    for client in readers.iter_mut().chain([&mut writer]) {
        assert_eq!(first_column(&client.query(read)), ["1000"]);
    }
    stand.playground.node_mut(0).stop(Stop::Immediate).unwrap();
    writer.send(&query("SELECT note('held')"));
    eventually_async("it is held", async || {
        let clients = table(&console, "SHOW CLIENTS").await;
        clients.iter().any(|client| client["state"] == "waiting")
    })
    .await;
    let began = Instant::now();
    for _ in 0..20 {
        for reader in &mut readers {
            assert_eq!(first_column(&reader.query(read)), ["1000"]);
        }
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // Nor when it was held itself, behind them: the first replica that is back serves it.
    let reader = &mut readers[0];
    assert_eq!(told(&reader.query("SET pglagoon.consistency = 'eventual'")), (vec![], 'I'));
    for place in [1, 2] {
        stand.playground.node_mut(place).stop(Stop::Immediate).unwrap();
    }
    eventually_async("they are down", async || {
        table(&console, "SHOW NODES").await.iter().all(|node| node["health"] == "down")
    })
    .await;
    reader.send(&query(read));
    let held = |stand: &Stand| {
        let metrics = stand.lagoon.http("/metrics").unwrap().body;
        let line =
            metrics.lines().find(|line| line.starts_with("pglagoon_clients_held{database=\"app\"")).unwrap();
        line.rsplit(' ').next().unwrap().to_owned()
    };
    eventually("it is held, too", || held(&stand) == "2");
    stand.playground.node_mut(2).start().unwrap();
    assert_eq!(first_column(&reader.until_ready()), ["1000"]);
    assert_eq!(held(&stand), "1");
    stand.playground.node_mut(0).start().unwrap();
    assert_eq!(first_column(&writer.until_ready()), ["held"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_not_held_for_ever() {
    let mut stand = Stand::new(|setup| {
        trusting(setup).set("pool", "hold_timeout", quote("500ms")).set("pool", "size", "1")
    });
    let [mut client, mut queued] = [(); 2].map(|()| Raw::login(stand.lagoon.port));
    // How long it has stood in a server's queue does not count.
    assert_eq!(told(&client.query("BEGIN; SELECT note('undone')")), (vec![], 'T'));
    client.send(&query("SELECT pg_sleep(0.6)"));
    queued.send(&query("SELECT note('in vain')"));
    assert_eq!(told(&client.until_ready()), (vec![], 'T'));
    let lost = Instant::now();
    stand.playground.node_mut(0).stop(Stop::Immediate).unwrap();
    assert_eq!(told_once(&queued.until_ready()), ("57P03".into(), 'I'));
    assert!(lost.elapsed() >= Duration::from_millis(500), "{:?}", lost.elapsed());
    assert_eq!(told(&client.query("ROLLBACK")), (vec![], 'I'));
    let answer = client.query("SELECT note('in vain')");
    assert_eq!(told_once(&answer), ("57P03".into(), 'I'));
    let error = answer.iter().find(|message| message.tag == 'E').unwrap();
    assert_eq!(error.field('V'), "ERROR");
    assert!(error.field('M').contains("no primary server has been available"), "{error:?}");
    assert!(error.field('D').contains("server 1 of 3: down for"), "{error:?}");
    // In a transaction that has not begun the same, and its end is the client's.
    assert_eq!(told(&client.query("BEGIN")), (vec![], 'T'));
    assert_eq!(told_once(&client.query("SELECT note('in vain')")), ("57P03".into(), 'E'));
    assert_eq!(told(&client.query("ROLLBACK")), (vec![], 'I'));
    let batch = [parse("", "SELECT note('in vain')"), bind("", "", &[]), execute("", 0), sync()];
    assert_eq!(tags(&client.exchange(&batch)), "E Z");
    stand.playground.node_mut(0).start().unwrap();
    let other = stand.client().await;
    eventually_async("it is served again", async || other.simple_query("SELECT note('back')").await.is_ok())
        .await;
    assert_eq!(told(&client.query("SELECT note('after')")), (vec![], 'I'));
    assert_eq!(value(&other, "SELECT count(*) FROM notes WHERE word = 'in vain'").await, "0");
}

/// Who could be the next primary is asked at once, and not when its interval is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_is_seen_long_before_the_interval_is_over() {
    const INTERVAL: Duration = Duration::from_secs(20);
    // So seldom asked, the primary has not said that the write is below a position that was kept.
    let mut stand = Stand::new(|setup| {
        setup.set("monitor", "interval", quote("20s")).set("routing", "on_lost_write", quote("reset"))
    });
    let client = stand.client().await;
    assert_eq!(value(&client, "SELECT note('before')").await, "before");
    stand.playground.wait_caught_up().unwrap();
    stand.playground.node_mut(0).stop(Stop::Immediate).unwrap();
    stand.playground.nodes()[1].promote().unwrap();
    let promoted = Instant::now();
    assert_eq!(value(&client, "SELECT note('after')").await, "after");
    assert!(promoted.elapsed() < INTERVAL / 4, "{:?}", promoted.elapsed());
}

/// Waits until the server connections of so many clients are known to be lost. A COMMIT that is sent before that ends with
/// 08007, and rightly so.
fn wait_noticed(stand: &Stand, lost: usize) {
    let seen = || stand.lagoon.log().matches("server connection lost").count();
    eventually("the loss is noticed", || seen() == lost);
}

/// Who cleans up after an error does not look at what becomes of that.
#[test]
fn who_has_lost_a_write_is_told_at_the_next_request_that_asks_for_something() {
    let mut stand = Stand::new(trusting);
    let deaf = &stand.playground.nodes()[1];
    deaf.sql("ALTER SYSTEM SET primary_conninfo = ''").unwrap();
    deaf.reload().unwrap();
    eventually("it hears nothing", || {
        deaf.sql("SELECT count(*) FROM pg_stat_wal_receiver").unwrap().trim() == "0"
    });
    let mut clients: Vec<Raw> = (0..3).map(|_| Raw::login(stand.lagoon.port)).collect();
    for client in &mut clients {
        assert_eq!(told(&client.query("SELECT note('lost')")), (vec![], 'I'));
        client.query("BEGIN");
        assert_eq!(told(&client.query("SELECT note('open')")), (vec![], 'T'));
    }
    stand.playground.node_mut(0).kill().unwrap();
    wait_noticed(&stand, 3);
    for client in &mut clients {
        assert_eq!(told_once(&client.query("COMMIT")), ("40001".into(), 'I'));
    }
    // One that comes before there is a primary is held.
    clients[0].send(&query("ROLLBACK"));
    stand.playground.nodes()[1].promote().unwrap();
    let ended = [clients[0].until_ready(), clients[1].query("COMMIT")];
    for (answer, command) in ended.iter().zip(["ROLLBACK", "COMMIT"]) {
        assert_eq!((tags(answer).as_str(), answer.last().unwrap().status()), ("C Z", 'I'), "{answer:?}");
        let complete = answer.iter().find(|message| message.tag == 'C').unwrap();
        assert_eq!(complete.command(), command);
        let warning = answer.iter().find(|message| message.tag == 'N' && message.code() == "25P01");
        assert!(warning.is_some(), "{answer:?}");
    }
    for client in &mut clients {
        assert_eq!(told_once(&client.query("SELECT note('told')")), ("08007".into(), 'I'));
        assert_eq!(told(&client.query("SELECT note('after')")), (vec![], 'I'));
    }
}

/// Today's primary goes away: the one of yesterday, which takes writes as ever, is not taken for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_of_yesterday_stays_fenced_until_an_operator_says_otherwise() {
    let mut stand = Stand::new(|setup| {
        trusting(setup).set("routing", "on_lost_write", quote("reset")).set(
            "pool",
            "hold_timeout",
            quote("500ms"),
        )
    });
    let old = stand.playground.primary().address();
    let why = async |stand: &Stand| {
        let nodes = table(&stand.lagoon.console().await, "SHOW NODES").await;
        nodes.into_iter().find(|node| node["server"] == old).expect("it is listed").remove("why").unwrap()
    };
    let mut client = Raw::login(stand.lagoon.port);
    assert_eq!(told(&client.query("SELECT note('before')")), (vec![], 'I'));
    stand.playground.nodes()[1].promote().unwrap();
    eventually_async("it is fenced", async || why(&stand).await.contains("another is, on 2")).await;
    // A probe that is cancelled says nothing of what the next one may ask.
    let cancel = "BEGIN; LOCK TABLE pg_catalog.pg_stat_wal_receiver IN ACCESS EXCLUSIVE MODE; \
         DO $$ BEGIN FOR turn IN 1..1000 LOOP \
             PERFORM pg_stat_clear_snapshot(); \
             IF (SELECT bool_or(pg_cancel_backend(pid)) FROM pg_stat_activity \
                 WHERE application_name = 'pglagoon monitor' AND wait_event_type = 'Lock') THEN RETURN; END IF; \
             PERFORM pg_sleep(0.01); \
         END LOOP; RAISE 'no probe came'; END $$; COMMIT";
    stand.playground.nodes()[1].sql(cancel).unwrap();
    assert_eq!(told(&client.query("SELECT note('today')")), (vec![], 'I'));
    assert_eq!(first_column(&client.query("SELECT count(*) FROM notes WHERE word = 'today'")), ["1"]);
    stand.playground.node_mut(1).stop(Stop::Immediate).unwrap();
    let is_fenced = async |stand: &Stand| why(stand).await.contains("another has been since, on 2");
    eventually_async("it stays fenced", async || is_fenced(&stand).await).await;
    assert_eq!(told_once(&client.query("SELECT note('astray')")), ("57P03".into(), 'I'));
    // A process that takes over knows it, too.
    stand.lagoon.upgrade();
    assert!(stand.lagoon.wait_end(Duration::from_secs(20)).success());
    eventually_async("it is fenced there", async || is_fenced(&stand).await).await;
    assert_eq!(told_once(&client.query("SELECT note('astray')")), ("57P03".into(), 'I'));
    let astray = "SELECT count(*) FROM notes WHERE word = 'astray'";
    assert_eq!(stand.playground.primary().sql_in("app", astray).unwrap().trim(), "0");

    let console = stand.lagoon.console().await;
    console.simple_query(&format!("ATTACH {old}")).await.unwrap();
    assert_eq!(told(&client.query("SELECT note('restored')")), (vec![], 'I'));
    let restored = "SELECT count(*) FROM notes WHERE word = 'restored'";
    assert_eq!(stand.playground.primary().sql_in("app", restored).unwrap().trim(), "1");
    drop(console);
    assert!(stand.lagoon.end_successor());
}

/// Two standbys are promoted beside each other, to the same timeline. When the one that was taken dies, the other is not: it
/// has nothing of what was written meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_were_promoted_to_the_same_timeline_the_second_is_no_heir_of_the_first() {
    let mut stand = Stand::new(|setup| {
        trusting(setup).set("routing", "on_lost_write", quote("reset")).set(
            "pool",
            "hold_timeout",
            quote("500ms"),
        )
    });
    let mut client = Raw::login(stand.lagoon.port);
    assert_eq!(told(&client.query("SELECT note('before')")), (vec![], 'I'));
    stand.playground.wait_caught_up().unwrap();
    stand.playground.node_mut(0).stop(Stop::Immediate).unwrap();
    std::thread::scope(|scope| {
        for place in [1, 2] {
            let node = &stand.playground.nodes()[place];
            scope.spawn(|| node.promote().unwrap());
        }
    });
    let shown = async |stand: &Stand, place: usize| {
        let address = stand.playground.nodes()[place].address();
        let nodes = table(&stand.lagoon.console().await, "SHOW NODES").await;
        let mut node = nodes.into_iter().find(|node| node["server"] == address).expect("it is listed");
        ["role", "health", "why"].map(|column| node.remove(column).unwrap())
    };
    let is_fenced = async |stand: &Stand, place| {
        let [_, health, why] = shown(stand, place).await;
        health == "down" && why.contains("timeline 2, beside another") && why.contains("ATTACH")
    };
    let mut rival = 0;
    eventually_async("one is fenced", async || {
        rival = if is_fenced(&stand, 1).await { 1 } else { 2 };
        is_fenced(&stand, rival).await
    })
    .await;
    let ours = 3 - rival;
    assert_eq!(told(&client.query("SELECT note('ours')")), (vec![], 'I'));

    stand.playground.node_mut(ours).kill().unwrap();
    eventually_async("ours is gone", async || shown(&stand, ours).await[1] == "down").await;
    let refused = client.query("SELECT note('astray')");
    let detail = refused.iter().find(|message| message.tag == 'E').unwrap().field('D');
    assert!(detail.contains("fenced, though it says that it is primary,"), "{detail}");
    assert_eq!(told_once(&refused), ("57P03".into(), 'I'));
    // Ours comes back, and is primary as before; its rival is none.
    stand.playground.node_mut(ours).start().unwrap();
    eventually_async("ours is back", async || shown(&stand, ours).await[1] != "down").await;
    assert_eq!(told(&client.query("SELECT note('ours')")), (vec![], 'I'));
    assert!(is_fenced(&stand, rival).await);
    stand.playground.node_mut(ours).kill().unwrap();
    eventually_async("ours is gone again", async || shown(&stand, ours).await[1] == "down").await;

    // Neither a process that takes over nor a file that does not name ours any more makes it primary.
    stand.lagoon.upgrade();
    assert!(stand.lagoon.wait_end(Duration::from_secs(20)).success());
    eventually_async("it is fenced there", async || is_fenced(&stand, rival).await).await;
    assert_eq!(told_once(&client.query("SELECT note('astray')")), ("57P03".into(), 'I'));
    let alone = stand.playground.nodes()[rival].address();
    stand.lagoon.reconfigure(|setup| setup.set("databases.app", "servers", format!("[{}]", quote(&alone))));
    let console = stand.lagoon.console().await;
    console.simple_query("RELOAD").await.unwrap();
    assert_eq!(told_once(&client.query("SELECT note('astray')")), ("57P03".into(), 'I'));
    assert!(is_fenced(&stand, rival).await);
    let count = |word: &str| {
        let sql = format!("SELECT count(*) FROM notes WHERE word = '{word}'");
        stand.playground.nodes()[rival].sql_in("app", &sql).unwrap().trim().to_owned()
    };
    assert_eq!(["before", "ours", "astray"].map(count), ["1", "0", "0"]);

    // An operator's word makes it primary all the same.
    console.simple_query(&format!("ATTACH {alone}")).await.unwrap();
    assert_eq!(told(&client.query("SELECT note('taken')")), (vec![], 'I'));
    assert_eq!(count("taken"), "1");
    drop(console);
    assert!(stand.lagoon.end_successor());
}
