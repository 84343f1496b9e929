//! What is a page? An answer to a query as it is kept and served, and what it says about its place
//! among others.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, HeaderName, HeaderValue};

use crate::signing::params::Params;
use crate::words::{Fault, Outcome};

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
    /// What it may have beside, as it came: its `Content-Language`; its `Content-Encoding`, if the
    /// vendor encoded it unasked (such a page is not stored); its `Retry-After`, on a refusal of
    /// the vendor.
    pub more_headers: Box<[(HeaderName, HeaderValue)]>,
    /// If it is no success, whose fault that is.
    pub fault: Option<Fault>,
    /// What it means.
    pub outcome: Outcome,
    /// The envelope's `code`.
    pub vendor_code: Option<Cow<'static, str>>,
}

impl Head {
    /// That of a success, which says nothing but its status.
    pub fn of(status: StatusCode) -> Self {
        Self {
            status,
            content_type: None,
            more_headers: Box::default(),
            fault: None,
            outcome: Outcome::Success,
            vendor_code: None,
        }
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
    /// `page_size`.
    pub size: u64,
    /// `total_count`: the orders on all pages.
    pub total_count: u64,
    /// `total_pages`.
    pub total_pages: u64,
    /// The orders on this page, in order.
    pub orders: Vec<OrderId>,
}

impl Position {
    /// Is it the page that these parameters ask for? Linksfield may cap sizes; of another size are
    /// other pages.
    pub fn is_of(&self, params: &Params) -> bool {
        let is = |name, told| params.number(name).is_none_or(|asked| asked == told);
        is("page_no", self.number) && is("page_size", self.size)
    }
}

/// A hash of what tells one order from another: its code and its device, as one order may be of
/// many devices.
pub type OrderId = u64;
