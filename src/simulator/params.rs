//! Which values does an endpoint get? Reading them one by one, and the refusal that names the one
//! that is missing or wrong.

use super::code::{self, Refusal};
use super::json::{Object, Value};

#[derive(Clone, Copy)]
pub(super) struct Params<'a>(pub(super) &'a Object);

impl<'a> Params<'a> {
    /// A string that is not empty.
    pub(super) fn required(self, key: &str) -> Result<&'a str, Refusal> {
        match self.optional(key)? {
            "" => Err(Refusal::of(&code::MISSING_PARAMETER, key)),
            text => Ok(text),
        }
    }

    /// A string; absent and null are empty.
    pub(super) fn optional(self, key: &str) -> Result<&'a str, Refusal> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(""),
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(Refusal::of(&code::INVALID_PARAMETER, key)),
        }
    }

    /// A bare integer from 1 to `max`.
    pub(super) fn integer(self, key: &str, max: u32) -> Result<u32, Refusal> {
        match self.0.get(key) {
            None | Some(Value::Null) => Err(Refusal::of(&code::MISSING_PARAMETER, key)),
            Some(Value::String(text)) if text.is_empty() => {
                Err(Refusal::of(&code::MISSING_PARAMETER, key))
            }
            Some(Value::Number(token)) => within(key, token, max),
            Some(_) => Err(Refusal::of(&code::INVALID_PARAMETER, key)),
        }
    }

    /// A string that is an integer from 1 to `max`.
    pub(super) fn digits(self, key: &str, max: u32) -> Result<u32, Refusal> {
        within(key, self.required(key)?, max)
    }

    /// `"0"` or `"1"`.
    pub(super) fn flag(self, key: &str) -> Result<bool, Refusal> {
        match self.required(key)? {
            "0" => Ok(false),
            "1" => Ok(true),
            _ => Err(Refusal::of(&code::INVALID_PARAMETER, key)),
        }
    }

    /// A list of strings with at least one.
    pub(super) fn strings(self, key: &str) -> Result<Vec<&'a str>, Refusal> {
        let items = match self.0.get(key) {
            Some(Value::Array(items)) if !items.is_empty() => items,
            Some(value) if !value.is_empty() => {
                return Err(Refusal::of(&code::INVALID_PARAMETER, key));
            }
            _ => return Err(Refusal::of(&code::MISSING_PARAMETER, key)),
        };
        let texts = items.iter().map(|item| match item {
            Value::String(text) if !text.is_empty() => Ok(text.as_str()),
            _ => Err(Refusal::of(&code::INVALID_PARAMETER, key)),
        });
        texts.collect()
    }
}

fn within(key: &str, token: &str, max: u32) -> Result<u32, Refusal> {
    let number = token.parse().ok();
    let number = number.filter(|number| (1..=max).contains(number));
    number.ok_or_else(|| Refusal::of(&code::INVALID_PARAMETER, key))
}
