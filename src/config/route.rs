//! `[routes."/path"]`: what the gateway may do with the requests of one upstream path.

use std::num::NonZeroU64;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::written;

/// The policy of one path. Which keys mean something depends on `kind`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Route {
    /// Does it only read, or change something, or is it closed? The file must say so for every
    /// route.
    pub kind: Kind,
    /// Query: an answer younger than this is a hit.
    #[serde(with = "humantime_serde")]
    pub fresh_for: Duration,
    /// Query: counted from the end of `fresh_for`; served at once while one fill runs.
    #[serde(with = "humantime_serde")]
    pub stale_for: Duration,
    /// Query: counted from the end of `fresh_for`; served where the vendor fails.
    #[serde(with = "humantime_serde")]
    pub stale_if_error: Duration,
    /// Query: how long a caller who names no deadline waits, where an answer that is served on
    /// failure is there.
    #[serde(with = "humantime_serde")]
    pub stale_patience: Duration,
    /// Query: an answer younger than this is served although the caller says `no-cache`.
    #[serde(with = "humantime_serde")]
    pub min_refresh: Duration,
    /// Query: `page_no` and `page_size` make pages of one snapshot.
    pub pages: bool,
    /// Query with pages: so many may be fetched at once, with `x-linksfield-pages: all`.
    pub max_pages: NonZeroU64,
    /// Query with pages: how long fetching all of them may take.
    #[serde(with = "humantime_serde")]
    pub crawl_timeout: Duration,
    /// Command: the queries it changes; `None` means every query of its tenant.
    #[serde(serialize_with = "written::or_unset")]
    pub invalidates: Option<Vec<String>>,
    /// Command: how long after it the vendor may still show the old state.
    #[serde(with = "humantime_serde")]
    pub settle: Duration,
    /// One exchange with the vendor; `None` means `upstream.timeout`.
    #[serde(
        deserialize_with = "humantime_serde::deserialize",
        serialize_with = "written::duration_or_unset"
    )]
    pub timeout: Option<Duration>,
    /// Command: must a caller send an `idempotency-key`?
    pub idempotency: Idempotency,
}

impl Default for Route {
    fn default() -> Self {
        Self {
            kind: Kind::default(),
            fresh_for: Duration::from_secs(30),
            stale_for: Duration::from_secs(30),
            stale_if_error: Duration::from_secs(600),
            stale_patience: Duration::from_secs(2),
            min_refresh: Duration::ZERO,
            pages: false,
            max_pages: NonZeroU64::MIN.saturating_add(99),
            crawl_timeout: Duration::from_secs(300),
            invalidates: None,
            settle: Duration::from_secs(5),
            timeout: None,
            idempotency: Idempotency::default(),
        }
    }
}

/// What a route does to the vendor's world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It only reads: cached, coalesced, retried.
    Query,
    /// It changes something and may cost money: none of these. The default, for it is the careful
    /// one.
    #[default]
    Command,
    /// It is not forwarded.
    Refuse,
}

impl Kind {
    /// Its name in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Command => "command",
            Self::Refuse => "refuse",
        }
    }

    /// Whether a key of a route means something for this kind.
    pub(super) fn has_key(self, key: &str) -> bool {
        match key {
            "fresh_for" | "stale_for" | "stale_if_error" | "stale_patience" | "min_refresh"
            | "pages" | "max_pages" | "crawl_timeout" => self == Self::Query,
            "invalidates" | "settle" | "idempotency" => self == Self::Command,
            "timeout" => self != Self::Refuse,
            _ => true,
        }
    }
}

/// Whether a command must carry an `idempotency-key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Idempotency {
    /// It may.
    #[default]
    Optional,
    /// It must.
    Required,
}

/// Why a path is none of a request's that the gateway takes: only what reads the same everywhere,
/// no escapes (an escaped slash or dot), no `;` (servlets cut there), no empty or dot segment, no
/// slash at the end.
pub fn ambiguity(path: &str) -> Option<&'static str> {
    let plain = |byte| matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/');
    if !path.bytes().all(plain) {
        return Some("a path holds letters, digits and -._~ only, with no percent-escapes");
    }
    let Some(segments) = path.strip_prefix('/') else {
        return Some("a path starts with a slash");
    };
    let mut segments = segments.split('/');
    let last = segments.next_back();
    let is_ambiguous = |segment| matches!(segment, "" | "." | "..");
    if segments.any(is_ambiguous) || matches!(last, Some("." | "..")) {
        return Some("a path has no empty segment and no dot segment");
    }
    (last == Some("")).then_some("a path has no slash at its end: leave it out")
}
