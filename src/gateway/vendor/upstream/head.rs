//! The head of an answer by HTTP/1.1: which of its odd lines are forgiven, and which end the
//! connection?
//!
//! One space before a colon makes hyper's parser refuse a whole answer, and its switch for invalid
//! lines drops them unsaid, those too that tell where the body ends. So each head is looked at
//! before hyper sees it. A head that parses goes on as it came. In another one the lines that
//! nobody needs are repaired or left out (RFC 9112, sections 5.1 and 5.2). Those that frame the
//! body are never repaired: where two could read another end of the body, the next answer would be
//! whatever the vendor's caller has put there.
//!
//! Nor is anything taken for an answer that came before its request.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use httparse::{Header, ParserConfig, Response, Status};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::chunks::ChunkedBody;
use super::malformed::Malformed;

/// Of the heads of one answer together, those of interim responses included.
const MOST_BYTES: usize = 64 << 10;
/// As hyper takes them.
const MOST_LINES: usize = 100;

/// They tell where the body ends and what its bytes are.
const FRAMING: [&str; 3] = ["content-length", "transfer-encoding", "content-encoding"];
/// What the gateway reads besides. Of a head with too many lines only these are left.
const USED: [&str; 7] = [
    "connection",
    "content-language",
    "content-type",
    "date",
    "location",
    "retry-after",
    "www-authenticate",
];

/// Why no byte of a request was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Spoilt {
    #[error("bytes had come that nobody asked for")]
    Unasked,
    #[error("it was closed while it was idle")]
    Closed,
    #[error("an answer on it had told the length of its body in two ways")]
    Ambiguous,
}

/// A stream whose socket can be looked at.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Has nothing come that is still unread? Asked right before the first byte of a request, as
    /// the runtime may not have noticed yet what the kernel has.
    fn check_silent(&mut self, cx: &mut Context<'_>, is_first: bool) -> Result<(), Spoilt>;
}

/// Says to the stream that the bytes written next begin a request. The bytes do not say so: they
/// may be the end of a request that was answered before all of it had left.
#[derive(Debug, Clone, Default)]
pub(super) struct Turn(Arc<AtomicBool>);

impl Turn {
    pub(super) fn begins(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn has_begun(&self) -> bool {
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Acquire)
    }
}

/// A stream of which hyper reads clean heads.
#[derive(Debug)]
pub(super) struct Heads<S> {
    stream: S,
    turn: Turn,
    is_first: bool,
    /// Has a request begun whose answer's head has not come?
    awaits: bool,
    /// While a head is awaited, what there is of it; then what hyper has not read yet.
    held: BytesMut,
    /// So many bytes of `held` have no end of the head among them.
    searched: usize,
    /// Bytes of the interim responses to this request.
    interim: usize,
    /// The body, if it is chunked.
    chunks: Option<ChunkedBody>,
    /// Has an answer come that had a `Content-Length` too? It is read as RFC 9112, section 6.3
    /// says, and nothing after it.
    is_ambiguous: bool,
}

impl<S: Wire> Heads<S> {
    pub(super) fn new(stream: S, turn: Turn) -> Self {
        Self {
            stream,
            turn,
            is_first: true,
            awaits: false,
            held: BytesMut::new(),
            searched: 0,
            interim: 0,
            chunks: None,
            is_ambiguous: false,
        }
    }

    /// Looks, before the first bytes of a request are written, whether the connection may carry it.
    /// (Each write comes by here; the flag makes all others cheap.)
    fn writes(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.turn.has_begun() {
            return Ok(());
        }
        let is_usable = if self.is_ambiguous {
            Err(Spoilt::Ambiguous)
        } else if self.held.is_empty() {
            self.stream.check_silent(cx, self.is_first)
        } else {
            Err(Spoilt::Unasked)
        };
        is_usable.map_err(io::Error::other)?;
        (self.is_first, self.awaits) = (false, true);
        (self.searched, self.interim, self.chunks) = (0, 0, None);
        Ok(())
    }

    /// Reads until the head is there: mostly in `buffer`, as it came, else in `held`, where it is
    /// made clean. In neither, if the stream has ended.
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.awaits {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
            let come = &buffer.filled()[before..];
            if come.is_empty() {
                self.held.clear(); // hyper tells of an answer that broke off
                return Poll::Ready(Ok(()));
            }
            // Mostly the head has come at once, and parses: then hyper reads it where it is.
            if self.held.is_empty()
                && let Ok(Some(HeadKind::Final(framing))) = parse(come)
                && !framing.has_idle_coding
            {
                let length = framing.head;
                self.awaits = false;
                self.is_ambiguous = framing.is_ambiguous;
                if framing.is_chunked {
                    self.chunks = Some(ChunkedBody::new());
                    self.leave_out_trailers(buffer, before + length)?;
                }
                return Poll::Ready(Ok(()));
            }
            // hyper must not see a head in parts, as it may have to be another one.
            self.held.extend_from_slice(come);
            buffer.set_filled(before);
            self.settle()?;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes interim heads out of `held`, and makes the final one clean, as far as they have come.
    fn settle(&mut self) -> Result<(), Malformed> {
        while self.awaits {
            while let Some(empty_line) = empty_line(&self.held) {
                self.interim += empty_line; // they are endless too
                self.held.advance(empty_line);
            }
            check_beginning(&self.held)?;
            let end = end_of_head(&self.held, self.searched);
            if self.interim + end.unwrap_or(self.held.len()) > MOST_BYTES {
                return Err(Malformed::TooLarge);
            }
            let Some(end) = end else {
                self.searched = self.held.len();
                return Ok(());
            };
            // What follows is a body, or after an interim head the next head. No repair may touch
            // it.
            self.searched = 0;
            let rest = self.held.split_off(end);
            let mut kind = match parse(&self.held) {
                Ok(Some(kind)) => kind,
                Ok(None) | Err(Malformed::Parser(_)) => self.replace_head(&mend(&self.held)?)?,
                Err(malformed) => return Err(malformed),
            };
            if let HeadKind::Final(framing) = kind
                && framing.has_idle_coding
            {
                kind = self.replace_head(&without_coding(&self.held))?;
            }
            match kind {
                HeadKind::Interim => {
                    self.interim += end;
                    self.held = rest;
                }
                HeadKind::Final(framing) => {
                    let mut chunks = framing.is_chunked.then(ChunkedBody::new);
                    if let Some(chunks) = &mut chunks {
                        let (length, instead) = chunks.take(&rest)?;
                        self.held.extend_from_slice(&rest[..length]);
                        self.held.extend_from_slice(&instead.unwrap_or_default());
                    } else {
                        self.held.unsplit(rest);
                    }
                    self.chunks = chunks;
                    self.is_ambiguous = framing.is_ambiguous;
                    self.awaits = false;
                }
            }
        }
        Ok(())
    }

    /// What is held is a head that reads so instead.
    fn replace_head(&mut self, head: &[u8]) -> Result<HeadKind, Malformed> {
        self.held.clear();
        self.held.extend_from_slice(head);
        parse(&self.held)?.ok_or(Malformed::Parser(httparse::Error::NewLine))
    }

    /// Reads the body.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
            if self.chunks.is_none() || buffer.filled().len() == before {
                return Poll::Ready(Ok(())); // or it has ended
            }
            self.leave_out_trailers(buffer, before)?;
            if buffer.filled().len() > before || !self.held.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Of a chunked body, which stands in `buffer` from this place on.
    fn leave_out_trailers(
        &mut self,
        buffer: &mut ReadBuf<'_>,
        from: usize,
    ) -> Result<(), Malformed> {
        if let Some(chunks) = &mut self.chunks {
            let (length, instead) = chunks.take(&buffer.filled()[from..])?;
            buffer.set_filled(from + length);
            self.held.extend_from_slice(&instead.unwrap_or_default());
        }
        Ok(())
    }
}

/// The length of an empty line that stands in front.
fn empty_line(head: &[u8]) -> Option<usize> {
    let mut lines = ["\n", "\r\n"].iter();
    let line = lines.find(|line| head.starts_with(line.as_bytes()))?;
    Some(line.len())
}

/// What has no version of HTTP in front is no answer, whatever comes more.
fn check_beginning(head: &[u8]) -> Result<(), Malformed> {
    const VERSION: &[u8] = b"HTTP/1.";
    if head == b"\r" {
        return Ok(()); // of an empty line
    }
    let common = head.len().min(VERSION.len());
    if head[..common] == VERSION[..common] {
        Ok(())
    } else {
        Err(Malformed::Parser(httparse::Error::Version))
    }
}

fn end_of_head(held: &[u8], searched: usize) -> Option<usize> {
    let ends = |at: &usize| {
        let so_far = &held[..*at];
        so_far.ends_with(b"\n\n") || so_far.ends_with(b"\n\r\n")
    };
    (searched + 1..=held.len()).find(ends)
}

/// A head that hyper takes too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeadKind {
    /// Another one follows (RFC 9110, section 15.2).
    Interim,
    Final(Framing),
}

/// Where a head and its body end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Framing {
    /// The length of the head.
    head: usize,
    is_chunked: bool,
    /// Is it chunked, and has a `Content-Length` too?
    is_ambiguous: bool,
    /// Is its coding `identity`, and has it a `Content-Length`?
    has_idle_coding: bool,
}

/// None if it is not whole.
fn parse(bytes: &[u8]) -> Result<Option<HeadKind>, Malformed> {
    let mut lines = [const { MaybeUninit::uninit() }; MOST_LINES];
    let mut head = Response::new(&mut []);
    let parsed = ParserConfig::default()
        .parse_response_with_uninit_headers(&mut head, bytes, &mut lines)
        .map_err(Malformed::Parser)?;
    let Status::Complete(length) = parsed else {
        return Ok(None);
    };
    if length > MOST_BYTES {
        return Err(Malformed::TooLarge);
    }
    let framing = check_framing(head.headers)?;
    Ok(Some(match head.code {
        Some(100 | 102..=199) => HeadKind::Interim,
        _ => HeadKind::Final(Framing {
            head: length,
            ..framing
        }),
    }))
}

/// RFC 9112, section 6: one way to read where the body ends. `identity` is of RFC 2616, section
/// 4.4, where it is no transfer coding: the body has its `Content-Length`, or else ends with the
/// connection.
fn check_framing(lines: &[Header<'_>]) -> Result<Framing, Malformed> {
    let (mut length, mut coding) = (None, None);
    for line in lines {
        match framing(line.name.as_bytes()) {
            Some("content-length") => {
                let malformed = Malformed::Framing("content-length");
                for number in line.value.split(|byte| *byte == b',') {
                    let number = digits(number.trim_ascii()).ok_or(malformed)?;
                    if *length.get_or_insert(number) != number {
                        return Err(malformed);
                    }
                }
            }
            Some("transfer-encoding") => {
                let is_known = ["chunked", "identity"]
                    .iter()
                    .any(|known| line.value.eq_ignore_ascii_case(known.as_bytes()));
                if !is_known || coding.replace(line.value).is_some() {
                    return Err(Malformed::Framing("transfer-encoding"));
                }
            }
            _ => {}
        }
    }
    let is_chunked = coding.is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked"));
    Ok(Framing {
        head: 0, // which its lines do not tell
        is_chunked,
        is_ambiguous: is_chunked && length.is_some(),
        has_idle_coding: coding.is_some() && !is_chunked && length.is_some(),
    })
}

/// A head that parses, without its `Transfer-Encoding`: with it hyper would read until the
/// connection ends.
fn without_coding(head: &[u8]) -> Vec<u8> {
    let is_coding = |line: &[u8]| {
        let mut parts = line.split(|byte| *byte == b':');
        let name = parts.next().unwrap_or_default();
        framing(name) == Some("transfer-encoding")
    };
    let lines = head.split_inclusive(|byte| *byte == b'\n');
    lines
        .filter(|line| !is_coding(line))
        .collect::<Vec<_>>()
        .concat()
}

fn digits(text: &[u8]) -> Option<u64> {
    let is_number = text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| is_number)?;
    text.parse().ok()
}

/// The framing header that this name is.
fn framing(name: &[u8]) -> Option<&'static str> {
    // All lines of all answers pass here, few of these lengths.
    if !(14..=17).contains(&name.len()) {
        return None;
    }
    let mut known = FRAMING.into_iter();
    known.find(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// The framing header that somebody may take this text for, with whatever is around it and in it.
fn resembles_framing(text: &[u8]) -> Option<&'static str> {
    let joined: Vec<u8> = text
        .iter()
        .copied()
        .filter(|byte| is_token(*byte))
        .collect();
    let mut words = text.split(|byte| !is_token(*byte));
    framing(&joined).or_else(|| words.find_map(framing))
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// What else is white space elsewhere, a form feed above all, is a control character here.
fn trim_blanks(text: &[u8]) -> &[u8] {
    let first = text.iter().position(|byte| !is_blank(*byte));
    let last = text.iter().rposition(|byte| !is_blank(*byte));
    first
        .zip(last)
        .map_or(&[], |(first, last)| &text[first..=last])
}

fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

/// Has this line a NUL, or a carriage return within it? Some take either for the end of a line (RFC
/// 9112, section 2.2; RFC 9110, section 5.5).
fn breaks(line: &[u8]) -> bool {
    line.iter().any(|byte| is_break(*byte))
}

fn is_break(byte: u8) -> bool {
    matches!(byte, b'\r' | 0)
}

/// Such a line is left out as a whole, unless who ends lines there could read framing in it, or the
/// end of the head.
fn check_broken(line: &[u8]) -> Result<(), Malformed> {
    if !breaks(line) {
        return Ok(());
    }
    if line.iter().all(|byte| is_break(*byte) || is_blank(*byte)) {
        return Err(Malformed::Byte);
    }
    let mut parts = line.split(|byte| *byte == b'\r');
    let in_name = parts.find_map(|part| {
        let name = part.split(|byte| *byte == b':').next();
        resembles_framing(name.unwrap_or_default())
    });
    in_name
        .or_else(|| resembles_framing(line))
        .map_or(Ok(()), |name| Err(Malformed::Framing(name)))
}

/// A field as it goes on: its folds joined.
struct MendedField<'a> {
    name: &'a [u8],
    value: Vec<u8>,
    /// Has it a byte that no line may have?
    is_broken: bool,
    /// What cannot be repaired does not go on, nor do its folds.
    goes_on: bool,
}

impl<'a> MendedField<'a> {
    fn of(line: &'a [u8]) -> Result<Self, Malformed> {
        let colon = line.iter().position(|byte| *byte == b':');
        let (raw_name, value) = line.split_at(colon.unwrap_or(line.len()));
        let name = trim_blanks(raw_name);
        if let Some(framing_name) = resembles_framing(raw_name)
            && (colon.is_none() || framing(raw_name).is_none())
        {
            return Err(Malformed::Framing(framing_name));
        }
        Ok(Self {
            name,
            value: trim_blanks(value.get(1..).unwrap_or_default()).to_vec(),
            is_broken: breaks(line),
            goes_on: colon.is_some() && !name.is_empty() && name.iter().all(|byte| is_token(*byte)),
        })
    }

    fn is(&self, names: &[&str]) -> bool {
        let mut names = names.iter();
        names.any(|name| self.name.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// RFC 9112, section 5.2: one space instead of the fold.
    fn unfold(&mut self, line: &[u8]) -> Result<(), Malformed> {
        if let Some(name) = framing(self.name) {
            return Err(Malformed::Framing(name));
        }
        self.is_broken |= breaks(line);
        let line = trim_blanks(line);
        if !self.value.is_empty() && !line.is_empty() {
            self.value.push(b' ');
        }
        self.value.extend_from_slice(line);
        Ok(())
    }

    /// RFC 9110, section 5.5: a value with other bytes than these is none.
    fn check_value(&mut self) -> Result<(), Malformed> {
        if !self.is_broken && !self.value.iter().any(|byte| is_control(*byte)) {
            return Ok(());
        }
        if let Some(name) = framing(self.name) {
            return Err(Malformed::Framing(name));
        }
        if self.is(&["connection"]) {
            self.value = b"close".to_vec(); // that it may have been
        } else {
            self.goes_on = false;
        }
        Ok(())
    }
}

/// The same head, without what is odd about it; or why it must not be read at all.
fn mend(head: &[u8]) -> Result<Vec<u8>, Malformed> {
    let lines = head.split(|byte| *byte == b'\n');
    let mut lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let status_line = lines.next().unwrap_or_default();
    let mut fields = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        check_broken(line)?;
        if !is_blank(line[0]) {
            fields.push(MendedField::of(line)?);
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':');
        if let Some(name) = colon.and_then(|colon| resembles_framing(&line[..colon])) {
            return Err(Malformed::Framing(name));
        }
        // Before the first field it is nobody's (RFC 9112, section 2.2).
        fields
            .last_mut()
            .map_or(Ok(()), |field| field.unfold(line))?;
    }
    for field in &mut fields {
        field.check_value()?;
    }
    fields.retain(|field| field.goes_on);
    if fields.len() > MOST_LINES {
        fields.retain(|field| framing(field.name).is_some() || field.is(&USED));
    }
    Ok(written(status_line, &fields))
}

fn written(status_line: &[u8], fields: &[MendedField<'_>]) -> Vec<u8> {
    let mut head = [status_line, b"\r\n"].concat();
    for MendedField { name, value, .. } in fields {
        for part in [name, &b": "[..], value, b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}

impl<S: Wire> AsyncRead for Heads<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if this.awaits {
            ready!(this.poll_head(cx, buffer))?;
        } else if this.held.is_empty() {
            ready!(this.poll_body(cx, buffer))?;
        }
        if !this.awaits && buffer.filled().len() == before {
            let length = this.held.len().min(buffer.remaining());
            buffer.put_slice(&this.held.split_to(length));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Wire> AsyncWrite for Heads<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.writes(cx)?;
        Pin::new(&mut this.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.writes(cx)?;
        Pin::new(&mut this.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &str = "HTTP/1.1 200 OK\r\n";

    /// What hyper reads of this head, and of the answer after it.
    fn read(head: &[u8], step: usize) -> Result<Vec<u8>, Malformed> {
        struct Silent;
        impl AsyncRead for Silent {
            fn poll_read(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
                _: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                Poll::Pending
            }
        }
        impl AsyncWrite for Silent {
            fn poll_write(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                Poll::Ready(Ok(bytes.len()))
            }
            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
        }
        impl Wire for Silent {
            fn check_silent(&mut self, _: &mut Context<'_>, _: bool) -> Result<(), Spoilt> {
                Ok(())
            }
        }
        let mut heads = Heads::new(Silent, Turn::default());
        heads.awaits = true;
        for part in head.chunks(step) {
            heads.held.extend_from_slice(part);
            heads.settle()?;
        }
        assert!(!heads.awaits, "{:?}", String::from_utf8_lossy(head));
        Ok(heads.held.to_vec())
    }

    fn mended(lines: &str) -> Result<String, Malformed> {
        let head = format!("{OK}{lines}\r\nbody");
        let results = [1, 7, 1000].map(|step| read(head.as_bytes(), step));
        let [result, ..] = &results;
        assert!(results.iter().all(|other| other == result), "{lines:?}");
        let text = String::from_utf8(result.clone()?).unwrap();
        let lines = text.strip_prefix(OK).unwrap().strip_suffix("\r\nbody");
        Ok(lines.expect("the body follows").to_owned())
    }

    #[test]
    fn what_nobody_needs_is_repaired_or_left_out() {
        let rows = [
            ("A: b\r\nC:d\r\n", "A: b\r\nC:d\r\n"),
            ("A : b\r\nC:d\r\n", "A: b\r\nC: d\r\n"),
            ("A\t: b\r\n", "A: b\r\n"),
            ("A: b\r\n c\r\n\td\r\n", "A: b c d\r\n"),
            ("A: b\r\n \r\n", "A: b\r\n"),
            ("A:\r\n b\r\n", "A: b\r\n"),
            ("A: b\u{1}c\r\nD: e\r\n", "D: e\r\n"),
            ("A: b\u{7f}\r\n", ""),
            ("A: \u{1}\r\n b\r\nC: d\r\n", "C: d\r\n"),
            ("A(b): c\r\n d\r\nE: f\r\n", "E: f\r\n"),
            ("A b: c\r\n", ""),
            ("no colon\r\nA: b\r\n", "A: b\r\n"),
            (": b\r\nA: b\r\n", "A: b\r\n"),
            (" A: b\r\nC: d\r\n", "C: d\r\n"),
            ("A : b\nC: d\r\n", "A: b\r\nC: d\r\n"),
            ("Connection: \u{1}\r\n", "Connection: close\r\n"),
            ("A: b\0c\r\nD: e\r\n", "D: e\r\n"),
            ("A: b\rC: d\r\nD: e\r\n", "D: e\r\n"),
            ("A: b\r\r\nD: e\r\n", "D: e\r\n"),
            ("A: b\0\r\n c\r\nD: e\r\n", "D: e\r\n"),
            ("A: b\r\n c\rF: g\r\nD: e\r\n", "D: e\r\n"),
            ("A\r: b\r\nA\0: b\r\n\rA: b\r\n", ""),
            ("Retry-After: 7\rB: c\r\n", ""),
            ("Connection: keep-alive\r\r\n", "Connection: close\r\n"),
            ("Connection: keep-alive\0\r\n", "Connection: close\r\n"),
            (
                "A : b\r\nContent-Length: 4\r\n",
                "A: b\r\nContent-Length: 4\r\n",
            ),
            (
                "Transfer-Encoding: identity\r\nContent-Length: 4\r\n",
                "Content-Length: 4\r\n",
            ),
            (
                "Content-Length: 4\r\nA: b\r\ntransfer-encoding:IDENTITY \r\n",
                "Content-Length: 4\r\nA: b\r\n",
            ),
            (
                "A : b\r\nTransfer-Encoding: identity\r\nContent-Length: 4\r\n",
                "A: b\r\nContent-Length: 4\r\n",
            ),
            (
                "Transfer-Encoding: identity\r\n",
                "Transfer-Encoding: identity\r\n",
            ),
            (
                "Expose: a,\r\n Content-Length\r\n",
                "Expose: a, Content-Length\r\n",
            ),
        ];
        for (lines, expected) in rows {
            assert_eq!(mended(lines).as_deref(), Ok(expected), "{lines:?}");
        }
    }

    #[test]
    fn of_too_many_lines_those_that_are_used_are_left() {
        let many = "A: b\r\n".repeat(150);
        let used = "Content-Type: x\r\nContent-Length: 4\r\nRetry-After: 7\r\n";
        assert_eq!(mended(&format!("{many}{used}")).as_deref(), Ok(used));
        assert_eq!(mended(&format!("{used}{many}")).as_deref(), Ok(used));
        let most = "A: b\r\n".repeat(MOST_LINES);
        assert_eq!(mended(&most), Ok(most));
    }

    #[test]
    fn what_frames_the_body_is_never_repaired() {
        for lines in [
            "Content-Length : 4",
            "Content-Length\t: 4",
            "Content-Length\u{1}: 4",
            "Content-\u{1}Length: 4",
            "Content-Length:\r\n 4",
            "Content-Length: 4\r\n ",
            "Content-Length: 4\u{1}",
            "Content-Length 4",
            "Content-Length",
            " Content-Length: 4",
            "A: b\r\n Content-Length: 4",
            "A Content-Length: 4",
            "Content-Length: ",
            "Content-Length: +4",
            "Content-Length: -4",
            "Content-Length: 0x4",
            "Content-Length: 4 4",
            "Content-Length: 4,",
            "Content-Length: 4, 5",
            "Content-Length: 4\r\nContent-Length: 5",
            "Content-Length: 18446744073709551616",
            "Content-Length: 4\r\nA : b\r\nContent-Length: 5",
            "Transfer-Encoding : chunked",
            "Transfer-Encoding:\r\n chunked",
            "Transfer-Encoding: \u{b}chunked",
            "Transfer-Encoding: \u{c}chunked",
            "Content-Length: \u{c}4",
            "Content-Length: 4\u{c}",
            "Content-Length\u{c}: 4",
            "Transfer-Encoding: ",
            "Transfer-Encoding: gzip",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\nContent-Length: 4",
            "Transfer-Encoding: identity\r\nA : b\r\nTransfer-Encoding: chunked\r\nContent-Length: 4",
            "Transfer-Encoding: identity\r\nContent-Length: 4\r\nContent-Length: 5",
            "Transfer-Encoding: identity\r\nContent-Length: x",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: chunked;a=b",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding\u{7f}: chunked",
            "Content-Length: 4\0",
            "Content-Length: 4\r",
            "Content-Length\r: 4",
            "Content-\0Length: 4",
            "Content-\rLength: 4",
            "\0Content-Length: 4",
            "Content-Length: 4\rA: b",
            "A: b\rContent-Length: 4",
            "A: b\0Content-Length: 4",
            "A: b\rContent-\0Length: 4",
            "A: b\rContent-Length\r",
            "A: b\r\n c\rContent-Length: 4",
            "Content-Length: 4\r\n \0x",
            "A: b\rTransfer-Encoding : chunked",
            "Transfer-Encoding: chun\0ked",
            "Transfer-Encoding: identity\rContent-Length: 4",
            "Content-Encoding: gzip\0",
            "Content-Encoding : gzip",
            "Content-Encoding: gz\r\n ip",
            "Content-Encoding: \u{1}gzip",
            "Content-Encoding(: gzip",
        ] {
            let malformed = mended(&format!("{lines}\r\n")).unwrap_err();
            assert!(
                matches!(malformed, Malformed::Framing(_)),
                "{lines:?}: {malformed}"
            );
        }
    }

    #[test]
    fn what_is_no_head_is_an_error_as_soon_as_it_is_seen() {
        use httparse::Error::{Status, Version};
        let large = format!("{OK}A: {}\r\n", "x".repeat(MOST_BYTES));
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n".repeat(2000);
        for (head, expected) in [
            ("<html>", Malformed::Parser(Version)),
            ("HTTP/2 200 OK\r\n\r\n", Malformed::Parser(Version)),
            ("HTTP/1.2 200 OK\r\n\r\n", Malformed::Parser(Version)),
            ("HTTP/1.1 20 OK\r\n\r\n", Malformed::Parser(Status)),
            ("HTTP/1.1 2000 OK\r\n\r\n", Malformed::Parser(Status)),
            ("HTTP/1.1 200 OK\rA: b\r\n\r\n", Malformed::Parser(Status)),
            ("HTTP/1.1 200 O\0K\r\n\r\n", Malformed::Parser(Status)),
            ("HTTP/1.1 200 OK\r\n\r\r\nA: b\r\n\r\n", Malformed::Byte),
            ("HTTP/1.1 200 OK\r\nA: b\r\n \0\r\n\r\n", Malformed::Byte),
            (&large, Malformed::TooLarge),
            (&interim, Malformed::TooLarge),
        ] {
            for step in [1, 1000] {
                assert_eq!(read(head.as_bytes(), step), Err(expected), "{head:?}");
            }
        }
    }

    #[test]
    fn interim_heads_are_passed_over_whatever_is_odd_about_them() {
        for interim in [
            "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nLink : </x>\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nA\r\n\r\n",
            "\r\n\n",
        ] {
            let head = format!("{interim}{OK}A: b\r\n\r\nbody");
            let expected = format!("{OK}A: b\r\n\r\nbody");
            for step in [1, 1000] {
                let read = read(head.as_bytes(), step).unwrap();
                assert_eq!(String::from_utf8(read).unwrap(), expected, "{interim:?}");
            }
        }
    }

    #[test]
    fn empty_lines_before_a_head_are_not_endless() {
        let lines = "\r\n".repeat(MOST_BYTES);
        for step in [1000, 1_000_000] {
            let told = read(lines.as_bytes(), step).unwrap_err();
            assert_eq!(told, Malformed::TooLarge);
        }
    }
}
