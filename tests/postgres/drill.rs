//! `pglagoon drill`: its own cluster is broken and repaired, a staging cluster only after consent, and the report says what
//! became of the clients.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use pglagoon::cli::playground::{DATABASE, USER};
use serde_json::Value;

use crate::harness::{Stand, installations};

/// A folder for one test, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let memory = Some(PathBuf::from("/dev/shm")).filter(|memory| memory.is_dir());
        let parent = memory.unwrap_or_else(std::env::temp_dir);
        let folder = parent.join(format!("drill-{name}-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        // The servers' user must pass.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o711)).unwrap();
        Folder(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs `pglagoon drill`, with its temporary files in the folder.
fn drill(folder: &Folder, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pglagoon"))
        .arg("drill")
        .args(arguments)
        .env("TMPDIR", &folder.0)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn report(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn count(of: &Value) -> u64 {
    of.as_u64().unwrap_or_else(|| panic!("{of} is not a count"))
}

/// Processes that work in the folder.
fn processes_in(folder: &Path) -> usize {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let working = processes.filter_map(|process| fs::read_link(process.path().join("cwd")).ok());
    working.filter(|directory| directory.starts_with(folder)).count()
}

#[test]
fn a_drill_of_its_own_cluster_reports_each_fault_and_leaves_nothing_behind() {
    let folder = Folder::new("own");
    let (json, html) = (folder.path("report.json"), folder.path("report.html"));
    let bin = installations().remove(0);
    let output = drill(
        &folder,
        &[
            "kill-replica",
            "pause-replay",
            "--seconds",
            "2",
            "--clients",
            "8",
            "--json",
            json.to_str().unwrap(),
            "--html",
            html.to_str().unwrap(),
            "--pg-bin",
            bin.to_str().unwrap(),
        ],
    );
    let said = format!("{output:?}");
    let report = report(&json);
    let faults = report["faults"].as_array().unwrap();
    let names: Vec<&str> = faults.iter().filter_map(|fault| fault["fault"].as_str()).collect();
    assert_eq!(names, ["kill-replica", "pause-replay"], "{said}");
    for fault in faults {
        assert!(count(&fault["acknowledged_writes"]) > 0 && count(&fault["reads"]) > 0, "{said}");
        assert_eq!(count(&fault["lost_acknowledged_writes"]), 0, "{said}");
        assert_eq!(count(&fault["stale_reads"]), 0, "{said}");
        for phase in ["before", "during", "after"] {
            assert!(count(&fault[phase]["operations"]) > 0, "{said}");
            assert!(fault[phase]["p99_ms"].as_f64() >= fault[phase]["p50_ms"].as_f64(), "{said}");
        }
        assert!(fault["first_write_ms"].as_f64().is_some_and(|time| time > 0.0), "{said}");
        assert!(
            fault["repaired_ms"].as_f64() >= fault["broken_ms"].as_f64().map(|at| at + 2_000.0),
            "{said}"
        );
    }
    assert!(output.status.success() && report["passed"] == true, "{said}");
    assert!(fs::read_to_string(&html).unwrap().contains("<svg"));
    assert_eq!(folder.names(), ["report.html", "report.json"], "servers and their folders are gone");
    assert_eq!(processes_in(&folder.0), 0);
}

/// An operator's file that breaks and repairs by making the files `broken` and `repaired`.
fn plan(folder: &Folder, stand: &Stand) -> PathBuf {
    let touch = |name| format!("touch {}", folder.path(name).display());
    let plan = folder.path("drill.toml");
    let text = format!(
        "url = {:?}\n[faults.nothing]\nbreak = [{:?}]\nrepair = [{:?}]\nin_flight = \"survives\"\n",
        stand.lagoon.url(USER, DATABASE),
        touch("broken"),
        touch("repaired")
    );
    fs::write(&plan, text).unwrap();
    plan
}

fn tables_left(stand: &Stand) -> String {
    let sql = "SELECT count(*) FROM pg_class WHERE relname LIKE 'pglagoon_drill%'";
    stand.playground.primary().sql(sql).unwrap().trim().to_owned()
}

#[test]
fn a_staging_cluster_is_broken_only_after_consent() {
    let stand = Stand::new(|setup| setup);
    let folder = Folder::new("staging");
    let (plan, json) = (plan(&folder, &stand), folder.path("report.json"));
    let arguments = [
        "--config",
        plan.to_str().unwrap(),
        "--seconds",
        "1",
        "--clients",
        "4",
        "--json",
        json.to_str().unwrap(),
    ];

    let refused = drill(&folder, &arguments);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stdout).contains("break   touch"), "it says what it would do");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--yes-break-it"));
    assert_eq!(folder.names(), ["drill.toml"]);

    let done = drill(&folder, &[&arguments[..], &["--yes-break-it"]].concat());
    assert!(done.status.success(), "{done:?}");
    assert_eq!(folder.names(), ["broken", "drill.toml", "repaired", "report.json"]);
    assert_eq!(report(&json)["faults"][0]["errors"], serde_json::json!({}));
    assert_eq!(tables_left(&stand), "0");
}

#[test]
fn a_drill_that_is_ended_repairs_what_it_broke() {
    let stand = Stand::new(|setup| setup);
    let folder = Folder::new("ended");
    let plan = plan(&folder, &stand);
    let mut child = Command::new(env!("CARGO_BIN_EXE_pglagoon"))
        .args(["drill", "--yes-break-it", "--seconds", "5", "--clients", "4", "--config"])
        .arg(&plan)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = child.id().to_string();
    // Ended by the test's own time limit if it never breaks anything.
    while !folder.path("broken").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it broke anything");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!folder.path("repaired").exists());
    assert!(
        Command::new("/bin/sh").args(["-c", "kill -TERM \"$1\"", "kill", &pid]).status().unwrap().success()
    );
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(folder.path("repaired").exists());
    assert_eq!(tables_left(&stand), "0");
}
