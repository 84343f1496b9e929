//! What would Linksfield say? A server to develop against that behaves as the vendor's public
//! documentation has it.
//!
//! It shares no code with the gateway and is never imported by it: it verifies every signature with
//! its own reading of the signing rule, so that both can be wrong only in the same way by accident.
//!
//! ```text
//! simulator.rs    flags, start and stop
//! ├── connection  bytes → a call; a reply → bytes, or a connection that breaks
//! ├── state       limits, failures, signature, timestamp, effect: the order in which a call meets them
//! │   ├── settings, limits, generator
//! │   ├── json, sign      what was signed, and is it
//! │   └── endpoints       params → world → the documented answers
//! ├── control     `/_simulator/control` and `/_simulator/reset`
//! └── code        codes, messages, the envelope
//! ```
//!
//! Made up, as no public page shows it: every code but `0000` (see [`code`]), that a bad signature
//! comes with HTTP 200 and `success: false` (as every failure of the business does), what
//! `data.sign` is made of, and what the modules `world` and `endpoints` list at their head. A body
//! must be `application/json` and an unknown path needs a good signature to be 404.
//!
//! A connection is counted against the limit from its first call on; connections that only use the
//! control endpoint never are.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use parking_lot::{Mutex, MutexGuard};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod calendar;
pub mod code;
mod connection;
mod control;
mod endpoints;
mod generator;
mod json;
mod limits;
mod params;
mod settings;
mod sign;
mod state;
mod world;

pub use settings::{Breakage, Settings, Stage, TimestampUnit};
use sign::Signer;
use state::{Account, State};

/// The secret of the simulated account, made up and public. It opens nothing but simulators.
pub const DEMO_SECRET: &str = "demo-secret-0001";
/// The `access_code` of the simulated account, that of the vendor's page.
pub const DEMO_ACCESS_CODE: &str = "P000270";

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 6190);
const DEFAULT_BASE_PATH: &str = "/cube/v4";

/// The flags of `linksfield-gateway simulate`.
#[derive(Args, Debug, Clone, PartialEq)]
pub struct Options {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value_t = DEFAULT_LISTEN)]
    pub listen: SocketAddr,

    /// The account's `access_code`
    #[arg(long, value_name = "CODE", default_value = DEMO_ACCESS_CODE)]
    pub access_code: String,

    /// A file with the account's secret; without it, a made-up and public one
    #[arg(long, value_name = "PATH")]
    pub secret_file: Option<PathBuf>,

    /// What every path begins with
    #[arg(long, value_name = "PATH", default_value = DEFAULT_BASE_PATH)]
    pub base_path: String,

    /// What can be changed later, at `/_simulator/control`
    #[command(flatten)]
    pub settings: Settings,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: DEFAULT_LISTEN,
            access_code: DEMO_ACCESS_CODE.to_owned(),
            secret_file: None,
            base_path: DEFAULT_BASE_PATH.to_owned(),
            settings: Settings::default(),
        }
    }
}

/// Serves on `listener` (`options.listen` is for whoever binds it) until `shutdown` resolves, then
/// closes every connection: idle ones at once, calls under way after a second at most.
///
/// It fails before the first connection if the secret cannot be read or an option cannot be.
pub async fn run(
    listener: TcpListener,
    options: Options,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let simulator = Arc::new(Simulator::new(options)?);
    let stopping = CancellationToken::new();
    // Connections are tasks of their own; they end even if the caller drops this future.
    let _stop = stopping.clone().drop_guard();
    let connections = TaskTracker::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            // Out of file descriptors, most likely: without a pause this loop would spin until one
            // is free.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // An answer is one small write, and the failure to disable Nagle's algorithm costs only
        // time.
        drop(stream.set_nodelay(true));
        let serve = connection::serve(stream, peer.ip(), simulator.clone(), stopping.clone());
        connections.spawn(serve);
    }
    drop(listener);
    stopping.cancel();
    connections.close();
    connections.wait().await;
    Ok(())
}

/// What all connections share.
struct Simulator {
    /// Without a slash at its end.
    base_path: String,
    account: Account,
    state: Mutex<State>,
}

impl Simulator {
    fn new(options: Options) -> io::Result<Self> {
        options.settings.check().map_err(invalid)?;
        let base_path = options.base_path.trim_end_matches('/').to_owned();
        if !base_path.is_empty() && !base_path.starts_with('/') {
            return Err(invalid("the base path begins with a slash"));
        }
        let signer = match &options.secret_file {
            Some(path) => Signer::new(secret(&std::fs::read(path)?)?),
            None => Signer::new(DEMO_SECRET.as_bytes()),
        };
        Ok(Self {
            base_path,
            account: Account {
                access_code: options.access_code,
                signer,
            },
            state: Mutex::new(State::new(options.settings)),
        })
    }
}

/// Editors end a file with a newline that is not the secret's.
fn secret(file: &[u8]) -> io::Result<&[u8]> {
    let secret = file.strip_suffix(b"\n").unwrap_or(file);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    if secret.is_empty() {
        return Err(invalid("the secret file is empty"));
    }
    Ok(secret)
}

fn invalid(reason: impl fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason.to_string())
}

/// A call that panicked must not take the simulator with it.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    fn parse(flags: &[&str]) -> Result<Options, clap::Error> {
        let flags = ["simulate"].iter().chain(flags);
        Command::try_parse_from(flags).map(|command| command.options)
    }

    #[test]
    fn the_default_is_that_of_the_flags() {
        assert_eq!(parse(&[]).unwrap(), Options::default());
    }

    #[test]
    fn flags_are_read_and_checked() {
        let options = parse(&["--fail", "cut", "--fail-rate", "0.5", "--latency", "200ms"]);
        let options = options.unwrap();
        assert_eq!(options.settings.fail, Some(Breakage::Cut));
        assert_eq!(options.settings.latency, Duration::from_millis(200));
        for wrong in [
            ["--fail-rate", "2"],
            ["--fail", "burn"],
            ["--fail-status", "99"],
        ] {
            assert!(parse(&wrong).is_err());
        }
    }

    #[test]
    fn a_secret_loses_one_newline_and_is_not_empty() {
        assert_eq!(secret(b"s \r\n").unwrap(), b"s ");
        assert_eq!(secret(b"s\n\n").unwrap(), b"s\n");
        assert!(secret(b"\n").is_err());
    }
}
