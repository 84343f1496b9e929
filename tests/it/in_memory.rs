//! The whole gateway in this process, without a socket: a caller is a call of `handle`, the vendor
//! is a task behind a pipe, and time is paused.

use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{AGE, CONTENT_TYPE, DATE, HOST};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use linksfield_gateway::body::{Body, Received};
use linksfield_gateway::build::build;
use linksfield_gateway::clock::WallClock;
use linksfield_gateway::config::{Config, Secrets, TenantSecret};
use linksfield_gateway::gateway::command::LastingCommands;
use linksfield_gateway::gateway::command::keys::Keys;
use linksfield_gateway::gateway::query::LastingQueries;
use linksfield_gateway::gateway::vendor::LastingVendor;
use linksfield_gateway::gateway::vendor::skew::Skew;
use linksfield_gateway::gateway::vendor::upstream::{ByteStream, Resolved, Transport};
use linksfield_gateway::gateway::{Gateway, Lasting};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::support::{ACCESS_CODE, SECRET};

const CONFIG: &str = r#"
    upstream.base_url = "http://vendor.example"
    upstream.allow_plaintext = true
    upstream.timeout = "30s"
    upstream.limits.requests_per_second = "none" # or the first call waits for a second
    server = { request_timeout = "60s" }
    tenants.acme = { access_code = "P000270", secret_env = "UNUSED" }
    routes."/device/queryDevice" = { kind = "query", fresh_for = "1m", stale_for = "0s" }
"#;

/// It answers after as many seconds as the device's number is.
struct Vendor(WallClock);

impl Transport for Vendor {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> Resolved<'a> {
        assert_eq!((host, port), ("vendor.example", 80));
        Box::pin(ready(Ok(vec![([192, 0, 2, 1], port).into()])))
    }

    fn dial(&self, _: SocketAddr) -> io::Result<Box<dyn ByteStream>> {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let clock = self.0;
        let answer = move |request: Request<Incoming>| async move {
            let params = request.into_body().collect().await?.to_bytes();
            let params: Value = serde_json::from_slice(&params).unwrap();
            assert_eq!(params["access_code"], ACCESS_CODE);
            assert!(params["sign"].is_string());
            let seconds = params["device_id"].as_str().unwrap().parse().unwrap();
            sleep(Duration::from_secs(seconds)).await;
            let response = Response::builder()
                .header(CONTENT_TYPE, "application/json")
                .header(DATE, httpdate::fmt_http_date(clock.now()));
            let body = r#"{"code":"0000","data":{"state":"on"},"success":true}"#;
            hyper::Result::Ok(response.body(Full::new(Bytes::from(body))).unwrap())
        };
        tokio::spawn(async move {
            let server = http1::Builder::new();
            let _ = server
                .serve_connection(TokioIo::new(theirs), service_fn(answer))
                .await;
        });
        Ok(Box::new(ours))
    }
}

fn gateway() -> Gateway {
    let (config, _) = Config::parse(CONFIG, "test", std::iter::empty()).unwrap();
    let secret = TenantSecret {
        current: SECRET.into(),
        previous: None,
    };
    let secrets = Secrets {
        tenants: [("acme".to_owned(), secret)].into(),
        ..Secrets::default()
    };
    let clock = WallClock::simulated(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let skew = Skew::new(clock);
    let keys = Keys::new(&config.idempotency, None, Vec::new(), skew.clone());
    let lasting = Lasting {
        vendor: LastingVendor::over(Arc::new(Vendor(clock)), &config, None, None, skew),
        queries: LastingQueries::new(&config),
        commands: LastingCommands::new(keys),
    };
    build(&config, &secrets, &lasting, None).unwrap().gateway
}

/// The answer to a query for this card, and how long it took.
async fn ask(gateway: &Gateway, device: &str) -> (Response<Body>, Duration) {
    let body = Full::new(Bytes::from(format!(r#"{{"device_id":"{device}"}}"#)));
    let request = Request::post("/device/queryDevice")
        .header(HOST, "gateway.example")
        .header(CONTENT_TYPE, "application/json")
        .body(body);
    let (head, body) = request.unwrap().into_parts();
    let asked_at = Instant::now();
    let answer = gateway.handle(&head, &mut Received::of_request(body)).await;
    (answer, asked_at.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_query_goes_through_the_whole_gateway_in_memory_while_time_is_paused() {
    let gateway = gateway();
    let seconds = Duration::from_secs;
    let (answer, took) = ask(&gateway, "7").await;
    assert_eq!((answer.status().as_u16(), took), (200, seconds(7)));
    let status = &answer.headers()["cache-status"];
    assert_eq!(status, "linksfield-gateway; fwd=miss; stored; ttl=53");
    sleep(seconds(12)).await;
    let (answer, took) = ask(&gateway, "7").await;
    assert_eq!((answer.status().as_u16(), took), (200, seconds(0)));
    let status = &answer.headers()["cache-status"];
    assert_eq!(status, "linksfield-gateway; hit; ttl=41");
    assert_eq!(answer.headers()[AGE], "19");
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["data"]["state"], "on");
}

#[tokio::test(start_paused = true)]
async fn a_vendor_in_memory_that_is_too_slow_is_given_up_in_its_time_while_time_is_paused() {
    let gateway = gateway();
    let (answer, took) = ask(&gateway, "45").await;
    assert_eq!(answer.status(), 504);
    assert_eq!(took, Duration::from_secs(30));
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["code"], "upstream_timeout");
}
