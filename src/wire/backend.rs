//! Messages from servers: views of those that are looked into, and writers of those that pglagoon sends to clients.

use super::{BackendTag, ClientKey, Reader, SqlState, message, startup::Version, string};
use std::borrow::Cow;

/// The state that ReadyForQuery reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    /// `I`
    Idle,
    /// `T`
    InTransaction,
    /// `E`: only ROLLBACK is accepted.
    Failed,
}

impl TransactionStatus {
    /// Reads a ReadyForQuery's body.
    pub fn new(body: &[u8]) -> Option<Self> {
        match body {
            b"I" => Some(TransactionStatus::Idle),
            b"T" => Some(TransactionStatus::InTransaction),
            b"E" => Some(TransactionStatus::Failed),
            _ => None,
        }
    }

    fn byte(self) -> u8 {
        match self {
            TransactionStatus::Idle => b'I',
            TransactionStatus::InTransaction => b'T',
            TransactionStatus::Failed => b'E',
        }
    }
}

/// Name and value of a ParameterStatus.
pub fn parameter_status(body: &[u8]) -> Option<(&str, &str)> {
    let mut reader = Reader::new(body);
    let (name, value) = (reader.string()?, reader.string()?);
    Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?))
}

/// The tag of a CommandComplete: `SELECT 1`, `SET`, `DISCARD ALL` ...
pub fn command_tag(body: &[u8]) -> Option<&[u8]> {
    Reader::new(body).string()
}

/// The channel of a NotificationResponse.
pub fn channel(body: &[u8]) -> Option<&str> {
    let mut reader = Reader::new(body);
    reader.int32()?;
    std::str::from_utf8(reader.string()?).ok()
}

/// The channel of a NotificationResponse, given whole.
pub fn notification_channel(message: &[u8]) -> Option<&str> {
    let mut reader = Reader::new(message.get(super::scan::HEADER..)?);
    reader.int32()?;
    std::str::from_utf8(reader.string()?).ok()
}

/// The columns of a DataRow in text form; `None` if it is malformed.
pub fn data_row(body: &[u8]) -> Option<Vec<Option<String>>> {
    let mut reader = Reader::new(body);
    let columns = reader.int16()? as u16;
    (0..columns).map(|_| column(&mut reader)).collect()
}

/// The outer `None`: the row is malformed.
fn column(reader: &mut Reader<'_>) -> Option<Option<String>> {
    match usize::try_from(reader.int32()?) {
        Ok(length) => Some(Some(String::from_utf8_lossy(reader.bytes(length)?).into_owned())),
        Err(_) => Some(None),
    }
}

/// The fields of an ErrorResponse or NoticeResponse. Every field is optional, whatever the manual says.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    body: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Looks at the body of an ErrorResponse or NoticeResponse.
    pub fn new(body: &'a [u8]) -> Self {
        Fields { body }
    }

    /// The text of one field, by its letter (`S`, `C`, `M`, `D`, `H`, `R` ...).
    pub fn text(&self, field: u8) -> Option<&'a [u8]> {
        let mut reader = Reader::new(self.body);
        loop {
            match reader.byte()? {
                0 => return None,
                letter => {
                    let value = reader.string()?;
                    if letter == field {
                        return Some(value);
                    }
                }
            }
        }
    }

    /// The SQLSTATE.
    pub fn code(&self) -> Option<SqlState> {
        self.text(b'C').and_then(SqlState::new)
    }

    /// The message, for logs: at most 200 characters.
    pub fn message(&self) -> String {
        String::from_utf8_lossy(self.text(b'M').unwrap_or_default()).chars().take(200).collect()
    }

    /// Whether it is the warning with which a server process ends when the whole server stops at once, or has crashed.
    /// Its severity is no more than WARNING, so that a client cannot tell it by that.
    ///
    /// Source: `quickdie` in PostgreSQL's `src/backend/tcop/postgres.c`.
    pub fn is_farewell(&self) -> bool {
        self.text(b'R') == Some(b"quickdie")
    }

    /// Whether the connection ends with it: severity FATAL or PANIC.
    pub fn is_fatal(&self) -> bool {
        matches!(self.text(b'V').or(self.text(b'S')), Some(b"FATAL" | b"PANIC"))
    }
}

/// How grave a message of ours is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed.
    Error,
    /// The connection ends.
    Fatal,
    /// For information.
    Notice,
    /// A warning.
    Warning,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
            Severity::Notice => "NOTICE",
            Severity::Warning => "WARNING",
        }
    }
}

/// A column of a result made here; its values are made as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: ColumnType,
}

/// The types of columns made here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// text
    Text,
    /// int4
    Int4,
    /// int8
    Int8,
    /// numeric
    Numeric,
}

impl ColumnType {
    fn oid_and_length(self) -> (u32, i16) {
        match self {
            ColumnType::Text => (25, -1),
            ColumnType::Int4 => (23, 4),
            ColumnType::Int8 => (20, 8),
            ColumnType::Numeric => (1700, -1),
        }
    }

    /// A value in the type's binary format. `None`: the text is none of the type's values.
    fn binary(self, text: &str) -> Option<Cow<'_, [u8]>> {
        let bytes = match self {
            ColumnType::Text => return Some(Cow::Borrowed(text.as_bytes())),
            ColumnType::Int4 => text.parse::<i32>().ok()?.to_be_bytes().to_vec(),
            ColumnType::Int8 => text.parse::<i64>().ok()?.to_be_bytes().to_vec(),
            ColumnType::Numeric => numeric(text)?,
        };
        Some(Cow::Owned(bytes))
    }
}

/// Decimal digits in one digit of a numeric's binary format.
const NUMERIC_DIGIT: usize = 4;

/// A decimal number (`-12.50`) as a numeric: Int16 counts of digits, weight of the first digit, sign and decimals to
/// show, then the digits to base 10000 without the zeros at both ends.
fn numeric(text: &str) -> Option<Vec<u8>> {
    let (negative, magnitude) = text.strip_prefix('-').map_or((false, text), |magnitude| (true, magnitude));
    let (whole, fraction) = magnitude.split_once('.').unwrap_or((magnitude, ""));
    let decimal = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !decimal(whole) || !decimal(fraction) {
        return None;
    }
    let before =
        whole.as_bytes().rchunks(NUMERIC_DIGIT).rev().map(|digits| numeric_digit(digits, digits.len()));
    let after = fraction.as_bytes().chunks(NUMERIC_DIGIT).map(|digits| numeric_digit(digits, NUMERIC_DIGIT));
    let digits: Vec<u16> = before.chain(after).collect();
    // Zero has no digits, no weight and no sign.
    let start = digits.iter().position(|&digit| digit != 0);
    let end = digits.iter().rposition(|&digit| digit != 0).map_or(0, |last| last + 1);
    let weight = start.map_or(0, |start| whole.len().div_ceil(NUMERIC_DIGIT) as i64 - 1 - start as i64);
    let sign: u16 = if negative && start.is_some() { 0x4000 } else { 0 };
    let digits = &digits[start.unwrap_or(end)..end];

    let mut out = Vec::with_capacity(8 + 2 * digits.len());
    out.extend_from_slice(&i16::try_from(digits.len()).ok()?.to_be_bytes());
    out.extend_from_slice(&i16::try_from(weight).ok()?.to_be_bytes());
    out.extend_from_slice(&sign.to_be_bytes());
    out.extend_from_slice(&i16::try_from(fraction.len()).ok()?.to_be_bytes());
    digits.iter().for_each(|digit| out.extend_from_slice(&digit.to_be_bytes()));
    Some(out)
}

/// The number of up to four decimal digits, with zeros behind them up to `width`.
fn numeric_digit(digits: &[u8], width: usize) -> u16 {
    let zeros = std::iter::repeat_n(&b'0', width - digits.len());
    digits.iter().chain(zeros).fold(0, |number, byte| number * 10 + u16::from(byte - b'0'))
}

/// How a column's values are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// As people read them.
    Text,
    /// As the type's send function writes them.
    Binary,
}

impl Format {
    /// Reads a format code.
    pub fn new(code: i16) -> Option<Self> {
        match code {
            0 => Some(Format::Text),
            1 => Some(Format::Binary),
            _ => None,
        }
    }

    fn code(self) -> i16 {
        match self {
            Format::Text => 0,
            Format::Binary => 1,
        }
    }

    /// A value for [`write_data_row`]. `None`: it cannot be sent so, because it is out of its type's range.
    pub fn encode(self, kind: ColumnType, text: &str) -> Option<Cow<'_, [u8]>> {
        match self {
            Format::Text => Some(Cow::Borrowed(text.as_bytes())),
            Format::Binary => kind.binary(text),
        }
    }
}

/// The formats of a result's columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Formats {
    /// One for all of them.
    All(Format),
    /// One for each.
    Each(Box<[Format]>),
}

impl Formats {
    /// Text for all, as the simple query protocol has it.
    pub const TEXT: Formats = Formats::All(Format::Text);

    /// Columns with their formats.
    pub fn of<'a>(&self, columns: &'a [Column]) -> impl Iterator<Item = (&'a Column, Format)> {
        columns.iter().enumerate().map(|(place, column)| (column, self.at(place)))
    }

    fn at(&self, place: usize) -> Format {
        match self {
            Formats::All(format) => *format,
            Formats::Each(formats) => formats.get(place).copied().unwrap_or(Format::Text),
        }
    }
}

/// Appends an AuthenticationOk.
pub fn write_authentication_ok(out: &mut Vec<u8>) {
    write_authentication(out, 0, &[]);
}

/// Appends an Authentication request: its code and what follows it.
pub fn write_authentication(out: &mut Vec<u8>, code: u32, data: &[u8]) {
    message(out, BackendTag::AUTHENTICATION.0, |out| {
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// Appends a NegotiateProtocolVersion.
pub fn write_negotiate_version(out: &mut Vec<u8>, version: Version, unknown: &[&str]) {
    message(out, BackendTag::NEGOTIATE_PROTOCOL_VERSION.0, |out| {
        out.extend_from_slice(&(u32::from(version.major) << 16 | u32::from(version.minor)).to_be_bytes());
        out.extend_from_slice(&(unknown.len() as u32).to_be_bytes());
        unknown.iter().for_each(|option| string(out, option.as_bytes()));
    });
}

/// Appends a ParameterStatus.
pub fn write_parameter_status(out: &mut Vec<u8>, name: &str, value: &str) {
    message(out, BackendTag::PARAMETER_STATUS.0, |out| {
        string(out, name.as_bytes());
        string(out, value.as_bytes());
    });
}

/// Appends a BackendKeyData.
pub fn write_key_data(out: &mut Vec<u8>, key: &ClientKey) {
    message(out, BackendTag::BACKEND_KEY_DATA.0, |out| {
        out.extend_from_slice(&key.pid.to_be_bytes());
        out.extend_from_slice(key.secret());
    });
}

/// Appends a ReadyForQuery.
pub fn write_ready(out: &mut Vec<u8>, status: TransactionStatus) {
    message(out, BackendTag::READY_FOR_QUERY.0, |out| out.push(status.byte()));
}

/// Appends an ErrorResponse or, for notices and warnings, a NoticeResponse. Empty detail and hint are left out.
pub fn write_report(
    out: &mut Vec<u8>,
    severity: Severity,
    code: SqlState,
    text: &str,
    detail: &str,
    hint: &str,
) {
    let tag = match severity {
        Severity::Error | Severity::Fatal => BackendTag::ERROR_RESPONSE,
        Severity::Notice | Severity::Warning => BackendTag::NOTICE_RESPONSE,
    };
    message(out, tag.0, |out| {
        let fields = [
            (b'S', severity.as_str()),
            (b'V', severity.as_str()),
            (b'C', code.as_str()),
            (b'M', text),
            (b'D', detail),
            (b'H', hint),
        ];
        for (letter, value) in fields.into_iter().filter(|(_, value)| !value.is_empty()) {
            out.push(letter);
            string(out, value.as_bytes());
        }
        out.push(0);
    });
}

/// Appends a NotificationResponse with this body.
pub fn write_notification(out: &mut Vec<u8>, body: &[u8]) {
    message(out, BackendTag::NOTIFICATION_RESPONSE.0, |out| out.extend_from_slice(body));
}

/// Appends a CommandComplete.
pub fn write_command_complete(out: &mut Vec<u8>, tag: &str) {
    message(out, BackendTag::COMMAND_COMPLETE.0, |out| string(out, tag.as_bytes()));
}

/// Appends a message without a body: ParseComplete, BindComplete, CloseComplete, NoData, EmptyQueryResponse.
pub fn write_bare(out: &mut Vec<u8>, tag: BackendTag) {
    message(out, tag.0, |_| {});
}

/// Appends a ParameterDescription for no parameters.
pub fn write_no_parameters(out: &mut Vec<u8>) {
    message(out, BackendTag::PARAMETER_DESCRIPTION.0, |out| out.extend_from_slice(&0u16.to_be_bytes()));
}

/// Appends a RowDescription.
pub fn write_row_description(out: &mut Vec<u8>, columns: &[Column], formats: &Formats) {
    message(out, BackendTag::ROW_DESCRIPTION.0, |out| {
        out.extend_from_slice(&(columns.len() as u16).to_be_bytes());
        for (column, format) in formats.of(columns) {
            let (oid, length) = column.kind.oid_and_length();
            string(out, column.name.as_bytes());
            out.extend_from_slice(&0u32.to_be_bytes());
            out.extend_from_slice(&0u16.to_be_bytes());
            out.extend_from_slice(&oid.to_be_bytes());
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&(-1i32).to_be_bytes());
            out.extend_from_slice(&format.code().to_be_bytes());
        }
    });
}

/// Appends a DataRow of values that are in their formats already: plain text, or what [`Format::encode`] answered.
pub fn write_data_row(out: &mut Vec<u8>, values: impl ExactSizeIterator<Item = Option<impl AsRef<[u8]>>>) {
    message(out, BackendTag::DATA_ROW.0, |out| {
        out.extend_from_slice(&(values.len() as u16).to_be_bytes());
        for value in values {
            match value {
                None => out.extend_from_slice(&(-1i32).to_be_bytes()),
                Some(value) => {
                    out.extend_from_slice(&(value.as_ref().len() as u32).to_be_bytes());
                    out.extend_from_slice(value.as_ref());
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::scan::HEADER;

    #[test]
    fn every_field_of_an_error_is_optional() {
        assert_eq!(Fields::new(b"\0").code(), None);
        assert_eq!(Fields::new(b"").code(), None);
        assert_eq!(Fields::new(b"SERROR").code(), None);
        let mut out = Vec::new();
        write_report(&mut out, Severity::Fatal, SqlState::ADMIN_SHUTDOWN, "bye", "", "come again");
        let fields = Fields::new(&out[HEADER..]);
        assert_eq!(fields.code(), Some(SqlState::ADMIN_SHUTDOWN));
        assert_eq!((fields.text(b'H'), fields.text(b'D')), (Some(&b"come again"[..]), None));
        assert!(fields.is_fatal());
    }

    #[test]
    fn a_nul_inside_a_text_cannot_break_the_framing() {
        let mut out = Vec::new();
        write_parameter_status(&mut out, "application_name", "a\0b");
        assert_eq!(parameter_status(&out[HEADER..]), Some(("application_name", "a")));
    }

    #[test]
    fn ready_for_query_round_trips() {
        for status in [TransactionStatus::Idle, TransactionStatus::InTransaction, TransactionStatus::Failed] {
            let mut out = Vec::new();
            write_ready(&mut out, status);
            assert_eq!(TransactionStatus::new(&out[HEADER..]), Some(status));
        }
        assert_eq!(TransactionStatus::new(b"X"), None);
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn binary(kind: ColumnType, text: &str) -> Option<String> {
        Format::Binary.encode(kind, text).map(|bytes| hex(&bytes))
    }

    /// The expected bytes are what PostgreSQL 15's numeric_send gives for these texts.
    #[test]
    fn numerics_in_binary() {
        let cases = [
            ("0", "0000000000000000"),
            ("-0", "0000000000000000"),
            ("0.00", "0000000000000002"),
            ("1", "00010000000000000001"),
            ("-1", "00010000400000000001"),
            ("9999", "0001000000000000270f"),
            ("10000", "00010001000000000001"),
            ("-10000", "00010001400000000001"),
            ("12345678", "000200010000000004d2162e"),
            ("100000000", "00010002000000000001"),
            ("18446744073709551615", "000500040000000007341a5802e103bb064f"),
            ("0.5", "0001ffff000000011388"),
            ("1.0625", "000200000000000400010271"),
            ("-12.50", "0002000040000002000c1388"),
            ("0.00001", "0001fffe0000000503e8"),
            ("10000.00010", "0003000100000005000100000001"),
            ("007", "00010000000000000007"),
            ("0000012345", "000200010000000000010929"),
        ];
        for (text, bytes) in cases {
            assert_eq!(binary(ColumnType::Numeric, text).as_deref(), Some(bytes), "{text}");
        }
        let long = "9".repeat(200_000);
        for text in ["", "-", ".", ".5", "+1", "--1", "1e3", "1.2.3", "1 ", "NaN", "\u{661}", &long] {
            assert_eq!(binary(ColumnType::Numeric, text), None, "{text:.20}");
        }
    }

    /// Reads a numeric as the manual of its format says: the sum of digit * 10000 ^ place.
    fn millionths(bytes: &[u8]) -> i128 {
        let mut reader = Reader::new(bytes);
        let mut next = || reader.int16().unwrap();
        let (count, weight, sign, _) = (next(), next(), next(), next());
        let sum: i128 = (0..count)
            .map(|place| {
                let digit = i128::from(next());
                assert!((0..10_000).contains(&digit));
                // Eight decimals hold the two digits that six decimals can need.
                digit * 10_i128.pow(u32::try_from(4 * (i32::from(weight) - i32::from(place)) + 8).unwrap())
            })
            .sum();
        assert_eq!(sum % 100, 0);
        sum / 100 * if sign == 0 { 1 } else { -1 }
    }

    proptest::proptest! {
        #[test]
        fn a_numeric_keeps_its_value(whole: u64, decimals in 0..1_000_000_u32, negative: bool) {
            let text = format!("{}{whole}.{decimals:06}", if negative { "-" } else { "" });
            let value = (i128::from(whole) * 1_000_000 + i128::from(decimals)) * if negative { -1 } else { 1 };
            let bytes = Format::Binary.encode(ColumnType::Numeric, &text).unwrap();
            proptest::prop_assert_eq!(millionths(&bytes), value);
            proptest::prop_assert_eq!(&bytes[6..8], &[0, 6]);
        }

        #[test]
        fn no_text_makes_it_panic(text: String, decimal in "-?[0-9]{0,9}[.]?[0-9]{0,9}") {
            for kind in [ColumnType::Text, ColumnType::Int4, ColumnType::Int8, ColumnType::Numeric] {
                let _ = (Format::Binary.encode(kind, &text), Format::Binary.encode(kind, &decimal));
            }
        }
    }

    #[test]
    fn integers_and_texts_in_binary() {
        let cases = [
            (ColumnType::Int4, "-2", Some("fffffffe")),
            (ColumnType::Int4, "2147483647", Some("7fffffff")),
            (ColumnType::Int4, "2147483648", None),
            (ColumnType::Int4, "", None),
            (ColumnType::Int8, "2147483648", Some("0000000080000000")),
            (ColumnType::Int8, "1.0", None),
            (ColumnType::Text, "a1", Some("6131")),
            (ColumnType::Text, "", Some("")),
        ];
        for (kind, text, bytes) in cases {
            assert_eq!(binary(kind, text).as_deref(), bytes, "{kind:?} {text}");
        }
    }

    #[test]
    fn a_row_description_has_each_columns_format() {
        let columns = [("a", ColumnType::Text), ("b", ColumnType::Int8), ("c", ColumnType::Numeric)]
            .map(|(name, kind)| Column { name, kind });
        let codes = |formats| {
            let mut out = Vec::new();
            write_row_description(&mut out, &columns, &formats);
            let mut reader = Reader::new(&out[HEADER..]);
            let count = reader.int16().unwrap();
            let mut code = |_| {
                reader.string().unwrap();
                reader.bytes(16).unwrap();
                reader.int16().unwrap()
            };
            (0..count).map(&mut code).collect::<Vec<_>>()
        };
        assert_eq!(codes(Formats::TEXT), [0, 0, 0]);
        assert_eq!(codes(Formats::All(Format::Binary)), [1, 1, 1]);
        assert_eq!(codes(Formats::Each([Format::Text, Format::Binary, Format::Text].into())), [0, 1, 0]);
    }
}
