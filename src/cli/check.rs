//! `pglagoon check --config FILE`: is the file good? Says all that is wrong with it, not just the first thing.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::Path;
use std::process::ExitCode;

use crate::config::{self, Config};
use crate::runtime;

/// Prints a summary and warnings to standard output and exits with 0, or the errors to standard error and with 1.
pub fn run(path: &Path) -> ExitCode {
    match config::load(path, runtime::cores()) {
        Ok(config) => {
            println!("ok: {}", summary(&config));
            config::warnings(&config).iter().for_each(|warning| println!("warning: {warning}"));
            ExitCode::SUCCESS
        }
        Err(errors) => {
            errors.iter().for_each(|error| eprintln!("error: {error}"));
            eprintln!("{} has {}", path.display(), counted(errors.len(), "error"));
            ExitCode::FAILURE
        }
    }
}

/// `listening on 127.0.0.1:6432 with 2 workers; 1 user; 2 databases on 3 servers`
fn summary(config: &Config) -> String {
    let databases: Vec<_> = config.databases.values().chain(&config.any_database).collect();
    let servers: std::collections::BTreeSet<_> =
        databases.iter().flat_map(|database| &database.servers).collect();
    format!(
        "listening on {} with {}; {}; {} on {}",
        listening(config),
        counted(config.listen.workers, "worker"),
        counted(config.users.len(), "user"),
        counted(databases.len(), "database"),
        counted(servers.len(), "server"),
    )
}

fn listening(config: &Config) -> String {
    let tcp = config.listen.addresses.iter().map(ToString::to_string);
    let unix = config.listen.unix.iter().map(|unix| format!("{}:{}", unix.directory.display(), unix.port));
    tcp.chain(unix).collect::<Vec<_>>().join(", ")
}

fn counted(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_counts() {
        let text = include_str!("../../config/minimal.toml");
        let config = config::parse(text, &|_| Ok(String::new()), 1).expect("good");
        assert_eq!(
            summary(&config),
            "listening on 127.0.0.1:6432 with 1 worker; 1 user; 1 database on 1 server"
        );
    }

    #[test]
    fn the_files_of_the_project_are_good() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
        for file in ["minimal.toml", "reference.toml"] {
            let config = config::load(&folder.join(file), 1);
            assert!(config.is_ok(), "{file}: {:?}", config.err());
        }
    }

    /// Not a test: writes the reference again after a change of its table.
    #[test]
    #[ignore = "writes config/reference.toml"]
    fn write_reference() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/reference.toml");
        std::fs::write(path, config::keys::reference()).expect("written");
    }
}
