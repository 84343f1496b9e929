//! What of an answer is kept, to be given again?

use std::borrow::Cow;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use crate::gateway::vendor::upstream::Answer;
use crate::state;

/// An answer that is given again.
#[derive(Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its status.
    pub status: StatusCode,
    /// The headers that are passed on.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// The envelope's `code`.
    pub vendor_code: Option<Cow<'static, str>>,
}

impl Kept {
    /// Copies of their own: as they came, body and headers would keep the connection's whole read
    /// buffer in memory.
    pub(super) fn of(answer: &Answer) -> Self {
        let copy = |(name, value): (&HeaderName, &HeaderValue)| {
            Some((
                name.clone(),
                HeaderValue::from_bytes(value.as_bytes()).ok()?,
            ))
        };
        Self {
            status: answer.status,
            headers: answer.headers.iter().filter_map(copy).collect(),
            body: Bytes::copy_from_slice(&answer.body),
            vendor_code: answer.vendor_code.clone(),
        }
    }

    /// What it takes of the room for answers.
    pub(super) fn size(&self) -> u64 {
        let headers: usize = self.headers.values().map(HeaderValue::len).sum();
        (headers + self.body.len()) as u64
    }

    pub(super) fn save(&self) -> state::Answer {
        let mut headers = Vec::new();
        for (name, value) in &self.headers {
            headers.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\n"].concat());
        }
        state::Answer {
            status: self.status.as_u16(),
            vendor_code: self.vendor_code.as_deref().unwrap_or_default().to_owned(),
            headers,
            body: self.body.clone(),
        }
    }

    /// None for what [`save`](Self::save) has not written.
    pub(super) fn load(saved: state::Answer) -> Option<Self> {
        let mut headers = HeaderMap::new();
        let lines = saved.headers.split(|byte| *byte == b'\n');
        for line in lines.filter(|line| !line.is_empty()) {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let name = HeaderName::from_bytes(&line[..colon]).ok()?;
            let value = HeaderValue::from_bytes(line.get(colon + 2..)?).ok()?;
            headers.insert(name, value);
        }
        Some(Self {
            status: StatusCode::from_u16(saved.status).ok()?,
            headers,
            body: saved.body,
            vendor_code: (!saved.vendor_code.is_empty()).then(|| saved.vendor_code.into()),
        })
    }
}

/// An answer for tests, whose headers and body are hard to keep: a value with a colon, one that is
/// no text, an empty line.
#[cfg(test)]
pub(super) fn answer(status: u16) -> Answer {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("text/plain; a: b"));
    headers.insert("retry-after", HeaderValue::from_bytes(b"\xe4").unwrap());
    Answer {
        status: StatusCode::from_u16(status).unwrap(),
        headers,
        redirect_host: None,
        date: None,
        body: Bytes::from_static(b"line 1\n\nline 3"),
        rest: None,
        is_framed: true,
        outcome: crate::words::Outcome::Success,
        is_envelope: true,
        is_readable: true,
        vendor_code: Some("0000".into()),
        has_unknown_code: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_loaded_as_it_was_saved() {
        let kept = Kept::of(&answer(207));
        assert_eq!(Kept::load(kept.save()).unwrap(), kept);
        let mut damaged = kept.save();
        damaged.headers = b"no header".to_vec();
        assert_eq!(Kept::load(damaged), None);
    }
}
