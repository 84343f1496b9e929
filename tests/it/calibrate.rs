//! What `calibrate` says of bodies as people have them. Each signature of `tests/data/slips.json`
//! was made by Python.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::SECRET;

fn calibrate(secret: &str, bodies: &str) -> Output {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, secret).unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_linksfield-gateway"))
        .args(["calibrate", "--secret-file", file.to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = process.stdin.take().unwrap();
    input.write_all(bodies.as_bytes()).unwrap();
    drop(input);
    process.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Of what each kind of slip says to do next.
const NEXT: [(&str, &str); 6] = [
    ("parameters", "Correct which parameters your code signs"),
    ("text", "Correct the text, sign again"),
    (
        "secret",
        "Correct the code that reads the secret, sign again",
    ),
    (
        "file",
        "Correct the file, and calibrate again: for this, no body has to be signed again",
    ),
    ("digest", "Correct the code that makes it, sign again"),
    ("form", "Correct how it is written into sign"),
];

#[test]
fn a_slip_that_cannot_be_the_rule_is_named_with_what_to_change() {
    let rows: Vec<Value> = serde_json::from_str(include_str!("../data/slips.json")).unwrap();
    assert!(rows.len() > 30);
    for row in rows {
        let (name, body) = (&row["slip"], row["body"].as_str().unwrap());
        let output = calibrate(row["secret"].as_str().unwrap(), body);
        let told = text(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{name}: {}",
            text(&output.stdout)
        );
        for part in row["told"].as_array().unwrap() {
            assert!(told.contains(part.as_str().unwrap()), "{name}: {told}");
        }
        for (kind, next) in NEXT {
            let is_said = row["next"].as_array().unwrap().contains(&kind.into());
            assert_eq!(told.contains(next), is_said, "{name}, {kind}: {told}");
        }
        assert!(!told.contains("is it the one"), "{name}: {told}");
        assert!(!told.contains(SECRET), "{name}: {told}");
    }
}

/// The text for a body in the signing rule's default, and its signature under the made-up secret.
const QUERY: &str = r#"{"access_code":"P000270","page_no":1,"page_size":2,"timestamp":"1643251754","version":"2.0","sign":"Onq75AovREB+Q5/n4omwTL19nNA="}"#;
const CHINESE: &str = r#"{"access_code":"P000270","package_name":"亚洲12国/地区产品二 30m/月","timestamp":"1643251754","version":"2.0","sign":"/wdM6FC0ikaOQOaq9aftG35Xywc="}"#;
const STRINGIFIED: &str = r#"{"access_code":"P000270","page_no":1,"page_size":2,"timestamp":"1643251754","version":"2.0","sign":"lPDVdx8dAZWMvaV5BXDja5IB+HQ="}"#;

#[test]
fn what_several_bodies_settle_is_kept_and_what_contradicts_is_named() {
    for between in ["\n", "", "\n\n\t "] {
        let one = calibrate(SECRET, QUERY);
        let both = calibrate(SECRET, &[QUERY, CHINESE].join(between));
        assert_eq!(both.status.code(), Some(0), "{}", text(&both.stderr));
        let open = |output: &Output| {
            let line = text(&output.stdout)
                .lines()
                .find(|line| line.contains("cannot settle"));
            line.unwrap().to_owned()
        };
        assert!(open(&one).contains("non_ascii") && !open(&one).contains("scalars"));
        assert!(!open(&both).contains("non_ascii") && !open(&both).contains("scalars"));
    }
    let contradicted = calibrate(SECRET, &[QUERY, CHINESE, STRINGIFIED].join("\n"));
    assert_eq!(contradicted.status.code(), Some(1));
    let told = text(&contradicted.stderr);
    assert!(told.contains("body 3 contradicts body 1"), "{told}");
    assert!(
        told.contains(r#"scalars is "as_written" by body 1, "stringified" by body 3"#),
        "{told}"
    );
    let unknown = calibrate(SECRET, &[QUERY, &QUERY.replace("Onq", "Qno")].join("\n"));
    assert_eq!(unknown.status.code(), Some(1));
    let told = text(&unknown.stderr);
    assert!(
        told.contains("\nbody 2: No reading") && !told.contains("body 1"),
        "{told}"
    );
}
