//! Wrong values and unknown keys: each explained, none quoted.

use std::fmt::Write as _;

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

/// What is added to a sound file, and what the one problem's reason and remedy contain.
const WRONG_VALUES: &[(&str, &str, &str)] = &[
    ("[server]\nlisen = 1", "no such key", "did you mean listen?"),
    ("[tenant.x]", "no such key", "did you mean tenants?"),
    (
        "[log]\nserver.commands = false",
        "no such key",
        "it is read as a key of [log]: move it to the section [server], or above",
    ),
    (
        "[tenants.acme]\nupstream = { paused = true }",
        "no such key",
        "it is read as a key of [tenants.acme]: move it to the section [upstream]",
    ),
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

/// A text in which something stands twice, the line of its one problem, and what to do.
const TWICE: &[(&str, usize, &str)] = &[
    // A section as it is mostly written, without the key and with it.
    (
        "[server]\nlisten = 'hunter2'\n[log]\n[server]\ncommands = false\n",
        4,
        "[server] stands in line 1 already: put commands = … below line 1, and remove this second [server]",
    ),
    (
        "[server]\nlisten = 'hunter2'\ncommands = true\n[log]\n[server]\ncommands = false\n",
        5,
        "[server] stands in line 1 already: put commands = … in place of line 3, and remove this second [server]",
    ),
    (
        "[upstream.limits]\nqueue = 7\n[upstream.limits]\nqueue = 8\nrequests_per_second = 2\n",
        3,
        "[upstream.limits] stands in line 1 already, with less in it: move the lines below line 1 into this \
         [upstream.limits], keep the one that you want of a key that stands in both, and remove [upstream.limits] in line 1",
    ),
    (
        "[server]\n[log]\n[server]\n",
        3,
        "[server] stands in line 1 already: remove this second [server]",
    ),
    // In other spellings.
    (
        "[ tenants . acme ] # x\naccess_code = 'P1'\n\"commands\" = true\n[tenants.acme]\ncommands = false\n",
        4,
        "[tenants.acme] stands in line 1 already: put commands = … in place of line 3, and remove this second [tenants.acme]",
    ),
    (
        "[tenants.acme]\n[ \"tenants\" . 'acme' ] # x\ncommands = false\n",
        2,
        "[tenants.acme] stands in line 1 already: put commands = … below line 1, and remove this second [tenants.acme]",
    ),
    // A brake that was put before the whole section.
    (
        "[server]\ncommands = false\n[server]\nlisten = 'hunter2'\ncommands = true\n",
        3,
        "[server] stands in line 1 already, with less in it: move the lines below line 1 into this [server], keep the one \
         that you want of a key that stands in both, and remove [server] in line 1",
    ),
    (
        "server.commands = false\n[server]\nlisten = 'hunter2'\ncommands = true\n",
        2,
        "server.commands = … stands in line 1 already, with less in it: move that line into this [server], keep the one that \
         you want of a key that stands in both, and remove server.commands = … in line 1",
    ),
    // Values of several lines.
    (
        "routes.'/x'.invalidates = [\n'/a',\n]\n[routes.'/x']\nkind = 'command'\n",
        4,
        "routes.\"/x\".invalidates = … stands in line 1 already: put routes.\"/x\".kind = … below line 3, and remove this \
         [routes.\"/x\"]",
    ),
    (
        "[routes.'/x']\ninvalidates = [\n'/a', # b\n]\n[routes.'/x']\ninvalidates = ['/b']\n",
        5,
        "[routes.\"/x\"] stands in line 1 already: put invalidates = … in place of lines 2 to 4, and remove this second \
         [routes.\"/x\"]",
    ),
    (
        "[routes.'/a']\nkind = 'hunter2'\n[routes.\"\\u002fa\"]\nkind = 'refuse'\n",
        3,
        "[routes.\"/a\"] stands in line 1 already: put kind = … in place of line 2, and remove this second [routes.\"/a\"]",
    ),
    (
        "[server]\r\ncommands = true\r\n[server]\r\ncommands = false\r\n",
        3,
        "[server] stands in line 1 already: put commands = … in place of line 2, and remove this second [server]",
    ),
    (
        "[server]\nlisten = '''\n[server]\nhunter2\n'''\n[server]\ncommands = false\n",
        6,
        "[server] stands in line 1 already: put commands = … below line 1, and remove this second [server]",
    ),
    // In braces.
    (
        "server = { listen = 'hunter2' }\n[log]\n[server]\ncommands = false\n",
        3,
        "server = { … } stands in line 1 already: put commands = … into the braces in line 1, and remove this [server]",
    ),
    (
        "server = { commands = true }\n[server]\ncommands = false\n",
        2,
        "server = { … } stands in line 1 already: put commands = … in place of that in the braces in line 1, and remove this \
         [server]",
    ),
    (
        "upstream = { limits = { queue = 7 } }\n[upstream.limits]\nrequests_per_second = 2\n",
        2,
        "limits = { … } stands in line 1 already: put requests_per_second = … into the braces in line 1, and remove this \
         [upstream.limits]",
    ),
    (
        "upstream = { paused = false }\n[upstream.limits]\nrequests_per_second = 2\n",
        2,
        "upstream = { … } stands in line 1 already: put limits.requests_per_second = … into the braces in line 1, and remove \
         this [upstream.limits]",
    ),
    (
        "tenants.acme = { commands = true }\ntenants.acme.commands = false\n",
        2,
        "commands stands in line 1 already: keep the one that you want, and remove the other",
    ),
    (
        "[tenants.acme]\ncommands = true\n[tenants]\nacme = { commands = false, weight = 2 }\n",
        4,
        "[tenants.acme] stands in line 1 already: put commands = … in place of line 2, put weight = … below line 1, and \
         remove this acme = { … }",
    ),
    (
        "server = { commands = true, commands = false }\n",
        1,
        "commands stands twice in line 1: remove one of the two",
    ),
    (
        "server = {\ncommands = true,\ncommands = false,\n}\n",
        3,
        "commands stands in line 2 already: keep the one that you want, and remove the other",
    ),
    // Dotted.
    (
        "server.listen = 'hunter2'\n[server]\ncommands = false\n",
        2,
        "server.listen = … stands in line 1 already: put server.commands = … below line 1, and remove this [server]",
    ),
    (
        "server.commands = true\n[server]\ncommands = false\n",
        2,
        "server.commands = … stands in line 1 already: put server.commands = … in place of line 1, and remove this [server]",
    ),
    (
        "server.commands = true\nserver . \"commands\" = false\n",
        2,
        "server.commands stands in line 1 already: keep the one that you want, and remove the other",
    ),
    (
        "[upstream]\nlimits.queue = 7\n[upstream.limits]\nrequests_per_second = 2\n",
        3,
        "limits.queue = … stands in line 2 already: put limits.requests_per_second = … below line 2, and remove this \
         [upstream.limits]",
    ),
    (
        "[tenants.acme]\naccess_code = 'hunter2'\n[tenants]\nacme.commands = false\n",
        4,
        "[tenants.acme] stands in line 1 already: put commands = … below line 1, and remove this line",
    ),
    (
        "[tenants.acme]\ncommands = true\n[tenants]\nacme.commands = false\n",
        4,
        "commands stands in line 2 already: keep the one that you want, and remove the other",
    ),
    // A list of sections, which none is.
    (
        "[server]\ncommands = true\n[[server]]\ncommands = false\n",
        3,
        "[server] stands in line 1 already: put commands = … in place of line 2, and remove this [[server]]",
    ),
    (
        "[[server]]\ncommands = true\n[server]\ncommands = false\n",
        3,
        "[[server]] stands in line 1 already: put commands = … in place of line 2, make line 1 [server], and remove this \
         [server]",
    ),
    // A key.
    (
        "[server]\ncommands = true\ncommands=false\n",
        3,
        "commands stands in line 2 already: keep the one that you want, and remove the other",
    ),
    (
        "[tenants.a]\ncommands = true\n[server]\ncommands = true\ncommands = false\n",
        5,
        "commands stands in line 4 already: keep the one that you want, and remove the other",
    ),
    // What is no section, and what is in a list.
    (
        "[upstream]\nlimits = 'hunter2'\n[upstream.limits]\nqueue = 7\n",
        3,
        "limits has a value in line 2 already: remove one of the two",
    ),
    (
        "tenants = ['hunter2']\n[tenants.acme]\ncommands = false\n",
        2,
        "tenants has a value in line 1 already: remove one of the two",
    ),
    (
        "a = [\n['hunter2', { b = 1 }],\n['hunter2', { b = 1, b = 2 }],\n]\n",
        3,
        "a section and a key stand once: put the line under the section that is there, and remove the other",
    ),
];

#[test]
fn a_section_or_a_key_that_stands_twice_is_told_where_its_line_belongs() {
    for (text, line, remedy) in TWICE {
        let found = problems(text);
        let [problem] = found.as_slice() else {
            panic!("{text}{found:#?}")
        };
        let place = format!("line {line}, column ");
        assert!(problem.key.starts_with(&place), "{text}{problem:#?}");
        assert_eq!(problem.remedy, *remedy, "{text}");
        assert!(!format!("{found:?}").contains("hunter2"), "{found:#?}");
    }
}

#[test]
fn each_of_several_that_stand_twice_is_told() {
    let text = "[server]\ncommands = true\n[log]\nlevel = 'info'\n[server]\ncommands = false\ncommands = false\n[log]\n\
                level = 'warn'\n[server]\n";
    let found = problems(text);
    let line = |problem: &Problem| problem.key.split_once(',').unwrap().0.to_owned();
    // The keys of lines 6, 7 and 9 are told with their sections.
    assert_eq!(
        found.iter().map(line).collect::<Vec<_>>(),
        ["line 5", "line 8", "line 10"]
    );
}

proptest! {
    /// Whatever is pasted into whatever: there is no panic, and a line that is named is one before
    /// it.
    #[test]
    fn what_stands_twice_is_told_by_a_line_of_before(pieces in vec(select(&[
        "[server]", "[ server ]", "[[server]]", "[server.a]", "[\"server\".'a']", "[", "]", "server = {", "server = { a = 1 }", "}",
        "server.a = 1", "server.a.b = 1", "a = 1", "a = { b = 1, b = 2 }", "a.b = [", "b = 1,", "'b' = \"", "# é", "'\u{2028}'", "\u{0}",
    ]), 0..12), joint in select(&["\n", "\r\n", " "])) {
        for problem in problems(&pieces.join(joint)) {
            let Some(line) = problem.key.strip_prefix("line ") else { continue };
            let line: usize = line.split(',').next().unwrap().parse().unwrap();
            let named = problem.remedy.split(" line ").skip(1);
            for named in named.filter_map(|rest| rest.split(|it: char| !it.is_ascii_digit()).next()?.parse::<usize>().ok()) {
                prop_assert!((1..=line).contains(&named), "{problem:?}");
            }
        }
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
