//! The order of the rooms, kept: a room uses only rooms named before it in `src/lib.rs`, the pure rooms name nothing that
//! is not a function of their input, and only the terminal's rooms print.
//!
//! The check reads the sources as text, without comments and literals. It sees `crate::` paths, which is how rooms name
//! each other here; what it cannot see, it cannot keep.

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms that are functions of their input, and files of other rooms that keep the same rule.
const PURE: [&str; 12] = [
    "wire",
    "error",
    "config",
    "sql",
    "catalog",
    "prepared",
    "routing",
    "auth",
    "session",
    "metrics",
    "pool/core.rs",
    "cluster/failover.rs",
];

/// The doors of pure rooms, where what they are functions of comes in: these may touch the world.
const DOORS: [&str; 1] = ["config/load.rs"];

/// What pure code does not name, outside its tests.
const IMPURE: [&str; 16] = [
    "tokio",
    "mio",
    "Instant::now",
    "SystemTime",
    "rand",
    "getrandom",
    "std::env",
    "std::fs",
    "std::process",
    "std::thread",
    "TcpStream",
    "TcpListener",
    "UnixStream",
    "UnixListener",
    "UdpSocket",
    "async",
];

/// Who may print to stdout: the subcommands, and nobody by accident.
const PRINTS: [&str; 3] = ["cli", "admin", "main"];

#[test]
fn a_room_uses_only_rooms_before_it() {
    let rooms = rooms();
    let place = |name: &str| rooms.iter().position(|room| room == name);
    let mut wrong = Vec::new();
    for source in sources() {
        let Some(own) = place(&source.room) else { continue };
        for used in source.crate_paths() {
            match place(&used) {
                Some(other) if other > own => wrong.push(format!("{}: crate::{used}", source.name)),
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "a room uses one to its right ({}):\n{}", rooms.join(" < "), wrong.join("\n"));
}

#[test]
fn pure_rooms_name_no_clock_socket_randomness_or_environment() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.is_pure()) {
        let code = source.without_tests();
        for word in IMPURE.iter().filter(|word| names(code, word)) {
            wrong.push(format!("{}: {word}", source.name));
        }
    }
    assert!(wrong.is_empty(), "pure code names what it must be given instead:\n{}", wrong.join("\n"));
}

#[test]
fn only_the_terminals_rooms_print() {
    let prints = |code: &str| ["println", "print", "stdout"].iter().any(|word| names(code, word));
    let wrong: Vec<String> = sources()
        .iter()
        .filter(|source| !PRINTS.contains(&source.room.as_str()) && prints(source.without_tests()))
        .map(|source| source.name.clone())
        .collect();
    assert!(wrong.is_empty(), "stdout belongs to the subcommands: {wrong:?}");
}

#[test]
fn no_file_names_a_folder_of_the_machine_that_it_was_written_on() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut places: Vec<String> =
        ["home", "root", "work", "Users"].iter().map(|top| format!("/{top}/")).collect();
    // A short path, such as that of a container's one folder, is an ordinary word elsewhere.
    places.extend(Some(root.display().to_string()).filter(|path| path.len() > 12));
    let mut wrong = Vec::new();
    for file in files(root) {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        for place in places.iter().filter(|place| names_path(&text, place)) {
            wrong.push(format!("{}: {place}", file.strip_prefix(root).unwrap().display()));
        }
    }
    assert!(wrong.is_empty(), "absolute paths of one machine:\n{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_sources_reads_as_it_should() {
    let source = Source {
        name: "pool/mod.rs".into(),
        room: "pool".into(),
        code: without_comments_and_literals(
            r##"
            //! See [`crate::cli`].
            use crate::{wire::{Span, tag}, sql::Statement};
            use crate::config;
            /* crate::server /* nested */ */
            fn f<'a>(x: &'a str) -> char { let s = "crate::admin \" "; let r = r#"crate::net"#; crate::auth::g('"') }
            #[cfg(test)]
            mod tests { use crate::routing::Route; fn t() { tokio::spawn(()); } }
            "##,
        ),
    };
    assert_eq!(source.crate_paths(), ["wire", "sql", "config", "auth", "routing"]);
    assert!(!names(source.without_tests(), "tokio"));
    assert!(names("use std::env;", "std::env"));
    assert!(!names("operand_mode", "rand"));
    assert!(!names("let environment = std::environment;", "std::env"));
    assert!(names_path("see /there/x", "/there/") && !names_path("my.site/there/x", "/there/"));
}

/// One source file, with its comments and literals blanked.
struct Source {
    name: String,
    room: String,
    code: String,
}

impl Source {
    fn is_pure(&self) -> bool {
        PURE.iter().any(|pure| self.room == *pure || self.name == *pure)
            && !DOORS.contains(&self.name.as_str())
            && !self.name.ends_with("tests.rs")
    }

    /// The code before the unit tests, which stand last in a file.
    fn without_tests(&self) -> &str {
        self.code.split("#[cfg(test)]\n").next().unwrap_or_default()
    }

    /// The rooms named by `crate::x` and `crate::{x, y}`.
    fn crate_paths(&self) -> Vec<String> {
        let compact: String = self.code.split_whitespace().collect::<Vec<_>>().join(" ");
        let paths = compact.split("crate::").skip(1);
        paths.flat_map(|rest| if rest.starts_with('{') { group(rest) } else { vec![word(rest)] }).collect()
    }
}

/// The first words of the members of `{a::b, c::{d, e}, f}`.
fn group(text: &str) -> Vec<String> {
    let mut depth = 0;
    let mut members = vec![String::new()];
    for letter in text.chars() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => members.push(String::new()),
            other if depth == 1 => members.last_mut().expect("never empty").push(other),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    members.iter().map(|member| word(member.trim())).filter(|name| !name.is_empty()).collect()
}

fn word(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

/// Whether `code` has `name` standing alone, not as a part of a longer word.
fn names(code: &str, name: &str) -> bool {
    let part = |letter: char| letter.is_alphanumeric() || letter == '_';
    code.match_indices(name).any(|(at, _)| {
        !code[..at].chars().next_back().is_some_and(part)
            && !code[at + name.len()..].chars().next().is_some_and(part)
    })
}

/// Whether `text` has a path that begins with `place`, not a longer path or address that contains it.
fn names_path(text: &str, place: &str) -> bool {
    text.match_indices(place).any(|(at, _)| {
        !text[..at]
            .chars()
            .next_back()
            .is_some_and(|letter| letter.is_alphanumeric() || "._-~$})*".contains(letter))
    })
}

/// Replaces comments, strings and characters by spaces.
fn without_comments_and_literals(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut kept = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let skipped = comment(rest)
            .or_else(|| raw_string(text, at))
            .or_else(|| string(rest))
            .or_else(|| character(rest));
        match skipped {
            Some(length) => {
                kept.push(' ');
                at += length;
            }
            None => {
                let letter = rest.chars().next().expect("at is before the end");
                kept.push(letter);
                at += letter.len_utf8();
            }
        }
    }
    kept
}

fn comment(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if !rest.starts_with("/*") {
        return None;
    }
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return Some(at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    Some(rest.len())
}

fn raw_string(text: &str, at: usize) -> Option<usize> {
    let rest = &text[at..];
    let after_r = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    // `for"`: the r of a longer word begins no string.
    if text[..at].chars().next_back().is_some_and(|letter| letter.is_alphanumeric() || letter == '_') {
        return None;
    }
    let hashes = after_r.len() - after_r.trim_start_matches('#').len();
    let body = after_r[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let before = rest.len() - body.len();
    Some(before + body.find(&end).map_or(body.len(), |found| found + end.len()))
}

fn string(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix('"')?;
    let mut escaped = false;
    for (at, letter) in body.char_indices() {
        match letter {
            '"' if !escaped => return Some(at + 2),
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    Some(rest.len())
}

/// `'x'`, `'\n'` or `'\u{1F600}'`, but not the lifetime `'a`.
fn character(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix('\'')?;
    let mut letters = body.char_indices();
    match letters.next()?.1 {
        '\\' => {
            let after = body.get(2..)?;
            Some(1 + 2 + after.find('\'')? + 1)
        }
        _ => letters.next().filter(|(_, second)| *second == '\'').map(|(at, _)| at + 2),
    }
}

/// The rooms in the order of `src/lib.rs`; the manual is text and no room.
fn rooms() -> Vec<String> {
    let library = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let rooms: Vec<String> = library
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .filter(|room| *room != "manual")
        .map(str::to_owned)
        .collect();
    assert!(rooms.len() >= 19, "src/lib.rs names the rooms, one `pub mod` a line: {rooms:?}");
    rooms
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let rust = files(&root).into_iter().filter(|file| file.extension().is_some_and(|end| end == "rs"));
    rust.map(|file| {
        let name = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let room = name.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
        Source { name, room, code: without_comments_and_literals(&fs::read_to_string(&file).unwrap()) }
    })
    .collect()
}

/// All files below a folder that belong to the project.
fn files(folder: &Path) -> Vec<PathBuf> {
    const NOT_OURS: [&str; 6] =
        ["target", ".git", ".cache", "node_modules", "__pycache__", "proptest-regressions"];
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name();
        if NOT_OURS.iter().any(|other| name == *other) {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}
