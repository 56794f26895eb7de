//! A client that sends exactly what a test says, and shows exactly what comes back: for the parts of the protocol that no
//! well-behaved library reaches.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use pglagoon::cli::playground::{DATABASE, USER};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// A connection, blocking, with a time limit on every read and write.
pub struct Raw {
    stream: Wire,
    /// From BackendKeyData, after a login.
    pub key: Option<(u32, Vec<u8>)>,
    /// From ParameterStatus, after a login and since.
    pub parameters: BTreeMap<String, String>,
}

/// A message of the server's.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    pub tag: char,
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = &self.body[..self.body.len().min(200)];
        write!(f, "{}({:?})", self.tag, String::from_utf8_lossy(shown))
    }
}

impl Message {
    /// The fields of an ErrorResponse or NoticeResponse.
    pub fn field(&self, kind: char) -> String {
        assert!("EN".contains(self.tag), "{self:?} is neither an error nor a notice");
        let fields = self.body.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        fields.filter_map(|field| field.strip_prefix(kind).map(str::to_owned)).next().unwrap_or_default()
    }

    /// The SQLSTATE of an ErrorResponse.
    pub fn code(&self) -> String {
        self.field('C')
    }

    /// The columns of a DataRow, as text.
    pub fn columns(&self) -> Vec<Option<String>> {
        assert_eq!(self.tag, 'D');
        let mut rest = &self.body[2..];
        let mut columns = Vec::new();
        while !rest.is_empty() {
            let length = i32::from_be_bytes(rest[..4].try_into().unwrap());
            rest = &rest[4..];
            columns.push((length >= 0).then(|| {
                let (value, after) = rest.split_at(length as usize);
                rest = after;
                String::from_utf8_lossy(value).into_owned()
            }));
        }
        columns
    }

    /// The transaction status of a ReadyForQuery: `I`, `T` or `E`.
    pub fn status(&self) -> char {
        assert_eq!(self.tag, 'Z', "{self:?} is no ReadyForQuery");
        char::from(self.body[0])
    }

    /// The tag of a CommandComplete.
    pub fn command(&self) -> String {
        assert_eq!(self.tag, 'C', "{self:?} is no CommandComplete");
        String::from_utf8_lossy(&self.body).trim_end_matches('\0').to_owned()
    }
}

/// The tags of messages in a row, as a protocol trace writes them: `1 2 T D C Z`. Notices and ParameterStatus are left out:
/// they may come at any time.
pub fn tags(messages: &[Message]) -> String {
    let tags: Vec<String> = messages
        .iter()
        .filter(|message| !"NS".contains(message.tag))
        .map(|message| message.tag.to_string())
        .collect();
    tags.join(" ")
}

/// The first column of all DataRows.
pub fn first_column(messages: &[Message]) -> Vec<String> {
    let rows = messages.iter().filter(|message| message.tag == 'D');
    rows.map(|row| row.columns().remove(0).unwrap_or_else(|| "NULL".into())).collect()
}

impl Raw {
    /// A TCP connection; nothing is sent.
    pub fn connect(port: u16) -> Raw {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("connects");
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Raw { stream: Wire::Plain(stream), key: None, parameters: BTreeMap::new() }
    }

    /// Puts TLS on the connection, at once: an SSLRequest is not sent from here.
    pub fn encrypt(self, config: &Arc<ClientConfig>) -> io::Result<Raw> {
        let Wire::Plain(mut socket) = self.stream else { panic!("encrypted already") };
        let name = ServerName::try_from("localhost").expect("a name");
        let mut connection = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        connection.complete_io(&mut socket)?;
        Ok(Raw { stream: Wire::Tls(Box::new(StreamOwned::new(connection, socket))), ..self })
    }

    /// Logs in the application's user, who must be trusted.
    pub fn login(port: u16) -> Raw {
        Self::login_with(port, V3_0, &[("user", USER), ("database", DATABASE)])
    }

    /// Logs in with a protocol version and parameters; the user must be trusted.
    pub fn login_with(port: u16, version: u32, parameters: &[(&str, &str)]) -> Raw {
        let mut raw = Self::connect(port);
        raw.send(&startup(version, parameters));
        let answer = raw.until_ready();
        assert_eq!(answer.last().unwrap().status(), 'I', "{answer:?}");
        raw
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the other side takes what is sent");
    }

    /// Sends bytes; the other side may have closed.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// One raw byte, such as the answer to SSLRequest.
    pub fn read_byte(&mut self) -> u8 {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).expect("a byte");
        byte[0]
    }

    /// Reads and drops that many bytes.
    pub fn skip(&mut self, count: u64) {
        let copied = io::copy(&mut (&mut self.stream).take(count), &mut io::sink()).expect("bytes");
        assert_eq!(copied, count);
    }

    /// The next message, or `None` if the other side has closed the connection.
    pub fn try_read(&mut self) -> io::Result<Option<Message>> {
        let mut header = [0; 5];
        match self.stream.read(&mut header[..1])? {
            0 => return Ok(None),
            _ => self.stream.read_exact(&mut header[1..])?,
        }
        let length = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize;
        let mut body = vec![0; length - 4];
        self.stream.read_exact(&mut body)?;
        let message = Message { tag: char::from(header[0]), body };
        self.note(&message);
        Ok(Some(message))
    }

    /// The next message.
    pub fn read(&mut self) -> Message {
        self.try_read().expect("a message in time").expect("a message, not the end")
    }

    /// All messages up to and with ReadyForQuery.
    pub fn until_ready(&mut self) -> Vec<Message> {
        self.until('Z')
    }

    /// All messages up to and with the first with this tag.
    pub fn until(&mut self, tag: char) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            match self.try_read() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => panic!("the connection ended before {tag}: {messages:?}"),
                Err(error) => panic!("no {tag} ({error}): {messages:?}"),
            }
            if messages.last().is_some_and(|last| last.tag == tag) {
                return messages;
            }
        }
    }

    /// All messages until the other side closes; a reset is an end too.
    pub fn until_end(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            match self.try_read() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => return messages,
                Err(error) if CLOSED.contains(&error.kind()) => return messages,
                Err(error) => panic!("neither a message nor the end ({error}): {messages:?}"),
            }
        }
    }

    /// All messages up to ReadyForQuery or the end, whichever comes first.
    pub fn until_ready_or_end(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            match self.try_read() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => return messages,
                Err(error) if CLOSED.contains(&error.kind()) => return messages,
                Err(error) => panic!("neither readiness nor the end ({error}): {messages:?}"),
            }
            if messages.last().is_some_and(|last| last.tag == 'Z') {
                return messages;
            }
        }
    }

    /// A simple query and its whole answer.
    pub fn query(&mut self, sql: &str) -> Vec<Message> {
        self.send(&query(sql));
        self.until_ready()
    }

    /// Sends messages and reads up to ReadyForQuery.
    pub fn exchange(&mut self, messages: &[Vec<u8>]) -> Vec<Message> {
        self.send(&messages.concat());
        self.until_ready()
    }

    /// Asserts that nothing comes for a while; the only way to see that there is nothing.
    pub fn assert_silent(&mut self, time: Duration) {
        self.stream.socket().set_read_timeout(Some(time)).unwrap();
        let mut byte = [0];
        let answer = self.stream.read(&mut byte);
        self.stream.socket().set_read_timeout(Some(LIMIT)).unwrap();
        assert!(
            matches!(&answer, Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind())),
            "{answer:?} {byte:?}"
        );
    }

    /// Closes this side: the other reads an end of file after what was sent.
    pub fn close_write(&mut self) {
        // It may be closed already, from the other side.
        let _ = self.stream.socket().shutdown(Shutdown::Write);
    }

    /// Reads whatever comes, messages or not, until the other side closes.
    pub fn until_end_of_bytes(&mut self) {
        match io::copy(&mut self.stream, &mut io::sink()) {
            Ok(_) => {}
            Err(error) => assert!(CLOSED.contains(&error.kind()), "the other side does not close: {error}"),
        }
    }

    /// From now on a write that makes no progress for this long is an error.
    pub fn limit_writes(&mut self, time: Duration) {
        self.stream.socket().set_write_timeout(Some(time)).unwrap();
    }

    /// Closes the connection without a word.
    pub fn vanish(self) {
        drop(self.stream);
    }

    fn note(&mut self, message: &Message) {
        match message.tag {
            'K' => {
                let pid = u32::from_be_bytes(message.body[..4].try_into().unwrap());
                self.key = Some((pid, message.body[4..].to_vec()));
            }
            'S' => {
                let text = String::from_utf8_lossy(&message.body);
                let mut parts = text.split('\0');
                let name = parts.next().unwrap_or_default().to_owned();
                self.parameters.insert(name, parts.next().unwrap_or_default().to_owned());
            }
            _ => {}
        }
    }
}

/// What carries the bytes.
enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Wire {
    fn socket(&self) -> &TcpStream {
        match self {
            Wire::Plain(socket) => socket,
            Wire::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(socket) => socket.read(buffer),
            Wire::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(socket) => socket.write(bytes),
            Wire::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Wire::Plain(socket) => socket.flush(),
            Wire::Tls(stream) => stream.flush(),
        }
    }
}

const LIMIT: Duration = Duration::from_secs(20);

const CLOSED: [io::ErrorKind; 3] =
    [io::ErrorKind::ConnectionReset, io::ErrorKind::UnexpectedEof, io::ErrorKind::BrokenPipe];

pub const V3_0: u32 = 3 << 16;
pub const V3_2: u32 = (3 << 16) | 2;

pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
pub const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];

/// A message with any tag and body.
pub fn message(tag: char, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag as u8], &length.to_be_bytes()[..], body].concat()
}

/// The head of a message whose body is sent separately.
pub fn head(tag: char, body_length: usize) -> Vec<u8> {
    let length = u32::try_from(body_length + 4).unwrap();
    [&[tag as u8], &length.to_be_bytes()[..]].concat()
}

pub fn startup(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).unwrap();
    [&length.to_be_bytes()[..], &body].concat()
}

pub fn cancel_request(pid: u32, secret: &[u8]) -> Vec<u8> {
    let length = u32::try_from(12 + secret.len()).unwrap();
    [&length.to_be_bytes()[..], &80_877_102_u32.to_be_bytes(), &pid.to_be_bytes(), secret].concat()
}

pub fn query(sql: &str) -> Vec<u8> {
    message('Q', format!("{sql}\0").as_bytes())
}

pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    message('P', format!("{name}\0{sql}\0\0\0").as_bytes())
}

pub fn bind(portal: &str, statement: &str, values: &[&str]) -> Vec<u8> {
    let mut body = format!("{portal}\0{statement}\0\0\0").into_bytes();
    body.extend_from_slice(&u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        body.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend_from_slice(value.as_bytes());
    }
    body.extend_from_slice(&[0, 0]);
    message('B', &body)
}

pub fn describe_statement(name: &str) -> Vec<u8> {
    message('D', format!("S{name}\0").as_bytes())
}

pub fn describe_portal(name: &str) -> Vec<u8> {
    message('D', format!("P{name}\0").as_bytes())
}

pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    message('E', &[format!("{portal}\0").as_bytes(), &rows.to_be_bytes()].concat())
}

pub fn close_statement(name: &str) -> Vec<u8> {
    message('C', format!("S{name}\0").as_bytes())
}

pub fn sync() -> Vec<u8> {
    message('S', b"")
}

pub fn flush() -> Vec<u8> {
    message('H', b"")
}

pub fn terminate() -> Vec<u8> {
    message('X', b"")
}

pub fn copy_data(data: &[u8]) -> Vec<u8> {
    message('d', data)
}

pub fn copy_done() -> Vec<u8> {
    message('c', b"")
}

pub fn copy_fail(why: &str) -> Vec<u8> {
    message('f', format!("{why}\0").as_bytes())
}
