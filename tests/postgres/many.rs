//! Many sections before the same servers: they share what looks after those, and nothing that is their own.

use std::collections::BTreeSet;

use pglagoon::cli::playground::Stop;

use crate::harness::{Setup, Stand, eventually, eventually_async, options, quote, rows, table, value};
use crate::reload::reload;

const SECTIONS: usize = 40;

fn section(number: usize) -> String {
    format!("tenant{number:02}")
}

/// One more section, before the same servers as `app`, for the same database.
fn with_section(setup: Setup, number: usize) -> Setup {
    let servers = setup.value("databases.app", "servers").expect("app has some").to_owned();
    let name = format!("databases.{}", section(number));
    setup.set(&name, "servers", servers).set(&name, "database", quote("app"))
}

fn with_sections(setup: Setup) -> Setup {
    (0..SECTIONS).fold(setup, with_section)
}

/// What pglagoon has on a server for itself: process ids.
fn own_connections(stand: &Stand, place: usize, condition: &str) -> BTreeSet<String> {
    values_of_own_connections(stand, place, "pid", condition)
}

fn values_of_own_connections(stand: &Stand, place: usize, column: &str, condition: &str) -> BTreeSet<String> {
    let sql = format!(
        "SELECT {column} FROM pg_stat_activity WHERE application_name = 'pglagoon monitor' AND {condition}"
    );
    let values = stand.playground.nodes()[place].sql(&sql).unwrap();
    values.lines().map(str::to_owned).collect()
}

/// The monitor's, and the one over which positions are asked for.
const MOST: usize = 2;

fn wait_for_few(stand: &Stand) {
    for place in 0..3 {
        // Who reads catalogs comes and goes.
        eventually("each server has few connections that look after it", || {
            let count = own_connections(stand, place, "true").len();
            (1..=MOST).contains(&count)
        });
    }
}

async fn connect(stand: &Stand, database: &str) -> tokio_postgres::Client {
    stand.lagoon.connect(&stand.lagoon.url("app", database)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sections_before_the_same_servers_share_who_looks_after_them() {
    let stand = Stand::new(with_sections);
    wait_for_few(&stand);
    let console = stand.lagoon.console().await;
    let nodes = table(&console, "SHOW NODES").await;
    assert_eq!(nodes.len(), 3 * (SECTIONS + 1));
    for section in (0..SECTIONS).map(section).chain(["app".to_owned()]) {
        let own: Vec<_> = nodes.iter().filter(|row| row["database"] == section).collect();
        let roles: Vec<_> = own.iter().map(|row| (&*row["role"], &*row["health"])).collect();
        let healthy = |role| (role, "healthy");
        assert_eq!(roles, [healthy("primary"), healthy("replica"), healthy("replica")], "{section}");
    }
    // Reads of the last section are split as those of the first are.
    let last = connect(&stand, &section(SECTIONS - 1)).await;
    eventually_async("a read goes to a replica", async || {
        rows(&last, "SELECT count(*) FROM numbers /* last */").await;
        stand.ran_on("/* last */")[1..] != [0, 0]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn few_catalogs_are_read_before_anybody_asks() {
    let stand = Stand::new(with_sections);
    let read = || stand.ran_on("SET LOCAL lock_timeout = '100ms'")[0];
    // Sixteen have theirs kept; app's was asked for to warm up, and then its seat may be another's.
    eventually("some catalogs are read", || read() >= 16);
    let busy = connect(&stand, "app").await;
    for turn in 0..5 {
        rows(&busy, &format!("SELECT {turn} FROM numbers WHERE i = 1")).await;
    }
    assert!(read() < SECTIONS, "{} catalogs were read", read());
    let asked = connect(&stand, &section(SECTIONS - 1)).await;
    let before = stand.ran_on("/* asked */");
    eventually_async("its catalog is read when its first client comes", async || {
        rows(&asked, "SELECT word FROM numbers WHERE i = 1 /* asked */").await;
        stand.ran_on("/* asked */")[1..] != before[1..]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_moves_every_section() {
    let mut stand = Stand::new(|setup| with_sections(setup).set("routing", "on_lost_write", quote("reset")));
    let mut clients = Vec::new();
    for number in [0, 7, SECTIONS - 1] {
        let client = connect(&stand, &section(number)).await;
        assert_eq!(value(&client, "SELECT note('before')").await, "before");
        clients.push(client);
    }
    stand.playground.wait_caught_up().unwrap();
    stand.playground.node_mut(0).stop(Stop::Immediate).unwrap();
    stand.playground.nodes()[1].promote().unwrap();
    for client in &clients {
        assert_eq!(value(client, "SELECT note('after')").await, "after");
    }
    let count =
        stand.playground.nodes()[1].sql_in("app", "SELECT count(*) FROM notes WHERE word = 'after'").unwrap();
    assert_eq!(count.trim(), "3");
    let console = stand.lagoon.console().await;
    let nodes = table(&console, "SHOW NODES").await;
    let promoted = stand.playground.nodes()[1].address();
    let primaries: Vec<_> =
        nodes.iter().filter(|row| row["role"] == "primary" && row["health"] == "healthy").collect();
    assert_eq!(primaries.len(), SECTIONS + 1);
    assert!(primaries.iter().all(|row| row["server"] == promoted), "{primaries:?}");
    // Who reads catalogs there comes and goes.
    eventually("few connections look after the new primary", || {
        (1..=MOST).contains(&own_connections(&stand, 1, "true").len())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn how_far_is_too_far_behind_is_for_each_section_to_say() {
    let stand = Stand::new(|setup| {
        let setup = with_section(with_section(setup, 0), 1).set("routing", "max_lag", quote("1h"));
        setup.set("databases.tenant01.routing", "max_lag", quote("200ms"))
    });
    stand.playground.nodes()[2].pause_replay().unwrap();
    let console = stand.lagoon.console().await;
    let writer = stand.client().await;
    let behind = stand.playground.nodes()[2].address();
    let health = async |section: &str| {
        let nodes = table(&console, "SHOW NODES").await;
        let row = nodes.into_iter().find(|row| row["database"] == section && row["server"] == behind);
        row.expect("the section has the server")
    };
    eventually_async("the strict section finds the replica too far behind", async || {
        rows(&writer, "SELECT note('more')").await;
        health("tenant01").await["health"] == "lagging"
    })
    .await;
    assert!(health("tenant01").await["why"].contains("behind the primary"));
    for section in ["app", "tenant00"] {
        assert_eq!(health(section).await["health"], "healthy", "{section}");
    }
    stand.playground.nodes()[2].resume_replay().unwrap();
    eventually_async("it is back for all", async || health("tenant01").await["health"] == "healthy").await;
    wait_for_few(&stand);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_keeps_who_looks_after_servers_that_are_still_named() {
    let mut stand = Stand::new(|setup| (0..3).fold(setup, with_section));
    wait_for_few(&stand);
    // Positions are asked for by then: both connections are there, and nobody reads a catalog.
    let client = connect(&stand, "tenant02").await;
    assert_eq!(value(&client, "SELECT note('one')").await, "one");
    rows(&client, "SELECT count(*) FROM notes").await;
    wait_for_few(&stand);
    let before: Vec<_> = (0..3).map(|place| own_connections(&stand, place, "true")).collect();
    reload(&mut stand, |setup| with_section(setup, 3).without("databases.tenant00").without("databases.app"))
        .await;
    let added = connect(&stand, "tenant03").await;
    assert_eq!(value(&added, "SELECT note('two')").await, "two");
    assert_eq!(value(&client, "SELECT note('three')").await, "three");
    wait_for_few(&stand);
    for (place, before) in before.iter().enumerate() {
        assert!(before.is_subset(&own_connections(&stand, place, "true")), "server {place}");
    }
    let console = stand.lagoon.console().await;
    let sections: BTreeSet<_> =
        table(&console, "SHOW NODES").await.into_iter().map(|row| row["database"].clone()).collect();
    assert_eq!(sections, ["tenant01", "tenant02", "tenant03"].map(str::to_owned).into());
    // All go elsewhere: nobody looks after the replicas any more.
    let primary = format!("[{}]", quote(&stand.playground.primary().address()));
    reload(&mut stand, |setup| {
        (1..4).fold(setup, |setup, number| {
            setup.set(&format!("databases.{}", section(number)), "servers", primary.clone())
        })
    })
    .await;
    assert_eq!(value(&added, "SELECT note('four')").await, "four");
    for place in 1..3 {
        eventually("the replicas are left alone", || own_connections(&stand, place, "true").is_empty());
    }
    eventually("the primary is looked after", || {
        (1..=MOST).contains(&own_connections(&stand, 0, "true").len())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_how_often_servers_are_asked() {
    let mut stand = Stand::new(|setup| setup.set("monitor", "interval", quote("1h")));
    reload(&mut stand, |setup| setup.set("monitor", "interval", quote("100ms"))).await;
    // More often than clients that waited at the start can have been a reason for.
    let mut times = BTreeSet::new();
    eventually("it is asked again and again", || {
        times.extend(values_of_own_connections(&stand, 1, "query_start", "query LIKE '%recovery%'"));
        times.len() >= 8
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_dropped_keeps_no_other_section_from_being_served() {
    let options = options(&crate::harness::installations()[0]);
    let mut stand = Stand::unwarmed(options, |setup| {
        let servers = setup.value("databases.app", "servers").expect("app has some").to_owned();
        // The first by name, so that the monitor uses it.
        with_section(
            setup.set("databases.aaa", "servers", servers).set("databases.aaa", "database", quote("gone")),
            0,
        )
    });
    eventually("the other section's database is used until there is one", || {
        !own_connections(&stand, 0, "datname = 'app'").is_empty()
    });
    stand.playground.primary().sql("CREATE DATABASE gone").unwrap();
    stand.playground.wait_caught_up().unwrap();
    // Started anew, pglagoon finds it; that takes the monitor nowhere else as long as it is there.
    stand.lagoon = crate::harness::Lagoon::start(&stand.playground, stand.lagoon.setup());
    eventually("the first section's database is used", || {
        (0..3).all(|place| !own_connections(&stand, place, "datname = 'gone'").is_empty())
    });
    stand.playground.primary().sql("DROP DATABASE gone WITH (FORCE)").unwrap();
    eventually("the next section's database is used", || {
        (0..3).all(|place| {
            !own_connections(&stand, place, "datname = 'app' AND query LIKE '%recovery%'").is_empty()
        })
    });
    let client = connect(&stand, "tenant00").await;
    assert_eq!(value(&client, "SELECT note('served')").await, "served");
    eventually_async("reads are split", async || {
        rows(&client, "SELECT word FROM numbers WHERE i = 1 /* split */").await;
        stand.ran_on("/* split */")[1..] != [0, 0]
    })
    .await;
}
