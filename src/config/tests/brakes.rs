//! Which brakes are on, and what the environment makes of those of the file.

use super::*;

/// A brake as the file sets it, its key, and the variable and the value that take it off.
const BRAKES: &[(&str, &str, &str, &str)] = &[
    (
        "[server]\ncommands = false",
        "server.commands",
        "SERVER__COMMANDS",
        "true",
    ),
    (
        "[server]\nunlisted_paths = 'refuse'",
        "server.unlisted_paths",
        "SERVER__UNLISTED_PATHS",
        "forward",
    ),
    (
        "[upstream]\npaused = true",
        "upstream.paused",
        "UPSTREAM__PAUSED",
        "false",
    ),
    (
        "[tenants.acme]\ncommands = false",
        "tenants.acme.commands",
        "TENANTS__ACME__COMMANDS",
        "true",
    ),
    (
        "[callers.'b.c']\ntoken_file = 't'\ntenants = ['acme']\ncommands = false",
        "callers.\"b.c\".commands",
        "CALLERS__B_C__COMMANDS",
        "true",
    ),
    (
        "[routes.'/a']\nkind = 'refuse'",
        "routes.\"/a\".kind",
        "",
        "",
    ),
];

/// The configuration of a file with this in it, under this environment, and what is told of these
/// keys.
fn told(addition: &str, environment: &[(&str, &str)]) -> (Config, Vec<Warning>) {
    let variables = environment.iter().map(|(name, value)| {
        let name = format!("LINKSFIELD_GATEWAY__{name}");
        (name, (*value).to_owned())
    });
    Config::parse(&with(addition), "a.toml", variables).unwrap()
}

#[test]
fn each_brake_that_is_on_is_named() {
    assert_eq!(told("", &[]).0.brakes(), [""; 0]);
    let mut all = Table::new();
    for (addition, key, ..) in BRAKES {
        assert_eq!(told(addition, &[]).0.brakes(), [*key], "{addition}");
        merge(&mut all, addition.parse().unwrap());
    }
    let keys: Vec<_> = BRAKES.iter().map(|(_, key, ..)| *key).collect();
    assert_eq!(told(&all.to_string(), &[]).0.brakes(), keys);
}

#[test]
fn a_brake_of_the_file_that_the_environment_overrides_is_told_to_be_off() {
    let rate = (
        "[upstream.limits]\nrequests_per_second = 2",
        "upstream.limits.requests_per_second",
        "UPSTREAM__LIMITS__REQUESTS_PER_SECOND",
        "none",
    );
    let by_environment = BRAKES
        .iter()
        .filter(|(_, _, variable, _)| !variable.is_empty());
    for (addition, key, variable, value) in by_environment.chain([&rate]) {
        let (config, warnings) = told(addition, &[(variable, value)]);
        assert_eq!(config.brakes(), [""; 0], "{addition}");
        let [warning] = warnings.as_slice() else {
            panic!("{addition}: {warnings:#?}")
        };
        assert_eq!(warning.key, *key);
        let expected = format!(
            "the brake of the file is NOT in effect: the environment variable LINKSFIELD_GATEWAY__{variable} overrides it"
        );
        assert_eq!(warning.reason, expected);
        assert!(warning.remedy.contains("another brake"), "{warning:?}");
    }
}

#[test]
fn what_the_environment_makes_another_value_is_told_without_either() {
    const SERVER: &str =
        "[server]\nidle_timeout = '1m'\ncommands = true\nadmin_token_file = '/hunter2'";
    for (name, value, key) in [
        ("SERVER__IDLE_TIMEOUT", "2m", Some("server.idle_timeout")),
        ("SERVER__IDLE_TIMEOUT", "60s", None), // another spelling
        ("SERVER__MAX_CONNECTIONS", "7", None), // the file does not say
        (
            "SERVER__ADMIN_TOKEN_FILE",
            "",
            Some("server.admin_token_file"),
        ),
        (
            "TENANTS__ACME__ACCESS_CODE",
            "hunter2",
            Some("tenants.acme.access_code"),
        ),
        ("TENANTS__ACME__ACCESS_CODE", "P1", None),
    ] {
        let (_, warnings) = told(SERVER, &[(name, value)]);
        let keys: Vec<_> = warnings.iter().map(|warning| &*warning.key).collect();
        assert_eq!(keys, Vec::from_iter(key), "{name}");
        for warning in warnings {
            assert!(
                warning
                    .reason
                    .starts_with("the value of the file is NOT in effect")
            );
            assert!(
                warning
                    .reason
                    .contains(&format!("LINKSFIELD_GATEWAY__{name}"))
            );
            assert!(!format!("{warning:?}").contains("hunter2"), "{warning:?}");
        }
    }
}

#[test]
fn a_brake_that_the_environment_puts_on_is_told_with_its_variable() {
    let (config, warnings) = told(
        "[server]\ncommands = true",
        &[("SERVER__COMMANDS", "false"), ("UPSTREAM__PAUSED", "true")],
    );
    assert_eq!(config.brakes(), ["server.commands", "upstream.paused"]);
    let reasons: Vec<_> = warnings.iter().map(|warning| &*warning.reason).collect();
    let on =
        |variable| format!("the brake is on (the value comes from LINKSFIELD_GATEWAY__{variable})");
    let overridden = "the value of the file is NOT in effect: the environment variable \
                      LINKSFIELD_GATEWAY__SERVER__COMMANDS overrides it";
    let expected = [&on("SERVER__COMMANDS"), &on("UPSTREAM__PAUSED"), overridden];
    assert_eq!(reasons, expected);
}

#[test]
fn a_brake_that_is_miswritten_and_overridden_is_told() {
    let (config, warnings) = told(
        "[server]\ncommands = 'false'",
        &[("SERVER__COMMANDS", "true")],
    );
    assert!(config.server.commands);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].reason.contains("NOT in effect"));
}
