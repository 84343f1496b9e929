//! What was done to a body before it was sent? None of it was asked for: `Accept-Encoding` says
//! `identity`.

use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use hyper::http::response::Parts;
use hyper::{HeaderMap, Version};

/// The content codings that are registered with IANA, without `identity`.
const REGISTERED: [&str; 12] = [
    "aes128gcm",
    "br",
    "compress",
    "dcb",
    "dcz",
    "deflate",
    "exi",
    "gzip",
    "pack200-gzip",
    "x-compress",
    "x-gzip",
    "zstd",
];

/// The value of `Content-Encoding`, all its lines together, if it names a coding (RFC 9110, section
/// 8.4). What servers write besides, as `identity`, `none` or `utf-8`, is none: such a body is
/// plain.
pub(super) fn of_content(headers: &HeaderMap) -> Option<HeaderValue> {
    let lines = || headers.get_all(CONTENT_ENCODING).iter();
    if !lines().any(names_coding) {
        return None;
    }
    let lines: Vec<_> = lines().map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&lines.join(&b", "[..])).ok()
}

/// Whatever stands around its name: `gzip;q=1` is one.
fn names_coding(line: &HeaderValue) -> bool {
    let is_of_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    let mut words = line.as_bytes().split(|byte| !is_of_word(byte));
    words.any(|word| {
        let mut registered = REGISTERED.iter();
        registered.any(|coding| word.eq_ignore_ascii_case(coding.as_bytes()))
    })
}

/// Is the end of its body told, so that a cut is noticed? With `identity`, the only other transfer
/// coding that comes here, it is the end of the connection: where a `Content-Length` stands beside
/// it, [`head`](super::head) has left it out.
pub(super) fn is_framed(head: &Parts) -> bool {
    if head.version == Version::HTTP_2 {
        return true;
    }
    match head.headers.get(TRANSFER_ENCODING) {
        Some(coding) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        None => head.headers.contains_key(CONTENT_LENGTH),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_coding_is_a_registered_word_wherever_it_stands() {
        let rows: [(&[&str], Option<&str>); 14] = [
            (&[], None),
            (&[""], None),
            (&["identity"], None),
            (&["Identity", ""], None),
            (&["none"], None),
            (&["utf-8"], None),
            (&["gzipped"], None),
            (&["x-gzip-not"], None),
            (&["gzip"], Some("gzip")),
            (&["GZIP"], Some("GZIP")),
            (&["identity, br"], Some("identity, br")),
            (&["identity", "gzip"], Some("identity, gzip")),
            (&["gzip;q=1"], Some("gzip;q=1")),
            (&["\"zstd\""], Some("\"zstd\"")),
        ];
        for (lines, expected) in rows {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(CONTENT_ENCODING, HeaderValue::from_static(line));
            }
            let coding = of_content(&headers);
            let coding = coding.as_ref().map(|coding| coding.to_str().unwrap());
            assert_eq!(coding, expected, "{lines:?}");
        }
    }
}
