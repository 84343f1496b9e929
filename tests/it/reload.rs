//! Another configuration, or other secrets, without a restart.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::answer::raw;
use crate::support::{
    ACCESS_CODE, Gate, Reply, SECRET, failure, gateway, page, success, until, upstream,
};

fn is_hit(reply: &Reply) -> bool {
    reply.header("cache-status").unwrap().contains("; hit")
}

#[tokio::test]
async fn a_change_is_in_effect_after_a_reload_a_hangup_or_by_itself() {
    let upstream = upstream().answers(success(&json!({}))).run().await;
    for way in ["POST /reload", "SIGHUP", "told by the system", "looked for"] {
        let mut builder = gateway(&upstream);
        if way == "looked for" {
            builder = builder.set("server.reload_interval", "\"50ms\"");
        } else {
            builder = builder.set("server.reload_interval", "\"1h\"");
        }
        let gateway = builder.run().await;
        assert_eq!(gateway.order().await.status, 200);
        gateway.rewrite("tenants.acme.commands", "false");
        match way {
            "POST /reload" => {
                let reply = gateway.reload().await;
                assert_eq!(reply.status, 200);
            }
            "SIGHUP" => gateway.signal("HUP"),
            _ => {}
        }
        until(way, async || gateway.order().await.status == 403).await;
        let effective = String::from_utf8(gateway.admin("/config").await.body).unwrap();
        assert!(effective.contains("commands = false"), "{way}");
        assert_eq!(
            gateway.metric("config_last_reload_successful", &[]).await,
            1.0
        );
        assert_eq!(gateway.metric("config_info", &[]).await, 1.0);
    }
}

#[tokio::test]
async fn a_reload_that_comes_second_says_what_came_first() {
    let upstream = upstream().answers(success(&json!({}))).run().await;
    let gateway = gateway(&upstream)
        .set("server.reload_interval", "\"1h\"")
        .run()
        .await;
    let said = async || {
        let reply = gateway.reload().await.json();
        let detail = reply["detail"].as_str().unwrap().to_owned();
        (reply, detail)
    };
    let (reply, detail) = said().await;
    assert_eq!(reply["changed"], json!(false));
    assert_eq!(reply["last_change"]["by"], "start", "{reply}");
    assert!(
        detail.contains("nothing has changed since the start"),
        "{detail}"
    );

    for (way, key, value) in [
        ("file watcher", "tenants.acme.commands", "false"),
        ("SIGHUP", "server.request_timeout", "\"7s\""),
    ] {
        gateway.rewrite(key, value);
        if way == "SIGHUP" {
            gateway.signal("HUP");
        }
        // Whichever of the two was quicker: what is read is in the log.
        let is_told = |line: &Value| line["keys"] == key;
        until(way, async || gateway.log().iter().any(is_told)).await;
        let (reply, detail) = said().await;
        let last = &reply["last_change"];
        assert_eq!(
            (&reply["changed"], &last["changed_keys"]),
            (&json!(false), &json!([key]))
        );
        let by = last["by"].as_str().unwrap();
        assert!(by == way || by == "file watcher", "{reply}");
        assert!(detail.contains(key) && detail.contains(by), "{detail}");
        let at = last["at"].as_str().unwrap();
        assert!(at.ends_with('Z') && detail.contains(at), "{reply}");
    }
    gateway.rewrite("log.level", "\"debug\"");
    let (reply, detail) = said().await;
    assert_eq!(reply["last_change"]["changed_keys"], json!(["log.level"]));
    assert!(detail.contains("log.level"), "{detail}");
}

#[tokio::test]
async fn a_reload_names_every_brake_that_is_on() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let on = async || gateway.reload().await.json()["brakes"].clone();
    assert_eq!(on().await, json!([]));
    for (key, value) in [
        ("tenants.acme.commands", "false"),
        ("routes./package/orderPackage.kind", "\"refuse\""),
        ("routes./package/orderPackage.invalidates", "[]"),
        ("upstream.paused", "true"),
    ] {
        gateway.rewrite(key, value);
    }
    let all = json!([
        "upstream.paused",
        "tenants.acme.commands",
        "routes.\"/package/orderPackage\".kind"
    ]);
    assert_eq!(on().await, all);
    assert_eq!(on().await, all, "whoever has put them on");
    gateway.rewrite("upstream.paused", "false");
    let left = on().await;
    assert_eq!(left.as_array().map(Vec::len), Some(2), "{left}");
}

#[tokio::test]
async fn a_brake_that_the_environment_overrides_is_told_though_nothing_changes() {
    const VARIABLE: &str = "LINKSFIELD_GATEWAY__SERVER__COMMANDS";
    let upstream = upstream().answers(success(&json!({}))).run().await;
    let gateway = gateway(&upstream).environment(VARIABLE, "true").run().await;
    gateway.rewrite("server.commands", "false");
    let said = gateway.reload().await.json();
    assert_eq!(
        (&said["changed"], &said["brakes"]),
        (&json!(false), &json!([]))
    );
    let is_of = |warning: &&Value| warning["key"] == "server.commands";
    let warning = said["warnings"].as_array().unwrap().iter().find(is_of);
    let reason = warning.unwrap()["reason"].as_str().unwrap();
    assert!(
        reason.contains("the brake of the file is NOT in effect") && reason.contains(VARIABLE),
        "{reason}"
    );
    assert_eq!(gateway.order().await.status, 200);
    // It is logged once, whoever reads the file again.
    let lines = || {
        let told = gateway.log().into_iter().filter(|line| is_of(&line));
        let told = told.map(|line| (line["level"].clone(), line["reason"].clone()));
        told.collect::<Vec<_>>()
    };
    until("it is logged", async || !lines().is_empty()).await;
    gateway.reload().await;
    assert_eq!(lines(), [(json!("WARN"), json!(reason))]);
}

#[tokio::test]
async fn another_secret_is_told_by_its_key_and_not_by_its_value() {
    const OTHER: &str = "rotated-hunter2";
    let upstream = upstream().takes_any_signature().run().await;
    let gateway = gateway(&upstream)
        .set("server.reload_interval", "\"1h\"")
        .run()
        .await;
    gateway.replace("secret-acme", OTHER);
    let said = gateway.reload().await.json();
    let key = "tenants.acme.secret_file";
    // By this reload, or by one that the system's word of the change has brought.
    let last = &said["last_change"];
    assert_eq!(
        (&last["changed_keys"], &last["changed_secrets"]),
        (&json!([]), &json!([key]))
    );
    let detail = said["detail"].as_str().unwrap();
    assert!(
        detail.contains(&format!("the content of {key}")),
        "{detail}"
    );
    let told = || {
        let log = gateway.log();
        let is_told = |line: &&Value| line["message"] == "configuration or secrets changed";
        log.iter().find(is_told).cloned()
    };
    until("it is logged", async || told().is_some()).await;
    let line = told().unwrap();
    assert_eq!(
        (&line["secrets"], &line["keys"]),
        (&json!(key), &Value::Null)
    );
    assert!(!gateway.output().contains(OTHER) && !said.to_string().contains(OTHER));
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_changes_nothing_and_is_told_once() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    let good = std::fs::read_to_string(gateway.folder().join("gateway.toml")).unwrap();
    gateway.page(1).await;
    let rows = [
        (
            good.replace("kind = \"query\"", "kind = \"quarry\""),
            "routes.\"/package/queryOrder\".kind",
        ),
        (good.replace("access_code", "acess_code"), "access_code"),
        ("[server".to_owned(), "not TOML"),
        (String::new(), "upstream.base_url"),
        (
            format!("{good}\n[tenants.new]\naccess_code = \"P9\"\nsecret_file = \"/nowhere\"\n"),
            "tenants.new.secret_file",
        ),
    ];
    for (bad, reason) in rows {
        gateway.replace("gateway.toml", &bad);
        let reply = gateway.reload().await;
        let said = String::from_utf8(reply.body.clone()).unwrap();
        assert_eq!(reply.status, 422, "{said}");
        assert!(
            said.contains(reason) && said.contains("nothing was changed"),
            "{said}"
        );
        assert_eq!(
            gateway.metric("config_last_reload_successful", &[]).await,
            0.0
        );
        assert!(is_hit(&gateway.page(1).await));
    }
    for _ in 0..3 {
        assert_eq!(gateway.reload().await.status, 422);
    }
    gateway.replace("gateway.toml", &good);
    gateway.rewrite("server.request_timeout", "\"9s\"");
    assert_eq!(gateway.reload().await.status, 200);
    let usable = gateway.metric("config_last_reload_successful", &[]);
    assert_eq!(usable.await, 1.0);
    until("the log has come so far", async || {
        let lines = gateway.log();
        lines
            .iter()
            .any(|line| line["message"] == "configuration or secrets changed")
    })
    .await;
    let told = |line: &serde_json::Value| line["key"] == "tenants.new.secret_file";
    assert_eq!(gateway.log().iter().filter(|line| told(line)).count(), 1);
}

#[tokio::test]
async fn what_needs_a_restart_says_so_and_is_not_in_effect() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    gateway.rewrite("cache.max_size", "\"1MiB\"");
    gateway.rewrite("server.max_connections", "7");
    gateway.rewrite("routes./package/queryOrder.fresh_for", "\"7s\"");
    let reply = gateway.reload().await;
    let needs_restart = json!(["server.max_connections", "cache.max_size"]);
    assert_eq!(reply.json()["needs_restart"], needs_restart);
    // By this reload, or by one that the system's word of the change has brought.
    let is_told = |line: &Value| line["keys"] == "routes.\"/package/queryOrder\".fresh_for";
    until("it is told", async || gateway.log().iter().any(is_told)).await;
    let effective = String::from_utf8(gateway.admin("/config").await.body).unwrap();
    assert!(effective.contains("fresh_for = \"7s\"") && effective.contains("max_size = \"64MiB\""));
    gateway.page(1).await;
    let reply = gateway.page(1).await;
    assert!(reply.header("cache-status").unwrap().contains("ttl=7"));
    // Nor is it kept quiet where nothing else has changed, and it is said once.
    gateway.rewrite("server.idle_timeout", "\"3m\"");
    gateway.signal("HUP");
    let told = || {
        let log = gateway.log();
        let is_of = |key: &str| log.iter().filter(|line| line["key"] == key).count();
        (
            is_of("server.max_connections"),
            is_of("server.idle_timeout"),
        )
    };
    until("it is told", async || told().1 == 1).await;
    assert_eq!(gateway.reload().await.json()["changed"], json!(false));
    assert_eq!(told(), (2, 1)); // with what is new, what is not is told again
}

#[tokio::test]
async fn pages_stay_unless_another_configuration_changes_what_they_depend_on() {
    let first = upstream()
        .tenant("P2", SECRET)
        .takes_any_signature()
        .run()
        .await;
    let second = upstream().takes_any_signature().run().await;
    let rows = [
        (
            "routes./package/queryOrder.fresh_for",
            "\"1h\"".to_owned(),
            [true, true],
        ),
        ("upstream.timeout", "\"3s\"".to_owned(), [true, true]),
        (
            "tenants.acme.access_code",
            "\"P3\"".to_owned(),
            [false, true],
        ),
        ("signing.version", "\"3.0\"".to_owned(), [false, false]),
        (
            "routes./package/queryOrder.pages",
            "false".to_owned(),
            [false, false],
        ),
        (
            "upstream.base_url",
            format!("{:?}", second.url()),
            [false, false],
        ),
    ];
    for (key, value, stay) in rows {
        let gateway = gateway(&first).tenant("second", "P2", SECRET).run().await;
        let ask = async |tenant| {
            let headers = [("X-Linksfield-Tenant", tenant)];
            gateway
                .post("/package/queryOrder", &headers, r#"{"page_no":1}"#)
                .await
        };
        for tenant in ["acme", "second"] {
            assert_eq!(ask(tenant).await.status, 200);
        }
        gateway.rewrite(key, &value);
        assert_eq!(gateway.reload().await.status, 200, "{key}");
        let hits = [is_hit(&ask("acme").await), is_hit(&ask("second").await)];
        assert_eq!(hits, stay, "{key}");
        if stay == [false, false] {
            assert_eq!(
                gateway.metric("cache_entries", &[]).await,
                2.0,
                "{key}: the old ones are gone"
            );
        }
    }
    assert_eq!(second.calls(), 2);
}

#[tokio::test]
async fn what_has_begun_ends_under_its_configuration_and_a_fill_of_it_is_not_kept() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers(page(1, 2, 105).behind(&gate))
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let reload = async {
        gate.arrived().await;
        gate.arrived().await;
        gateway.rewrite("tenants.acme.commands", "false");
        assert_eq!(gateway.reload().await.status, 200);
        let after = gateway.page(1); // joins no fill of before
        let release = async {
            gate.arrived().await;
            gate.open();
        };
        tokio::join!(after, release).0
    };
    let (page, order, after) = tokio::join!(gateway.page(1), gateway.order(), reload);
    let status = page.header("cache-status").unwrap();
    assert!(status.ends_with("detail=reconfigured"), "{status}");
    assert_eq!((order.status, after.status), (200, 200));
    assert_eq!(gateway.order().await.status, 403);
}

#[tokio::test]
async fn a_command_reaches_the_queries_that_a_reload_adds_while_it_is_under_way() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = upstream()
        .script(move |request| {
            if request.path().ends_with("orderPackage") {
                success(&json!({})).behind(&held)
            } else {
                page(1, 2, 105)
            }
        })
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("routes./package/orderPackage", "{ kind = \"command\" }")
        .run()
        .await;
    let ask = async || gateway.post("/package/queryPlan", &[], "{}").await;
    let reload = async {
        gate.arrived().await;
        let new = "{ kind = \"query\" }";
        gateway.rewrite("routes./package/queryPlan", new);
        assert_eq!(gateway.reload().await.status, 200);
        ask().await;
        assert!(is_hit(&ask().await));
        gate.open();
    };
    let (order, ()) = tokio::join!(gateway.order(), reload);
    assert_eq!(order.status, 200);
    assert!(!is_hit(&ask().await));
}

#[tokio::test]
async fn a_removed_tenant_is_gone_and_an_added_one_is_there() {
    let upstream = upstream().tenant("P2", "secret-2").run().await;
    let gateway = gateway(&upstream).run().await;
    let file = gateway.folder().join("secret-2");
    std::fs::write(&file, "secret-2").unwrap();
    let ask = async |tenant| {
        let headers = [("X-Linksfield-Tenant", tenant)];
        gateway.post("/package/queryOrder", &headers, "{}").await
    };
    assert_eq!(ask("second").await.problem().1, "unknown_tenant");
    gateway.rewrite(
        "tenants",
        &format!("{{ second = {{ access_code = \"P2\", secret_file = {file:?} }} }}"),
    );
    assert_eq!(gateway.reload().await.status, 200);
    assert_eq!(ask("second").await.status, 200);
    assert_eq!(ask("acme").await.problem().1, "unknown_tenant");
    let by_tenant = gateway.metric(
        "requests_total",
        &[("tenant", "second"), ("result", "miss")],
    );
    assert_eq!(by_tenant.await, 1.0);
}

#[tokio::test]
async fn a_secret_that_cannot_be_used_is_refused_and_the_last_good_one_stays() {
    let hex: String = SECRET.bytes().map(|byte| format!("{byte:02x}")).collect();
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("signing.secret_encoding", "\"hex\"")
        .secret("acme", &hex)
        .run()
        .await;
    let secret = [("tenant", "acme")];
    for (bad, reason) in [
        ("", "is empty"),
        ("\n", "is empty"),
        (&*"x".repeat(70_000), "larger than 64 KiB"),
        ("no hexadecimal digits", "is not hexadecimal"),
    ] {
        gateway.replace("secret-acme", bad);
        let reply = gateway.reload().await;
        assert_eq!(
            (reply.status, &reply.json()["changed"]),
            (200, &json!(false))
        );
        let refused = reply.json()["refused_secrets"][0]["reason"].clone();
        assert!(refused.as_str().unwrap().contains(reason), "{refused}");
        assert_eq!(gateway.order().await.status, 200); // the upstream checks each signature
        for family in [
            "secret_last_reload_successful",
            "config_last_reload_successful",
        ] {
            assert_eq!(gateway.metric(family, &[]).await, 0.0, "a start would fail");
        }
        assert_eq!(gateway.metric("secrets_refused", &[]).await, 1.0);
    }
    // Nor does another account get the secret of this one.
    gateway.rewrite("tenants.acme.access_code", "\"P9\"");
    assert_eq!(gateway.reload().await.status, 422);
    let refused = gateway.metric("secrets_refused", &[]).await;
    assert_eq!(refused, 0.0, "an alert on the file is not hidden by this");
    gateway.rewrite("tenants.acme.access_code", &format!("{ACCESS_CODE:?}"));
    gateway.replace("secret-acme", &hex);
    gateway.reload().await;
    assert_eq!(gateway.metric("secrets_refused", &[]).await, 0.0);
    assert_eq!(
        gateway
            .metric("secret_last_reload_successful", &secret)
            .await,
        1.0
    );
    assert!(
        gateway
            .metric("secret_last_reload_success_timestamp_seconds", &secret)
            .await
            > 1.7e9
    );
}

/// As Kubernetes mounts a Secret: `secret` is a link to `..data/secret`, and `..data` a link to the
/// folder of a version.
struct Mount(std::path::PathBuf);

impl Mount {
    fn new(folder: &std::path::Path, secret: &str) -> Self {
        let mount = Self(folder.join("mount"));
        std::fs::create_dir(&mount.0).unwrap();
        mount.swap(0, secret);
        std::os::unix::fs::symlink("..data/secret", mount.0.join("secret")).unwrap();
        mount
    }

    fn swap(&self, version: usize, secret: &str) {
        let folder = format!("..version-{version}");
        std::fs::create_dir(self.0.join(&folder)).unwrap();
        std::fs::write(self.0.join(&folder).join("secret"), secret).unwrap();
        let new = self.0.join("..data_tmp");
        std::os::unix::fs::symlink(&folder, &new).unwrap();
        std::fs::rename(&new, self.0.join("..data")).unwrap();
    }
}

#[tokio::test]
async fn a_mounted_secret_that_is_swapped_is_signed_with_from_then_on() {
    let upstream = upstream().takes_any_signature().run().await;
    let builder = gateway(&upstream).set("server.reload_interval", "\"1h\"");
    let folder = tempfile::tempdir().unwrap();
    let mount = Mount::new(folder.path(), SECRET);
    let file = mount.0.join("secret");
    let gateway = builder
        .set("tenants.acme.secret_file", &format!("{file:?}"))
        .run()
        .await;
    gateway.order().await;
    assert!(upstream.last().is_signed_with(SECRET));
    for version in 1..=3 {
        let secret = format!("rotated-{version}");
        mount.swap(version, &secret);
        until("the new secret", async || {
            gateway.order().await;
            upstream.last().is_signed_with(&secret)
        })
        .await;
    }
    assert!(!gateway.output().contains("rotated-"));
}

#[tokio::test]
async fn other_limits_count_for_what_was_counted_before() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    for number in 1..=2 {
        assert_eq!(gateway.page(number).await.status, 200);
    }
    for (of_the_day, status) in [("2", 429), ("4", 200), ("3", 429), ("\"none\"", 200)] {
        gateway.rewrite("upstream.limits.requests_per_day", of_the_day);
        gateway.rewrite("upstream.limits.command_reserve", "0.0");
        gateway.rewrite("upstream.limits.connections", "1");
        let reply = gateway.reload().await;
        assert_eq!(reply.json()["needs_restart"], json!([]));
        let ask = json!({"page_no": 3, "page_size": 2, "device_id": of_the_day});
        assert_eq!(gateway.query(&ask).await.status, status, "{of_the_day}");
    }
    assert_eq!(
        gateway
            .metric("quota_limit", &[("window", "connections")])
            .await,
        1.0
    );
}

#[tokio::test]
async fn twenty_swaps_of_a_secret_under_load_fail_no_request() {
    let taken = Arc::new(Mutex::new(vec![SECRET.to_owned()]));
    let known = taken.clone();
    let upstream = upstream()
        .takes_any_signature()
        .script(move |request| {
            let secrets = known.lock().unwrap();
            if secrets.iter().any(|secret| request.is_signed_with(secret)) {
                page(request.json()["page_no"].as_u64().unwrap(), 2, 105)
            } else {
                raw(403, failure("bad signature").body)
            }
        })
        .run()
        .await;
    let folder = tempfile::tempdir().unwrap();
    let mount = Mount::new(folder.path(), SECRET);
    let file = mount.0.join("secret");
    let gateway = gateway(&upstream)
        .set("tenants.acme.secret_file", &format!("{file:?}"))
        .run()
        .await;
    let (swapped, numbers) = (AtomicBool::new(false), AtomicU64::new(1));
    let load = async || {
        let mut statuses = Vec::new();
        while !swapped.load(Ordering::SeqCst) {
            let number = numbers.fetch_add(1, Ordering::SeqCst);
            statuses.push(gateway.page(number).await.status);
        }
        statuses
    };
    let swaps = async {
        for version in 1..=20 {
            if version == 7 {
                mount.swap(version, "");
                until("it is refused", async || {
                    let successful = gateway.metric("secret_last_reload_successful", &[]);
                    successful.await == 0.0
                })
                .await;
                continue;
            }
            let secret = format!("rotated-{version}");
            {
                let mut taken = taken.lock().unwrap(); // those before are taken for a while, as requests with them are under way
                taken.push(secret.clone());
                if taken.len() > 5 {
                    taken.remove(0);
                }
            }
            mount.swap(version, &secret);
            until("it is signed with", async || {
                let requests = upstream.requests();
                let last = requests.last();
                last.is_some_and(|request| request.is_signed_with(&secret))
            })
            .await;
        }
        swapped.store(true, Ordering::SeqCst);
    };
    let (one, two, three, ()) = tokio::join!(load(), load(), load(), swaps);
    let statuses = [one, two, three].concat();
    assert!(statuses.len() > 20);
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(gateway.metric("secret_switches_total", &[]).await, 0.0);
}
