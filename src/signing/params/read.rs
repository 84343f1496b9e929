//! How is JSON read? Strictly (RFC 8259), in one pass, borrowing from the text; every number token
//! as it was written.
//!
//! serde keeps number tokens only as raw values, which are read once more at each level. What it
//! says of wrong text is better than anything said here, so it is asked for the reason; and it
//! decodes the strings that have escapes.

use std::borrow::Cow;
use std::iter;

use serde::de::IgnoredAny;

use super::value::{InvalidParams, MAX_DEPTH, Object, Value};
use super::write::is_special;

/// Parses a JSON object strictly: UTF-8, no duplicate key, no lone surrogate, at most [`MAX_DEPTH`]
/// levels. A byte order mark before it is passed over.
pub fn parse_object(body: &[u8]) -> Result<Object<'_>, InvalidParams> {
    let parsed = parse(without_mark(body));
    parsed.map_err(|invalid| match wide_encoding(body) {
        Some(encoding) => InvalidParams(format!("the body is in {encoding}: send it in UTF-8")),
        None => invalid,
    })
}

/// U+FEFF in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The text behind a byte order mark, which is no part of it: a parser of JSON may pass over one
/// (RFC 8259, section 8.1).
pub fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// By its byte order mark, or by where its first characters, which are ASCII in JSON, have their
/// zeros.
fn wide_encoding(body: &[u8]) -> Option<&'static str> {
    match body {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] | [0, 0, 0, ..] | [_, 0, 0, 0, ..] => {
            Some("UTF-32")
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, ..] | [_, 0, ..] => Some("UTF-16"),
        _ => None,
    }
}

fn parse(body: &[u8]) -> Result<Object<'_>, InvalidParams> {
    let text = std::str::from_utf8(body)
        .map_err(|error| InvalidParams(format!("not UTF-8 after byte {}", error.valid_up_to())))?;
    let mut reader = Reader::new(text);
    reader.skip_space();
    match reader.peek() {
        Some(b'{') => {}
        Some(_) => return Err(InvalidParams("the body must be a JSON object".into())),
        None => return Err(InvalidParams("the body is blank".into())),
    }
    let object = reader.object(1).and_then(|object| {
        reader.skip_space();
        reader
            .peek()
            .is_none()
            .then_some(object)
            .ok_or(Fault::Syntax)
    });
    object.map_err(|fault| fault.describe(text))
}

/// What is wrong with a text.
#[derive(Debug)]
pub(super) enum Fault {
    /// It is no JSON, or a string holds half of a surrogate pair.
    Syntax,
    TooDeep,
    /// This key stands twice in one object.
    Twice(String),
}

impl Fault {
    fn describe(self, text: &str) -> InvalidParams {
        InvalidParams(match self {
            Self::Syntax => match serde_json::from_str::<IgnoredAny>(text) {
                Err(error) => error.to_string(),
                Ok(_) => "a string holds half of a surrogate pair".into(), // which it does not decode
            },
            Self::TooDeep => format!("nested deeper than {MAX_DEPTH} levels"),
            Self::Twice(key) => {
                let shortened: String = key.chars().take(40).collect();
                format!("the key {shortened:?} stands twice")
            }
        })
    }
}

/// A key that stands twice. Of few members each is compared with those before it, which is sooner
/// done than sorted.
fn repeated<'o>(members: &'o Object<'_>) -> Option<&'o str> {
    if members.len() <= 16 {
        let stands_before = |at: usize| {
            let key = &members[at].0;
            members[..at]
                .iter()
                .any(|(before, _)| before == key)
                .then_some(&**key)
        };
        return (1..members.len()).find_map(stands_before);
    }
    let mut keys: Vec<&str> = members.iter().map(|(key, _)| &**key).collect();
    keys.sort_unstable();
    let pair = keys.windows(2).find(|pair| pair[0] == pair[1]);
    pair.map(|pair| pair[0])
}

/// A text, and how far it has been read.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// A value. `depth` is that of the object or array around it.
    pub(super) fn value(&mut self, depth: usize) -> Result<Value<'a>, Fault> {
        match self.peek() {
            Some(b'"') => self.string().map(Value::String),
            Some(b'{' | b'[') if depth >= MAX_DEPTH => Err(Fault::TooDeep),
            Some(b'{') => self.object(depth + 1).map(Value::Object),
            Some(b'[') => self.array(depth + 1).map(Value::Array),
            Some(b'-' | b'0'..=b'9') => self.number().map(Value::Number),
            Some(b'n') => self.literal("null", Value::Null),
            Some(b't') => self.literal("true", Value::Bool(true)),
            Some(b'f') => self.literal("false", Value::Bool(false)),
            _ => Err(Fault::Syntax),
        }
    }

    /// The members of an object in compact JSON, as text: what stands between the quotes of a key,
    /// and the whole member.
    pub(super) fn members_of_compact(mut self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.at += 1;
        iter::from_fn(move || {
            let start = self.at;
            let (key, _) = self.raw_string().ok()?; // else it is the closing brace
            let mut depth = 0;
            while let Some(byte) = self.peek() {
                match byte {
                    b'"' => {
                        self.raw_string().ok()?;
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b',' | b'}' if depth == 0 => break,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                self.at += 1;
            }
            let member = &self.text[start..self.at];
            self.at += 1;
            Some((key, member))
        })
    }

    fn object(&mut self, depth: usize) -> Result<Object<'a>, Fault> {
        let mut members = Vec::with_capacity(8);
        self.at += 1;
        self.skip_space();
        if self.takes(b'}') {
            return Ok(members);
        }
        loop {
            let key = self.string()?;
            self.skip_space();
            self.expect(b':')?;
            self.skip_space();
            members.push((key, self.value(depth)?));
            self.skip_space();
            if self.takes(b'}') {
                break;
            }
            self.expect(b',')?;
            self.skip_space();
        }
        match repeated(&members) {
            Some(key) => Err(Fault::Twice(key.to_owned())),
            None => Ok(members),
        }
    }

    fn array(&mut self, depth: usize) -> Result<Vec<Value<'a>>, Fault> {
        let mut items = Vec::new();
        self.at += 1;
        self.skip_space();
        if self.takes(b']') {
            return Ok(items);
        }
        loop {
            items.push(self.value(depth)?);
            self.skip_space();
            if self.takes(b']') {
                return Ok(items);
            }
            self.expect(b',')?;
            self.skip_space();
        }
    }

    fn string(&mut self) -> Result<Cow<'a, str>, Fault> {
        let start = self.at;
        let (raw, has_escapes) = self.raw_string()?;
        if !has_escapes {
            return Ok(Cow::Borrowed(raw));
        }
        let decoded = serde_json::from_str(&self.text[start..self.at]);
        decoded.map(Cow::Owned).map_err(|_| Fault::Syntax)
    }

    /// What stands between the quotes of a string, its escapes unread; has it any?
    fn raw_string(&mut self) -> Result<(&'a str, bool), Fault> {
        self.expect(b'"')?;
        let (start, mut end, mut has_escapes) = (self.at, self.at, false);
        loop {
            match self.text.as_bytes().get(end) {
                Some(byte) if !is_special(*byte) => end += 1,
                Some(b'"') => break,
                Some(b'\\') => (end, has_escapes) = (end + 2, true),
                _ => return Err(Fault::Syntax),
            }
        }
        self.at = end + 1;
        Ok((&self.text[start..end], has_escapes))
    }

    fn number(&mut self) -> Result<&'a str, Fault> {
        let start = self.at;
        self.takes(b'-');
        if !self.takes(b'0') {
            self.digits()?;
        }
        if self.takes(b'.') {
            self.digits()?;
        }
        if self.takes(b'e') || self.takes(b'E') {
            let _ = self.takes(b'+') || self.takes(b'-');
            self.digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start {
            Err(Fault::Syntax)
        } else {
            Ok(())
        }
    }

    fn literal(&mut self, word: &str, value: Value<'a>) -> Result<Value<'a>, Fault> {
        if !self.text[self.at..].starts_with(word) {
            return Err(Fault::Syntax);
        }
        self.at += word.len();
        Ok(value)
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn takes(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        if self.takes(byte) {
            Ok(())
        } else {
            Err(Fault::Syntax)
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }
}
