//! How do parameters become a signature? Normal form → canonical text → HMAC-SHA1. Pure: no clock,
//! no I/O.
//!
//! The rule is the vendor's CSSS overview: write all non-empty parameters as one JSON string in
//! lexicographic key order, take HMAC-SHA1 of it under the secret, Base64 the result. What the page
//! leaves open is a key of `[signing]`; the options shape only the text that is signed, never the
//! parameters on the wire.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bytes::Bytes;
use data_encoding::{HEXLOWER, HEXUPPER};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::SecretString;
use sha1::Sha1;

use super::form::{
    Empty, EmptyDepth, Escapes, KeyOrder, NestedOrder, NestedValues, NonAscii, Output, Scalars,
    Signing, Spaces, Timestamp, TimestampType,
};
use super::params::{
    self, Escape, Object, Params, Value, key_order, parse_object, write_string_with,
};

/// Signs for one tenant. Keyed once; the secret itself is not kept.
#[derive(Clone)]
pub struct Signer {
    mac: Hmac<Sha1>,
    form: Signing,
    /// In JSON.
    version: String,
    /// The canonical text is the wire body without `sign`: nothing has to be written twice.
    text_is_wire: bool,
}

/// A secret that `secret_encoding` cannot decode. Says nothing about the secret itself.
#[derive(Debug, thiserror::Error)]
#[error("the secret is not {0}, as signing.secret_encoding says")]
pub struct InvalidSecret(&'static str);

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("form", &self.form)
            .finish_non_exhaustive()
    }
}

impl Signer {
    /// Keys a signer.
    pub fn new(secret: &SecretString, form: &Signing) -> Result<Self, InvalidSecret> {
        let key = form.secret_encoding.decode(secret).map_err(InvalidSecret)?;
        let mac = Hmac::new_from_slice(&key).expect("HMAC takes keys of every length");
        Ok(Self {
            mac,
            version: json_string(&form.version),
            form: form.clone(),
            text_is_wire: text_is_wire(form),
        })
    }

    /// The body for the wire: the parameters, the vendor's global fields, and last the signature
    /// over them.
    pub fn sign(&self, params: &Params, access_code: &str, now: SystemTime) -> Bytes {
        let (body, text) = self.unsigned(params, access_code, now);
        let signature = self.signature(text.as_ref().unwrap_or(&body));
        with_signature(body, &signature)
    }

    /// As [`sign`](Self::sign), with the text that was signed, for those who want to see it.
    pub fn signed(&self, params: &Params, access_code: &str, now: SystemTime) -> Signed {
        let (body, text) = self.unsigned(params, access_code, now);
        let text = text.unwrap_or_else(|| body.clone());
        let body = with_signature(body, &self.signature(&text));
        Signed { text, body }
    }

    /// The body without its signature, and the canonical text where it is another.
    fn unsigned(
        &self,
        params: &Params,
        access_code: &str,
        now: SystemTime,
    ) -> (String, Option<String>) {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(timestamp(now, self.form.timestamp));
        let mut values = String::with_capacity(access_code.len() + digits.len() + 4);
        params::write_string(&mut values, access_code);
        let first = values.len();
        match self.form.timestamp_type {
            TimestampType::String => params::write_string(&mut values, digits),
            TimestampType::Number => values.push_str(digits),
        }
        let (access_code, timestamp) = values.split_at(first);
        let body = params.merged(&[
            ("access_code", access_code),
            ("timestamp", timestamp),
            ("version", &self.version),
        ]);
        if self.text_is_wire {
            return (body, None);
        }
        let fields = parse_object(body.as_bytes()).expect("it was merged from an object");
        let text = canonical_text(&fields, &self.form);
        (body, Some(text))
    }

    /// The signature over a canonical text.
    pub fn signature(&self, text: &str) -> String {
        let mut mac = self.mac.clone();
        mac.update(text.as_bytes());
        encode(&mac.finalize().into_bytes(), self.form.output)
    }
}

fn with_signature(mut body: String, signature: &str) -> Bytes {
    body.pop();
    for part in [r#","sign":""#, signature, r#""}"#] {
        body.push_str(part);
    }
    body.into()
}

/// A signed request.
#[derive(Debug)]
pub struct Signed {
    /// The canonical text: what the signature covers.
    pub text: String,
    /// The body for the wire.
    pub body: Bytes,
}

/// The text that is signed for `fields`, which stand in the order of the wire and hold no `sign`.
pub fn canonical_text(fields: &Object<'_>, form: &Signing) -> String {
    let mut text = String::new();
    let mut fields: Vec<&(Cow<'_, str>, Value<'_>)> = fields
        .iter()
        .filter(|(_, value)| !is_left_out(value, form))
        .collect();
    match form.key_order {
        KeyOrder::CodeUnit => fields.sort_by(|(left, _), (right, _)| key_order(left, right)),
        KeyOrder::CaseInsensitive => {
            fields.sort_by(|(left, _), (right, _)| {
                key_order(&left.to_lowercase(), &right.to_lowercase())
            });
        }
        KeyOrder::AsSent => {}
    }
    text.push('{');
    for (index, (key, value)) in fields.into_iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        write_string(&mut text, key, form);
        text.push(':');
        write_parameter(&mut text, value, form);
    }
    text.push('}');
    match form.spaces {
        Spaces::Kept => text,
        Spaces::Removed => text.replace(' ', ""), // of compact JSON only the strings hold any
    }
}

/// A value at the top level, where scalars and nested values may have a form of their own.
fn write_parameter(text: &mut String, value: &Value<'_>, form: &Signing) {
    let as_string = match value {
        Value::Number(_) | Value::Bool(_) => form.scalars == Scalars::Stringified,
        Value::Array(_) | Value::Object(_) => form.nested_values == NestedValues::JsonString,
        Value::Null | Value::String(_) => false,
    };
    if as_string {
        let mut inner = String::new();
        write_value(&mut inner, value, form);
        write_string(text, &inner, form);
    } else {
        write_value(text, value, form);
    }
}

fn write_value(text: &mut String, value: &Value<'_>, form: &Signing) {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        Value::Number(token) => text.push_str(token),
        Value::String(value) => write_string(text, value, form),
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_value(text, item, form);
            }
            text.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields
                .iter()
                .filter(|(_, value)| {
                    form.empty_depth == EmptyDepth::TopLevel || !is_left_out(value, form)
                })
                .collect();
            if form.nested_order == NestedOrder::Sorted {
                fields.sort_by(|(left, _), (right, _)| key_order(left, right));
            }
            text.push('{');
            for (index, (key, value)) in fields.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_string(text, key, form);
                text.push(':');
                write_value(text, value, form);
            }
            text.push('}');
        }
    }
}

/// Does the vendor's "non-empty" exclude this value?
fn is_left_out(value: &Value<'_>, form: &Signing) -> bool {
    let empty = form.empty;
    match value {
        Value::Null => empty != Empty::None,
        Value::String(text) if text.is_empty() => !matches!(empty, Empty::None | Empty::NullOnly),
        Value::String(text) => empty == Empty::AlsoWhitespace && text.trim().is_empty(),
        Value::Array(items) => items.is_empty() && leaves_out_lists(empty),
        Value::Object(fields) => {
            leaves_out_lists(empty)
                && match form.empty_depth {
                    EmptyDepth::TopLevel => fields.is_empty(),
                    EmptyDepth::Recursive => {
                        fields.iter().all(|(_, value)| is_left_out(value, form))
                    }
                }
        }
        Value::Bool(value) => empty == Empty::AlsoZeroAndFalse && !value,
        Value::Number(token) => {
            let digits = token.split(['e', 'E']).next().unwrap_or(token);
            empty == Empty::AlsoZeroAndFalse
                && !digits.contains(|digit: char| matches!(digit, '1'..='9'))
        }
    }
}

/// Lists and objects without a member.
const fn leaves_out_lists(empty: Empty) -> bool {
    match empty {
        Empty::None | Empty::NullOnly | Empty::NullAndString => false,
        Empty::All | Empty::AlsoWhitespace | Empty::AlsoZeroAndFalse => true,
    }
}

fn json_string(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    params::write_string(&mut json, text);
    json
}

fn write_string(text: &mut String, value: &str, form: &Signing) {
    write_string_with(text, value, |character| escape(character, form));
}

/// What the serializers of linksfield-api §2.5 escape beyond JSON's own.
fn escape(character: char, form: &Signing) -> Option<Escape> {
    let by_serializer = match (form.escapes, character) {
        (Escapes::Fastjson, '\u{8}' | '\t' | '\n' | '\u{c}' | '\r') => None,
        (Escapes::Fastjson, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}') => {
            Some(Escape::Upper)
        }
        (Escapes::Go | Escapes::Gson, '<' | '>' | '&' | '\u{2028}' | '\u{2029}') => {
            Some(Escape::Lower)
        }
        (Escapes::Gson, '=' | '\'') => Some(Escape::Lower),
        (Escapes::Php, '/') => Some(Escape::Slash),
        _ => None,
    };
    by_serializer.or(match form.non_ascii {
        NonAscii::EscapedLower if !character.is_ascii() => Some(Escape::Lower),
        NonAscii::EscapedUpper if !character.is_ascii() => Some(Escape::Upper),
        _ => None,
    })
}

/// Is the canonical text, for every set of parameters in normal form, the wire body without `sign`?
fn text_is_wire(form: &Signing) -> bool {
    let shape = Signing {
        timestamp: form.timestamp,
        timestamp_type: form.timestamp_type,
        version: form.version.clone(),
        secret_encoding: form.secret_encoding,
        output: form.output,
        ..Signing::default()
    };
    shape == *form
}

fn timestamp(now: SystemTime, unit: Timestamp) -> u64 {
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    match unit {
        Timestamp::Seconds => since_epoch.as_secs(),
        Timestamp::Milliseconds => u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
    }
}

/// A digest in the form of `signing.output`.
fn encode(digest: &[u8], output: Output) -> String {
    match output {
        Output::Base64 => STANDARD.encode(digest),
        Output::Base64Url => URL_SAFE.encode(digest),
        Output::Hex => HEXLOWER.encode(digest),
        Output::HexUpper => HEXUPPER.encode(digest),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::signing::form::{SecretEncoding, hex_decode};

    const SECRET: &str = "demo-secret-0001";

    fn signer(form: &Signing) -> Signer {
        Signer::new(&SECRET.into(), form).unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn text<'a>(value: &'a Value<'_>) -> &'a str {
        match value {
            Value::String(text) => text,
            _ => panic!("not a string"),
        }
    }

    fn field<'a, 'b>(object: &'a Object<'b>, key: &str) -> &'a Value<'b> {
        &object.iter().find(|(name, _)| name == key).unwrap().1
    }

    #[test]
    fn every_vector_is_reproduced() {
        let file = format!(
            r#"{{"vectors":{}}}"#,
            include_str!("../../tests/data/sign-vectors.json")
        );
        let file = parse_object(file.as_bytes()).unwrap();
        let Value::Array(vectors) = field(&file, "vectors") else {
            panic!()
        };
        assert_eq!(vectors.len(), 12);
        for vector in vectors {
            let Value::Object(vector) = vector else {
                panic!()
            };
            let name = text(field(vector, "name"));
            let Value::Object(fields) = field(vector, "params") else {
                panic!()
            };
            let mut body = String::new();
            params::write_object(&mut body, fields);
            let timestamp: u64 = text(field(fields, "timestamp")).parse().unwrap();
            let (unit, now) = if timestamp > 100_000_000_000 {
                (
                    Timestamp::Milliseconds,
                    UNIX_EPOCH + Duration::from_millis(timestamp),
                )
            } else {
                (Timestamp::Seconds, at(timestamp))
            };
            let form = Signing {
                timestamp: unit,
                ..Signing::default()
            };
            let params = Params::parse(body.as_bytes()).unwrap();
            let signed = signer(&form).signed(&params, params.access_code().unwrap(), now);
            assert_eq!(signed.text, text(field(vector, "canonical")), "{name}");
            let sent = parse_object(&signed.body).unwrap();
            assert_eq!(
                text(field(&sent, "sign")),
                text(field(vector, "sign")),
                "{name}"
            );
        }
    }

    /// The readings of linksfield-api.md, section 2.7, each with the signature computed there by
    /// other tools.
    #[test]
    fn the_documented_readings_of_the_rule_are_reproduced() {
        let query = r#"{"access_code":"P000270","device_id":"","order_id":"","order_status":"","order_type":"","page_no":1,"page_size":2,"timestamp":"1643251754","version":"2.0"}"#;
        let unsorted = r#"{"version":"2.0","access_code":"P000270","timestamp":"1643251754","page_no":1,"page_size":2}"#;
        let chinese = r#"{"access_code":"P000270","package_name":"亚洲12国/地区产品二 30m/月","timestamp":"1643251754","version":"2.0"}"#;
        let default = Signing::default;
        let rows = [
            (query, default(), "Onq75AovREB+Q5/n4omwTL19nNA="),
            (
                query,
                Signing {
                    empty: Empty::NullOnly,
                    ..default()
                },
                "hjCg5Hx/87kFsNGGvzAdAbwPyfA=",
            ),
            (
                query,
                Signing {
                    scalars: Scalars::Stringified,
                    ..default()
                },
                "lPDVdx8dAZWMvaV5BXDja5IB+HQ=",
            ),
            (
                unsorted,
                Signing {
                    key_order: KeyOrder::AsSent,
                    ..default()
                },
                "6jyMtKwZUZC8iYlIo4dVb989aa4=",
            ),
            (chinese, default(), "/wdM6FC0ikaOQOaq9aftG35Xywc="),
            (
                chinese,
                Signing {
                    non_ascii: NonAscii::EscapedLower,
                    ..default()
                },
                "RWRdZBnV1gQsCV7hYhARxEYU28Y=",
            ),
            (
                chinese,
                Signing {
                    escapes: Escapes::Php,
                    ..default()
                },
                "h5NDveitplCRZXSSIt0rNRP3l/o=",
            ),
            (
                chinese,
                Signing {
                    spaces: Spaces::Removed,
                    ..default()
                },
                "C2lgQlrURcHboyr9oje+ZO/cuLc=",
            ),
        ];
        for (body, form, expected) in rows {
            let text = canonical_text(&parse_object(body.as_bytes()).unwrap(), &form);
            assert_eq!(signer(&form).signature(&text), expected, "{form:?}: {text}");
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn each_option_shapes_the_text_as_documented() {
        let default = Signing::default;
        let rows = [
            (
                r#"{"a":null,"b":"","c":[],"d":{},"e":" ","f":0,"g":false}"#,
                default(),
                r#"{"e":" ","f":0,"g":false}"#,
            ),
            (
                r#"{"a":null,"b":"","c":[],"d":{},"e":{"f":null,"g":{}}}"#,
                Signing {
                    empty: Empty::None,
                    empty_depth: EmptyDepth::Recursive,
                    ..default()
                },
                r#"{"a":null,"b":"","c":[],"d":{},"e":{"f":null,"g":{}}}"#,
            ),
            (
                r#"{"a":null,"b":"","c":[],"d":{}}"#,
                Signing {
                    empty: Empty::NullAndString,
                    ..default()
                },
                r#"{"c":[],"d":{}}"#,
            ),
            (
                r#"{"a":null,"b":"","e":" \t"}"#,
                Signing {
                    empty: Empty::AlsoWhitespace,
                    ..default()
                },
                "{}",
            ),
            (
                r#"{"a":0,"b":-0.0e7,"c":false,"d":10,"e":"0"}"#,
                Signing {
                    empty: Empty::AlsoZeroAndFalse,
                    ..default()
                },
                r#"{"d":10,"e":"0"}"#,
            ),
            (
                r#"{"a":{"b":null,"c":{"d":""},"e":[""]}}"#,
                default(),
                r#"{"a":{"b":null,"c":{"d":""},"e":[""]}}"#,
            ),
            (
                r#"{"a":{"b":null,"c":{"d":""},"e":[""]}}"#,
                Signing {
                    empty_depth: EmptyDepth::Recursive,
                    ..default()
                },
                r#"{"a":{"e":[""]}}"#,
            ),
            (
                r#"{"b":1,"a":1,"B":1}"#,
                default(),
                r#"{"B":1,"a":1,"b":1}"#,
            ),
            (
                r#"{"b":1,"a":1,"B":1}"#,
                Signing {
                    key_order: KeyOrder::CaseInsensitive,
                    ..default()
                },
                r#"{"a":1,"b":1,"B":1}"#,
            ),
            (
                r#"{"x":{"b":1,"a":1}}"#,
                default(),
                r#"{"x":{"a":1,"b":1}}"#,
            ),
            (
                r#"{"x":{"b":1,"a":1}}"#,
                Signing {
                    nested_order: NestedOrder::AsSent,
                    ..default()
                },
                r#"{"x":{"b":1,"a":1}}"#,
            ),
            (
                r#"{"a":1.50,"b":true,"c":[1]}"#,
                Signing {
                    scalars: Scalars::Stringified,
                    ..default()
                },
                r#"{"a":"1.50","b":"true","c":[1]}"#,
            ),
            (
                r#"{"a":["x"],"b":{"c":1}}"#,
                Signing {
                    nested_values: NestedValues::JsonString,
                    ..default()
                },
                r#"{"a":"[\"x\"]","b":"{\"c\":1}"}"#,
            ),
            (
                r#"{"a b":"c d"}"#,
                Signing {
                    spaces: Spaces::Removed,
                    ..default()
                },
                r#"{"ab":"cd"}"#,
            ),
            (
                r#"{"a":"中😀"}"#,
                Signing {
                    non_ascii: NonAscii::EscapedLower,
                    ..default()
                },
                r#"{"a":"\u4e2d\ud83d\ude00"}"#,
            ),
            (
                r#"{"a":"中😀"}"#,
                Signing {
                    non_ascii: NonAscii::EscapedUpper,
                    ..default()
                },
                r#"{"a":"\u4E2D\uD83D\uDE00"}"#,
            ),
            (
                r#"{"a":"/<>&='\u001f\u007f\u2028\n"}"#,
                Signing {
                    escapes: Escapes::Fastjson,
                    ..default()
                },
                r#"{"a":"/<>&='\u001F\u007F\u2028\n"}"#,
            ),
            (
                r#"{"a":"/<>&='\u001f\u2028"}"#,
                Signing {
                    escapes: Escapes::Go,
                    ..default()
                },
                r#"{"a":"/\u003c\u003e\u0026='\u001f\u2028"}"#,
            ),
            (
                r#"{"a":"/<>&='"}"#,
                Signing {
                    escapes: Escapes::Gson,
                    ..default()
                },
                r#"{"a":"/\u003c\u003e\u0026\u003d\u0027"}"#,
            ),
            (
                r#"{"a":"/<"}"#,
                Signing {
                    escapes: Escapes::Php,
                    ..default()
                },
                r#"{"a":"\/<"}"#,
            ),
        ];
        for (body, form, expected) in rows {
            assert_eq!(
                canonical_text(&parse_object(body.as_bytes()).unwrap(), &form),
                expected,
                "{form:?}"
            );
        }
    }

    #[test]
    fn the_secret_and_the_signature_are_encoded_as_configured() {
        let rows = [
            ("demo-secret-0001", SecretEncoding::Text),
            ("ZGVtby1zZWNyZXQtMDAwMQ==", SecretEncoding::Base64),
            ("64656d6f2D7365637265742d30303031", SecretEncoding::Hex),
        ];
        for (secret, secret_encoding) in rows {
            let form = |output| Signing {
                secret_encoding,
                output,
                ..Signing::default()
            };
            let signature = |output| {
                Signer::new(&secret.into(), &form(output))
                    .unwrap()
                    .signature("?>")
            };
            let base64 = signature(Output::Base64);
            assert_eq!(base64, signer(&Signing::default()).signature("?>"));
            assert_eq!(
                signature(Output::Base64Url),
                base64.replace('+', "-").replace('/', "_")
            );
            let hex = signature(Output::Hex);
            assert_eq!(STANDARD.encode(hex_decode(&hex).unwrap()), base64);
            assert_eq!(hex, hex.to_ascii_lowercase());
            assert_eq!(signature(Output::HexUpper), hex.to_ascii_uppercase());
        }
        for (secret, secret_encoding) in [
            ("not base64!", SecretEncoding::Base64),
            ("abc", SecretEncoding::Hex),
            ("zz", SecretEncoding::Hex),
        ] {
            let error = Signer::new(
                &secret.into(),
                &Signing {
                    secret_encoding,
                    ..Signing::default()
                },
            )
            .unwrap_err();
            assert!(!error.to_string().contains(secret), "{error}");
        }
    }

    #[test]
    fn the_wire_is_the_normal_form_with_the_globals_in_order_and_the_signature_last() {
        let params = Params::parse(br#"{"zone":1.50,"Big":12345678901234567890,"b":""}"#).unwrap();
        let form = Signing {
            spaces: Spaces::Removed,
            timestamp_type: TimestampType::Number,
            ..Signing::default()
        };
        for form in [
            form,
            Signing {
                timestamp_type: TimestampType::Number,
                ..Signing::default()
            },
        ] {
            let signed = signer(&form).signed(&params, "P 1", at(7));
            let body = String::from_utf8(signed.body.to_vec()).unwrap();
            let (unsigned, _) = body.split_once(r#","sign":""#).unwrap();
            let expected = r#"{"Big":12345678901234567890,"access_code":"P 1","timestamp":7,"version":"2.0","zone":1.50"#;
            assert_eq!(unsigned, expected);
        }
    }

    #[test]
    fn a_signer_does_not_show_its_key() {
        assert!(!format!("{:?}", signer(&Signing::default())).contains(SECRET));
    }

    proptest! {
        #[test]
        fn the_fast_way_signs_what_the_options_of_the_default_write(body in proptest::collection::btree_map("[a-zA-Z_]{1,3}", ".{0,6}", 0..6)) {
            let body = serde_json::to_vec(&body).unwrap();
            let params = Params::parse(&body).unwrap();
            let signed = signer(&Signing::default()).signed(&params, "P", at(1));
            let sent = parse_object(&signed.body).unwrap();
            let unsigned: Object<'_> = sent.into_iter().filter(|(key, _)| key != "sign").collect();
            prop_assert_eq!(canonical_text(&unsigned, &Signing::default()), signed.text);
        }
    }
}
