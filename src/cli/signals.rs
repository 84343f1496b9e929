//! What do signals ask of the process? They are heeded from its first moment on: while its start
//! waits for a disk, and as process 1, to which the kernel hands no signal that has no handler.

use std::io::{self, Write};
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::telemetry::log;

/// The handlers of a process that serves. A thread of its own heeds SIGTERM and SIGINT, so that
/// nothing else that hangs keeps the process from ending.
pub(super) struct Signals {
    has_started: Arc<AtomicBool>,
    asked: CancellationToken,
}

impl Signals {
    /// Installs them. Until the start is over, the first one ends the process at once: nothing is
    /// in flight.
    pub(super) fn install() -> io::Result<Self> {
        Self::heeded_in(runtime()?)
    }

    /// Installs one for SIGHUP too: every one from now on, also those that come before anybody
    /// waits for them.
    pub(super) fn install_with_hangups() -> io::Result<(Self, Signal)> {
        let runtime = runtime()?;
        let hangups = {
            let _inside = runtime.enter();
            signal(SignalKind::hangup())?
        };
        Ok((Self::heeded_in(runtime)?, hangups))
    }

    fn heeded_in(runtime: Runtime) -> io::Result<Self> {
        let ends = {
            let _inside = runtime.enter();
            Ends(
                signal(SignalKind::terminate())?,
                signal(SignalKind::interrupt())?,
            )
        };
        let (has_started, asked) = (Arc::default(), CancellationToken::new());
        let heeding = heed(ends, Arc::clone(&has_started), asked.clone());
        let signals = std::thread::Builder::new().name("signals".into());
        signals.spawn(move || runtime.block_on(heeding))?;
        Ok(Self { has_started, asked })
    }

    /// The start is over. Resolves when the process is asked to end; asked once more, it ends at
    /// once.
    pub(super) fn started(self) -> impl Future<Output = ()> {
        self.has_started.store(true, Ordering::Release);
        self.asked.cancelled_owned()
    }
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_io().build()
}

/// SIGTERM and SIGINT.
struct Ends(Signal, Signal);

impl Ends {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

async fn heed(mut ends: Ends, has_started: Arc<AtomicBool>, asked: CancellationToken) {
    ends.next().await;
    if !has_started.load(Ordering::Acquire) {
        const MESSAGE: &str = "asked to end before the start was over";
        if log::levels().is_some() {
            info!(MESSAGE);
            log::flush();
        } else {
            let _ = writeln!(io::stderr(), "{MESSAGE}");
        }
        exit(0);
    }
    asked.cancel();
    ends.next().await;
    warn!("asked to end a second time");
    log::flush();
    exit(1);
}
