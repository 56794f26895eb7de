//! The file becomes a [`Config`]: one reader per section, then what only whole configurations can get wrong.
//!
//! Every reader says for each of its keys what is allowed and what holds without it. A database's `pool` and `routing`
//! are read by the readers of `[pool]` and `[routing]`, with those as their defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::raw::{Report, Section, quoted};
use super::{
    Admin, Auth, AuthMethod, Balance, ClientTls, Config, ConfigError, Consistency, Database, Http, Listen,
    Log, LogFormat, Lookup, Monitor, OnLostWrite, OnStale, Patroni, Pool, PoolMode, Reads, Routing, Scope,
    Secret, ServerAddress, ServerTls, SessionState, TlsMode, TokenSecret, Transactions, UnixListen, Unnamed,
    User, UserRules, VIRTUAL_DATABASES, keys, userlist, values,
};

/// Reads a file's text. `read_file` is asked for the files that it names (`auth_file`, certificates), `cores` is what
/// `workers = 0` means.
///
/// # Errors
/// Everything that is wrong: each mistake names its key, what it got (never a secret) and what is allowed.
pub fn parse(text: &str, read_file: ReadFile<'_>, cores: usize) -> Result<Config, Vec<ConfigError>> {
    let read = Report::read(text, |root| config(root, read_file, cores))?;
    if !read.errors.is_empty() {
        return Err(read.errors);
    }
    let defaults = keys::shown().map(|(key, default)| (key.to_owned(), default));
    Ok(Config { shown: defaults.chain(read.given).collect(), ..read.value })
}

/// How files are read that the configuration names.
pub type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

/// What is allowed for each key, by its path in [`super::keys::KEYS`].
pub(super) fn allowed() -> BTreeMap<String, String> {
    let probe = "databases.NAME.servers = []\nusers.NAME.password = \"\"";
    let nothing = |_: &Path| Ok(String::new());
    Report::read(probe, |root| config(root, &nothing, 1)).map(|read| read.allowed).unwrap_or_default()
}

fn config(root: &mut Section<'_, '_>, read_file: ReadFile<'_>, cores: usize) -> Config {
    let drain_timeout = root.duration("drain_timeout", seconds(30));
    let listen = root.within("listen", |section| listen(section, read_file, cores));
    let http = root.within("http", |section| Http::read(section));
    if let Some(http) = &http
        && http.address.port() != 0
        && listen.addresses.contains(&http.address)
    {
        root.refuse("http.address", "is listen.address, too; each needs one of its own");
    }
    let auth = root.within("auth", auth);
    let (users, user_rules, all) = users(root, &auth, read_file);
    let user_rules = Arc::new(user_rules);
    let admin = root.within("admin", |section| admin(section, &users, all));
    let pool_defaults = root.within("pool", |section| pool(section, &DEFAULT_POOL));
    let routing_defaults = root.within("routing", |section| routing(section, &DEFAULT_ROUTING));
    let monitor = root.within("monitor", monitor);
    let log = root.within("log", log);
    let mut databases = root.within("databases", |section| {
        let (pool, routing, user_rules) = (pool_defaults, routing_defaults, user_rules.clone());
        databases(section, &Defaults { pool, routing, user_rules, read_file })
    });
    if databases.is_empty() {
        root.refuse("databases", "missing; at least one section [databases.NAME] with its servers is needed");
    }
    let any_database = databases.remove("*");
    certificates_have_tls(root, &auth, &listen);
    // Known when all is read.
    let shown = BTreeMap::new();
    let config = Config {
        listen,
        http,
        auth,
        users,
        user_rules,
        admin,
        databases,
        any_database,
        monitor,
        log,
        drain_timeout,
        shown,
    };
    lookup_is_possible(root, &config, all);
    config
}

// [listen]

fn listen(section: &mut Section<'_, '_>, read_file: ReadFile<'_>, cores: usize) -> Listen {
    let addresses = section.list("address", values::LISTEN_ADDRESS, values::listen_address);
    let addresses = addresses.unwrap_or_else(|| vec![([127, 0, 0, 1], 6432).into()]);
    let unix = unix(section, read_file);
    if section.is_empty_list("address") && !section.has("unix_directory") {
        section.refuse("address", "got an empty list; allowed only together with unix_directory");
    }
    if let Some(twice) =
        addresses.iter().find(|a| a.port() != 0 && addresses.iter().filter(|b| a == b).count() > 1)
    {
        section.refuse("address", &format!("\"{twice}\" stands there twice"));
    }
    let workers = section.count("workers", 0..=1024, 0);
    Listen {
        addresses,
        unix,
        max_clients: section.count("max_clients", 1..=1_000_000, 10_000),
        max_user_clients: section.bound("max_user_clients", 1..=1_000_000, None),
        workers: if workers == 0 { cores.max(1) } else { workers },
        io_uring: section.flag("io_uring", true),
        login_timeout: section.duration("login_timeout", seconds(60)),
        client_idle_timeout: section.limit("client_idle_timeout", None),
        tls: client_tls(section, read_file),
        max_message: section.size("max_message", 64 << 10..=1 << 30, 64 << 20),
    }
}

fn unix(section: &mut Section<'_, '_>, read_file: ReadFile<'_>) -> Option<UnixListen> {
    let port = section.port("unix_port", 6432);
    let mode =
        section.text("unix_mode", "permissions in octal, as a string such as \"0770\"", values::permissions);
    let directory = section.path("unix_directory")?;
    if directory.as_os_str().len() + 1 + values::socket_file(port).len() > values::MAX_SOCKET_PATH {
        let most = values::MAX_SOCKET_PATH;
        section.refuse("unix_directory", &format!("too long: the socket's whole path may have {most} bytes"));
    }
    // Who may write there is found out by who listens, and need not be who asks.
    if let Err(error) = read_file(&directory.join("."))
        && matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
    {
        section.refuse(
            "unix_directory",
            &format!("{}: {error}; allowed: a directory that is there", directory.display()),
        );
    }
    Some(UnixListen { directory, port, mode: mode.unwrap_or(0o777) })
}

fn client_tls(section: &mut Section<'_, '_>, read_file: ReadFile<'_>) -> ClientTls {
    let mode = section.word("tls", TLS_MODES, TlsMode::Disable);
    let cert_file = file(section, "tls_cert", read_file);
    let key_file = file(section, "tls_key", read_file);
    let ca_file = file(section, "tls_ca", read_file);
    let word = tls_word(mode);
    if mode != TlsMode::Disable {
        needed(section, "tls_cert", &format!("tls = \"{word}\" needs a certificate"));
        needed(section, "tls_key", &format!("tls = \"{word}\" needs a private key"));
    }
    if verifies(mode) {
        needed(section, "tls_ca", &format!("tls = \"{word}\" needs the authorities of client certificates"));
    }
    ClientTls { mode, cert_file, key_file, ca_file }
}

const TLS_MODES: &[(&str, TlsMode)] = &[
    ("disable", TlsMode::Disable),
    ("prefer", TlsMode::Prefer),
    ("require", TlsMode::Require),
    ("verify-ca", TlsMode::VerifyCa),
    ("verify-full", TlsMode::VerifyFull),
];

fn tls_word(mode: TlsMode) -> &'static str {
    TLS_MODES.iter().find(|(_, known)| *known == mode).map_or("", |(word, _)| word)
}

fn verifies(mode: TlsMode) -> bool {
    matches!(mode, TlsMode::VerifyCa | TlsMode::VerifyFull)
}

fn needed(section: &mut Section<'_, '_>, key: &str, why: &str) {
    if !section.has(key) {
        section.refuse(key, &format!("missing; {why} (a path to a PEM file)"));
    }
}

/// A file that must be readable now, rather than at the first connection that needs it.
fn file(section: &mut Section<'_, '_>, key: &str, read_file: ReadFile<'_>) -> Option<PathBuf> {
    let path = section.path(key)?;
    match read_file(&path) {
        Ok(_) => (),
        // A comment in another encoding does not make a PEM file unusable.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => (),
        Err(error) => section.refuse(key, &format!("cannot read {}: {error}", path.display())),
    }
    Some(path)
}

// [http], [auth], [users], [admin]

impl Http {
    fn read(section: &mut Section<'_, '_>) -> Option<Http> {
        let address = section.text("address", values::LISTEN_ADDRESS, values::listen_address);
        address.map(|address| Http { address })
    }
}

fn auth(section: &mut Section<'_, '_>) -> Auth {
    let methods =
        [AuthMethod::Trust, AuthMethod::Md5, AuthMethod::ScramSha256, AuthMethod::Password, AuthMethod::Cert]
            .map(|method| (method.as_str(), method));
    Auth {
        method: section.word("method", &methods, AuthMethod::ScramSha256),
        auth_file: section.path("auth_file"),
        lookup: lookup(section),
    }
}

/// What `auth.auth_query` is by default: what PostgreSQL stores of a user who may log in.
const AUTH_QUERY: &str = "SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1 AND rolcanlogin AND \
                          (rolvaliduntil IS NULL OR rolvaliduntil > pg_catalog.now())";

fn lookup(section: &mut Section<'_, '_>) -> Option<Lookup> {
    let user = section.text("auth_user", "a user of [users] or auth_file", name_text);
    let has_parameter = |text: &str| text.contains("$1").then(|| text.to_owned());
    let query = section.text("auth_query", "a query with the parameter $1, the user's name", has_parameter);
    let database = section.text("auth_dbname", "a database of [databases]", name_text);
    if let Some(key) = ["auth_query", "auth_dbname"].into_iter().find(|key| section.has(key))
        && !section.has("auth_user")
    {
        section.refuse(key, "who asks? It needs auth.auth_user");
    }
    Some(Lookup { user: user?, query: query.unwrap_or_else(|| AUTH_QUERY.to_owned()), database })
}

fn lookup_is_possible(root: &mut Section<'_, '_>, config: &Config, all: All) {
    let Some(Lookup { user, database, .. }) = &config.auth.lookup else { return };
    if all == All::Known && !config.users.contains_key(user) {
        root.refuse("auth.auth_user", &format!("got \"{user}\"; allowed: a user of [users] or auth_file"));
    }
    let is_there = |name: &String| config.databases.contains_key(name) || config.any_database.is_some();
    if let Some(database) = database.as_ref().filter(|name| !is_there(name)) {
        root.refuse("auth.auth_dbname", &format!("got \"{database}\"; allowed: a database of [databases]"));
    }
}

/// Whether it is known who the users are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum All {
    Known,
    /// The file that names more of them cannot be read, or has lines that cannot.
    NotKnown,
}

fn users(
    root: &mut Section<'_, '_>,
    auth: &Auth,
    read_file: ReadFile<'_>,
) -> (BTreeMap<String, User>, BTreeMap<String, UserRules>, All) {
    let (mut users, mut rules) = (BTreeMap::new(), BTreeMap::new());
    root.within("users", |section| {
        section.each(|name, section| {
            let secret = section.secret("password");
            if auth.method == AuthMethod::ScramSha256 && matches!(secret, Some(Secret::Md5(_))) {
                section.refuse("password", MD5_CANNOT_SCRAM);
            }
            users.insert(name.to_owned(), User { secret });
            let own = user_rules(section);
            if own != UserRules::default() {
                rules.insert(name.to_owned(), own);
            }
        });
    });
    let (in_file, all) = users_of_file(root, auth, read_file);
    for (name, user) in in_file {
        if users.get(&name).is_some_and(|known| known.secret.is_some()) {
            continue;
        }
        if auth.method == AuthMethod::ScramSha256 && matches!(user.secret, Some(Secret::Md5(_))) {
            root.refuse("auth.auth_file", &format!("user \"{name}\": {MD5_CANNOT_SCRAM}"));
        }
        users.insert(name, user);
    }
    if let Some(lookup) = auth.lookup.as_ref().filter(|_| auth.method.asks_for_password()) {
        // A section without a password is for the rules alone.
        users.retain(|name, user| user.secret.is_some() || *name == lookup.user);
    }
    (users, rules, all)
}

fn user_rules(section: &mut Section<'_, '_>) -> UserRules {
    let consistency = section.choice("consistency", &levels());
    let max_clients = section.given("max_clients", |section, key| section.bound(key, 1..=1_000_000, None));
    section.within("pool", |section| {
        let size = section.given("size", |section, key| section.count(key, 1..=10_000, 1));
        let min_size = section.given("min_size", |section, key| section.count(key, 0..=10_000, 0));
        if let (Some(size), Some(min_size)) = (size, min_size)
            && min_size > size
        {
            section.refuse("min_size", &too_many_kept(min_size, size));
        }
        UserRules {
            consistency,
            max_clients,
            mode: section.choice("mode", &pool_modes()),
            size,
            min_size,
            reserve_size: section.given("reserve_size", |section, key| section.count(key, 0..=10_000, 0)),
            idle_transaction_timeout: section
                .given("idle_transaction_timeout", |section, key| section.limit(key, None)),
            transaction_timeout: section
                .given("transaction_timeout", |section, key| section.limit(key, None)),
            query_timeout: section.given("query_timeout", |section, key| section.limit(key, None)),
        }
    })
}

const MD5_CANNOT_SCRAM: &str = "got an md5 hash, which cannot serve auth.method = \"scram-sha-256\"; allowed: a \
                                password, \"SCRAM-SHA-256$...\", or auth.method = \"md5\"";

fn users_of_file(
    root: &mut Section<'_, '_>,
    auth: &Auth,
    read_file: ReadFile<'_>,
) -> (BTreeMap<String, User>, All) {
    let Some(path) = &auth.auth_file else { return (BTreeMap::new(), All::Known) };
    match read_file(path) {
        Ok(text) => {
            let (users, errors) = userlist::parse(&text);
            let all = if errors.is_empty() { All::Known } else { All::NotKnown };
            for error in errors {
                root.refuse("auth.auth_file", &format!("{}, {error}", path.display()));
            }
            (users, all)
        }
        Err(error) => {
            root.refuse("auth.auth_file", &format!("cannot read {}: {error}", path.display()));
            (BTreeMap::new(), All::NotKnown)
        }
    }
}

fn admin(section: &mut Section<'_, '_>, users: &BTreeMap<String, User>, all: All) -> Admin {
    let mut names = |key: &str| {
        let is_known = |name: &str| all == All::NotKnown || users.contains_key(name);
        let known = |name: &str| is_known(name).then(|| name.to_owned());
        section.list(key, "a user of [users] or auth_file", known).unwrap_or_default()
    };
    Admin { users: names("users"), stats_users: names("stats_users") }
}

fn certificates_have_tls(root: &mut Section<'_, '_>, auth: &Auth, listen: &Listen) {
    if auth.method == AuthMethod::Cert && !verifies(listen.tls.mode) {
        let got = tls_word(listen.tls.mode);
        root.refuse(
            "auth.method",
            &format!("got \"cert\" with listen.tls = \"{got}\"; it needs listen.tls = \"verify-ca\" or \"verify-full\""),
        );
    }
}

// [pool], [routing]

const DEFAULT_POOL: Pool = Pool {
    mode: PoolMode::Transaction,
    size: 20,
    min_size: 0,
    reserve_size: 0,
    reserve_timeout: seconds(5),
    max_db_connections: None,
    max_db_clients: None,
    checkout_timeout: seconds(10),
    hold_timeout: seconds(30),
    hold_limit: 10_000,
    max_waiting: 10_000,
    max_replication: 10,
    idle_timeout: Some(seconds(10 * 60)),
    lifetime: Some(seconds(60 * 60)),
    connect_timeout: seconds(5),
    max_logins: 4,
    session_state: SessionState::Pin,
    pin_limit: 80,
    prepared_statements: 200,
    unnamed_statements: Unnamed::Keep,
    idle_transaction_timeout: None,
    transaction_timeout: None,
    query_timeout: None,
};

fn pool_modes() -> [(&'static str, PoolMode); 3] {
    [PoolMode::Session, PoolMode::Transaction, PoolMode::Statement].map(|mode| (mode.as_str(), mode))
}

fn too_many_kept(min_size: usize, size: usize) -> String {
    format!("pool.min_size is {min_size}, and pool.size {size}: it can be no more")
}

fn pool(section: &mut Section<'_, '_>, default: &Pool) -> Pool {
    let unnamed = [Unnamed::Keep, Unnamed::Forward].map(|what| (what.as_str(), what));
    let states = [SessionState::Pin, SessionState::Error].map(|state| (state.as_str(), state));
    let size = section.count("size", 1..=10_000, default.size);
    let min_size = section.count("min_size", 0..=10_000, default.min_size);
    let checkout_timeout = section.duration("checkout_timeout", default.checkout_timeout);
    let reserve_size = section.count("reserve_size", 0..=10_000, default.reserve_size);
    let reserve_timeout = section.duration("reserve_timeout", default.reserve_timeout);
    // What is inherited is told where it comes from.
    if let Some(key) = ["min_size", "size"].into_iter().find(|key| min_size > size && section.has(key)) {
        section.refuse(key, &too_many_kept(min_size, size));
    }
    let is_in_vain = reserve_size > 0 && reserve_timeout >= checkout_timeout;
    let because = ["reserve_timeout", "reserve_size", "checkout_timeout"];
    if let Some(key) = because.into_iter().find(|key| is_in_vain && section.has(key)) {
        let (reserve, checkout) =
            (values::duration_text(reserve_timeout), values::duration_text(checkout_timeout));
        section.refuse(
            key,
            &format!(
                "pool.reserve_timeout is {reserve}, and pool.checkout_timeout {checkout}: no client waits so long"
            ),
        );
    }
    Pool {
        mode: section.word("mode", &pool_modes(), default.mode),
        size,
        min_size,
        reserve_size,
        reserve_timeout,
        max_db_connections: section.bound("max_db_connections", 1..=100_000, default.max_db_connections),
        max_db_clients: section.bound("max_db_clients", 1..=1_000_000, default.max_db_clients),
        checkout_timeout,
        hold_timeout: section.duration("hold_timeout", default.hold_timeout),
        hold_limit: section.count("hold_limit", 1..=1_000_000, default.hold_limit),
        max_waiting: section.count("max_waiting", 1..=1_000_000, default.max_waiting),
        max_replication: section.count("max_replication", 0..=10_000, default.max_replication),
        idle_timeout: section.limit("idle_timeout", default.idle_timeout),
        lifetime: section.limit("lifetime", default.lifetime),
        connect_timeout: section.duration("connect_timeout", default.connect_timeout),
        max_logins: section.count("max_logins", 1..=1000, default.max_logins),
        session_state: section.word("session_state", &states, default.session_state),
        pin_limit: section.count("pin_limit", 1..=100, default.pin_limit),
        prepared_statements: section.count("prepared_statements", 1..=100_000, default.prepared_statements),
        unnamed_statements: section.word("unnamed_statements", &unnamed, default.unnamed_statements),
        idle_transaction_timeout: section.limit("idle_transaction_timeout", default.idle_transaction_timeout),
        transaction_timeout: section.limit("transaction_timeout", default.transaction_timeout),
        query_timeout: section.limit("query_timeout", default.query_timeout),
    }
}

const DEFAULT_ROUTING: Routing = Routing {
    reads: Reads::Replicas,
    consistency: Consistency::Session,
    sticky_window: seconds(2),
    max_staleness: seconds(5),
    max_wait: Duration::from_millis(50),
    on_stale: OnStale::Primary,
    max_fallbacks: 1_000,
    scope: Scope::Connection,
    transactions: Transactions::Primary,
    on_lost_write: OnLostWrite::Error,
    token_secret: None,
    max_lag: seconds(10),
    balance: Balance::LeastConnections,
    safe_functions: Vec::new(),
    weights: Vec::new(),
    prefer: Vec::new(),
    slow_start: Some(seconds(10)),
};

impl Default for Routing {
    fn default() -> Self {
        DEFAULT_ROUTING
    }
}

/// What a secret for tokens looks like, for errors.
const TOKEN_SECRET: &str = "a text of at least 16 bytes";

fn token_secret(text: &str) -> Option<TokenSecret> {
    (text.len() >= 16).then(|| TokenSecret(text.to_owned()))
}

fn levels() -> [(&'static str, Consistency); 6] {
    Consistency::ALL.map(|level| (level.as_str(), level))
}

fn routing(section: &mut Section<'_, '_>, default: &Routing) -> Routing {
    let reads = [("replicas", Reads::Replicas), ("primary", Reads::Primary)];
    let on_stale = [("primary", OnStale::Primary), ("error", OnStale::Error)];
    let scope = [
        ("connection", Scope::Connection),
        ("user", Scope::User),
        ("application_name", Scope::ApplicationName),
        ("database", Scope::Database),
    ];
    let transactions = [("primary", Transactions::Primary), ("promote", Transactions::Promote)];
    let on_lost_write = [("error", OnLostWrite::Error), ("reset", OnLostWrite::Reset)];
    let balance = Balance::ALL.map(|policy| (policy.as_str(), policy));
    let is_shadow = |reads| reads == Reads::Shadow;
    let preset = if is_shadow(default.reads) { Reads::Replicas } else { default.reads };
    let reads = section.word("reads", &reads, preset);
    let shadow = section.flag("shadow", is_shadow(default.reads));
    let reads = if shadow && reads == Reads::Replicas { Reads::Shadow } else { reads };
    let safe_functions = section.list("safe_functions", "a function's name, or schema.name", name_text);
    Routing {
        reads,
        consistency: section.word("consistency", &levels(), default.consistency),
        sticky_window: section.duration("sticky_window", default.sticky_window),
        max_staleness: section.duration("max_staleness", default.max_staleness),
        max_wait: section.duration("max_wait", default.max_wait),
        on_stale: section.word("on_stale", &on_stale, default.on_stale),
        max_fallbacks: section.count("max_fallbacks", 1..=1_000_000, default.max_fallbacks as usize) as u32,
        scope: section.word("scope", &scope, default.scope),
        transactions: section.word("transactions", &transactions, default.transactions),
        on_lost_write: section.word("on_lost_write", &on_lost_write, default.on_lost_write),
        token_secret: section
            .text("token_secret", TOKEN_SECRET, token_secret)
            .or_else(|| default.token_secret.clone()),
        max_lag: section.duration("max_lag", default.max_lag),
        balance: section.word("balance", &balance, default.balance),
        safe_functions: safe_functions.unwrap_or_else(|| default.safe_functions.clone()),
        weights: Vec::new(),
        prefer: Vec::new(),
        slow_start: section.limit("slow_start", default.slow_start),
    }
}

// [databases.*]

struct Defaults<'a> {
    pool: Pool,
    routing: Routing,
    user_rules: Arc<BTreeMap<String, UserRules>>,
    read_file: ReadFile<'a>,
}

fn databases(section: &mut Section<'_, '_>, defaults: &Defaults<'_>) -> BTreeMap<String, Arc<Database>> {
    let mut databases = BTreeMap::new();
    section.each(|name, section| {
        databases.insert(name.to_owned(), Arc::new(database(name, section, defaults)));
    });
    for name in VIRTUAL_DATABASES.iter().filter(|name| databases.contains_key(**name)) {
        section.refuse(name, "the name belongs to the virtual database; allowed: any other name");
    }
    if databases.contains_key("") {
        section.refuse(&quoted(""), "the name is empty; allowed: a name, or \"*\" for any other database");
    }
    databases
}

fn database(name: &str, section: &mut Section<'_, '_>, defaults: &Defaults<'_>) -> Database {
    let (servers, known) = (servers(section), section.is_sound("servers"));
    // What goes by servers that are mistaken is no second mistake.
    let known = known.then_some(&servers[..]);
    let patroni = patroni(section, known.map(<[_]>::len), defaults.read_file);
    let pool = section.within("pool", |section| pool(section, &defaults.pool));
    let routing = section.within("routing", |section| {
        let routing = routing(section, &defaults.routing);
        let weights = weights(section, routing.balance, known.map(<[_]>::len));
        let prefer = preferred(section, known);
        Routing { weights, prefer, ..routing }
    });
    Database {
        name: name.to_owned(),
        servers,
        patroni,
        server_database: section.text("database", "a name", name_text),
        server_user: section.text("server_user", "a name", name_text),
        server_password: section.login_secret("server_password"),
        server_tls: server_tls(section, defaults.read_file),
        pool,
        routing,
        user_rules: defaults.user_rules.clone(),
    }
}

fn servers(section: &mut Section<'_, '_>) -> Vec<ServerAddress> {
    let servers = match section.list("servers", values::SERVER_ADDRESS, values::server_address) {
        Some(servers) => servers,
        None if section.has("servers") => return Vec::new(),
        None => {
            let allowed = values::SERVER_ADDRESS;
            section.refuse(
                "servers",
                &format!("missing; a list with at least one server is needed, each {allowed}"),
            );
            return Vec::new();
        }
    };
    if servers.is_empty() && section.is_empty_list("servers") {
        section.refuse("servers", "got an empty list; allowed: at least one server");
    }
    let mut seen = BTreeSet::new();
    for server in servers.iter().filter(|server| !seen.insert(*server)) {
        section.refuse("servers", &format!("\"{server}\" stands there twice"));
    }
    servers
}

fn patroni(
    section: &mut Section<'_, '_>,
    servers: Option<usize>,
    read_file: ReadFile<'_>,
) -> Option<Patroni> {
    let members = section.list("patroni", values::HTTP_ADDRESS, values::http_address);
    let has_lag = section.has("patroni_lag");
    let lag = section.size("patroni_lag", 1..=1 << 40, 1 << 20);
    if has_lag && !section.has("patroni") {
        section.refuse("patroni_lag", "only allowed with patroni");
    }
    let keys @ [ca, certificate, key] = ["patroni_tls_ca", "patroni_tls_cert", "patroni_tls_key"];
    let tls = tls_files(section, TlsMode::VerifyFull, keys, read_file);
    let is_tls = members.iter().flatten().any(|member| member.is_tls);
    match keys.into_iter().find(|key| section.has(key)) {
        _ if is_tls => {
            needed(section, ca, "https needs the authorities of Patroni's certificates");
            paired(section, certificate, key);
        }
        Some(key) if section.is_sound("patroni") => {
            section.refuse(key, "only allowed with an https address in patroni")
        }
        _ => {}
    }
    let members = members?;
    if let Some(servers) = servers.filter(|servers| *servers != members.len())
        && section.is_sound("patroni")
    {
        let got = members.len();
        section
            .refuse("patroni", &format!("got {got} addresses for {servers} servers; allowed: one for each"));
    }
    let mut seen = BTreeSet::new();
    for member in members.iter().filter(|member| !seen.insert(*member)) {
        section
            .refuse("patroni", &format!("\"{member}\" stands there twice; each server has one of its own"));
    }
    Some(Patroni { members, max_lag: has_lag.then_some(lag), tls: is_tls.then_some(tls) })
}

fn weights(section: &mut Section<'_, '_>, balance: Balance, servers: Option<usize>) -> Vec<u32> {
    let weights = section.counts("weights", 1..=1000);
    match (&weights, balance) {
        (Some(weights), Balance::Weighted) => {
            if let Some(servers) = servers.filter(|servers| *servers != weights.len())
                && section.is_sound("weights")
            {
                let got = weights.len();
                section.refuse(
                    "weights",
                    &format!("got {got} weights for {servers} servers; allowed: one for each"),
                );
            }
        }
        (None, Balance::Weighted) if !section.has("weights") => {
            section.refuse("weights", "missing; balance = \"weighted\" needs one weight for each server");
        }
        (Some(_), Balance::LeastConnections | Balance::RoundRobin | Balance::ResponseTime) => {
            section.refuse("weights", "only allowed with balance = \"weighted\"");
        }
        _ => (),
    }
    weights.unwrap_or_default()
}

fn preferred(section: &mut Section<'_, '_>, servers: Option<&[ServerAddress]>) -> Vec<usize> {
    let wanted = section.list("prefer", values::SERVER_ADDRESS, values::server_address).unwrap_or_default();
    let Some(servers) = servers else { return Vec::new() };
    let place = |address: &ServerAddress| servers.iter().position(|server| server == address);
    for stranger in wanted.iter().filter(|address| place(address).is_none()) {
        section.refuse("prefer", &format!("\"{stranger}\" is none of servers; allowed: some of them"));
    }
    wanted.iter().filter_map(place).collect()
}

fn name_text(text: &str) -> Option<String> {
    (!text.is_empty() && !text.contains('\0')).then(|| text.to_owned())
}

fn server_tls(section: &mut Section<'_, '_>, read_file: ReadFile<'_>) -> ServerTls {
    let mode = section.word("server_tls", TLS_MODES, TlsMode::Prefer);
    let keys @ [ca, certificate, key] = ["server_tls_ca", "server_tls_cert", "server_tls_key"];
    let tls = tls_files(section, mode, keys, read_file);
    if verifies(mode) {
        let why = format!("server_tls = \"{}\" needs the authorities of server certificates", tls_word(mode));
        needed(section, ca, &why);
    }
    paired(section, certificate, key);
    tls
}

/// The files of our end of TLS, by the keys that name authorities, certificate and key.
fn tls_files(
    section: &mut Section<'_, '_>,
    mode: TlsMode,
    [ca, certificate, key]: [&str; 3],
    read_file: ReadFile<'_>,
) -> ServerTls {
    ServerTls {
        mode,
        ca_file: file(section, ca, read_file),
        cert_file: file(section, certificate, read_file),
        key_file: file(section, key, read_file),
    }
}

/// A certificate and its key come together.
fn paired(section: &mut Section<'_, '_>, certificate: &str, key: &str) {
    if section.has(certificate) {
        needed(section, key, &format!("{certificate} needs its private key"));
    }
    if section.has(key) {
        needed(section, certificate, &format!("{key} needs its certificate"));
    }
}

// [monitor], [log]

fn monitor(section: &mut Section<'_, '_>) -> Monitor {
    let monitor = Monitor {
        interval: section.duration("interval", seconds(1)),
        timeout: section.duration("timeout", seconds(2)),
        dead_after: section.duration("dead_after", seconds(10)),
        resolve_interval: section.duration("resolve_interval", seconds(10)),
        user: section.text("user", "a name", name_text),
        password: section.login_secret("password"),
        database: section.text("database", "a name", name_text),
    };
    if section.has("password") && !section.has("user") {
        section.refuse("password", "whose? It needs monitor.user");
    }
    monitor
}

fn log(section: &mut Section<'_, '_>) -> Log {
    let filter = |text: &str| {
        let good = !text.is_empty() && tracing_subscriber::EnvFilter::try_new(text).is_ok();
        good.then(|| text.to_owned())
    };
    let allowed = "a level (error | warn | info | debug | trace), or levels by part, such as \
                   \"info,pglagoon::cluster=debug\"";
    Log {
        filter: section.text("filter", allowed, filter).unwrap_or_else(|| "info".to_owned()),
        format: section.word(
            "format",
            &[("text", LogFormat::Text), ("json", LogFormat::Json)],
            LogFormat::Text,
        ),
    }
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests;
