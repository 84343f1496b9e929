//! Where the vendor is: the one URL that every upstream request begins with.
//!
//! Invariant: scheme `http` or `https`, a host, no user information, no query, no fragment, no dot segments, and a path that
//! is empty or begins with `/` and does not end with one. So joining it with a route's path is plain concatenation.

use std::{fmt, net::IpAddr, net::Ipv6Addr, str::FromStr};

use rustls::pki_types::ServerName;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::route::path_fault;

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

    /// The host in lower case, an IPv6 address without its brackets: what is resolved and what the certificate must name.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host as the vendor's certificate must name it; none without TLS.
    pub fn server_name(&self) -> Option<ServerName<'static>> {
        let name = self.https.then(|| ServerName::try_from(self.host.clone()));
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
    #[error("its host is missing or malformed")]
    Host,
    /// A port that is no port.
    #[error("its port is not a number from 1 to 65535")]
    Port,
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
        if https && ServerName::try_from(host.as_str()).is_err() {
            return Err(BaseUrlError::Host); // no certificate could name it
        }
        let default_port = if https { 443 } else { 80 };
        let port = match port {
            None => default_port,
            Some(digits) => port_number(digits).ok_or(BaseUrlError::Port)?,
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

/// Splits off the port and checks the host.
fn split_port(authority: &str) -> Result<(&str, Option<&str>), BaseUrlError> {
    if let Some(bracketed) = authority.strip_prefix('[') {
        let (host, rest) = bracketed.split_once(']').ok_or(BaseUrlError::Host)?;
        host.parse::<Ipv6Addr>().map_err(|_| BaseUrlError::Host)?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(BaseUrlError::Host),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let is_name = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if host.len() > 253 || !host.split('.').all(is_name) {
        return Err(BaseUrlError::Host);
    }
    Ok((host, port))
}

/// Digits only: the standard parser would also take `+443`.
fn port_number(digits: &str) -> Option<u16> {
    let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|port| all_digits && *port != 0)
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
            ("https://", BaseUrlError::Host),
            ("https:///path", BaseUrlError::Host),
            ("https://a b", BaseUrlError::Host),
            ("https://a..b", BaseUrlError::Host),
            ("https://[::1", BaseUrlError::Host),
            ("https://[::1]x", BaseUrlError::Host),
            ("https://[1.2.3.4]", BaseUrlError::Host),
            ("https://a:0", BaseUrlError::Port),
            ("https://a:", BaseUrlError::Port),
            ("https://a:+1", BaseUrlError::Port),
            ("https://a:65536", BaseUrlError::Port),
            ("https://user:pass@a", BaseUrlError::UserInformation),
            ("https://a?x", BaseUrlError::QueryOrFragment),
            ("https://a/#x", BaseUrlError::QueryOrFragment),
        ] {
            assert_eq!(text.parse::<BaseUrl>(), Err(error), "{text}");
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
    fn loopback_is_recognised() {
        for (text, expected) in [
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
}
