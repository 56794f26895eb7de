//! Values as people write them: times and sizes with units, addresses, stored passwords.
//!
//! Each parser answers `None` (or a reason that never holds the value) for what it does not take; the text of what is
//! allowed stands beside it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{HttpAddress, ScramVerifier, Secret, ServerAddress};

/// The longest time that can be configured: longer ones are mistakes, and must not overflow a clock.
pub const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The most PBKDF2 rounds of a configured verifier (PostgreSQL's default is 4096).
pub const MAX_ITERATIONS: u32 = 1_000_000;

/// PostgreSQL's own port.
const DEFAULT_PORT: u16 = 5432;

/// The longest path of a Unix-domain socket: `sun_path` of Linux, less the final zero byte.
pub const MAX_SOCKET_PATH: usize = 107;

/// `30s`, `250ms`, `10min`, `1h`, `2d`: whole numbers, at most [`MAX_DURATION`].
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "min" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return None,
    };
    number.checked_mul(milliseconds).map(Duration::from_millis).filter(|time| *time <= MAX_DURATION)
}

/// A time as [`duration`] reads it, in the largest unit that fits.
pub fn duration_text(time: Duration) -> String {
    let milliseconds = time.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s"), (1, "ms")];
    match units.iter().find(|(size, _)| milliseconds != 0 && milliseconds.is_multiple_of(*size)) {
        Some((size, unit)) => format!("{}{unit}", milliseconds / size),
        None => format!("{milliseconds}ms"),
    }
}

/// `16MiB`, `64KiB`, `1GiB`, `512B`.
pub fn size(text: &str) -> Option<usize> {
    let (number, unit) = split_unit(text)?;
    let bytes: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(bytes).and_then(|bytes| usize::try_from(bytes).ok())
}

/// A size as [`size`] reads it, in the largest unit that fits.
pub fn size_text(bytes: usize) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(size, _)| bytes != 0 && bytes.is_multiple_of(*size)) {
        Some((size, unit)) => format!("{}{unit}", bytes / size),
        None => format!("{bytes}B"),
    }
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start_matches(' ')))
}

/// Permission bits in octal: `0660`.
pub fn permissions(text: &str) -> Option<u32> {
    let octal = (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    u32::from_str_radix(text, 8).ok().filter(|mode| octal && *mode <= 0o777)
}

/// What [`listen_address`] takes, for errors.
pub const LISTEN_ADDRESS: &str =
    "\"IP:PORT\", such as \"127.0.0.1:6432\", \"0.0.0.0:6432\" or \"[::1]:6432\"";

/// An address to listen on. Names are not looked up: which address was meant must not depend on a resolver.
pub fn listen_address(text: &str) -> Option<SocketAddr> {
    text.parse().ok()
}

/// What [`server_address`] takes, for errors.
pub const SERVER_ADDRESS: &str = "\"HOST:PORT\", \"[IPV6]:PORT\" or \"DIRECTORY:PORT\" of a Unix-domain socket; the \
                                  port may be left out if it is 5432";

/// Where a server listens.
pub fn server_address(text: &str) -> Option<ServerAddress> {
    if text.starts_with('/') {
        return unix_address(text);
    }
    let (host, port) = host_and_port(text, Some(DEFAULT_PORT))?;
    let host = host.to_owned();
    Some(ServerAddress::Tcp { host, port })
}

/// What [`http_address`] takes, for errors.
pub const HTTP_ADDRESS: &str =
    "\"http://HOST:PORT\", \"https://HOST:PORT\" or the same with [IPV6] (no path)";

/// Where a program answers to HTTP.
pub fn http_address(text: &str) -> Option<HttpAddress> {
    let (scheme, place) = text.split_once("://")?;
    let is_tls = match scheme {
        "http" => false,
        "https" => true,
        _ => return None,
    };
    let (host, port) = host_and_port(place.strip_suffix('/').unwrap_or(place), None)?;
    Some(HttpAddress { is_tls, host: host.to_owned(), port })
}

fn unix_address(text: &str) -> Option<ServerAddress> {
    let (directory, port) = match text.rsplit_once(':') {
        Some((directory, port)) => (directory, self::port(port)?),
        None => (text, DEFAULT_PORT),
    };
    let good = !directory.contains('\0') && directory.len() + socket_file(port).len() < MAX_SOCKET_PATH;
    good.then(|| ServerAddress::Unix { directory: PathBuf::from(directory), port })
}

/// The name of the socket file of a port, inside its directory.
pub fn socket_file(port: u16) -> String {
    format!(".s.PGSQL.{port}")
}

fn host_and_port(text: &str, default: Option<u16>) -> Option<(&str, u16)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        address.parse::<std::net::Ipv6Addr>().ok()?;
        return match port.strip_prefix(':') {
            Some(port) => Some((address, self::port(port)?)),
            None => Some((address, default.filter(|_| port.is_empty())?)),
        };
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, self::port(port)?),
        None => (text, default?),
    };
    is_host(host).then_some((host, port))
}

fn port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

/// A host name as DNS takes it (RFC 1123, and the underscore that container networks use), or an IPv4 address.
fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let all_numeric = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if all_numeric {
        return host.parse::<std::net::Ipv4Addr>().is_ok();
    }
    host.len() <= 253 && host.strip_suffix('.').unwrap_or(host).split('.').all(label)
}

impl Secret {
    /// A password as PostgreSQL stores it: `md5` and 32 hex digits, `SCRAM-SHA-256$...`, or the password itself.
    ///
    /// # Errors
    /// An empty password, or what begins as a SCRAM verifier and is none; the text never holds the secret.
    ///
    /// Source: PostgreSQL's `src/backend/libpq/crypt.c`, `get_password_type`.
    pub fn from_stored(text: &str) -> Result<Secret, &'static str> {
        if text.is_empty() {
            return Err("an empty password, which never matches");
        }
        if text.contains('\0') {
            return Err("a password with a zero byte, which no client can send");
        }
        if text.starts_with("SCRAM-SHA-256$") {
            return ScramVerifier::from_stored(text)
                .map(Secret::Scram)
                .ok_or("what begins as a SCRAM verifier and is not a whole one");
        }
        let is_hex =
            |hash: &str| hash.len() == 32 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        Ok(match text.strip_prefix("md5") {
            Some(hash) if is_hex(hash) => Secret::Md5(hash.to_owned()),
            _ => Secret::Plain(text.to_owned()),
        })
    }
}

impl ScramVerifier {
    /// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
    fn from_stored(text: &str) -> Option<ScramVerifier> {
        let (cost, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = cost.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let digits = iterations.bytes().all(|byte| byte.is_ascii_digit());
        let verifier = ScramVerifier {
            iterations: iterations.parse().ok().filter(|n| digits && (1..=MAX_ITERATIONS).contains(n))?,
            salt: BASE64.decode(salt).ok()?,
            stored_key: BASE64.decode(stored_key).ok()?.try_into().ok()?,
            server_key: BASE64.decode(server_key).ok()?.try_into().ok()?,
        };
        (1..=256).contains(&verifier.salt.len()).then_some(verifier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_need_their_unit() {
        let good = [
            ("250ms", 250),
            ("30s", 30_000),
            ("10min", 600_000),
            ("1h", 3_600_000),
            ("365 d", 31_536_000_000),
        ];
        for (text, milliseconds) in good {
            assert_eq!(duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        let bad = [
            "",
            "30",
            "s",
            "-1s",
            "1.5s",
            "1 m",
            "1m",
            "1S",
            "1s ",
            "366d",
            "99999999999999999999s",
            "1h30min",
        ];
        for text in bad {
            assert_eq!(duration(text), None, "{text}");
        }
        assert_eq!(duration("18446744073709551615d"), None);
    }

    #[test]
    fn sizes_need_their_unit() {
        for (text, bytes) in [("512B", 512), ("64KiB", 65_536), ("16 MiB", 16 << 20), ("1GiB", 1 << 30)] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "16", "16MB", "16mib", "-1B", "18446744073709551615GiB"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn times_and_sizes_come_back(milliseconds in 0u64..31_536_000_000, bytes in 0usize..1 << 40) {
            let time = Duration::from_millis(milliseconds);
            prop_assert_eq!(duration(&duration_text(time)), Some(time));
            prop_assert_eq!(size(&size_text(bytes)), Some(bytes));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,40}") {
            let _ = (duration(&text), size(&text), permissions(&text), server_address(&text), listen_address(&text));
            let _ = Secret::from_stored(&text);
            let _ = Secret::from_stored(&format!("SCRAM-SHA-256${text}"));
        }
    }

    #[test]
    fn http_is_spoken_with_a_host_and_a_port() {
        let address = |host: &str, port| Some(HttpAddress { is_tls: false, host: host.to_owned(), port });
        assert_eq!(http_address("http://db-1.internal:8008"), address("db-1.internal", 8008));
        assert_eq!(http_address("http://[::1]:8008/"), address("::1", 8008));
        for text in ["http://[::1]:8008", "https://db:443"] {
            assert_eq!(http_address(text).unwrap().to_string(), text);
        }
        let wrong = [
            "https://db",
            "ftp://db:8008",
            "db:8008",
            "http://db",
            "http://[::1]",
            "http://db:8008/patroni",
            "http://u:p@db:1",
        ];
        for text in wrong {
            assert_eq!(http_address(text), None, "{text}");
        }
    }

    #[test]
    fn servers_are_hosts_addresses_or_directories() {
        let tcp = |host: &str, port| Some(ServerAddress::Tcp { host: host.into(), port });
        let unix = |directory: &str, port| Some(ServerAddress::Unix { directory: directory.into(), port });
        assert_eq!(server_address("127.0.0.1:5433"), tcp("127.0.0.1", 5433));
        assert_eq!(server_address("db-1.internal"), tcp("db-1.internal", 5432));
        assert_eq!(server_address("[::1]:5433"), tcp("::1", 5433));
        assert_eq!(server_address("[::1]"), tcp("::1", 5432));
        assert_eq!(server_address("/run/postgresql:5433"), unix("/run/postgresql", 5433));
        assert_eq!(server_address("/run/postgresql"), unix("/run/postgresql", 5432));
        let long = format!("/{}:5432", "d".repeat(120));
        let bad = [
            "",
            ":5432",
            "::1",
            "[::1",
            "[::1]5432",
            "[127.0.0.1]:1",
            "db:0",
            "db:65536",
            "db:+1",
            "db:",
            "a b:1",
            "256.1.1.1:5432",
            "postgres://u:p@h/d",
            "host=db port=1",
            "db:1:2",
            "-a:1",
            &long,
        ];
        for text in bad {
            assert_eq!(server_address(text), None, "{text}");
        }
    }

    #[test]
    fn stored_passwords_are_told_apart_as_postgresql_does() {
        let md5 = "md56a422f785c9e20873908ce25d1736ae2";
        assert!(matches!(Secret::from_stored(md5), Ok(Secret::Md5(hash)) if hash == md5[3..]));
        assert!(matches!(Secret::from_stored(&md5.to_uppercase()), Ok(Secret::Plain(_))));
        assert!(matches!(Secret::from_stored("md5short"), Ok(Secret::Plain(_))));
        let verifier = "SCRAM-SHA-256$4096:YxbAox9UvV5TEsG/jsK4oQ==$vKwIMFM6t0CkmDkaksb9h5sZAyAgPR9+4sFxIB5Htn0=:\
                        6Flh3HZN5kucJPjUsDyHxIZeP44YpuRIfjs0EurDn1I=";
        assert!(matches!(Secret::from_stored(verifier), Ok(Secret::Scram(v)) if v.iterations == 4096));
        for broken in ["", "SCRAM-SHA-256$", &verifier[..verifier.len() - 1], &verifier.replace("4096", "0")]
        {
            assert!(Secret::from_stored(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn permissions_are_octal() {
        assert_eq!(permissions("0660"), Some(0o660));
        assert_eq!(permissions("777"), Some(0o777));
        for text in ["", "7", "0888", "1777", "rw-", "00660"] {
            assert_eq!(permissions(text), None, "{text}");
        }
    }
}
