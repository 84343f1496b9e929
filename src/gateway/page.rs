//! What is a page? An answer to a query as it is kept and served, and what it says about its place among others.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, HeaderName, HeaderValue};

use super::error::Fault;

/// An answer to a query, as it goes back to callers.
#[derive(Debug)]
pub struct Page {
    /// All but its bytes.
    pub head: Arc<Head>,
    /// Its bytes, as they came.
    pub body: Bytes,
}

/// What an answer says beside its bytes: mostly what most others say too.
#[derive(Debug, PartialEq)]
pub struct Head {
    /// The answer's status.
    pub status: StatusCode,
    /// Its `Content-Type`, as it came.
    pub content_type: Option<HeaderValue>,
    /// What it may have beside, as it came: its `Content-Language`; its `Content-Encoding`, if the vendor encoded it unasked
    /// (such a page is not stored); its `Retry-After`, on a refusal of the vendor.
    pub more_headers: Vec<(HeaderName, HeaderValue)>,
    /// If it is no success, whose fault that is.
    pub fault: Option<Fault>,
    /// The envelope's `code`.
    pub vendor_code: Option<Cow<'static, str>>,
}

/// The heads of nearly all pages. Their values are static: they are shared without being counted.
static USUAL: LazyLock<[Arc<Head>; 2]> = LazyLock::new(|| {
    ["application/json", "application/json;charset=UTF-8"].map(|content_type| {
        Arc::new(Head {
            content_type: Some(HeaderValue::from_static(content_type)),
            vendor_code: Some("0000".into()),
            ..Head::of(StatusCode::OK)
        })
    })
});

impl Head {
    /// One that says nothing but its status.
    pub fn of(status: StatusCode) -> Self {
        Self {
            status,
            content_type: None,
            more_headers: Vec::new(),
            fault: None,
            vendor_code: None,
        }
    }

    /// A usual one is all pages' together: of 10,000 of their own none is at hand when its page is asked for.
    pub fn shared(self) -> Arc<Self> {
        let usual = USUAL.iter().find(|usual| ***usual == self).cloned();
        usual.unwrap_or_else(|| Arc::new(self))
    }

    /// Does it say that the body is encoded?
    pub fn is_encoded(&self) -> bool {
        let mut headers = self.more_headers.iter();
        headers.any(|(name, _)| *name == CONTENT_ENCODING)
    }
}

/// What a paged answer says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// `cur_page_no`.
    pub number: u64,
    /// `total_count`: the orders on all pages.
    pub total_count: u64,
    /// `total_pages`.
    pub total_pages: u64,
    /// The orders on this page, in order.
    pub orders: Vec<OrderId>,
}

/// A hash of what tells one order from another: its code and its device, as one order may be of many devices.
pub type OrderId = u64;
