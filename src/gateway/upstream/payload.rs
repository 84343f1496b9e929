//! The body of a request: has it left, or is it still with its call?

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use crate::gateway::brakes::{Brakes, Subject};

/// The body of a request, in the hands of its connection.
#[derive(Debug)]
pub(super) struct Payload {
    handle: Handle,
    length: u64,
    is_taken: bool,
}

/// The same body, in the hands of its call. Whoever takes it first has it: the connection, to send it, or the call, so that
/// no byte of it ever leaves. The connection gets it only while no brake is applied.
#[derive(Debug, Clone)]
pub(super) struct Handle(Arc<Cargo>);

#[derive(Debug)]
struct Cargo {
    body: Mutex<Option<Bytes>>,
    /// Whose it is; none if no brake stops it.
    subject: Option<(Brakes, Subject)>,
}

impl Handle {
    /// For the connection. What it takes leaves with the same step of the connection.
    fn take(&self) -> Option<Bytes> {
        let subject = self.0.subject.as_ref();
        let is_stopped = subject.is_some_and(|(brakes, subject)| brakes.check(subject).is_err());
        if is_stopped { None } else { self.body().take() }
    }

    /// True if nothing of it has left, nor will.
    pub(super) fn take_back(&self) -> bool {
        self.body().take().is_some()
    }

    /// Waits until a brake stops it before it has left; for ever if that does not happen.
    pub(super) async fn stopped(&self) {
        if let Some((brakes, subject)) = &self.0.subject {
            brakes.applied_to(subject).await;
            if self.take_back() {
                return;
            }
        }
        pending::<()>().await;
    }

    fn body(&self) -> MutexGuard<'_, Option<Bytes>> {
        self.0.body.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Payload {
    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Payload {
    pub(super) fn new(body: Bytes, subject: Option<(Brakes, Subject)>) -> Self {
        Self {
            length: body.len() as u64,
            handle: Handle(Arc::new(Cargo {
                body: Mutex::new(Some(body)),
                subject,
            })),
            is_taken: false,
        }
    }
}

impl HttpBody for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.is_taken {
            return Poll::Ready(None);
        }
        self.is_taken = true;
        let body = self.handle.take();
        let called_off = || io::Error::other("the call was given up");
        Poll::Ready(Some(body.map(Frame::data).ok_or_else(called_off)))
    }

    fn is_end_stream(&self) -> bool {
        self.is_taken
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(if self.is_taken { 0 } else { self.length })
    }
}
