//! Conversations of a client, made up: what it sends and when, and what it would see on a PostgreSQL connection of its own.

use crate::model::{Database, Model};
use crate::notation::{bind, frontend, messages, view};
use crate::relay::Random;
use pglagoon::routing::Role;

/// Bytes that a client sends at once.
#[derive(Debug, Clone)]
pub struct Burst {
    pub words: String,
    pub bytes: Vec<u8>,
    /// How many messages it must have seen before it sends the next.
    pub then_seen: usize,
}

#[derive(Debug, Clone)]
pub struct Script {
    pub bursts: Vec<Burst>,
    pub startup: Vec<(String, String)>,
    /// What it sees on its own connection.
    pub view: Vec<String>,
}

/// What a client does next.
#[derive(Debug, Clone)]
pub enum Item {
    Query(usize),
    /// Parse, Bind, Describe, Execute of a text.
    Run {
        name: usize,
        text: usize,
        describe: bool,
        limit: u32,
    },
    /// The same of the unnamed statement, alone.
    Lone(usize),
    /// Bind and Execute of a name.
    Again {
        name: usize,
        portal: usize,
        limit: u32,
    },
    Loose(Loose),
    Sync,
    Flush,
    FunctionCall,
    CopyIn {
        extended: bool,
        early_sync: bool,
        lines: Vec<bool>,
        fail: bool,
    },
}

#[derive(Debug, Clone, Copy)]
pub enum Loose {
    Parse(usize, usize),
    Bind(usize, usize),
    DescribeStatement(usize),
    DescribePortal(usize),
    Execute(usize, u32),
    CloseStatement(usize),
    ClosePortal(usize),
}

pub const SIMPLE: [&str; 44] = [
    "select 1",
    "select 'other'",
    "select 1/0",
    "select * from missing",
    "selec 1",
    "",
    "select * from rows3",
    "select 1; select 2",
    "select 1; select 1/0; select 2",
    "begin",
    "begin",
    "commit",
    "commit",
    "rollback",
    "savepoint a",
    "rollback to a",
    "insert into t values (1)",
    "insert into t values ('dup')",
    "set work_mem to '1MB'",
    "set work_mem to '2MB'",
    "set timezone to 'Asia/Tokyo'",
    "set work_mem to 'bad'",
    "set local work_mem to '8MB'",
    "show work_mem",
    "show timezone",
    "show work_mem",
    "show timezone",
    "show role",
    "set role bob",
    "reset role",
    "reset work_mem",
    "reset timezone",
    "reset all",
    "discard all",
    "deallocate all",
    "execute a",
    "deallocate a",
    "begin; set work_mem to '3MB'; rollback",
    "begin; set work_mem to '5MB'; commit",
    "do $$ begin raise exception 'x'; end $$",
    "copy t to stdout",
    "listen news",
    "unlisten *",
    "select 1; unlisten *",
];

pub const EXTENDED: [&str; 25] = [
    "select $1",
    "select $1 from rows3",
    "select 1",
    "select * from rows3",
    "select 1/0",
    "select * from missing",
    "selec 1",
    "",
    "insert into t values ($1)",
    "insert into t values ('dup')",
    "begin",
    "commit",
    "rollback",
    "set work_mem to '1MB'",
    "set timezone to 'Asia/Tokyo'",
    "reset work_mem",
    "show work_mem",
    "show timezone",
    "execute a",
    "deallocate a",
    "deallocate all",
    "discard all",
    "copy t to stdout",
    "listen news",
    "unlisten *",
];

const NAMES: [&str; 3] = ["", "a", "b"];
const PORTALS: [&str; 2] = ["", "p"];

/// Every choice but the first is rare enough that scripts get somewhere.
pub fn item(random: &mut Random) -> Item {
    let name = random.below(3);
    let limit = if random.one_in(4) { 1 + random.below(3) as u32 } else { 0 };
    match random.below(20) {
        0..=5 => Item::Query(random.below(SIMPLE.len())),
        6..=8 => Item::Run { name, text: random.below(EXTENDED.len()), describe: random.one_in(2), limit },
        9..=10 => Item::Again { name, portal: random.below(2), limit },
        11..=12 => Item::Loose(match random.below(7) {
            0 => Loose::Parse(name, random.below(EXTENDED.len())),
            1 => Loose::Bind(random.below(2), name),
            2 => Loose::DescribeStatement(name),
            3 => Loose::DescribePortal(random.below(2)),
            4 => Loose::Execute(random.below(2), limit),
            5 => Loose::CloseStatement(name),
            _ => Loose::ClosePortal(random.below(2)),
        }),
        13 => Item::Lone(random.below(EXTENDED.len())),
        14..=17 => Item::Sync,
        18 if random.one_in(2) => Item::Flush,
        18 => Item::FunctionCall,
        _ => Item::CopyIn {
            extended: random.one_in(2),
            early_sync: random.one_in(2),
            lines: (0..random.below(4)).map(|_| random.one_in(5)).collect(),
            fail: random.one_in(5),
        },
    }
}

/// Items and, for each, whether the client waits for what it then sees.
pub fn script(items: &[(Item, bool)], startup: Vec<(String, String)>, mark: &str) -> Script {
    let (mark, has_startup) = (mark.to_owned(), !startup.is_empty());
    let mut writer =
        Writing { texts: Default::default(), bursts: Vec::new(), open: Vec::new(), mark, has_startup };
    for (item, waits) in items {
        writer.item(item);
        if *waits {
            writer.end_burst(true);
        }
    }
    writer.say("Sync");
    writer.end_burst(true);
    writer.say("Query rollback");
    writer.end_burst(true);
    on_its_own_connection(writer.bursts, startup)
}

/// Messages in words and in bytes.
type Messages = Vec<(String, Vec<u8>)>;

struct Writing {
    /// The text of each name, to bind as many parameters as it has.
    texts: std::collections::BTreeMap<usize, usize>,
    bursts: Vec<(Messages, bool)>,
    open: Messages,
    mark: String,
    has_startup: bool,
}

impl Writing {
    fn say(&mut self, words: &str) {
        self.open.push((words.to_owned(), frontend(words)));
    }

    /// A client waits only behind a message that makes the server answer.
    fn end_burst(&mut self, waits: bool) {
        let last = self.open.last().map_or("", |(words, _)| words.split(' ').next().unwrap_or_default());
        let waits = waits
            && !["Parse", "Bind", "DescribeS", "DescribeP", "Execute", "CloseS", "CloseP"].contains(&last);
        self.bursts.push((std::mem::take(&mut self.open), waits));
    }

    fn item(&mut self, item: &Item) {
        match item {
            Item::Query(n) => self.say(&format!("Query {}", SIMPLE[*n])),
            Item::Run { name, text, describe, limit } => {
                self.loose(Loose::Parse(*name, *text));
                self.loose(Loose::Bind(0, *name));
                if *describe {
                    self.loose(Loose::DescribePortal(0));
                }
                self.loose(Loose::Execute(0, *limit));
            }
            Item::Lone(text) => {
                self.say("Sync");
                self.end_burst(true);
                self.loose(Loose::Parse(0, *text));
                self.loose(Loose::Bind(0, 0));
                self.loose(Loose::Execute(0, 0));
                self.say("Sync");
                self.end_burst(false);
            }
            Item::Again { name, portal, limit } => {
                self.loose(Loose::Bind(*portal, *name));
                self.loose(Loose::Execute(*portal, *limit));
            }
            Item::Loose(loose) => self.loose(*loose),
            Item::Sync => self.say("Sync"),
            Item::Flush => self.say("Flush"),
            Item::FunctionCall => self.say("FunctionCall"),
            Item::CopyIn { extended, early_sync, lines, fail } => {
                // A client sends data when it is told to, and nothing between.
                self.say("Sync");
                self.end_burst(true);
                match extended {
                    true => self.say("Parse : copy t from stdin | Bind : | Execute"),
                    false => self.say("Query copy t from stdin"),
                }
                if *extended {
                    self.say(if *early_sync { "Sync" } else { "Flush" });
                }
                self.end_burst(true);
                for &is_duplicate in lines {
                    self.say(if is_duplicate { "CopyData dup" } else { "CopyData line" });
                }
                self.say(if *fail { "CopyFail no" } else { "CopyDone" });
                if *extended {
                    // Once more, that would be COPY with requests behind it, which no protocol allows.
                    self.say("Sync | CloseS | CloseP | Sync");
                }
                self.end_burst(true);
            }
        }
    }

    fn loose(&mut self, loose: Loose) {
        match loose {
            Loose::Parse(name, text) => {
                self.texts.entry(name).or_insert(text);
                if name == 0 {
                    self.texts.insert(0, text);
                }
                // Known limit: behind a RESET, up to the Sync, the server's own default holds in place of what the client
                // asked for when it connected.
                let text = match EXTENDED[text] {
                    "reset work_mem" | "discard all" if self.has_startup => "show work_mem",
                    text => text,
                };
                self.say(&format!("Parse {}: {text}", NAMES[name]));
            }
            Loose::Bind(portal, name) => {
                let count = usize::from(self.texts.get(&name).is_some_and(|&n| EXTENDED[n].contains("$1")));
                let mark = format!("{}.{}", self.mark, self.bursts.len());
                let mut bytes = Vec::new();
                bind(&mut bytes, PORTALS[portal], NAMES[name], &[mark.as_str()][..count]);
                self.open.push((format!("Bind {}:{}", PORTALS[portal], NAMES[name]), bytes));
            }
            Loose::DescribeStatement(name) => self.say(&format!("DescribeS {}", NAMES[name])),
            Loose::DescribePortal(portal) => self.say(&format!("DescribeP {}", PORTALS[portal])),
            Loose::Execute(portal, limit) => {
                let mut bytes = frontend(&format!("Execute {}", PORTALS[portal]));
                let at = bytes.len() - 4;
                bytes[at..].copy_from_slice(&limit.to_be_bytes());
                self.open.push((format!("Execute {} {limit}", PORTALS[portal]), bytes));
            }
            Loose::CloseStatement(name) => {
                self.texts.remove(&name);
                self.say(&format!("CloseS {}", NAMES[name]));
            }
            Loose::ClosePortal(portal) => self.say(&format!("CloseP {}", PORTALS[portal])),
        }
    }
}

fn on_its_own_connection(bursts: Vec<(Messages, bool)>, startup: Vec<(String, String)>) -> Script {
    let mut model = Model::new(Role::Primary, &startup);
    let mut database = Database::default();
    let mut seen = Vec::new();
    let mut waited = 0;
    let mut out = Vec::new();
    for (parts, waits) in bursts {
        let bytes: Vec<u8> = parts.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        model.feed(&bytes, &mut database);
        seen.append(&mut model.output());
        if waits {
            waited = count(&seen);
        }
        let words: Vec<String> = parts.into_iter().map(|(words, _)| words).collect();
        out.push(Burst { words: words.join(" | "), bytes, then_seen: waited });
    }
    Script { bursts: out, startup, view: view(&seen) }
}

/// The messages that a view counts, of those that are whole.
pub fn count(bytes: &[u8]) -> usize {
    messages(bytes).0.iter().filter(|(tag, _)| !matches!(tag, b'S' | b'N')).count()
}
