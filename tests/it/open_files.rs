//! Few files may be open: callers never take the last ones, and what fails for want of one says so.

use std::process::Command;

use futures::future::join_all;
use serde_json::Value;

use crate::support::client::post;
use crate::support::{Gateway, connect, gateway, gateway_to, until, upstream};

const PAGE: &[u8] = br#"{"page_no": 1, "page_size": 2}"#;
const RELOAD: &[u8] = b"POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";

/// The soft and the hard limit of a process.
fn limits(gateway: &Gateway) -> (String, String) {
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.id())).unwrap();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let mut words = line.unwrap().split_whitespace().map(str::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

/// From now on no file more can be opened, or as many as may be.
fn let_open(gateway: &Gateway, any: bool) {
    let soft = if any {
        limits(gateway).1
    } else {
        "1".to_owned()
    };
    let mut prlimit = Command::new("prlimit");
    prlimit.args([
        format!("--pid={}", gateway.id()),
        format!("--nofile={soft}:"),
    ]);
    assert!(prlimit.status().unwrap().success());
}

fn lines(gateway: &Gateway, message: &str) -> Vec<Value> {
    let log = gateway.log().into_iter();
    log.filter(|line| line["message"] == message).collect()
}

#[tokio::test]
async fn the_limit_is_raised_as_far_as_it_may_be_and_told_where_that_is_too_little() {
    let upstream = upstream().run().await;
    let raised = gateway(&upstream).set("server.max_connections", "100");
    let raised = raised.open_files("-S 64").run().await;
    let (soft, hard) = limits(&raised);
    assert_eq!(soft, hard);
    assert_eq!(raised.metric("connections_limit", &[]).await, 100.0);
    let is_told = |line: &Value| line["key"] == "server.max_connections";
    assert!(!raised.log().iter().any(is_told));

    let low = gateway(&upstream).open_files("1024");
    let config = low.write();
    let checked = low
        .command(&["check", "--config", &config])
        .output()
        .unwrap();
    let (out, err) = (checked.stdout, String::from_utf8(checked.stderr).unwrap());
    let out = String::from_utf8(out).unwrap();
    assert!(checked.status.success());
    assert!(out.contains("# open files: 10566 at most") && out.contains("the limit here is 1024"));
    for part in [
        "server.max_connections",
        "10566",
        "1024",
        "600",
        "LimitNOFILE=",
    ] {
        assert!(err.contains(part), "{part}: {err}");
    }
    let low = low.run().await;
    assert!(low.log().iter().any(is_told));
    assert_eq!(low.metric("connections_limit", &[]).await, 600.0);
}

#[tokio::test]
async fn callers_never_take_the_last_ones() {
    for limit in [64, 80, 160] {
        let upstream = upstream().run().await;
        // A name, so that a call opens more than its connection.
        let url = upstream.url().replace("127.0.0.1", "localhost");
        let state = tempfile::tempdir().unwrap();
        let gateway = gateway_to(&url)
            .set(
                "server.state_dir",
                &format!("{:?}", state.path().to_str().unwrap()),
            )
            .open_files(&limit.to_string())
            .run()
            .await;
        let flood = async |address| join_all((0..2 * limit).map(|_| connect(address))).await;
        let mut callers = flood(&gateway.address).await;
        let most = gateway.metric("connections_limit", &[]).await;
        assert!(most >= 4.0, "{limit}: {most}");
        until("callers have all that they may", async || {
            gateway.metric("connections", &[]).await >= most
        })
        .await;
        assert_eq!(gateway.reload().await.status, 200, "{limit}");
        let _others = flood(&gateway.admin).await;
        callers.drain(..4); // some of those that came in
        until("a call of Linksfield", async || {
            let mut caller = gateway.connect().await;
            let request = post("/package/queryOrder", &[], PAGE);
            let reply = caller.exchange_again(&request).await;
            matches!(reply, Ok(Some(reply)) if reply.status == 200)
        })
        .await;
        assert_eq!(upstream.calls(), 1);
        assert_eq!(lines(&gateway, "cannot accept"), [""; 0], "{limit}");
    }
}

#[tokio::test]
async fn a_call_and_a_reload_that_need_one_more_say_so_and_linksfield_is_not_blamed() {
    for host in ["127.0.0.1", "localhost"] {
        let upstream = upstream().run().await;
        let url = upstream.url().replace("127.0.0.1", host);
        let gateway = gateway_to(&url)
            .set("upstream.retry.attempts", "2")
            .run()
            .await;
        let (mut caller, mut admin) = (gateway.connect().await, connect(&gateway.admin).await);
        let in_use = caller
            .exchange(b"GET /package/queryOrder HTTP/1.1\r\nHost: x\r\n\r\n")
            .await;
        assert_eq!(in_use.status, 405);
        assert_eq!(
            admin
                .exchange(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
                .await
                .status,
            200
        );

        let_open(&gateway, false);
        let reload = admin.exchange(RELOAD).await;
        for path in ["/package/queryOrder", "/package/orderPackage"].repeat(12) {
            let reply = caller.exchange(&post(path, &[], PAGE)).await;
            let problem = (503, "upstream_unreachable".into(), "no".into());
            assert_eq!(reply.problem(), problem, "{host}");
            let told = reply.json()["detail"].as_str().unwrap().to_owned();
            assert!(
                told.contains("files open") && !told.contains("refused"),
                "{told}"
            );
            assert_eq!(reply.header("retry-after"), Some("1"));
            let status = reply.header("proxy-status").unwrap();
            assert!(status.ends_with("error=proxy_internal_error"), "{status}");
        }
        let_open(&gateway, true);

        let said = String::from_utf8(reload.body).unwrap();
        assert_eq!(reload.status, 422, "{said}");
        assert!(
            said.contains("Too many open files") && said.contains("LimitNOFILE="),
            "{said}"
        );
        assert_eq!(gateway.reload().await.status, 200);
        assert_eq!(
            caller
                .exchange(&post("/package/queryOrder", &[], PAGE))
                .await
                .status,
            200
        );
        let failed = async |fault| {
            gateway
                .metric("failed_requests_total", &[("fault", fault)])
                .await
        };
        assert_eq!(
            (failed("gateway").await, failed("upstream").await),
            (24.0, 0.0)
        );
        let failures = gateway
            .metric("upstream_calls_total", &[("end", "failure")])
            .await;
        assert_eq!(failures, 0.0);
        let is_told = |line: &Value| {
            line["cause"]
                .as_str()
                .is_some_and(|it| it.contains("Too many open files"))
        };
        let told = lines(&gateway, "exchange finished")
            .into_iter()
            .filter(is_told);
        assert_eq!(told.count(), 24);
    }
}

#[tokio::test]
async fn a_listener_that_cannot_accept_says_so_once_and_when_that_is_over() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let_open(&gateway, false);
    let mut caller = gateway.connect().await; // the kernel takes it
    until("it is told", async || {
        !lines(&gateway, "cannot accept").is_empty()
    })
    .await;
    // So that it fails more than once; if the machine is slow, it fails less often.
    tokio::time::sleep(std::time::Duration::from_millis(350)).await;
    let_open(&gateway, true);
    let reply = caller
        .exchange(&post("/package/queryOrder", &[], PAGE))
        .await;
    assert_eq!(reply.status, 200);
    until("it is over", async || {
        !lines(&gateway, "accepts again").is_empty()
    })
    .await;
    let told = lines(&gateway, "cannot accept");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0]["error"]
            .as_str()
            .unwrap()
            .contains("Too many open files")
    );
    assert!(told[0]["remedy"].as_str().unwrap().contains("LimitNOFILE="));
    let over = &lines(&gateway, "accepts again")[0];
    assert!(over["failures"].as_u64().unwrap() >= 1, "{over}");
}
