//! HTTPS to the vendor: verified against `ca_file`, or not at all.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use crate::support::{gateway, gateway_to, upstream};

/// A certificate for `name`, and the PEM of the authority that signed it.
fn certificate(name: &str) -> (TlsAcceptor, String) {
    certificate_with(name, &[])
}

/// The same, with these protocols (ALPN).
pub fn certificate_with(name: &str, protocols: &[&str]) -> (TlsAcceptor, String) {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([name.to_owned()])
        .unwrap()
        .signed_by(&key, &authority)
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = config
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().into())
        .collect();
    (TlsAcceptor::from(Arc::new(config)), authority.pem())
}

#[tokio::test]
async fn a_host_with_a_dot_at_its_end_is_verified_without_it_and_sent_with_it() {
    let (acceptor, authority) = certificate("localhost");
    let upstream = upstream().tls(acceptor).run().await;
    let url = upstream.url().replacen("localhost", "localhost.", 1);
    let builder = gateway_to(&url);
    let path = builder.file("ca.pem", &authority);
    let gateway = builder
        .set("upstream.ca_file", &format!("{path:?}"))
        .run()
        .await;
    assert_eq!(gateway.page(1).await.status, 200, "{}", gateway.output());
    let host = upstream.last().header("host").unwrap().to_owned();
    assert!(host.starts_with("localhost.:"), "{host}");
}

#[tokio::test]
async fn one_broken_certificate_among_good_ones_is_skipped_and_told() {
    let (acceptor, authority) = certificate("localhost");
    let (_, other) = certificate("localhost");
    let upstream = upstream().tls(acceptor).run().await;
    let garbled = other.replace("MII", "MIJ");
    let cut = other[..other.len() / 2].to_owned() + "\n";
    let not_base64 = other.replace("MII", "?!?");
    for (broken, kind) in [
        (garbled, "garbled"),
        (cut, "cut"),
        (not_base64, "not base64"),
    ] {
        for pem in [
            format!("{broken}{authority}"),
            format!("{authority}{broken}"),
        ] {
            let builder = gateway(&upstream);
            let path = builder.file("ca.pem", &pem);
            let builder = builder.set("upstream.ca_file", &format!("{path:?}"));
            let config = builder.write();
            let checked = builder
                .command(&["check", "--config", &config])
                .output()
                .unwrap();
            let told = String::from_utf8(checked.stderr).unwrap();
            assert_eq!(checked.status.code(), Some(0), "{kind}: {told}");
            assert!(
                told.contains("upstream.ca_file") && told.contains(" of 2 cannot be used"),
                "{kind}: {told}"
            );
            let gateway = builder.run().await;
            assert_eq!(gateway.page(1).await.status, 200, "{kind}");
            assert!(gateway.output().contains("cannot be used"), "{kind}");
        }
        let builder = gateway(&upstream);
        let path = builder.file("ca.pem", &broken);
        let builder = builder.set("upstream.ca_file", &format!("{path:?}"));
        assert!(
            builder
                .refused()
                .await
                .contains("no certificate that can be used"),
            "{kind}"
        );
    }
}

#[tokio::test]
async fn the_vendor_is_verified_against_the_configured_authority() {
    let (acceptor, authority) = certificate("localhost");
    let upstream = upstream().tls(acceptor).run().await;
    let trusting = gateway(&upstream);
    let path = trusting.file("ca.pem", &authority);
    let trusting = trusting
        .set("upstream.ca_file", &format!("{path:?}"))
        .run()
        .await;
    for number in 1..=3 {
        assert_eq!(trusting.page(number).await.status, 200);
        assert_eq!(trusting.order().await.status, 200);
    }
    assert_eq!(upstream.connections_opened(), 1);
    let expiry = trusting.metric("upstream_certificate_expiry_timestamp_seconds", &[]);
    assert!(expiry.await > 1.8e9, "rcgen's certificates last long");
}

#[tokio::test]
async fn a_vendor_that_cannot_be_verified_gets_nothing() {
    let (_, another_authority) = certificate("localhost");
    let (wrong_name, wrong_names_authority) = certificate("elsewhere.example");
    let (unknown, _) = certificate("localhost");
    for (acceptor, authority) in [
        (unknown.clone(), Some(another_authority)),
        (wrong_name, Some(wrong_names_authority)),
        (unknown, None),
    ] {
        let upstream = upstream().tls(acceptor).run().await;
        let mut builder = gateway(&upstream);
        if let Some(authority) = authority {
            let path = builder.file("ca.pem", &authority);
            builder = builder.set("upstream.ca_file", &format!("{path:?}"));
        }
        let gateway = builder.run().await;
        for reply in [gateway.page(1).await, gateway.order().await] {
            assert_eq!(
                reply.problem(),
                (502, "upstream_unreachable".into(), "no".into())
            );
            assert_eq!(
                reply.header("proxy-status"),
                Some("linksfield-gateway; error=tls_certificate_error")
            );
        }
        assert_eq!(upstream.calls(), 0);
    }
}

#[tokio::test]
async fn a_vendor_that_speaks_no_tls_or_does_not_answer_is_unreachable() {
    let plain = upstream().run().await;
    let gateway = gateway(&plain)
        .set(
            "upstream.base_url",
            &format!("\"https://localhost:{}/cube/v4\"", plain.port),
        )
        .run()
        .await;
    let reply = gateway.page(1).await;
    let (status, code, sent) = reply.problem();
    assert_eq!((&*code, &*sent), ("upstream_unreachable", "no"));
    assert!([502, 504].contains(&status));
}

#[tokio::test]
async fn a_connection_that_takes_too_long_is_a_504_that_was_not_sent() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(); // accepts, and says nothing of TLS
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set(
            "upstream.base_url",
            &format!(
                "\"https://localhost:{}/cube/v4\"",
                silent.local_addr().unwrap().port()
            ),
        )
        .set("upstream.connect_timeout", "\"100ms\"")
        .run()
        .await;
    let reply = gateway.order().await;
    assert_eq!(
        reply.problem(),
        (504, "upstream_unreachable".into(), "no".into())
    );
    assert_eq!(
        reply.header("proxy-status"),
        Some("linksfield-gateway; error=connection_timeout")
    );
}

#[tokio::test]
async fn an_unknown_host_is_told_as_such() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set(
            "upstream.base_url",
            "\"https://no-such-host.invalid/cube/v4\"",
        )
        .run()
        .await;
    let reply = gateway.page(1).await;
    assert_eq!(reply.problem().1, "upstream_unreachable");
    assert!(
        ["dns_error", "connection_timeout"]
            .iter()
            .any(|error| reply.header("proxy-status").unwrap().ends_with(error)),
        "{reply:?}"
    );
}
