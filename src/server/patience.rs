//! How long may a peer take? An I/O wrapper that keeps the times of a connection.
//!
//! hyper has one timer for the head of a request and none for a peer who does not read. Here the
//! phases are told apart: waiting for the first byte of a request, reading its head, answering it.
//! The same place decides, when the server drains or needs room, whether a connection is idle: it
//! is if no byte of a next request has come, so none that has goes unanswered, and no byte that
//! nobody has read makes the kernel reset the connection. Where room is needed, a stranger that
//! holds back the rest of a head, or of a body that nobody wants, makes some as well, and at last
//! one that does not read (`places.rs`).
//!
//! hyper does not read again after an answer if it was waiting for bytes already, so whatever ends
//! the answering phase wakes it: else neither the idle time nor the end of the server would ever be
//! looked at.
//!
//! A peer reads as long as the kernel can send to it. That shows in what the kernel takes from us,
//! as the listener lets it take next to nothing that it cannot send yet.
//!
//! One timer serves a connection. It is set anew only when it fires too early, so a request costs
//! no timer operation.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use parking_lot::{Mutex, MutexGuard};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::places::Place;
use crate::target::{Lines, Seen};

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
    /// The line of the request that comes next was looked at,
    has_own_line: AtomicBool,
    /// and there is a fragment in it.
    has_fragment: AtomicBool,
    /// There is one in a line behind it.
    is_behind: AtomicBool,
    /// Phases that have begun and not ended: of an answer, and of the rest of the request's body.
    on: AtomicUsize,
    /// Those of them that wait for the rest of a body, which nobody wants.
    discarding: AtomicUsize,
    /// How many have ended: one may begin and end between two reads.
    ended: AtomicU64,
    /// Who reads, and waits for the answer to end.
    reader: Mutex<Option<Waker>>,
}

impl Answering {
    /// A head has been read.
    pub fn begin(&self) {
        self.0.on.fetch_add(1, Ordering::AcqRel);
    }

    /// The body of the answer has been handed over to the last byte, or given up. It may still have
    /// to be written.
    pub fn end(&self) {
        self.0.ended.fetch_add(1, Ordering::AcqRel);
        self.0.on.fetch_sub(1, Ordering::AcqRel);
        self.wake_reader();
    }

    /// The rest of a request's body is dropped from now on, while the answer is under way and after
    /// it.
    pub fn begin_discarding(&self) {
        self.begin();
        self.0.discarding.fetch_add(1, Ordering::AcqRel);
    }

    /// It has come to its end, or is given up.
    pub fn end_discarding(&self) {
        self.0.discarding.fetch_sub(1, Ordering::AcqRel);
        self.end();
    }

    /// The answer itself waits for that rest from now on,
    pub fn begin_waiting(&self) {
        self.0.discarding.fetch_add(1, Ordering::AcqRel);
        self.wake_reader();
    }

    /// and no longer.
    pub fn end_waiting(&self) {
        self.0.discarding.fetch_sub(1, Ordering::AcqRel);
    }

    fn is_on(&self) -> bool {
        self.0.on.load(Ordering::Acquire) > 0
    }

    /// Is the rest of a body all that is waited for?
    fn is_discarding_alone(&self) -> bool {
        self.is_on()
            && self.0.discarding.load(Ordering::Acquire) == self.0.on.load(Ordering::Acquire)
    }

    /// A request begins.
    fn meet(&self, seen: Seen) {
        self.0.has_own_line.store(true, Ordering::Release);
        self.0.has_fragment.store(seen.own, Ordering::Release);
        self.0.is_behind.store(seen.behind, Ordering::Release);
    }

    /// More has come of it, or of what follows it.
    fn add(&self, seen: Seen) {
        if seen.own {
            self.0.has_fragment.store(true, Ordering::Release);
        }
        if seen.behind {
            self.0.is_behind.store(true, Ordering::Release);
        }
    }

    /// Had the target of the request that has come a fragment, or may it have had one? To be asked
    /// once for each.
    pub fn had_fragment(&self) -> bool {
        if self.0.has_own_line.swap(false, Ordering::AcqRel) {
            self.0.has_fragment.load(Ordering::Acquire)
        } else {
            self.is_fragment_behind()
        }
    }

    /// Is there a fragment in the target of a request that follows? No other one is answered on
    /// this connection.
    pub fn is_fragment_behind(&self) -> bool {
        self.0.is_behind.load(Ordering::Acquire)
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

    fn reader(&self) -> MutexGuard<'_, Option<Waker>> {
        self.0.reader.lock()
    }
}

/// A downstream connection whose peer is not waited for longer than [`Times`] say.
pub struct PatientStream {
    stream: TcpStream,
    times: Times,
    answering: Answering,
    lines: Lines,
    answers_seen: u64,
    place: Arc<Place>,
    phase: Phase,
    /// Read before from the same connection.
    unread: Bytes,
    /// Ended from this side, being idle.
    has_ended: bool,
    /// When the peer was first found not to read.
    write_blocked_since: Option<Instant>,
    /// The same, but what the peer reads or asks meanwhile does not end it: all that it asked must
    /// have been written.
    stuck_since: Option<Instant>,
    accepted: Instant,
    /// Since when the rest of a body that is dropped is waited for, with nothing else under way:
    /// since the last answer; before the first, since accept.
    discarding_since: Option<Instant>,
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
    /// Wraps a connection that was accepted then. Once `drain` is cancelled, or `place` is wanted
    /// while the connection is idle, the connection ends as soon as it is idle.
    pub fn new(
        stream: TcpStream,
        accepted: Instant,
        times: Times,
        answering: Answering,
        place: Arc<Place>,
        drain: &CancellationToken,
    ) -> Self {
        Self {
            stream,
            times,
            answering,
            lines: Lines::default(),
            answers_seen: 0,
            place,
            phase: Phase::Accepted { at: accepted },
            unread: Bytes::new(),
            has_ended: false,
            write_blocked_since: None,
            stuck_since: None,
            accepted,
            discarding_since: None,
            timer: Box::pin(sleep_until(accepted + times.header)),
            draining: Box::pin(drain.clone().cancelled_owned()),
        }
    }

    /// The same connection, if it was ended from this side although `read` is the begin of a
    /// request; else what it went through, whose peer has no times any more.
    pub fn resume(mut self, read: Bytes) -> Result<Self, TcpStream> {
        if !self.has_ended || read.is_empty() {
            return Err(self.stream);
        }
        self.has_ended = false;
        self.unread = read;
        Ok(self)
    }

    /// The service knows when a request begins and ends being answered; the phase follows it. An
    /// answer has not ended while the peer has not taken it.
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

    fn bytes_read(&mut self, bytes: &[u8]) {
        let is_first = matches!(self.phase, Phase::Accepted { .. } | Phase::Idle { .. });
        if is_first {
            self.answering.meet(self.lines.begin(bytes));
        } else {
            self.answering.add(self.lines.read(bytes));
        }
        self.phase = match self.phase {
            Phase::Accepted { at } => Phase::Head { since: Some(at) },
            Phase::Idle { .. } => Phase::Head { since: None },
            Phase::Head { .. } | Phase::Answering => return,
        };
        self.place.busy();
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = buf.remaining().min(self.unread.len());
        buf.put_slice(&self.unread[..count]);
        self.unread.advance(count);
        Poll::Ready(Ok(()))
    }

    /// Is there something that the kernel has, and that the runtime may not know of?
    fn has_come(&self) -> bool {
        let peeked = SockRef::from(&self.stream).peek(&mut [MaybeUninit::uninit()]);
        peeked.is_ok_and(|count| count > 0)
    }

    /// Ready if the connection, idle since then, is to end now.
    fn poll_idle(&mut self, cx: &mut Context<'_>, since: Instant, time: Duration) -> Poll<()> {
        let is_wanted = self.place.idle(since, cx.waker());
        let is_to_end = self.draining.as_mut().poll(cx).is_ready() || is_wanted;
        if !is_to_end {
            ready!(self.poll_deadline(cx, since + time));
        }
        if self.has_come() {
            self.place.busy();
            return Poll::Pending; // until the runtime knows of it
        }
        self.has_ended = true;
        Poll::Ready(())
    }

    /// Ready if the connection, of whose request a part is missing since then, is to end now.
    fn poll_unfinished(&mut self, cx: &mut Context<'_>, since: Instant) -> Poll<()> {
        if self.place.unfinished(since, cx.waker()) {
            return Poll::Ready(());
        }
        self.poll_deadline(cx, since + self.times.header)
    }

    /// Ready if somebody wants the place of a connection on which the rest of a body is all that is
    /// waited for.
    fn poll_discarding(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.write_blocked_since.is_some() {
            self.discarding_since = None;
            return Poll::Pending;
        }
        if !self.answering.is_discarding_alone() {
            if self.discarding_since.take().is_some() {
                self.place.busy(); // whoever wants it would wait for the answer
            }
            return Poll::Pending;
        }
        let ended = self.answering.ended();
        if ended != self.answers_seen {
            self.answers_seen = ended;
            self.discarding_since = None;
        }
        let since = *self.discarding_since.get_or_insert_with(|| match ended {
            0 => self.accepted,
            _ => Instant::now(),
        });
        if self.place.unfinished(since, cx.waker()) {
            return Poll::Ready(());
        }
        Poll::Pending
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
                if self.place.unstuck() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
            return written;
        }
        if self.write_blocked_since.is_none() {
            self.place.busy(); // whoever wants it would wait until the peer reads
        }
        let since = *self.write_blocked_since.get_or_insert_with(Instant::now);
        let stuck_since = *self.stuck_since.get_or_insert(since);
        if !self.place.stuck(stuck_since, cx.waker()) {
            ready!(self.poll_deadline(cx, since + self.times.write));
        }
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
        if let Poll::Ready(read) = this.poll_bytes(cx, buf) {
            if buf.filled().len() > before {
                this.bytes_read(&buf.filled()[before..]);
            }
            return Poll::Ready(read);
        }
        if this.phase != Phase::Answering {
            this.stuck_since = None;
        }
        let no_bytes = Poll::Ready(Ok(())); // the end of the connection
        match &mut this.phase {
            Phase::Answering => {
                this.answering.wait_as_reader(cx.waker());
                ready!(this.poll_discarding(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Phase::Head { since } => {
                let since = *since.get_or_insert_with(Instant::now);
                ready!(this.poll_unfinished(cx, since));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Phase::Accepted { at: since } => {
                let since = *since;
                ready!(this.poll_idle(cx, since, this.times.header));
                no_bytes
            }
            Phase::Idle { since } => {
                let since = *since;
                ready!(this.poll_idle(cx, since, this.times.idle));
                no_bytes
            }
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::pin::pin;

    use futures::poll;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::super::places::Places;
    use super::*;

    const TIMES: Times = Times {
        header: Duration::from_secs(60),
        write: Duration::from_secs(60),
        idle: Duration::from_secs(60),
    };

    fn entered(stream: TcpStream, places: &Places, drain: &CancellationToken) -> PatientStream {
        let accepted = Instant::now();
        let place = Arc::new(places.enter(None, accepted));
        PatientStream::new(stream, accepted, TIMES, Answering::default(), place, drain)
    }

    /// The kernel has a byte, and the runtime has not asked it since: no task is polled but the
    /// test.
    #[tokio::test]
    async fn a_byte_that_has_come_keeps_the_connection_though_the_runtime_does_not_know_of_it() {
        for is_draining in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let mut peer = std::net::TcpStream::connect(address).unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let (places, drain) = (Places::default(), CancellationToken::new());
            let mut stream = entered(stream, &places, &drain);
            let mut bytes = [0; 8];
            assert!(poll!(pin!(stream.read(&mut bytes))).is_pending());

            peer.write_all(b"P").unwrap();
            let mut wanted = pin!(places.want(true));
            if is_draining {
                drain.cancel();
            } else {
                assert!(poll!(&mut wanted).is_pending());
            }
            assert!(poll!(pin!(stream.read(&mut bytes))).is_pending());
            if !is_draining {
                assert_eq!(poll!(wanted), Poll::Ready(Some(false)), "it stays");
            }
            assert_eq!(stream.read(&mut bytes).await.unwrap(), 1);
        }
    }

    #[tokio::test]
    async fn a_connection_that_is_idle_and_wanted_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _peer = TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (places, drain) = (Places::default(), CancellationToken::new());
        let mut stream = entered(stream, &places, &drain);
        let mut bytes = [0; 8];
        let (read, has_left) = tokio::join!(
            async {
                let read = stream.read(&mut bytes).await;
                drop(stream);
                read
            },
            places.want(true)
        );
        assert_eq!((read.unwrap(), has_left), (0, Some(true)));
    }
}
