//! What was asked, and what was said to it? The nouns of this room.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};

use hyper::StatusCode;

use crate::gateway::vendor::upstream::{Answer, SUCCESS};
use crate::words::{CallEnd, Outcome};

/// What an answer says that nothing classifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// A `code` in none of the lists, or that of a success without one.
    Code(Cow<'static, str>),
    /// A status without an envelope.
    Status(u16),
}

impl Meaning {
    /// None for what is classified. What is no envelope with HTTP 200 is the breaker's matter
    /// already.
    pub(super) fn of(answer: &Answer) -> Option<Self> {
        match answer.outcome {
            Outcome::Unknown if answer.is_envelope => answer.vendor_code.clone().map(Self::Code),
            // Its status says whose fault it is, and as long as that is not everybody's, it is
            // believed.
            Outcome::CallerError if answer.has_unknown_code => {
                answer.vendor_code.clone().map(Self::Code)
            }
            // An envelope would be the vendor's own word on the signature.
            Outcome::Unknown | Outcome::CallerError | Outcome::BadSignature
                if !answer.is_envelope && answer.status != StatusCode::OK =>
            {
                Some(Self::Status(answer.status.as_u16()))
            }
            _ => None,
        }
    }

    /// What somebody can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Code(code) if code != SUCCESS => {
                "tell the vendor; if it is no failure, put the code into the list of upstream.codes that says what it means"
            }
            _ => {
                "tell the vendor, or whoever runs the proxy before it; no list of upstream.codes can have this"
            }
        }
    }
}

impl std::fmt::Display for Meaning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) if code == SUCCESS => write!(f, "{code:?} without success"),
            Self::Code(code) => write!(f, "code {code}"),
            Self::Status(status) => write!(f, "HTTP {status}"),
        }
    }
}

/// How a call ended, for its route and tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// A success.
    Success,
    /// Something else that is classified.
    Refusal,
    /// Something that is not.
    Unclassified(Meaning),
    /// The vendor fails, as the breaker counts it.
    Failure,
    /// Nothing, or that there were too many calls.
    Nothing,
}

impl Said {
    /// That of an answer that is not classified.
    pub(super) fn meaning(&self) -> Option<&Meaning> {
        match self {
            Self::Unclassified(meaning) => Some(meaning),
            _ => None,
        }
    }

    /// `end` is what the end of the call says of the vendor.
    pub fn of(answer: Option<&Answer>, end: CallEnd) -> Self {
        if let Some(meaning) = answer.and_then(Meaning::of) {
            return Self::Unclassified(meaning);
        }
        match end {
            CallEnd::Success => Self::Success,
            CallEnd::Refused => Self::Refusal,
            CallEnd::Failure => Self::Failure,
            CallEnd::Neither => Self::Nothing,
        }
    }
}

/// What was asked, in normal form, and by whom.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The parameters.
    pub params: &'a str,
    /// Where callers are configured.
    pub caller: Option<&'a str>,
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl Asked<'_> {
    /// Where none are configured, everybody is one.
    pub(super) fn caller(&self) -> u64 {
        hash(self.caller)
    }

    pub(super) fn question(&self) -> u64 {
        hash(self.params)
    }
}
