//! The rules across fields: what the types cannot say.
//!
//! A rule says nothing about a key that has already been reported: its value is a default that
//! nobody wrote.

mod names;
mod routes;
mod upstream;

use std::{collections::BTreeSet, net::IpAddr, path::Path, time::Duration};

use bytesize::ByteSize;
use toml::Table;

use super::problem::{Problem, Warning};
use super::route::Idempotency;
use super::schema::dotted;
use super::sections::Config;

/// Longer than any use, shorter than what overflows when it is added to a clock.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// More than any machine needs, less than what the runtime's counters refuse.
const MOST: usize = 1_000_000;

/// Weights are relative to each other, and a tenant of weight 1 must still get its turn.
const HEAVIEST: u32 = 1000;

/// One run over all rules.
struct Check<'a> {
    config: &'a Config,
    /// The file with its overrides: which keys were written.
    table: &'a Table,
    /// Keys that have been reported before.
    reported: BTreeSet<String>,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
}

/// Adds what the rules find to the problems, and returns the warnings.
pub(super) fn check(config: &Config, table: &Table, problems: &mut Vec<Problem>) -> Vec<Warning> {
    let reported = problems.iter().map(|problem| problem.key.clone()).collect();
    let mut check = Check {
        config,
        table,
        reported,
        problems: Vec::new(),
        warnings: Vec::new(),
    };
    check.server();
    check.log();
    check.upstream();
    check.tenants();
    check.callers();
    check.routes();
    check.idempotency();

    let Check {
        reported,
        problems: found,
        mut warnings,
        ..
    } = check;
    problems.extend(
        found
            .into_iter()
            .filter(|problem| !is_reported(&reported, &problem.key)),
    );
    warnings.retain(|warning| !is_reported(&reported, &warning.key));
    warnings
}

/// Whether the key, one above it or one below it has been reported.
pub(super) fn is_reported(reported: &BTreeSet<String>, key: &str) -> bool {
    let contains = |outer: &str, inner: &str| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    reported
        .iter()
        .any(|other| contains(other, key) || contains(key, other))
}

impl Check<'_> {
    fn problem(&mut self, key: &str, reason: impl Into<String>, remedy: impl Into<String>) {
        self.problems.push(Problem::new(key, reason, remedy));
    }

    fn warn(&mut self, key: &str, reason: impl Into<String>, remedy: impl Into<String>) {
        self.warnings.push(Warning::new(key, reason, remedy));
    }

    fn server(&mut self) {
        let server = &self.config.server;
        let (listen, admin) = (server.listen, server.admin_listen);
        if !is_loopback(listen.ip())
            && self.config.callers.is_empty()
            && !server.allow_unauthenticated
        {
            self.problem(
                "server.listen",
                "it is beyond loopback and no caller is configured: whoever can connect could order",
                "configure [callers.NAME] with a token_file each, or set server.allow_unauthenticated = true where the network \
                 lets only trusted callers through",
            );
        }
        let same_address = listen.ip() == admin.ip()
            || listen.ip().is_unspecified()
            || admin.ip().is_unspecified();
        // Port 0 is a free one each time.
        if same_address && listen.port() == admin.port() && listen.port() != 0 {
            self.problem(
                "server.admin_listen",
                "it takes the same address and port as server.listen",
                "give it a port of its own, such as 6181",
            );
        }
        for (key, duration, may_be_zero) in [
            ("server.request_timeout", server.request_timeout, false),
            ("server.header_timeout", server.header_timeout, false),
            ("server.body_timeout", server.body_timeout, false),
            ("server.idle_timeout", server.idle_timeout, false),
            ("server.drain_delay", server.drain_delay, true),
            ("server.drain_timeout", server.drain_timeout, false),
            ("server.reload_interval", server.reload_interval, false),
        ] {
            self.duration(key, duration, may_be_zero);
        }
        self.size("server.max_body", server.max_body, false);
        self.count("server.max_connections", server.max_connections.get(), MOST);
        self.count("server.worker_threads", server.worker_threads.get(), 1024);
        for (key, path) in [
            ("server.admin_token_file", &server.admin_token_file),
            ("server.state_dir", &server.state_dir),
            ("upstream.ca_file", &self.config.upstream.ca_file),
        ] {
            self.path(key, path.as_deref());
        }
        for (key, is_on) in [
            ("server.commands", !server.commands),
            ("upstream.paused", self.config.upstream.paused),
        ] {
            if is_on {
                self.warn(
                    key,
                    "the brake is on",
                    "take it back once it is not needed any more",
                );
            }
        }
        if server.drain_timeout < server.request_timeout {
            self.warn(
                "server.drain_timeout",
                "it is shorter than server.request_timeout: a request that came right before the end may be cut",
                "make it at least as long, and the grace period of the pod longer than drain_delay and drain_timeout together",
            );
        }
    }

    fn log(&mut self) {
        self.problems.extend(self.config.log.problem());
    }

    fn idempotency(&mut self) {
        let config = self.config;
        let keys = &config.idempotency;
        self.duration("idempotency.window", keys.window, false);
        self.count("idempotency.max_keys", keys.max_keys.get(), MOST);
        self.size("idempotency.max_size", keys.max_size, false);
        for (path, route) in &config.routes {
            if route.idempotency == Idempotency::Required && config.server.state_dir.is_none() {
                self.warn(
                    &dotted(&["routes", path, "idempotency"]),
                    "keys are required and kept in memory only: after a restart, a command that is repeated is sent again",
                    "set server.state_dir to a directory that survives a restart",
                );
            }
        }
    }

    fn duration(&mut self, key: &str, duration: Duration, may_be_zero: bool) {
        if duration.is_zero() && !may_be_zero {
            self.problem(
                key,
                "it is zero, which would end everything at once",
                "make it longer than zero",
            );
        }
        if duration > LONGEST {
            self.problem(key, "it is longer than a year", "make it a year at most");
        }
    }

    fn size(&mut self, key: &str, size: ByteSize, is_cache: bool) {
        if size.as_u64() == 0 && !is_cache {
            self.problem(
                key,
                "it is zero, which would refuse everything",
                "make it larger than zero",
            );
        }
        // Bodies are held in memory as a whole.
        if size > ByteSize::gib(1) && !is_cache {
            self.problem(
                key,
                "it is larger than 1GiB, and bodies are held in memory",
                "make it 1GiB at most",
            );
        }
    }

    fn count(&mut self, key: &str, count: usize, most: usize) {
        if count > most {
            self.problem(
                key,
                format!("it is above {most}"),
                format!("make it {most} at most"),
            );
        }
    }

    fn path(&mut self, key: &str, path: Option<&Path>) {
        if path.is_some_and(|path| path.as_os_str().is_empty()) {
            self.problem(key, "it is empty", "name a file, or leave the key out");
        }
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}
