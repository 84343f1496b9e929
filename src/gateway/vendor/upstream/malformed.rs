//! What has come that is no well-formed answer?

use std::io;

use crate::gateway::error::chain;

/// Why an answer is not taken. The texts are ours: nothing of the answer is in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("{0}")]
    Parser(httparse::Error),
    #[error("a malformed {0} line")]
    Framing(&'static str),
    #[error("a line of nothing but carriage returns or NULs")]
    Byte,
    #[error("a head of more than 64 KiB")]
    TooLarge,
    #[error("a switch of protocols, which nobody asked for")]
    Switch,
}

impl From<Malformed> for io::Error {
    fn from(malformed: Malformed) -> Self {
        Self::new(io::ErrorKind::InvalidData, malformed)
    }
}

/// Has something come that is no well-formed answer? (Not so a broken record of TLS, nor an answer
/// that broke off.)
pub(super) fn is_malformed(error: &(dyn std::error::Error + 'static)) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput};
    chain(error).any(|cause| {
        if let Some(error) = cause.downcast_ref::<hyper::Error>() {
            return error.is_parse();
        }
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            return error.is_library() && error.reason() == Some(h2::Reason::PROTOCOL_ERROR);
        }
        // That is how hyper tells of chunks that are none.
        let of_chunks = cause.downcast_ref::<io::Error>().is_some_and(|error| {
            let of_tls = error
                .get_ref()
                .and_then(|cause| cause.downcast_ref::<rustls::Error>())
                .is_some();
            let of_system = error.raw_os_error().is_some();
            matches!(error.kind(), InvalidData | InvalidInput) && !of_tls && !of_system
        });
        of_chunks || cause.is::<Malformed>()
    })
}
