//! Had the target of a request a fragment? None may have one (RFC 9112, section 3.2).
//!
//! hyper's URI leaves it out unsaid, so that `/a#b` would be asked as `/a`. So what comes is looked at before hyper reads it.
//! Where a `#` is in it, the lines of its requests are remembered until the requests are there. A line of a body is none of
//! these: in JSON no line can end like that of a request.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::http::request;
use hyper::{Method, Uri};

/// Stands among the extensions of a request whose target had a fragment.
#[derive(Debug, Clone, Copy)]
pub struct Fragment;

/// Of a longer line only so many last bytes are looked at.
const LONGEST_LINE: usize = 4096;

/// Lines whose requests are not there yet: further ones replace the first.
const MOST_LINES: usize = 64;

/// What was read of one connection. Cloning is cheap.
#[derive(Debug, Clone, Default)]
pub struct Targets(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    /// What has come of a line whose end has not. It may begin with the end of a body.
    begun: Vec<u8>,
    of_requests: VecDeque<Line>,
}

/// The line of a request.
#[derive(Debug)]
struct Line {
    /// What stands before the target: the method, and what is left of a body before it.
    before: Vec<u8>,
    /// As hyper reads it.
    target: Uri,
    has_fragment: bool,
}

impl Targets {
    /// These bytes have come.
    pub fn read(&self, bytes: &[u8]) {
        self.lines().read(bytes);
    }

    /// Marks a request whose target had a fragment.
    pub fn mark(&self, head: &mut request::Parts) {
        if self.lines().take(&head.method, &head.uri) {
            head.extensions.insert(Fragment);
        }
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn read(&mut self, mut bytes: &[u8]) {
        if !bytes.contains(&b'#') && !self.begun.contains(&b'#') {
            // As nearly always: of whole lines there is nothing to see.
            if let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') {
                self.begun.clear();
                bytes = &bytes[end + 1..];
            }
        }
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let last = part.len().saturating_sub(LONGEST_LINE);
            self.begun.extend_from_slice(&part[last..]);
            let too_many = self.begun.len().saturating_sub(LONGEST_LINE);
            self.begun.drain(..too_many);
            if part.ends_with(b"\n") {
                self.of_requests.extend(Line::read(&self.begun));
                self.begun.clear();
                if self.of_requests.len() > MOST_LINES {
                    self.of_requests.pop_front();
                }
            }
        }
    }

    /// Had this request a fragment? Requests are asked about in the order of their lines.
    fn take(&mut self, method: &Method, target: &Uri) -> bool {
        let is_it = |line: &Line| {
            line.before.ends_with(method.as_str().as_bytes()) && line.target == *target
        };
        let place = self.of_requests.iter().position(is_it);
        let line = place.and_then(|place| self.of_requests.drain(..=place).next_back());
        line.is_some_and(|line| line.has_fragment)
    }
}

impl Line {
    fn read(line: &[u8]) -> Option<Self> {
        let mut words = line.trim_ascii_end().rsplitn(3, |byte| *byte == b' ');
        let (version, target, before) = (words.next()?, words.next()?, words.next()?);
        if !matches!(version, b"HTTP/1.0" | b"HTTP/1.1") || is_field(before) {
            return None;
        }
        Some(Self {
            before: before.to_owned(),
            target: Uri::try_from(target).ok()?,
            has_fragment: target.contains(&b'#'),
        })
    }
}

/// Does a header's line begin like this?
fn is_field(line: &[u8]) -> bool {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let end = line.iter().position(|byte| !is_token(byte));
    end.is_some_and(|end| line[end] == b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragments(pieces: &[&[u8]], targets: &[&str]) -> Vec<bool> {
        let mut lines = Lines::default();
        for piece in pieces {
            lines.read(piece);
        }
        let take = |target: &&str| lines.take(&Method::POST, &target.parse::<Uri>().unwrap());
        targets.iter().map(take).collect()
    }

    #[test]
    fn a_fragment_is_seen_in_the_line_of_a_request_alone() {
        let rows: [(&str, bool); 12] = [
            ("POST /a#b HTTP/1.1\r\n", true),
            ("POST /a# HTTP/1.0\n", true),
            ("\r\nPOST /a#b#c?d HTTP/1.1\r\n", true),
            ("{\"x\": 1}POST /a#b HTTP/1.1\r\n", true),
            ("a=b&c: dPOST /a#b HTTP/1.1\r\n", true),
            ("POST /a HTTP/1.1\r\n", false),
            ("POST /b#b HTTP/1.1\r\n", false),
            ("GET /a#b HTTP/1.1\r\n", false),
            ("POST /a#b HTTP/1.1", false), // hyper has no line either
            ("POST /a#b\r\n", false),
            ("X-Y: POST /a#b HTTP/1.1\r\n", false),
            (
                "POST /a HTTP/1.1\r\nX: #\r\n\r\n{\"x\":\"POST /a#b HTTP/1.1\"}\n",
                false,
            ),
        ];
        for (text, expected) in rows {
            let whole = fragments(&[text.as_bytes()], &["/a"]);
            assert_eq!(whole, [expected], "{text:?}");
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(fragments(&bytes, &["/a"]), [expected], "{text:?}, by bytes");
        }
    }

    #[test]
    fn each_line_is_that_of_one_request_and_few_are_remembered() {
        let line: &[u8] = b"POST /a#b HTTP/1.1\r\n";
        let taken = fragments(&[line, line], &["/b", "/a", "/a", "/a"]);
        assert_eq!(taken, [false, true, true, false]);
        let both = b"POST /a HTTP/1.1\r\n\r\nPOST /a#b HTTP/1.1\r\n\r\nPOST /a HTTP/1.1\r\n";
        assert_eq!(
            fragments(&[both], &["/a", "/a", "/a"]),
            [false, true, false]
        );
        let many = vec![line; 2 * MOST_LINES];
        let taken = fragments(&many, &vec!["/a"; 2 * MOST_LINES]);
        assert_eq!(taken.iter().filter(|is| **is).count(), MOST_LINES);
        let long = vec![&b"x"[..]; 2 * LONGEST_LINE];
        assert_eq!(fragments(&[&long[..], &[line]].concat(), &["/a"]), [true]);
    }
}
