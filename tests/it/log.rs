//! What the log says, at which level, and of which trace.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::client::post;
use crate::support::gateway::Gateway;
use crate::support::{Gate, connect, failure, gateway, page, until, upstream};

const QUERY: &str = "/package/queryOrder";
const ORDER: &str = "/package/orderPackage";
const BODY: &str = r#"{"page_no":1,"page_size":2}"#;
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn the_level_changes_at_run_time_and_stays_until_the_configuration_names_another() {
    let upstream = upstream().answers(page(1, 2, 105)).run().await;
    let gateway = gateway(&upstream).run().await;
    let level = async |levels: &str| {
        let reply = gateway.post_to_admin("/log-level", &[], levels).await;
        assert_eq!(reply.status, 200, "{levels}");
        reply.json()["level"].clone()
    };
    let ask = async |request_id: &str| {
        let headers = [("X-Request-Id", request_id)];
        gateway.post(QUERY, &headers, BODY).await;
    };
    let of = |request_id: &str| {
        let lines = gateway.log();
        lines.iter().any(|line| line["request_id"] == request_id)
    };
    let told = gateway.admin("/log-level").await.json();
    assert_eq!(told, json!({"level": "info", "configured": "info"}));

    assert_eq!(level("warn").await, "warn");
    ask("unheard").await;
    gateway.rewrite("server.request_timeout", "\"9s\""); // something else
    assert_eq!(gateway.reload().await.status, 200);
    ask("unheard-still").await;
    let order = [("X-Request-Id", "a-command")];
    gateway.post("/package/orderPackage", &order, "{}").await;
    gateway.exchange_of("a-command").await; // at every level
    let told = gateway.admin("/log-level").await.json();
    assert_eq!(told, json!({"level": "warn", "configured": "info"}));

    assert_eq!(level(" info,hyper=off\n").await, "info,hyper=off");
    ask("heard").await;
    gateway.exchange_of("heard").await;
    gateway.rewrite("log.level", "\"error\"");
    let reply = gateway.reload().await;
    assert_eq!(reply.json()["needs_restart"], json!([]));
    ask("unheard-again").await;
    let told = gateway.admin("/log-level").await.json();
    assert_eq!(told, json!({"level": "error", "configured": "error"}));

    level("debug").await;
    ask("the-last").await;
    gateway.exchange_of("the-last").await;
    for request_id in ["unheard", "unheard-still", "unheard-again"] {
        assert!(!of(request_id), "{request_id}");
    }
}

#[tokio::test]
async fn a_level_that_is_none_or_not_for_the_asker_changes_nothing() {
    let upstream = upstream().run().await;
    let local = gateway(&upstream).run().await;
    for levels in [
        "",
        "loud",
        "info,hyper=loud",
        "{\"level\": \"debug\"}",
        "info debug",
    ] {
        let reply = local.post_to_admin("/log-level", &[], levels).await;
        let said = String::from_utf8(reply.body).unwrap();
        assert_eq!(reply.status, 400, "{levels:?}");
        assert!(
            said.contains("write off, error, warn, info, debug or trace"),
            "{said}"
        );
    }
    let headers = [("Origin", "http://evil.example")];
    let reply = local.post_to_admin("/log-level", &headers, "debug").await;
    assert_eq!(reply.status, 403);
    assert_eq!(local.admin("/log-level").await.json()["level"], "info");
}

#[tokio::test]
async fn a_line_can_be_text() {
    let upstream = upstream().answers(page(1, 2, 105)).run().await;
    let builder = gateway(&upstream).set("log.format", "\"text\"");
    let config = builder.write();
    let mut process = builder
        .command(&["serve", "--config", &config])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let listening = lines
        .find(|line| line.contains("listener=\"data\""))
        .unwrap();
    let address = listening.split("address=").nth(1).unwrap().trim();
    let headers = [("X-Request-Id", "a-text"), ("Traceparent", TRACEPARENT)];
    let request = post(QUERY, &headers, BODY.as_bytes());
    assert_eq!(connect(address).await.exchange(&request).await.status, 200);
    let line = lines
        .find(|line| line.contains("exchange finished"))
        .unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(line.contains(" INFO "), "{line}");
    assert!(line.contains("request_id=\"a-text\""), "{line}");
    assert!(
        line.contains(&format!("trace_id={TRACE_ID} parent_span_id={PARENT}")),
        "{line}"
    );
    assert!(!line.contains('\u{1b}'), "{line:?}");
}

#[tokio::test]
async fn a_line_names_the_trace_of_its_request_and_linksfield_hears_nothing_of_it() {
    let upstream = upstream().answers(page(1, 2, 105)).run().await;
    let gateway = gateway(&upstream).run().await;
    let rows = [
        ("a-miss", TRACEPARENT, QUERY, BODY, true),
        ("a-hit", TRACEPARENT, QUERY, BODY, true),
        (
            "a-command",
            TRACEPARENT,
            "/package/orderPackage",
            "{}",
            true,
        ),
        ("a-refusal", TRACEPARENT, QUERY, "[", true),
        ("no-trace", "00-zz-00f067aa0ba902b7-01", QUERY, BODY, false),
    ];
    for (request_id, traceparent, path, body, is_traced) in rows {
        let headers = [("X-Request-Id", request_id), ("Traceparent", traceparent)];
        gateway.post(path, &headers, body).await;
        let line = gateway.exchange_of(request_id).await;
        let named = (&line["trace_id"], &line["parent_span_id"]);
        if is_traced {
            assert_eq!(named, (&json!(TRACE_ID), &json!(PARENT)), "{line}");
        } else {
            assert_eq!(named, (&Value::Null, &Value::Null), "{line}");
        }
        assert_eq!(line["span_id"], Value::Null, "{line}");
    }
    let requests = upstream.requests();
    assert!(
        requests
            .iter()
            .all(|request| request.header("traceparent").is_none())
    );
}

#[tokio::test]
async fn a_line_says_what_the_answer_means_that_came_for_it_and_none_where_none_came() {
    let upstream = upstream()
        .script(|request| match request.path() {
            "/cube/v4/package/queryOrder" => page(1, 2, 105),
            _ => failure("0000"),
        })
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let no_store = ("Cache-Control", "no-store");
    let key = ("Idempotency-Key", "once");
    let rows = [
        ("a-miss", QUERY, BODY, None, json!("success")),
        ("a-hit", QUERY, BODY, None, Value::Null),
        ("a-bypass", QUERY, BODY, Some(no_store), json!("success")),
        ("a-refusal", QUERY, "[", None, Value::Null),
        ("a-command", ORDER, "{}", Some(key), json!("unknown")),
        ("a-replay", ORDER, "{}", Some(key), Value::Null),
    ];
    for (request_id, path, body, header, outcome) in rows {
        let id = [("X-Request-Id", request_id)];
        let headers: Vec<_> = id.into_iter().chain(header).collect();
        gateway.post(path, &headers, body).await;
        let line = gateway.exchange_of(request_id).await;
        assert_eq!(line["outcome"], outcome, "{line}");
    }
}

#[tokio::test]
async fn where_it_is_configured_linksfield_hears_of_the_trace_with_a_span_of_ours() {
    let upstream = upstream()
        .answers(page(1, 2, 105))
        .takes("traceparent")
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("upstream.forward_traceparent", "true")
        .run()
        .await;
    for (request_id, path) in [("a-query", QUERY), ("a-command", "/package/orderPackage")] {
        let headers = [("X-Request-Id", request_id), ("Traceparent", TRACEPARENT)];
        gateway.post(path, &headers, BODY).await;
        let line = gateway.exchange_of(request_id).await;
        let span = line["span_id"].as_str().unwrap();
        assert_ne!(span, PARENT);
        let told = format!("00-{TRACE_ID}-{span}-01");
        assert_eq!(upstream.last().header("traceparent"), Some(&*told));
    }
    gateway.post("/package/orderPackage", &[], "{}").await;
    assert_eq!(upstream.last().header("traceparent"), None, "none is begun");
}

#[tokio::test]
async fn a_fill_shared_by_many_has_the_trace_of_the_one_who_began_it() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers(page(1, 2, 105).behind(&gate))
        .takes("traceparent")
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("upstream.forward_traceparent", "true")
        .run()
        .await;
    let other = TRACEPARENT.replace("4bf9", "0000");
    let ask = async |request_id: &str, traceparent: &str| {
        let headers = [("X-Request-Id", request_id), ("Traceparent", traceparent)];
        gateway.post(QUERY, &headers, BODY).await
    };
    let join = async {
        gate.arrived().await; // the first one's call is there
        let release = async {
            until("both wait", async || {
                gateway.metric("requests_in_flight", &[]).await == 2.0
            })
            .await;
            gate.open();
        };
        tokio::join!(ask("the-second", &other), release).0
    };
    let (first, second) = tokio::join!(ask("the-first", TRACEPARENT), join);
    assert_eq!((first.status, second.status), (200, 200));
    assert_eq!(upstream.calls(), 1);
    let told = upstream.last().header("traceparent").unwrap().to_owned();
    assert!(told.starts_with(&format!("00-{TRACE_ID}-")), "{told}");
    let line = gateway.exchange_of("the-second").await;
    assert_ne!(line["result"], "miss"); // a hit, if the first was quicker than its fill was joined
    assert!(line["trace_id"].as_str().unwrap().starts_with("0000"));
}

/// So many hits, whose ids begin with `prefix`.
async fn hits(gateway: &Gateway, prefix: &str, number: u32) {
    let mut connection = gateway.connect().await;
    for index in 0..number {
        let request_id = format!("{prefix}-{index}");
        let request = post(QUERY, &[("X-Request-Id", &request_id)], BODY.as_bytes());
        assert_eq!(connection.exchange(&request).await.status, 200);
    }
}

/// As many lines as neither the pipe nor the gateway has room for: far more than 1 MiB.
const TOO_MANY: u32 = 6000;

#[tokio::test]
async fn while_nobody_reads_the_log_requests_are_answered_and_what_is_lost_is_counted() {
    const COMMANDS: usize = 300;
    let upstream = upstream().answers(page(1, 2, 105)).run().await;
    let gateway = gateway(&upstream).run().await;
    hits(&gateway, "read", 2).await;
    assert_eq!(gateway.metric("log_lines_dropped_total", &[]).await, 0.0);

    let unread = gateway.unread().await;
    hits(&gateway, "unread", TOO_MANY).await;
    let dropped = gateway.metric("log_lines_dropped_total", &[]).await;
    assert!(dropped > 0.0);
    let mut connection = gateway.connect().await;
    for index in 0..COMMANDS {
        let request_id = format!("command-{index}");
        let headers = [("X-Request-Id", &*request_id)];
        let command = post("/package/orderPackage", &headers, b"{}");
        assert_eq!(connection.exchange(&command).await.status, 200);
    }
    let dropped_since = gateway.metric("log_lines_dropped_total", &[]).await - dropped;
    assert_eq!(dropped_since, 0.0, "lines of commands have room");
    drop(unread);

    let last_command = format!("command-{}", COMMANDS - 1);
    gateway.exchange_of(&last_command).await;
    hits(&gateway, "read-again", 2).await;
    gateway.exchange_of("read-again-1").await;
    let lines = gateway.log();
    let ids = |prefix: &str| -> Vec<usize> {
        let ids = lines.iter().filter_map(|line| line["request_id"].as_str());
        ids.filter_map(|id| id.strip_prefix(prefix)?.strip_prefix('-')?.parse().ok())
            .collect()
    };
    let unread = ids("unread");
    assert_eq!(
        unread,
        (0..unread.len()).collect::<Vec<_>>(),
        "the first ones"
    );
    let kept = u32::try_from(unread.len()).unwrap();
    assert_eq!(f64::from(kept) + dropped, f64::from(TOO_MANY));
    assert_eq!(ids("command"), (0..COMMANDS).collect::<Vec<_>>());
    let place = |what: &dyn Fn(&Value) -> bool| lines.iter().position(what).unwrap();
    let told = place(&|line| line["message"] == "log lines were dropped");
    assert_eq!(lines[told]["lines"].as_f64(), Some(dropped));
    let last = place(&|line| line["request_id"] == *last_command);
    let next = place(&|line| line["request_id"] == "read-again-0");
    assert!(told < next && last < next, "{told} {last} {next}");
}

#[tokio::test]
async fn whoever_does_not_read_the_log_does_not_keep_the_process_from_its_end() {
    let upstream = upstream().answers(page(1, 2, 105)).run().await;
    let mut gateway = gateway(&upstream).run().await;
    let _unread = gateway.unread().await;
    hits(&gateway, "unread", TOO_MANY).await;
    gateway.signal("TERM");
    assert_eq!(gateway.exit().await.code(), Some(0));
}

#[tokio::test]
async fn the_last_line_is_written_before_the_process_ends() {
    let upstream = upstream().answers(page(1, 2, 105)).run().await;
    let mut ended = gateway(&upstream).run().await;
    hits(&ended, "a-hit", 200).await;
    ended.signal("TERM");
    assert_eq!(ended.exit().await.code(), Some(0));
    until("the last line", async || {
        let lines = ended.log();
        lines
            .last()
            .is_some_and(|line| line["message"] == "drained")
    })
    .await;
    ended.exchange_of("a-hit-199").await;

    let running = gateway(&upstream).run().await;
    let cannot_start = gateway(&upstream).set("server.listen", &format!("{:?}", running.address));
    let config = cannot_start.write();
    let mut command = cannot_start.command(&["serve", "--config", &config]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let output = String::from_utf8(output.stderr).unwrap();
    let (lines, reason) = output.trim_end().rsplit_once('\n').unwrap();
    assert!(reason.starts_with("server.listen = "), "{output}");
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["message"], "configuration", "{line}");
    }
}
