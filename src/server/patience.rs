//! How long may a peer take? An I/O wrapper that keeps the times of a connection.
//!
//! hyper has one timer for the head of a request and none for a peer who does not read. Here the phases are told apart:
//! waiting for the first byte of a request, reading its head, answering it. The same place decides, when the server
//! drains, whether a connection is idle: it is if no byte of a next request has been read, so none that was read goes
//! unanswered.
//!
//! hyper does not read again after an answer if it was waiting for bytes already, so whatever ends the answering phase
//! wakes it: else neither the idle time nor the end of the server would ever be looked at.
//!
//! A peer reads as long as the kernel can send to it. That shows in what the kernel takes from us, as the listener lets
//! it take next to nothing that it cannot send yet.
//!
//! One timer serves a connection. It is set anew only when it fires too early, so a request costs no timer operation.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The times that a peer may take.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// From accept, or from the first byte of a later request, to the end of the head.
    pub header: Duration,
    /// Without progress while an answer is written: nothing more could be sent.
    pub write: Duration,
    /// Between an answer and the first byte of the next request.
    pub idle: Duration,
}

/// Is a request being answered? Set by the service, read by the connection's I/O.
#[derive(Debug, Clone, Default)]
pub struct Answering(Arc<Answers>);

#[derive(Debug, Default)]
struct Answers {
    is_on: AtomicBool,
    /// How many have ended: one may begin and end between two reads.
    ended: AtomicU64,
    /// Who reads, and waits for the answer to end.
    reader: Mutex<Option<Waker>>,
}

impl Answering {
    /// A head has been read.
    pub fn begin(&self) {
        self.0.is_on.store(true, Ordering::Release);
    }

    /// The body of the answer has been handed over to the last byte, or given up. It may still have to be written.
    pub fn end(&self) {
        self.0.ended.fetch_add(1, Ordering::AcqRel);
        self.0.is_on.store(false, Ordering::Release);
        self.wake_reader();
    }

    fn is_on(&self) -> bool {
        self.0.is_on.load(Ordering::Acquire)
    }

    fn ended(&self) -> u64 {
        self.0.ended.load(Ordering::Acquire)
    }

    fn wait_as_reader(&self, waker: &Waker) {
        *self.reader() = Some(waker.clone());
    }

    fn wake_reader(&self) {
        let reader = self.reader().take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn reader(&self) -> std::sync::MutexGuard<'_, Option<Waker>> {
        self.0.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A downstream connection whose peer is not waited for longer than [`Times`] say.
pub struct PatientStream {
    stream: TcpStream,
    times: Times,
    answering: Answering,
    answers_seen: u64,
    phase: Phase,
    /// When the peer was first found not to read.
    write_blocked_since: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    draining: Pin<Box<WaitForCancellationFutureOwned>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing of the first request has been read.
    Accepted { at: Instant },
    /// The head of a request is being read; since when, once there is more of it to wait for.
    Head { since: Option<Instant> },
    /// A request is being answered; its body has a time of its own, and so has the gateway.
    Answering,
    /// An answer has been written, nothing of the next request has been read.
    Idle { since: Instant },
}

impl PatientStream {
    /// Wraps an accepted connection. Once `drain` is cancelled the connection ends as soon as it is idle.
    pub fn new(
        stream: TcpStream,
        times: Times,
        answering: Answering,
        drain: &CancellationToken,
    ) -> Self {
        let at = Instant::now();
        Self {
            stream,
            times,
            answering,
            answers_seen: 0,
            phase: Phase::Accepted { at },
            write_blocked_since: None,
            timer: Box::pin(sleep_until(at + times.header)),
            draining: Box::pin(drain.clone().cancelled_owned()),
        }
    }

    /// The service knows when a request begins and ends being answered; the phase follows it. An answer has not ended
    /// while the peer has not taken it.
    fn follow_service(&mut self) {
        if self.answering.is_on() || self.write_blocked_since.is_some() {
            self.phase = Phase::Answering;
        } else if self.phase == Phase::Answering || self.answering.ended() != self.answers_seen {
            self.answers_seen = self.answering.ended();
            self.phase = Phase::Idle {
                since: Instant::now(),
            };
        }
    }

    fn bytes_read(&mut self) {
        self.phase = match self.phase {
            Phase::Accepted { at } => Phase::Head { since: Some(at) },
            Phase::Idle { .. } => Phase::Head { since: None },
            phase => phase,
        };
    }

    /// Ready once `deadline` has passed.
    fn poll_deadline(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        loop {
            if self.timer.deadline() > deadline {
                self.timer.as_mut().reset(deadline);
            }
            ready!(self.timer.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(deadline);
        }
    }

    fn poll_peer_reads(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            if self.write_blocked_since.take().is_some() {
                self.answering.wake_reader();
            }
            return written;
        }
        let since = *self.write_blocked_since.get_or_insert_with(Instant::now);
        ready!(self.poll_deadline(cx, since + self.times.write));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for PatientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.follow_service();
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(cx, buf) {
            if buf.filled().len() > before {
                this.bytes_read();
            }
            return Poll::Ready(read);
        }
        let deadline = match &mut this.phase {
            Phase::Answering => {
                this.answering.wait_as_reader(cx.waker());
                return Poll::Pending;
            }
            Phase::Head { since } => *since.get_or_insert_with(Instant::now) + this.times.header,
            Phase::Accepted { at } => *at + this.times.header,
            Phase::Idle { since } => *since + this.times.idle,
        };
        let is_idle = !matches!(this.phase, Phase::Head { .. });
        if is_idle && this.draining.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(())); // no bytes: the end of the connection
        }
        ready!(this.poll_deadline(cx, deadline));
        if is_idle {
            Poll::Ready(Ok(()))
        } else {
            Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
        }
    }
}

impl AsyncWrite for PatientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.poll_peer_reads(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.poll_peer_reads(cx, written)
    }

    /// Else hyper copies every page into its own buffer.
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
