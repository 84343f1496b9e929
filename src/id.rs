//! How is one thing told from all others? By a beginning that no other process has, and a count; a
//! request by what its caller calls it, if it does.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::header::HeaderValue;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Where ids come from.
#[derive(Debug)]
pub struct Ids {
    process: [u8; 16],
    next: AtomicU64,
}

impl Default for Ids {
    fn default() -> Self {
        let process = RandomState::new().hash_one(0);
        let digit = |place| DIGITS[(process >> (place * 4) & 0xf) as usize];
        Self {
            process: std::array::from_fn(digit),
            next: AtomicU64::new(1),
        }
    }
}

impl Ids {
    /// One that nothing has yet.
    pub fn next(&self) -> Id {
        Id {
            process: self.process,
            number: self.next.fetch_add(1, Ordering::Relaxed),
        }
    }
}

/// An id. It is small and on its own, so that having it touches no other memory; its text is made
/// when somebody wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id {
    process: [u8; 16],
    number: u64,
}

impl Id {
    /// As text: sixteen hexadecimal digits, a hyphen, and the number's.
    pub fn text(self) -> String {
        let text = std::str::from_utf8(self.write(&mut [0; 33])).map(str::to_owned);
        text.expect("digits and a hyphen are ASCII")
    }

    /// The same as the value of a header.
    pub fn header(self) -> HeaderValue {
        let text = HeaderValue::from_bytes(self.write(&mut [0; 33]));
        text.expect("digits and a hyphen are visible ASCII")
    }

    fn write(self, room: &mut [u8; 33]) -> &[u8] {
        let (process, number) = room.split_at_mut(16);
        process.copy_from_slice(&self.process);
        number[0] = b'-';
        let digits = self.number.max(1).ilog2() as usize / 4 + 1;
        for (place, digit) in number[1..=digits].iter_mut().rev().enumerate() {
            *digit = DIGITS[(self.number >> (place * 4) & 0xf) as usize];
        }
        &room[..=16 + digits]
    }
}

/// What a request is called in its answer and in all that is written of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The caller's own, if it is one that may stand in logs and headers.
    pub fn of(value: &HeaderValue) -> Option<Self> {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
        let id = value.as_bytes();
        let is_id = (1..=64).contains(&id.len()) && id.iter().all(is_plain);
        // A copy: a command that goes on alone would keep the buffer that the head was read into.
        is_id.then(|| Self(HeaderValue::from_bytes(id).expect("it is plain ASCII")))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().expect("it is plain ASCII")
    }

    /// The same as the value of a header.
    pub fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl From<Id> for RequestId {
    fn from(id: Id) -> Self {
        Self(id.header())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_its_process_and_its_number_in_hexadecimal() {
        for number in [0, 1, 0xf, 0x10, 0xfe_dcba, u64::MAX] {
            let process = *b"00c0ffee12345678";
            let id = Id { process, number };
            assert_eq!(id.text(), format!("00c0ffee12345678-{number:x}"));
            assert_eq!(id.header(), id.text());
        }
    }

    #[test]
    fn no_two_ids_are_the_same() {
        let (ids, of_another_process) = (Ids::default(), Ids::default());
        let (first, second) = (ids.next(), ids.next());
        assert_ne!(first, second);
        assert_ne!(first, of_another_process.next());
        assert!(first.text().len() == 18 && first.text() < second.text());
    }

    #[test]
    fn a_request_id_is_kept_if_it_is_short_and_plain() {
        let read = |id: &str| RequestId::of(&HeaderValue::from_str(id).unwrap());
        assert_eq!(read("a-B_9.z").unwrap().as_str(), "a-B_9.z");
        assert!(read(&"x".repeat(64)).is_some());
        for id in ["", "a b", "a\"b", "ü", &"x".repeat(65)] {
            assert_eq!(read(id), None, "{id:?}");
        }
    }
}
