//! What the demo prints is pasted, in order, as a new user would.

use std::io::{BufRead, BufReader};
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

    let metrics = commands[8]
        .split_whitespace()
        .find_map(|word| word.strip_prefix("http://")?.strip_suffix("/metrics"))
        .unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: admin\r\n\r\n";
    let metrics = connect(metrics).await.exchange(request).await;
    let metrics = String::from_utf8(metrics.body).unwrap();
    assert!(metrics.contains("linksfield_gateway_commands_unknown_outcome_total"));

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
