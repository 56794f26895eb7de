//! A small cluster to look at: one primary, one replica, one database, two users.

use super::*;
use crate::config::{self, ServerTls, TlsMode};
use crate::error::ErrorSource;
use crate::routing::Why;
use crate::sql::Reason;
use crate::wire::SqlState;
use std::sync::Mutex;
use std::time::UNIX_EPOCH;

pub struct Fake {
    pub state: State,
    pub standing: Standing,
    pub operations: Mutex<Vec<Operation>>,
}

impl Default for Fake {
    fn default() -> Self {
        Fake { state: State::Active, standing: Standing::Ready, operations: Mutex::default() }
    }
}

pub fn address(port: u16) -> ServerAddress {
    ServerAddress::Tcp { host: "127.0.0.1".into(), port }
}

fn rules() -> Database {
    let seconds = Duration::from_secs;
    Database {
        name: "app".into(),
        servers: vec![address(5432), address(5433)],
        patroni: None,
        server_database: None,
        server_user: None,
        server_password: None,
        server_tls: ServerTls { mode: TlsMode::Disable, ca_file: None, cert_file: None, key_file: None },
        pool: config::Pool {
            session_state: config::SessionState::Pin,
            pin_limit: 80,
            mode: PoolMode::Transaction,
            size: 20,
            min_size: 0,
            reserve_size: 3,
            reserve_timeout: seconds(5),
            max_db_connections: Some(50),
            max_db_clients: Some(200),
            checkout_timeout: seconds(10),
            hold_timeout: seconds(30),
            hold_limit: 100,
            max_waiting: 100,
            max_replication: 10,
            idle_timeout: None,
            lifetime: Some(seconds(3600)),
            connect_timeout: seconds(5),
            max_logins: 4,
            prepared_statements: 100,
            unnamed_statements: config::Unnamed::Keep,
            idle_transaction_timeout: None,
            transaction_timeout: None,
            query_timeout: None,
        },
        routing: config::Routing { weights: vec![1, 1], ..config::Routing::default() },
        user_rules: Arc::default(),
    }
}

pub fn share(port: u16, role: Role) -> PoolShare {
    PoolShare {
        server: address(port),
        role: Some(role),
        size: 20,
        in_use: 3,
        idle: 2,
        resetting: 1,
        connecting: 1,
        waiting: if role == Role::Primary { 4 } else { 0 },
        oldest_wait: (role == Role::Primary).then(|| Duration::from_micros(1_500_002)),
    }
}

pub fn stats() -> Stats {
    let mut stats = Stats::default();
    (stats.assignments, stats.transactions, stats.received, stats.logins) = (5, 4, 6000, 2);
    stats.transaction.observe(Duration::from_micros(400));
    stats.query(Role::Primary, Why::Write, Duration::from_micros(100));
    stats.query(Role::Replica, Why::Read, Duration::from_micros(20));
    stats.query(Role::Replica, Why::Read, Duration::from_micros(30));
    Reason::ALL.into_iter().for_each(|reason| stats.ran(Role::Replica, reason, 5));
    stats.wait.observe(Duration::from_micros(90));
    stats.error(ErrorSource::Pooler, SqlState::TOO_MANY_CONNECTIONS);
    stats.rescue(crate::session::Rescue::Behind, 1);
    stats
}

fn connection(id: u64, peer: Endpoint) -> Connection {
    Connection {
        id,
        user: "app".into(),
        database: "app".into(),
        peer,
        local: Endpoint { address: "127.0.0.1".into(), port: 6432 },
        connected: UNIX_EPOCH + Duration::from_secs(1_709_210_096),
        requested: Some(UNIX_EPOCH + Duration::from_secs(1_735_689_599)),
        link: Some(id + 1),
        tls: String::new(),
        application_name: "psql".into(),
        replication: "none",
        prepared_statements: 2,
    }
}

impl Observed for Fake {
    fn process(&self) -> Process {
        let started = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        Process {
            started,
            state: self.state,
            clients: 10,
            in_console: 1,
            logging_in: 1,
            asleep: 4,
            max_clients: 10_000,
        }
    }

    fn pools(&self) -> Vec<PoolRow> {
        vec![PoolRow {
            pinned: vec![("listen", 1)],
            replication: 2,
            database: "app".into(),
            user: "app".into(),
            mode: PoolMode::Transaction,
            clients: 10,
            shares: vec![share(5432, Role::Primary), share(5433, Role::Replica)],
        }]
    }

    fn clients(&self) -> Vec<ClientRow> {
        vec![ClientRow {
            connection: connection(7, Endpoint::unix()),
            state: ClientState::Active,
            wait: None,
            server: Some(address(5433)),
            held: None,
        }]
    }

    fn servers(&self) -> Vec<ServerRow> {
        let peer = Endpoint { address: "127.0.0.1".into(), port: 5433 };
        vec![ServerRow {
            connection: connection(8, peer),
            state: ServerState::Active,
            role: Some(Role::Replica),
            remote_pid: 4711,
            close_needed: true,
        }]
    }

    fn nodes(&self) -> Vec<NodeRow> {
        let node = |port, role, health| NodeRow {
            database: "app".into(),
            server: address(port),
            role: Some(role),
            health,
            since: Duration::from_secs(65),
            why: String::new(),
            lag_bytes: (role == Role::Replica).then_some(16),
            lag: (role == Role::Replica).then(|| Duration::from_micros(2500)),
            pace: (role == Role::Replica).then(|| Duration::from_micros(750)),
            position: Lsn::parse("16/B374D848"),
            timeline: Some(1),
            questions: 3,
        };
        vec![node(5432, Role::Primary, Health::Healthy), node(5433, Role::Replica, Health::Lagging)]
    }

    fn databases(&self) -> Vec<DatabaseRow> {
        let row = |name: &str, paused| DatabaseRow {
            disabled: false,
            switchover: None,
            name: name.into(),
            rules: Arc::new(rules()),
            clients: 10,
            servers: 14,
            counted: vec![(address(5432), 9), (address(5433), 5)],
            held: 2,
            listeners: 3,
            notifications: 17,
            paused,
        };
        vec![row("app", false), row("*", true)]
    }

    fn users(&self) -> Vec<UserRow> {
        let rules = config::UserRules { mode: Some(PoolMode::Session), size: Some(5), ..Default::default() };
        vec![UserRow { name: "app".into(), rules, max_clients: Some(50), clients: 10, servers: 14 }]
    }

    fn stats(&self) -> Vec<StatsRow> {
        let row = |user: &str| StatsRow { database: "app".into(), user: user.into(), stats: stats() };
        vec![row("app"), row("web")]
    }

    fn refusals(&self) -> Vec<(String, u64)> {
        vec![("28P01".into(), 3)]
    }

    fn config(&self) -> Vec<ConfigRow> {
        let row = |key: &str, value: &str| ConfigRow {
            key: key.into(),
            value: value.into(),
            default: value.into(),
            changeable: true,
        };
        vec![row("pool.size", "20"), row("drain_timeout", "30s")]
    }

    fn readiness(&self) -> Readiness {
        let why = if self.standing == Standing::Ready { "" } else { "connection refused" };
        let app = DatabaseReadiness { name: "app".into(), standing: self.standing, why: why.into() };
        Readiness { databases: vec![app] }
    }
}

impl Operated for Fake {
    /// RELOAD fails, PAUSE of everything never ends, the rest is done.
    fn operate(&self, operation: Operation) -> Pending {
        self.operations.lock().unwrap().push(operation.clone());
        match operation {
            Operation::Pause(Scope::All) => Box::pin(std::future::pending()),
            operation => Box::pin(std::future::ready(outcome(&operation))),
        }
    }
}

/// What [`Fake`] answers.
pub fn outcome(operation: &Operation) -> Result<String, Report> {
    match operation {
        Operation::Reload => {
            let text = "pool.size: expected a number";
            Err(Report::new(ErrorSource::Client, SqlState::INVALID_PARAMETER_VALUE, text))
        }
        Operation::Resume(_) => Ok("nothing was paused".into()),
        _ => Ok(String::new()),
    }
}
