//! The vendor's few connections: what may a call go through?
//!
//! A [`Slot`] owns at most one connection. A connection of HTTP/1.1 carries one call at a time: the
//! call's [`Stream`] holds the slot. One of HTTP/2 carries many: each call has a [`Stream`] of its
//! own, and the slot is free for the next. A slot opens another connection only once the vendor has
//! closed the last one's [`Socket`] too, be it one that was given up while it was being opened, so
//! the vendor never sees more connections than there are slots.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_util::task::TaskTracker;

use super::failure::{NoAnswer, is_refused, is_spoilt};
use super::http1::Http1Sender;
use super::http2::{Http2Connection, Http2Sender};
use super::malformed::is_malformed;
use super::payload::Payload;
use super::socket::{Farewell, GivenUp, Socket};
use super::traffic::{Protocol, Token, Traffic};
use super::transport::Transport;
use crate::gateway::error::{Error, Unreachable};
use crate::gateway::progress::{Progress, TakeBack as _};
use crate::gateway::vendor::quota::Shareable;

/// One of the vendor's few connections, connected or not. A clone is the same one.
#[derive(Debug, Clone)]
pub struct Slot {
    state: Arc<Mutex<SlotState>>,
    capacity: Capacity,
    sockets: TaskTracker,
    given_up: GivenUp,
}

/// How many calls a slot's connection takes at a time; 0 unless it is of HTTP/2 and open. Each
/// connection brings its own.
type Capacity = Arc<ArcSwap<AtomicUsize>>;

/// What only one call at a time may look at or change.
#[derive(Debug)]
struct SlotState {
    connection: Option<Connection>,
    capacity: Capacity,
    /// Those of the slot's connections that the vendor may still see.
    sockets: TaskTracker,
    given_up: GivenUp,
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// The [`Upstream`](super::Upstream) that opened it: with another configuration it may lead
    /// elsewhere.
    pub(super) upstream: u64,
    pub(super) sender: Sender,
    pub(super) traffic: Traffic,
}

/// Where requests go into a connection.
#[derive(Debug)]
pub(super) enum Sender {
    Http1(Http1Sender),
    Http2(Http2Connection),
}

/// What a call finds in its slot.
#[derive(Debug)]
pub enum Vacancy {
    /// An open connection that has room for the call.
    Connected(Stream),
    /// No connection: the call opens the slot's next one.
    Empty(EmptySlot),
}

/// The right to open a slot's connection. While it is held, nobody else finds the slot.
#[derive(Debug)]
pub struct EmptySlot(OwnedMutexGuard<SlotState>);

/// What one call goes through: a stream of HTTP/2, or a connection of HTTP/1.1, which carries one
/// call at a time.
#[derive(Debug)]
pub struct Stream {
    reservation: Reservation,
    /// A request has gone in, and its answer has not come.
    is_pending: bool,
    _counted: Token,
}

/// How much of a connection a call has.
#[derive(Debug)]
enum Reservation {
    /// All of it, with its slot.
    Unique(OwnedMutexGuard<SlotState>),
    /// One stream of HTTP/2.
    Shared(Arc<Http2Sender>),
}

impl Reservation {
    fn protocol(&self) -> Protocol {
        match self {
            Self::Unique(_) => Protocol::Http1,
            Self::Shared(_) => Protocol::Http2,
        }
    }
}

impl Default for Slot {
    fn default() -> Self {
        let capacity = Capacity::default();
        let sockets = TaskTracker::new();
        sockets.close(); // or `wait` never ends; a closed tracker takes new sockets all the same
        let given_up = GivenUp::default();
        let state = SlotState {
            connection: None,
            capacity: capacity.clone(),
            sockets: sockets.clone(),
            given_up: given_up.clone(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
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
        // Only a call holds the lock, and it uses the connection.
        if let Ok(mut state) = self.state.try_lock() {
            state.retire();
        }
    }

    fn is_ready(&self) -> bool {
        // Only a call holds the lock, and what it goes through is open.
        let state = self.state.try_lock().ok();
        self.sockets.is_empty() || state.is_none_or(|state| state.connection.is_some())
    }

    async fn ready(&self) {
        self.sockets.wait().await;
    }
}

impl Slot {
    /// The time of the call on its connection has passed. The vendor has it still.
    pub fn give_up(&self) {
        self.given_up.begin();
    }

    /// What a call finds, now or once those before it have left room. `upstream` is whose
    /// connection it has to be, and `max_idle` for how long it may have been silent.
    pub(super) async fn find(&self, upstream: u64, max_idle: Duration) -> Vacancy {
        let state = self.state.clone().lock_owned().await;
        match SlotState::connected(state, upstream, max_idle).await {
            Ok(stream) => Vacancy::Connected(stream),
            Err(empty) => {
                // With the slot locked: of all who wait for it, one opens the next connection.
                self.sockets.wait().await;
                Vacancy::Empty(empty)
            }
        }
    }

    /// The same now; none while others keep the call from using the slot, or the vendor has not
    /// closed the connection before.
    pub(super) async fn try_find(&self, upstream: u64, max_idle: Duration) -> Option<Vacancy> {
        let state = self.state.clone().try_lock_owned().ok()?;
        match SlotState::connected(state, upstream, max_idle).await {
            Ok(stream) => Some(Vacancy::Connected(stream)),
            Err(empty) => self.sockets.is_empty().then_some(Vacancy::Empty(empty)),
        }
    }
}

impl EmptySlot {
    /// Begins to connect. From now on the slot has no other connection until this one is closed for
    /// the vendor too.
    pub(super) fn dial(
        &self,
        transport: &dyn Transport,
        address: SocketAddr,
        farewell: Farewell,
    ) -> io::Result<Socket> {
        let stream = transport.dial(address)?;
        self.0.given_up.clear(); // the time that passed was that of a call on the connection before
        let (given_up, open) = (self.0.given_up.clone(), self.0.sockets.token());
        Ok(Socket::new(stream, farewell, given_up, open))
    }

    /// The slot has this connection from now on, and the call is the first to go through it.
    pub(super) fn fill(mut self, connection: Connection) -> Stream {
        let capacity = match &connection.sender {
            Sender::Http1(_) => Arc::default(),
            Sender::Http2(connection) => connection.capacity(),
        };
        self.0.capacity.store(capacity);
        let (shared, traffic) = (connection.share(), connection.traffic.clone());
        self.0.connection = Some(connection);
        Stream::new(self.0, shared, &traffic)
    }
}

impl SlotState {
    /// A stream of the slot's connection. One that may not be used is retired instead.
    async fn connected(
        mut state: OwnedMutexGuard<Self>,
        upstream: u64,
        max_idle: Duration,
    ) -> Result<Stream, EmptySlot> {
        if let Some(connection) = &mut state.connection
            && connection.upstream == upstream
            && connection.is_usable(max_idle).await
        {
            let (shared, traffic) = (connection.share(), connection.traffic.clone());
            return Ok(Stream::new(state, shared, &traffic));
        }
        state.retire();
        Err(EmptySlot(state))
    }

    /// Where a request goes in, if the connection is of HTTP/1.1.
    fn http1(&mut self) -> Option<&mut Http1Sender> {
        match &mut self.connection.as_mut()?.sender {
            Sender::Http1(sender) => Some(sender),
            Sender::Http2(_) => None,
        }
    }

    /// Closes the connection: one that calls go through when they have ended, another one now.
    fn retire(&mut self) {
        if self.connection.take().is_some() {
            self.capacity.store(Arc::default());
        }
    }
}

impl Connection {
    async fn is_usable(&mut self, max_idle: Duration) -> bool {
        match &mut self.sender {
            Sender::Http1(sender) => sender.is_usable(max_idle).await,
            Sender::Http2(connection) => connection.is_usable(max_idle).await,
        }
    }

    /// Where one more call goes in, if others may go through the connection beside it.
    fn share(&self) -> Option<Arc<Http2Sender>> {
        match &self.sender {
            Sender::Http1(_) => None,
            Sender::Http2(connection) => Some(connection.share()),
        }
    }
}

impl Stream {
    fn new(
        state: OwnedMutexGuard<SlotState>,
        shared: Option<Arc<Http2Sender>>,
        traffic: &Traffic,
    ) -> Self {
        let reservation = match shared {
            Some(sender) => Reservation::Shared(sender), // and the slot is free for the next call
            None => Reservation::Unique(state),
        };
        let counted = traffic.call(reservation.protocol());
        Self {
            reservation,
            is_pending: false,
            _counted: counted,
        }
    }

    /// The version of HTTP that was agreed on.
    pub fn protocol(&self) -> Protocol {
        self.reservation.protocol()
    }

    /// May others go through the connection at the same time?
    pub fn is_shared(&self) -> bool {
        self.protocol() == Protocol::Http2
    }

    /// Sends a request and waits for the head of its answer. `progress` learns that it was not
    /// sent, where that is proven.
    pub(super) async fn send(
        &mut self,
        request: Request<Payload>,
        progress: &Progress,
    ) -> Result<Response<Incoming>, NoAnswer> {
        let body = request.body().handle();
        // Before the first await: a call that is given up in the midst of it leaves half an
        // exchange in a connection of HTTP/1.1, which the next call must not find.
        self.is_pending = true;
        let sent = match &mut self.reservation {
            Reservation::Unique(state) => match state.http1() {
                Some(sender) => Some(sender.send(request).await),
                None => None, // it has failed before
            },
            Reservation::Shared(sender) => sender.send(request).await,
        };
        let Some(sent) = sent else {
            progress.not_sent();
            return Err(NoAnswer::NotSent(Error::UpstreamUnreachable {
                reason: Unreachable::Connection,
                source: io::ErrorKind::NotConnected.into(),
            }));
        };
        sent.map_err(|mut error| {
            let nothing_left = error.take_message().is_some() || is_spoilt(error.error());
            // Looked at before the error is told, as the connection may still want the body: who
            // takes it back here is sure that it never leaves. A head without its body, which has
            // the signature, is nothing that could have been carried out: with HTTP/2 it may have
            // left, with HTTP/1.1 it has not, as both go out together.
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
                (true, _) if self.may_be_stale() => NoAnswer::NotSent(error),
                (false, true) => NoAnswer::Refused(error),
                _ => NoAnswer::Failed(error),
            }
        })
    }

    /// May it have been closed by the vendor before the call came?
    fn may_be_stale(&mut self) -> bool {
        match &mut self.reservation {
            Reservation::Unique(state) => state.http1().is_some_and(|sender| sender.is_reused()),
            Reservation::Shared(_) => true, // others go through it
        }
    }

    /// The answer has come: all of it, or the rest is read by whoever has the stream. (A stream of
    /// HTTP/1.1 that is dropped before the answer's end leaves a connection that is not usable.)
    pub(super) fn finished(&mut self, is_whole: bool) {
        self.is_pending = false;
        if is_whole
            && let Reservation::Unique(state) = &mut self.reservation
            && let Some(sender) = state.http1()
        {
            sender.is_idle_from_now();
        }
    }

    /// The exchange has failed. A connection of its own is of no use any more; of HTTP/2 it was one
    /// stream.
    pub(super) fn failed(&mut self) {
        self.is_pending = false;
        if let Reservation::Unique(state) = &mut self.reservation {
            state.retire();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.is_pending {
            self.failed(); // given up
        }
    }
}
