//! The same over HTTP/2: each stream is one request, and the answers come as they are ready.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use futures::future::Either;
use futures::stream::FuturesUnordered;
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Answer, Fault, Request, Shared};

/// What becomes of the connection.
enum After {
    GoOn,
    GoAway,
    Close,
}

pub async fn serve<S>(mut stream: S, shared: &Arc<Shared>, number: usize) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let is_polite = streams(&mut stream, shared.clone()).await?;
    if is_polite {
        // It has been closed, whenever this task learns that the peer has closed it too.
        shared.seen.lock().unwrap().disconnect(number);
        // What the peer sends meanwhile must not become a reset that overtakes the last answers.
        stream.shutdown().await?;
        let mut discarded = [0; 1024];
        while stream.read(&mut discarded).await? > 0 {}
    }
    Ok(())
}

/// True if the connection ended as connections should.
async fn streams<S>(stream: S, shared: Arc<Shared>) -> io::Result<bool>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(shared.streams);
    let mut connection = builder.handshake(stream).await.map_err(io::Error::other)?;
    let mut exchanges = FuturesUnordered::new();
    loop {
        // While nothing runs, that nothing ends is no news.
        let ended = if exchanges.is_empty() {
            Either::Left(futures::future::pending())
        } else {
            Either::Right(exchanges.next())
        };
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(accepted) => {
                    let (request, respond) = accepted.map_err(io::Error::other)?;
                    exchanges.push(exchange(request, respond, shared.clone()));
                }
                None => return Ok(true),
            },
            after = ended => match after {
                Some(After::GoAway) => connection.graceful_shutdown(),
                Some(After::Close) => return Ok(false),
                Some(After::GoOn) | None => {}
            },
        }
    }
}

async fn exchange(
    request: hyper::Request<RecvStream>,
    mut respond: SendResponse<bytes::Bytes>,
    shared: Arc<Shared>,
) -> After {
    let Ok(request) = read(request).await else {
        return After::GoOn; // its caller has gone
    };
    let answer = tokio::select! {
        answer = shared.answer(&request) => answer,
        _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => return After::GoOn,
    };
    write(&answer, &mut respond).await
}

async fn read(request: hyper::Request<RecvStream>) -> Result<Request, h2::Error> {
    let (head, mut stream) = request.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        body.extend_from_slice(&data);
        stream.flow_control().release_capacity(data.len())?;
    }
    let headers = head.headers.iter().map(|(name, value)| {
        let value = value.to_str().unwrap_or_default();
        (name.to_string(), value.to_owned())
    });
    Ok(Request {
        line: format!("{} {} {:?}", head.method, head.uri.path(), head.version),
        headers: headers.collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
        at: Instant::now(),
    })
}

async fn write(answer: &Answer, respond: &mut SendResponse<bytes::Bytes>) -> After {
    let mut head = hyper::Response::builder()
        .status(answer.status)
        .header("date", "Tue, 24 Nov 2026 00:00:00 GMT");
    for (name, value) in &answer.headers {
        head = head.header(name, value);
    }
    let head = head.body(()).unwrap();
    match answer.fault {
        Some(Fault::ResetStream(reason)) => {
            respond.send_reset(Reason::from(reason));
            return After::GoOn;
        }
        Some(Fault::ResetMidBody(reason)) => {
            if let Ok(mut body) = respond.send_response(head, false) {
                let half = answer.body[..answer.body.len() / 2].to_vec();
                let _ = body.send_data(half.into(), false);
                tokio::task::yield_now().await; // it leaves
                body.send_reset(Reason::from(reason));
            }
            return After::GoOn;
        }
        Some(Fault::Hang) => futures::future::pending().await,
        Some(Fault::Drop) => return After::Close,
        None | Some(Fault::GoAway) => {}
        Some(fault) => unreachable!("{fault:?} is HTTP/1.1's"),
    }
    // An error means that the caller has gone.
    if let Ok(mut body) = respond.send_response(head, false) {
        let _ = body.send_data(answer.body.clone().into(), true);
    }
    match answer.fault {
        Some(Fault::GoAway) => After::GoAway,
        _ => After::GoOn,
    }
}
