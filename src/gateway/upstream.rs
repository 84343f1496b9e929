//! The one HTTP client: how does a signed body get to Linksfield, and what comes back?
//!
//! Each [`Slot`] owns at most one connection, idle or busy, so the vendor never sees more connections than there are
//! slots. The base URL is fixed by the configuration, and so is the list of headers in both directions:
//! nothing of a caller's head goes upstream.

mod answer;
mod chunks;
mod coding;
mod connection;
mod drive;
mod head;
mod http2;
mod payload;
mod redirect;
mod traffic;

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
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

pub(crate) use self::answer::Meaning; // for the tests of `probe`
pub use self::answer::{Outcome, SUCCESS, Shape, UNPRINTABLE};
use self::connection::{Connection, Farewell, Socket, is_malformed, open_http1, open_http2};
pub use self::connection::{Line, Opening, Slot};
use self::head::Malformed;
use self::payload::Payload;
pub use self::traffic::{Protocol, Traffic};
use super::boxed::boxed;
use super::brakes::{Brakes, Subject};
use super::error::{Error, Sent, Unreachable};
use super::language::Language;
use super::progress::{Progress, TakeBack as _};
use crate::body::{Prefix, ReadError, Received, read_prefix};
use crate::config::{self, BaseUrl, Ca, Codes};
use crate::open_files;
use crate::telemetry::trace::TRACEPARENT;

/// A query may use a connection that has been idle for this long: well under the keep-alive of common servers.
pub const QUERY_MAX_IDLE: Duration = Duration::from_secs(15);
/// A command may not meet a connection that the vendor is just closing: whether it was read would be unknown. One of
/// HTTP/2 is idle while nothing comes; if calls wait for their answers on it, the vendor is asked for a sign of life.
pub const COMMAND_MAX_IDLE: Duration = Duration::from_secs(1);
/// Then the vendor is asked once more, whatever it said: one header must not end everything for a day.
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);
/// Offered by ALPN (RFC 7301).
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// As many as a request has at most, for which a copy of those that are always the same is not indexed anew: the language, the
/// length and the trace come to them.
const HEADERS: usize = 8;

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// The way to Linksfield.
#[derive(Debug)]
pub struct Upstream {
    /// No other of the process has it.
    id: u64,
    base_url: BaseUrl,
    /// Those that are the same in every request; with HTTP/2 `Host` is taken out.
    headers: HeaderMap,
    tls: Option<(TlsConfig, ServerName<'static>)>,
    connect_timeout: Duration,
    max_answer: usize,
    /// How connections are closed.
    farewell: Farewell,
    codes: Codes,
    /// Of the certificate that was shown last, in seconds since 1970; 0 before the first one.
    certificate_expires_at: AtomicI64,
    /// The address that was connected to last.
    last_reached: ArcSwapOption<SocketAddr>,
    brakes: Brakes,
    traffic: Traffic,
}

#[derive(Clone)]
struct TlsConfig(Arc<ClientConfig>);

impl std::fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsConfig")
    }
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
    /// `Content-Type`, `Content-Language` and `Retry-After`, where they came; `Content-Encoding`, if the body is encoded;
    /// `WWW-Authenticate`, if the status is 401.
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
    /// Does it say all that it can say? Its body is whole, not encoded, in UTF-8, and JSON; or its status has no body.
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

    /// Where HTTP says "too many requests" and not when to come again, or not so that it can be read, it says this: in whole
    /// seconds, 1 at least.
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

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// No byte has left, so the call may be made anew: a connection that had been idle was closed before. The error is for
    /// the one who does not.
    NotSent(Error),
    /// It is proven that the vendor has not processed the call, so it may be made anew, as another call: the vendor may
    /// have counted this one. Its stream was refused, or ended before a byte of the body had left.
    Refused(Error),
    /// The call has failed.
    Failed(Error),
}

/// What came of a message.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "mostly it is the largest")]
pub enum Exchanged {
    /// An answer, whose rest may come through the line.
    Answered(Answer, Line),
    /// None.
    Failed(Failure),
    /// None in time, by HTTP/1.1; the vendor has the request.
    Late(Late),
}

/// An exchange that goes on although its time has passed. Dropping it closes the connection.
pub struct Late(Pin<Box<dyn Future<Output = Attempted> + Send>>);

type Attempted = (Line, Result<Answer, Failure>);

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
    /// Builds the client. The TLS configuration is built once: sessions are resumed through it. What it opens counts among
    /// `traffic`, and what it sends obeys `brakes`.
    pub fn new(
        config: &config::Upstream,
        ca: Option<&Ca>,
        brakes: Brakes,
        traffic: Traffic,
    ) -> Self {
        let base_url = config.base_url.clone();
        let max_answer = usize::try_from(config.max_answer.as_u64()).unwrap_or(usize::MAX);
        let tls = base_url
            .server_name()
            .map(|name| (TlsConfig(tls_config(ca, config.http2)), name));
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            headers: headers(
                HeaderValue::from_str(base_url.authority()).expect("an authority is visible ASCII"),
            ),
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

    /// What a call may go through the slot by: its connection if that was idle for at most `max_idle`, else a new one, for
    /// [`connect`](Self::connect). None while others go through one that this call cannot use, unless it `must_wait`.
    pub async fn find(
        &self,
        slot: &Slot,
        max_idle: Duration,
        must_wait: bool,
    ) -> Option<Result<Line, Opening>> {
        slot.line(self.id, max_idle, must_wait).await
    }

    /// Opens a connection.
    pub async fn connect(&self, opening: Opening, deadline: Instant) -> Result<Line, Error> {
        let deadline = deadline.min(Instant::now() + self.connect_timeout);
        let connection = timeout_at(deadline, self.open(&opening, deadline))
            .await
            .map_err(|_| Error::UpstreamConnectTimeout)??;
        Ok(opening.opened(connection))
    }

    async fn open(&self, opening: &Opening, deadline: Instant) -> Result<Connection, Error> {
        let socket = self.dial(opening, deadline).await?;
        let opened = match &self.tls {
            None => open_http1(socket, self.id, self.brakes.clone(), self.traffic.clone()).await,
            Some((config, name)) => {
                let connector = TlsConnector::from(config.0.clone());
                let heard = socket.heard();
                let stream = connector
                    .connect(name.clone(), socket)
                    .await
                    .map_err(tls_failure)?;
                let session = stream.get_ref().1;
                let shown = session.peer_certificates();
                if let Some(at) = shown.and_then(|chain| expiry(chain.first()?)) {
                    self.certificate_expires_at.store(at, Ordering::Relaxed);
                }
                let (brakes, traffic) = (self.brakes.clone(), self.traffic.clone());
                if session.alpn_protocol() == Some(HTTP2) {
                    open_http2(stream, self.id, brakes, heard, traffic).await
                } else {
                    open_http1(stream, self.id, brakes, traffic).await
                }
            }
        };
        opened.map_err(|error| Error::UpstreamUnreachable {
            reason: Unreachable::Connection,
            source: io::Error::other(error),
        })
    }

    /// What is open now, of those before it too.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// When the vendor's certificate expires, in seconds since 1970; none before the first TLS connection.
    pub fn certificate_expires_at(&self) -> Option<i64> {
        let at = self.certificate_expires_at.load(Ordering::Relaxed);
        (at != 0).then_some(at)
    }

    /// Resolves the host anew for each connection and tries all its addresses, the one that was reached last first.
    async fn dial(&self, opening: &Opening, deadline: Instant) -> Result<Socket, Error> {
        let host = (self.base_url.host(), self.base_url.port());
        let addresses = tokio::net::lookup_host(host).await.map_err(|source| {
            match open_files::exhaustion() {
                Some(source) => unreachable(Unreachable::OpenFiles, source),
                None => unreachable(Unreachable::Dns, source),
            }
        })?;
        let mut addresses: Vec<_> = addresses.collect();
        let last_reached = self.last_reached.load();
        addresses.sort_by_key(|address| Some(address) != last_reached.as_deref());
        let (socket, address) = reach(&addresses, opening, self.farewell, deadline).await?;
        self.last_reached.store(Some(Arc::new(address)));
        Ok(socket)
    }

    /// Sends a message and reads the answer, until `deadline`.
    ///
    /// The caller has claimed `progress`; here it learns whether the claim was used and whether an answer began.
    pub async fn exchange(
        self: &Arc<Self>,
        line: Line,
        message: Message<'_>,
        deadline: Instant,
        progress: &Progress,
    ) -> Exchanged {
        let is_shared = line.is_shared();
        let request = self.request(line.protocol(), message);
        let body = request.body().handle();
        if is_shared {
            progress.may_take_back(Arc::new(body.clone()));
        }
        let attempt = || self.clone().attempt(line, request, progress.clone());
        let mut attempt: Late = Late(boxed(attempt));
        let stopped = async {
            if is_shared {
                body.stopped().await; // it may have to wait in its connection until the vendor takes one more
            } else {
                pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            ended = timeout_at(deadline, &mut attempt) => match ended {
                Ok((line, Ok(answer))) => return Exchanged::Answered(answer, line),
                Ok((_, Err(failure))) => return Exchanged::Failed(failure),
                Err(_) => {}
            },
            () = stopped => {
                progress.not_sent();
                let source = io::Error::other("a brake was applied");
                let sent = progress.sent();
                return Exchanged::Failed(Failure::Refused(Error::UpstreamDisconnected { sent, source }));
            }
        }
        if body.take_back() {
            progress.not_sent();
        } else if !is_shared {
            return Exchanged::Late(attempt);
        }
        // A stream of HTTP/2 is reset when its attempt is dropped, and the vendor takes another one for it.
        Exchanged::Failed(Failure::Failed(Error::UpstreamTimeout(progress.sent())))
    }

    async fn attempt(
        self: Arc<Self>,
        mut line: Line,
        request: Request<Payload>,
        progress: Progress,
    ) -> Attempted {
        let answer = match line.send(request, &progress).await {
            Ok(response) => {
                progress.answered();
                self.read(response).await.map_err(Failure::Failed)
            }
            Err(failure) => Err(failure),
        };
        match &answer {
            Ok(answer) => line.finished(answer.rest.is_none()),
            Err(_) => line.failed(),
        }
        (line, answer)
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
        let Meaning {
            outcome,
            is_envelope,
            vendor_code,
            has_unknown_code,
            is_json,
        } = if headers.contains_key(CONTENT_ENCODING) {
            Meaning::of(head.status, &[], &self.codes)
        } else {
            Meaning::of(head.status, &body, &self.codes)
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

/// The first of these addresses that can be connected to: one after the other, as two at a time would be two connections.
/// Each has its part of the time, so that one that swallows everything does not hide the next.
async fn reach(
    addresses: &[SocketAddr],
    opening: &Opening,
    farewell: Farewell,
    deadline: Instant,
) -> Result<(Socket, SocketAddr), Error> {
    let mut failure = unreachable(Unreachable::Dns, io::ErrorKind::AddrNotAvailable.into());
    for (left, address) in (1..=addresses.len()).rev().zip(addresses) {
        let time = deadline.saturating_duration_since(Instant::now());
        let time = time / u32::try_from(left).unwrap_or(u32::MAX);
        let connect = async {
            let mut socket = opening.dial(*address, farewell)?;
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

/// TLS 1.2 or later, verified against the given certificates, else against Mozilla's, which are part of the binary.
fn tls_config(ca: Option<&Ca>, offers_http2: bool) -> Arc<ClientConfig> {
    let roots = match ca {
        Some(ca) => ca.roots.clone(),
        None => webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect(),
    };
    // Chosen here, as a second provider that some dependency turns on would make the default panic.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = builder.expect("the provider has the suites of both versions");
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    if offers_http2 {
        config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    }
    Arc::new(config)
}

fn expiry(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

fn tls_failure(source: io::Error) -> Error {
    let cause = source
        .get_ref()
        .and_then(|error| error.downcast_ref::<rustls::Error>());
    let reason = match cause {
        Some(rustls::Error::InvalidCertificate(_)) => Unreachable::Certificate,
        Some(_) => Unreachable::Tls,
        None => Unreachable::Connection,
    };
    Error::UpstreamUnreachable { reason, source }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket, TcpStream};

    use super::*;

    #[tokio::test]
    async fn an_address_that_swallows_everything_does_not_hide_the_next() {
        let full = TcpSocket::new_v4().unwrap();
        full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let full = full.listen(0).unwrap(); // the kernel takes one connection, and drops what comes then
        let swallows = full.local_addr().unwrap();
        let _one = TcpStream::connect(swallows).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let deadline = Instant::now() + Duration::from_secs(2);
        let found = Slot::default().line(0, Duration::ZERO, false).await;
        let opening = found.unwrap().unwrap_err();
        let farewell = Farewell {
            hold: Duration::ZERO,
            most: 0,
        };
        let reached = reach(&[swallows, address], &opening, farewell, deadline).await;
        let (_, reached) = reached.unwrap();
        assert_eq!(reached, address);
        assert!(deadline - Instant::now() <= Duration::from_secs(1));
    }

    #[tokio::test]
    async fn what_came_before_a_request_is_not_its_answer_though_the_runtime_has_not_noticed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let found = Slot::default().line(0, Duration::ZERO, false).await;
        let opening = found.unwrap().unwrap_err();
        let farewell = Farewell {
            hold: Duration::ZERO,
            most: 0,
        };
        let mut socket = opening.dial(address, farewell).unwrap();
        socket.connected().await.unwrap();
        let (mut vendor, _) = listener.accept().unwrap();
        let config = "upstream.base_url = \"http://127.0.0.1:1\"\n\
                      tenants.a = { access_code = \"P1\", secret_env = \"S\" }";
        let config = config::Config::parse(config, "test", std::iter::empty());
        let brakes = Brakes::new(&config.unwrap().0);
        let connection = open_http1(socket, 0, brakes, Traffic::default()).await;
        let mut line = opening.opened(connection.unwrap());
        for _ in 0..10 {
            tokio::task::yield_now().await; // its task waits for bytes, or for a request
        }
        let forged = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        std::io::Write::write_all(&mut vendor, forged).unwrap(); // this thread is the runtime's: it sees nothing of that yet
        let progress = Progress::default();
        progress.begin();
        let request = Request::new(Payload::new(Bytes::from_static(b"{}"), None));
        let answer = line.send(request, &progress).await;
        assert!(answer.is_err(), "{answer:?}");
        assert_eq!(progress.sent(), Sent::No);
    }

    #[test]
    fn a_pause_is_told_in_seconds_or_by_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        for (text, seconds) in [
            ("7", Some(7)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", Some(0)),
            ("9300000000000000000", Some(3600)),
            ("-1", None),
            ("+1", None),
            ("", None),
            ("soon", None),
        ] {
            assert_eq!(pause(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
