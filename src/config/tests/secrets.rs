//! Reading the secrets: what is taken, what is refused, and that nothing of it is shown.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use secrecy::ExposeSecret as _;
use tempfile::TempDir;

use super::*;

const MARK: &str = "s3cr3t-hunter2-0001";

fn file(dir: &TempDir, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    path
}

fn tenant(secret_file: &Path) -> Config {
    let tenant = Tenant {
        secret_file: Some(secret_file.to_owned()),
        ..Tenant::default()
    };
    Config {
        tenants: BTreeMap::from([("acme".to_owned(), tenant)]),
        ..Config::default()
    }
}

fn caller(config: &mut Config, name: &str, token_file: PathBuf) {
    let caller = Caller {
        token_file,
        ..Caller::default()
    };
    config.callers.insert(name.to_owned(), caller);
}

fn unset(_: &str) -> Option<String> {
    None
}

fn utf_16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn load(config: &Config, variable: impl Fn(&str) -> Option<String>) -> Result<Secrets, Problems> {
    crate::config::secrets::load(config, &Files::watched(), variable)
}

fn keys(problems: &Problems) -> Vec<&str> {
    problems
        .problems
        .iter()
        .map(|problem| problem.key.as_str())
        .collect()
}

#[test]
fn what_differs_between_secrets_is_told_by_the_keys_that_name_them() {
    let mut config = tenant(Path::new("secret"));
    let in_a_variable = Tenant {
        secret_env: Some("SECRET".to_owned()),
        ..Tenant::default()
    };
    config.tenants.insert("b.c".to_owned(), in_a_variable);
    let secret = |current: &str, previous: Option<&str>| TenantSecret {
        current: current.into(),
        previous: previous.map(Into::into),
    };
    let before = Secrets {
        tenants: BTreeMap::from([
            ("acme".to_owned(), secret("1", None)),
            ("b.c".to_owned(), secret("1", Some("0"))),
        ]),
        callers: BTreeMap::from([("shop".to_owned(), "token".into())]),
        ..Secrets::default()
    };
    assert_eq!(before.clone().differs_in(&before, &config), [""; 0]);
    let mut now = before.clone();
    now.tenants
        .insert("acme".to_owned(), secret("2", Some("1")));
    now.tenants.insert("b.c".to_owned(), secret("2", Some("0")));
    now.callers.insert("shop".to_owned(), "other".into());
    now.admin_token = Some("token".into());
    let expected = [
        "callers.shop.token_file",
        "server.admin_token_file",
        "tenants.acme.previous_secret_file",
        "tenants.acme.secret_file",
        "tenants.\"b.c\".secret_env",
    ];
    assert_eq!(now.differs_in(&before, &config), expected);
    assert!(now != before);
}

#[test]
fn one_trailing_newline_is_no_part_of_a_secret() {
    let dir = TempDir::new().unwrap();
    for (content, secret) in [
        ("a", "a"),
        ("a\n", "a"),
        ("a\r\n", "a"),
        ("a\n\n", "a\n"),
        ("a\r", "a\r"),
        (" a \n", " a "),
        ("密\n", "密"),
    ] {
        let secrets = load(&tenant(&file(&dir, "secret", content)), unset).unwrap();
        assert_eq!(
            secrets.tenants["acme"].current.expose_secret(),
            secret,
            "{content:?}"
        );
    }
}

#[test]
fn what_can_hardly_be_part_of_a_secret_is_warned_of_without_being_shown() {
    let dir = TempDir::new().unwrap();
    for (before, after, reasons) in [
        ("", "", &[][..]),
        ("", "\n", &[]),
        ("", "\r\n", &[]),
        ("", "==\n", &[]),
        ("密", "密", &[]),
        ("\"", "\"\n", &["begins with a quote", "ends with a quote"]),
        ("'", "'", &["begins with a quote", "ends with a quote"]),
        ("`", "`", &["begins with a quote", "ends with a quote"]),
        (
            "\u{201c}",
            "\u{201d}",
            &["begins with a quote", "ends with a quote"],
        ),
        ("", "\"", &["ends with a quote"]),
        (" ", "", &["begins with a space"]),
        ("\t", "", &["begins with a tab"]),
        ("", " \n", &["ends with a space"]),
        ("", "\r", &["ends with a carriage return"]),
        ("", "\r\r\n", &["ends with a carriage return"]),
        ("", "\n\n", &["ends with a line break"]),
        ("\n", "", &["begins with a line break"]),
        ("\u{a0}", "", &["begins with a no-break space"]),
        ("", "\u{202f}\n", &["ends with a no-break space"]),
        ("\u{3000}", "", &["begins with a blank"]),
        ("\u{200b}", "", &["begins with an invisible character"]),
        ("", "\u{feff}", &["ends with an invisible character"]),
        ("a\u{200d}", "", &["holds an invisible character"]),
        ("a\r\n", "", &["holds a carriage return"]),
        ("a\n", "", &["holds a line break"]),
        ("a\u{a0}", "", &["holds a no-break space"]),
        ("a\u{7}", "", &["holds an invisible character"]),
        (" \"", "\" ", &["begins with a space", "ends with a space"]),
        ("two words ", "", &[]),
    ] {
        let content = [before, MARK, after].concat();
        let secrets = load(&tenant(&file(&dir, "secret", &content)), unset).unwrap();
        let shown: String = secrets.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(shown.is_empty(), reasons.is_empty(), "{content:?}: {shown}");
        for reason in reasons {
            assert!(shown.contains(reason), "{content:?}: {shown}");
        }
        assert!(!shown.contains(MARK), "{shown}");
    }
}

#[test]
fn what_cannot_be_a_secret_is_refused_without_being_shown() {
    let dir = TempDir::new().unwrap();
    let largest = "x".repeat(64 * 1024);
    assert!(
        load(
            &tenant(&file(&dir, "largest", format!("{largest}\r\n"))),
            unset
        )
        .is_ok()
    );
    for (path, reason) in [
        (file(&dir, "empty", ""), "is empty"),
        (file(&dir, "newline", "\n"), "is empty"),
        (
            file(&dir, "binary", [MARK.as_bytes(), b"\xff"].concat()),
            "is not UTF-8",
        ),
        (
            file(&dir, "marked", format!("\u{feff}{MARK}\n")),
            "begins with a byte order mark",
        ),
        (
            file(&dir, "mark", "\u{feff}\n"),
            "begins with a byte order mark",
        ),
        (file(&dir, "nul", format!("{MARK}\0")), "holds a NUL byte"),
        (
            file(&dir, "wide", utf_16(&format!("\u{feff}{MARK}\n"))),
            "is not UTF-8 but UTF-16",
        ),
        (file(&dir, "unmarked", utf_16(MARK)), "holds a NUL byte"),
        (
            file(&dir, "large", format!("{largest}x")),
            "is larger than 64 KiB",
        ),
        (
            file(&dir, "huge", "x".repeat(1 << 20)),
            "is larger than 64 KiB",
        ),
        (dir.path().join("none"), "cannot be read"),
        (dir.path().to_owned(), "cannot be read"),
    ] {
        let problems = load(&tenant(&path), unset).unwrap_err();
        assert_eq!(keys(&problems), ["tenants.acme.secret_file"]);
        let shown = problems.to_string();
        assert!(
            shown.contains(reason) && shown.contains(path.to_str().unwrap()),
            "{shown}"
        );
        assert!(!shown.contains(MARK) && !shown.contains("xxx"), "{shown}");
    }
}

#[test]
fn a_secret_may_come_from_the_environment() {
    let mut config = tenant(Path::new("unused"));
    let tenant = config.tenants.get_mut("acme").unwrap();
    (tenant.secret_file, tenant.secret_env) = (None, Some("ACME".to_owned()));
    let secrets = load(&config, |name| {
        (name == "ACME").then(|| format!("{MARK}\n"))
    })
    .unwrap();
    assert_eq!(secrets.tenants["acme"].current.expose_secret(), MARK);
    for variable in [unset, |_: &str| Some("\n".to_owned())] {
        let problems = load(&config, variable).unwrap_err();
        assert_eq!(keys(&problems), ["tenants.acme.secret_env"]);
        assert!(problems.to_string().contains("the variable "));
    }
}

#[test]
fn a_secret_that_stands_where_its_place_belongs_is_not_shown() {
    for written in [
        "hunter2",
        "HUNTER_2",
        "hunter.2",
        "eyJ.hunter2.c2ln",
        "a/hunter2+x==",
        "/hunter2",
        "/a/hunter2==",
        "hunter 2/x",
        &"hunter2".repeat(60),
    ] {
        let mut config = tenant(Path::new(written));
        let previous = Some(written.into());
        config.tenants.get_mut("acme").unwrap().previous_secret_file = previous;
        let in_a_variable = Tenant {
            secret_env: Some(written.to_owned()),
            ..Tenant::default()
        };
        config.tenants.insert("b".to_owned(), in_a_variable);
        caller(&mut config, "shop", written.into());
        config.server.admin_token_file = Some(written.into());
        let problems = load(&config, unset).unwrap_err();
        let expected = [
            "tenants.acme.secret_file",
            "tenants.acme.previous_secret_file",
            "tenants.b.secret_env",
            "callers.shop.token_file",
            "server.admin_token_file",
        ];
        assert_eq!(keys(&problems), expected);
        let shown = problems.to_string();
        assert!(!shown.contains(written), "{shown}");
        assert!(shown.contains("never the secret itself"), "{shown}");
    }
    for path in [
        "/etc/linksfield/acme",
        "/none",
        "./acme",
        "../secrets/acme",
        "acme.txt",
        "secrets/acme.key",
        "/var/run/My Secrets/acme-eu_1.old",
    ] {
        let problems = load(&tenant(Path::new(path)), unset).unwrap_err();
        let shown = problems.to_string();
        assert!(
            shown.contains(&format!("the file {path} cannot")),
            "{shown}"
        );
    }
}

#[test]
fn a_token_belongs_to_one() {
    let dir = TempDir::new().unwrap();
    let mut config = tenant(&file(&dir, "secret", MARK));
    config.server.admin_token_file = Some(file(&dir, "admin", "admin-token-0123456789"));
    caller(&mut config, "a", file(&dir, "a", format!("{MARK}\n")));
    caller(&mut config, "b", file(&dir, "b", MARK));
    caller(&mut config, "c", file(&dir, "c", "admin-token-0123456789"));
    caller(&mut config, "d", file(&dir, "d", "two words, no token"));
    caller(&mut config, "e", dir.path().join("none"));
    caller(&mut config, "f", file(&dir, "f", format!("\u{feff}{MARK}")));
    let problems = load(&config, unset).unwrap_err();
    let expected = ["d", "e", "f", "b", "c"].map(|name| format!("callers.{name}.token_file"));
    assert_eq!(keys(&problems), expected);
    let shown = problems.to_string();
    assert!(
        shown.contains("byte order mark")
            && shown.contains("that of a as well")
            && shown.contains("that of the admin listener"),
        "{shown}"
    );
    assert!(
        !shown.contains(MARK) && !shown.contains("two words"),
        "{shown}"
    );
}

#[test]
fn doubtful_secrets_are_warned_about() {
    let dir = TempDir::new().unwrap();
    let open = file(&dir, "open", MARK);
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    let mut config = tenant(&open);
    caller(&mut config, "short", file(&dir, "short", "hunter2"));
    let secrets = load(&config, unset).unwrap();
    let keys: Vec<_> = secrets
        .warnings
        .iter()
        .map(|warning| warning.key.as_str())
        .collect();
    assert_eq!(
        keys,
        ["tenants.acme.secret_file", "callers.short.token_file"]
    );
    // Neither warnings nor secrets show what they are about.
    let shown = format!("{secrets:?}");
    assert!(
        !shown.contains(MARK) && !shown.contains("hunter2"),
        "{shown}"
    );
}

#[test]
fn a_file_of_certificates_must_hold_one() {
    let dir = TempDir::new().unwrap();
    let pem = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pem = pem.cert.pem();
    let mut config = Config::default();
    config.upstream.ca_file = Some(file(&dir, "ca.pem", &pem));
    assert_eq!(load(&config, unset).unwrap().ca.unwrap().roots.len(), 1);
    let broken = pem.replace("MII", "MIJ");
    let cut = &pem[..pem.len() / 2];
    for wrong in [MARK, &broken, cut] {
        config.upstream.ca_file = Some(file(&dir, "ca.pem", wrong));
        let problems = load(&config, unset).unwrap_err();
        assert_eq!(keys(&problems), ["upstream.ca_file"]);
        assert!(!problems.to_string().contains(MARK));
    }
}

#[test]
fn the_file_itself_may_be_missing() {
    let dir = TempDir::new().unwrap();
    let problems = Config::load(&dir.path().join("none.toml"), &Files::watched()).unwrap_err();
    assert!(problems.to_string().contains("none.toml"));
    let path = file(&dir, "gateway.toml", SHIPPED);
    assert!(Config::load(&path, &Files::watched()).is_ok());
}
