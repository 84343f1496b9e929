//! Which readings of the signing rule reproduce the signature of one body?

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;

use super::super::Failed;
use crate::signing::form::{
    Empty, EmptyDepth, Escapes, KeyOrder, NestedOrder, NestedValues, NonAscii, Output, Scalars,
    SecretEncoding, Signing, Spaces, Timestamp, TimestampType, hex_decode,
};
use crate::signing::params::{Object, Value, parse_object};
use crate::signing::sign::{Signer, canonical_text};

/// A key of `[signing]` that shapes the signature.
pub(super) struct Key {
    pub(super) name: &'static str,
    values: usize,
    set: fn(&mut Signing, usize),
    /// The place of a section's value among the key's values.
    pub(super) get: fn(&Signing) -> usize,
}

macro_rules! key {
    ($field:ident: $type:ty) => {
        Key {
            name: stringify!($field),
            values: <$type>::ALL.len(),
            set: |form, value| form.$field = <$type>::ALL[value],
            get: |form| {
                <$type>::ALL
                    .iter()
                    .position(|value| *value == form.$field)
                    .unwrap_or_default()
            },
        }
    };
}

/// Those that shape the text; `secret_encoding` and `output` come after it.
static TEXT_KEYS: [Key; 9] = [
    key!(empty: Empty),
    key!(empty_depth: EmptyDepth),
    key!(key_order: KeyOrder),
    key!(nested_order: NestedOrder),
    key!(scalars: Scalars),
    key!(nested_values: NestedValues),
    key!(spaces: Spaces),
    key!(non_ascii: NonAscii),
    key!(escapes: Escapes),
];

static SECRET_ENCODING: Key = key!(secret_encoding: SecretEncoding);
pub(super) static OUTPUT: Key = key!(output: Output);

pub(super) fn all_keys() -> impl Iterator<Item = &'static Key> {
    TEXT_KEYS.iter().chain([&SECRET_ENCODING, &OUTPUT])
}

impl Key {
    pub(super) fn is_default(&self, form: &Signing) -> bool {
        (self.get)(form) == (self.get)(&Signing::default())
    }

    /// The default but for this key, once with each of its values.
    #[cfg(test)]
    pub(super) fn each(&self) -> impl Iterator<Item = Signing> {
        (0..self.values).map(|value| {
            let mut form = Signing::default();
            (self.set)(&mut form, value);
            form
        })
    }
}

/// The next combination of the keys that shape the text; false after the last.
fn advance(form: &mut Signing) -> bool {
    for key in &TEXT_KEYS {
        let next = (key.get)(form) + 1;
        if next < key.values {
            (key.set)(form, next);
            // Where nothing is left out, it is at no depth: that is one reading.
            let is_another = form.empty != Empty::None || form.empty_depth == EmptyDepth::TopLevel;
            return is_another || advance(form);
        }
        (key.set)(form, 0);
    }
    false
}

/// Every combination of the keys that shape the text, from one in which these have their defaults.
pub(super) fn forms_of_text(base: &Signing) -> impl Iterator<Item = Signing> {
    std::iter::successors(Some(base.clone()), |form| {
        let mut next = form.clone();
        advance(&mut next).then_some(next)
    })
}

/// A section as it stands in the file.
pub(super) fn table(form: &Signing) -> toml::Table {
    toml::Table::try_from(form).unwrap_or_default()
}

/// A signed body, taken apart.
pub(super) struct Sample<'a> {
    /// As it was given.
    pub(super) text: &'a str,
    /// All but `sign`.
    pub(super) fields: Object<'a>,
    pub(super) signature: String,
    pub(super) access_code: String,
    /// The default, with this body's version and the unit and type of its timestamp.
    pub(super) base: Signing,
}

impl<'a> Sample<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, Failed> {
        let mut fields = parse_object(text.as_bytes())?;
        let signature = take_text(&mut fields, "sign").ok_or(Failed(
            "the body has no sign, which must be a string".into(),
        ))?;
        let text_of = |key: &str| match fields.iter().find(|(name, _)| name == key) {
            Some((_, Value::String(text))) => Some(text.clone().into_owned()),
            _ => None,
        };
        let missing = |key: &str| {
            Failed(format!(
                "the body has no {key}: give it whole, as it was signed"
            ))
        };
        let access_code = text_of("access_code").ok_or_else(|| missing("access_code"))?;
        let base = Signing {
            version: text_of("version").ok_or_else(|| missing("version"))?,
            ..timestamp_form(&fields).ok_or_else(|| missing("timestamp"))?
        };
        Ok(Self {
            text,
            fields,
            signature,
            access_code,
            base,
        })
    }

    /// All readings that make this signature under this secret.
    pub(super) fn readings(&self, secret: &SecretString) -> Vec<Signing> {
        // A secret that an encoding cannot decode is not encoded so.
        let signers: Vec<(SecretEncoding, Signer)> = SecretEncoding::ALL
            .iter()
            .filter_map(|encoding| {
                let form = Signing {
                    secret_encoding: *encoding,
                    ..Signing::default()
                };
                Some((*encoding, Signer::new(secret, &form).ok()?))
            })
            .collect();
        let outputs: Vec<(Output, String)> = Output::ALL
            .iter()
            .filter_map(|output| Some((*output, in_base64(&self.signature, *output)?)))
            .collect();
        let mut readings = Vec::new();
        for form in forms_of_text(&self.base) {
            let text = canonical_text(&self.fields, &form);
            for (encoding, signer) in &signers {
                let signature = signer.signature(&text);
                for (output, _) in outputs.iter().filter(|(_, base64)| *base64 == signature) {
                    readings.push(Signing {
                        secret_encoding: *encoding,
                        output: *output,
                        ..form.clone()
                    });
                }
            }
        }
        readings
    }

    /// Does this reading make this signature?
    pub(super) fn is_signed_by(&self, form: &Signing, secret: &SecretString) -> bool {
        let globals = |form: &Signing| (form.timestamp, form.timestamp_type, form.version.clone());
        globals(form) == globals(&self.base)
            && Signer::new(secret, form).is_ok_and(|signer| {
                signer.signature(&canonical_text(&self.fields, form)) == self.signature
            })
    }
}

/// A signature of this form in Base64, if it has the form. One with - or _ is left as it is: it
/// equals none. One without + / - and _ has both forms of Base64.
fn in_base64(signature: &str, output: Output) -> Option<String> {
    let has = |case: fn(&u8) -> bool| signature.as_bytes().iter().any(case);
    let of_hex = || Some(STANDARD.encode(hex_decode(signature)?));
    match output {
        Output::Base64 => Some(signature.to_owned()),
        Output::Base64Url if has(|byte| b"+/".contains(byte)) => None,
        Output::Base64Url => Some(from_url_safe(signature)),
        Output::Hex if has(u8::is_ascii_uppercase) => None,
        Output::HexUpper if has(u8::is_ascii_lowercase) => None,
        Output::Hex | Output::HexUpper => of_hex(),
    }
}

/// Base64 in its standard alphabet, from that for URLs.
pub(super) fn from_url_safe(text: &str) -> String {
    text.replace('-', "+").replace('_', "/")
}

fn take_text(fields: &mut Object<'_>, key: &str) -> Option<String> {
    let at = fields.iter().position(|(name, _)| name == key)?;
    match fields.remove(at) {
        (_, Value::String(text)) => Some(text.into_owned()),
        _ => None,
    }
}

/// Unit and type of the body's own timestamp: thirteen digits are milliseconds until the year 2286.
fn timestamp_form(fields: &Object<'_>) -> Option<Signing> {
    let (_, value) = fields.iter().find(|(key, _)| key == "timestamp")?;
    let (digits, timestamp_type): (Cow<'_, str>, _) = match value {
        Value::String(digits) => (digits.clone(), TimestampType::String),
        Value::Number(digits) => ((*digits).into(), TimestampType::Number),
        _ => return None,
    };
    let timestamp = if digits.len() > 11 {
        Timestamp::Milliseconds
    } else {
        Timestamp::Seconds
    };
    Some(Signing {
        timestamp,
        timestamp_type,
        ..Signing::default()
    })
}
