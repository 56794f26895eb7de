//! A network of a test's own: a namespace in which servers have addresses that can be cut off. What is sent to such an address,
//! or comes from it, vanishes then: no reset, no FIN, no "unreachable", for new connections as for those that are there.
//! Programs on both sides live on, and TCP finds its way again when the address is back.
//!
//! An address is one of the loopback's. Taken from it, and with a route into the loopback in its place, its packets come to a
//! host that has no such address and forwards nothing. That takes `unshare` and `ip`, and no device or module of the kernel's.

use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

/// Where servers are: addresses that RFC 5737 keeps for documentation, so that nobody else has them.
pub fn address(place: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 1 + u8::try_from(place).expect("a few servers"))
}

/// Tells the test that it runs in its own network already.
const MARK: &str = "PGLAGOON_TEST_OWN_NETWORK";

/// Runs `body` in a network of its own: the test called `name`, once more, in another process. Where this user may not have
/// one, nothing is tested.
pub fn with_a_network_of_its_own(name: &str, body: impl FnOnce()) {
    if std::env::var_os(MARK).is_some() {
        ip("link set lo up");
        return body();
    }
    if !unshared("ip").args(["link", "show", "lo"]).output().is_ok_and(|tried| tried.status.success()) {
        eprintln!("nothing is tested: this user may not have a network namespace here, or there is no `ip`");
        return;
    }
    let program = std::env::current_exe().unwrap();
    let again = unshared(program.to_str().expect("a path of cargo's"))
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&again.stdout);
    assert!(again.status.success() && said.contains("1 passed"), "{}:\n{said}", again.status);
}

/// A program in a network namespace. An ordinary user's is one of a namespace of users that he has to himself, in which he keeps
/// his name, because PostgreSQL does not run as root, be that one of that namespace only.
fn unshared(program: &str) -> Command {
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let mut command = Command::new("unshare");
    if !is_root {
        command.args(["--user", "--map-current-user", "--keep-caps"]);
    }
    command.args(["--net", program]);
    // Debian keeps `ip` where only root's PATH leads.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

/// Gives the server at this place its address, for the first time or again.
pub fn reach(place: usize) {
    let address = address(place);
    // None is there the first time.
    let _ = Command::new("ip").args(["route", "del", &format!("{address}/32"), "dev", "lo"]).output();
    ip(&format!("address add {address}/32 dev lo"));
}

/// Cuts the server at this place off.
pub fn cut_off(place: usize) {
    let address = address(place);
    ip(&format!("address del {address}/32 dev lo"));
    ip(&format!("route add {address}/32 dev lo"));
}

fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {output:?}");
}
