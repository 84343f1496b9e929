//! Why did a request fail, and what is the response to that? One table has the answer.
//!
//! Every code has its paragraph in `docs/errors.md`.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName,
    HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::body::{Body, ReadError};
use crate::gateway::vendor::breaker::{Open, Reason};
use crate::id::RequestId;
use crate::state::WriteError;
use crate::words::{Fault, Outcome, Sent};

/// `Proxy-Status` (RFC 9209): which intermediary made the answer, and why.
pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// The id by which a request is found in the log.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Whether the request reached Linksfield, beside an error's `sent`: a command's answer that is
/// passed on has no such member.
pub const X_LINKSFIELD_SENT: HeaderName = HeaderName::from_static("x-linksfield-sent");

/// Where the paragraphs about the codes stand; the fragment is the code.
const DOCUMENT: &str = "docs/errors.md";

/// A failure that the gateway answers itself. The message is for the caller, the source for the
/// operator.
///
/// A variant exists where somebody would act differently on it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// HTTP that could be read in two ways, or asks for what a proxy of one upstream does not do.
    #[error("{0}")]
    MalformedRequest(&'static str),
    /// A path that could be read in two ways.
    #[error("{0}")]
    InvalidPath(&'static str),
    /// A method that the route does not have.
    #[error("{} is what this path takes", .allow)]
    MethodNotAllowed {
        /// The value of `Allow`.
        allow: &'static str,
    },
    /// A content type other than JSON, or a charset in which JSON cannot be.
    #[error(
        "send the parameters as JSON in UTF-8, with one Content-Type: application/json, or application/json; charset=utf-8"
    )]
    UnsupportedMediaType,
    /// A compressed body.
    #[error("send the body as it is, without Content-Encoding")]
    UnsupportedCoding,
    /// A web page tries to use the gateway.
    #[error("requests of web pages are not taken: remove the Origin header if this is no browser")]
    ForeignOrigin,
    /// A header of ours with a value that cannot be.
    #[error("{name}: {expected}")]
    InvalidHeader {
        /// The header's name.
        name: &'static str,
        /// What it takes.
        expected: &'static str,
    },
    /// No bearer token, or one that no caller has.
    #[error("send the token of a configured caller as Authorization: Bearer")]
    Unauthenticated,
    /// The caller may not use this tenant.
    #[error("this caller may not use the tenant {0}")]
    TenantForbidden(Arc<str>),
    /// The caller may only query.
    #[error(
        "this caller may send queries only, and what is not configured as a query is a command"
    )]
    CommandsForbidden,
    /// The brake: commands of this tenant are switched off.
    #[error("commands of the tenant {0} are switched off in the gateway's configuration")]
    CommandsDisabled(Arc<str>),
    /// The brake: all commands are switched off.
    #[error("all commands are switched off in the gateway's configuration")]
    AllCommandsDisabled,
    /// A tenant or access code that is not configured.
    #[error("no configured tenant has this {0}")]
    UnknownTenant(&'static str),
    /// Header and body name different tenants.
    #[error("x-linksfield-tenant and access_code name different tenants")]
    TenantMismatch,
    /// Which account is a command for?
    #[error("several tenants are configured: name one with x-linksfield-tenant or access_code")]
    TenantRequired,
    /// Not in the configuration, which refuses such paths.
    #[error("this path is not configured, and unlisted paths are refused")]
    UnlistedPath,
    /// The configuration says `kind = "refuse"`.
    #[error("the configuration refuses this path")]
    RouteRefused,
    /// A body that is no usable JSON object.
    #[error("{0}")]
    InvalidJson(String),
    /// A body beyond the cap.
    #[error("the body is larger than {0} bytes")]
    BodyTooLarge(usize),
    /// The caller stopped sending.
    #[error("the body did not come in time")]
    BodyTimeout,
    /// The caller's body broke off.
    #[error("the body broke off")]
    BodyIncomplete(#[source] std::io::Error),
    /// The route is `idempotency = "required"`.
    #[error(
        "this command needs an idempotency-key, such as a UUID made for it and sent again with each repeat"
    )]
    IdempotencyKeyRequired,
    /// A key came once more, with another request.
    #[error(
        "this idempotency-key was used with other parameters: send a new key with a new request"
    )]
    IdempotencyMismatch,
    /// What became of the command under this key is not known.
    #[error(
        "what became of the command with this idempotency-key is not known: {look_first} before anything else; then send a new key"
    )]
    CommandInDoubt {
        /// Where to look.
        look_first: String,
    },
    /// None is forgotten before its window ends.
    #[error(
        "no more idempotency keys can be kept: nothing was sent, and keys are free again when their window ends"
    )]
    IdempotencyStoreFull,
    /// A key must be on disk before its command is sent.
    #[error(
        "the idempotency-key cannot be saved, so the command was not sent; send it again with the same key"
    )]
    StateStoreUnavailable(#[source] WriteError),
    /// The caller wants a page from memory or none, and there is none that serves.
    #[error("no page in memory serves this request, and its Cache-Control says only-if-cached")]
    NotCached,
    /// All pages were asked for, and they are more than the route allows.
    #[error(
        "there are {pages} pages, and max_pages of this route is {most}: narrow the query, or ask page by page"
    )]
    TooManyPages {
        /// How many there are.
        pages: u64,
        /// `max_pages`.
        most: u64,
    },
    /// All pages were asked for, and would make a document that is too large.
    #[error(
        "all pages make a document of about {bytes} bytes, and upstream.max_answer is {most}: narrow the query, or ask page by page"
    )]
    DocumentTooLarge {
        /// About how large it would be.
        bytes: u64,
        /// `upstream.max_answer`.
        most: u64,
    },
    /// All pages were asked for, and they would take too much of what is left of the day.
    #[error(
        "{calls} more calls are needed, and of the {left} that are left of this day one query may take a tenth"
    )]
    CrawlTooDear {
        /// The calls that are needed.
        calls: u64,
        /// What is left for queries of the vendor's limit.
        left: u32,
    },
    /// The part of the day's calls that this request may use is spent.
    #[error(
        "Linksfield takes {limit} calls a day from here, and {reserve} of them are kept for configured commands: {used} are made"
    )]
    QuotaExhausted {
        /// The calls of this day.
        used: u32,
        /// The day's calls.
        limit: u32,
        /// What queries may not use of them.
        reserve: u32,
        /// When a call is free again.
        retry_after: Duration,
    },
    /// The day's budget is so short that no page in memory is fetched again because its caller
    /// wants that.
    #[error(
        "the day's budget for queries is nearly spent: a fresh page is in memory, and no newer one is fetched"
    )]
    RefreshRefused,
    /// All pages were asked for, and while they were read the orders changed, twice.
    #[error("the orders changed while their pages were read, and again at the second try")]
    PagesMoved,
    /// Linksfield fails, and is not asked for a while. (It may stop a crawl, of which pages have
    /// come.)
    #[error("{reason}: nothing is sent now, try again after Retry-After")]
    BreakerOpen {
        /// How it fails.
        reason: Reason,
        /// When it is asked again.
        retry_after: Duration,
    },
    /// The brake: no calls are made.
    #[error("calls of Linksfield are switched off in the gateway's configuration")]
    UpstreamPaused,
    /// No turn can be had in time.
    #[error("too many requests wait for Linksfield, which takes only a few at a time")]
    Overloaded {
        /// When a turn may be free.
        retry_after: Duration,
    },
    /// More connections than the configuration allows.
    #[error("too many connections")]
    TooManyConnections,
    /// No connection: refused, unknown host, no route, TLS.
    #[error("no connection to Linksfield: {}", .reason.text())]
    UpstreamUnreachable {
        /// What failed.
        reason: Unreachable,
        /// The cause itself.
        #[source]
        source: std::io::Error,
    },
    /// The time for connecting has passed.
    #[error("Linksfield did not take the connection in time")]
    UpstreamConnectTimeout,
    /// The deadline has passed before the answer came.
    #[error("Linksfield did not answer in time")]
    UpstreamTimeout(Sent),
    /// The connection broke before the answer was whole.
    #[error("the connection to Linksfield broke before the answer was whole")]
    UpstreamDisconnected {
        /// Yes if the head of an answer had come.
        sent: Sent,
        /// The cause itself.
        #[source]
        source: std::io::Error,
    },
    /// An answer to a query that is none of the vendor's envelopes.
    #[error("Linksfield answered HTTP {status}, and the body is {reason}")]
    UpstreamInvalidAnswer {
        /// The answer's status.
        status: StatusCode,
        /// What it means.
        outcome: Outcome,
        /// What is wrong with it.
        reason: InvalidAnswer,
    },
    /// What came back is no HTTP, or it frames its body in a way that two could read differently.
    #[error("Linksfield answered, and its answer is no well-formed HTTP")]
    UpstreamMalformedAnswer(#[source] std::io::Error),
    /// An answer to a query that sends it elsewhere.
    #[error("Linksfield answered HTTP {status}, and the gateway follows no redirects")]
    UpstreamRedirects {
        /// The answer's status.
        status: StatusCode,
        /// What it means.
        outcome: Outcome,
        /// Where to, if that is a host.
        host: Option<String>,
    },
    /// HTTP 429 to a query, without the vendor's envelope: a balancer's.
    #[error("Linksfield, or a server before it, takes no more requests for now: try again{}", .retry_after.as_ref().map_or("", |_| " after Retry-After"))]
    UpstreamThrottled {
        /// Its `Retry-After`, as it came.
        retry_after: Option<HeaderValue>,
    },
    /// HTTP 503 to a query, with a `Retry-After` and without the vendor's envelope: a balancer's.
    #[error(
        "Linksfield, or a server before it, says that it is unavailable for now: try again after Retry-After"
    )]
    UpstreamUnavailable {
        /// Its `Retry-After`, as it came.
        retry_after: HeaderValue,
    },
    /// What stops a crawl of which pages have come already.
    #[error(transparent)]
    MidCrawl(Box<Self>),
    /// A bug of ours.
    #[error("the gateway failed")]
    Internal(Sent),
}

/// So many characters of what the sources of a failure say.
const LONGEST_CAUSE: usize = 200;

/// An error and its sources. The error within an `io::Error` is one of them, which `source` passes
/// over.
pub(super) fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        let io = error.downcast_ref::<std::io::Error>();
        match io.and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        }
    })
}

/// A GOAWAY can bring any text with it.
fn words_of(error: &(dyn std::error::Error + 'static)) -> String {
    match error.downcast_ref::<h2::Error>() {
        Some(error) if error.is_go_away() => {
            let reason = error.reason().unwrap_or(h2::Reason::NO_ERROR);
            format!("GOAWAY: {}", reason.description())
        }
        _ => error.to_string(),
    }
}

impl From<Open> for Error {
    fn from(open: Open) -> Self {
        Self::BreakerOpen {
            reason: open.reason,
            retry_after: open.retry_after,
        }
    }
}

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// The host name has no address.
    Dns,
    /// Nobody listens, or no route.
    Connection,
    /// The peer's certificate is not trusted.
    Certificate,
    /// Another failure of the TLS handshake.
    Tls,
    /// The gateway, or its machine, has as many files open as it may. That says nothing of
    /// Linksfield.
    OpenFiles,
}

impl Unreachable {
    const fn text(self) -> &'static str {
        match self {
            Self::Dns => "its host name cannot be resolved",
            Self::Connection => "it was refused or there is no route",
            Self::Certificate => "its certificate is not trusted",
            Self::Tls => "the TLS handshake failed",
            Self::OpenFiles => {
                "the gateway has as many files open as it may, and needs one more for it"
            }
        }
    }

    /// The proxy error type of RFC 9209, section 2.3.
    const fn proxy_error(self) -> &'static str {
        match self {
            Self::Dns => "dns_error",
            Self::Connection => "connection_refused",
            Self::Certificate => "tls_certificate_error",
            Self::Tls => "tls_protocol_error",
            Self::OpenFiles => "proxy_internal_error",
        }
    }
}

/// What is wrong with an answer that is no envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidAnswer {
    /// Not a JSON object with a `code`.
    NotAnEnvelope,
    /// A success without the pages that were asked for.
    NotAPage,
    /// All pages, with another number of orders on them than their totals say.
    Miscounted {
        /// The orders that came.
        orders: u64,
        /// `total_count`.
        total: u64,
        /// Those of the first page.
        first: u64,
        /// The `page_size` that was asked for, if it is a number.
        size: Option<u64>,
    },
    /// One of pages of different sizes, which cannot be put together.
    Uneven {
        /// The orders of this page.
        orders: u64,
        /// Those of the first page.
        first: u64,
        /// The `page_size` that was asked for, if it is a number.
        size: Option<u64>,
    },
    /// Larger than `upstream.max_answer`.
    TooLarge,
}

impl std::fmt::Display for InvalidAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotAnEnvelope => "not the vendor's envelope",
            Self::NotAPage => "not a page of orders",
            Self::Miscounted {
                orders,
                total,
                first,
                size,
            } => {
                write!(
                    f,
                    "one of pages that hold another number of orders ({orders}) than total_count says ({total}): \
                     the first page has {first}"
                )?;
                return size.map_or(Ok(()), |size| {
                    write!(f, ", and a page_size of {size} was asked for")
                });
            }
            Self::Uneven {
                orders,
                first,
                size,
            } => {
                write!(f, "one of pages of different sizes: the first page has {first}, a later one {orders}")?;
                return size.map_or(Ok(()), |size| {
                    write!(f, ", and a page_size of {size} was asked for")
                });
            }
            Self::TooLarge => "larger than upstream.max_answer",
        })
    }
}

/// What the outside sees of a failure.
struct ErrorRow {
    code: &'static str,
    status: StatusCode,
    title: &'static str,
    fault: Fault,
    sent: Sent,
    /// The proxy error type of RFC 9209, section 2.3.
    proxy_error: &'static str,
}

/// Makes [`CODES`] and [`row_of`] of the table below.
macro_rules! table {
    ($($code:literal {
        $($failure:pat => $status:ident, $title:literal, $fault:ident, $sent:expr, $proxy_error:expr;)+
    })+) => {
        /// All codes.
        pub const CODES: &[&str] = &[$($code),+];

        fn row_of(error: &Error) -> ErrorRow {
            match error {
                // A crawl of which pages have come: what stops it is why, but its calls were made.
                Error::MidCrawl(error) => ErrorRow { sent: Sent::Yes, ..row_of(error) },
                $($($failure => ErrorRow {
                    code: $code,
                    status: StatusCode::$status,
                    title: $title,
                    fault: Fault::$fault,
                    sent: $sent,
                    proxy_error: $proxy_error,
                },)+)+
            }
        }
    };
}

const REQUEST: &str = "http_request_error";
const DENIED: &str = "http_request_denied";

// The table: code, then for each failure with it the status, the title, whose fault it is, whether
// the request reached Linksfield, and the proxy error. A variant compiles once it has a row; a test
// asks `docs/errors.md` for the paragraph of each code.
table! {
    "malformed_request" {
        Error::MalformedRequest(_) => BAD_REQUEST, "Malformed request", Caller, Sent::No, REQUEST;
    }
    "invalid_path" {
        Error::InvalidPath(_) => BAD_REQUEST, "Invalid path", Caller, Sent::No, REQUEST;
    }
    "method_not_allowed" {
        Error::MethodNotAllowed { .. } =>
            METHOD_NOT_ALLOWED, "Method not allowed", Caller, Sent::No, REQUEST;
    }
    "unsupported_media_type" {
        Error::UnsupportedMediaType =>
            UNSUPPORTED_MEDIA_TYPE, "Unsupported media type", Caller, Sent::No, REQUEST;
        Error::UnsupportedCoding =>
            UNSUPPORTED_MEDIA_TYPE, "Unsupported content coding", Caller, Sent::No, REQUEST;
    }
    "foreign_origin" {
        Error::ForeignOrigin => FORBIDDEN, "Request of a web page", Caller, Sent::No, DENIED;
    }
    "invalid_header" {
        Error::InvalidHeader { .. } => BAD_REQUEST, "Invalid header", Caller, Sent::No, REQUEST;
    }
    "unauthenticated" {
        Error::Unauthenticated => UNAUTHORIZED, "Unknown caller", Caller, Sent::No, DENIED;
    }
    "tenant_forbidden" {
        Error::TenantForbidden(_) => FORBIDDEN, "Tenant not allowed", Caller, Sent::No, DENIED;
    }
    "commands_forbidden" {
        Error::CommandsForbidden => FORBIDDEN, "Commands not allowed", Caller, Sent::No, DENIED;
    }
    "commands_disabled" {
        Error::CommandsDisabled(_) | Error::AllCommandsDisabled =>
            FORBIDDEN, "Commands switched off", Caller, Sent::No, DENIED;
    }
    "unknown_tenant" {
        Error::UnknownTenant(_) => BAD_REQUEST, "Unknown tenant", Caller, Sent::No, REQUEST;
    }
    "tenant_mismatch" {
        Error::TenantMismatch => BAD_REQUEST, "Two tenants named", Caller, Sent::No, REQUEST;
    }
    "tenant_required" {
        Error::TenantRequired => BAD_REQUEST, "Tenant required", Caller, Sent::No, REQUEST;
    }
    "unlisted_path" {
        Error::UnlistedPath => NOT_FOUND, "Path not configured", Caller, Sent::No, DENIED;
    }
    "route_refused" {
        Error::RouteRefused => FORBIDDEN, "Path refused", Caller, Sent::No, DENIED;
    }
    "invalid_json" {
        Error::InvalidJson(_) => BAD_REQUEST, "Invalid JSON", Caller, Sent::No, REQUEST;
    }
    "body_too_large" {
        Error::BodyTooLarge(_) => PAYLOAD_TOO_LARGE, "Body too large", Caller, Sent::No, REQUEST;
    }
    "body_timeout" {
        Error::BodyTimeout => REQUEST_TIMEOUT, "Body too slow", Caller, Sent::No, REQUEST;
    }
    "body_incomplete" {
        Error::BodyIncomplete(_) => BAD_REQUEST, "Body incomplete", Caller, Sent::No, REQUEST;
    }
    "idempotency_key_required" {
        Error::IdempotencyKeyRequired =>
            BAD_REQUEST, "Idempotency key required", Caller, Sent::No, REQUEST;
    }
    "idempotency_mismatch" {
        Error::IdempotencyMismatch =>
            UNPROCESSABLE_ENTITY, "Idempotency key used before", Caller, Sent::No, REQUEST;
    }
    "command_in_doubt" {
        Error::CommandInDoubt { .. } => CONFLICT, "Command in doubt", Caller, Sent::Unknown, DENIED;
    }
    "idempotency_store_full" {
        Error::IdempotencyStoreFull =>
            SERVICE_UNAVAILABLE, "No room for keys", Gateway, Sent::No, DENIED;
    }
    "state_store_unavailable" {
        Error::StateStoreUnavailable(_) =>
            SERVICE_UNAVAILABLE, "State store unavailable", Gateway, Sent::No, "proxy_internal_error";
    }
    "not_cached" {
        Error::NotCached => GATEWAY_TIMEOUT, "Not in memory", Caller, Sent::No, DENIED;
    }
    "too_many_pages" {
        Error::TooManyPages { .. } =>
            UNPROCESSABLE_ENTITY, "Too many pages", Caller, Sent::No, DENIED;
        Error::DocumentTooLarge { .. } =>
            UNPROCESSABLE_ENTITY, "Document too large", Caller, Sent::No, DENIED;
    }
    "quota_exhausted" {
        Error::CrawlTooDear { .. } =>
            TOO_MANY_REQUESTS, "Quota exhausted", Caller, Sent::No, DENIED;
        Error::QuotaExhausted { .. } =>
            TOO_MANY_REQUESTS, "Quota exhausted", Gateway, Sent::No, DENIED;
        Error::RefreshRefused =>
            TOO_MANY_REQUESTS, "Quota nearly exhausted", Gateway, Sent::No, DENIED;
    }
    "pages_moved" {
        Error::PagesMoved =>
            SERVICE_UNAVAILABLE, "Pages moved", Upstream, Sent::Yes, "http_response_incomplete";
    }
    "breaker_open" {
        Error::BreakerOpen { .. } =>
            SERVICE_UNAVAILABLE, "Linksfield fails", Upstream, Sent::No, "destination_unavailable";
    }
    "upstream_paused" {
        Error::UpstreamPaused =>
            SERVICE_UNAVAILABLE, "Linksfield not asked", Gateway, Sent::No, "destination_unavailable";
    }
    "overloaded" {
        Error::Overloaded { .. } =>
            SERVICE_UNAVAILABLE, "Overloaded", Gateway, Sent::No, "connection_limit_reached";
    }
    "too_many_connections" {
        Error::TooManyConnections =>
            SERVICE_UNAVAILABLE, "Too many connections", Gateway, Sent::No, "connection_limit_reached";
    }
    "upstream_unreachable" {
        Error::UpstreamUnreachable { reason: Unreachable::OpenFiles, .. } =>
            SERVICE_UNAVAILABLE, "Out of open files", Gateway, Sent::No, Unreachable::OpenFiles.proxy_error();
        Error::UpstreamUnreachable { reason, .. } =>
            BAD_GATEWAY, "Linksfield unreachable", Upstream, Sent::No, reason.proxy_error();
        Error::UpstreamConnectTimeout =>
            GATEWAY_TIMEOUT, "Linksfield unreachable", Upstream, Sent::No, "connection_timeout";
    }
    "upstream_timeout" {
        Error::UpstreamTimeout(sent) =>
            GATEWAY_TIMEOUT, "Linksfield too slow", Upstream, *sent, "http_response_timeout";
    }
    "upstream_disconnected" {
        Error::UpstreamDisconnected { sent: Sent::Yes, .. } =>
            BAD_GATEWAY, "Answer cut off", Upstream, Sent::Yes, "http_response_incomplete";
        Error::UpstreamDisconnected { sent, .. } =>
            BAD_GATEWAY, "Connection lost", Upstream, *sent, "connection_terminated";
    }
    "upstream_invalid_answer" {
        Error::UpstreamInvalidAnswer { reason: InvalidAnswer::TooLarge, .. } =>
            BAD_GATEWAY, "Answer too large", Upstream, Sent::Yes, "http_response_body_size";
        Error::UpstreamInvalidAnswer { .. } | Error::UpstreamRedirects { .. } =>
            BAD_GATEWAY, "Answer not understood", Upstream, Sent::Yes, "http_protocol_error";
        Error::UpstreamMalformedAnswer(_) =>
            BAD_GATEWAY, "Answer not well-formed", Upstream, Sent::Yes, "http_protocol_error";
    }
    "upstream_throttled" {
        Error::UpstreamThrottled { .. } =>
            TOO_MANY_REQUESTS, "Too many requests for Linksfield", Upstream, Sent::Yes, "destination_unavailable";
    }
    "upstream_unavailable" {
        Error::UpstreamUnavailable { .. } =>
            SERVICE_UNAVAILABLE, "Linksfield unavailable", Upstream, Sent::Yes, "destination_unavailable";
    }
    "internal" {
        Error::Internal(sent) =>
            INTERNAL_SERVER_ERROR, "Internal error", Gateway, *sent, "proxy_internal_error";
    }
}

impl Error {
    /// Why a request's body was not read; `cap` is the most it may hold.
    pub fn of_body(error: ReadError, cap: usize) -> Self {
        match error {
            ReadError::TooLarge => Self::BodyTooLarge(cap),
            ReadError::Stalled => Self::BodyTimeout,
            ReadError::Broken(source) => Self::BodyIncomplete(source),
        }
    }

    /// The stable word for this failure: problem type, metric label, log field.
    pub fn code(&self) -> &'static str {
        row_of(self).code
    }

    /// Did the request reach Linksfield?
    pub fn sent(&self) -> Sent {
        row_of(self).sent
    }

    /// Whose fault is it?
    pub fn fault(&self) -> Fault {
        row_of(self).fault
    }

    /// Would the same request fail again, whatever time passes? No old answer stands in for such a
    /// failure.
    pub fn is_permanent(&self) -> bool {
        matches!(
            self.unwrapped(),
            Self::TooManyPages { .. } | Self::DocumentTooLarge { .. } | Self::RouteRefused
        )
    }

    /// Was there no turn for it in its time?
    pub fn is_overloaded(&self) -> bool {
        matches!(self, Self::Overloaded { .. })
    }

    /// The status of the vendor's answer, where that is why.
    pub fn answer_status(&self) -> Option<StatusCode> {
        match self.unwrapped() {
            Self::UpstreamInvalidAnswer { status, .. } | Self::UpstreamRedirects { status, .. } => {
                Some(*status)
            }
            Self::UpstreamThrottled { .. } => Some(StatusCode::TOO_MANY_REQUESTS),
            Self::UpstreamUnavailable { .. } => Some(StatusCode::SERVICE_UNAVAILABLE),
            _ => None,
        }
    }

    /// What the vendor's answer means, where that is why.
    pub fn answer_outcome(&self) -> Option<Outcome> {
        match self.unwrapped() {
            Self::UpstreamInvalidAnswer { outcome, .. }
            | Self::UpstreamRedirects { outcome, .. } => Some(*outcome),
            Self::UpstreamThrottled { .. } => Some(Outcome::Throttled),
            Self::UpstreamUnavailable { .. } => Some(Outcome::Transient),
            _ => None,
        }
    }

    /// What its sources say, for the log: the system's, TLS', hyper's and our own words, and none
    /// of a caller's. Where the vendor's answer is why: its status, and what is wrong with it.
    pub fn cause_text(&self) -> Option<String> {
        if let Some(status) = self.answer_status() {
            let wrong: &dyn std::fmt::Display = match self.unwrapped() {
                Self::UpstreamInvalidAnswer { reason, .. } => reason,
                Self::UpstreamRedirects { .. } => &"a redirect",
                _ => &InvalidAnswer::NotAnEnvelope,
            };
            return Some(format!("HTTP {}: {wrong}", status.as_u16()));
        }
        let first = std::error::Error::source(self)?;
        let mut said: Vec<String> = Vec::new();
        for source in chain(first).map(words_of) {
            // An `io::Error` says what its source says.
            if said.last() != Some(&source) {
                said.push(source);
            }
        }
        let text = said.join(": ");
        let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
        Some(printable.take(LONGEST_CAUSE).collect())
    }

    /// Where a redirect leads to.
    pub fn redirect_host(&self) -> Option<&str> {
        match self.unwrapped() {
            Self::UpstreamRedirects { host, .. } => host.as_deref(),
            _ => None,
        }
    }

    fn unwrapped(&self) -> &Self {
        match self {
            Self::MidCrawl(error) => error.unwrapped(),
            error => error,
        }
    }

    /// The response: RFC 9457 `application/problem+json` and the vendor's envelope in one object.
    pub fn to_response(&self, request_id: &RequestId) -> Response<Body> {
        self.response(request_id, &self.to_string())
    }

    /// The same for a command that may have been carried out: whoever reads no more than its text
    /// is told too.
    pub fn to_response_in_doubt(&self, request_id: &RequestId) -> Response<Body> {
        let detail = match self {
            Self::CommandInDoubt { .. } => self.to_string(), // which says where to look
            _ => format!("{self}: it may have been carried out; look before you send it again"),
        };
        self.response(request_id, &detail)
    }

    fn response(&self, request_id: &RequestId, detail: &str) -> Response<Body> {
        let row = row_of(self);
        let problem = ProblemBody {
            r#type: format!("{DOCUMENT}#{}", row.code),
            title: row.title,
            status: row.status.as_u16(),
            code: row.code,
            message: detail,
            detail,
            data: None,
            success: false,
            request_id: request_id.as_str(),
            sent: row.sent.as_str(),
        };
        let body = serde_json::to_vec(&problem).expect("strings and numbers are always JSON");
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = row.status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_REQUEST_ID, request_id.header());
        headers.insert(
            X_LINKSFIELD_SENT,
            HeaderValue::from_static(row.sent.as_str()),
        );
        let proxy_status = format!("linksfield-gateway; error={}", row.proxy_error);
        headers.insert(
            PROXY_STATUS,
            HeaderValue::from_str(&proxy_status).expect("made of tokens"),
        );
        match self.unwrapped() {
            Self::MethodNotAllowed { allow } => {
                headers.insert(ALLOW, HeaderValue::from_static(allow));
            }
            // RFC 9110, section 15.5.16
            Self::UnsupportedMediaType => {
                headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
            }
            Self::UnsupportedCoding => {
                headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            }
            Self::Unauthenticated => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::Overloaded { retry_after }
            | Self::BreakerOpen { retry_after, .. }
            | Self::QuotaExhausted { retry_after, .. } => {
                let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
                headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
            }
            Self::UpstreamThrottled {
                retry_after: Some(retry_after),
            }
            | Self::UpstreamUnavailable { retry_after } => {
                headers.insert(RETRY_AFTER, retry_after.clone());
            }
            Self::PagesMoved
            | Self::UpstreamUnreachable {
                reason: Unreachable::OpenFiles,
                ..
            } => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::TooManyConnections => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            // The rest of the body may still come; nothing behind it may be read as a request.
            Self::BodyTooLarge(_) | Self::BodyTimeout | Self::BodyIncomplete(_) => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

/// The members of RFC 9457, section 3.1, then those of the vendor's envelope, then ours.
#[derive(Serialize)]
struct ProblemBody<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    message: &'a str,
    data: Option<()>,
    success: bool,
    request_id: &'a str,
    sent: &'static str,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_has_a_paragraph_and_every_paragraph_a_code() {
        let document = include_str!("../../docs/errors.md");
        let paragraphs: BTreeSet<&str> = document
            .lines()
            .filter_map(|line| line.strip_prefix("## "))
            .collect();
        assert_eq!(paragraphs, CODES.iter().copied().collect());
        assert_eq!(paragraphs.len(), CODES.len(), "each code stands once");
    }

    fn id() -> RequestId {
        RequestId::of(&HeaderValue::from_static("id")).unwrap()
    }

    #[test]
    fn a_bug_of_ours_is_a_500_that_says_whether_the_request_left() {
        let response = Error::Internal(Sent::Unknown).to_response(&id());
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(
            response.headers()[PROXY_STATUS],
            "linksfield-gateway; error=proxy_internal_error"
        );
    }

    #[test]
    fn retry_after_is_at_least_one_whole_second() {
        for (millis, expected) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2")] {
            let error = Error::Overloaded {
                retry_after: Duration::from_millis(millis),
            };
            assert_eq!(error.to_response(&id()).headers()[RETRY_AFTER], expected);
        }
    }
}
