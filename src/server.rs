//! Who may connect, and for how long? Listener, accept loop, connection limits, drain.

mod patience;
mod unread;

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::http::request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use prometheus::IntGauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

pub use self::patience::Times;
use self::patience::{Answering, PatientStream};
use self::unread::Unread;
use crate::body::{Body, Received};
use crate::open_files::{self, Room};
use crate::target::Targets;

/// Bytes of a request line and its headers; hyper counts at most 100 of the latter.
const MAX_HEAD: usize = 32 * 1024;

/// What a listener's connections may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time.
    pub room: Room,
    /// The times of each.
    pub times: Times,
}

/// What answers the requests of a listener.
pub trait Service: Clone + Send + Sync + 'static {
    /// Answers a request; a failure is an answer too. What it leaves unread of the body is dropped.
    fn answer(
        &self,
        head: &request::Parts,
        body: &mut Received,
    ) -> impl Future<Output = Response<Body>> + Send;

    /// The longest body of a request, in bytes.
    fn max_body(&self) -> usize;

    /// What a connection beyond the limit is told.
    fn refuse_connection(&self) -> Response<Body>;

    /// A connection is beyond the limit, and is told so or not.
    fn connection_refused(&self) {}

    /// A head could not be parsed; it got no more than a status.
    fn head_refused(&self) {}
}

/// The phases of an end that loses no request. Cloned into whatever has to know.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    announced: Arc<AtomicBool>,
    closing: CancellationToken,
}

impl Drain {
    /// The end has been announced: readiness fails, answers carry `Connection: close`, connections are still accepted.
    pub fn announce(&self) {
        self.announced.store(true, Ordering::Release);
    }

    /// Has the end been announced?
    pub fn is_announced(&self) -> bool {
        self.announced.load(Ordering::Acquire)
    }

    /// The listener closes, and each connection as soon as it is idle.
    pub fn close(&self) {
        self.announce();
        self.closing.cancel();
    }

    /// Resolves `grace` after the listener was told to close.
    pub async fn closed_for(&self, grace: Duration) {
        self.closing.cancelled().await;
        sleep(grace).await;
    }
}

/// Serves a listener until `drain` closes it and the last connection has ended.
pub async fn serve(
    listener: TcpListener,
    service: impl Service,
    limits: Limits,
    drain: Drain,
    connections: Option<IntGauge>,
) {
    let server = Server {
        slots: Arc::new(Semaphore::new(limits.room.connections)),
        told: Arc::new(Semaphore::new(limits.room.beyond)),
        lingering: Arc::new(Semaphore::new(limits.room.beyond)),
        times: limits.times,
        tasks: TaskTracker::new(),
        drain: drain.clone(),
        gauge: connections,
    };
    let mut failing: Option<Failing> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.closing.cancelled() => break,
            () = Failing::over(failing.as_ref()) => {
                failing = None;
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => server.take(stream, &service),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                failing
                    .get_or_insert_with(|| Failing::begin(&error))
                    .again();
                // Out of open files, mostly: accepting again at once would only spin.
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    // Those that wait in the backlog would be reset with the listener.
    while let Some(stream) = accept_now(&listener).await {
        server.take(stream, &service);
    }
    drop(listener);
    server.tasks.close();
    server.tasks.wait().await;
}

/// So long without a failure, and a listener accepts again.
const WELL_AFTER: Duration = Duration::from_secs(5);

/// A listener that fails to accept. It is told when that begins and when it is over, not each time.
struct Failing {
    since: Instant,
    last: Instant,
    failures: u64,
}

impl Failing {
    fn begin(error: &io::Error) -> Self {
        let remedy = open_files::are_exhausted(error).then_some(open_files::REMEDY);
        warn!(%error, remedy, "cannot accept");
        let now = Instant::now();
        Self {
            since: now,
            last: now,
            failures: 0,
        }
    }

    fn again(&mut self) {
        self.failures += 1;
        self.last = Instant::now();
    }

    /// Never resolves where nothing fails.
    async fn over(this: Option<&Self>) {
        let Some(this) = this else {
            return pending().await;
        };
        sleep_until(this.last + WELL_AFTER).await;
        let (seconds, failures) = ((this.last - this.since).as_secs_f64(), this.failures);
        info!(seconds, failures, "accepts again");
    }
}

/// A connection that is waiting already, if there is one.
async fn accept_now(listener: &TcpListener) -> Option<TcpStream> {
    let accepted = std::future::poll_fn(|cx| match listener.poll_accept(cx) {
        Poll::Ready(Ok((stream, _))) => Poll::Ready(Some(stream)),
        Poll::Ready(Err(_)) | Poll::Pending => Poll::Ready(None),
    });
    accepted.await
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

struct Server {
    slots: Arc<Semaphore>,
    told: Arc<Semaphore>,
    lingering: Arc<Semaphore>,
    times: Times,
    tasks: TaskTracker,
    drain: Drain,
    gauge: Option<IntGauge>,
}

impl Server {
    fn take(&self, stream: TcpStream, service: &impl Service) {
        if let Ok(slot) = self.slots.clone().try_acquire_owned() {
            self.tasks
                .spawn(self.connection(stream, service.clone(), slot, false));
            return;
        }
        service.connection_refused();
        if let Ok(slot) = self.told.clone().try_acquire_owned() {
            self.tasks
                .spawn(self.connection(stream, service.clone(), slot, true));
        }
    }

    fn connection<S: Service>(
        &self,
        stream: TcpStream,
        service: S,
        slot: OwnedSemaphorePermit,
        refuse: bool,
    ) -> impl Future<Output = ()> + use<S> {
        let gauge = self.gauge.clone();
        let drain = self.drain.clone();
        let lingering = self.lingering.clone();
        let answering = Answering::default();
        let unread = Unread::default();
        let _ = stream.set_nodelay(true); // without it the answer is late, no more
        let targets = Targets::default();
        let seen = (answering.clone(), targets.clone());
        let stream = PatientStream::new(stream, self.times, seen, &drain.closing);
        async move {
            let place = (slot, gauge.map(Counted::new));
            let answer = service_fn(|request: Request<Incoming>| {
                let ended = EndsAnswering::begin(&answering);
                let (service, drain, targets) = (&service, &drain, &targets);
                let (answering, unread) = (&answering, &unread);
                async move {
                    let (mut head, body) = request.into_parts();
                    targets.mark(&mut head);
                    let mut body = Received::of_request(body);
                    let mut response = if refuse {
                        service.refuse_connection()
                    } else {
                        service.answer(&head, &mut body).await
                    };
                    if drain.is_announced() || refuse {
                        unread::close(response.headers_mut());
                    }
                    if !body.is_end_stream() {
                        let most = service.max_body() as u64;
                        let discarding = EndsAnswering::begin(answering);
                        let answer = response.headers_mut();
                        unread.leave(&head, body, most, answer, discarding).await;
                    }
                    if unread::closes(response.headers()) {
                        // hyper would offer HTTP/1.0 beside `close` to stay.
                        *response.version_mut() = head.version;
                    }
                    Ok::<_, Infallible>(response.map(|body| AnswerBody {
                        body,
                        _ended: ended,
                    }))
                }
            });
            // hyper's own timer cannot tell an idle connection from a slow head. The stream can.
            let mut http = http1::Builder::new();
            http.header_read_timeout(None).max_header_size(MAX_HEAD);
            let mut connection = http.serve_connection(TokioIo::new(stream), answer);
            let served = (&mut connection).await;
            let is_refused_head = served.as_ref().is_err_and(hyper::Error::is_parse);
            if is_refused_head {
                service.head_refused();
            } else if served.is_err() {
                return; // nobody reads there any more
            }
            let end = connection.into_parts();
            if is_refused_head || unread.is_some() || !end.read_buf.is_empty() {
                drop(place);
                if let Ok(_place) = lingering.try_acquire() {
                    unread::linger(end.io.into_inner().into_inner()).await;
                }
            }
        }
    }
}

/// Counts a connection for as long as it lives.
struct Counted(IntGauge);

impl Counted {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// An answering phase, which ends when this is dropped, whatever the reason: with the body of the answer.
struct EndsAnswering(Answering);

impl EndsAnswering {
    fn begin(answering: &Answering) -> Self {
        answering.begin();
        Self(answering.clone())
    }
}

impl Drop for EndsAnswering {
    fn drop(&mut self) {
        self.0.end();
    }
}

struct AnswerBody {
    body: Body,
    _ended: EndsAnswering,
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
