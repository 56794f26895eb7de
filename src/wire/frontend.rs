//! Messages from clients: views of those that are looked into, and writers of those that pglagoon sends to servers.

use super::{FrontendTag, Reader, message, string};

/// The text of a Query, without its NUL. `None`: no NUL at its end.
pub fn query(body: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(body);
    let text = reader.text()?;
    reader.rest().is_empty().then_some(text)
}

/// A Parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parse<'a> {
    /// The statement's name; empty: the unnamed one.
    pub name: &'a [u8],
    /// Its text.
    pub text: &'a [u8],
    /// The parameter types as they stand in the message: Int16 count, then Int32 object ids.
    pub types: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Reads a Parse's body.
    pub fn new(body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let (name, text) = (reader.string()?, reader.text()?);
        let types = reader.rest();
        let count = reader.int16()?;
        (reader.rest().len() == usize::from(count as u16) * 4).then_some(Parse { name, text, types })
    }

    /// Its name alone.
    pub fn name(body: &'a [u8]) -> Option<&'a [u8]> {
        Reader::new(body).string()
    }

    /// Appends a Parse with this text and these types under another name.
    pub fn write(out: &mut Vec<u8>, name: &[u8], text: &[u8], types: &[u8]) {
        message(out, FrontendTag::PARSE.0, |out| {
            string(out, name);
            string(out, text);
            out.extend_from_slice(types);
        });
    }
}

/// The head of a Bind: what comes after the two names is not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind<'a> {
    /// The portal to make; empty: the unnamed one.
    pub portal: &'a [u8],
    /// The statement to bind.
    pub statement: &'a [u8],
    /// Bytes of the body up to and with the second name's NUL.
    pub head: usize,
}

impl<'a> Bind<'a> {
    /// Reads the head of a Bind's body, of which the end may still be missing.
    pub fn new(body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let (portal, statement) = (reader.string()?, reader.string()?);
        Some(Bind { portal, statement, head: body.len() - reader.rest().len() })
    }

    /// Appends the head of a Bind of which `rest` bytes of body will follow.
    ///
    /// Returns false and appends nothing if the message would be longer than the protocol allows.
    #[must_use]
    pub fn write_head(out: &mut Vec<u8>, portal: &[u8], statement: &[u8], rest: usize) -> bool {
        let length = 4 + portal.len() + 1 + statement.len() + 1 + rest;
        let Ok(length) = i32::try_from(length) else { return false };
        out.push(FrontendTag::BIND.0);
        out.extend_from_slice(&length.to_be_bytes());
        string(out, portal);
        string(out, statement);
        true
    }
}

/// How many format codes for result columns a Bind has; one speaks for all columns.
pub fn result_formats(body: &[u8]) -> Option<usize> {
    let mut reader = Reader::new(body);
    let (_portal, _statement) = (reader.string()?, reader.string()?);
    let formats = usize::try_from(reader.int16()?).ok()?;
    reader.bytes(2 * formats)?;
    for _ in 0..reader.int16()? {
        if let Ok(length) = usize::try_from(reader.int32()?) {
            reader.bytes(length)?;
        }
    }
    usize::try_from(reader.int16()?).ok()
}

/// What a Describe or a Close speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// A prepared statement.
    Statement(&'a [u8]),
    /// A portal.
    Portal(&'a [u8]),
}

impl<'a> Target<'a> {
    /// Reads the body of a Describe or a Close.
    pub fn new(body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let (kind, name) = (reader.byte()?, reader.string()?);
        match kind {
            _ if !reader.rest().is_empty() => None,
            b'S' => Some(Target::Statement(name)),
            b'P' => Some(Target::Portal(name)),
            _ => None,
        }
    }
}

/// The portal that an Execute runs.
pub fn executed_portal(body: &[u8]) -> Option<&[u8]> {
    Reader::new(body).string()
}

/// Appends a Query.
pub fn write_query(out: &mut Vec<u8>, text: &[u8]) {
    message(out, FrontendTag::QUERY.0, |out| string(out, text));
}

/// Appends a Describe of a statement.
pub fn write_describe_statement(out: &mut Vec<u8>, name: &[u8]) {
    message(out, FrontendTag::DESCRIBE.0, |out| {
        out.push(b'S');
        string(out, name);
    });
}

/// Appends a Close of a statement.
pub fn write_close_statement(out: &mut Vec<u8>, name: &[u8]) {
    message(out, FrontendTag::CLOSE.0, |out| {
        out.push(b'S');
        string(out, name);
    });
}

/// Appends a Bind of the unnamed statement, which has no parameters, to the unnamed portal, and its Execute.
pub fn write_bind_and_execute(out: &mut Vec<u8>) {
    message(out, FrontendTag::BIND.0, |out| out.extend_from_slice(&[0; 2 + 3 * 2]));
    message(out, FrontendTag::EXECUTE.0, |out| out.extend_from_slice(&[0; 1 + 4]));
}

/// Appends what runs a query with one parameter, which is text, and gets all its rows as text: Parse, Bind, Describe and
/// Execute, without names.
pub fn write_question(out: &mut Vec<u8>, text: &[u8], parameter: &[u8]) {
    Parse::write(out, b"", text, &[0; 2]);
    message(out, FrontendTag::BIND.0, |out| {
        // The names; no formats; one parameter.
        out.extend_from_slice(&[0, 0, 0, 0, 0, 1]);
        out.extend_from_slice(&(parameter.len() as u32).to_be_bytes());
        out.extend_from_slice(parameter);
        out.extend_from_slice(&[0; 2]);
    });
    message(out, FrontendTag::DESCRIBE.0, |out| out.extend_from_slice(b"P\0"));
    message(out, FrontendTag::EXECUTE.0, |out| out.extend_from_slice(&[0; 1 + 4]));
}

/// Appends a Sync.
pub fn write_sync(out: &mut Vec<u8>) {
    message(out, FrontendTag::SYNC.0, |_| {});
}

/// Appends a Flush.
pub fn write_flush(out: &mut Vec<u8>) {
    message(out, FrontendTag::FLUSH.0, |_| {});
}

/// Appends a Terminate.
pub fn write_terminate(out: &mut Vec<u8>) {
    message(out, FrontendTag::TERMINATE.0, |_| {});
}

/// Appends a CopyFail with its reason.
pub fn write_copy_fail(out: &mut Vec<u8>, reason: &str) {
    message(out, FrontendTag::COPY_FAIL.0, |out| string(out, reason.as_bytes()));
}

/// Appends a PasswordMessage (or an MD5 response): `password` and a NUL.
pub fn write_password(out: &mut Vec<u8>, password: &[u8]) {
    message(out, FrontendTag::PASSWORD.0, |out| string(out, password));
}

/// Appends a SASLInitialResponse.
pub fn write_sasl_initial(out: &mut Vec<u8>, mechanism: &str, data: &[u8]) {
    message(out, FrontendTag::PASSWORD.0, |out| {
        string(out, mechanism.as_bytes());
        out.extend_from_slice(&(data.len() as u32).to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// Appends a SASLResponse.
pub fn write_sasl_response(out: &mut Vec<u8>, data: &[u8]) {
    message(out, FrontendTag::PASSWORD.0, |out| out.extend_from_slice(data));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::scan::HEADER;

    #[test]
    fn a_parse_is_read_back() {
        let mut out = Vec::new();
        Parse::write(&mut out, b"s1", b"select $1", &[0, 1, 0, 0, 0, 23]);
        let parse = Parse::new(&out[HEADER..]).unwrap();
        assert_eq!((parse.name, parse.text, parse.types.len()), (&b"s1"[..], &b"select $1"[..], 6));
        assert_eq!(Parse::new(&out[HEADER..out.len() - 1]), None, "a type is cut short");
    }

    #[test]
    fn a_text_ends_with_its_first_nul_wherever_that_is() {
        for length in 0..70 {
            let text = vec![b'x'; length];
            let mut body = text.clone();
            body.extend_from_slice(b"\0");
            assert_eq!(query(&body), Some(&text[..]));
            assert_eq!(query(&text), None);
            body.extend_from_slice(b"\0\0");
            assert_eq!(query(&body), None);
            body.insert(0, 0);
            assert_eq!(Parse::new(&body).map(|parse| parse.text), Some(&text[..]));
        }
    }

    #[test]
    fn a_bind_head_needs_both_names_only() {
        let bind = Bind::new(b"p\0s\0rest").unwrap();
        assert_eq!((bind.portal, bind.statement, bind.head), (&b"p"[..], &b"s"[..], 4));
        assert_eq!(Bind::new(b"p\0s"), None);
        let mut out = Vec::new();
        assert!(!Bind::write_head(&mut out, b"", b"s", i32::MAX as usize));
        assert!(out.is_empty());
    }

    #[test]
    fn the_formats_of_a_binds_results_stand_behind_its_parameters() {
        let body = b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x01x\xff\xff\xff\xff\0\x02\0\0\0\x01";
        assert_eq!(result_formats(body), Some(2));
        assert_eq!(result_formats(b"\0\0\0\0\0\0\0\0"), Some(0));
        for cut in 0..body.len() - 4 {
            assert!(result_formats(&body[..cut]).is_none_or(|formats| formats <= 2));
        }
        assert_eq!(result_formats(b"\0\0\xff\xff"), None);
    }

    #[test]
    fn describe_and_close_name_their_target() {
        assert_eq!(Target::new(b"Sx\0"), Some(Target::Statement(b"x")));
        assert_eq!(Target::new(b"P\0"), Some(Target::Portal(b"")));
        assert_eq!(Target::new(b"Q\0"), None);
        assert_eq!(Target::new(b"Sx\0y"), None);
    }

    #[test]
    fn a_query_ends_with_its_only_nul() {
        assert_eq!(query(b"select 1\0"), Some(&b"select 1"[..]));
        assert_eq!(query(b"select 1"), None);
        assert_eq!(query(b"a\0b\0"), None);
    }
}
