//! The commands of the binary, its exit codes, and what operators see.

use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};

use serde_json::json;

use crate::support::answer::{Fault, raw};
use crate::support::gateway::Builder;
use crate::support::{SECRET, failure, gateway, gateway_to, page, until, upstream};

fn run(mut command: Command, input: &str) -> Output {
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    process
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    process.wait_with_output().unwrap()
}

/// As `run`, off the threads that the upstream lives on.
async fn run_beside(command: Command, input: &'static str) -> Output {
    tokio::task::spawn_blocking(move || run(command, input))
        .await
        .unwrap()
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[tokio::test]
async fn check_tells_every_problem_and_serve_refuses_with_the_same_text() {
    let upstream = upstream().run().await;
    let bad = gateway(&upstream)
        .set("server.lisen", "\"127.0.0.1:1\"")
        .set("cache.max_size", "\"a lot\"")
        .set("upstream.limits.instances", "9");
    let config = bad.write();
    let checked = run(bad.command(&["check", "--config", &config]), "");
    assert_eq!(checked.status.code(), Some(1));
    for part in [
        "server.lisen",
        "did you mean listen?",
        "cache.max_size",
        "upstream.limits",
    ] {
        assert!(err(&checked).contains(part), "{part}: {}", err(&checked));
    }
    let served = run(bad.command(&["serve", "--config", &config]), "");
    assert_eq!(
        (served.status.code(), err(&served)),
        (Some(1), err(&checked))
    );
    assert_eq!(out(&served), "");

    let no_file = run(
        bad.command(&["check", "--config", "/no/such/file.toml"]),
        "",
    );
    assert_eq!(no_file.status.code(), Some(1));
    assert!(err(&no_file).contains("/no/such/file.toml"));
    assert_eq!(run(bad.command(&["check"]), "").status.code(), Some(2));
}

#[tokio::test]
async fn check_shows_what_is_in_effect_and_does_the_arithmetic() {
    let upstream = upstream().run().await;
    let good = gateway(&upstream)
        .set("upstream.limits.requests_per_day", "5000")
        .environment("LINKSFIELD_GATEWAY__SERVER__MAX_BODY", "2MiB");
    let config = good.write();
    let checked = run(good.command(&["check", "--config", &config]), "");
    assert_eq!(checked.status.code(), Some(0));
    assert!(
        err(&checked).contains("warning: upstream.codes.bad_signature"),
        "{}",
        err(&checked)
    );
    assert!(
        out(&checked).contains("[tenants.acme]") && out(&checked).contains("max_body = \"2MiB\""),
        "{}",
        out(&checked)
    );
    assert!(out(&checked).contains("5000"));
    assert!(!out(&checked).contains(SECRET));
    let effective = toml::from_str::<toml::Table>(out(&checked));
    assert!(
        effective.is_ok(),
        "it is a configuration itself: {effective:?}"
    );

    let unreadable = good.set("tenants.acme.secret_file", "\"/no/such/secret\"");
    let config = unreadable.write();
    assert_eq!(
        run(
            unreadable.command(&["check", "--config", &config, "--no-secrets"]),
            ""
        )
        .status
        .code(),
        Some(0)
    );
    let checked = run(unreadable.command(&["check", "--config", &config]), "");
    assert_eq!(checked.status.code(), Some(1));
    assert!(
        err(&checked).contains("tenants.acme.secret_file")
            && err(&checked).contains("/no/such/secret"),
        "{}",
        err(&checked)
    );
}

#[test]
fn on_one_core_one_thread_serves_unless_the_configuration_says_more() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let core = allowed.unwrap().trim().split(['-', ',']).next().unwrap();
    let default = gateway_to("http://127.0.0.1:1");
    let three = gateway_to("http://127.0.0.1:1").set("server.worker_threads", "3");
    for (builder, expected) in [(default, 1), (three, 3)] {
        let config = builder.write();
        let check = builder.command(&["check", "--config", &config]);
        let mut pinned = Command::new("taskset");
        pinned
            .args(["-c", core])
            .arg(check.get_program())
            .args(check.get_args());
        let checked = run(pinned, "");
        let line = format!("worker_threads = {expected}\n");
        assert!(out(&checked).contains(&line), "{}", out(&checked));
    }
}

#[tokio::test]
async fn an_environment_variable_of_no_key_is_refused_and_those_of_kubernetes_are_ignored() {
    let upstream = upstream().run().await;
    let builder = gateway(&upstream).environment("LINKSFIELD_GATEWAY_PORT", "tcp://10.0.0.1:80");
    let config = builder.write();
    assert_eq!(
        run(builder.command(&["check", "--config", &config]), "")
            .status
            .code(),
        Some(0)
    );
    let builder = builder.environment("LINKSFIELD_GATEWAY__SERVER__LISEN", "x");
    let checked = run(builder.command(&["check", "--config", &config]), "");
    assert_eq!(checked.status.code(), Some(1));
    assert!(
        err(&checked).contains("LINKSFIELD_GATEWAY__SERVER__LISEN"),
        "{}",
        err(&checked)
    );
}

#[tokio::test]
async fn beyond_loopback_it_needs_callers_or_a_word_that_none_are_wanted() {
    let upstream = upstream().run().await;
    let exposed = gateway(&upstream).set("server.listen", "\"0.0.0.0:0\"");
    let config = exposed.write();
    let served = run(exposed.command(&["serve", "--config", &config]), "");
    assert_eq!(served.status.code(), Some(1));
    assert!(
        err(&served).contains("server.listen") && err(&served).contains("allow_unauthenticated"),
        "{}",
        err(&served)
    );
    for allowed in [
        exposed.set("server.allow_unauthenticated", "true"),
        gateway(&upstream)
            .set("server.listen", "\"0.0.0.0:0\"")
            .caller("a", "a-token-of-some-length", &["acme"], true),
    ] {
        let config = allowed.write();
        assert_eq!(
            run(allowed.command(&["check", "--config", &config]), "")
                .status
                .code(),
            Some(0)
        );
    }
}

#[tokio::test]
async fn a_second_process_on_the_same_port_fails_at_start() {
    let upstream = upstream().run().await;
    let first = gateway(&upstream).run().await;
    let second = gateway(&upstream).set("server.listen", &format!("{:?}", first.address));
    let config = second.write();
    let served = run(second.command(&["serve", "--config", &config]), "");
    assert_eq!(served.status.code(), Some(1));
    for part in [
        "server.listen = ",
        &first.address,
        "in use",
        &format!("server.listen in {config}"),
        "LINKSFIELD_GATEWAY__SERVER__LISTEN",
    ] {
        assert!(err(&served).contains(part), "{part}: {}", err(&served));
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_with_the_option_that_changes_it() {
    const BINARY: &str = env!("CARGO_BIN_EXE_linksfield-gateway");
    // Each of the three ports of the demo is the one that is taken, and the one of the simulator.
    for (command, further, what) in [
        ("demo", 0, "server.listen"),
        ("demo", 1, "server.admin_listen"),
        ("demo", 2, "the simulator"),
        ("simulate", 0, "the simulator"),
    ] {
        // The ports before it may be taken too, by whoever else runs on this machine: then another
        // one is tried.
        let told = (0..20).find_map(|_| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let taken = listener.local_addr().unwrap();
            let mut listen = taken;
            listen.set_port(taken.port() - further);
            let mut process = Command::new(BINARY);
            process.args([command, "--listen", &listen.to_string()]);
            let ended = run(process, "");
            assert_eq!(ended.status.code(), Some(1), "{command} {further}");
            let told = err(&ended).to_owned();
            told.contains(&taken.to_string()).then_some(told)
        });
        let told = told.expect("one port among twenty is free");
        for part in [what, "in use", "--listen"] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }
}

#[tokio::test]
async fn sign_prints_the_canonical_text_and_the_signed_body_which_calibrate_recognises() {
    let upstream = upstream().run().await;
    let builder = gateway(&upstream);
    let config = builder.write();
    let body = r#"{"page_no":1,"page_size":2,"device_id":""}"#;
    let signed = run(
        builder.command(&[
            "sign",
            "--config",
            &config,
            "--tenant",
            "acme",
            "--timestamp",
            "1643251754",
        ]),
        body,
    );
    assert_eq!(signed.status.code(), Some(0), "{}", err(&signed));
    let (text, signed_body) = out(&signed).trim_end().split_once('\n').unwrap();
    assert_eq!(
        text,
        r#"{"access_code":"P000270","page_no":1,"page_size":2,"timestamp":"1643251754","version":"2.0"}"#
    );
    assert!(
        signed_body.ends_with(r#","sign":"Onq75AovREB+Q5/n4omwTL19nNA="}"#),
        "{signed_body}"
    );

    let secret_file = builder.file("calibrate-with", SECRET);
    let calibrated = run(
        builder.command(&["calibrate", "--secret-file", &secret_file]),
        signed_body,
    );
    assert_eq!(calibrated.status.code(), Some(0));
    assert!(
        out(&calibrated).contains("[signing]\ntimestamp = \"seconds\"\nversion = \"2.0\"\n"),
        "{}",
        out(&calibrated)
    );
    assert!(out(&calibrated).contains("cannot settle"));

    let wrong_secret = builder.file("wrong", "another");
    let failed = run(
        builder.command(&["calibrate", "--secret-file", &wrong_secret]),
        signed_body,
    );
    assert_eq!(failed.status.code(), Some(1));
    assert!(err(&failed).contains("the secret"));

    let nobody = run(
        builder.command(&["sign", "--config", &config, "--tenant", "nobody"]),
        body,
    );
    assert_eq!(nobody.status.code(), Some(1));
    assert!(err(&nobody).contains("acme"), "{}", err(&nobody));
    let no_json = run(
        builder.command(&["sign", "--config", &config, "--tenant", "acme"]),
        "[",
    );
    assert_eq!(no_json.status.code(), Some(1));
}

#[tokio::test]
async fn what_stands_around_a_secret_is_warned_of_wherever_it_is_read() {
    let upstream = upstream().takes_any_signature().run().await;
    let builder = gateway(&upstream)
        .caller("billing", "\"token-of-billing-0001\"", &["acme"], true)
        .secret("acme", "\"hunter2-of-acme\" \n");
    let config = builder.write();
    let of_acme = ["--config", &config, "--tenant", "acme"];
    let file = builder.file("secret-acme", "\"hunter2-of-acme\" \n");
    for arguments in [
        vec!["check", "--config", &config],
        [&["sign"], &of_acme[..]].concat(),
        [&["probe"], &of_acme[..]].concat(),
        vec!["calibrate", "--secret-file", &file],
    ] {
        let ran = run_beside(builder.command(&arguments), r#"{"sign":"x"}"#).await;
        let told = err(&ran);
        assert!(
            told.contains("warning: tenants.acme.secret_file")
                || told.contains("warning: --secret-file"),
            "{arguments:?}: {told}"
        );
        for part in ["begins with a quote", "ends with a space"] {
            assert!(told.contains(part), "{arguments:?}: {told}");
        }
        assert!(!told.contains("hunter2"), "{told}");
        if arguments[0] == "check" {
            assert!(told.contains("warning: callers.billing.token_file"));
        }
    }
    let gateway = builder.run().await;
    let is_told = |line: &serde_json::Value| {
        line["level"] == "WARN" && line["key"] == "tenants.acme.secret_file"
    };
    assert!(gateway.log().iter().any(is_told), "{}", gateway.output());
    assert!(!gateway.output().contains("hunter2"));

    let marked = gateway.folder().join("secret-acme");
    std::fs::write(&marked, "\u{feff}hunter2-of-acme\n").unwrap();
    let reloaded = gateway.reload().await;
    let refused = reloaded.json()["refused_secrets"].to_string();
    assert!(refused.contains("byte order mark"), "{refused}");
    assert!(!refused.contains("hunter2"), "{refused}");
}

#[tokio::test]
async fn probe_spends_one_call_and_says_what_is_right() {
    let upstream = upstream().run().await;
    let builder = gateway(&upstream);
    let config = builder.write();
    let probed = run_beside(
        builder.command(&["probe", "--config", &config, "--tenant", "acme"]),
        "",
    )
    .await;
    assert_eq!(probed.status.code(), Some(0), "{}", err(&probed));
    assert!(
        out(&probed).contains("are right") && out(&probed).contains("code    0000"),
        "{}",
        out(&probed)
    );
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn probe_says_what_is_wrong() {
    for (answer, part) in [
        (failure("4711"), "4711"),
        (raw(403, failure("1").body), "signature was not accepted"),
        (raw(404, "<html>"), "check upstream.base_url"),
        (raw(429, failure("1").body), "limits are reached"),
        (
            raw(200, format!("{{\"data\":{:?}}}", "x".repeat(9 << 20))),
            "larger than upstream.max_answer",
        ),
    ] {
        let upstream = upstream().answers(answer).run().await;
        let builder = gateway(&upstream);
        let config = builder.write();
        let probed = run_beside(
            builder.command(&["probe", "--config", &config, "--tenant", "acme"]),
            "",
        )
        .await;
        assert_eq!(probed.status.code(), Some(1));
        assert!(err(&probed).contains(part), "{part}: {}", err(&probed));
    }
    let upstream = upstream().run().await;
    upstream.stop().await;
    let builder = gateway(&upstream);
    let config = builder.write();
    let probed = run_beside(
        builder.command(&["probe", "--config", &config, "--tenant", "acme"]),
        "",
    )
    .await;
    assert_eq!(probed.status.code(), Some(1));
    assert!(err(&probed).contains("refused"), "{}", err(&probed));
}

#[tokio::test]
async fn probe_with_a_wrong_signature_learns_its_code() {
    let upstream = upstream()
        .answers(failure("1001"))
        .takes_any_signature()
        .run()
        .await;
    let builder = gateway(&upstream);
    let config = builder.write();
    let probed = run_beside(
        builder.command(&[
            "probe",
            "--config",
            &config,
            "--tenant",
            "acme",
            "--wrong-signature",
        ]),
        "",
    )
    .await;
    assert_eq!(probed.status.code(), Some(0), "{}", err(&probed));
    assert!(
        out(&probed).contains(r#"bad_signature = ["1001"]"#),
        "{}",
        out(&probed)
    );
}

#[tokio::test]
async fn healthcheck_asks_the_admin_listener() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let ask = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_linksfield-gateway"));
        command.args(arguments);
        run(command, "").status.code()
    };
    assert_eq!(ask(&["healthcheck", "--admin", &gateway.admin]), Some(0));
    assert_eq!(
        ask(&["healthcheck", "--admin", &gateway.admin, "--live"]),
        Some(0)
    );
    assert_eq!(ask(&["healthcheck", "--admin", &gateway.address]), Some(1));
}

/// The port of an address.
fn port(address: &str) -> &str {
    address.rsplit(':').next().unwrap()
}

#[tokio::test]
async fn healthcheck_asks_where_the_gateway_is_by_name_environment_or_configuration() {
    const VARIABLE: &str = "LINKSFIELD_GATEWAY__SERVER__ADMIN_LISTEN";
    let upstream = upstream().run().await;
    let asked = |builder: &Builder, arguments: &[&str]| {
        run(builder.command(&[&["healthcheck"], arguments].concat()), "")
    };
    for listen in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
        let listen = format!("{listen:?}");
        let gateway = gateway(&upstream).set("server.admin_listen", &listen);
        let gateway = gateway.run().await;
        let port = port(&gateway.admin);
        let elsewhere =
            crate::support::gateway(&upstream).set("server.admin_listen", "\"127.0.0.1:1\"");
        let name = format!("localhost:{port}");
        assert_eq!(
            asked(&elsewhere, &["--admin", &name]).status.code(),
            Some(0)
        );

        let address = format!("{:?}", gateway.admin);
        let there = crate::support::gateway(&upstream).set("server.admin_listen", &address);
        let config = there.write();
        let by_file = asked(&there, &["--config", &config]);
        assert_eq!(by_file.status.code(), Some(0), "{}", err(&by_file));
        // A gateway goes on with its last good file.
        let broken = there.file(
            "broken.toml",
            &format!("[server]\nadmin_listen = {address}\nlisten = 7\n[log\n"),
        );
        assert_eq!(asked(&there, &["--config", &broken]).status.code(), Some(0));

        let config = elsewhere.write();
        let wrong = asked(&elsewhere, &["--config", &config]);
        assert_eq!(wrong.status.code(), Some(1));
        assert!(err(&wrong).contains("127.0.0.1:1"), "{}", err(&wrong));
        let environment = elsewhere.environment(VARIABLE, &gateway.admin);
        for arguments in [&[][..], &["--config", &config], &["--config", "/none.toml"]] {
            let asked = asked(&environment, arguments);
            assert_eq!(asked.status.code(), Some(0), "{}", err(&asked));
        }
    }
    for (admin, reason) in [
        ("localhost", "HOST:PORT"),
        ("127.0.0.1:0", "port 0"),
        ("127.0.0.1:1", "refused"),
    ] {
        let asked = asked(&gateway(&upstream), &["--admin", admin]);
        assert_eq!(asked.status.code(), Some(1));
        assert!(err(&asked).contains(reason), "{}", err(&asked));
    }
}

#[tokio::test]
async fn healthcheck_is_not_satisfied_by_another_process() {
    let upstream = upstream().run().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let answer = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 3\r\n\r\nok\n";
        // All of it: closed with something unread, the connection would be reset.
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            asked.extend(byte);
        }
        stream.write_all(answer).unwrap();
    });
    let command = gateway(&upstream).command(&["healthcheck", "--admin", &address]);
    let asked = run(command, "");
    other.join().unwrap();
    assert_eq!(asked.status.code(), Some(1));
    assert!(
        err(&asked).contains("not the admin listener"),
        "{}",
        err(&asked)
    );
}

#[tokio::test]
async fn what_is_wrong_with_secrets_is_told_beside_what_is_wrong_with_keys() {
    let upstream = upstream().run().await;
    let bad = gateway(&upstream)
        .set("server.lisen", "\"127.0.0.1:1\"")
        .set("upstream.base_url", "\"https://a.example:0\"")
        .set("tenants.acme.secret_file", "\"/nowhere\"")
        .set("tenants.other.access_code", "\"P2\"")
        .set("tenants.other.secret_file", "7")
        .set("callers.shop.tenants", "[\"acme\"]");
    let config = bad.write();
    for command in ["check", "serve"] {
        let checked = run(bad.command(&[command, "--config", &config]), "");
        assert_eq!(checked.status.code(), Some(1));
        let told = err(&checked);
        for part in [
            "server.lisen",
            "upstream.base_url",
            "its port is 0",
            "tenants.acme.secret_file",
            "/nowhere",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        for key in ["tenants.other.secret_file", "callers.shop.token_file"] {
            assert_eq!(told.matches(key).count(), 1, "{key}: {told}");
        }
    }
    let checked = run(
        bad.command(&["check", "--config", &config, "--no-secrets"]),
        "",
    );
    assert!(!err(&checked).contains("/nowhere"), "{}", err(&checked));
}

#[tokio::test]
async fn the_admin_listener_shows_metrics_probes_and_the_configuration() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    gateway.page(1).await;
    gateway.page(1).await;
    gateway.order().await;
    let rows = [
        (
            "requests_total",
            &[
                ("route", "/package/queryOrder"),
                ("tenant", "acme"),
                ("caller", "other"),
                ("result", "miss"),
            ][..],
            1.0,
        ),
        (
            "requests_total",
            &[("route", "/package/queryOrder"), ("result", "hit")],
            1.0,
        ),
        (
            "requests_total",
            &[("route", "/package/orderPackage"), ("result", "command")],
            1.0,
        ),
        (
            "request_duration_seconds_count",
            &[("route", "/package/queryOrder"), ("result", "hit")],
            1.0,
        ),
        (
            "upstream_requests_total",
            &[
                ("route", "/package/queryOrder"),
                ("tenant", "acme"),
                ("outcome", "success"),
                ("reason", "caller"),
            ],
            1.0,
        ),
        (
            "upstream_request_duration_seconds_count",
            &[("route", "/package/orderPackage")],
            1.0,
        ),
        ("upstream_calls_saved_total", &[("reason", "hit")], 1.0),
        (
            "served_age_seconds_count",
            &[("route", "/package/queryOrder")],
            1.0,
        ),
        ("invalidations_total", &[("cause", "command")], 1.0),
        ("cache_capacity_bytes", &[], 64.0 * 1024.0 * 1024.0),
        ("cache_entries", &[], 1.0),
        ("quota_limit", &[("window", "connections")], 3.0),
        ("requests_in_flight", &[], 0.0),
        ("fills_in_flight", &[], 0.0),
        ("queue_length", &[], 0.0),
        ("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0),
    ];
    crate::support::until("all three are recorded", async || {
        gateway.metric("requests_total", &[]).await == 3.0
    })
    .await;
    for (family, labels, expected) in rows {
        assert_eq!(
            gateway.metric(family, labels).await,
            expected,
            "{family} {labels:?}"
        );
    }
    let metrics = gateway.admin("/metrics").await;
    assert!(
        metrics
            .header("content-type")
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    assert!(
        String::from_utf8(metrics.body)
            .unwrap()
            .contains("\nprocess_resident_memory_bytes ")
    );

    let ready = gateway.admin("/readyz").await;
    assert_eq!(
        (
            ready.status,
            &ready.json()["ready"],
            &ready.json()["conditions"]["not_draining"]
        ),
        (200, &json!(true), &json!(true))
    );
    assert_eq!(gateway.admin("/livez").await.status, 200);
    let config = gateway.admin("/config").await;
    assert!(
        String::from_utf8(config.body)
            .unwrap()
            .contains("access_code = \"P000270\"")
    );
    assert_eq!(gateway.admin("/nothing").await.status, 404);
    let mut posting = crate::support::connect(&gateway.admin).await;
    assert_eq!(
        posting
            .exchange(b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            .await
            .status,
        405
    );
}

#[tokio::test]
async fn an_exchange_is_one_log_line_and_no_iccid_is_in_it() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    for id in ["miss", "hit"] {
        gateway
            .post(
                "/package/queryOrder",
                &[("X-Request-Id", id)],
                r#"{"device_id":"89860012018111220455","page_no":1}"#,
            )
            .await;
    }
    gateway
        .post(
            "/package/orderPackage",
            &[("X-Request-Id", "command")],
            r#"{"device_id":"89860012018111220455"}"#,
        )
        .await;
    gateway
        .post("/no//path", &[("X-Request-Id", "refused")], "{}")
        .await;
    let expected = [
        (
            "miss",
            json!({"result": "miss", "route": "/package/queryOrder", "tenant": "acme", "vendor_code": "0000", "sent": "yes", "status": 200}),
        ),
        (
            "hit",
            json!({"result": "hit", "route": "/package/queryOrder", "tenant": "acme", "vendor_code": "0000", "status": 200}),
        ),
        (
            "command",
            json!({"result": "command", "route": "/package/orderPackage", "tenant": "acme", "vendor_code": "0000", "sent": "yes", "status": 200}),
        ),
        (
            "refused",
            json!({"result": "refused", "route": "other", "tenant": "other", "error": "invalid_path", "sent": "no", "status": 400}),
        ),
    ];
    for (id, fields) in expected {
        let line = gateway.exchange_of(id).await;
        for (name, value) in fields.as_object().unwrap() {
            assert_eq!(&line[name], value, "{id} {name}");
        }
        assert_eq!(
            (&line["caller"], &line["level"]),
            (&json!("other"), &json!("INFO"))
        );
        assert!(
            line["duration"].as_f64().unwrap() > 0.0 && line["time"].is_string(),
            "{line}"
        );
        assert_eq!(
            line.get("queue").is_some(),
            matches!(id, "miss" | "command"),
            "{id}"
        );
        assert_eq!(
            line.get("upstream").is_some(),
            matches!(id, "miss" | "command"),
            "{id}"
        );
        assert_eq!(line.get("age").is_some(), id == "hit", "{id}");
        assert_eq!(
            gateway
                .log()
                .iter()
                .filter(|line| line["request_id"] == id)
                .count(),
            1
        );
    }
    assert!(!gateway.output().contains("89860012018111220455"));
}

#[tokio::test]
async fn a_level_applies_by_target_and_lines_of_commands_are_never_dropped() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set(
            "log.level",
            "\"error,linksfield_gateway=info,linksfield_gateway::telemetry=warn\"",
        )
        .run()
        .await;
    let id = |id: &'static str| [("X-Request-Id", id)];
    gateway
        .post("/package/queryOrder", &id("query"), r#"{"page_no":1}"#)
        .await;
    gateway
        .post("/package/orderPackage", &id("command"), "{}")
        .await;
    gateway.exchange_of("command").await;
    assert!(
        !gateway.output().contains("\"query\""),
        "{}",
        gateway.output()
    );
}

#[tokio::test]
async fn a_failure_tells_how_long_it_waited_and_for_whom() {
    let hang = page(1, 2, 105).fault(Fault::Hang);
    let upstream = upstream().answers(hang).run().await;
    let gateway = gateway(&upstream)
        .set("upstream.timeout", "\"100ms\"")
        .set("routes./package/orderPackage.timeout", "\"100ms\"")
        .run()
        .await;
    for path in ["/package/queryOrder", "/package/orderPackage"] {
        let reply = gateway
            .post(path, &[("X-Request-Id", &path[9..])], "{}")
            .await;
        assert_eq!(reply.status, 504);
        let line = gateway.exchange_of(&path[9..]).await;
        assert!(line["upstream"].as_f64().unwrap() >= 0.1, "{line}");
        assert!(line["queue"].as_f64().unwrap() < 0.1, "{line}");
    }
}

#[tokio::test]
async fn a_head_that_cannot_be_parsed_is_counted() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let mut connection = gateway.connect().await;
    assert_eq!(connection.exchange(b"GARBAGE\r\n\r\n").await.status, 400);
    connection.ended().await;
    until("counted", async || {
        gateway
            .metric("errors_total", &[("code", "malformed_request")])
            .await
            == 1.0
    })
    .await;
}

#[tokio::test]
async fn silent_connections_keep_no_probe_away() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(crate::support::connect(&gateway.admin).await);
    }
    until("alive", async || {
        let mut probe = crate::support::connect(&gateway.admin).await;
        let reply = probe
            .exchange_again(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            .await;
        matches!(reply, Ok(Some(reply)) if reply.status == 200)
    })
    .await;
}
