//! What are the parameters, in normal form? Cache key, wire body and signed text all read this one
//! text.
//!
//! The normal form is compact JSON: the vendor's global fields and the empty parameters are out,
//! keys are in order, string values are equal to those that came, number tokens stand as they were
//! written, arrays keep their order. Law: `normal(parse(normal(x))) == normal(x)`.

mod read;
mod value;
mod write;

use std::cmp::Ordering;

use self::read::Reader;
pub use self::read::{parse_object, without_mark};
pub use self::value::{InvalidParams, MAX_DEPTH, Object, Value};
pub use self::write::{Escape, write_object, write_string, write_string_with};

/// The vendor's global fields, which the gateway sets itself. Those of a caller are replaced.
pub const GLOBALS: [&str; 4] = ["access_code", "sign", "timestamp", "version"];

/// Room for the signature that a request's text gets.
const SIGNATURE: usize = 64;

/// The parameters of one request in normal form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    text: String,
    access_code: Option<String>,
}

impl Params {
    /// Reads a body. An empty one is `{}`.
    pub fn parse(body: &[u8]) -> Result<Self, InvalidParams> {
        let mut fields = if body.is_empty() {
            Object::new()
        } else {
            parse_object(body)?
        };
        let access_code = match fields.iter().find(|(key, _)| key == "access_code") {
            Some((_, Value::String(code))) if !code.is_empty() => Some(code.clone().into_owned()),
            None | Some((_, Value::Null | Value::String(_))) => None,
            Some(_) => return Err(InvalidParams("access_code must be a string".into())),
        };
        fields.retain(|(key, value)| !GLOBALS.contains(&&**key) && !value.is_empty());
        sort(&mut fields);
        let mut text = String::with_capacity(body.len() + 2);
        write_object(&mut text, &fields);
        Ok(Self { text, access_code })
    }

    /// The parameters of a text that [`as_str`](Self::as_str) has given.
    pub fn of_normal_form(text: String) -> Self {
        Self {
            text,
            access_code: None,
        }
    }

    /// The normal form, a JSON object.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The `access_code` that the caller's body named, if any.
    pub fn access_code(&self) -> Option<&str> {
        self.access_code.as_deref()
    }

    /// The values of the parameters with these names; here and below of such as JSON does not
    /// escape.
    pub fn values<const N: usize>(&self, names: [&str; N]) -> [Option<Value<'_>>; N] {
        let mut values = [const { None }; N];
        for (key, member) in self.members() {
            if let Some(place) = names.iter().position(|name| *name == key) {
                let text = &member[key.len() + 3..]; // two quotes and a colon
                let value = Reader::new(text).value(1);
                values[place] = Some(value.expect("the normal form was written by write_object"));
            }
        }
        values
    }

    /// The whole number that a parameter is, as a number or as a string.
    pub fn number(&self, name: &str) -> Option<u64> {
        match self.values([name]) {
            [Some(Value::Number(digits))] => digits.parse().ok(),
            [Some(Value::String(digits))] => digits.parse().ok(),
            _ => None,
        }
    }

    /// The same parameters but for this one.
    #[must_use]
    pub fn without(&self, name: &str) -> Self {
        let others: Vec<_> = self
            .members()
            .filter(|(key, _)| *key != name)
            .map(|(_, member)| member)
            .collect();
        Self {
            text: format!("{{{}}}", others.join(",")),
            access_code: self.access_code.clone(),
        }
    }

    /// The same parameters with this one, whatever it was.
    #[must_use]
    pub fn with(&self, name: &str, number: u64) -> Self {
        Self {
            text: self.merged(&[(name, &number.to_string())]),
            access_code: self.access_code.clone(),
        }
    }

    /// The object of these parameters and others, which stand in order: names of small letters and
    /// underscores, and values in JSON. What has the same name is replaced.
    pub fn merged(&self, others: &[(&str, &str)]) -> String {
        let more = others
            .iter()
            .map(|(name, value)| name.len() + value.len() + 4);
        let size = self.text.len() + more.sum::<usize>() + SIGNATURE;
        let mut text = String::with_capacity(size);
        let mut others = others.iter().peekable();
        text.push('{');
        // Every character that JSON escapes comes before those of a name, and so does the escape's
        // backslash: the texts of two keys are in the order of the keys.
        for (key, member) in self.members() {
            while let Some((name, value)) = others.next_if(|(name, _)| *name < key) {
                push_member(&mut text, name, value);
            }
            if others.peek().is_none_or(|(name, _)| *name != key) {
                text.push_str(member);
                text.push(',');
            }
        }
        for (name, value) in others {
            push_member(&mut text, name, value);
        }
        if text.ends_with(',') {
            text.pop();
        }
        text.push('}');
        text
    }

    /// The keys, as they stand in the text between their quotes, with the members they begin.
    fn members(&self) -> impl Iterator<Item = (&str, &str)> {
        Reader::new(&self.text).members_of_compact()
    }
}

fn push_member(text: &mut String, name: &str, value: &str) {
    for part in ["\"", name, "\":", value, ","] {
        text.push_str(part);
    }
}

/// The order of keys: by UTF-16 code unit, as Java's `String.compareTo` and so its `TreeMap` have
/// it.
pub fn key_order(left: &str, right: &str) -> Ordering {
    if left.is_ascii() && right.is_ascii() {
        left.cmp(right) // the same, and sooner
    } else {
        left.encode_utf16().cmp(right.encode_utf16())
    }
}

fn sort(fields: &mut Object<'_>) {
    fields.sort_unstable_by(|(left, _), (right, _)| key_order(left, right));
    for (_, value) in fields {
        sort_nested(value);
    }
}

fn sort_nested(value: &mut Value<'_>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(sort_nested),
        Value::Object(fields) => sort(fields),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(body: &str) -> String {
        Params::parse(body.as_bytes()).unwrap().text
    }

    #[test]
    fn the_normal_form_is() {
        let nested_31 = format!("{}1{}", "[".repeat(31), "]".repeat(31));
        let deep = format!(r#"{{"a":{nested_31}}}"#);
        let rows = [
            ("", "{}"),
            ("{}", "{}"),
            (" { } ", "{}"),
            ("\u{feff}{}", "{}"),
            // keys in order of their UTF-16 code units, at every level
            (
                r#"{"b":1,"a":{"z":1,"Z":2,"_":3}}"#,
                r#"{"a":{"Z":2,"_":3,"z":1},"b":1}"#,
            ),
            (
                "{\"\u{ffee}\":1,\"\u{1f600}\":2}",
                "{\"\u{1f600}\":2,\"\u{ffee}\":1}",
            ),
            // empty parameters are out at the top, and only there
            (
                r#"{"a":"","b":null,"c":[],"d":{},"e":0,"f":false,"g":" ","h":"0"}"#,
                r#"{"e":0,"f":false,"g":" ","h":"0"}"#,
            ),
            (
                r#"{"a":{"b":"","c":[null,""]}}"#,
                r#"{"a":{"b":"","c":[null,""]}}"#,
            ),
            // the vendor's globals are ours to set, nested ones are not globals
            (
                r#"{"sign":"x","timestamp":1,"version":"9","access_code":"P","a":{"sign":"y"}}"#,
                r#"{"a":{"sign":"y"}}"#,
            ),
            // no digit changes
            (
                r#"{"a":1.50,"b":1e-7,"c":12345678901234567890123,"d":-0,"e":1E+2,"f":100.0}"#,
                r#"{"a":1.50,"b":1e-7,"c":12345678901234567890123,"d":-0,"e":1E+2,"f":100.0}"#,
            ),
            // strings: equal, raw where JSON allows it
            (
                r#"{"a":"\u4e2d\u56fd \/ \ud83d\ude00 \u007f\u2028 <&>"}"#,
                "{\"a\":\"中国 / 😀 \u{7f}\u{2028} <&>\"}",
            ),
            (
                r#"{"a":"\u0000\u001F\b\f\n\r\t\"\\"}"#,
                r#"{"a":"\u0000\u001f\b\f\n\r\t\"\\"}"#,
            ),
            (&deep, &deep),
        ];
        for (body, expected) in rows {
            assert_eq!(normal(body), expected, "{body}");
        }
    }

    #[test]
    fn a_body_that_could_be_read_in_two_ways_is_refused_with_the_reason() {
        let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(32), "]".repeat(32));
        let many: Vec<_> = (0..20).map(|number| format!("\"k{number}\":0")).collect();
        let many = format!("{{{},\"k7\":0}}", many.join(","));
        let rows: [(&[u8], &str); 18] = [
            (many.as_bytes(), "\"k7\" stands twice"),
            (b" ", "blank"),
            (b"\xef\xbb\xbf", "blank"),
            (b"\xff\xfe{\0}\0", "in UTF-16: send it in UTF-8"),
            (b"\0\0\0{\0\0\0}", "in UTF-32: send it in UTF-8"),
            (b"[]", "must be a JSON object"),
            (b"null", "must be a JSON object"),
            (b"{\"a\":1", "EOF"),
            (b"{\"a\":1} x", "trailing characters"),
            (b"{\"a\":01}", "invalid number"),
            (b"{\"a\":NaN}", "expected value"),
            (b"{\"a\":1,\"a\":1}", "\"a\" stands twice"),
            (b"{\"x\":{\"a\":1,\"\\u0061\":2}}", "\"a\" stands twice"),
            (b"{\"a\":\"\\ud800\"}", "surrogate"),
            (b"{\"\\udc00\":1}", "surrogate"),
            (b"{\"a\":\"\x01\"}", "control character"),
            (b"{\"a\":\"\xff\"}", "not UTF-8 after byte 6"),
            (deep.as_bytes(), "nested deeper than 32 levels"),
        ];
        for (body, reason) in rows {
            let error = Params::parse(body).unwrap_err().to_string();
            assert!(
                error.contains(reason),
                "{}: {error}",
                String::from_utf8_lossy(body)
            );
        }
        let error = Params::parse(br#"{"access_code":7}"#).unwrap_err();
        assert_eq!(error.to_string(), "access_code must be a string");
    }

    #[test]
    fn the_access_code_of_the_body_is_told() {
        let code = |body: &str| Params::parse(body.as_bytes()).unwrap().access_code;
        assert_eq!(
            code(r#"{"access_code":"P000270"}"#).as_deref(),
            Some("P000270")
        );
        assert_eq!(code(r#"{"access_code":""}"#), None);
        assert_eq!(code(r#"{"access_code":null}"#), None);
        assert_eq!(code("{}"), None);
    }

    /// Any JSON text of an object with unique keys, escapes written in several ways.
    fn json_object() -> impl Strategy<Value = Vec<(String, String)>> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            Just(r#""""#.to_owned()),
            "-?(0|[1-9][0-9]{0,22})(\\.[0-9]{1,4})?([eE][+-]?[0-9]{1,3})?",
            any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        ];
        let value = leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4)
                    .prop_map(|items| format!("[{}]", items.join(" , "))),
                prop::collection::btree_map("[a-c]{1,2}", inner, 0..4)
                    .prop_map(|members| object_text(&members.into_iter().collect::<Vec<_>>())),
            ]
        });
        prop::collection::btree_map(
            "[A-Za-c_\\-0-9\"\\\\\n !中\u{e000}\u{1f600}]{1,4}",
            value,
            0..8,
        )
        .prop_map(|members| members.into_iter().collect())
    }

    fn object_text(members: &[(String, String)]) -> String {
        let members: Vec<String> = members
            .iter()
            .map(|(key, value)| format!("{} : {value}", serde_json::to_string(key).unwrap()))
            .collect();
        format!("{{ {} }}", members.join(",\n"))
    }

    /// Mostly no JSON, but nearly: an object in which a few tokens were put, taken out or changed.
    fn any_text_of_tokens() -> impl Strategy<Value = String> {
        let token = prop_oneof![
            "[\\{\\}\\[\\]\",:]",
            "-|\\+|\\.|[0-9]{1,3}|[eE]|-0|0\\.5|1e5",
            "null|true|false|nul|True",
            "\"[a-c]?\"|\\\\u[dD][89abcd]00|\\\\u00e9|\\\\n|\\\\x|\\\\|é|\u{1f}|\u{0}",
            "[ \t\n\r]|\u{a0}|\u{c}|",
        ];
        let changes =
            prop::collection::vec((any::<prop::sample::Index>(), 0..3_usize, token), 0..4);
        let nearly_json = (json_object(), changes).prop_map(|(members, changes)| {
            let mut text: Vec<char> = object_text(&members).chars().collect();
            for (place, taken, token) in changes {
                let start = place.index(text.len() + 1);
                let end = (start + taken).min(text.len());
                text.splice(start..end, token.chars());
            }
            text.into_iter().collect()
        });
        prop_oneof![nearly_json, "\\{\"a\":-?0?[-+.eE019]{1,4}\\}"]
    }

    proptest! {
        #[test]
        fn the_normal_form_of_a_normal_form_is_itself(members in json_object()) {
            let once = normal(&object_text(&members));
            prop_assert_eq!(normal(&once), once);
        }

        #[test]
        fn the_order_of_parameters_does_not_matter(members in json_object(), seed in any::<u64>()) {
            let mut shuffled = members.clone();
            shuffled.sort_by_key(|(key, _)| key.bytes().fold(seed, |sum, byte| sum.rotate_left(7) ^ u64::from(byte)));
            prop_assert_eq!(normal(&object_text(&members)), normal(&object_text(&shuffled)));
        }

        #[test]
        fn empty_and_absent_are_one(members in json_object(), empty in prop_oneof!["\"\"", "null", "\\[ \\]", "\\{\\}"]) {
            let mut more = members.clone();
            more.push(("an empty one".to_owned(), empty));
            prop_assert_eq!(normal(&object_text(&members)), normal(&object_text(&more)));
        }

        #[test]
        fn every_value_stays_what_it_was(members in json_object()) {
            let body = object_text(&members);
            let params = Params::parse(body.as_bytes()).unwrap();
            let mut expected = parse_object(body.as_bytes()).unwrap();
            expected.retain(|(key, value)| !GLOBALS.contains(&&**key) && !value.is_empty());
            sort(&mut expected);
            prop_assert_eq!(parse_object(params.as_str().as_bytes()).unwrap(), expected);
        }

        #[test]
        fn a_parameter_is_found_taken_out_and_replaced_by_its_name(members in json_object(), name in "[a-c_]{1,2}") {
            let params = Params::parse(object_text(&members).as_bytes()).unwrap();
            let fields = parse_object(params.as_str().as_bytes()).unwrap();
            let value = fields.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
            let [_, found] = params.values(["none", &name]);
            prop_assert_eq!(found, value);

            let without: Vec<_> = members.iter().filter(|(key, _)| *key != name).cloned().collect();
            let expected = Params::parse(object_text(&without).as_bytes()).unwrap();
            prop_assert_eq!(params.without(&name), expected);

            let with: Vec<_> = without.into_iter().chain([(name.clone(), "7".to_owned())]).collect();
            let expected = Params::parse(object_text(&with).as_bytes()).unwrap();
            prop_assert_eq!(params.with(&name, 7), expected);
        }

        #[test]
        fn no_body_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Params::parse(&body);
        }

        #[test]
        fn what_is_json_is_read_as_serde_reads_it(body in any_text_of_tokens()) {
            let expected = serde_json::from_str::<serde_json::Map<_, _>>(&body);
            match (parse_object(body.as_bytes()), expected) {
                (Ok(fields), Ok(expected)) => {
                    let mut written = String::new();
                    write_object(&mut written, &fields);
                    let written: serde_json::Map<_, _> = serde_json::from_str(&written).unwrap();
                    prop_assert_eq!(written, expected);
                }
                (Err(error), Ok(_)) => prop_assert!(error.to_string().contains("stands twice"), "{}", error),
                (Ok(_), Err(error)) => prop_assert!(error.to_string().contains("out of range"), "{}", error),
                (Err(_), Err(_)) => {}
            }
        }
    }
}
