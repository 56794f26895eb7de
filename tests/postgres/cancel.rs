//! Cancel requests: they reach the query of the client whose key they carry, and no other.

use std::time::Duration;

use tokio_postgres::NoTls;

use crate::harness::{Stand, eventually, join_all, quote, rows, sqlstate, value};
use crate::raw::{Raw, V3_2, cancel_request, first_column, query, tags};

#[tokio::test(flavor = "multi_thread")]
async fn a_running_query_is_cancelled_on_the_primary_and_on_a_replica() {
    let stand = Stand::new(|setup| setup);
    for sql in ["SELECT note('c'), pg_sleep(600)", "SELECT count(*) FROM pg_sleep(600)"] {
        let client = stand.client().await;
        let token = client.cancel_token();
        let running = client.simple_query(sql);
        let cancelling = async {
            eventually("the query runs", || {
                (0..3).any(|place| stand.backends(place, "state = 'active'") > 0)
            });
            token.cancel_query(NoTls).await.unwrap();
        };
        let (answer, ()) = tokio::join!(running, cancelling);
        assert_eq!(sqlstate(answer).0, "57014");
        rows(&client, "SELECT 1").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_cancel_does_not_hit_the_next_client_on_the_same_server_connection() {
    let stand = Stand::new(|setup| setup.set("pool", "size", "1").set("routing", "reads", quote("primary")));
    let (first, second) = (stand.client().await, stand.client().await);
    for _ in 0..10 {
        rows(&first, "SELECT 1").await;
        let token = first.cancel_token();
        let running = second.simple_query("SELECT pg_sleep(0.1)");
        let cancelling = async {
            eventually("the second client's query runs", || stand.backends(0, "state = 'active'") == 1);
            token.cancel_query(NoTls).await.unwrap();
        };
        let (answer, ()) = tokio::join!(running, cancelling);
        answer.expect("the cancel was the other client's");
    }
}

#[test]
fn who_waits_until_a_cancel_request_is_closed_is_not_hit_by_it_later() {
    let stand = Stand::new(|setup| setup.set("auth", "method", quote("trust")));
    let mut client = Raw::login(stand.lagoon.port);
    client.query("BEGIN; SELECT note('keeps its server connection')");
    for turn in 0..50 {
        // What it wants to cancel is over already.
        cancel_and_wait(&stand, &client);
        let answer = client.query("SELECT pg_sleep(0.01)");
        assert_eq!(tags(&answer), "T D C Z", "turn {turn}: {answer:?}");
    }
}

/// As libpq does: until the request's connection is closed.
fn cancel_and_wait(stand: &Stand, client: &Raw) {
    let (pid, secret) = client.key.as_ref().expect("a key came with the login");
    let mut canceller = Raw::connect(stand.lagoon.port);
    canceller.send(&cancel_request(*pid, secret));
    assert_eq!(canceller.until_end(), []);
}

/// Its server connection has to be prepared for what it asks: the request waits until that is done.
#[test]
fn nor_is_who_waits_by_one_that_had_to_wait_itself() {
    let stand = Stand::new(|setup| {
        let one = setup.set("auth", "method", quote("trust")).set("pool", "size", "1");
        one.set("routing", "reads", quote("primary"))
    });
    let mut clients = ["A", "B"].map(|name| {
        let mut client = Raw::login(stand.lagoon.port);
        client.query(&format!("SET search_path = '{name}', public; SET application_name = '{name}'"));
        client
    });
    for turn in 0..60 {
        let client = &mut clients[turn % 2];
        client.query("BEGIN");
        client.send(&query("SELECT 1"));
        cancel_and_wait(&stand, client);
        if tags(&client.until_ready()) == "T D C Z" {
            let answer = client.query("SELECT pg_sleep(0.01)");
            assert_eq!(tags(&answer), "T D C Z", "turn {turn}: {answer:?}");
        }
        client.query("ROLLBACK");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_cancels_never_hits_a_neighbour() {
    let stand = Stand::new(|setup| setup.set("pool", "size", "2").set("routing", "reads", quote("primary")));
    let victims = join_all((0..4).map(|_| stand.client())).await;
    let bystanders = join_all((0..4).map(|_| stand.client())).await;
    let cancelled = join_all(victims.iter().map(async |client| {
        for turn in 0..40_u64 {
            let token = client.cancel_token();
            // From "before it has a server connection" to "after it gave that back".
            let cancelling = async {
                tokio::time::sleep(Duration::from_micros(turn * 137)).await;
                let _ = token.cancel_query(NoTls).await;
            };
            let (answer, ()) = tokio::join!(client.simple_query("SELECT pg_sleep(0.002)"), cancelling);
            if answer.is_err() {
                assert_eq!(sqlstate(answer).0, "57014");
            }
        }
    }));
    let undisturbed = join_all(bystanders.iter().map(async |client| {
        for _ in 0..80 {
            client.simple_query("SELECT pg_sleep(0.001)").await.expect("nobody cancelled this");
        }
    }));
    tokio::join!(cancelled, undisturbed);
    // Nothing late hits what comes after; a victim's own late cancel may hit itself, as on a server.
    for client in &bystanders {
        rows(client, "SELECT pg_sleep(0.01)").await;
    }
}

#[test]
fn a_guessed_key_cancels_nothing() {
    let stand = Stand::new(|setup| setup.set("auth", "method", quote("trust")));
    let mut client = Raw::login(stand.lagoon.port);
    let (pid, secret) = client.key.clone().expect("a key came with the login");
    assert_eq!(secret.len(), 4, "protocol 3.0 has keys of four bytes");
    client.send(&query("SELECT 'undisturbed' FROM pg_sleep(1)"));
    eventually("the query runs", || (0..3).any(|place| stand.backends(place, "state = 'active'") > 0));

    let mut wrong = secret.clone();
    wrong[0] ^= 1;
    let attempts: [(u32, &[u8]); 5] =
        [(pid, &wrong), (pid ^ 1, &secret), (pid, &secret[..3]), (pid, &[]), (0, &[0; 256])];
    for (pid, secret) in attempts {
        let mut attacker = Raw::connect(stand.lagoon.port);
        attacker.send(&cancel_request(pid, secret));
        // A request of a wrong length may be told so; no other is answered.
        let answer = attacker.until_end();
        assert!(answer.is_empty() || secret.len() < 4, "{answer:?}");
    }
    // Nor do the servers' own keys work from outside: they are not the clients'.
    assert_eq!(first_column(&client.until_ready()), ["undisturbed"]);
}

#[test]
fn a_client_of_protocol_3_2_can_cancel_with_its_longer_key() {
    let stand = Stand::new(|setup| setup.set("auth", "method", quote("trust")));
    let mut client = Raw::login_with(stand.lagoon.port, V3_2, &[("user", "app"), ("database", "app")]);
    let (pid, secret) = client.key.clone().expect("a key came with the login");
    assert!((4..=256).contains(&secret.len()), "{}", secret.len());
    client.send(&query("SELECT pg_sleep(600)"));
    eventually("the query runs", || (0..3).any(|place| stand.backends(place, "state = 'active'") > 0));
    let mut canceller = Raw::connect(stand.lagoon.port);
    canceller.send(&cancel_request(pid, &secret));
    assert_eq!(canceller.until_end(), []);
    let answer = client.until_ready();
    assert!(answer.iter().any(|message| message.tag == 'E' && message.code() == "57014"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_a_server_connection_can_cancel_its_waiting() {
    let stand = Stand::new(|setup| {
        setup.set("pool", "size", "1").set("pool", "checkout_timeout", quote("60s")).set(
            "routing",
            "reads",
            quote("primary"),
        )
    });
    let (holder, waiter) = (stand.client().await, stand.client().await);
    holder.simple_query("BEGIN; SELECT note('held')").await.unwrap();
    let token = waiter.cancel_token();
    let cancelling = async {
        eventually("the client waits", || {
            stand.lagoon.http("/metrics").is_some_and(|answer| answer.body.contains("waiting"))
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        token.cancel_query(NoTls).await.unwrap();
    };
    let waiting = tokio::time::timeout(Duration::from_secs(10), waiter.simple_query("SELECT note('waits')"));
    let (answer, ()) = tokio::join!(waiting, cancelling);
    assert_eq!(sqlstate(answer.expect("the waiting ends")).0, "57014");
    assert_eq!(value(&holder, "SELECT count(*) FROM notes").await, "1");
    holder.simple_query("COMMIT").await.unwrap();
    rows(&waiter, "SELECT note('served')").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_cancels_never_hits_what_prepares_a_connection() {
    let stand = Stand::new(|setup| setup.set("pool", "size", "1").set("routing", "reads", quote("primary")));
    let clients = join_all((0..3).map(|_| stand.client())).await;
    for (number, client) in clients.iter().enumerate() {
        // Put back at each turn, because another client has had the connection meanwhile.
        client.simple_query(&format!("SET work_mem = '{}MB'", 10 + number)).await.unwrap();
        client.simple_query(&format!("SET app.number = '{number}'")).await.unwrap();
        // So many that it takes its time.
        let many: String = (0..180).map(|n| format!("SET app.s{n} = '{number} {n}';")).collect();
        client.simple_query(&many).await.unwrap();
    }
    join_all(clients.iter().enumerate().map(async |(number, client)| {
        for turn in 0..80_u64 {
            let token = client.cancel_token();
            let cancelling = async {
                tokio::time::sleep(Duration::from_micros(turn * 97 % 4000)).await;
                let _ = token.cancel_query(NoTls).await;
            };
            let sql = "SELECT current_setting('work_mem') || ' ' || current_setting('app.number')";
            match tokio::join!(client.simple_query(sql), cancelling).0 {
                Ok(messages) => {
                    let row = messages.iter().find_map(|message| match message {
                        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
                        _ => None,
                    });
                    assert_eq!(row, Some(format!("{}MB {number}", 10 + number).as_str()));
                }
                Err(error) => assert_eq!(error.code().map(|code| code.code()), Some("57014"), "{error:?}"),
            }
        }
    }))
    .await;
}
