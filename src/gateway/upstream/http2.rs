//! A connection of HTTP/2: what goes into it, and who drives it?

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::drive::{Driven, move_on, until_given_up};
use super::payload::Payload;
use super::traffic::{Protocol, Token, Traffic};
use crate::config::STREAMS;
use crate::gateway::brakes::Brakes;

/// While calls wait for their answers, HTTP/2 is asked for a sign of life after so long without a frame,
pub(super) const PING_AFTER: Duration = Duration::from_secs(1);
/// and given up as lost after so long without one.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Of one answer, so much comes before it is read. The answers of a connection do not share their windows: one whose
/// caller reads slowly holds up no other.
const WINDOW: u32 = 1 << 20;
/// The largest head of an answer.
const MAX_HEAD: u32 = 64 << 10;

/// Where requests go into a connection of HTTP/2. Whoever makes a call holds it; the last one closes the connection.
#[derive(Debug)]
pub(super) struct Mouth {
    /// As long as it takes any. There is no other handle: once this one is dropped, hyper hands back what it has not taken
    /// yet. (One that comes while hyper gives up would else wait for ever.)
    sender: Mutex<Option<http2::SendRequest<Payload>>>,
    _driven_until: Driven,
}

impl Mouth {
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<http2::SendRequest<Payload>>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_open(&self) -> bool {
        self.lock()
            .as_ref()
            .is_some_and(|sender| !sender.is_closed())
    }
}

/// Takes a connection that has agreed on HTTP/2: where requests go in, and how many at a time it takes now.
pub(super) async fn open<S>(
    stream: S,
    brakes: Brakes,
    traffic: &Traffic,
) -> hyper::Result<(Arc<Mouth>, Arc<AtomicUsize>)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let ended = CancellationToken::new();
    let tasks = Tasks {
        ended: ended.clone(),
        brakes: brakes.clone(),
        counted: Arc::new(traffic.connection(Protocol::Http2)),
    };
    let until_the_end = ended.drop_guard();
    let (sender, connection) = http2::Builder::new(tasks)
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * STREAMS)
        .max_header_list_size(MAX_HEAD)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(false)
        .handshake(TokioIo::new(stream))
        .await?;
    let capacity = Arc::new(AtomicUsize::new(capacity_of(&connection)));
    let (driven_until, given_up) = oneshot::channel();
    let mouth = Arc::new(Mouth {
        sender: Mutex::new(Some(sender)),
        _driven_until: driven_until,
    });
    let drive = drive_http2(connection, brakes, capacity.clone(), Arc::downgrade(&mouth));
    tokio::spawn(async {
        until_given_up(given_up, async {
            drive.await;
            pending::<()>().await; // one that takes no more calls may still have some
        })
        .await;
        drop(until_the_end);
    });
    Ok((mouth, capacity))
}

type Http2<S> = http2::Connection<TokioIo<S>, Payload, Tasks>;

fn capacity_of<S>(connection: &Http2<S>) -> usize
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let most = usize::try_from(STREAMS).unwrap_or(usize::MAX);
    connection.current_max_send_streams().clamp(1, most)
}

/// Drives a connection to its end, with the tasks that hyper splits off.
async fn drive_http2<S>(
    connection: Http2<S>,
    brakes: Brakes,
    capacity: Arc<AtomicUsize>,
    mouth: Weak<Mouth>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    {
        let mut connection = pin!(connection);
        let _ = poll_fn(|cx| {
            let _leaving = brakes.leave();
            let end = connection.as_mut().poll(cx);
            // The vendor may say another number while calls are made.
            let now = if end.is_ready() {
                0
            } else {
                capacity_of(&connection)
            };
            capacity.store(now, Ordering::Relaxed);
            end
        })
        .await;
    }
    if let Some(mouth) = mouth.upgrade() {
        let sender = mouth.lock().take();
        drop(sender);
    }
}

/// Runs hyper's tasks of one connection until they end, or it does.
#[derive(Clone)]
struct Tasks {
    ended: CancellationToken,
    brakes: Brakes,
    /// Once, however many tasks there are.
    counted: Arc<Token>,
}

impl<F> Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        let Self {
            ended,
            brakes,
            counted,
        } = self.clone();
        tokio::spawn(async move {
            let task = move_on(&brakes, task);
            ended.run_until_cancelled(task).await;
            drop(counted);
        });
    }
}
