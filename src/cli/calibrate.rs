//! Which reading of the vendor's signing rule does a known-good signed body follow?
//!
//! The rule leaves much open (linksfield-api.md, section 2.6). Every combination of the keys of `[signing]` is tried;
//! there are some twenty thousand, which takes well under a second.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;

use super::{Done, Failed, print, print_warnings, standard_input};
use crate::config::{
    Empty, EmptyDepth, Escapes, KeyOrder, NestedOrder, NestedValues, NonAscii, Output, Scalars,
    SecretEncoding, Signing, Spaces, Timestamp, TimestampType, hex_decode, read_secret,
};
use crate::gateway::params::{Object, Value, parse_object};
use crate::gateway::sign::{Signer, canonical_text};

pub(super) fn run(secret_file: &Path) -> Done {
    let (secret, warnings) = read_secret("--secret-file", secret_file)?;
    print_warnings(&warnings);
    let body = standard_input()?;
    match calibrate(&body, &secret)? {
        Some(found) => print(&found.report()),
        None => Err(Failed(NO_MATCH.into())),
    }
}

const NO_MATCH: &str = "\
No reading of the signing rule reproduces this signature. What may be wrong, the likeliest first:
 - the secret: is it the one of this body's access_code? Only one newline at the end of the file is dropped.
 - the body: it must be as it was signed, complete with access_code, timestamp, version and sign; a body that was
   edited afterwards, or a timestamp taken from another request, cannot match.
 - the account: the Cube and Mall families sign in other ways, which this version does not know.";

/// What a body has shown.
struct Found {
    /// The matching section nearest to the default.
    section: Signing,
    /// The keys that have more than one matching value.
    unsettled: Vec<&'static Key>,
    access_code: String,
    matches: usize,
}

/// A key of `[signing]` that shapes the signature, and how a body can settle it.
struct Key {
    name: &'static str,
    values: usize,
    set: fn(&mut Signing, usize),
    /// The place of a section's value among the key's values.
    get: fn(&Signing) -> usize,
    /// Members of a body that come out differently under each value.
    members: &'static str,
}

macro_rules! key {
    ($field:ident: $type:ty, $members:expr) => {
        Key {
            name: stringify!($field),
            values: <$type>::ALL.len(),
            set: |form, value| form.$field = <$type>::ALL[value],
            get: |form| {
                <$type>::ALL
                    .iter()
                    .position(|value| *value == form.$field)
                    .unwrap_or_default()
            },
            members: $members,
        }
    };
}

/// Those that shape the text; `secret_encoding` and `output` come after it.
static TEXT_KEYS: [Key; 9] = [
    key!(empty: Empty, r#""x_string": "", "x_null": null, "x_list": [], "x_blank": " ", "x_zero": 0, "x_false": false"#),
    key!(empty_depth: EmptyDepth, r#""x_inner": {"b": null, "a": "1"}"#),
    key!(key_order: KeyOrder, r#""y_b": "1", "y_B": "2", "y_a": "3""#),
    key!(nested_order: NestedOrder, r#""x_nested": {"b": "1", "a": "2"}"#),
    key!(scalars: Scalars, r#""x_number": 1"#),
    key!(nested_values: NestedValues, r#""x_array": ["1"]"#),
    key!(spaces: Spaces, r#""x_space": "a b""#),
    key!(non_ascii: NonAscii, r#""x_name": "中国""#),
    key!(escapes: Escapes, r#""x_signs": "/<=\u007f""#),
];

static SECRET_ENCODING: Key = key!(secret_encoding: SecretEncoding, "");
static OUTPUT: Key = key!(output: Output, "");

impl Key {
    fn is_default(&self, form: &Signing) -> bool {
        (self.get)(form) == (self.get)(&Signing::default())
    }
}

/// Tries every combination; none if no one matches.
fn calibrate(body: &[u8], secret: &SecretString) -> Result<Option<Found>, Failed> {
    let mut fields = parse_object(body)?;
    let signature = take_text(&mut fields, "sign").ok_or(Failed(
        "the body has no sign, which must be a string".into(),
    ))?;
    let text_of = |key: &str| match fields.iter().find(|(name, _)| name == key) {
        Some((_, Value::String(text))) => Some(text.clone().into_owned()),
        _ => None,
    };
    let missing = |key: &str| {
        Failed(format!(
            "the body has no {key}: give it whole, as it was signed"
        ))
    };
    let access_code = text_of("access_code").ok_or_else(|| missing("access_code"))?;
    let base = Signing {
        version: text_of("version").ok_or_else(|| missing("version"))?,
        ..timestamp_form(&fields)?
    };

    // A secret that an encoding cannot decode is not encoded so.
    let signers: Vec<(SecretEncoding, Signer)> = SecretEncoding::ALL
        .iter()
        .filter_map(|encoding| {
            let form = Signing {
                secret_encoding: *encoding,
                ..Signing::default()
            };
            Some((*encoding, Signer::new(secret, &form).ok()?))
        })
        .collect();
    let mut matches: Vec<Signing> = Vec::new();
    let mut form = base;
    loop {
        let text = canonical_text(&fields, &form);
        for (encoding, signer) in &signers {
            let base64 = signer.signature(&text);
            for output in Output::ALL {
                if in_base64(&signature, *output).as_ref() == Some(&base64) {
                    matches.push(Signing {
                        secret_encoding: *encoding,
                        output: *output,
                        ..form.clone()
                    });
                }
            }
        }
        if !advance(&mut form) {
            break;
        }
    }
    Ok(Found::nearest(matches, access_code))
}

/// A signature of this form in Base64, if it has the form.
fn in_base64(signature: &str, output: Output) -> Option<String> {
    match output {
        Output::Base64 => Some(signature.to_owned()),
        Output::Base64Url => Some(signature.replace('-', "+").replace('_', "/")),
        Output::Hex => hex_decode(signature).map(|digest| STANDARD.encode(digest)),
    }
}

/// The next combination of the keys that shape the text; false after the last.
fn advance(form: &mut Signing) -> bool {
    for key in &TEXT_KEYS {
        let next = (key.get)(form) + 1;
        if next < key.values {
            (key.set)(form, next);
            return true;
        }
        (key.set)(form, 0);
    }
    false
}

fn all_keys() -> impl Iterator<Item = &'static Key> {
    TEXT_KEYS.iter().chain([&SECRET_ENCODING, &OUTPUT])
}

impl Found {
    fn nearest(matches: Vec<Signing>, access_code: String) -> Option<Self> {
        let unsettled = all_keys()
            .filter(|key| {
                matches
                    .iter()
                    .map(|form| (key.get)(form))
                    .collect::<BTreeSet<_>>()
                    .len()
                    > 1
            })
            .collect();
        let number = matches.len();
        let distance = |form: &Signing| all_keys().filter(|key| !key.is_default(form)).count();
        let section = matches.into_iter().min_by_key(distance)?;
        Some(Self {
            section,
            unsettled,
            access_code,
            matches: number,
        })
    }

    fn report(&self) -> String {
        let mut lines = vec![match self.matches {
            1 => "# One reading of the rule reproduces this signature.".to_owned(),
            number => format!(
                "# {number} readings of the rule reproduce this signature; this is the nearest to the default."
            ),
        }];
        lines.push("[signing]".into());
        lines.extend(
            self.section_as_toml()
                .into_iter()
                .map(|(name, value)| format!("{name} = {value}")),
        );
        if !self.unsettled.is_empty() {
            let names: Vec<&str> = self.unsettled.iter().map(|key| key.name).collect();
            lines.push(format!(
                "\n# This body cannot settle: {}.",
                names.join(", ")
            ));
        }
        if self.unsettled.iter().any(|key| !key.members.is_empty()) {
            lines.push("# This one would. Sign it with your present code (it need not be sent) and calibrate the result:".into());
            lines.push(format!("# {}", self.settling_body()));
        }
        if self.unsettled.iter().any(|key| key.name == OUTPUT.name) {
            lines.push(
                "# output needs a signature with + or / in it: another timestamp will bring one."
                    .into(),
            );
        }
        lines.join("\n") + "\n"
    }

    /// `timestamp` and `version` always, of the others those that are not the default.
    fn section_as_toml(&self) -> Vec<(String, toml::Value)> {
        let table = |form: &Signing| toml::Table::try_from(form).unwrap_or_default();
        let default = table(&Signing::default());
        let is_told = |(key, value): &(String, toml::Value)| {
            matches!(key.as_str(), "timestamp" | "version") || default.get(key) != Some(value)
        };
        table(&self.section).into_iter().filter(is_told).collect()
    }

    /// A body that comes out differently under every value of the unsettled keys. Its keys are in no order on purpose.
    fn settling_body(&self) -> String {
        let timestamp = match self.section.timestamp {
            Timestamp::Seconds => "1700000000",
            Timestamp::Milliseconds => "1700000000000",
        };
        let timestamp = match self.section.timestamp_type {
            TimestampType::String => format!("\"{timestamp}\""),
            TimestampType::Number => timestamp.to_owned(),
        };
        let mut members = vec![
            format!("\"version\": {}", quoted(&self.section.version)),
            format!("\"access_code\": {}", quoted(&self.access_code)),
            format!("\"timestamp\": {timestamp}"),
        ];
        members.extend(
            self.unsettled
                .iter()
                .filter(|key| !key.members.is_empty())
                .map(|key| key.members.to_owned()),
        );
        format!("{{{}}}", members.join(", "))
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn take_text(fields: &mut Object<'_>, key: &str) -> Option<String> {
    let at = fields.iter().position(|(name, _)| name == key)?;
    match fields.remove(at) {
        (_, Value::String(text)) => Some(text.into_owned()),
        _ => None,
    }
}

/// Unit and type of the body's own timestamp: thirteen digits are milliseconds until the year 2286.
fn timestamp_form(fields: &Object<'_>) -> Result<Signing, Failed> {
    let value = fields
        .iter()
        .find(|(key, _)| key == "timestamp")
        .map(|(_, value)| value);
    let (digits, timestamp_type): (Cow<'_, str>, _) = match value {
        Some(Value::String(digits)) => (digits.clone(), TimestampType::String),
        Some(Value::Number(digits)) => ((*digits).into(), TimestampType::Number),
        _ => {
            return Err(Failed(
                "the body has no timestamp: give it whole, as it was signed".into(),
            ));
        }
    };
    let timestamp = if digits.len() > 11 {
        Timestamp::Milliseconds
    } else {
        Timestamp::Seconds
    };
    Ok(Signing {
        timestamp,
        timestamp_type,
        ..Signing::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef"; // text, hexadecimal and Base64 at once

    /// `body` signed as `form` says, as somebody's present code would.
    fn signed(body: &str, form: &Signing) -> String {
        let fields = parse_object(body.as_bytes()).unwrap();
        let signature = Signer::new(&SECRET.into(), form)
            .unwrap()
            .signature(&canonical_text(&fields, form));
        format!(
            "{},\"sign\":\"{signature}\"}}",
            body.strip_suffix('}').unwrap()
        )
    }

    fn found(body: &str) -> Option<Found> {
        calibrate(body.as_bytes(), &SECRET.into()).unwrap()
    }

    fn body_that_settles_everything() -> String {
        let everything = Found {
            section: Signing::default(),
            unsettled: TEXT_KEYS.iter().collect(),
            access_code: "P000270".into(),
            matches: 0,
        };
        everything.settling_body()
    }

    #[test]
    fn the_body_that_it_proposes_settles_every_value_of_every_key() {
        let body = body_that_settles_everything();
        for key in all_keys() {
            for value in 0..key.values {
                let mut form = Signing::default();
                (key.set)(&mut form, value);
                let found = found(&signed(&body, &form))
                    .unwrap_or_else(|| panic!("{} {value}: no match", key.name));
                let settled = |key: &&Key| key.name != OUTPUT.name; // a matter of luck: there may be no + or /
                if settled(&key) {
                    assert_eq!((key.get)(&found.section), value, "{}", key.name);
                }
                let unsettled: Vec<_> = found
                    .unsettled
                    .iter()
                    .map(|key| key.name)
                    .filter(|name| *name != "output")
                    .collect();
                assert_eq!(unsettled, Vec::<&str>::new(), "{} {value}", key.name);
            }
        }
    }

    #[test]
    fn a_plain_body_is_read_by_the_default_and_leaves_open_what_it_cannot_show() {
        let body = r#"{"access_code":"P000270","page_no":1,"page_size":2,"timestamp":"1643251754","version":"2.0"}"#;
        let found = found(&signed(body, &Signing::default())).unwrap();
        assert_eq!(found.section, Signing::default());
        let unsettled: Vec<&str> = found.unsettled.iter().map(|key| key.name).collect();
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
        let section = found(&signed(body, &Signing::default())).unwrap().section;
        assert_eq!(section.timestamp, Timestamp::Milliseconds);
        assert_eq!(section.timestamp_type, TimestampType::Number);
        assert_eq!(section.version, "3.0");
    }

    #[test]
    fn the_vendors_own_example_matches_no_reading_with_a_made_up_secret() {
        let body = r#"{"access_code":"P000270","page_no":1,"timestamp":"1643251754","version":"2.0","sign":"ZdFRHMM/ccYeb49Rys3wOCZXDpc="}"#;
        assert!(found(body).is_none());
    }

    #[test]
    fn a_body_that_cannot_be_calibrated_is_told_what_it_lacks() {
        for (body, lacks) in [
            ("{}", "sign"),
            (r#"{"sign":"x"}"#, "access_code"),
            (r#"{"sign":"x","access_code":"P"}"#, "version"),
            (
                r#"{"sign":"x","access_code":"P","version":"2.0"}"#,
                "timestamp",
            ),
            ("[]", "JSON object"),
        ] {
            let Err(Failed(reason)) = calibrate(body.as_bytes(), &SECRET.into()) else {
                panic!("{body}")
            };
            assert!(reason.contains(lacks), "{body}: {reason}");
        }
    }
}
