//! Which queries can a command not have changed? Those that name another device or another order
//! than it does.
//!
//! A command spares a query only if both name the *same* field with different values. A field that
//! only one of them names tells nothing: an order may belong to any device. What cannot be compared
//! beyond doubt counts as touched, as one call too many is better than a page too old.

use smallvec::SmallVec;

use crate::signing::params::{Params, Value};

/// The fields that narrow what a command changes and what a query shows.
const FIELDS: [&str; 3] = ["device_id", "deviceList", "order_id"];

/// The first so many of them name devices.
const OF_DEVICES: usize = 2;

/// Of a longer list it is not told what it names: it is kept for each command, and compared with
/// each query.
const MOST_VALUES: usize = 64;

/// No identifier is longer: an ICCID has 20 digits.
const LONGEST: usize = 64;

/// What a set of parameters names, field by field.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Named([Values; FIELDS.len()]);

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
enum Values {
    /// The field is not there.
    #[default]
    Absent,
    /// It names these, and nothing else: in order, each once.
    These(SmallVec<[String; 1]>),
    /// It is there, and what it names cannot be told.
    Unclear,
}

impl Named {
    /// What these parameters name.
    pub fn of(params: &Params) -> Self {
        let values = params.values(FIELDS);
        Self(values.map(|value| value.as_ref().map_or(Values::Absent, Values::of)))
    }

    /// By which fields of a query that which these parameters name can be asked for.
    pub fn fields(params: &Params) -> Vec<&'static str> {
        let named = Self::of(params).0;
        let is_there = |field: &usize| named[*field] != Values::Absent;
        let mut fields: Vec<_> = (0..FIELDS.len())
            .filter(is_there)
            .map(|field| FIELDS[field])
            .collect();
        // A list is a command's; a query asks for one device at a time.
        for field in &mut fields {
            if *field == "deviceList" {
                *field = "device_id";
            }
        }
        fields.dedup();
        fields
    }

    /// Nothing: what has no names touches every query.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// One device, as a query for it would name it.
    pub fn device(iccid: &str) -> Self {
        Self([
            Values::of(&Value::String(iccid.to_owned().into())),
            Values::Absent,
            Values::Absent,
        ])
    }

    /// Can it be told what is named?
    pub fn is_clear(&self) -> bool {
        !self.0.contains(&Values::Unclear)
    }

    /// May something that names `self` have changed what a query that names `query` shows?
    pub fn touches(&self, query: &Self) -> bool {
        let mut is_apart = false;
        for (place, changed) in self.0.iter().enumerate() {
            for (other, shown) in query.0.iter().enumerate() {
                // One device may stand in either field, which makes them meet, but never keeps them
                // apart.
                if place != other && place.max(other) >= OF_DEVICES {
                    continue;
                }
                match (changed, shown) {
                    (Values::Absent, _) | (_, Values::Absent) => {}
                    (Values::These(changed), Values::These(shown))
                        if !changed.iter().any(|one| shown.binary_search(one).is_ok()) =>
                    {
                        is_apart |= place == other;
                    }
                    _ => return true,
                }
            }
        }
        !is_apart
    }
}

impl Values {
    fn of(value: &Value<'_>) -> Self {
        let items = match value {
            Value::Array(items) => items.as_slice(),
            one => std::slice::from_ref(one),
        };
        if items.len() > MOST_VALUES {
            return Self::Unclear;
        }
        let Some(mut identifiers) = items
            .iter()
            .map(identifier)
            .collect::<Option<SmallVec<_>>>()
        else {
            return Self::Unclear;
        };
        identifiers.sort_unstable();
        identifiers.dedup();
        Self::These(identifiers)
    }
}

/// An identifier as the vendor may compare it: without case or surrounding space, a number like its
/// digits. Anything else may be a list, a pattern or a typing error that the vendor reads in its
/// own way.
fn identifier(value: &Value<'_>) -> Option<String> {
    let text = match value {
        Value::String(text) => text.trim(),
        Value::Number(token) if token.bytes().all(|byte| byte.is_ascii_digit()) => token,
        _ => return None,
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    ((1..=LONGEST).contains(&text.len()) && text.bytes().all(is_plain))
        .then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(body: &str) -> Named {
        Named::of(&Params::parse(body.as_bytes()).unwrap())
    }

    #[test]
    fn a_command_spares_a_query_only_if_both_name_the_same_field_with_different_values() {
        let rows = [
            (r#"{"device_id":"A"}"#, r#"{"device_id":"B"}"#, false),
            (r#"{"device_id":"A"}"#, r#"{"device_id":"A"}"#, true),
            (r#"{"device_id":"A"}"#, r#"{"device_id":" a "}"#, true),
            (r#"{"device_id":"12"}"#, r#"{"device_id":12}"#, true),
            (r#"{"device_id":"12"}"#, r#"{"device_id":13}"#, false),
            (r#"{"device_id":"A"}"#, r#"{"order_id":"B"}"#, true),
            (r#"{"device_id":"A"}"#, r"{}", true),
            (r"{}", r#"{"device_id":"A"}"#, true),
            (r#"{"device_id":""}"#, r#"{"device_id":"A"}"#, true),
            (r#"{"order_id":"X"}"#, r#"{"order_id":"Y"}"#, false),
            (
                r#"{"deviceList":["A","B"]}"#,
                r#"{"deviceList":["C"]}"#,
                false,
            ),
            (
                r#"{"deviceList":["A","B"]}"#,
                r#"{"deviceList":["C","B"]}"#,
                true,
            ),
            (r#"{"deviceList":["A"]}"#, r#"{"device_id":"B"}"#, true),
            (r#"{"device_id":["A"]}"#, r#"{"device_id":"B"}"#, false),
            (r#"{"device_id":"A,B"}"#, r#"{"device_id":"B"}"#, true),
            (r#"{"device_id":"A*"}"#, r#"{"device_id":"B"}"#, true),
            (r#"{"device_id":{"x":1}}"#, r#"{"device_id":"B"}"#, true),
            (r#"{"device_id":[["A"]]}"#, r#"{"device_id":"B"}"#, true),
            (r#"{"device_id":true}"#, r#"{"device_id":"B"}"#, true),
            (
                r#"{"device_id":"A","order_id":"X"}"#,
                r#"{"device_id":"B"}"#,
                false,
            ),
            (
                r#"{"device_id":"A","order_id":"X"}"#,
                r#"{"device_id":"B","order_id":"X"}"#,
                true,
            ),
            (
                r#"{"device_id":"A","deviceList":["B"]}"#,
                r#"{"device_id":"B"}"#,
                true,
            ),
            (
                r#"{"device_id":"A"}"#,
                r#"{"device_id":"B","deviceList":["A"]}"#,
                true,
            ),
            (
                r#"{"device_id":"A","deviceList":["C"]}"#,
                r#"{"device_id":"B"}"#,
                false,
            ),
            (r#"{"device_id":1e3}"#, r#"{"device_id":1000}"#, true),
            (r#"{"DEVICE_ID":"A"}"#, r#"{"DEVICE_ID":"B"}"#, true),
        ];
        for (command, query, expected) in rows {
            assert_eq!(
                named(command).touches(&named(query)),
                expected,
                "{command} and {query}"
            );
        }
    }

    #[test]
    fn of_a_long_list_it_is_not_told_what_it_names() {
        let list = |most: usize| {
            let devices: Vec<_> = (0..most).map(|device| device.to_string()).collect();
            named(&serde_json::json!({ "deviceList": devices }).to_string())
        };
        let other = named(r#"{"deviceList":["other"]}"#);
        assert!(!list(MOST_VALUES).touches(&other));
        assert!(list(MOST_VALUES + 1).touches(&other));
        let long = |length| Named::device(&"x".repeat(length));
        assert!(long(LONGEST).is_clear() && !long(LONGEST + 1).is_clear());
    }

    #[test]
    fn a_device_that_is_named_alone_is_named_as_a_query_names_it() {
        assert_eq!(Named::device("A"), named(r#"{"device_id":"A"}"#));
        assert!(Named::nothing().touches(&named(r#"{"device_id":"A"}"#)));
    }
}
