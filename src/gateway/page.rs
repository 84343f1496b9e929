//! What is a page? An answer to a query as it is kept and served, and what it says about its place among others.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError, Weak};

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
    /// What it may have beside, as it came: its `Content-Language`; its `Content-Encoding`, if the vendor encoded it unasked
    /// (such a page is not stored); its `Retry-After`, on a refusal of the vendor.
    pub more_headers: Box<[(HeaderName, HeaderValue)]>,
    /// If it is no success, whose fault that is.
    pub fault: Option<Fault>,
    /// What it means.
    pub outcome: Outcome,
    /// The envelope's `code`.
    pub vendor_code: Option<Cow<'static, str>>,
}

/// The heads that pages in memory have: a few, as it is one vendor that answers.
static KNOWN: Mutex<Vec<Weak<Head>>> = Mutex::new(Vec::new());

/// So many are looked through at most.
const MOST_KNOWN: usize = 16;

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

    /// The same one for all pages that say the same: of 10,000 heads none would be at hand when its page is asked for.
    pub fn shared(self) -> Arc<Self> {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let same = known
            .iter()
            .filter_map(Weak::upgrade)
            .find(|head| **head == self);
        if let Some(head) = same {
            return head;
        }
        let head = Arc::new(self);
        known.retain(|head| head.strong_count() > 0);
        if known.len() < MOST_KNOWN {
            known.push(Arc::downgrade(&head));
        }
        head
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
    /// Is it the page that these parameters ask for? Linksfield may cap sizes; of another size are other pages.
    pub fn is_of(&self, params: &Params) -> bool {
        let is = |name, told| params.number(name).is_none_or(|asked| asked == told);
        is("page_no", self.number) && is("page_size", self.size)
    }
}

/// A hash of what tells one order from another: its code and its device, as one order may be of many devices.
pub type OrderId = u64;

#[cfg(test)]
mod tests {
    use hyper::header::CONTENT_LANGUAGE;

    use super::*;

    #[test]
    fn pages_that_say_the_same_have_one_head_and_no_others() {
        let head = |language: &'static str, fault| Head {
            more_headers: [(CONTENT_LANGUAGE, HeaderValue::from_static(language))].into(),
            fault,
            ..Head::of(StatusCode::OK)
        };
        let one = head("of-this-test", None).shared();
        assert!(Arc::ptr_eq(&one, &head("of-this-test", None).shared()));
        for other in [
            head("of-this-test-too", None),
            head("of-this-test", Some(Fault::Caller)),
            Head {
                status: StatusCode::ACCEPTED,
                ..head("of-this-test", None)
            },
            Head::of(StatusCode::OK),
        ] {
            let shared = other.shared();
            assert_ne!(*shared, *one);
        }
    }

    #[test]
    fn a_head_that_no_page_has_any_more_makes_room_for_another() {
        let head = |number: usize| Head {
            vendor_code: Some(format!("code-{number}-of-this-test").into()),
            ..Head::of(StatusCode::OK)
        };
        for number in 0..10 * MOST_KNOWN {
            let shared = head(number).shared();
            assert!(Arc::ptr_eq(&shared, &head(number).shared()), "{number}");
        }
    }
}
