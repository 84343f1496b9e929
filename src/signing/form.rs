//! How the vendor's signing rule is read: one key for each point that its documentation leaves
//! open.
//!
//! The first choice of each key is the default and follows the vendor's text and its verifiable
//! examples. `calibrate` walks `ALL` of every key to find the reading that reproduces a known-good
//! signature.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use data_encoding::HEXLOWER_PERMISSIVE;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

/// `[signing]`: the text that is signed and what becomes of its digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Signing {
    /// Unit of the `timestamp` that the gateway adds.
    pub timestamp: Timestamp,
    /// JSON type of that `timestamp`.
    pub timestamp_type: TimestampType,
    /// The `version` that the gateway adds.
    pub version: String,
    /// What counts as empty and is left out of the signed text.
    pub empty: Empty,
    /// How deep empty values are left out.
    pub empty_depth: EmptyDepth,
    /// Order of the top-level keys.
    pub key_order: KeyOrder,
    /// Order of the keys inside nested objects.
    pub nested_order: NestedOrder,
    /// How numbers and booleans are written.
    pub scalars: Scalars,
    /// How nested objects and arrays are written.
    pub nested_values: NestedValues,
    /// What becomes of spaces inside values.
    pub spaces: Spaces,
    /// How characters beyond ASCII are written.
    pub non_ascii: NonAscii,
    /// Which further characters are escaped.
    pub escapes: Escapes,
    /// What the secret's text stands for.
    pub secret_encoding: SecretEncoding,
    /// How the digest is written.
    pub output: Output,
}

impl Default for Signing {
    fn default() -> Self {
        Self {
            timestamp: Timestamp::default(),
            timestamp_type: TimestampType::default(),
            version: "2.0".to_owned(),
            empty: Empty::default(),
            empty_depth: EmptyDepth::default(),
            key_order: KeyOrder::default(),
            nested_order: NestedOrder::default(),
            scalars: Scalars::default(),
            nested_values: NestedValues::default(),
            spaces: Spaces::default(),
            non_ascii: NonAscii::default(),
            escapes: Escapes::default(),
            secret_encoding: SecretEncoding::default(),
            output: Output::default(),
        }
    }
}

/// A key with a closed set of readings, the first one being the default.
macro_rules! reading {
    ($(#[$doc:meta])+ $name:ident {
        $(#[$first_doc:meta])+ $first:ident, $($(#[$other_doc:meta])+ $other:ident,)+
    }) => {
        $(#[$doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $(#[$first_doc])+
            #[default]
            $first,
            $($(#[$other_doc])+ $other,)+
        }

        impl $name {
            /// Every reading, the default first.
            pub const ALL: &'static [Self] = &[Self::$first, $(Self::$other),+];
        }
    };
}

reading! {
    /// Unit of the `timestamp`.
    Timestamp {
        /// Seconds, as every endpoint example has it.
        Seconds,
        /// Milliseconds, as the vendor's overview has it.
        Milliseconds,
    }
}

reading! {
    /// JSON type of the `timestamp`.
    TimestampType {
        /// `"1643251754"`.
        String,
        /// `1643251754`.
        Number,
    }
}

reading! {
    /// What counts as empty.
    Empty {
        /// `null`, `""`, `[]` and `{}`.
        All,
        /// Nothing.
        None,
        /// `null`.
        NullOnly,
        /// `null` and `""`.
        NullAndString,
        /// `null`, `""`, `[]`, `{}` and strings of nothing but white space.
        AlsoWhitespace,
        /// `null`, `""`, `[]`, `{}`, zero and `false`.
        AlsoZeroAndFalse,
    }
}

reading! {
    /// How deep empty values are left out.
    EmptyDepth {
        /// Only among the parameters themselves.
        TopLevel,
        /// Inside nested objects and arrays as well.
        Recursive,
    }
}

reading! {
    /// Order of the top-level keys.
    KeyOrder {
        /// By UTF-16 code unit, as Java compares strings.
        CodeUnit,
        /// Without regard to case.
        CaseInsensitive,
        /// As the caller sent them, as the overview's example has it.
        AsSent,
    }
}

reading! {
    /// Order of the keys inside nested objects.
    NestedOrder {
        /// Like the top-level keys.
        Sorted,
        /// As the caller sent them.
        AsSent,
    }
}

reading! {
    /// How numbers and booleans are written.
    Scalars {
        /// Bare, digit for digit.
        AsWritten,
        /// As strings.
        Stringified,
    }
}

reading! {
    /// How nested objects and arrays are written.
    NestedValues {
        /// As JSON.
        Json,
        /// As a string that holds JSON.
        JsonString,
    }
}

reading! {
    /// What becomes of spaces inside values.
    Spaces {
        /// They are signed.
        Kept,
        /// They are taken out, as one of the vendor's samples does.
        Removed,
    }
}

reading! {
    /// How characters beyond ASCII are written.
    NonAscii {
        /// As UTF-8.
        Raw,
        /// As `\u4e2d`.
        EscapedLower,
        /// As `\u4E2D`.
        EscapedUpper,
    }
}

reading! {
    /// Which further characters are escaped.
    Escapes {
        /// Only what JSON demands: quote, backslash, controls.
        Minimal,
        /// Also U+007F–U+009F, U+2028 and U+2029, as fastjson 1 does.
        Fastjson,
        /// Also `<`, `>`, `&`, U+2028 and U+2029, as Go does.
        Go,
        /// Also `<`, `>`, `&`, `=`, `'`, U+2028 and U+2029, as Gson does.
        Gson,
        /// Also `/`, as PHP does.
        Php,
    }
}

reading! {
    /// What the secret's text stands for.
    SecretEncoding {
        /// Its own UTF-8 bytes.
        Text,
        /// The bytes that it encodes as Base64.
        Base64,
        /// The bytes that it encodes as hexadecimal digits.
        Hex,
    }
}

reading! {
    /// How the digest is written.
    Output {
        /// Standard Base64 with padding.
        Base64,
        /// URL-safe Base64 with padding.
        Base64Url,
        /// Lower-case hexadecimal digits.
        Hex,
        /// Upper-case hexadecimal digits.
        HexUpper,
    }
}

impl SecretEncoding {
    /// The bytes that a secret's text stands for, or what it is not.
    pub fn decode(self, secret: &SecretString) -> Result<Vec<u8>, &'static str> {
        let text = secret.expose_secret();
        match self {
            Self::Text => Ok(text.as_bytes().to_vec()),
            Self::Base64 => STANDARD.decode(text).map_err(|_| "Base64"),
            Self::Hex => hex_decode(text).ok_or("hexadecimal"),
        }
    }
}

/// Bytes from pairs of hexadecimal digits, of either case.
pub fn hex_decode(text: &str) -> Option<Vec<u8>> {
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()
}
