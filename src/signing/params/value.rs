//! What a JSON text holds: values that borrow from it, and why one is no set of parameters.

use std::borrow::Cow;

/// How deep arrays and objects may nest, the parameters' own object included.
pub const MAX_DEPTH: usize = 32;

/// A JSON value that borrows from its text and keeps every number token as it was written.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// The token as it stands in the text: `1.50`, `1e-7`, twenty digits.
    Number(&'a str),
    /// The decoded text of a string; borrowed only where it stands in a JSON text as it is, without
    /// an escape, and so it is written again.
    String(Cow<'a, str>),
    /// An array, in its order.
    Array(Vec<Value<'a>>),
    /// An object, in the order of its text; no key stands twice.
    Object(Object<'a>),
}

/// The members of an object in the order of its text; no key stands twice. Keys are borrowed as
/// strings are.
pub type Object<'a> = Vec<(Cow<'a, str>, Value<'a>)>;

impl Value<'_> {
    /// Is this what the vendor calls an empty parameter: null, `""`, `[]` or `{}`? (`0`, `false`
    /// and `" "` are not.)
    pub fn is_empty(&self) -> bool {
        match self {
            Value::Null => true,
            Value::Bool(_) | Value::Number(_) => false,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
        }
    }
}

/// Why a body is no usable set of parameters. The text is for the caller and shows none of the
/// body's values.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct InvalidParams(pub(super) String);
