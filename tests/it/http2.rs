//! HTTP/2 to the vendor: many calls on few connections, and what becomes of them when streams and
//! connections end.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;
use tokio_rustls::TlsAcceptor;

use crate::support::answer::{Answer, Fault};
use crate::support::frames::{
    ACK, CANCEL, Frames, INITIAL_WINDOW_SIZE, INTERNAL_ERROR, MAX_CONCURRENT_STREAMS, NO_ERROR,
    PING, Peer, REFUSED_STREAM, Told,
};
use crate::support::gateway::{Builder, Gateway};
use crate::support::{Gate, Upstream, gateway_to, page, success, until, upstream};
use crate::tls::certificate_with;

const BOTH: [&str; 2] = ["h2", "http/1.1"];

fn certificate(protocols: &[&str]) -> (TlsAcceptor, String) {
    certificate_with("localhost", protocols)
}

/// A gateway that offers HTTP/2.
pub fn offering(url: &str, authority: &str, connections: u32) -> Builder {
    let builder = gateway_to(url);
    let path = builder.file("ca.pem", authority);
    builder
        .set("upstream.ca_file", &format!("{path:?}"))
        .set("upstream.http2", "true")
        .set("upstream.limits.connections", &connections.to_string())
}

/// The metrics of both versions: connections, and calls under way.
async fn traffic(gateway: &Gateway) -> [(&'static str, f64, f64); 2] {
    let of = async |protocol| {
        let labels = [("protocol", protocol)];
        (
            protocol,
            gateway.metric("upstream_connections", &labels).await,
            gateway.metric("upstream_requests_in_flight", &labels).await,
        )
    };
    [of("h2").await, of("http/1.1").await]
}

async fn pages(gateway: &Gateway, numbers: std::ops::Range<u64>) -> Vec<u16> {
    let replies = join_all(numbers.map(|number| gateway.page(number))).await;
    replies.iter().map(|reply| reply.status).collect()
}

#[tokio::test]
async fn many_slow_answers_are_under_way_on_few_connections() {
    let (acceptor, authority) = certificate(&BOTH);
    let gate = Gate::new();
    let answer = success(&json!({})).behind(&gate);
    let upstream = upstream().answers(answer).tls(acceptor).run().await;
    let gateway = offering(&upstream.url(), &authority, 2).run().await;
    assert_eq!(
        traffic(&gateway).await,
        [("h2", 0.0, 0.0), ("http/1.1", 0.0, 0.0)]
    );
    let orders = async { join_all((0..40).map(|_| gateway.order())).await };
    let opened = async {
        until("all are under way", async || upstream.running() == 40).await;
        assert!(upstream.open_connections() <= 2);
        let [(_, connections, calls), http1] = traffic(&gateway).await;
        assert!((1.0..=2.0).contains(&connections));
        assert_eq!((calls, http1), (40.0, ("http/1.1", 0.0, 0.0)));
        gate.open();
    };
    let (replies, ()) = tokio::join!(orders, opened);
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert!(upstream.highest_connections() <= 2);
    assert_eq!(upstream.calls(), 40);
    let [(_, _, calls), _] = traffic(&gateway).await;
    assert_eq!(calls, 0.0);
    assert!(upstream.last().line.ends_with("HTTP/2.0"));
}

#[tokio::test]
async fn a_vendor_that_takes_few_streams_gets_no_more_at_a_time() {
    let (acceptor, authority) = certificate(&BOTH);
    let gate = Gate::new();
    let answer = success(&json!({})).behind(&gate);
    let builder = upstream().answers(answer).tls(acceptor);
    let upstream = builder.streams(3).run().await;
    let gateway = offering(&upstream.url(), &authority, 2).run().await;
    let orders = async { join_all((0..10).map(|_| gateway.order())).await };
    let opened = async {
        until("as many as may be", async || upstream.running() >= 3).await;
        gate.open();
    };
    let (replies, ()) = tokio::join!(orders, opened);
    assert!(
        replies.iter().all(|reply| reply.status == 200),
        "{replies:?}"
    );
    assert!(upstream.highest_connections() <= 2);
    assert_eq!(upstream.calls(), 10);
}

#[tokio::test]
async fn a_vendor_without_http2_gets_http1_and_no_more_calls_than_connections() {
    for protocols in [&["http/1.1"][..], &[]] {
        let (acceptor, authority) = certificate(protocols);
        let gate = Gate::new();
        let answer = success(&json!({})).behind(&gate);
        let upstream = upstream().answers(answer).tls(acceptor).run().await;
        let gateway = offering(&upstream.url(), &authority, 2).run().await;
        let orders = async { join_all((0..8).map(|_| gateway.order())).await };
        let opened = async {
            until("two are under way", async || upstream.running() == 2).await;
            until("six wait", async || {
                gateway.metric("queue_length", &[]).await == 6.0
            })
            .await;
            assert_eq!(upstream.running(), 2);
            assert_eq!(
                traffic(&gateway).await,
                [("h2", 0.0, 0.0), ("http/1.1", 2.0, 2.0)]
            );
            gate.open();
        };
        let (replies, ()) = tokio::join!(orders, opened);
        assert!(replies.iter().all(|reply| reply.status == 200));
        assert_eq!(upstream.highest_connections(), 2);
        assert!(upstream.last().line.ends_with("HTTP/1.1"));
    }
}

#[tokio::test]
async fn the_limits_of_the_second_and_of_the_day_hold() {
    let (acceptor, authority) = certificate(&BOTH);
    let upstream = upstream().tls(acceptor).run().await;
    let gateway = offering(&upstream.url(), &authority, 1)
        .set("upstream.limits.requests_per_second", "4")
        .set("upstream.limits.requests_per_day", "10")
        .set("upstream.limits.command_reserve", "0.0")
        .run()
        .await;
    let statuses = pages(&gateway, 1..21).await;
    let count = |status| statuses.iter().filter(|other| **other == status).count();
    assert_eq!((count(200), count(429)), (10, 10), "{statuses:?}");
    assert_eq!(upstream.calls(), 10);
    assert!(upstream.highest_calls_in_any_second() <= 4);
    assert_eq!(upstream.highest_connections(), 1);
}

#[tokio::test]
async fn a_vendor_that_goes_away_in_mid_traffic_loses_no_query_and_gets_no_command_twice() {
    let (acceptor, authority) = certificate(&BOTH);
    let upstream = upstream()
        .script(|request| {
            let body = request.json();
            match body["device_id"].as_str() {
                Some(device) if device.ends_with('7') => success(&json!({})).fault(Fault::GoAway),
                Some(_) => success(&json!({})),
                None => page(body["page_no"].as_u64().unwrap(), 2, 1000),
            }
        })
        .tls(acceptor)
        .run()
        .await;
    let gateway = offering(&upstream.url(), &authority, 2).run().await;
    let order = async |number: u64| {
        let body = json!({"device_id": format!("{number}")}).to_string();
        let reply = gateway.post("/package/orderPackage", &[], body).await;
        assert_eq!(
            reply.status,
            200,
            "{}",
            String::from_utf8_lossy(&reply.body)
        );
    };
    let busy = async |lane: u64| {
        for number in lane * 6..lane * 6 + 6 {
            let (reply, ()) = tokio::join!(gateway.page(number + 1), order(number));
            assert_eq!(
                reply.status,
                200,
                "{}",
                String::from_utf8_lossy(&reply.body)
            );
        }
    };
    join_all((0..10).map(busy)).await;
    let mut devices: Vec<_> = upstream
        .requests()
        .iter()
        .filter_map(|request| Some(request.json()["device_id"].as_str()?.to_owned()))
        .collect();
    devices.sort();
    let all = devices.len();
    devices.dedup();
    assert_eq!((all, devices.len()), (60, 60));
    assert!(upstream.connections_opened() > 2, "it did go away");
    assert!(upstream.highest_connections() <= 2);
}

/// The first so many calls fail like this, the next ones are answered.
async fn failing_at_first(failures: usize, fault: Fault) -> (Upstream, Gateway) {
    let (acceptor, authority) = certificate(&BOTH);
    let mut answers: Vec<Answer> = vec![page(1, 2, 105).fault(fault); failures];
    answers.push(page(1, 2, 105));
    let builder = upstream().answers_in_turn(answers).tls(acceptor);
    let upstream = builder.run().await;
    let gateway = offering(&upstream.url(), &authority, 2).run().await;
    (upstream, gateway)
}

#[tokio::test]
async fn a_refused_stream_was_not_sent_so_the_call_is_made_anew_and_not_for_ever() {
    let refused = Fault::ResetStream(REFUSED_STREAM);
    for failures in [1, 3] {
        let (upstream, gateway) = failing_at_first(failures, refused).await;
        assert_eq!(gateway.order().await.status, 200);
        assert_eq!(upstream.calls(), failures + 1);
        let (upstream, gateway) = failing_at_first(failures, refused).await;
        assert_eq!(gateway.page(1).await.status, 200);
        assert_eq!(upstream.calls(), failures + 1);
    }
    let (upstream, gateway) = failing_at_first(99, refused).await;
    let reply = gateway.order().await;
    let problem = (502, "upstream_disconnected".into(), "no".into());
    assert_eq!(reply.problem(), problem);
    assert_eq!(upstream.calls(), 4);
    let unknown = gateway.metric("commands_unknown_outcome_total", &[]);
    assert_eq!(unknown.await, 0.0);
}

#[tokio::test]
async fn a_stream_that_is_reset_or_lost_with_its_connection_may_have_been_processed() {
    #[rustfmt::skip]
    let rows = [
        (Fault::ResetStream(INTERNAL_ERROR), "unknown"),
        (Fault::ResetStream(CANCEL), "unknown"),
        (Fault::ResetStream(NO_ERROR), "unknown"),
        (Fault::Drop, "unknown"),
        (Fault::ResetMidBody(INTERNAL_ERROR), "yes"),
        (Fault::ResetMidBody(NO_ERROR), "yes"),
    ];
    for (fault, sent) in rows {
        let (upstream, gateway) = failing_at_first(1, fault).await;
        let problem = (502, "upstream_disconnected".into(), sent.into());
        assert_eq!(gateway.order().await.problem(), problem, "{fault:?}");
        assert_eq!(upstream.calls(), 1, "{fault:?}");
        assert_eq!(gateway.order().await.status, 200, "{fault:?}");
        let opened = if fault == Fault::Drop { 2 } else { 1 };
        assert_eq!(upstream.connections_opened(), opened, "{fault:?}");
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_leaves_all_its_calls_unknown_and_none_is_made_anew() {
    let (acceptor, authority) = certificate(&BOTH);
    let gate = Gate::new();
    let answer = success(&json!({})).fault(Fault::Drop).behind(&gate);
    let upstream = upstream().answers(answer).tls(acceptor).run().await;
    let gateway = offering(&upstream.url(), &authority, 1).run().await;
    let orders = async { join_all((0..20).map(|_| gateway.order())).await };
    let cut = async {
        until("all are under way", async || upstream.running() == 20).await;
        gate.open();
    };
    let (replies, ()) = tokio::join!(orders, cut);
    let problem = (502, "upstream_disconnected".into(), "unknown".into());
    assert!(replies.iter().all(|reply| reply.problem() == problem));
    assert_eq!(upstream.calls(), 20);
    let unknown = gateway.metric("commands_unknown_outcome_total", &[]);
    assert_eq!(unknown.await, 20.0);
}

#[tokio::test]
async fn a_reload_changes_the_version_without_one_connection_too_many() {
    let (acceptor, authority) = certificate(&BOTH);
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = upstream()
        .script(move |request| match request.json()["device_id"].as_str() {
            Some("held") => success(&json!({})).behind(&held),
            _ => success(&json!({})),
        })
        .tls(acceptor)
        .run()
        .await;
    let gateway = offering(&upstream.url(), &authority, 2);
    let gateway = gateway.set("upstream.http2", "false").run().await;
    let order = async |device: &str| {
        let body = json!({"device_id": device}).to_string();
        let reply = gateway.post("/package/orderPackage", &[], body).await;
        assert_eq!(reply.status, 200, "{reply:?}");
    };
    let many = async || {
        let (_, statuses) = tokio::join!(
            join_all((0..10).map(|_| order("x"))),
            join_all((0..10).map(|_| gateway.order()))
        );
        assert!(statuses.iter().all(|reply| reply.status == 200));
    };
    many().await;
    assert!(upstream.last().line.ends_with("HTTP/1.1"));
    for (setting, version) in [
        ("true", "HTTP/2.0"),
        ("false", "HTTP/1.1"),
        ("true", "HTTP/2.0"),
    ] {
        let changed = async {
            gate.arrived().await; // one call is under way on a connection of the version before
            gateway.rewrite("upstream.http2", setting);
            assert_eq!(gateway.reload().await.status, 200);
            many().await;
            assert!(upstream.last().line.ends_with(version), "{setting}");
            gate.open();
        };
        tokio::join!(order("held"), changed);
        many().await;
        gate.close();
        assert!(upstream.last().line.ends_with(version), "{setting}");
    }
    assert!(upstream.highest_connections() <= 2);
}

#[tokio::test]
async fn probe_says_what_the_vendor_takes() {
    for (protocols, setting, says) in [
        (&BOTH[..], "false", "the vendor takes HTTP/2"),
        (&BOTH, "true", "HTTP/2, as upstream.http2 is on"),
        (
            &["http/1.1"],
            "false",
            "HTTP/1.1: the vendor does not take HTTP/2",
        ),
        (&[], "true", "so upstream.http2 has no effect"),
    ] {
        let (acceptor, authority) = certificate(protocols);
        let upstream = upstream().tls(acceptor).run().await;
        let builder = offering(&upstream.url(), &authority, 2).set("upstream.http2", setting);
        let config = builder.write();
        let mut command = builder.command(&["probe", "--config", &config, "--tenant", "acme"]);
        let output = tokio::task::spawn_blocking(move || command.output()).await;
        let output = output.unwrap().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(says), "{text}");
        assert!(output.status.success());
    }
}

/// A vendor that is played frame by frame, and a gateway before it.
async fn frames(connections: u32) -> (Frames, Gateway) {
    frames_with(connections, |builder| builder).await
}

async fn frames_with(
    connections: u32,
    configure: impl FnOnce(Builder) -> Builder,
) -> (Frames, Gateway) {
    let (acceptor, authority) = certificate(&BOTH);
    let vendor = Frames::listen(acceptor).await;
    let builder = offering(&vendor.url(), &authority, connections);
    (vendor, configure(builder).run().await)
}

#[tokio::test]
async fn a_stream_above_the_last_one_of_a_goaway_was_not_sent() {
    for reason in [NO_ERROR, INTERNAL_ERROR] {
        let (vendor, gateway) = frames(2).await;
        let served = async {
            let mut first = vendor.accept().await;
            assert_eq!(first.told().await, Told::Request(1));
            first.go_away(0, reason).await;
            assert_eq!(first.told().await, Told::Ended);
            drop(first);
            let mut second = vendor.accept().await;
            assert_eq!(second.told().await, Told::Request(1));
            second.answer(1).await;
            second
        };
        let (reply, _second) = tokio::join!(gateway.order(), served);
        assert_eq!(reply.status, 200, "{reply:?}");
    }
}

#[tokio::test]
async fn a_stream_that_a_goaway_includes_may_have_been_processed() {
    for reason in [NO_ERROR, INTERNAL_ERROR] {
        let (vendor, gateway) = frames(2).await;
        let served = async {
            let mut first = vendor.accept().await;
            assert_eq!(first.told().await, Told::Request(1));
            first.go_away(1, reason).await;
            drop(first);
        };
        let (reply, ()) = tokio::join!(gateway.order(), served);
        let problem = (502, "upstream_disconnected".into(), "unknown".into());
        assert_eq!(reply.problem(), problem);
        assert!(vendor.is_left_alone().await, "it is not made anew");
    }
}

#[tokio::test]
async fn calls_after_a_goaway_go_elsewhere_or_wait_until_the_connection_is_closed() {
    for connections in [1, 2] {
        let (vendor, gateway) = frames(connections).await;
        let served = async {
            let mut first = vendor.accept().await;
            assert_eq!(first.told().await, Told::Request(1));
            let (second, peers) = tokio::join!(gateway.order(), async {
                assert_eq!(first.told().await, Told::Request(3));
                first.go_away(1, 0).await;
                let (first, mut next) = if connections == 1 {
                    assert!(vendor.is_left_alone().await, "one connection too many");
                    first.answer(1).await;
                    while first.told().await != Told::Ended {}
                    drop(first);
                    (None, vendor.accept().await)
                } else {
                    let next = vendor.accept().await;
                    first.answer(1).await;
                    (Some(first), next)
                };
                assert_eq!(next.told().await, Told::Request(1));
                next.answer(1).await;
                (first, next)
            });
            (second, peers)
        };
        let (first, (second, _peers)) = tokio::join!(gateway.order(), served);
        assert_eq!(
            (first.status, second.status),
            (200, 200),
            "{first:?} {second:?}"
        );
    }
}

#[tokio::test]
async fn a_command_goes_through_a_silent_connection_only_after_a_sign_of_life() {
    for answers_pings in [true, false] {
        let (vendor, gateway) = frames(2).await;
        let served = async {
            let mut first = vendor.accept().await;
            assert_eq!(first.told().await, Told::Request(1));
            let Told::Ping(data) = first.told().await else {
                panic!("no sign of life was asked for");
            };
            // Of a frame that was late the gateway may have heard after it had decided to ask.
            until("long silence", async || {
                first.sent_at.elapsed() > Duration::from_millis(1500)
            })
            .await;
            let (second, next) = tokio::join!(gateway.order(), async {
                if answers_pings {
                    first.send(PING, ACK, 0, &data).await;
                    assert_eq!(first.told().await, Told::Request(3));
                    first.answer(3).await;
                    None
                } else {
                    let mut next = vendor.accept().await;
                    assert_eq!(next.told().await, Told::Request(1));
                    next.answer(1).await;
                    first.send(PING, ACK, 0, &data).await;
                    Some(next)
                }
            });
            first.answer(1).await;
            (second, (first, next))
        };
        let (first, (second, _peers)) = tokio::join!(gateway.order(), served);
        assert_eq!(
            (first.status, second.status),
            (200, 200),
            "{first:?} {second:?}"
        );
    }
}

/// The vendor takes streams again, and what waited for stream 3 never comes.
async fn the_next_is_stream_5(peer: &mut Peer, gateway: &Gateway) {
    let served = async {
        peer.set(MAX_CONCURRENT_STREAMS, 100).await;
        loop {
            match peer.told_beside_pings().await {
                Told::Request(5) => break peer.answer(5).await,
                Told::Reset(3) => {} // its head may have left
                told => panic!("{told:?}"),
            }
        }
    };
    let (reply, ()) = tokio::join!(gateway.page(3), served);
    assert_eq!(reply.status, 200, "{reply:?}");
}

#[tokio::test]
async fn a_call_that_gets_no_stream_in_its_time_was_not_sent_and_never_is() {
    let (vendor, gateway) =
        frames_with(1, |builder| builder.set("upstream.timeout", "\"1s\"")).await;
    let mut peer = None;
    let served = async {
        let mut first = vendor.accept().await;
        assert_eq!(first.told_beside_pings().await, Told::Request(1));
        first.set(MAX_CONCURRENT_STREAMS, 0).await;
        first.answer(1).await;
        peer = Some(first);
    };
    let (reply, ()) = tokio::join!(gateway.page(1), served);
    assert_eq!(reply.status, 200, "{reply:?}");
    let mut peer = peer.unwrap();
    let problem = (504, "upstream_timeout".into(), "no".into());
    assert_eq!(gateway.page(2).await.problem(), problem);
    the_next_is_stream_5(&mut peer, &gateway).await;
}

/// The same, and the vendor takes no byte of a body from now on.
async fn taking_no_body(timeout: &str) -> (Peer, Frames, Gateway) {
    let within = |builder: Builder| builder.set("upstream.timeout", timeout);
    let (vendor, gateway) = frames_with(1, within).await;
    let served = async {
        let mut peer = vendor.accept().await;
        assert_eq!(peer.told_beside_pings().await, Told::Request(1));
        peer.set(INITIAL_WINDOW_SIZE, 0).await;
        peer.answer(1).await;
        peer.tells_heads = true;
        peer
    };
    let (reply, peer) = tokio::join!(gateway.page(1), served);
    assert_eq!(reply.status, 200, "{reply:?}");
    (peer, vendor, gateway)
}

#[tokio::test]
async fn a_request_that_does_not_get_through_is_given_up_for_the_vendor_too() {
    let (mut peer, _vendor, gateway) = taking_no_body("\"1s\"").await;
    let problem = (504, "upstream_timeout".into(), "no".into());
    assert_eq!(gateway.order().await.problem(), problem);
    assert_eq!(peer.told_beside_pings().await, Told::Head(3));
    assert_eq!(peer.told_beside_pings().await, Told::Reset(3));
    peer.set(INITIAL_WINDOW_SIZE, 65_535).await;
    let served = async {
        assert_eq!(peer.told_beside_pings().await, Told::Head(5));
        assert_eq!(peer.told_beside_pings().await, Told::Request(5));
        peer.answer(5).await;
    };
    let (second, ()) = tokio::join!(gateway.page(2), served);
    assert_eq!(second.status, 200, "{second:?}");
}

#[tokio::test]
async fn an_answer_that_comes_before_the_request_has_left_is_one() {
    let (mut peer, _vendor, gateway) = taking_no_body("\"1s\"").await;
    let served = async {
        assert_eq!(peer.told_beside_pings().await, Told::Head(3));
        peer.answer(3).await;
        peer.reset(3, NO_ERROR).await;
    };
    let (reply, ()) = tokio::join!(gateway.order(), served);
    assert_eq!(reply.status, 200, "{reply:?}");
}

#[tokio::test]
async fn a_connection_that_goes_away_and_lingers_does_not_keep_its_slot() {
    let (mut peer, vendor, gateway) = taking_no_body("\"15s\"").await;
    let served = async {
        assert_eq!(peer.told().await, Told::Head(3));
        peer.answer(3).await; // and for what is left of the request it still has no window
        peer.go_away(3, NO_ERROR).await;
    };
    let (reply, ()) = tokio::join!(gateway.page(2), served);
    assert_eq!(reply.status, 200, "{reply:?}");
    let served = async {
        while peer.told_beside_pings().await != Told::Ended {}
        drop(peer);
        let mut next = vendor.accept().await;
        assert_eq!(next.told().await, Told::Request(1));
        next.answer(1).await;
        next
    };
    let (reply, _next) = tokio::join!(gateway.order(), served);
    assert_eq!(reply.status, 200, "{reply:?}");
}

#[tokio::test]
async fn a_connection_that_was_silent_without_a_call_is_none_for_a_command() {
    for connections in [1, 2] {
        let (vendor, gateway) = frames(connections).await;
        let served = async {
            let mut first = vendor.accept().await;
            assert_eq!(first.told_beside_pings().await, Told::Request(1));
            first.answer(1).await;
            first
        };
        let (reply, mut first) = tokio::join!(gateway.page(1), served);
        assert_eq!(reply.status, 200, "{reply:?}");
        until("long silence", async || {
            first.sent_at.elapsed() > Duration::from_millis(1500)
        })
        .await;
        let served = async {
            assert_eq!(first.told_beside_pings().await, Told::Request(3));
            first.answer(3).await;
        };
        let (query, ()) = tokio::join!(gateway.page(2), served);
        assert_eq!(query.status, 200, "a query may use it: {query:?}");
        until("long silence", async || {
            first.sent_at.elapsed() > Duration::from_millis(1500)
        })
        .await;
        let served = async {
            assert_eq!(first.told_beside_pings().await, Told::Ended);
            drop(first);
            let mut second = vendor.accept().await;
            assert_eq!(second.told_beside_pings().await, Told::Request(1));
            second.answer(1).await;
            second
        };
        let (command, _second) = tokio::join!(gateway.order(), served);
        assert_eq!(command.status, 200, "{command:?}");
    }
}

#[tokio::test]
async fn a_connection_that_answers_no_ping_is_given_up_before_the_call_has_no_time_left() {
    let (vendor, gateway) = frames(1).await;
    let asked_at = Instant::now();
    let served = async {
        let mut first = vendor.accept().await;
        assert_eq!(first.told().await, Told::Request(1));
        assert!(matches!(first.told().await, Told::Ping(_)));
        while first.told().await != Told::Ended {}
        drop(first);
    };
    let (reply, ()) = tokio::join!(gateway.order(), served);
    let problem = (502, "upstream_disconnected".into(), "unknown".into());
    assert_eq!(reply.problem(), problem);
    assert!(asked_at.elapsed() < Duration::from_secs(15), "the timeout");
    let served = async {
        let mut second = vendor.accept().await;
        assert_eq!(second.told().await, Told::Request(1));
        second.answer(1).await;
        second
    };
    let (reply, _second) = tokio::join!(gateway.order(), served);
    assert_eq!(reply.status, 200, "{reply:?}");
}

#[tokio::test]
async fn a_call_that_is_made_anew_takes_another_turn() {
    let (acceptor, authority) = certificate(&BOTH);
    let refused = Fault::ResetStream(REFUSED_STREAM);
    let answers: Vec<Answer> = (0..4)
        .map(|_| page(1, 2, 105).fault(refused))
        .chain([success(&json!({}))])
        .collect();
    let builder = upstream().answers_in_turn(answers).tls(acceptor);
    let upstream = builder.run().await;
    let gateway = offering(&upstream.url(), &authority, 1)
        .set("upstream.limits.requests_per_second", "2")
        .set("upstream.limits.requests_per_day", "100")
        .run()
        .await;
    let orders = join_all((0..4).map(|_| gateway.order())).await;
    assert!(orders.iter().all(|reply| reply.status == 200), "{orders:?}");
    assert_eq!(upstream.calls(), 8);
    assert!(upstream.highest_calls_in_any_second() <= 2);
    let left = gateway.metric("quota_remaining", &[("window", "day")]);
    assert_eq!(left.await, 92.0);
    let refused = [("outcome", "upstream_disconnected")];
    let refused = gateway.metric("upstream_requests_total", &refused);
    assert_eq!(refused.await, 4.0);
}

/// Waits until so many calls are in their connection.
async fn until_under_way(gateway: &Gateway, calls: u32) {
    until("the calls are in their connection", async || {
        let labels = [("protocol", "h2")];
        gateway.metric("upstream_requests_in_flight", &labels).await == f64::from(calls)
    })
    .await;
}

async fn refuse_commands(gateway: &Gateway) {
    gateway.rewrite("server.commands", "false");
    assert_eq!(gateway.reload().await.status, 200);
}

fn dismissed() -> (u16, String, String) {
    (403, "commands_disabled".into(), "no".into())
}

#[tokio::test]
async fn an_order_that_waits_for_a_stream_is_dismissed_by_a_brake_and_never_sent() {
    let (vendor, gateway) = frames_with(1, |builder| builder).await;
    let served = async {
        let mut peer = vendor.accept().await;
        assert_eq!(peer.told_beside_pings().await, Told::Request(1));
        peer.set(MAX_CONCURRENT_STREAMS, 0).await;
        peer.answer(1).await;
        peer
    };
    let (reply, mut peer) = tokio::join!(gateway.page(1), served);
    assert_eq!(reply.status, 200, "{reply:?}");
    let brake = async {
        until_under_way(&gateway, 1).await;
        refuse_commands(&gateway).await;
    };
    let (reply, ()) = tokio::join!(gateway.order(), brake);
    assert_eq!(reply.problem(), dismissed());
    the_next_is_stream_5(&mut peer, &gateway).await;
}

#[tokio::test]
async fn an_order_of_which_only_the_head_has_left_is_dismissed_by_a_brake() {
    let (mut peer, _vendor, gateway) = taking_no_body("\"1m\"").await;
    let brake = async {
        assert_eq!(peer.told_beside_pings().await, Told::Head(3));
        refuse_commands(&gateway).await;
    };
    let (reply, ()) = tokio::join!(gateway.order(), brake);
    assert_eq!(reply.problem(), dismissed());
    assert_eq!(peer.told_beside_pings().await, Told::Reset(3));
    peer.set(INITIAL_WINDOW_SIZE, 65_535).await;
    let served = async {
        assert_eq!(peer.told_beside_pings().await, Told::Head(5));
        assert_eq!(peer.told_beside_pings().await, Told::Request(5));
        peer.answer(5).await;
    };
    let (second, ()) = tokio::join!(gateway.page(2), served);
    assert_eq!(second.status, 200, "{second:?}");
}

#[tokio::test]
async fn an_order_of_which_only_the_head_has_left_is_called_off_when_its_caller_gives_up() {
    let (mut peer, _vendor, gateway) = taking_no_body("\"1m\"").await;
    let patience = [("x-request-timeout", "300ms"), ("idempotency-key", "k")];
    let order = json!({"device_id": "1"}).to_string();
    let reply = gateway
        .post("/package/orderPackage", &patience, &order)
        .await;
    assert_eq!(reply.problem(), (503, "overloaded".into(), "no".into()));
    assert_eq!(peer.told_beside_pings().await, Told::Head(3));
    assert_eq!(peer.told_beside_pings().await, Told::Reset(3));
    peer.set(INITIAL_WINDOW_SIZE, 65_535).await;
    let served = async {
        assert_eq!(peer.told_beside_pings().await, Told::Head(5));
        assert_eq!(peer.told_beside_pings().await, Told::Request(5));
        peer.answer(5).await;
    };
    let again = gateway.post("/package/orderPackage", &patience[1..], &order);
    let (again, ()) = tokio::join!(again, served);
    assert_eq!(again.status, 200, "the key is free: {again:?}");
}

#[tokio::test]
async fn orders_that_wait_for_a_vendor_who_does_not_read_are_dismissed_by_a_brake() {
    const ORDERS: u32 = 14; // about 8 MB, of which the vendor's system takes an order or two unread
    let unhurried =
        |builder: Builder| builder.set("upstream.limits.requests_per_second", "\"none\"");
    let (vendor, gateway) = frames_with(1, unhurried).await;
    let served = async {
        let mut peer = vendor.accept().await;
        peer.set(INITIAL_WINDOW_SIZE, 0).await;
        peer.open_window(1 << 30).await;
        peer.tells_heads = true;
        for order in 0..ORDERS {
            assert_eq!(peer.told_beside_pings().await, Told::Head(2 * order + 1));
        }
        peer.tells_heads = false;
        peer.set(INITIAL_WINDOW_SIZE, 1 << 24).await;
        peer.tells_parts = true;
        assert!(matches!(peer.told_beside_pings().await, Told::Part(_)));
        peer.tells_parts = false;
        peer
    };
    let order = json!({"device_id": "x".repeat(600_000)}).to_string();
    let orders = (0..ORDERS).map(|_| gateway.post("/package/orderPackage", &[], &order));
    let vendor = async {
        let mut peer = served.await;
        refuse_commands(&gateway).await;
        // Whatever waits in the connection comes before the next request.
        let mut read = 0;
        let reading = async {
            loop {
                match peer.told_beside_pings().await {
                    Told::Request(stream) => {
                        read += 1;
                        peer.answer(stream).await;
                    }
                    Told::Reset(_) => {}
                    told => panic!("{told:?}"),
                }
            }
        };
        let query = json!({"page_no": 2, "page_size": 2});
        let next = tokio::select! {
            next = gateway.query(&query) => next,
            () = reading => unreachable!("it reads on and on"),
        };
        assert_eq!(next.status, 200, "{next:?}");
        read - 1
    };
    let (replies, read) = tokio::join!(join_all(orders), vendor);
    let (answered, others): (Vec<_>, Vec<_>) =
        replies.into_iter().partition(|reply| reply.status == 200);
    assert_eq!(answered.len(), read);
    assert!(others.len() > 9, "{} were dismissed", others.len());
    for reply in others {
        assert_eq!(reply.problem(), dismissed());
    }
}
