//! An answer that no list knows and that becomes the usual one is Linksfield's failure, where it is
//! usual and nowhere else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::answer::{Answer, raw};
use crate::support::gateway::{Builder, Gateway};
use crate::support::{Reply, Upstream, failure, gateway, page, success, until, upstream};

const QUERY: &str = "/package/queryOrder";
const ORDER: &str = "/package/orderPackage";
const DEVICE: &str = "/device/queryDevice";
/// Answers of which the last begins an episode, if one success came right before them.
const ENOUGH: u64 = 19;

/// What Linksfield is asked, and how it answers: one of these, by the place of the one that is
/// switched to.
struct Vendor {
    upstream: Upstream,
    mood: Arc<AtomicUsize>,
}

/// All is well at first; from [`turn`](Vendor::turn) on, `moods` decide: none is well.
async fn vendor(moods: Vec<fn(&str, &Value) -> Option<Answer>>) -> Vendor {
    let mood = Arc::new(AtomicUsize::new(0));
    let now = mood.clone();
    let upstream = upstream()
        .tenant("P2", "secret-2")
        .script(move |request| {
            let (path, asked) = (request.path().to_owned(), request.json());
            let mood = now.load(Ordering::SeqCst);
            let answer = mood
                .checked_sub(1)
                .and_then(|mood| moods[mood](&path, &asked));
            answer.unwrap_or_else(|| well(&path, &asked))
        })
        .run()
        .await;
    Vendor { upstream, mood }
}

fn well(path: &str, asked: &Value) -> Answer {
    if path.ends_with(QUERY) {
        page(asked["page_no"].as_u64().unwrap_or(1), 2, 105)
    } else {
        success(&json!({"order_id": "ORDER_1"}))
    }
}

impl Vendor {
    fn turn(&self, mood: usize) {
        self.mood.store(mood, Ordering::SeqCst);
    }
}

fn patient(vendor: &Vendor) -> Builder {
    gateway(&vendor.upstream)
        .set("routes./package/queryOrder.fresh_for", "\"0s\"")
        .set("routes./package/queryOrder.stale_for", "\"0s\"")
        .set("routes./device/queryDevice.kind", "\"query\"")
        .set("upstream.retry.attempts", "3")
        .set("upstream.retry.backoff", "\"1ms\"")
        .set("upstream.breaker.open_for", "\"1h\"")
}

/// Trials come at once.
fn trying(builder: Builder) -> Builder {
    builder.set("upstream.breaker.open_for", "\"1ms\"")
}

/// Each of these may ask and order. Nothing is tried within the test.
fn with_callers(vendor: &Vendor, names: &[&str]) -> Builder {
    names.iter().fold(patient(vendor), |builder, name| {
        builder.caller(name, &token_of(name), &["acme"], true)
    })
}

fn token_of(caller: &str) -> String {
    format!("token-of-the-{caller}-one")
}

/// A caller asks the query.
async fn ask(gateway: &Gateway, caller: &str, body: Value) -> Reply {
    post_by(gateway, caller, QUERY, &body).await
}

async fn post_by(gateway: &Gateway, caller: &str, path: &str, body: &Value) -> Reply {
    let token = format!("Bearer {}", token_of(caller));
    let headers = [("Authorization", &*token)];
    gateway.post(path, &headers, body.to_string()).await
}

/// Asks for a device that does not exist.
fn of_no_device(number: u64) -> Value {
    json!({"device_id": number.to_string(), "page_no": 1})
}

/// There is no such device; all else is well.
fn no_device(_: &str, asked: &Value) -> Option<Answer> {
    asked["device_id"].is_string().then(|| failure("9001"))
}

async fn is_open(gateway: &Gateway) -> bool {
    gateway.metric("upstream_breaker_open", &[]).await == 1.0
}

async fn device(gateway: &Gateway, number: u64) -> Reply {
    let body = json!({"device_id": number.to_string()}).to_string();
    gateway.post(DEVICE, &[], body).await
}

fn told<'a>(gateway: &Gateway, message: &'a str) -> impl Iterator<Item = Value> + use<'a> {
    let lines = gateway.log().into_iter();
    lines.filter(move |line| line["message"].as_str() == Some(message))
}

const BEGINS: &str =
    "an unclassified answer is the usual one, and is taken for a failure of the vendor";
const ENDS: &str = "the unclassified answer is the usual one no more";

#[tokio::test]
async fn one_unknown_code_to_everything_is_a_failure_as_5xx_are() {
    let vendor = vendor(vec![|_, _| Some(failure("9001"))]).await;
    let gateway = patient(&vendor).run().await;
    let old = gateway.page(1).await;
    device(&gateway, 1).await;
    vendor.turn(1);
    let before = vendor.upstream.calls();
    for number in 2..=ENOUGH {
        let reply = gateway.page(number).await;
        assert_eq!(reply.json()["code"], "9001", "passed on: {reply:?}");
    }
    assert!(!is_open(&gateway).await);
    // The one that makes it the usual one is a failure already, so an old page stands in.
    let stale = gateway.page(1).await;
    assert_eq!((stale.status, &stale.body), (200, &old.body));
    let cache_status = stale.header("cache-status").unwrap();
    assert!(
        cache_status.contains("fwd-status=200") && cache_status.ends_with("detail=unknown"),
        "{cache_status}"
    );
    assert!(is_open(&gateway).await);
    let calls = vendor.upstream.calls() - before;
    assert_eq!(calls as u64, ENOUGH, "none is asked again");
    assert_eq!(gateway.metric("upstream_retries_total", &[]).await, 0.0);

    for number in 2..=100 {
        let reply = gateway.page(number).await;
        assert_eq!(reply.problem(), (503, "breaker_open".into(), "no".into()));
        let detail = reply.json()["detail"].to_string();
        assert!(detail.contains("one that nothing classifies"), "{detail}");
        assert!(reply.header("retry-after").is_some());
    }
    let stale = gateway.page(1).await;
    assert!(
        stale
            .header("cache-status")
            .unwrap()
            .ends_with("detail=breaker_open")
    );
    assert_eq!((vendor.upstream.calls() - before) as u64, ENOUGH);

    let failures = [("end", "failure")];
    assert_eq!(gateway.metric("upstream_calls_total", &failures).await, 1.0);
    let page = String::from_utf8(gateway.admin("/").await.body).unwrap();
    let said = format!("usual answer to {QUERY} of acme is code 9001");
    assert!(
        page.contains(&said) && page.contains("breaker open in part"),
        "{page}"
    );
    let lines: Vec<_> = told(&gateway, BEGINS).collect();
    let [line] = lines.as_slice() else {
        panic!("{lines:?}")
    };
    let fields = (
        &line["level"],
        &line["route"],
        &line["tenant"],
        &line["answer"],
    );
    assert_eq!(
        fields,
        (
            &json!("WARN"),
            &json!(QUERY),
            &json!("acme"),
            &json!("code 9001")
        )
    );
    assert!(line["remedy"].as_str().unwrap().contains("upstream.codes"));

    // Another route has not shown it yet, and has the same fate once it has.
    for number in 2..=ENOUGH + 1 {
        assert_eq!(device(&gateway, number).await.json()["code"], "9001");
    }
    assert_eq!(device(&gateway, 99).await.problem().1, "breaker_open");
}

#[tokio::test]
async fn each_kind_of_unclassified_answer_can_become_the_usual_one() {
    let moods: Vec<fn(&str, &Value) -> Option<Answer>> = vec![
        |_, _| Some(failure("9001")),
        |_, _| Some(failure("0000")),
        |_, _| Some(raw(404, "<html>")),
        |_, _| Some(raw(400, "").header("Content-Type", "text/html")),
        |_, _| Some(raw(302, "").header("Location", "https://elsewhere/")),
        |_, _| Some(raw(403, "<html>").header("Content-Type", "text/html")),
        |_, _| Some(raw(401, "")),
        |_, _| Some(raw(400, failure("9001").body)),
        |_, _| Some(raw(422, failure("9001").body)),
    ];
    let told_as = [
        ("code 9001", "unknown", true),
        ("\"0000\" without success", "unknown", false),
        ("HTTP 404", "caller_error", false),
        ("HTTP 400", "caller_error", false),
        ("HTTP 302", "unknown", false),
    ];
    for (mood, (answer, outcome, has_list)) in (1..).zip(told_as) {
        let vendor = vendor(moods.clone()).await;
        let gateway = patient(&vendor).run().await;
        let old = gateway.page(1).await;
        vendor.turn(mood);
        for number in 2..=ENOUGH + 1 {
            gateway.page(number).await;
        }
        assert!(is_open(&gateway).await, "{mood}");
        until("it is told", async || told(&gateway, BEGINS).count() == 1).await;
        let line = told(&gateway, BEGINS).next().unwrap();
        assert_eq!(line["answer"], answer, "{line}");
        let remedy = line["remedy"].as_str().unwrap();
        assert_eq!(remedy.contains("put the code into the list"), has_list);
        until("each line has the outcome of its call", async || {
            let lines = told(&gateway, "exchange finished");
            // The last one is the usual one already.
            let of_calls =
                lines.filter(|line| line["outcome"] == outcome || line["outcome"] == "unknown");
            of_calls.count() as u64 == ENOUGH
        })
        .await;
        assert_eq!(gateway.page(1).await.body, old.body, "{mood}");
        assert_eq!(vendor.upstream.calls() as u64, ENOUGH + 1, "{mood}");
    }
}

#[tokio::test]
async fn a_refused_signature_and_a_listed_code_with_4xx_are_classified() {
    let moods: Vec<fn(&str, &Value) -> Option<Answer>> = vec![
        |_, _| Some(raw(403, failure("9001").body)),
        |_, _| Some(raw(401, failure("9001").body)),
        |_, _| Some(raw(400, failure("4004").body)),
    ];
    for mood in 1..=moods.len() {
        let vendor = vendor(moods.clone()).await;
        let gateway = patient(&vendor)
            .set("upstream.codes.caller_error", "[\"4004\"]")
            .run()
            .await;
        gateway.page(1).await;
        vendor.turn(mood);
        for number in 2..=2 * ENOUGH {
            gateway.page(number).await;
        }
        assert!(!is_open(&gateway).await, "{mood}");
        assert_eq!(vendor.upstream.calls() as u64, 2 * ENOUGH, "{mood}");
    }
}

#[tokio::test]
async fn an_order_that_a_firewall_refuses_is_in_doubt_only_while_it_refuses_everything() {
    let vendor = vendor(vec![|_, _| Some(raw(403, "<html>"))]).await;
    let gateway = patient(&vendor).run().await;
    gateway.page(1).await;
    vendor.turn(1);
    let order = async |key: &str| {
        let key = [("Idempotency-Key", key)];
        gateway.post(ORDER, &key, "{}").await
    };
    let calls = vendor.upstream.calls();
    for _ in 0..2 {
        let reply = order("one").await;
        assert_eq!(reply.status, 403);
        assert_eq!(reply.header("x-linksfield-in-doubt"), None);
    }
    assert_eq!(vendor.upstream.calls(), calls + 2, "its key is free");
    for number in 2..=ENOUGH + 1 {
        gateway.page(number).await;
    }
    assert!(order("two").await.header("x-linksfield-in-doubt").is_some());
    assert_eq!(order("two").await.problem().1, "command_in_doubt");
}

#[tokio::test]
async fn one_call_at_a_time_tries_and_the_first_success_ends_it() {
    let vendor = vendor(vec![|_, _| Some(failure("9001"))]).await;
    let gateway = trying(patient(&vendor)).run().await;
    gateway.page(1).await;
    vendor.turn(1);
    for number in 2..=ENOUGH + 1 {
        gateway.page(number).await;
    }
    let calls = vendor.upstream.calls();
    until("tries that change nothing", async || {
        gateway.page(50).await;
        vendor.upstream.calls() == calls + 2
    })
    .await;
    assert!(is_open(&gateway).await);
    assert_eq!(told(&gateway, ENDS).count(), 0);
    vendor.turn(0);
    until("it closes", async || gateway.page(50).await.status == 200).await;
    assert!(!is_open(&gateway).await);
    until("it is told", async || told(&gateway, ENDS).count() == 1).await;
    assert_eq!(told(&gateway, BEGINS).count(), 1);
}

#[tokio::test]
async fn a_reload_keeps_it_and_a_code_that_gets_its_meaning_ends_it() {
    let vendor = vendor(vec![|_, _| Some(failure("9001"))]).await;
    let gateway = patient(&vendor).run().await;
    gateway.page(1).await;
    vendor.turn(1);
    for number in 2..=ENOUGH + 1 {
        gateway.page(number).await;
    }
    gateway.rewrite("routes./a/new/one.kind", "\"query\"");
    assert_eq!(gateway.reload().await.status, 200);
    assert_eq!(gateway.page(2).await.problem().1, "breaker_open");
    gateway.rewrite("upstream.codes.caller_error", "[\"9001\"]");
    gateway.rewrite("upstream.breaker.open_for", "\"1ms\"");
    assert_eq!(gateway.reload().await.status, 200);
    until("it closes", async || {
        gateway.page(2).await.json()["code"] == "9001"
    })
    .await;
    assert!(!is_open(&gateway).await);
}

#[tokio::test]
async fn an_order_answered_with_it_meanwhile_is_in_doubt() {
    let vendor = vendor(vec![|_, _| Some(failure("9001"))]).await;
    let gateway = patient(&vendor)
        .set("routes./package/renewPackage.kind", "\"command\"")
        .run()
        .await;
    gateway.page(1).await;
    vendor.turn(1);
    let order = async |path: &str, key: &str| {
        let key = [("Idempotency-Key", key)];
        gateway.post(path, &key, "{}").await
    };
    let in_doubt = |reply: &Reply| reply.header("x-linksfield-in-doubt").is_some();
    let before = order(ORDER, "before").await;
    assert!(!in_doubt(&before), "it may be its own matter: {before:?}");
    for number in 2..=ENOUGH + 1 {
        gateway.page(number).await;
    }
    assert!(is_open(&gateway).await);
    let keyed = order(ORDER, "one").await;
    assert_eq!((keyed.status, &keyed.json()["code"]), (200, &json!("9001")));
    assert!(in_doubt(&keyed));
    assert_eq!(order(ORDER, "one").await.problem().1, "command_in_doubt");
    let unkeyed = gateway.post("/package/renewPackage", &[], "{}").await;
    assert!(in_doubt(&unkeyed));
    let counted = gateway.metric("commands_unknown_outcome_total", &[]).await;
    assert_eq!(counted, 2.0);
    let upstream = [("fault", "upstream")];
    let failed = gateway.metric("failed_requests_total", &upstream).await;
    assert_eq!(failed, 3.0, "with the query that began it");
    // The next one would be bought by a vendor that fails, so it is not sent.
    let refused = order(ORDER, "two").await;
    assert_eq!(refused.problem(), (503, "breaker_open".into(), "no".into()));
    assert_eq!(order(ORDER, "before").await.body, before.body);
}

#[tokio::test]
async fn orders_refused_for_want_of_balance_close_nothing() {
    let vendor = vendor(vec![|path, _| {
        path.ends_with(ORDER).then(|| failure("9001"))
    }])
    .await;
    let gateway = patient(&vendor).run().await;
    assert_eq!(gateway.order().await.json()["success"], true);
    gateway.page(1).await;
    vendor.turn(1);
    for number in 0..60 {
        let body = json!({"device_id": number.to_string()}).to_string();
        let reply = gateway.post(ORDER, &[], body).await;
        assert_eq!(reply.json()["code"], "9001");
        assert_eq!(reply.header("x-linksfield-in-doubt"), None);
        let page = gateway.page(number + 1).await;
        assert_eq!(page.json()["success"], true);
    }
    assert!(!is_open(&gateway).await);
}

#[tokio::test]
async fn a_caller_who_is_refused_over_and_over_closes_nothing_to_others() {
    let vendor = vendor(vec![no_device]).await;
    let gateway = with_callers(&vendor, &["loud", "quiet"]).run().await;
    ask(&gateway, "quiet", json!({"page_no": 1})).await;
    vendor.turn(1);
    for number in 0..60 {
        let reply = ask(&gateway, "loud", of_no_device(number)).await;
        assert_eq!(reply.json()["code"], "9001");
    }
    assert!(!is_open(&gateway).await);
    let reply = ask(&gateway, "quiet", json!({"page_no": 2})).await;
    assert_eq!(reply.json()["success"], true);
}

#[tokio::test]
async fn a_caller_that_was_silent_so_far_is_asked_before_it_is_refused() {
    let vendor = vendor(vec![no_device, |_, _| Some(failure("9001"))]).await;
    for is_everybodys in [false, true] {
        vendor.turn(0);
        let gateway = with_callers(&vendor, &["loud", "quiet"]).run().await;
        ask(&gateway, "loud", json!({"page_no": 1})).await;
        vendor.turn(1);
        for number in 2..=ENOUGH + 1 {
            ask(&gateway, "loud", of_no_device(number)).await;
        }
        let refused = ask(&gateway, "loud", json!({"page_no": 50})).await;
        assert_eq!(refused.problem().1, "breaker_open");
        if is_everybodys {
            vendor.turn(2);
        }
        for number in 51..54 {
            let reply = ask(&gateway, "quiet", json!({"page_no": number})).await;
            assert_eq!(reply.json()["success"], !is_everybodys, "{reply:?}");
        }
        for (caller, number) in [("quiet", 55), ("loud", 56)] {
            let reply = ask(&gateway, caller, json!({"page_no": number})).await;
            let is_refused = reply.json()["code"] == "breaker_open";
            assert_eq!(is_refused, is_everybodys, "{reply:?}");
        }
        assert_eq!(is_open(&gateway).await, is_everybodys);
    }
}

#[tokio::test]
async fn what_two_callers_are_answered_closes_nothing_to_a_third() {
    let vendor = vendor(vec![|path, asked| {
        no_device(path, asked).or_else(|| path.ends_with(ORDER).then(|| failure("9001")))
    }])
    .await;
    let gateway = with_callers(&vendor, &["loud", "second", "unlucky", "quiet"])
        .run()
        .await;
    ask(&gateway, "loud", json!({"page_no": 1})).await;
    vendor.turn(1);
    ask(&gateway, "unlucky", of_no_device(1)).await; // once
    for number in 2..=ENOUGH {
        let caller = if number < 5 { "second" } else { "loud" };
        ask(&gateway, caller, of_no_device(number)).await;
    }
    assert!(is_open(&gateway).await);
    let order = async |caller: &str, number: u64| {
        let body = json!({"device_id": number.to_string()});
        let reply = post_by(&gateway, caller, ORDER, &body).await;
        (
            reply.json()["code"].clone(),
            reply.header("x-linksfield-in-doubt").is_some(),
        )
    };
    assert_eq!(order("quiet", 1).await, (json!("9001"), false));
    assert_eq!(order("unlucky", 1).await, (json!("9001"), false));
    assert_eq!(order("loud", 2).await, (json!("9001"), true));
    for (caller, number) in [("loud", 3), ("second", 4)] {
        let reply = ask(&gateway, caller, json!({"page_no": 50 + number})).await;
        assert_eq!(reply.problem().1, "breaker_open", "{caller}");
        assert_eq!(order(caller, number).await.0, "breaker_open", "{caller}");
    }
    assert_eq!(order("quiet", 5).await, (json!("9001"), false));
    let reply = ask(&gateway, "quiet", json!({"page_no": 2})).await;
    assert_eq!(reply.json()["success"], true, "{reply:?}");
    assert!(!is_open(&gateway).await, "the vendor answers");
}

#[tokio::test]
async fn a_job_that_asks_for_what_does_not_exist_stops_others_once_and_not_again() {
    let vendor = vendor(vec![|path, asked| {
        no_device(path, asked).or_else(|| path.ends_with(ORDER).then(|| failure("9001")))
    }])
    .await;
    let gateway = trying(patient(&vendor)).run().await;
    let query = async |body: Value| gateway.post(QUERY, &[], body.to_string()).await;
    gateway.page(1).await;
    vendor.turn(1);
    for number in 0..ENOUGH {
        query(of_no_device(number)).await;
    }
    assert!(is_open(&gateway).await, "this may be everybody's");
    let mut numbers = 2..;
    until("a question of somebody else is answered", async || {
        let page = gateway.page(numbers.next().unwrap()).await;
        page.json()["success"] == true
    })
    .await;
    until("both are told", async || {
        told(&gateway, BEGINS).count() == 1 && told(&gateway, ENDS).count() == 1
    })
    .await;
    // No two questions are alike.
    for number in numbers.take(20) {
        for device in 0..ENOUGH {
            let reply = query(of_no_device(number * 100 + device)).await;
            assert_eq!(reply.json()["code"], "9001", "{reply:?}");
        }
        let body = json!({"device_id": number.to_string()}).to_string();
        let order = gateway.post(ORDER, &[], body).await;
        assert_eq!(order.json()["code"], "9001");
        assert_eq!(order.header("x-linksfield-in-doubt"), None, "it is its own");
        let page = gateway.page(number).await;
        assert_eq!(page.json()["success"], true, "{page:?}");
    }
    assert_eq!(told(&gateway, BEGINS).count(), 1, "it does not come back");
}

#[tokio::test]
async fn one_refused_question_proves_nothing_so_that_others_are_tried_at_once() {
    let vendor = vendor(vec![no_device]).await;
    let gateway = patient(&vendor)
        .set("upstream.breaker.open_for", "\"2s\"")
        .run()
        .await;
    let query = async |body: Value| gateway.post(QUERY, &[], body.to_string()).await;
    gateway.page(1).await;
    vendor.turn(1);
    for number in 0..ENOUGH {
        query(of_no_device(number)).await;
    }
    let mut numbers = 100..;
    until("one is tried", async || {
        let reply = query(of_no_device(numbers.next().unwrap())).await;
        reply.json()["code"] == "9001"
    })
    .await;
    let page = gateway.page(50).await;
    assert_eq!(page.json()["success"], true, "{page:?}");
    assert!(!is_open(&gateway).await);
}

#[tokio::test]
async fn a_vendor_that_fails_again_is_seen_by_the_questions_that_had_an_answer() {
    let vendor = vendor(vec![|_, _| Some(failure("9001"))]).await;
    let gateway = trying(patient(&vendor)).run().await;
    for number in 1..=6 {
        gateway.page(number).await;
    }
    vendor.turn(1);
    for number in 10..=10 + ENOUGH {
        gateway.page(number).await;
    }
    assert!(is_open(&gateway).await);
    vendor.turn(0);
    until("it closes", async || gateway.page(50).await.status == 200).await;
    vendor.turn(1);
    for number in 1..=6 {
        gateway.page(number).await;
    }
    assert!(is_open(&gateway).await);
    until("it is told", async || told(&gateway, BEGINS).count() == 2).await;
}

#[tokio::test]
async fn one_question_again_and_again_and_a_first_start_close_nothing() {
    let vendor = vendor(vec![|_, _| Some(failure("9001"))]).await;
    let gateway = patient(&vendor).run().await;
    gateway.page(1).await;
    vendor.turn(1);
    for _ in 0..60 {
        assert_eq!(gateway.page(2).await.json()["code"], "9001");
    }
    assert!(!is_open(&gateway).await);
    for number in 0..60 {
        let reply = device(&gateway, number).await;
        assert_eq!(
            reply.json()["message"],
            "失败",
            "a wrong account is told so"
        );
    }
    assert!(!is_open(&gateway).await);
}

#[tokio::test]
async fn another_tenant_is_touched_only_by_its_own_answers() {
    let vendor = vendor(vec![
        |_, asked| (asked["access_code"] == "P2").then(|| failure("9001")),
        |_, _| Some(failure("9001")),
    ])
    .await;
    let gateway = patient(&vendor)
        .tenant("second", "P2", "secret-2")
        .run()
        .await;
    let ask = async |tenant: &str, number: u64| {
        let tenant = [("X-Linksfield-Tenant", tenant)];
        let body = json!({"page_no": number, "page_size": 2}).to_string();
        gateway.post(QUERY, &tenant, body).await
    };
    ask("acme", 1).await;
    ask("second", 1).await;
    vendor.turn(1);
    for number in 2..=ENOUGH + 1 {
        ask("second", number).await;
    }
    assert_eq!(ask("second", 99).await.problem().1, "breaker_open");
    for number in 2..=60 {
        assert_eq!(ask("acme", number).await.json()["success"], true);
    }
    vendor.turn(2);
    for number in 100..=100 + ENOUGH {
        ask("acme", number).await;
    }
    assert_eq!(ask("acme", 99).await.problem().1, "breaker_open");
}
