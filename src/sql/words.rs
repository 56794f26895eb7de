//! What is known of single words without any catalog: how PostgreSQL reserves them, how names are spelt, and which
//! built-in functions write, lock or leave something behind.

use super::lexer::{Kind, Token};
use super::{Catalog, Effects};

/// How far PostgreSQL reserves a word, after appendix C of its manual. Words that only some versions reserve stand with
/// the looser versions: what such a word means is then asked of the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Never a name, but behind AS or a dot.
    Reserved,
    /// Reserved, but can name a function or a type.
    FunctionOrType,
    /// Can name a column or a table, but no function or type.
    Column,
    /// A name like any other.
    Plain,
}

/// The role of a folded word.
pub fn role(word: &[u8]) -> Role {
    let in_list = |list: &[&str]| list.binary_search_by(|entry| entry.as_bytes().cmp(word)).is_ok();
    if in_list(RESERVED) {
        Role::Reserved
    } else if in_list(FUNCTION_OR_TYPE) {
        Role::FunctionOrType
    } else if in_list(COLUMN) {
        Role::Column
    } else {
        Role::Plain
    }
}

/// The longest name that PostgreSQL keeps whole (`NAMEDATALEN - 1`); it cuts longer ones, so that what they name is not
/// what they say.
pub const NAME_BYTES: usize = 63;

/// The name that a token is, as PostgreSQL folds it; `None` if that cannot be said.
pub fn name(token: Token, text: &[u8]) -> Option<String> {
    let bytes = token.bytes(text);
    let name = match token.kind {
        Kind::Word => std::str::from_utf8(bytes).ok()?.to_ascii_lowercase(),
        Kind::QuotedName => unquoted(&bytes[1..bytes.len() - 1])?,
        Kind::UnicodeName => unescaped(&unquoted(&bytes[3..bytes.len() - 1])?, '\\')?,
        _ => return None,
    };
    (name.len() <= NAME_BYTES).then_some(name)
}

/// The name that `U&"..." UESCAPE 'x'` is.
pub fn name_with_escape(token: Token, escape: Token, text: &[u8]) -> Option<String> {
    let bytes = token.bytes(text);
    let mut escape = std::str::from_utf8(escape.bytes(text)).ok()?.trim_matches('\'').chars();
    let character = escape.next()?;
    if token.kind != Kind::UnicodeName || escape.next().is_some() {
        return None;
    }
    unescaped(&unquoted(&bytes[3..bytes.len() - 1])?, character)
}

fn unquoted(inner: &[u8]) -> Option<String> {
    let inner = std::str::from_utf8(inner).ok()?;
    // Looking for two quotes takes more to set up than most names take altogether.
    Some(if inner.contains('"') { inner.replace("\"\"", "\"") } else { inner.to_owned() })
}

/// `d\0061t\+000061` -> `data`.
fn unescaped(name: &str, escape: char) -> Option<String> {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find(escape) {
        out.push_str(&rest[..at]);
        rest = &rest[at + escape.len_utf8()..];
        if let Some(behind) = rest.strip_prefix(escape) {
            out.push(escape);
            rest = behind;
            continue;
        }
        let (digits, behind) = match rest.strip_prefix('+') {
            Some(long) => long.split_at_checked(6)?,
            None => rest.split_at_checked(4)?,
        };
        out.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
        rest = behind;
    }
    out.push_str(rest);
    Some(out)
}

/// Whether a word before parentheses can be a function's name.
pub fn may_be_called(name: &str) -> bool {
    matches!(role(name.as_bytes()), Role::Plain | Role::FunctionOrType)
}

/// What a call of `name` leaves behind by what `catalog` says. Words that the grammar puts before parentheses are taken for
/// calls only where a function of that name is known.
pub fn leaves(name: &str, catalog: &dyn Catalog) -> Effects {
    const GRAMMAR: [&str; 16] = [
        "by",
        "conflict",
        "cube",
        "exclude",
        "filter",
        "include",
        "inherits",
        "key",
        "materialized",
        "of",
        "over",
        "partition",
        "rollup",
        "set",
        "sets",
        "within",
    ];
    match catalog.leaves(name) {
        effects if GRAMMAR.contains(&name) => effects.without(Effects::UNKNOWN),
        effects => effects,
    }
}

/// What a built-in function (or one of a well-known extension) does that no replica may be asked for: `None` for all
/// other names, else what it leaves behind in the session.
pub fn writing_function(name: &str) -> Option<Effects> {
    let effects = match name {
        "pg_advisory_lock"
        | "pg_advisory_lock_shared"
        | "pg_try_advisory_lock"
        | "pg_try_advisory_lock_shared" => Effects::ADVISORY_LOCK,
        "pg_advisory_unlock" | "pg_advisory_unlock_shared" | "pg_advisory_unlock_all" => Effects::ENDS_STATE,
        "nextval" | "setval" => Effects::NONE,
        "currval" | "lastval" => Effects::SEQUENCE,
        "set_config" => Effects::SET_CONFIG,
        "setseed"
        | "dblink_connect"
        | "dblink_connect_u"
        | "pg_backup_start"
        | "pg_start_backup"
        | "pg_create_logical_replication_slot"
        | "pg_create_physical_replication_slot"
        | "pg_copy_logical_replication_slot"
        | "pg_copy_physical_replication_slot"
        | "pg_replication_origin_session_setup" => Effects::BACKEND_STATE,
        _ if WRITING.binary_search(&name).is_ok() => Effects::NONE,
        _ => return None,
    };
    Some(effects)
}

#[rustfmt::skip]
const RESERVED: &[&str] = &[
    "all", "analyse", "analyze", "and", "any", "array", "as", "asc", "asymmetric", "both", "case", "cast", "check",
    "collate", "column", "constraint", "create", "current_catalog", "current_date", "current_role", "current_time",
    "current_timestamp", "current_user", "default", "deferrable", "desc", "distinct", "do", "else", "end", "except",
    "false", "fetch", "for", "foreign", "from", "grant", "group", "having", "in", "initially", "intersect", "into",
    "lateral", "leading", "limit", "localtime", "localtimestamp", "not", "null", "offset", "on", "only", "or", "order",
    "placing", "primary", "references", "returning", "select", "session_user", "some", "symmetric", "table", "then",
    "to", "trailing", "true", "union", "unique", "user", "using", "variadic", "when", "where", "window", "with",
];

#[rustfmt::skip]
const FUNCTION_OR_TYPE: &[&str] = &[
    "authorization", "binary", "collation", "concurrently", "cross", "current_schema", "freeze", "full", "ilike",
    "inner", "is", "isnull", "join", "left", "like", "natural", "notnull", "outer", "overlaps", "right", "similar",
    "tablesample", "verbose",
];

#[rustfmt::skip]
const COLUMN: &[&str] = &[
    "between", "bigint", "bit", "boolean", "char", "character", "coalesce", "dec", "decimal", "exists", "extract",
    "float", "greatest", "grouping", "inout", "int", "integer", "interval", "least", "national", "nchar", "none",
    "normalize", "nullif", "numeric", "out", "overlay", "position", "precision", "real", "row", "setof", "smallint",
    "substring", "time", "timestamp", "treat", "trim", "values", "varchar", "xmlattributes", "xmlconcat", "xmlelement",
    "xmlexists", "xmlforest", "xmlnamespaces", "xmlparse", "xmlpi", "xmlroot", "xmlserialize", "xmltable",
];

/// Functions that write, lock, or change the state of the server, and leave nothing behind in the session.
#[rustfmt::skip]
const WRITING: &[&str] = &[
    "brin_desummarize_range", "brin_summarize_new_values", "brin_summarize_range", "dblink_exec",
    "gin_clean_pending_list", "lo_creat", "lo_create", "lo_from_bytea", "lo_import", "lo_put", "lo_truncate",
    "lo_truncate64", "lo_unlink", "lowrite", "pg_advisory_xact_lock", "pg_advisory_xact_lock_shared", "pg_backup_stop",
    "pg_cancel_backend", "pg_clear_attribute_stats", "pg_clear_relation_stats", "pg_create_restore_point",
    "pg_current_xact_id", "pg_drop_replication_slot", "pg_import_system_collations", "pg_log_backend_memory_contexts",
    "pg_log_standby_snapshot", "pg_logical_emit_message", "pg_logical_slot_get_binary_changes",
    "pg_logical_slot_get_changes", "pg_nextoid", "pg_notify", "pg_promote", "pg_reload_conf",
    "pg_replication_origin_advance", "pg_replication_origin_create", "pg_replication_origin_drop",
    "pg_replication_origin_session_reset", "pg_replication_origin_xact_reset", "pg_replication_origin_xact_setup",
    "pg_replication_slot_advance", "pg_restore_attribute_stats", "pg_restore_relation_stats", "pg_rotate_logfile",
    "pg_rotate_logfile_old", "pg_stat_reset", "pg_stat_reset_backend_stats", "pg_stat_reset_replication_slot",
    "pg_stat_reset_shared", "pg_stat_reset_single_function_counters", "pg_stat_reset_single_table_counters",
    "pg_stat_reset_slru", "pg_stat_reset_subscription_stats", "pg_stat_statements_reset", "pg_stop_backup",
    "pg_stop_making_pinned_objects", "pg_switch_wal", "pg_sync_replication_slots", "pg_terminate_backend",
    "pg_try_advisory_xact_lock", "pg_try_advisory_xact_lock_shared", "pg_wal_replay_pause", "pg_wal_replay_resume",
    "txid_current",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::lexer::Lexer;

    fn first_name(text: &str) -> Option<String> {
        name(Lexer::new(text.as_bytes()).next()?, text.as_bytes())
    }

    #[test]
    fn lists_are_sorted() {
        for list in [RESERVED, FUNCTION_OR_TYPE, COLUMN, WRITING] {
            assert!(list.is_sorted_by(|a, b| a < b));
        }
    }

    #[test]
    fn names_are_folded_and_unquoted() {
        assert_eq!(first_name("FooBar").as_deref(), Some("foobar"));
        assert_eq!(first_name("\"Foo\"\"Bar\"").as_deref(), Some("Foo\"Bar"));
        assert_eq!(first_name(r#"U&"d\0061t\+000061\\""#).as_deref(), Some("data\\"));
        assert_eq!(first_name(r#"U&"d\00""#), None);
        assert_eq!(first_name(&"x".repeat(64)), None, "PostgreSQL would cut it");
    }
}
