//! How do bytes get to the vendor? By TCP; or, for a bench or a test, through memory, where time
//! may be paused and the vendor is a function.
//!
//! A leaf: it knows nothing of slots, HTTP or TLS, which are the same over any transport.

use std::fmt::{self, Debug};
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockRef, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, Interest, ReadBuf};
use tokio::net::{TcpStream, lookup_host};

/// A peer that acknowledges nothing for so long is gone (`TCP_USER_TIMEOUT`, RFC 5482); asked so
/// often where nothing is sent.
const GONE_AFTER: Duration = Duration::from_secs(15);
const PROBES: Duration = Duration::from_secs(5);

/// What resolves the vendor's name, and connects to its addresses.
pub trait Transport: Send + Sync {
    /// All addresses of a host, as of now.
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> Resolved<'a>;

    /// Begins to connect, and does not wait: the vendor may see the connection from here on,
    /// whoever waits for it.
    fn dial(&self, address: SocketAddr) -> io::Result<Box<dyn ByteStream>>;
}

impl Debug for dyn Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transport")
    }
}

/// The addresses of a host, once they are known.
pub type Resolved<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>>;

/// One connection of a [`Transport`]: bytes in both directions, and what else must be known of
/// them.
pub trait ByteStream: AsyncRead + AsyncWrite + Debug + Send + Unpin {
    /// Ready once it is connected, or cannot be.
    fn poll_connected(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// What the peer has sent that is still unread. Asked before the first byte of a request, where
    /// anything unread spoils the connection, so what is there may be lost by the question. A read
    /// of the same task that waits goes on waiting.
    fn unread(&mut self, cx: &mut Context<'_>) -> Unread;

    /// From now on nothing more is taken while something that was taken has not left: what is held
    /// back would leave when the peer reads, whatever has been decided meanwhile.
    fn keep_nothing_back(&self);

    /// Ready when the next byte leaves at once. (That the last one was taken does not say so.)
    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// When it is dropped next, the peer is told that there is no connection any more, whatever was
    /// under way.
    fn reset_on_drop(&mut self);
}

/// What there is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// Nothing yet.
    Nothing,
    /// A byte at least.
    Bytes,
    /// The end: the peer has closed its side, or the connection is broken.
    End,
}

/// The system's resolver, and TCP.
pub struct Tcp;

impl Transport for Tcp {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> Resolved<'a> {
        Box::pin(async move { Ok(lookup_host((host, port)).await?.collect()) })
    }

    fn dial(&self, address: SocketAddr) -> io::Result<Box<dyn ByteStream>> {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        // A vendor whose machine is gone does not end a connection: the system does, after
        // unanswered probes.
        socket.set_tcp_user_timeout(Some(GONE_AFTER))?;
        let probes = TcpKeepalive::new().with_time(PROBES);
        socket.set_tcp_keepalive(&probes.with_interval(PROBES))?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        Ok(Box::new(TcpStream::from_std(socket.into())?))
    }
}

impl ByteStream for TcpStream {
    fn poll_connected(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_ready(cx))?;
        Poll::Ready(self.take_error()?.map_or(Ok(()), Err))
    }

    fn unread(&mut self, _: &mut Context<'_>) -> Unread {
        // The kernel is asked, as the runtime may not have noticed yet what has come.
        match SockRef::from(&*self).peek(&mut [MaybeUninit::uninit()]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Unread::Nothing,
            Ok(1..) => Unread::Bytes,
            Ok(0) | Err(_) => Unread::End,
        }
    }

    /// Where that cannot be set, what the system's buffer has taken leaves later.
    fn keep_nothing_back(&self) {
        let _ = SockRef::from(self).set_tcp_notsent_lowat(1);
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // One that is broken takes nothing, and whoever writes is told.
            if ready!(self.poll_write_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            // The runtime believes in room until a write finds none, so the kernel is asked.
            // `try_io` makes the runtime forget what it believed where there is none: then the next
            // look waits for the kernel's word.
            let look = || {
                let mut asked = [PollFd::new(self, PollFlags::OUT)];
                let has_room = poll(&mut asked, Some(&Timespec::default()))? > 0;
                has_room
                    .then_some(())
                    .ok_or(io::ErrorKind::WouldBlock.into())
            };
            match self.try_io(Interest::WRITABLE, look) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return Poll::Ready(()),
            }
        }
    }

    fn reset_on_drop(&mut self) {
        let _ = self.set_zero_linger();
    }
}

/// One half of a pipe in memory: its peer has the other one. What it has taken has left, as no
/// system stands between.
impl ByteStream for DuplexStream {
    fn poll_connected(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn unread(&mut self, cx: &mut Context<'_>) -> Unread {
        // A pipe cannot be peeked at, so this reads. It does so for the task, as a pipe wakes only
        // the last one who has read: the task's own read, which waits, would not be woken.
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        match Pin::new(self).poll_read(cx, &mut byte) {
            Poll::Pending => Unread::Nothing,
            Poll::Ready(Ok(())) if !byte.filled().is_empty() => Unread::Bytes,
            Poll::Ready(_) => Unread::End,
        }
    }

    /// It does not anyway.
    fn keep_nothing_back(&self) {}

    /// Where all has been taken that was written there is room for more, unless the pipe is full to
    /// its last byte: which it does not tell. Whoever makes the pipe makes it larger than what is
    /// written before the peer reads.
    fn poll_room(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// When it is dropped the peer can neither read more nor write.
    fn reset_on_drop(&mut self) {}
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncWriteExt as _, duplex};
    use tokio::net::TcpListener;

    use super::*;

    /// The two ends of a connection over TCP, and of one in memory.
    async fn pairs() -> [[Box<dyn ByteStream>; 2]; 2] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut ours = Tcp.dial(listener.local_addr().unwrap()).unwrap();
        poll_fn(|cx| ours.poll_connected(cx)).await.unwrap();
        let (theirs, _) = listener.accept().await.unwrap();
        let (one, other) = duplex(64);
        [[ours, Box::new(theirs)], [Box::new(one), Box::new(other)]]
    }

    async fn unread(stream: &mut dyn ByteStream) -> Unread {
        poll_fn(|cx| Poll::Ready(stream.unread(cx))).await
    }

    #[tokio::test]
    async fn what_the_peer_has_sent_or_closed_is_seen_before_it_is_read() {
        for [mut ours, mut theirs] in pairs().await {
            assert_eq!(unread(&mut *ours).await, Unread::Nothing, "{ours:?}");
            theirs.write_all(b"x").await.unwrap();
            assert_eq!(unread(&mut *ours).await, Unread::Bytes, "{ours:?}");
        }
        for [mut ours, theirs] in pairs().await {
            drop(theirs);
            assert_eq!(unread(&mut *ours).await, Unread::End, "{ours:?}");
        }
    }
}
