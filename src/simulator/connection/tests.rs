//! The simulator over real sockets, seen by a client that reads and writes bytes.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::super::sign::signed;
use super::super::{DEMO_SECRET, Options, Settings, run};
use super::*;

struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<io::Result<()>>,
}

impl Running {
    async fn start(patch: &str) -> Self {
        let options = Options {
            settings: Settings::default().changed(patch.as_bytes()).unwrap(),
            ..Options::default()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move { drop(stopped.await) };
        let ended = tokio::spawn(run(listener, options, shutdown));
        Self {
            address,
            stop,
            ended,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// One request on a connection of its own, read to its end.
    async fn send(&self, request: &str) -> io::Result<String> {
        let mut stream = self.connect().await;
        exchange(&mut stream, request).await
    }

    async fn control(&self, patch: &str) -> Value {
        let request = format!(
            "POST /_simulator/control HTTP/1.1\r\nhost: s\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{patch}",
            patch.len()
        );
        body(&self.send(&request).await.unwrap())
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.ended.await.unwrap().unwrap();
    }
}

async fn exchange(stream: &mut TcpStream, request: &str) -> io::Result<String> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8(answer).unwrap())
}

/// One answer on a connection that stays open.
async fn read_answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && body.len() >= length(head)
        {
            return text;
        }
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "closed");
    }
}

fn length(head: &str) -> usize {
    let mut lines = head.lines();
    let length = lines.find_map(|line| line.strip_prefix("content-length: "));
    length.unwrap().parse().unwrap()
}

fn body(answer: &str) -> Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

fn request(path: &str, headers: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: s\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

const CLOSE: &str = "connection: close\r\n";

fn params(extra: &str) -> String {
    let params = format!(
        r#"{{"access_code":"P000270","timestamp":"{}","version":"2.0"{extra}}}"#,
        now().as_secs()
    );
    signed(DEMO_SECRET, &params)
}

fn query(headers: &str) -> String {
    let body = params(r#","page_no":1,"page_size":2"#);
    request("/cube/v4/package/queryOrder", headers, &body)
}

#[tokio::test]
async fn a_query_is_answered_in_the_language_that_was_asked_for() {
    let simulator = Running::start("{}").await;
    let answer = simulator.send(&query(CLOSE)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-language: zh-CN\r\n"));
    let text = answer.split_once("\r\n\r\n").unwrap().1;
    assert!(text.starts_with(r#"{"code":"0000","data":{"page":{"cur_page_no":1,"#));
    assert!(text.ends_with(r#""package_order_num":2},"message":"成功","success":true}"#));
    let english = "accept-language: en-US\r\nconnection: close\r\n";
    let answer = simulator.send(&query(english)).await.unwrap();
    assert!(answer.contains("content-language: en-US\r\n"));
    assert_eq!(body(&answer)["message"], "success");
    simulator.stop().await;
}

#[tokio::test]
async fn what_is_no_call_is_refused_in_the_envelope() {
    let simulator = Running::start("{}").await;
    for (request, status, code) in [
        (request("/package/queryOrder", CLOSE, "{}"), 404, "SIM-4040"),
        (request("/cube/v4x/a", CLOSE, "{}"), 404, "SIM-4040"),
        (
            request("/cube/v4/package/no", CLOSE, &params("")),
            404,
            "SIM-4040",
        ),
        (
            request("/cube/v4/package/queryOrder?a=1", CLOSE, &params("")),
            200,
            "SIM-4002",
        ),
        (
            query(CLOSE).replace("application/json", "text/plain"),
            415,
            "SIM-4150",
        ),
        (query(CLOSE).replacen("POST", "GET", 1), 405, "SIM-4050"),
        (
            query(CLOSE).replace("\"page_size\":2", "\"page_size\":3"),
            200,
            "SIM-4011",
        ),
    ] {
        let answer = simulator.send(&request).await.unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert_eq!(body(&answer)["code"], code);
    }
    simulator.stop().await;
}

#[tokio::test]
async fn a_body_over_the_bound_is_refused_unread() {
    let simulator = Running::start("{}").await;
    let mut stream = simulator.connect().await;
    let head = request("/cube/v4/package/queryOrder", "", "");
    let head = head.replace("content-length: 0", "content-length: 1048577");
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_answer(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    simulator.stop().await;
}

#[tokio::test]
async fn a_dropped_connection_ends_without_a_byte() {
    let simulator = Running::start(r#"{"fail":"drop","fail_count":1}"#).await;
    assert_eq!(simulator.send(&query("")).await.unwrap(), "");
    let answer = simulator.send(&query(CLOSE)).await.unwrap();
    assert_eq!(body(&answer)["code"], "0000");
    simulator.stop().await;
}

#[tokio::test]
async fn a_reset_connection_is_an_error_to_its_client() {
    let simulator = Running::start(r#"{"fail":"reset"}"#).await;
    let error = simulator.send(&query("")).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    simulator.stop().await;
}

#[tokio::test]
async fn a_cut_answer_has_its_head_and_half_of_its_body() {
    let simulator = Running::start(r#"{"fail":"cut","apply":"after_effect"}"#).await;
    let answer = simulator.send(&query("")).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert_eq!(length(head) / 2, body.len());
    assert!(body.starts_with(r#"{"code":"0000","#));
    simulator.stop().await;
}

#[tokio::test]
async fn a_command_whose_answer_is_lost_was_executed() {
    let simulator = Running::start(r#"{"fail":"reset","apply":"after_effect"}"#).await;
    let renewal = params(r#","order_id":"L201903020000000617","renew_period":4"#);
    let renewal = request("/cube/v4/package/renewPackage", CLOSE, &renewal);
    simulator.send(&renewal).await.unwrap_err();
    simulator.control(r#"{"fail":null}"#).await;
    let answer = body(&simulator.send(&query(CLOSE)).await.unwrap());
    assert_eq!(answer["data"]["package_order"][0]["orderPeriod"], "5");
    simulator.stop().await;
}

#[tokio::test]
async fn a_hanging_call_is_over_when_its_client_goes() {
    let simulator = Running::start(r#"{"fail":"hang"}"#).await;
    let mut stream = simulator.connect().await;
    stream.write_all(query("").as_bytes()).await.unwrap();
    while simulator.control("{}").await["counters"]["failures"] == 0 {}
    assert_eq!(simulator.control("{}").await["counters"]["connections"], 1);
    let mut byte = [0];
    assert!(stream.try_read(&mut byte).is_err(), "it would block");
    drop(stream);
    while simulator.control("{}").await["counters"]["connections"] == 1 {}
    simulator.stop().await;
}

#[tokio::test]
async fn any_status_of_an_answer_can_be_asked_for() {
    let simulator = Running::start("{}").await;
    for status in [204, 304, 418, 429, 503, 599] {
        let patch = format!("{{\"fail_status\":{status}}}");
        simulator.control(&patch).await;
        let answer = simulator.send(&query(CLOSE)).await.unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
    simulator.stop().await;
}

#[tokio::test]
async fn a_connection_over_the_limit_is_refused_and_closed() {
    let simulator = Running::start(r#"{"enforce_limits":true,"connections":2}"#).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = simulator.connect().await;
        stream.write_all(query("").as_bytes()).await.unwrap();
        assert_eq!(body(&read_answer(&mut stream).await)["code"], "0000");
        open.push(stream);
    }
    let answer = simulator.send(&query("")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    assert!(answer.contains("connection: close\r\n"));
    assert_eq!(body(&answer)["code"], "SIM-4292");
    open.pop();
    while simulator.control("{}").await["counters"]["connections"] == 2 {}
    let answer = simulator.send(&query(CLOSE)).await.unwrap();
    assert_eq!(body(&answer)["code"], "0000");
    let seen = simulator.control("{}").await;
    assert_eq!(seen["counters"]["refused_by_limit"]["connections"], 1);
    assert_eq!(seen["counters"]["highest_connections"], 3);
    simulator.stop().await;
}

#[tokio::test]
async fn calls_over_the_day_are_refused_and_the_counters_say_so() {
    let simulator = Running::start(r#"{"enforce_limits":true,"requests_per_day":1}"#).await;
    simulator.send(&query(CLOSE)).await.unwrap();
    let answer = simulator.send(&query(CLOSE)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    assert_eq!(body(&answer)["code"], "SIM-4291");
    let seen = simulator.control("{}").await;
    assert_eq!(seen["counters"]["calls"]["/package/queryOrder"], 2);
    assert_eq!(seen["counters"]["total_calls"], 2);
    assert_eq!(seen["counters"]["refused_by_limit"]["requests_per_day"], 1);
    simulator.stop().await;
}

#[tokio::test]
async fn stopping_closes_idle_connections() {
    let simulator = Running::start("{}").await;
    let mut stream = simulator.connect().await;
    stream.write_all(query("").as_bytes()).await.unwrap();
    read_answer(&mut stream).await;
    simulator.stop().await;
    assert_eq!(
        stream.read_u8().await.unwrap_err().kind(),
        io::ErrorKind::UnexpectedEof
    );
}
