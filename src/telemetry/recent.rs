//! Which failures were the last? A few of them, for whoever looks at the admin page; the log has
//! them all.

use std::collections::VecDeque;
use std::time::SystemTime;

use parking_lot::{Mutex, MutexGuard};

use crate::words::Sent;

/// Older ones are forgotten.
const REMEMBERED: usize = 50;

/// An exchange that failed, or a command whose outcome nobody waited for. It has nothing of a body.
#[derive(Debug, Clone)]
pub struct Failure {
    /// When it ended.
    pub at: SystemTime,
    /// The request's id, by which the log has more.
    pub request_id: String,
    /// Its route, or "other".
    pub route: String,
    /// Its tenant, or "other".
    pub tenant: String,
    /// Why.
    pub code: &'static str,
    /// Did the request reach Linksfield?
    pub sent: Sent,
}

/// The last failures, whatever the configuration.
#[derive(Debug, Default)]
pub struct Recent(Mutex<VecDeque<Failure>>);

impl Recent {
    /// One that ends now.
    #[expect(clippy::disallowed_methods, reason = "a time for people to read")]
    pub fn add(&self, request_id: &str, route: &str, tenant: &str, code: &'static str, sent: Sent) {
        let failure = Failure {
            at: SystemTime::now(),
            request_id: request_id.to_owned(),
            route: route.to_owned(),
            tenant: tenant.to_owned(),
            code,
            sent,
        };
        let mut failures = self.failures();
        failures.truncate(REMEMBERED - 1);
        failures.push_front(failure);
    }

    /// All that are remembered, the youngest first.
    pub fn all(&self) -> Vec<Failure> {
        self.failures().iter().cloned().collect()
    }

    fn failures(&self) -> MutexGuard<'_, VecDeque<Failure>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_fifty_are_remembered_the_youngest_first() {
        let recent = Recent::default();
        for number in 0..120 {
            let id = number.to_string();
            recent.add(&id, "/a", "acme", "overloaded", Sent::No);
        }
        let all = recent.all();
        assert_eq!(all.len(), REMEMBERED);
        assert_eq!((&*all[0].request_id, &*all[49].request_id), ("119", "70"));
    }
}
