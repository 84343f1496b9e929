//! How many files may a gateway with this configuration have open at a time?

use super::problem::Warning;
use super::sections::Config;
use crate::open_files::{ADMIN_CONNECTIONS, BEYOND, REMEDY, Shares};

/// Open whatever happens: listeners, runtimes, watches, the store, what a reload reads.
const OWN: usize = 48;

/// A slot's connection, and what finds its address.
const FOR_EACH_SLOT: usize = 2;

impl Config {
    /// What callers and the admin listener get of this limit.
    pub fn shares(&self, limit: usize) -> Shares {
        Shares::of(limit, self.own(), self.server.max_connections.get())
    }

    /// Where the limit is lower than what may be open.
    pub fn files_warning(&self, limit: usize) -> Option<Warning> {
        let (most, wanted) = (self.server.max_connections, self.files());
        let left = self.shares(limit).callers.connections;
        let reason = format!(
            "with {most} connections, {wanted} files may be open at a time, and the limit is {limit}: callers get {left} connections"
        );
        (wanted > limit).then(|| Warning::new("server.max_connections", reason, REMEDY))
    }

    /// How many may be open, for people to read.
    pub fn files_arithmetic(&self, limit: usize) -> String {
        let slots = self.upstream.limits.slots();
        format!(
            "open files: {} at most = {} (server.max_connections) + {ADMIN_CONNECTIONS} (admin listener) + 4 x {BEYOND} \
             (told that these are taken, or after a last answer) + {slots} connections x {FOR_EACH_SLOT} + {OWN}; the limit here is {limit}\n",
            self.files(),
            self.server.max_connections,
        )
    }

    fn files(&self) -> usize {
        let listeners = ADMIN_CONNECTIONS + 4 * BEYOND;
        let callers = self.server.max_connections.get();
        self.own().saturating_add(listeners).saturating_add(callers)
    }

    fn own(&self) -> usize {
        let slots = usize::try_from(self.upstream.limits.slots()).unwrap_or(usize::MAX);
        slots.saturating_mul(FOR_EACH_SLOT).saturating_add(OWN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limit;

    #[test]
    fn a_limit_that_is_too_low_is_told_with_what_it_leaves() {
        let mut config = Config::default();
        assert_eq!(config.files_warning(10_566), None);
        let told = config.files_warning(1024).unwrap();
        assert_eq!(told.key, "server.max_connections");
        for figure in ["10000", "10566", "1024", "600"] {
            assert!(told.reason.contains(figure), "{figure} in {}", told.reason);
        }
        let line = config.files_arithmetic(1024);
        assert!(line.starts_with("open files: 10566 at most = 10000 (server.max_connections)"));
        config.upstream.limits.connections = Limit::None;
        assert!(config.files_warning(10_566).is_some());
    }
}
