//! The text with its literals left out, hashed in the same pass that lexes it.
//!
//! Two texts of one fingerprint are the same to the classifier: same tokens, same names, same hints; only the values of
//! strings, numbers and parameters, the white space and other comments differ. The hash is keyed, so that nobody who
//! does not hold the key can make a write that has the fingerprint of a read.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

use super::comment::names_key;
use super::lexer::{Kind, Lexer, Token};

/// The hash of a text without its literals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub u128);

/// The fingerprint of `text` under `key`.
pub fn fingerprint(text: &[u8], key: &[u8; 16]) -> Fingerprint {
    let mut canonical = Canonical::new(key);
    let mut after_uescape = false;
    let mut lexer = Lexer::new(text);
    loop {
        // Words, quoted names, numbers and single characters, with space between them, are most of any text.
        lexer.skip_space();
        if let Some(is_uescape) = canonical.take_word(&mut lexer) {
            after_uescape = is_uescape;
            continue;
        }
        if let Some(kind) = lexer.take_single() {
            canonical.byte(kind as u8);
            after_uescape = false;
            continue;
        }
        if canonical.take_quoted_name(&mut lexer) {
            after_uescape = false;
            continue;
        }
        if lexer.skip_digits() {
            canonical.byte(Kind::Number as u8);
            after_uescape = false;
            continue;
        }
        let Some(token) = lexer.next() else { return canonical.finish() };
        match token.kind {
            Kind::Comment => {
                if let Some(hint) = hint(token.bytes(text)) {
                    canonical.byte(hint as u8);
                } else if names_key(token.bytes(text)) {
                    canonical.byte(KEYED);
                }
                continue;
            }
            // The character behind UESCAPE decides how the name before it is spelt.
            kind if kind.is_string() && after_uescape => canonical.named(kind as u8, token.bytes(text)),
            _ => canonical.token(token, text),
        }
        after_uescape = is_uescape(&token, text);
    }
}

fn is_uescape(token: &Token, text: &[u8]) -> bool {
    token.kind == Kind::Word && token.bytes(text).eq_ignore_ascii_case(UESCAPE)
}

const UESCAPE: &[u8] = b"uescape";

/// Stands for a comment that names a causality key, whichever that is.
const KEYED: u8 = 0x82;

/// A wish in a comment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// `/* pglagoon: primary */`
    Primary = 0x80,
    /// `/* pglagoon: replica */`
    Replica = 0x81,
}

impl Hint {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Hint::Primary => "primary",
            Hint::Replica => "replica",
        }
    }
}

/// The hint that a comment is, if it is one.
pub fn hint(comment: &[u8]) -> Option<Hint> {
    let inner = comment.strip_prefix(b"/*")?.strip_suffix(b"*/")?.trim_ascii();
    let wish =
        strip_prefix_ignore_case(inner, b"pglagoon")?.trim_ascii_start().strip_prefix(b":")?.trim_ascii();
    match wish {
        word if word.eq_ignore_ascii_case(b"primary") => Some(Hint::Primary),
        word if word.eq_ignore_ascii_case(b"replica") => Some(Hint::Replica),
        _ => None,
    }
}

/// The comments of a text that address us and are no hint: misspelt, or of the form that is not looked at. For people; nothing
/// goes by it.
pub fn unknown_hints(text: &[u8]) -> Vec<String> {
    let comments = Lexer::new(text).filter(|token| token.kind == Kind::Comment);
    let unknown = comments.map(|token| token.bytes(text)).filter(|comment| addresses_us(comment));
    let unknown = unknown.filter(|comment| hint(comment).is_none());
    unknown.map(|comment| String::from_utf8_lossy(comment).trim().chars().take(SHOWN).collect()).collect()
}

/// How much of a comment people are shown, in characters.
const SHOWN: usize = 100;

fn addresses_us(comment: &[u8]) -> bool {
    let inner = comment.strip_prefix(b"/*").or_else(|| comment.strip_prefix(b"--")).unwrap_or_default();
    let rest = strip_prefix_ignore_case(inner.trim_ascii(), b"pglagoon");
    rest.is_some_and(|rest| !rest.first().is_some_and(|&byte| byte.is_ascii_alphanumeric() || byte == b'_'))
}

fn strip_prefix_ignore_case<'a>(bytes: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// The canonical form of a text on its way into the hash. Every name stands with its kind and length before it, so no
/// two different runs of tokens have the same form.
struct Canonical {
    hasher: SipHasher13,
    // Small writes cost SipHash more than the bytes in them.
    buffer: [u8; BUFFER],
    filled: usize,
}

const BUFFER: usize = 256;

impl Canonical {
    fn new(key: &[u8; 16]) -> Canonical {
        Canonical { hasher: SipHasher13::new_with_key(key), buffer: [0; BUFFER], filled: 0 }
    }

    /// Takes the lexer's next token if it is a word that fits; answers whether it is UESCAPE. The outcome is that of
    /// [`token`](Self::token).
    #[inline]
    fn take_word(&mut self, lexer: &mut Lexer<'_>) -> Option<bool> {
        let start = self.filled + 2;
        let end = BUFFER.min(start + usize::from(u8::MAX) - 1);
        let length = lexer.fold_word(self.buffer.get_mut(start..end)?)?;
        self.buffer[self.filled] = Kind::Word as u8;
        self.buffer[self.filled + 1] = length as u8;
        self.filled = start + length;
        Some(length == UESCAPE.len() && &self.buffer[start..self.filled] == UESCAPE)
    }

    /// The same for a quoted name; answers whether it was one.
    #[inline]
    fn take_quoted_name(&mut self, lexer: &mut Lexer<'_>) -> bool {
        let start = self.filled + 2;
        let end = BUFFER.min(start + usize::from(u8::MAX) - 1);
        let place = self.buffer.get_mut(start..end);
        let Some(length) = place.and_then(|place| lexer.copy_quoted_name(place)) else { return false };
        self.buffer[self.filled] = Kind::QuotedName as u8;
        self.buffer[self.filled + 1] = length as u8;
        self.filled = start + length;
        true
    }

    #[inline]
    fn token(&mut self, token: Token, text: &[u8]) {
        match token.kind {
            Kind::Word => self.folded(token.bytes(text)),
            Kind::QuotedName | Kind::UnicodeName | Kind::Operator | Kind::Error => {
                self.named(token.kind as u8, token.bytes(text));
            }
            kind if kind.is_string() => self.byte(Kind::String as u8),
            kind => self.byte(kind as u8),
        }
    }

    #[inline]
    fn byte(&mut self, byte: u8) {
        if self.filled == BUFFER {
            self.flush();
        }
        self.buffer[self.filled] = byte;
        self.filled += 1;
    }

    fn head(&mut self, kind: u8, length: usize) {
        self.byte(kind);
        // Lengths up to 254 in one byte; 255 and the whole length otherwise.
        match u8::try_from(length) {
            Ok(short) if short < u8::MAX => self.byte(short),
            _ => {
                self.byte(u8::MAX);
                (length as u64).to_le_bytes().into_iter().for_each(|byte| self.byte(byte));
            }
        }
    }

    /// A word, as PostgreSQL folds it: ASCII only, which is right for every multi-byte encoding, and in the others only
    /// keeps apart what could be together.
    #[inline]
    fn folded(&mut self, word: &[u8]) {
        self.head(Kind::Word as u8, word.len());
        if word.len() > BUFFER - self.filled {
            word.iter().for_each(|byte| self.byte(byte.to_ascii_lowercase()));
            return;
        }
        for (place, byte) in self.buffer[self.filled..].iter_mut().zip(word) {
            *place = byte.to_ascii_lowercase();
        }
        self.filled += word.len();
    }

    fn named(&mut self, kind: u8, bytes: &[u8]) {
        self.head(kind, bytes.len());
        match self.buffer[self.filled..].get_mut(..bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.filled += bytes.len();
            }
            None => bytes.iter().for_each(|byte| self.byte(*byte)),
        }
    }

    #[cold]
    fn flush(&mut self) {
        self.hasher.write(&self.buffer[..self.filled]);
        self.filled = 0;
    }

    fn finish(mut self) -> Fingerprint {
        self.flush();
        Fingerprint(self.hasher.finish128().as_u128())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 16] = *b"0123456789abcdef";

    fn of(text: &str) -> Fingerprint {
        fingerprint(text.as_bytes(), &KEY)
    }

    #[test]
    fn literals_space_and_comments_do_not_count() {
        let base = of("SELECT * FROM t WHERE a = 1 AND b = 'x'");
        for same in [
            "select  *\nfrom T where A=2 and B='it''s'",
            "SELECT * FROM t /* c */ WHERE a = 0x10 -- d\n AND b = E'\\''",
            "SELECT * FROM t WHERE a = 1.5e3 AND b = $$x$$",
        ] {
            assert_eq!(of(same), base, "{same}");
        }
        for other in [
            "SELECT * FROM \"t\" WHERE a = 1 AND b = 'x'",
            "SELECT * FROM t WHERE a = $1 AND b = 'x'",
            "SELECT * FROM t WHERE a = 1 AND b = 1",
            "SELECT * FROM t WHERE a = 1 AND b = B'1'",
            "SELECT * FROM t WHERE a = 1 OR b = 'x'",
            "SELECT * FROM t WHERE a <= 1 AND b = 'x'",
            "/* pglagoon: primary */ SELECT * FROM t WHERE a = 1 AND b = 'x'",
            "/*PGLAGOON:replica*/ SELECT * FROM t WHERE a = 1 AND b = 'x'",
            "/*causality_key='a'*/ SELECT * FROM t WHERE a = 1 AND b = 'x'",
        ] {
            assert_ne!(of(other), base, "{other}");
        }
    }

    #[test]
    fn names_do_not_run_into_each_other() {
        assert_eq!(of("a /*causality_key='1'*/"), of("a /*causality_key='2'*/"));
        assert_ne!(of("a b"), of("ab"));
        assert_ne!(of("a . b"), of("a b"));
        assert_ne!(of(r#""a" "b""#), of(r#""a"" ""b""#));
        assert_ne!(of("a <= b"), of("a < = b"));
        assert_ne!(of("select"), of("\"select\""));
        assert_ne!(of(r#"U&"!0061" UESCAPE '!'"#), of(r#"U&"!0061" UESCAPE '?'"#));
    }

    #[test]
    fn another_key_gives_another_fingerprint() {
        assert_ne!(fingerprint(b"SELECT 1", &KEY), fingerprint(b"SELECT 1", &[7; 16]));
    }

    #[test]
    fn what_was_meant_for_a_hint_is_found() {
        let text = b"/* pglagoon: primry */ SELECT 1 -- PGLAGOON: replica\n /* pglagoon: primary */ /* pglagoons */ + \
                     '/* pglagoon: x */'";
        assert_eq!(unknown_hints(text), ["/* pglagoon: primry */", "-- PGLAGOON: replica"]);
    }

    #[test]
    fn hints_are_comments_of_one_form() {
        assert_eq!(hint(b"/* pglagoon: primary */"), Some(Hint::Primary));
        assert_eq!(hint(b"/*PGLAGOON :REPLICA*/"), Some(Hint::Replica));
        for other in
            [&b"-- pglagoon: primary"[..], b"/* pglagoon: master */", b"/* x pglagoon: primary */", b"/**/"]
        {
            assert_eq!(hint(other), None);
        }
    }

    /// By tokens alone, without short cuts.
    fn by_tokens(text: &[u8]) -> Fingerprint {
        let mut canonical = Canonical::new(&KEY);
        let mut after_uescape = false;
        for token in Lexer::new(text).filter(|token| token.kind != Kind::Space) {
            match token.kind {
                Kind::Comment => {
                    if let Some(hint) = hint(token.bytes(text)) {
                        canonical.byte(hint as u8);
                    } else if names_key(token.bytes(text)) {
                        canonical.byte(KEYED);
                    }
                    continue;
                }
                kind if kind.is_string() && after_uescape => {
                    canonical.named(kind as u8, token.bytes(text));
                }
                _ => canonical.token(token, text),
            }
            after_uescape = is_uescape(&token, text);
        }
        canonical.finish()
    }

    proptest! {
        #[test]
        fn short_cuts_change_nothing(
            text in "([a-zA-Z_]{1,12}|[eEbBxXnNuU]?&?['\"][a-z]{0,3}['\"]|[0-9]{1,4}[._eExX]?|[ \n]{1,2}|--|/\\*|\\*/|[(),;.:=<>$+-]|uescape|é){0,40}"
        ) {
            prop_assert_eq!(fingerprint(text.as_bytes(), &KEY), by_tokens(text.as_bytes()));
        }

        #[test]
        fn values_do_not_count(number in 0u32.., string in "[^'\0]{0,20}", space in "[ \t\n]{1,5}") {
            let text = format!("SELECT{space}a FROM t WHERE a ={space}{number} AND b ='{string}' ");
            prop_assert_eq!(of(&text), of("select a from t where a = 1 and b = ''"));
        }

        #[test]
        fn long_names_count_whole(head in "[a-z]{1,600}", tail in "[a-z]") {
            prop_assert_ne!(of(&head), of(&format!("{head}{tail}")));
        }

        #[test]
        fn any_bytes_have_one(text in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert_eq!(fingerprint(&text, &KEY), fingerprint(&text, &KEY));
        }
    }
}
