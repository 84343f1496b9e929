//! Which words do metrics, logs, headers and code share? Each vocabulary is an enum with all its
//! values and one spelling of each.
//!
//! A spelling is seen from outside: dashboards, alerts and callers compare it. Code compares the
//! values. Nothing of ours is imported here, so that whoever counts a thing and whoever decides it
//! can use the same word without knowing each other.

/// Makes an enum of each vocabulary, with `ALL` and `as_str`, so that a value stands in one line
/// and cannot be missing from the list of all.
macro_rules! vocabularies {
    ($(
        $(#[$about:meta])*
        $name:ident { $($(#[$about_value:meta])* $value:ident => $spelling:literal,)+ }
    )+) => { $(
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$about_value])* $value,)+
        }

        impl $name {
            /// Every value.
            pub const ALL: [Self; [$($spelling),+].len()] = [$(Self::$value),+];

            /// The spelling in metrics and logs.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $spelling,)+
                }
            }
        }
    )+ };
}

vocabularies! {
    /// How an exchange ended.
    RequestResult {
        /// A fresh page from memory.
        Hit => "hit",
        /// A page from memory that is not fresh.
        Stale => "stale",
        /// The answer of a fill that ran for somebody else.
        Coalesced => "coalesced",
        /// The answer, or the failure, of a fill that this request began.
        Miss => "miss",
        /// The answer of a fill that memory has no part in, as the caller asked.
        Bypass => "bypass",
        /// A command.
        Command => "command",
        /// Refused before it was either.
        Refused => "refused",
    }

    /// Did the request reach Linksfield?
    Sent {
        /// Proven not: no byte of it has left.
        No => "no",
        /// An answer to it has begun.
        Yes => "yes",
        /// It has left, or may have, and no answer came.
        Unknown => "unknown",
    }

    /// Whose fault is it that a request did not get what it asked for?
    Fault {
        /// The caller's, or nobody's: it asked for what cannot be, or may not be.
        Caller => "caller",
        /// Ours: no room, no turn, no budget, a brake, a secret.
        Gateway => "gateway",
        /// Linksfield's, or that of what lies between.
        Upstream => "upstream",
    }

    /// What an answer of Linksfield means.
    Outcome {
        /// HTTP 200, `code` "0000", `success` true.
        Success => "success",
        /// The vendor says that the request is wrong.
        CallerError => "caller_error",
        /// The vendor does not accept the signature.
        BadSignature => "bad_signature",
        /// The vendor's limits are reached.
        Throttled => "throttled",
        /// The vendor fails for now.
        Transient => "transient",
        /// Anything else, an unconfigured business code above all.
        Unknown => "unknown",
        /// Nothing classifies it, and it has become so common that it is taken for an outage
        /// (`vendor/unclassified.rs`). Metrics and logs show it as unknown, too.
        Usual => "unknown",
    }

    /// How a call ended, as far as the vendor's health is concerned.
    CallEnd {
        /// The vendor is well.
        Success => "success",
        /// No connection, no answer, none that is whole, or one that says that the vendor fails.
        Failure => "failure",
        /// The vendor is there, and refuses: a caller's error, a bad signature, an unknown code. No
        /// failure, and enough to see that it is well again.
        Refused => "refused",
        /// It says nothing about the vendor: too many calls, or none was made.
        Neither => "neither",
    }

    /// Why a call of Linksfield is made.
    CallReason {
        /// A caller waits for its answer.
        Caller => "caller",
        /// A caller would not take what is in memory.
        NoCache => "no_cache",
        /// A stale page was answered, and is fetched again.
        Revalidate => "revalidate",
        /// All pages of a query are fetched.
        Crawl => "crawl",
        /// The call before it failed, or its signature was refused.
        Retry => "retry",
    }

    /// What a call is to the others of its tenant. The order is that of who goes first.
    Class {
        /// Changes something.
        Command => "command",
        /// Somebody waits for it.
        Query => "query",
        /// One of all pages of a query: one such call at a time.
        Crawl => "crawl",
        /// Nobody waits for it: a page that is answered stale meanwhile. It becomes a query once
        /// somebody waits after all, as a query becomes this once all have left who waited.
        Refresh => "refresh",
    }

    /// One of a tenant's secrets.
    WhichSecret {
        /// That of `secret_file`.
        Current => "current",
        /// That of `previous_secret_file`.
        Previous => "previous",
    }

    /// Why pages were made unfindable.
    InvalidationCause {
        /// A command may have changed what they show.
        Command => "command",
        /// An operator asked for it.
        Purge => "purge",
    }

    /// Who is listened to.
    ListenerName {
        /// The callers.
        Data => "data",
        /// The operators.
        Admin => "admin",
    }
}

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It was answered, and the answer means this.
    Answered(Outcome),
    /// There is no answer, or none that can be used: the code of the error.
    Failed(&'static str),
}

impl Ending {
    /// The spelling in metrics, logs and `Cache-Status`, where meanings and codes stand in one
    /// place.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered(outcome) => outcome.as_str(),
            Self::Failed(code) => code,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_outcomes_but_those_that_nothing_classifies_are_spelled_alike() {
        let outcomes = Outcome::ALL.into_iter();
        let spellings: std::collections::BTreeSet<_> = outcomes.map(Outcome::as_str).collect();
        assert_eq!(spellings.len(), Outcome::ALL.len() - 1);
        assert_eq!(Outcome::Usual.as_str(), Outcome::Unknown.as_str());
    }
}
