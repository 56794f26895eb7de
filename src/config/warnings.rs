//! What is worth saying of a configuration that works: where it lets in more people, or fewer, than it seems to.

use std::net::IpAddr;

use super::{AuthMethod, Config, Database, Secret, ServerAddress, TlsMode};

/// Sentences for people; each begins with the key that it is about.
pub fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    warnings.extend(no_users(config));
    warnings.extend(open_doors(config));
    warnings.extend(no_password(config));
    warnings.extend(unused_certificate(config));
    warnings.extend(near_hashes(config));
    let databases = config.databases.values().chain(&config.any_database);
    databases.for_each(|database| {
        warnings.extend(no_way_to_servers(config, database));
        warnings.extend(tls_over_unix(database));
    });
    warnings
}

fn no_users(config: &Config) -> Option<String> {
    let warning = "users: there is none, neither in [users] nor in auth.auth_file; nobody can log in";
    config.users.is_empty().then(|| warning.to_owned())
}

/// Methods that a network must not see, on addresses that a network can reach.
fn open_doors(config: &Config) -> Option<String> {
    let reachable = config.listen.addresses.iter().find(|address| !is_loopback(address.ip()))?;
    let clear = matches!(config.listen.tls.mode, TlsMode::Disable | TlsMode::Prefer);
    match config.auth.method {
        AuthMethod::Trust => Some(format!(
            "auth.method: \"trust\" lets everybody in who can reach {reachable} and knows a user's name"
        )),
        AuthMethod::Password if clear => Some(format!(
            "auth.method: \"password\" lets passwords cross the network in the clear ({reachable}); \
             listen.tls = \"require\" prevents that"
        )),
        AuthMethod::Md5 if clear => Some(format!(
            "auth.method: \"md5\" without TLS shows the network ({reachable}) what a password can be guessed from"
        )),
        AuthMethod::Password | AuthMethod::Md5 | AuthMethod::ScramSha256 | AuthMethod::Cert => None,
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn no_password(config: &Config) -> Option<String> {
    if matches!(config.auth.method, AuthMethod::Trust | AuthMethod::Cert) {
        return None;
    }
    let names = named(config, |secret| secret.is_none())?;
    Some(format!("users: without a password these can never log in: {names}"))
}

fn unused_certificate(config: &Config) -> Option<String> {
    let tls = &config.listen.tls;
    let unused = tls.mode == TlsMode::Disable && tls.cert_file.is_some();
    unused.then(|| "listen.tls: \"disable\", so the certificate in listen.tls_cert is not used".to_owned())
}

/// Passwords that begin as what PostgreSQL stores, and are none. PostgreSQL takes them for passwords, too.
fn near_hashes(config: &Config) -> Vec<String> {
    let users = config.users.iter().map(|(name, user)| {
        let file =
            if config.auth.auth_file.is_some() { " (or the user's line in auth.auth_file)" } else { "" };
        (format!("users.{}.password{file}", super::raw::quoted(name)), user.secret.as_ref())
    });
    let databases = config.databases.values().chain(&config.any_database).map(|database| {
        let key = format!("databases.{}.server_password", super::raw::quoted(&database.name));
        (key, database.server_password.as_ref())
    });
    let monitor = ("monitor.password".to_owned(), config.monitor.password.as_ref());
    let near = users.chain(databases).chain([monitor]).filter_map(|(key, secret)| match secret {
        Some(Secret::Plain(text)) => near_hash(text)
            .map(|hash| format!("{key}: begins as {hash}, and is none: it is taken for the password itself")),
        _ => None,
    });
    near.collect()
}

fn near_hash(password: &str) -> Option<&'static str> {
    let begins = |word: &str| password.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word));
    let known = [
        ("md5", "an md5 hash (\"md5\" and 32 hex digits, in lower case)"),
        ("SCRAM-SHA-256$", "a SCRAM verifier (\"SCRAM-SHA-256$\", in capitals)"),
    ];
    known.into_iter().find(|(word, _)| begins(word)).map(|(_, hash)| hash)
}

/// Users of whom nothing is known that could log in to a server.
fn no_way_to_servers(config: &Config, database: &Database) -> Option<String> {
    let nothing_shown = matches!(config.auth.method, AuthMethod::Trust | AuthMethod::Cert);
    if database.server_password.is_some() || database.server_tls.cert_file.is_some() || !nothing_shown {
        return None;
    }
    let key = format!("databases.{}.server_password", super::raw::quoted(&database.name));
    let sentence = "the method asks clients for no password, so only servers that ask for none let in";
    if let Some(user) = &database.server_user {
        let known =
            matches!(config.users.get(user).and_then(|user| user.secret.as_ref()), Some(Secret::Plain(_)));
        return (!known).then(|| format!("{key}: {sentence}: {user}"));
    }
    let names = named(config, |secret| matches!(secret, None | Some(Secret::Scram(_))))?;
    Some(format!("{key}: {sentence}: {names}"))
}

fn tls_over_unix(database: &Database) -> Option<String> {
    let asked = !matches!(database.server_tls.mode, TlsMode::Disable | TlsMode::Prefer);
    let unix = database.servers.iter().find(|server| matches!(server, ServerAddress::Unix { .. }))?;
    let key = format!("databases.{}.server_tls", super::raw::quoted(&database.name));
    asked.then(|| format!("{key}: the Unix-domain socket {unix} never uses TLS"))
}

/// The names of the users whose secret is so, a few of them.
fn named(config: &Config, so: impl Fn(Option<&Secret>) -> bool) -> Option<String> {
    const MOST: usize = 5;
    let names: Vec<&str> = config
        .users
        .iter()
        .filter(|(_, user)| so(user.secret.as_ref()))
        .map(|(name, _)| name.as_str())
        .collect();
    match names.len() {
        0 => None,
        n if n <= MOST => Some(names.join(", ")),
        n => Some(format!("{} and {} more", names[..MOST].join(", "), n - MOST)),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    fn warnings(text: &str) -> Vec<String> {
        let text = format!("databases.app.servers = \"/run/postgresql\"\n{text}");
        super::warnings(&parse(&text, &|_| Ok(String::new()), 1).expect("good"))
    }

    #[test]
    fn a_plain_setup_needs_no_warning() {
        assert_eq!(warnings("users.app.password = 'secret'"), Vec::<String>::new());
    }

    #[test]
    fn each_doubtful_thing_is_said_once_with_its_key() {
        let open = "listen.address = '0.0.0.0:6432'\nusers.app.password = 'secret'\n";
        let expected = [
            (String::new(), "users: there is none"),
            ("users.app = {}".to_owned(), "users: without a password"),
            (format!("{open}auth.method = 'trust'"), "auth.method: \"trust\""),
            (format!("{open}auth.method = 'password'"), "auth.method: \"password\""),
            (format!("{open}auth.method = 'md5'"), "auth.method: \"md5\""),
            ("users.app = {}\nauth.method = 'trust'".to_owned(), "databases.app.server_password: "),
            (
                "users.app.password = 'secret'\nauth.method = 'trust'\ndatabases.app.server_user = 'other'"
                    .to_owned(),
                "databases.app.server_password: ",
            ),
            (
                "users.app.password = 'secret'\ndatabases.app.server_tls = 'require'".to_owned(),
                "databases.app.server_tls: ",
            ),
            ("users.app.password = 'secret'\nlisten.tls_cert = 'server.crt'".to_owned(), "listen.tls: "),
            ("users.app.password = 'md5hunter2'".to_owned(), "users.app.password: begins as an md5 hash"),
            ("users.app.password = 'MD56a422f785c9e20873908ce25d1736ae2'".to_owned(), "users.app.password: "),
            (
                "users.app.password = 'scram-sha-256$hunter2'".to_owned(),
                "users.app.password: begins as a SCRAM",
            ),
            (
                "users.app.password = 'secret'\ndatabases.app.server_password = 'md5'".to_owned(),
                "databases.app.server_password: begins",
            ),
        ];
        for (text, beginning) in expected {
            let warnings = warnings(&text);
            assert!(warnings.len() == 1 && warnings[0].starts_with(beginning), "{text}: {warnings:?}");
            assert!(!warnings[0].contains("hunter2"), "{warnings:?}");
        }
    }
}
