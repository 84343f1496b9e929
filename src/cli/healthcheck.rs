//! Is a running gateway ready? For an exec probe: an image without a shell has no curl either.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::{Done, Failed, print};

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The address of the admin listener.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6181")]
    admin: SocketAddr,
    /// Ask only whether the process lives, not whether it is ready.
    #[arg(long)]
    live: bool,
}

const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn run(options: &Options) -> Done {
    let path = if options.live { "/livez" } else { "/readyz" };
    let answer =
        ask(options.admin, path).map_err(|error| Failed(format!("{}: {error}", options.admin)))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.starts_with("HTTP/1.1 200 ") {
        print(body)
    } else {
        Err(Failed(body.to_owned()))
    }
}

fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer)?;
    Ok(answer)
}
