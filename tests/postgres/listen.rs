//! LISTEN and NOTIFY: one server connection hears for all, in order, and nothing is lost.

use std::time::Duration;

use crate::harness::{
    Setup, Stand, eventually, eventually_async, explain, installations, join_all, quote, sqlstate, table,
    value,
};
use crate::raw::{Raw, bind, describe_portal, execute, parse, query, sync, tags};
use pglagoon::cli::playground::{DATABASE, USER};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::{AsyncMessage, Client, NoTls};

fn crowded(setup: Setup) -> Setup {
    setup.set("pool", "size", "2").set("pool", "pin_limit", "50").set("routing", "reads", quote("primary"))
}

fn trusting(setup: Setup) -> Setup {
    crowded(setup).set("auth", "method", quote("trust"))
}

/// A client that listens, and what it hears.
struct Listener {
    client: Client,
    heard: UnboundedReceiver<Result<String, String>>,
}

impl Listener {
    async fn new(stand: &Stand, database: &str) -> Listener {
        let url = stand.lagoon.url(USER, database);
        let (client, mut connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        let (tell, heard) = unbounded_channel();
        tokio::spawn(async move {
            loop {
                let told = match std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                    None => return,
                    Some(Ok(AsyncMessage::Notification(note))) => {
                        tell.send(Ok(format!("{}: {}", note.channel(), note.payload())))
                    }
                    Some(Ok(_)) => Ok(()),
                    Some(Err(error)) => {
                        let code = error.as_db_error().map(|error| error.code().code().to_owned());
                        let _ = tell.send(Err(code.unwrap_or_else(|| explain(&error))));
                        return;
                    }
                };
                if told.is_err() {
                    return;
                }
            }
        });
        Listener { client, heard }
    }

    async fn to(stand: &Stand, channel: &str) -> Listener {
        let listener = Self::new(stand, DATABASE).await;
        listener.client.simple_query(&format!("LISTEN {channel}")).await.unwrap();
        listener
    }

    async fn next(&mut self) -> Result<String, String> {
        let next = tokio::time::timeout(Duration::from_secs(20), self.heard.recv());
        next.await.expect("a notification in time").expect("a notification, not the end")
    }

    async fn hears(&mut self, expected: &[String]) {
        for note in expected {
            assert_eq!(self.next().await.as_ref(), Ok(note));
        }
    }
}

fn metric(stand: &Stand, name: &str) -> f64 {
    let metrics = stand.lagoon.http("/metrics").unwrap().body;
    let line = metrics.lines().find(|line| line.starts_with(&format!("{name}{{database=\"app\"}}")));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("{name}:\n{metrics}"))
}

fn shared_connections(stand: &Stand) -> String {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pglagoon listener'";
    stand.playground.primary().sql(sql).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_is_told_at_once_is_told_without_another_request() {
    let stand = Stand::new(crowded);
    let mut listener = Listener::to(&stand, "news").await;
    let notifier = stand.client().await;
    let payload = |number: usize| format!("{number:04}{}", "x".repeat(7_900));
    let notes: Vec<_> = (0..40).map(|number| format!("news: {}", payload(number))).collect();
    let notify: String = (0..40).map(|number| format!("NOTIFY news, '{}';", payload(number))).collect();
    notifier.simple_query(&format!("BEGIN; {notify} COMMIT")).await.unwrap();
    listener.hears(&notes).await;
    // Held back until its transaction ends, and then ahead of whatever it does next.
    listener.client.simple_query("BEGIN; SELECT 1").await.unwrap();
    notifier.simple_query(&format!("BEGIN; {notify} COMMIT")).await.unwrap();
    eventually("all have come to us", || metric(&stand, "pglagoon_listeners") > 0.0);
    listener.client.simple_query(&format!("{notify} COMMIT; UNLISTEN news")).await.unwrap();
    listener.hears(&notes).await;
    listener.hears(&notes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_listeners_cost_one_server_connection_and_hear_everything_in_order() {
    for bin in installations() {
        let stand = Stand::on(&bin, crowded);
        let mut listeners = join_all((0..100).map(|_| Listener::to(&stand, "news"))).await;
        let notifier = stand.client().await;
        let mut expected = Vec::new();
        for number in 0..20 {
            notifier.simple_query(&format!("NOTIFY news, '{number}'")).await.unwrap();
            expected.push(format!("news: {number}"));
        }
        // Those of one transaction keep their order, and one that is rolled back is none.
        notifier.simple_query("BEGIN; NOTIFY news, 'never'; ROLLBACK").await.unwrap();
        notifier.simple_query("BEGIN").await.unwrap();
        for word in ["b", "a", "é"] {
            notifier.execute("SELECT pg_notify('news', $1)", &[&word]).await.unwrap();
            expected.push(format!("news: {word}"));
        }
        notifier.simple_query("COMMIT").await.unwrap();
        join_all(listeners.iter_mut().map(|listener| listener.hears(&expected))).await;
        assert_eq!(shared_connections(&stand), "1");
        assert!(stand.backends(0, "true") <= 2);
        assert_eq!(metric(&stand, "pglagoon_listeners"), 100.0);
        assert_eq!(metric(&stand, "pglagoon_notifications_total"), 2300.0);
        let console = stand.lagoon.console().await;
        let clients = table(&console, "SHOW CLIENTS").await;
        assert!(clients.iter().all(|client| client["held"] == "NULL"), "{clients:?}");
        let databases = table(&console, "SHOW DATABASES").await;
        assert!(databases.iter().any(|row| row["listeners"] == "100"), "{databases:?}");
        drop(listeners);
        eventually("those who are gone do not listen", || metric(&stand, "pglagoon_listeners") == 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_told_that_it_listens_misses_nothing() {
    let stand = Stand::new(crowded);
    let notifier = stand.client().await;
    // A channel's first listener, again and again.
    let mut listener = Listener::new(&stand, DATABASE).await;
    for number in 0..30 {
        listener.client.simple_query(&format!("LISTEN c{number}")).await.unwrap();
        notifier.simple_query(&format!("NOTIFY c{number}")).await.unwrap();
        listener.hears(&[format!("c{number}: ")]).await;
        listener.client.simple_query(&format!("UNLISTEN c{number}")).await.unwrap();
    }
    // Many, that come and go while somebody notifies all the time.
    let stream = async {
        for number in 0..400 {
            notifier.simple_query(&format!("NOTIFY stream, '{number}'")).await.unwrap();
        }
    };
    let listen = async |place: u64| {
        let mut listener = Listener::new(&stand, DATABASE).await;
        for round in 0..5 {
            listener.client.simple_query("LISTEN stream").await.unwrap();
            let mut last: Option<u32> = None;
            for _ in 0..10 + place + round {
                // The stream may be over.
                let next = tokio::time::timeout(Duration::from_secs(1), listener.next()).await;
                let Ok(Ok(note)) = next else { return };
                let number = note.strip_prefix("stream: ").unwrap().parse().unwrap();
                assert!(last.is_none_or(|last| number == last + 1), "{number} after {last:?}");
                last = Some(number);
            }
            listener.client.simple_query("UNLISTEN *").await.unwrap();
            while listener.heard.try_recv().is_ok() {}
        }
    };
    tokio::join!(stream, join_all((0..8).map(listen)));
}

#[test]
fn notifications_come_between_transactions() {
    for bin in installations() {
        let stand = Stand::on(&bin, trusting);
        let (mut client, mut notifier) = (Raw::login(stand.lagoon.port), Raw::login(stand.lagoon.port));
        assert_eq!(tags(&client.query("LISTEN news")), "C Z");
        // Idle: at once.
        notifier.query("NOTIFY news, 'idle'");
        assert_eq!(client.read().tag, 'A');
        // In a transaction: when it is over.
        client.query("BEGIN");
        notifier.query("NOTIFY news, 'held back'");
        client.assert_silent(Duration::from_millis(300));
        assert_eq!(tags(&client.query("SELECT 1")), "T D C Z");
        // As with a server: ahead of the ReadyForQuery, so that who reads so far has heard it.
        assert_eq!(tags(&client.query("COMMIT")), "C A Z");
        // Its own, too, however late the shared connection hears of it.
        for _ in 0..50 {
            assert_eq!(tags(&client.query("NOTIFY news, 'own'")), "C A Z");
            assert_eq!(tags(&client.query("SELECT pg_notify('news', 'own')")), "T D C A Z");
        }
        // The extended protocol answers as a server does.
        let batch =
            [parse("", "LISTEN more"), bind("", "", &[]), describe_portal(""), execute("", 0), sync()];
        assert_eq!(tags(&client.exchange(&batch)), "1 2 n C Z");
        notifier.query("NOTIFY more");
        assert_eq!(client.read().tag, 'A');
        // What was committed before an UNLISTEN is heard, however late the shared connection hears of it.
        for turn in 0..50 {
            client.query("LISTEN news");
            notifier.query(&format!("NOTIFY news, '{turn}'"));
            let last = client.query(["UNLISTEN news", "UNLISTEN *"][turn % 2]);
            assert_eq!(tags(&last), "A C Z");
        }
        client.query("UNLISTEN *");
        notifier.query("NOTIFY more");
        client.assert_silent(Duration::from_millis(300));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_listens_is_told_when_something_may_be_missed() {
    let mut stand = Stand::new(crowded);
    let bystander = stand.client().await;
    let mut idle = Listener::to(&stand, "news").await;
    let mut busy = Listener::to(&stand, "news").await;
    busy.client.simple_query("BEGIN; SELECT note('kept')").await.unwrap();
    let kill =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pglagoon listener'";
    stand.playground.primary().sql(kill).unwrap();
    assert_eq!(idle.next().await, Err("57P01".into()));
    // What runs may end.
    busy.client.simple_query("COMMIT").await.unwrap();
    assert_eq!(busy.next().await, Err("57P01".into()));
    assert_eq!(value(&bystander, "SELECT count(*) FROM notes").await, "1");
    let mut again = Listener::to(&stand, "news").await;
    bystander.simple_query("NOTIFY news, 'again'").await.unwrap();
    again.hears(&["news: again".into()]).await;
    // Who moves to a section's new servers hears there, and is told nothing because nothing was missed.
    let primary = quote(&stand.playground.primary().address());
    stand.lagoon.reconfigure(|setup| setup.set("databases.app", "servers", format!("[{primary}]")));
    stand.lagoon.signal("HUP");
    eventually("it is reloaded", || stand.lagoon.log().contains("databases reconnected: app"));
    bystander.simple_query("NOTIFY news, 'moved'").await.unwrap();
    again.hears(&["news: moved".into()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_database_has_its_own_channels() {
    let options = |setup: Setup| {
        let servers = setup.value("databases.app", "servers").unwrap().to_owned();
        crowded(setup).set("databases.other", "servers", servers)
    };
    let stand = Stand::new(options);
    stand.playground.primary().sql("CREATE DATABASE other OWNER app").unwrap();
    let mut here = Listener::to(&stand, "news").await;
    let mut there = Listener::new(&stand, "other").await;
    there.client.simple_query("LISTEN news").await.unwrap();
    there.client.simple_query("NOTIFY news, 'there'").await.unwrap();
    here.client.simple_query("NOTIFY news, 'here'").await.unwrap();
    here.hears(&["news: here".into()]).await;
    there.hears(&["news: there".into()]).await;
    assert_eq!(shared_connections(&stand), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_shared_pins_and_nobody_hears_twice() {
    let stand = Stand::new(|setup| crowded(setup).set("pool", "size", "4"));
    let notifier = stand.client().await;
    let console = stand.lagoon.console().await;
    let pinned = async || {
        let clients = table(&console, "SHOW CLIENTS").await;
        clients.iter().filter(|client| client["held"] == "listen").count()
    };
    let mut latin = Listener::new(&stand, DATABASE).await;
    latin.client.simple_query("SET client_encoding = 'LATIN1'").await.unwrap();
    latin.client.simple_query("LISTEN news").await.unwrap();
    eventually_async("another encoding pins", async || pinned().await == 1).await;
    let mut both = Listener::to(&stand, "news").await;
    assert_eq!(pinned().await, 1);
    both.client.simple_query("BEGIN; LISTEN news; LISTEN more; COMMIT").await.unwrap();
    eventually_async("LISTEN in a transaction pins", async || pinned().await == 2).await;
    let (code, _) = sqlstate(notifier.simple_query("BEGIN; LISTEN news; COMMIT").await);
    assert_eq!(code, "53300");
    let mut third = Listener::to(&stand, "news").await;
    notifier.simple_query("NOTIFY news, 'once'; NOTIFY more, 'once'").await.unwrap();
    latin.hears(&["news: once".into()]).await;
    third.hears(&["news: once".into()]).await;
    let mut heard = [both.next().await.unwrap(), both.next().await.unwrap()];
    heard.sort();
    assert_eq!(heard, ["more: once", "news: once"]);
    // What asyncpg's pool sends when it takes a connection back.
    let routine = "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;";
    for listener in [&both, &third] {
        listener.client.simple_query(routine).await.unwrap();
    }
    eventually("UNLISTEN among others counts", || metric(&stand, "pglagoon_listeners") == 0.0);
    eventually_async("and ends the pin", async || pinned().await == 1).await;
    notifier.simple_query("NOTIFY news, 'twice'").await.unwrap();
    latin.hears(&["news: twice".into()]).await;
    assert!(both.heard.try_recv().is_err() && third.heard.try_recv().is_err());
}

#[test]
fn what_a_listener_can_pile_up_is_limited() {
    let stand = Stand::new(trusting);
    let mut client = Raw::login(stand.lagoon.port);
    for channel in 0..1000 {
        client.send(&query(&format!("LISTEN c{channel}")));
    }
    (0..1000).for_each(|_| drop(client.until_ready()));
    let refused = client.query("LISTEN beyond");
    assert_eq!((tags(&refused).as_str(), refused[0].code().as_str()), ("E Z", "54000"));
    assert_eq!(tags(&client.query("LISTEN c5")), "C Z");
    client.query("BEGIN");
    let mut notifier = Raw::login(stand.lagoon.port);
    let pile = "SELECT pg_notify('c' || i % 1000, repeat('x', 7900) || i) FROM generate_series(1, 1200) i";
    assert_eq!(notifier.query(pile).last().unwrap().status(), 'I');
    // Behind those, so that all have been given out.
    let mut last =
        Raw::login_with(stand.lagoon.port, crate::raw::V3_0, &[("user", USER), ("database", DATABASE)]);
    last.query("LISTEN c1");
    notifier.query("NOTIFY c1, 'last'");
    while !last.read().body.ends_with(b"last\0") {}
    client.send(&query("COMMIT"));
    let end = client.until_end();
    assert_eq!(tags(&end), "C Z E");
    assert_eq!(end.last().unwrap().code(), "54000");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_notified_reads_what_the_notification_is_about() {
    let stand = Stand::new(|setup| setup.set("routing", "consistency", quote("session")));
    let mut listener = Listener::to(&stand, "news").await;
    let writer = stand.client().await;
    let read = "SELECT count(*) FROM notes /* told */";
    assert_eq!(value(&listener.client, read).await, "0");
    assert_eq!(stand.ran_on("told")[0], 0);
    for replica in stand.playground.replicas() {
        replica.pause_replay().unwrap();
    }
    let text = "BEGIN; INSERT INTO notes (word) VALUES ('x'); NOTIFY news, 'written'; COMMIT";
    writer.simple_query(text).await.unwrap();
    listener.hears(&["news: written".into()]).await;
    assert_eq!(value(&listener.client, read).await, "1");
}
