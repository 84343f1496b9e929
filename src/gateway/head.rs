//! Is the head of a request one that we take, and what does it ask of us?

use std::net::IpAddr;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue,
    ORIGIN, TRANSFER_ENCODING,
};
use hyper::{Request, Version};

use super::error::{Error, X_REQUEST_ID};

/// Refuses what another server might read differently (RFC 9112, section 3.2), and every web page.
pub fn check(request: &Request<Incoming>) -> Result<(), Error> {
    let (uri, headers) = (request.uri(), request.headers());
    if uri.scheme().is_some() || uri.authority().is_some() {
        // The upstream is fixed by the configuration; nobody chooses another by a URL.
        return Err(Error::MalformedRequest(
            "send the path only (origin-form): this is no forward proxy",
        ));
    }
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if request.version() == Version::HTTP_11 => {
            return Err(Error::MalformedRequest("HTTP/1.1 needs a Host header"));
        }
        (_, Some(_)) => return Err(Error::MalformedRequest("more than one Host header")),
        (Some(host), None) if !is_authority(host) => {
            return Err(Error::MalformedRequest("Host is no host name"));
        }
        _ => {}
    }
    let stands_twice = |name: &&HeaderName| headers.get_all(*name).iter().nth(1).is_some();
    if headers.len() > headers.keys_len() && ONCE.iter().any(stands_twice) {
        return Err(Error::MalformedRequest(
            "a header that says who asks, or how, stands twice",
        ));
    }
    // RFC 9112, section 6.1: hyper undoes chunked, and leaves whatever else was done to the body.
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err(Error::MalformedRequest(
            "chunked is the only transfer coding that is understood",
        ));
    }
    if uri.query().is_some() {
        return Err(Error::InvalidPath(
            "Linksfield reads no query string here: put the parameters into the JSON body",
        ));
    }
    check_origin(headers)
}

/// Refuses every web page but our own.
pub fn check_origin(headers: &HeaderMap) -> Result<(), Error> {
    match headers.get(ORIGIN) {
        Some(origin) if !is_own(origin, headers.get(HOST)) => Err(Error::ForeignOrigin),
        _ => Ok(()),
    }
}

// Names are read once, not for each request.
static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
static X_LINKSFIELD_PAGES: HeaderName = HeaderName::from_static("x-linksfield-pages");
static X_LINKSFIELD_TENANT: HeaderName = HeaderName::from_static("x-linksfield-tenant");
static X_REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");

/// Of these the first would count, unseen by whoever checks the last.
static ONCE: [&HeaderName; 5] = [
    &AUTHORIZATION,
    &IDEMPOTENCY_KEY,
    &X_LINKSFIELD_PAGES,
    &X_LINKSFIELD_TENANT,
    &X_REQUEST_TIMEOUT,
];

/// A host with or without a port, and no user (RFC 9110, section 7.2).
fn is_authority(host: &HeaderValue) -> bool {
    let is_user = host.as_bytes().contains(&b'@');
    !is_user && hyper::http::uri::Authority::try_from(host.as_bytes()).is_ok()
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

/// Was the gateway asked by a name that no attacker's DNS can give to it?
pub fn is_own_host(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    host.is_some_and(is_own_name)
}

fn is_own_name(authority: &str) -> bool {
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    };
    name == "localhost" || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

/// Only JSON in UTF-8, not compressed; nothing at all is an empty set of parameters.
pub fn check_content(headers: &HeaderMap, body: &Incoming) -> Result<(), Error> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let is_plain = headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    match (types.next(), types.next()) {
        (Some(value), None) if is_plain && is_json(value) => Ok(()),
        (None, None) if body.is_end_stream() => Ok(()),
        _ => Err(Error::UnsupportedMediaType),
    }
}

fn is_json(content_type: &HeaderValue) -> bool {
    if content_type == "application/json" {
        return true; // as nearly everybody writes it
    }
    let mut parts = content_type
        .to_str()
        .unwrap_or_default()
        .split(';')
        .map(str::trim);
    let is_json = parts
        .next()
        .is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"));
    is_json
        && parts.all(|parameter| match parameter.split_once('=') {
            Some((name, value)) if name.eq_ignore_ascii_case("charset") => {
                matches!(
                    value.trim_matches('"').to_ascii_lowercase().as_str(),
                    "utf-8" | "utf8"
                )
            }
            _ => true,
        })
}

/// The caller's own id, if it is one that may stand in logs and headers.
pub fn request_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(&X_REQUEST_ID)?.to_str().ok()?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    ((1..=64).contains(&id.len()) && id.bytes().all(is_plain)).then(|| id.to_owned())
}

/// The key under which a command is sent once.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    let Some(key) = headers.get(&IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let is_key = |key: &&str| {
        (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
    };
    match key.to_str().ok().filter(is_key) {
        Some(key) => Ok(Some(key)),
        None => Err(Error::InvalidHeader {
            name: IDEMPOTENCY_KEY.as_str(),
            expected: "1 to 255 visible ASCII characters, such as a UUID",
        }),
    }
}

/// Does the caller want all pages of a query as one document?
pub fn all_pages(headers: &HeaderMap) -> Result<bool, Error> {
    match headers.get(&X_LINKSFIELD_PAGES) {
        None => Ok(false),
        Some(value) if value == "all" => Ok(true),
        Some(_) => Err(Error::InvalidHeader {
            name: X_LINKSFIELD_PAGES.as_str(),
            expected: "all, or leave it out",
        }),
    }
}

/// All pages were asked for where there are none.
pub fn no_pages() -> Error {
    Error::InvalidHeader {
        name: X_LINKSFIELD_PAGES.as_str(),
        expected: "only a query with pages = true has pages",
    }
}

/// The tenant, where the caller names one.
pub fn tenant(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(&X_LINKSFIELD_TENANT)
}

/// How long the caller waits: `800ms`, `2s`, or bare milliseconds.
pub fn request_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Error> {
    let Some(value) = headers.get(&X_REQUEST_TIMEOUT) else {
        return Ok(None);
    };
    let invalid = Error::InvalidHeader {
        name: X_REQUEST_TIMEOUT.as_str(),
        expected: "a time greater than 0, as 800ms, 2s, or bare milliseconds",
    };
    let text = value.to_str().unwrap_or_default();
    let (digits, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    match (digits.parse::<u64>(), unit) {
        (Ok(number @ 1..), "ms" | "") => Ok(Some(Duration::from_millis(number))),
        (Ok(number @ 1..), "s") => Ok(Some(Duration::from_secs(number))),
        _ => Err(invalid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let headers = HeaderMap::from_iter([(
                "x-request-timeout".parse().unwrap(),
                HeaderValue::from_static(text),
            )]);
            let expected = millis.map(|millis| Some(Duration::from_millis(millis)));
            assert_eq!(request_timeout(&headers).ok(), expected, "{text:?}");
        }
        assert_eq!(request_timeout(&HeaderMap::new()).unwrap(), None);
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

    #[test]
    fn a_request_id_is_kept_if_it_is_short_and_plain() {
        let read = |id: &str| {
            let headers = HeaderMap::from_iter([(
                "x-request-id".parse().unwrap(),
                HeaderValue::from_str(id).unwrap(),
            )]);
            request_id(&headers)
        };
        assert_eq!(read("a-B_9.z").as_deref(), Some("a-B_9.z"));
        assert!(read(&"x".repeat(64)).is_some());
        for id in ["", "a b", "a\"b", "ü", &"x".repeat(65)] {
            assert_eq!(read(id), None, "{id:?}");
        }
    }
}
