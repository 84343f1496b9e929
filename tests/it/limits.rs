//! The vendor's limits, counted as the vendor would.

use futures::future::join_all;
use serde_json::json;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

use crate::support::answer::{Fault, raw};
use crate::support::gateway::Gateway;
use crate::support::upstream::{Builder, Request};
use crate::support::{Gate, Reply, SECRET, failure, gateway, page, success, until, upstream};

#[tokio::test]
async fn there_are_never_more_connections_than_allowed_even_while_calls_fail() {
    let faults = [
        None,
        Some(Fault::Drop),
        Some(Fault::Reset),
        Some(Fault::Cut),
        Some(Fault::CloseDelimited),
        Some(Fault::CloseAfter),
    ];
    let upstream = upstream()
        .script(move |request| {
            let number = request.json()["page_no"].as_u64().unwrap();
            let mut answer = page(number, 2, 105).after(Duration::from_millis(number % 7));
            answer.fault = faults[usize::try_from(number).unwrap() % faults.len()];
            answer
        })
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("upstream.breaker.min_calls", "1000")
        .set("upstream.breaker.consecutive", "1000")
        .run()
        .await;
    let replies = join_all((1..=120).map(|number| gateway.page(number))).await;
    assert!(
        replies
            .iter()
            .all(|reply| [200, 502].contains(&reply.status))
    );
    assert!(
        upstream.highest_connections() <= 3,
        "{}",
        upstream.highest_connections()
    );
}

/// Takes connections and says nothing; closes none.
#[derive(Default)]
struct Mute {
    accepted: Vec<std::net::TcpStream>,
    most_open: usize,
}

impl Mute {
    /// It counts those as open that the other side has not reset: it has not read the end of any.
    fn accept(&mut self, stream: TcpStream) {
        self.accepted.push(stream.into_std().unwrap());
        self.accepted
            .retain(|stream| stream.take_error().unwrap().is_none());
        self.most_open = self.most_open.max(self.accepted.len());
    }
}

#[tokio::test]
async fn a_connection_that_is_given_up_while_it_is_opened_counts_until_the_vendor_has_closed_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mute = Arc::new(Mutex::new(Mute::default()));
    let accepting = mute.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            accepting.lock().unwrap().accept(stream);
        }
    });
    let upstream = upstream().run().await;
    let url = format!("\"https://localhost:{port}/cube/v4\"");
    let gateway = gateway(&upstream)
        .set("upstream.base_url", &url)
        .run()
        .await;
    let timeout = [("x-request-timeout", "60ms")];
    for _ in 0..3 {
        let orders = (0..3).map(|_| gateway.post("/package/orderPackage", &timeout, "{}"));
        for order in join_all(orders).await {
            assert_eq!(order.json()["sent"], "no", "{order:?}");
        }
    }
    assert_eq!(mute.lock().unwrap().most_open, 3);
    mute.lock().unwrap().accepted.clear();
    until("a connection is opened again", async || {
        gateway.post("/package/orderPackage", &timeout, "{}").await;
        !mute.lock().unwrap().accepted.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream).run().await;
    for number in 1..=10 {
        gateway.page(number).await;
    }
    assert_eq!((upstream.calls(), upstream.connections_opened()), (10, 1));
}

#[tokio::test]
async fn in_no_second_are_there_more_calls_than_allowed() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("upstream.limits.requests_per_second", "6")
        .set("upstream.limits.instances", "2")
        .set("upstream.limits.connections", "20")
        .run()
        .await;
    let replies = join_all((1..=8).map(|number| gateway.page(number))).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert_eq!(upstream.calls(), 8);
    assert!(
        upstream.highest_calls_in_any_second() <= 3,
        "{}",
        upstream.highest_calls_in_any_second()
    );
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_says_when_to_come_again() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers(page(1, 2, 105).behind(&gate))
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("upstream.limits.connections", "1")
        .set("upstream.limits.queue", "1")
        .run()
        .await;
    let running = gateway.connect_and_ask(r#"{"page_no":1}"#).await;
    gate.arrived().await;
    let waiting = gateway.connect_and_ask(r#"{"page_no":2}"#).await;
    until("the second waits", async || {
        gateway.metric("queue_length", &[]).await == 1.0
    })
    .await;
    let refused = gateway.query(&json!({"page_no": 3})).await;
    assert_eq!(refused.problem(), (503, "overloaded".into(), "no".into()));
    assert_eq!(refused.header("retry-after"), Some("1"));
    gate.open();
    for mut connection in [running, waiting] {
        assert_eq!(connection.reply().await.status, 200);
    }
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn what_can_no_longer_be_answered_in_time_when_its_turn_comes_is_not_sent() {
    let slow = success(&json!({})).after(Duration::from_secs(2));
    let upstream = upstream().answers(slow).run().await;
    let gateway = gateway(&upstream)
        .set("upstream.limits.connections", "1")
        .run()
        .await;
    let second = async {
        until("the first is under way", async || upstream.calls() == 1).await;
        // Nobody knows yet how long a call takes, so it may wait.
        let patient = [("x-request-timeout", "2500ms")];
        gateway.post("/package/orderPackage", &patient, "{}").await
    };
    let (first, second) = tokio::join!(gateway.order(), second);
    assert_eq!(first.status, 200);
    assert_eq!(second.problem(), (503, "overloaded".into(), "no".into()));
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn a_query_whose_callers_have_all_left_before_its_turn_costs_no_call() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = upstream()
        .script(move |request| page(number_of(request), 2, 1000).behind(&held))
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("upstream.limits.connections", "1")
        .run()
        .await;
    let waiting = async |calls: f64| {
        until("it waits", async || {
            gateway.metric("queue_length", &[]).await == calls
        })
        .await;
    };
    let later = async {
        gate.arrived().await;
        let impatient = [("x-request-timeout", "300ms")];
        let body = r#"{"page_no":2,"page_size":2}"#;
        let left = gateway.post("/package/queryOrder", &impatient, body).await;
        assert_ne!(left.status, 200);
        let open = async {
            waiting(2.0).await;
            gate.open();
        };
        tokio::join!(gateway.page(3), open).0
    };
    let (first, third) = tokio::join!(gateway.page(1), later);
    assert_eq!((first.status, third.status), (200, 200));
    waiting(0.0).await;
    let order: Vec<_> = upstream.requests().iter().map(number_of).collect();
    assert_eq!(order, [1, 3]);
}

#[tokio::test]
async fn queries_leave_the_days_reserve_to_commands_on_configured_paths() {
    let upstream = upstream().run().await;
    let gateway = gateway(&upstream)
        .set("upstream.limits.requests_per_day", "5")
        .set("upstream.limits.command_reserve", "0.4")
        .run()
        .await;
    for number in 1..=3 {
        assert_eq!(gateway.page(number).await.status, 200);
    }
    let refused = gateway.page(4).await;
    let problem = (429, "quota_exhausted".into(), "no".into());
    assert_eq!(refused.problem(), problem);
    let retry_after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((86_300..=86_400).contains(&retry_after), "{retry_after}");
    assert_eq!(gateway.page(1).await.status, 200, "memory costs nothing");
    let unlisted = gateway.post("/sms/send", &[], "{}").await;
    assert_eq!(unlisted.problem(), problem);
    for expected in [200, 200, 429] {
        assert_eq!(gateway.order().await.status, expected);
    }
    assert_eq!(upstream.calls(), 5);
}

#[tokio::test]
async fn a_vendor_that_throttles_is_left_alone_for_as_long_as_it_says() {
    let upstream = upstream()
        .answers(raw(429, failure("1").body).header("Retry-After", "30"))
        .run()
        .await;
    let gateway = gateway(&upstream).run().await;
    let throttled = gateway.page(1).await;
    let pause = throttled.header("retry-after");
    assert_eq!((throttled.status, pause), (429, Some("30")));
    let refused = gateway.page(2).await; // it waits for 19 s
    assert_eq!(refused.problem(), (503, "overloaded".into(), "no".into()));
    let retry_after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((10..=12).contains(&retry_after), "{retry_after}");
    assert_eq!(upstream.calls(), 1);
    assert_eq!(gateway.metric("quota_allowed_rate", &[]).await, 0.0);
}

#[tokio::test]
async fn as_the_days_budget_shrinks_less_is_asked_and_commands_go_last() {
    let upstream = upstream()
        .script(|request| match request.path() {
            "/cube/v4/package/queryOrder" => {
                page(request.json()["page_no"].as_u64().unwrap_or(1), 2, 105)
            }
            _ => success(&json!({"x": 1})),
        })
        .run()
        .await;
    let gateway = gateway(&upstream)
        .set("upstream.limits.requests_per_day", "22")
        .set("upstream.limits.command_reserve", "0.09") // two of them
        .set("routes./package/queryOrder.fresh_for", "\"1h\"")
        .set(
            "routes./stale",
            "{ kind = \"query\", fresh_for = \"0s\", stale_for = \"1h\" }",
        )
        .set(
            "routes./old",
            "{ kind = \"query\", fresh_for = \"0s\", stale_for = \"0s\", stale_if_error = \"1h\" }",
        )
        .run()
        .await;
    let ask = async |path, cache_control| {
        let reply = gateway
            .post(path, &[("Cache-Control", cache_control)], "{}")
            .await;
        let status = reply.header("cache-status").unwrap_or_default().to_owned();
        (
            reply.status,
            status.split("; ").nth(1).unwrap_or_default().to_owned(),
        )
    };
    let hit = || (200, "hit".to_owned());
    let mut numbers = 1..;
    let mut use_up_to = async |calls: usize| {
        while upstream.calls() < calls {
            gateway.page(numbers.next().unwrap()).await;
        }
        gateway.metric("thrift_level", &[]).await
    };
    ask("/stale", "").await;
    ask("/old", "").await;
    let forced = || ask("/package/queryOrder", "no-cache");
    assert_eq!(forced().await.0, 200);

    assert_eq!(use_up_to(15).await, 1.0); // five of twenty are left
    assert_eq!(ask("/stale", "").await, hit());
    assert_eq!(forced().await, (200, "fwd=request".to_owned()));
    assert_eq!(upstream.calls(), 16, "no background refresh");
    assert_eq!(use_up_to(17).await, 2.0);
    assert_eq!(ask("/old", "").await, hit(), "stale for longer");
    assert_eq!(upstream.calls(), 17);
    assert_eq!(use_up_to(19).await, 3.0);
    let refused = gateway
        .post(
            "/package/queryOrder",
            &[("Cache-Control", "no-cache")],
            "{}",
        )
        .await;
    assert_eq!(
        refused.problem(),
        (429, "quota_exhausted".into(), "no".into())
    );
    assert_eq!(
        gateway.post("/package/queryOrder", &[], "{}").await.status,
        200
    );
    assert_eq!(use_up_to(20).await, 4.0);
    assert_eq!(gateway.page(99).await.problem().1, "quota_exhausted");
    assert_eq!(
        [gateway.order().await.status, gateway.order().await.status],
        [200, 200]
    );
    assert_eq!(gateway.order().await.problem().1, "quota_exhausted");
    let remaining = |window| [("window", window)];
    assert_eq!(
        gateway.metric("quota_remaining", &remaining("day")).await,
        0.0
    );
    assert_eq!(gateway.metric("quota_limit", &remaining("day")).await, 22.0);
    assert_eq!(gateway.metric("quota_assumed", &[]).await, 1.0);
}

/// The callers of the tests below ask at once, each for another page.
async fn ask_for(gateway: &Gateway, pages: std::ops::Range<u64>) -> Vec<Reply> {
    join_all(pages.map(|number| gateway.page(number))).await
}

fn number_of(request: &Request) -> u64 {
    request.json()["page_no"].as_u64().unwrap_or(0)
}

/// An upstream that takes up to 30 ms for an answer, and fails now and then.
fn restless() -> Builder {
    upstream().script(|request| {
        let number = number_of(request);
        let mut answer = page(number, 2, 1000).after(Duration::from_millis(number % 7 * 5));
        answer.fault = match number % 20 {
            7 => Some(Fault::Drop),
            13 => Some(Fault::CloseAfter),
            17 => Some(Fault::Cut),
            _ => None,
        };
        answer
    })
}

#[tokio::test]
async fn two_hundred_callers_in_bursts_stay_within_the_limits_however_the_vendor_counts() {
    let upstream = restless().run().await;
    let gateway = gateway(&upstream)
        .set("upstream.limits.requests_per_second", "60")
        .set("upstream.limits.connections", "5")
        .set("upstream.retry.attempts", "3")
        .set("upstream.breaker.min_calls", "10000")
        .set("upstream.breaker.consecutive", "10000")
        .run()
        .await;
    let after = async |calls, pages| {
        until("so many calls", async || upstream.calls() >= calls).await;
        ask_for(&gateway, pages).await
    };
    // The second burst meets turns that are just free, the third a queue.
    let bursts = tokio::join!(after(0, 1..81), after(80, 81..141), after(100, 141..201));
    let replies: Vec<_> = [bursts.0, bursts.1, bursts.2]
        .into_iter()
        .flatten()
        .collect();
    let answered = |reply: &&Reply| reply.status == 200;
    assert_eq!(replies.len(), 200);
    // 20 fail whatever is tried; of those that meet a closing connection some, once the budget of
    // retries is spent.
    let failed = replies.iter().filter(|reply| !answered(reply));
    let failed: Vec<_> = failed.map(Reply::problem).collect();
    assert!(failed.len() <= 50, "{failed:?}");
    assert!(upstream.calls() > 200, "retries are calls");
    let (calls, connections) = (
        upstream.highest_calls_in_any_second(),
        upstream.highest_connections(),
    );
    assert!(calls <= 60, "{calls}");
    assert!(connections <= 5, "{connections}");
}

#[tokio::test]
async fn limits_that_a_reload_lowers_and_raises_again_hold_for_every_call_that_is_asked_after_it() {
    let upstream = restless().run().await;
    let gateway = gateway(&upstream)
        .set("upstream.limits.requests_per_second", "40")
        .set("upstream.limits.connections", "6")
        .set("upstream.breaker.min_calls", "10000")
        .set("upstream.breaker.consecutive", "10000")
        .run()
        .await;
    let limit_to = async |per_second: &str, connections: &str| {
        gateway.rewrite("upstream.limits.requests_per_second", per_second);
        gateway.rewrite("upstream.limits.connections", connections);
        assert_eq!(gateway.reload().await.status, 200);
    };
    let lower = async {
        until("half of them", async || upstream.calls() >= 30).await;
        limit_to("20", "2").await;
        ask_for(&gateway, 101..131).await
    };
    tokio::join!(ask_for(&gateway, 1..61), lower);
    let (asked, together) = upstream.counting_together(|call| number_of(call) > 100);
    assert!(asked >= 20 && together <= 20, "{asked}, {together}");
    until("the others are closed", async || {
        upstream.open_connections() <= 2
    })
    .await;
    limit_to("40", "6").await;
    ask_for(&gateway, 201..261).await;
    let (calls, connections) = (
        upstream.highest_calls_in_any_second(),
        upstream.highest_connections(),
    );
    assert!(calls <= 40, "{calls}");
    assert!(connections <= 6, "{connections}");
}

#[tokio::test]
async fn two_gateways_of_which_one_follows_the_other_stay_within_the_limits_together() {
    let upstream = upstream().run().await;
    let limited = || {
        gateway(&upstream)
            .set("upstream.limits.requests_per_second", "30")
            .set("upstream.limits.connections", "3")
    };
    let mut first = limited().run().await;
    let stop = async {
        until("some of them", async || upstream.calls() >= 20).await;
        first.signal("TERM");
    };
    let (replies, ()) = tokio::join!(ask_for(&first, 1..61), stop);
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert_eq!(first.exit().await.code(), Some(0));
    let second = limited().run().await;
    let replies = ask_for(&second, 101..141).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert_eq!(upstream.calls(), 100);
    let (calls, connections) = (
        upstream.highest_calls_in_any_second(),
        upstream.highest_connections(),
    );
    assert!(calls <= 30, "{calls}");
    assert!(connections <= 3, "{connections}");
}

/// Weight and queries of ten tenants; those with hundreds want more than they can have.
const APPETITES: [(usize, usize); 10] = [
    (1, 60),
    (1, 60),
    (2, 90),
    (2, 90),
    (3, 120),
    (4, 150),
    (1, 3),
    (1, 8),
    (5, 3),
    (8, 1),
];

/// The page that is held back until all wait.
const HELD: u64 = 500;

#[tokio::test]
async fn of_ten_tenants_each_that_always_wants_calls_gets_nine_tenths_of_its_share_at_least() {
    let gate = Gate::new();
    let behind = gate.clone();
    let mut vendor = upstream().script(move |request| {
        let answer = page(number_of(request), 2, 1000);
        match number_of(request) {
            HELD => answer.behind(&behind),
            _ => answer,
        }
    });
    for tenant in 0..APPETITES.len() {
        vendor = vendor.tenant(&format!("P{tenant}"), SECRET);
    }
    let upstream = vendor.run().await;
    let mut builder = gateway(&upstream)
        .set("upstream.limits.requests_per_second", "150")
        .set("upstream.limits.connections", "1")
        .set("upstream.limits.queue", "1000");
    for (tenant, (weight, _)) in APPETITES.iter().enumerate() {
        builder = builder
            .tenant(&format!("t{tenant}"), &format!("P{tenant}"), SECRET)
            .set(&format!("tenants.t{tenant}.weight"), &weight.to_string());
    }
    let gateway = builder.run().await;
    let ask = async |tenant: usize, number: usize| {
        let body = json!({"access_code": format!("P{tenant}"), "page_no": number});
        assert_eq!(gateway.query(&body).await.status, 200);
    };
    // All wait before the first of them has its turn: who is served is not a matter of who comes in
    // time.
    let first = json!({"access_code": "P000270", "page_no": HELD});
    let hold = gateway.query(&first);
    let callers = APPETITES
        .iter()
        .enumerate()
        .flat_map(|(tenant, (_, queries))| {
            let ask = &ask;
            (1..=*queries).map(move |number| ask(tenant, number))
        });
    let wanted = APPETITES.iter().map(|(_, queries)| queries).sum::<usize>();
    let wanted = f64::from(u32::try_from(wanted).unwrap());
    let callers = async {
        gate.arrived().await;
        join_all(callers).await
    };
    let release = async {
        until("all wait", async || {
            gateway.metric("queue_length", &[]).await == wanted
        })
        .await;
        gate.open();
    };
    tokio::join!(hold, callers, release);

    // While every one of them still waits for more.
    let calls = &upstream.requests()[1..301];
    let of_tenant = |tenant: usize| {
        let code = format!("P{tenant}");
        calls
            .iter()
            .filter(|call| call.json()["access_code"] == code)
            .count()
    };
    let (greedy, modest): (Vec<_>, Vec<_>) = APPETITES
        .iter()
        .enumerate()
        .partition(|(_, (_, queries))| *queries >= 60);
    let mut left = calls.len();
    for (tenant, (_, queries)) in modest {
        assert_eq!(of_tenant(tenant), *queries, "who wants little has it all");
        left -= queries;
    }
    let weights: usize = greedy.iter().map(|(_, (weight, _))| weight).sum();
    for (tenant, (weight, queries)) in greedy {
        let had = of_tenant(tenant);
        assert!(had < *queries, "it wants more");
        let tenths = had * weights * 10 / (left * weight);
        assert!(tenths >= 9, "{had} of {left} by {weight} in {weights}");
    }
    assert!(upstream.highest_calls_in_any_second() <= 150);
}
