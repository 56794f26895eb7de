//! Statements by chance: queries of every shape over things that are harmless and things that are not, so that the second
//! kind stands wherever the grammar has a place for it.

/// Makes statements; the same seed makes the same ones.
pub struct Generator {
    state: u64,
}

impl Generator {
    pub fn new(seed: u64) -> Generator {
        // A seed of 0 would stay 0.
        Generator { state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1 }
    }

    /// Xorshift: nothing here needs better chance.
    fn below(&mut self, limit: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) as usize % limit
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }

    fn statement(&mut self) -> String {
        let query = self.query(3);
        let text = match self.below(20) {
            0 => format!("EXPLAIN {query}"),
            1 => format!("EXPLAIN (COSTS OFF, VERBOSE) {query}"),
            2 => format!("COPY ({query}) TO STDOUT"),
            3 => format!("{query}; {}", self.query(1)),
            4 => format!("({query})"),
            _ => query,
        };
        self.disguised(&text)
    }

    /// The same in other letters and with comments, where they do not matter.
    fn disguised(&mut self, text: &str) -> String {
        match self.below(6) {
            0 => text.replace(" FROM ", "\n from /* x */ "),
            1 => text.replace("SELECT ", "sElEcT -- INSERT\n "),
            2 => text.replace(", ", " /* , */ , "),
            3 => format!("/* SELECT writes(1) */{text};"),
            _ => text.to_owned(),
        }
    }

    fn query(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self
                .of(&["SELECT 1 AS i", "VALUES (1)", "SELECT i FROM t LIMIT 3", "TABLE other.t2"])
                .to_owned();
        }
        let with = match self.below(8) {
            0 => format!("WITH c AS ({}) ", self.query(depth - 1)),
            1 => {
                "WITH RECURSIVE c (i) AS (SELECT 1 UNION ALL SELECT c.i + 1 FROM c WHERE c.i < 3) ".to_owned()
            }
            2 if self.one_in(3) => {
                format!(
                    "WITH c AS ({}) ",
                    self.of(&[
                        "INSERT INTO trail (i) VALUES (1) RETURNING i",
                        "UPDATE trail SET i = 1 RETURNING i",
                        "DELETE FROM trail RETURNING i"
                    ])
                )
            }
            _ => String::new(),
        };
        let body = match self.below(12) {
            0 => format!("{} UNION ALL {}", self.single(depth - 1), self.single(depth - 1)),
            1 => format!("({}) EXCEPT ({})", self.single(depth - 1), self.single(depth - 1)),
            2 => format!("VALUES ({}), ({})", self.number(depth - 1), self.number(depth - 1)),
            _ => self.select(depth),
        };
        let order = match self.below(8) {
            0 => " ORDER BY 1".to_owned(),
            1 => format!(" LIMIT {}", self.of(&["3", "(SELECT 2)", "abs(-2)", "writes(1)"])),
            2 => " FETCH FIRST ROW ONLY".to_owned(),
            3 if self.one_in(2) => {
                self.of(&[" FOR UPDATE", " FOR SHARE SKIP LOCKED", " OFFSET 1"]).to_owned()
            }
            _ => String::new(),
        };
        format!("{with}{body}{order}")
    }

    /// A query of one column, for set operations.
    fn single(&mut self, depth: usize) -> String {
        format!("SELECT {} FROM {} AS x", self.number(depth), self.table())
    }

    fn select(&mut self, depth: usize) -> String {
        let from = self.from(depth);
        let columns: Vec<String> = (0..=self.below(3)).map(|_| self.item(depth)).collect();
        let mut text = format!(
            "SELECT {}{} FROM {from}",
            self.of(&["", "", "", "DISTINCT ", "ALL "]),
            columns.join(", ")
        );
        if self.one_in(2) {
            text += &format!(" WHERE {}", self.condition(depth));
        }
        match self.below(8) {
            0 => text += &format!(" GROUP BY x.i HAVING {}", self.condition(0)),
            1 => text += " GROUP BY ROLLUP (x.i)",
            2 => text += &format!(" ORDER BY {}", self.number(depth - 1)),
            3 => text += " WINDOW w AS (PARTITION BY x.i ORDER BY x.i)",
            _ => {}
        }
        text
    }

    fn item(&mut self, depth: usize) -> String {
        match self.below(10) {
            0 => "x.*".to_owned(),
            1 => format!("{} AS {}", self.number(depth), self.of(&["a", "\"writes\"", "nextval", "\"A b\""])),
            2 => format!("count(*) FILTER (WHERE {})", self.condition(depth)),
            3 => format!("sum({}) OVER (ORDER BY x.i)", self.number(depth)),
            4 => format!("string_agg({}, ',' ORDER BY {})", self.text(depth), self.number(0)),
            5 => self.text(depth),
            6 => self.condition(depth),
            _ => self.number(depth),
        }
    }

    /// Something with a column `i` that goes by the name of x.
    fn from(&mut self, depth: usize) -> String {
        let table = self.table();
        match self.below(12) {
            0 => format!("{table} AS x JOIN u ON u.i = x.i AND {}", self.condition(0)),
            1 => format!("{table} x NATURAL JOIN u"),
            2 => format!("{table} x, LATERAL (SELECT {} AS z) AS y", self.number(0)),
            3 if depth > 1 => format!("(SELECT {} AS i FROM {table} AS x) AS x", self.number(depth - 1)),
            4 => format!("generate_series(1, {}) AS x (i)", self.number(0)),
            5 => format!(
                "ROWS FROM (generate_series(1, 2), {}) AS x (i, k)",
                self.of(&["unnest(ARRAY[1])", "writes(1)", "set_of_writes(1)"])
            ),
            6 => format!("{table} AS x TABLESAMPLE bernoulli ({})", self.of(&["100", "writes(1)"])),
            7 => format!(
                "jsonb_to_recordset('[{{\"i\": 1}}]') AS x (i {})",
                self.of(&["integer", "small", "checked", "public.checked"])
            ),
            _ => format!("{table} AS x"),
        }
    }

    fn table(&mut self) -> String {
        const CALM: [&str; 9] =
            ["t", "public.t", "\"t\"", "u", "plain_view", "stored", "other.t2", "ONLY t", "(TABLE other.t2)"];
        const WILD: [&str; 14] = [
            "writing_view",
            "operator_view",
            "locking_view",
            "policed",
            "unlogged",
            "unlogged_view",
            "parent",
            "child",
            "public.writing_view",
            "U&\"writing\\005fview\"",
            "louds",
            "ranked",
            "pg_locks",
            "writes(1)",
        ];
        if self.one_in(16) { self.of(&WILD).to_owned() } else { self.of(&CALM).to_owned() }
    }

    fn number(&mut self, depth: usize) -> String {
        if self.one_in(40) {
            return self.wild_number();
        }
        if depth == 0 {
            return self
                .of(&[
                    "1",
                    "2",
                    "x.i",
                    "x.\"i\"",
                    "'3'::integer",
                    "CAST(4 AS int4)",
                    "int '5'",
                    "NULL",
                    "-1",
                    "X.I",
                ])
                .to_owned();
        }
        let inner = self.number(depth - 1);
        match self.below(16) {
            0 => format!(
                "({inner} {} {})",
                self.of(&["+", "-", "*", "OPERATOR(pg_catalog.+)"]),
                self.number(depth - 1)
            ),
            1 => format!("coalesce({inner}, 1)"),
            2 => format!("nullif({inner}, 2)"),
            3 => format!("greatest({inner}, {})", self.number(depth - 1)),
            4 => format!("CASE WHEN {} THEN {inner} ELSE 0 END", self.condition(depth - 1)),
            5 => format!("CASE {inner} WHEN 1 THEN 2 ELSE 3 END"),
            6 => format!("abs({inner})"),
            7 => format!("length({})", self.text(depth - 1)),
            8 => format!("(SELECT max(q.i) FROM {} AS q)", self.table()),
            9 => format!("(ARRAY[{inner}, 2])[1]"),
            10 => format!(
                "{inner}::{}",
                self.of(&["integer", "numeric(10, 0)::integer", "small", "checked", "int4"])
            ),
            11 => format!("CAST({inner} AS {})", self.of(&["integer", "public.small", "checked"])),
            12 => format!("(ROW({inner}, 'a')::pair).x"),
            13 => format!("pg_catalog.mod({inner}, 7)"),
            14 => format!("(SELECT count(*) FROM ({}) AS q)::integer", self.query(depth - 1)),
            _ => format!("extract(day FROM make_interval(days => {inner}))::integer"),
        }
    }

    fn wild_number(&mut self) -> String {
        const WILD: [&str; 30] = [
            "writes(1)",
            "public.writes(1)",
            "\"writes\"(1)",
            "WRITES /* x */ (1)",
            "U&\"\\0077rites\"(1)",
            "writes_too()",
            "writes_too(i => 1)",
            "lies(1)",
            "length(swallows(1))",
            "many(1, 2)",
            "many(VARIADIC ARRAY[1])",
            "(with_out(1)).x",
            "row_writes(x)",
            "x.row_writes",
            "(x).row_writes",
            "(1 ### 2)",
            "(1 OPERATOR(public.###) 2)",
            "@# 1",
            "\"Quoted Writes\"(1)",
            "atomic_writes(1)",
            "1::checked",
            "checked '1'",
            "CAST('1' AS checked)",
            "('seq'::regclass).nextval::integer",
            "nextval('seq')::integer",
            "length(initcap(1))",
            "pg_backend_pid()",
            "length(other.reverse('a'))",
            "sum_writes(x.i)",
            "(SELECT i FROM set_of_writes(1))",
        ];
        self.of(&WILD).to_owned()
    }

    fn text(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self
                .of(&[
                    "'a'",
                    "x.i::text",
                    "E'b\\n'",
                    "$$c$$",
                    "U&'d\\0061t'",
                    "'INSERT'",
                    "current_user::text",
                    "'x' || 'y'",
                ])
                .to_owned();
        }
        let inner = self.text(depth - 1);
        match self.below(9) {
            0 => format!("upper({inner})"),
            1 => format!("({inner} || {})", self.text(depth - 1)),
            2 => format!("substring({inner} FROM {} FOR 2)", self.number(0)),
            3 => format!("trim(both 'x' FROM {inner})"),
            4 => format!("overlay({inner} PLACING 'z' FROM 1)"),
            5 => format!("format('%s %s', {inner}, {})", self.number(depth - 1)),
            6 => format!("to_char({}, '999')", self.number(depth - 1)),
            7 => self
                .of(&[
                    "swallows(1)",
                    "(ROW(1)::loud)::text",
                    "text(ROW(1)::loud)",
                    "('a'::text <-> 1)",
                    "sets_work_mem(1)",
                    "initcap(1)",
                    "initcap('a')",
                    "set_config('work_mem', '1MB', false)",
                ])
                .to_owned(),
            _ => format!("CAST({} AS text)", self.number(depth - 1)),
        }
    }

    fn condition(&mut self, depth: usize) -> String {
        let number = self.number(depth.saturating_sub(1));
        match self.below(14) {
            0 => format!("{number} BETWEEN 0 AND {}", self.number(0)),
            1 => format!("{number} IN (1, 2, {})", self.number(0)),
            2 => format!("{number} IS DISTINCT FROM 3"),
            3 => format!("{number} = ANY (ARRAY[1, {}])", self.number(0)),
            4 => format!("{} LIKE 'a%' ESCAPE '!'", self.text(0)),
            5 => format!("{} SIMILAR TO 'a|b'", self.text(0)),
            6 => format!("EXISTS (SELECT 1 FROM {} AS q WHERE q.i = {number})", self.table()),
            7 => format!("({number}, 1) < (2, {})", self.number(0)),
            8 => format!("NOT {number} IS NULL AND {}", self.condition(0)),
            9 => format!("{number} NOT IN (SELECT q.i FROM {} AS q)", self.table()),
            10 => format!("is_checked({number})"),
            11 => {
                format!("x.i {} {number}", self.of(&["=", "<>", "!=", "<", ">=", "OPERATOR(pg_catalog.=)"]))
            }
            _ => format!("{number} > 0 OR x.i = 1"),
        }
    }
}

impl Iterator for Generator {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        Some(self.statement())
    }
}
