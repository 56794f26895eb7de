//! SWITCHOVER: the primary moves by plan, and clients wait meanwhile.

use std::time::{Duration, Instant};

use pglagoon::cli::playground::Stop;
use tokio_postgres::Client;

use crate::harness::{Stand, eventually_async, quote, rows, sqlstate, table, value};
use crate::reload::{Crowd, addresses, reload, servers};

async fn shown(console: &Client) -> String {
    table(console, "SHOW DATABASES").await.remove(0).remove("switchover").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_wait_for_the_promotion_and_go_on_at_the_new_primary() {
    // Shorter than the switchover takes: how long clients are held for it does not count.
    let mut stand = Stand::new(|setup| setup.set("pool", "checkout_timeout", quote("3s")));
    let target = stand.playground.nodes()[1].address();
    let console = stand.lagoon.console().await;
    let watcher = stand.lagoon.console().await;
    let crowd = Crowd::start(&stand, 12).await;
    crowd.rounds(20);
    let order = format!("SWITCHOVER app TO {target} TIMEOUT 60");
    let switching = tokio::spawn(async move { rows(&console, &order).await });
    let ready = format!("{target}: waiting for its promotion");
    eventually_async("nothing runs any more", async || shown(&watcher).await == ready).await;
    stand.playground.wait_caught_up().unwrap();
    stand.playground.node_mut(0).stop(Stop::Fast).unwrap();
    // Clients are held for longer than they would have waited in a queue.
    tokio::time::sleep(Duration::from_secs(4)).await;
    stand.playground.nodes()[1].promote().unwrap();
    switching.await.unwrap();
    crowd.rounds(20);
    crowd.finish().await;
    assert_eq!(shown(&watcher).await, "NULL");
    assert_eq!(stand.playground.nodes()[1].sql("SELECT count(*) > 0 FROM acks").unwrap(), "t\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_promotion_clients_go_on_where_they_were() {
    let stand = Stand::new(|setup| setup);
    let console = stand.lagoon.console().await;
    let client = stand.client().await;
    let order = |rest: &str| format!("SWITCHOVER app TO {rest}");
    let replica = stand.playground.nodes()[1].address();
    let primary = stand.playground.primary().address();
    let refused = async |sql: String| sqlstate(console.simple_query(&sql).await).0;
    assert_eq!(refused(order(&primary)).await, "55000");
    assert_eq!(refused(order("127.0.0.1:1")).await, "42704");

    let began = Instant::now();
    let held = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        value(&client, "SELECT note('held')").await
    });
    let (code, text) = sqlstate(console.simple_query(&order(&format!("{replica} TIMEOUT 500ms"))).await);
    assert_eq!(code, "57P03");
    assert!(text.contains("was not promoted within 500ms") && text.contains(&primary), "{text}");
    assert_eq!(held.await.unwrap(), "held");
    assert!(began.elapsed() >= Duration::from_millis(500));

    // A transaction that does not end.
    let busy = stand.client().await;
    busy.simple_query("BEGIN; SELECT note('open')").await.unwrap();
    let (code, text) = sqlstate(console.simple_query(&order(&format!("{replica} TIMEOUT 300ms"))).await);
    assert_eq!(code, "57P03");
    assert!(text.contains("transactions did not end within 300ms"), "{text}");
    busy.simple_query("COMMIT").await.unwrap();

    // An operator who thinks better of it.
    let other = stand.lagoon.console().await;
    let sql = order(&format!("{replica} TIMEOUT 60"));
    let switching = tokio::spawn(async move { sqlstate(other.simple_query(&sql).await) });
    while shown(&console).await == "NULL" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(refused(order(&replica)).await, "55000");
    rows(&console, "RESUME app").await;
    assert!(switching.await.unwrap().1.contains("RESUME"));
    assert_eq!(stand.playground.primary().sql("SELECT count(*) FROM notes").unwrap().trim(), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_a_transaction_that_a_reload_has_left_behind() {
    let mut stand = Stand::new(|setup| setup);
    let addresses = addresses(&stand);
    let busy = stand.client().await;
    busy.simple_query("BEGIN; SELECT note('open')").await.unwrap();
    reload(&mut stand, |setup| servers(setup, &addresses[..2])).await;
    let (console, watcher) = (stand.lagoon.console().await, stand.lagoon.console().await);
    let order = format!("SWITCHOVER app TO {} TIMEOUT 60", addresses[1]);
    let switching = tokio::spawn(async move { sqlstate(console.simple_query(&order).await) });
    eventually_async("it has begun", async || shown(&watcher).await != "NULL").await;
    let early = tokio::time::timeout(Duration::from_millis(300), async {
        while shown(&watcher).await.ends_with("transactions are ending") {}
    });
    assert!(early.await.is_err(), "a transaction is open on a server of before: {}", shown(&watcher).await);
    busy.simple_query("COMMIT").await.unwrap();
    let ready = format!("{}: waiting for its promotion", addresses[1]);
    eventually_async("nothing runs any more", async || shown(&watcher).await == ready).await;
    rows(&watcher, "RESUME app").await;
    assert!(switching.await.unwrap().1.contains("RESUME"));
    assert_eq!(value(&busy, "SELECT count(*) FROM notes").await, "1");
}
