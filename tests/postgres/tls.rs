//! TLS on both sides: towards clients, who are libpq's own psql and one that says exactly what it should; and towards servers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pglagoon::cli::playground::{DATABASE, Installation, Node, SUPERUSER};
use rustls::ClientConfig;

use crate::certificates::{Authority, Identity};
use crate::harness::{
    Lagoon, Setup, Stand, eventually, eventually_async, installations, quote, sqlstate, table, value,
};
use crate::holding::{Way, Writers, replicate_synchronously, write_while};
use crate::raw::{
    GSS_REQUEST, Message, Raw, SSL_REQUEST, V3_0, bind, cancel_request, copy_data, copy_done, execute,
    first_column, parse, query, startup, sync,
};

const LOGIN: [(&str, &str); 2] = [("user", "app"), ("database", "app")];
const ALPN: &[u8] = b"postgresql";

/// Servers, and the authorities that clients and servers may know or not.
struct World {
    stand: Stand,
    known: Authority,
    stranger: Authority,
}

/// What a client got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Got {
    Clear,
    Encrypted,
    Refused,
}
use Got::{Clear, Encrypted, Refused};

impl World {
    /// Servers without TLS.
    fn new() -> World {
        Self::with(Stand::on(&with_tls(), |setup| setup))
    }

    /// Servers with TLS: their certificate is of the known authority, for `hosts`. They take no other connections.
    fn encrypted(hosts: &[&str]) -> World {
        let world = Self::with(Stand::on(&with_tls(), |setup| setup));
        for node in world.stand.playground.nodes() {
            certify(node, &world.known.sign(hosts, "server"), &world.known);
            admit(node, "hostssl all all 127.0.0.1/32 scram-sha-256");
        }
        world
    }

    fn with(stand: Stand) -> World {
        World { stand, known: Authority::new("known"), stranger: Authority::new("stranger") }
    }

    fn folder(&self) -> &Path {
        self.stand.playground.folder()
    }

    /// What `tls` towards clients needs, certificate for localhost.
    fn listening(&self, tls: &str) -> Setup {
        let (certificate, key) = self.known.sign(&["localhost"], "pglagoon").write(self.folder(), "listen");
        let ca = self.known.write(self.folder(), "listen-ca");
        Setup::before(&self.stand.playground)
            .set("listen", "tls", quote(tls))
            .set("listen", "tls_cert", path(&certificate))
            .set("listen", "tls_key", path(&key))
            .set("listen", "tls_ca", path(&ca))
    }

    /// As [`World::listening`], whoever comes.
    fn trusting(&self, tls: &str) -> Setup {
        self.listening(tls).unset("listen", "tls_ca").set("auth", "method", quote("trust"))
    }

    fn start(&self, setup: Setup) -> Lagoon {
        Lagoon::start(&self.stand.playground, setup)
    }

    /// psql's options to check us against an authority.
    fn root(&self, authority: &Authority) -> String {
        format!("sslrootcert={}", authority.write(self.folder(), self.name_of(authority)).display())
    }

    /// psql's options to show a certificate.
    fn shown(&self, authority: &Authority, common_name: &str) -> String {
        let (certificate, key) = authority
            .sign(&[], common_name)
            .write(self.folder(), &format!("{}-{common_name}", self.name_of(authority)));
        format!("sslcert={} sslkey={}", certificate.display(), key.display())
    }

    fn name_of(&self, authority: &Authority) -> &'static str {
        if std::ptr::eq(authority, &self.known) { "known" } else { "stranger" }
    }

    fn psql(&self, lagoon: &Lagoon, options: &str) -> (Got, String) {
        let output = self
            .stand
            .playground
            .installation()
            .command("psql")
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", "\\conninfo", "-c", "SELECT 'in'"])
            .args([
                "-d",
                &format!(
                    "host=localhost hostaddr=127.0.0.1 port={} user=app dbname=app connect_timeout=10 {options}",
                    lagoon.port
                ),
            ])
            // No certificates but those that a test names.
            .env("HOME", "/nonexistent")
            .output()
            .expect("psql runs");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let got = match (output.status.success(), said.contains("TLSv1.")) {
            (true, true) => Encrypted,
            (true, false) => Clear,
            (false, _) => Refused,
        };
        assert_eq!(got != Refused, said.ends_with("in\n"), "{said}");
        (got, said)
    }

    /// A client that checks us against the known authority, after an SSLRequest.
    fn encrypt(&self, lagoon: &Lagoon) -> io::Result<Raw> {
        encrypt(lagoon, &self.known.demand(&[ALPN], None))
    }

    fn log_in(&self, lagoon: &Lagoon) -> Raw {
        log_in(lagoon, &self.known.demand(&[ALPN], None))
    }
}

fn log_in(lagoon: &Lagoon, config: &Arc<ClientConfig>) -> Raw {
    let mut client = encrypt(lagoon, config).expect("TLS is agreed upon");
    client.send(&startup(V3_0, &LOGIN));
    assert_eq!(client.until_ready().last().map(Message::status), Some('I'));
    client
}

fn encrypt(lagoon: &Lagoon, config: &Arc<ClientConfig>) -> io::Result<Raw> {
    let mut client = Raw::connect(lagoon.port);
    client.send(&SSL_REQUEST);
    assert_eq!(client.read_byte(), b'S');
    client.encrypt(config)
}

fn path(path: &Path) -> String {
    quote(path.to_str().expect("the harness's paths are ASCII"))
}

/// An installation whose server and libpq have TLS: that of the wheel for the newest PostgreSQL has none.
fn with_tls() -> PathBuf {
    let packaged = Installation::newest().map(|installation| installation.bin().to_path_buf()).ok();
    let has_tls = |bin: &PathBuf| {
        let configured = Command::new(bin.join("pg_config")).arg("--configure").output();
        configured.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("ssl"))
    };
    installations().into_iter().chain(packaged).find(has_tls).expect("a PostgreSQL that was built with TLS")
}

/// Gives a server a certificate; it asks clients for theirs, if they have one, of `authority`.
fn certify(node: &Node, identity: &Identity, authority: &Authority) {
    let (_, key) = identity.write(&node.data(), "server");
    authority.write(&node.data(), "root");
    // The server takes no key of another user's.
    let owner = fs::metadata(node.data()).unwrap();
    let (uid, gid) =
        (std::os::unix::fs::MetadataExt::uid(&owner), std::os::unix::fs::MetadataExt::gid(&owner));
    std::os::unix::fs::chown(&key, Some(uid), Some(gid)).unwrap();
    append(&node.data().join("postgresql.conf"), "ssl = on\nssl_ca_file = 'root.crt'\n");
    node.reload().unwrap();
    eventually("the server has TLS", || node.sql("SHOW ssl").unwrap().trim() == "on");
}

/// Who may come in over TCP from now on.
fn admit(node: &Node, lines: &str) {
    let rules = format!("local all all trust\nlocal replication all trust\n{lines}\n");
    fs::write(node.data().join("pg_hba.conf"), &rules).unwrap();
    node.reload().unwrap();
    let count = lines.lines().count() + 2;
    eventually("the server has read its rules", || {
        node.sql("SELECT count(*) FROM pg_hba_file_rules WHERE error IS NULL").unwrap().trim()
            == count.to_string()
    });
}

fn append(file: &Path, text: &str) {
    let before = fs::read_to_string(file).unwrap();
    fs::write(file, before + text).unwrap();
}

// Towards clients.

#[test]
fn what_libpq_asks_for_meets_what_we_offer() {
    let world = World::new();
    let root = world.root(&world.known);
    for (tls, expected) in [
        ("disable", [Clear, Clear, Refused, Refused, Refused]),
        ("prefer", [Clear, Encrypted, Encrypted, Encrypted, Encrypted]),
        ("require", [Refused, Encrypted, Encrypted, Encrypted, Encrypted]),
    ] {
        let lagoon = world.start(world.listening(tls));
        for (mode, expected) in
            ["disable", "prefer", "require", "verify-ca", "verify-full"].into_iter().zip(expected)
        {
            let (got, said) = world.psql(&lagoon, &format!("password=secret sslmode={mode} {root}"));
            assert_eq!(got, expected, "listen.tls {tls}, sslmode {mode}: {said}");
            assert!(got != Refused || mode != "disable" || said.contains("TLS is required"), "{said}");
        }
        if tls == "disable" {
            continue;
        }
        let stranger = world.root(&world.stranger);
        for mode in ["verify-ca", "verify-full"] {
            let (got, said) = world.psql(&lagoon, &format!("password=secret sslmode={mode} {stranger}"));
            assert_eq!(got, Refused, "the client does not know our authority: {said}");
        }
        let elsewhere = format!("password=secret sslmode=verify-full host=elsewhere.example {root}");
        assert_eq!(world.psql(&lagoon, &elsewhere).0, Refused, "we are not who it looks for");
        let (got, said) = world.psql(&lagoon, "password=wrong sslmode=require");
        assert!(got == Refused && said.contains("password authentication failed"), "{said}");
        for binding in ["require", "disable"] {
            let options = format!("password=secret sslmode=require channel_binding={binding}");
            let (got, said) = world.psql(&lagoon, &options);
            assert_eq!(got, Encrypted, "channel_binding {binding}: {said}");
        }
        let (got, said) = world.psql(&lagoon, "password=wrong sslmode=require channel_binding=require");
        assert!(got == Refused && said.contains("password authentication failed"), "{said}");
    }
}

#[test]
fn both_verify_modes_let_nobody_in_without_a_good_certificate() {
    let world = World::new();
    for (tls, others) in [("verify-ca", Encrypted), ("verify-full", Refused)] {
        let lagoon = world.start(world.listening(tls));
        for (shown, expected) in [
            (String::new(), Refused),
            (world.shown(&world.stranger, "app"), Refused),
            (world.shown(&world.known, "app"), Encrypted),
            (world.shown(&world.known, "postgres"), others),
        ] {
            let (got, said) = world.psql(&lagoon, &format!("password=secret sslmode=require {shown}"));
            assert_eq!(got, expected, "listen.tls {tls}, {shown}: {said}");
        }
        let shown = world.shown(&world.known, "app");
        let (got, said) = world.psql(&lagoon, &format!("password=wrong sslmode=require {shown}"));
        assert_eq!(got, Refused, "the certificate does not stand for the password: {said}");
        assert_eq!(world.psql(&lagoon, "password=secret sslmode=disable").0, Refused);
    }
}

#[test]
fn a_certificate_that_nobody_asked_for_does_no_harm() {
    let world = World::new();
    for tls in ["prefer", "require"] {
        for setup in [world.listening(tls), world.listening(tls).unset("listen", "tls_ca")] {
            let lagoon = world.start(setup);
            for authority in [&world.known, &world.stranger] {
                let shown = world.shown(authority, "whoever");
                let (got, said) = world.psql(&lagoon, &format!("password=secret sslmode=prefer {shown}"));
                assert_eq!(got, Encrypted, "listen.tls {tls}: {said}");
            }
        }
    }
}

#[test]
fn a_certificate_is_all_that_the_method_cert_asks_for() {
    let world = World::new();
    for tls in ["verify-ca", "verify-full"] {
        let lagoon = world.start(world.listening(tls).set("auth", "method", quote("cert")));
        for (shown, expected) in [
            (world.shown(&world.known, "app"), Encrypted),
            (world.shown(&world.known, "postgres"), Refused),
            (world.shown(&world.known, "App"), Refused),
            (world.shown(&world.stranger, "app"), Refused),
            (String::new(), Refused),
        ] {
            let (got, said) = world.psql(&lagoon, &format!("sslmode=require {shown}"));
            assert_eq!(got, expected, "listen.tls {tls}, {shown}: {said}");
        }
        let shown = world.shown(&world.known, "postgres");
        let (_, said) = world.psql(&lagoon, &format!("password=secret sslmode=require {shown}"));
        assert!(said.contains("certificate authentication failed for user \"app\""), "{said}");
    }
}

#[test]
fn nothing_that_comes_in_the_clear_with_an_encryption_request_counts() {
    let world = World::new();
    let lagoon = world.start(world.trusting("prefer"));
    for request in [SSL_REQUEST, GSS_REQUEST] {
        // CVE-2021-3935, CVE-2021-23214: what an attacker put there must not be taken for the client's own.
        let mut client = Raw::connect(lagoon.port);
        client.send(&[&request[..], &startup(V3_0, &LOGIN), &query("SELECT note('stuffed')")].concat());
        let answer = client.until_end();
        assert_eq!((answer.len(), answer[0].code().as_str()), (1, "08P01"), "{answer:?}");
    }
    let mut twice = world.encrypt(&lagoon).unwrap();
    twice.send(&SSL_REQUEST);
    assert_eq!(twice.until_end()[0].code(), "08P01");
    let mut garbage = Raw::connect(lagoon.port);
    garbage.send(&SSL_REQUEST);
    assert_eq!(garbage.read_byte(), b'S');
    garbage.send(&startup(V3_0, &LOGIN));
    garbage.until_end_of_bytes();
    let mut after_gss = Raw::connect(lagoon.port);
    after_gss.send(&GSS_REQUEST);
    assert_eq!(after_gss.read_byte(), b'N');
    after_gss.send(&SSL_REQUEST);
    assert_eq!(after_gss.read_byte(), b'S');
    let mut after_gss =
        after_gss.encrypt(&world.known.demand(&[], None)).expect("ALPN is for direct TLS only");
    after_gss.send(&startup(V3_0, &LOGIN));
    after_gss.until_ready();
    assert_eq!(first_column(&after_gss.query("SELECT count(*) FROM notes")), ["0"]);
}

#[test]
fn a_client_may_begin_with_tls_at_once_if_it_names_the_protocol() {
    let world = World::new();
    let lagoon = world.start(world.trusting("require"));
    let mut client = Raw::connect(lagoon.port).encrypt(&world.known.demand(&[ALPN], None)).unwrap();
    client.send(&startup(V3_0, &LOGIN));
    client.until_ready();
    assert_eq!(first_column(&client.query("SELECT 'in'")), ["in"]);
    let refused = Raw::connect(lagoon.port).encrypt(&world.known.demand(&[b"http/1.1"], None));
    assert!(refused.is_err(), "another protocol's client is refused in the handshake");
    let mut nameless = Raw::connect(lagoon.port).encrypt(&world.known.demand(&[], None)).unwrap();
    // The other side may have closed by now.
    let _ = nameless.try_send(&startup(V3_0, &LOGIN));
    nameless.until_end_of_bytes();
    let clear = world.start(world.trusting("disable"));
    assert!(Raw::connect(clear.port).encrypt(&world.known.demand(&[ALPN], None)).is_err());
    assert_eq!(first_column(&client.query("SELECT 'still'")), ["still"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_new_certificates_and_keeps_clients_and_the_old_ones_if_the_new_are_broken() {
    let world = World::new();
    let lagoon = world.start(world.trusting("prefer"));
    let mut client = world.log_in(&lagoon);
    client.query("BEGIN; SELECT note('kept')");

    let (_, key) = world.stranger.sign(&["localhost"], "pglagoon").write(world.folder(), "listen");
    lagoon.signal("HUP");
    let other = world.stranger.demand(&[ALPN], None);
    eventually("the new certificate is shown", || encrypt(&lagoon, &other).is_ok());
    assert!(world.encrypt(&lagoon).is_err(), "the old certificate is shown no more");
    client.query("COMMIT");
    assert_eq!(first_column(&client.query("SELECT word FROM notes")), ["kept"]);

    fs::write(&key, "-----BEGIN PRIVATE KEY-----\nverysecret\n-----END PRIVATE KEY-----\n").unwrap();
    lagoon.signal("HUP");
    eventually("the log names the file", || lagoon.log().contains("listen.key"));
    assert!(lagoon.log().contains("configuration not reloaded") && !lagoon.log().contains("verysecret"));
    encrypt(&lagoon, &other).expect("the last good certificate serves");
    assert_eq!(first_column(&client.query("SELECT 'still'")), ["still"]);

    let console = lagoon.console().await;
    let clients = table(&console, "SHOW CLIENTS").await;
    let ciphers: Vec<&str> = clients.iter().map(|client| client["tls"].as_str()).collect();
    assert!(ciphers.iter().any(|tls| tls.starts_with("TLSv1.3/")) && ciphers.contains(&""), "{ciphers:?}");
}

/// What a client is told at its end.
fn last_word(client: &mut Raw) -> (String, String) {
    let end = client.until_end();
    let fatal = end.last().unwrap_or_else(|| panic!("closed without a word"));
    assert_eq!(fatal.field('V'), "FATAL", "{end:?}");
    (fatal.code(), fatal.field('D'))
}

#[test]
fn an_encrypted_client_is_told_goodbye_at_a_hand_over_as_soon_as_it_is_idle() {
    const DRAIN: Duration = Duration::from_secs(6);
    let world = World::new();
    let mut lagoon = world.start(world.trusting("require").set("", "drain_timeout", quote("6s")));
    let [mut idle, mut ending, mut lasting] = [(); 3].map(|()| world.log_in(&lagoon));
    idle.query("SELECT note('idle')");
    for client in [&mut ending, &mut lasting] {
        client.query("BEGIN");
        client.query("SELECT note('begun')");
    }
    let began = Instant::now();
    lagoon.upgrade();
    let (code, why) = last_word(&mut idle);
    assert!(code == "57P01" && why.contains("cannot be handed over: it is encrypted"), "{code} {why}");
    let late = began.elapsed();
    assert_eq!(first_column(&ending.query("SELECT note('during')")), ["during"]);
    assert_eq!(ending.query("COMMIT").last().unwrap().status(), 'I');
    assert_eq!(last_word(&mut ending).0, "57P01");
    // One that does not come to an end is not waited for longer than that.
    assert_eq!(last_word(&mut lasting).0, "57P01");
    assert!(late < DRAIN && began.elapsed() >= DRAIN, "{late:?}, {:?}", began.elapsed());
    assert!(lagoon.wait_end(Duration::from_secs(10)).success());
    let notes = first_column(&world.log_in(&lagoon).query("SELECT word FROM notes ORDER BY id"));
    assert_eq!(notes, ["idle", "begun", "during"]);
    assert!(lagoon.end_successor());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_client_that_replicates_and_reads_nothing_can_be_killed() {
    let world = World::new();
    let lagoon = world.start(world.trusting("prefer"));
    let mut client = world.encrypt(&lagoon).expect("TLS is agreed upon");
    client.send(&startup(V3_0, &[("user", SUPERUSER), ("database", DATABASE), ("replication", "database")]));
    assert_eq!(client.until_ready().last().map(Message::status), Some('I'));
    client.send(&query("SELECT repeat('x', 100000000)"));
    let primary = world.stand.playground.primary();
    let stuck = || {
        let walsenders = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' \
                          AND wait_event = 'ClientWrite' AND datname = 'app'";
        primary.sql(walsenders).unwrap().trim() == "1"
    };
    eventually("nobody takes what the server says", stuck);
    let console = lagoon.console().await;
    let replicating = async || {
        let clients = table(&console, "SHOW CLIENTS").await;
        clients.into_iter().find(|client| client["replication"] != "none")
    };
    let id = replicating().await.expect("it is shown")["id"].clone();
    console.simple_query(&format!("KILL_CLIENT {id}")).await.unwrap();
    eventually("its server connection is closed", || !stuck());
    eventually_async("it is forgotten", async || replicating().await.is_none()).await;
}

// Towards servers.

/// Whether the connection that answers is encrypted, by the server's own account; or why there is none.
async fn is_encrypted(lagoon: &Lagoon) -> Result<String, (String, String)> {
    let client = match lagoon.connect(&lagoon.url("app", "app")).await {
        Ok(client) => client,
        refused => return Err(sqlstate(refused)),
    };
    Ok(value(&client, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").await)
}

impl World {
    /// pglagoon before these servers, with an authority to check them against.
    fn serving(&self, tls: &str, authority: &Authority) -> Setup {
        let ca = authority.write(self.folder(), "server-ca");
        Setup::before(&self.stand.playground)
            .set("pool", "checkout_timeout", quote("2s"))
            .set("pool", "hold_timeout", quote("2s"))
            .set("databases.app", "server_tls", quote(tls))
            .set("databases.app", "server_tls_ca", path(&ca))
    }

    /// pglagoon before these servers, which it may never find ready.
    fn attempt(&self, setup: Setup) -> Lagoon {
        Lagoon::start_unready(&self.stand.playground, setup)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_asks_of_servers_what_it_says() {
    let world = World::encrypted(&["localhost", "127.0.0.1"]);
    for mode in ["prefer", "require", "verify-ca", "verify-full"] {
        let lagoon = world.attempt(world.serving(mode, &world.known));
        // The servers offer SCRAM-SHA-256-PLUS first here.
        assert_eq!(is_encrypted(&lagoon).await, Ok("t".to_owned()), "{mode}");
    }
    let lagoon = world.attempt(world.serving("disable", &world.known));
    let (code, text) = is_encrypted(&lagoon).await.expect_err("the servers take no other");
    assert!(code == "28000" && text.contains("no encryption"), "{code} {text}");
    for mode in ["verify-ca", "verify-full"] {
        let lagoon = world.attempt(world.serving(mode, &world.stranger));
        let (code, text) = is_encrypted(&lagoon).await.expect_err("nobody vouches for the servers");
        assert_eq!(code, "57P03", "{mode}: {text}");
        assert!(lagoon.log().contains("TLS: invalid peer certificate: UnknownIssuer"), "{}", lagoon.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_name_is_refused_and_the_log_says_why() {
    let world = World::encrypted(&["elsewhere.example"]);
    let lagoon = world.attempt(world.serving("verify-full", &world.known));
    let (code, text) = is_encrypted(&lagoon).await.expect_err("the certificate is another's");
    assert_eq!(code, "57P03", "{text}");
    let log = lagoon.log();
    assert!(log.contains("not valid for name") && log.contains("elsewhere.example"), "{log}");
    let lagoon = world.attempt(world.serving("verify-ca", &world.known));
    assert_eq!(is_encrypted(&lagoon).await, Ok("t".to_owned()), "verify-ca does not ask for the name");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_without_tls_are_used_if_that_is_allowed_and_refused_otherwise() {
    let world = World::new();
    for (mode, expected) in [("disable", true), ("prefer", true), ("require", false), ("verify-full", false)]
    {
        let lagoon = world.attempt(world.serving(mode, &world.known));
        match is_encrypted(&lagoon).await {
            Ok(ssl) => assert!(expected && ssl == "f", "{mode}"),
            Err((code, text)) => {
                assert!(!expected && code == "57P03", "{mode}: {code} {text}");
                assert!(
                    lagoon.log().contains("TLS: the server does not offer it"),
                    "{mode}: {}",
                    lagoon.log()
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_ours_opens_servers_that_ask_for_one() {
    let world = World::encrypted(&["127.0.0.1"]);
    for node in world.stand.playground.nodes() {
        admit(
            node,
            "hostssl all app 127.0.0.1/32 cert\n\
             hostssl all all 127.0.0.1/32 scram-sha-256",
        );
    }
    let with = |authority: &Authority| {
        let (certificate, key) = authority.sign(&[], "app").write(world.folder(), "ours");
        world
            .serving("verify-full", &world.known)
            .set("databases.app", "server_tls_cert", path(&certificate))
            .set("databases.app", "server_tls_key", path(&key))
    };
    let lagoon = world.attempt(with(&world.known));
    assert_eq!(is_encrypted(&lagoon).await, Ok("t".to_owned()));
    for setup in [with(&world.stranger), world.serving("verify-full", &world.known)] {
        let lagoon = world.attempt(setup);
        is_encrypted(&lagoon).await.expect_err("the servers know no such certificate");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_new_authorities_of_servers_and_keeps_connections() {
    let world = World::encrypted(&["127.0.0.1"]);
    let lagoon = world.start(world.serving("verify-full", &world.known));
    let client = lagoon.client().await;
    client.simple_query("BEGIN; SELECT note('kept')").await.unwrap();

    for node in world.stand.playground.nodes() {
        certify(node, &world.stranger.sign(&["127.0.0.1"], "server"), &world.stranger);
    }
    // The same path, with something else in it.
    world.stranger.write(world.folder(), "server-ca");
    lagoon.signal("HUP");
    eventually("the file is read again", || lagoon.log().contains("configuration reloaded"));
    client.simple_query("COMMIT").await.unwrap();
    for node in world.stand.playground.nodes() {
        node.sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'app'")
            .unwrap();
    }
    assert_eq!(is_encrypted(&lagoon).await, Ok("t".to_owned()));
    assert_eq!(value(&client, "SELECT count(*) FROM notes").await, "1");
}

#[test]
fn clients_live_through_a_promotion_encrypted_and_in_statement_mode() {
    let mut world = World::encrypted(&["127.0.0.1"]);
    let lagoon = world.start(
        world
            .trusting("require")
            .set("databases.app", "server_tls", quote("require"))
            .set("pool", "mode", quote("statement"))
            .set("pool", "size", "10")
            .set("routing", "on_lost_write", quote("reset")),
    );
    replicate_synchronously(&world.stand.playground);
    let config = world.known.demand(&[ALPN], None);
    let login = || log_in(&lagoon, &config);
    let writers = Writers { mark: "tls", ways: &Way::WITHOUT_BLOCK, login: &login };
    write_while(&mut world.stand.playground, &writers, |playground| {
        playground.node_mut(0).kill().unwrap();
        playground.replicas()[0].promote().unwrap();
    });
}

#[test]
fn a_cancel_request_passes_encrypted_and_in_the_clear() {
    let world = World::encrypted(&["127.0.0.1"]);
    let setup = world.trusting("require").set("databases.app", "server_tls", quote("require"));
    let lagoon = world.start(setup);
    let mut client = world.log_in(&lagoon);
    let (pid, secret) = client.key.clone().expect("a key came with the login");
    // libpq before 17 cancels in the clear whatever the connection is, and servers take that.
    for canceller in [world.encrypt(&lagoon).unwrap(), Raw::connect(lagoon.port)] {
        client.send(&query("SELECT pg_sleep(600)"));
        eventually("the query runs", || {
            (0..3).any(|place| world.stand.backends(place, "state = 'active' AND query LIKE '%sleep%'") > 0)
        });
        let mut canceller = canceller;
        canceller.send(&cancel_request(pid, &secret));
        assert_eq!(canceller.until_end(), []);
        let answer = client.until_ready();
        assert!(answer.iter().any(|message| message.tag == 'E' && message.code() == "57014"), "{answer:?}");
    }
}

#[test]
fn large_answers_requests_and_copies_pass_encrypted_both_ways_in_bounded_time_and_memory() {
    const SIZE: usize = 50_000_000;
    let world = World::encrypted(&["127.0.0.1"]);
    let lagoon = world.start(world.trusting("require").set("databases.app", "server_tls", quote("require")));
    let mut client = world.log_in(&lagoon);
    client.query("SELECT 1");
    let before = lagoon.memory();
    let mut step = Step { lagoon: &lagoon, before, began: Instant::now() };

    // One row: a writer that encrypts what is left of it again after each write takes minutes.
    let row = client.query(&format!("SELECT repeat('x', {SIZE})"));
    assert_eq!(row[1].body.len(), 2 + 4 + SIZE);
    step.is_done("one row");

    client.send(&query("SELECT repeat('x', 1000) FROM generate_series(1, 50000)"));
    assert_eq!(count(&mut client, 'D'), 50_000);
    step.is_done("many rows");

    client.send(&query("COPY (SELECT repeat('x', 1000) FROM generate_series(1, 50000)) TO STDOUT"));
    assert_eq!(count(&mut client, 'd'), 50_000);
    step.is_done("COPY out");

    let lines = [&[b'x'; 999][..], b"\n"].concat().repeat(50);
    client.send(&query("COPY notes (word) FROM STDIN"));
    assert_eq!(client.read().tag, 'G');
    for _ in 0..SIZE / lines.len() {
        client.send(&copy_data(&lines));
    }
    client.send(&copy_done());
    assert_eq!(client.until_ready()[0].command(), "COPY 50000");
    step.is_done("COPY in");

    let value = "x".repeat(SIZE);
    client.send(&[parse("", "SELECT length($1)"), bind("", "", &[&value]), execute("", 0), sync()].concat());
    assert_eq!(first_column(&client.until_ready()), [SIZE.to_string()]);
    step.is_done("one parameter");
}

struct Step<'a> {
    lagoon: &'a Lagoon,
    before: u64,
    began: Instant,
}

impl Step<'_> {
    fn is_done(&mut self, what: &str) {
        let took = self.began.elapsed();
        let grown = self.lagoon.memory().saturating_sub(self.before);
        assert!(took < Duration::from_secs(10), "{what} took {took:?}");
        assert!(grown < 16 << 20, "{what}: memory grew by {grown} bytes");
        self.began = Instant::now();
    }
}

/// How many messages with this tag come before readiness.
fn count(client: &mut Raw, tag: char) -> usize {
    let mut count = 0;
    loop {
        match client.read().tag {
            'Z' => return count,
            'E' => panic!("an error"),
            other => count += usize::from(other == tag),
        }
    }
}
