//! `pglagoon explain --config FILE 'SQL'`: where a statement would go, and why.
//!
//! Offline it knows the statement and what PostgreSQL brings; relations that it does not know are taken for ordinary
//! tables, and named. With `--live` it asks the servers what they are and reads their catalog, as `pglagoon serve` does.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use crate::auth::ServerCredential;
use crate::catalog::Builtin;
use crate::cluster::{Database, Directory, Notes, failover::Standing};
use crate::config::{self, Config};
use crate::net::Resolver;
use crate::routing::explain::{self, Case, Fitness, Line, Server, Servers, Way};
use crate::routing::{self, History, Terms};
use crate::runtime;
use crate::sql::{Cache, Catalog, Statement, Verdict};
use clap::Args;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the servers are waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to explain.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The configuration, TOML.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The database, by the name that clients use; not needed if there is only one.
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// Ask the servers what they are, and read their catalog.
    #[arg(long)]
    live: bool,
    /// The statement; several in one text are judged together, as in a simple query.
    #[arg(value_name = "SQL")]
    sql: String,
}

/// Prints the explanation; exits with 1 if there is none.
pub fn run(args: &ExplainArgs) -> ExitCode {
    match explained(args) {
        Ok(lines) => {
            let width = lines.iter().map(|(item, _)| item.chars().count()).max().unwrap_or_default();
            lines.iter().for_each(|(item, value)| println!("{item:width$}  {value}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn explained(args: &ExplainArgs) -> Result<Vec<Line>, String> {
    let config = config::load(&args.config, 1)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let (name, rules) = database(&config, args.database.as_deref())?;
    if args.live {
        return live(&config, &name, &args.sql);
    }
    let offline = Offline::default();
    let statement = Cache::new(1, [0; 16]).look_up(args.sql.as_bytes(), &offline);
    let mut lines = vec![("catalog".to_owned(), offline.assumption())];
    lines.extend(answer(&args.sql, &statement, &rules, &Unasked(&rules)));
    Ok(lines)
}

fn database(config: &Config, wanted: Option<&str>) -> Result<(String, Arc<config::Database>), String> {
    let names = || config.databases.keys().cloned().collect::<Vec<_>>().join(", ");
    let name = match (wanted, config.databases.len()) {
        (Some(name), _) => name,
        (None, 1) => config.databases.keys().next().expect("there is one").as_str(),
        (None, _) => return Err(format!("which database? --database is one of: {}", names())),
    };
    let rules = config.databases.get(name).or(config.any_database.as_ref());
    let rules = rules.ok_or_else(|| format!("there is no database \"{name}\"; there are: {}", names()))?;
    Ok((name.to_owned(), rules.clone()))
}

/// A session that is asked about here has done nothing yet.
fn answer(sql: &str, statement: &Statement, rules: &config::Database, servers: &dyn Servers) -> Vec<Line> {
    let (history, terms) = (History::default(), Terms::of(&rules.routing));
    let now = Instant::now();
    let way = Way::Free(routing::route(statement.routable(), &history, &terms, rules.routing.reads, now));
    let mark = explain::mark(&history, now, |_| String::new());
    let servers = servers.explained(way);
    let text = sql.as_bytes();
    Case { text, statement, way, rules: &rules.routing, terms, wish: None, mark, servers }.lines()
}

/// Servers that nobody has asked what they are.
struct Unasked<'a>(&'a config::Database);

impl Servers for Unasked<'_> {
    fn explained(&self, _: Way) -> Vec<Server> {
        let unknown = |address: String| Server {
            address,
            role: None,
            age: None,
            fitness: Fitness::Fit,
            remarks: String::new(),
        };
        self.0.servers.iter().map(|address| unknown(address.to_string())).collect()
    }
}

/// Looks after the servers for as long as it takes to know them.
fn live(config: &Config, name: &str, sql: &str) -> Result<Vec<Line>, String> {
    let process = runtime::process().map_err(|error| format!("the runtime cannot start: {error}"))?;
    let only = |section: &str| config.databases.get(section).map(|rules| (section.to_owned(), rules.clone()));
    let config = Config { databases: only(name).into_iter().collect::<BTreeMap<_, _>>(), ..config.clone() };
    let directory = Directory::new(&config, 1, [0; 16], Resolver::system(), process.handle().clone())
        .map_err(|error| format!("TLS towards servers cannot be set up: {error}"))?;
    let database = directory.find(name).ok_or("the database cannot be opened")?;
    // Whoever uses a database of the wildcard's keeps its catalog alive.
    let user = database.user("", &ServerCredential::Nothing);
    let _member = user.enter();
    let is_known = process.block_on(async { tokio::time::timeout(PATIENCE, known(&database)).await.is_ok() });
    let catalog = database.catalog();
    let source = match (catalog.version(), is_known) {
        (0, _) => "could not be read: every name is unknown".to_owned(),
        _ => "read from the primary".to_owned(),
    };
    let statement = Notes::new(&database).classifier.look_up(sql.as_bytes(), &***catalog);
    let mut lines = vec![("catalog".to_owned(), source)];
    lines.extend(answer(sql, &statement, &database.rules(), &*user));
    process.shutdown_background();
    Ok(lines)
}

async fn known(database: &Database) {
    let is_new = |standing| standing == Standing::Unknown;
    while database.catalog().version() == 0
        || database.section.cluster.nodes().iter().any(|node| is_new(node.standing()))
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What PostgreSQL brings, and the assumption that a relation nobody knows is an ordinary table.
#[derive(Default)]
struct Offline {
    assumed: RefCell<Vec<String>>,
}

impl Offline {
    fn assumption(&self) -> String {
        let assumed = self.assumed.borrow();
        match assumed.as_slice() {
            [] => "PostgreSQL's own; --live reads the servers'".to_owned(),
            tables => format!(
                "PostgreSQL's own; taken for ordinary tables: {}; --live reads the servers'",
                tables.join(", ")
            ),
        }
    }
}

impl Catalog for Offline {
    fn function(&self, schema: Option<&str>, name: &str) -> Verdict {
        Builtin.function(schema, name)
    }

    fn relation(&self, schema: Option<&str>, name: &str) -> Verdict {
        match Builtin.relation(schema, name) {
            Verdict::Unknown => {
                let name = schema.map(|schema| format!("{schema}.")).unwrap_or_default() + name;
                let mut assumed = self.assumed.borrow_mut();
                if !assumed.contains(&name) {
                    assumed.push(name);
                }
                Verdict::Harmless
            }
            known => known,
        }
    }

    fn operator(&self, symbol: &str) -> Verdict {
        Builtin.operator(symbol)
    }

    fn type_name(&self, schema: Option<&str>, name: &str) -> Verdict {
        Builtin.type_name(schema, name)
    }

    fn version(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn lines(sql: &str) -> BTreeMap<String, String> {
        let args = ExplainArgs {
            config: Path::new(env!("CARGO_MANIFEST_DIR")).join("config/minimal.toml"),
            database: None,
            live: false,
            sql: sql.to_owned(),
        };
        explained(&args).expect("the file is good").into_iter().collect()
    }

    #[test]
    fn offline_it_says_what_it_assumes() {
        let read = lines("SELECT * FROM orders JOIN shop.items USING (id)");
        assert_eq!((read["verdict"].as_str(), read["route"].as_str()), ("proven read", "a replica"));
        assert!(read["catalog"].contains("orders, shop.items"));
        assert_eq!(read["127.0.0.1:5432"], "unknown: cannot be told");
    }

    #[test]
    fn it_names_the_word_that_decided() {
        let unsure = lines("SELECT bill(1) FROM orders");
        assert_eq!((unsure["verdict"].as_str(), unsure["decided by"].as_str()), ("unsure", "bill"));
        let write = lines("WITH gone AS (DELETE FROM orders RETURNING *) SELECT count(*) FROM gone");
        assert_eq!((write["verdict"].as_str(), write["decided by"].as_str()), ("proven write", "DELETE"));
        let hinted = lines("/* pglagoon: primary */ SELECT 1");
        assert!(hinted["reason"].starts_with("hint_primary"));
        assert!(!hinted.contains_key("unknown routing comment"));
        let misspelt = lines("/* pglagoon: primry */ SELECT 1");
        assert!(misspelt["unknown routing comment"].starts_with("/* pglagoon: primry */ is not heeded"));
    }

    #[test]
    fn a_database_that_is_not_there_is_an_error() {
        let config =
            config::parse(include_str!("../../config/minimal.toml"), &|_| Ok(String::new()), 1).unwrap();
        assert!(database(&config, Some("nobody")).unwrap_err().contains("app"));
        assert_eq!(database(&config, None).unwrap().0, "app");
    }
}
