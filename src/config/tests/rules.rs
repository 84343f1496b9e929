//! The rules across fields: what they refuse, what they allow, what they doubt.

use super::*;

/// What is added to a sound file, the key of its one problem, and what the remedy contains.
const RULES: &[(&str, &str, &str)] = &[
    (
        "[upstream]\nbase_url = 'http://vendor.example'",
        "upstream.base_url",
        "allow_plaintext",
    ),
    (
        "[server]\nlisten = '0.0.0.0:6180'",
        "server.listen",
        "token_file",
    ),
    (
        "[server]\nlisten = '[::]:6180'",
        "server.listen",
        "allow_unauthenticated",
    ),
    (
        "[server]\nadmin_listen = '127.0.0.1:6180'",
        "server.admin_listen",
        "of its own",
    ),
    (
        "[server]\nadmin_listen = '0.0.0.0:6180'",
        "server.admin_listen",
        "of its own",
    ),
    (
        "[server]\nrequest_timeout = '0s'",
        "server.request_timeout",
        "longer",
    ),
    (
        "[server]\nrequest_timeout = '400days'",
        "server.request_timeout",
        "a year",
    ),
    (
        "[upstream]\nbase_url = 'https://h/x'\n[routes.'/x/order']\nkind = 'refuse'",
        "routes.\"/x/order\"",
        "without it",
    ),
    ("[server]\nmax_body = 0", "server.max_body", "larger"),
    ("[server]\nmax_body = '2GiB'", "server.max_body", "1GiB"),
    (
        "[server]\nmax_connections = 2000000",
        "server.max_connections",
        "at most",
    ),
    (
        "[server]\nadmin_token_file = ''",
        "server.admin_token_file",
        "leave the key out",
    ),
    (
        "[server]\nstate_dir = ''",
        "server.state_dir",
        "leave the key out",
    ),
    (
        "[idempotency]\nwindow = '0s'",
        "idempotency.window",
        "longer",
    ),
    (
        "[idempotency]\nmax_keys = 2000000",
        "idempotency.max_keys",
        "at most",
    ),
    (
        "[idempotency]\nmax_size = 0",
        "idempotency.max_size",
        "larger",
    ),
    ("[log]\nlevel = ''", "log.level", "info"),
    ("[log]\nlevel = 'info,hyper=loud'", "log.level", "info"),
    (
        "[upstream]\nlanguages = []",
        "upstream.languages",
        "at least one",
    ),
    (
        "[upstream]\nlanguages = ['en_US']",
        "upstream.languages",
        "en-US",
    ),
    (
        "[upstream]\nlanguages = ['en-US', 'EN-us']",
        "upstream.languages",
        "once",
    ),
    (
        "[upstream.limits]\ninstances = 4",
        "upstream.limits.connections",
        "shared gateway",
    ),
    (
        "[upstream.limits]\ncommand_reserve = -0.1",
        "upstream.limits.command_reserve",
        "0.1",
    ),
    (
        "[upstream.limits]\ncommand_reserve = nan",
        "upstream.limits.command_reserve",
        "0.1",
    ),
    (
        "[upstream.codes]\nthrottled = ['9403']",
        "upstream.codes.throttled",
        "one meaning",
    ),
    (
        "[upstream.codes]\ncaller_error = ['7']\ntransient = ['7']",
        "upstream.codes.transient",
        "one meaning",
    ),
    (
        "[upstream.codes]\ntransient = ['0000']",
        "upstream.codes.transient",
        "failures",
    ),
    ("[signing]\nversion = ''", "signing.version", "2.0"),
    (
        "[tenants.acme]\nweight = 1001",
        "tenants.acme.weight",
        "1000 at most",
    ),
    (
        "[tenants.acme]\nrequests_per_second = 1\n[upstream.limits]\ninstances = 2",
        "tenants.acme.requests_per_second",
        "shared gateway",
    ),
    (
        "[tenants.acme]\naccess_code = ''",
        "tenants.acme.access_code",
        "partner code",
    ),
    (
        "[tenants.acme]\naccess_code = ' P1'",
        "tenants.acme.access_code",
        "alone",
    ),
    (
        "[tenants.acme]\nsecret_env = 'X'",
        "tenants.acme.secret_env",
        "secret_file",
    ),
    (
        "[tenants.b]\naccess_code = 'P1'\nsecret_file = 'x'",
        "tenants.b.access_code",
        "once",
    ),
    (
        "[tenants.b]\naccess_code = 'P2'",
        "tenants.b.secret_file",
        "secret_file",
    ),
    (
        "[tenants.b]\naccess_code = 'P2'\nsecret_env = 'a b'",
        "tenants.b.secret_env",
        "never the secret",
    ),
    (
        "[tenants.acme]\ndefault = true\n[tenants.b]\naccess_code = 'P2'\nsecret_file = 'x'\ndefault = true",
        "tenants.b.default",
        "one default",
    ),
    (
        "[tenants.'a b']\naccess_code = 'P2'\nsecret_file = 'x'",
        "tenants.\"a b\"",
        "letters",
    ),
    (
        "[tenants.other]\naccess_code = 'P2'\nsecret_file = 'x'",
        "tenants.other",
        "another",
    ),
    ("[callers.c]\ntoken_file = 'x'", "callers.c.tenants", "list"),
    (
        "[callers.c]\ntoken_file = 'x'\ntenants = ['acmee']",
        "callers.c.tenants",
        "did you mean \"acme\"?",
    ),
    (
        "[callers.c]\ntenants = ['acme']",
        "callers.c.token_file",
        "name the file",
    ),
    (
        "[routes.a]\nkind = 'query'",
        "routes.a",
        "/package/queryOrder",
    ),
    (
        "[routes.'/a/../b']\nkind = 'query'",
        "routes.\"/a/../b\"",
        "/package/queryOrder",
    ),
    (
        "[routes.'/a/b/']\nkind = 'query'",
        "routes.\"/a/b/\"",
        "documentation",
    ),
    (
        "[routes.'/a%20b']\nkind = 'query'",
        "routes.\"/a%20b\"",
        "documentation",
    ),
    (
        "[routes.'/a;x']\nkind = 'query'",
        "routes.\"/a;x\"",
        "documentation",
    ),
    ("[routes.'/a']", "routes.\"/a\".kind", "query"),
    (
        "[routes.'/a']\nkind = 'query'\ninvalidates = []",
        "routes.\"/a\".invalidates",
        "command",
    ),
    (
        "[routes.'/a']\nkind = 'query'\nidempotency = 'optional'",
        "routes.\"/a\".idempotency",
        "command",
    ),
    (
        "[routes.'/a']\nkind = 'command'\npages = true",
        "routes.\"/a\".pages",
        "query",
    ),
    // The longest that can be written: a sum with it would overflow.
    (
        "[routes.'/a']\nkind = 'query'\nfresh_for = '18446744073709551615s'\nstale_for = '1s'",
        "routes.\"/a\".fresh_for",
        "a year",
    ),
    (
        "[routes.'/a']\nkind = 'query'\ntimeout = '0s'",
        "routes.\"/a\".timeout",
        "longer",
    ),
    (
        "[routes.'/a']\nkind = 'command'\ninvalidates = ['/b']",
        "routes.\"/a\".invalidates",
        "query",
    ),
    (
        "[routes.'/a']\nkind = 'command'\ninvalidates = ['/a']",
        "routes.\"/a\".invalidates",
        "query",
    ),
];

#[test]
fn each_rule_across_fields_has_its_key_and_remedy() {
    for (addition, key, remedy) in RULES {
        let found = problems(&with(addition));
        let [problem] = found.as_slice() else {
            panic!("{addition}: {found:#?}")
        };
        assert_eq!(problem.key, *key, "{addition}: {problem:?}");
        assert!(problem.remedy.contains(remedy), "{addition}: {problem:?}");
    }
    assert_eq!(
        problems("")
            .iter()
            .map(|problem| problem.key.as_str())
            .collect::<Vec<_>>(),
        ["upstream.base_url", "tenants"]
    );
}

#[test]
fn what_is_allowed_is_not_refused() {
    for addition in [
        "",
        "[server]\nlisten = '0.0.0.0:6180'\nallow_unauthenticated = true",
        "[server]\nlisten = '0.0.0.0:6180'\n[callers.c]\ntoken_file = 'x'\ntenants = ['acme']",
        "[server]\nlisten = '[::ffff:127.0.0.1]:6180'",
        "[server]\nlisten = '127.0.0.1:0'\nadmin_listen = '127.0.0.1:0'",
        "[upstream]\nbase_url = 'http://localhost:9000'",
        "[upstream]\nbase_url = 'https://h/x/pack'\n[routes.'/package/queryOrder']\nkind = 'query'",
        "[routes.'/a']\nkind = 'refuse'\ntimeout = '1s'\ninvalidates = []\nfresh_for = '1s'",
        "[upstream]\nbase_url = 'http://vendor.example'\nallow_plaintext = true",
        "[upstream.limits]\ninstances = 7\nconnections = 'none'",
        "[upstream.limits]\ncommand_reserve = 1",
        "[log]\nlevel = 'INFO, linksfield_gateway::server=trace'",
        "[cache]\nmax_size = 0",
        "[routes.'/a']\nkind = 'query'\nfresh_for = '0s'\nstale_for = '0s'",
    ] {
        let result = parse(&with(addition));
        let (_, warnings) = result.unwrap_or_else(|problems| panic!("{addition}\n{problems}"));
        assert_eq!(warnings, [], "{addition}");
    }
}

#[test]
fn what_is_doubtful_is_a_warning() {
    for (addition, key) in [
        (
            "[upstream.codes]\nbad_signature = []",
            "upstream.codes.bad_signature",
        ),
        (
            "[upstream]\nconnect_timeout = '15s'",
            "upstream.connect_timeout",
        ),
        ("[upstream]\ntimeout = '20s'", "upstream.timeout"),
        (
            "[upstream]\nhttp2 = true\nbase_url = 'http://127.0.0.1:1'",
            "upstream.http2",
        ),
        ("[server]\ndrain_timeout = '5s'", "server.drain_timeout"),
        ("[server]\ncommands = false", "server.commands"),
        ("[upstream]\npaused = true", "upstream.paused"),
        (
            "[routes.'/a']\nkind = 'query'\ntimeout = '1m'",
            "routes.\"/a\".timeout",
        ),
        (
            "[routes.'/a']\nkind = 'query'\nfresh_for = '2days'",
            "routes.\"/a\".fresh_for",
        ),
        ("[routes.'/v4/a']\nkind = 'query'", "routes.\"/v4/a\""),
        ("[routes.'/v4']\nkind = 'query'", "upstream.base_url"),
        (
            "[upstream]\nbase_url = 'https://h/x/package/queryOrder/'\n[routes.'/package/queryOrder']\nkind = 'query'",
            "upstream.base_url",
        ),
        (
            "[upstream]\nbase_url = 'https://h/x/package'\n[routes.'/package/queryOrder']\nkind = 'query'",
            "upstream.base_url",
        ),
        (
            "[tenants.b]\naccess_code = 'P2'\nsecret_env = 'X'",
            "tenants.b.secret_env",
        ),
    ] {
        let (_, warnings) = parse(&with(addition)).unwrap();
        let keys: Vec<_> = warnings
            .iter()
            .map(|warning| warning.key.as_str())
            .collect();
        assert_eq!(keys, [key], "{addition}");
    }
}
