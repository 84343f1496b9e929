//! Which keys count only from the next start on? What they shape is built once: listeners, threads,
//! memory.

use std::collections::BTreeSet;

use toml::Value;

use super::schema::dotted;
use super::sections::Config;

impl Config {
    /// Takes back what differs from the configuration that is `running` and needs a restart; the
    /// keys of that.
    pub fn keep_what_needs_a_restart(&mut self, running: &Self) -> Vec<String> {
        let mut kept = Vec::new();
        macro_rules! keep {
            ($name:literal, $section:expr, $running:expr, $($key:ident)+) => {$(
                if $section.$key != $running.$key {
                    $section.$key.clone_from(&$running.$key);
                    kept.push(concat!($name, ".", stringify!($key)).to_owned());
                }
            )+};
        }
        keep!("server", self.server, running.server, listen admin_listen worker_threads max_connections header_timeout
            body_timeout idle_timeout drain_delay drain_timeout reload_interval state_dir);
        keep!("log", self.log, running.log, format);
        keep!("cache", self.cache, running.cache, max_size);
        keep!("idempotency", self.idempotency, running.idempotency, window max_keys max_size);
        kept
    }

    /// The keys in which it differs from another one.
    pub fn differs_in(&self, other: &Self) -> Vec<String> {
        let table = |config| toml::Table::try_from(config).unwrap_or_default();
        let mut keys = Vec::new();
        compare(&table(self), &table(other), &mut Vec::new(), &mut keys);
        keys
    }
}

fn compare<'a>(
    one: &'a toml::Table,
    other: &'a toml::Table,
    path: &mut Vec<&'a str>,
    keys: &mut Vec<String>,
) {
    let all: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    for key in all {
        path.push(key);
        match (one.get(key), other.get(key)) {
            (Some(Value::Table(one)), Some(Value::Table(other))) => compare(one, other, path, keys),
            (one, other) if one != other => keys.push(dotted(path)),
            _ => {}
        }
        path.pop();
    }
}
