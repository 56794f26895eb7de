//! Bytes become messages: five bytes are looked at per message, nothing is copied.
//!
//! A message that is longer than the buffer can be *passed* in parts: the scanner then counts down what is left of it,
//! and those bytes are never interpreted.
//!
//! ```text
//!   buffer:  [rest of a passed message][whole][whole][part ...
//!   steps:    Rest(n)                   Message Message Message(have < len)   ... Need when not even a header is there
//! ```

use std::marker::PhantomData;

/// Tag and length.
pub const HEADER: usize = 5;

/// One message found at the head of a buffer. Only [`Scanner`] makes one, so its length was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span<T> {
    tag: T,
    len: usize,
    have: usize,
}

impl<T: Copy> Span<T> {
    /// Its tag.
    pub fn tag(&self) -> T {
        self.tag
    }

    /// All its bytes, tag and length word included; at least [`HEADER`].
    #[allow(clippy::len_without_is_empty, reason = "no message is empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// How many of them are in the buffer.
    pub fn have(&self) -> usize {
        self.have
    }

    /// Whether the buffer holds all of it.
    pub fn is_whole(&self) -> bool {
        self.have == self.len
    }

    /// What the buffer holds of its body.
    pub fn body<'a>(&self, buffer: &'a [u8]) -> &'a [u8] {
        &buffer[HEADER..self.have]
    }
}

/// What stands at the head of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<T> {
    /// This many bytes belong to a message that is being passed in parts.
    Rest(usize),
    /// A message, whole or not.
    Message(Span<T>),
    /// Not even a header.
    Need,
}

/// A length that no message can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FramingError {
    /// The tag that was read.
    pub tag: u8,
    /// The length word that was read.
    pub length: i32,
}

impl std::fmt::Display for FramingError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "invalid length {} of message \"{}\"", self.length, self.tag.escape_ascii())
    }
}

/// Finds the messages of one direction of one connection.
#[derive(Debug, Clone, Copy)]
pub struct Scanner<T> {
    rest: usize,
    tag: PhantomData<T>,
}

impl<T> Default for Scanner<T> {
    fn default() -> Self {
        Scanner { rest: 0, tag: PhantomData }
    }
}

impl<T: From<u8> + Copy> Scanner<T> {
    /// What stands at the head of `buffer`. Changes nothing: [`Scanner::pass`] moves on.
    ///
    /// # Errors
    /// A length below 4 or with its sign bit set.
    pub fn step(&self, buffer: &[u8]) -> Result<Step<T>, FramingError> {
        if self.rest > 0 {
            return Ok(match self.rest.min(buffer.len()) {
                0 => Step::Need,
                n => Step::Rest(n),
            });
        }
        let Some((header, _)) = buffer.split_first_chunk::<HEADER>() else { return Ok(Step::Need) };
        let [tag, a, b, c, d] = *header;
        let length = i32::from_be_bytes([a, b, c, d]);
        if length < 4 {
            return Err(FramingError { tag, length });
        }
        let len = length as usize + 1;
        Ok(Step::Message(Span { tag: T::from(tag), len, have: len.min(buffer.len()) }))
    }

    /// The step was dealt with: its bytes leave the buffer's head. What is missing of a message will be `Rest`.
    pub fn pass(&mut self, step: &Step<T>) {
        match step {
            Step::Rest(n) => self.rest -= n,
            Step::Message(span) => self.rest = span.len - span.have,
            Step::Need => {}
        }
    }

    /// How many bytes of the message that is being passed are still to come.
    pub fn rest(&self) -> usize {
        self.rest
    }

    /// Whether the stream stands between two messages.
    pub fn at_boundary(&self) -> bool {
        self.rest == 0
    }
}

/// The whole messages at the head of a buffer that begins with one, each with its body. Ends before a message that is not
/// all there, or with one that cannot be.
pub struct Messages<'a, T> {
    rest: &'a [u8],
    tag: PhantomData<T>,
}

/// The whole messages at the head of `buffer`, which begins with one.
pub fn messages<T>(buffer: &[u8]) -> Messages<'_, T> {
    Messages { rest: buffer, tag: PhantomData }
}

impl<'a, T: From<u8> + Copy> Iterator for Messages<'a, T> {
    type Item = Result<(T, &'a [u8]), FramingError>;

    fn next(&mut self) -> Option<Self::Item> {
        let span: Span<T> = match Scanner::default().step(self.rest) {
            Ok(Step::Message(span)) if span.is_whole() => span,
            Ok(_) => return None,
            Err(error) => {
                self.rest = &[];
                return Some(Err(error));
            }
        };
        let body = span.body(self.rest);
        self.rest = &self.rest[span.len..];
        Some(Ok((span.tag, body)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::FrontendTag;

    fn scanner() -> Scanner<FrontendTag> {
        Scanner::default()
    }

    #[test]
    fn a_message_is_found_whole_or_in_part() {
        let mut scanner = scanner();
        let bytes = b"S\0\0\0\x04d\0\0\0\x07abc";
        let Ok(Step::Message(sync)) = scanner.step(bytes) else { panic!() };
        assert_eq!((sync.tag(), sync.len(), sync.is_whole()), (FrontendTag::SYNC, 5, true));
        let copy = scanner.step(&bytes[5..11]).unwrap();
        let Step::Message(span) = copy else { panic!() };
        assert_eq!((span.len(), span.have(), span.body(&bytes[5..11])), (8, 6, &b"a"[..]));
        scanner.pass(&copy);
        assert!(!scanner.at_boundary());
        assert_eq!(scanner.step(&bytes[11..]), Ok(Step::Rest(2)));
        scanner.pass(&Step::Rest(2));
        assert!(scanner.at_boundary());
    }

    #[test]
    fn a_short_header_needs_more() {
        assert_eq!(scanner().step(b"S\0\0\0"), Ok(Step::Need));
        assert_eq!(scanner().step(b""), Ok(Step::Need));
    }

    #[test]
    fn whole_messages_come_one_by_one() {
        let bytes = b"S\0\0\0\x04d\0\0\0\x06abd\0\0\0\x07ab";
        let whole: Result<Vec<_>, _> = messages::<FrontendTag>(bytes).collect();
        assert_eq!(whole, Ok(vec![(FrontendTag::SYNC, &b""[..]), (FrontendTag::COPY_DATA, &b"ab"[..])]));
        let mut broken = messages::<FrontendTag>(b"S\0\0\0\x04d\0\0\0\x03S\0\0\0\x04");
        assert!(broken.next().is_some_and(|message| message.is_ok()));
        assert_eq!(broken.next(), Some(Err(FramingError { tag: b'd', length: 3 })));
        assert_eq!(broken.next(), None);
    }

    #[test]
    fn impossible_lengths_are_errors() {
        for length in [3, 0, -1, i32::MIN] {
            let mut bytes = vec![b'Q'];
            bytes.extend_from_slice(&i32::to_be_bytes(length));
            assert_eq!(scanner().step(&bytes), Err(FramingError { tag: b'Q', length }));
        }
    }
}
