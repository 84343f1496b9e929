//! Signals that come before a start is over: while it hangs at its configuration, at its state
//! disk, at whoever reads what it prints.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use crate::support::gateway::Builder;
use crate::support::{Shim, gateway_to, until};

const HUP: u32 = 1;
const INT: u32 = 2;
const TERM: u32 = 15;

/// A process that ends with the test.
struct Running {
    process: Child,
    stderr: String,
    _files: Builder,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Running {
    fn start(files: Builder, arguments: &[&str], stdout: Stdio) -> Self {
        let stderr = files.file("stderr", "");
        let mut command = files.command(arguments);
        command.stdout(stdout);
        command.stderr(std::fs::File::create(&stderr).unwrap());
        Self {
            process: command.spawn().unwrap(),
            stderr,
            _files: files,
        }
    }

    /// A gateway with a state directory.
    fn serve(shim: &Shim, config: &str) -> Self {
        let files = gateway_to("http://127.0.0.1:1").under(shim);
        let state = files.file("state", "");
        std::fs::remove_file(&state).unwrap();
        let files = files.set("server.state_dir", &format!("{state:?}"));
        let written = std::fs::read_to_string(files.write()).unwrap();
        let config = files.file(config, &written);
        Self::start(files, &["serve", "--config", &config], Stdio::null())
    }

    fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap()
    }

    /// Waits until it has handlers for these signals: no other is handed to process 1.
    async fn heeds(&mut self, signals: &[u32]) {
        let path = format!("/proc/{}/status", self.process.id());
        until(&format!("handlers of {signals:?}"), async || {
            let status = std::fs::read_to_string(&path).unwrap();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let mask = u64::from_str_radix(mask.unwrap().trim(), 16).unwrap();
            signals.iter().all(|signal| mask >> (signal - 1) & 1 == 1)
        })
        .await;
    }

    fn signal(&self, signal: u32) {
        let mut kill = Command::new("kill");
        kill.args([format!("-{signal}"), self.process.id().to_string()]);
        assert!(kill.status().unwrap().success());
    }

    /// Its exit code, or the signal that has killed it.
    async fn end(&mut self) -> (Option<i32>, Option<i32>) {
        let mut status = None;
        until("the process ends", async || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        })
        .await;
        let status = status.unwrap();
        (status.code(), status.signal())
    }
}

/// With `slow.toml` the configuration hangs, with any other the state disk.
const CONFIGURATIONS: [&str; 2] = ["slow.toml", "gateway.toml"];

#[tokio::test]
async fn a_signal_to_end_ends_a_start_that_hangs() {
    for config in CONFIGURATIONS {
        for signal in [TERM, INT] {
            let shim = Shim::new();
            shim.hang();
            let mut gateway = Running::serve(&shim, config);
            gateway.heeds(&[HUP, INT, TERM]).await;
            gateway.signal(signal);
            assert_eq!(gateway.end().await, (Some(0), None), "{config}, {signal}");
            let told = gateway.stderr();
            let message = "asked to end before the start was over";
            assert!(told.contains(message), "{config}, {signal}: {told}");
        }
    }
}

#[tokio::test]
async fn a_reload_that_is_asked_for_during_the_start_follows_it() {
    for config in CONFIGURATIONS {
        let shim = Shim::new();
        shim.hang();
        let mut gateway = Running::serve(&shim, config);
        gateway.heeds(&[HUP]).await;
        gateway.signal(HUP);
        shim.let_go();
        until("it starts and reloads", async || {
            assert_eq!(gateway.process.try_wait().unwrap(), None, "{config}");
            let told = gateway.stderr();
            let is_told = [
                "listening",
                "reload asked for by SIGHUP",
                "secrets are unchanged",
            ];
            is_told.iter().all(|line| told.contains(line))
        })
        .await;
        gateway.signal(TERM);
        assert_eq!(gateway.end().await, (Some(0), None), "{config}");
    }
}

#[tokio::test]
async fn demo_and_simulate_end_though_nobody_reads_what_they_print() {
    for arguments in [
        ["demo", "--listen", "127.0.0.1:0"],
        ["simulate", "--listen", "127.0.0.1:0"],
    ] {
        for signal in [TERM, INT] {
            let (_unread, mut pipe) = std::io::pipe().unwrap();
            pipe.write_all(&vec![0; 65536]).unwrap(); // as much as it takes
            let files = gateway_to("http://127.0.0.1:1");
            let mut process = Running::start(files, &arguments, pipe.into());
            process.heeds(&[INT, TERM]).await;
            process.signal(signal);
            assert_eq!(process.end().await, (Some(0), None), "{arguments:?}");
        }
    }
}
