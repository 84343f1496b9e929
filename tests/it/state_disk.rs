//! A state disk that hangs: calls go on, keyed commands are refused, hits wait for nothing, and
//! nothing is Linksfield's fault. A state file that is lost: what had keys is never taken for new,
//! and what is new is told.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::matrix::{assert_told, cell, twice};
use crate::support::gateway::{Builder, Gateway, keyed_order as order, with_state};
use crate::support::{Gate, Reply, Shim, gateway, gateway_to, page, success, until, upstream};

const ORDER: &str = "/package/orderPackage";

fn unavailable() -> (u16, String, String) {
    (503, "state_store_unavailable".into(), "no".into())
}

fn is_replay(reply: &Reply) -> bool {
    reply.header("idempotency-replayed") == Some("true")
}

async fn failing(gateway: &Gateway) -> bool {
    gateway.metric("state_store_failing", &[]).await == 1.0
}

fn lines(gateway: &Gateway, level: &str, message: &str) -> usize {
    let log = gateway.log();
    let told = log.iter().filter(|line| {
        line["level"] == level
            && line["message"]
                .as_str()
                .unwrap_or_default()
                .contains(message)
    });
    told.count()
}

#[tokio::test]
async fn while_the_disk_hangs_calls_go_on_keyed_commands_are_refused_and_afterwards_all_is_as_before()
 {
    let upstream = upstream()
        .script(|request| match request.path() {
            "/cube/v4/package/queryOrder" => {
                page(request.json()["page_no"].as_u64().unwrap(), 2, 9)
            }
            _ => success(&json!({})),
        })
        .run()
        .await;
    let (folder, shim) = (tempfile::tempdir().unwrap(), Shim::new());
    let run = async || {
        let builder = with_state(gateway(&upstream), &folder).under(&shim);
        let builder = builder.set("upstream.limits.requests_per_day", "5000");
        // Who waits for the disk as long as for Linksfield has no time left for that.
        let builder = builder.set("upstream.timeout", "\"1s\"");
        // Of which no order invalidates the pages.
        let info = "{ kind = \"query\", fresh_for = \"1h\" }";
        builder.set("routes./info", info).run().await
    };
    let gateway = run().await;
    assert_eq!(order(&gateway, "before").await.status, 200);
    assert_eq!(gateway.post("/info", &[], "{}").await.status, 200);
    assert!(!failing(&gateway).await);

    shim.hang();
    // The first of these is begun and lands later; the others wait behind it.
    let first = ["first", "second", "third"].map(|key| order(&gateway, key));
    for refused in futures::future::join_all(first).await {
        assert_eq!(refused.problem(), unavailable());
        let detail = refused.json()["detail"].to_string();
        assert!(detail.contains("again with the same key"), "{detail}");
    }
    until("it is known to hang", async || failing(&gateway).await).await;
    let calls = upstream.calls();
    for number in 2..12 {
        assert_eq!(gateway.page(number).await.status, 200);
        let refused = order(&gateway, &format!("key-{number}")).await;
        assert_eq!(refused.problem(), unavailable());
        assert_eq!(gateway.order().await.status, 200, "without a key");
        let hit = gateway.post("/info", &[], "{}").await;
        assert!(hit.header("cache-status").unwrap().contains("hit"));
    }
    assert!(is_replay(&order(&gateway, "before").await), "memory knows");
    assert_eq!(upstream.calls(), calls + 20);
    assert_eq!(gateway.metric("upstream_breaker_open", &[]).await, 0.0);
    let failures = gateway.metric("upstream_calls_total", &[("end", "failure")]);
    assert_eq!(failures.await, 0.0);
    until("it is told", async || lines(&gateway, "WARN", "hangs") > 0).await;
    assert!(failing(&gateway).await);

    shim.let_go();
    until("it hangs no more", async || !failing(&gateway).await).await;
    until("it is told", async || {
        lines(&gateway, "INFO", "hangs no more") > 0
    })
    .await;
    assert_eq!(lines(&gateway, "WARN", "hangs"), 1, "{}", gateway.output());
    assert_eq!(lines(&gateway, "INFO", "hangs no more"), 1);
    assert_eq!(
        order(&gateway, "second").await.status,
        200,
        "it was never sent"
    );
    assert_eq!(order(&gateway, "last").await.status, 200); // and all before it is written
    drop(gateway); // which kills it

    let gateway = run().await;
    for key in ["before", "second", "last"] {
        assert!(is_replay(&order(&gateway, key).await), "{key}");
    }
    for key in ["first", "third", "key-2"] {
        let reply = order(&gateway, key).await;
        assert!(
            reply.status == 200 && !is_replay(&reply),
            "{key} runs: {reply:?}"
        );
    }
    let sent = upstream.requests().len();
    let counted = 5000.0
        - gateway
            .metric("quota_remaining", &[("window", "day")])
            .await;
    assert_eq!(
        counted,
        f64::from(u32::try_from(sent).unwrap()),
        "a call is missing"
    );
}

#[tokio::test]
async fn a_command_under_way_when_the_hang_begins_is_answered_again_and_is_on_disk_when_it_ends() {
    let gate = Gate::new();
    let upstream = upstream()
        .answers(success(&json!({})).behind(&gate))
        .run()
        .await;
    let (folder, shim) = (tempfile::tempdir().unwrap(), Shim::new());
    let run = async || {
        with_state(gateway(&upstream), &folder)
            .under(&shim)
            .run()
            .await
    };
    let gateway = run().await;
    let hang = async {
        gate.arrived().await;
        shim.hang();
        gate.open();
    };
    let headers = [("Idempotency-Key", "one"), ("X-Request-Timeout", "4s")]; // it does not wait for the disk
    let first = gateway.post(ORDER, &headers, r#"{"key":"one"}"#);
    let (reply, ()) = tokio::join!(first, hang);
    assert_eq!(reply.status, 200);
    assert!(is_replay(&order(&gateway, "one").await), "memory knows");
    shim.let_go();
    until("it hangs no more", async || !failing(&gateway).await).await;
    assert!(is_replay(&order(&gateway, "one").await));
    assert_eq!(order(&gateway, "two").await.status, 200); // and all before it is written
    drop(gateway); // which kills it

    let gateway = run().await;
    assert!(is_replay(&order(&gateway, "one").await), "so does the disk");
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn a_process_ends_within_its_drain_time_though_its_disk_hangs() {
    let upstream = upstream().run().await;
    let (folder, shim) = (tempfile::tempdir().unwrap(), Shim::new());
    let mut gateway = with_state(gateway(&upstream), &folder)
        .set("upstream.limits.requests_per_day", "5000")
        .set("server.drain_timeout", "\"5s\"")
        .under(&shim)
        .run()
        .await;
    shim.hang();
    assert_eq!(order(&gateway, "one").await.problem(), unavailable());
    let line = gateway.exchange_of("one").await;
    let seconds = |name: &str| line[name].as_f64().unwrap();
    let of_others = seconds("duration") - seconds("upstream");
    assert!(
        of_others > 0.9,
        "the disk's second is none of the vendor's: {line}"
    );
    assert_eq!(gateway.page(1).await.status, 200);
    gateway.signal("TERM");
    assert_eq!(gateway.exit().await.code(), Some(0));
}

#[tokio::test]
async fn while_the_disk_hangs_each_request_gets_what_the_document_says() {
    let upstream = upstream().run().await;
    let (folder, shim) = (tempfile::tempdir().unwrap(), Shim::new());
    let gateway = with_state(gateway(&upstream), &folder)
        .set("routes./info", "{ kind = \"query\", fresh_for = \"1h\" }")
        .under(&shim)
        .run()
        .await;
    assert_eq!(gateway.post("/info", &[], "{}").await.status, 200);
    shim.hang();
    let mut calls = upstream.calls();
    let mut told = |reply: &Reply| {
        let before = std::mem::replace(&mut calls, upstream.calls());
        cell(reply, upstream.calls() - before)
    };
    let miss = told(&gateway.page(1).await);
    let fresh = told(&gateway.post("/info", &[], "{}").await);
    let command = told(&gateway.order().await);
    let keyed = [
        told(&order(&gateway, "one").await),
        told(&order(&gateway, "one").await),
    ];
    let keyed = twice(&keyed[0], &keyed[1]);
    assert_told(
        "the state disk",
        &[("hangs", vec![miss, fresh, command, keyed])],
    );
    shim.let_go();
}

/// `check` with this configuration: its exit code, and what it says.
fn check(builder: &Builder) -> (Option<i32>, String) {
    let config = builder.write();
    let mut check = builder.command(&["check", "--config", &config]);
    let told = check.stdin(Stdio::null()).output().unwrap();
    (told.status.code(), String::from_utf8(told.stderr).unwrap())
}

/// What a start says is said by `check` too, with the same remedy.
fn assert_same(start: &str, check: &str) {
    let start = start
        .lines()
        .find_map(|line| line.strip_prefix("server.state_dir: "));
    let (_, check) = check.split_once("server.state_dir\n").unwrap();
    let line = |name: &str| {
        let line = check
            .lines()
            .find_map(|line| line.trim().strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name}{check}")).to_owned()
    };
    let told = format!("{}; {}", line("reason: "), line("remedy: "));
    assert_eq!(Some(told.as_str()), start);
}

#[tokio::test]
async fn a_state_that_has_had_keys_and_is_lost_is_a_reason_not_to_start_until_somebody_says_so() {
    let upstream = upstream().run().await;
    let write =
        |state: &Path, content: &[u8]| std::fs::write(state.join("state.redb"), content).unwrap();
    let remove = |state: &Path| std::fs::remove_file(state.join("state.redb")).unwrap();
    let ways = [
        "is empty",
        "is missing",
        "was never written",
        "is damaged",
        "was replaced by a new one",
        "is missing, and its marker was cut",
        "was replaced by a new one, and its marker was cut",
    ];
    for way in ways {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let builder = || with_state(gateway(&upstream), &folder);
        drop(builder().run().await);
        let new = std::fs::read(state.join("state.redb")).unwrap();
        let reason = way.split(',').next().unwrap();
        let lose = |state: &Path| match reason {
            "is empty" => write(state, b""),
            "was never written" => write(state, &[0; 8192]),
            "is damaged" => write(state, b"no store"),
            "was replaced by a new one" => write(state, &new),
            _ => remove(state),
        };
        if way != "is damaged" {
            lose(&state); // it has had no key
        }
        let gateway = builder().run().await;
        assert_eq!(order(&gateway, "one").await.status, 200);
        let (code, told) = check(&builder());
        assert_eq!(code, Some(0), "while it is in use: {told}");
        drop(gateway);

        lose(&state);
        if way.ends_with("cut") {
            std::fs::write(state.join("state.redb.used"), "").unwrap();
        }
        let names = || {
            let names = std::fs::read_dir(&state).unwrap();
            let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let before = names();
        for _ in 0..2 {
            let told = builder().refused().await;
            for part in ["server.state_dir", "state.redb", reason, "state.redb.used"] {
                assert!(told.contains(part), "{part}: {told}");
            }
            let (code, checked) = check(&builder().set("server.lisen", "1"));
            assert_eq!(code, Some(1));
            assert!(checked.contains("server.lisen"), "{checked}");
            assert_same(&told, &checked);
        }
        assert_eq!(names(), before, "what is left is left as it is");

        for name in names() {
            std::fs::remove_file(state.join(name)).unwrap(); // as the message says
        }
        assert_eq!(order(&builder().run().await, "one").await.status, 200);
    }
}

#[tokio::test]
async fn a_state_that_is_damaged_is_told_by_check_as_by_the_start_without_what_the_library_prints()
{
    let upstream = upstream().run().await;
    let folder = tempfile::tempdir().unwrap();
    let builder = || with_state(gateway(&upstream), &folder);
    let gateway = builder().run().await;
    assert_eq!(order(&gateway, "one").await.status, 200);
    drop(gateway);
    let state = folder.path().join("state");
    let (file, marker) = (state.join("state.redb"), state.join("state.redb.used"));
    let good = std::fs::read(&file).unwrap();
    let longer = [&good[..], b"key"].concat();
    let cuts = [9, 20, 5000, 700_000].map(|length| &good[..length]);
    for is_marked in [true, false] {
        if !is_marked {
            std::fs::remove_file(&marker).unwrap();
        }
        for content in cuts.into_iter().chain([&longer[..]]) {
            std::fs::write(&file, content).unwrap();
            let (code, checked) = check(&builder());
            assert_eq!(code, Some(1), "{} bytes: {checked}", content.len());
            assert_eq!(std::fs::read(&file).unwrap(), content);
            let started = builder().refused().await;
            assert_same(&started, &checked);
            for told in [started, checked] {
                assert!(!told.contains("panicked"), "{told}");
                assert!(told.contains("is damaged"), "{told}");
            }
        }
    }
    std::fs::write(&file, &good).unwrap();
    assert_eq!(check(&builder()).0, Some(0));
}

#[tokio::test]
async fn a_state_that_is_written_to_while_it_is_checked_is_not_told_to_be_damaged() {
    let upstream = upstream().run().await;
    let folder = tempfile::tempdir().unwrap();
    let gateway = with_state(gateway(&upstream), &folder).run().await;
    let builder = with_state(crate::support::gateway(&upstream), &folder);
    let checks = tokio::task::spawn_blocking(move || [(); 5].map(|()| check(&builder)));
    let mut count = 0;
    while !checks.is_finished() {
        let orders = [(); 8].map(|()| {
            count += 1;
            format!("key-{count}")
        });
        let orders = orders.iter().map(|key| order(&gateway, key));
        for reply in futures::future::join_all(orders).await {
            assert_eq!(reply.status, 200);
        }
    }
    for (code, told) in checks.await.unwrap() {
        assert_eq!(code, Some(0), "{told}");
    }
}

#[tokio::test]
async fn a_state_that_hangs_is_told_by_check_which_does_not_wait_for_it() {
    let (folder, shim) = (tempfile::tempdir().unwrap(), Shim::new());
    let file = folder.path().join("state/state.redb");
    std::fs::create_dir(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "").unwrap();
    let builder = with_state(gateway_to("http://127.0.0.1:1"), &folder).under(&shim);
    shim.hang_at(&file);
    let checks = tokio::task::spawn_blocking(move || check(&builder));
    let checked = tokio::time::timeout(std::time::Duration::from_secs(60), checks).await;
    if checked.is_err() {
        shim.let_go_of_it();
    }
    let (code, told) = checked.expect("it waits").unwrap();
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("server.state_dir"), "{told}");
    assert!(told.contains("state hangs: nothing has come"), "{told}");
}

#[tokio::test]
async fn a_state_of_before_the_marker_is_taken_and_marked() {
    let upstream = upstream().run().await;
    let folder = tempfile::tempdir().unwrap();
    let run = async || with_state(gateway(&upstream), &folder).run().await;
    let marker = folder.path().join("state/state.redb.used");
    let gateway = run().await;
    assert!(!marker.exists(), "it has no key");
    assert_eq!(order(&gateway, "one").await.status, 200);
    drop(gateway);
    std::fs::remove_file(&marker).unwrap();
    let gateway = run().await;
    assert!(is_replay(&order(&gateway, "one").await));
    assert!(marker.exists());
}

/// All that is said of a state that was begun anew.
fn new_states(gateway: &Gateway) -> Vec<String> {
    let log = gateway.log();
    let told = log.iter().filter(|line| {
        let message = line["message"].as_str().unwrap_or_default();
        line["level"] == "WARN" && message.contains("held no state, a new one is begun")
    });
    told.map(|line| line["folder"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_state_that_is_begun_anew_is_told_at_that_start_and_at_no_other() {
    let upstream = upstream().run().await;
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let run = async || with_state(gateway(&upstream), &folder).run().await;
    let told = [state.to_str().unwrap().to_owned()];
    assert_eq!(new_states(&run().await), told, "the first start");
    let again = run().await;
    assert!(new_states(&again).is_empty(), "it has had no key");
    assert_eq!(order(&again, "one").await.status, 200);
    drop(again);
    assert!(new_states(&run().await).is_empty());

    let remove_all = || {
        for file in std::fs::read_dir(&state).unwrap() {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
    };
    remove_all(); // an empty folder, as of another volume
    assert_eq!(new_states(&run().await), told);
    std::fs::write(state.join("state.redb"), "").unwrap(); // its making was cut short
    assert_eq!(new_states(&run().await), told);
    assert!(new_states(&run().await).is_empty());
    assert!(new_states(&gateway(&upstream).run().await).is_empty());
}

/// What stands in the way of a state: its name, the rights that a superuser gives up to meet it,
/// and how it comes there. It returns the folder of the state.
type Obstacle = (&'static str, &'static [&'static str], fn(&Path) -> PathBuf);

/// Rights of files count, whoever it is.
const AS_ANYBODY: &[&str] = &["--bounding-set=-dac_override,-dac_read_search"];

/// Another user, who can reach the binary wherever it is.
const AS_ANOTHER: &[&str] = &[
    "--reuid=65534",
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
];

fn state_in(root: &Path) -> PathBuf {
    let state = root.join("state");
    std::fs::create_dir(&state).unwrap();
    state
}

fn allow(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

const OBSTACLES: [Obstacle; 18] = [
    ("a file in its place", &[], |root| {
        let state = root.join("state");
        std::fs::write(&state, "").unwrap();
        state
    }),
    ("a file above it", &[], |root| {
        std::fs::write(root.join("file"), "").unwrap();
        root.join("file/state")
    }),
    ("a link to nothing in its place", &[], |root| {
        let state = root.join("state");
        symlink("nothing", &state).unwrap();
        state
    }),
    ("a link to nothing above it", &[], |root| {
        symlink("nothing", root.join("link")).unwrap();
        root.join("link/state")
    }),
    ("a directory as the file", &[], |root| {
        let state = state_in(root);
        std::fs::create_dir(state.join("state.redb")).unwrap();
        state
    }),
    ("a FIFO as the file", &[], |root| {
        let state = state_in(root);
        let made = Command::new("mkfifo")
            .arg(state.join("state.redb"))
            .status();
        assert!(made.unwrap().success());
        state
    }),
    ("a socket as the file", &[], |root| {
        let state = state_in(root);
        drop(UnixListener::bind(state.join("state.redb")).unwrap());
        state
    }),
    ("a device as the file", &[], |root| {
        let state = state_in(root);
        symlink("/dev/zero", state.join("state.redb")).unwrap();
        state
    }),
    ("a link into a missing folder as the file", &[], |root| {
        let state = state_in(root);
        symlink("missing/state.redb", state.join("state.redb")).unwrap();
        state
    }),
    ("a link to a link into a file as the file", &[], |root| {
        let state = state_in(root);
        std::fs::write(state.join("file"), "").unwrap();
        symlink("file/state.redb", state.join("link")).unwrap();
        symlink("link", state.join("state.redb")).unwrap();
        state
    }),
    ("more zeros than a new one has", &[], |root| {
        let state = state_in(root);
        let file = std::fs::File::create(state.join("state.redb")).unwrap();
        file.set_len(64 << 20).unwrap();
        state
    }),
    ("a damaged one that was set aside", &[], |root| {
        let state = state_in(root);
        std::fs::write(state.join("state.redb.damaged"), "").unwrap();
        state
    }),
    ("something else", &[], |root| {
        let state = state_in(root);
        std::fs::write(state.join("state.redb"), "something else").unwrap();
        state
    }),
    ("no right to make the folder", AS_ANYBODY, |root| {
        let above = root.join("above");
        std::fs::create_dir(&above).unwrap();
        allow(&above, 0o500);
        above.join("a/state")
    }),
    ("no right to make the file", AS_ANYBODY, |root| {
        let state = state_in(root);
        allow(&state, 0o500);
        state
    }),
    ("no right to look into the folder", AS_ANYBODY, |root| {
        let state = state_in(root);
        allow(&state, 0o300);
        state
    }),
    ("no right to write to the file", AS_ANYBODY, |root| {
        let state = state_in(root);
        std::fs::write(state.join("state.redb"), "").unwrap();
        allow(&state.join("state.redb"), 0o400);
        state
    }),
    ("a file of another user", AS_ANOTHER, |root| {
        let state = state_in(root);
        std::fs::write(state.join("state.redb"), "").unwrap();
        for (path, mode) in [
            (root, 0o755),
            (&state, 0o777),
            (&state.join("state.redb"), 0o666),
        ] {
            allow(path, mode);
        }
        state
    }),
];

#[test]
fn what_stands_in_the_way_of_a_state_is_told_by_check_as_by_the_start() {
    let is_superuser = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    for (name, rights, build) in OBSTACLES {
        if rights == AS_ANOTHER && !is_superuser {
            continue; // who else?
        }
        let root = tempfile::tempdir().unwrap();
        let state = build(root.path());
        let builder = gateway_to("http://127.0.0.1:1");
        let builder = builder.set(
            "server.state_dir",
            &format!("{:?}", state.to_str().unwrap()),
        );
        let config = builder.write();
        let names = || {
            let listed = Command::new("find").arg(root.path()).output().unwrap();
            String::from_utf8(listed.stdout).unwrap()
        };
        let before = names();
        let [checked, started] = ["check", "serve"].map(|command| {
            let command = builder.command(&[command, "--config", &config]);
            let mut limited = Command::new("setpriv");
            limited.args(rights.iter().filter(|_| is_superuser));
            limited.arg(command.get_program()).args(command.get_args());
            let output = limited.stdin(Stdio::null()).output().unwrap();
            let told = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{name}, {command:?}: {told}");
            if command.get_args().next() == Some("check".as_ref()) {
                assert_eq!(names(), before, "{name}");
            }
            told
        });
        assert_same(&started, &checked);
    }
}
