//! Starting, reloading, draining, ending; and the other subcommands.

use std::fs;
use std::net::TcpStream;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::harness::{Stand, eventually, eventually_async, quote, rows, value};
use crate::raw::Raw;

fn pglagoon(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pglagoon")).args(arguments).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_transactions_end_takes_no_new_clients_and_exits_with_success() {
    let mut stand = Stand::new(|setup| setup);
    let (busy, idle) = (stand.client().await, stand.client().await);
    rows(&idle, "SELECT 1").await;
    busy.simple_query("BEGIN; SELECT note('before')").await.unwrap();

    stand.lagoon.signal("TERM");
    eventually("no new clients are taken", || TcpStream::connect(("127.0.0.1", stand.lagoon.port)).is_err());
    assert!(stand.lagoon.has_ended().is_none(), "a transaction is running");
    busy.simple_query("INSERT INTO notes (word) VALUES ('during')").await.unwrap();
    busy.simple_query("COMMIT").await.unwrap();

    assert!(stand.lagoon.wait_end(Duration::from_secs(10)).success());
    assert_eq!(stand.playground.primary().sql("SELECT count(*) FROM notes").unwrap(), "2\n");
    assert!(idle.simple_query("SELECT 1").await.is_err());
    eventually("no server connection is left", || (0..3).all(|place| stand.backends(place, "true") == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_runs_at_sigterm_gets_its_answer() {
    let mut stand = Stand::new(|setup| setup);
    let client = stand.client().await;
    let running = tokio::spawn(async move { value(&client, "SELECT 'done' FROM pg_sleep(1)").await });
    eventually("the query runs", || (0..3).any(|place| stand.backends(place, "state = 'active'") > 0));
    stand.lagoon.signal("TERM");
    assert_eq!(running.await.unwrap(), "done");
    assert!(stand.lagoon.wait_end(Duration::from_secs(10)).success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() {
    let mut stand = Stand::new(|setup| setup);
    let busy = stand.client().await;
    busy.simple_query("BEGIN; SELECT note('never')").await.unwrap();
    stand.lagoon.signal("TERM");
    eventually("no new clients are taken", || TcpStream::connect(("127.0.0.1", stand.lagoon.port)).is_err());
    stand.lagoon.signal("TERM");
    stand.lagoon.wait_end(Duration::from_secs(3));
    eventually("the transaction is rolled back", || stand.backends(0, "true") == 0);
    assert_eq!(stand.playground.primary().sql("SELECT count(*) FROM notes").unwrap(), "0\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigquit_ends_at_once_and_says_so() {
    let mut stand = Stand::new(|setup| setup.set("auth", "method", quote("trust")));
    let mut busy = Raw::login(stand.lagoon.port);
    busy.query("BEGIN; SELECT note('never')");
    stand.lagoon.signal("QUIT");
    assert!(stand.lagoon.wait_end(Duration::from_secs(5)).success());
    let last = busy.try_read().unwrap().expect("a word of farewell");
    assert_eq!((last.tag, &*last.code()), ('E', "57P01"));
    eventually("the transaction is rolled back", || stand.backends(0, "true") == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_does_not_wait_longer_than_it_is_told() {
    let mut stand = Stand::new(|setup| setup.set("", "drain_timeout", quote("500ms")));
    let busy = stand.client().await;
    busy.simple_query("BEGIN; SELECT note('never')").await.unwrap();
    let began = Instant::now();
    stand.lagoon.signal("TERM");
    stand.lagoon.wait_end(Duration::from_secs(5));
    assert!(began.elapsed() >= Duration::from_millis(400));
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reloads_and_keeps_the_old_settings_if_the_file_is_broken() {
    let mut stand = Stand::new(|setup| setup);
    let client = stand.client().await;
    rows(&client, "SELECT 1").await;

    stand.lagoon.reconfigure(|setup| setup.set("pool", "size", "\"many\""));
    stand.lagoon.signal("HUP");
    eventually("the log names the key", || stand.lagoon.log().contains("pool.size"));
    rows(&client, "SELECT note('still')").await;

    stand
        .lagoon
        .reconfigure(|setup| setup.set("pool", "size", "4").set("users.late", "password", quote("secret")));
    stand.lagoon.signal("HUP");
    let lagoon = &stand.lagoon;
    stand.playground.primary().sql("CREATE ROLE late LOGIN PASSWORD 'secret'").unwrap();
    stand.playground.wait_caught_up().unwrap();
    eventually_async("the new user may come in", async || {
        lagoon.connect(&lagoon.url("late", "app")).await.is_ok()
    })
    .await;
    rows(&client, "SELECT note('still')").await;
}

#[test]
fn check_says_whether_a_file_is_good_and_which_key_is_not() {
    let stand = Stand::new(|setup| setup);
    let file = stand.lagoon.config_path();
    let good = pglagoon(&["check", "--config", file.to_str().unwrap()]);
    assert!(good.status.success(), "{good:?}");

    for (section, key, value) in [
        ("pool", "size", "0"),
        ("pool", "mode", "\"both\""),
        ("routing", "sticky_window", "\"5 parsecs\""),
        ("listen", "adress", "\"127.0.0.1:1\""),
        ("databases.app", "servers", "[]"),
    ] {
        let text = fs::read_to_string(&file).unwrap();
        let broken = stand.playground.folder().join("broken.toml");
        let heading = format!("[{section}]\n");
        let without: String = text
            .lines()
            .filter(|line| !(line.starts_with(&format!("{key} ="))))
            .map(|line| format!("{line}\n"))
            .collect();
        fs::write(&broken, without.replace(&heading, &format!("{heading}{key} = {value}\n"))).unwrap();
        let said = pglagoon(&["check", "--config", broken.to_str().unwrap()]);
        assert_eq!(said.status.code(), Some(1), "{section}.{key} = {value}: {said:?}");
        let text = [said.stdout, said.stderr].concat();
        assert!(
            String::from_utf8_lossy(&text).contains(key),
            "{section}.{key}: {}",
            String::from_utf8_lossy(&text)
        );
    }
    assert_eq!(pglagoon(&["check", "--config", "/nonexistent/pglagoon.toml"]).status.code(), Some(1));
}

#[test]
fn a_broken_file_does_not_start() {
    let stand = Stand::new(|setup| setup);
    let broken = stand.playground.folder().join("broken.toml");
    fs::write(&broken, "[pool]\nsize = \"many\"\n").unwrap();
    let said = pglagoon(&["serve", "--config", broken.to_str().unwrap()]);
    assert!(!said.status.success());
    assert!(String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).contains("pool.size"));
}

#[test]
fn who_cannot_listen_names_the_key_the_place_and_the_reason() {
    let stand = Stand::new(|setup| setup);
    let (port, http) = (stand.lagoon.port, stand.lagoon.http_port);
    let file = stand.playground.folder().join("taken.toml");
    let serve = |listen: &str| {
        let text = format!("{listen}\nusers.app.password = 'x'\ndatabases.app.servers = 'localhost'\n");
        fs::write(&file, text).unwrap();
        let said = pglagoon(&["serve", "--config", file.to_str().unwrap()]);
        assert!(!said.status.success());
        String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned()
    };
    let taken = |key: &str, port| format!("{key}: cannot listen on 127.0.0.1:{port}: Address already in use");
    let said = serve(&format!("listen.address = '127.0.0.1:{port}'"));
    assert!(said.contains(&taken("listen.address", port)), "{said}");
    let said = serve(&format!("listen.address = '127.0.0.1:0'\nhttp.address = '127.0.0.1:{http}'"));
    assert!(said.contains(&taken("http.address", http)), "{said}");
    let directory = "/proc/self/fdinfo";
    let said = serve(&format!("listen.address = []\nlisten.unix_directory = '{directory}'"));
    let refused = format!("listen.unix_directory: cannot listen on {directory}/.s.PGSQL.6432: ");
    assert!(said.contains(&refused), "{said}");
}

#[test]
fn version_and_help_are_told() {
    let version = pglagoon(&["--version"]);
    assert!(version.status.success());
    assert!(String::from_utf8_lossy(&version.stdout).contains(env!("CARGO_PKG_VERSION")));
    let help = pglagoon(&["--help"]);
    assert!(help.status.success());
    for subcommand in ["serve", "check", "demo", "drill"] {
        assert!(String::from_utf8_lossy(&help.stdout).contains(subcommand), "{help:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_a_unix_socket_and_reaches_servers_through_theirs() {
    let stand = Stand::new(|setup| setup);
    let folder = stand.playground.folder().display().to_string();
    let servers: Vec<String> = stand
        .playground
        .nodes()
        .iter()
        .map(|node| quote(&format!("{}:{}", node.socket_directory().display(), node.port())))
        .collect();
    let setup = crate::harness::Setup::empty()
        .set("listen", "unix_directory", quote(&folder))
        .set("listen", "unix_port", "6432")
        .set("auth", "method", quote("scram-sha-256"))
        .set("users.app", "password", quote("secret"))
        .set("databases.app", "servers", format!("[{}]", servers.join(", ")));
    let lagoon = crate::harness::Lagoon::start(&stand.playground, setup);
    let url = format!("host={folder} port=6432 user=app password=secret dbname=app");
    let client = lagoon.connect(&url).await.unwrap();
    assert_eq!(value(&client, "SELECT word FROM numbers WHERE i = 5").await, "number 5");
    rows(&client, "SELECT note('through a socket')").await;
}

#[test]
fn a_monitor_that_is_not_told_a_replica_s_timeline_says_what_that_costs() {
    let says = |stand: &Stand| stand.lagoon.log().matches("GRANT pg_read_all_stats").count();
    let stand = Stand::new(|setup| setup.set("monitor", "user", quote("app")));
    eventually("it says so of each replica", || says(&stand) == stand.playground.replicas().len());
    assert_eq!(says(&Stand::new(|setup| setup)), 0, "a superuser is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_of_pgbouncer_s_is_no_end() {
    let stand = Stand::new(|setup| setup);
    let client = stand.client().await;
    stand.lagoon.signal("USR1");
    eventually("it says what to do instead", || stand.lagoon.log().contains("PAUSE and RESUME"));
    rows(&client, "SELECT note('still')").await;
}
