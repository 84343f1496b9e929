//! What the demo prints is pasted, in order, as a new user would.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::support::client::post;
use crate::support::{Reply, connect};

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the binary and reads what it prints up to the line that begins with `last`.
fn start(arguments: &[&str], last: &str) -> (Running, String) {
    let mut process = Command::new(env!("CARGO_BIN_EXE_linksfield-gateway"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let running = Running(process);
    let mut text = String::new();
    while !text.lines().any(|line| line.starts_with(last)) {
        text += &lines.next().expect("it says more before it ends").unwrap();
        text += "\n";
    }
    (running, text)
}

/// The commands to paste, each with its lines joined.
fn pasted(text: &str) -> Vec<String> {
    text.split("\n\n")
        .filter_map(|paragraph| paragraph.trim_start().strip_prefix("curl "))
        .map(|command| command.replace("\\\n", " "))
        .collect()
}

async fn metrics_of(admin: &str) -> String {
    let request = b"GET /metrics HTTP/1.1\r\nHost: admin\r\n\r\n";
    let metrics = connect(admin).await.exchange(request).await;
    String::from_utf8(metrics.body).unwrap()
}

/// What a shell's filter leaves of a text.
fn filtered(text: &str, filter: &str) -> String {
    let mut shell = Command::new("sh")
        .args(["-c", filter])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = shell.stdin.take().unwrap();
    let text = text.to_owned();
    let writing = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = shell.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Sends what curl would.
async fn curl(command: &str) -> Reply {
    let (head, body) = command.split_once(" -d '").unwrap();
    let url = head
        .split_whitespace()
        .find_map(|word| word.strip_prefix("http://"))
        .unwrap();
    let (address, path) = url.split_once('/').unwrap();
    let body = body.trim_end().strip_suffix('\'').unwrap();
    assert!(head.contains("-H 'Content-Type: application/json'"));
    let headers = head.split(" -H '").skip(1);
    let headers = headers.filter_map(|header| header.split_once('\'')?.0.split_once(": "));
    let headers: Vec<_> = headers
        .filter(|(name, _)| *name != "Content-Type")
        .collect();
    let request = post(&format!("/{path}"), &headers, body.as_bytes());
    connect(address).await.exchange(&request).await
}

#[tokio::test]
async fn what_the_demo_prints_works_when_it_is_pasted() {
    let (_running, text) = start(&["demo", "--listen", "127.0.0.1:0"], "Ctrl-C");
    let commands = pasted(&text);
    let mut replies = Vec::new();
    for command in &commands[..8] {
        replies.push(curl(command).await);
    }
    let [miss, hit, order, again, all, refused, control, lost] = replies.try_into().unwrap();

    let cache_status = |reply: &Reply| reply.header("cache-status").unwrap().to_owned();
    let orders = |reply: &Reply| reply.json()["data"]["page"]["total_count"].clone();
    assert!(cache_status(&miss).contains("fwd=miss; stored"));
    assert_eq!(
        miss.json()["data"]["page"],
        json!({"cur_page_no": 1, "page_size": 2, "total_count": 105, "total_pages": 53})
    );
    assert!(cache_status(&hit).contains("; hit;"), "{hit:?}");
    assert_eq!(hit.body, miss.body);
    assert!(hit.header("age").is_some());
    assert_eq!(order.json()["code"], "0000");
    assert!(cache_status(&again).contains("fwd=miss"));
    assert_eq!(orders(&again), 106);
    let document = all.json();
    assert_eq!(
        document["data"]["package_order"].as_array().unwrap().len(),
        106
    );
    assert_eq!(
        (refused.status, &refused.json()["sent"]),
        (400, &json!("no"))
    );
    assert_eq!(control.status, 200);
    assert_eq!(
        (lost.status, &lost.json()["sent"]),
        (502, &json!("unknown"))
    );
    assert_eq!(lost.header("x-linksfield-in-doubt"), Some("true"));
    assert!(text.contains("x-linksfield-in-doubt: true"), "{text}");
    let detail = lost.json()["detail"].to_string();
    assert!(detail.contains("look before you send it again"), "{detail}");

    let (command, filter) = commands[8].split_once('|').unwrap();
    let metrics = command
        .split_whitespace()
        .find_map(|word| word.strip_prefix("http://")?.strip_suffix("/metrics"))
        .unwrap();
    let metrics = metrics_of(metrics).await;
    let shown = filtered(&metrics, filter);
    assert!((5..=20).contains(&shown.lines().count()), "{shown}");
    for family in ["tenant_requests_total", "commands_unknown_outcome_total"] {
        assert!(
            shown.contains(&format!("linksfield_gateway_{family}{{")),
            "{shown}"
        );
    }

    let explained = curl(&commands[9]).await;
    assert_eq!(explained.status, 200, "{explained:?}");
}

#[tokio::test]
async fn what_the_demo_of_a_container_prints_can_be_pasted_on_its_host() {
    let (_running, text) = start(&["demo", "--listen", "0.0.0.0:0"], "Ctrl-C");
    assert!(!text.contains("0.0.0.0"), "{text}");
    assert!(!text.contains("/explain"), "it needs a token: {text}");
    let miss = curl(&pasted(&text)[0]).await;
    assert_eq!(miss.json()["code"], "0000");
}

/// What the rules of `deploy/prometheus` look at; `.ci/observability` has Prometheus look.
#[tokio::test]
async fn the_demo_is_well_by_the_metrics_that_alerts_are_made_of() {
    let (_running, text) = start(&["demo", "--listen", "127.0.0.1:0"], "Ctrl-C");
    let commands = pasted(&text);
    let incomplete = commands[2].replace(r#""pay_amount": "0", "#, "");
    assert_ne!(incomplete, commands[2]);
    assert_eq!(curl(&incomplete).await.json()["code"], "SIM-4001");
    for command in &commands[..6] {
        curl(command).await;
    }
    let (_, admin) = text.split_once("the page at http://").unwrap();
    let metrics = metrics_of(admin.split('/').next().unwrap()).await;
    let value = |series: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(series));
        line.unwrap_or_else(|| panic!("{series}: {metrics}"))
            .trim()
            .to_owned()
    };
    for (series, expected) in [
        ("config_last_reload_successful", "1"),
        ("secrets_refused", "0"),
        (r#"secret_last_reload_successful{tenant="demo"}"#, "1"),
        ("upstream_unknown_codes_total", "0"),
        (r#"upstream_bad_signatures_total{tenant="demo"}"#, "0"),
        ("upstream_foreign_throttles_total", "0"),
        ("unlisted_paths_total", "0"),
        (r#"failed_requests_total{fault="gateway"}"#, "0"),
        (r#"failed_requests_total{fault="upstream"}"#, "0"),
    ] {
        assert_eq!(
            value(&format!("linksfield_gateway_{series}")),
            expected,
            "{series}"
        );
    }
    assert!(
        metrics.contains("linksfield_gateway_config_info{hash="),
        "{metrics}"
    );
}
