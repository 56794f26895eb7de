//! Messages as words: `Query select 1`, `Parse s1: select $1`, `DataRow 1 | ReadyForQuery I`.

use std::collections::BTreeMap;

/// Appends protocol messages.
pub trait Writer {
    fn message(&mut self, tag: u8, body: impl FnOnce(&mut Vec<u8>));
}

impl Writer for Vec<u8> {
    fn message(&mut self, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
        self.push(tag);
        let at = self.len();
        self.extend_from_slice(&[0; 4]);
        body(self);
        let length = (self.len() - at) as u32;
        self[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }
}

pub fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(text);
    out.push(0);
}

/// Frontend messages written as words, separated by ` | `.
pub fn frontend(line: &str) -> Vec<u8> {
    let mut out = Vec::new();
    line.split('|').for_each(|message| one_frontend(message.trim(), &mut out));
    out
}

fn one_frontend(line: &str, out: &mut Vec<u8>) {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let rest = rest.trim();
    let named = |prefix: &str| (prefix.as_bytes()[0], rest.as_bytes());
    match word {
        "Query" => out.message(b'Q', |out| string(out, rest.as_bytes())),
        "Parse" => {
            let (name, text) = rest.split_once(':').expect("Parse NAME: TEXT");
            out.message(b'P', |out| {
                string(out, name.as_bytes());
                string(out, text.trim().as_bytes());
                out.extend_from_slice(&[0, 0]);
            });
        }
        "Bind" => {
            let (portal, rest) = rest.split_once(':').expect("Bind PORTAL: STATEMENT PARAMETERS");
            let (statement, parameters) = match rest.strip_prefix(' ') {
                Some(parameters) => ("", parameters),
                None => rest.split_once(' ').unwrap_or((rest, "")),
            };
            bind(out, portal, statement, &parameters.split_ascii_whitespace().collect::<Vec<_>>());
        }
        "DescribeS" | "DescribeP" | "CloseS" | "CloseP" => {
            let (kind, name) = named(&word[word.len() - 1..]);
            out.message(word.as_bytes()[0], |out| {
                out.push(kind);
                string(out, name);
            });
        }
        "Execute" => {
            let (portal, limit) = match rest.rsplit_once(' ') {
                Some((portal, limit)) => (portal, limit.parse().expect("a limit")),
                None => match rest.parse::<u32>() {
                    Ok(limit) => ("", limit),
                    Err(_) => (rest, 0),
                },
            };
            out.message(b'E', |out| {
                string(out, portal.as_bytes());
                out.extend_from_slice(&u32::to_be_bytes(limit));
            });
        }
        "Sync" => out.message(b'S', |_| {}),
        "Flush" => out.message(b'H', |_| {}),
        "FunctionCall" => out.message(b'F', |out| out.extend_from_slice(&[0; 12])),
        "CopyData" => out.message(b'd', |out| out.extend_from_slice(rest.as_bytes())),
        "CopyDone" => out.message(b'c', |_| {}),
        "CopyFail" => out.message(b'f', |out| string(out, rest.as_bytes())),
        "Terminate" => out.message(b'X', |_| {}),
        _ => panic!("no such message: {line}"),
    }
}

pub fn bind(out: &mut Vec<u8>, portal: &str, statement: &str, parameters: &[&str]) {
    out.message(b'B', |out| {
        string(out, portal.as_bytes());
        string(out, statement.as_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&(parameters.len() as u16).to_be_bytes());
        for parameter in parameters {
            out.extend_from_slice(&(parameter.len() as u32).to_be_bytes());
            out.extend_from_slice(parameter.as_bytes());
        }
        out.extend_from_slice(&[0, 0]);
    });
}

/// The whole messages at the head of `bytes`: tags and bodies, and how many bytes they are.
pub fn messages(bytes: &[u8]) -> (Vec<(u8, &[u8])>, usize) {
    let (mut all, mut at) = (Vec::new(), 0);
    while bytes.len() - at >= 5 {
        let length = u32::from_be_bytes(bytes[at + 1..at + 5].try_into().unwrap()) as usize + 1;
        assert!((5..1 << 28).contains(&length), "not a message: {:?}", &bytes[at..at + 5]);
        if bytes.len() - at < length {
            break;
        }
        all.push((bytes[at], &bytes[at + 5..at + length]));
        at += length;
    }
    (all, at)
}

fn strings(body: &[u8]) -> Vec<String> {
    body.split(|&byte| byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

/// The names that pglagoon gave to statements, as `@1`, `@2` in the order of their appearance.
#[derive(Default)]
pub struct Names(BTreeMap<String, usize>);

impl Names {
    fn shorten(&mut self, text: &str) -> String {
        const PREFIX: &str = "pglagoon_";
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(PREFIX) {
            let digits = &rest[at + PREFIX.len()..];
            let count = digits.bytes().take_while(u8::is_ascii_hexdigit).count();
            out.push_str(&rest[..at]);
            if count == 32 {
                let next = self.0.len() + 1;
                let number = *self.0.entry(digits[..32].to_owned()).or_insert(next);
                out.push_str(&format!("@{number}"));
            } else {
                out.push_str(&rest[at..at + PREFIX.len() + count]);
            }
            rest = &digits[count..];
        }
        out.push_str(rest);
        out
    }

    /// A frontend message in words.
    pub fn frontend(&mut self, tag: u8, body: &[u8]) -> String {
        let s = strings(body);
        let text = match tag {
            b'Q' => format!("Query {}", s[0]),
            b'P' => format!("Parse {}: {}", s[0], s[1]),
            b'B' => format!("Bind {}:{}{}", s[0], s[1], bound(body)),
            b'D' | b'C' => {
                let word = if tag == b'D' { "Describe" } else { "Close" };
                format!("{word}{} {}", &s[0][..1], &s[0][1..])
            }
            b'E' => {
                let limit = u32::from_be_bytes(body[body.len() - 4..].try_into().unwrap());
                let limit = if limit > 0 { format!(" {limit}") } else { String::new() };
                format!("Execute {}{limit}", s[0])
            }
            b'S' => "Sync".to_owned(),
            b'H' => "Flush".to_owned(),
            b'F' => "FunctionCall".to_owned(),
            b'd' => format!("CopyData {}", String::from_utf8_lossy(body)),
            b'c' => "CopyDone".to_owned(),
            b'f' => format!("CopyFail {}", s[0]),
            b'X' => "Terminate".to_owned(),
            _ => format!("{:?}?", tag as char),
        };
        self.shorten(text.trim())
    }

    /// A backend message in words.
    pub fn backend(&mut self, tag: u8, body: &[u8]) -> String {
        let s = strings(body);
        let text = match tag {
            b'1' => "ParseComplete".to_owned(),
            b'2' => "BindComplete".to_owned(),
            b'3' => "CloseComplete".to_owned(),
            b'C' => format!("CommandComplete {}", s[0]),
            b'D' => format!("DataRow {}", String::from_utf8_lossy(&body[6.min(body.len())..])),
            b'E' => format!("Error {} {}", field(body, b'C'), field(body, b'M')),
            b'N' => format!("Notice {}", field(body, b'M')),
            b'G' => "CopyInResponse".to_owned(),
            b'H' => "CopyOutResponse".to_owned(),
            b'I' => "EmptyQueryResponse".to_owned(),
            b'S' => format!("ParameterStatus {}={}", s[0], s[1]),
            b'T' => {
                let mut columns = Vec::new();
                let mut rest = &body[2..];
                while let Some(end) = rest.iter().position(|&byte| byte == 0) {
                    columns.push(String::from_utf8_lossy(&rest[..end]).into_owned());
                    rest = &rest[end + 19..];
                }
                format!("RowDescription {}", columns.join(","))
            }
            b'V' => "FunctionCallResponse".to_owned(),
            b'Z' => format!("ReadyForQuery {}", body[0] as char),
            b'c' => "CopyDone".to_owned(),
            b'd' => format!("CopyData {}", String::from_utf8_lossy(body).trim_end()),
            b'n' => "NoData".to_owned(),
            b's' => "PortalSuspended".to_owned(),
            b't' => format!("ParameterDescription {}", u16::from_be_bytes([body[0], body[1]])),
            _ => format!("{:?}?", tag as char),
        };
        self.shorten(text.trim())
    }
}

fn bound(body: &[u8]) -> String {
    let at = body.iter().enumerate().filter(|(_, byte)| **byte == 0).nth(1).unwrap().0 + 1;
    let mut rest = &body[at + 4..];
    let count = u16::from_be_bytes([body[at + 2], body[at + 3]]);
    let mut out = String::new();
    for _ in 0..count {
        let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        let value = String::from_utf8_lossy(&rest[4..4 + length]).into_owned();
        out.push_str(&if value.len() > 20 { format!(" ({length} bytes)") } else { format!(" {value}") });
        rest = &rest[4 + length..];
    }
    out
}

/// One field of an ErrorResponse.
pub fn field(body: &[u8], letter: u8) -> String {
    let value = body.split(|&byte| byte == 0).find(|part| part.first() == Some(&letter));
    String::from_utf8_lossy(value.map_or(b"", |part| &part[1..])).into_owned()
}

/// What a client has seen, to be compared: errors by their code and words, without what a pooler may say more of.
pub fn view(bytes: &[u8]) -> Vec<String> {
    let mut names = Names::default();
    let (all, read) = messages(bytes);
    assert_eq!(read, bytes.len(), "a message is cut short");
    let counts = |tag: u8| !matches!(tag, b'S' | b'N');
    let all = all.into_iter().filter(|(tag, _)| counts(*tag));
    all.map(|(tag, body)| match tag {
        // The words name the statement, by the name that the server knows.
        b'E' if field(body, b'C') == "08P01" => "Error 08P01".to_owned(),
        _ => names.backend(tag, body),
    })
    .collect()
}
