//! Which replica a read goes to, counted on the replicas.

use pglagoon::cli::playground::Stop;
use tokio_postgres::Client;

use crate::harness::{Setup, Stand, eventually_async, join_all, quote, rows};

/// Reads that nothing binds to a replica.
fn free(setup: Setup) -> Setup {
    setup.set("routing", "consistency", quote("eventual"))
}

async fn read(client: &Client, marker: &str, times: usize) {
    for _ in 0..times {
        rows(client, &format!("SELECT count(*) FROM numbers /* {marker} */")).await;
    }
}

/// The server at this place in the configuration.
fn server(setup: &Setup, place: usize) -> String {
    let servers = setup.value("databases.app", "servers").expect("the harness sets it");
    servers.trim_matches(['[', ']']).split(", ").nth(place).expect("three servers").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_replica_that_answers_sooner_gets_the_reads() {
    let stand = Stand::new(|setup| {
        free(setup).set("routing", "balance", quote("response_time")).set(
            "routing",
            "safe_functions",
            "[\"dawdle\"]",
        )
    });
    let slow = stand.playground.replicas()[1].port();
    let dawdle = format!(
        "SET ROLE app; CREATE FUNCTION dawdle() RETURNS int LANGUAGE plpgsql AS
         'BEGIN IF inet_server_port() = {slow} THEN PERFORM pg_sleep(0.3); END IF; RETURN 1; END'"
    );
    stand.playground.primary().sql(&dawdle).unwrap();
    stand.playground.wait_caught_up().unwrap();
    let clients = join_all((0..4).map(|_| stand.client())).await;
    eventually_async("the function is known, and the slow replica was tried", async || {
        rows(&clients[0], "SELECT dawdle() /* tried */").await;
        stand.ran_on("tried")[2] > 0
    })
    .await;
    join_all(clients.iter().map(async |client| {
        for _ in 0..50 {
            rows(client, "SELECT dawdle() /* hurried */").await;
        }
    }))
    .await;
    let ran_on = stand.ran_on("hurried");
    assert_eq!((ran_on[0], ran_on[1] + ran_on[2]), (0, 200));
    assert!(ran_on[2] <= 40, "{ran_on:?}");
    let metrics = stand.lagoon.http("/metrics").unwrap().body;
    assert_eq!(metrics.matches("pglagoon_replica_response_seconds{").count(), 2, "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn preferred_replicas_get_all_reads_for_as_long_as_one_is_there() {
    let mut stand = Stand::new(|setup| {
        let near = server(&setup, 2);
        free(setup).set("databases.app", "routing.prefer", format!("[{near}]")).set(
            "routing",
            "slow_start",
            quote("off"),
        )
    });
    let client = stand.client().await;
    read(&client, "at-home", 20).await;
    assert_eq!(stand.ran_on("at-home"), [0, 0, 20]);

    stand.playground.node_mut(2).stop(Stop::Fast).unwrap();
    read(&client, "abroad", 20).await;
    assert_eq!(stand.ran_on("abroad"), [0, 20, 0]);

    stand.playground.node_mut(2).start().unwrap();
    eventually_async("reads come home", async || {
        read(&client, "back", 1).await;
        stand.ran_on("back")[2] > 0
    })
    .await;
    read(&client, "at-home-again", 20).await;
    assert_eq!(stand.ran_on("at-home-again"), [0, 0, 20]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_comes_back_starts_slowly() {
    let mut stand = Stand::new(|setup| free(setup).set("routing", "slow_start", quote("1d")));
    let client = stand.client().await;
    read(&client, "before", 40).await;
    let ran_on = stand.ran_on("before");
    assert!(ran_on[1] >= 10 && ran_on[2] >= 10, "who was there at the start is no newcomer: {ran_on:?}");

    stand.playground.node_mut(2).stop(Stop::Fast).unwrap();
    read(&client, "alone", 10).await;
    stand.playground.node_mut(2).start().unwrap();
    eventually_async("the replica is read from again", async || {
        read(&client, "first", 10).await;
        stand.ran_on("first")[2] > 0
    })
    .await;
    let mut turn = 0;
    eventually_async("the monitor has noticed", async || {
        turn += 1;
        read(&client, &format!("noticed-{turn}-"), 40).await;
        stand.ran_on(&format!("noticed-{turn}-"))[2] <= 10
    })
    .await;
    // A twentieth of a half.
    read(&client, "cold", 400).await;
    let ran_on = stand.ran_on("cold");
    assert_eq!((ran_on[0], ran_on[1] + ran_on[2]), (0, 400));
    assert!(ran_on[2] <= 40, "{ran_on:?}");

    stand.lagoon.reconfigure(|setup| setup.set("routing", "slow_start", quote("off")));
    stand.lagoon.signal("HUP");
    let mut turn = 0;
    eventually_async("it has its whole share", async || {
        turn += 1;
        read(&client, &format!("warm-{turn}-"), 40).await;
        stand.ran_on(&format!("warm-{turn}-"))[2] >= 10
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_only_reads_comes_home_in_time() {
    let mut stand = Stand::new(|setup| {
        let near = server(&setup, 2);
        setup.set("databases.app", "routing.prefer", format!("[{near}]")).set(
            "routing",
            "slow_start",
            quote("off"),
        )
    });
    let client = stand.client().await;
    read(&client, "at-home", 5).await;
    assert_eq!(stand.ran_on("at-home"), [0, 0, 5]);
    stand.playground.node_mut(2).stop(Stop::Fast).unwrap();
    read(&client, "abroad", 5).await;
    assert_eq!(stand.ran_on("abroad")[2], 0);
    stand.playground.node_mut(2).start().unwrap();
    // One read of 256 looks around; by then nearly all have.
    for _ in 0..60 {
        read(&client, "homesick", 100).await;
        if stand.ran_on("homesick")[2] > 0 {
            break;
        }
    }
    assert!(stand.ran_on("homesick")[2] > 0);
    read(&client, "home-again", 5).await;
    assert_eq!(stand.ran_on("home-again"), [0, 0, 5]);
    assert_eq!(stand.ran_on("homesick")[0], 0, "nothing of that was the primary's");
}
