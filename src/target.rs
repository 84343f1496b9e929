//! Had the target of a request a fragment? None may have one (RFC 9112, section 3.2).
//!
//! hyper's URI leaves it out unsaid, so that `/a#b` would be asked as `/a`. So the line of a request is looked at as it is
//! read. What comes before an answer has ended may be the rest of a body: of a request that is pipelined behind another one
//! nobody looks, as its line could not be told from text in a body.

/// Stands among the extensions of a request whose target had a fragment.
#[derive(Debug, Clone, Copy)]
pub struct Fragment;

/// The line of the request that comes next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RequestLine {
    /// Nothing of it has come, but for empty lines (RFC 9112, section 2.2).
    #[default]
    Ahead,
    /// Some of it has come.
    Begun,
    /// The same, and there is a fragment in it.
    WithFragment,
    /// All of it has come.
    Over,
}

impl RequestLine {
    /// These bytes have come. True if they end a line that had a fragment.
    pub fn read(&mut self, bytes: &[u8]) -> bool {
        let mut left = bytes;
        if *self == Self::Ahead {
            left = left.trim_ascii_start();
            if left.is_empty() {
                return false;
            }
            *self = Self::Begun;
        }
        if *self == Self::Over {
            return false;
        }
        let end = left.iter().position(|byte| *byte == b'\n');
        if left[..end.unwrap_or(left.len())].contains(&b'#') {
            *self = Self::WithFragment;
        }
        let had_fragment = end.is_some() && *self == Self::WithFragment;
        if end.is_some() {
            *self = Self::Over;
        }
        had_fragment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fragment_is_seen_in_the_line_of_a_request_alone_however_it_comes() {
        for (text, expected) in [
            ("POST /a#b HTTP/1.1\r\n", true),
            ("POST /a# HTTP/1.0\n", true),
            ("\r\n\r\nPOST /a#b#c?d HTTP/1.1\r\nX: y\r\n\r\n", true),
            ("POST /a HTTP/1.1\r\nX: #\r\n\r\n{\"x\": \"#\"}", false),
            ("POST /a HTTP/1.1\r\n\r\nPOST /a#b HTTP/1.1\r\n", false),
            ("POST /a#b HTTP/1.1", false), // hyper has no request either
        ] {
            let bytes = text.as_bytes();
            for first in 0..bytes.len() {
                for second in first..bytes.len() {
                    let parts = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                    let mut line = RequestLine::default();
                    let seen = parts.map(|part| line.read(part));
                    assert_eq!(seen.contains(&true), expected, "{text:?} {first} {second}");
                }
            }
        }
    }
}
