//! Clients that are silent for some seconds sleep: they take less memory, and notice nothing.

use std::time::Duration;

use tokio_postgres::Client;

use crate::harness::{Lagoon, Setup, Stand, eventually, join_all, quote, rows, table, value};
use crate::raw::{Raw, bind, execute, first_column, parse, query, sync};
use crate::reload::{addresses, reload, servers};

/// Longer than any silence before sleep.
const LONG: Duration = Duration::from_secs(20);

fn asleep(lagoon: &Lagoon) -> usize {
    let metrics = lagoon.http("/metrics").expect("it serves HTTP").body;
    let line = metrics.lines().find(|line| line.starts_with("pglagoon_clients_asleep "));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("the metric is there")
}

fn all_sleep(stand: &Stand, count: usize) {
    eventually("they sleep", || asleep(&stand.lagoon) == count);
}

fn trusting(setup: Setup) -> Setup {
    setup.set("auth", "method", quote("trust"))
}

async fn sleepers<const N: usize>(stand: &Stand) -> [Client; N] {
    let clients = join_all((0..N).map(|_| stand.client())).await;
    for client in &clients {
        rows(client, "SELECT 1").await;
    }
    all_sleep(stand, N);
    clients.try_into().unwrap_or_else(|_| panic!("there are {N}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wakes_up_has_all_that_it_had() {
    let stand = Stand::new(|setup| setup);
    let client = stand.client().await;
    rows(&client, "SET work_mem = '3MB'").await;
    rows(&client, "PREPARE seventh AS SELECT word FROM numbers WHERE i = 7").await;
    let prepared = client.prepare("SELECT word FROM numbers WHERE i = $1").await.unwrap();
    rows(&client, "INSERT INTO notes (word) VALUES ('mine')").await;
    for _ in 0..2 {
        all_sleep(&stand, 1);
        assert_eq!(value(&client, "SELECT count(*) FROM notes").await, "1");
        assert_eq!(asleep(&stand.lagoon), 0);
        assert_eq!(value(&client, "SHOW work_mem").await, "3MB");
        assert_eq!(value(&client, "EXECUTE seventh").await, "number 7");
        let row = client.query_one(&prepared, &[&7_i32]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), "number 7");
    }
    all_sleep(&stand, 1);
    drop(client);
    all_sleep(&stand, 0);
    let clients = || stand.lagoon.http("/metrics").unwrap().body.contains("\npglagoon_clients 0\n");
    eventually("it is gone", clients);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_sleeps_and_each_is_woken_for_itself() {
    let stand = Stand::new(|setup| setup);
    let [loud, clients @ ..] = sleepers::<150>(&stand).await;
    rows(&loud, "SELECT 1").await;
    assert_eq!(asleep(&stand.lagoon), 149);
    let all = clients.iter().enumerate().map(async |(number, client)| {
        assert_eq!(value(client, &format!("SELECT {number}")).await, number.to_string());
    });
    join_all(all).await;
    all_sleep(&stand, 150);
    drop(clients);
    all_sleep(&stand, 1);
    assert_eq!(value(&loud, "SELECT 2").await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_in_the_middle_of_something_stays_awake() {
    let stand = Stand::new(trusting);
    let _sleeper = sleepers::<1>(&stand).await;
    let open = stand.client().await;
    open.simple_query("BEGIN").await.unwrap();
    let listener = stand.client().await;
    listener.simple_query("LISTEN news").await.unwrap();
    let pinned = stand.client().await;
    pinned.simple_query("CREATE TEMPORARY TABLE mine (i int)").await.unwrap();
    let mut half = Raw::login(stand.lagoon.port);
    half.query("SELECT 1");
    let whole = query("SELECT 2");
    half.send(&whole[..7]);
    let mut batch = Raw::login(stand.lagoon.port);
    batch.query("SELECT 1");
    batch.send(&parse("", "SELECT 3"));
    // One that came last has slept twice over.
    let late = stand.client().await;
    for _ in 0..2 {
        rows(&late, "SELECT 1").await;
        all_sleep(&stand, 2);
    }
    half.send(&whole[7..]);
    assert_eq!(first_column(&half.until_ready()), ["2"]);
    assert_eq!(first_column(&batch.exchange(&[bind("", "", &[]), execute("", 0), sync()])), ["3"]);
    open.simple_query("COMMIT").await.unwrap();
    assert_eq!(value(&pinned, "SELECT count(*) FROM mine").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_wakes_them() {
    let mut stand = Stand::new(trusting);
    let [victim] = sleepers(&stand).await;
    let mut other = Raw::login(stand.lagoon.port);
    other.query("SELECT 1");
    all_sleep(&stand, 2);
    // Other pools.
    let some = addresses(&stand)[..2].to_vec();
    reload(&mut stand, |setup| servers(setup, &some)).await;
    all_sleep(&stand, 2);
    assert_eq!(first_column(&other.query("SELECT 1")), ["1"]);
    all_sleep(&stand, 2);
    let console = stand.lagoon.console().await;
    let clients = table(&console, "SHOW CLIENTS").await;
    let ids = clients.iter().filter(|client| client["database"] == "app").map(|client| &client["id"]);
    let first = ids.min_by_key(|id| id.parse::<u64>().unwrap()).unwrap();
    console.simple_query(&format!("KILL_CLIENT {first}")).await.unwrap();
    eventually("it is gone", || victim.is_closed());
    all_sleep(&stand, 1);
    drop(console);
    stand.lagoon.signal("TERM");
    assert_eq!(other.until_end().last().map(|message| message.code()).as_deref(), Some("57P01"));
    assert!(stand.lagoon.wait_end(LONG).success());
}

#[tokio::test(flavor = "multi_thread")]
async fn they_go_along_to_the_next_process() {
    let mut stand = Stand::new(|setup| setup);
    let client = stand.client().await;
    rows(&client, "SET work_mem = '3MB'").await;
    all_sleep(&stand, 1);
    stand.lagoon.upgrade();
    assert!(stand.lagoon.wait_end(LONG).success());
    all_sleep(&stand, 1);
    assert_eq!(value(&client, "SHOW work_mem").await, "3MB");
    assert!(stand.lagoon.end_successor());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_limit_ends_their_sleep() {
    let stand = Stand::new(|setup| trusting(setup).set("listen", "client_idle_timeout", quote("8s")));
    let [client, other] = sleepers(&stand).await;
    let mut idle = Raw::login(stand.lagoon.port);
    idle.query("SELECT 1");
    all_sleep(&stand, 3);
    rows(&other, "SELECT 1").await;
    let last = idle.until_end();
    assert_eq!(last.last().map(|message| message.code()).as_deref(), Some("57P05"));
    eventually("so is the first", || client.is_closed());
}
