//! A connection of HTTP/1.1, which carries one call at a time.

use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::drive::{DriverGuard, move_on, until_given_up};
use super::head::{Heads, Turn, Wire};
use super::payload::Payload;
use super::traffic::Token;
use crate::clock::Moment;
use crate::gateway::brakes::Brakes;

/// How long after an answer the last of its request may take to leave. A connection whose vendor
/// has answered without reading all of the request is often closed by it next.
const LEFT_AFTER: Duration = Duration::from_millis(100);

/// Where requests go into a connection of HTTP/1.1. Dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Http1Sender {
    sender: http1::SendRequest<Payload>,
    idle_since: Moment,
    /// Has it carried an exchange before?
    is_reused: bool,
    turn: Turn,
    _driver: DriverGuard,
}

/// Takes a stream of bytes for one. It is `counted` until it is closed.
pub(super) async fn open<S: Wire>(
    stream: S,
    brakes: Brakes,
    counted: Token,
) -> hyper::Result<Http1Sender> {
    let turn = Turn::default();
    let stream = TokioIo::new(Heads::new(stream, turn.clone()));
    let (sender, connection) = http1::handshake(stream).await?;
    let (driver, given_up) = oneshot::channel();
    tokio::spawn(until_given_up(given_up, async move {
        if let Ok(parts) = move_on(&brakes, connection.without_shutdown()).await {
            let _ = parts.io.into_inner().shutdown().await; // TLS says good-bye
        }
        drop(counted);
    }));
    Ok(Http1Sender {
        sender,
        idle_since: Moment::of(Instant::now()),
        is_reused: false,
        turn,
        _driver: driver,
    })
}

impl Http1Sender {
    /// May a call use it: is it open, and has been idle for at most `max_idle`?
    pub(super) async fn is_usable(&mut self, max_idle: Duration) -> bool {
        self.is_reused = true; // from now on the vendor may close it just before a call
        // It is not ready while the end of the last request is still on its way.
        self.idle_since.elapsed() <= max_idle
            && (self.sender.is_ready()
                || matches!(timeout(LEFT_AFTER, self.sender.ready()).await, Ok(Ok(()))))
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) fn send(
        &mut self,
        request: Request<Payload>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Payload>>>> {
        self.turn.begins(); // before hyper has the request, whose first bytes it writes next
        self.sender.try_send_request(request)
    }

    pub(super) fn is_reused(&self) -> bool {
        self.is_reused
    }

    /// All of an answer has come.
    pub(super) fn is_idle_from_now(&mut self) {
        self.idle_since = Moment::of(Instant::now());
    }
}
