//! The configuration as a whole: the shipped file, every problem at once, nothing secret in any
//! message.

mod brakes;
mod rules;
mod secrets;
mod values;

use std::collections::BTreeMap;
use std::iter;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use toml::{Table, Value};

use super::schema::{ANY, schema};
use super::written::UNSET;
use super::*;
use crate::signing::form::Signing;

const SHIPPED: &str = include_str!("../../config/gateway.toml");

/// The smallest file that is complete.
const MINIMAL: &str = r#"
    [upstream]
    base_url = "https://vendor.example/v4"
    [upstream.codes]
    bad_signature = ["9403"]
    [tenants.acme]
    access_code = "P1"
    secret_file = "/secret"
"#;

fn parse(text: &str) -> Result<(Config, Vec<Warning>), Problems> {
    Config::parse(text, "a.toml", iter::empty())
}

fn problems(text: &str) -> Vec<Problem> {
    parse(text).map_or_else(|problems| problems.problems, |_| Vec::new())
}

/// The minimal file with some more in it; sections of the minimal file are continued.
fn with(addition: &str) -> String {
    let mut table: Table = MINIMAL.parse().unwrap();
    merge(&mut table, addition.parse().unwrap());
    table.to_string()
}

fn merge(table: &mut Table, other: Table) {
    for (key, value) in other {
        match (table.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(other)) => merge(inner, other),
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
}

#[test]
fn the_shipped_file_is_sound() {
    let (config, warnings) = parse(SHIPPED).unwrap();
    assert_eq!(config.routes.len(), 10);
    assert_eq!(config.routes["/package/queryOrder"].kind, Kind::Query);
    assert!(config.routes["/package/queryOrder"].pages);
    let keys: Vec<_> = warnings
        .iter()
        .map(|warning| warning.key.as_str())
        .collect();
    assert_eq!(keys, ["upstream.codes.bad_signature"]);
    assert_eq!(config.server, Server::default());
    assert_eq!(config.signing, Signing::default());
    assert_eq!(config.upstream.limits, Limits::default());
}

#[test]
fn the_shipped_file_shows_every_key_with_its_default() {
    let uncommented: String = SHIPPED
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if !key.is_empty() && !key.starts_with(' ') => format!("{key}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let file: Table = uncommented.parse().unwrap();
    let mut leaves = Vec::new();
    collect_leaves(&schema(), &mut Vec::new(), &mut leaves);
    for (path, mut default) in leaves {
        if path == ["server", "worker_threads"] {
            default = 2.into(); // where there are so many cores
        }
        let found = values_at(&file, &path);
        assert!(!found.is_empty(), "{} is missing", dotted(&path));
        let has_default =
            !path.contains(&ANY.to_owned()) && !matches!(default.as_str(), Some("" | UNSET));
        assert!(
            !has_default || found == [&default],
            "{} has another default",
            dotted(&path)
        );
    }
}

fn collect_leaves(table: &Table, path: &mut Vec<String>, leaves: &mut Vec<(Vec<String>, Value)>) {
    for (key, value) in table {
        path.push(key.clone());
        match value {
            Value::Table(inner) => collect_leaves(inner, path, leaves),
            _ => leaves.push((path.clone(), value.clone())),
        }
        path.pop();
    }
}

fn values_at<'a>(table: &'a Table, path: &[String]) -> Vec<&'a Value> {
    let (first, rest) = path.split_first().unwrap();
    let found = table
        .iter()
        .filter(|(key, _)| first == ANY || *key == first)
        .map(|(_, value)| value);
    if rest.is_empty() {
        return found.collect();
    }
    found
        .filter_map(Value::as_table)
        .flat_map(|inner| values_at(inner, rest))
        .collect()
}

#[test]
fn the_effective_configuration_is_read_back_as_the_same() {
    let more = with(
        r#"
        [server]
        max_body = 1500000
        admin_token_file = "a \"quoted\" path"
        [upstream]
        timeout = "1m 30s 5ms"
        [upstream.limits]
        requests_per_day = "none"
        day = "08:30-03:30"
        [signing]
        empty = "also_zero_and_false"
        [callers."b.c"]
        token_file = "t"
        tenants = ["acme"]
        [routes."/q"]
        kind = "query"
        [routes."/c"]
        kind = "command"
        invalidates = []
        [routes."/r"]
        kind = "refuse"
        "#,
    );
    for text in [MINIMAL, SHIPPED, &more] {
        let (config, _) = parse(text).unwrap();
        let effective = config.effective();
        let (again, _) =
            parse(&effective).unwrap_or_else(|problems| panic!("{effective}\n{problems}"));
        assert_eq!(again, config);
        assert_eq!(again.effective(), effective);
        let section = effective
            .lines()
            .filter(|line| line.starts_with("# admin_token_file is not set"));
        assert_eq!(
            section.count(),
            usize::from(config.server.admin_token_file.is_none())
        );
        for word in [
            "max_connections = 10000",
            "queue = 200",
            "output = \"base64\"",
            "commands = true",
        ] {
            assert!(effective.contains(word), "{word} in {effective}");
        }
    }
}

#[test]
fn the_environment_is_checked_like_the_file_and_named() {
    let env = |name: &str, value: &str| iter::once((name.to_owned(), value.to_owned()));
    let parse = |env| Config::parse(MINIMAL, "a.toml", env);

    let (config, _) = parse(env("LINKSFIELD_GATEWAY__SERVER__WORKER_THREADS", "7")).unwrap();
    assert_eq!(config.server.worker_threads, NonZeroUsize::new(7).unwrap());
    let (config, _) = parse(env("LINKSFIELD_GATEWAY__SERVER__IDLE_TIMEOUT", "3m")).unwrap();
    assert_eq!(config.server.idle_timeout, Duration::from_secs(180));

    for (name, value, key) in [
        (
            "LINKSFIELD_GATEWAY__SERVER__WORKER_THREADS",
            "many",
            "server.worker_threads",
        ),
        (
            "LINKSFIELD_GATEWAY__UPSTREAM__LIMITS__INSTANCES",
            "9",
            "upstream.limits.connections",
        ),
        (
            "LINKSFIELD_GATEWAY__UPSTREAM__BASE_URL",
            "http://a.example",
            "upstream.base_url",
        ),
        (
            "LINKSFIELD_GATEWAY__SERVER__NO_SUCH",
            "1",
            "LINKSFIELD_GATEWAY__SERVER__NO_SUCH",
        ),
    ] {
        let found = parse(env(name, value)).unwrap_err().problems;
        let [problem] = found.as_slice() else {
            panic!("{name}: {found:#?}")
        };
        assert_eq!(problem.key, key);
        // The limit is the file's, and one variable has made it too small.
        let is_named = problem.reason.contains(name) || problem.key == name;
        assert_eq!(
            is_named,
            key != "upstream.limits.connections",
            "{problem:?}"
        );
    }
}

#[test]
fn the_arithmetic_says_what_each_tenant_gets() {
    let mut config = Config::default();
    let with = |weight| Tenant {
        weight: NonZeroU32::new(weight).unwrap(),
        ..Tenant::default()
    };
    config.tenants.insert("acme".into(), with(1));
    assert!(!config.arithmetic().contains("weight"));
    config.tenants.insert("zeta".into(), with(1));
    assert!(config.arithmetic().contains("\n  1 of 2 calls\n"));
    config.tenants.insert("beta".into(), with(3));
    let lines = config.arithmetic();
    assert!(
        lines.contains("\n  acme: 1 of 5 calls\n  beta: 3 of 5 calls\n"),
        "{lines}"
    );
}

#[test]
fn the_arithmetic_says_what_the_limits_amount_to() {
    let text =
        with("[upstream.limits]\ninstances = 3\n[routes.'/q']\nkind = 'query'\nfresh_for = '30s'");
    let (config, _) = parse(&text).unwrap();
    let lines = config.arithmetic();
    for line in [
        "requests_per_second: 10 / 3 = 3",
        "connections: 3 / 3 = 1",
        "requests_per_day: 5000 / 3 = 1666",
        "/q: 2880 (fresh_for = \"30s\"); 192 % of the day's queries",
        "answers in 5 s: 0.2 (bound by connections)",
        "memory for pages: 136.0 MiB at most = 64.0 MiB (cache.max_size) + 8.0 MiB (upstream.max_answer) x (1 connections + 2 x 4 crawls)",
    ] {
        assert!(lines.contains(line), "{line} in\n{lines}");
    }
    let (config, _) = parse(MINIMAL).unwrap();
    assert!(
        config
            .arithmetic()
            .contains("answers in 5 s: 0.6 (bound by connections)")
    );
    let (config, _) = parse(&with("[upstream]\nhttp2 = true")).unwrap();
    let lines = config.arithmetic();
    for line in [
        "http2: a connection carries up to 100 calls at a time where the vendor takes HTTP/2",
        "the least of: calls at a time / the vendor's answer time",
        "answers in 5 s: 1.7 (bound by requests_per_second)",
        "x (3 connections x 100 + 2 x 4 crawls)",
    ] {
        assert!(lines.contains(line), "{line} in\n{lines}");
    }
    let none = "[upstream.limits]\nrequests_per_second = 'none'\nconnections = 'none'\nrequests_per_day = 'none'";
    assert!(
        parse(&with(none))
            .unwrap()
            .0
            .arithmetic()
            .contains("requests_per_day: none")
    );
}
