//! The rules of `[upstream]`, `[signing]` and `[cache]`.

use std::collections::BTreeSet;

use super::{Check, MOST};
use crate::config::Limit;

/// The one code whose meaning is documented.
const SUCCESS: &str = "0000";

impl Check<'_> {
    pub(super) fn upstream(&mut self) {
        self.base_url();
        self.languages();
        self.limits();
        self.codes();
        self.faults();

        let upstream = &self.config.upstream;
        self.duration("upstream.connect_timeout", upstream.connect_timeout, false);
        self.duration("upstream.timeout", upstream.timeout, false);
        self.duration("upstream.hold", upstream.hold, true);
        self.size("upstream.max_answer", upstream.max_answer, false);
        self.size("cache.max_size", self.config.cache.max_size, true);
        if upstream.connect_timeout >= upstream.timeout {
            self.warn(
                "upstream.connect_timeout",
                "it is not shorter than upstream.timeout: connecting may take all the time there is for the exchange",
                "make it a fraction of upstream.timeout, such as 2s",
            );
        }
        if upstream.timeout >= self.config.server.request_timeout {
            self.warn(
                "upstream.timeout",
                "it is not shorter than server.request_timeout: callers give up before they can be told what went wrong",
                "make it shorter than server.request_timeout",
            );
        }
        if upstream.http2 && !upstream.base_url.is_unset() && !upstream.base_url.is_https() {
            self.warn(
                "upstream.http2",
                "it has no effect: the version is agreed on with TLS, and upstream.base_url is http://",
                "leave it out, or use https://",
            );
        }
        if self.config.signing.version.is_empty() {
            self.problem(
                "signing.version",
                "it is empty",
                "write the version that the vendor has given, such as \"2.0\"",
            );
        }
    }

    fn base_url(&mut self) {
        let base_url = &self.config.upstream.base_url;
        if base_url.is_unset() {
            self.problem(
                "upstream.base_url",
                "it is missing, and it has no default: production and test must not be confused",
                "write the URL that Linksfield has given you, such as base_url = \"https://apiv3.linksfield.net\"",
            );
        } else if !base_url.is_https()
            && !base_url.is_loopback()
            && !self.config.upstream.allow_plaintext
        {
            self.problem(
                "upstream.base_url",
                "it is http:// to another machine: orders and signatures would travel unencrypted",
                "use https://, or set upstream.allow_plaintext = true where something else encrypts the way",
            );
        }
        self.end_of_base_url();
    }

    /// A URL of the vendor's documentation, pasted whole: every call would be signed well and find
    /// nothing.
    fn end_of_base_url(&mut self) {
        let base = self.config.upstream.base_url.path();
        let is_start = |path: &str, end: &str| {
            let rest = path.strip_prefix(end);
            // One that begins with all of the base's path is warned of at the route.
            rest.is_some_and(|rest| rest.is_empty() || (rest.starts_with('/') && end != base))
        };
        let ends = base.match_indices('/').map(|(at, _)| &base[at..]);
        let twice = ends.flat_map(|end| self.config.routes.keys().map(move |path| (end, path)));
        if let Some((end, path)) = twice.into_iter().find(|(end, path)| is_start(path, end)) {
            self.warn(
                "upstream.base_url",
                format!("it ends in {end:?}, and so begins the route {path:?}: its calls go to {base}{path}"),
                format!("leave {end:?} out of it"),
            );
        }
    }

    fn languages(&mut self) {
        let languages = &self.config.upstream.languages;
        if languages.is_empty() {
            self.problem(
                "upstream.languages",
                "it is empty, and one language has to be sent",
                "name at least one, such as [\"zh-CN\", \"en-US\"]",
            );
        }
        for (index, language) in languages.iter().enumerate() {
            if !is_language_tag(language) {
                self.problem(
                    "upstream.languages",
                    format!("entry {} is no language tag", index + 1),
                    "write a tag such as \"zh-CN\" or \"en-US\"",
                );
            }
        }
        let distinct: BTreeSet<_> = languages.iter().map(|tag| tag.to_lowercase()).collect();
        if distinct.len() < languages.len() {
            self.problem(
                "upstream.languages",
                "a language stands in it twice",
                "name each language once",
            );
        }
    }

    fn faults(&mut self) {
        let (retry, breaker) = (&self.config.upstream.retry, &self.config.upstream.breaker);
        for (key, share, is_positive) in [
            ("upstream.retry.budget", retry.budget, false),
            (
                "upstream.breaker.failure_ratio",
                breaker.failure_ratio,
                true,
            ),
        ] {
            if !(0.0..=1.0).contains(&share) || (is_positive && share == 0.0) {
                self.problem(
                    key,
                    "it is a share and must lie between 0 and 1",
                    "write 0.2 for a fifth, 0.5 for a half",
                );
            }
        }
        if !(0.0..=1000.0).contains(&retry.min_per_second) {
            self.problem(
                "upstream.retry.min_per_second",
                "it is a number of retries a second and must lie between 0 and 1000",
                "write 0.5 for one every two seconds",
            );
        }
        self.duration("upstream.retry.backoff", retry.backoff, true);
        self.duration("upstream.retry.max_backoff", retry.max_backoff, true);
        self.duration("upstream.breaker.window", breaker.window, false);
        self.duration("upstream.breaker.open_for", breaker.open_for, false);
    }

    fn limits(&mut self) {
        let limits = &self.config.upstream.limits;
        let reserve = limits.command_reserve;
        if !(0.0..=1.0).contains(&reserve) {
            self.problem(
                "upstream.limits.command_reserve",
                "it is a share and must lie between 0 and 1",
                "write 0.1 for a tenth of the day's requests",
            );
        }
        for (key, limit, most) in [
            (
                "upstream.limits.requests_per_second",
                limits.requests_per_second,
                MOST,
            ),
            ("upstream.limits.connections", limits.connections, 10_000),
            (
                "upstream.limits.requests_per_day",
                limits.requests_per_day,
                usize::MAX,
            ),
        ] {
            self.limit(key, limit, most);
        }
        self.count("upstream.limits.queue", limits.queue, MOST);
    }

    /// The share of a process must be one at least.
    pub(super) fn limit(&mut self, key: &str, limit: Limit, most: usize) {
        let Limit::Of(number) = limit else { return };
        let limits = &self.config.upstream.limits;
        if limits.share(limit) == Some(0) {
            self.problem(
                key,
                format!("{number} divided by {} instances leaves less than one for each", limits.instances),
                "run one shared gateway for all services instead of a sidecar beside each, or fewer instances",
            );
        }
        self.count(
            key,
            usize::try_from(number.get()).unwrap_or(usize::MAX),
            most,
        );
    }

    fn codes(&mut self) {
        let codes = &self.config.upstream.codes;
        let lists = [
            ("upstream.codes.bad_signature", &codes.bad_signature),
            ("upstream.codes.caller_error", &codes.caller_error),
            ("upstream.codes.throttled", &codes.throttled),
            ("upstream.codes.transient", &codes.transient),
        ];
        let mut seen = BTreeSet::new();
        for (key, list) in lists {
            for (index, code) in list.iter().enumerate() {
                let entry = index + 1;
                if code.is_empty() || code == SUCCESS {
                    let reason =
                        format!("entry {entry} is empty or \"{SUCCESS}\", the code of success");
                    self.problem(key, reason, "name codes of failures only");
                } else if !seen.insert(code) {
                    let reason = format!("entry {entry} stands in upstream.codes twice");
                    self.problem(key, reason, "give each code one meaning");
                }
            }
        }
        if codes.bad_signature.is_empty() {
            self.warn(
                "upstream.codes.bad_signature",
                "no code is configured, so only HTTP 401 and 403 tell that a signature was refused",
                "learn the code with: linksfield-gateway probe --config FILE --tenant NAME --wrong-signature",
            );
        }
    }
}

/// Plausible by RFC 5646: a language of 2 to 8 letters, then subtags of up to 8 letters and digits.
fn is_language_tag(tag: &str) -> bool {
    let mut subtags = tag.split('-');
    let is_language = |language: &str| {
        (2..=8).contains(&language.len()) && language.bytes().all(|byte| byte.is_ascii_alphabetic())
    };
    let is_subtag = |subtag: &str| {
        (1..=8).contains(&subtag.len()) && subtag.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    tag.len() <= 35 && subtags.next().is_some_and(is_language) && subtags.all(is_subtag)
}

#[cfg(test)]
mod tests {
    use super::is_language_tag;

    #[test]
    fn language_tags_are_told_from_other_text() {
        for tag in ["zh-CN", "en", "EN-US", "zh-Hant-TW", "es-419", "de-CH-1996"] {
            assert!(is_language_tag(tag), "{tag}");
        }
        for tag in [
            "",
            "e",
            "en_US",
            "en-",
            "-en",
            "en US",
            "*",
            "en;q=0.5",
            "en-verylongsubtag",
            "中文",
        ] {
            assert!(!is_language_tag(tag), "{tag}");
        }
    }
}
