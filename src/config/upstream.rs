//! `[upstream]`: the side of the vendor.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::base_url::BaseUrl;
use super::faults::{Breaker, Retry};
use super::limits::Limits;
use super::written;

/// `[upstream]`: the vendor and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches of the file"
)]
pub struct Upstream {
    /// Where the vendor is. It has no default.
    pub base_url: BaseUrl,
    /// Send signed requests unencrypted to another machine.
    pub allow_plaintext: bool,
    /// What may be sent as `Accept-Language`; the first where a caller names none that matches.
    pub languages: Vec<String>,
    /// To connect, TLS included.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// One exchange with the vendor, retries included.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// HTTP/1.1: how long a connection that was given up keeps its slot, until the vendor has ended
    /// it.
    #[serde(with = "humantime_serde")]
    pub hold: Duration,
    /// Certificates (PEM) to trust instead of the bundled roots.
    #[serde(serialize_with = "written::or_unset")]
    pub ca_file: Option<PathBuf>,
    /// The largest answer.
    #[serde(serialize_with = "written::size")]
    pub max_answer: ByteSize,
    /// Offer HTTP/2 by ALPN, beside HTTP/1.1: where the vendor takes it, a connection carries many
    /// requests at a time.
    pub http2: bool,
    /// The brake: `true` makes no call. Queries are answered from memory, as long as an old page
    /// may stand in for a failure.
    pub paused: bool,
    /// Tell the vendor which trace of the caller's a request belongs to.
    pub forward_traceparent: bool,
    /// What the vendor allows.
    pub limits: Limits,
    /// What the vendor's business codes mean.
    pub codes: Codes,
    /// How often a query is asked again.
    pub retry: Retry,
    /// When nothing is asked for a while.
    pub breaker: Breaker,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            base_url: BaseUrl::default(),
            allow_plaintext: false,
            languages: vec!["zh-CN".to_owned(), "en-US".to_owned()],
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(15),
            hold: Duration::from_secs(120),
            ca_file: None,
            max_answer: ByteSize::mib(8),
            http2: false,
            paused: false,
            forward_traceparent: false,
            limits: Limits::default(),
            codes: Codes::default(),
            retry: Retry::default(),
            breaker: Breaker::default(),
        }
    }
}

/// `[upstream.codes]`: business codes that mean more than "failed". HTTP 401, 403, 429 and 5xx
/// count always.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Codes {
    /// The signature was refused.
    pub bad_signature: Vec<String>,
    /// The request is wrong, and would be at any other time: an order of what does not exist, say.
    pub caller_error: Vec<String>,
    /// Too many requests.
    pub throttled: Vec<String>,
    /// A fault on the vendor's side that may pass.
    pub transient: Vec<String>,
}
