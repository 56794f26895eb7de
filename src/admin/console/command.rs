//! What a console user may say. Pure.

use crate::admin::tables::Show;
use crate::admin::{Operation, Rights, Scope, Shutdown};
use crate::config::values;
use crate::error::{ErrorSource, Report};
use crate::wire::SqlState;
use crate::wire::backend::{Column, ColumnType};
use std::time::Duration;

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Nothing but spaces and comments.
    Empty,
    /// A table.
    Show(Show),
    /// The list of commands, as a notice.
    Help,
    /// A setting that drivers ask for.
    Setting(&'static Setting),
    /// Sets something that drivers set; ignored.
    Set,
    /// `SELECT 1`
    One,
    /// BEGIN, COMMIT, ROLLBACK: its tag.
    Transaction(&'static str),
    /// An order.
    Operate(Operation),
}

impl Command {
    /// What a user must be allowed to do.
    pub fn needs(&self) -> Rights {
        match self {
            Command::Empty
            | Command::Show(_)
            | Command::Help
            | Command::Setting(_)
            | Command::Set
            | Command::One
            | Command::Transaction(_) => Rights::Stats,
            Command::Operate(
                Operation::Pause(_)
                | Operation::Resume(_)
                | Operation::Reload
                | Operation::Reconnect(_)
                | Operation::WaitClose(_)
                | Operation::Disable(_)
                | Operation::Enable(_)
                | Operation::Kill(_)
                | Operation::Detach(_)
                | Operation::Drain(_)
                | Operation::Attach(_)
                | Operation::Switchover { .. }
                | Operation::KillClient(_)
                | Operation::Upgrade
                | Operation::Shutdown(_),
            ) => Rights::Admin,
        }
    }

    /// The tag of its CommandComplete.
    pub fn tag(&self) -> &'static str {
        match self {
            Command::Empty => "",
            Command::Show(_) | Command::Help | Command::Setting(_) => "SHOW",
            Command::Set => "SET",
            Command::One => "SELECT 1",
            Command::Transaction(tag) => tag,
            Command::Operate(Operation::Pause(_)) => "PAUSE",
            Command::Operate(Operation::Resume(_)) => "RESUME",
            Command::Operate(Operation::Reload) => "RELOAD",
            Command::Operate(Operation::Reconnect(_)) => "RECONNECT",
            Command::Operate(Operation::WaitClose(_)) => "WAIT_CLOSE",
            Command::Operate(Operation::Disable(_)) => "DISABLE",
            Command::Operate(Operation::Enable(_)) => "ENABLE",
            Command::Operate(Operation::Kill(_)) => "KILL",
            Command::Operate(Operation::Detach(_)) => "DETACH",
            Command::Operate(Operation::Drain(_)) => "DRAIN",
            Command::Operate(Operation::Attach(_)) => "ATTACH",
            Command::Operate(Operation::Switchover { .. }) => "SWITCHOVER",
            Command::Operate(Operation::KillClient(_)) => "KILL_CLIENT",
            Command::Operate(Operation::Upgrade) => "UPGRADE",
            Command::Operate(Operation::Shutdown(_)) => "SHUTDOWN",
        }
    }

    /// The columns of its result; none: it has no result.
    pub fn columns(&self) -> &'static [Column] {
        match self {
            Command::Show(show) => show.columns(),
            Command::Setting(setting) => &setting.columns,
            Command::One => &[Column { name: "?column?", kind: ColumnType::Int4 }],
            Command::Empty | Command::Help | Command::Set | Command::Transaction(_) | Command::Operate(_) => {
                &[]
            }
        }
    }
}

/// What a driver finds if it asks for a setting.
#[derive(Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name, in lower case.
    pub name: &'static str,
    /// What SHOW answers, whatever was SET.
    pub value: &'static str,
    columns: [Column; 1],
}

impl Setting {
    const fn new(name: &'static str, value: &'static str) -> Self {
        Setting { name, value, columns: [Column { name, kind: ColumnType::Text }] }
    }

    fn named(name: &str) -> Option<&'static Setting> {
        SETTINGS.iter().find(|setting| setting.name.eq_ignore_ascii_case(name))
    }
}

/// What drivers SHOW and SET at start-up.
static SETTINGS: &[Setting] = &[
    Setting::new("application_name", ""),
    Setting::new("bytea_output", "hex"),
    Setting::new("client_encoding", "UTF8"),
    Setting::new("client_min_messages", "notice"),
    Setting::new("datestyle", "ISO, MDY"),
    Setting::new("default_transaction_isolation", "read committed"),
    Setting::new("default_transaction_read_only", "off"),
    Setting::new("extra_float_digits", "1"),
    Setting::new("idle_in_transaction_session_timeout", "0"),
    Setting::new("intervalstyle", "postgres"),
    Setting::new("lock_timeout", "0"),
    Setting::new("search_path", ""),
    Setting::new("server_version", "1.25.2/pglagoon"),
    Setting::new("standard_conforming_strings", "on"),
    Setting::new("statement_timeout", "0"),
    Setting::new("timezone", "UTC"),
    Setting::new("transaction_isolation", "read committed"),
    Setting::new("transaction_read_only", "off"),
];

/// What SHOW HELP says.
pub(super) const HELP: &str = "\
\tSHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|NODES|USERS|VERSION
\tSHOW LISTS|STATE|STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS
\tSHOW SOCKETS|ACTIVE_SOCKETS|PEERS|PEER_POOLS
\tPAUSE [database]
\tRESUME [database]
\tRECONNECT [database]
\tWAIT_CLOSE [database]
\tDISABLE database
\tENABLE database
\tKILL [database]
\tDETACH server
\tDRAIN server
\tATTACH server
\tSWITCHOVER database TO server [TIMEOUT seconds]
\tRELOAD
\tKILL_CLIENT id
\tUPGRADE
\tSHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]";

/// Reads one command: words in any case, names plain or quoted, comments, and `;` at the end or not.
///
/// # Errors
/// 42601 for what is not understood.
pub fn parse(text: &[u8]) -> Result<Command, Report> {
    let text = std::str::from_utf8(text).map_err(|_| syntax("a command that is not UTF-8"))?;
    let mut tokens = tokens(text)?;
    while tokens.last() == Some(&Token::Symbol(';')) {
        tokens.pop();
    }
    if tokens.contains(&Token::Symbol(';')) {
        return Err(syntax("one command at a time"));
    }
    let Some((first, rest)) = tokens.split_first() else { return Ok(Command::Empty) };
    let command = match first.keyword().as_str() {
        "show" => show(rest),
        "set" => set(rest),
        "select" => (rest == [Token::Word("1".into())]).then_some(Command::One),
        "begin" => Some(Command::Transaction("BEGIN")),
        "start" => first_is(rest, "transaction").then_some(Command::Transaction("START TRANSACTION")),
        "commit" | "end" => Some(Command::Transaction("COMMIT")),
        "rollback" | "abort" => Some(Command::Transaction("ROLLBACK")),
        _ => operation(first, rest).map(Command::Operate),
    };
    command.ok_or_else(|| misunderstood(text, &first.keyword(), rest))
}

/// What is wrong with a command that is none: its first word, or what it says behind that.
fn misunderstood(text: &str, verb: &str, rest: &[Token]) -> Report {
    if let ("show", [word]) = (verb, rest)
        && ONLY_PGBOUNCERS.contains(&word.keyword().as_str())
    {
        let text = format!("SHOW {} is PgBouncer's alone", word.keyword().to_ascii_uppercase());
        return Report::new(ErrorSource::Client, SqlState::FEATURE_NOT_SUPPORTED, text)
            .hint("SHOW HELP lists the commands.");
    }
    let begins = |usage: &&str| {
        let word = usage.split([' ', '|']).next().unwrap_or_default();
        word.eq_ignore_ascii_case(verb)
    };
    let usages: Vec<&str> = HELP.lines().map(str::trim).filter(begins).collect();
    if !usages.is_empty() {
        return syntax(format!("{} is understood as: {}", verb.to_ascii_uppercase(), usages.join(", or ")));
    }
    let shown: String = text.trim().chars().take(SHOWN).collect();
    syntax(format!("unknown command: {shown}"))
}

/// What PgBouncer shows of things that are not here.
const ONLY_PGBOUNCERS: [&str; 4] = ["dns_hosts", "dns_zones", "fds", "mem"];

/// How much of an unknown command its error repeats, in characters.
const SHOWN: usize = 100;

fn syntax(text: impl Into<std::borrow::Cow<'static, str>>) -> Report {
    Report::new(ErrorSource::Client, SqlState::SYNTAX_ERROR, text)
        .hint("SHOW HELP lists the commands; they end with or without a semicolon.")
}

fn show(rest: &[Token]) -> Option<Command> {
    match rest {
        [word] if word.keyword() == "help" => Some(Command::Help),
        [word] => {
            let name = word.keyword();
            Show::named(&name).map(Command::Show).or_else(|| Setting::named(&name).map(Command::Setting))
        }
        [a, b] if a.keyword() == "time" && b.keyword() == "zone" => {
            Setting::named("timezone").map(Command::Setting)
        }
        [a, b, c] if [a, b, c].map(Token::keyword) == ["transaction", "isolation", "level"] => {
            Setting::named("transaction_isolation").map(Command::Setting)
        }
        _ => None,
    }
}

/// `SET [SESSION | LOCAL] name {= | TO} value`, `SET TIME ZONE ...`, `SET NAMES ...`, `SET [...] TRANSACTION ...`.
fn set(rest: &[Token]) -> Option<Command> {
    let rest = match rest {
        [scope, rest @ ..] if ["session", "local"].contains(&scope.keyword().as_str()) => rest,
        rest => rest,
    };
    let (name, rest) = rest.split_first()?;
    let is_known = match name.keyword().as_str() {
        "time" => first_is(rest, "zone"),
        "names" | "transaction" | "characteristics" => !rest.is_empty(),
        name => {
            Setting::named(name).is_some()
                && (first_is(rest, "to") || rest.first() == Some(&Token::Symbol('=')))
        }
    };
    is_known.then_some(Command::Set)
}

fn operation(verb: &Token, rest: &[Token]) -> Option<Operation> {
    let scope = || match rest {
        [] => Some(Scope::All),
        [name] => name.name().map(Scope::Database),
        _ => None,
    };
    let one = || match rest {
        [name] => name.name(),
        _ => None,
    };
    match verb.keyword().as_str() {
        "pause" => scope().map(Operation::Pause),
        "resume" => scope().map(Operation::Resume),
        "reconnect" => scope().map(Operation::Reconnect),
        "wait_close" => scope().map(Operation::WaitClose),
        "kill" => scope().map(Operation::Kill),
        "disable" => one().map(Operation::Disable),
        "enable" => one().map(Operation::Enable),
        "detach" => server(rest).map(Operation::Detach),
        "drain" => server(rest).map(Operation::Drain),
        "attach" => server(rest).map(Operation::Attach),
        "switchover" => switchover(rest),
        "upgrade" => rest.is_empty().then_some(Operation::Upgrade),
        "reload" => rest.is_empty().then_some(Operation::Reload),
        "kill_client" => match rest {
            [id] => id.name().and_then(|id| id.parse().ok()).map(Operation::KillClient),
            _ => None,
        },
        "shutdown" => shutdown(rest).map(Operation::Shutdown),
        _ => None,
    }
}

/// A server's address, quoted or as the configuration spells it.
fn server(rest: &[Token]) -> Option<String> {
    let part = |token: &Token| match token {
        Token::Word(text) | Token::Quoted(text) => text.clone(),
        Token::Symbol(symbol) => symbol.to_string(),
    };
    let address: String = rest.iter().map(part).collect();
    (!address.is_empty() && address.len() <= MAX_NAME).then_some(address)
}

/// `database TO server [TIMEOUT time]`: the time in seconds, or with a unit.
fn switchover(rest: &[Token]) -> Option<Operation> {
    let [database, to, rest @ ..] = rest else { return None };
    let (rest, timeout) = match rest {
        [server @ .., word, Token::Word(time)] if word.keyword() == "timeout" => {
            let time = time.parse().map(Duration::from_secs).ok().or_else(|| values::duration(time))?;
            (server, Some(time))
        }
        server => (server, None),
    };
    let database = database.name().filter(|_| to.keyword() == "to")?;
    Some(Operation::Switchover { database, server: server(rest)?, timeout })
}

fn shutdown(rest: &[Token]) -> Option<Shutdown> {
    match rest {
        [] => Some(Shutdown::Now),
        [when] => match when.keyword().as_str() {
            "wait_for_servers" => Some(Shutdown::WaitForServers),
            "wait_for_clients" => Some(Shutdown::WaitForClients),
            _ => None,
        },
        _ => None,
    }
}

fn first_is(tokens: &[Token], word: &str) -> bool {
    tokens.first().is_some_and(|token| token.keyword() == word)
}

/// A piece of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// Letters, digits, `_`, `$`, `.` and whatever is not ASCII, as they were typed.
    Word(String),
    /// `"name"`, or `'name'`: as PgBouncer, this takes either for a name.
    Quoted(String),
    /// Any other character.
    Symbol(char),
}

impl Token {
    /// A word in lower case; empty for anything else.
    fn keyword(&self) -> String {
        match self {
            Token::Word(word) => word.to_ascii_lowercase(),
            Token::Quoted(_) | Token::Symbol(_) => String::new(),
        }
    }

    /// A database's name. Unquoted ones are taken as typed, as PgBouncer does.
    fn name(&self) -> Option<String> {
        match self {
            Token::Word(name) | Token::Quoted(name) => (name.len() <= MAX_NAME).then(|| name.clone()),
            Token::Symbol(_) => None,
        }
    }
}

/// The longest database name, in bytes.
const MAX_NAME: usize = 256;

fn tokens(text: &str) -> Result<Vec<Token>, Report> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        rest = match first {
            '"' | '\'' => {
                let (content, after) = quoted(rest, first).ok_or_else(|| syntax("unterminated quote"))?;
                tokens.push(Token::Quoted(content));
                after
            }
            '-' if rest.starts_with("--") => rest.split_once('\n').map_or("", |(_, after)| after),
            '/' if rest.starts_with("/*") => {
                rest[2..].split_once("*/").ok_or_else(|| syntax("unterminated comment"))?.1
            }
            first if is_word(first) => {
                let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                tokens.push(Token::Word(rest[..end].into()));
                &rest[end..]
            }
            symbol => {
                tokens.push(Token::Symbol(symbol));
                &rest[symbol.len_utf8()..]
            }
        };
        rest = rest.trim_start();
    }
    Ok(tokens)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '.') || !c.is_ascii() && !c.is_whitespace()
}

/// What stands between the quotes at the head of `text`, where a doubled quote is one, and what follows.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut content = String::new();
    let mut rest = &text[1..];
    loop {
        let (part, after) = rest.split_once(quote)?;
        content.push_str(part);
        match after.strip_prefix(quote) {
            Some(after) => {
                content.push(quote);
                rest = after;
            }
            None => return Some((content, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Command {
        parse(text.as_bytes()).unwrap_or_else(|report| panic!("{text}: {report}"))
    }

    #[test]
    fn words_come_in_any_case_with_comments_and_semicolons() {
        for text in ["SHOW POOLS", "show pools;", " Show -- all of them\n Pools ;; ", "/* dog */ show pools"]
        {
            assert_eq!(parsed(text), Command::Show(Show::Pools), "{text}");
        }
        for text in ["", " ", ";", "-- nothing", ";; /* */"] {
            assert_eq!(parsed(text), Command::Empty, "{text:?}");
        }
    }

    #[test]
    fn orders_are_read() {
        let database = |name: &str| Scope::Database(name.into());
        let switchover = |server: &str, seconds: Option<u64>| Operation::Switchover {
            database: "app".into(),
            server: server.into(),
            timeout: seconds.map(Duration::from_secs),
        };
        let orders = [
            ("PAUSE", Operation::Pause(Scope::All)),
            ("pause MyDb;", Operation::Pause(database("MyDb"))),
            ("pause \"my \"\"db\"\"\"", Operation::Pause(database("my \"db\""))),
            ("RESUME \"*\"", Operation::Resume(database("*"))),
            ("PAUSE 'it''s'", Operation::Pause(database("it's"))),
            ("DETACH '[::1]:5432'", Operation::Detach("[::1]:5432".into())),
            ("KILL_CLIENT '42'", Operation::KillClient(42)),
            ("reload", Operation::Reload),
            ("UPGRADE;", Operation::Upgrade),
            ("KILL_CLIENT 42", Operation::KillClient(42)),
            ("SHUTDOWN", Operation::Shutdown(Shutdown::Now)),
            ("shutdown wait_for_clients", Operation::Shutdown(Shutdown::WaitForClients)),
            ("SHUTDOWN WAIT_FOR_SERVERS;", Operation::Shutdown(Shutdown::WaitForServers)),
            ("SWITCHOVER app TO 10.0.0.2:5432", switchover("10.0.0.2:5432", None)),
            ("switchover app to [::1]:5432 timeout 90;", switchover("[::1]:5432", Some(90))),
            ("SWITCHOVER app TO \"db2:5432\" TIMEOUT 2min", switchover("db2:5432", Some(120))),
        ];
        for (text, order) in orders {
            assert_eq!(parsed(text), Command::Operate(order), "{text}");
        }
    }

    #[test]
    fn what_drivers_say_at_start_up_is_accepted() {
        for text in [
            "SET extra_float_digits = 3",
            "SET application_name = 'PostgreSQL JDBC Driver'",
            "set client_encoding to 'utf-8'",
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "SET DateStyle='ISO'",
            "SET TIME ZONE 'UTC'",
        ] {
            assert_eq!(parsed(text), Command::Set, "{text}");
        }
        for text in
            ["SHOW client_encoding", "show DateStyle", "SHOW TRANSACTION ISOLATION LEVEL", "show time zone"]
        {
            assert!(matches!(parsed(text), Command::Setting(_)), "{text}");
        }
        assert_eq!(parsed("select 1"), Command::One);
        assert_eq!(parsed("BEGIN READ ONLY").tag(), "BEGIN");
        assert_eq!(parsed("end").tag(), "COMMIT");
    }

    #[test]
    fn anything_else_is_a_syntax_error_with_a_hint() {
        for text in [
            "SELECT 2",
            "SHOW",
            "SHOW passwords",
            "SHOW POOLS app",
            "SHOW POOLS; SHOW STATS",
            "PAUSE a b",
            "KILL_CLIENT",
            "KILL_CLIENT -1",
            "SWITCHOVER app",
            "SWITCHOVER app TO",
            "SWITCHOVER TO 10.0.0.2:5432",
            "SWITCHOVER app TO 10.0.0.2:5432 TIMEOUT soon",
            "KILL_CLIENT 99999999999999999999",
            "SHUTDOWN now",
            "SET pool_size = 3",
            "SET",
            "\"SHOW\" POOLS",
            "SHOW \"pools",
            "/* SHOW POOLS",
            "SHOW é",
        ] {
            let report = parse(text.as_bytes()).expect_err(text);
            assert_eq!(report.code, SqlState::SYNTAX_ERROR, "{text}");
            assert!(!report.hint.is_empty(), "{text}");
        }
        assert!(parse(b"SHOW \xff").is_err());
        assert!(parse(format!("PAUSE {}", "x".repeat(MAX_NAME + 1)).as_bytes()).is_err());
    }

    #[test]
    fn a_command_that_is_known_says_how_it_is_said() {
        let said = |text: &str| parse(text.as_bytes()).expect_err(text).message.into_owned();
        assert_eq!(said("kill_client x"), "KILL_CLIENT is understood as: KILL_CLIENT id");
        assert_eq!(said("PAUSE a b"), "PAUSE is understood as: PAUSE [database]");
        assert!(said("SHOW moon").contains("POOLS") && said("SHOW moon").contains("PEERS"));
        assert_eq!(said("DROP TABLE x"), "unknown command: DROP TABLE x");
        let mem = parse(b"SHOW mem").expect_err("PgBouncer's");
        assert_eq!(
            (mem.code, &*mem.message),
            (SqlState::FEATURE_NOT_SUPPORTED, "SHOW MEM is PgBouncer's alone")
        );
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}") {
            let _ = parse(text.as_bytes());
        }
    }
}
