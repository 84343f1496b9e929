//! The socket of a connection: when was the vendor heard, and when is it closed for the vendor too?

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::runtime;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::drive::LINGER;
use super::head::{Spoilt, Wire};
use super::transport::{ByteStream, Unread};
use crate::clock::Moment;

/// When the time of the call on a slot's connection had passed, if it has; the answer is still
/// read. From then on the vendor has [`hold`](Farewell::hold), however the connection is closed, so
/// that a slot is held once and not twice as long. A clone is the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct GivenUp(Arc<Mutex<Option<Instant>>>);

impl GivenUp {
    pub(super) fn begin(&self) {
        *self.lock() = Some(Instant::now());
    }

    /// Another connection begins.
    pub(super) fn clear(&self) {
        *self.lock() = None;
    }

    /// How much of the vendor's time has passed.
    fn elapsed(&self) -> Duration {
        self.lock().map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock()
    }
}

/// What a connection goes through, over any transport. It tells when something has come; and
/// however it is given up, in the midst of a handshake too, it counts as open until the vendor has
/// closed its side.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Option<Box<dyn ByteStream>>,
    heard: watch::Sender<Moment>,
    farewell: Farewell,
    given_up: GivenUp,
    open: Option<TaskTrackerToken>,
}

impl Socket {
    /// It is `open` until the vendor has closed it.
    pub(super) fn new(
        stream: Box<dyn ByteStream>,
        farewell: Farewell,
        given_up: GivenUp,
        open: TaskTrackerToken,
    ) -> Self {
        Self {
            stream: Some(stream),
            heard: watch::Sender::new(Moment::of(Instant::now())),
            farewell,
            given_up,
            open: Some(open),
        }
    }

    /// Waits until it is connected. (It is a socket before that, as the vendor may see a connection
    /// that nobody waits for any more.)
    pub(super) async fn connected(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.stream().poll_connected(cx)).await
    }

    /// When the vendor was heard last, from now on.
    pub(super) fn heard(&self) -> watch::Receiver<Moment> {
        self.heard.subscribe()
    }

    /// See [`ByteStream::keep_nothing_back`].
    pub(super) fn keep_nothing_back(&self) {
        if let Some(stream) = &self.stream {
            stream.keep_nothing_back();
        }
    }

    /// See [`ByteStream::poll_room`].
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.stream {
            Some(stream) => stream.poll_room(cx),
            None => Poll::Ready(()),
        }
    }

    fn stream(&mut self) -> Pin<&mut dyn ByteStream> {
        Pin::new(self.stream.as_deref_mut().expect("taken only by drop"))
    }
}

impl Wire for Socket {
    fn check_silent(&mut self, cx: &mut Context<'_>, _: bool) -> Result<(), Spoilt> {
        match self.stream().unread(cx) {
            Unread::Nothing => Ok(()),
            Unread::Bytes => Err(Spoilt::Unasked),
            Unread::End => Err(Spoilt::Closed),
        }
    }
}

impl Wire for TlsStream<Socket> {
    fn check_silent(&mut self, cx: &mut Context<'_>, is_first: bool) -> Result<(), Spoilt> {
        if is_first {
            return Ok(()); // after a handshake the tickets of the session come, unasked
        }
        self.get_mut().0.check_silent(cx, false)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Without a runtime the process ends, and with it the connection.
        if let (Some(stream), Ok(runtime)) = (self.stream.take(), runtime::Handle::try_current()) {
            // The token moves into the task: only its end makes the slot free for another
            // connection.
            let (open, farewell) = (self.open.take(), self.farewell);
            let passed = self.given_up.elapsed();
            runtime.spawn(async move {
                farewell.close(stream, passed).await;
                drop(open);
            });
        }
    }
}

/// How a socket is closed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Farewell {
    /// How long the vendor may take to close its side. A server with a thread for each request
    /// works on: it notices that our side was closed when it writes its answer.
    pub hold: Duration,
    /// How many bytes it may send meanwhile.
    pub most: usize,
}

impl Farewell {
    /// Ends when the vendor has closed its side too, so that it no longer counts the connection
    /// when the slot opens its next one. A vendor that does not close it is told, by a reset, that
    /// there is no connection any more. So much of its time has `passed` before.
    async fn close(self, mut stream: Box<dyn ByteStream>, passed: Duration) {
        let close = async {
            // Our end first. Then what still comes is read, up to a bound: a system that closes
            // with bytes unread sends a reset, and the vendor could lose what it was just about to
            // read.
            stream.shutdown().await?;
            let (mut discarded, mut left) = ([0; 1024], self.most);
            loop {
                let read = stream.read(&mut discarded).await?;
                left = left.checked_sub(read).ok_or(io::ErrorKind::FileTooLarge)?;
                if read == 0 {
                    return io::Result::Ok(());
                }
            }
        };
        let left = self.hold.saturating_sub(passed).max(LINGER);
        if !matches!(timeout(left, close).await, Ok(Ok(()))) {
            stream.reset_on_drop();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(self.stream().poll_read(cx, buffer))?;
        // With HTTP/1.1 nobody asks.
        if buffer.filled().len() > before && !self.heard.is_closed() {
            self.heard.send_replace(Moment::of(Instant::now()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream
            .as_ref()
            .is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// How long a vendor has to close a connection, if it does not.
    async fn left(stream: impl ByteStream + 'static, hold: Duration, passed: Duration) -> Duration {
        let farewell = Farewell { hold, most: 0 };
        let begun = Instant::now();
        farewell.close(Box::new(stream), passed).await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_held_for_its_time_once_whether_it_is_read_or_closed_meanwhile() {
        let second = Duration::from_secs(1);
        for (hold, passed, expected) in [(120, 0, 120), (120, 100, 20), (120, 120, 2), (0, 0, 2)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await;
            let _vendor = listener.accept().await.unwrap();
            let (in_memory, _vendor_in_memory) = duplex(64);
            for left in [
                left(stream.unwrap(), second * hold, second * passed).await,
                left(in_memory, second * hold, second * passed).await,
            ] {
                assert_eq!(left.as_secs(), expected, "{hold} {passed}");
            }
        }
    }
}
