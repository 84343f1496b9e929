//! What did the client write? JSON without the loss of a digit.
//!
//! A signature covers the text of a number (`1.50`, a 23-digit integer), so numbers stay the tokens
//! they were. Keys are unique and stand in the order of Java's `String.compareTo`, at every depth:
//! what the signature is made of can be written down as it lies.

use std::cmp::Ordering;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Each level is scanned once more than the one above it; the documented bodies need two.
const MAX_DEPTH: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// As written.
    Number(String),
    String(String),
    Array(Vec<Value>),
    Object(Object),
}

impl Value {
    /// Empty in the words of the vendor's signing rule.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(_) | Self::Number(_) => false,
            Self::String(text) => text.is_empty(),
            Self::Array(items) => items.is_empty(),
            Self::Object(object) => object.0.is_empty(),
        }
    }
}

/// Entries in key order, no key twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Object(Vec<(String, Value)>);

impl Object {
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.0
            .binary_search_by(|(candidate, _)| compare(candidate, key))
            .ok()
            .map(|found| &self.0[found].1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Invalid {
    #[error("not UTF-8")]
    Encoding,
    #[error("{0}")]
    Syntax(#[from] serde_json::Error),
    #[error("not a JSON object")]
    NotAnObject,
    #[error("a key occurs twice")]
    DuplicateKey,
    #[error("nested deeper than {MAX_DEPTH}")]
    TooDeep,
}

/// The object in `body`.
pub(super) fn parse(body: &[u8]) -> Result<Object, Invalid> {
    let text = std::str::from_utf8(body).map_err(|_| Invalid::Encoding)?;
    match value(serde_json::from_str(text)?, 0)? {
        Value::Object(object) => Ok(object),
        _ => Err(Invalid::NotAnObject),
    }
}

fn value(raw: &RawValue, depth: usize) -> Result<Value, Invalid> {
    if depth > MAX_DEPTH {
        return Err(Invalid::TooDeep);
    }
    let token = raw.get();
    Ok(match token.as_bytes().first() {
        Some(b'{') => Value::Object(object(token, depth)?),
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(token)?;
            let items = items.into_iter().map(|item| value(item, depth + 1));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        // Decodes the escapes, and refuses a lone surrogate.
        Some(b'"') => Value::String(serde_json::from_str(token)?),
        Some(b't') => Value::Bool(true),
        Some(b'f') => Value::Bool(false),
        Some(b'n') => Value::Null,
        _ => Value::Number(token.to_owned()),
    })
}

fn object(token: &str, depth: usize) -> Result<Object, Invalid> {
    let Entries(raw) = serde_json::from_str(token)?;
    let mut entries = Vec::with_capacity(raw.len());
    for (key, raw) in raw {
        entries.push((key, value(raw, depth + 1)?));
    }
    entries.sort_by(|(left, _), (right, _)| compare(left, right));
    if entries.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(Invalid::DuplicateKey);
    }
    Ok(Object(entries))
}

/// Java compares UTF-16 code units: beyond the BMP that is not the order of UTF-8.
fn compare(left: &str, right: &str) -> Ordering {
    left.encode_utf16().cmp(right.encode_utf16())
}

/// Every entry as it came: a map type would lose duplicates silently.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyObject;

        impl<'de> Visitor<'de> for AnyObject {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(entries)
            }
        }

        deserializer.deserialize_map(AnyObject).map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Vec<String> {
        let object = parse(text.as_bytes()).unwrap();
        object.iter().map(|(key, _)| key.to_owned()).collect()
    }

    #[test]
    fn numbers_stay_as_written() {
        for token in ["1.50", "100.0", "1E21", "-0", "12345678901234567890123"] {
            let object = parse(format!("{{\"n\": {token} }}").as_bytes()).unwrap();
            assert_eq!(object.get("n"), Some(&Value::Number(token.to_owned())));
        }
    }

    #[test]
    fn keys_stand_in_the_order_of_utf_16() {
        // U+1F600 is D83D DE00 in UTF-16, before U+FF5E; in UTF-8 it comes after.
        assert_eq!(
            keys("{\"\u{ff5e}\":1,\"\u{1f600}\":2,\"a\":3,\"Z\":4}"),
            ["Z", "a", "\u{1f600}", "\u{ff5e}"]
        );
    }

    #[test]
    fn a_duplicate_key_is_refused_at_any_depth_and_however_it_is_spelled() {
        for text in [r#"{"a":1,"a":1}"#, r#"{"x":[{"a":1,"\u0061":2}]}"#] {
            assert!(matches!(parse(text.as_bytes()), Err(Invalid::DuplicateKey)));
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in [
            "",
            "[]",
            "1",
            "null",
            "{",
            "{} {}",
            r#"{"a":"\ud800"}"#,
            "{\"a\":01}",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn deep_nesting_is_refused_without_a_stack_overflow() {
        let text = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(matches!(parse(text.as_bytes()), Err(Invalid::TooDeep)));
    }
}
