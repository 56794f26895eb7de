//! Files as people write them, and what they are told.

use super::*;

/// A file as a first user may write it.
const FIRST: &str = r#"
[listen]
address = "127.0.0.1:6432"          # a string or a list
max_clients = 10000
workers = 0                         # 0: one per core

[http]
address = "127.0.0.1:9632"          # /metrics, /health, /ready

[auth]
method = "scram-sha-256"            # trust | md5 | scram-sha-256 | password | cert

[users.app]
password = "secret"                 # plain text, "md5..." or "SCRAM-SHA-256$..."

[admin]
users = ["app"]                     # may open the virtual database "pglagoon" (alias "pgbouncer")

[pool]                              # defaults for every database
mode = "transaction"                # session | transaction | statement
size = 20                           # server connections per database, user and server
checkout_timeout = "10s"

[routing]                           # defaults for every database
reads = "replicas"                  # replicas | primary
consistency = "sticky"              # sticky | eventual | primary
sticky_window = "2s"
max_lag = "10s"

[databases.app]
servers = ["127.0.0.1:5432", "127.0.0.1:5433", "127.0.0.1:5434"]   # roles are found out, not configured
pool.size = 40                      # any default of [pool] and [routing] can be set per database

[databases."*"]                     # any other database, under its own name
servers = ["127.0.0.1:5432"]
"#;

/// What must stand in every file; what is tested stands before it.
const REST: &str = "\n[users.base]\npassword = 'secret'\n[databases.base]\nservers = '127.0.0.1:5432'\n";

fn missing(path: &Path) -> io::Result<String> {
    Err(io::Error::new(io::ErrorKind::NotFound, format!("no {}", path.display())))
}

fn there(_: &Path) -> io::Result<String> {
    Ok(String::new())
}

fn good(text: &str) -> Config {
    match parse(&format!("{text}{REST}"), &there, 4) {
        Ok(config) => config,
        Err(errors) => panic!("{text}: {errors:#?}"),
    }
}

fn errors_with(text: &str, read_file: ReadFile<'_>) -> Vec<String> {
    match parse(text, read_file, 4) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

fn errors(text: &str) -> Vec<String> {
    errors_with(&format!("{text}{REST}"), &there)
}

#[test]
fn the_first_file_works_as_it_stands() {
    let config = parse(FIRST, &missing, 6).expect("good");
    assert_eq!(config.listen.addresses, ["127.0.0.1:6432".parse().expect("address")]);
    assert_eq!(config.listen.workers, 6);
    assert_eq!(config.admin.users, ["app"]);
    assert_eq!(config.users["app"].secret, Some(Secret::Plain("secret".into())));
    let app = &config.databases["app"];
    assert_eq!((app.servers.len(), app.pool.size, app.pool.checkout_timeout), (3, 40, seconds(10)));
    let any = config.any_database.expect("the wildcard");
    assert_eq!((any.name.as_str(), any.pool.size), ("*", 20));
    assert!(!config.databases.contains_key("*"));
}

#[test]
fn a_database_overrides_the_defaults_key_by_key() {
    let config = good(
        "[pool]\nsize = 7\nmode = 'session'\nlifetime = 'off'\n[routing]\nmax_lag = '1min'\n\
         [databases.app]\nservers = ['a', 'b:5433', '/run/postgresql']\npool = { size = 8, lifetime = '1d' }\n\
         routing.balance = 'weighted'\nrouting.weights = [1, 2, 3]\n\
         routing.prefer = ['/run/postgresql', 'a']\nrouting.slow_start = 'off'\n",
    );
    let (app, base) = (&config.databases["app"], &config.databases["base"]);
    assert_eq!((app.pool.size, app.pool.mode), (8, PoolMode::Session));
    assert_eq!((app.pool.lifetime, base.pool.lifetime), (Some(seconds(86_400)), None));
    assert_eq!((app.routing.max_lag, &app.routing.weights[..]), (seconds(60), &[1, 2, 3][..]));
    assert_eq!((base.pool.size, base.routing.balance), (7, Balance::LeastConnections));
    assert_eq!((&app.routing.prefer[..], app.routing.slow_start), (&[2, 0][..], None));
}

#[test]
fn a_user_has_rules_of_its_own_in_every_database() {
    let config = good(
        "pool = { size = 10, min_size = 8, query_timeout = '1min' }\nlisten.max_user_clients = 9\n\
         [users.batch]\npassword = 'x'\nconsistency = 'strong'\nmax_clients = 'off'\n\
         pool = { mode = 'session', size = 3, query_timeout = 'off' }\n[users.plain]\npassword = 'x'\n",
    );
    let rules = &config.databases["base"];
    let own = rules.pool_of("batch");
    assert_eq!((own.mode, own.size, own.min_size), (PoolMode::Session, 3, 3));
    assert_eq!((own.query_timeout, own.reserve_size), (None, 0));
    assert_eq!(rules.pool_of("plain"), rules.pool);
    assert_eq!(
        (rules.level_of("batch"), rules.level_of("plain")),
        (Consistency::Strong, Consistency::Session)
    );
    assert_eq!(config.max_clients_of("batch"), None);
    for user in ["plain", "nobody"] {
        assert_eq!(config.max_clients_of(user), Some(9));
        assert_eq!(config.max_clients_key(user), "listen.max_user_clients");
    }
}

#[test]
fn levels_are_known_by_their_places() {
    let places = Consistency::ALL.map(|level| level as usize);
    assert_eq!(places, [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_user_without_a_password_takes_it_from_the_file_or_the_servers() {
    let list = |_: &Path| Ok("\"app\" \"of the file\"\n\"finder\" \"x\"\n".to_owned());
    let text = "auth = { auth_file = 'users.txt', auth_user = 'finder' }\nusers.app.max_clients = 1\n\
                users.guest.max_clients = 2\nusers.finder.pool.size = 1\n[databases.app]\nservers = ['a']\n";
    let config = parse(text, &list, 4).expect("good");
    assert_eq!(config.users["app"].secret, Some(Secret::Plain("of the file".into())));
    assert!(config.lookup_of("guest", "app").is_some() && config.lookup_of("app", "app").is_none());
    assert_eq!(config.max_clients_of("guest"), Some(2));
    assert_eq!(config.max_clients_key("guest"), "users.guest.max_clients");
}

#[test]
fn each_mistake_names_its_key_its_line_what_it_got_and_what_is_allowed() {
    let expected = [
        ("[pool]\nsize = 0", "pool.size (line 2): got the number 0; allowed: a whole number from 1 to 10000"),
        (
            "[listen]\nmax_clients = 0",
            "listen.max_clients (line 2): got the number 0; allowed: a whole number from 1 to",
        ),
        (
            "[pool]\nmin_size = 30",
            "pool.min_size (line 2): pool.min_size is 30, and pool.size 20: it can be no more",
        ),
        (
            "[users.x]\npassword = 'y'\npool = { size = 2, min_size = 3 }",
            "users.x.pool.min_size (line 3): pool.min_size is 3, and pool.size 2: it can be no more",
        ),
        ("[users.x]\npassword = 'y'\npool.lifetime = '1h'", "users.x.pool.lifetime (line 3): unknown key"),
        (
            "[pool]\nreserve_size = 2\nreserve_timeout = '10s'",
            "pool.reserve_timeout (line 3): pool.reserve_timeout is 10s, and pool.checkout_timeout 10s: no client waits",
        ),
        (
            "[pool]\nmax_db_connections = 0",
            "pool.max_db_connections (line 2): got the number 0; allowed: a whole number from 1 to 100000, or \"off\"",
        ),
        ("[auth]\nauth_query = 'SELECT $1'", "auth.auth_query (line 2): who asks? It needs auth.auth_user"),
        (
            "[auth]\nauth_user = 'nobody'",
            "auth.auth_user (line 2): got \"nobody\"; allowed: a user of [users] or auth_file",
        ),
        (
            "users.x.password = 'y'\nauth.auth_user = 'x'\nauth.auth_query = 'SELECT 1'",
            "auth.auth_query (line 3): got \"SELECT 1\"; allowed: a query with the parameter $1",
        ),
        (
            "users.x.password = 'y'\nauth.auth_user = 'x'\nauth.auth_dbname = 'none'",
            "auth.auth_dbname (line 3): got \"none\"; allowed: a database of [databases]",
        ),
        ("[pool]\nsize = '20'", "pool.size (line 2): got \"20\"; allowed: a whole number"),
        (
            "[pool]\nmode = 'txn'",
            "pool.mode (line 2): got \"txn\"; allowed: \"session\" | \"transaction\" | \"statement\"",
        ),
        (
            "[pool]\ncheckout_timeout = 10",
            "pool.checkout_timeout (line 2): got the number 10; allowed: a time such as",
        ),
        ("[pool]\nidle_timeout = '0s'", "pool.idle_timeout (line 2): got \"0s\"; allowed: a time such as"),
        (
            "[listen]\nmax_message = '1KiB'",
            "listen.max_message (line 2): got \"1KiB\"; allowed: a size from \"64KiB\" to \"1GiB\"",
        ),
        (
            "[listen]\naddress = 'localhost:1'",
            "listen.address (line 2): got \"localhost:1\"; allowed: a string or a list",
        ),
        (
            "[listen]\naddress = ['[::]:1', 5]",
            "listen.address[1] (line 2): got the number 5; allowed: \"IP:PORT\"",
        ),
        (
            "[listen]\naddress = []",
            "listen.address (line 2): got an empty list; allowed only together with unix_directory",
        ),
        (
            "[listen]\naddress = ['[::]:1', '[::]:1']",
            "listen.address (line 2): \"[::]:1\" stands there twice",
        ),
        (
            "[listen]\nunix_mode = '0999'",
            "listen.unix_mode (line 2): got \"0999\"; allowed: permissions in octal",
        ),
        ("[listen]\nunix_port = 70000", "listen.unix_port (line 2): got the number 70000; allowed: a port"),
        (
            "[users.x]\npassword = 5",
            "users.x.password (line 2): got something else than a string; allowed: a password",
        ),
        (
            "[users.x]\npassword = ''",
            "users.x.password (line 2): got an empty password, which never matches; allowed:",
        ),
        ("databases.app = 5", "databases.app (line 1): got the number 5; allowed: a table of keys"),
        ("[users]\nx = 'secret'", "users.x (line 2): got \"secret\"; allowed: a table of keys"),
        (
            "[admin]\nusers = ['base', 'nobody']",
            "admin.users[1] (line 2): got \"nobody\"; allowed: a user of [users]",
        ),
        (
            "[databases.app]\nservers = []",
            "databases.app.servers (line 2): got an empty list; allowed: at least one",
        ),
        (
            "[databases.app]\ndatabase = 'x'",
            "databases.app.servers: missing; a list with at least one server is needed",
        ),
        (
            "[databases.app]\nservers = ['a:b']",
            "databases.app.servers[0] (line 2): got \"a:b\"; allowed: \"HOST:PORT\"",
        ),
        (
            "[databases.app]\nservers = ['a', 'a:5432']",
            "databases.app.servers (line 2): \"a:5432\" stands there twice",
        ),
        (
            "[databases.'*']\nservers = ['a']\npool.size = -1",
            "databases.\"*\".pool.size (line 3): got the number -1; allowed",
        ),
        (
            "[databases.pgbouncer]\nservers = ['a']",
            "databases.pgbouncer (line 1): the name belongs to the virtual database",
        ),
        (
            "[databases.app]\nservers = ['a', 'b']\n[databases.app.routing]\nbalance = 'weighted'\nweights = [1]",
            "databases.app.routing.weights (line 5): got 1 weights for 2 servers; allowed: one for each",
        ),
        (
            "[databases.app]\nservers = ['a']\nrouting.balance = 'weighted'",
            "databases.app.routing.weights: missing; balance = \"weighted\" needs one weight",
        ),
        (
            "[databases.app]\nservers = ['a']\nrouting.weights = [1]",
            "databases.app.routing.weights (line 3): only allowed with balance = \"weighted\"",
        ),
        (
            "[databases.app]\nservers = ['a']\nrouting.prefer = 'b'",
            "databases.app.routing.prefer (line 3): \"b:5432\" is none of servers; allowed: some of them",
        ),
        (
            "[listen]\ntls_key = 'k'\ntls = 'require'",
            "listen.tls_cert: missing; tls = \"require\" needs a certificate",
        ),
        (
            "[listen]\ntls_key = 'k'\ntls_cert = 'c'\ntls = 'verify-ca'",
            "listen.tls_ca: missing; tls = \"verify-ca\" needs",
        ),
        (
            "[databases.app]\nservers = ['a']\npatroni = 'https://a'",
            "databases.app.patroni (line 3): got \"https://a\"; allowed: a string or a list of strings, each \
             \"http://HOST:PORT\", \"https://HOST:PORT\" or the same with [IPV6] (no path)",
        ),
        (
            "[databases.app]\nservers = ['a', 'b']\npatroni = ['http://a:8008', 'https://b:8008']",
            "databases.app.patroni_tls_ca: missing; https needs the authorities of Patroni's certificates",
        ),
        (
            "[databases.app]\nservers = 'a'\npatroni = 'https://a:8008'\npatroni_tls_ca = 'c'\npatroni_tls_key = 'k'",
            "databases.app.patroni_tls_cert: missing; patroni_tls_key needs its certificate",
        ),
        (
            "[databases.app]\nservers = 'a'\npatroni = 'http://a:8008'\npatroni_tls_ca = 'c'",
            "databases.app.patroni_tls_ca (line 4): only allowed with an https address in patroni",
        ),
        (
            "[databases.app]\nservers = ['a', 'b']\npatroni = 'http://a:8008'",
            "databases.app.patroni (line 3): got 1 addresses for 2 servers; allowed: one for each",
        ),
        (
            "[databases.app]\nservers = ['a', 'b']\npatroni = ['http://a:8008', 'http://a:8008/']",
            "databases.app.patroni (line 3): \"http://a:8008\" stands there twice; each server has one of its own",
        ),
        (
            "[databases.app]\nservers = ['a']\npatroni_lag = '16MiB'",
            "databases.app.patroni_lag (line 3): only allowed with patroni",
        ),
        (
            "[databases.app]\nservers = ['a']\nserver_tls = 'verify-full'",
            "databases.app.server_tls_ca: missing; server_tls = \"verify-full\" needs",
        ),
        (
            "[databases.app]\nservers = ['a']\nserver_tls_key = 'k'",
            "databases.app.server_tls_cert: missing; server_tls_key",
        ),
        (
            "[auth]\nmethod = 'cert'",
            "auth.method (line 2): got \"cert\" with listen.tls = \"disable\"; it needs",
        ),
        ("[routing]\nshadow = 'yes'", "routing.shadow (line 2): got \"yes\"; allowed: true | false"),
        (
            "[databases.app]\nservers = ['a']\npatroni = ['https://a']",
            "databases.app.patroni[0] (line 3): got \"https://a\"; allowed: \"http://HOST:PORT\"",
        ),
        (
            "[databases.app]\nservers = ['a', 'b:x']\npatroni = ['http://a:1', 'http://b:1']\nrouting.prefer = 'b'\n\
             routing.balance = 'weighted'\nrouting.weights = [1, 2]",
            "databases.app.servers[1] (line 2): got \"b:x\"",
        ),
        ("[monitor]\npassword = 'secret'", "monitor.password (line 2): whose? It needs monitor.user"),
        ("[http]\naddress = '127.0.0.1:6432'", "http.address (line 2): is listen.address, too"),
        ("[log]\nfilter = 'a=b=c'", "log.filter (line 2): got \"a=b=c\"; allowed: a level"),
    ];
    for (text, error) in expected {
        let errors = errors(text);
        assert!(
            errors.len() == 1 && errors[0].starts_with(error),
            "{text}\nexpected: {error}\ngot: {errors:#?}"
        );
    }
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let text = "drain_timeout = 1\n[pool]\nsize = 0\nmod = 'session'\n[rooting]\n[databases.app]\nservers = ['a b', '']\n";
    let errors = errors(text);
    let keys: Vec<_> = errors.iter().filter_map(|error| error.split([' ', ':']).next()).collect();
    let expected = [
        "drain_timeout",
        "pool.size",
        "pool.mod",
        "databases.app.servers[0]",
        "databases.app.servers[1]",
        "rooting",
    ];
    assert_eq!(keys, expected, "{errors:#?}");
    assert!(errors.contains(&"pool.mod (line 4): unknown key; did you mean mode?".to_owned()), "{errors:#?}");
    assert!(errors.contains(&"rooting (line 5): unknown key; did you mean routing?".to_owned()));
}

#[test]
fn text_that_is_no_toml_is_placed() {
    let errors = errors_with("[pool]\nsize = = 20\n\n[users.app]\npassword = \"hunter2\nx = 1", &there);
    assert!(errors[0].starts_with("line 2, column 8: "), "{errors:#?}");
    assert!(errors.iter().any(|error| error.starts_with("line 5, ")), "{errors:#?}");
    assert!(!errors.concat().contains("hunter2"), "{errors:#?}");
    assert!(
        errors_with("[pool]\nsize = 1\nsize = 2", &there)[0]
            .starts_with("pool.size (line 3): stands in line 2")
    );
}

#[test]
fn an_empty_file_lacks_a_database() {
    let errors = errors_with("", &there);
    assert_eq!(
        errors,
        ["databases: missing; at least one section [databases.NAME] with its servers is needed"]
    );
    assert_eq!(errors_with("[databases]", &there).len(), 1);
}

#[test]
fn no_error_shows_a_secret() {
    let text = "[users.x]\npassword = 'SCRAM-SHA-256$hunter2'\npasword = 'hunter2'\n\
                [databases.app]\nservers = ['postgres://u:hunter2@h/d', 'password=hunter2']\nserver_password = ['hunter2']\n\
                [monitor]\npassword = 7\nuser = 'm'\n";
    let errors = errors(text);
    assert_eq!(errors.len(), 6, "{errors:#?}");
    assert!(!errors.concat().contains("hunter2"), "{errors:#?}");
    assert!(
        !format!(
            "{:?}",
            good("users.x.password = 'hunter2'\nmonitor = { user = 'm', password = 'hunter2' }")
        )
        .contains("hunter2")
    );
}

#[test]
fn verifiers_and_hashes_serve_only_what_they_can() {
    let verifier = "SCRAM-SHA-256$4096:YxbAox9UvV5TEsG/jsK4oQ==$vKwIMFM6t0CkmDkaksb9h5sZAyAgPR9+4sFxIB5Htn0=:\
                    6Flh3HZN5kucJPjUsDyHxIZeP44YpuRIfjs0EurDn1I=";
    let md5 = "md56a422f785c9e20873908ce25d1736ae2";
    good(&format!("[users.x]\npassword = '{verifier}'"));
    good(&format!(
        "[auth]\nmethod = 'md5'\n[users.x]\npassword = '{md5}'\n[users.y]\npassword = '{verifier}'"
    ));
    let refused = errors(&format!("[users.x]\npassword = '{md5}'"));
    assert!(
        refused[0].starts_with("users.x.password (line 2): got an md5 hash, which cannot serve"),
        "{refused:?}"
    );
    let refused = errors(&format!("[databases.app]\nservers = ['a']\nserver_password = '{verifier}'"));
    assert!(
        refused[0].starts_with("databases.app.server_password (line 3): got a SCRAM verifier"),
        "{refused:?}"
    );
}

#[test]
fn users_come_from_the_file_too_and_lose_to_the_section() {
    let list = |path: &Path| match path.to_str() {
        Some("users.txt") => Ok("\"base\" \"other\"\n\"more\" \"secret\"\n".to_owned()),
        _ => missing(path),
    };
    let text = format!("[auth]\nauth_file = 'users.txt'\n[admin]\nusers = 'more'\n{REST}");
    let config = parse(&text, &list, 1).expect("good");
    assert_eq!(config.users.keys().collect::<Vec<_>>(), ["base", "more"]);
    assert_eq!(config.users["base"].secret, Some(Secret::Plain("secret".into())));
}

#[test]
fn mistakes_in_the_users_file_name_file_line_and_user() {
    let broken = |_: &Path| Ok("\"a\" \"md56a422f785c9e20873908ce25d1736ae2\"\nb hunter2\n".to_owned());
    let errors = errors_with(&format!("[auth]\nauth_file = 'users.txt'\n{REST}"), &broken);
    assert_eq!(errors.len(), 2, "{errors:#?}");
    assert!(
        errors[0]
            .starts_with("auth.auth_file (line 2): users.txt, line 2: the user's name does not begin with")
    );
    assert!(errors[1].starts_with("auth.auth_file (line 2): user \"a\": got an md5 hash"));
}

#[test]
fn files_that_cannot_be_read_are_found_now() {
    let text = format!(
        "[auth]\nauth_file = 'users.txt'\n[listen]\ntls = 'prefer'\ntls_cert = 'c.pem'\ntls_key = 'k.pem'\n{REST}"
    );
    let errors = errors_with(&text, &missing);
    let expected = [
        "listen.tls_cert (line 5): cannot read c.pem: no c.pem",
        "listen.tls_key (line 6): cannot read k.pem: no k.pem",
        "auth.auth_file (line 2): cannot read users.txt: no users.txt",
    ];
    assert_eq!(errors, expected);
}

#[test]
fn a_users_file_that_cannot_be_read_is_no_mistake_of_those_whom_it_would_name() {
    let text = format!("[auth]\nauth_file = 'users.txt'\n[admin]\nusers = ['joe']\n{REST}");
    let errors = errors_with(&text, &missing);
    assert_eq!(errors, ["auth.auth_file (line 2): cannot read users.txt: no users.txt"]);
}

#[test]
fn the_directory_of_the_socket_must_be_there() {
    let text = format!("[listen]\nunix_directory = '/run/nowhere'\n{REST}");
    let errors = errors_with(&text, &missing);
    assert_eq!(
        errors,
        [
            "listen.unix_directory (line 2): /run/nowhere: no /run/nowhere/.; allowed: a directory that is there"
        ]
    );
    let unreadable = |_: &Path| Err(io::ErrorKind::PermissionDenied.into());
    assert!(parse(&text, &unreadable, 1).is_ok(), "who listens is the judge");
}

#[test]
fn a_unix_socket_may_be_the_only_door() {
    let config = good("[listen]\naddress = []\nunix_directory = '/run/pglagoon'\nunix_mode = '0770'");
    assert!(config.listen.addresses.is_empty());
    let unix = UnixListen { directory: "/run/pglagoon".into(), port: 6432, mode: 0o770 };
    assert_eq!(config.listen.unix, Some(unix));
    let long = errors(&format!("[listen]\nunix_directory = '/{}'", "d".repeat(100)));
    assert!(long[0].starts_with("listen.unix_directory (line 2): too long"), "{long:?}");
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "([a-z]{1,9}|[\\[\\].='\"\n{}*, 0-9-]|databases|servers|pool|users){0,40}") {
        let _ = parse(&text, &there, 1);
    }
}
