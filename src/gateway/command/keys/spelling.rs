//! How is a key written? Bare, or as a string in quotes (RFC 8941, section 3.3.3): `k` and `"k"`
//! are one key.
//!
//! An earlier version hashed what came, so that these were two. What it has stored is still found:
//! a key knows its other spelling.

use std::borrow::Cow;

/// The characters that a key may have at most, quotes and escapes not counted.
const LONGEST: usize = 255;

const INVALID: &str =
    "1 to 255 visible ASCII characters, such as a UUID; one with spaces stands in quotes";
const NOT_ALONE: &str = "a key in quotes stands alone: nothing behind the closing quote, such as parameters or another key";

/// A key as a caller has spelled it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spelling<'a> {
    /// Bare where it can be, else in quotes: the same for each spelling of a key, and of no other.
    normal: Cow<'a, str>,
    /// In quotes.
    string: Cow<'a, str>,
}

impl<'a> Spelling<'a> {
    /// Reads a header's value, or says what it should be. What begins with a quote and is no string
    /// is bare.
    pub fn read(sent: &'a str) -> Result<Self, &'static str> {
        let (text, string) = match read_string(sent) {
            Some((text, "")) => (Cow::Owned(text), Cow::Borrowed(sent)),
            Some(_) => return Err(NOT_ALONE),
            None if is_graphic(sent) => (Cow::Borrowed(sent), Cow::Owned(quote(sent))),
            None => return Err(INVALID),
        };
        if !(1..=LONGEST).contains(&text.len()) {
            return Err(INVALID);
        }
        let can_be_bare = is_graphic(&text) && read_string(&text).is_none();
        let normal = if can_be_bare { text } else { string.clone() };
        Ok(Self { normal, string })
    }

    /// The one that stands for all.
    pub fn normal(&self) -> &str {
        &self.normal
    }

    /// Another one, if the earlier version took it.
    pub fn other(&self) -> Option<&str> {
        let was_taken = self.string.len() <= LONGEST;
        (was_taken && self.string != self.normal).then_some(&*self.string)
    }
}

fn is_graphic(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What a string at the beginning holds, and what stands behind it. None: there is no such string.
fn read_string(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?.chars();
    let mut held = String::new();
    loop {
        let character = match rest.next()? {
            '"' => return Some((held, rest.as_str())),
            '\\' => rest.next().filter(|next| matches!(next, '"' | '\\'))?,
            character => character,
        };
        held.push(Some(character).filter(|character| matches!(character, ' '..='~'))?);
    }
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_has_one_normal_spelling_and_may_have_another() {
        let rows = [
            ("k", "k", Some(r#""k""#)),
            (r#""k""#, "k", Some(r#""k""#)),
            (r#"a"b"#, r#"a"b"#, Some(r#""a\"b""#)),
            (r#""a\\b""#, r"a\b", Some(r#""a\\b""#)),
            (r#""a b""#, r#""a b""#, None),
            (r#""\"k\"""#, r#""\"k\"""#, None),
            (r#""k"#, r#""k"#, Some(r#""\"k""#)),
            (r#""a\b""#, r#""a\b""#, Some(r#""\"a\\b\"""#)),
            (r#"""#, r#"""#, Some(r#""\"""#)),
        ];
        for (sent, normal, other) in rows {
            let spelling = Spelling::read(sent).unwrap();
            assert_eq!(spelling.normal(), normal, "{sent}");
            assert_eq!(spelling.other(), other, "{sent}");
        }
        let longest = "x".repeat(LONGEST);
        for sent in [&longest, &quote(&longest)] {
            let spelling = Spelling::read(sent).unwrap();
            assert_eq!((spelling.normal(), spelling.other()), (&*longest, None));
        }
    }

    #[test]
    fn what_is_no_key_is_refused_with_the_reason() {
        let long = "x".repeat(256);
        let string = quote(&long);
        for sent in [
            "",
            "a b",
            "\"a b",
            "\"\"",
            "\t",
            "ключ",
            "\"ключ\"",
            &long,
            &string,
        ] {
            assert_eq!(Spelling::read(sent), Err(INVALID), "{sent}");
        }
        for sent in [
            r#""k";x=1"#,
            r#""k" ;x"#,
            r#""a","b""#,
            r#""a"b"#,
            r#""a""b""#,
        ] {
            assert_eq!(Spelling::read(sent), Err(NOT_ALONE), "{sent}");
        }
    }

    proptest! {
        #[test]
        fn keys_are_one_if_and_only_if_they_hold_the_same(
            left in r#"["\\a b]{1,4}"#, right in r#"["\\a b]{1,4}"#,
        ) {
            let (left_string, right_string) = (quote(&left), quote(&right));
            let strings = [&left_string, &right_string].map(|text| Spelling::read(text).unwrap());
            let [one, other] = strings.each_ref().map(Spelling::normal);
            prop_assert_eq!(one == other, left == right);
            for sent in [one, &*left] {
                if let Ok(spelling) = Spelling::read(sent) && spelling.string == *left_string {
                    prop_assert_eq!(spelling.normal(), one);
                }
            }
            let again = Spelling::read(one).unwrap();
            prop_assert_eq!(again.normal(), one);
        }
    }
}
