//! What can be broken: each fault is a list of steps that break something and a list that repair it. Those of the built-in
//! cluster are written here; those of a staging cluster come from the operator's file, as commands.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

/// One fault.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) name: String,
    /// What happens, in a line.
    pub(super) about: String,
    /// Before the workload starts.
    pub(super) prepare: Vec<Step>,
    /// Never empty. With the end of the first step the fault is there.
    pub(super) inject: Vec<Step>,
    pub(super) repair: Vec<Step>,
    pub(super) in_flight: InFlight,
}

/// What a transaction may see that is in flight when the fault comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum InFlight {
    /// Its server stays: it sees nothing.
    Survives,
    /// Its server dies or hangs: one error that drivers retry on, or "unknown".
    MayFail,
    /// As well; and what takes its place lacks acknowledged writes, so that each of their clients must be told.
    MayLose,
}

/// One thing that is done to a server. The built-in cluster's servers go by their place, 0 being the first primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Commits wait for this replica from now on.
    AwaitCommitsOf(usize),
    /// SIGKILL to all of its processes.
    Kill(usize),
    /// As `pg_ctl stop -m fast`.
    Stop(usize),
    Start(usize),
    Promote(usize),
    /// A replica has a new primary.
    Follow {
        replica: usize,
        primary: usize,
    },
    PauseReplay(usize),
    ResumeReplay(usize),
    /// SIGSTOP to all of its processes.
    Freeze(usize),
    Thaw(usize),
    /// The operator's, by `/bin/sh -c`.
    Command(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::AwaitCommitsOf(place) => write!(f, "commits wait for {}", server(*place)),
            Step::Kill(place) => write!(f, "kill -9 {}", server(*place)),
            Step::Stop(place) => write!(f, "stop {}", server(*place)),
            Step::Start(place) => write!(f, "start {}", server(*place)),
            Step::Promote(place) => write!(f, "promote {}", server(*place)),
            Step::Follow { replica, primary } => {
                write!(f, "{} follows {}", server(*replica), server(*primary))
            }
            Step::PauseReplay(place) => write!(f, "pause replay on {}", server(*place)),
            Step::ResumeReplay(place) => write!(f, "resume replay on {}", server(*place)),
            Step::Freeze(place) => write!(f, "kill -STOP {}", server(*place)),
            Step::Thaw(place) => write!(f, "kill -CONT {}", server(*place)),
            Step::Command(command) => f.write_str(command),
        }
    }
}

/// Its name in the playground.
fn server(place: usize) -> String {
    match place {
        0 => "primary".to_owned(),
        replica => format!("replica{replica}"),
    }
}

/// The faults of the built-in cluster: a primary and [`REPLICAS`] replicas.
pub(super) fn built_in() -> Vec<Fault> {
    use InFlight::{MayFail, Survives};
    use Step::*;
    let fault = |name: &str, about: &str, in_flight, inject, repair| Fault {
        name: name.to_owned(),
        about: about.to_owned(),
        prepare: Vec::new(),
        inject,
        repair,
        in_flight,
    };
    // Replication is asynchronous otherwise, and what a dead primary had not sent would be lost by PostgreSQL itself.
    let synchronous = |fault| Fault { prepare: vec![AwaitCommitsOf(1)], ..fault };
    let failover = || vec![Kill(0), Promote(1), Follow { replica: 2, primary: 1 }];
    vec![
        fault(
            "kill-primary",
            "the primary is killed, and started again when the phase is over",
            MayFail,
            vec![Kill(0)],
            vec![Start(0)],
        ),
        fault(
            "restart-primary",
            "the primary is restarted (fast)",
            MayFail,
            vec![Stop(0), Start(0)],
            Vec::new(),
        ),
        synchronous(fault(
            "promote",
            "the primary is killed and does not come back; a replica that commits had waited for is promoted",
            MayFail,
            failover(),
            Vec::new(),
        )),
        synchronous(fault(
            "old-primary-returns",
            "as promote; then the old primary comes back and takes itself for the primary still",
            MayFail,
            failover(),
            vec![Start(0)],
        )),
        fault(
            "kill-replica",
            "a replica is killed, and started again when the phase is over",
            Survives,
            vec![Kill(1)],
            vec![Start(1)],
        ),
        fault(
            "pause-replay",
            "a replica stops replaying, and so grows old",
            Survives,
            vec![PauseReplay(1)],
            vec![ResumeReplay(1)],
        ),
        fault(
            "freeze-primary",
            "the primary hangs: it accepts connections and answers nothing",
            MayFail,
            vec![Freeze(0)],
            vec![Thaw(0)],
        ),
        fault(
            "freeze-replica",
            "a replica hangs: it accepts connections and answers nothing",
            Survives,
            vec![Freeze(1)],
            vec![Thaw(1)],
        ),
    ]
}

/// Replicas of the built-in cluster: one to break, one that remains.
pub(super) const REPLICAS: usize = 2;

/// Those with these names, in that order; all if none is named.
///
/// # Errors
/// There is no fault of that name.
pub(super) fn select(faults: Vec<Fault>, names: &[String]) -> Result<Vec<Fault>, String> {
    if names.is_empty() {
        return Ok(faults);
    }
    let find = |name: &String| {
        faults.iter().find(|fault| fault.name == *name).cloned().ok_or_else(|| {
            let known: Vec<&str> = faults.iter().map(|fault| fault.name.as_str()).collect();
            format!("there is no fault {name:?}; there are {}", known.join(", "))
        })
    };
    names.iter().map(find).collect()
}

/// The operator's file: where the staging cluster is, and how to break it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Staging {
    /// Where the workload connects to: pglagoon.
    pub(super) url: String,
    /// Where the rows are counted at the end: the primary itself, past pglagoon. Without it, through pglagoon.
    pub(super) check_url: Option<String>,
    /// How long a command may take, in seconds.
    #[serde(default = "default_command_timeout")]
    command_timeout: u64,
    faults: BTreeMap<String, Commands>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Commands {
    #[serde(default)]
    about: String,
    #[serde(rename = "break")]
    inject: Vec<String>,
    #[serde(default)]
    repair: Vec<String>,
    /// What transactions in flight may see.
    #[serde(default = "default_in_flight")]
    in_flight: InFlight,
}

fn default_command_timeout() -> u64 {
    60
}

fn default_in_flight() -> InFlight {
    InFlight::MayFail
}

impl Staging {
    /// # Errors
    /// The file cannot be read, or does not say what it must.
    pub(super) fn load(path: &Path) -> Result<Staging, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Self::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn parse(text: &str) -> Result<Staging, String> {
        let staging: Staging = toml::from_str(text).map_err(|error| error.to_string())?;
        if staging.faults.is_empty() {
            return Err("faults: names no fault".to_owned());
        }
        match staging.faults.iter().find(|(_, commands)| commands.inject.is_empty()) {
            Some((name, _)) => Err(format!("faults.{name}.break: must hold at least one command")),
            None => Ok(staging),
        }
    }

    pub(super) fn command_timeout(&self) -> Duration {
        Duration::from_secs(self.command_timeout)
    }

    pub(super) fn faults(&self) -> Vec<Fault> {
        let steps = |commands: &[String]| commands.iter().cloned().map(Step::Command).collect();
        self.faults
            .iter()
            .map(|(name, commands)| Fault {
                name: name.clone(),
                about: commands.about.clone(),
                prepare: Vec::new(),
                inject: steps(&commands.inject),
                repair: steps(&commands.repair),
                in_flight: commands.in_flight,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found_by_name() {
        let names = |faults: Vec<Fault>| faults.into_iter().map(|fault| fault.name).collect::<Vec<_>>();
        let wanted = ["promote".to_owned(), "kill-replica".to_owned()];
        assert_eq!(names(select(built_in(), &wanted).unwrap()), wanted);
        assert_eq!(select(built_in(), &[]).unwrap().len(), built_in().len());
        let error = select(built_in(), &["flood".to_owned()]).unwrap_err();
        assert!(error.contains("\"flood\"") && error.contains("freeze-primary"), "{error}");
    }

    #[test]
    fn every_built_in_fault_breaks_something() {
        assert!(built_in().iter().all(|fault| !fault.inject.is_empty()));
    }

    #[test]
    fn the_operators_file_gives_commands() {
        let staging = Staging::parse(
            "url = 'postgresql://app@pooler/app'\n\
             [faults.pause]\n\
             about = 'db2 grows old'\n\
             break = ['ssh db2 pause']\n\
             repair = ['ssh db2 resume']\n\
             in_flight = 'survives'\n",
        )
        .unwrap();
        assert_eq!(staging.command_timeout(), Duration::from_secs(60));
        let [pause] = &staging.faults()[..] else { panic!("one fault") };
        assert_eq!(pause.inject, [Step::Command("ssh db2 pause".to_owned())]);
        assert_eq!((pause.name.as_str(), pause.in_flight), ("pause", InFlight::Survives));
    }

    #[test]
    fn an_operators_file_that_breaks_nothing_is_refused() {
        let refused = |text: &str| Staging::parse(text).unwrap_err();
        assert!(refused("url = ''\nfaults = {}").contains("names no fault"));
        assert!(refused("url = ''\n[faults.x]\nbreak = []").contains("faults.x.break"));
        assert!(refused("url = ''\n[faults.x]\nbraek = ['x']").contains("braek"));
    }
}
