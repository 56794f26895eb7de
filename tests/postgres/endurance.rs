//! What must not take the service down: greedy clients, changed configurations, a monitor that is not let in.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pglagoon::cli::playground::free_port;

use crate::harness::{Stand, eventually, eventually_async, quote, rows, value};
use crate::raw::Raw;

/// What the kernel's buffers on both sides may take, and a good deal more.
const FAR_TOO_MUCH: usize = 64 * 1024 * 1024;

#[test]
fn a_client_that_asks_for_ever_and_never_reads_is_not_listened_to() {
    let stand = Stand::new(|setup| setup.set("auth", "method", quote("trust")));
    let mut client = Raw::login(stand.lagoon.port);
    // Each is answered with six bytes, and no server is asked.
    let syncs = b"S\0\0\0\x04".repeat(64 * 1024);
    // Far longer than it takes to read as much as the kernel holds.
    client.limit_writes(Duration::from_secs(4));
    let mut taken = 0;
    while taken < FAR_TOO_MUCH && client.try_send(&syncs).is_ok() {
        taken += syncs.len();
    }
    assert!(taken < FAR_TOO_MUCH, "{taken} bytes of requests were taken and no answer was read");
    assert!(Raw::login(stand.lagoon.port).key.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_section_that_a_reload_changes_go_on() {
    let mut stand = Stand::new(|setup| setup);
    let (old, waiting) = (stand.client().await, stand.client().await);
    old.simple_query("BEGIN; SELECT note('before')").await.unwrap();
    let primary = quote(&stand.playground.primary().address());
    stand.lagoon.reconfigure(|setup| setup.set("databases.app", "servers", format!("[{primary}]")));
    stand.lagoon.signal("HUP");
    eventually("it is reloaded", || stand.lagoon.log().contains("configuration reloaded"));
    // A transaction that runs ends as it would.
    old.simple_query("SELECT note('during'); COMMIT").await.unwrap();
    for client in [old, waiting] {
        let answer =
            tokio::time::timeout(Duration::from_secs(2), client.simple_query("SELECT note('after')"));
        answer.await.expect("nobody waits for pools that are no more").unwrap();
    }
    let new = stand.client().await;
    assert_eq!(value(&new, "SELECT count(*) FROM notes").await, "4");
}

/// A second pglagoon, which is not ready when it starts.
struct Unready(Child);

impl Drop for Unready {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_that_is_not_let_in_keeps_nobody_out() {
    let stand = Stand::new(|setup| setup);
    let port = free_port().unwrap();
    let servers: Vec<String> = stand.playground.nodes().iter().map(|node| quote(&node.address())).collect();
    let text = format!(
        "[listen]\naddress = \"127.0.0.1:{port}\"\nworkers = 2\n[auth]\nmethod = \"scram-sha-256\"\n\
         [users.app]\npassword = \"secret\"\n[monitor]\nuser = \"postgres\"\npassword = \"wrong\"\n\
         [databases.app]\nservers = [{}]\n",
        servers.join(", ")
    );
    let file = stand.playground.folder().join("refused.toml");
    fs::write(&file, text).unwrap();
    let pglagoon = Command::new(env!("CARGO_BIN_EXE_pglagoon"))
        .args(["serve", "--config"])
        .arg(&file)
        .current_dir(stand.playground.folder())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _unready = Unready(pglagoon);
    let url = format!("host=127.0.0.1 port={port} user=app password=secret dbname=app");
    eventually_async("a client is let in", async || {
        let Ok(client) = stand.lagoon.connect(&url).await else { return false };
        // The roles are found out with what this client brought.
        rows(&client, "SELECT note('written')").await;
        true
    })
    .await;
    eventually_async("reads go to replicas", async || {
        let client = stand.lagoon.connect(&url).await.unwrap();
        rows(&client, "SELECT count(*) FROM numbers /* unmonitored */").await;
        stand.ran_on("unmonitored")[1..].iter().any(|count| *count > 0)
    })
    .await;
}
