//! What systemd is told: that we are ready, reload, stop, live, and which process is the main one.
//!
//! Source: `sd_notify(3)`, `sd_watchdog_enabled(3)`; protocol: one datagram of `NAME=value` lines.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Where systemd listens, if it does. Its absence costs nothing; a word that does not get through is no error of ours.
#[derive(Debug, Default)]
pub(super) struct Systemd {
    line: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants to hear that we live, at the least.
    pub(super) watchdog: Option<Duration>,
}

impl Systemd {
    /// As the environment says.
    pub(super) fn from_environment() -> Systemd {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let is_meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|&time| time > 0 && is_meant);
        Systemd {
            line: std::env::var_os("NOTIFY_SOCKET").and_then(|address| connect(&address)),
            watchdog: watchdog.map(Duration::from_micros),
        }
    }

    /// Clients are served.
    pub(super) fn ready(&self) {
        self.tell("READY=1");
    }

    /// The configuration is being read again; [`ready`](Self::ready) follows.
    pub(super) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let microseconds = now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    }

    /// The end has begun.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Another process is the main one from now on.
    pub(super) fn succeeded_by(&self, pid: u32) {
        self.tell(&format!("MAINPID={pid}"));
    }

    /// Says that we live, twice as often as is asked for, until dropped.
    pub(super) async fn live(&self) {
        let Some(limit) = self.watchdog else { return std::future::pending().await };
        let mut tick = tokio::time::interval(limit / 2);
        loop {
            tick.tick().await;
            self.tell("WATCHDOG=1");
        }
    }

    fn tell(&self, words: &str) {
        if let Some((socket, address)) = &self.line
            && let Err(error) = socket.send_to_addr(words.as_bytes(), address)
        {
            tracing::debug!(%error, "systemd does not hear us");
        }
    }
}

/// A path, or a name in the abstract namespace, which begins with `@`.
fn connect(address: &OsStr) -> Option<(UnixDatagram, SocketAddr)> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(address),
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    Some((socket, address.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_a_socket_by_path_and_by_name() {
        let name = format!("pglagoon-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let hearing = UnixDatagram::bind_addr(&address).unwrap();
        let line = connect(OsStr::new(&format!("@{name}")));
        let systemd = Systemd { line, watchdog: None };
        let mut words = [0; 100];
        let mut heard = || {
            let count = hearing.recv(&mut words).unwrap();
            String::from_utf8_lossy(&words[..count]).into_owned()
        };
        systemd.ready();
        assert_eq!(heard(), "READY=1");
        systemd.reloading();
        let said = heard();
        let time = said.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(time.parse::<u64>().unwrap() > 0);
        systemd.succeeded_by(7);
        assert_eq!(heard(), "MAINPID=7");
        Systemd::default().ready();
    }
}
