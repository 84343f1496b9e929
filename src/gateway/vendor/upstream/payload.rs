//! The body of a request: has it left, or is it still with its call?

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::{Mutex, MutexGuard};

use super::backpressure::Backpressure;
use crate::gateway::brakes::{Brakes, Subject};
use crate::gateway::progress::TakeBack;

/// The body of a request, in the hands of its connection.
#[derive(Debug)]
pub(super) struct Payload {
    handle: PayloadHandle,
    length: usize,
    given: Given,
    /// With HTTP/2: what it waits for before it is given.
    backpressure: Option<Backpressure>,
}

/// How much of a body its connection has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Given {
    Nothing,
    /// The first byte, by HTTP/2.
    Begun,
    All,
}

/// The same body, in the hands of its call. Connection and call race for it, and whoever takes it
/// first has it: the connection, to send it, or the call, so that it never leaves. The connection
/// gets it only while no brake is applied.
#[derive(Debug, Clone)]
pub(super) struct PayloadHandle(Arc<Cargo>);

#[derive(Debug)]
struct Cargo {
    body: Mutex<Option<Bytes>>,
    /// Whose it is; none if no brake stops it.
    subject: Option<(Brakes, Subject)>,
}

impl PayloadHandle {
    /// For the connection. What it takes leaves with the same step of the connection.
    fn take(&self) -> io::Result<Bytes> {
        self.check()?;
        self.body().take().ok_or_else(called_off)
    }

    /// For the connection: what can be sent, and is nothing without the rest.
    fn first_byte(&self) -> io::Result<Bytes> {
        self.check()?;
        self.body()
            .as_ref()
            .map(|body| body.slice(..1))
            .ok_or_else(called_off)
    }

    fn check(&self) -> io::Result<()> {
        let subject = self.0.subject.as_ref();
        let is_stopped = subject.is_some_and(|(brakes, subject)| brakes.check(subject).is_err());
        if is_stopped {
            Err(called_off())
        } else {
            Ok(())
        }
    }

    /// Waits until a brake stops it before it has left; for ever if that does not happen.
    pub(super) async fn stopped(&self) {
        if let Some((brakes, subject)) = &self.0.subject {
            brakes.applied_to(subject).await;
            if self.take_back() {
                return;
            }
            // It had left when the brake was applied, so its answer is waited for.
        }
        pending::<()>().await;
    }

    fn body(&self) -> MutexGuard<'_, Option<Bytes>> {
        self.0.body.lock()
    }
}

impl TakeBack for PayloadHandle {
    /// True if no more than a first byte of it has left, nor will.
    fn take_back(&self) -> bool {
        self.body().take().is_some()
    }
}

fn called_off() -> io::Error {
    io::Error::other("the call was given up")
}

impl Payload {
    pub(super) fn new(body: Bytes, subject: Option<(Brakes, Subject)>) -> Self {
        Self {
            length: body.len(),
            handle: PayloadHandle(Arc::new(Cargo {
                body: Mutex::new(Some(body)),
                subject,
            })),
            given: Given::Nothing,
            backpressure: None,
        }
    }

    pub(super) fn handle(&self) -> PayloadHandle {
        self.handle.clone()
    }

    /// It goes into a connection of HTTP/2.
    pub(super) fn waits_for(&mut self, backpressure: Backpressure) {
        self.backpressure = Some(backpressure);
    }

    /// hyper asks for a body before it looks whether the vendor's window has room for it, so the
    /// first byte goes alone: as long as that one waits for the window, the rest can still be taken
    /// back.
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let Some(backpressure) = &self.backpressure else {
            self.given = Given::All;
            return Poll::Ready(self.handle.take());
        };
        if self.given == Given::Nothing && self.length > 1 {
            self.given = Given::Begun;
            return Poll::Ready(self.handle.first_byte());
        }
        // The turn before the body: once taken, a body has to leave in this step of the connection.
        ready!(backpressure.poll_turn(cx));
        let is_begun = self.given == Given::Begun;
        self.given = Given::All;
        let body = self.handle.take();
        Poll::Ready(body.map(|body| body.slice(usize::from(is_begun)..)))
    }
}

impl HttpBody for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        let bytes = ready!(self.poll_bytes(cx));
        Poll::Ready(Some(bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.given == Given::All
    }

    fn size_hint(&self) -> SizeHint {
        let left = match self.given {
            Given::Nothing => self.length,
            Given::Begun => self.length - 1,
            Given::All => 0,
        };
        SizeHint::with_exact(left as u64)
    }
}
