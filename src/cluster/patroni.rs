//! Asks a server's Patroni what the server is, by its REST API.
//!
//! | request | 200 | 503 |
//! |---|---|---|
//! | `GET /primary` | it runs as primary and holds the leader's lock | it does not |
//! | `GET /replica?lag=BYTES` | it runs as a replica, is no further behind, and has no tag `noloadbalance` | not so |
//!
//! Any other status is no answer. The document that comes with each says what the server is instead: that is for people.
//!
//! Patroni's server speaks HTTP/1.0: one request per connection, whose end is the answer's. So nothing is gained by a client
//! that knows more than that, and pglagoon brings no other with it. Under TLS it may hang up without a close_notify.
//!
//! # Source
//! Patroni's `docs/rest_api.rst`, and `RestApiHandler` in `patroni/api.py`.

use super::failover::Verdict;
use crate::config::{self, HttpAddress, ServerAddress};
use crate::net::{Connector, Side, Stream};
use std::io::{self, ErrorKind};
use std::time::Duration;
use tokio::net::TcpStream;

/// The longest answer, in bytes: a thousand or so is usual.
const MAX_ANSWER: usize = 64 << 10;

/// The longest word of an answer that is shown, in characters.
const MAX_WORD: usize = 40;

/// The Patronis of a cluster's servers.
pub(super) struct Patronis {
    /// Where they are, and what is asked of them.
    pub rules: config::Patroni,
    /// How those are reached that speak TLS.
    pub tls: Option<Connector>,
}

/// Who asks the Patroni of one server, and says in the log when it falls silent and when it is back.
#[derive(Default)]
pub(super) struct Patroni {
    last: Verdict,
}

/// An answer that is one.
enum Answer {
    Yes,
    /// What the server is instead, in Patroni's words.
    No(String),
}

impl Patroni {
    /// What it says of the server in this place. It has `patience` to answer.
    pub(super) async fn ask(
        &mut self,
        patronis: Option<&Patronis>,
        (index, server): (usize, &ServerAddress),
        patience: Duration,
    ) -> Verdict {
        let Some(patronis) = patronis else { return Verdict::None };
        let Some(member) = patronis.rules.members.get(index) else { return Verdict::None };
        let verdict = match tokio::time::timeout(patience, patronis.inquire(member)).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(error)) => Verdict::Silent(error.to_string()),
            Err(_) => Verdict::Silent(format!("no answer within {patience:?}")),
        };
        let before = std::mem::replace(&mut self.last, verdict.clone());
        match (&before, &verdict) {
            (Verdict::Silent(_), Verdict::Silent(_)) => (),
            (_, Verdict::Silent(why)) => tracing::warn!(
                %server, patroni = %member, %why,
                "Patroni does not answer: what the server says of itself counts, if it is not fenced"
            ),
            (Verdict::Silent(_), _) => tracing::info!(
                %server, patroni = %member,
                "Patroni answers again"
            ),
            _ => (),
        }
        verdict
    }
}

impl Patronis {
    async fn inquire(&self, member: &HttpAddress) -> io::Result<Verdict> {
        if let Answer::Yes = self.get(member, "/primary").await? {
            return Ok(Verdict::Leader);
        }
        let replica = match self.rules.max_lag {
            Some(bytes) => self.get(member, &format!("/replica?lag={bytes}")).await?,
            None => self.get(member, "/replica").await?,
        };
        Ok(match replica {
            Answer::Yes => Verdict::Replica,
            Answer::No(what) => Verdict::Neither(what),
        })
    }

    async fn get(&self, member: &HttpAddress, target: &str) -> io::Result<Answer> {
        let socket = TcpStream::connect((member.host.as_str(), member.port)).await?;
        let mut stream = Stream::tcp(socket, Side::Server)?;
        if member.is_tls {
            let tls = self.tls.as_ref().ok_or_else(|| io::Error::other("TLS is not set up"))?;
            stream = tls.connect_http(stream, &member.host).await?;
        }
        let url = member.to_string();
        let host = url.split_once("://").map_or(&*url, |(_, host)| host);
        let request = format!(
            "GET {target} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: pglagoon\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let answer = read_to_end(&mut stream).await?;
        match status(&answer) {
            Some(200) => Ok(Answer::Yes),
            Some(503) => Ok(Answer::No(what(&answer))),
            Some(other) => Err(io::Error::other(format!("HTTP status {other} to {target}"))),
            None => Err(io::Error::new(ErrorKind::InvalidData, "what answers does not speak HTTP")),
        }
    }
}

async fn read_to_end(stream: &mut Stream) -> io::Result<Vec<u8>> {
    let (mut answer, mut buffer) = (Vec::new(), [0; 2048]);
    while answer.len() < MAX_ANSWER {
        match stream.read_some(&mut buffer).await {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

/// The status of an answer: `HTTP/1.0 200 OK`.
fn status(answer: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(answer.split(|byte| *byte == b'\r').next()?).ok()?;
    let (version, rest) = line.split_once(' ')?;
    let digits = rest.split(' ').next()?;
    let is_status = digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
    (version.starts_with("HTTP/1.") && is_status).then(|| digits.parse().ok())?
}

/// What the server is: `replica, running, noloadbalance`.
fn what(answer: &[u8]) -> String {
    let body = answer.windows(4).position(|window| window == b"\r\n\r\n").map(|end| &answer[end + 4..]);
    let document: serde_json::Value =
        body.and_then(|body| serde_json::from_slice(body).ok()).unwrap_or_default();
    let word = |key: &str| {
        let word = document[key].as_str()?;
        let is_plain = word.chars().all(|char| char.is_ascii_graphic() || char == ' ');
        (is_plain && word.len() <= MAX_WORD).then(|| word.to_owned())
    };
    let is_excluded = document["tags"]["noloadbalance"] == serde_json::Value::Bool(true);
    let tag = is_excluded.then(|| "noloadbalance".to_owned());
    let words: Vec<String> = [word("role"), word("state"), tag].into_iter().flatten().collect();
    if words.is_empty() { "nothing that it names".to_owned() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_from_the_first_line() {
        assert_eq!(status(b"HTTP/1.0 200 OK\r\nServer: BaseHTTP/0.6\r\n\r\n{}"), Some(200));
        assert_eq!(status(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"), Some(503));
        assert_eq!(status(b"HTTP/1.0 503\r\n\r\n"), Some(503));
        for other in [
            "",
            "HTTP/1.0\r\n",
            "HTTP/1.0 2000 OK\r\n",
            "HTTP/1.0 +20 OK\r\n",
            "\x15\x03\x01\x02",
            "SSH-2.0 200 x",
        ] {
            assert_eq!(status(other.as_bytes()), None, "{other:?}");
        }
    }

    #[test]
    fn a_document_is_read_for_people_and_only_if_it_is_plain() {
        let of = |body: &str| what(format!("HTTP/1.0 503 x\r\nA: b\r\n\r\n{body}").as_bytes());
        let usual =
            r#"{"state": "running", "role": "replica", "timeline": 3, "tags": {"noloadbalance": true}}"#;
        assert_eq!(of(usual), "replica, running, noloadbalance");
        assert_eq!(of(r#"{"state": "starting", "role": "primary"}"#), "primary, starting");
        for strange in ["", "{", "[]", r#"{"role": 7}"#, r#"{"role": "a\nb"}"#] {
            assert_eq!(of(strange), "nothing that it names", "{strange}");
        }
        assert_eq!(what(b"no end of a head"), "nothing that it names");
    }
}
