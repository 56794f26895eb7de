//! The table of all keys: what `config/reference.toml` and SHOW CONFIG are made of, and where unknown keys find their
//! neighbours.
//!
//! What a key allows is not here: its reader in `check.rs` says that, and the reference prints what the reader says.
//! Tests hold the table, the readers and the file together: each key is read, each default is the reader's.

use std::fmt::Write;

use super::check;

/// A key of the file.
pub struct Key {
    /// Its path; `NAME` stands for the name of a user or a database.
    pub path: &'static str,
    /// What holds without it.
    pub preset: Preset,
    /// What it is for.
    pub doc: &'static str,
}

/// What holds when a key is not given. All in TOML.
pub enum Preset {
    /// This value.
    Value(&'static str),
    /// Nothing; this would be an example.
    Unset(&'static str),
    /// It must be given; this is an example.
    Required(&'static str),
}

impl Preset {
    /// The default or the example.
    pub fn toml(&self) -> &'static str {
        match self {
            Preset::Value(text) | Preset::Unset(text) | Preset::Required(text) => text,
        }
    }
}

use Preset::{Required, Unset, Value};

/// Every key, in the order of the reference. The keys of `pool` and `routing` may also stand in a database.
pub const KEYS: &[Key] = &[
    key("drain_timeout", Value("\"30s\""), "At SIGTERM: how long running transactions may take to end."),
    key(
        "listen.address",
        Value("[\"127.0.0.1:6432\"]"),
        "Where clients connect over TCP. An empty list: only over the Unix-domain socket.",
    ),
    key(
        "listen.unix_directory",
        Unset("\"/run/pglagoon\""),
        "Clients may also connect over a Unix-domain socket in this directory, which must exist.",
    ),
    key("listen.unix_port", Value("6432"), "The port in the socket file's name: .s.PGSQL.6432."),
    key("listen.unix_mode", Value("\"0777\""), "Who may connect to the socket: its permissions."),
    key(
        "listen.max_clients",
        Value("10000"),
        "Client connections at once, over all addresses. More are refused with SQLSTATE 53300.",
    ),
    key(
        "listen.max_user_clients",
        Value("\"off\""),
        "Clients of one user at once, over all databases. More are refused with SQLSTATE 53300.",
    ),
    key("listen.workers", Value("0"), "Worker threads. 0: one per core."),
    key(
        "listen.io_uring",
        Value("true"),
        "What a worker sends at about the same time goes to the kernel in one call, if it offers io_uring; if not, as with \
         false, message by message.",
    ),
    key("listen.login_timeout", Value("\"60s\""), "Time from connecting to a finished login."),
    key(
        "listen.client_idle_timeout",
        Value("\"off\""),
        "A client that is idle for so long outside a transaction is disconnected.",
    ),
    key(
        "listen.tls",
        Value("\"disable\""),
        "TLS towards clients. prefer: offered. require: no connection without it. verify-ca: and a certificate of an \
         authority in tls_ca. verify-full: and its common name is the user's name.",
    ),
    key(
        "listen.tls_cert",
        Unset("\"server.crt\""),
        "Our certificate chain, PEM. Needed unless tls is disable.",
    ),
    key("listen.tls_key", Unset("\"server.key\""), "Our private key, PEM. Needed unless tls is disable."),
    key(
        "listen.tls_ca",
        Unset("\"ca.crt\""),
        "Authorities for client certificates, PEM. Needed for verify-ca and verify-full.",
    ),
    key(
        "listen.max_message",
        Value("\"64MiB\""),
        "The largest message that must be held whole: a query's text, a Parse. Rows, COPY data and parameters stream, \
         and have no limit but the protocol's.",
    ),
    key(
        "http.address",
        Unset("\"127.0.0.1:9632\""),
        "Where /metrics, /health and /ready are served over HTTP.",
    ),
    key(
        "auth.method",
        Value("\"scram-sha-256\""),
        "How clients prove who they are. md5: users with a SCRAM verifier are asked for SCRAM. cert: a certificate \
         whose common name is the user's name, which needs listen.tls verify-ca or verify-full. trust: they need not.",
    ),
    key(
        "auth.auth_file",
        Unset("\"userlist.txt\""),
        "More users, in the format of PgBouncer's userlist.txt. Where both give a user's password, [users] counts.",
    ),
    key(
        "auth.auth_user",
        Unset("\"pglagoon\""),
        "Users that have no password here are looked up on the servers, at each login: this one asks, by auth_query. It is a \
         configured user itself, whose password opens the servers.",
    ),
    key(
        "auth.auth_query",
        Unset("\"SELECT * FROM lookup($1)\""),
        "That query. $1 is the name; the last column of its first row is what PostgreSQL stores of the password. By default \
         pg_authid is asked, which superusers may read; for others there can be a function with SECURITY DEFINER.",
    ),
    key(
        "auth.auth_dbname",
        Unset("\"app\""),
        "The database in which it runs. By default the one that the client asks for.",
    ),
    key(
        "users.NAME.password",
        Unset("\"secret\""),
        "The user's password. A SCRAM verifier also serves to log in to servers that hold the same one. Without any, \
         the user can log in only where the method asks for no password, or if auth.auth_user looks it up.",
    ),
    key(
        "users.NAME.consistency",
        Unset("\"strong\""),
        "What the user's reads may return, if not what routing.consistency of the database says.",
    ),
    key(
        "users.NAME.max_clients",
        Unset("50"),
        "The user's clients at once, over all databases, if not what listen.max_user_clients says.",
    ),
    key("users.NAME.pool.mode", Unset("\"session\""), "For this user, instead of what the database says."),
    key("users.NAME.pool.size", Unset("5"), "For this user, instead of what the database says."),
    key(
        "users.NAME.pool.min_size",
        Unset("1"),
        "For this user, instead of what the database says; at most its size.",
    ),
    key("users.NAME.pool.reserve_size", Unset("2"), "For this user, instead of what the database says."),
    key(
        "users.NAME.pool.idle_transaction_timeout",
        Unset("\"1min\""),
        "For this user, instead of what the database says.",
    ),
    key(
        "users.NAME.pool.transaction_timeout",
        Unset("\"5min\""),
        "For this user, instead of what the database says.",
    ),
    key(
        "users.NAME.pool.query_timeout",
        Unset("\"30s\""),
        "For this user, instead of what the database says.",
    ),
    key(
        "admin.users",
        Value("[]"),
        "Users that may open the virtual database \"pglagoon\" (alias \"pgbouncer\") and use every command.",
    ),
    key("admin.stats_users", Value("[]"), "Users that may open it and use SHOW."),
    key(
        "pool.mode",
        Value("\"transaction\""),
        "When a server connection goes back to the pool: when its client leaves, after each transaction, or after each \
         statement (transaction blocks are then refused).",
    ),
    key("pool.size", Value("20"), "Server connections per database, user and server."),
    key(
        "pool.min_size",
        Value("0"),
        "How many of them are made ahead and kept, used or not, while a client of that database and user is connected: what \
         comes after a quiet time need not wait for logins.",
    ),
    key(
        "pool.reserve_size",
        Value("0"),
        "So many more are made while a client has waited for reserve_timeout, and closed when nobody waits any more.",
    ),
    key(
        "pool.reserve_timeout",
        Value("\"5s\""),
        "That time. It should be less than checkout_timeout, when a client gets an error.",
    ),
    key(
        "pool.max_db_connections",
        Value("\"off\""),
        "Server connections per database and server, over all its users. One whose clients wait takes the place of another's \
         idle connection; if there is none, who has waited longest comes first. Connections of pglagoon's own and those for \
         replication are not counted.",
    ),
    key(
        "pool.max_db_clients",
        Value("\"off\""),
        "Clients of one database at once, over all its users. More are refused with SQLSTATE 53300.",
    ),
    key(
        "pool.checkout_timeout",
        Value("\"10s\""),
        "How long a client waits for a connection of a server that is there before it gets an error. With little more than \
         monitor.timeout, or less, it gets one also where the server hangs and the client could have been held.",
    ),
    key(
        "pool.hold_timeout",
        Value("\"30s\""),
        "How long a client outside of a transaction is held while there is no server for its request: the primary is down, \
         or about to be replaced. checkout_timeout begins when there is one.",
    ),
    key(
        "pool.hold_limit",
        Value("10000"),
        "Clients of one database that may be held. More get an error at once.",
    ),
    key("pool.max_waiting", Value("10000"), "Clients that may wait for one pool. More get an error at once."),
    key(
        "pool.max_replication",
        Value("10"),
        "Replication connections per database and user; each has a server connection of its own, beside the pool.",
    ),
    key("pool.idle_timeout", Value("\"10min\""), "A server connection that is idle for so long is closed."),
    key(
        "pool.lifetime",
        Value("\"1h\""),
        "A server connection that is so old is closed when it is free, spread over a tenth of the time.",
    ),
    key("pool.connect_timeout", Value("\"5s\""), "Time for connecting and logging in to a server."),
    key("pool.max_logins", Value("4"), "Logins to one server under way at once, per pool."),
    key(
        "pool.session_state",
        Value("\"pin\""),
        "In transaction mode: what becomes of a client that creates what cannot follow it to another server connection \
         (a temporary table, a session-level advisory lock, a cursor WITH HOLD ...). \"pin\": it keeps its server \
         connection until that is gone. \"error\": such statements are refused.",
    ),
    key(
        "pool.pin_limit",
        Value("80"),
        "How many clients may keep a server connection so, in percent of pool.size. Beyond, such statements are refused \
         with SQLSTATE 53300.",
    ),
    key("pool.prepared_statements", Value("200"), "Prepared statements kept on one server connection."),
    key(
        "pool.unnamed_statements",
        Value("\"keep\""),
        "What becomes of statements that clients prepare without a name, which most drivers do unless told otherwise. \
         keep: one whose text comes again is kept on servers among the prepared_statements, so that PostgreSQL parses it \
         once, and after five executions may plan it once for all parameters (plan_cache_mode says whether it does). \
         forward: PostgreSQL parses and plans it each time.",
    ),
    key(
        "pool.idle_transaction_timeout",
        Value("\"off\""),
        "A client that is idle for so long inside a transaction is disconnected.",
    ),
    key(
        "pool.transaction_timeout",
        Value("\"off\""),
        "A client whose transaction lasts for so long, its waits included, is disconnected, and what runs is cancelled. A \
         statement on its own is a transaction, too.",
    ),
    key(
        "pool.query_timeout",
        Value("\"off\""),
        "A client whose query runs for so long is disconnected, and the query cancelled.",
    ),
    key("routing.reads", Value("\"replicas\""), "Where proven reads go. primary: no splitting."),
    key(
        "routing.consistency",
        Value("\"session\""),
        "What a read may return. session: a client sees its own writes and never less than it has seen. strong: \
         everything that was acknowledged to anybody before the read. bounded: data at least as new as max_staleness \
         ago. sticky: a client's reads stay on the primary for sticky_window after its last write. eventual: any healthy \
         replica within max_lag. primary: reads go to the primary. A client chooses by SET pglagoon.consistency.",
    ),
    key("routing.sticky_window", Value("\"2s\""), "For sticky: that time."),
    key("routing.max_staleness", Value("\"5s\""), "For bounded: that time."),
    key(
        "routing.max_wait",
        Value("\"50ms\""),
        "For session, strong and bounded: how long a read waits for a replica that is fresh enough.",
    ),
    key(
        "routing.on_stale",
        Value("\"primary\""),
        "Then it goes to the primary, or fails with SQLSTATE 40001.",
    ),
    key(
        "routing.max_fallbacks",
        Value("1000"),
        "How many such reads per second may go to the primary; more of them go on waiting, so that replicas that lag do \
         not drown the primary.",
    ),
    key(
        "routing.scope",
        Value("\"connection\""),
        "For session and strong: whose reads and writes are taken together. What one of them has written or seen, all of \
         them see. A client joins others by SET pglagoon.causality_key, whatever the scope.",
    ),
    key(
        "routing.transactions",
        Value("\"primary\""),
        "Where a transaction block that may write runs. promote: its proven reads run on a replica until its first statement \
         that is none; then the rest runs on the primary, which shows what the replica has shown. For READ COMMITTED alone, \
         and for a BEGIN in a simple query. now() moves on when the block does.",
    ),
    key(
        "routing.on_lost_write",
        Value("\"error\""),
        "For session and strong: a client whose last write may be lost by a failover is told so once, with SQLSTATE 08007, \
         or goes on as if it had written nothing.",
    ),
    key(
        "routing.token_secret",
        Unset("\"the same in every pglagoon\""),
        "What SHOW pglagoon.causality_token signs its answer with. Without: a secret of this process, so that only this one \
         takes its tokens.",
    ),
    key("routing.max_lag", Value("\"10s\""), "A replica that is further behind takes no reads."),
    key(
        "routing.balance",
        Value("\"least_connections\""),
        "How a replica is chosen: the one with the fewest connections in use, each in turn, in turn by weight, or of two \
         that are drawn the one that answers sooner (an average that rises at once and sinks slowly, times what waits \
         there already).",
    ),
    key(
        "routing.slow_start",
        Value("\"10s\""),
        "A replica that was down, behind or detached, and comes back, begins with a twentieth of its share, which grows \
         evenly for so long. Alone, it serves all the same.",
    ),
    key(
        "routing.shadow",
        Value("false"),
        "true: all goes to the primary, and reads that would have gone to a replica are counted with the reason shadow.",
    ),
    key(
        "routing.safe_functions",
        Value("[]"),
        "Functions of the database's own (name or schema.name) that only read, whatever calls them: they may run on \
         replicas. Those of PostgreSQL and of well-known extensions are known.",
    ),
    key("monitor.interval", Value("\"1s\""), "Time between two probes of a server."),
    key(
        "monitor.timeout",
        Value("\"2s\""),
        "How long a probe may take. A server that does not answer two in a row is down; a replica is as soon as it has said \
         nothing to anybody for a second, while others answer.",
    ),
    key(
        "monitor.dead_after",
        Value("\"10s\""),
        "How long a server that is down may be silent before what is under way there is given up, as if it had \
         died: 40001 for transactions, 08007 where nobody knows whether they were committed. Reads on a replica of which \
         nothing was shown run again elsewhere as soon as it counts as down.",
    ),
    key(
        "monitor.resolve_interval",
        Value("\"10s\""),
        "Time between two look-ups of a server's name. When it does not stand any more for the address that is used, \
         connections are made anew, as transactions end.",
    ),
    key(
        "monitor.user",
        Unset("\"pglagoon\""),
        "The user for probes. Without: one that can log in to the database. Sections that name the same servers share their \
         probes if they log in alike: give a user here if each has a server user of its own. It needs pg_read_all_stats (or \
         pg_monitor): without it a replica's new timeline is known only after its next restartpoint, and after a promotion it \
         serves no reads until then.",
    ),
    key("monitor.password", Unset("\"secret\""), "That user's password."),
    key(
        "monitor.database",
        Unset("\"postgres\""),
        "The database for probes. Without: the first section's that names the servers, by the sections' names (* last); if \
         the monitor is not let in there, the next one's. PostgreSQL drops no database that somebody is connected to: with \
         one that stays, all others can be dropped.",
    ),
    key(
        "log.filter",
        Value("\"info\""),
        "What is logged: a level, or levels by part: \"info,pglagoon::cluster=debug\".",
    ),
    key("log.format", Value("\"text\""), "The shape of a line: for people, or for machines."),
    key(
        "databases.NAME.servers",
        Required("[\"127.0.0.1:5432\"]"),
        "Its servers. Which one is the primary is found out.",
    ),
    key(
        "databases.NAME.patroni",
        Unset("[\"http://127.0.0.1:8008\"]"),
        "The REST APIs of the servers' Patronis, one for each of servers, in that order. A server is then primary only if its \
         Patroni says so too (GET /primary), and a replica takes reads only if its Patroni lets it (GET /replica). Where it \
         does not answer within monitor.timeout, what the server says of itself counts.",
    ),
    key(
        "databases.NAME.patroni_lag",
        Unset("\"16MiB\""),
        "A replica that is further behind by its Patroni's account takes no reads (GET /replica?lag=), beside \
         routing.max_lag. Without: as far as it may be.",
    ),
    key(
        "databases.NAME.patroni_tls_ca",
        Unset("\"patroni-ca.crt\""),
        "Authorities for the certificates of Patronis whose address begins with https, PEM. They must be good for the hosts that \
         are named there.",
    ),
    key(
        "databases.NAME.patroni_tls_cert",
        Unset("\"patroni-client.crt\""),
        "Our certificate chain for Patronis with restapi.verify_client = required, PEM.",
    ),
    key("databases.NAME.patroni_tls_key", Unset("\"patroni-client.key\""), "Its private key, PEM."),
    key(
        "databases.NAME.database",
        Unset("\"app\""),
        "Its name on the servers. Without: the name that the client asked for.",
    ),
    key(
        "databases.NAME.server_user",
        Unset("\"app\""),
        "Log in to servers as this user. Without: as the client's.",
    ),
    key(
        "databases.NAME.server_password",
        Unset("\"secret\""),
        "The password of server_user, or of every user if there is none. Without: the client's.",
    ),
    key(
        "databases.NAME.server_tls",
        Value("\"prefer\""),
        "TLS towards servers, as libpq's sslmode. Unix-domain sockets never use it.",
    ),
    key(
        "databases.NAME.server_tls_ca",
        Unset("\"ca.crt\""),
        "Authorities for server certificates, PEM. Needed for verify-ca and verify-full.",
    ),
    key(
        "databases.NAME.server_tls_cert",
        Unset("\"client.crt\""),
        "Our certificate chain for servers that ask for one, PEM.",
    ),
    key("databases.NAME.server_tls_key", Unset("\"client.key\""), "Its private key, PEM."),
    key(
        "databases.NAME.routing.weights",
        Unset("[1]"),
        "One weight per server, in the order of servers. Only with routing.balance = \"weighted\", which needs it.",
    ),
    key(
        "databases.NAME.routing.prefer",
        Unset("[\"127.0.0.1:5432\"]"),
        "Some of servers, those nearby for example: as long as one of them is a replica that can serve a read, no other \
         replica does.",
    ),
];

const fn key(path: &'static str, preset: Preset, doc: &'static str) -> Key {
    Key { path, preset, doc }
}

/// General keys that nobody is shown.
const SECRETS: [&str; 2] = ["monitor.password", "routing.token_secret"];

/// Whether a key is general, and no secret.
pub(super) fn may_be_shown(path: &str) -> bool {
    !path.contains("NAME") && !SECRETS.contains(&path)
}

/// Every general key that is no secret, with what holds without it, as SHOW CONFIG prints it.
pub fn shown() -> impl Iterator<Item = (&'static str, String)> {
    KEYS.iter().filter(|key| may_be_shown(key.path)).map(|key| {
        let default = match key.preset {
            Value(toml) => toml.replace(['[', ']', '"'], ""),
            Unset(_) | Required(_) => String::new(),
        };
        (key.path, default)
    })
}

/// The sections whose keys a database may override.
const OVERRIDABLE: [&str; 2] = ["pool.", "routing."];

/// Every path that a file may hold, with `NAME` for names.
pub fn paths() -> impl Iterator<Item = String> {
    let overridable = |key: &&Key| OVERRIDABLE.iter().any(|section| key.path.starts_with(section));
    let in_databases = KEYS.iter().filter(overridable).map(|key| format!("databases.NAME.{}", key.path));
    KEYS.iter().map(|key| key.path.to_owned()).chain(in_databases)
}

/// The known key that somebody may have meant by `unknown` in `section` (with `NAME` for names), as the user may write
/// it there; or, if that is in another section, its whole path.
pub(super) fn nearest(section: &str, unknown: &str) -> Option<String> {
    let prefix = if section.is_empty() { String::new() } else { format!("{section}.") };
    let mut here: Vec<String> = Vec::new();
    for path in paths() {
        let Some(rest) = path.strip_prefix(&prefix) else { continue };
        here.push(rest.to_owned());
        here.extend(rest.split_once('.').map(|(subsection, _)| subsection.to_owned()));
    }
    let most = (unknown.len() / 3).clamp(1, 3);
    let near = here.iter().map(|key| (distance(&flat(key), &flat(unknown)), key));
    let best = near.filter(|(distance, key)| *distance <= most && !key.contains("NAME")).min();
    best.map(|(_, key)| key.clone()).or_else(|| elsewhere(unknown))
}

fn elsewhere(unknown: &str) -> Option<String> {
    let same = |key: &&Key| key.path.rsplit('.').next() == Some(unknown) || flat(key.path) == flat(unknown);
    KEYS.iter().find(same).map(|key| key.path.to_owned())
}

/// Dots, dashes and capitals are how people miss a key most often.
fn flat(key: &str) -> String {
    key.to_ascii_lowercase().replace(['.', '-'], "_")
}

/// Levenshtein's distance.
fn distance(left: &str, right: &str) -> usize {
    if left.len().abs_diff(right.len()) > 4 {
        return usize::MAX;
    }
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let substitution = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substitution.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

/// The text of `config/reference.toml`.
pub fn reference() -> String {
    let allowed = check::allowed();
    let mut text = REFERENCE_HEAD.to_owned();
    let mut section = "";
    for key in KEYS {
        let (parent, name) = match key.path.split_once(".NAME.") {
            Some((_, name)) => (&key.path[..key.path.len() - name.len() - 1], name),
            None => key.path.rsplit_once('.').unwrap_or(("", key.path)),
        };
        if parent != section {
            section = parent;
            let _ = writeln!(text, "{}[{}]", section_head(parent), parent.replace("NAME", "app"));
        }
        wrapped(&mut text, key.doc);
        wrapped(&mut text, &format!("Allowed: {}.", allowed.get(key.path).map_or("", String::as_str)));
        let _ = match key.preset {
            Value(value) => writeln!(text, "{name} = {value}\n"),
            Required(example) => writeln!(text, "{name} = {example}    # must be given\n"),
            Unset(example) => writeln!(text, "# {name} = {example}    # not set by default\n"),
        };
    }
    text.push_str("# The keys of [pool] and [routing], with the value of those sections as their default:\n");
    for key in KEYS.iter().filter(|key| OVERRIDABLE.iter().any(|section| key.path.starts_with(section))) {
        let _ = writeln!(text, "# {} = {}", key.path, key.preset.toml());
    }
    text.push_str(REFERENCE_TAIL);
    text
}

const REFERENCE_HEAD: &str = "\
# Every key of pglagoon's configuration, with its default. What begins with `# KEY =` is not set by default; the value
# is then an example. Unknown keys are refused.
#
# Times have a unit: ms, s, min, h, d. Sizes too: B, KiB, MiB, GiB. No number means \"off\": the word \"off\" does.
# A relative path starts at the folder of the configuration file.
#
# This file is made from the source; a test keeps it so.

";

const REFERENCE_TAIL: &str = "
# Any other database, under its own name. It has the same keys.
# [databases.\"*\"]
# servers = [\"127.0.0.1:5432\"]
";

fn section_head(section: &str) -> &'static str {
    match section {
        "users.NAME" => "# A user; as many of these sections as there are users.\n",
        "pool" | "routing" => "# Defaults for every database.\n",
        "monitor" => "# How pglagoon looks after its servers.\n",
        "databases.NAME" => "# A database by the name that clients ask for; at least one such section.\n",
        _ => "",
    }
}

/// A comment in lines of at most 100 characters.
fn wrapped(text: &mut String, comment: &str) {
    let mut line = String::from("#");
    for word in comment.split(' ') {
        if line.len() + 1 + word.len() > 100 {
            let _ = writeln!(text, "{line}");
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ConfigError, parse};

    const MINIMAL: &str = include_str!("../../config/minimal.toml");
    const REFERENCE: &str = include_str!("../../config/reference.toml");

    fn read(text: &str) -> Result<Config, Vec<ConfigError>> {
        parse(text, &|_| Ok(String::new()), 4)
    }

    const SERVERS: &str = "databases.app.servers = [\"127.0.0.1:5432\"]\n";

    /// A file with one key set, and with what that key needs beside it.
    fn with(path: &str, value: &str) -> String {
        let path = path.replace("NAME", "app");
        let beside = match path.as_str() {
            "databases.app.server_tls_cert" => "databases.app.server_tls_key = 'client.key'",
            "databases.app.server_tls_key" => "databases.app.server_tls_cert = 'client.crt'",
            "databases.app.routing.weights" => "databases.app.routing.balance = 'weighted'",
            "databases.app.patroni_lag" => "databases.app.patroni = 'http://127.0.0.1:8008'",
            "databases.app.patroni_tls_ca" => "databases.app.patroni = 'https://127.0.0.1:8008'",
            "databases.app.patroni_tls_cert" => {
                "databases.app.patroni = 'https://127.0.0.1:8008'\ndatabases.app.patroni_tls_ca = 'ca.crt'\n\
                 databases.app.patroni_tls_key = 'client.key'"
            }
            "databases.app.patroni_tls_key" => {
                "databases.app.patroni = 'https://127.0.0.1:8008'\ndatabases.app.patroni_tls_ca = 'ca.crt'\n\
                 databases.app.patroni_tls_cert = 'client.crt'"
            }
            "monitor.password" => "monitor.user = 'pglagoon'",
            "auth.auth_user" => "users.pglagoon.password = 'secret'",
            "auth.auth_query" | "auth.auth_dbname" => "auth.auth_user = 'app'\nusers.app.password = 'secret'",
            _ => "",
        };
        let servers = if path == "databases.app.servers" { "" } else { SERVERS };
        format!("{path} = {value}\n{beside}\n{servers}")
    }

    #[test]
    fn the_reference_is_made_from_the_table() {
        let again = "make it again: cargo test --lib write_reference -- --ignored";
        assert!(REFERENCE == reference(), "{again}");
    }

    #[test]
    fn both_files_are_good() {
        let reference = read(REFERENCE).expect("reference.toml");
        let minimal = read(MINIMAL).expect("minimal.toml");
        assert_eq!(reference.listen, minimal.listen);
        assert_eq!(reference.monitor, minimal.monitor);
        assert_eq!(reference.databases["app"].pool, minimal.databases["app"].pool);
        assert_eq!(reference.databases["app"].routing, minimal.databases["app"].routing);
    }

    #[test]
    fn every_key_of_the_table_is_read_and_every_key_that_is_read_is_in_the_table() {
        let read: Vec<String> = check::allowed().into_keys().collect();
        let mut table: Vec<String> = paths().collect();
        table.sort();
        assert_eq!(table, read);
    }

    #[test]
    fn every_default_in_the_table_is_what_holds_without_the_key() {
        let without = read(SERVERS).expect("good");
        for key in KEYS {
            let text = with(key.path, key.preset.toml());
            let config = read(&text).unwrap_or_else(|errors| panic!("{}: {errors:?}", key.path));
            match key.preset {
                Value(_) | Required(_) => assert_eq!(config, without, "{}", key.path),
                Unset(_) => assert_ne!(config, without, "{} has no effect", key.path),
            }
        }
    }

    #[test]
    fn a_general_key_is_shown_alike_whether_the_file_gives_its_default_or_nothing() {
        for (path, default) in shown() {
            let key = KEYS.iter().find(|key| key.path == path).expect("of the table");
            let config = read(&with(path, key.preset.toml())).expect("good");
            match key.preset {
                Value(_) => assert_eq!(config.shown[path], default, "{path}"),
                Unset(_) | Required(_) => assert!(!config.shown[path].is_empty(), "{path}"),
            }
        }
        let secret = read(
            "monitor = { user = 'm', password = 'hunter2' }\nrouting.token_secret = 'hunter2hunter2hunter2'\n\
                           users.x.password = 'hunter2'\ndatabases.app = { servers = 'a', server_password = 'hunter2' }",
        );
        assert!(!format!("{:?}", secret.expect("good").shown).contains("hunter2"));
    }

    #[test]
    fn every_key_of_a_pool_and_of_routing_can_be_set_in_a_database() {
        for key in KEYS.iter().filter(|key| OVERRIDABLE.iter().any(|section| key.path.starts_with(section))) {
            read(&with(&format!("databases.NAME.{}", key.path), key.preset.toml())).expect(key.path);
        }
    }

    #[test]
    fn near_misses_find_their_key() {
        let expected = [
            ("", "listn", Some("listen")),
            ("", "drain-timeout", Some("drain_timeout")),
            ("listen", "max_client", Some("max_clients")),
            ("listen", "adress", Some("address")),
            ("databases.NAME", "pool_size", Some("pool.size")),
            ("databases.NAME", "server", Some("servers")),
            ("databases.NAME.pool", "checkout_timout", Some("checkout_timeout")),
            ("pool", "max_clients", Some("max_db_clients")),
            ("pool", "max_user_clients", Some("listen.max_user_clients")),
            ("", "pool_mode", Some("pool.mode")),
            ("listen", "xyzzy", None),
        ];
        for (section, unknown, known) in expected {
            assert_eq!(nearest(section, unknown).as_deref(), known, "{section} {unknown}");
        }
    }
}
