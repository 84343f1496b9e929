//! Which heads do pages in memory share? All but its bytes is what a page says, and most say the
//! same.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::gateway::page::Head;

/// The heads that pages in memory have: a few, as it is one vendor that answers.
static KNOWN: Mutex<Vec<Weak<Head>>> = Mutex::new(Vec::new());

/// So many are looked through at most.
const MOST_KNOWN: usize = 16;

impl Head {
    /// The same one for all pages that say the same: of 10,000 heads none would be in the
    /// processor's cache when its page is asked for.
    pub fn shared(self) -> Arc<Self> {
        let mut known = KNOWN.lock();
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
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;
    use hyper::header::{CONTENT_LANGUAGE, HeaderValue};

    use super::*;
    use crate::words::Fault;

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
