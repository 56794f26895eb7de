//! A reload under way: servers, databases and users come and go, and no client is dropped that need not be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio_postgres::{AsyncMessage, Client, NoTls, SimpleQueryMessage};

use crate::harness::{
    Setup, Stand, eventually, eventually_async, explain, quote, rows, sqlstate, table, value,
};

/// Who works while something is done to pglagoon, and counts.
pub struct Crowd {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<Result<(), String>>>,
}

impl Crowd {
    /// Connects `count` clients and lets them work: in the simple and the extended protocol, pipelined, and in transactions.
    pub async fn start(stand: &Stand, count: usize) -> Crowd {
        let table = "SET ROLE app; CREATE TABLE acks (client int, number int)";
        stand.playground.primary().sql(table).unwrap();
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = Vec::new();
        for number in 0..count {
            let client = stand.client().await;
            let (stop, done) = (stop.clone(), done.clone());
            tasks.push(tokio::spawn(async move {
                work(client, number, &stop, &done).await.map_err(|error| format!("client {number}: {error}"))
            }));
        }
        Crowd { stop, done, tasks }
    }

    /// Waits until so many more rounds are done.
    pub fn rounds(&self, count: usize) {
        let goal = self.done.load(Ordering::Relaxed) + count;
        eventually("the clients get on", || {
            self.done.load(Ordering::Relaxed) >= goal || self.tasks.iter().any(|task| task.is_finished())
        });
    }

    /// Ends the work. Panics with what any client saw go wrong.
    pub async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        let mut wrong = Vec::new();
        for task in self.tasks {
            wrong.extend(task.await.expect("a client does not panic").err());
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

/// Each round writes, reads its own write back, by a kept statement and by text, and keeps a setting of its own.
async fn work(client: Client, number: usize, stop: &AtomicBool, done: &AtomicUsize) -> Result<(), String> {
    let failed = |error: tokio_postgres::Error| explain(&error);
    let me = number as i32;
    client.simple_query(&format!("SET application_name = 'crowd {number}'")).await.map_err(failed)?;
    let write = client.prepare("INSERT INTO acks VALUES ($1, $2)").await.map_err(failed)?;
    let read =
        client.prepare("SELECT max(number), count(*) FROM acks WHERE client = $1").await.map_err(failed)?;
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        match number % 3 {
            0 => client.execute(&write, &[&me, &round]).await.map(drop).map_err(failed)?,
            1 => {
                let sql = format!("BEGIN; INSERT INTO acks VALUES ({me}, {round}); COMMIT");
                client.simple_query(&sql).await.map(drop).map_err(failed)?;
            }
            _ => {
                client.simple_query("BEGIN").await.map_err(failed)?;
                client.execute(&write, &[&me, &round]).await.map_err(failed)?;
                client.simple_query("COMMIT").await.map_err(failed)?;
            }
        }
        // Pipelined: all are sent before the first is answered.
        let mine: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&me];
        let (a, b, c) = tokio::join!(
            client.query_one(&read, &mine),
            client.query_one("SELECT word FROM numbers WHERE i = 7", &[]),
            client.query_one(&read, &mine),
        );
        for row in [a.map_err(failed)?, c.map_err(failed)?] {
            let seen: (i32, i64) = (row.get(0), row.get(1));
            if seen != (round, i64::from(round)) {
                return Err(format!("wrote {round}, then read {seen:?}"));
            }
        }
        b.map_err(failed)?;
        let shown = client.simple_query("SHOW application_name").await.map_err(failed)?;
        let shown = shown.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        if shown != Some(&*format!("crowd {number}")) {
            return Err(format!("the setting is {shown:?}"));
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Other servers for the application's database.
pub fn servers(setup: Setup, stand_servers: &[String]) -> Setup {
    let list: Vec<String> = stand_servers.iter().map(|server| quote(server)).collect();
    setup.set("databases.app", "servers", format!("[{}]", list.join(", ")))
}

/// Where the servers listen.
pub fn addresses(stand: &Stand) -> Vec<String> {
    stand.playground.nodes().iter().map(|node| node.address()).collect()
}

/// Changes the configuration and has it read.
pub async fn reload(stand: &mut Stand, adjust: impl FnOnce(Setup) -> Setup) {
    stand.lagoon.reconfigure(adjust);
    rows(&stand.lagoon.console().await, "RELOAD").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_under_load_costs_no_client_an_error() {
    let mut stand = Stand::new(|setup| setup.set("pool", "checkout_timeout", quote("20s")));
    let all = addresses(&stand);
    let idle = stand.client().await;
    rows(&idle, "SET work_mem = '3MB'").await;
    let crowd = Crowd::start(&stand, 24).await;
    crowd.rounds(50);
    for round in 0..3 {
        // A replica goes, and a pool shrinks; it comes back in another place.
        let without = [all[0].clone(), all[1 + round % 2].clone()];
        reload(&mut stand, |setup| servers(setup, &without).set("pool", "size", "3")).await;
        crowd.rounds(50);
        let gone = 2 - round % 2;
        eventually("no connection of the application's is left at the removed server", || {
            stand.backends(gone, "true") == 0
        });
        let turned: Vec<String> = all.iter().rev().cloned().collect();
        reload(&mut stand, |setup| servers(setup, &turned).set("pool", "size", "6")).await;
        crowd.rounds(50);
    }
    crowd.finish().await;
    assert_eq!(value(&idle, "SHOW work_mem").await, "3MB");
    assert_eq!(stand.backends(0, "state <> 'idle'"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_loses_what_pinned_it_and_moves_counts_in_neither_place() {
    let mut stand = Stand::new(|setup| setup.set("pool", "pin_limit", "4"));
    let all = addresses(&stand);
    let client = stand.client().await;
    client.simple_query("BEGIN; CREATE TEMP TABLE gone (i int)").await.unwrap();
    reload(&mut stand, |setup| servers(setup, &all[..2])).await;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'";
    stand.playground.primary().sql(kill).unwrap();
    assert_eq!(sqlstate(client.simple_query("SELECT 1").await).0, "40001");
    client.simple_query("ROLLBACK").await.unwrap();
    rows(&client, "CREATE TEMP TABLE kept (i int)").await;
    rows(&client, "SELECT * FROM kept").await;
    let metrics = stand.lagoon.http("/metrics").unwrap().body;
    let pinned: Vec<_> =
        metrics.lines().filter(|line| line.starts_with("pglagoon_pinned_clients{")).collect();
    assert!(pinned.iter().all(|line| line.ends_with(" 0") || line.ends_with(" 1")), "{pinned:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_ends_where_it_began_and_a_pause_outlasts_a_reload() {
    let mut stand = Stand::new(|setup| setup);
    let all = addresses(&stand);
    let (busy, waiting) = (stand.client().await, stand.client().await);
    busy.simple_query("BEGIN; SELECT note('before')").await.unwrap();
    reload(&mut stand, |setup| servers(setup, &all[..2])).await;
    busy.simple_query("INSERT INTO notes (word) VALUES ('during')").await.unwrap();
    busy.simple_query("COMMIT").await.unwrap();
    assert_eq!(value(&busy, "SELECT count(*) FROM notes").await, "2");

    let console = stand.lagoon.console().await;
    rows(&console, "PAUSE app").await;
    let asked = tokio::spawn(async move { value(&waiting, "SELECT count(*) FROM notes").await });
    eventually("it waits", || {
        stand.lagoon.http("/metrics").is_some_and(|answer| {
            answer.body.lines().any(|line| line.starts_with("pglagoon_pool_waiting") && line.ends_with(" 1"))
        })
    });
    reload(&mut stand, |setup| servers(setup, &all)).await;
    let paused = &table(&console, "SHOW DATABASES").await[0];
    assert_eq!(paused["paused"], "1");
    assert!(!asked.is_finished());
    rows(&console, "RESUME app").await;
    assert_eq!(asked.await.unwrap(), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_listens_goes_on_hearing() {
    let mut stand = Stand::new(|setup| setup);
    let all = addresses(&stand);
    let url = stand.lagoon.url("app", "app");
    let (client, mut connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(notification) = message {
                let _ = heard.send(notification.payload().to_owned());
            }
        }
    });
    client.batch_execute("LISTEN news").await.unwrap();
    for word in ["one", "two", "three"] {
        if word == "two" {
            reload(&mut stand, |setup| servers(setup, &all[..2])).await;
            assert_eq!(value(&client, "SELECT 1").await, "1");
        }
        stand.playground.primary().sql(&format!("NOTIFY news, '{word}'")).unwrap();
        let next = tokio::time::timeout(Duration::from_secs(10), hears.recv()).await.unwrap();
        assert_eq!(next.as_deref(), Some(word));
    }
    assert!(counters(&stand)["pglagoon_notifications_total{database=\"app\"}"] >= 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_what_is_removed_are_told_so_when_they_are_free() {
    let mut stand = Stand::new(|setup| {
        let servers = setup.value("databases.app", "servers").unwrap().to_owned();
        setup.set("databases.other", "servers", servers).set("databases.other", "database", quote("app"))
    });
    let lagoon = &stand.lagoon;
    let busy = lagoon.connect(&lagoon.url("app", "other")).await.unwrap();
    let old = lagoon.connect(&lagoon.url("old", "app")).await.unwrap();
    rows(&old, "SELECT 1").await;
    busy.simple_query("BEGIN; SELECT note('last')").await.unwrap();
    reload(&mut stand, |setup| setup.without("databases.other").without("users.old")).await;
    eventually("the removed user's client is gone", || old.is_closed());
    busy.simple_query("COMMIT").await.unwrap();
    eventually("the removed database's client is gone", || busy.is_closed());
    let lagoon = &stand.lagoon;
    let (code, text) = sqlstate(lagoon.connect(&lagoon.url("app", "other")).await);
    assert_eq!((code.as_str(), text.as_str()), ("3D000", "database \"other\" does not exist"));
    // Another client's write: a replica may not have it yet.
    assert_eq!(stand.playground.primary().sql("SELECT count(*) FROM notes").unwrap().trim(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_statements_outlast_a_change_of_the_mode() {
    let mut stand = Stand::new(|setup| setup);
    let modes = ["transaction", "session", "statement"];
    for (from, to) in modes.iter().flat_map(|from| modes.iter().map(move |to| (*from, *to))) {
        reload(&mut stand, |setup| setup.set("pool", "mode", quote(from))).await;
        let client = stand.client().await;
        let before = client.prepare("SELECT $1::int + 1").await.unwrap();
        let sql = format!("/* {from} to {to} */ PREPARE kept AS SELECT 3");
        rows(&client, &sql).await;
        if from == "session" {
            rows(&client, "CREATE TEMP TABLE own (i int)").await;
        }
        reload(&mut stand, |setup| setup.set("pool", "mode", quote(to))).await;
        for round in 0..2 {
            let row = client.query_one(&before, &[&41]).await;
            let row = row.unwrap_or_else(|error| panic!("{from} to {to}, {round}: {}", explain(&error)));
            assert_eq!(row.get::<_, i32>(0), 42);
        }
        let after = client.prepare("SELECT $1::int + 2").await.unwrap();
        assert_eq!(client.query_one(&after, &[&40]).await.unwrap().get::<_, i32>(0), 42);
        assert_eq!(value(&client, "EXECUTE kept").await, "3");
        if from == "session" {
            assert_eq!(value(&client, "SELECT count(*) FROM own").await, "0");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_restart_is_said_at_each_reload_and_not_shown_as_if_it_held() {
    let mut stand = Stand::new(|setup| setup);
    let workers = async |stand: &Stand| {
        let settings = table(&stand.lagoon.console().await, "SHOW CONFIG").await;
        settings.into_iter().find(|row| row["key"] == "listen.workers").unwrap()["value"].clone()
    };
    for _ in 0..2 {
        reload(&mut stand, |setup| setup.set("listen", "workers", "3")).await;
        assert_eq!(workers(&stand).await, "2");
    }
    reload(&mut stand, |setup| setup.set("listen", "workers", "2")).await;
    let log = stand.lagoon.log();
    // One for each RELOAD, with who said it and what came of it.
    let reloads: Vec<&str> = log.lines().filter(|line| line.contains("operation=Reload")).collect();
    assert_eq!(reloads.len(), 3, "{log}");
    assert!(reloads.iter().all(|line| line.contains("user=\"app\"")), "{reloads:?}");
    let sentence = "listen.workers changes from 2 to 3 only with a restart";
    assert!(reloads[..2].iter().all(|line| line.contains(sentence)), "{reloads:?}");
    assert!(reloads[2].contains("no setting has changed"), "{reloads:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_waits_for_what_a_reload_has_left_behind() {
    let mut stand = Stand::new(|setup| setup);
    let addresses = addresses(&stand);
    let client = stand.client().await;
    client.simple_query("BEGIN; INSERT INTO notes (word) VALUES ('x')").await.unwrap();
    reload(&mut stand, |setup| servers(setup, &addresses[..2])).await;
    let console = stand.lagoon.console().await;
    let servers = table(&console, "SHOW SERVERS").await;
    let condemned =
        servers.iter().filter(|row| row["state"] == "active" && row["close_needed"] == "1").count();
    assert_eq!(condemned, 1, "{servers:?}");
    for command in ["PAUSE app", "WAIT_CLOSE app"] {
        let waiter = stand.lagoon.console().await;
        let mut waiting = tokio::spawn(async move { waiter.simple_query(command).await.map(drop) });
        let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
        assert!(early.is_err(), "{command}: a transaction is open on a server of before");
        match command {
            "PAUSE app" => waiting.abort(),
            _ => {
                client.simple_query("COMMIT").await.unwrap();
                waiting.await.unwrap().unwrap();
            }
        }
    }
    console.simple_query("PAUSE app").await.unwrap();
    console.simple_query("RESUME app").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM notes").await, "1");
}

/// Every counter, and the counts of histograms, by name and labels.
fn counters(stand: &Stand) -> BTreeMap<String, f64> {
    let metrics = stand.lagoon.http("/metrics").unwrap().body;
    let samples =
        metrics.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    let is_counter = |sample: &str| {
        let name = sample.split('{').next().unwrap_or_default();
        ["_total", "_bucket", "_sum", "_count"].iter().any(|end| name.ends_with(end))
    };
    samples
        .filter(|(sample, _)| is_counter(sample))
        .map(|(sample, count)| (sample.to_owned(), count.parse().unwrap()))
        .collect()
}

/// What a SHOW says of the application's database or user, in one row.
async fn of_app(console: &Client, sql: &str, columns: &[&str]) -> Vec<String> {
    let is_meant = |row: &&BTreeMap<String, String>| {
        [row.get("database"), row.get("name")].contains(&Some(&"app".to_owned()))
    };
    let shown = table(console, sql).await;
    let found: Vec<_> = shown.iter().filter(is_meant).collect();
    assert_eq!(found.len(), 1, "{sql}: {shown:?}");
    columns.iter().map(|column| found[0][*column].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reload_leaves_behind_is_counted_until_it_is_gone_and_counters_go_on() {
    let mut stand = Stand::new(|setup| setup.set("routing", "reads", quote("primary")));
    let addresses = addresses(&stand);
    let (busy, idle, console) = (stand.client().await, stand.client().await, stand.lagoon.console().await);
    let queries = async || of_app(&console, "SHOW STATS", &["total_query_count"]).await.remove(0);
    let open = async || {
        let [pools, databases, users] = [
            of_app(&console, "SHOW POOLS", &["cl_active", "sv_active"]).await,
            of_app(&console, "SHOW DATABASES", &["current_client_connections", "current_connections"]).await,
            of_app(&console, "SHOW USERS", &["current_client_connections", "current_connections"]).await,
        ];
        assert_eq!((&pools, &pools), (&databases, &users));
        let lists = rows(&console, "SHOW LISTS").await;
        let item = |name: &str| lists.iter().find(|row| row[0] == name).expect("it is there")[1].clone();
        assert_eq!((item("pools"), item("used_servers")), ("1".into(), pools[1].clone()));
        (pools[0].clone(), pools[1].clone())
    };
    rows(&idle, "SELECT 1").await;
    rows(&busy, "SELECT 2").await;
    busy.simple_query("BEGIN; INSERT INTO notes (word) VALUES ('x')").await.unwrap();
    let (before, size) = (counters(&stand), of_app(&console, "SHOW POOLS", &["size"]).await);
    assert_eq!(queries().await, "3");
    let changes: [&dyn Fn(Setup) -> Setup; 2] =
        [&|setup| servers(setup, &addresses[..2]), &|setup| setup.set("pool", "mode", quote("session"))];
    for change in changes {
        reload(&mut stand, change).await;
        eventually_async("the idle client has moved", async || open().await == ("2".into(), "1".into()))
            .await;
        assert_eq!(queries().await, "3");
    }
    assert_ne!(of_app(&console, "SHOW POOLS", &["size"]).await, size, "there is a server less");
    rows(&busy, "SELECT 4").await;
    assert_eq!(queries().await, "4");
    busy.simple_query("COMMIT").await.unwrap();
    rows(&idle, "SELECT 6").await;
    eventually_async("the one that was busy has moved", async || queries().await == "6").await;
    rows(&busy, "SELECT 7").await;
    assert_eq!(queries().await, "7");
    assert_eq!(open().await.0, "2");
    let after = counters(&stand);
    let is_less = |(name, count): &(&String, &f64)| after.get(*name).is_none_or(|now| now < *count);
    let of_removed = |name: &str| name.contains(&addresses[2]);
    let gone: Vec<_> = before.iter().filter(is_less).filter(|(name, _)| !of_removed(name)).collect();
    assert!(gone.is_empty(), "{gone:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_a_reload_removes_is_waited_for_and_shown_until_its_transactions_have_ended() {
    for command in ["PAUSE", "WAIT_CLOSE"] {
        let mut stand = Stand::new(|setup| {
            let servers = setup.value("databases.app", "servers").unwrap().to_owned();
            setup.set("databases.other", "servers", servers).set("databases.other", "database", quote("app"))
        });
        let busy = stand.lagoon.connect(&stand.lagoon.url("app", "other")).await.unwrap();
        busy.simple_query("BEGIN; SELECT note('last')").await.unwrap();
        reload(&mut stand, |setup| setup.without("databases.other")).await;
        let console = stand.lagoon.console().await;
        let pools = table(&console, "SHOW POOLS").await;
        let row = pools.iter().find(|row| row["database"] == "other").expect("it is in use");
        assert_eq!((&*row["cl_active"], &*row["sv_active"], &*row["size"]), ("1", "1", "0"));
        let databases = table(&console, "SHOW DATABASES").await;
        let row = databases.iter().find(|row| row["name"] == "other").expect("it is in use");
        assert_eq!((&*row["current_connections"], &*row["disabled"]), ("1", "1"));
        let waiter = stand.lagoon.console().await;
        let mut waiting = tokio::spawn(async move { waiter.simple_query(command).await.map(drop) });
        let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
        assert!(early.is_err(), "{command}: a transaction is open in what was removed");
        busy.simple_query("COMMIT").await.unwrap();
        waiting.await.unwrap().unwrap();
        for show in ["SHOW POOLS", "SHOW DATABASES", "SHOW STATS"] {
            eventually_async("nothing of it is left", async || {
                rows(&console, show).await.iter().all(|row| row[0] != "other")
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_what_a_reload_has_left_behind() {
    let mut stand = Stand::new(|setup| setup);
    let addresses = addresses(&stand);
    let changes: [&dyn Fn(Setup) -> Setup; 2] =
        [&|setup| servers(setup, &addresses[..2]), &|setup| setup.set("pool", "mode", quote("session"))];
    for change in changes {
        let client = stand.client().await;
        client.simple_query("BEGIN; INSERT INTO notes (word) VALUES ('x')").await.unwrap();
        reload(&mut stand, change).await;
        let (console, waiter) = (stand.lagoon.console().await, stand.lagoon.console().await);
        let drain = format!("DRAIN {}", quote(&addresses[0]));
        let mut waiting = tokio::spawn(async move { waiter.simple_query(&drain).await.map(drop) });
        let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
        assert!(early.is_err(), "a transaction is open on that server");
        client.simple_query("COMMIT").await.unwrap();
        waiting.await.unwrap().unwrap();
        rows(&console, &format!("ATTACH {}", quote(&addresses[0]))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_to_servers_that_stay_are_counted_on() {
    let mut stand = Stand::new(|setup| setup);
    let addresses = addresses(&stand);
    let client = stand.client().await;
    let questions = |stand: &Stand| -> f64 {
        let all = counters(stand).into_iter();
        let is_meant = |name: &str| name.contains("position_questions") && !name.contains(&addresses[2]);
        all.filter(|(name, _)| is_meant(name)).map(|(_, count)| count).sum()
    };
    eventually_async("reads hang on positions", async || {
        rows(&client, "SELECT note('written')").await;
        rows(&client, "SELECT count(*) FROM notes").await;
        questions(&stand) >= 100.0
    })
    .await;
    let before = questions(&stand);
    reload(&mut stand, |setup| servers(setup, &addresses[..2])).await;
    assert!(questions(&stand) >= before);
}
