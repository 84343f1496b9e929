//! Did the owner of the secret write these parameters? The vendor's signing rule, seen from the
//! vendor's side.
//!
//! It shares no line with the gateway: two readings of the rule that agree are worth more than one
//! that is used twice.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

use super::json::{Object, Value};

/// The secret, keyed once; it cannot be read back or printed.
pub(super) struct Signer(Hmac<Sha1>);

impl Signer {
    pub(super) fn new(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("HMAC takes a key of any length"))
    }

    /// In constant time.
    pub(super) fn is_signed(&self, params: &Object, sign: &str) -> bool {
        let Ok(sign) = STANDARD.decode(sign) else {
            return false;
        };
        let mut mac = self.0.clone();
        mac.update(canonical(params).as_bytes());
        mac.verify_slice(&sign).is_ok()
    }

    /// The `data.sign` of an answer. What the vendor signs there is not documented; this only looks
    /// the same, and is never that of the request.
    pub(super) fn answer(&self, request_sign: &str) -> String {
        self.sign(&format!("answer:{request_sign}"))
    }

    fn sign(&self, text: &str) -> String {
        let mut mac = self.0.clone();
        mac.update(text.as_bytes());
        STANDARD.encode(mac.finalize().into_bytes())
    }
}

/// The text that is signed: parameters that are not empty, without `sign`, compact, keys in order.
fn canonical(params: &Object) -> String {
    let mut text = String::new();
    let signed = params
        .iter()
        .filter(|(key, value)| *key != "sign" && !value.is_empty());
    write_entries(&mut text, signed);
    text
}

fn write_entries<'a>(text: &mut String, entries: impl Iterator<Item = (&'a str, &'a Value)>) {
    text.push('{');
    for (index, (key, value)) in entries.enumerate() {
        if index > 0 {
            text.push(',');
        }
        write_string(text, key);
        text.push(':');
        write(text, value);
    }
    text.push('}');
}

fn write(text: &mut String, value: &Value) {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(true) => text.push_str("true"),
        Value::Bool(false) => text.push_str("false"),
        Value::Number(token) => text.push_str(token),
        Value::String(string) => write_string(text, string),
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write(text, item);
            }
            text.push(']');
        }
        Value::Object(object) => write_entries(text, object.iter()),
    }
}

/// Escapes what JSON demands and nothing else: no `\/`, no `\u` for what can be written.
fn write_string(text: &mut String, string: &str) {
    text.push('"');
    for character in string.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\0'..'\u{20}' => {
                let number = u32::from(character);
                text.push_str("\\u00");
                text.extend(char::from_digit(number >> 4, 16));
                text.extend(char::from_digit(number & 0xf, 16));
            }
            _ => text.push(character),
        }
    }
    text.push('"');
}

/// `params`, an object without `sign`, signed as a client would.
#[cfg(test)]
pub(super) fn signed(secret: &str, params: &str) -> String {
    let object = super::json::parse(params.as_bytes()).unwrap();
    let sign = Signer::new(secret.as_bytes()).sign(&canonical(&object));
    let open = params.trim_end().strip_suffix('}').unwrap();
    let comma = if object == Object::default() { "" } else { "," };
    format!("{open}{comma}\"sign\":\"{sign}\"}}")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::value::RawValue;

    use super::super::json::parse;
    use super::*;

    #[derive(Deserialize)]
    struct Vector<'a> {
        name: String,
        secret: String,
        #[serde(borrow)]
        params: &'a RawValue,
        canonical: String,
        sign: String,
    }

    fn vectors() -> Vec<Vector<'static>> {
        serde_json::from_str(include_str!("../../tests/data/sign-vectors.json")).unwrap()
    }

    #[test]
    fn every_vector_has_its_canonical_text_and_its_signature() {
        assert!(!vectors().is_empty());
        for vector in vectors() {
            let params = parse(vector.params.get().as_bytes()).unwrap();
            let signer = Signer::new(vector.secret.as_bytes());
            assert_eq!(canonical(&params), vector.canonical, "{}", vector.name);
            assert_eq!(
                signer.sign(&vector.canonical),
                vector.sign,
                "{}",
                vector.name
            );
            assert!(signer.is_signed(&params, &vector.sign), "{}", vector.name);
            assert!(!Signer::new(b"another").is_signed(&params, &vector.sign));
        }
    }

    #[test]
    fn the_sign_on_the_wire_is_not_signed() {
        let body = signed("s", r#"{"b":1,"a":"x"}"#);
        let params = parse(body.as_bytes()).unwrap();
        assert_eq!(canonical(&params), r#"{"a":"x","b":1}"#);
    }

    #[test]
    fn controls_are_escaped_and_nothing_else() {
        let params = parse(r#"{"a":"\u0000\u001f\b\f\n\r\t\u007f\u2028\/<&"}"#.as_bytes()).unwrap();
        assert_eq!(
            canonical(&params),
            "{\"a\":\"\\u0000\\u001f\\b\\f\\n\\r\\t\u{7f}\u{2028}/<&\"}"
        );
    }

    #[test]
    fn what_is_no_base64_of_a_mac_is_no_signature() {
        let params = Object::default();
        let signer = Signer::new(b"s");
        for sign in ["", "?", "AAAA", "Zd FRHMM/ccYeb49Rys3wOCZXDpc="] {
            assert!(!signer.is_signed(&params, sign));
        }
    }

    #[test]
    fn an_answer_bears_another_signature_than_its_request() {
        let sign = Signer::new(b"s").answer("Onq75AovREB+Q5/n4omwTL19nNA=");
        assert_eq!(sign.len(), 28);
        assert_ne!(sign, "Onq75AovREB+Q5/n4omwTL19nNA=");
    }
}
