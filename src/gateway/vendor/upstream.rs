//! The one HTTP client: how does a signed body get to Linksfield, and what comes back?
//!
//! Each [`Slot`] owns at most one connection, idle or busy, so the vendor never sees more
//! connections than there are slots. The base URL is fixed by the configuration, and so is the list
//! of headers in both directions: nothing of a caller's head goes upstream.
//!
//! ```text
//! slot          what a call may go through
//! http1, http2  connections: where requests go in, and who drives them
//! payload       the body of a request, which can be taken back until it leaves
//! head, chunks  what is odd about answers of HTTP/1.1, before hyper sees them
//! answer        what an answer means; failure: why there is none
//! socket        when a connection is closed for the vendor too
//! transport     how bytes get to the vendor: by TCP, or through memory
//! ```

mod answer;
mod backpressure;
mod chunks;
mod coding;
mod drive;
mod failure;
mod head;
mod http1;
mod http2;
mod malformed;
mod payload;
mod redirect;
mod slot;
mod socket;
mod tls;
mod traffic;
mod transport;

use std::borrow::Cow;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE,
    DATE, HOST, HeaderValue, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE,
};
use hyper::http::response::Parts;
use hyper::{HeaderMap, Request, Response, StatusCode};
use rustls::pki_types::ServerName;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) use self::answer::AnswerMeaning; // for the tests of `probe`
pub use self::answer::{SUCCESS, Shape, UNPRINTABLE};
pub use self::failure::NoAnswer;
use self::head::Wire;
use self::malformed::{Malformed, is_malformed};
use self::payload::Payload;
use self::slot::{Connection, Sender};
pub use self::slot::{EmptySlot, Slot, Stream, Vacancy};
use self::socket::{Farewell, Socket};
use self::tls::{HTTP2, TlsConfig, expiry, tls_config, tls_failure};
pub use self::traffic::{Protocol, Traffic};
pub use self::transport::{ByteStream, Resolved, Tcp, Transport, Unread};
use crate::body::{Prefix, ReadError, Received, read_prefix};
use crate::clock::Moment;
use crate::config::{self, BaseUrl, Ca, Codes};
use crate::gateway::brakes::{Brakes, Subject};
use crate::gateway::error::{Error, Unreachable};
use crate::gateway::progress::{Progress, TakeBack as _};
use crate::gateway::request::language::Language;
use crate::open_files;
use crate::task::boxed;
use crate::telemetry::trace::TRACEPARENT;
use crate::words::{Outcome, Sent};

/// For how long a connection may have been idle that a query uses: well under the keep-alive of
/// common servers, which close an idle connection without a word.
pub const QUERY_MAX_IDLE: Duration = Duration::from_secs(15);
/// The same for a command. It is shorter, as a command that meets a connection which the vendor is
/// just closing may have been read or not. (A connection of HTTP/2 is idle while nothing comes from
/// the vendor; if calls wait for their answers on it, a PING asks for a sign of life.)
pub const COMMAND_MAX_IDLE: Duration = Duration::from_secs(1);
/// Upper bound for a vendor's `Retry-After`, so that one header cannot stop us for a day.
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);
/// The most headers that a request has: the constant ones, its language, its length and its trace.
/// A map that begins with room for all of them is not indexed anew for the last ones.
const HEADERS: usize = 8;

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// The way to Linksfield.
#[derive(Debug)]
pub struct Upstream {
    /// No other of the process has it: a connection serves only the configuration that opened it.
    id: u64,
    transport: Arc<dyn Transport>,
    base_url: BaseUrl,
    /// The headers that are the same in every request; with HTTP/2 `Host` is taken out.
    headers: HeaderMap,
    tls: Option<(TlsConfig, ServerName<'static>)>,
    connect_timeout: Duration,
    max_answer: usize,
    farewell: Farewell,
    codes: Codes,
    /// When the certificate expires that was shown last, in seconds since 1970; 0 before the first.
    certificate_expires_at: AtomicI64,
    /// The address that was connected to last.
    last_reached: ArcSwapOption<SocketAddr>,
    brakes: Brakes,
    traffic: Traffic,
}

/// What is sent to Linksfield.
#[derive(Debug)]
pub struct Message<'a> {
    /// Under the base URL.
    pub path: &'a str,
    /// In which the answer is wanted.
    pub language: &'a Language,
    /// The trace it belongs to, if Linksfield is to know it.
    pub traceparent: Option<HeaderValue>,
    /// Signed.
    pub body: Bytes,
    /// Who sends what, for the brakes; none if none is to stop it.
    pub subject: Option<Subject>,
}

/// An answer of Linksfield, with the headers that are passed on.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, which no other one follows from"
)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// `Content-Type`, `Content-Language` and `Retry-After`, where they came; `Content-Encoding`,
    /// if the body is encoded; `WWW-Authenticate`, if the status is 401.
    pub headers: HeaderMap,
    /// The host of the `Location` of a redirect, for the log.
    pub redirect_host: Option<String>,
    /// When the vendor says it answered.
    pub date: Option<HeaderValue>,
    /// The body, or the first [`max_answer`](config::Upstream::max_answer) bytes and some of it.
    pub body: Bytes,
    /// What follows `body`, still unread.
    pub rest: Option<Received>,
    /// Was its length told, so that a cut would have been noticed?
    pub is_framed: bool,
    /// What it means.
    pub outcome: Outcome,
    /// Is its body a JSON object with a `code`?
    pub is_envelope: bool,
    /// Does it say all that it can say? Its body is whole, not encoded, in UTF-8, and JSON; or its
    /// status has no body.
    pub is_readable: bool,
    /// The envelope's `code`.
    pub vendor_code: Option<Cow<'static, str>>,
    /// Does nothing say what that means?
    pub has_unknown_code: bool,
}

impl Answer {
    /// When the vendor wants the next call: in seconds, or as a date (RFC 9110, section 10.2.3).
    pub fn retry_after(&self, now: SystemTime) -> Option<Duration> {
        pause(self.headers.get(RETRY_AFTER)?.to_str().ok()?, now)
    }

    /// Is its body encoded, although nobody asked for that? What it means cannot be read then.
    pub fn is_encoded(&self) -> bool {
        self.headers.contains_key(CONTENT_ENCODING)
    }

    /// Where HTTP says "too many requests" and not when to come again, or not so that it can be
    /// read, it says this: in whole seconds, 1 at least.
    pub fn come_again_in(&mut self, wait: Duration, now: SystemTime) {
        if self.status == StatusCode::TOO_MANY_REQUESTS && self.retry_after(now).is_none() {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            let value = HeaderValue::from(seconds.max(1));
            self.headers.insert(RETRY_AFTER, value);
        }
    }

    /// What its envelope holds.
    pub fn shape(&self) -> Shape {
        Shape::of(&self.body)
    }
}

fn pause(retry_after: &str, now: SystemTime) -> Option<Duration> {
    let is_number = retry_after.bytes().all(|byte| byte.is_ascii_digit());
    let pause = if is_number && let Ok(seconds) = retry_after.parse() {
        Duration::from_secs(seconds)
    } else {
        let date = httpdate::parse_http_date(retry_after).ok()?;
        date.duration_since(now).unwrap_or_default() // one that has passed is now
    };
    Some(pause.min(LONGEST_PAUSE))
}

/// What came of a message.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "mostly it is the largest")]
pub enum Exchanged {
    /// An answer, whose rest may come through the stream.
    Answered(Answer, Stream),
    /// There is no answer, and none will come.
    Failed(NoAnswer),
    /// There is none in time, by HTTP/1.1. The vendor has the request, and may still answer it.
    Late(Late),
}

/// An exchange that goes on although its time has passed. Dropping it closes the connection.
pub struct Late(Pin<Box<dyn Future<Output = Attempted> + Send>>);

type Attempted = (Stream, Result<Answer, NoAnswer>);

impl std::fmt::Debug for Late {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Late")
    }
}

impl Future for Late {
    type Output = Attempted;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl Upstream {
    /// Builds the client. What it opens counts among `traffic`, and what it sends obeys `brakes`.
    pub fn new(
        config: &config::Upstream,
        ca: Option<&Ca>,
        brakes: Brakes,
        traffic: Traffic,
    ) -> Self {
        Self::over(Arc::new(Tcp), config, ca, brakes, traffic)
    }

    /// The same over another transport than TCP.
    pub fn over(
        transport: Arc<dyn Transport>,
        config: &config::Upstream,
        ca: Option<&Ca>,
        brakes: Brakes,
        traffic: Traffic,
    ) -> Self {
        let base_url = config.base_url.clone();
        let max_answer = usize::try_from(config.max_answer.as_u64()).unwrap_or(usize::MAX);
        // Built once, as sessions are resumed through it.
        let tls = base_url
            .server_name()
            .map(|name| (TlsConfig(tls_config(ca, config.http2)), name));
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            headers: headers(
                HeaderValue::from_str(base_url.authority()).expect("an authority is visible ASCII"),
            ),
            transport,
            base_url,
            tls,
            connect_timeout: config.connect_timeout,
            codes: config.codes.clone(),
            certificate_expires_at: AtomicI64::new(0),
            last_reached: ArcSwapOption::empty(),
            brakes,
            traffic,
            max_answer,
            farewell: Farewell {
                hold: config.hold,
                most: max_answer,
            },
        }
    }

    /// What a call goes through: the slot's connection if it is open and has been idle for at most
    /// `max_idle`, else an empty slot, for [`connect`](Self::connect). Waits until those before it
    /// have left room.
    pub fn find(&self, slot: &Slot, max_idle: Duration) -> impl Future<Output = Vacancy> {
        slot.find(self.id, max_idle)
    }

    /// The same without waiting for others: none while they go through a connection that this call
    /// cannot use beside them.
    pub fn try_find(
        &self,
        slot: &Slot,
        max_idle: Duration,
    ) -> impl Future<Output = Option<Vacancy>> {
        slot.try_find(self.id, max_idle)
    }

    /// Opens the connection of a slot that has none.
    pub async fn connect(&self, slot: EmptySlot, deadline: Instant) -> Result<Stream, Error> {
        let deadline = deadline.min(Instant::now() + self.connect_timeout);
        let connection = timeout_at(deadline, self.open(&slot, deadline))
            .await
            .map_err(|_| Error::UpstreamConnectTimeout)??;
        Ok(slot.fill(connection))
    }

    async fn open(&self, slot: &EmptySlot, deadline: Instant) -> Result<Connection, Error> {
        let socket = self.dial(slot, deadline).await?;
        let opened = match &self.tls {
            None => self.open_http1(socket).await,
            Some((config, name)) => {
                let connector = TlsConnector::from(config.0.clone());
                let heard = socket.heard(); // the handshake counts
                let stream = connector
                    .connect(name.clone(), socket)
                    .await
                    .map_err(tls_failure)?;
                let session = stream.get_ref().1;
                let shown = session.peer_certificates();
                if let Some(at) = shown.and_then(|chain| expiry(chain.first()?)) {
                    self.certificate_expires_at.store(at, Ordering::Relaxed);
                }
                if session.alpn_protocol() == Some(HTTP2) {
                    self.open_http2(stream, heard).await
                } else {
                    self.open_http1(stream).await
                }
            }
        };
        let sender = opened.map_err(|error| Error::UpstreamUnreachable {
            reason: Unreachable::Connection,
            source: io::Error::other(error),
        })?;
        Ok(Connection {
            upstream: self.id,
            sender,
            traffic: self.traffic.clone(),
        })
    }

    async fn open_http1(&self, stream: impl Wire) -> hyper::Result<Sender> {
        let counted = self.traffic.connection(Protocol::Http1);
        let opened = http1::open(stream, self.brakes.clone(), counted).await;
        opened.map(Sender::Http1)
    }

    async fn open_http2(
        &self,
        stream: TlsStream<Socket>,
        heard: watch::Receiver<Moment>,
    ) -> hyper::Result<Sender> {
        let counted = self.traffic.connection(Protocol::Http2);
        let opened = http2::open(stream, heard, self.brakes.clone(), counted).await;
        opened.map(Sender::Http2)
    }

    /// What is open now, of those before it too.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// When the vendor's certificate expires, in seconds since 1970; none before the first TLS
    /// connection.
    pub fn certificate_expires_at(&self) -> Option<i64> {
        let at = self.certificate_expires_at.load(Ordering::Relaxed);
        (at != 0).then_some(at)
    }

    /// Resolves the host anew for each connection and tries all its addresses, the one that was
    /// reached last first.
    async fn dial(&self, slot: &EmptySlot, deadline: Instant) -> Result<Socket, Error> {
        let (host, port) = (self.base_url.host(), self.base_url.port());
        let resolved = self.transport.resolve(host, port).await;
        let mut addresses = resolved.map_err(|source| match open_files::exhaustion() {
            Some(source) => unreachable(Unreachable::OpenFiles, source),
            None => unreachable(Unreachable::Dns, source),
        })?;
        let last_reached = self.last_reached.load();
        addresses.sort_by_key(|address| Some(address) != last_reached.as_deref());
        let dial = |address| slot.dial(&*self.transport, address, self.farewell);
        let (socket, address) = reach(&addresses, dial, deadline).await?;
        self.last_reached.store(Some(Arc::new(address)));
        Ok(socket)
    }

    /// Sends a message and reads the answer, until `deadline`.
    ///
    /// The caller has claimed `progress`; here it learns whether the claim was used and whether an
    /// answer began.
    pub async fn exchange(
        self: &Arc<Self>,
        stream: Stream,
        message: Message<'_>,
        deadline: Instant,
        progress: &Progress,
    ) -> Exchanged {
        let is_shared = stream.is_shared();
        let request = self.request(stream.protocol(), message);
        let body = request.body().handle();
        if is_shared {
            // The vendor bounds how many streams it takes at a time, and may open no window for a
            // body. Until it does, the request waits in the connection, and its caller may still
            // call it off.
            progress.may_take_back(Arc::new(body.clone()));
        }
        let attempt = || self.clone().attempt(stream, request, progress.clone());
        let mut attempt = Late(boxed(attempt));
        let stopped = async {
            if is_shared {
                body.stopped().await; // for the same reason a brake may still stop it
            } else {
                pending::<()>().await; // by HTTP/1.1 it leaves at once
            }
        };
        tokio::select! {
            biased; // an answer that is there counts, whatever else has happened in the same moment
            ended = timeout_at(deadline, &mut attempt) => match ended {
                Ok((stream, Ok(answer))) => return Exchanged::Answered(answer, stream),
                Ok((_, Err(failure))) => return Exchanged::Failed(failure),
                Err(_) => {}
            },
            () = stopped => {
                progress.not_sent();
                let source = io::Error::other("a brake was applied");
                let sent = progress.sent();
                return Exchanged::Failed(NoAnswer::Refused(Error::UpstreamDisconnected { sent, source }));
            }
        }
        // The time has passed. Call and connection race for the body, and whoever takes it first
        // has it: if the call does, nothing that could be carried out has left, nor will.
        if body.take_back() {
            progress.not_sent();
        } else if !is_shared {
            // Closing the connection would not end the vendor's work, so the slot would only seem
            // free.
            return Exchanged::Late(attempt);
        }
        // With HTTP/2 dropping the attempt resets its stream, and the vendor takes another one for
        // it.
        Exchanged::Failed(NoAnswer::Failed(Error::UpstreamTimeout(progress.sent())))
    }

    async fn attempt(
        self: Arc<Self>,
        mut stream: Stream,
        request: Request<Payload>,
        progress: Progress,
    ) -> Attempted {
        let answer = match stream.send(request, &progress).await {
            Ok(response) => {
                // Before the body is read: with a head the vendor has said that it has the request,
                // so from here on it is too late to call it off, however the body ends.
                progress.answered();
                self.read(response).await.map_err(NoAnswer::Failed)
            }
            Err(failure) => Err(failure),
        };
        // One of both before the stream goes back: one of HTTP/1.1 that is dropped while it waits
        // for its answer counts as given up, and closes its connection.
        match &answer {
            Ok(answer) => stream.finished(answer.rest.is_none()),
            Err(_) => stream.failed(),
        }
        (stream, answer)
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Answer, Error> {
        let (head, mut rest) = Received::of_answer(response);
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Error::UpstreamMalformedAnswer(Malformed::Switch.into()));
        }
        let is_framed = coding::is_framed(&head);
        let headers = passed_on(&head);
        let (body, rest) = match read_prefix(&mut rest, self.max_answer, Duration::MAX).await {
            Ok(Prefix::Whole(body)) => (body, None),
            Ok(Prefix::Longer(body)) => (body, Some(rest)),
            Err(ReadError::Broken(source)) if is_malformed(&source) => {
                return Err(Error::UpstreamMalformedAnswer(source));
            }
            Err(ReadError::Broken(source)) => {
                return Err(Error::UpstreamDisconnected {
                    sent: Sent::Yes,
                    source,
                });
            }
            Err(ReadError::Stalled | ReadError::TooLarge) => {
                unreachable!("no patience and no cap were given")
            }
        };
        let is_whole = rest.is_none();
        let AnswerMeaning {
            outcome,
            is_envelope,
            vendor_code,
            has_unknown_code,
            is_json,
        } = if headers.contains_key(CONTENT_ENCODING) {
            AnswerMeaning::of(head.status, &[], &self.codes)
        } else {
            AnswerMeaning::of(head.status, &body, &self.codes)
        };
        let date = head.headers.get(DATE).cloned();
        let has_end = is_framed || is_envelope; // an envelope ends with its last brace
        let has_no_body = matches!(
            head.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
        Ok(Answer {
            status: head.status,
            headers,
            redirect_host: redirect::host(&head),
            date,
            body,
            rest,
            is_framed,
            outcome,
            is_envelope,
            is_readable: has_no_body || (is_whole && has_end && is_json),
            vendor_code,
            has_unknown_code,
        })
    }

    fn request(&self, protocol: Protocol, message: Message<'_>) -> Request<Payload> {
        let Message {
            path,
            language,
            traceparent,
            body,
            subject,
        } = message;
        let subject = subject.map(|subject| (self.brakes.clone(), subject));
        let mut request = Request::new(Payload::new(body, subject));
        *request.method_mut() = hyper::Method::POST;
        let (scheme, authority) = match protocol {
            Protocol::Http1 => ("", ""),
            Protocol::Http2 => ("https://", self.base_url.authority()),
        };
        let uri = [scheme, authority, self.base_url.path(), path].concat();
        *request.uri_mut() = uri.try_into().expect("checked when the route was found");
        let headers = request.headers_mut();
        headers.clone_from(&self.headers);
        if protocol == Protocol::Http2 {
            headers.remove(HOST);
        }
        headers.insert(ACCEPT_LANGUAGE, language.header.clone());
        if let Some(traceparent) = traceparent {
            headers.insert(TRACEPARENT, traceparent);
        }
        request
    }
}

/// The headers of an answer that its caller gets too.
fn passed_on(head: &Parts) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in [CONTENT_TYPE, CONTENT_LANGUAGE, RETRY_AFTER] {
        if let Some(value) = head.headers.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    if let Some(coding) = coding::of_content(&head.headers) {
        headers.insert(CONTENT_ENCODING, coding);
    }
    if head.status == StatusCode::UNAUTHORIZED {
        for challenge in head.headers.get_all(WWW_AUTHENTICATE) {
            headers.append(WWW_AUTHENTICATE, challenge.clone());
        }
    }
    headers
}

/// The headers that are the same in every request of HTTP/1.1.
fn headers(host: HeaderValue) -> HeaderMap {
    let json = HeaderValue::from_static("application/json");
    let user_agent = concat!("linksfield-gateway/", env!("CARGO_PKG_VERSION"));
    let mut headers = HeaderMap::with_capacity(HEADERS);
    headers.extend([
        (HOST, host),
        (CONTENT_TYPE, json.clone()),
        (ACCEPT, json),
        // An answer expanded here would need a bound of its own.
        (ACCEPT_ENCODING, HeaderValue::from_static("identity")),
        (USER_AGENT, HeaderValue::from_static(user_agent)),
    ]);
    headers
}

/// The first of these addresses that can be connected to. They are tried one after the other, as
/// two at a time would be two connections for the vendor. Each has its share of the time that is
/// left, so that one that swallows every packet does not hide the next.
async fn reach(
    addresses: &[SocketAddr],
    dial: impl Fn(SocketAddr) -> io::Result<Socket>,
    deadline: Instant,
) -> Result<(Socket, SocketAddr), Error> {
    let mut failure = unreachable(Unreachable::Dns, io::ErrorKind::AddrNotAvailable.into());
    for (left, address) in (1..=addresses.len()).rev().zip(addresses) {
        let time = deadline.saturating_duration_since(Instant::now());
        let time = time / u32::try_from(left).unwrap_or(u32::MAX);
        let connect = async {
            // Dialled in here, so that the socket of an address that is given up is dropped, and
            // closed.
            let mut socket = dial(*address)?;
            socket.connected().await?;
            Ok(socket)
        };
        failure = match timeout(time, connect).await {
            Ok(Ok(socket)) => return Ok((socket, *address)),
            Ok(Err(error)) if open_files::are_exhausted(&error) => {
                unreachable(Unreachable::OpenFiles, error)
            }
            Ok(Err(error)) => unreachable(Unreachable::Connection, error),
            Err(_) => Error::UpstreamConnectTimeout,
        };
    }
    Err(failure)
}

fn unreachable(reason: Unreachable, source: io::Error) -> Error {
    Error::UpstreamUnreachable { reason, source }
}

#[cfg(test)]
mod tests;
