//! PgBouncer's `userlist.txt`: one user a line, `"name" "password"`, with `""` for a quote.
//!
//! As in PgBouncer, `;` begins a line that is a comment, what follows the password is ignored, and an empty password
//! never matches. Unlike there, a user that is named twice is an error: which line was meant is not for us to guess.
//!
//! Source: <https://www.pgbouncer.org/config.html#authentication-file-format>.

use std::collections::BTreeMap;

use super::{Secret, User};

/// The longest name or password, in bytes.
const MAX_FIELD: usize = 2048;

/// The users of a file; and what is wrong, with its line: `line 3: ...`. No error holds a password.
pub fn parse(text: &str) -> (BTreeMap<String, User>, Vec<String>) {
    let (mut users, mut lines, mut errors) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for (number, line) in (1..).zip(text.strip_prefix('\u{FEFF}').unwrap_or(text).lines()) {
        match entry(line) {
            Ok(None) => (),
            Ok(Some((name, _))) if lines.contains_key(&name) => {
                errors
                    .push(format!("line {number}: user \"{name}\" stands in line {} already", lines[&name]));
            }
            Ok(Some((name, user))) => {
                lines.insert(name.clone(), number);
                users.insert(name, user);
            }
            Err(problem) => errors.push(format!("line {number}: {problem}")),
        }
    }
    (users, errors)
}

fn entry(line: &str) -> Result<Option<(String, User)>, String> {
    let line = line.trim_start();
    if line.is_empty() || line.starts_with(';') {
        return Ok(None);
    }
    let (name, rest) = field(line, "the user's name")?;
    if name.is_empty() {
        return Err("the user's name is empty".to_owned());
    }
    let (password, _) = field(rest.trim_start(), "the password")?;
    let secret = match password.as_str() {
        "" => None,
        stored => Some(Secret::from_stored(stored).map_err(|what| format!("user \"{name}\" has {what}"))?),
    };
    Ok(Some((name, User { secret })))
}

/// A field in quotes, and what follows it.
fn field<'a>(text: &'a str, what: &str) -> Result<(String, &'a str), String> {
    let mut rest = text.strip_prefix('"').ok_or_else(|| format!("{what} does not begin with a quote"))?;
    let mut field = String::new();
    loop {
        let (part, after) =
            rest.split_once('"').ok_or_else(|| format!("{what} does not end with a quote"))?;
        field.push_str(part);
        if field.len() > MAX_FIELD {
            return Err(format!("{what} is longer than {MAX_FIELD} bytes"));
        }
        match after.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => return Ok((field, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_list_as_pgbouncer_takes_it() {
        let text = "; the users\r\n\n\"app\" \"sec\"\"ret\"\n  \"a \"\"b\"\"\"\t\"md56a422f785c9e20873908ce25d1736ae2\" more\n\
                    \"nobody\" \"\"\n\"tight\"\"ly\"\"x\"\n";
        let (users, errors) = parse(text);
        assert_eq!(errors, ["line 6: the password does not begin with a quote"]);
        assert_eq!(users.keys().collect::<Vec<_>>(), ["a \"b\"", "app", "nobody"]);
        assert_eq!(users["app"].secret, Some(Secret::Plain("sec\"ret".into())));
        assert!(matches!(users["a \"b\""].secret, Some(Secret::Md5(_))));
        assert_eq!(users["nobody"].secret, None);
    }

    #[test]
    fn errors_name_their_line_and_hide_the_password() {
        let text = "app hunter2\n\"app\" hunter2\n\"app\" \"hunter2\n\"\" \"hunter2\"\n\"app\" \"SCRAM-SHA-256$hunter2\"\n\
                    \"a\" \"x\"\n\"a\" \"hunter2\"";
        let (users, errors) = parse(text);
        assert_eq!(users.len(), 1);
        let lines: Vec<_> =
            errors.iter().filter_map(|error| error.split_once(':')).map(|(line, _)| line).collect();
        assert_eq!(lines, ["line 1", "line 2", "line 3", "line 4", "line 5", "line 7"]);
        assert!(!errors.concat().contains("hunter2"), "{errors:?}");
    }

    proptest! {
        #[test]
        fn any_name_and_password_come_back(name in "[^\r\n]{1,20}", password in "[^\r\n\0]{0,20}") {
            let quote = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
            let (users, errors) = parse(&format!("{} {}\n", quote(&name), quote(&password)));
            prop_assert!(errors.is_empty(), "{:?}", errors);
            prop_assert_eq!(users[&name].secret.clone(), Secret::from_stored(&password).ok());
        }

        #[test]
        fn no_text_panics(text in "[\"; a\n\\PC]{0,60}") {
            parse(&text);
        }
    }
}
