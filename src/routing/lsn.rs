//! Positions in the write-ahead log.

use std::fmt;

/// A position in WAL: a byte count since the cluster was made. Positions of different timelines do not compare by this
/// alone; absence is `Option`, never 0.
///
/// Source: <https://www.postgresql.org/docs/current/datatype-pg-lsn.html>
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Reads `16/B374D848`.
    pub fn parse(text: &str) -> Option<Lsn> {
        let (high, low) = text.split_once('/')?;
        let part = |digits: &str| match digits.len() {
            // The check keeps out the sign that from_str_radix would take.
            1..=8 if digits.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
                u32::from_str_radix(digits, 16).ok()
            }
            _ => None,
        };
        Some(Lsn(u64::from(part(high)?) << 32 | u64::from(part(low)?)))
    }

    /// How many bytes of WAL lie between an older position and this one.
    pub fn since(self, older: Lsn) -> u64 {
        self.0.saturating_sub(older.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_read_and_print_as_postgresql_does() {
        let lsn = Lsn::parse("16/B374D848").unwrap();
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert!(Lsn::parse("16/B374D847").unwrap() < lsn);
        for bad in ["", "1", "/", "1/", "+1/2", "123456789/0", "g/0"] {
            assert_eq!(Lsn::parse(bad), None, "{bad}");
        }
    }
}
