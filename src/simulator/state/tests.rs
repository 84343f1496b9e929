//! The order of the checks, and where a failure strikes.

use serde_json::Value;

use super::super::sign::signed;
use super::*;

const NOW: u64 = 1_643_251_754;

fn account() -> Account {
    Account {
        access_code: "P000270".to_owned(),
        signer: Signer::new(b"demo-secret-0001"),
    }
}

fn state(patch: &str) -> State {
    State::new(Settings::default().changed(patch.as_bytes()).unwrap())
}

fn call(state: &mut State, path: &str, body: &str) -> Reply {
    let received = Received {
        path,
        body: body.as_bytes(),
        language: Language::English,
        now: Duration::from_secs(NOW),
    };
    state.answer(&account(), &received)
}

fn code(reply: &Reply) -> String {
    let body: Value = serde_json::from_slice(&reply.answer.body).unwrap();
    assert_eq!(body["success"], body["code"] == "0000");
    body["code"].as_str().unwrap().to_owned()
}

fn query(timestamp: &str) -> String {
    let params = format!(
        r#"{{"access_code":"P000270","page_no":1,"page_size":2,"order_id":"","timestamp":"{timestamp}","version":"2.0"}}"#
    );
    signed("demo-secret-0001", &params)
}

fn renewal() -> String {
    let params = format!(
        r#"{{"access_code":"P000270","order_id":"L201903020000000617","renew_period":1,"timestamp":"{NOW}","version":"2.0"}}"#
    );
    signed("demo-secret-0001", &params)
}

/// How many periods the renewed order has, by a look that no failure disturbs.
fn periods(state: &State) -> String {
    let orders = state.world.find(&super::super::world::Filter {
        code: "L201903020000000617",
        ..Default::default()
    });
    let record = serde_json::to_value(orders[0].record()).unwrap();
    record["orderPeriod"].as_str().unwrap().to_owned()
}

#[test]
fn a_good_signature_is_answered_and_a_bad_one_refused() {
    let mut state = state("{}");
    let body = query("1643251754");
    let good = call(&mut state, "/package/queryOrder", &body);
    assert_eq!(code(&good), "0000");
    for changed in [
        body.replace("\"page_size\":2", "\"page_size\":20"),
        body.replace("\"page_size\":2", "\"page_size\":2.0"),
        body.replace("\"order_id\":\"\"", "\"order_id\":\"x\""),
    ] {
        let bad = call(&mut state, "/package/queryOrder", &changed);
        assert_eq!((bad.answer.status, code(&bad).as_str()), (200, "SIM-4011"));
    }
    // Empty parameters, order and white space are not signed.
    let same = body.replace("\"order_id\":\"\",", " ");
    assert_eq!(
        code(&call(&mut state, "/package/queryOrder", &same)),
        "0000"
    );
    assert_eq!(state.counters.bad_signatures, 3);
}

#[test]
fn the_data_sign_of_a_query_is_not_the_requests() {
    let body = query("1643251754");
    let reply = call(&mut state("{}"), "/package/queryOrder", &body);
    let answer: Value = serde_json::from_slice(&reply.answer.body).unwrap();
    let request: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["data"]["sign"].as_str().unwrap().len(), 28);
    assert_ne!(answer["data"]["sign"], request["sign"]);
}

#[test]
fn globals_are_required_and_the_account_is_looked_up() {
    let mut state = state("{}");
    let mut refused = |body: &str| code(&call(&mut state, "/package/queryOrder", body));
    assert_eq!(refused("[]"), "SIM-4000");
    assert_eq!(refused(r#"{"a":1,"a":1}"#), "SIM-4000");
    assert_eq!(refused("{}"), "SIM-4001");
    let body = query("1643251754");
    assert_eq!(refused(&body.replace("\"2.0\"", "2.0")), "SIM-4002");
    assert_eq!(refused(&body.replace("P000270", "P000271")), "SIM-4010");
}

#[test]
fn a_timestamp_is_within_the_window_in_either_unit() {
    let unit = |unit: &str, stamp: &str| {
        let mut state = state(&format!(r#"{{"timestamp_unit":"{unit}"}}"#));
        code(&call(&mut state, "/package/queryOrder", &query(stamp)))
    };
    assert_eq!(unit("auto", "1643251754"), "0000");
    assert_eq!(unit("auto", "1643251754123"), "0000");
    assert_eq!(unit("auto", "1643252354"), "0000");
    assert_eq!(unit("auto", "1643252355"), "SIM-4012");
    assert_eq!(unit("auto", "1643251153"), "SIM-4012");
    assert_eq!(unit("auto", "+1643251754"), "SIM-4002");
    assert_eq!(unit("auto", "18446744073709551615"), "SIM-4012");
    assert_eq!(unit("auto", "99999999999999999999"), "SIM-4002");
    assert_eq!(unit("seconds", "1643251754123"), "SIM-4012");
    assert_eq!(unit("milliseconds", "1643251754"), "SIM-4012");
}

#[test]
fn an_unknown_path_needs_a_good_signature_to_be_not_found() {
    let mut state = state("{}");
    let found = call(&mut state, "/package/nothing", &query("1643251754"));
    assert_eq!(
        (found.answer.status, code(&found).as_str()),
        (404, "SIM-4040")
    );
    let unsigned = query("1643251754").replace("P000270", "");
    let refused = call(&mut state, "/package/nothing", &unsigned);
    assert_eq!(refused.answer.status, 200);
}

#[test]
fn a_failure_before_the_effect_leaves_the_world_and_one_after_it_does_not() {
    for (apply, expected) in [("before", "1"), ("after", "1"), ("after_effect", "2")] {
        let mut state = state(&format!(
            r#"{{"fail":"drop","fail_count":1,"apply":"{apply}"}}"#
        ));
        let reply = call(&mut state, "/package/renewPackage", &renewal());
        assert_eq!(reply.breakage, Some(Breakage::Drop));
        assert_eq!(periods(&state), expected, "{apply}");
        let second = call(&mut state, "/package/renewPackage", &renewal());
        assert_eq!(second.breakage, None);
        assert_eq!(code(&second), "0000");
    }
}

#[test]
fn only_a_failure_before_the_signature_strikes_a_bad_one() {
    let body = query("1643251754").replace("\"page_no\":1", "\"page_no\":2");
    let reply = |apply: &str| {
        let mut state = state(&format!(r#"{{"fail_status":503,"apply":"{apply}"}}"#));
        call(&mut state, "/package/queryOrder", &body)
    };
    assert_eq!(reply("before").answer.status, 503);
    assert_eq!(reply("after").answer.status, 200);
}

#[test]
fn a_failure_has_the_status_and_the_code_that_were_asked_for() {
    let reply = |patch: &str| {
        let reply = call(
            &mut state(patch),
            "/package/queryOrder",
            &query("1643251754"),
        );
        (reply.answer.status, code(&reply))
    };
    assert_eq!(reply(r#"{"fail_code":"9999"}"#), (200, "9999".to_owned()));
    assert_eq!(
        reply(r#"{"fail_status":503}"#),
        (503, "SIM-5000".to_owned())
    );
    let both = r#"{"fail_status":500,"fail_code":"9999"}"#;
    assert_eq!(reply(both), (500, "9999".to_owned()));
    let elsewhere = r#"{"fail_status":500,"fail_path":"/package/orderPackage"}"#;
    assert_eq!(reply(elsewhere), (200, "0000".to_owned()));
}

#[test]
fn a_share_of_the_calls_fails_and_the_same_ones_after_a_reset() {
    let mut state = state(r#"{"fail_code":"9999","fail_rate":0.5}"#);
    let mut run = || {
        state.reset();
        let mut once = || {
            code(&call(
                &mut state,
                "/package/queryOrder",
                &query("1643251754"),
            ))
        };
        (0..40).map(|_| once()).collect::<Vec<_>>()
    };
    let first = run();
    let failed = first.iter().filter(|code| *code == "9999").count();
    assert!((10..30).contains(&failed), "{failed}");
    assert_eq!(run(), first);
}

#[test]
fn a_reset_brings_back_the_world_and_keeps_the_settings() {
    let mut state = state(r#"{"latency":"1s"}"#);
    call(&mut state, "/package/renewPackage", &renewal());
    assert_eq!(periods(&state), "2");
    state.reset();
    assert_eq!(periods(&state), "1");
    assert_eq!(state.settings.latency, Duration::from_secs(1));
}
