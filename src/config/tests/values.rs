//! Wrong values and unknown keys: each explained, none quoted.

use std::fmt::Write as _;

use super::*;

/// What is added to a sound file, and what the one problem's reason and remedy contain.
const WRONG_VALUES: &[(&str, &str, &str)] = &[
    ("[server]\nlisen = 1", "no such key", "did you mean listen?"),
    ("[tenant.x]", "no such key", "did you mean tenants?"),
    (
        "[tenants.acme]\nsecret = 'x'",
        "no such key",
        "name that one as secret_file",
    ),
    (
        "[tenants.acme]\nsecret_key = 'x'",
        "no such key",
        "name that one as secret_file",
    ),
    (
        "[tenants.acme]\nsecretfile = 'x'",
        "no such key",
        "did you mean secret_file?",
    ),
    (
        "[callers.x]\ntoken = 'x'\ntoken_file = 'y'\ntenants = ['acme']",
        "no such key",
        "as token_file",
    ),
    (
        "[cache]\nwhatever = 1",
        "no such key",
        "here may stand max_size",
    ),
    (
        "[server]\nlisten = 'localhost:1'",
        "not an IP address with its port",
        "listen = \"127.0.0.1:6180\"",
    ),
    (
        "[server]\nlisten = 6180",
        "it is a number, not",
        "listen = \"127.0.0.1:6180\"",
    ),
    (
        "[server]\nmax_connections = 0",
        "not a whole number above 0",
        "max_connections = 10000",
    ),
    (
        "[server]\nmax_connections = 'two'",
        "it is text, not a whole number above 0",
        "max_connections = 10000",
    ),
    (
        "[server]\nmax_body = 'much'",
        "not a size such as",
        "max_body = \"1MiB\"",
    ),
    (
        "[server]\nmax_body = true",
        "it is true or false, not a size",
        "max_body = \"1MiB\"",
    ),
    (
        "[server]\nidle_timeout = 'x'",
        "not a duration such as",
        "idle_timeout = \"2m\"",
    ),
    (
        "[server]\nidle_timeout = 5",
        "it is a number, not a duration",
        "idle_timeout = \"2m\"",
    ),
    (
        "[server]\nallow_unauthenticated = 1",
        "it is a number, not true or false",
        "= false",
    ),
    (
        "[server]\nunlisted_paths = 'refuze'",
        "not \"forward\" or \"refuse\"",
        "did you mean \"refuse\"?",
    ),
    (
        "[server]\nunlisted_paths = 3",
        "it is a number, not one word in quotes",
        "unlisted_paths = \"forward\"",
    ),
    (
        "[signing]\nempty = 'nul_only'",
        "not one of \"all\", \"none\", \"null_only\"",
        "did you mean \"null_only\"?",
    ),
    (
        "[upstream]\nbase_url = 'https://u:p@h'",
        "user name or password",
        "config/gateway.toml",
    ),
    (
        "[upstream]\nca_file = 3",
        "it is a number, not a path",
        "config/gateway.toml",
    ),
    (
        "[upstream]\nlanguages = 'en'",
        "it is text, not a list",
        "languages = [\"zh-CN\", \"en-US\"]",
    ),
    (
        "[upstream]\nlanguages = [1]",
        "holds something that is not text",
        "languages = [",
    ),
    (
        "[upstream.limits]\nconnections = 0",
        "above 0 or \"none\"",
        "connections = 3",
    ),
    (
        "[upstream.limits]\nconnections = 'nine'",
        "above 0 or \"none\"",
        "connections = 3",
    ),
    (
        "[upstream.limits]\nday = 'monday'",
        "neither \"rolling\" nor",
        "day = \"rolling\"",
    ),
    (
        "[upstream.limits]\nqueue = -1",
        "whole number",
        "queue = 200",
    ),
    (
        "[upstream]\nlimits = 3",
        "it is a number, not a section",
        "[upstream.limits]",
    ),
    ("tenants = 'x'", "it is text, not a section", "[tenants]"),
];

#[test]
fn a_wrong_value_is_explained_without_being_quoted() {
    for (addition, reason, remedy) in WRONG_VALUES {
        let mut table: Table = MINIMAL.parse().unwrap();
        merge(&mut table, addition.parse().unwrap());
        let found = problems(&table.to_string());
        let [problem] = found.as_slice() else {
            panic!("{addition}: {found:#?}")
        };
        assert!(problem.reason.contains(reason), "{addition}: {problem:?}");
        assert!(problem.remedy.contains(remedy), "{addition}: {problem:?}");
    }
}

#[test]
fn every_problem_is_told_at_once() {
    let text = r#"
        colour = "red"
        [server]
        listen = "localhost:6180"
        lisen = "127.0.0.1:1"
        worker_threads = 0
        max_body = "much"
        idle_timeout = "0s"
        unlisted_paths = "forwards"
        allow_unauthenticated = "yes"
        [log]
        level = "loud"
        [upstream]
        base_url = "ftp://vendor.example"
        languages = ["zh-CN", 3]
        [upstream.limits]
        connections = 3
        instances = 4
        requests_per_day = 0
        command_reserve = 1.5
        [signing]
        empty = "everything"
        [cache]
        max_size = "1 potato"
        [callers.billing]
        tenants = ["acne"]
        [tenants.acme]
        acces_code = "P1"
        [routes."/a"]
        fresh_for = "1s"
        [routes."/b/../c"]
        kind = "comand"
        [route]
    "#;
    let expected = [
        "callers.billing.token_file",
        "cache.max_size",
        "callers.billing.tenants",
        "colour",
        "log.level",
        "route",
        "routes.\"/a\".kind",
        "routes.\"/b/../c\".kind",
        "server.allow_unauthenticated",
        "server.idle_timeout",
        "server.lisen",
        "server.listen",
        "server.max_body",
        "server.unlisted_paths",
        "server.worker_threads",
        "signing.empty",
        "tenants.acme.acces_code",
        "tenants.acme.access_code",
        "tenants.acme.secret_file",
        "upstream.base_url",
        "upstream.languages",
        "upstream.limits.command_reserve",
        "upstream.limits.connections",
        "upstream.limits.requests_per_day",
    ];
    let found = problems(text);
    for key in expected {
        let count = found.iter().filter(|problem| problem.key == key).count();
        assert_eq!(count, 1, "{key} in {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    assert!(
        found
            .iter()
            .all(|problem| !problem.reason.is_empty() && !problem.remedy.is_empty())
    );
}

#[test]
fn a_syntax_error_tells_its_place_and_nothing_of_the_line() {
    let found = problems("[server]\nlisten = \"127.0.0.1:1\"\nsecret = hunter2\n");
    assert_eq!(found[0].key, "line 3, column 10");
    assert!(found[0].reason.starts_with("not TOML: "));
    // Every one of them, and the end of the text has a place too.
    let found = problems("a = hunter2\nb = 1\nb = 2\n[server\nc = \"hunter2");
    assert!(found.len() >= 3, "{found:#?}");
    assert!(!format!("{found:?}").contains("hunter2"));
}

#[test]
fn a_section_or_a_key_that_stands_twice_is_told_where_its_line_belongs() {
    for (text, place, remedy) in [
        (
            "[server]\n[log]\n[server]\ncommands = false\n",
            "line 3",
            "[server] stands in line 1 already",
        ),
        (
            "[server] # ours\n[log]\n  [server]\ncommands = false\n",
            "line 3",
            "[server] stands in line 1 already",
        ),
        (
            "[server]\ncommands = true\ncommands=false\n",
            "line 3",
            "commands stands in line 2 already",
        ),
        (
            "[tenants.a]\ncommands = true\n[server]\ncommands = true\ncommands = false\n",
            "line 5",
            "commands stands in line 4 already",
        ),
        (
            "[routes.\"/a\"]\n[routes.\"/a\"]\nkind = 'refuse'\n",
            "line 2",
            "[routes.\"/a\"] stands in line 1 already",
        ),
        (
            "server.commands = true\nserver.commands = false\n",
            "line 2",
            "server.commands stands in line 1 already",
        ),
        (
            "server = { commands = true, commands = false }\n",
            "line 1",
            "stand once",
        ),
        ("[ server ]\n[server]\n", "line 2", "stand once"),
        (
            "a = [\n['hunter2', { b = 1 }],\n['hunter2', { b = 1, b = 2 }],\n]\n",
            "line 3",
            "stand once",
        ),
    ] {
        let found = problems(text);
        assert!(found[0].key.starts_with(place), "{found:#?}");
        assert!(found[0].remedy.contains(remedy), "{found:#?}");
        assert!(!format!("{found:?}").contains("hunter2"), "{found:#?}");
    }
}

#[test]
fn no_message_quotes_a_value() {
    const MARK: &str = "s3cr3t-hunter2";
    let mut leaves = Vec::new();
    collect_leaves(&schema(), &mut Vec::new(), &mut leaves);
    let mut checked = 0;
    for (path, _) in &leaves {
        let name = if path[0] == "routes" { "/x" } else { "acme" };
        let path: Vec<_> = path
            .iter()
            .map(|key| {
                if key == ANY {
                    name.to_owned()
                } else {
                    key.clone()
                }
            })
            .collect();
        let (last, section) = path.split_last().unwrap();
        let mark = Value::from(MARK);
        let values = [
            mark.to_string(),
            format!("[{mark}]"),
            format!("{{ x = {mark} }}"),
            MARK.to_owned(),
            format!("{mark} {MARK}"),
        ];
        for value in values {
            for key in [last.clone(), format!("{last}x"), "secret".to_owned()] {
                let mut text = String::new();
                let section = dotted(section);
                writeln!(text, "[{section}]\n{key} = {value}").unwrap();
                if let Err(problems) = parse(&text) {
                    let shown = format!("{problems}{problems:?}");
                    assert!(!shown.contains(MARK), "{text}\n{shown}");
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 500, "{checked}");
}
