//! Where does the last chunk of a body end? What follows it are trailers (RFC 9112, section 7.1.2),
//! and nobody needs one.
//!
//! hyper refuses a whole body for one odd line among them, so they are left out. Nothing else is
//! judged here: chunks that are none go on as they came, and hyper says so.

use bytes::BytesMut;

use super::malformed::Malformed;

/// The trailers of one body together.
const MOST_BYTES: usize = 64 << 10;

/// A chunked body on its way.
#[derive(Debug)]
pub(super) struct ChunkedBody {
    at: ChunkPlace,
    /// What there is of the trailers.
    trailers: BytesMut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChunkPlace {
    /// In front of a chunk.
    Start,
    /// Within its size, which is this so far.
    Size(u64),
    /// Behind the digits of that size.
    Line(u64),
    /// So many bytes of a chunk are left.
    Data(u64),
    /// Behind a chunk.
    DataEnd,
    /// Behind the last chunk.
    Trailers,
    /// Behind all of it; or what came is no chunk.
    Nowhere,
}

impl ChunkedBody {
    pub(super) fn new() -> Self {
        Self {
            at: ChunkPlace::Start,
            trailers: BytesMut::new(),
        }
    }

    /// Takes the bytes that have come next. So many of them go on as they are; the second value, if
    /// there is one, goes on instead of the rest.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(usize, Option<BytesMut>), Malformed> {
        let end = self.end_of_last_chunk(bytes);
        if self.at != ChunkPlace::Trailers {
            return Ok((bytes.len(), None));
        }
        if self.trailers.is_empty() && bytes[end..].starts_with(b"\r\n") {
            self.at = ChunkPlace::Nowhere;
            return Ok((bytes.len(), None)); // none, as nearly always
        }
        let searched = self.trailers.len();
        self.trailers.extend_from_slice(&bytes[end..]);
        let Some(after) = end_of_trailers(&self.trailers, searched) else {
            return if self.trailers.len() > MOST_BYTES {
                Err(Malformed::TooLarge)
            } else {
                Ok((end, None))
            };
        };
        self.at = ChunkPlace::Nowhere;
        let mut instead = BytesMut::from(&b"\r\n"[..]);
        instead.extend_from_slice(&self.trailers[after..]);
        Ok((end, Some(instead)))
    }

    /// How many of these bytes belong to chunks, if the last one is among them.
    fn end_of_last_chunk(&mut self, bytes: &[u8]) -> usize {
        let mut place = 0;
        while let Some(byte) = bytes.get(place) {
            self.at = match (self.at, byte) {
                (ChunkPlace::Data(left), _) => {
                    let here = left.min((bytes.len() - place) as u64);
                    place += usize::try_from(here).expect("no more than there are");
                    self.at = if here == left {
                        ChunkPlace::DataEnd
                    } else {
                        ChunkPlace::Data(left - here)
                    };
                    continue;
                }
                (ChunkPlace::Trailers | ChunkPlace::Nowhere, _) => break,
                (ChunkPlace::Size(0) | ChunkPlace::Line(0), b'\n') => ChunkPlace::Trailers,
                (ChunkPlace::Size(size) | ChunkPlace::Line(size), b'\n') => ChunkPlace::Data(size),
                (ChunkPlace::Start, _) => {
                    digit(*byte).map_or(ChunkPlace::Nowhere, ChunkPlace::Size)
                }
                (ChunkPlace::Size(size), _) => match digit(*byte) {
                    Some(digit) if size >> 60 == 0 => ChunkPlace::Size((size << 4) | digit),
                    Some(_) => ChunkPlace::Nowhere,
                    None => ChunkPlace::Line(size),
                },
                (ChunkPlace::Line(size), _) => ChunkPlace::Line(size),
                (ChunkPlace::DataEnd, b'\r') => ChunkPlace::DataEnd,
                (ChunkPlace::DataEnd, b'\n') => ChunkPlace::Start,
                (ChunkPlace::DataEnd, _) => ChunkPlace::Nowhere,
            };
            place += 1;
        }
        place
    }
}

fn digit(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

/// Behind the empty line that ends them.
fn end_of_trailers(trailers: &[u8], searched: usize) -> Option<usize> {
    let ends = |at: &usize| match &trailers[..*at] {
        b"\n" | b"\r\n" => true,
        so_far => so_far.ends_with(b"\n\n") || so_far.ends_with(b"\n\r\n"),
    };
    (searched + 1..=trailers.len()).find(ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes on of these bytes, which come in parts of this size.
    fn passed(bytes: &str, step: usize) -> Result<String, Malformed> {
        let mut chunks = ChunkedBody::new();
        let mut passed = Vec::new();
        for part in bytes.as_bytes().chunks(step) {
            let (length, instead) = chunks.take(part)?;
            passed.extend_from_slice(&part[..length]);
            passed.extend_from_slice(&instead.unwrap_or_default());
        }
        Ok(String::from_utf8(passed).unwrap())
    }

    #[test]
    fn trailers_are_left_out_and_nothing_else() {
        let rows = [
            ("2\r\n{}\r\n0\r\n\r\n", "2\r\n{}\r\n0\r\n\r\n"),
            ("0\r\n\r\n", "0\r\n\r\n"),
            ("00;a=b\r\n\r\n", "00;a=b\r\n\r\n"),
            ("0\r\nA: b\r\n\r\n", "0\r\n\r\n"),
            ("0\r\nA : b\r\n c\r\nnonsense\r\n\r\n", "0\r\n\r\n"),
            ("0\r\nA: b\n\nmore", "0\r\n\r\nmore"),
            (
                "4;x\r\n\r\n0\r\r\n0\r\nA: b\r\n\r\n",
                "4;x\r\n\r\n0\r\r\n0\r\n\r\n",
            ),
            (
                "A\r\n0\r\n\r\nA: b\n\r\n0\r\nC\r\n\r\nmore",
                "A\r\n0\r\n\r\nA: b\n\r\n0\r\n\r\nmore",
            ),
            ("x\r\n{}\r\n0\r\n\r\n", "x\r\n{}\r\n0\r\n\r\n"),
            (
                "2\r\n{}}\r\n0\r\nA: b\r\n\r\n",
                "2\r\n{}}\r\n0\r\nA: b\r\n\r\n",
            ),
            (
                "10000000000000000\r\nA: b\r\n\r\n",
                "10000000000000000\r\nA: b\r\n\r\n",
            ),
        ];
        for (bytes, expected) in rows {
            for step in [1, 3, 1000] {
                assert_eq!(passed(bytes, step).as_deref(), Ok(expected), "{bytes:?}");
            }
        }
        let endless = format!("0\r\n{}", "A: b\r\n".repeat(20_000));
        assert_eq!(passed(&endless, 1000), Err(Malformed::TooLarge));
    }
}
