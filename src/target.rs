//! Had the target of a request a fragment? None may have one (RFC 9112, section 3.2).
//!
//! hyper's URI leaves it out unsaid, so that `/a#b` would be asked as `/a`. So the line of a
//! request is looked at as it is read. What comes before the answer to another request has ended
//! may be the rest of a body, or a request behind it: where there is a line with a fragment in it,
//! it is not known whose it is, and the next request ends the connection. No line of JSON ends like
//! that of a request.

/// Stands among the extensions of a request whose target had a fragment, or of one behind which
/// there may be such a request.
#[derive(Debug, Clone, Copy)]
pub struct Fragment;

/// What has come of one connection.
#[derive(Debug, Default)]
pub struct Lines {
    request: RequestLine,
    behind: Behind,
}

/// Whose target has a fragment, by the bytes that have come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// That of the request whose line was looked at.
    pub own: bool,
    /// That of some request behind it.
    pub behind: bool,
}

impl Lines {
    /// A request begins with these bytes.
    pub fn begin(&mut self, bytes: &[u8]) -> Seen {
        *self = Self::default();
        self.read(bytes)
    }

    /// These bytes have come.
    pub fn read(&mut self, bytes: &[u8]) -> Seen {
        let (line, rest) = self.request.split(bytes);
        Seen {
            own: self.request.read(line),
            behind: self.behind.read(rest),
        }
    }
}

/// The line of the request that is being read.
#[derive(Debug, Default)]
struct RequestLine {
    has_begun: bool,
    has_fragment: bool,
    is_over: bool,
}

impl RequestLine {
    /// What of these bytes is a part of it, without the empty lines that may come first (RFC 9112,
    /// section 2.2).
    fn split<'a>(&mut self, bytes: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        let bytes = match (self.is_over, self.has_begun) {
            (true, _) => return (&[], bytes),
            (false, true) => bytes,
            (false, false) => bytes.trim_ascii_start(),
        };
        self.has_begun |= !bytes.is_empty();
        let end = bytes.iter().position(|byte| *byte == b'\n');
        bytes.split_at(end.map_or(bytes.len(), |end| end + 1))
    }

    /// True if that ends a line with a fragment.
    fn read(&mut self, part: &[u8]) -> bool {
        self.has_fragment |= part.contains(&b'#');
        let ends = part.ends_with(b"\n");
        self.is_over |= ends;
        ends && self.has_fragment
    }
}

/// What follows the line of a request: heads, bodies, other requests.
#[derive(Debug, Default)]
struct Behind {
    /// There was a `#` in the line that is being read.
    is_looking: bool,
    /// In the word before the last one.
    target_has_fragment: bool,
    word_has_fragment: bool,
    /// The last word, cut where it is longer than a version.
    word: Vec<u8>,
}

impl Behind {
    /// True if a line ends like that of a request with a fragment.
    fn read(&mut self, bytes: &[u8]) -> bool {
        let mut has_fragment = false;
        let mut left = bytes;
        while self.is_looking || left.contains(&b'#') {
            self.is_looking = true;
            let Some(end) = left.iter().position(|byte| *byte == b'\n') else {
                self.part(left);
                break;
            };
            self.part(&left[..end]);
            let version = self.word.trim_ascii_end();
            let is_request = matches!(version, b"HTTP/1.0" | b"HTTP/1.1");
            has_fragment |= is_request && self.target_has_fragment;
            *self = Self::default();
            left = &left[end + 1..];
        }
        has_fragment
    }

    fn part(&mut self, part: &[u8]) {
        for byte in part {
            match byte {
                b' ' => {
                    self.target_has_fragment = std::mem::take(&mut self.word_has_fragment);
                    self.word.clear();
                }
                byte => {
                    self.word_has_fragment |= *byte == b'#';
                    if self.word.len() < 10 {
                        self.word.push(*byte);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fragment_is_seen_in_the_line_of_a_request_alone_however_it_comes() {
        let long = format!("POST /a#{} HTTP/1.1\r\n", "x".repeat(20_000));
        let seen = |own, behind| Seen { own, behind };
        let (own, behind, none) = (seen(true, false), seen(false, true), Seen::default());
        for (text, expected) in [
            ("POST /a#b HTTP/1.1\r\n", own),
            ("POST /a# HTTP/1.0\n", own),
            ("\r\n\r\nPOST /a#b#c?d HTTP/1.1\r\nX: y\r\n\r\n", own),
            (&long, own),
            (
                "POST /a#b HTTP/1.1\r\n\r\nPOST /a#b HTTP/1.1\r\n",
                Seen {
                    own: true,
                    behind: true,
                },
            ),
            ("POST /a#b HTTP/1.1", none), // hyper has no request either
            (
                "POST /a HTTP/1.1\r\nX: #\r\n\r\n{\"x\": \"# HTTP/1.1\"}\n",
                none,
            ),
            (
                "POST /a HTTP/1.1\r\n\r\n{\"#\": 1}POST /a HTTP/1.1\r\n",
                none,
            ),
            ("POST /a HTTP/1.1\r\n\r\n{}POST /a#b HTTP/1.1\r\n", behind),
            ("POST /a HTTP/1.1\r\n\r\na: bPOST /a#b HTTP/1.1\n", behind),
            (
                "POST /a HTTP/1.1\r\nX: #\r\n\r\n{}POST /a HTTP/1.1\r\n\r\nGET /# HTTP/1.0\n",
                behind,
            ),
        ] {
            let bytes = text.as_bytes();
            let places = (0..bytes.len()).step_by(1 + bytes.len() / 100);
            for (first, second) in places
                .clone()
                .flat_map(|a| places.clone().map(move |b| (a, b)))
            {
                if first > second {
                    continue;
                }
                let mut lines = Lines::default();
                let parts = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                let seen = parts.map(|part| lines.read(part));
                let seen = Seen {
                    own: seen.iter().any(|seen| seen.own),
                    behind: seen.iter().any(|seen| seen.behind),
                };
                assert_eq!(seen, expected, "{text:?} {first} {second}");
            }
        }
    }
}
