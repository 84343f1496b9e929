//! How is a value written, so that every key is shown and what is shown can be read again?

// serde hands every value over by reference.
#![expect(
    clippy::ref_option,
    clippy::trivially_copy_pass_by_ref,
    reason = "the signatures are serde's"
)]

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Serialize, Serializer};

/// Stands for "not set" on the way out, since TOML has no null; no text of a file can be it.
pub(super) const UNSET: &str = "\u{1}";

/// An optional key, so that it is shown even where it is not set.
pub(super) fn or_unset<T: Serialize, S: Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => value.serialize(serializer),
        None => serializer.serialize_str(UNSET),
    }
}

/// The same for a duration.
pub(super) fn duration_or_unset<S: Serializer>(
    value: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => humantime_serde::serialize(value, serializer),
        None => serializer.serialize_str(UNSET),
    }
}

/// A size to the byte: `bytesize` itself rounds to one digit.
pub(super) fn size<S: Serializer>(value: &ByteSize, serializer: S) -> Result<S::Ok, S::Error> {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let bytes = value.as_u64();
    match UNITS
        .iter()
        .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit))
    {
        Some((unit, name)) => serializer.collect_str(&format_args!("{}{name}", bytes / unit)),
        None => serializer.collect_str(&format_args!("{bytes}B")),
    }
}
