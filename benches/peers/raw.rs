//! What is the least that HTTP costs? A server and a pass-through with hyper alone, which the gateway is compared with, and a
//! loader that keeps a rate. `benches/peers/run` starts them.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::task::{LocalSet, spawn_local, yield_now};

/// As the gateway has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The vendor's example, compact, without the line's end.
static PAGE: &[u8] = include_bytes!("page.json").trim_ascii_end();

const JSON: HeaderValue = HeaderValue::from_static("application/json");

#[derive(Parser)]
enum Mode {
    /// Read each body, answer the same page.
    Serve { listen: SocketAddr },
    /// Read each body, send it on as it is over a connection that is kept.
    Pass {
        listen: SocketAddr,
        upstream: SocketAddr,
    },
    /// Ask at a rate, whether or not answers have come; print the median and the 99th percentile in microseconds.
    Load(Load),
}

#[derive(Parser, Clone)]
struct Load {
    server: SocketAddr,
    /// Requests a second.
    #[arg(long)]
    rate: u32,
    #[arg(long)]
    seconds: u32,
    /// Sent as `Authorization`.
    #[arg(long)]
    authorization: HeaderValue,
    /// Different queries, one after the other.
    #[arg(long, default_value_t = 10_000)]
    queries: u32,
    #[arg(long, default_value_t = 64)]
    connections: u32,
}

fn main() -> io::Result<()> {
    let mode = Mode::parse();
    // The driver is asked after every 16 tasks, as the loader's never rest.
    let runtime = Builder::new_current_thread()
        .enable_all()
        .event_interval(if matches!(mode, Mode::Load(_)) {
            16
        } else {
            61
        })
        .build()?;
    runtime.block_on(LocalSet::new().run_until(async {
        match mode {
            Mode::Serve { listen } => serve(listen, None).await,
            Mode::Pass { listen, upstream } => serve(listen, Some(Pool::new(upstream))).await,
            Mode::Load(load) => load.run().await,
        }
    }))
}

async fn serve(listen: SocketAddr, pool: Option<Pool>) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let pool = pool.clone();
        spawn_local(async move {
            let service = service_fn(|request| answer(request, pool.as_ref()));
            // It ends with the client, however it leaves.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    pool: Option<&Pool>,
) -> hyper::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    if let Some(pool) = pool {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = head.method;
        *request.uri_mut() = head.uri;
        request.headers_mut().insert(CONTENT_TYPE, JSON);
        return pool.send(request).await;
    }
    let mut response = Response::new(Full::from(PAGE));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    Ok(response)
}

type Connection = SendRequest<Full<Bytes>>;

/// Connections that are kept.
#[derive(Clone)]
struct Pool {
    server: SocketAddr,
    host: HeaderValue,
    idle: Rc<RefCell<Vec<Connection>>>,
}

impl Pool {
    fn new(server: SocketAddr) -> Self {
        let host = server.to_string().parse();
        Self {
            server,
            host: host.expect("an address is a header value"),
            idle: Rc::default(),
        }
    }

    async fn connect(&self) -> hyper::Result<Connection> {
        let stream = TcpStream::connect(self.server).await;
        let stream = stream.expect("the server listens");
        stream.set_nodelay(true).expect("a TCP stream");
        let (connection, driver) = handshake(TokioIo::new(stream)).await?;
        spawn_local(driver);
        Ok(connection)
    }

    async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Full<Bytes>>> {
        request.headers_mut().insert(HOST, self.host.clone());
        let idle = self.idle.borrow_mut().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        connection.ready().await?;
        let (head, body) = connection.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        self.idle.borrow_mut().push(connection);
        Ok(Response::from_parts(head, Full::new(body)))
    }
}

impl Load {
    /// Each connection has a timetable of its own. A request is due by it, and late from then on, though it be sent later
    /// because the connection is busy: so a server that stalls does not stop the clock.
    async fn run(self) -> io::Result<()> {
        let pool = Pool::new(self.server);
        let mut idle = Vec::new();
        for _ in 0..self.connections {
            idle.push(pool.connect().await.expect("a connection"));
        }
        *pool.idle.borrow_mut() = idle;
        let start = Instant::now();
        let tasks: Vec<_> = (0..self.connections)
            .map(|number| spawn_local(self.clone().connection(pool.clone(), number, start)))
            .collect();
        let mut taken = Vec::new();
        for task in tasks {
            taken.extend(task.await.expect("no panic"));
        }
        taken.sort_unstable();
        let at = |percent: usize| taken[(taken.len() - 1) * percent / 100].as_micros();
        println!("{} {}", at(50), at(99));
        Ok(())
    }

    async fn connection(self, pool: Pool, number: u32, start: Instant) -> Vec<Duration> {
        let mut taken = Vec::new();
        for request in (number..self.rate * self.seconds).step_by(self.connections as usize) {
            let due = start + Duration::from_secs(1) / self.rate * request;
            while Instant::now() < due {
                yield_now().await; // a timer would be a millisecond late
            }
            let response = pool.send(self.query(request % self.queries)).await;
            assert!(response.expect("an answer").status().is_success());
            taken.push(due.elapsed());
        }
        taken
    }

    /// The same as in `load.lua`.
    fn query(&self, number: u32) -> Request<Full<Bytes>> {
        let body = format!(
            r#"{{"device_id":"8986{number:016}","order_id":"","order_status":"","order_type":"","page_no":1,"page_size":2}}"#
        );
        let mut request = Request::new(Full::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = "/package/queryOrder".parse().expect("a path");
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(AUTHORIZATION, self.authorization.clone());
        headers.insert("x-linksfield-tenant", HeaderValue::from_static("acme"));
        request
    }
}
