//! Which trace does a request belong to? W3C Trace Context, level 1: continued, never begun.

use std::fmt;

use hyper::header::HeaderValue;

/// The header's name.
pub const TRACEPARENT: &str = "traceparent";

/// The bits of the flags that are known, and so passed on: sampled, and (of level 2) a random trace
/// id.
const KNOWN_FLAGS: u8 = 0b11;

/// A caller's trace, as its `traceparent` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    id: u128,
    parent: u64,
    flags: u8,
    span: Option<u64>,
}

/// An id in lowercase hex, as long as its type.
#[derive(Debug, Clone, Copy)]
pub struct Id<T>(T);

impl fmt::Display for Id<u128> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for Id<u64> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Trace {
    /// The trace that a `traceparent` names; none where it names what cannot be one. With `forward`
    /// the exchange gets a span of its own, for Linksfield to see as the parent.
    pub fn of(traceparent: &HeaderValue, forward: bool) -> Option<Self> {
        let mut trace = Self::parse(traceparent.as_bytes())?;
        trace.span = forward.then(|| fastrand::u64(1..));
        Some(trace)
    }

    /// Version, trace id, parent id and flags. A later version begins with the same four, and may
    /// go on.
    fn parse(text: &[u8]) -> Option<Self> {
        let (fields, more) = text.split_at_checked(55)?;
        let fields = std::str::from_utf8(fields).ok()?;
        let is_hex = |part: &str| {
            part.bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let mut parts = fields.split('-');
        let mut part = |length| {
            let part = parts.next()?;
            (part.len() == length && is_hex(part)).then_some(part)
        };
        let (version, id, parent, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        let is_ended = match version {
            "ff" => return None,
            "00" => more.is_empty(),
            _ => matches!(more.first(), None | Some(b'-')),
        };
        let trace = Self {
            id: u128::from_str_radix(id, 16).ok()?,
            parent: u64::from_str_radix(parent, 16).ok()?,
            flags: u8::from_str_radix(flags, 16).ok()?,
            span: None,
        };
        (is_ended && trace.id != 0 && trace.parent != 0).then_some(trace)
    }

    /// The whole of it.
    pub fn id(&self) -> Id<u128> {
        Id(self.id)
    }

    /// The caller's span.
    pub fn parent(&self) -> Id<u64> {
        Id(self.parent)
    }

    /// The exchange's own span; none where Linksfield hears nothing of it.
    pub fn span(&self) -> Option<Id<u64>> {
        self.span.map(Id)
    }

    /// What Linksfield is told.
    pub fn header(&self) -> Option<HeaderValue> {
        let flags = self.flags & KNOWN_FLAGS;
        let text = format!("00-{}-{}-{flags:02x}", self.id(), self.span()?);
        HeaderValue::try_from(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    fn read(value: &str, forward: bool) -> Option<Trace> {
        Trace::of(&value.parse().unwrap(), forward)
    }

    #[test]
    fn what_the_specification_allows_is_read_and_nothing_else() {
        let (zero_id, zero_parent) = ("0".repeat(32), "0".repeat(16));
        let rows = [
            (format!("00-{ID}-{PARENT}-01"), true),
            (format!("00-{ID}-{PARENT}-00"), true),
            (format!("00-{ID}-{PARENT}-ff"), true),
            (format!("cc-{ID}-{PARENT}-01"), true),
            (format!("cc-{ID}-{PARENT}-01-what-comes"), true),
            (format!("cc-{ID}-{PARENT}-01what"), false),
            (format!("00-{ID}-{PARENT}-01-more"), false),
            (format!("00-{ID}-{PARENT}-01-"), false),
            (format!("ff-{ID}-{PARENT}-01"), false),
            (format!("00-{}-{PARENT}-01", ID.to_uppercase()), false),
            (format!("00-{ID}-{}-01", PARENT.to_uppercase()), false),
            (format!("00-{zero_id}-{PARENT}-01"), false),
            (format!("00-{ID}-{zero_parent}-01"), false),
            (format!("00-{ID}-{PARENT}"), false),
            (format!("00-{ID}-{PARENT}-1"), false),
            (format!("00-{ID}-{PARENT}-0x"), false),
            (format!("00-+{}-{PARENT}-01", &ID[1..]), false),
            (format!("00-{ID}{PARENT}-01-01"), false),
            (format!("00_{ID}_{PARENT}_01"), false),
            (String::new(), false),
        ];
        for (value, is_one) in rows {
            assert_eq!(read(&value, false).is_some(), is_one, "{value:?}");
        }
    }

    #[test]
    fn linksfield_is_told_the_trace_with_a_span_of_ours_and_the_flags_that_are_known() {
        let trace = read(&format!("00-{ID}-{PARENT}-ff"), true).unwrap();
        let header = trace.header().unwrap();
        let parts: Vec<_> = header.to_str().unwrap().split('-').collect();
        assert_eq!((parts[0], parts[1], parts[3]), ("00", ID, "03"));
        assert_eq!(parts[2], trace.span().unwrap().to_string());
        assert_ne!(parts[2], PARENT);
        assert_eq!(trace.parent().to_string(), PARENT);
        let unforwarded = read(&format!("00-{ID}-{PARENT}-01"), false).unwrap();
        assert_eq!(unforwarded.header(), None);
    }
}
