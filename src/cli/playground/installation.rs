//! Where PostgreSQL's server programs are on this machine.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Error, output};

/// A directory with the programs of one PostgreSQL version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    bin: PathBuf,
    version: Version,
}

/// A server's version: 15.18 is major 15, minor 18.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// What changes once a year.
    pub major: u32,
    /// What changes with bug fixes.
    pub minor: u32,
}

impl Installation {
    /// The installation with its programs in `bin`.
    ///
    /// # Errors
    /// There is no `postgres` that tells its version, or `initdb` or `psql` is missing.
    pub fn at(bin: &Path) -> Result<Installation, Error> {
        let missing = || Error::NotInstalled { looked: bin.display().to_string() };
        let bin = bin.canonicalize().map_err(|_| missing())?;
        if !bin.join("initdb").is_file() || !bin.join("psql").is_file() {
            return Err(missing());
        }
        let said = output(Command::new(bin.join("postgres")).arg("--version"))?;
        let version = Version::from_words(&said).ok_or_else(missing)?;
        Ok(Installation { bin, version })
    }

    /// The newest installation in the usual places.
    ///
    /// # Errors
    /// There is none.
    pub fn newest() -> Result<Installation, Error> {
        Self::usual_places()
            .iter()
            .filter_map(|bin| Self::at(bin).ok())
            .max_by_key(Installation::version)
            .ok_or_else(|| Error::NotInstalled { looked: USUAL_PARENTS.join("/*/bin, ") + "/*/bin, PATH" })
    }

    /// `DIR/*/bin` of the packagers' places, and where PATH has a `postgres`.
    fn usual_places() -> Vec<PathBuf> {
        let packaged = USUAL_PARENTS
            .iter()
            .filter_map(|parent| fs::read_dir(parent).ok())
            .flat_map(|entries| entries.filter_map(Result::ok))
            .map(|entry| entry.path().join("bin"));
        let on_path = std::env::var_os("PATH")
            .into_iter()
            .flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
        packaged.chain(on_path).filter(|bin| bin.join("postgres").is_file()).collect()
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The directory of its programs.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The path of one of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// A command that runs one of its programs, in English, and with nothing of what the caller's environment says about
    /// servers.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.program(name));
        for leak in
            ["PGDATA", "PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGPASSWORD", "PGOPTIONS", "PGSERVICE"]
        {
            command.env_remove(leak);
        }
        command.env("LC_ALL", "C");
        // An installation that was moved finds its libpq here.
        if let Some(prefix) = self.bin.parent() {
            command.env("LD_LIBRARY_PATH", prefix.join("lib"));
        }
        command
    }
}

/// Debian's, Red Hat's, and that of a build from source.
const USUAL_PARENTS: [&str; 3] = ["/usr/lib/postgresql", "/usr/lib64/pgsql", "/usr/local"];

impl Version {
    /// From `postgres (PostgreSQL) 15.18 (Debian ...)`. Of `18beta1` only the major version is known.
    fn from_words(words: &str) -> Option<Version> {
        let number = words.split_whitespace().nth(2)?;
        let (major, rest) = number.split_once('.').unwrap_or((number, "0"));
        let digits: String = major.chars().take_while(char::is_ascii_digit).collect();
        Some(Version { major: digits.parse().ok()?, minor: rest.parse().unwrap_or(0) })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_servers_print_them() {
        let version = |words| Version::from_words(words).map(|version| version.to_string());
        assert_eq!(
            version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n").as_deref(),
            Some("15.18")
        );
        assert_eq!(version("postgres (PostgreSQL) 18.6").as_deref(), Some("18.6"));
        assert_eq!(version("postgres (PostgreSQL) 19beta1").as_deref(), Some("19.0"));
        assert_eq!(version("not a server"), None);
    }
}
