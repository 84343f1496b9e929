//! What is the body of a response, and how is a body read under a cap?

use std::any::Any;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::{Response, Version};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

/// The one body type of the responses downstream.
#[derive(Debug)]
pub enum Body {
    /// All of it, shared with the cache where it came from there.
    Full(Bytes),
    /// An answer larger than the gateway keeps, passed on while it comes.
    Passing(Box<Passing>),
}

/// The beginning of an answer, and the rest that is still on its way.
#[derive(Debug)]
pub struct Passing {
    first: Bytes,
    rest: Received,
    deadline: Pin<Box<Sleep>>,
    /// What the rest comes through (the permit of its connection), given back with the body.
    _held: Box<dyn Held>,
}

/// Anything that must live as long as a body.
pub trait Held: Any + Send + Sync {}

impl<T: Any + Send + Sync> Held for T {}

impl std::fmt::Debug for dyn Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Held")
    }
}

impl Body {
    /// `first`, then `rest` as it comes, until `deadline`; `held` is dropped with the body.
    pub fn passing(first: Bytes, rest: Received, deadline: Instant, held: impl Held) -> Self {
        Self::Passing(Box::new(Passing {
            first,
            rest,
            deadline: Box::pin(sleep_until(deadline)),
            _held: Box::new(held),
        }))
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Self::Full(bytes.into())
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Passing(passing) => {
                if !passing.first.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut passing.first)))));
                }
                if passing.deadline.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
                }
                Pin::new(&mut passing.rest).poll_frame(cx)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_empty(),
            Self::Passing(passing) => passing.first.is_empty() && passing.rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            // The rest's own hint counts only what has not been read of it.
            Self::Passing(passing) => match passing.rest.size_hint().exact() {
                Some(rest) => SizeHint::with_exact(passing.first.len() as u64 + rest),
                None => SizeHint::default(),
            },
        }
    }
}

/// A body that a peer sends: over a connection, or a caller in this process. It ends where the peer
/// has ended it, else with an error.
#[derive(Debug)]
pub struct Received<B = Incoming> {
    body: B,
    version: Version,
    bytes: u64,
    state: ReadState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadState {
    /// Nobody has asked for it: an `Expect: 100-continue` is not answered.
    Unasked,
    Asked,
    Ended,
    Broken,
}

impl<B> Received<B> {
    /// That of a request: they come by HTTP/1.
    pub fn of_request(body: B) -> Self {
        Self::new(body, Version::HTTP_11)
    }

    /// That of an answer, taken out of it.
    pub fn of_answer(answer: Response<B>) -> (hyper::http::response::Parts, Self) {
        let (head, body) = answer.into_parts();
        let version = head.version;
        (head, Self::new(body, version))
    }

    fn new(body: B, version: Version) -> Self {
        Self {
            body,
            version,
            bytes: 0,
            state: ReadState::Unasked,
        }
    }

    /// How many bytes of it have been read.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Has anybody begun to read it?
    pub fn is_asked_for(&self) -> bool {
        self.state != ReadState::Unasked
    }

    /// Has the peer gone in the midst of it, or broken the framing?
    pub fn is_broken(&self) -> bool {
        self.state == ReadState::Broken
    }
}

impl<B> HttpBody for Received<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.state == ReadState::Unasked {
            self.state = ReadState::Asked;
        }
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            // A stream that is reset with NO_ERROR has ended for hyper, wherever that was.
            None if self.version == Version::HTTP_2 && !self.body.is_end_stream() => {
                Some(Err(io::ErrorKind::UnexpectedEof.into()))
            }
            frame => frame.map(|frame| frame.map_err(io::Error::other)),
        };
        match &frame {
            Some(Ok(frame)) => self.bytes += frame.data_ref().map_or(0, Bytes::len) as u64,
            Some(Err(_)) => self.state = ReadState::Broken,
            None if self.is_broken() => {}
            None => self.state = ReadState::Ended,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.state == ReadState::Ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Why a body could not be read whole.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// More bytes than the cap allows, by its declared length or as they came.
    #[error("larger than the cap")]
    TooLarge,
    /// No byte came for the time allowed.
    #[error("no progress")]
    Stalled,
    /// The peer went, or broke the framing.
    #[error(transparent)]
    Broken(#[from] io::Error),
}

/// What [`read_prefix`] has read.
#[derive(Debug)]
pub enum Prefix {
    /// The whole body.
    Whole(Bytes),
    /// More than the cap; the rest has not been read.
    Longer(Bytes),
}

/// Reads a whole body of at most `cap` bytes; `patience` is how long the peer may stay without
/// progress.
pub async fn read_whole<B>(
    body: &mut Received<B>,
    cap: usize,
    patience: Duration,
) -> Result<Bytes, ReadError>
where
    Received<B>: HttpBody<Data = Bytes, Error = io::Error> + Unpin,
{
    if HttpBody::size_hint(body).lower() > cap as u64 {
        return Err(ReadError::TooLarge); // before the first poll: `Expect: 100-continue` is not answered
    }
    match read_prefix(body, cap, patience).await? {
        Prefix::Whole(bytes) => Ok(bytes),
        Prefix::Longer(_) => Err(ReadError::TooLarge),
    }
}

/// Reads until the end or until more than `cap` bytes have come.
pub async fn read_prefix<B>(
    body: &mut Received<B>,
    cap: usize,
    patience: Duration,
) -> Result<Prefix, ReadError>
where
    Received<B>: HttpBody<Data = Bytes, Error = io::Error> + Unpin,
{
    let mut read = Chunks::default();
    while !body.is_end_stream() {
        // Mostly all of it came with its head: a timer is set only where there is something to wait
        // for.
        let come = Pin::new(&mut *body).poll_frame(&mut Context::from_waker(Waker::noop()));
        let frame = match come {
            Poll::Ready(frame) => frame,
            Poll::Pending => timeout(patience, body.frame())
                .await
                .map_err(|_| ReadError::Stalled)?,
        };
        let Some(frame) = frame else { break };
        if read.push(frame?, cap) {
            return Ok(Prefix::Longer(read.join()));
        }
    }
    Ok(Prefix::Whole(read.join()))
}

/// The chunks of a body; a single one, the usual case, is never copied.
#[derive(Default)]
struct Chunks {
    only: Bytes,
    joined: BytesMut,
}

impl Chunks {
    /// True once more than `cap` bytes have come.
    fn push(&mut self, frame: Frame<Bytes>, cap: usize) -> bool {
        let Ok(data) = frame.into_data() else {
            return false; // trailers: nothing of ours is in them
        };
        if self.joined.is_empty() && self.only.is_empty() {
            self.only = data;
        } else {
            self.joined
                .extend_from_slice(&std::mem::take(&mut self.only));
            self.joined.extend_from_slice(&data);
        }
        self.only.len() + self.joined.len() > cap
    }

    fn join(self) -> Bytes {
        if self.joined.is_empty() {
            self.only
        } else {
            self.joined.freeze()
        }
    }
}
