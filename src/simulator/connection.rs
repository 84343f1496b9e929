//! One client's connection: from its bytes to a call, and from a reply to bytes, or to the end that
//! was asked for.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{
    ACCEPT_LANGUAGE, ALLOW, CONNECTION, CONTENT_LANGUAGE, CONTENT_TYPE, HeaderValue,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::code::{self, Answer, Code, Language, Refusal};
use super::control;
use super::settings::Breakage;
use super::state::{Received, Reply};
use super::{Simulator, lock};

const MAX_BODY: usize = 1024 * 1024;
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Idle between requests, or slow with a head: hyper knows one limit for both.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
const HANG: Duration = Duration::from_secs(300);
/// What a call under way gets when the simulator stops.
const STOP_GRACE: Duration = Duration::from_secs(1);
/// A connection that its client has closed may not have been seen to close when the next one's
/// first call is read. The network would have kept their order.
const CLOSING_GRACE: Duration = Duration::from_millis(20);

type Body = Full<Bytes>;

/// The answer will not arrive whole.
#[derive(Debug, thiserror::Error)]
enum Severed {
    #[error("dropped")]
    Drop,
    #[error("reset")]
    Reset,
    #[error("cut")]
    Cut(Vec<u8>),
}

/// Serves until the client goes, an answer is severed, or the simulator stops.
pub(super) async fn serve(
    stream: TcpStream,
    source: IpAddr,
    simulator: Arc<Simulator>,
    stopping: CancellationToken,
) {
    let client = Arc::new(Client {
        source,
        simulator,
        counted: AtomicBool::new(false),
    });
    let service = service_fn(move |request| {
        let client = client.clone();
        async move { client.respond(request).await }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stopping.cancelled() => {
            Pin::new(&mut connection).graceful_shutdown();
            match timeout(STOP_GRACE, &mut connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    // hyper gives up on an answer that it gets no body for, without a byte of it; the rest is up to
    // us.
    let Err(error) = ended else { return };
    let severed = std::error::Error::source(&error).and_then(|source| source.downcast_ref());
    let stream = connection.into_parts().io.into_inner();
    match severed {
        Some(Severed::Reset) => drop(stream.set_zero_linger()),
        Some(Severed::Cut(bytes)) => drop(write_out(stream, bytes).await),
        Some(Severed::Drop) | None => {}
    }
}

async fn write_out(mut stream: TcpStream, bytes: &[u8]) -> io::Result<()> {
    timeout(BODY_TIMEOUT, stream.write_all(bytes)).await??;
    stream.shutdown().await
}

struct Client {
    source: IpAddr,
    simulator: Arc<Simulator>,
    /// Whether this connection is one of those that are limited. Those that only use the control
    /// endpoint are not: looking on must not change what is seen.
    counted: AtomicBool,
}

impl Drop for Client {
    fn drop(&mut self) {
        if *self.counted.get_mut() {
            lock(&self.simulator.state).disconnect(self.source);
        }
    }
}

impl Client {
    async fn respond(&self, request: Request<Incoming>) -> Result<Response<Body>, Severed> {
        let path = request.uri().path().to_owned();
        if let Some(action) = path.strip_prefix("/_simulator/") {
            return self.control(action, request).await;
        }
        let wanted = request.headers().get(ACCEPT_LANGUAGE);
        let wanted = wanted.and_then(|value| value.to_str().ok());
        let language = Language::wanted(wanted.unwrap_or_default());
        let under_base = path.strip_prefix(&*self.simulator.base_path);
        let Some(path) = under_base.filter(|path| path.starts_with('/')) else {
            return Ok(refuse(&Refusal::of(&code::UNKNOWN_PATH, &path), language));
        };

        if let Err(code) = self.connect().await {
            // Read first: closing with bytes unread is a reset, and the client would never see why.
            drop(read(request).await?);
            let mut response = refuse(&code.into(), language);
            let headers = response.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
            return Ok(response);
        }
        let arrived = lock(&self.simulator.state).arrive(self.source, path, Instant::now());
        let read = read(request).await?;
        let body = match arrived.map_err(Refusal::from).and(read) {
            Ok(body) => body,
            Err(refusal) => return Ok(refuse(&refusal, language)),
        };
        let (reply, latency) = {
            let mut state = lock(&self.simulator.state);
            let call = Received {
                path,
                body: &body,
                language,
                now: now(),
            };
            let reply = state.answer(&self.simulator.account, &call);
            (reply, state.settings.latency)
        };
        tokio::time::sleep(latency).await;
        deliver(reply).await
    }

    /// Counts the connection with its first call.
    async fn connect(&self) -> Result<(), &'static Code> {
        if self.counted.load(Ordering::Relaxed) {
            return Ok(());
        }
        let connect = || lock(&self.simulator.state).connect(self.source);
        let mut outcome = connect();
        if outcome.is_err() {
            tokio::time::sleep(CLOSING_GRACE).await;
            outcome = connect();
        }
        match outcome {
            Ok(()) => self.counted.store(true, Ordering::Relaxed),
            Err(_) => lock(&self.simulator.state).refuse_connection(),
        }
        outcome
    }

    async fn control(
        &self,
        action: &str,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Severed> {
        let method = request.method().clone();
        let body = match collect(request.into_body()).await? {
            Ok(body) => body,
            Err(refusal) => return Ok(refuse(&refusal, Language::English)),
        };
        let mut state = lock(&self.simulator.state);
        let (status, body) = control::act(&mut state, &method, action, &body);
        Ok(json(status, body))
    }
}

/// The body of a call, if it is one: POST, declared as JSON, without a query string (none of the
/// endpoints has one), and not too large.
async fn read(request: Request<Incoming>) -> Result<Result<Bytes, Refusal>, Severed> {
    let (head, body) = request.into_parts();
    let body = collect(body).await?;
    if head.method != Method::POST {
        return Ok(Err(Refusal::from(&code::METHOD_NOT_ALLOWED)));
    }
    let kind = head.headers.get(CONTENT_TYPE);
    let kind = kind.and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = kind.split(';').next().unwrap_or("").trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Ok(Err(Refusal::from(&code::UNSUPPORTED_MEDIA_TYPE)));
    }
    if head.uri.query().is_some() {
        return Ok(Err(Refusal::of(&code::INVALID_PARAMETER, "query string")));
    }
    Ok(body)
}

async fn collect(body: Incoming) -> Result<Result<Bytes, Refusal>, Severed> {
    // Said at once where the length is declared, so that the client need not send it all.
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Ok(Err(Refusal::from(&code::BODY_TOO_LARGE)));
    }
    match timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => Ok(Ok(body.to_bytes())),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Ok(Err(Refusal::from(&code::BODY_TOO_LARGE)))
        }
        // The client went away or fell silent in the middle.
        Ok(Err(_)) | Err(_) => Err(Severed::Drop),
    }
}

async fn deliver(reply: Reply) -> Result<Response<Body>, Severed> {
    match reply.breakage {
        None => Ok(respond(reply.answer)),
        Some(Breakage::Drop) => Err(Severed::Drop),
        Some(Breakage::Reset) => Err(Severed::Reset),
        Some(Breakage::Cut) => Err(Severed::Cut(half(&reply.answer))),
        Some(Breakage::Hang) => {
            // Dropped when the client goes.
            tokio::time::sleep(HANG).await;
            Err(Severed::Drop)
        }
    }
}

/// The head of the whole answer with the first half of its body.
fn half(answer: &Answer) -> Vec<u8> {
    let status = StatusCode::from_u16(answer.status).unwrap_or_default();
    let mut bytes = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-language: {}\r\ncontent-length: {}\r\n\r\n",
        answer.language.tag(),
        answer.body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(&answer.body[..answer.body.len() / 2]);
    bytes
}

fn refuse(refusal: &Refusal, language: Language) -> Response<Body> {
    let mut response = respond(Answer::refusal(refusal, language));
    if *refusal.code == code::METHOD_NOT_ALLOWED {
        let headers = response.headers_mut();
        headers.insert(ALLOW, HeaderValue::from_static("POST"));
    }
    response
}

fn respond(answer: Answer) -> Response<Body> {
    let mut response = json(answer.status, answer.body);
    let language = HeaderValue::from_static(answer.language.tag());
    response.headers_mut().insert(CONTENT_LANGUAGE, language);
    response
}

fn json(status: u16, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

#[expect(clippy::disallowed_methods, reason = "the simulator has its own clock")]
fn now() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default()
}

#[cfg(test)]
mod tests;
