//! Is the head of a request one that we take, and what does it ask of us?

use std::net::IpAddr;
use std::time::Duration;

use hyper::Version;
use hyper::body::Body as HttpBody;
use hyper::header::{CONTENT_ENCODING, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use hyper::http::request;
use hyper::http::uri::{Authority, Scheme};

use super::directives::Directives;
use crate::gateway::command::keys::Spelling;
use crate::gateway::error::Error;
use crate::id::RequestId;
use crate::target::Fragment;
use crate::telemetry::trace::{TRACEPARENT, Trace};

const IDEMPOTENCY_KEY: &str = "idempotency-key";
const X_LINKSFIELD_PAGES: &str = "x-linksfield-pages";
const X_REQUEST_TIMEOUT: &str = "x-request-timeout";

/// The header fields that say something to the gateway, each found once: a map of headers is
/// searched anew for every name.
#[derive(Debug)]
pub struct Fields<'a> {
    all: &'a HeaderMap,
    accept_language: Field<'a>,
    authorization: Field<'a>,
    cache_control: Field<'a>,
    content_encoding: Field<'a>,
    content_type: Field<'a>,
    host: Field<'a>,
    idempotency_key: Field<'a>,
    origin: Field<'a>,
    pages: Field<'a>,
    request_id: Field<'a>,
    tenant: Field<'a>,
    timeout: Field<'a>,
    traceparent: Field<'a>,
    transfer_encoding: Field<'a>,
}

/// A header field: its first line, and whether there are more.
#[derive(Debug, Clone, Copy, Default)]
struct Field<'a> {
    first: Option<&'a HeaderValue>,
    is_repeated: bool,
}

impl<'a> Fields<'a> {
    /// Finds them.
    pub fn of(headers: &'a HeaderMap) -> Self {
        let none = Field::default();
        let mut fields = Self {
            all: headers,
            accept_language: none,
            authorization: none,
            cache_control: none,
            content_encoding: none,
            content_type: none,
            host: none,
            idempotency_key: none,
            origin: none,
            pages: none,
            request_id: none,
            tenant: none,
            timeout: none,
            traceparent: none,
            transfer_encoding: none,
        };
        for (name, value) in headers {
            let field = match name.as_str() {
                "accept-language" => &mut fields.accept_language,
                "authorization" => &mut fields.authorization,
                "cache-control" => &mut fields.cache_control,
                "content-encoding" => &mut fields.content_encoding,
                "content-type" => &mut fields.content_type,
                "host" => &mut fields.host,
                IDEMPOTENCY_KEY => &mut fields.idempotency_key,
                "origin" => &mut fields.origin,
                X_LINKSFIELD_PAGES => &mut fields.pages,
                "x-request-id" => &mut fields.request_id,
                "x-linksfield-tenant" => &mut fields.tenant,
                X_REQUEST_TIMEOUT => &mut fields.timeout,
                TRACEPARENT => &mut fields.traceparent,
                "transfer-encoding" => &mut fields.transfer_encoding,
                _ => continue,
            };
            field.is_repeated = field.first.is_some();
            field.first.get_or_insert(value);
        }
        fields
    }

    /// Refuses what another server might read differently (RFC 9112, section 3.2), and every web
    /// page.
    pub fn check(&self, head: &request::Parts) -> Result<(), Error> {
        match self.host.first {
            None if head.version == Version::HTTP_11 => {
                return Err(Error::MalformedRequest("HTTP/1.1 needs a Host header"));
            }
            _ if self.host.is_repeated => {
                return Err(Error::MalformedRequest("more than one Host header"));
            }
            Some(host) if !is_authority(host) => {
                return Err(Error::MalformedRequest("Host is no host name"));
            }
            _ => {}
        }
        self.check_target(head)?;
        // Of these the first would count, unseen by whoever checks the last.
        let once = [
            self.authorization,
            self.idempotency_key,
            self.pages,
            self.tenant,
            self.timeout,
        ];
        if once.iter().any(|field| field.is_repeated) {
            return Err(Error::MalformedRequest(
                "a header that says who asks, or how, stands twice",
            ));
        }
        // RFC 9112, section 6.1: hyper undoes chunked, and leaves whatever else was done to the
        // body.
        if !self.every_coding_is("chunked", TRANSFER_ENCODING, self.transfer_encoding) {
            return Err(Error::MalformedRequest(
                "chunked is the only transfer coding that is understood",
            ));
        }
        if head.uri.query().is_some() {
            return Err(Error::InvalidPath(
                "Linksfield reads no query string here: put the parameters into the JSON body",
            ));
        }
        self.check_origin()
    }

    /// Refuses a fragment, and a whole URL that is not one of ours.
    pub fn check_target(&self, head: &request::Parts) -> Result<(), Error> {
        if head.extensions.get::<Fragment>().is_some() {
            return Err(Error::InvalidPath(
                "a request has no fragment: leave out # and what stands behind it",
            ));
        }
        let uri = &head.uri;
        let Some(authority) = uri.authority() else {
            return Ok(());
        };
        // The upstream is fixed by the configuration; nobody chooses another by a URL.
        let host = self.host.first.and_then(|host| host.to_str().ok());
        let is_host = host.is_some_and(|host| is_same_authority(authority.as_str(), host));
        if uri.scheme() == Some(&Scheme::HTTP) && is_host {
            return Ok(()); // RFC 9112, section 3.2.2
        }
        Err(Error::MalformedRequest(
            "send the path only, or an http:// URL with the host and port of the Host header: this is no forward proxy",
        ))
    }

    /// Refuses every web page but our own.
    pub fn check_origin(&self) -> Result<(), Error> {
        match self.origin.first {
            Some(origin) if !is_own(origin, self.host.first) => Err(Error::ForeignOrigin),
            _ => Ok(()),
        }
    }

    /// Was the gateway asked by a name that no attacker's DNS can give to it?
    pub fn is_own_host(&self) -> bool {
        let host = self.host.first.and_then(|host| host.to_str().ok());
        host.is_some_and(is_own_name)
    }

    /// Only JSON in UTF-8, not compressed; nothing at all is an empty set of parameters.
    pub fn check_content(&self, body: &impl HttpBody) -> Result<(), Error> {
        let is_plain = self.every_coding_is("identity", CONTENT_ENCODING, self.content_encoding);
        match (self.content_type.first, self.content_type.is_repeated) {
            (None, _) if body.is_end_stream() => Ok(()),
            _ if !is_plain => Err(Error::UnsupportedCoding),
            (Some(value), false) if is_json(value) => Ok(()),
            _ => Err(Error::UnsupportedMediaType),
        }
    }

    fn every_coding_is(&self, coding: &str, name: HeaderName, field: Field<'_>) -> bool {
        let is_it = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(coding.as_bytes());
        field.first.is_none_or(is_it)
            && (!field.is_repeated || self.all.get_all(name).iter().all(is_it))
    }

    /// Who asks.
    pub fn authorization(&self) -> Option<&'a HeaderValue> {
        self.authorization.first
    }

    /// In which languages an answer is welcome.
    pub fn accept_language(&self) -> Option<&'a HeaderValue> {
        self.accept_language.first
    }

    /// The tenant, where the caller names one.
    pub fn tenant(&self) -> Option<&'a HeaderValue> {
        self.tenant.first
    }

    /// What the caller asks of the cache.
    pub fn directives(&self) -> Directives {
        match self.cache_control.first {
            None => Directives::default(),
            Some(_) => Directives::of(self.all),
        }
    }

    /// The trace that the request belongs to; two are none.
    pub fn trace(&self, forward: bool) -> Option<Trace> {
        let parent = self
            .traceparent
            .first
            .filter(|_| !self.traceparent.is_repeated)?;
        Trace::of(parent, forward)
    }

    /// The caller's own id, if it is one that may stand in logs and headers.
    pub fn request_id(&self) -> Option<RequestId> {
        RequestId::of(self.request_id.first?)
    }

    /// The key under which a command is sent once.
    pub fn idempotency_key(&self) -> Result<Option<Spelling<'a>>, Error> {
        let Some(value) = self.idempotency_key.first else {
            return Ok(None);
        };
        let spelling = Spelling::read(value.to_str().unwrap_or_default());
        spelling.map(Some).map_err(|expected| Error::InvalidHeader {
            name: IDEMPOTENCY_KEY,
            expected,
        })
    }

    /// Does the caller want all pages of a query as one document?
    pub fn all_pages(&self) -> Result<bool, Error> {
        match self.pages.first {
            None => Ok(false),
            Some(value) if value == "all" => Ok(true),
            Some(_) => Err(Error::InvalidHeader {
                name: X_LINKSFIELD_PAGES,
                expected: "all, or leave it out",
            }),
        }
    }

    /// How long the caller waits: `800ms`, `2s`, or bare milliseconds.
    pub fn timeout(&self) -> Result<Option<Duration>, Error> {
        let Some(value) = self.timeout.first else {
            return Ok(None);
        };
        let text = value.to_str().unwrap_or_default();
        let (digits, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
        match (digits.parse::<u64>(), unit) {
            (Ok(number @ 1..), "ms" | "") => Ok(Some(Duration::from_millis(number))),
            (Ok(number @ 1..), "s") => Ok(Some(Duration::from_secs(number))),
            _ => Err(Error::InvalidHeader {
                name: X_REQUEST_TIMEOUT,
                expected: "a time greater than 0, as 800ms, 2s, or bare milliseconds",
            }),
        }
    }
}

/// All pages were asked for where there are none.
pub fn no_pages() -> Error {
    Error::InvalidHeader {
        name: X_LINKSFIELD_PAGES,
        expected: "only a query with pages = true has pages",
    }
}

/// A host with or without a port, and no user (RFC 9110, section 7.2).
fn is_authority(host: &HeaderValue) -> bool {
    let host = host.as_bytes();
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let (name, port) = host.split_at(host.iter().take_while(|byte| is_name(byte)).count());
    let is_port =
        |port: &[u8]| (1..=5).contains(&port.len()) && port.iter().all(u8::is_ascii_digit);
    if !name.is_empty() && (port.is_empty() || port.strip_prefix(b":").is_some_and(is_port)) {
        return true; // as nearly everybody writes it
    }
    !host.contains(&b'@') && Authority::try_from(host).is_ok()
}

/// Is this the origin of the gateway itself, by a name that no attacker's DNS can give to it?
fn is_own(origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
    let authority = origin
        .as_bytes()
        .strip_prefix(b"http://")
        .and_then(|authority| std::str::from_utf8(authority).ok());
    let Some(authority) = authority.filter(|authority| host.is_some_and(|host| host == authority))
    else {
        return false;
    };
    is_own_name(authority)
}

/// Is it the same host, and by http the same port (RFC 9110, section 4.2.3)?
fn is_same_authority(left: &str, right: &str) -> bool {
    let [(left, left_port), (right, right_port)] = [left, right].map(|authority| {
        let (name, port) = name_and_port(authority);
        (name, if port.is_empty() { "80" } else { port })
    });
    left.eq_ignore_ascii_case(right) && left_port == right_port
}

/// The port is empty where there is none.
fn name_and_port(authority: &str) -> (&str, &str) {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (name, port),
        _ => (authority, ""),
    }
}

fn is_own_name(authority: &str) -> bool {
    let (name, _) = name_and_port(authority);
    name == "localhost" || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

fn is_json(content_type: &HeaderValue) -> bool {
    if content_type == "application/json" {
        return true; // as nearly everybody writes it
    }
    let (mut is_quoted, mut is_escaped) = (false, false);
    let mut ends_a_part = |character: char| {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = is_quoted,
            '"' => is_quoted = !is_quoted,
            _ => return character == ';' && !is_quoted,
        }
        false
    };
    let text = content_type.to_str().unwrap_or_default();
    let mut parts = text.split(&mut ends_a_part).map(str::trim);
    let is_json = parts
        .next()
        .is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"));
    is_json
        && parts.all(|parameter| match parameter.split_once('=') {
            Some((name, value)) if name.trim_end().eq_ignore_ascii_case("charset") => {
                let charset = value.trim().trim_matches('"').replace('\\', "");
                // RFC 8259, section 11: there is no such parameter, and what is ASCII is UTF-8 too.
                matches!(
                    charset.to_ascii_lowercase().as_str(),
                    "utf-8" | "utf8" | "us-ascii"
                )
            }
            _ => true,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers<const N: usize>(lines: [(&str, &str); N]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_host_is_a_name_or_an_address_with_or_without_a_port() {
        let rows = [
            ("localhost", true),
            ("127.0.0.1:6180", true),
            ("[::1]:6180", true),
            ("linksfield-gateway.default.svc:6180", true),
            ("a_b", true),
            ("user@localhost", false),
            ("a b", false),
            ("", false),
            ("a/b", false),
            ("[::1", false),
        ];
        for (host, expected) in rows {
            assert_eq!(
                is_authority(&HeaderValue::from_static(host)),
                expected,
                "{host:?}"
            );
        }
    }

    #[test]
    fn two_traces_are_none() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let one = headers([("traceparent", parent)]);
        assert!(Fields::of(&one).trace(false).is_some());
        let two = headers([("traceparent", parent), ("traceparent", parent)]);
        assert_eq!(Fields::of(&two).trace(false), None);
    }

    #[test]
    fn a_timeout_is_read_as_written_or_refused() {
        let rows = [
            ("800ms", Some(800)),
            ("2s", Some(2000)),
            ("1500", Some(1500)),
            ("0", None),
            ("0s", None),
            ("", None),
            ("s", None),
            ("-1", None),
            ("1.5s", None),
            ("2 s", None),
            ("2m", None),
            ("99999999999999999999", None),
        ];
        for (text, millis) in rows {
            let headers = headers([("x-request-timeout", text)]);
            let expected = millis.map(|millis| Some(Duration::from_millis(millis)));
            let timeout = Fields::of(&headers).timeout();
            assert_eq!(timeout.ok(), expected, "{text:?}");
        }
        assert_eq!(Fields::of(&HeaderMap::new()).timeout().unwrap(), None);
    }

    #[test]
    fn only_an_origin_that_no_web_page_can_have_is_our_own() {
        let rows = [
            ("http://127.0.0.1:6180", "127.0.0.1:6180", true),
            ("http://localhost:6180", "localhost:6180", true),
            ("http://[::1]:6180", "[::1]:6180", true),
            ("http://localhost:6180", "127.0.0.1:6180", false),
            ("http://evil.example:6180", "evil.example:6180", false),
            ("https://evil.example", "127.0.0.1:6180", false),
            ("null", "127.0.0.1:6180", false),
            ("", "127.0.0.1:6180", false),
        ];
        for (origin, host, expected) in rows {
            let host = HeaderValue::from_static(host);
            assert_eq!(
                is_own(&HeaderValue::from_static(origin), Some(&host)),
                expected,
                "{origin} at {host:?}"
            );
        }
    }

    #[test]
    fn json_in_utf_8_is_taken() {
        let rows = [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/json;charset=\"UTF-8\"", true),
            ("application/json; profile=x", true),
            ("application/json; charset=gbk", false),
            ("application/jsonx", false),
            ("text/plain", false),
            ("application/x-www-form-urlencoded", false),
            ("", false),
        ];
        for (value, expected) in rows {
            assert_eq!(
                is_json(&HeaderValue::from_static(value)),
                expected,
                "{value:?}"
            );
        }
    }
}
