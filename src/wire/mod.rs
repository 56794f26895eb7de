//! PostgreSQL protocol 3.x framing: what a byte stream's messages are, and how to write one. Pure.
//!
//! Nothing here allocates while reading: views borrow from the buffer, [`scan`] looks at five bytes per message. Writers
//! append to a `Vec<u8>`. Tags of the two directions are two types, so that Describe (`D`) is never DataRow (`D`).
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-message-formats.html>

pub mod backend;
pub mod cancel;
pub mod frontend;
pub mod scan;
pub mod sqlstate;
pub mod startup;
pub mod tag;

pub use cancel::{ClientKey, ServerKey};
pub use scan::{FramingError, Scanner, Step};
pub use sqlstate::SqlState;
pub use tag::{BackendTag, FrontendTag};

/// A position in a message body, moved forward by its readers. Every reader answers `None` past the end.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `body` from its start.
    pub fn new(body: &'a [u8]) -> Self {
        Reader { rest: body }
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// One byte.
    pub fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    /// A big-endian Int16.
    pub fn int16(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    /// A big-endian Int32.
    pub fn int32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    /// `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(head)
    }

    /// A String: the bytes before the next NUL, which is read too.
    pub fn string(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|&byte| byte == 0)?;
        self.string_to(end)
    }

    /// The same for a statement's text: most names are empty or short, most texts are not, and are searched in blocks, each
    /// of which takes a handful of vector instructions.
    pub fn text(&mut self) -> Option<&'a [u8]> {
        const BLOCK: usize = 16;
        let (blocks, _) = self.rest.as_chunks::<BLOCK>();
        let ends = |block: &[u8; BLOCK]| block.iter().fold(false, |ends, &byte| ends | (byte == 0));
        let before = blocks.iter().position(ends).unwrap_or(blocks.len()) * BLOCK;
        let end = self.rest[before..].iter().position(|&byte| byte == 0)?;
        self.string_to(before + end)
    }

    fn string_to(&mut self, end: usize) -> Option<&'a [u8]> {
        let (text, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        Some(text)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*head)
    }
}

/// Appends one message: its tag, a length that is filled in afterwards, and what `body` appends.
fn message(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = u32::try_from(out.len() - at).expect("no writer here makes a message of 4 GiB");
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends a String: the bytes up to their first NUL, and a NUL.
fn string(out: &mut Vec<u8>, text: &[u8]) {
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    out.extend_from_slice(&text[..end]);
    out.push(0);
}
