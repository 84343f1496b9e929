//! How was a query answered, and how is that told to the caller?

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::HeaderValue;

use crate::gateway::error::Error;
use crate::gateway::page::Page;
use crate::id::Id;
use crate::words::Ending;

/// How a query was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// From a fresh page in memory.
    Hit,
    /// From a page in memory that is not fresh.
    Stale,
    /// By a fill that was running for somebody else.
    Coalesced,
    /// By a fill that this request began.
    Miss,
}

/// Why a request was forwarded (`fwd` of RFC 9211, section 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    /// There was no page.
    Miss,
    /// The page was too old.
    Stale,
    /// The page would have served, had the caller not asked for another.
    Request,
    /// The caller asked for no cache at all.
    Bypass,
}

impl Forwarded {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Miss => "miss",
            Self::Stale => "stale",
            Self::Request => "request",
            Self::Bypass => "bypass",
        }
    }
}

/// Why the answer of a fill is not in memory (`detail` of RFC 9211, section 2.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotStored {
    /// Its code or status is not that of a success.
    NoSuccess,
    /// It has not the shape of a page, or on a route without pages no data.
    NoPage,
    /// Its end was the end of the connection, so nobody can tell whether it is whole.
    Unframed,
    /// It is compressed, although nobody asked for that.
    Encoded,
    /// A command or a purge that touches it came after it was asked for.
    Invalidated,
    /// Another configuration came into force after it was asked for.
    Reconfigured,
    /// A page that was asked for later is in memory.
    Superseded,
    /// The caller said `no-store`.
    NoStore,
    /// Memory as a whole (`cache.max_size`) has no room for it.
    TooLarge,
}

impl NotStored {
    /// The spelling in `Cache-Status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoSuccess => "no_success",
            Self::NoPage => "no_page",
            Self::Unframed => "unframed",
            Self::Encoded => "encoded",
            Self::Invalidated => "invalidated",
            Self::Reconfigured => "reconfigured",
            Self::Superseded => "superseded",
            Self::NoStore => "no_store",
            Self::TooLarge => "too_large",
        }
    }
}

/// A page, and how it was come by.
#[derive(Debug, Clone)]
pub struct Found {
    /// The answer.
    pub page: Arc<Page>,
    /// How it was come by.
    pub lookup: Lookup,
    /// Why it was not answered from memory alone; none if it was.
    pub forwarded: Option<Forwarded>,
    /// The time since it was asked of the vendor; of a page from memory that of the oldest page of
    /// its snapshot.
    pub age: Duration,
    /// Is it a document that a crawl has just brought? Its first page may be minutes old.
    pub is_crawled: bool,
    /// How old it may become as a fresh page; none if it is not in memory.
    pub lifetime: Option<Lifetime>,
    /// What a stale page stands in for.
    pub failure: Option<Failure>,
    /// The error that a stale page stands in for.
    pub stood_in_for: Option<Arc<Error>>,
    /// Why the answer of a fill is not in memory.
    pub not_stored: Option<NotStored>,
    /// The value of `x-linksfield-snapshot`.
    pub snapshot: Option<Id>,
}

/// The freshness of a page in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// The age at which it stops, or stopped, being fresh.
    pub fresh_for: Duration,
    /// Its age now.
    pub age: Duration,
}

/// The failure of a fill, for which an old page stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// What came of it.
    pub reason: Ending,
    /// The status of the vendor's answer.
    pub status: Option<StatusCode>,
}

impl Lifetime {
    /// Seconds of freshness left: negative if it has ended, 0 if it was ended early. Ages are
    /// rounded down, so this is rounded up: the two add up to the lifetime.
    pub fn ttl(&self) -> i64 {
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        match self.fresh_for.checked_sub(self.age) {
            Some(left) => seconds(left).saturating_add(i64::from(left.subsec_nanos() > 0)),
            None => -seconds(self.age.saturating_sub(self.fresh_for)),
        }
    }
}

impl Found {
    /// The value of `Cache-Status` (RFC 9211).
    pub fn cache_status(&self) -> HeaderValue {
        let mut text = String::with_capacity(64);
        text.push_str("linksfield-gateway");
        match self.forwarded {
            None => text.push_str("; hit"),
            Some(forwarded) => {
                text.push_str("; fwd=");
                text.push_str(forwarded.as_str());
            }
        }
        if let Some(status) = self.failure.and_then(|failure| failure.status) {
            text.push_str("; fwd-status=");
            text.push_str(status.as_str());
        }
        match self.lookup {
            Lookup::Coalesced => text.push_str("; collapsed"),
            Lookup::Miss if self.lifetime.is_some() => text.push_str("; stored"),
            _ => {}
        }
        if let Some(lifetime) = self.lifetime {
            text.push_str("; ttl=");
            text.push_str(itoa::Buffer::new().format(lifetime.ttl()));
        }
        let not_stored = self.not_stored.map(NotStored::as_str);
        if let Some(detail) = self
            .failure
            .map(|failure| failure.reason.as_str())
            .or(not_stored)
        {
            text.push_str("; detail=");
            text.push_str(detail);
        }
        HeaderValue::from_str(&text).expect("visible ASCII")
    }

    /// The value of `Age` (RFC 9111, section 5.1); none of an answer that one call has brought for
    /// this request.
    pub fn age_header(&self) -> Option<HeaderValue> {
        (self.lookup != Lookup::Miss || self.is_crawled)
            .then(|| HeaderValue::from(self.age.as_secs()))
    }
}
