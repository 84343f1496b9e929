//! From a table to a [`Config`]: every key that is unknown or has a wrong value, not the first.
//!
//! Invariant: no message quotes a value. serde's messages do, so they are taken apart and only what
//! was expected is kept.

use serde_path_to_error::Segment;
use toml::{Table, Value, de::DeTable};

use super::problem::Problem;
use super::schema::{dotted, entry, find, nearest, schema};
use super::sections::Config;
use super::twice::Places;
use super::written::UNSET;

/// Nothing but `server.admin_listen`, where it can be found, whatever else is wrong with the text.
pub(super) fn admin_listen(text: &str) -> Table {
    let (root, _) = DeTable::parse_recoverable(text);
    let server = root.get_ref().get("server");
    let server = server.and_then(|server| server.get_ref().as_table());
    let written = server.and_then(|server| server.get("admin_listen"));
    let written = written.and_then(|written| written.get_ref().as_str());
    let entry = |key: &str, value| Table::from_iter([(key.to_owned(), value)]);
    let entry = |address: &str| entry("server", entry("admin_listen", address.into()).into());
    written.map(entry).unwrap_or_default()
}

/// The text as a table; else every place where it is not TOML.
pub(super) fn table(text: &str) -> Result<Table, Vec<Problem>> {
    // The parser's own messages are constant; only its full display would quote the line.
    let (_, mut errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let parsed = text.parse();
        return parsed.map_err(|error: toml::de::Error| {
            let remedy = NOT_TOML.to_owned();
            vec![syntax(text, &error, remedy)]
        });
    }
    errors.sort_by_key(|error| error.span().map_or(usize::MAX, |span| span.start));
    errors.dedup(); // of a section in another one's braces it tells twice
    let offset = |error: &toml::de::Error| error.span().map_or(text.len(), |span| span.start);
    let (duplicates, _): (Vec<_>, Vec<_>) = errors.iter().partition(|error| is_duplicate(error));
    let duplicates: Vec<_> = duplicates.into_iter().map(offset).collect();
    let mut remedies = Places::of(text).remedies(&duplicates).into_iter();
    let problem = |error| {
        let remedy = if is_duplicate(error) {
            remedies.next().flatten()?
        } else {
            NOT_TOML.to_owned()
        };
        Some(syntax(text, error, remedy))
    };
    Err(errors.iter().filter_map(problem).collect())
}

const NOT_TOML: &str =
    "correct this place; text stands in double quotes, a key with a slash as well";

/// Is it about something that stands somewhere else too?
fn is_duplicate(error: &toml::de::Error) -> bool {
    let message = error.message();
    message.starts_with("duplicate key") || message.starts_with("cannot extend value")
}

fn syntax(text: &str, error: &toml::de::Error, remedy: String) -> Problem {
    let offset = error.span().map_or(text.len(), |span| span.start);
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or(before).chars().count() + 1;
    Problem::new(
        format!("line {line}, column {column}"),
        format!("not TOML: {}", error.message()),
        remedy,
    )
}

/// The table as a configuration. Keys that are unknown or have a wrong value are reported and taken
/// out of the table, so that the rest of it can still be read and checked; what was taken out has
/// its default.
pub(super) fn config(table: &mut Table, problems: &mut Vec<Problem>) -> Config {
    let schema = schema();
    take_unknown(table, (&schema, &schema), &mut Vec::new(), problems);
    loop {
        let error = match serde_path_to_error::deserialize(Value::Table(table.clone())) {
            Ok(config) => return config,
            Err(error) => error,
        };
        let path = keys(error.path());
        let message = error.inner().message();
        let Some((path, value)) = take(table, &path) else {
            // Nothing left to take out: it cannot come here, and if it does, it must end.
            let remedy = "compare the file with config/gateway.toml";
            problems.push(Problem::new(dotted(&path), "it cannot be read", remedy));
            return Config::default();
        };
        let in_list = error
            .path()
            .iter()
            .any(|segment| matches!(segment, Segment::Seq { .. }));
        problems.push(wrong_value(&path, &value, in_list, message, &schema));
    }
}

/// Reports and takes out the keys that the schema does not have.
fn take_unknown(
    table: &mut Table,
    (known, schema): (&Table, &Table),
    path: &mut Vec<String>,
    problems: &mut Vec<Problem>,
) {
    let unknown: Vec<String> = table
        .keys()
        .filter(|key| entry(known, key).is_none())
        .cloned()
        .collect();
    for key in unknown {
        table.remove(&key);
        let remedy = remedy_for_unknown(path, &key, (known, schema));
        path.push(key);
        problems.push(Problem::new(dotted(path), "there is no such key", remedy));
        path.pop();
    }
    for (key, value) in table.iter_mut() {
        if let (Value::Table(inner), Some(Value::Table(known))) = (value, entry(known, key)) {
            path.push(key.clone());
            take_unknown(inner, (known, schema), path, problems);
            path.pop();
        }
    }
}

fn remedy_for_unknown(path: &[String], key: &str, (known, schema): (&Table, &Table)) -> String {
    if !path.is_empty() && schema.get(key).is_some_and(Value::is_table) {
        // As `server.commands = false` at the end of a file, where it belongs to the section above
        // it.
        return format!(
            "it is read as a key of [{}]: move it to the section [{key}], or above the first section of the file",
            dotted(path)
        );
    }
    let meant = nearest(key, known.keys().map(String::as_str));
    let lower = key.to_lowercase();
    let is_secret = ["secret", "password", "token"]
        .iter()
        .any(|word| lower.contains(word))
        || (lower.contains("key") && meant.is_none());
    let file = match path.first().map(String::as_str) {
        Some("tenants") => "secret_file",
        Some("callers") => "token_file",
        _ => "admin_token_file",
    };
    if is_secret && known.contains_key(file) && meant != Some(file) {
        return format!(
            "a secret never stands in this file: write it into one of its own, and name that one as {file}"
        );
    }
    if let Some(meant) = meant {
        return format!("did you mean {meant}?");
    }
    let known: Vec<&str> = known.keys().map(String::as_str).collect();
    format!("remove it; here may stand {}", known.join(", "))
}

/// The keys of a path; where it leads into a list, the list's own key is the last.
fn keys(path: &serde_path_to_error::Path) -> Vec<String> {
    let key = |segment: &Segment| match segment {
        Segment::Map { key } => Some(key.clone()),
        _ => None,
    };
    path.iter().map_while(key).collect()
}

/// Takes out the value at a path, or the last one on the way to it that exists.
fn take(table: &mut Table, path: &[String]) -> Option<(Vec<String>, Value)> {
    let (first, rest) = path.split_first()?;
    if let Some(Value::Table(inner)) = table.get_mut(first)
        && let Some((mut path, value)) = take(inner, rest)
    {
        path.insert(0, first.clone());
        return Some((path, value));
    }
    Some((vec![first.clone()], table.remove(first)?))
}

fn wrong_value(
    path: &[String],
    value: &Value,
    in_list: bool,
    message: &str,
    schema: &Table,
) -> Problem {
    let default = find(schema, path);
    let (reason, meant) = reason(value, in_list, message);
    let remedy = match (meant, default) {
        (Some(meant), _) => format!("did you mean \"{meant}\"?"),
        (None, Some(Value::Table(_))) => format!("make it a section: [{}]", dotted(path)),
        (None, Some(default)) if !matches!(default.as_str(), Some(UNSET | "")) => {
            format!(
                "write it like its default: {} = {default}",
                path.last().map_or("", String::as_str)
            )
        }
        _ => "config/gateway.toml explains it".to_owned(),
    };
    Problem::new(dotted(path), reason, remedy)
}

/// What is wrong with a value, and what may have been meant. serde says
/// `invalid type: string "the value", expected a duration`.
fn reason(value: &Value, in_list: bool, message: &str) -> (String, Option<String>) {
    let Some((found, expected)) = message.rsplit_once(", expected ") else {
        // Types of this module say it in constant words that begin so; what others say might quote
        // the value.
        let reason = match message {
            "invalid socket address syntax" => "it is not an IP address with its port",
            _ if message.starts_with("it ") || message.starts_with("its ") => message,
            _ => "it cannot be read",
        };
        return (reason.to_owned(), None);
    };
    let expected = plain(expected);
    if found.starts_with("unknown variant") {
        let words = expected.split('`').skip(1).step_by(2);
        let meant = value.as_str().and_then(|text| nearest(text, words));
        return (
            format!("it is not {}", expected.replace('`', "\"")),
            meant.map(str::to_owned),
        );
    }
    let kind = match value {
        Value::String(_) => "text",
        Value::Integer(_) => "a number",
        Value::Float(_) => "a number with a fraction",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date or time",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    };
    if in_list {
        return (format!("it holds something that is not {expected}"), None);
    }
    if found.starts_with("invalid type") {
        return (format!("it is {kind}, not {expected}"), None);
    }
    (format!("it is not {expected}"), None)
}

/// serde's words for what it expects, for people who do not write Rust.
fn plain(expected: &str) -> &str {
    match expected {
        "parsable string" | "an integer or string" => "a size such as \"64MiB\"",
        "a duration" => "a duration such as \"30s\"",
        "a sequence" => "a list",
        "a string" => "text in quotes",
        "a boolean" => "true or false",
        "socket address" => "an IP address with its port",
        "string only" => "one word in quotes",
        "path string" => "a path in quotes",
        "f32" | "f64" => "a number",
        _ if expected.starts_with("a nonzero") => "a whole number above 0",
        _ if expected.starts_with("struct ") || expected == "a map" => "a section",
        _ if matches!(expected, "usize" | "u64" | "u32" | "u16") => "a whole number",
        _ => expected,
    }
}
