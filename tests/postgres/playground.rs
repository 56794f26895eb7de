//! The playground itself: what all other tests stand on.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pglagoon::cli::playground::{Playground, Slots, Stop};

use crate::harness::{installations, options};

#[test]
fn every_version_replicates_survives_kills_and_can_be_promoted() {
    for bin in installations() {
        let mut playground = Playground::start(&options(&bin)).unwrap();
        playground.primary().sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i").unwrap();
        playground.wait_caught_up().unwrap();
        for replica in playground.replicas() {
            assert_eq!(replica.sql("SELECT count(*), pg_is_in_recovery() FROM t").unwrap(), "1000|t\n");
        }

        playground.replicas()[1].pause_replay().unwrap();
        playground.primary().sql("INSERT INTO t VALUES (0)").unwrap();
        assert_eq!(playground.replicas()[1].sql("SELECT count(*) FROM t").unwrap(), "1000\n");
        playground.replicas()[1].resume_replay().unwrap();
        playground.wait_caught_up().unwrap();
        assert_eq!(playground.replicas()[1].sql("SELECT count(*) FROM t").unwrap(), "1001\n");

        playground.node_mut(2).kill().unwrap();
        assert!(playground.replicas()[1].sql("SELECT 1").is_err());
        playground.node_mut(2).start().unwrap();
        playground.node_mut(0).restart(Stop::Immediate).unwrap();
        playground.wait_streaming(2).unwrap();

        playground.node_mut(0).stop(Stop::Fast).unwrap();
        playground.replicas()[0].promote().unwrap();
        assert_eq!(playground.replicas()[0].sql("SELECT pg_is_in_recovery()").unwrap(), "f\n");
    }
}

#[test]
fn replicas_can_have_slots_and_no_replicas_are_fine() {
    let bin = &installations()[0];
    let mut with_slots = options(bin);
    with_slots.slots = Slots::PerReplica;
    let playground = Playground::start(&with_slots).unwrap();
    let slots = playground.primary().sql("SELECT count(*) FROM pg_replication_slots WHERE active").unwrap();
    assert_eq!(slots, "2\n");

    let mut alone = options(bin);
    alone.replicas = 0;
    assert!(Playground::start(&alone).unwrap().replicas().is_empty());
}

#[test]
fn a_killed_process_leaves_nothing_behind() {
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "playground::hold_a_playground", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let folder = BufReader::new(holder.stdout.take().unwrap())
        .lines()
        .map(|line| line.unwrap())
        .find_map(|line| line.split_once("folder: ").map(|(_, folder)| folder.to_owned()))
        .expect("the holder names its folder");
    assert!(Path::new(&folder).is_dir());

    holder.kill().unwrap();
    holder.wait().unwrap();

    let deadline = Instant::now() + Duration::from_secs(20);
    while Path::new(&folder).exists() {
        assert!(Instant::now() < deadline, "{folder} is still there");
        std::thread::sleep(Duration::from_millis(10));
    }
    // The folder goes last, so no process works in it any more.
}

/// Not a test: the process that the test above kills.
#[test]
#[ignore = "is started by a_killed_process_leaves_nothing_behind"]
#[allow(clippy::print_stdout)]
fn hold_a_playground() {
    let playground = Playground::start(&options(&installations()[0])).unwrap();
    println!("folder: {}", playground.folder().display());
    // Ends at the latest when the test that started this has ended.
    let _ = std::io::stdin().lines().next();
}
