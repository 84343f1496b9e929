//! The vendor's few connections: what may a call go through, and when is a connection closed for the vendor too?
//!
//! A [`Slot`] owns at most one connection. One of HTTP/1.1 carries one call at a time: its [`Line`] holds the slot. One of
//! HTTP/2 carries many: each has a [`Line`], and the slot is free for the next. A slot opens another connection only once
//! the vendor has closed the last one's [`Socket`] too, be it one that was given up while it was being opened, so the
//! vendor never sees more connections than there are slots.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use socket2::{Domain, TcpKeepalive, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;
use tokio_util::task::TaskTracker;

use super::drive::{Driven, move_on, until_given_up};
use super::failure::{Failure, is_refused, is_spoilt};
use super::head::{Heads, Turn, Wire};
use super::http2::{self, Mouth, PING_AFTER};
use super::malformed::is_malformed;
use super::payload::Payload;
use super::socket::{Farewell, GivenUp, Socket, cell};
use super::traffic::{Protocol, Token, Traffic};
use crate::clock::Moment;
use crate::gateway::brakes::Brakes;
use crate::gateway::error::{Error, Unreachable};
use crate::gateway::progress::{Progress, TakeBack as _};
use crate::gateway::quota::Shareable;

/// A peer that acknowledges nothing for so long is gone (`TCP_USER_TIMEOUT`, RFC 5482); asked so often where nothing is sent.
const GONE_AFTER: Duration = Duration::from_secs(15);
const PROBES: Duration = Duration::from_secs(5);
/// How long after an answer the last of its request may take to leave. One that was answered before the vendor has read
/// it may be closed by the vendor next.
const LEFT_AFTER: Duration = Duration::from_millis(100);

/// One of the vendor's few connections, connected or not. A clone is the same one.
#[derive(Debug, Clone)]
pub struct Slot {
    place: Arc<Mutex<Place>>,
    capacity: Capacity,
    sockets: TaskTracker,
    given_up: GivenUp,
}

/// How many calls a slot's connection takes at a time; 0 unless it is of HTTP/2 and open. Each connection brings its own.
type Capacity = Arc<ArcSwap<AtomicUsize>>;

impl Default for Slot {
    fn default() -> Self {
        let capacity = Capacity::default();
        let sockets = TaskTracker::new();
        sockets.close(); // whoever waits for it waits for those that there are
        let given_up = GivenUp::default();
        let place = Place {
            connection: None,
            capacity: capacity.clone(),
            sockets: sockets.clone(),
            given_up: given_up.clone(),
        };
        Self {
            place: Arc::new(Mutex::new(place)),
            capacity,
            sockets,
            given_up,
        }
    }
}

impl Shareable for Slot {
    fn capacity(&self) -> usize {
        self.capacity.load().load(Ordering::Relaxed)
    }

    fn retire(&self) {
        // Nobody holds it but a call, which would use it.
        if let Ok(mut place) = self.place.try_lock() {
            place.retire();
        }
    }

    fn is_ready(&self) -> bool {
        // Nobody holds it but a call that goes through it still.
        let place = self.place.try_lock().ok();
        self.sockets.is_empty() || place.is_none_or(|place| place.connection.is_some())
    }

    async fn ready(&self) {
        self.sockets.wait().await;
    }
}

#[derive(Debug)]
pub(super) struct Place {
    connection: Option<Connection>,
    capacity: Capacity,
    /// Those of the slot's connections that the vendor may still see.
    sockets: TaskTracker,
    given_up: GivenUp,
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// Whose it is: with another configuration it may lead elsewhere.
    upstream: u64,
    capacity: Arc<AtomicUsize>,
    sender: Sender,
    traffic: Traffic,
}

#[derive(Debug)]
enum Sender {
    Http1 {
        sender: http1::SendRequest<Payload>,
        idle_since: Moment,
        /// Has it carried an exchange before?
        reused: bool,
        turn: Turn,
        _driven_until: Driven,
    },
    Http2 {
        mouth: Arc<Mouth>,
        /// When the vendor was heard last. (A machine that has slept has heard nothing meanwhile.)
        heard: watch::Receiver<Moment>,
    },
}

/// What one call goes through.
#[derive(Debug)]
pub struct Line {
    way: Way,
    /// A request has gone in, and its answer has not come.
    is_pending: bool,
    _counted: Token,
}

#[derive(Debug)]
enum Way {
    /// The call has the connection to itself.
    Http1(OwnedMutexGuard<Place>),
    Http2(Arc<Mouth>),
}

impl Way {
    fn protocol(&self) -> Protocol {
        match self {
            Self::Http1(_) => Protocol::Http1,
            Self::Http2(_) => Protocol::Http2,
        }
    }
}

impl Slot {
    /// The time of the call on its connection has passed. The vendor has it still.
    pub fn give_up(&self) {
        *cell(&self.given_up) = Some(Instant::now());
    }

    /// A line of this slot's connection, or the right to open another one. While others go through it, or the vendor has
    /// not closed the one before: none, or if `must_wait` what there is then. `upstream` is whose connection it has to be,
    /// and `max_idle` for how long it may have been silent.
    pub(super) async fn line(
        &self,
        upstream: u64,
        max_idle: Duration,
        must_wait: bool,
    ) -> Option<Result<Line, Opening>> {
        let mut place = if must_wait {
            self.place.clone().lock_owned().await
        } else {
            self.place.clone().try_lock_owned().ok()?
        };
        if place.has_usable(upstream, max_idle).await {
            return Some(Ok(Line::of(place)));
        }
        place.retire();
        if !self.sockets.is_empty() {
            if !must_wait {
                return None;
            }
            self.sockets.wait().await;
        }
        Some(Err(Opening(place)))
    }
}

/// A slot without a connection, for the one who opens the next.
#[derive(Debug)]
pub struct Opening(OwnedMutexGuard<Place>);

impl Opening {
    /// Begins to connect. From now on the slot has no other connection until this one is closed for the vendor too.
    pub(super) fn dial(&self, address: SocketAddr, farewell: Farewell) -> io::Result<Socket> {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        // A vendor whose machine is gone does not end a connection: the system does, after unanswered probes.
        socket.set_tcp_user_timeout(Some(GONE_AFTER))?;
        *cell(&self.0.given_up) = None;
        let probes = TcpKeepalive::new().with_time(PROBES);
        socket.set_tcp_keepalive(&probes.with_interval(PROBES))?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        Ok(Socket {
            stream: Some(TcpStream::from_std(socket.into())?),
            heard: watch::Sender::new(Moment::of(Instant::now())),
            farewell,
            given_up: self.0.given_up.clone(),
            open: Some(self.0.sockets.token()),
        })
    }

    pub(super) fn opened(mut self, connection: Connection) -> Line {
        self.0.capacity.store(connection.capacity.clone());
        self.0.connection = Some(connection);
        Line::of(self.0)
    }
}

impl Place {
    /// Has it a connection that may be used: not closed, and silent for at most `max_idle`?
    async fn has_usable(&mut self, upstream: u64, max_idle: Duration) -> bool {
        let Some(connection) = &mut self.connection else {
            return false;
        };
        if connection.upstream != upstream {
            return false;
        }
        match &mut connection.sender {
            Sender::Http1 {
                sender,
                idle_since,
                reused,
                ..
            } => {
                *reused = true;
                idle_since.elapsed() <= max_idle
                    && (sender.is_ready()
                        || matches!(timeout(LEFT_AFTER, sender.ready()).await, Ok(Ok(()))))
            }
            Sender::Http2 { mouth, heard } => {
                if !mouth.is_open() {
                    return false;
                }
                if heard.borrow_and_update().elapsed() <= max_idle {
                    return true;
                }
                // One that is silent while calls wait for slow answers is sent a PING by now. One without a call is not.
                let has_calls = Arc::strong_count(mouth) > 1;
                let sign = timeout(PING_AFTER * 2, heard.changed());
                has_calls && matches!(sign.await, Ok(Ok(()))) && mouth.is_open()
            }
        }
    }

    /// Closes the connection: one that calls go through when they have ended, another one now.
    fn retire(&mut self) {
        if self.connection.take().is_some() {
            self.capacity.store(Arc::default());
        }
    }
}

impl Line {
    fn of(place: OwnedMutexGuard<Place>) -> Self {
        let connection = place.connection.as_ref().expect("it was found usable");
        let traffic = connection.traffic.clone();
        let way = match &connection.sender {
            Sender::Http1 { .. } => Way::Http1(place),
            Sender::Http2 { mouth, .. } => Way::Http2(mouth.clone()),
        };
        let counted = traffic.call(way.protocol());
        Self {
            way,
            is_pending: false,
            _counted: counted,
        }
    }

    /// The version of HTTP that was agreed on.
    pub fn protocol(&self) -> Protocol {
        self.way.protocol()
    }

    /// May others go through the connection at the same time?
    pub fn is_shared(&self) -> bool {
        self.protocol() == Protocol::Http2
    }

    /// Sends a request and waits for the head of its answer. `progress` learns that it was not sent, where that is proven.
    pub(super) async fn send(
        &mut self,
        request: Request<Payload>,
        progress: &Progress,
    ) -> Result<Response<Incoming>, Failure> {
        let body = request.body().handle();
        self.is_pending = true;
        let sent = match &mut self.way {
            Way::Http1(place) => match place.connection.as_mut().map(|open| &mut open.sender) {
                Some(Sender::Http1 { sender, turn, .. }) => {
                    turn.begins();
                    sender.try_send_request(request).await
                }
                _ => unreachable!("its line holds it until the exchange ends"),
            },
            Way::Http2(mouth) => {
                let Some(sent) = mouth.send(request).await else {
                    progress.not_sent();
                    return Err(Failure::NotSent(Error::UpstreamUnreachable {
                        reason: Unreachable::Connection,
                        source: io::ErrorKind::NotConnected.into(),
                    }));
                };
                sent
            }
        };
        sent.map_err(|mut error| {
            let nothing_left = error.take_message().is_some() || is_spoilt(error.error());
            // A head without a byte of the body, which has the signature, is nothing that could have been carried out: with
            // HTTP/2 it may have left, with HTTP/1.1 it has not, as both go out together.
            let is_refused = is_refused(error.error()) || body.take_back();
            if nothing_left || is_refused {
                progress.not_sent();
            }
            let error = if is_malformed(error.error()) {
                progress.answered();
                Error::UpstreamMalformedAnswer(io::Error::other(error.into_error()))
            } else {
                Error::UpstreamDisconnected {
                    sent: progress.sent(),
                    source: io::Error::other(error.into_error()),
                }
            };
            match (nothing_left, is_refused) {
                (true, _) if self.may_be_stale() => Failure::NotSent(error),
                (false, true) => Failure::Refused(error),
                _ => Failure::Failed(error),
            }
        })
    }

    /// May it have been closed by the vendor before the call came?
    fn may_be_stale(&self) -> bool {
        match &self.way {
            Way::Http1(place) => matches!(
                place.connection.as_ref().map(|open| &open.sender),
                Some(Sender::Http1 { reused: true, .. })
            ),
            Way::Http2(_) => true, // others go through it
        }
    }

    /// The answer has come: all of it, or what comes more is read by whoever has the line. (Given back before its end, the
    /// connection is not usable.)
    pub(super) fn finished(&mut self, is_whole: bool) {
        self.is_pending = false;
        if is_whole
            && let Way::Http1(place) = &mut self.way
            && let Some(connection) = &mut place.connection
            && let Sender::Http1 { idle_since, .. } = &mut connection.sender
        {
            *idle_since = Moment::of(Instant::now());
        }
    }

    /// The exchange has failed. A connection of its own is of no use any more; of HTTP/2 it was one stream.
    pub(super) fn failed(&mut self) {
        self.is_pending = false;
        if let Way::Http1(place) = &mut self.way {
            place.retire();
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.is_pending {
            self.failed(); // given up
        }
    }
}

pub(super) async fn open_http1<S: Wire>(
    stream: S,
    upstream: u64,
    brakes: Brakes,
    traffic: Traffic,
) -> hyper::Result<Connection> {
    let turn = Turn::default();
    let stream = TokioIo::new(Heads::new(stream, turn.clone()));
    let (sender, connection) = http1::handshake(stream).await?;
    let (driven_until, given_up) = oneshot::channel();
    let counted = traffic.connection(Protocol::Http1);
    tokio::spawn(until_given_up(given_up, async move {
        if let Ok(parts) = move_on(&brakes, connection.without_shutdown()).await {
            let _ = parts.io.into_inner().shutdown().await; // TLS says good-bye
        }
        drop(counted);
    }));
    Ok(Connection {
        upstream,
        capacity: Arc::default(),
        sender: Sender::Http1 {
            sender,
            idle_since: Moment::of(Instant::now()),
            reused: false,
            turn,
            _driven_until: driven_until,
        },
        traffic,
    })
}

pub(super) async fn open_http2(
    stream: TlsStream<Socket>,
    upstream: u64,
    brakes: Brakes,
    heard: watch::Receiver<Moment>,
    traffic: Traffic,
) -> hyper::Result<Connection> {
    let counted = traffic.connection(Protocol::Http2);
    let (mouth, capacity) = http2::open(stream, brakes, counted).await?;
    Ok(Connection {
        upstream,
        capacity,
        sender: Sender::Http2 { mouth, heard },
        traffic,
    })
}
