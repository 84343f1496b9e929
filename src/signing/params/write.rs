//! How are values written? As compact JSON: non-ASCII raw, only `"`, `\` and controls escaped,
//! numbers as they came.

use std::borrow::Cow;

use data_encoding::{Encoding, HEXLOWER, HEXUPPER};

use super::value::{Object, Value};

/// Writes an object, its members in the order that they have.
pub fn write_object(out: &mut String, fields: &Object<'_>) {
    out.push('{');
    for (index, (key, value)) in fields.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_text(out, key);
        out.push(':');
        write_value(out, value);
    }
    out.push('}');
}

fn write_value(out: &mut String, value: &Value<'_>) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(token) => out.push_str(token),
        Value::String(text) => write_text(out, text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_value(out, item);
            }
            out.push(']');
        }
        Value::Object(fields) => write_object(out, fields),
    }
}

/// The bytes that no JSON string holds as they are: a quote, a backslash, controls. (A table, as
/// they are looked for in every byte.)
static SPECIAL: [bool; 256] = {
    let (mut special, mut byte) = ([false; 256], 0);
    while byte < special.len() {
        special[byte] = byte < 0x20;
        byte += 1;
    }
    special[b'"' as usize] = true;
    special[b'\\' as usize] = true;
    special
};

pub(super) fn is_special(byte: u8) -> bool {
    SPECIAL[usize::from(byte)]
}

/// Writes a JSON string.
pub fn write_string(out: &mut String, text: &str) {
    if text.bytes().any(is_special) {
        write_string_with(out, text, |_| None);
    } else {
        write_plain(out, text);
    }
}

#[expect(
    clippy::ptr_arg,
    reason = "what is borrowed was looked through when it was read"
)]
fn write_text(out: &mut String, text: &Cow<'_, str>) {
    match text {
        Cow::Borrowed(plain) => write_plain(out, plain),
        Cow::Owned(decoded) => write_string(out, decoded),
    }
}

fn write_plain(out: &mut String, text: &str) {
    debug_assert!(!text.bytes().any(is_special), "{text:?} needs escapes");
    out.push('"');
    out.push_str(text);
    out.push('"');
}

/// Writes a JSON string. `escape` may ask for a character's own escape; without it only `"`, `\`
/// and controls have one.
pub fn write_string_with(out: &mut String, text: &str, escape: impl Fn(char) -> Option<Escape>) {
    out.push('"');
    for character in text.chars() {
        match (escape(character), character) {
            (Some(Escape::Slash), _) => {
                out.push('\\');
                out.push(character);
            }
            (Some(Escape::Lower), _) => push_units(out, character, |out, unit| {
                push_hex(out, unit, &HEXLOWER);
            }),
            (Some(Escape::Upper), _) => push_units(out, character, |out, unit| {
                push_hex(out, unit, &HEXUPPER);
            }),
            (None, '"') => out.push_str("\\\""),
            (None, '\\') => out.push_str("\\\\"),
            (None, '\u{8}') => out.push_str("\\b"),
            (None, '\u{c}') => out.push_str("\\f"),
            (None, '\n') => out.push_str("\\n"),
            (None, '\r') => out.push_str("\\r"),
            (None, '\t') => out.push_str("\\t"),
            (None, '\0'..='\u{1f}') => push_hex(out, character as u16, &HEXLOWER),
            (None, _) => out.push(character),
        }
    }
    out.push('"');
}

/// How a character is escaped beyond what JSON demands.
#[derive(Debug, Clone, Copy)]
pub enum Escape {
    /// A backslash before it.
    Slash,
    /// `\u` and its UTF-16 code units in lower-case hexadecimal.
    Lower,
    /// `\u` and its UTF-16 code units in upper-case hexadecimal.
    Upper,
}

fn push_units(out: &mut String, character: char, push: impl Fn(&mut String, u16)) {
    for unit in character.encode_utf16(&mut [0; 2]) {
        push(out, *unit);
    }
}

fn push_hex(out: &mut String, unit: u16, digits: &Encoding) {
    out.push_str("\\u");
    digits.encode_append(&unit.to_be_bytes(), out);
}
