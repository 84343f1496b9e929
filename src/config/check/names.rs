//! The rules of `[tenants]` and `[callers]`.

use std::collections::BTreeMap;

use super::{Check, HEAVIEST, MOST};
use crate::config::schema::{dotted, nearest};

impl Check<'_> {
    pub(super) fn tenants(&mut self) {
        let tenants = &self.config.tenants;
        if tenants.is_empty() {
            self.problem(
                "tenants",
                "no tenant is configured, so nothing can be signed",
                "add a section [tenants.NAME] with its access_code and secret_file",
            );
        }
        let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
        let mut default: Option<&str> = None;
        for (name, tenant) in tenants {
            let key = |last: &str| dotted(&["tenants", name, last]);
            self.name("tenants", name);
            self.path(&key("secret_file"), tenant.secret_file.as_deref());
            self.path(
                &key("previous_secret_file"),
                tenant.previous_secret_file.as_deref(),
            );

            let code = tenant.access_code.as_str();
            if code.is_empty() {
                self.problem(
                    &key("access_code"),
                    "it is missing or empty",
                    "write the partner code that Linksfield has assigned",
                );
            } else if code.trim() != code || code.chars().any(char::is_control) {
                self.problem(
                    &key("access_code"),
                    "it has white space around it or a control character in it",
                    "write the code alone",
                );
            } else if let Some(other) = owners.insert(code, name) {
                self.problem(
                    &key("access_code"),
                    format!("it is that of the tenant {other} as well"),
                    "configure each account once: an access_code in a request must name one tenant",
                );
            }
            match (&tenant.secret_file, &tenant.secret_env) {
                (None, None) => self.problem(
                    &key("secret_file"),
                    "the tenant has no secret",
                    "name the file that holds it: secret_file = \"/etc/linksfield/NAME\"",
                ),
                (Some(_), Some(_)) => self.problem(
                    &key("secret_env"),
                    "the tenant has both secret_file and secret_env",
                    "keep one of them, secret_file if in doubt",
                ),
                (None, Some(variable)) if !is_variable(variable) => self.problem(
                    &key("secret_env"),
                    "it is no name of an environment variable",
                    "write the variable's name, never the secret itself",
                ),
                (None, Some(_)) => self.warn(
                    &key("secret_env"),
                    "an environment variable is seen by every process of the user and cannot be changed without a restart",
                    "use secret_file everywhere but on a laptop",
                ),
                (Some(_), None) => {}
            }
            if tenant.weight.get() > HEAVIEST {
                self.problem(
                    &key("weight"),
                    format!("it is above {HEAVIEST}"),
                    format!(
                        "weights count against each other: make the largest {HEAVIEST} at most"
                    ),
                );
            }
            self.limit(
                &key("requests_per_second"),
                tenant.requests_per_second,
                MOST,
            );
            if tenant.default {
                if let Some(other) = default {
                    self.problem(
                        &key("default"),
                        format!("the tenant {other} is the default already"),
                        "keep one default",
                    );
                }
                default = Some(name);
            }
        }
    }

    pub(super) fn callers(&mut self) {
        let tenants = &self.config.tenants;
        for (name, caller) in &self.config.callers {
            let key = |last: &str| dotted(&["callers", name, last]);
            self.name("callers", name);
            if caller.token_file.as_os_str().is_empty() {
                self.problem(
                    &key("token_file"),
                    "it is missing or empty",
                    "name the file that holds the caller's token",
                );
            }
            if caller.tenants.is_empty() {
                self.problem(
                    &key("tenants"),
                    "the caller may ask for no tenant",
                    "list the tenants it may name",
                );
            }
            for tenant in caller
                .tenants
                .iter()
                .filter(|tenant| !tenants.contains_key(*tenant))
            {
                // Names of sections may be shown, other text may not: it could be anything.
                let remedy = match nearest(tenant, tenants.keys().map(String::as_str)) {
                    Some(meant) => format!("did you mean \"{meant}\"?"),
                    None if tenants.is_empty() => "add the tenant's section".to_owned(),
                    None => {
                        let names: Vec<_> = tenants.keys().map(String::as_str).collect();
                        format!("add its section, or name one of {}", names.join(", "))
                    }
                };
                let position = caller
                    .tenants
                    .iter()
                    .position(|other| other == tenant)
                    .unwrap_or(0)
                    + 1;
                self.problem(
                    &key("tenants"),
                    format!("entry {position} is no configured tenant"),
                    remedy,
                );
            }
        }
    }

    /// Names become metric labels, log fields and, for tenants, the value of a header.
    fn name(&mut self, section: &str, name: &str) {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if !(1..=64).contains(&name.len()) || !name.bytes().all(allowed) {
            self.problem(
                &dotted(&[section, name]),
                "its name cannot stand in a header and a metric label",
                "use up to 64 letters, digits, \"-\", \"_\" and \".\"",
            );
        } else if name == "other" {
            self.problem(
                &dotted(&[section, name]),
                "in metrics this name means \"not configured\"",
                "choose another one",
            );
        }
    }
}

/// A portable name (POSIX.1-2024 §8.1), in lower case as well.
fn is_variable(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
