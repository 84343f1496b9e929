//! Which keys count only from the next start on? What they shape is built once: listeners, threads, memory.

use super::Config;

impl Config {
    /// Takes back what differs from the configuration that is `running` and needs a restart; the keys of that.
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
}
