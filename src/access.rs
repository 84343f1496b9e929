//! Who may change something on the admin listener, or see requests?

use std::net::SocketAddr;

use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use secrecy::SecretString;

use crate::gateway::request::head::Fields;
use crate::gateway::request::tenant::bears;

/// Who may change something or see a request.
#[derive(Debug)]
pub enum Access {
    /// Whoever bears this token.
    Token(SecretString),
    /// Whoever is on this machine: the listener is on loopback.
    Local,
    /// Nobody.
    Nobody,
}

impl Access {
    /// A configured token decides; without one, the listener's address.
    pub fn new(token: Option<SecretString>, listen: SocketAddr) -> Self {
        match token {
            Some(token) => Self::Token(token),
            None if listen.ip().is_loopback() => Self::Local,
            None => Self::Nobody,
        }
    }

    /// May whoever sent this head see requests? A web page could have the name of its own host
    /// point to this machine.
    pub fn shows_requests(&self, headers: &HeaderMap) -> bool {
        let is_meant = matches!(self, Self::Token(_)) || Fields::of(headers).is_own_host();
        is_meant && self.denies(headers.get(AUTHORIZATION)).is_none()
    }

    /// Is whoever sends this `Authorization` kept out, and why?
    pub fn denies(&self, authorization: Option<&HeaderValue>) -> Option<Denied> {
        match self {
            Self::Local => None,
            Self::Token(token) if bears(authorization, token) => None,
            Self::Token(_) => Some(Denied::WrongToken),
            Self::Nobody => Some(Denied::Everybody),
        }
    }
}

/// Why somebody may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The token is missing, or another one.
    WrongToken,
    /// No token is configured, and the listener is beyond loopback.
    Everybody,
}
