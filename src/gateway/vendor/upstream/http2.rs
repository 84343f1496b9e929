//! A connection of HTTP/2: what goes into it, and who drives it?
//!
//! h2 takes whatever it is given, and writes it when the vendor reads. What it has taken can no
//! longer be stopped, so it is given no more than leaves at once: a request waits with its call
//! while the vendor does not read, and its body until a byte of it gets through the vendor's
//! window. One task drives the connection and all that hyper splits off, and writes last: what is
//! taken in a step leaves in the same step, and whoever changes the [brakes](Brakes) waits for the
//! step's end.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http2};
use hyper::rt::Executor;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::backpressure::Backpressure;
use super::drive::{DriverGuard, move_on, until_given_up};
use super::payload::Payload;
use super::socket::Socket;
use super::traffic::Token;
use crate::clock::Moment;
use crate::config::STREAMS;
use crate::gateway::brakes::Brakes;

/// While calls wait for their answers, HTTP/2 is asked for a sign of life after so long without a
/// frame,
const PING_AFTER: Duration = Duration::from_secs(1);
/// and given up as lost after so long without one.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Of one answer, so much comes before it is read. The answers of a connection do not share their
/// windows: one whose caller reads slowly holds up no other.
const WINDOW: u32 = 1 << 20;
/// The largest head of an answer.
const MAX_HEAD: u32 = 64 << 10;

/// A connection of HTTP/2 in its slot. It is closed once this and the last call's [`Http2Sender`]
/// are dropped.
#[derive(Debug)]
pub(super) struct Http2Connection {
    sender: Arc<Http2Sender>,
    capacity: Arc<AtomicUsize>,
    /// When the vendor was heard last. (A machine that has slept has heard nothing meanwhile.)
    heard: watch::Receiver<Moment>,
}

impl Http2Connection {
    /// How many calls it takes at a time, now.
    pub(super) fn capacity(&self) -> Arc<AtomicUsize> {
        self.capacity.clone()
    }

    /// Where one more call goes in.
    pub(super) fn share(&self) -> Arc<Http2Sender> {
        self.sender.clone()
    }

    /// May one more call use it: is it open, and has the vendor been silent for at most `max_idle`?
    pub(super) async fn is_usable(&mut self, max_idle: Duration) -> bool {
        if !self.sender.is_open() {
            return false;
        }
        if self.heard.borrow_and_update().elapsed() <= max_idle {
            return true;
        }
        // While calls wait for slow answers, a silent connection has been sent a PING by now, and a
        // living vendor answers it. Without a call no PING is sent, so nothing can be waited for.
        let has_calls = Arc::strong_count(&self.sender) > 1;
        let sign = timeout(PING_AFTER * 2, self.heard.changed());
        has_calls && matches!(sign.await, Ok(Ok(()))) && self.sender.is_open()
    }
}

/// Where requests go into a connection of HTTP/2. Whoever makes a call holds it; the last one
/// closes the connection.
#[derive(Debug)]
pub(super) struct Http2Sender {
    /// None once the connection takes no more requests. There is no other handle: when this one is
    /// dropped, hyper hands back what it has not taken yet. (With a handle left, a request that
    /// comes while hyper gives up would wait for ever.)
    handle: Mutex<Option<http2::SendRequest<Payload>>>,
    backpressure: Backpressure,
    _driver: DriverGuard,
}

impl Http2Sender {
    fn lock(&self) -> MutexGuard<'_, Option<http2::SendRequest<Payload>>> {
        self.handle.lock()
    }

    fn is_open(&self) -> bool {
        self.lock()
            .as_ref()
            .is_some_and(|handle| !handle.is_closed())
    }

    /// Waits until the vendor reads, and sends a request; none if the connection takes no more.
    pub(super) async fn send(&self, mut request: Request<Payload>) -> Option<SendResult> {
        self.backpressure.off().await;
        request.body_mut().waits_for(self.backpressure.clone());
        // The lock is not held while the answer is waited for.
        let sending = self.lock().as_mut()?.try_send_request(request);
        Some(sending.await)
    }
}

type SendResult = Result<Response<Incoming>, TrySendError<Request<Payload>>>;

/// Takes a stream of bytes that has agreed on HTTP/2 for a connection. It is `counted` until it is
/// closed.
pub(super) async fn open(
    stream: TlsStream<Socket>,
    heard: watch::Receiver<Moment>,
    brakes: Brakes,
    counted: Token,
) -> hyper::Result<Http2Connection> {
    stream.get_ref().0.keep_nothing_back();
    let tasks = Tasks::default();
    let backpressure = Backpressure::default();
    let stream = Outgoing {
        stream,
        backpressure: backpressure.clone(),
    };
    let (handle, requests) = http2::Builder::new(tasks.clone())
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * STREAMS)
        .max_header_list_size(MAX_HEAD)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(false)
        .handshake(TokioIo::new(stream))
        .await?;
    let capacity = Arc::new(AtomicUsize::new(capacity_of(&requests)));
    let (driver, given_up) = oneshot::channel();
    let sender = Arc::new(Http2Sender {
        handle: Mutex::new(Some(handle)),
        backpressure,
        _driver: driver,
    });
    let driver = Driver {
        requests: Some(requests),
        tasks: Vec::new(),
        split_off: tasks,
        capacity: capacity.clone(),
        sender: Arc::downgrade(&sender),
    };
    tokio::spawn(async move {
        until_given_up(given_up, driver.drive(&brakes)).await;
        drop(counted);
    });
    Ok(Http2Connection {
        sender,
        capacity,
        heard,
    })
}

type Requests = http2::Connection<TokioIo<Outgoing>, Payload, Tasks>;
type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

fn capacity_of(requests: &Requests) -> usize {
    let most = usize::try_from(STREAMS).unwrap_or(usize::MAX);
    requests.current_max_send_streams().clamp(1, most)
}

/// Drives a connection, with the tasks that hyper splits off.
struct Driver {
    /// Until it takes none any more.
    requests: Option<Requests>,
    /// The first one reads and writes; each of the others waits for a window or an answer.
    tasks: Vec<Task>,
    split_off: Tasks,
    capacity: Arc<AtomicUsize>,
    sender: Weak<Http2Sender>,
}

impl Driver {
    async fn drive(mut self, brakes: &Brakes) {
        move_on(brakes, poll_fn(|cx| self.step(cx))).await;
    }

    /// Ready once all calls have ended too.
    fn step(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(requests) = &mut self.requests {
            // First, as it takes the requests that have come in, and splits off a task for each.
            let end = Pin::new(&mut *requests).poll(cx);
            // The vendor's SETTINGS may change the number of streams at any time.
            let most = end.is_pending().then(|| capacity_of(requests));
            self.capacity.store(most.unwrap_or(0), Ordering::Relaxed);
            if end.is_ready() {
                self.requests = None;
                if let Some(sender) = self.sender.upgrade() {
                    // In this order: whoever waits for the vendor to read finds no handle once it
                    // is woken, and goes elsewhere. The lock is released before the handle is
                    // dropped, as that runs hyper's code.
                    let handle = sender.lock().take();
                    drop(handle);
                    sender.backpressure.take_off();
                }
            }
        }
        self.tasks.append(&mut self.split_off.lock());
        // The youngest first: the oldest is h2's own, which reads and writes, and so writes in this
        // step what the others have given it.
        for place in (0..self.tasks.len()).rev() {
            if self.tasks[place].as_mut().poll(cx).is_ready() {
                drop(self.tasks.remove(place));
            }
        }
        if self.requests.is_none() && self.tasks.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

/// The tasks that hyper has split off, until the driver takes them.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<Vec<Task>>>);

impl Tasks {
    fn lock(&self) -> MutexGuard<'_, Vec<Task>> {
        self.0.lock()
    }
}

impl<F> Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.lock().push(Box::pin(async {
            task.await;
        }));
    }
}

/// What h2 writes to.
struct Outgoing {
    stream: TlsStream<Socket>,
    backpressure: Backpressure,
}

impl AsyncRead for Outgoing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Outgoing {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.backpressure.apply();
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.backpressure.apply();
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// h2 flushes at the end of each step, when it has written all that it may.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        // That all has been taken does not say that there is room for the next request.
        if !self.backpressure.is_off() && self.stream.get_ref().0.poll_room(cx).is_ready() {
            self.backpressure.take_off();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
