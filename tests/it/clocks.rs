//! Clocks that are wrong, or are set, and machines that sleep: nothing is forgotten by the wall
//! clock alone, and what grows old does so in one's sleep too.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::support::answer::{Answer, Fault};
use crate::support::client::post;
use crate::support::gateway::{Gateway, keyed_order as order, with_state};
use crate::support::upstream::Request;
use crate::support::{Gate, Shim, Upstream, gateway, page, success, until, upstream};

const ORDER: &str = "/package/orderPackage";
const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;
const MONTH: i64 = 30 * DAY;

/// The time that Linksfield tells, in seconds ahead of what it is.
#[derive(Clone, Default)]
struct Told(Arc<AtomicI64>);

impl Told {
    fn set(&self, ahead: i64) {
        self.0.store(ahead, Ordering::SeqCst);
    }

    fn date(&self) -> String {
        httpdate::fmt_http_date(now(self.0.load(Ordering::SeqCst)))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the vendor has a clock of its own"
)]
fn now(ahead: i64) -> SystemTime {
    let by = Duration::from_secs(ahead.unsigned_abs());
    let now = SystemTime::now();
    if ahead < 0 { now - by } else { now + by }
}

/// A vendor that tells the time. It takes timestamps of any time: the gateways here have the wrong
/// one.
async fn vendor(
    told: &Told,
    script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
) -> Upstream {
    let told = told.clone();
    upstream()
        .takes_any_signature()
        .script(move |request| script(request).header("Date", &told.date()))
        .run()
        .await
}

fn pages(request: &Request) -> Answer {
    match request.path() {
        "/cube/v4/package/queryOrder" => {
            page(request.json()["page_no"].as_u64().unwrap_or(1), 2, 9)
        }
        _ => success(&json!({})),
    }
}

async fn end(mut gateway: Gateway) {
    gateway.signal("TERM");
    assert_eq!(gateway.exit().await.code(), Some(0));
}

async fn left(gateway: &Gateway) -> f64 {
    gateway
        .metric("quota_remaining", &[("window", "day")])
        .await
}

async fn is_assumed(gateway: &Gateway) -> bool {
    gateway.metric("quota_assumed", &[]).await == 1.0
}

/// As `upstream.limits.day`: any 24 hours, and one that began half a day ago.
fn days() -> [String; 2] {
    let now = now(0).duration_since(UNIX_EPOCH).unwrap().as_secs();
    let begun = (now / 60 + 12 * 60) % (24 * 60);
    [
        "\"rolling\"".into(),
        format!("\"{:02}:{:02}+00:00\"", begun / 60, begun % 60),
    ]
}

#[tokio::test]
async fn a_start_with_a_clock_that_is_wrong_forgets_no_key() {
    for (first, second) in [
        (0, 25 * HOUR),
        (0, MONTH),
        (0, -MONTH),
        (-25 * HOUR, 0),
        (MONTH, 0),
    ] {
        let (told, gate) = (Told::default(), Gate::new());
        let behind = gate.clone();
        let upstream = vendor(&told, move |request| match request.json()["key"].as_str() {
            Some("doubt") => success(&json!({})).fault(Fault::Drop),
            Some("running") => success(&json!({})).behind(&behind),
            _ => pages(request),
        })
        .await;
        let (folder, shim) = (tempfile::tempdir().unwrap(), Shim::new());
        let run = async |wall| {
            shim.set_wall(wall);
            with_state(gateway(&upstream), &folder)
                .under(&shim)
                .run()
                .await
        };
        let gateway = run(first).await;
        // The first call of its process, so nothing is known of Linksfield's clock; and killed.
        let mut running = gateway.connect().await;
        let key = [("Idempotency-Key", "running")];
        let body = json!({ "key": "running" }).to_string();
        running.send(&post(ORDER, &key, body.as_bytes())).await;
        gate.arrived().await;
        drop(gateway);
        let gateway = run(first).await;
        assert_eq!(order(&gateway, "kept").await.status, 200);
        assert_eq!(order(&gateway, "doubt").await.status, 502);
        drop(gateway); // which kills it

        for (starts, wall) in [(0.0, second), (1.0, first), (2.0, 0)] {
            let gateway = run(wall).await;
            for has_asked in [false, true] {
                let kept = order(&gateway, "kept").await;
                let is_replay = kept.header("idempotency-replayed") == Some("true");
                assert!(is_replay, "{wall}, {has_asked}: {kept:?}");
                for key in ["doubt", "running"] {
                    let doubt = order(&gateway, key).await;
                    assert_eq!(doubt.status, 409, "{key} {wall}, {has_asked}: {doubt:?}");
                }
                let keys = gateway.metric("idempotency_keys", &[]).await;
                assert_eq!(keys, 3.0 + starts);
                let anew = [("Cache-Control", "no-cache")];
                let page = gateway.post("/package/queryOrder", &anew, "{}").await;
                assert_eq!(page.status, 200); // and Linksfield has told its time
            }
            let another = order(&gateway, &starts.to_string()).await; // the file is written
            assert_eq!(
                (another.status, another.header("idempotency-replayed")),
                (200, None)
            );
            end(gateway).await;
        }
    }
}

#[tokio::test]
async fn one_wrong_date_before_a_restart_sends_no_order_twice_and_loses_no_call_of_the_day() {
    for day in days() {
        for wrong in [-2 * DAY, -MONTH, 2 * DAY, MONTH] {
            let told = Told::default();
            let upstream = vendor(&told, pages).await;
            let (folder, shim) = (tempfile::tempdir().unwrap(), Shim::new());
            let run = async || {
                with_state(gateway(&upstream), &folder)
                    .set("upstream.limits.requests_per_day", "20")
                    .set("upstream.limits.day", &day)
                    .under(&shim)
                    .run()
                    .await
            };
            told.set(wrong);
            let gateway = run().await;
            for key in ["one", "two"] {
                assert_eq!(order(&gateway, key).await.status, 200);
            }
            assert_eq!(gateway.page(1).await.status, 200); // and the day is written with what is told
            drop(gateway); // which kills it

            told.set(0);
            let gateway = run().await;
            assert_eq!(left(&gateway).await, 17.0, "{wrong} {day}");
            assert_eq!(gateway.page(1).await.status, 200); // and Linksfield has told its time
            for key in ["one", "two"] {
                let replay = order(&gateway, key).await;
                let is_replay = replay.header("idempotency-replayed") == Some("true");
                assert!(is_replay, "{key} {wrong} {day}: {replay:?}");
            }
            assert_eq!(left(&gateway).await, 16.0, "{wrong} {day}");
        }
    }
}

#[tokio::test]
async fn a_key_whose_window_has_ended_by_linksfields_clock_is_free() {
    let told = Told::default();
    let upstream = vendor(&told, pages).await;
    let (folder, shim) = (tempfile::tempdir().unwrap(), Shim::new());
    let run = async || {
        with_state(gateway(&upstream), &folder)
            .under(&shim)
            .run()
            .await
    };
    let gateway = run().await;
    assert_eq!(gateway.page(1).await.status, 200);
    assert_eq!(order(&gateway, "kept").await.status, 200);
    end(gateway).await;
    shim.set_wall(25 * HOUR);
    told.set(25 * HOUR);
    let gateway = run().await;
    let replay = order(&gateway, "kept").await;
    assert_eq!(
        replay.header("idempotency-replayed"),
        Some("true"),
        "nobody has said so yet"
    );
    assert_eq!(gateway.page(1).await.status, 200);
    let anew = order(&gateway, "kept").await;
    assert_eq!(
        (anew.status, anew.header("idempotency-replayed")),
        (200, None)
    );
}

#[tokio::test]
async fn a_clock_that_goes_back_and_forward_by_a_month_between_starts_loses_no_call_of_the_day() {
    for day in days() {
        let told = Told::default();
        let upstream = vendor(&told, pages).await;
        let (folder, shim) = (tempfile::tempdir().unwrap(), Shim::new());
        let mut made = 0.0;
        for wall in [0, -MONTH, MONTH, 25 * HOUR, 0] {
            shim.set_wall(wall);
            let gateway = with_state(gateway(&upstream), &folder)
                .set("upstream.limits.requests_per_day", "20")
                .set("upstream.limits.day", &day)
                .under(&shim)
                .run()
                .await;
            assert_eq!(left(&gateway).await, 20.0 - made, "{wall} {day}");
            for number in 0..2 {
                assert_eq!(gateway.page(number + 1).await.status, 200);
                made += 1.0;
                assert_eq!(left(&gateway).await, 20.0 - made, "{wall} {day}");
            }
            end(gateway).await;
        }
    }
}

#[tokio::test]
async fn a_clock_that_is_set_by_a_month_in_mid_run_loses_nothing() {
    for day in days() {
        let told = Told::default();
        let upstream = vendor(&told, pages).await;
        let (folder, shim) = (tempfile::tempdir().unwrap(), Shim::new());
        let run = async || {
            with_state(gateway(&upstream), &folder)
                .set("upstream.limits.requests_per_day", "20")
                .set("upstream.limits.day", &day)
                .under(&shim)
                .run()
                .await
        };
        let gateway = run().await;
        let mut made = 0;
        for wall in [0, MONTH, -MONTH, MONTH] {
            shim.set_wall(wall);
            for key in [made, made + 1] {
                assert_eq!(order(&gateway, &key.to_string()).await.status, 200);
            }
            made += 2;
            assert_eq!(left(&gateway).await, 20.0 - f64::from(made), "{wall} {day}");
        }
        end(gateway).await;
        shim.set_wall(0);
        let gateway = run().await;
        for _ in 0..2 {
            assert_eq!(left(&gateway).await, 20.0 - f64::from(made), "{day}");
            for key in 0..8 {
                let replay = order(&gateway, &key.to_string()).await;
                assert_eq!(
                    replay.header("idempotency-replayed"),
                    Some("true"),
                    "{key} {day}"
                );
            }
            assert_eq!(gateway.page(1).await.status, 200); // and Linksfield has told its time
            made = 9;
        }
    }
}

#[tokio::test]
async fn after_a_weekend_off_with_a_spent_day_one_call_finds_out_that_it_is_over() {
    for (is_over, day) in [(true, "\"rolling\""), (false, "\"rolling\"")] {
        let (told, gate) = (Told::default(), Gate::new());
        let behind = gate.clone();
        let upstream = vendor(&told, move |request| {
            match request.json()["page_no"].as_u64() {
                Some(100) => pages(request).behind(&behind),
                _ => pages(request),
            }
        })
        .await;
        let (folder, shim) = (tempfile::tempdir().unwrap(), Shim::new());
        let run = async || {
            with_state(gateway(&upstream), &folder)
                .set("upstream.limits.requests_per_day", "3")
                .set("upstream.limits.command_reserve", "0")
                .set("upstream.limits.day", day)
                .under(&shim)
                .run()
                .await
        };
        let gateway = run().await;
        for number in 1..4 {
            assert_eq!(gateway.page(number).await.status, 200);
        }
        let spent = (429, "quota_exhausted".into(), "no".into());
        assert_eq!(gateway.page(4).await.problem(), spent);
        end(gateway).await;

        shim.set_wall(2 * DAY);
        told.set(if is_over { 2 * DAY } else { 0 });
        let gateway = run().await;
        assert!(is_assumed(&gateway).await);
        assert_eq!(left(&gateway).await, 0.0);
        let others = async {
            gate.arrived().await;
            let refused = gateway.page(5).await; // one at a time
            assert_eq!(refused.problem(), spent);
            assert_eq!(refused.header("retry-after"), Some("1"));
            gate.open();
        };
        let (asked, ()) = tokio::join!(gateway.page(100), others);
        assert_eq!(asked.status, 200);
        if is_over {
            assert!(!is_assumed(&gateway).await);
            assert_eq!(gateway.page(6).await.status, 200);
            assert_eq!(gateway.page(7).await.status, 200);
        }
        assert_eq!(gateway.page(8).await.problem(), spent);
        let expected = if is_over { 6 } else { 4 };
        assert_eq!(upstream.calls(), expected);
    }
}

#[tokio::test]
async fn pages_keys_and_a_spent_day_age_while_the_machine_sleeps() {
    let told = Told::default();
    let upstream = vendor(&told, pages).await;
    let shim = Shim::new();
    let gateway = gateway(&upstream)
        .set("upstream.limits.requests_per_day", "3")
        .set("upstream.limits.command_reserve", "0")
        .set(
            "routes./info",
            "{ kind = \"query\", fresh_for = \"1m\", stale_for = \"0s\" }",
        )
        .under(&shim)
        .run()
        .await;
    let ask = async || {
        let reply = gateway.post("/info", &[], "{}").await;
        reply.header("cache-status").unwrap_or_default().to_owned()
    };
    assert!(ask().await.contains("fwd=miss"));
    assert!(ask().await.contains("hit"));
    shim.set_slept(120);
    until("the page is old", async || {
        ask().await.contains("fwd=stale")
    })
    .await;
    assert_eq!(upstream.calls(), 2);
    assert_eq!(
        upstream.connections_opened(),
        2,
        "what was idle for so long is not used"
    );
    assert_eq!(order(&gateway, "one").await.status, 200);
    assert_eq!(gateway.page(1).await.status, 429, "the day is spent");

    shim.set_slept(23 * 3600);
    assert_eq!(
        order(&gateway, "one").await.header("idempotency-replayed"),
        Some("true")
    );
    shim.set_slept(25 * 3600);
    until("the day is over", async || left(&gateway).await == 3.0).await;
    assert_eq!(gateway.page(1).await.status, 200);
    let anew = order(&gateway, "one").await;
    assert_eq!(
        (anew.status, anew.header("idempotency-replayed")),
        (200, None)
    );
}
