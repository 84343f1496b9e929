//! A caching, signing reverse proxy in front of the Linksfield IoT-SIM platform.
//!
//! Internal services send plain JSON. The gateway adds the tenant's `access_code`, a `timestamp`, the `version` and the
//! signature, forwards to Linksfield and hands the answer back byte for byte. Pages of queries stay in memory for a
//! while; commands, which may cost money, never do.
//!
//! # The life of a request
//!
//! 1. [`server`] accepts the connection. Its I/O wrapper keeps the times that a peer may take (for a head, between
//!    requests, to read an answer) and decides, while draining, which connections are idle.
//! 2. [`gateway`] is the table of contents: [`Gateway::handle`](gateway::Gateway::handle) calls the stations below in
//!    this order, and nothing else knows the order. It refuses what is not a well-formed POST of JSON.
//! 3. `gateway/route.rs` reads the path: *query* or *command*, and its policy. What is not configured is a command.
//! 4. `gateway/tenant.rs` says who asks: the *caller* by its bearer token, and the *tenant* whose account is used.
//! 5. `gateway/params.rs` brings the body into normal form, once. Cache key and wire body are made from that text, and
//!    the signed text is shaped from it.
//! 6. A **query** goes to `gateway/cache.rs`: a fresh page is answered there and then; otherwise the request joins the
//!    running *fill* of its key or starts one, in a task of its own.
//!    A **command** gets a task of its own too, and raises the *generation* of what it may change: right before its first
//!    byte, and again after any outcome but "proven not sent".
//! 7. In that task `gateway/quota.rs` grants a permit, which *is* one of the connection slots; `gateway/upstream.rs`
//!    connects it; `gateway/sign.rs` signs with the time of now, after the permit and anew for each attempt; then the
//!    bytes leave.
//! 8. `gateway/upstream.rs` says what the answer means, by HTTP status and by the envelope's `code`. Only a success of
//!    the expected shape is stored.
//! 9. `gateway/error.rs` makes a failure a response. [`telemetry`] records the exchange: one log line, one histogram.
//!
//! ```text
//! main → cli → config                 gateway → tenant → sign ─┐
//! main → lib → server → gateway       gateway → cache ─────────┴→ params, route
//!        lib → admin → telemetry      gateway → quota, upstream
//! leaves: config, telemetry, body; error (imports body), progress (imports error's `Sent`)
//! ```
//!
//! # Invariants
//!
//! - No secret, signature, token or body reaches a log, a metric, an error or the effective configuration.
//! - One tenant never reads another's page: the [`Scope`](gateway::cache::Scope) of a cache key has no default.
//! - A command is sent at most once. It is cancelled only while it is certain that no byte has left
//!   (`gateway/progress.rs` is where the two sides of that race meet).
//! - Whoever waits, waits with a deadline; whatever a peer can stretch has a bound in the configuration.
//! - A page filled before an invalidation is never found after it: the generation stands in the entry and is compared
//!   at every lookup.
//! - The limits of the vendor hold within this process, and only there.
//!
//! # Lexicon
//!
//! *downstream* the callers' side · *upstream* Linksfield · *exchange* one request and its response · *tenant* one
//! Linksfield account · *caller* a service known by its token · *route* a path and its policy · *query* a route that only
//! reads · *command* every other · *fill* the one upstream call that answers a miss · *coalesced* waiting for somebody
//! else's fill · *generation* a number that an invalidation raises · *permit* the right to use one connection slot for one
//! call · *drain* finishing what is in flight before the process ends.

pub mod body;
pub mod config;
pub mod gateway;
pub mod telemetry;
