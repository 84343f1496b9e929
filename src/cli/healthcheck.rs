//! Is a running gateway ready? For an exec probe: an image without a shell has no curl either.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Done, Failed, print};
use crate::admin::SERVER_NAME;
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The address of the admin listener, such as localhost:6181. Without it: `server.admin_listen`
    /// as the environment overrides it, else as the file of --config has it, else 127.0.0.1:6181.
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// The configuration of the gateway. Only the address is read; a file that is not there has
    /// none.
    #[arg(long, value_name = "FILE", conflicts_with = "admin")]
    config: Option<PathBuf>,
    /// Ask only whether the process lives, not whether it is ready.
    #[arg(long)]
    live: bool,
}

/// For one address.
const PATIENCE: Duration = Duration::from_secs(2);

/// No answer to this is larger.
const LARGEST: u64 = 64 * 1024;

pub(super) fn run(options: &Options) -> Done {
    let path = if options.live { "/livez" } else { "/readyz" };
    let admin = match &options.admin {
        Some(admin) => admin.clone(),
        None => Config::admin_listen(options.config.as_deref())?.to_string(),
    };
    let mut refused = Failed(format!("{admin}: no address answers to this name"));
    for address in addresses(&admin)? {
        let Ok(answer) = ask(address, path).map_err(|error| refused = failed(&admin, error)) else {
            continue;
        };
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        if !is_ours(head) {
            refused = failed(
                &admin,
                "what answers there is not the admin listener of a linksfield-gateway: name the address with --admin, or the configuration with --config",
            );
        } else if head.starts_with("HTTP/1.1 200 ") {
            return print(body);
        } else {
            return Err(Failed(body.to_owned()));
        }
    }
    Err(refused)
}

fn failed(admin: &str, reason: impl std::fmt::Display) -> Failed {
    Failed(format!("{admin}: {reason}"))
}

/// Where to ask: who listens everywhere is asked on loopback.
fn addresses(admin: &str) -> Result<Vec<SocketAddr>, Failed> {
    let found = admin.to_socket_addrs();
    let found = found.map_err(|error| {
        failed(
            admin,
            format!("{error}; write it as HOST:PORT, such as localhost:6181"),
        )
    })?;
    let mut addresses = Vec::new();
    for address in found {
        if address.port() == 0 {
            return Err(failed(
                admin,
                "port 0 is another one at each start: name that one with --admin",
            ));
        }
        let ips = match address.ip() {
            ip if !ip.is_unspecified() => vec![ip],
            IpAddr::V4(_) => vec![Ipv4Addr::LOCALHOST.into()],
            IpAddr::V6(_) => vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()],
        };
        addresses.extend(
            ips.into_iter()
                .map(|ip| SocketAddr::new(ip, address.port())),
        );
    }
    Ok(addresses)
}

/// Another process may have taken the port.
fn is_ours(head: &str) -> bool {
    head.lines().any(|line| {
        line.split_once(':').is_some_and(|(name, value)| {
            name.eq_ignore_ascii_case("server") && value.trim() == SERVER_NAME
        })
    })
}

fn ask(address: SocketAddr, path: &str) -> io::Result<String> {
    let until = Instant::now() + PATIENCE;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    )?;
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || answer.len() as u64 > LARGEST {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part)? {
            0 => return String::from_utf8(answer).map_err(io::Error::other),
            length => answer.extend_from_slice(&part[..length]),
        }
    }
}
