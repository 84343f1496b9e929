use super::reading::Sample;
use super::slip::spaced;
use super::*;
use crate::signing::form::{Empty, Escapes, NonAscii, Output, Timestamp, TimestampType};
use crate::signing::params::parse_object;
use crate::signing::sign::{Signer, canonical_text};

const SECRET: &str = "0123456789abcdef"; // text, hexadecimal and Base64 at once

const PLAIN: &str = r#"{"access_code":"P000270","page_no":1,"page_size":2,"timestamp":"1643251754","version":"2.0"}"#;

/// `body` signed as `form` says, as somebody's present code would.
fn signed(body: &str, form: &Signing) -> String {
    signed_as(body, form, str::to_owned)
}

/// As [`signed`], but that something was done to the text.
fn signed_as(body: &str, form: &Signing, slip: fn(&str) -> String) -> String {
    let fields = parse_object(body.as_bytes()).unwrap();
    let signature = Signer::new(&SECRET.into(), form)
        .unwrap()
        .signature(&slip(&canonical_text(&fields, form)));
    format!(
        "{},\"sign\":\"{signature}\"}}",
        body.strip_suffix('}').unwrap()
    )
}

fn found(bodies: &str) -> Calibration {
    calibrate(bodies.as_bytes(), &SECRET.into()).unwrap_or_else(|Failed(reason)| panic!("{reason}"))
}

fn refused(bodies: &str) -> String {
    match calibrate(bodies.as_bytes(), &SECRET.into()) {
        Err(Failed(reason)) => reason,
        Ok(found) => panic!("{}", found.report()),
    }
}

/// The bodies that a report proposes.
fn proposed(report: &str) -> Vec<&str> {
    let bodies = report.lines().filter_map(|line| line.strip_prefix("# "));
    bodies.filter(|line| line.starts_with('{')).collect()
}

fn unsettled(found: &Calibration) -> Vec<&'static str> {
    let keys = found.unsettled();
    let names = keys.iter().map(|key| key.name);
    names.filter(|name| *name != "output").collect() // a matter of luck: there may be no + or /
}

#[test]
fn the_bodies_that_it_proposes_settle_every_value_of_every_key() {
    let report = found(&signed(PLAIN, &Signing::default())).report();
    let bodies = proposed(&report);
    for key in all_keys() {
        for form in key.each() {
            let signed: Vec<String> = bodies.iter().map(|body| signed(body, &form)).collect();
            let found = found(&signed.join("\n"));
            if key.name != "output" || form.output == found.section().output {
                assert_eq!(*found.section(), form, "{}", key.name);
            }
            let open: &[_] = if form.non_ascii == NonAscii::Raw {
                &[]
            } else {
                &["escapes"]
            }; // see below
            assert_eq!(unsettled(&found), open, "{form:?}");
        }
    }
}

#[test]
fn what_no_body_can_settle_is_said_and_no_body_is_proposed_for_it() {
    let form = Signing {
        non_ascii: NonAscii::EscapedLower,
        ..Signing::default()
    };
    let first = signed(PLAIN, &form);
    let report = found(&first).report();
    let more = proposed(&report)
        .into_iter()
        .map(|body| signed(body, &form));
    let all: Vec<String> = more.chain([first]).collect();
    let found = found(&all.join("\n"));
    assert_eq!(unsettled(&found), ["escapes"]); // fastjson's differ in controls alone
    assert_eq!(found.section().escapes, Escapes::Minimal);
    let report = found.report();
    assert_eq!(proposed(&report), Vec::<&str>::new());
    assert!(
        report.contains("No usual text tells the readings of escapes apart"),
        "{report}"
    );
}

#[test]
fn what_it_proposes_can_be_sent_by_a_typed_client() {
    // Of linksfield-api.md, sections 5.1 to 5.3.
    let documented = |name: &str| match name {
        "page_no" | "page_size" => "number",
        "deviceList" => "strings",
        _ => "string",
    };
    let report = found(&signed(PLAIN, &Signing::default())).report();
    let bodies = proposed(&report);
    let (free, typed) = bodies.split_last().unwrap();
    assert!(free.contains("nested"), "{report}");
    assert_eq!(typed.len(), 3, "{report}");
    for body in &bodies {
        assert!(
            !body.contains("\\u007f") && !body.contains('\u{7f}'),
            "{body}"
        );
    }
    for body in typed {
        let body: serde_json::Map<String, serde_json::Value> = serde_json::from_str(body).unwrap();
        for (name, value) in body {
            let fits = match documented(&name) {
                "number" => value.is_u64(),
                "strings" => value
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(serde_json::Value::is_string),
                _ => value.is_string() || value.is_null(),
            };
            assert!(fits, "{name}: {value}");
        }
    }
}

#[test]
fn a_plain_body_is_read_by_the_default_and_leaves_open_what_it_cannot_show() {
    let found = found(&signed(PLAIN, &Signing::default()));
    assert_eq!(*found.section(), Signing::default());
    let unsettled = unsettled(&found);
    assert!(
        unsettled.contains(&"key_order") && unsettled.contains(&"non_ascii"),
        "{unsettled:?}"
    );
    assert!(
        !unsettled.contains(&"scalars") && !unsettled.contains(&"secret_encoding"),
        "{unsettled:?}"
    );
    assert!(
        found
            .report()
            .contains("[signing]\ntimestamp = \"seconds\"\nversion = \"2.0\"\n"),
        "{}",
        found.report()
    );
}

#[test]
fn the_timestamps_unit_and_type_and_the_version_are_read_from_the_body() {
    let body = r#"{"access_code":"P000270","timestamp":1643251754000,"version":"3.0"}"#;
    let found = found(&signed(body, &Signing::default()));
    let section = found.section();
    assert_eq!(section.timestamp, Timestamp::Milliseconds);
    assert_eq!(section.timestamp_type, TimestampType::Number);
    assert_eq!(section.version, "3.0");
}

#[test]
fn nothing_left_out_and_upper_case_digits_are_readings() {
    let body = PLAIN.replace(
        "\"page_no\"",
        "\"order_id\":\"\",\"device_id\":null,\"page_no\"",
    );
    let form = Signing {
        empty: Empty::None,
        output: Output::HexUpper,
        ..Signing::default()
    };
    let report = found(&signed(&body, &form)).report();
    let expected = "\nempty = \"none\"\noutput = \"hex_upper\"\n";
    assert!(report.contains(expected), "{report}");
}

#[test]
fn bodies_that_contradict_each_other_are_named_with_the_keys_they_differ_in() {
    let stringified = Signing {
        scalars: crate::signing::form::Scalars::Stringified,
        ..Signing::default()
    };
    let right = signed(PLAIN, &Signing::default());
    let other = signed(&PLAIN.replace("1643251754", "1643251755"), &stringified);
    let bodies = [right.as_str(), &right, &other, &right].join("\n");
    let reason = refused(&bodies);
    assert!(reason.contains("body 3 contradicts body 1"), "{reason}");
    let expected = "scalars is \"as_written\" by body 1, \"stringified\" by body 3";
    assert!(reason.contains(expected), "{reason}");
    let other = signed(&PLAIN.replace("\"2.0\"", "\"3.0\""), &Signing::default());
    let reason = refused(&[right, other].join("\n"));
    assert!(
        reason.contains("version is \"2.0\" by body 1, \"3.0\" by body 2"),
        "{reason}"
    );
}

#[test]
fn the_vendors_own_example_matches_no_reading_with_a_made_up_secret() {
    let body = r#"{"access_code":"P000270","page_no":1,"timestamp":"1643251754","version":"2.0","sign":"ZdFRHMM/ccYeb49Rys3wOCZXDpc="}"#;
    assert!(refused(body).contains("the secret: is it the one"));
}

#[test]
fn a_body_that_cannot_be_calibrated_is_told_what_it_lacks() {
    let right = signed(PLAIN, &Signing::default());
    for (body, lacks) in [
        ("{}", "sign"),
        (r#"{"sign":"x"}"#, "access_code"),
        (r#"{"sign":"x","access_code":"P"}"#, "version"),
        (
            r#"{"sign":"x","access_code":"P","version":"2.0"}"#,
            "timestamp",
        ),
        ("[]", "JSON object"),
        ("{", "EOF"),
    ] {
        let reason = refused(body);
        assert!(reason.contains(lacks), "{body}: {reason}");
        let reason = refused(&format!("{right}\n{body}"));
        assert!(
            reason.starts_with("body 2: ") && reason.contains(lacks),
            "{body}: {reason}"
        );
    }
    assert!(refused(" \n").contains("at least one"));
}

#[test]
fn a_sample_keeps_its_text() {
    let body = signed(PLAIN, &Signing::default());
    assert_eq!(Sample::parse(&body).unwrap_or_else(|_| panic!()).text, body);
}

/// `PLAIN` at the first second at which its signature is of this kind.
fn signed_until(form: &Signing, is_wanted: fn(&str) -> bool) -> String {
    let at = |second: u64| signed(&PLAIN.replace("1643251754", &second.to_string()), form);
    let signature = |body: &str| Sample::parse(body).map(|sample| sample.signature);
    let mut bodies = (1_643_251_754..).map(at);
    bodies
        .find(|body| is_wanted(&signature(body).unwrap_or_else(|_| panic!())))
        .unwrap()
}

#[test]
fn what_bodies_show_does_not_depend_on_their_order() {
    let of_standard = |signature: &str| signature.contains(['+', '/']);
    let of_urls = |signature: &str| signature.contains(['-', '_']);
    let of_both = |signature: &str| !signature.contains(['+', '/', '-', '_']);
    let [standard, urls] = [Output::Base64, Output::Base64Url].map(|output| Signing {
        output,
        ..Signing::default()
    });
    let open = signed_until(&standard, of_both);
    let standard = signed_until(&standard, of_standard);
    let urls = signed_until(&urls, of_urls);
    for (one, expected) in [(&standard, "\"base64\""), (&urls, "\"base64_url\"")] {
        for bodies in [[one, &open], [&open, one]] {
            let found = found(&bodies.map(|body| &**body).join("\n"));
            let outputs = values_of("output", &found.readings.into_iter().collect());
            assert_eq!(Vec::from_iter(&outputs), [expected], "{bodies:?}");
        }
    }
    let reason = refused(&format!("{urls}\n{standard}"));
    let expected = "output is \"base64_url\" by body 1, \"base64\" by body 2";
    assert!(reason.contains(expected), "{reason}");
}

#[test]
fn a_slip_is_named_beside_every_value_of_every_key() {
    let body = r#"{"version":"2.0","timestamp":"1643251754","access_code":"P000270","page_no":0,"order_id":"","none":[],"ordering":null,"Z":" ","deviceList":["中 </=\u2028"],"nested":{"c":"","b":[],"a":{"e":0,"d":1}}}"#;
    for key in all_keys().filter(|key| key.name != "output") {
        for form in key.each() {
            let body = signed_as(body, &form, |text| spaced(text, ", ", ": "));
            let sample = Sample::parse(&body).unwrap_or_else(|_| panic!());
            let reason = slip::find(&sample, &SECRET.into()).unwrap();
            assert!(
                reason.contains("json.dumps writes it"),
                "{form:?}: {reason}"
            );
            let is_named = reason.contains(&format!("with {} = ", key.name));
            let has_name = !key.is_default(&form) && key.name != "secret_encoding";
            assert_eq!(is_named, has_name, "{form:?}: {reason}");
        }
    }
}
