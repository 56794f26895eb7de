//! The fault matrix: fifty clients, in the simple and the extended protocol and pipelined, work through pglagoon while its
//! servers, the network and pglagoon itself are broken in one way after the other. The workload, its checks and the phases
//! are `pglagoon drill`'s; what breaks is here. After each fault pglagoon holds no more than before it.
//!
//! Phases of a second and a part of the matrix, or all of it with phases of `PGLAGOON_CHAOS` seconds: `make chaos`.

// What the long form has found is of interest.
#![allow(clippy::print_stderr)]

mod network;
mod proxy;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pglagoon::cli::playground::{DATABASE, Node, Options, PASSWORD, Slots, Stop, USER, free_port};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio_postgres::error::DbError;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls};

use crate::harness::{
    Setup, Stand, eventually, has_namespaces, installations, join_all, options, quote, rows, table, value,
};
use proxy::{Proxy, Weather};

const CLIENTS: u32 = 50;

/// `max_connections` of the servers, few so that they are soon taken, and how many at once try to take them.
const PLACES: usize = 45;
const PUSHERS: usize = 4;

/// What may happen in a fault to what is in flight, in drill's words.
#[derive(Clone, Copy)]
enum InFlight {
    Survives,
    MayFail,
    MayLose,
}

impl InFlight {
    fn as_str(self) -> &'static str {
        match self {
            InFlight::Survives => "survives",
            InFlight::MayFail => "may-fail",
            InFlight::MayLose => "may-lose",
        }
    }
}

/// Whether the short form has it, too.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Short,
    Long,
}

/// Something that breaks, and how it is mended.
struct Trouble {
    name: &'static str,
    form: Form,
    in_flight: InFlight,
    begin: fn(&mut World),
    mend: fn(&mut World),
}

/// What troubles are about.
struct World {
    stand: Stand,
    /// In front of the servers, in their order; none where pglagoon reaches them itself.
    proxies: Vec<Proxy>,
    /// The server that is the primary by right.
    primary: usize,
    /// Who takes a server's last places.
    crowd: Vec<tokio::task::JoinHandle<()>>,
    folder: PathBuf,
    /// What pglagoon had open before anybody came.
    descriptors: usize,
    runtime: Runtime,
}

#[test]
fn clients_live_through_what_happens_to_servers_and_to_pglagoon() {
    use Form::{Long, Short};
    use InFlight::{MayFail, Survives};
    let trouble = |form, name, in_flight, begin, mend| Trouble { name, form, in_flight, begin, mend };
    let nothing: fn(&mut World) = |_| {};
    let mut world = World::new(|setup| setup, Way::Straight);
    world.go_through(&[
        trouble(Short, "kill-primary", MayFail, |world| world.node(0).kill().unwrap(), start_primary),
        trouble(
            Long,
            "stop-primary-immediately",
            MayFail,
            |w| w.node(0).stop(Stop::Immediate).unwrap(),
            start_primary,
        ),
        trouble(
            Long,
            "restart-primary",
            MayFail,
            |world| world.node(0).restart(Stop::Fast).unwrap(),
            nothing,
        ),
        trouble(Short, "kill-replica", Survives, |world| world.node(1).kill().unwrap(), start_replica),
        trouble(
            Long,
            "stop-replica-immediately",
            Survives,
            |w| w.node(1).stop(Stop::Immediate).unwrap(),
            start_replica,
        ),
        trouble(
            Long,
            "restart-replica",
            Survives,
            |world| world.node(1).restart(Stop::Fast).unwrap(),
            nothing,
        ),
        trouble(Long, "terminate-backends-of-a-replica", Survives, terminate_readers, nothing),
        trouble(Short, "backend-of-a-replica-crashes", Survives, |world| world.crash_a_backend(1), nothing),
        trouble(Long, "backend-of-the-primary-crashes", MayFail, |world| world.crash_a_backend(0), nothing),
        trouble(
            Short,
            "freeze-replica",
            Survives,
            |w| w.node(1).freeze().unwrap(),
            |w| w.node(1).thaw().unwrap(),
        ),
        trouble(
            Long,
            "freeze-primary",
            MayFail,
            |w| w.node(0).freeze().unwrap(),
            |w| w.node(0).thaw().unwrap(),
        ),
        trouble(Short, "nap-of-the-primary", Survives, nap, nothing),
        trouble(
            Short,
            "pause-replay",
            Survives,
            |w| w.node(1).pause_replay().unwrap(),
            |w| w.node(1).resume_replay().unwrap(),
        ),
        trouble(Short, "freeze-walreceiver", Survives, |w| w.walreceiver("STOP"), |w| w.walreceiver("CONT")),
        trouble(Short, "server-full", Survives, World::fill_up, World::make_room),
        trouble(Short, "reload", Survives, World::take_a_replica_out, World::put_it_back),
        trouble(Short, "promote-and-old-primary-returns", MayFail, World::fail_over, start_primary),
    ]);
}

#[test]
fn clients_live_through_what_a_network_does() {
    use Form::{Long, Short};
    use InFlight::{MayFail, Survives};
    let mut world = World::new(|setup| setup, Way::Proxied);
    let trouble = |form, name, in_flight, begin, mend| Trouble { name, form, in_flight, begin, mend };
    let clear_up: fn(&mut World) = |world| world.proxies.iter().for_each(|proxy| proxy.set(Weather::Fair));
    let slow: fn(&mut World) = |world| {
        world.proxies.iter().for_each(|proxy| proxy.set(Weather::SlowLogin(Duration::from_millis(700))));
        world.command("RECONNECT app");
    };
    world.go_through(&[
        trouble(
            Short,
            "black-hole-before-a-replica",
            Survives,
            |w| w.proxies[1].set(Weather::Hole),
            clear_up,
        ),
        trouble(
            Long,
            "black-hole-before-the-primary",
            MayFail,
            |w| w.proxies[0].set(Weather::Hole),
            clear_up,
        ),
        trouble(Short, "slow-login", Survives, slow, clear_up),
        trouble(Long, "cut-connections-of-a-replica", Survives, |w| w.proxies[1].cut(), clear_up),
    ]);
}

/// Packets vanish in both directions, and nobody is told: servers live on, and cannot be reached.
#[test]
fn clients_live_through_networks_that_lose_every_packet() {
    use Form::{Long, Short};
    use InFlight::{MayFail, Survives};
    network::with_a_network_of_its_own("chaos::clients_live_through_networks_that_lose_every_packet", || {
        let mut world = World::new(|setup| setup, Way::Routed);
        let trouble = |form, name, in_flight, begin, mend| Trouble { name, form, in_flight, begin, mend };
        world.go_through(&[
            trouble(Short, "replica-cut-off", Survives, |world| world.cut_off(1), |_| network::reach(1)),
            trouble(Short, "primary-cut-off", MayFail, |world| world.cut_off(0), |_| network::reach(0)),
            trouble(
                Long,
                "all-cut-off",
                MayFail,
                |world| (0..3).for_each(|place| world.cut_off(place)),
                |_| (0..3).for_each(network::reach),
            ),
            trouble(Long, "cut-off-for-a-moment", Survives, cut_off_for_a_moment, |_| {}),
            trouble(
                Short,
                "promote-beside-a-primary-that-is-cut-off",
                MayFail,
                World::fail_over_beside_a_cut_off_primary,
                // It takes writes as ever, and gets none.
                |_| network::reach(0),
            ),
        ]);
    });
}

/// pglagoon has a hosts file of its own, which an ordinary user cannot have everywhere.
#[test]
fn clients_live_through_names_that_come_to_stand_for_other_servers() {
    use Form::Short;
    use InFlight::{MayFail, Survives};
    if !has_namespaces() {
        eprintln!("nothing is tested: this user may not have a mount namespace here");
        return;
    }
    let setup = |setup: Setup| setup.hosts("").set("monitor", "resolve_interval", quote("200ms"));
    let mut world = World::new(setup, Way::Named);
    let trouble = |name, in_flight, begin, mend| Trouble { name, form: Short, in_flight, begin, mend };
    world.go_through(&[
        trouble(
            "name-of-a-replica-moves",
            Survives,
            |world| {
                world.names_stand_for([Place::Old, Place::New]);
                eventually("it reads there", || world.stand.backends(1, "true") > 0);
            },
            |world| {
                world.names_stand_for([Place::Old, Place::Old]);
                eventually("it does not read there any more", || world.stand.backends(1, "true") == 0);
            },
        ),
        trouble(
            "promote-behind-a-name",
            MayFail,
            |world| {
                world.fail_over();
                world.names_stand_for([Place::New, Place::Old]);
            },
            // Nobody knows it by a name any more.
            start_primary,
        ),
    ]);
}

/// What a server says that has no room left is its client's to hear, as a direct connection would, and no sign of a sick
/// server: whether a statement hears it or COMMIT.
#[test]
fn a_disk_that_is_full_is_told_to_those_who_write_and_harms_nobody_else() {
    let world = World::new(|setup| setup, Way::Straight);
    world.stand.playground.primary().sql(FULL).unwrap();
    let rounds = usize::try_from(phase() * 10).unwrap();
    let written = world.runtime.block_on(async {
        let direct = world.stand.lagoon.connect(&world.straight()).await.unwrap();
        let told: Told = [refused(&direct, "full").await, refused(&direct, "late").await];
        assert_eq!(told[0].code().code(), "53100");
        let writers: Vec<_> = join_all((0..CLIENTS).map(|_| world.stand.client())).await;
        let writing =
            writers.iter().enumerate().map(|(place, client)| write_on(client, place, rounds, &told));
        join_all(writing).await.into_iter().sum::<usize>()
    });
    let count = |word: &str| {
        let sql = format!("SELECT count(*) FROM notes WHERE word LIKE '{word}%'");
        world.stand.playground.primary().sql_in("app", &sql).unwrap().trim().parse::<usize>().unwrap()
    };
    assert_eq!(["full", "late", "good"].map(count), [0, 0, written]);
    assert!(!world.stand.lagoon.log().contains("to=Down"), "{}", world.stand.lagoon.log());
    world.is_as_before("a full disk");
}

/// Rows of some words do not fit: of one kind when they are inserted, of the other when they are committed.
const FULL: &str = "
    SET ROLE app;
    CREATE FUNCTION extend() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION USING ERRCODE = 'disk_full', HINT = 'Check free disk space.',
            MESSAGE = 'could not extend file \"base/5/16384\": No space left on device';
    END $$;
    CREATE TRIGGER at_once BEFORE INSERT ON notes FOR EACH ROW WHEN (new.word LIKE 'full%') EXECUTE FUNCTION extend();
    CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW WHEN (new.word LIKE 'late%') EXECUTE FUNCTION extend();
";

/// What is said to a row that does not fit, by when it is said.
type Told = [DbError; 2];

async fn refused(client: &Client, word: &str) -> DbError {
    let insert = format!("INSERT INTO notes (word) VALUES ('{word}')");
    client.simple_query(&insert).await.unwrap_err().as_db_error().unwrap().clone()
}

/// Writes rows that fit and rows that do not, in one way after the other, and holds every answer against what a direct
/// connection is told. Answers how many rows were written.
async fn write_on(client: &Client, place: usize, rounds: usize, told: &Told) -> usize {
    let insert = client.prepare("INSERT INTO notes (word) VALUES ($1)").await.unwrap();
    let mut written = 0;
    for round in 0..rounds {
        let kind = (place + round) % 2;
        let word = ["full", "late"][kind];
        let error = match round % 3 {
            0 => client.simple_query(&format!("INSERT INTO notes (word) VALUES ('{word}')")).await.err(),
            // A transaction, whose rows go with the one that does not fit.
            1 => {
                let block = "INSERT INTO notes (word) VALUES ('full of good will')";
                let block = block.replace("full", if kind == 0 { "full" } else { "late" });
                let steps = ["BEGIN", "SELECT 1", &block, "COMMIT"];
                let mut answers = Vec::new();
                for step in steps {
                    answers.push(client.simple_query(step).await.err());
                }
                answers.into_iter().flatten().next()
            }
            // In a pipeline: those before and behind it stand on their own.
            _ => {
                let good = "good".to_owned();
                let refused = word.to_owned();
                let values: [&[&(dyn ToSql + Sync)]; 3] = [&[&good], &[&refused], &[&good]];
                let [before, error, behind] = values.map(|values| client.execute(&insert, values));
                let (before, error, behind) = tokio::join!(before, error, behind);
                assert_eq!((before.unwrap(), behind.unwrap()), (1, 1));
                written += 2;
                error.err()
            }
        };
        let error = error.expect("it does not fit");
        assert_eq!(error.as_db_error(), Some(&told[kind]), "client {place}, round {round}");
        client.execute(&insert, &[&"good"]).await.unwrap();
        written += 1;
    }
    written
}

#[test]
fn a_restart_by_hand_over_costs_nobody_anything() {
    let mut world = World::new(|setup| setup, Way::Straight);
    world.undergo(&Trouble {
        name: "hand-over",
        form: Form::Short,
        in_flight: InFlight::Survives,
        begin: |world| {
            world.stand.lagoon.upgrade();
            assert!(world.stand.lagoon.wait_end(Duration::from_secs(30)).success());
        },
        mend: |_| {},
    });
    assert!(world.stand.lagoon.end_successor());
}

/// From the instant at which the promoted server says that it takes writes to the answer to a write that was held for it.
#[test]
fn a_promotion_costs_little_more_than_its_own_time() {
    let (rounds, bound) = match is_long() {
        true => (10, Duration::from_millis(250)),
        // Few, and beside other tests: this finds an interval that is waited for, and no more.
        false => (3, Duration::from_secs(1)),
    };
    // At another moment between two probes each time.
    let pause = |round: u64| Duration::from_millis(round * 37 % 100);
    let mut added: Vec<Duration> = (0..rounds).map(|round| added_by_a_promotion(pause(round))).collect();
    added.sort_unstable();
    let median = added[added.len() / 2];
    eprintln!("added to the promotion's own time: median {median:?} of {added:?}");
    assert!(median <= bound, "{added:?}");
}

fn added_by_a_promotion(pause: Duration) -> Duration {
    // The monitor as it is by default.
    let mut world =
        World::new(|setup| setup.unset("monitor", "interval").unset("monitor", "timeout"), Way::Straight);
    let next = format!(
        "host=127.0.0.1 port={} user={USER} password={PASSWORD} dbname={DATABASE}",
        world.stand.playground.nodes()[1].port()
    );
    let (client, next) = world.runtime.block_on(async {
        let client = world.stand.client().await;
        rows(&client, "SELECT note('before')").await;
        (client, world.stand.lagoon.connect(&next).await.unwrap())
    });
    world.stand.playground.wait_caught_up().unwrap();
    world.node(0).kill().unwrap();
    let held = world.runtime.spawn(async move {
        rows(&client, "SELECT note('after')").await;
        Instant::now()
    });
    let writable = world.runtime.spawn(async move {
        while value(&next, "SELECT pg_is_in_recovery()").await != "f" {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Instant::now()
    });
    eventually("it is seen that the primary is gone", || world.stand.lagoon.log().contains("to=Down"));
    std::thread::sleep(pause);
    world.stand.playground.nodes()[1].promote().unwrap();
    let (writable, served) = world.runtime.block_on(async { (writable.await.unwrap(), held.await.unwrap()) });
    served.saturating_duration_since(writable)
}

#[test]
fn a_promotion_that_loses_writes_is_told() {
    let mut world = World::new(|setup| setup.set("routing", "on_lost_write", quote("error")), Way::Straight);
    let found = world.undergo(&Trouble {
        name: "promote-with-loss",
        form: Form::Short,
        in_flight: InFlight::MayLose,
        begin: World::fail_over_with_loss,
        mend: start_primary,
    });
    assert!(
        found["lost_acknowledged_writes"].as_u64() > Some(0),
        "nothing was lost, so this proves nothing: {found}"
    );
}

/// Connects as often as it can, and keeps what it gets.
async fn push_in(url: String) {
    let mut places = Vec::new();
    loop {
        if let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await {
            places.push((client, tokio::spawn(connection)));
        }
    }
}

fn start_primary(world: &mut World) {
    world.node(0).start().unwrap();
}

fn start_replica(world: &mut World) {
    world.node(1).start().unwrap();
}

fn terminate_readers(world: &mut World) {
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'app'";
    world.node(1).sql(sql).unwrap();
}

/// Shorter than what makes it count as dead, by far.
fn nap(world: &mut World) {
    world.node(0).freeze().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    world.node(0).thaw().unwrap();
}

/// Shorter than two probes: TCP sends again what was lost.
fn cut_off_for_a_moment(_: &mut World) {
    (0..3).for_each(network::cut_off);
    std::thread::sleep(Duration::from_millis(300));
    (0..3).for_each(network::reach);
}

/// How pglagoon reaches its servers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Straight,
    Proxied,
    /// By a name for the primary and one for a replica, each of which may stand for either of two places.
    Named,
    /// By an address that each server has in the test's own network.
    Routed,
}

/// Where a name leads.
#[derive(Clone, Copy)]
enum Place {
    Old,
    New,
}

impl Place {
    fn address(self) -> Ipv4Addr {
        match self {
            Place::Old => Ipv4Addr::new(127, 0, 0, 2),
            Place::New => Ipv4Addr::new(127, 0, 0, 3),
        }
    }
}

/// The names, and the servers that they stand for: first, and later.
const NAMES: [(&str, [usize; 2]); 2] = [("writer.test", [0, 1]), ("reader.test", [2, 1])];

impl World {
    fn new(adjust: impl FnOnce(Setup) -> Setup, way: Way) -> World {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        // No statement is logged: there are many.
        let settings = match way {
            Way::Routed => vec![("listen_addresses".into(), "0.0.0.0".into())],
            Way::Straight | Way::Proxied | Way::Named => Vec::new(),
        };
        let servers = Options { max_connections: PLACES as u32, settings, ..options(&installations()[0]) };
        let stand = Stand::unwarmed(servers, |setup| {
            let setup = setup
                .set("pool", "size", "10")
                .set("pool", "checkout_timeout", quote("20s"))
                .set("monitor", "timeout", quote("500ms"))
                .set("monitor", "dead_after", quote("3s"))
                // What is lost is another test's.
                .set("routing", "on_lost_write", quote("reset"))
                .set("log", "filter", quote("pglagoon=info"));
            adjust(setup)
        });
        let mut world = World {
            proxies: Vec::new(),
            primary: 0,
            crowd: Vec::new(),
            folder: stand.playground.folder().join("chaos"),
            descriptors: 0,
            stand,
            runtime,
        };
        fs::create_dir(&world.folder).unwrap();
        if way == Way::Proxied {
            let nodes = world.stand.playground.nodes();
            world.proxies =
                nodes.iter().map(|node| world.runtime.block_on(Proxy::before(node.port()))).collect();
            let servers: Vec<String> = world.proxies.iter().map(|proxy| quote(&proxy.address())).collect();
            world.stand.lagoon.reconfigure(|setup| {
                setup.set("databases.app", "servers", format!("[{}]", servers.join(", ")))
            });
            world.command("RELOAD");
        }
        if way == Way::Named {
            world.go_by_names();
        }
        if way == Way::Routed {
            world.go_by_addresses();
        }
        world.command("RECONNECT app");
        world.descriptors = world.stand.lagoon.descriptors();
        world
    }

    /// A name has one port, so that its places differ by their address.
    fn go_by_names(&mut self) {
        let nodes = self.stand.playground.nodes();
        let mut servers = Vec::new();
        for (name, places) in NAMES {
            let port = free_port().unwrap();
            servers.push(quote(&format!("{name}:{port}")));
            for (place, node) in [Place::Old, Place::New].into_iter().zip(places) {
                let before = Proxy::at((place.address(), port).into(), nodes[node].port());
                self.proxies.push(self.runtime.block_on(before));
            }
        }
        self.names_stand_for([Place::Old, Place::Old]);
        let servers = format!("[{}]", servers.join(", "));
        self.stand.lagoon.reconfigure(|setup| setup.set("databases.app", "servers", servers));
        self.command("RELOAD");
    }

    fn go_by_addresses(&mut self) {
        let mut servers = Vec::new();
        for (place, node) in self.stand.playground.nodes().iter().enumerate() {
            network::reach(place);
            let rules = node.data().join("pg_hba.conf");
            let known = fs::read_to_string(&rules).unwrap();
            fs::write(&rules, format!("{known}host all all 192.0.2.0/24 scram-sha-256\n")).unwrap();
            node.reload().unwrap();
            servers.push(quote(&format!("{}:{}", network::address(place), node.port())));
        }
        let servers = format!("[{}]", servers.join(", "));
        self.stand.lagoon.reconfigure(|setup| setup.set("databases.app", "servers", servers));
        self.command("RELOAD");
    }

    /// No packet comes to or from the server any more; returns when pglagoon has found that out.
    fn cut_off(&mut self, place: usize) {
        let port = self.stand.playground.nodes()[place].port();
        let falls = |log: String| {
            let is_its = |line: &&str| line.contains(&format!(":{port} ")) && line.contains("to=Down");
            log.lines().filter(is_its).count()
        };
        let before = falls(self.stand.lagoon.log());
        network::cut_off(place);
        eventually("the server counts as down", || falls(self.stand.lagoon.log()) > before);
    }

    fn names_stand_for(&mut self, places: [Place; 2]) {
        let lines =
            NAMES.iter().zip(places).map(|((name, _), place)| format!("{} {name}\n", place.address()));
        self.stand.lagoon.write_hosts(&lines.collect::<String>());
    }

    /// The server starts anew by itself: nobody knows what the process that died has left in memory.
    fn crash_a_backend(&mut self, place: usize) {
        let of_app = "usename = 'app' AND client_addr IS NOT NULL";
        let pid = format!("SELECT pid FROM pg_stat_activity WHERE {of_app} LIMIT 1");
        let pid = self.node(place).sql(&pid).unwrap().trim().to_owned();
        assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    }

    fn go_through(&mut self, troubles: &[Trouble]) {
        let is_meant = |trouble: &&Trouble| trouble.form == Form::Short || is_long();
        for trouble in troubles.iter().filter(is_meant) {
            self.undergo(trouble);
        }
    }

    /// Has the drill run its clients through one trouble, and looks at what it found and what is left.
    fn undergo(&mut self, trouble: &Trouble) -> Value {
        eprintln!("{} ...", trouble.name);
        let home = self.folder.join(trouble.name);
        fs::create_dir(&home).unwrap();
        let mut drill = Drill::start(self, trouble, &home);
        for (word, deed) in [("break", trouble.begin), ("repair", trouble.mend)] {
            drill.wait_for(&home.join(format!("{word}.go")));
            deed(self);
            fs::write(home.join(format!("{word}.done")), "").unwrap();
        }
        let said = drill.end();
        eprintln!("{said}");
        let report: Value = serde_json::from_slice(&fs::read(home.join("report.json")).unwrap()).unwrap();
        let found = report["faults"][0].clone();
        assert!(report["passed"] == true, "{}:\n{said}", trouble.name);
        assert_eq!(found["connections_lost"], 0, "{}:\n{said}", trouble.name);
        assert!(
            found["acknowledged_writes"].as_u64() > Some(0) && found["reads"].as_u64() > Some(0),
            "{said}"
        );
        self.is_as_before(trouble.name);
        found
    }

    /// No client waits, no connection is in use, and nothing is open that was not before.
    fn is_as_before(&self, after: &str) {
        let busy = ["cl_active", "cl_waiting", "sv_active", "sv_tested", "sv_login"];
        eventually(&format!("the pools are idle after {after}"), || {
            let pools = self
                .runtime
                .block_on(async { table(&self.stand.lagoon.console().await, "SHOW POOLS").await });
            let of_app = pools.iter().filter(|pool| pool["database"] == "app");
            of_app.into_iter().all(|pool| busy.iter().all(|column| pool[*column] == "0"))
        });
        self.command("RECONNECT app");
        // The monitor's questions may have opened one connection more on each server.
        let most = self.descriptors + 2 * self.stand.playground.nodes().len();
        eventually(&format!("what was opened is closed after {after}"), || {
            self.stand.lagoon.descriptors() <= most
        });
        assert!(!self.stand.lagoon.log().contains("panicked"), "after {after}");
    }

    fn node(&mut self, place: usize) -> &mut Node {
        self.stand.playground.node_mut(place)
    }

    fn command(&self, sql: &str) {
        self.runtime.block_on(async { rows(&self.stand.lagoon.console().await, sql).await });
    }

    /// A connection to the primary by right, past pglagoon.
    fn straight(&self) -> String {
        let port = self.stand.playground.nodes()[self.primary].port();
        format!("host=127.0.0.1 port={port} user={USER} password={PASSWORD} dbname={DATABASE}")
    }

    fn walreceiver(&mut self, signal: &str) {
        let pid = "SELECT pid FROM pg_stat_wal_receiver";
        let pid = self.node(1).sql(pid).unwrap().trim().to_owned();
        assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
    }

    /// Takes every place on the primary that becomes free, pglagoon's own among them.
    fn fill_up(&mut self) {
        let url = format!("{} application_name=crowd", self.straight());
        let pushing = (0..PUSHERS).map(|_| self.runtime.spawn(push_in(url.clone())));
        self.crowd = pushing.collect();
        // Logins that are about to be refused have the superuser's places for a moment.
        let places = |condition: &str| self.stand.try_backends(0, condition).ok();
        eventually("the primary is full", || places("true").is_some_and(|taken| taken >= PLACES - 10));
        eventually("pglagoon has hardly a place any more", || {
            // Some of what it gives up it may get again.
            self.command("RECONNECT app");
            places("application_name <> 'crowd'").is_some_and(|ours| ours <= 2)
        });
    }

    fn make_room(&mut self) {
        for pusher in std::mem::take(&mut self.crowd) {
            pusher.abort();
            // What it has is dropped with it.
            let _ = self.runtime.block_on(pusher);
        }
    }

    fn take_a_replica_out(&mut self) {
        let all = self.stand.lagoon.setup().value("databases.app", "servers").unwrap().to_owned();
        let (rest, _) = all.rsplit_once(',').expect("three servers");
        let rest = format!("{rest}]");
        self.stand
            .lagoon
            .reconfigure(|setup| setup.set("databases.app", "servers", rest).set("pool", "size", "7"));
        self.command("RELOAD");
    }

    fn put_it_back(&mut self) {
        let servers: Vec<String> =
            self.stand.playground.nodes().iter().map(|node| quote(&node.address())).collect();
        self.stand.lagoon.reconfigure(|setup| {
            setup
                .set("databases.app", "servers", format!("[{}]", servers.join(", ")))
                .set("pool", "size", "10")
        });
        self.command("RELOAD");
    }

    /// The primary dies, and a replica takes its place that has all that was acknowledged.
    fn fail_over(&mut self) {
        let playground = &self.stand.playground;
        let name = playground.nodes()[1].name();
        playground.primary().sql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'")).unwrap();
        playground.primary().reload().unwrap();
        eventually("commits wait for it", || {
            let sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
            playground.primary().sql(sql).unwrap().trim() == "1"
        });
        // What was acknowledged before that is on its way.
        playground.wait_caught_up().unwrap();
        self.promote();
    }

    /// As above, but the replica has heard nothing for a while.
    fn fail_over_with_loss(&mut self) {
        let deaf = &self.stand.playground.nodes()[1];
        deaf.sql("ALTER SYSTEM SET primary_conninfo = ''").unwrap();
        deaf.reload().unwrap();
        eventually("it hears nothing", || {
            deaf.sql("SELECT count(*) FROM pg_stat_wal_receiver").unwrap().trim() == "0"
        });
        let position =
            |world: &World| world.stand.playground.primary().sql("SELECT pg_current_wal_lsn()").unwrap();
        let before = position(self);
        eventually("something is written", || position(self) != before);
        std::thread::sleep(Duration::from_millis(300));
        self.promote();
    }

    /// Nobody is told anything by the old primary from then on, so the replica has all that was acknowledged.
    fn fail_over_beside_a_cut_off_primary(&mut self) {
        self.cut_off(0);
        self.stand.playground.wait_caught_up().unwrap();
        self.promote_the_first();
    }

    fn promote(&mut self) {
        self.node(0).kill().unwrap();
        self.promote_the_first();
    }

    fn promote_the_first(&mut self) {
        let nodes = self.stand.playground.nodes();
        nodes[1].promote().unwrap();
        nodes[2].follow(&nodes[1], Slots::None).unwrap();
        nodes[2].reload().unwrap();
        self.primary = 1;
    }
}

/// `pglagoon drill`, whose commands wait for what is done here.
struct Drill {
    child: Child,
    log: PathBuf,
}

impl Drill {
    fn start(world: &World, trouble: &Trouble, home: &Path) -> Drill {
        // It ends with the world, too, should the test end before it answers.
        let command = |word: &str| {
            let (file, home) = (home.join(word), home.display());
            let file = file.display();
            quote(&format!(
                "touch {file}.go; until [ -e {file}.done ]; do [ -d {home} ] || exit 1; sleep 0.02; done"
            ))
        };
        let check = match trouble.name.starts_with("promote") {
            true => world.stand.playground.nodes()[1].port(),
            false => world.stand.playground.nodes()[world.primary].port(),
        };
        let plan = format!(
            "url = {}\ncheck_url = {}\n[faults.{}]\nbreak = [{}]\nrepair = [{}]\nin_flight = {}\n",
            quote(&world.stand.lagoon.url(USER, DATABASE)),
            quote(&format!("host=127.0.0.1 port={check} user={USER} password={PASSWORD} dbname={DATABASE}")),
            trouble.name,
            command("break"),
            command("repair"),
            quote(trouble.in_flight.as_str()),
        );
        fs::write(home.join("plan.toml"), plan).unwrap();
        let log = home.join("log");
        let output = fs::File::create(&log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_pglagoon"))
            .args(["drill", "--yes-break-it", "--clients", &CLIENTS.to_string()])
            .args(["--seconds", &phase().to_string(), "--config"])
            .arg(home.join("plan.toml"))
            .arg("--json")
            .arg(home.join("report.json"))
            .current_dir(home)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Drill { child, log }
    }

    fn wait_for(&mut self, file: &Path) {
        while !file.exists() {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "it has ended early:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn end(mut self) -> String {
        self.child.wait().unwrap();
        self.said()
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Drill {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The length of a phase in seconds, as the long form is told.
fn told() -> Option<u64> {
    std::env::var("PGLAGOON_CHAOS").ok()?.parse().ok()
}

fn phase() -> u64 {
    told().unwrap_or(1)
}

fn is_long() -> bool {
    told().is_some()
}

/// How much longer the long form takes than other tests.
pub fn seconds() -> u64 {
    told().map_or(0, |phase| 29 * (3 * phase + 15))
}
