//! The way to the vendor, over TCP and over streams in memory.

use std::future::ready;
use std::sync::atomic::AtomicUsize;

use http_body_util::{BodyExt as _, Full};
use hyper::server::conn;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::CertifiedKey;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::gateway::request::language::Languages;

async fn empty_slot() -> EmptySlot {
    match Slot::default().find(0, Duration::ZERO).await {
        Vacancy::Empty(slot) => slot,
        Vacancy::Connected(stream) => panic!("{stream:?}"),
    }
}

#[tokio::test]
async fn an_address_that_swallows_everything_does_not_hide_the_next() {
    let full = TcpSocket::new_v4().unwrap();
    full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = full.listen(0).unwrap(); // the kernel takes one connection, and drops the next
    let swallows = full.local_addr().unwrap();
    let _one = TcpStream::connect(swallows).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let deadline = Instant::now() + Duration::from_secs(2);
    let slot = empty_slot().await;
    let farewell = Farewell {
        hold: Duration::ZERO,
        most: 0,
    };
    let dial = |address| slot.dial(&Tcp, address, farewell);
    let reached = reach(&[swallows, address], dial, deadline).await;
    let (_, reached) = reached.unwrap();
    assert_eq!(reached, address);
    assert!(deadline - Instant::now() <= Duration::from_secs(1));
}

#[tokio::test]
async fn what_came_before_a_request_is_not_its_answer_though_the_runtime_has_not_noticed() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let slot = empty_slot().await;
    let farewell = Farewell {
        hold: Duration::ZERO,
        most: 0,
    };
    let mut socket = slot.dial(&Tcp, address, farewell).unwrap();
    socket.connected().await.unwrap();
    let (mut vendor, _) = listener.accept().unwrap();
    let brakes = Brakes::new(&config_of("http://127.0.0.1:1"));
    let traffic = Traffic::default();
    let counted = traffic.connection(Protocol::Http1);
    let sender = http1::open(socket, brakes, counted).await.unwrap();
    let mut stream = slot.fill(Connection {
        upstream: 0,
        sender: Sender::Http1(sender),
        traffic,
    });
    for _ in 0..10 {
        tokio::task::yield_now().await; // its task waits for bytes, or for a request
    }
    let forged = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
    // This thread is the runtime's, so it has not seen these bytes when the request is sent.
    std::io::Write::write_all(&mut vendor, forged).unwrap();
    let progress = Progress::default();
    progress.begin();
    let request = Request::new(Payload::new(Bytes::from_static(b"{}"), None));
    let answer = stream.send(request, &progress).await;
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(progress.sent(), Sent::No);
}

#[test]
fn a_pause_is_told_in_seconds_or_by_a_date() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
    for (text, seconds) in [
        ("7", Some(7)),
        ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7)),
        ("Sun, 06 Nov 1994 08:49:27 GMT", Some(0)),
        ("9300000000000000000", Some(3600)),
        ("-1", None),
        ("+1", None),
        ("", None),
        ("soon", None),
    ] {
        assert_eq!(pause(text, now), seconds.map(Duration::from_secs), "{text}");
    }
}

/// A vendor in memory: each connection is served by hyper, where time is paused if the test has
/// paused it.
struct InMemory {
    answer: fn(&str) -> Duration,
    tls: Option<TlsAcceptor>,
    connections: AtomicUsize,
}

impl InMemory {
    /// It answers a request after so long, by its body.
    fn new(answer: fn(&str) -> Duration) -> Self {
        Self {
            answer,
            tls: None,
            connections: AtomicUsize::new(0),
        }
    }
}

impl Transport for InMemory {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> Resolved<'a> {
        assert_eq!((host, port), ("vendor.example", 443));
        Box::pin(ready(Ok(vec![([192, 0, 2, 1], port).into()])))
    }

    fn dial(&self, _: SocketAddr) -> io::Result<Box<dyn ByteStream>> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let (answer, tls) = (self.answer, self.tls.clone());
        let service = service_fn(move |request: Request<Incoming>| async move {
            let body = request.into_body().collect().await?.to_bytes();
            sleep(answer(str::from_utf8(&body).unwrap())).await;
            let envelope = r#"{"code":"0000","data":{},"success":true}"#;
            hyper::Result::Ok(Response::new(Full::new(Bytes::from(envelope))))
        });
        tokio::spawn(async move {
            if let Some(tls) = tls {
                let io = TokioIo::new(tls.accept(theirs).await.unwrap());
                let server = conn::http2::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(io, service).await;
            } else {
                let server = conn::http1::Builder::new();
                let _ = server.serve_connection(TokioIo::new(theirs), service).await;
            }
        });
        Ok(Box::new(ours))
    }
}

fn config_of(base_url: &str) -> config::Config {
    let config = format!(
        "upstream.base_url = \"{base_url}\"\nupstream.http2 = true\nupstream.allow_plaintext = true\n\
         tenants.a = {{ access_code = \"P1\", secret_env = \"S\" }}"
    );
    let config = config::Config::parse(&config, "test", std::iter::empty());
    config.unwrap().0
}

/// One query through a slot, with 30 seconds for it.
async fn ask(upstream: &Arc<Upstream>, slot: &Slot, body: &'static str) -> Exchanged {
    let deadline = Instant::now() + Duration::from_secs(30);
    let stream = match upstream.find(slot, QUERY_MAX_IDLE).await {
        Vacancy::Connected(stream) => stream,
        Vacancy::Empty(slot) => upstream.connect(slot, deadline).await.unwrap(),
    };
    let progress = Progress::default();
    progress.begin();
    let languages = Languages::new(&["en-US".to_owned()]);
    let message = Message {
        path: "/package/queryOrder",
        language: languages.choose(None),
        traceparent: None,
        body: body.into(),
        subject: None,
    };
    upstream
        .exchange(stream, message, deadline, &progress)
        .await
}

fn answer_after(body: &str) -> Duration {
    Duration::from_secs(body.parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_query_through_memory_is_answered_in_its_time_or_comes_late() {
    let vendor = Arc::new(InMemory::new(answer_after));
    let config = config_of("http://vendor.example:443");
    let (brakes, traffic) = (Brakes::new(&config), Traffic::default());
    let upstream = Upstream::over(vendor.clone(), &config.upstream, None, brakes, traffic);
    let (upstream, slot) = (Arc::new(upstream), Slot::default());
    for _ in 0..2 {
        let began = Instant::now();
        let exchanged = ask(&upstream, &slot, "7").await;
        assert!(
            matches!(&exchanged, Exchanged::Answered(answer, _) if answer.outcome == Outcome::Success),
            "{exchanged:?}"
        );
        assert_eq!(began.elapsed(), Duration::from_secs(7));
    }
    let began = Instant::now();
    let Exchanged::Late(late) = ask(&upstream, &slot, "45").await else {
        panic!("there was no answer in time")
    };
    assert_eq!(began.elapsed(), Duration::from_secs(30));
    assert!(late.await.1.is_ok(), "the vendor is still heard");
    assert_eq!(began.elapsed(), Duration::from_secs(45));
    assert_eq!(vendor.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn queries_go_through_memory_beside_each_other_by_http2() {
    let (acceptor, ca) = tls_of("vendor.example");
    let vendor = Arc::new(InMemory {
        tls: Some(acceptor),
        ..InMemory::new(answer_after)
    });
    let config = config_of("https://vendor.example");
    let (brakes, traffic) = (Brakes::new(&config), Traffic::default());
    let upstream = Upstream::over(vendor.clone(), &config.upstream, Some(&ca), brakes, traffic);
    let (upstream, slot) = (Arc::new(upstream), Slot::default());
    let began = Instant::now();
    let both = tokio::join!(ask(&upstream, &slot, "7"), ask(&upstream, &slot, "7"));
    assert!(
        matches!(both, (Exchanged::Answered(..), Exchanged::Answered(..))),
        "{both:?}"
    );
    assert_eq!(began.elapsed(), Duration::from_secs(7));
    let exchanged = ask(&upstream, &slot, "45").await;
    assert!(
        matches!(
            exchanged,
            Exchanged::Failed(NoAnswer::Failed(Error::UpstreamTimeout(Sent::Unknown)))
        ),
        "{exchanged:?}"
    );
    assert_eq!(began.elapsed(), Duration::from_secs(37));
    assert_eq!(vendor.connections.load(Ordering::Relaxed), 1);
}

/// What a vendor of this name shows, with HTTP/2, and whom to trust for it.
fn tls_of(name: &str) -> (TlsAcceptor, Ca) {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let (ca, _) = Ca::parse(cert.pem().into_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![HTTP2.to_vec()];
    (TlsAcceptor::from(Arc::new(config)), ca)
}
