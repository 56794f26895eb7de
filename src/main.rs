//! `pglagoon`: arguments, then a subcommand. Nothing else.

use clap::{Parser, Subcommand};
use pglagoon::cli;
use pglagoon::server::Beginning;
use std::path::PathBuf;
use std::process::ExitCode;

/// A PostgreSQL connection pooler that sends reads to replicas and never shows a client an older world.
#[derive(Parser)]
#[command(name = "pglagoon", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves clients until SIGTERM; SIGUSR2 lets a new process take over.
    Serve {
        /// The configuration, TOML.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Said by the process that is to be taken over from.
        #[arg(long, hide = true)]
        take_over: bool,
    },
    /// Says whether a configuration is good; exit code 0 or 1.
    Check {
        /// The configuration, TOML.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Says where a statement would go, and why.
    Explain(cli::explain::ExplainArgs),
    /// Tries it all out: a real primary with replicas, pglagoon before them, and a workload.
    Demo(cli::demo::DemoArgs),
    /// Breaks servers on purpose under a checked workload, and reports what clients saw.
    Drill(cli::drill::DrillArgs),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Serve { config, take_over: false } => cli::serve::run(&config, Beginning::Fresh),
        Command::Serve { config, take_over: true } => cli::serve::run(&config, Beginning::TakeOver),
        Command::Check { config } => cli::check::run(&config),
        Command::Explain(args) => cli::explain::run(&args),
        Command::Demo(args) => cli::demo::run(&args),
        Command::Drill(args) => cli::drill::run(&args),
    }
}
