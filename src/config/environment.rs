//! The environment's overrides: `LINKSFIELD_GATEWAY__SERVER__LISTEN` is `server.listen`.
//!
//! Single keys outside `routes` only, so that a deployment can vary a file by a line; lists and
//! routes are policy and belong into the file. Tenants and callers are those of the file, matched
//! without regard to case, `-` and `.` written as `_`. An empty value takes an optional key back.
//! `LINKSFIELD_GATEWAY_X` is not ours: Kubernetes sets such for a Service.

use std::{collections::BTreeMap, env, ffi::OsString};

use toml::{Table, Value};

use super::problem::{Problem, Warning};
use super::read;
use super::schema::{ANY, dotted, find, nearest, schema};
use super::sections::Config;
use super::written::UNSET;

const PREFIX: &str = "LINKSFIELD_GATEWAY__";

/// The whole environment. What is not UTF-8 is marked with U+FFFD.
pub(super) fn variables() -> impl Iterator<Item = (String, String)> {
    // Unlike `vars`, this does not panic at what is not UTF-8.
    env::vars_os().map(|(name, value)| {
        let text = |text: OsString| text.to_string_lossy().into_owned();
        (text(name), text(value))
    })
}

/// One variable, if it is set and UTF-8.
#[expect(
    clippy::disallowed_methods,
    reason = "the configuration is where the environment is read"
)]
pub(super) fn variable(name: &str) -> Option<String> {
    env::var(name).ok()
}

/// Which variable overrides a key.
pub(super) struct Override {
    pub(super) variable: String,
    path: Vec<String>,
}

/// What a variable stands for.
struct Key {
    path: Vec<String>,
    default: Value,
}

/// Lays the environment over the file's table. Returns which variable stands behind which key.
pub(super) fn overlay(
    table: &mut Table,
    environment: impl Iterator<Item = (String, String)>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Override> {
    let mut ours: Vec<_> = environment
        .filter(|(variable, _)| variable.starts_with(PREFIX))
        .collect();
    if ours.is_empty() {
        return BTreeMap::new();
    }
    ours.sort_unstable();
    let mut known = BTreeMap::new();
    collect(&schema(), Some(table), &mut Vec::new(), &mut known);

    let mut overridden = BTreeMap::new();
    for (variable, text) in ours {
        match known.get(&variable.to_uppercase()).map(Vec::as_slice) {
            None => problems.push(unknown(variable, &known)),
            Some([key]) if key.default.is_array() => problems.push(Problem::new(
                variable,
                format!(
                    "{} is a list; the environment overrides single keys only",
                    dotted(&key.path)
                ),
                "set it in the file",
            )),
            Some([key]) => {
                set(table, key, &text);
                let path = key.path.clone();
                overridden.insert(dotted(&path), Override { variable, path });
            }
            Some(several) => problems.push(Problem::new(
                variable,
                format!("{} keys of the file answer to this name", several.len()),
                "let the names of tenants and callers differ in more than case and punctuation",
            )),
        }
    }
    overridden
}

/// Every variable that could be set, for the names that the file has.
fn collect(
    known: &Table,
    table: Option<&Table>,
    path: &mut Vec<String>,
    found: &mut BTreeMap<String, Vec<Key>>,
) {
    for (key, default) in known {
        if path.is_empty() && key == "routes" {
            continue;
        }
        let names = match table {
            _ if key != ANY => vec![key.clone()],
            Some(table) => table.keys().cloned().collect(),
            None => Vec::new(),
        };
        for name in names {
            let inner = table
                .and_then(|table| table.get(&name))
                .and_then(Value::as_table);
            path.push(name);
            if let Value::Table(known) = default {
                collect(known, inner, path, found);
            } else {
                let key = Key {
                    path: path.clone(),
                    default: default.clone(),
                };
                found.entry(variable_of(path)).or_default().push(key);
            }
            path.pop();
        }
    }
}

/// The variable that overrides the key at a path.
pub fn variable_of<S: AsRef<str>>(path: &[S]) -> String {
    let name = |section: &S| section.as_ref().replace(['-', '.'], "_").to_uppercase();
    PREFIX.to_owned() + &path.iter().map(name).collect::<Vec<_>>().join("__")
}

/// The keys that the file sets, and that have another value by the environment. Whoever edits the
/// file must see that it does not count, above all where it is a brake.
pub(super) fn overruled(
    mut file: Table,
    config: &Config,
    overridden: &BTreeMap<String, Override>,
) -> Vec<Warning> {
    let overridden = overridden.iter();
    let written: Vec<_> = overridden
        .filter(|(_, by)| find(&file, &by.path).is_some())
        .collect();
    let mut wrong = Vec::new();
    let by_file = read::config(&mut file, &mut wrong);
    let differs = config.differs_in(&by_file);
    let is_other =
        |key: &String| differs.contains(key) || wrong.iter().any(|problem| problem.key == *key);
    let (on, on_by_file) = (config.brakes(), by_file.brakes());
    let is_slower = by_file
        .upstream
        .limits
        .is_slower_than(&config.upstream.limits);
    let is_brake = |key: &String| match key.as_str() {
        "upstream.limits.requests_per_second" => is_slower,
        _ => on_by_file.contains(key) && !on.contains(key),
    };
    let warning = |(key, by): (&String, &Override)| {
        let variable = &by.variable;
        let (what, remedy) = if is_brake(key) {
            (
                "the brake",
                "use another brake of docs/runbook.md now; take the variable away where the gateway is started, and restart it",
            )
        } else {
            (
                "the value",
                "take the variable away where the gateway is started, or have the file say the same",
            )
        };
        let reason = format!(
            "{what} of the file is NOT in effect: the environment variable {variable} overrides it"
        );
        Warning::new(key, reason, remedy)
    };
    let others = written.into_iter().filter(|(key, _)| is_other(key));
    others.map(warning).collect()
}

/// Is it meant to hold a secret, and not where one is? Whoever then takes the nearest key writes
/// the secret there.
fn is_for_a_secret(upper: &str, meant: Option<&str>) -> bool {
    let last = |variable: &str| variable.rsplit("__").next().unwrap_or_default().to_owned();
    let (key, meant) = (last(upper), meant.map(last).unwrap_or_default());
    let has_any = |words: &[&str]| words.iter().any(|word| key.contains(word));
    let says_where = meant.ends_with("_FILE") || meant.ends_with("_ENV") && has_any(&["ENV"]);
    let is_secret =
        has_any(&["SECRET", "PASSWORD", "TOKEN"]) || has_any(&["KEY"]) && meant.is_empty();
    is_secret && !says_where
}

fn unknown(variable: String, known: &BTreeMap<String, Vec<Key>>) -> Problem {
    let upper = variable.to_uppercase();
    let section = upper[PREFIX.len()..].split("__").next().unwrap_or_default();
    if section == "ROUTES" {
        return Problem::new(
            variable,
            "routes cannot be set by the environment",
            "set the route in the file",
        );
    }
    let reason = "no key answers to this variable";
    let meant = nearest(&upper, known.keys().map(String::as_str));
    if is_for_a_secret(&upper, meant) {
        let key = match section {
            "TENANTS" => "secret_file of the tenant",
            "CALLERS" => "token_file of the caller",
            "SERVER" => "server.admin_token_file",
            _ => "secret_file of a tenant",
        };
        let remedy = format!(
            "unset it: a secret never stands in a variable of the gateway's own; write it into a file, and name that one as {key}"
        );
        return Problem::new(variable, reason, remedy);
    }
    if let Some(meant) = meant {
        return Problem::new(
            variable,
            reason,
            format!("did you mean {meant}? Otherwise unset it"),
        );
    }
    let remedy = match section {
        "TENANTS" | "CALLERS" => format!(
            "write {PREFIX}{section}__NAME__KEY with a NAME that the file has: the environment changes its {}, it adds none",
            section.to_lowercase()
        ),
        _ => format!("write {PREFIX}SECTION__KEY, such as {PREFIX}SERVER__LISTEN, or unset it"),
    };
    Problem::new(variable, reason, remedy)
}

/// Puts the text in as the type that the key has by default; what does not fit stays text and is
/// told like any wrong value.
fn set(table: &mut Table, key: &Key, text: &str) {
    let Some((last, sections)) = key.path.split_last() else {
        return;
    };
    let mut inner = table;
    for section in sections {
        let next = inner
            .entry(section)
            .or_insert_with(|| Value::Table(Table::new()));
        match next {
            Value::Table(next) => inner = next,
            // A section of another type is a problem of its own.
            _ => return,
        }
    }
    if text.is_empty() && key.default.as_str() == Some(UNSET) {
        inner.remove(last);
        return;
    }
    let typed = match &key.default {
        Value::Integer(_) => text.parse().ok().map(Value::Integer),
        Value::Float(_) => text.parse().ok().map(Value::Float),
        Value::Boolean(_) => text.parse().ok().map(Value::Boolean),
        _ => None,
    };
    inner.insert(
        last.clone(),
        typed.unwrap_or_else(|| Value::String(text.to_owned())),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        [server]
        max_connections = 7
        [upstream]
        ca_file = "/ca.pem"
        [tenants.Acme-eu]
        access_code = "P1"
    "#;

    fn overlaid(pairs: &[(&str, &str)]) -> (Table, Vec<Problem>) {
        let mut table = FILE.parse().unwrap();
        let mut problems = Vec::new();
        let pairs = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        overlay(&mut table, pairs, &mut problems);
        (table, problems)
    }

    #[test]
    fn a_variable_overrides_its_key_with_the_keys_own_type() {
        let (table, problems) = overlaid(&[
            ("LINKSFIELD_GATEWAY__SERVER__LISTEN", "0.0.0.0:1"),
            ("LINKSFIELD_GATEWAY__SERVER__MAX_CONNECTIONS", "8"),
            ("LINKSFIELD_GATEWAY__SERVER__ALLOW_UNAUTHENTICATED", "true"),
            ("LINKSFIELD_GATEWAY__UPSTREAM__CA_FILE", ""),
            ("LINKSFIELD_GATEWAY__UPSTREAM__LIMITS__COMMAND_RESERVE", "1"),
            ("LINKSFIELD_GATEWAY__UPSTREAM__LIMITS__CONNECTIONS", "none"),
            ("LINKSFIELD_GATEWAY__SIGNING__VERSION", "3.0"),
            ("LINKSFIELD_GATEWAY__TENANTS__ACME_EU__ACCESS_CODE", "7"),
            ("LINKSFIELD_GATEWAY_SERVICE_HOST", "10.0.0.1"),
            ("LINKSFIELD_GATEWAY", "x"),
            ("PATH", "/bin"),
        ]);
        assert_eq!(problems, []);
        let expected: Table = r#"
            [server]
            listen = "0.0.0.0:1"
            max_connections = 8
            allow_unauthenticated = true
            [upstream.limits]
            command_reserve = 1.0
            connections = "none"
            [signing]
            version = "3.0"
            [tenants.Acme-eu]
            access_code = "7"
        "#
        .parse()
        .unwrap();
        assert_eq!(table, expected);
    }

    #[test]
    fn what_cannot_be_overridden_is_told_with_its_remedy() {
        for (variable, reason, remedy) in [
            (
                "LINKSFIELD_GATEWAY__SERVER__LISEN",
                "no key",
                "LINKSFIELD_GATEWAY__SERVER__LISTEN?",
            ),
            ("LINKSFIELD_GATEWAY__", "no key", "SECTION__KEY"),
            ("LINKSFIELD_GATEWAY__SERVER", "no key", "SECTION__KEY"),
            (
                "LINKSFIELD_GATEWAY__UPSTREAM__LANGUAGES",
                "a list",
                "in the file",
            ),
            (
                "LINKSFIELD_GATEWAY__ROUTES__X__KIND",
                "routes",
                "in the file",
            ),
            (
                "LINKSFIELD_GATEWAY__TENANTS__OTHERS__DEFAULT",
                "no key",
                "it adds none",
            ),
            (
                "LINKSFIELD_GATEWAY__TENANTS__ACME_EU__SECRET",
                "no key",
                "name that one as secret_file of the tenant",
            ),
            (
                "LINKSFIELD_GATEWAY__TENANTS__ACME_EU__SECRET_KEY",
                "no key",
                "name that one as secret_file of the tenant",
            ),
            (
                "LINKSFIELD_GATEWAY__TENANTS__OTHERS__Secret",
                "no key",
                "name that one as secret_file of the tenant",
            ),
            (
                "LINKSFIELD_GATEWAY__TENANTS__ACME_EU__PASSWORD",
                "no key",
                "name that one as secret_file of the tenant",
            ),
            (
                "LINKSFIELD_GATEWAY__TENANTS__ACME_EU__SECRET_FIEL",
                "no key",
                "did you mean LINKSFIELD_GATEWAY__TENANTS__ACME_EU__SECRET_FILE?",
            ),
            (
                "LINKSFIELD_GATEWAY__CALLERS__SHOP__TOKEN",
                "no key",
                "name that one as token_file of the caller",
            ),
            (
                "LINKSFIELD_GATEWAY__SERVER__ADMIN_TOKEN",
                "no key",
                "name that one as server.admin_token_file",
            ),
            (
                "LINKSFIELD_GATEWAY__SECRET",
                "no key",
                "a secret never stands in a variable",
            ),
        ] {
            let (table, problems) = overlaid(&[(variable, "hunter2")]);
            assert_eq!(table, FILE.parse().unwrap());
            let [problem] = problems.as_slice() else {
                panic!("{variable}: {problems:?}")
            };
            assert_eq!(problem.key, variable);
            assert!(
                !problem.remedy.contains("_ENV"),
                "who follows it writes a secret where a name belongs: {problem:?}"
            );
            assert!(!format!("{problem:?}").contains("hunter2"), "{problem:?}");
            assert!(problem.reason.contains(reason), "{problem:?}");
            assert!(problem.remedy.contains(remedy), "{problem:?}");
        }
    }
}
