//! The untagged first packet of a connection.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-message-formats.html> (StartupMessage, SSLRequest,
//! GSSENCRequest, CancelRequest) and `src/backend/tcop/backend_startup.c` for the limits.

use super::{ClientKey, Reader, cancel::MAX_SECRET};

/// As PostgreSQL's `MAX_STARTUP_PACKET_LENGTH`, in bytes.
pub const MAX_STARTUP: usize = 10_000;

pub(crate) const CANCEL_REQUEST: u32 = code(1234, 5678);
const SSL_REQUEST: u32 = code(1234, 5679);
const GSSENC_REQUEST: u32 = code(1234, 5680);

/// A protocol version: major and minor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 3, for all that is spoken here.
    pub major: u16,
    /// 0 or 2.
    pub minor: u16,
}

impl Version {
    /// What every client speaks.
    pub const V3_0: Version = Version { major: 3, minor: 0 };
    /// Long cancel keys (PostgreSQL 18).
    pub const V3_2: Version = Version { major: 3, minor: 2 };
}

/// The first packet; `S` is what opens a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartupPacket<S = Parameters> {
    /// Asks for TLS.
    SslRequest,
    /// Asks for GSSAPI encryption.
    GssRequest,
    /// Asks for a query to be cancelled.
    Cancel(ClientKey),
    /// Opens a session.
    Startup(S),
}

impl<S> StartupPacket<S> {
    /// The same with something else for what opens a session.
    pub fn map<T>(self, map: impl FnOnce(S) -> T) -> StartupPacket<T> {
        match self {
            StartupPacket::SslRequest => StartupPacket::SslRequest,
            StartupPacket::GssRequest => StartupPacket::GssRequest,
            StartupPacket::Cancel(key) => StartupPacket::Cancel(key),
            StartupPacket::Startup(startup) => StartupPacket::Startup(map(startup)),
        }
    }
}

/// A StartupMessage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// The version that the client asked for.
    pub version: Version,
    /// Name and value, in the order in which they came; names are unique (the last one wins).
    pub pairs: Vec<(String, String)>,
}

impl Parameters {
    /// The value of `name`.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The version to speak and the protocol options (`_pq_.*`) that are not known here; a NegotiateProtocolVersion is
    /// owed if the version differs from the one asked for or an option is unknown.
    pub fn negotiate(&self) -> (Version, Vec<&str>) {
        let spoken = if self.version.minor >= Version::V3_2.minor { Version::V3_2 } else { Version::V3_0 };
        let unknown = self.pairs.iter().map(|(key, _)| key.as_str()).filter(|key| key.starts_with("_pq_."));
        (spoken, unknown.collect())
    }
}

impl Parameters {
    /// Which kind of replication is asked for, if one is.
    ///
    /// # Errors
    /// A value that says neither; PostgreSQL refuses it, too.
    pub fn replication(&self) -> Result<Option<Replication>, String> {
        let Some(value) = self.value("replication") else { return Ok(None) };
        match (value, boolean(value)) {
            ("database", _) => Ok(Some(Replication::Logical)),
            (_, Some(true)) => Ok(Some(Replication::Physical)),
            (_, Some(false)) => Ok(None),
            (_, None) => Err(value.to_owned()),
        }
    }
}

/// What a walsender is asked for.
///
/// Source: <https://www.postgresql.org/docs/current/protocol-replication.html>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// `replication=true`: no database.
    Physical,
    /// `replication=database`: one database, and SQL besides the replication commands.
    Logical,
}

impl Replication {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Replication::Physical => "physical",
            Replication::Logical => "logical",
        }
    }
}

/// As PostgreSQL's `parse_bool`: what begins like one of these words and no other, in any case.
fn boolean(text: &str) -> Option<bool> {
    const WORDS: [(&str, usize, bool); 8] = [
        ("true", 1, true),
        ("false", 1, false),
        ("yes", 1, true),
        ("no", 1, false),
        ("on", 2, true),
        ("off", 2, false),
        ("1", 1, true),
        ("0", 1, false),
    ];
    let text = text.to_ascii_lowercase();
    let is_meant = |(word, least, _): &&(&str, usize, bool)| text.len() >= *least && word.starts_with(&text);
    WORDS.iter().find(is_meant).map(|(_, _, value)| *value)
}

/// A first packet that cannot be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartupError {
    /// A length that no startup packet has.
    Length(u32),
    /// A protocol that is not spoken here.
    Version(Version),
    /// Text that is not UTF-8, no terminator, or bytes after it.
    Malformed(&'static str),
}

impl std::fmt::Display for StartupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartupError::Length(length) => write!(f, "invalid length of startup packet: {length}"),
            StartupError::Version(version) => write!(
                f,
                "unsupported frontend protocol {}.{}: server supports 3.0 to 3.2",
                version.major, version.minor
            ),
            StartupError::Malformed(why) => write!(f, "invalid startup packet layout: {why}"),
        }
    }
}

/// How long the packet at the head of `buffer` is, once its length word is there.
///
/// # Errors
/// A length below 8 or above [`MAX_STARTUP`].
pub fn packet_length(buffer: &[u8]) -> Result<Option<usize>, StartupError> {
    let Some((word, _)) = buffer.split_first_chunk::<4>() else { return Ok(None) };
    match u32::from_be_bytes(*word) {
        length if (8..=MAX_STARTUP as u32).contains(&length) => Ok(Some(length as usize)),
        length => Err(StartupError::Length(length)),
    }
}

/// Reads one whole packet, as long as [`packet_length`] said.
///
/// # Errors
/// Anything that is not exactly one of the four packets.
pub fn parse(packet: &[u8]) -> Result<StartupPacket, StartupError> {
    let mut reader = Reader::new(packet.get(4..).unwrap_or_default());
    let code = reader.int32().ok_or(StartupError::Length(packet.len() as u32))? as u32;
    match code {
        SSL_REQUEST if packet.len() == 8 => Ok(StartupPacket::SslRequest),
        GSSENC_REQUEST if packet.len() == 8 => Ok(StartupPacket::GssRequest),
        CANCEL_REQUEST => cancel(reader),
        _ => parameters(code, reader).map(StartupPacket::Startup),
    }
}

fn cancel(mut reader: Reader<'_>) -> Result<StartupPacket, StartupError> {
    let pid = reader.int32().ok_or(StartupError::Malformed("cancel request without a process id"))?;
    match reader.rest() {
        secret if (1..=MAX_SECRET).contains(&secret.len()) => {
            Ok(StartupPacket::Cancel(ClientKey::new(pid, secret)))
        }
        _ => Err(StartupError::Malformed("cancel key of a wrong length")),
    }
}

fn parameters(code: u32, mut reader: Reader<'_>) -> Result<Parameters, StartupError> {
    let version = Version { major: (code >> 16) as u16, minor: (code & 0xffff) as u16 };
    if version.major != 3 {
        return Err(StartupError::Version(version));
    }
    let mut pairs: Vec<(String, String)> = Vec::new();
    loop {
        let name = reader.string().ok_or(StartupError::Malformed("expected a terminator as last byte"))?;
        if name.is_empty() {
            break;
        }
        let value = reader.string().ok_or(StartupError::Malformed("a parameter without a value"))?;
        let (name, value) = (text(name)?, text(value)?);
        match pairs.iter_mut().find(|(key, _)| *key == name) {
            Some(pair) => pair.1 = value,
            None => pairs.push((name, value)),
        }
    }
    if !reader.rest().is_empty() {
        return Err(StartupError::Malformed("expected a terminator as last byte"));
    }
    Ok(Parameters { version, pairs })
}

fn text(bytes: &[u8]) -> Result<String, StartupError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| StartupError::Malformed("a parameter that is not UTF-8"))
}

/// Appends a StartupMessage of protocol 3.0.
pub fn write_startup(out: &mut Vec<u8>, pairs: &[(&str, &str)]) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&code(3, 0).to_be_bytes());
    for (name, value) in pairs {
        super::string(out, name.as_bytes());
        super::string(out, value.as_bytes());
    }
    out.push(0);
    let length = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends an SSLRequest.
pub fn write_ssl_request(out: &mut Vec<u8>) {
    out.extend_from_slice(&8u32.to_be_bytes());
    out.extend_from_slice(&SSL_REQUEST.to_be_bytes());
}

const fn code(major: u16, minor: u16) -> u32 {
    ((major as u32) << 16) | minor as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(body: &[u8]) -> Vec<u8> {
        let mut out = (body.len() as u32 + 4).to_be_bytes().to_vec();
        out.extend_from_slice(body);
        out
    }

    #[test]
    fn replication_is_asked_for_in_postgresqls_words() {
        let asks = |value: &str| {
            let pairs = vec![("replication".to_owned(), value.to_owned())];
            Parameters { version: Version::V3_0, pairs }.replication()
        };
        for value in ["true", "T", "yes", "on", "1"] {
            assert_eq!(asks(value), Ok(Some(Replication::Physical)), "{value}");
        }
        assert_eq!(asks("database"), Ok(Some(Replication::Logical)));
        for value in ["false", "f", "No", "of", "0"] {
            assert_eq!(asks(value), Ok(None), "{value}");
        }
        for value in ["", "o", "Database", "truely", "2"] {
            assert_eq!(asks(value), Err(value.to_owned()));
        }
    }

    #[test]
    fn a_startup_message_is_read_back() {
        let mut out = Vec::new();
        write_startup(&mut out, &[("user", "app"), ("application_name", "")]);
        assert_eq!(packet_length(&out), Ok(Some(out.len())));
        let Ok(StartupPacket::Startup(parameters)) = parse(&out) else { panic!() };
        assert_eq!(parameters.version, Version::V3_0);
        assert_eq!(parameters.value("user"), Some("app"));
        assert_eq!(parameters.value("application_name"), Some(""), "empty values are legal");
    }

    #[test]
    fn the_terminator_is_exactly_the_last_byte() {
        let good = b"\0\x03\0\0user\0a\0\0";
        assert!(parse(&packet(good)).is_ok());
        assert!(parse(&packet(&good[..good.len() - 1])).is_err());
        assert!(parse(&packet(b"\0\x03\0\0user\0a\0\0x")).is_err());
    }

    #[test]
    fn lengths_are_bounded() {
        assert_eq!(packet_length(b"\0\0"), Ok(None));
        assert_eq!(packet_length(&7u32.to_be_bytes()), Err(StartupError::Length(7)));
        assert_eq!(packet_length(&u32::MAX.to_be_bytes()), Err(StartupError::Length(u32::MAX)));
    }

    #[test]
    fn a_newer_minor_version_is_negotiated_down() {
        let Ok(StartupPacket::Startup(asked)) = parse(&packet(b"\0\x03\0\x09_pq_.x\0y\0user\0a\0\0")) else {
            panic!()
        };
        assert_eq!(asked.negotiate(), (Version::V3_2, vec!["_pq_.x"]));
        assert!(matches!(parse(&packet(b"\0\x02\0\0\0")), Err(StartupError::Version(_))));
    }

    #[test]
    fn a_cancel_request_carries_a_key_of_any_legal_length() {
        let mut body = CANCEL_REQUEST.to_be_bytes().to_vec();
        body.extend_from_slice(&7i32.to_be_bytes());
        assert!(parse(&packet(&body)).is_err());
        body.extend_from_slice(&[9; 32]);
        assert_eq!(parse(&packet(&body)), Ok(StartupPacket::Cancel(ClientKey::new(7, &[9; 32]))));
    }
}
