//! `pglagoon drill`: breaks servers on purpose while a checked workload runs, and reports what the clients saw.
//!
//! Each fault has three phases of the same length: before, during and after it; the last one goes on until a write has
//! succeeded. The built-in cluster is made anew for each, so that every fault meets the same world; a staging cluster is broken
//! and repaired by the operator's commands, and only after an express consent. A cluster that was broken is repaired, also when
//! the drill is ended early.
//!
//! ```text
//!   fault.rs     what can be broken, as steps
//!   stage.rs     where, and the hands that take the steps
//!   workload.rs  clients that note what they see
//!   report.rs    what that means; page.rs draws it
//! ```

mod fault;
mod page;
mod report;
mod stage;
mod workload;

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::demo::{self, Stop};
use super::playground::Installation;
use fault::{Fault, REPLICAS, Staging, Step};
use report::{Course, Findings, Report};
use stage::{Hands, Stage};
use workload::Workload;

/// What `pglagoon drill` is told.
#[derive(Debug, Clone, clap::Args)]
pub struct DrillArgs {
    /// The faults, in this order [default: all]
    #[arg(value_name = "FAULT")]
    pub faults: Vec<String>,
    /// Say which faults there are, and end
    #[arg(long)]
    pub list: bool,
    /// Clients of the workload
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=500))]
    pub clients: u16,
    /// Length of each phase: before, during and after a fault
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the report as a page with charts
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Break a staging cluster by the commands in this file (TOML) instead of a cluster of our own
    #[arg(long, value_name = "FILE", conflicts_with = "pg_bin")]
    pub config: Option<PathBuf>,
    /// Consent to that: the commands of --config are run
    #[arg(long, requires = "config")]
    pub yes_break_it: bool,
    /// The directory of PostgreSQL's server programs [default: the newest that is installed]
    #[arg(long, value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,
}

/// Runs the drill to its end: 0 if every fault passed.
pub fn run(args: &DrillArgs) -> ExitCode {
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::from)
        .and_then(|runtime| runtime.block_on(drill(args)));
    outcome.unwrap_or_else(|error| {
        // Where stderr is closed too, the exit code remains.
        let _ = writeln!(io::stderr(), "drill: {error}");
        ExitCode::FAILURE
    })
}

async fn drill(args: &DrillArgs) -> Result<ExitCode, Error> {
    let mut out = io::stdout();
    let staging = args.config.as_deref().map(Staging::load).transpose().map_err(Error::Refused)?;
    let known = staging.as_ref().map_or_else(fault::built_in, Staging::faults);
    let faults = fault::select(known, &args.faults).map_err(Error::Refused)?;
    if args.list {
        faults.iter().try_for_each(|fault| writeln!(out, "{:<20} {}", fault.name, fault.about))?;
        return Ok(ExitCode::SUCCESS);
    }
    if staging.is_some() && !args.yes_break_it {
        say_plan(&faults, &mut out)?;
        return Err(Error::NoConsent);
    }
    // From here on: whoever ends the drill must find the cluster repaired.
    let mut stop = Stop::listen()?;
    let mut report = Report {
        pglagoon: env!("CARGO_PKG_VERSION"),
        cluster: cluster(staging.as_ref(), args)?,
        clients: args.clients,
        seconds_per_phase: u64::from(args.seconds),
        passed: true,
        faults: Vec::new(),
    };
    writeln!(out, "drill: {}, {} faults\n", report.cluster, faults.len())?;
    for fault in &faults {
        let findings = on_stage(fault, staging.as_ref(), args, &mut stop).await?;
        writeln!(out, "{findings}")?;
        report.passed &= findings.passed;
        report.faults.push(findings);
    }
    write(&report, args)?;
    writeln!(out, "drill: {}", if report.passed { "passed" } else { "FAILED" })?;
    Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What would be done to a staging cluster.
fn say_plan(faults: &[Fault], out: &mut impl Write) -> io::Result<()> {
    for fault in faults {
        writeln!(out, "{}", fault.name)?;
        fault.inject.iter().try_for_each(|step| writeln!(out, "  break   {step}"))?;
        fault.repair.iter().try_for_each(|step| writeln!(out, "  repair  {step}"))?;
    }
    Ok(())
}

/// What is drilled, for people. No address of the operator's: it may hold a password.
fn cluster(staging: Option<&Staging>, args: &DrillArgs) -> Result<String, Error> {
    if staging.is_some() {
        return Ok("the operator's staging cluster".to_owned());
    }
    let installation = match &args.pg_bin {
        Some(bin) => Installation::at(bin)?,
        None => Installation::newest()?,
    };
    Ok(format!("a PostgreSQL {} primary, {REPLICAS} replicas, pglagoon before them", installation.version()))
}

async fn on_stage(
    fault: &Fault,
    staging: Option<&Staging>,
    args: &DrillArgs,
    stop: &mut Stop,
) -> Result<Findings, Error> {
    let stage = match staging {
        Some(staging) => Stage::staging(staging).await?,
        None => Stage::built_in(args.pg_bin.clone()).await?,
    };
    let findings = rehearse(fault, &stage, args, stop).await;
    let cleared = stage.clear().await;
    // Why it could not be rehearsed is worth more than what became of the table.
    findings.and_then(|findings| cleared.map(|()| findings))
}

async fn rehearse(
    fault: &Fault,
    stage: &Stage,
    args: &DrillArgs,
    stop: &mut Stop,
) -> Result<Findings, Error> {
    for step in &fault.prepare {
        stage.hands().take(step).await?;
    }
    let workload = Arc::new(Workload::new(stage.clients(), stage.table(), fault.in_flight));
    let clients = workload.start(args.clients);
    let phase = Duration::from_secs(u64::from(args.seconds));
    let mut director = Director::new(fault, stage.hands(), &workload);
    // Both are cancel safe: a signal is kept until it is received, and what the director has left broken is repaired below.
    let outcome = tokio::select! {
        outcome = director.direct(usize::from(args.clients), phase) => outcome,
        () = stop.told() => Err(Error::Ended),
    };
    workload.stop();
    let course = match outcome {
        Ok(course) => course,
        Err(error) => {
            clients.iter().for_each(tokio::task::JoinHandle::abort);
            director.repair_what_is_broken().await?;
            return Err(error);
        }
    };
    for client in clients {
        client.await.map_err(|_| demo::Error::Workload)?;
    }
    Ok(Findings::new(fault, &course, workload.take_journal(), &stage.rows().await?))
}

/// Takes a fault through its three phases.
struct Director<'a> {
    fault: &'a Fault,
    hands: &'a Hands,
    workload: &'a Workload,
    steps: Vec<(String, Duration)>,
    condition: Condition,
}

/// Of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Whole,
    /// A step of the fault was begun, and the repair has not ended.
    Broken,
}

impl<'a> Director<'a> {
    fn new(fault: &'a Fault, hands: &'a Hands, workload: &'a Workload) -> Self {
        Director { fault, hands, workload, steps: Vec::new(), condition: Condition::Whole }
    }

    async fn direct(&mut self, clients: usize, phase: Duration) -> Result<Course, Error> {
        self.wait_busy(clients).await?;
        let began = self.workload.clock();
        tokio::time::sleep(phase).await;
        let breaking = self.workload.clock();
        self.condition = Condition::Broken;
        self.take(&self.fault.inject).await?;
        let broken = self.steps.first().map_or(breaking, |(_, ended)| *ended);
        tokio::time::sleep(phase).await;
        self.take(&self.fault.repair).await?;
        self.condition = Condition::Whole;
        let repaired = self.workload.clock();
        tokio::time::sleep(phase).await;
        self.wait_written(broken).await;
        let (ended, steps) = (self.workload.clock(), std::mem::take(&mut self.steps));
        Ok(Course { began, breaking, broken, repaired, ended, steps })
    }

    /// Until every client is at work: what a fault changes can be told only then.
    async fn wait_busy(&self, clients: usize) -> Result<(), Error> {
        const LIMIT: Duration = Duration::from_secs(60);
        while self.workload.busy_clients() < clients {
            if self.workload.clock() > LIMIT {
                return Err(Error::Idle { busy: self.workload.busy_clients(), clients });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Until a write succeeds that began under the fault: when it was is told, however short the phases are. Behind a network that
    /// was cut off, connections come to life only when TCP sends again, which takes as long as it was cut off.
    async fn wait_written(&self, broken: Duration) {
        const LIMIT: Duration = Duration::from_secs(30);
        let until = self.workload.clock() + LIMIT;
        while !self.workload.has_written_since(broken) && self.workload.clock() < until {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn take(&mut self, steps: &[Step]) -> Result<(), Error> {
        for step in steps {
            self.hands.take(step).await?;
            self.steps.push((step.to_string(), self.workload.clock()));
        }
        Ok(())
    }

    async fn repair_what_is_broken(&mut self) -> Result<(), Error> {
        match self.condition {
            Condition::Whole => Ok(()),
            Condition::Broken => self.take(&self.fault.repair).await,
        }
    }
}

fn write(report: &Report, args: &DrillArgs) -> Result<(), Error> {
    let put = |path: &PathBuf, text: String| {
        fs::write(path, text).map_err(|error| Error::Refused(format!("{}: {error}", path.display())))
    };
    if let Some(path) = &args.json {
        put(path, serde_json::to_string_pretty(report).map_err(io::Error::from)? + "\n")?;
    }
    if let Some(path) = &args.html {
        put(path, page::page(report))?;
    }
    Ok(())
}

/// Why a drill ended early.
#[derive(Debug)]
enum Error {
    /// What the demo's parts could not do.
    Demo(demo::Error),
    /// What was asked for cannot be done.
    Refused(String),
    NoConsent,
    Step {
        step: String,
        why: String,
    },
    /// Not every client could do its work, before anything was broken.
    Idle {
        busy: usize,
        clients: usize,
    },
    /// Somebody ended it.
    Ended,
}

impl<E: Into<demo::Error>> From<E> for Error {
    fn from(error: E) -> Self {
        Error::Demo(error.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Demo(error) => error.fmt(f),
            Error::Refused(why) => f.write_str(why),
            Error::NoConsent => {
                f.write_str("these commands break servers; to have them run, say --yes-break-it")
            }
            Error::Step { step, why } => write!(f, "{step:?} failed: {why}"),
            Error::Idle { busy, clients } => {
                write!(f, "only {busy} of {clients} clients could write and read, before anything was broken")
            }
            Error::Ended => f.write_str("ended before its end; what was broken is repaired"),
        }
    }
}
