//! What is the least that HTTP costs? A server and a pass-through with hyper alone, which the
//! gateway is compared with, and a loader that keeps a rate. `benches/peers/run` starts them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio::task::{LocalSet, spawn_local, yield_now};

/// As the gateway has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The vendor's examples, compact, without the line's end: of a query, and of an order.
static PAGE: &[u8] = include_bytes!("page.json").trim_ascii_end();
static ORDER: &[u8] = include_bytes!("order.json").trim_ascii_end();

const QUERY: &str = "/package/queryOrder";

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Longer than the loader takes for all that can be ready at once, tenths of a millisecond.
const STOP: Duration = Duration::from_micros(500);

#[derive(Parser)]
enum Mode {
    /// Read each body; answer a query with the same page always, and all else as an order.
    Serve {
        listen: SocketAddr,
        /// So many bytes, with blanks before the page.
        #[arg(long, default_value_t = PAGE.len())]
        size: usize,
    },
    /// Read each body, send it on as it is over a connection that is kept.
    Pass {
        listen: SocketAddr,
        upstream: SocketAddr,
    },
    /// Ask at a rate, whether or not answers have come; print the median, the 99th percentile and
    /// how long the loader itself was stopped, in microseconds.
    Load(Load),
}

#[derive(Parser)]
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
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(LocalSet::new().run_until(async {
        match mode {
            Mode::Serve { listen, size } => serve(listen, Source::page(size)).await,
            Mode::Pass { listen, upstream } => {
                serve(listen, Source::Upstream(Pool::new(upstream))).await
            }
            Mode::Load(load) => {
                load.run().await;
                Ok(())
            }
        }
    }))
}

/// Where answers come from.
#[derive(Clone)]
enum Source {
    Page(Bytes),
    Upstream(Pool),
}

impl Source {
    fn page(size: usize) -> Self {
        let mut page = vec![b' '; size.saturating_sub(PAGE.len())];
        page.extend_from_slice(PAGE);
        Self::Page(page.into())
    }
}

async fn serve(listen: SocketAddr, source: Source) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let source = source.clone();
        spawn_local(async move {
            let service = service_fn(|request| answer(request, &source));
            // It ends with the client, however it leaves.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    source: &Source,
) -> hyper::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    match source {
        Source::Page(page) => {
            let said = if head.uri.path() == QUERY {
                page.clone()
            } else {
                Bytes::from_static(ORDER)
            };
            let mut response = Response::new(Full::new(said));
            response.headers_mut().insert(CONTENT_TYPE, JSON);
            Ok(response)
        }
        Source::Upstream(pool) => {
            let mut request = Request::new(Full::new(body));
            *request.method_mut() = head.method;
            *request.uri_mut() = head.uri;
            request.headers_mut().insert(CONTENT_TYPE, JSON);
            pool.send(request).await
        }
    }
}

type Connection = SendRequest<Full<Bytes>>;

/// Connections that are kept, and used in turn.
#[derive(Clone)]
struct Pool {
    server: SocketAddr,
    host: HeaderValue,
    idle: Rc<RefCell<VecDeque<Connection>>>,
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
        let idle = self.idle.borrow_mut().pop_front();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        connection.ready().await?;
        let (head, body) = connection.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        self.idle.borrow_mut().push_back(connection);
        Ok(Response::from_parts(head, Full::new(body)))
    }
}

impl Load {
    /// Requests are due by a timetable, and late from then on, though they be sent later because
    /// all connections are busy: so a server that stalls does not stop the clock. The loader's own
    /// stops do: while it waits for a request to be due it looks at the clock again and again, and
    /// when a look comes late, the loader was stopped, and nothing was due meanwhile. (What is
    /// under way then counts with the stop.)
    async fn run(self) {
        let pool = Pool::new(self.server);
        let count = self.rate * self.seconds;
        for _ in 0..self.connections {
            let connection = pool.connect().await.expect("a connection");
            pool.idle.borrow_mut().push_back(connection);
        }
        let free = Arc::new(Semaphore::new(self.connections as usize));
        let taken = Rc::new(RefCell::new(Vec::with_capacity(count as usize)));
        let mut start = Instant::now();
        let mut stopped = Duration::ZERO;
        for request in 0..count {
            let after = Duration::from_secs(1) / self.rate * request;
            let mut looked = Instant::now();
            while looked < start + after {
                yield_now().await; // a timer would be a millisecond late
                let late = looked.elapsed();
                looked += late;
                if late > STOP {
                    start += late;
                    stopped += late;
                }
            }
            let due = start + after;
            let permit = free.clone().acquire_owned().await;
            let request = self.query(request % self.queries);
            let (pool, taken) = (pool.clone(), taken.clone());
            spawn_local(async move {
                let response = pool.send(request).await.expect("an answer");
                assert!(response.status().is_success());
                taken.borrow_mut().push(due.elapsed());
                drop(permit);
            });
        }
        let all = free.acquire_many(self.connections).await;
        all.expect("it is not closed").forget();
        let mut taken = taken.borrow_mut();
        assert_eq!(taken.len(), count as usize);
        taken.sort_unstable();
        let at = |percent: usize| taken[(taken.len() - 1) * percent / 100].as_micros();
        println!("{} {} {}", at(50), at(99), stopped.as_micros());
    }

    /// The same as in `load.lua`.
    fn query(&self, number: u32) -> Request<Full<Bytes>> {
        let body = format!(
            r#"{{"device_id":"8986{number:016}","order_id":"","order_status":"","order_type":"","page_no":1,"page_size":2}}"#
        );
        let mut request = Request::new(Full::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static(QUERY);
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(AUTHORIZATION, self.authorization.clone());
        headers.insert("x-linksfield-tenant", HeaderValue::from_static("acme"));
        request
    }
}
