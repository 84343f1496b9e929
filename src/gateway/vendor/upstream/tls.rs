//! TLS towards the vendor: whom is trusted, what is offered, and why has a handshake failed?

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;

use crate::config::Ca;
use crate::gateway::error::{Error, Unreachable};

/// Offered by ALPN (RFC 7301).
pub(super) const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

#[derive(Clone)]
pub(super) struct TlsConfig(pub(super) Arc<ClientConfig>);

impl std::fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsConfig")
    }
}

/// TLS 1.2 or later, verified against the given certificates, else against Mozilla's, which are
/// part of the binary.
pub(super) fn tls_config(ca: Option<&Ca>, offers_http2: bool) -> Arc<ClientConfig> {
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

pub(super) fn expiry(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

pub(super) fn tls_failure(source: io::Error) -> Error {
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
