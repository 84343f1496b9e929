//! Where does an answer send its caller? No redirect is followed, nor handed on: with it the signed
//! request would go there.

use hyper::header::LOCATION;
use hyper::http::response::Parts;

/// The longest name of a host, and its port.
const LONGEST: usize = 259;

/// The host of a redirect, as it may stand in a log: it comes from outside. None for one within the
/// same host.
pub(super) fn host(head: &Parts) -> Option<String> {
    let location = head.headers.get(LOCATION);
    let location = location.filter(|_| head.status.is_redirection())?;
    // Elsewhere than in front, or behind a scheme (RFC 3986, section 4.2), the slashes are part of
    // a path.
    let (scheme, rest) = location.to_str().ok()?.split_once("//")?;
    let is_of_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let scheme = scheme.strip_suffix(':').unwrap_or(scheme);
    if !scheme.bytes().all(is_of_scheme) {
        return None;
    }
    let authority = rest.split(['/', '?', '#', '\\']).next()?;
    let (_, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    if host.is_empty() || host.len() > LONGEST || !host.bytes().all(is_host) {
        return Some("unprintable".into());
    }
    Some(host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use hyper::Response;

    use super::*;

    #[test]
    fn a_redirect_names_its_host_and_nothing_else() {
        let long = format!("https://{}/", "x".repeat(300));
        for (status, location, expected) in [
            (
                302,
                "https://Login.example:8443/a?token=b",
                Some("login.example:8443"),
            ),
            (307, "//login.example", Some("login.example")),
            (
                301,
                "http://user:secret@host.example/",
                Some("host.example"),
            ),
            (308, "https://[2001:db8::1]/x", Some("[2001:db8::1]")),
            (302, "/within", None),
            (302, "/login//89860012018111220455/x", None),
            (302, "/login?next=https://other.example/a", None),
            (302, "https://a b/", Some("unprintable")),
            (302, "https:///x", Some("unprintable")),
            (302, long.as_str(), Some("unprintable")),
            (200, "https://login.example/", None),
        ] {
            let answer = Response::builder()
                .status(status)
                .header(LOCATION, location);
            let (head, ()) = answer.body(()).unwrap().into_parts();
            assert_eq!(host(&head).as_deref(), expected, "{status} {location}");
        }
    }
}
