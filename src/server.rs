//! Who may connect, and for how long? Listener, accept loop, connection limits, drain.

mod patience;
mod places;
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
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

pub use self::patience::Times;
use self::patience::{Answering, PatientStream};
use self::places::{GRACE, Place, Places};
use self::unread::Unread;
use crate::body::{Body, Received};
use crate::open_files::{self, Room};
use crate::target::Fragment;

/// How often the first of those that wait for a place looks whether somebody has to leave.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Bytes of a request line and its headers; hyper counts at most 100 of the latter.
const MAX_HEAD: usize = 32 * 1024;

/// Bytes of an answer that the kernel takes before it can send them (tcp(7) calls it
/// `TCP_NOTSENT_LOWAT`). Without it the kernel takes some 4 MB, and then no more until a third of
/// that has gone: for a slow reader, minutes in which a peer who takes its time looks like one who
/// has stopped.
const MAX_UNSENT: u32 = 16 * 1024;

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

    /// Does this head bear a token that is asked for? Where none is, nobody authenticates.
    fn is_authenticated(&self, _head: &request::Parts) -> bool {
        false
    }

    /// What a connection beyond the limit is told.
    fn refuse_connection(&self) -> Response<Body>;

    /// A connection that waited for its peer was closed to make room for another one.
    fn connection_evicted(&self) {}

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
    /// The end has been announced: readiness fails, answers carry `Connection: close`, connections
    /// are still accepted.
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
        places: Places::default(),
        turn: Arc::new(Mutex::new(())),
        told: Arc::new(Semaphore::new(limits.room.beyond)),
        lingering: Arc::new(Semaphore::new(limits.room.beyond)),
        times: limits.times,
        tasks: TaskTracker::new(),
        drain: drain.clone(),
        gauge: connections,
    };
    let mut failing: Option<Failing> = None;
    // Accepted connections inherit it. Without it slow readers are cut off sooner, no more.
    let _ = SockRef::from(&listener).set_tcp_notsent_lowat(MAX_UNSENT);
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
            Ok((stream, _)) => server.take(stream, &service).await,
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
        server.take(stream, &service).await;
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

#[derive(Clone)]
struct Server {
    slots: Arc<Semaphore>,
    places: Places,
    /// Of those that wait for a place: they look one after the other, in the order in which they
    /// came.
    turn: Arc<Mutex<()>>,
    /// For those that wait for a place, or that are told there is none.
    told: Arc<Semaphore>,
    lingering: Arc<Semaphore>,
    times: Times,
    tasks: TaskTracker,
    drain: Drain,
    gauge: Option<IntGauge>,
}

/// A connection that has been accepted.
struct Newcomer {
    stream: TcpStream,
    at: Instant,
}

impl Server {
    async fn take<S: Service>(&self, stream: TcpStream, service: &S) {
        let at = Instant::now();
        let newcomer = Newcomer { stream, at };
        let mut slot = self.slots.clone().try_acquire_owned().ok();
        if slot.is_none() {
            if let Ok(told) = self.told.clone().try_acquire_owned() {
                let late = self.clone().take_late(newcomer, service.clone(), told);
                self.tasks.spawn(late);
                return;
            }
            slot = self.slot(service, true).await;
        }
        let Some(slot) = slot else {
            return service.connection_refused();
        };
        let place = self.places.enter(slot, at);
        self.tasks
            .spawn(self.connection(newcomer, service.clone(), place, false));
    }

    async fn take_late<S: Service>(
        self,
        newcomer: Newcomer,
        service: S,
        told: OwnedSemaphorePermit,
    ) {
        let slot = self.slot_in_turn(&service, newcomer.at).await;
        let is_refused = slot.is_none();
        let place = if let Some(slot) = slot {
            drop(told);
            self.places.enter(slot, newcomer.at)
        } else {
            service.connection_refused();
            Places::default().enter(told, newcomer.at) // none of ours to make room with
        };
        self.connection(newcomer, service, place, is_refused).await;
    }

    /// Each waits until those that were accepted before it have had their time, and looks at least
    /// once when its own is over: whether it finds a place does not depend on how fast anything is.
    async fn slot_in_turn(
        &self,
        service: &impl Service,
        accepted: Instant,
    ) -> Option<OwnedSemaphorePermit> {
        let _turn = self.turn.lock().await;
        let last_look = accepted + GRACE;
        loop {
            let now = Instant::now();
            let is_last = now >= last_look;
            let slot = self.slot(service, is_last).await;
            if slot.is_some() || is_last {
                return slot;
            }
            tokio::select! {
                biased;
                slot = self.slots.clone().acquire_owned() => return slot.ok(),
                () = sleep_until(last_look.min(now + LOOK_AGAIN)) => {}
            }
        }
    }

    /// None if it is nobody's turn to make room. Whose turn it is ends as soon as it is polled, so
    /// that takes a moment.
    async fn slot(&self, service: &impl Service, last: bool) -> Option<OwnedSemaphorePermit> {
        loop {
            if let Ok(slot) = self.slots.clone().try_acquire_owned() {
                return Some(slot);
            }
            if self.places.want(last).await? {
                service.connection_evicted();
            }
        }
    }

    fn connection<S: Service>(
        &self,
        newcomer: Newcomer,
        service: S,
        place: Place,
        refuse: bool,
    ) -> impl Future<Output = ()> + use<S> {
        let Newcomer { stream, at } = newcomer;
        let mut times = self.times;
        if refuse {
            times.header = times.header.min(GRACE); // which it has waited in vain
        }
        let gauge = self.gauge.clone();
        let drain = self.drain.clone();
        let lingering = self.lingering.clone();
        let answering = Answering::default();
        let unread = Unread::default();
        let _ = stream.set_nodelay(true); // without it the answer is late, no more
        let place = Arc::new(place);
        let mut stream = PatientStream::new(
            stream,
            at,
            times,
            answering.clone(),
            place.clone(),
            &drain.closing,
        );
        async move {
            let counted = gauge.map(Counted::new);
            let answer = service_fn(|request: Request<Incoming>| {
                let ended = EndsAnswering::begin(&answering);
                let (service, drain, place) = (&service, &drain, &place);
                let (answering, unread) = (&answering, &unread);
                async move {
                    let (mut head, body) = request.into_parts();
                    if answering.had_fragment() {
                        head.extensions.insert(Fragment);
                    }
                    place.meet(|| service.is_authenticated(&head));
                    let mut body = Received::of_request(body);
                    let mut response = if refuse {
                        service.refuse_connection()
                    } else {
                        service.answer(&head, &mut body).await
                    };
                    if drain.is_announced() || refuse || answering.is_fragment_behind() {
                        unread::close(response.headers_mut());
                    }
                    if !body.is_end_stream() {
                        let most = service.max_body() as u64;
                        let discarding = EndsDiscarding::begin(answering);
                        let answer = response.headers_mut();
                        let _waiting = EndsWaiting::begin(answering);
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
            let (stream, has_unread) = loop {
                let mut connection = http.serve_connection(TokioIo::new(stream), &answer);
                let served = (&mut connection).await;
                let is_refused_head = served.as_ref().is_err_and(hyper::Error::is_parse);
                if is_refused_head {
                    service.head_refused();
                }
                let end = connection.into_parts();
                let has_unread = is_refused_head || unread.is_some() || !end.read_buf.is_empty();
                // The begin of a request that came with the end of the last one: only hyper knew
                // that there was one.
                match end.io.into_inner().resume(end.read_buf) {
                    Ok(resumed) => stream = resumed,
                    // Nobody reads there any more, unless it is the rest of a body that held a
                    // place too long.
                    Err(_) if served.is_err() && !is_refused_head && !unread.is_some() => return,
                    Err(ended) => break (ended, has_unread),
                }
            };
            drop((place, counted));
            if has_unread && let Ok(_lingering) = lingering.try_acquire() {
                unread::linger(stream).await;
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

/// An answering phase, which ends when this is dropped, whatever the reason: with the body of the
/// answer.
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

/// The same for the rest of a body that is dropped.
struct EndsDiscarding(Answering);

impl EndsDiscarding {
    fn begin(answering: &Answering) -> Self {
        answering.begin_discarding();
        Self(answering.clone())
    }
}

impl Drop for EndsDiscarding {
    fn drop(&mut self) {
        self.0.end_discarding();
    }
}

/// The same for the time in which the answer waits for that rest.
struct EndsWaiting<'a>(&'a Answering);

impl<'a> EndsWaiting<'a> {
    fn begin(answering: &'a Answering) -> Self {
        answering.begin_waiting();
        Self(answering)
    }
}

impl Drop for EndsWaiting<'_> {
    fn drop(&mut self) {
        self.0.end_waiting();
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
