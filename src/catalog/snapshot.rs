//! What one database has besides what PostgreSQL brings, read once and kept by name.
//!
//! Built from the rows of [`Snapshot::QUERIES`] by a pure function. Everything is guilty until proven innocent, so a
//! cycle, a concurrent change or a row that does not fit can only keep a read on the primary:
//! - functions: unsure, but those in C of a few reviewed extensions that promise not to write;
//! - operators, casts: judged by the function behind them;
//! - types: enums, arrays, domains (with their CHECKs), composites by their parts; base types of reviewed extensions;
//! - relations: permanent tables and materialised views without row security, whose columns have harmless types and
//!   whose children do, too; views by what their text does, followed down;
//! - sequences are harmful: PostgreSQL logs 32 values ahead, so `last_value` differs on a replica.

use std::collections::{HashMap, HashSet};

use super::{Builtin, leaves::leaves};
use crate::sql::body;
use crate::sql::classify::classify;
use crate::sql::second::confirm;
use crate::sql::{Access, Catalog, Effects, Verdict};

/// The rows of one query, in text form.
pub type Rows = Vec<Vec<Option<String>>>;

/// What is known of one database.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    version: u64,
    functions: Names,
    /// Functions that a query may call as `x.f`.
    attributes: HashSet<String>,
    operators: HashMap<String, Verdict>,
    relations: Names,
    types: Names,
    /// Types of PostgreSQL's own to which somebody created a cast with a function that may do anything.
    harmful_casts: HashSet<String>,
    /// What functions leave behind in a session.
    leaves: HashMap<String, Effects>,
    /// What writing may leave behind there: by triggers, rules, defaults and constraints.
    writes: Effects,
    /// Somebody created an implicit cast or an operator class of PostgreSQL's own types with a function that may do
    /// anything: any expression may call it.
    implicit: bool,
}

/// Of which a server can be asked whether it is there, and what sequences gave.
const PROVABLE: Effects = Effects::TEMPORARY
    .with(Effects::HOLD_CURSOR)
    .with(Effects::ADVISORY_LOCK)
    .with(Effects::LISTEN)
    .with(Effects::SEQUENCE);

/// Verdicts by name, then by schema.
type Names = HashMap<String, Vec<(String, Verdict)>>;

impl Snapshot {
    /// How many queries make a snapshot.
    pub const QUERY_COUNT: usize = 13;

    /// The queries whose rows make a snapshot, for PostgreSQL 13 to 18 and a user without privileges. They depend on no
    /// setting and no object of the database; to see one state of the catalog they belong into one REPEATABLE READ
    /// transaction. The last one takes ACCESS SHARE locks on what views refer to, so it wants a `lock_timeout`.
    pub const QUERIES: [&'static str; Snapshot::QUERY_COUNT] = [
        FUNCTIONS,
        OPERATORS,
        CASTS,
        SUPPORT,
        TYPES,
        DOMAIN_CONSTRAINTS,
        COLUMNS,
        BODIES,
        BY_THE_WAY,
        RELATIONS,
        KEYS,
        CHILDREN,
        VIEWS,
    ];

    /// A snapshot from the rows of [`Snapshot::QUERIES`], in their order. `version` must differ from that of every other
    /// snapshot whose answers are still cached. `safe_functions` are taken for harmless: names, with their schema or without.
    ///
    /// # Errors
    ///
    /// A row does not have the columns that its query names.
    pub fn from_rows(
        version: u64,
        rows: &[Rows; Snapshot::QUERY_COUNT],
        safe_functions: &[String],
    ) -> Result<Snapshot, MalformedRow> {
        let [
            functions,
            operators,
            casts,
            support,
            types,
            constraints,
            columns,
            bodies,
            by_the_way,
            relations @ ..,
        ] = rows;
        let mut snapshot = Snapshot { version, ..Snapshot::default() };
        snapshot.read_functions(functions, safe_functions)?;
        snapshot.leaves = read_bodies(bodies)?;
        snapshot.read_what_runs_by_the_way(bodies, by_the_way)?;
        snapshot.read_operators(operators)?;
        let mut unsafe_types = snapshot.read_casts(casts)?;
        unsafe_types.extend(snapshot.read_support(support)?);
        let columns = user_typed_columns(columns)?;
        let safe_types = snapshot.read_types(types, constraints, &columns, &unsafe_types)?;
        snapshot.read_relations(relations, &columns, &safe_types)?;
        Ok(snapshot)
    }

    fn read_functions(&mut self, rows: &Rows, safe: &[String]) -> Result<(), MalformedRow> {
        for row in rows {
            let [schema, name, language, volatility, extension, unary] = columns_of(row)?;
            let (schema, name) = (required(schema)?, required(name)?);
            let verdict = match safe.iter().any(|safe| is_named(safe, schema, name)) {
                true => Verdict::Harmless,
                false => judge_function(name, required(language)?, required(volatility)?, extension),
            };
            self.functions.entry(name.to_owned()).or_default().push((schema.to_owned(), verdict));
            if verdict == Verdict::Harmful && required(unary)? == "true" {
                self.attributes.insert(name.to_owned());
            }
        }
        Ok(())
    }

    /// Trigger functions, and what defaults, constraints and rules call. Which table they belong to is not looked at.
    /// Settings are left out: a trigger that hides what it sets, as many seem to do, would pin every client that writes.
    fn read_what_runs_by_the_way(&mut self, bodies: &Rows, calls: &Rows) -> Result<(), MalformedRow> {
        for row in bodies {
            let [name, _, is_trigger] = columns_of(row)?;
            if required(is_trigger)? == "true" {
                self.writes = self.writes.with(self.leaves(required(name)?));
            }
        }
        for row in calls {
            let [call] = columns_of(row)?;
            let read = body::read(required(call)?.as_bytes());
            let called = read.calls.iter().map(|call| self.leaves(call));
            self.writes = called.fold(self.writes.with(read.effects), Effects::with);
        }
        self.writes = self.writes.only(PROVABLE);
        Ok(())
    }

    fn read_operators(&mut self, rows: &Rows) -> Result<(), MalformedRow> {
        for row in rows {
            let [symbol, code @ ..]: [Option<&str>; 6] = columns_of(row)?;
            let verdict = judge_code(code)?;
            let known = self.operators.entry(required(symbol)?.to_owned()).or_insert(Verdict::Harmless);
            *known = worse(*known, verdict);
        }
        Ok(())
    }

    /// Reads the casts; the types (by OID) that a harmful one leads from or to.
    fn read_casts(&mut self, rows: &Rows) -> Result<HashSet<u32>, MalformedRow> {
        let mut unsafe_types = HashSet::new();
        for row in rows {
            let [source, target, target_name, context, code @ ..]: [Option<&str>; 9] = columns_of(row)?;
            if judge_code(code)? == Verdict::Harmless {
                continue;
            }
            let (source, target) = (oid(source)?, oid(target)?);
            unsafe_types.extend([source, target].into_iter().filter(|oid| is_user(*oid)));
            if !is_user(source) && !is_user(target) {
                self.harmful_casts.insert(required(target_name)?.to_owned());
            }
            // A condition or a LIMIT is converted like a value on assignment.
            self.implicit |= !is_user(source) && required(context)? != "e";
        }
        Ok(unsafe_types)
    }

    /// Reads what stands behind default operator classes: ORDER BY, DISTINCT, GROUP BY and UNION call it without naming it. Answers
    /// the types (by OID) that it compares, if it may do anything else.
    fn read_support(&mut self, rows: &Rows) -> Result<HashSet<u32>, MalformedRow> {
        let mut unsafe_types = HashSet::new();
        for row in rows {
            let [one, other, name, language, volatility] = columns_of(row)?;
            if judge_support(required(name)?, required(language)?, required(volatility)?) == Verdict::Harmful
            {
                unsafe_types.extend([oid(one)?, oid(other)?]);
            }
        }
        // Values of PostgreSQL's own types can be in any expression.
        self.implicit |= unsafe_types.iter().any(|oid| !is_user(*oid));
        Ok(unsafe_types)
    }

    /// Reads the types; those (by OID) whose values a query may hold, convert to and print.
    fn read_types(
        &mut self,
        types: &Rows,
        constraints: &Rows,
        columns: &HashMap<u32, Vec<u32>>,
        unsafe_types: &HashSet<u32>,
    ) -> Result<HashSet<u32>, MalformedRow> {
        let mut checks: HashMap<u32, Vec<String>> = HashMap::new();
        for row in constraints {
            let [domain, definition] = columns_of(row)?;
            checks.entry(oid(domain)?).or_default().push(required(definition)?.to_owned());
        }
        let mut open = types.iter().map(|row| UserType::from_row(row)).collect::<Result<Vec<_>, _>>()?;
        for user_type in &open {
            let entry = self.types.entry(user_type.name.clone()).or_default();
            entry.push((user_type.schema.clone(), Verdict::Harmful));
        }
        let mut safe = HashSet::new();
        for _ in 0..DEPTH {
            let (found, rest): (Vec<_>, Vec<_>) = open.into_iter().partition(|user_type| {
                !unsafe_types.contains(&user_type.oid)
                    && user_type.is_safe(&safe, columns)
                    && checks
                        .get(&user_type.oid)
                        .is_none_or(|checks| checks.iter().all(|c| self.check_reads(c)))
            });
            open = rest;
            if found.is_empty() {
                break;
            }
            for user_type in found {
                safe.insert(user_type.oid);
                acquit(&mut self.types, &user_type.schema, &user_type.name);
            }
        }
        Ok(safe)
    }

    /// Whether a domain's CHECK, as `pg_get_constraintdef` writes it, does nothing but look.
    fn check_reads(&self, definition: &str) -> bool {
        let expression = definition.trim_end_matches(" NOT VALID").strip_prefix("CHECK ");
        expression.is_some_and(|expression| self.reads(&format!("SELECT {expression}")))
    }

    fn reads(&self, text: &str) -> bool {
        let text = text.as_bytes();
        let statement = confirm(text, classify(text, self), self);
        statement.access == Access::Read && statement.statements == 1
    }

    fn read_relations(
        &mut self,
        [relations, keys, children, views]: &[Rows; 4],
        columns: &HashMap<u32, Vec<u32>>,
        safe_types: &HashSet<u32>,
    ) -> Result<(), MalformedRow> {
        let mut by_oid = HashMap::new();
        for row in relations {
            let relation = Relation::from_row(row)?;
            by_oid.insert(relation.oid, relation);
        }
        let typed =
            |oid: u32| columns.get(&oid).is_none_or(|types| types.iter().all(|t| safe_types.contains(t)));
        let mut harmful: HashSet<u32> = by_oid
            .values()
            .filter(|relation| !relation.is_stored() || !typed(relation.oid))
            .map(|relation| relation.oid)
            .collect();
        for row in keys {
            let [relation] = columns_of(row)?;
            harmful.insert(oid(relation)?);
        }
        spread_to_parents(children, &by_oid, &mut harmful)?;
        for relation in by_oid.values() {
            let verdict = if harmful.contains(&relation.oid) { Verdict::Harmful } else { Verdict::Harmless };
            self.relations.entry(relation.name.clone()).or_default().push((relation.schema.clone(), verdict));
        }
        self.read_views(views, &by_oid, typed)
    }

    /// Acquits the views whose text reads; those that name other views in the pass after theirs.
    fn read_views(
        &mut self,
        rows: &Rows,
        relations: &HashMap<u32, Relation>,
        typed: impl Fn(u32) -> bool,
    ) -> Result<(), MalformedRow> {
        let mut open = Vec::new();
        for row in rows {
            let [view, text] = columns_of(row)?;
            // No text: dropped while it was read.
            let (Some(relation), Some(text)) = (relations.get(&oid(view)?), text) else { continue };
            if relation.kind == "v" && typed(relation.oid) {
                open.push((relation, text));
            }
        }
        for _ in 0..DEPTH {
            let (found, rest): (Vec<_>, Vec<_>) = open.into_iter().partition(|(_, text)| self.reads(text));
            open = rest;
            if found.is_empty() {
                break;
            }
            for (relation, _) in found {
                acquit(&mut self.relations, &relation.schema, &relation.name);
            }
        }
        Ok(())
    }
}

impl Catalog for Snapshot {
    fn function(&self, schema: Option<&str>, name: &str) -> Verdict {
        combine(users(&self.functions, schema, name), Builtin.function(schema, name))
    }

    fn relation(&self, schema: Option<&str>, name: &str) -> Verdict {
        combine(users(&self.relations, schema, name), Builtin.relation(schema, name))
    }

    fn operator(&self, symbol: &str) -> Verdict {
        combine(self.operators.get(symbol).copied(), Builtin.operator(symbol))
    }

    fn leaves(&self, name: &str) -> Effects {
        let is_known = self.functions.contains_key(name)
            || self.relations.contains_key(name)
            || self.types.contains_key(name);
        match self.leaves.get(name) {
            Some(effects) => *effects,
            None if is_known => Effects::NONE,
            None => Builtin.leaves(name),
        }
    }

    fn writes(&self) -> Effects {
        self.writes
    }

    fn attribute(&self, name: &str) -> Verdict {
        match Builtin.function(None, name) {
            Verdict::Harmful => Verdict::Harmful,
            _ if self.attributes.contains(name) => Verdict::Harmful,
            _ => Verdict::Unknown,
        }
    }

    fn type_name(&self, schema: Option<&str>, name: &str) -> Verdict {
        if self.harmful_casts.contains(name.strip_prefix('_').unwrap_or(name)) {
            return Verdict::Harmful;
        }
        combine(users(&self.types, schema, name), Builtin.type_name(schema, name))
    }

    fn conversions(&self) -> Verdict {
        if self.implicit { Verdict::Harmful } else { Verdict::Harmless }
    }

    fn version(&self) -> u64 {
        self.version
    }
}

/// A row of a catalog query does not have the columns that it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedRow;

impl std::fmt::Display for MalformedRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a row of the catalog is not as expected")
    }
}

impl std::error::Error for MalformedRow {}

/// How deep types and views may rest on each other.
const DEPTH: usize = 32;

struct UserType {
    oid: u32,
    schema: String,
    name: String,
    kind: String,
    is_array: bool,
    element: u32,
    base: u32,
    relation: u32,
    extension: Option<String>,
}

impl UserType {
    fn from_row(row: &[Option<String>]) -> Result<UserType, MalformedRow> {
        let [number, schema, name, kind, category, element, base, relation, extension] = columns_of(row)?;
        Ok(UserType {
            oid: oid(number)?,
            schema: required(schema)?.to_owned(),
            name: required(name)?.to_owned(),
            kind: required(kind)?.to_owned(),
            is_array: required(category)? == "A",
            element: oid(element)?,
            base: oid(base)?,
            relation: oid(relation)?,
            extension: extension.map(str::to_owned),
        })
    }

    /// Whether its parts are safe; its constraints and casts are judged apart.
    fn is_safe(&self, safe: &HashSet<u32>, columns: &HashMap<u32, Vec<u32>>) -> bool {
        let known = |oid: &u32| !is_user(*oid) || safe.contains(oid);
        match self.kind.as_str() {
            "e" => true,
            "d" => known(&self.base),
            "c" => columns.get(&self.relation).is_none_or(|types| types.iter().all(known)),
            "b" if self.is_array => known(&self.element),
            "b" => is_reviewed(self.extension.as_deref()),
            // Ranges may have functions of their own, and whatever else there is was not looked at.
            _ => false,
        }
    }
}

struct Relation {
    oid: u32,
    schema: String,
    name: String,
    kind: String,
    persistence: String,
    row_security: bool,
    select_rule: bool,
}

impl Relation {
    fn from_row(row: &[Option<String>]) -> Result<Relation, MalformedRow> {
        let [number, schema, name, kind, persistence, row_security, select_rule] = columns_of(row)?;
        Ok(Relation {
            oid: oid(number)?,
            schema: required(schema)?.to_owned(),
            name: required(name)?.to_owned(),
            kind: required(kind)?.to_owned(),
            persistence: required(persistence)?.to_owned(),
            row_security: required(row_security)? != "false",
            select_rule: required(select_rule)? != "false",
        })
    }

    /// Whether reading it reads its own, replicated rows and does nothing else.
    fn is_stored(&self) -> bool {
        let rows = match self.kind.as_str() {
            "r" | "p" => !self.select_rule,
            "m" => true,
            _ => false,
        };
        rows && self.persistence == "p" && !self.row_security
    }
}

/// A parent is read with its children: one harmful child makes it harmful.
fn spread_to_parents(
    children: &Rows,
    relations: &HashMap<u32, Relation>,
    harmful: &mut HashSet<u32>,
) -> Result<(), MalformedRow> {
    let mut pairs = Vec::with_capacity(children.len());
    for row in children {
        let [child, parent] = columns_of(row)?;
        pairs.push((oid(child)?, oid(parent)?));
    }
    pairs.retain(|(child, _)| relations.contains_key(child));
    loop {
        let before = harmful.len();
        for (child, parent) in &pairs {
            if harmful.contains(child) {
                harmful.insert(*parent);
            }
        }
        if harmful.len() == before {
            return Ok(());
        }
    }
}

/// The types of columns that PostgreSQL did not bring, by relation.
fn user_typed_columns(rows: &Rows) -> Result<HashMap<u32, Vec<u32>>, MalformedRow> {
    let mut columns: HashMap<u32, Vec<u32>> = HashMap::new();
    for row in rows {
        let [relation, column_type] = columns_of(row)?;
        columns.entry(oid(relation)?).or_default().push(oid(column_type)?);
    }
    Ok(columns)
}

/// The function behind an operator or a cast: its schema, name, language, volatility and extension.
fn judge_code(code: [Option<&str>; 5]) -> Result<Verdict, MalformedRow> {
    let [schema, name, language, volatility, extension] = code;
    let name = required(name)?;
    if extension.is_none() && required(schema)? == "pg_catalog" && required(language)? == "internal" {
        return Ok(match Builtin.function(Some("pg_catalog"), name) {
            Verdict::Harmless => Verdict::Harmless,
            _ => Verdict::Harmful,
        });
    }
    Ok(judge_function(name, required(language)?, required(volatility)?, extension))
}

/// Only superusers can create functions in C, and one that calls itself STABLE promises not to write; of extensions whose
/// code was looked at, that is believed.
fn read_bodies(rows: &Rows) -> Result<HashMap<String, Effects>, MalformedRow> {
    let mut bodies = Vec::with_capacity(rows.len());
    for row in rows {
        let [name, body, _] = columns_of(row)?;
        bodies.push((required(name)?, required(body)?));
    }
    Ok(leaves(bodies))
}

fn judge_function(name: &str, language: &str, volatility: &str, extension: Option<&str>) -> Verdict {
    let stable = matches!(volatility, "i" | "s") || VOLATILE_BUT_HARMLESS.contains(&name);
    if is_reviewed(extension) && matches!(language, "c" | "internal") && stable {
        Verdict::Harmless
    } else {
        Verdict::Harmful
    }
}

/// Code in C that calls itself stable is believed here, whosever it is: only superusers can create operator classes, and
/// distrust would keep every read of a database with an unknown index extension on the primary.
fn judge_support(name: &str, language: &str, volatility: &str) -> Verdict {
    let stable = matches!(volatility, "i" | "s");
    let harmful = Builtin.function(Some("pg_catalog"), name) == Verdict::Harmful;
    match language {
        "internal" | "c" if stable && !harmful => Verdict::Harmless,
        _ => Verdict::Harmful,
    }
}

/// Whether `written` is this name, or its schema, a dot, and it.
fn is_named(written: &str, schema: &str, name: &str) -> bool {
    written == name || written.strip_suffix(name).and_then(|rest| rest.strip_suffix('.')) == Some(schema)
}

fn is_reviewed(extension: Option<&str>) -> bool {
    extension.is_some_and(|name| REVIEWED_EXTENSIONS.contains(&name))
}

/// Extensions of types, operators and functions that compute: nothing that runs SQL from a string (tablefunc, xml2),
/// reads files (postgis_raster), reaches other servers (dblink, postgres_fdw) or shows the server (pg_stat_statements).
const REVIEWED_EXTENSIONS: [&str; 17] = [
    "btree_gin",
    "btree_gist",
    "citext",
    "cube",
    "earthdistance",
    "fuzzystrmatch",
    "hstore",
    "intarray",
    "ip4r",
    "isn",
    "ltree",
    "pg_trgm",
    "pgcrypto",
    "postgis",
    "seg",
    "unaccent",
    "vector",
];

/// Functions of reviewed extensions that are volatile only because they draw lots.
const VOLATILE_BUT_HARMLESS: [&str; 3] = ["gen_random_bytes", "gen_random_uuid", "gen_salt"];

/// The first OID that PostgreSQL gives to what users create (`FirstNormalObjectId`).
const FIRST_USER_OID: u32 = 16384;

fn is_user(oid: u32) -> bool {
    oid >= FIRST_USER_OID
}

fn users(names: &Names, schema: Option<&str>, name: &str) -> Option<Verdict> {
    let named = names.get(name)?.iter();
    let meant = named.filter(|(owner, _)| schema.is_none_or(|schema| schema == owner));
    meant.map(|(_, verdict)| *verdict).reduce(worse)
}

/// What users have of a name, with what PostgreSQL has of it.
fn combine(users: Option<Verdict>, builtin: Verdict) -> Verdict {
    match (users, builtin) {
        (None, builtin) => builtin,
        (Some(users), Verdict::Unknown) => users,
        (Some(users), builtin) => worse(users, builtin),
    }
}

fn worse(one: Verdict, other: Verdict) -> Verdict {
    if one == Verdict::Harmless { other } else { one }
}

fn acquit(names: &mut Names, schema: &str, name: &str) {
    let entries = names.get_mut(name).into_iter().flatten();
    for (_, verdict) in entries.filter(|(owner, _)| owner == schema) {
        *verdict = Verdict::Harmless;
    }
}

fn columns_of<const N: usize>(row: &[Option<String>]) -> Result<[Option<&str>; N], MalformedRow> {
    let columns: Vec<Option<&str>> = row.iter().map(Option::as_deref).collect();
    columns.try_into().map_err(|_| MalformedRow)
}

fn required(column: Option<&str>) -> Result<&str, MalformedRow> {
    column.ok_or(MalformedRow)
}

fn oid(column: Option<&str>) -> Result<u32, MalformedRow> {
    required(column)?.parse().map_err(|_| MalformedRow)
}

// In all queries names and operators carry their schema, so that nothing on a search_path can step in between.

/// Functions that users or extensions created, less those that no query can call.
const FUNCTIONS: &str = "
SELECT n.nspname::pg_catalog.text, p.proname::pg_catalog.text, l.lanname::pg_catalog.text,
       p.provolatile::pg_catalog.text, e.extname::pg_catalog.text,
       ((p.pronargs OPERATOR(pg_catalog.>=) 1
         AND (p.pronargs OPERATOR(pg_catalog.-) p.pronargdefaults) OPERATOR(pg_catalog.<=) 1)
        OR p.provariadic OPERATOR(pg_catalog.<>) '0'::pg_catalog.oid)::pg_catalog.text
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) p.prolang
LEFT JOIN pg_catalog.pg_depend d ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid
     AND d.objid OPERATOR(pg_catalog.=) p.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog.\"char\"
LEFT JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid
WHERE p.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
  AND p.prokind OPERATOR(pg_catalog.<>) 'p'::pg_catalog.\"char\"
  AND p.prorettype OPERATOR(pg_catalog.<>) 'pg_catalog.trigger'::pg_catalog.regtype::pg_catalog.oid
  AND p.prorettype OPERATOR(pg_catalog.<>) 'pg_catalog.event_trigger'::pg_catalog.regtype::pg_catalog.oid";

/// The bodies of functions and procedures that users or extensions created, in the languages that are read.
const BODIES: &str = "
SELECT p.proname::pg_catalog.text, p.prosrc,
       (p.prorettype OPERATOR(pg_catalog.=) 'pg_catalog.trigger'::pg_catalog.regtype::pg_catalog.oid
        OR p.prorettype OPERATOR(pg_catalog.=) 'pg_catalog.event_trigger'::pg_catalog.regtype::pg_catalog.oid)::pg_catalog.text
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) p.prolang
WHERE p.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
  AND (l.lanname OPERATOR(pg_catalog.=) 'sql'::pg_catalog.name
       OR l.lanname OPERATOR(pg_catalog.=) 'plpgsql'::pg_catalog.name)";

/// Calls of what runs when something is written though no statement names it: functions of users' and extensions' own, and
/// the built-in ones that leave something behind. Their OIDs are taken from the stored trees: to have these as text would lock
/// their tables.
const BY_THE_WAY: &str = "
SELECT DISTINCT pg_catalog.quote_ident(p.proname::pg_catalog.text) OPERATOR(pg_catalog.||) '()'
FROM (SELECT d.adbin::pg_catalog.text FROM pg_catalog.pg_attrdef d
      WHERE d.adrelid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
      UNION ALL
      SELECT c.conbin::pg_catalog.text FROM pg_catalog.pg_constraint c
      WHERE c.conrelid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
      UNION ALL
      SELECT r.ev_action::pg_catalog.text FROM pg_catalog.pg_rewrite r
      WHERE r.ev_class OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
        AND r.ev_type OPERATOR(pg_catalog.<>) '1'::pg_catalog.\"char\") AS stored (tree),
     pg_catalog.regexp_matches(stored.tree, ':funcid ([0-9]+) ', 'g') AS call
JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) call[1]::pg_catalog.oid
WHERE p.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
   OR p.proname OPERATOR(pg_catalog.=) ANY ('{currval,lastval,set_config,setseed}'::pg_catalog.name[])
   OR p.proname::pg_catalog.text OPERATOR(pg_catalog.~) '^pg_(try_)?advisory_lock'";

/// Operators that users or extensions created, with the function behind each.
const OPERATORS: &str = "
SELECT o.oprname::pg_catalog.text, n.nspname::pg_catalog.text, p.proname::pg_catalog.text,
       l.lanname::pg_catalog.text, p.provolatile::pg_catalog.text, e.extname::pg_catalog.text
FROM pg_catalog.pg_operator o
JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) o.oprcode::pg_catalog.oid
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) p.prolang
LEFT JOIN pg_catalog.pg_depend d ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid
     AND d.objid OPERATOR(pg_catalog.=) p.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog.\"char\"
LEFT JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid
WHERE o.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid";

/// Casts with a function that users or extensions created.
const CASTS: &str = "
SELECT c.castsource::pg_catalog.text, c.casttarget::pg_catalog.text, t.typname::pg_catalog.text,
       c.castcontext::pg_catalog.text, n.nspname::pg_catalog.text, p.proname::pg_catalog.text,
       l.lanname::pg_catalog.text, p.provolatile::pg_catalog.text, e.extname::pg_catalog.text
FROM pg_catalog.pg_cast c
JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) c.casttarget
JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) c.castfunc
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) p.prolang
LEFT JOIN pg_catalog.pg_depend d ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid
     AND d.objid OPERATOR(pg_catalog.=) p.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog.\"char\"
LEFT JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid
WHERE c.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid";

/// The functions and operators in default operator classes that users or extensions created or changed.
const SUPPORT: &str = "
SELECT s.one::pg_catalog.text, s.other::pg_catalog.text, p.proname::pg_catalog.text, l.lanname::pg_catalog.text,
       p.provolatile::pg_catalog.text
FROM (SELECT f.amproclefttype, f.amprocrighttype, f.amproc::pg_catalog.oid, f.amprocfamily
      FROM pg_catalog.pg_amproc f WHERE f.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
      UNION
      SELECT o.amoplefttype, o.amoprighttype, op.oprcode::pg_catalog.oid, o.amopfamily
      FROM pg_catalog.pg_amop o
      JOIN pg_catalog.pg_operator op ON op.oid OPERATOR(pg_catalog.=) o.amopopr
      WHERE o.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid) AS s (one, other, code, family)
JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) s.code
JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) p.prolang
WHERE EXISTS (SELECT FROM pg_catalog.pg_opclass c
              WHERE c.opcfamily OPERATOR(pg_catalog.=) s.family AND c.opcdefault)";

/// Relations with an index or a partition key that an operator class in an interpreted language serves: finding a row, or
/// its partition, calls it.
const KEYS: &str = "
SELECT DISTINCT k.relation::pg_catalog.text
FROM (SELECT i.indrelid, i.indclass::pg_catalog.oid[] FROM pg_catalog.pg_index i
      WHERE i.indrelid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
      UNION ALL
      SELECT t.partrelid, t.partclass::pg_catalog.oid[] FROM pg_catalog.pg_partitioned_table t) AS k (relation, classes)
JOIN pg_catalog.pg_opclass c ON c.oid OPERATOR(pg_catalog.=) ANY (k.classes)
JOIN pg_catalog.pg_amproc f ON f.amprocfamily OPERATOR(pg_catalog.=) c.opcfamily
JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) f.amproc::pg_catalog.oid
JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) p.prolang
WHERE f.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
  AND l.lanname OPERATOR(pg_catalog.<>) ALL ('{c,internal}'::pg_catalog.name[])";

/// Types that users or extensions created, the row types of tables among them.
const TYPES: &str = "
SELECT t.oid::pg_catalog.text, n.nspname::pg_catalog.text, t.typname::pg_catalog.text, t.typtype::pg_catalog.text,
       t.typcategory::pg_catalog.text, t.typelem::pg_catalog.text, t.typbasetype::pg_catalog.text,
       t.typrelid::pg_catalog.text, e.extname::pg_catalog.text
FROM pg_catalog.pg_type t
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) t.typnamespace
LEFT JOIN pg_catalog.pg_depend d ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_type'::pg_catalog.regclass::pg_catalog.oid
     AND d.objid OPERATOR(pg_catalog.=) t.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog.\"char\"
LEFT JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid
WHERE t.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid";

/// The CHECK constraints of domains.
const DOMAIN_CONSTRAINTS: &str = "
SELECT c.contypid::pg_catalog.text, pg_catalog.pg_get_constraintdef(c.oid)
FROM pg_catalog.pg_constraint c
WHERE c.contypid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
  AND c.contype OPERATOR(pg_catalog.=) 'c'::pg_catalog.\"char\"";

/// The types of columns that PostgreSQL did not bring.
const COLUMNS: &str = "
SELECT DISTINCT a.attrelid::pg_catalog.text, a.atttypid::pg_catalog.text
FROM pg_catalog.pg_attribute a
WHERE a.attrelid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
  AND a.atttypid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
  AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped";

/// Relations that users or extensions created, less the temporary ones: they belong to other sessions, and a session that
/// has its own is not asked about.
const RELATIONS: &str = "
SELECT c.oid::pg_catalog.text, n.nspname::pg_catalog.text, c.relname::pg_catalog.text, c.relkind::pg_catalog.text,
       c.relpersistence::pg_catalog.text, c.relrowsecurity::pg_catalog.text,
       EXISTS (SELECT FROM pg_catalog.pg_rewrite r WHERE r.ev_class OPERATOR(pg_catalog.=) c.oid
               AND r.ev_type OPERATOR(pg_catalog.=) '1'::pg_catalog.\"char\")::pg_catalog.text
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE c.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
  AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,m,v,S,f}'::pg_catalog.\"char\"[])
  AND c.relpersistence OPERATOR(pg_catalog.<>) 't'::pg_catalog.\"char\"";

/// Which relation inherits from which, partitions among them.
const CHILDREN: &str = "
SELECT i.inhrelid::pg_catalog.text, i.inhparent::pg_catalog.text FROM pg_catalog.pg_inherits i";

/// The texts of views.
const VIEWS: &str = "
SELECT c.oid::pg_catalog.text, pg_catalog.pg_get_viewdef(c.oid)
FROM pg_catalog.pg_class c
WHERE c.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
  AND c.relkind OPERATOR(pg_catalog.=) 'v'::pg_catalog.\"char\"";

#[cfg(test)]
pub(super) mod tests;
