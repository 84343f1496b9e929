//! What is open towards the vendor now? Its connections, and the calls on them, by the version of
//! HTTP.

use std::sync::Arc;

/// The versions of HTTP that are spoken to the vendor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// One call at a time.
    Http1,
    /// Many calls at a time.
    Http2,
}

impl Protocol {
    const ALL: [Self; 2] = [Self::Http1, Self::Http2];

    /// The name that ALPN has for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "h2",
        }
    }
}

/// Held by whatever is counted, as long as it is.
pub(super) type Token = Arc<()>;

/// What is open now. A clone is the same one.
#[derive(Debug, Clone, Default)]
pub struct Traffic(Arc<[Tokens; 2]>);

#[derive(Debug, Default)]
struct Tokens {
    connection: Token,
    call: Token,
}

impl Traffic {
    pub(super) fn connection(&self, protocol: Protocol) -> Token {
        self.0[protocol as usize].connection.clone()
    }

    pub(super) fn call(&self, protocol: Protocol) -> Token {
        self.0[protocol as usize].call.clone()
    }

    /// Each version's name, open connections, and calls under way.
    pub fn levels(&self) -> [(&'static str, usize, usize); 2] {
        let held = |token: &Token| Arc::strong_count(token) - 1;
        Protocol::ALL.map(|protocol| {
            let tokens = &self.0[protocol as usize];
            (
                protocol.as_str(),
                held(&tokens.connection),
                held(&tokens.call),
            )
        })
    }
}
