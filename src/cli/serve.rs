//! `pglagoon serve --config FILE`: the pooler itself.
#![allow(clippy::print_stderr)]

use crate::config::{self, Config, LogFormat};
use crate::runtime;
use crate::server::{self, Beginning, ServeError};
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Serves until told to stop; exits with 1 if it cannot start.
pub fn run(path: &Path, beginning: Beginning) -> ExitCode {
    let config = match config::load(path, runtime::cores()) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{}", ServeError::Config(errors));
            return ExitCode::FAILURE;
        }
    };
    log(&config);
    config::warnings(&config).iter().for_each(|warning| tracing::warn!("{warning}"));
    match server::serve(path, config, beginning) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "pglagoon cannot start");
            ExitCode::FAILURE
        }
    }
}

fn log(config: &Config) {
    let filter = EnvFilter::try_new(&config.log.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().init(),
    }
}
