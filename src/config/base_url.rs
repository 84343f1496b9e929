//! Where the vendor is: the one URL that every upstream request begins with.
//!
//! Invariant: scheme `http` or `https`, a host, no user information, no query, no fragment, no dot
//! segments, and a path that is empty or begins with `/` and does not end with one. So joining it
//! with a route's path is plain concatenation.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use rustls::pki_types::ServerName;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An absolute `http` or `https` URL without user information, query and fragment.
///
/// The default stands for "not configured"; `Config::parse` never lets it through.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct BaseUrl {
    https: bool,
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl BaseUrl {
    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }

    /// Whether the vendor is reached over TLS.
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// The host in lower case, an IPv6 address without its brackets: what is resolved. A dot at its
    /// end is kept: with it, the name is not looked for in the domains of the machine.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host as the vendor's certificate must name it, without a dot at its end (RFC 6066,
    /// section 3); none without TLS.
    pub fn server_name(&self) -> Option<ServerName<'static>> {
        let name = without_root(&self.host).to_owned();
        let name = self.https.then(|| ServerName::try_from(name));
        name.map(|name| name.expect("checked when it was parsed"))
    }

    /// The port, the scheme's own where the URL names none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The value of the `Host` header: host, and the port where it is not the scheme's own.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The path before every route's path: empty, or `/cube/v4`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether requests stay on this machine.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self
                .host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }

    /// Whether this is the default, which stands for "not configured".
    pub(super) fn is_unset(&self) -> bool {
        self.host.is_empty()
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_unset() {
            return Ok(());
        }
        write!(
            formatter,
            "{}://{}{}",
            self.scheme(),
            self.authority,
            self.path
        )
    }
}

/// Why a text is no base URL. It never quotes the text, which may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BaseUrlError {
    /// Neither `https://` nor `http://` at the beginning.
    #[error("it does not begin with https:// or http://")]
    Scheme,
    /// A user name or password before the host.
    #[error("it holds a user name or password, which the vendor does not use")]
    UserInformation,
    /// A `?` or `#`.
    #[error("it has a query or a fragment")]
    QueryOrFragment,
    /// No host, or one that cannot be a host.
    #[error("it {0}")]
    Host(&'static str),
    /// A port that is no port.
    #[error("its port {0}")]
    Port(&'static str),
    /// A path that cannot be prefixed to a route's path.
    #[error("its path {0}")]
    Path(&'static str),
}

impl FromStr for BaseUrl {
    type Err = BaseUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.split_once("://").ok_or(BaseUrlError::Scheme)?;
        let https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(BaseUrlError::Scheme),
        };
        // First of all, so that no later message is about a password taken for a port.
        if rest.contains('@') {
            return Err(BaseUrlError::UserInformation);
        }
        if rest.contains(['?', '#']) {
            return Err(BaseUrlError::QueryOrFragment);
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = split_port(authority)?;
        let host = host.to_ascii_lowercase();
        let default_port = if https { 443 } else { 80 };
        let port = match port {
            None => default_port,
            Some(digits) => port_number(digits).map_err(BaseUrlError::Port)?,
        };
        let bracketed = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.clone()
        };
        let authority = if port == default_port {
            bracketed
        } else {
            format!("{bracketed}:{port}")
        };
        // No resolver need know it with a dot; it is this machine all the same (RFC 6761, section
        // 6.3).
        let host = if host == "localhost." {
            "localhost".to_owned()
        } else {
            host
        };
        let path = path.trim_end_matches('/');
        match path_fault(path) {
            Some(fault) if !path.is_empty() => Err(BaseUrlError::Path(fault)),
            _ => Ok(Self {
                https,
                host,
                port,
                authority,
                path: path.to_owned(),
            }),
        }
    }
}

/// The name without the dot that stands for the root of all names.
fn without_root(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

/// Splits off the port and checks the host.
fn split_port(authority: &str) -> Result<(&str, Option<&str>), BaseUrlError> {
    if let Some(bracketed) = authority.strip_prefix('[') {
        let Some((host, rest)) = bracketed.split_once(']') else {
            return Err(BaseUrlError::Host("opens a bracket and does not close it"));
        };
        if host.parse::<Ipv6Addr>().is_err() {
            let fault =
                "holds something in brackets that is no IPv6 address (nor may it have a zone)";
            return Err(BaseUrlError::Host(fault));
        }
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(BaseUrlError::Host(
                "has more than a port behind the bracket",
            )),
        };
    }
    if authority.parse::<Ipv6Addr>().is_ok() {
        let fault = "has an IPv6 address as its host without brackets around it";
        return Err(BaseUrlError::Host(fault));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    match host_fault(host) {
        Some(fault) => Err(BaseUrlError::Host(fault)),
        None => Ok((host, port)),
    }
}

/// Why this is neither a name (RFC 1123, section 2.1, with underscores) nor an IPv4 address.
fn host_fault(host: &str) -> Option<&'static str> {
    let name = without_root(host);
    let is_address = name.parse::<Ipv4Addr>().is_ok();
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if host.is_empty() {
        Some("has no host")
    } else if !host.is_ascii() {
        Some(
            "has a host with letters beyond ASCII: write it in its ASCII form, which begins with xn--",
        )
    } else if !host.bytes().all(is_allowed) {
        Some(
            "has a character in its host that no name has: letters, digits, - and _ are taken, with dots between",
        )
    } else if name.len() > 253 {
        Some("has a host of more than 253 characters")
    } else if name.split('.').any(str::is_empty) {
        Some("has a host with nothing before, after or between its dots")
    } else if name.split('.').any(|label| label.len() > 63) {
        Some("has a host with more than 63 characters between two dots")
    } else if name
        .split('.')
        .any(|label| label.starts_with('-') || label.ends_with('-'))
    {
        Some("has a host with a hyphen where a part of it begins or ends")
    } else if is_address && name.len() < host.len() {
        Some("has an IPv4 address with a dot at its end as its host")
    } else if !is_address && ServerName::try_from(name).is_err() {
        Some("has a host that ends in a number and is no IPv4 address") // the last fault that there can be
    } else {
        None
    }
}

/// Digits only: the standard parser would also take `+443`.
fn port_number(digits: &str) -> Result<u16, &'static str> {
    if digits.is_empty() {
        return Err("is missing after the colon");
    }
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("is not a number");
    }
    match digits.parse() {
        Ok(0) => Err("is 0, where nobody can listen"),
        Ok(port) => Ok(port),
        Err(_) => Err("is above 65535"),
    }
}

impl<'de> Deserialize<'de> for BaseUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl Serialize for BaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a path cannot be that of the base URL, as the end of a sentence.
fn path_fault(path: &str) -> Option<&'static str> {
    if !path.starts_with('/') {
        return Some("does not begin with \"/\"");
    }
    if path.contains(['?', '#']) {
        return Some("has a query or a fragment");
    }
    if path.contains("//") {
        return Some("has a doubled slash");
    }
    let lower = path.to_ascii_lowercase();
    if lower.contains("%2f") || lower.contains("%5c") {
        return Some("has an encoded slash");
    }
    if lower
        .split('/')
        .any(|segment| matches!(segment.replace("%2e", ".").as_str(), "." | ".."))
    {
        return Some("has a dot segment");
    }
    // RFC 3986 §3.3
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/".contains(&byte);
    if !path.bytes().all(allowed) {
        return Some("has a character that must be percent-encoded");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        for (text, shown, host, port, authority, path) in [
            (
                "https://a.example",
                "https://a.example",
                "a.example",
                443,
                "a.example",
                "",
            ),
            (
                "HTTPS://A.Example/",
                "https://a.example",
                "a.example",
                443,
                "a.example",
                "",
            ),
            (
                "https://a.example:443/cube/v4/",
                "https://a.example/cube/v4",
                "a.example",
                443,
                "a.example",
                "/cube/v4",
            ),
            (
                "http://127.0.0.1:8080/x",
                "http://127.0.0.1:8080/x",
                "127.0.0.1",
                8080,
                "127.0.0.1:8080",
                "/x",
            ),
            (
                "http://[::1]:8080",
                "http://[::1]:8080",
                "::1",
                8080,
                "[::1]:8080",
                "",
            ),
            ("http://[::1]/x", "http://[::1]/x", "::1", 80, "[::1]", "/x"),
        ] {
            let url: BaseUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(
                (url.host(), url.port(), url.authority(), url.path()),
                (host, port, authority, path),
                "{text}"
            );
            assert_eq!(url.to_string().parse::<BaseUrl>().unwrap(), url);
        }
    }

    #[test]
    fn what_is_no_base_url_is_refused_with_its_reason() {
        for (text, error) in [
            ("", BaseUrlError::Scheme),
            ("a.example", BaseUrlError::Scheme),
            ("ftp://a.example", BaseUrlError::Scheme),
            ("https://user:pass@a", BaseUrlError::UserInformation),
            ("https://a?x", BaseUrlError::QueryOrFragment),
            ("https://a/#x", BaseUrlError::QueryOrFragment),
        ] {
            assert_eq!(text.parse::<BaseUrl>(), Err(error), "{text}");
        }
        let long = format!("https://{}.example", "a".repeat(64));
        let longer = format!("https://{}example", "a.".repeat(130));
        for (text, part) in [
            ("https://", "no host"),
            ("https:///path", "no host"),
            ("https://:443", "no host"),
            ("https://a b", "a character"),
            ("https://a%41", "a character"),
            ("https://a[1]", "a character"),
            ("https://例え.example", "xn--"),
            ("https://a..b", "nothing before, after or between"),
            ("https://.a", "nothing before, after or between"),
            ("https://a..", "nothing before, after or between"),
            ("https://.", "nothing before, after or between"),
            ("https://-a.example", "a hyphen"),
            ("https://a-.example", "a hyphen"),
            (long.as_str(), "63"),
            (longer.as_str(), "253"),
            ("https://256.1.1.1", "ends in a number"),
            ("https://1.2.3", "ends in a number"),
            ("https://127.0.0.1.", "dot at its end"),
            ("https://[::1", "does not close"),
            ("https://[::1]x", "behind the bracket"),
            ("https://[1.2.3.4]", "no IPv6 address"),
            ("https://[fe80::1%25eth0]", "zone"),
            ("https://::1", "without brackets"),
            ("https://a:0", "is 0"),
            ("https://a:", "missing after the colon"),
            ("https://a:+1", "not a number"),
            ("https://a:1:2", "not a number"),
            ("https://a:65536", "above 65535"),
            ("https://a:99999999999999999999", "above 65535"),
        ] {
            let error = text.parse::<BaseUrl>().unwrap_err().to_string();
            assert!(
                error.starts_with("it") && error.contains(part),
                "{text}: {error}"
            );
        }
        assert!(matches!(
            "https://a/b/../c".parse::<BaseUrl>(),
            Err(BaseUrlError::Path(_))
        ));
        assert!(matches!(
            "https://a//b".parse::<BaseUrl>(),
            Err(BaseUrlError::Path(_))
        ));
    }

    #[test]
    fn a_dot_at_the_end_is_resolved_and_sent_and_no_certificate_has_it() {
        let url: BaseUrl = "https://API.example.:8443/v4".parse().unwrap();
        assert_eq!(url.host(), "api.example.");
        assert_eq!(url.authority(), "api.example.:8443"); // as curl does
        assert_eq!(url.server_name().unwrap().to_str(), "api.example");
        assert_eq!(url.to_string(), "https://api.example.:8443/v4");
        assert_eq!(url.to_string().parse::<BaseUrl>().unwrap(), url);
        let underscore: BaseUrl = "https://a_b.example".parse().unwrap();
        assert_eq!(underscore.host(), "a_b.example");
    }

    #[test]
    fn loopback_is_recognised() {
        for (text, expected) in [
            ("http://localhost.:1", true),
            ("http://localhost:1", true),
            ("http://127.8.0.1", true),
            ("http://[::1]", true),
            ("http://localhost.example", false),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(
                text.parse::<BaseUrl>().unwrap().is_loopback(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn a_path_that_no_base_url_can_have_is_found() {
        for path in ["/", "/package/queryOrder", "/a/b/", "/a%20b", "/..a"] {
            assert_eq!(path_fault(path), None, "{path}");
        }
        for path in [
            "",
            "a",
            "/a//b",
            "/a/../b",
            "/a/.",
            "/%2E%2e/b",
            "/a%2fb",
            "/a?b",
            "/a#b",
            "/a b",
            "/ä",
            "/a\\b",
        ] {
            assert!(path_fault(path).is_some(), "{path}");
        }
    }
}
