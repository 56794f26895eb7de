//! Tokens of a SQL text, cut where PostgreSQL's own scanner cuts them, over bytes and without allocation.
//!
//! The tokens tile the text: each starts where the one before it ended, and the last ends with the text. Whatever
//! PostgreSQL would refuse (an unterminated string, `1x`, a stray `\`) is a [`Kind::Error`] token, never a panic.
//!
//! Two things about the session decide how PostgreSQL cuts a text, and neither is in the text:
//! - `standard_conforming_strings`: taken to be on. With it off a backslash escapes a quote in a plain string, and what
//!   is said here of such a text is worth nothing.
//! - `client_encoding`: every byte from 0x80 on is taken to be part of a name or a string, which is right for UTF8, the
//!   ISO 8859 family and EUC. In SJIS, BIG5, GBK, GB18030, UHC and JOHAB the second byte of a character can be a
//!   backslash, which would be misread inside `E''`.
//!
//! # Source
//!
//! The manual's [lexical structure](https://www.postgresql.org/docs/current/sql-syntax-lexical.html), and for the dark
//! corners `src/backend/parser/scan.l`: where an operator ends, how a string goes on in the next line, that a carriage
//! return ends a `--` comment.

use memchr::{memchr, memchr2};

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// White space.
    Space,
    /// `-- ...` to the end of the line, or `/* ... */`.
    Comment,
    /// An unquoted name or key word.
    Word,
    /// A name in double quotes.
    QuotedName,
    /// A name as `U&"..."`.
    UnicodeName,
    /// A string: `'...'`, `N'...'`, with all lines on which it goes on.
    String,
    /// A string with escapes, `E'...'`.
    EscapeString,
    /// A string as `U&'...'`.
    UnicodeString,
    /// A dollar-quoted string.
    DollarString,
    /// `B'...'` or `X'...'`.
    BitString,
    /// A number.
    Number,
    /// `$1`.
    Parameter,
    /// An operator, `*` and `=` among them.
    Operator,
    /// `(`
    LeftParen,
    /// `)`
    RightParen,
    /// `[`
    LeftBracket,
    /// `]`
    RightBracket,
    /// `,`
    Comma,
    /// `;`
    Semicolon,
    /// `.`
    Dot,
    /// `..`
    DotDot,
    /// `:`
    Colon,
    /// `::`
    Cast,
    /// `:=`
    Assign,
    /// `=>`
    Arrow,
    /// Nothing that PostgreSQL knows.
    Error,
}

impl Kind {
    /// Whether the parser never sees it.
    pub fn is_trivia(self) -> bool {
        matches!(self, Kind::Space | Kind::Comment)
    }

    /// Whether it is a string literal (bit strings are not: they have their own type).
    pub fn is_string(self) -> bool {
        matches!(self, Kind::String | Kind::EscapeString | Kind::UnicodeString | Kind::DollarString)
    }

    /// Whether it can be a name.
    pub fn is_name(self) -> bool {
        matches!(self, Kind::Word | Kind::QuotedName | Kind::UnicodeName)
    }
}

/// A piece of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Where it starts, in bytes from the start of the text.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
}

impl Token {
    /// Its bytes in the text that it was cut from.
    pub fn bytes<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        &text[self.start..self.end]
    }
}

/// What PostgreSQL's parser sees of a text: its tokens without trivia.
pub fn tokens(text: &[u8]) -> impl Iterator<Item = Token> {
    Lexer::new(text).filter(|token| !token.kind.is_trivia())
}

/// Cuts a text into tokens, trivia included.
#[derive(Debug, Clone)]
pub struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Lexer<'a> {
    /// A lexer at the start of `text`.
    pub fn new(text: &'a [u8]) -> Lexer<'a> {
        Lexer { text, at: 0 }
    }

    /// Passes white space.
    #[inline]
    pub(super) fn skip_space(&mut self) {
        while self.text.get(self.at).is_some_and(|&byte| IS_SPACE[byte as usize]) {
            self.at += 1;
        }
    }

    /// The next token, if that is a word: folded into `place`, with its length. `None`, and nothing has happened, if it is
    /// anything else or does not fit.
    #[inline]
    pub(super) fn fold_word(&mut self, place: &mut [u8]) -> Option<usize> {
        let rest = &self.text[self.at..];
        if !is_name_start(*rest.first()?) {
            return None;
        }
        let limit = rest.len().min(place.len());
        let (cut, place) = (&rest[..limit], &mut place[..limit]);
        let mut length = 0;
        while length < limit && FOLDED[cut[length] as usize] != 0 {
            place[length] = FOLDED[cut[length] as usize];
            length += 1;
        }
        if rest.get(length).is_some_and(|&byte| is_name_part(byte)) {
            return None;
        }
        // A single letter may belong to a quote behind it.
        if length == 1 && matches!(rest.get(1), Some(b'\'' | b'&')) {
            return None;
        }
        self.at += length;
        Some(length)
    }

    /// The next token, if that is a quoted name without a quote in it: copied into `place`, with its length. `None`, and
    /// nothing has happened, if it is anything else or does not fit.
    #[inline]
    pub(super) fn copy_quoted_name(&mut self, place: &mut [u8]) -> Option<usize> {
        let (b'"', behind) = self.text[self.at..].split_first()? else { return None };
        let inner = behind.iter().position(|&byte| byte == b'"')?;
        if behind.get(inner + 1) == Some(&b'"') {
            return None;
        }
        let length = inner + 2;
        place.get_mut(..length)?.copy_from_slice(&self.text[self.at..self.at + length]);
        self.at += length;
        Some(length)
    }

    /// Passes the next token if one character tells what it is.
    #[inline]
    pub(super) fn take_single(&mut self) -> Option<Kind> {
        match CLASS[*self.text.get(self.at)? as usize] {
            Class::Single(kind) => Some(self.take(1, kind)),
            Class::Dot if is_name_start(self.peek(1)) || self.peek(1) == b'"' => {
                Some(self.take(1, Kind::Dot))
            }
            _ => None,
        }
    }

    /// Passes the next token if that is a number of nothing but digits.
    #[inline]
    pub(super) fn skip_digits(&mut self) -> bool {
        let rest = &self.text[self.at..];
        let length = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        let goes_on = rest.get(length).is_some_and(|&byte| byte == b'.' || is_name_part(byte));
        let is_plain = length > 0 && !goes_on;
        self.at += if is_plain { length } else { 0 };
        is_plain
    }

    /// The next byte but `ahead`, 0 past the end (a 0 in the text is an error anyway).
    #[inline]
    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn scan(&mut self, first: u8) -> Kind {
        match CLASS[first as usize] {
            Class::Space => {
                self.skip_while(|byte| CLASS[byte as usize] == Class::Space);
                Kind::Space
            }
            Class::NameStart => self.name_or_prefixed(first),
            Class::Digit => self.number(),
            Class::Operator => self.operator(first),
            Class::Quote => {
                self.at += 1;
                self.string(Kind::String, Escapes::None)
            }
            Class::DoubleQuote => {
                self.at += 1;
                self.quoted_name(Kind::QuotedName)
            }
            Class::Dollar => self.dollar(),
            Class::Dot => self.dot(),
            Class::Colon => self.colon(),
            Class::Single(kind) => self.take(1, kind),
            Class::Other => self.take(1, Kind::Error),
        }
    }

    fn take(&mut self, length: usize, kind: Kind) -> Kind {
        self.at += length;
        kind
    }

    fn rest(&self) -> &'a [u8] {
        &self.text[self.at..]
    }

    /// Passes what stands before a place in the rest; all of it if there is none.
    fn skip_to(&mut self, place: Option<usize>) {
        self.at = place.map_or(self.text.len(), |ahead| self.at + ahead);
    }

    #[inline]
    fn skip_while(&mut self, wanted: impl Fn(u8) -> bool) {
        let rest = &self.text[self.at..];
        self.at += rest.iter().position(|&byte| !wanted(byte)).unwrap_or(rest.len());
    }

    fn unterminated(&mut self) -> Kind {
        self.at = self.text.len();
        Kind::Error
    }

    /// A name, or a letter that belongs to the quote behind it.
    fn name_or_prefixed(&mut self, first: u8) -> Kind {
        match (first | 0x20, self.peek(1), self.peek(2)) {
            (b'e', b'\'', _) => {
                self.at += 2;
                self.string(Kind::EscapeString, Escapes::Backslash)
            }
            (b'b' | b'x', b'\'', _) => {
                self.at += 2;
                self.string(Kind::BitString, Escapes::None)
            }
            (b'n', b'\'', _) => {
                self.at += 2;
                self.string(Kind::String, Escapes::None)
            }
            (b'u', b'&', b'\'') => {
                self.at += 3;
                self.string(Kind::UnicodeString, Escapes::None)
            }
            (b'u', b'&', b'"') => {
                self.at += 3;
                self.quoted_name(Kind::UnicodeName)
            }
            _ => {
                self.skip_while(is_name_part);
                Kind::Word
            }
        }
    }

    /// The rest of a string behind its opening quote, with the lines on which it goes on: `'a' <newline> 'b'` is one
    /// string, and a later line of an `E''` string knows escapes too, though it has no E of its own.
    fn string(&mut self, kind: Kind, escapes: Escapes) -> Kind {
        loop {
            match escapes {
                Escapes::None => self.skip_to(memchr(b'\'', self.rest())),
                Escapes::Backslash => self.skip_to(memchr2(b'\'', b'\\', self.rest())),
            }
            match self.text.get(self.at) {
                None => return self.unterminated(),
                Some(b'\\') => self.at = (self.at + 2).min(self.text.len()),
                Some(b'\'') if self.peek(1) == b'\'' && kind != Kind::BitString => self.at += 2,
                Some(_) => {
                    self.at += 1;
                    match self.continuation() {
                        Some(inside) => self.at = inside,
                        None => return kind,
                    }
                }
            }
        }
    }

    /// Where a string that was just closed goes on: behind white space with at least one line end in it (`--` comments
    /// count as white space, `/* */` comments do not) and a quote.
    fn continuation(&self) -> Option<usize> {
        let mut at = self.at;
        let mut lines = 0;
        loop {
            match self.text.get(at)? {
                b'\n' | b'\r' => {
                    lines += 1;
                    at += 1;
                }
                b' ' | b'\t' | 0x0b | 0x0c => at += 1,
                b'-' if self.text.get(at + 1) == Some(&b'-') => {
                    at += self.text[at..].iter().position(|byte| matches!(byte, b'\n' | b'\r'))?;
                }
                b'\'' if lines > 0 => return Some(at + 1),
                _ => return None,
            }
        }
    }

    fn quoted_name(&mut self, kind: Kind) -> Kind {
        loop {
            self.skip_to(memchr(b'"', self.rest()));
            match (self.text.get(self.at), self.peek(1)) {
                (None, _) => return self.unterminated(),
                (Some(_), b'"') => self.at += 2,
                (Some(_), _) => return self.take(1, kind),
            }
        }
    }

    /// `$1`, `$$...$$`, `$tag$...$tag$`.
    fn dollar(&mut self) -> Kind {
        let tag_start = self.at;
        self.at += 1;
        if self.peek(0).is_ascii_digit() {
            self.skip_while(|byte| byte.is_ascii_digit());
            return self.without_junk(Kind::Parameter);
        }
        if is_name_start(self.peek(0)) {
            self.skip_while(|byte| is_name_part(byte) && byte != b'$');
        }
        if self.peek(0) != b'$' {
            self.at = tag_start + 1;
            return Kind::Error;
        }
        self.at += 1;
        let tag = &self.text[tag_start..self.at];
        match find(&self.text[self.at..], tag) {
            Some(offset) => self.take(offset + tag.len(), Kind::DollarString),
            None => self.unterminated(),
        }
    }

    /// Digits with what PostgreSQL 16 allows in them: `1_000`, `0x1F`, `0o17`, `0b1`. Older servers read some of these
    /// as a number and an alias, which calls nothing either.
    fn number(&mut self) -> Kind {
        match (self.peek(0), self.peek(1) | 0x20) {
            (b'0', b'x') => return self.radix(|byte| byte.is_ascii_hexdigit()),
            (b'0', b'o') => return self.radix(|byte| matches!(byte, b'0'..=b'7')),
            (b'0', b'b') => return self.radix(|byte| matches!(byte, b'0' | b'1')),
            _ => {}
        }
        self.digits(|byte| byte.is_ascii_digit());
        if self.peek(0) == b'.' && self.peek(1) == b'.' {
            return Kind::Number;
        }
        if self.peek(0) == b'.' {
            self.at += 1;
            self.fraction();
        }
        self.exponent()
    }

    fn radix(&mut self, is_digit: fn(u8) -> bool) -> Kind {
        self.at += 2;
        let start = self.at;
        self.digits(is_digit);
        let kind = if self.at == start { Kind::Error } else { Kind::Number };
        self.without_junk(kind)
    }

    /// Digits with single underscores between (and, for a radix, before) them.
    fn digits(&mut self, is_digit: fn(u8) -> bool) {
        loop {
            self.skip_while(is_digit);
            if self.peek(0) != b'_' || !is_digit(self.peek(1)) {
                return;
            }
            self.at += 1;
        }
    }

    fn fraction(&mut self) {
        if self.peek(0).is_ascii_digit() {
            self.digits(|byte| byte.is_ascii_digit());
        }
    }

    fn exponent(&mut self) -> Kind {
        if self.peek(0) | 0x20 == b'e' {
            let sign = usize::from(matches!(self.peek(1), b'+' | b'-'));
            if !self.peek(1 + sign).is_ascii_digit() {
                self.at += 1 + sign;
                return self.without_junk(Kind::Error);
            }
            self.at += 1 + sign;
            self.digits(|byte| byte.is_ascii_digit());
        }
        self.without_junk(Kind::Number)
    }

    /// A name that hangs on a number is refused since PostgreSQL 15; before, `LIMIT 1for update` was a locking clause.
    fn without_junk(&mut self, kind: Kind) -> Kind {
        if !is_name_start(self.peek(0)) {
            return kind;
        }
        self.skip_while(is_name_part);
        Kind::Error
    }

    fn dot(&mut self) -> Kind {
        match self.peek(1) {
            b'.' => self.take(2, Kind::DotDot),
            byte if byte.is_ascii_digit() => {
                self.at += 1;
                self.fraction();
                self.exponent()
            }
            _ => self.take(1, Kind::Dot),
        }
    }

    fn colon(&mut self) -> Kind {
        match self.peek(1) {
            b':' => self.take(2, Kind::Cast),
            b'=' => self.take(2, Kind::Assign),
            _ => self.take(1, Kind::Colon),
        }
    }

    /// A comment, or the longest run of operator characters less what PostgreSQL gives back: all from a `--` or `/*` on,
    /// and trailing `+` and `-` unless a character stands before them that no SQL operator has.
    fn operator(&mut self, first: u8) -> Kind {
        match (first, self.peek(1)) {
            (b'-', b'-') => {
                self.skip_to(memchr2(b'\n', b'\r', self.rest()));
                return Kind::Comment;
            }
            (b'/', b'*') => return self.block_comment(),
            _ => {}
        }
        let rest = &self.text[self.at..];
        let mut length = rest.iter().take_while(|byte| CLASS[**byte as usize] == Class::Operator).count();
        let run = &rest[..length];
        if let Some(comment) = run.windows(2).position(|pair| pair == b"--" || pair == b"/*") {
            length = comment;
        }
        while length > 1 && matches!(rest[length - 1], b'+' | b'-') {
            if rest[..length - 1].iter().any(|byte| b"~!@#^&|`?%".contains(byte)) {
                break;
            }
            length -= 1;
        }
        let kind = if &rest[..length] == b"=>" { Kind::Arrow } else { Kind::Operator };
        self.take(length, kind)
    }

    fn block_comment(&mut self) -> Kind {
        self.at += 2;
        let mut depth = 1;
        while depth > 0 {
            self.skip_to(memchr2(b'*', b'/', self.rest()));
            match (self.text.get(self.at), self.peek(1)) {
                (None, _) => return self.unterminated(),
                (Some(b'*'), b'/') => {
                    depth -= 1;
                    self.at += 2;
                }
                (Some(b'/'), b'*') => {
                    depth += 1;
                    self.at += 2;
                }
                _ => self.at += 1,
            }
        }
        Kind::Comment
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    #[inline]
    fn next(&mut self) -> Option<Token> {
        let start = self.at;
        let first = *self.text.get(start)?;
        let kind = self.scan(first);
        debug_assert!(self.at > start && self.at <= self.text.len(), "a token is never empty");
        Some(Token { kind, start, end: self.at })
    }
}

/// Whether a backslash hides the quote behind it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Escapes {
    None,
    Backslash,
}

fn is_name_start(byte: u8) -> bool {
    CLASS[byte as usize] == Class::NameStart
}

#[inline]
fn is_name_part(byte: u8) -> bool {
    NAME_PART[byte as usize]
}

/// Where `needle` (a dollar quote: it starts with `$`) first stands in `hay`.
fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + memchr(b'$', hay.get(from..)?)?;
        if hay[at..].starts_with(needle) {
            return Some(at);
        }
        from = at + 1;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Space,
    NameStart,
    Digit,
    Operator,
    Quote,
    DoubleQuote,
    Dollar,
    Dot,
    Colon,
    Single(Kind),
    Other,
}

/// Asked for nearly every byte of every text: a table of its own answers at once.
const NAME_PART: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(CLASS[byte], Class::NameStart | Class::Digit | Class::Dollar);
        byte += 1;
    }
    table
};

const IS_SPACE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(CLASS[byte], Class::Space);
        byte += 1;
    }
    table
};

/// What a byte of a name becomes; 0 for those that are none.
const FOLDED: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        if NAME_PART[byte] {
            table[byte] = (byte as u8).to_ascii_lowercase();
        }
        byte += 1;
    }
    table
};

const CLASS: [Class; 256] = {
    let mut table = [Class::Other; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => Class::Space,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => Class::NameStart,
            b'0'..=b'9' => Class::Digit,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'+' | b'-' | b'*' | b'/'
            | b'%' | b'<' | b'>' | b'=' => Class::Operator,
            b'\'' => Class::Quote,
            b'"' => Class::DoubleQuote,
            b'$' => Class::Dollar,
            b'.' => Class::Dot,
            b':' => Class::Colon,
            b'(' => Class::Single(Kind::LeftParen),
            b')' => Class::Single(Kind::RightParen),
            b'[' => Class::Single(Kind::LeftBracket),
            b']' => Class::Single(Kind::RightBracket),
            b',' => Class::Single(Kind::Comma),
            b';' => Class::Single(Kind::Semicolon),
            _ => Class::Other,
        };
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(text: &str) -> Vec<(Kind, &str)> {
        let tokens = tokens(text.as_bytes());
        tokens.map(|token| (token.kind, &text[token.start..token.end])).collect()
    }

    fn kinds(text: &str) -> Vec<Kind> {
        cut(text).into_iter().map(|(kind, _)| kind).collect()
    }

    fn pieces(text: &str) -> Vec<&str> {
        cut(text).into_iter().map(|(_, piece)| piece).collect()
    }

    #[test]
    fn words_and_quoted_names() {
        assert_eq!(pieces(r#"SELECT "a""b" , _x$1 é"#), ["SELECT", r#""a""b""#, ",", "_x$1", "é"]);
        assert_eq!(kinds(r#"U&"d\0061t" u&'x'"#), [Kind::UnicodeName, Kind::UnicodeString]);
        assert_eq!(kinds("u & 'x'"), [Kind::Word, Kind::Operator, Kind::String]);
    }

    #[test]
    fn strings_of_every_kind() {
        assert_eq!(
            kinds("'it''s' E'a\\'b' b'01' X'1f' n'x' $$a'b$$ $t$ $$ $t$"),
            [
                Kind::String,
                Kind::EscapeString,
                Kind::BitString,
                Kind::BitString,
                Kind::String,
                Kind::DollarString,
                Kind::DollarString,
            ]
        );
        assert_eq!(pieces(r"'\' x"), [r"'\'", "x"]);
        assert_eq!(pieces("a$b$ c$b$"), ["a$b$", "c$b$"]);
    }

    #[test]
    fn a_string_goes_on_in_the_next_line() {
        assert_eq!(pieces("'a'\n'b' x"), ["'a'\n'b'", "x"]);
        assert_eq!(pieces("'a' -- c\n  -- d\n 'b' x"), ["'a' -- c\n  -- d\n 'b'", "x"]);
        assert_eq!(pieces("'a' 'b'"), ["'a'", "'b'"]);
        assert_eq!(pieces("'a' /* \n */ 'b'"), ["'a'", "'b'"]);
        // The second line knows escapes as the first did.
        assert_eq!(pieces("E'a'\n'b\\'c' d"), ["E'a'\n'b\\'c'", "d"]);
        assert_eq!(kinds("E'a' 'b\\'c' d'"), [Kind::EscapeString, Kind::String, Kind::Word, Kind::String]);
    }

    #[test]
    fn comments() {
        assert_eq!(pieces("a /* x /* y */ z */ b -- c\nd"), ["a", "b", "d"]);
        assert_eq!(pieces("a --x\rb"), ["a", "b"], "a carriage return ends a comment");
        assert_eq!(kinds("a /* /* */"), [Kind::Word, Kind::Error]);
        assert_eq!(pieces("/*/ a */ b"), ["b"]);
    }

    #[test]
    fn operators_end_where_postgres_ends_them() {
        assert_eq!(pieces("1+-2"), ["1", "+", "-", "2"]);
        assert_eq!(pieces("a @- b"), ["a", "@-", "b"]);
        assert_eq!(pieces("a=-1"), ["a", "=", "-", "1"]);
        assert_eq!(pieces("a*/*c*/b"), ["a", "*", "b"]);
        assert_eq!(pieces("a+--c"), ["a", "+"]);
        assert_eq!(pieces("a<->b->>'c'::text"), ["a", "<->", "b", "->>", "'c'", "::", "text"]);
        assert_eq!(
            kinds("a=>1 b:=2 c:3"),
            [
                Kind::Word,
                Kind::Arrow,
                Kind::Number,
                Kind::Word,
                Kind::Assign,
                Kind::Number,
                Kind::Word,
                Kind::Colon,
                Kind::Number,
            ]
        );
    }

    #[test]
    fn numbers_and_parameters() {
        for number in ["1", "1.", "1.5", ".5", "1e10", "1.5E-3", "0x1F", "0b01", "0o17", "1_000", "0x_1"] {
            assert_eq!(cut(number), [(Kind::Number, number)]);
        }
        for junk in ["1x", "1_", "0x", "0b2", "1e", "1e+", "1for", "$1a", "1__0", "0xg"] {
            assert_eq!(kinds(junk)[0], Kind::Error, "{junk}");
        }
        assert_eq!(pieces("$1,$23"), ["$1", ",", "$23"]);
        assert_eq!(kinds("1..2"), [Kind::Number, Kind::DotDot, Kind::Number]);
    }

    #[test]
    fn what_does_not_end_is_an_error() {
        for text in ["'a", "E'a\\'", "\"a", "$$a", "$t$ $$", "/* a", "U&'a", "x'1", "E'\\"] {
            let last = cut(text).pop().map(|(kind, _)| kind);
            assert_eq!(last, Some(Kind::Error), "{text}");
        }
        assert_eq!(kinds("a \\ \0 b"), [Kind::Word, Kind::Error, Kind::Error, Kind::Word]);
    }

    proptest! {
        #[test]
        fn tokens_tile_any_bytes(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut at = 0;
            for token in Lexer::new(&text) {
                prop_assert_eq!(token.start, at);
                prop_assert!(token.end > at);
                at = token.end;
            }
            prop_assert_eq!(at, text.len());
        }

        #[test]
        fn tokens_tile_texts_of_quotes_and_comments(text in r#"[-'"$aeEuU&\\/*+;.:0-9x \n]{0,80}"#) {
            let end = Lexer::new(text.as_bytes()).last().map_or(0, |token| token.end);
            prop_assert_eq!(end, text.len());
        }
    }
}
