//! What does a caller ask of the cache? The request directives of `Cache-Control` (RFC 9111,
//! section 5.2.1).
//!
//! A value that cannot be read counts as the one that asks for more: `max-age=x` as `max-age=0`,
//! `min-fresh=x` as more than any page has, `max-stale=x` as not there. What is no request
//! directive is ignored.

use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::CACHE_CONTROL;

/// The directives of a request; the default asks for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Directives {
    /// Not from memory, whatever its age.
    pub no_cache: bool,
    /// Neither from memory nor into it.
    pub no_store: bool,
    /// From memory or not at all.
    pub only_if_cached: bool,
    /// Not older than this.
    pub max_age: Option<Duration>,
    /// Fresh for so long yet.
    pub min_fresh: Option<Duration>,
    /// Stale for no longer than this; [`Duration::MAX`] where no limit is named.
    pub max_stale: Option<Duration>,
}

impl Directives {
    /// Reads all `Cache-Control` lines of a request. Of a directive that stands twice the first
    /// counts.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut directives = Self::default();
        for line in headers.get_all(CACHE_CONTROL) {
            // Bytes beyond ASCII can only stand in an extension.
            for directive in String::from_utf8_lossy(line.as_bytes()).split(',') {
                directives.add(directive);
            }
        }
        directives
    }

    /// Does it ask for a page of its own choice of age, so that a stale one is not what it wants?
    pub fn refuse_stale(&self) -> bool {
        self.max_stale.is_none() && (self.max_age.is_some() || self.min_fresh.is_some())
    }

    fn add(&mut self, directive: &str) {
        let (name, value) = match directive.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
            None => (directive.trim(), None),
        };
        match name.to_ascii_lowercase().as_str() {
            "no-cache" => self.no_cache = true,
            "no-store" => self.no_store = true,
            "only-if-cached" => self.only_if_cached = true,
            "max-age" => {
                let age = value.and_then(delta_seconds).unwrap_or(Duration::ZERO);
                self.max_age.get_or_insert(age);
            }
            "min-fresh" => {
                let time = value.and_then(delta_seconds).unwrap_or(Duration::MAX);
                self.min_fresh.get_or_insert(time);
            }
            "max-stale" => {
                if let Some(limit) = value.map_or(Some(Duration::MAX), delta_seconds) {
                    self.max_stale.get_or_insert(limit);
                }
            }
            _ => {}
        }
    }
}

/// Seconds (RFC 9111, section 1.2.2): what is too large to count is as large as can be.
fn delta_seconds(text: &str) -> Option<Duration> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| Duration::from_secs(text.parse().unwrap_or(u64::from(u32::MAX))))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn directives_are_read_as_rfc_9111_writes_them() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let none = Directives::default();
        #[rustfmt::skip]
        let rows = [
            ("", none),
            ("no-cache", Directives { no_cache: true, ..none }),
            ("No-Cache , NO-STORE", Directives { no_cache: true, no_store: true, ..none }),
            ("no-cache=\"x\"", Directives { no_cache: true, ..none }),
            ("only-if-cached", Directives { only_if_cached: true, ..none }),
            ("max-age=5", Directives { max_age: seconds(5), ..none }),
            ("max-age=\"5\"", Directives { max_age: seconds(5), ..none }),
            ("MAX-AGE = 5", Directives { max_age: seconds(5), ..none }),
            ("max-age=5, max-age=9", Directives { max_age: seconds(5), ..none }),
            ("max-age=99999999999999999999", Directives { max_age: seconds(4_294_967_295), ..none }),
            ("max-age", Directives { max_age: seconds(0), ..none }),
            ("max-age=-1", Directives { max_age: seconds(0), ..none }),
            ("max-age=1.5", Directives { max_age: seconds(0), ..none }),
            ("min-fresh=3", Directives { min_fresh: seconds(3), ..none }),
            ("min-fresh=x", Directives { min_fresh: Some(Duration::MAX), ..none }),
            ("max-stale", Directives { max_stale: Some(Duration::MAX), ..none }),
            ("max-stale=7", Directives { max_stale: seconds(7), ..none }),
            ("max-stale=x", none),
            ("max-stale=", none),
            ("private, foo=bar, must-revalidate, s-maxage=1", none),
            (",,;=,", none),
        ];
        for (text, expected) in rows {
            let headers = HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static(text))]);
            assert_eq!(Directives::of(&headers), expected, "{text:?}");
        }
    }

    #[test]
    fn several_lines_count_as_one() {
        let mut headers = HeaderMap::new();
        headers.append(CACHE_CONTROL, HeaderValue::from_static("max-age=5"));
        headers.append(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let directives = Directives::of(&headers);
        assert!(directives.no_store && directives.max_age.is_some());
    }
}
