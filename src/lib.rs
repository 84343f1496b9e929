//! A caching, signing reverse proxy in front of the Linksfield IoT-SIM platform.
//!
//! Internal services send plain JSON. The gateway adds the tenant's `access_code`, a `timestamp`,
//! the `version` and the signature, forwards to Linksfield and hands the answer back byte for byte.
//! Pages of queries stay in memory for a while; commands, which may cost money, never do.
//!
//! # The life of a request
//!
//! 1. [`server`] accepts the connection. Its I/O wrapper keeps the times that a peer may take (for
//!    a head, between requests, to read an answer) and decides, while draining or at the bound of
//!    connections, which are idle; at the bound one that waits for its peer makes room
//!    (`server/places.rs`). It shows the line of a request to `target.rs`, as hyper drops a
//!    fragment without a word. What a refusal leaves unread of its request is dropped
//!    (`server/unread.rs`), so that neither the refusal nor the next request is lost. Callers never
//!    take the last of the files that may be open: `open_files.rs` keeps some for the admin
//!    listener, for calls and for reloads.
//! 2. [`live`] is what is in effect: the request is answered by the [`gateway`] of that moment,
//!    from its head to its answer.
//! 3. [`Gateway::handle`](gateway::Gateway::handle) is the table of contents: it calls what follows
//!    in this order, and nothing else knows the order. `gateway/request/` reads the request: it is
//!    a well-formed POST of JSON (`head.rs`) of a path that is a *query* or a *command*
//!    (`route.rs`; what is not configured is a command), from a *caller* known by its bearer token,
//!    for a *tenant* whose account is used (`tenant.rs`). [`signing::params`] brings the body into
//!    normal form, once: cache key and wire body are made from that text, and the signed text is
//!    shaped from it. What comes out is a [`Call`](gateway::request::Call).
//! 4. A **query** goes to `gateway/query.rs`. `query/cache.rs` answers a fresh page there and then,
//!    and a *stale* one too while it is fetched again; otherwise the request joins the running
//!    *fill* of its key or starts one, in a task of its own. Where that fails, an old page may
//!    stand in. Pages of one query belong to a *snapshot*; all of them at once are fetched by a
//!    *crawl* (`query/crawl.rs`, `query/document.rs`). A **command** goes to `gateway/command.rs`.
//!    One that comes with an idempotency key asks `command/keys.rs` whether one was sent under it.
//!    Its request drives it; where that has gone, it goes on as a task of its own. It raises the
//!    *generation* of what it may change (`query/reach.rs`): right before its first byte, and
//!    again after any outcome but "proven not sent".
//! 5. Both call Linksfield through `gateway/vendor.rs`, and where a query fails and the budget
//!    allows, once more (`vendor/call.rs`). Nothing is asked while the *breaker* is open, nor
//!    against a *brake* (`gateway/brakes.rs`), which is looked at once more as the first byte
//!    leaves. `vendor/quota.rs` grants a permit: one of the connection slots, or with HTTP/2 a part
//!    of one, and no call is made that can no longer be answered in time by then; the upstream
//!    client connects it; an idempotency key, and how many calls the day has seen, are written to
//!    [`state`]; [`signing::sign`] signs with the time of now, after the permit and anew for each
//!    attempt; then the bytes leave. A call whose time has passed *holds* its slot until the vendor
//!    has ended it.
//! 6. Of HTTP/1.1, `upstream/head.rs` looks at each head before hyper does: what is odd where
//!    nobody needs it is forgiven, what frames the body never is. `upstream.rs` says what the
//!    answer means, by HTTP status and by the envelope's `code`. Only a success of the expected
//!    shape is stored (`query/fill.rs`). An answer that nothing classifies is passed on, until it
//!    is the usual one (`vendor/unclassified.rs`). Whether a command is *in doubt* (it may have
//!    been carried out without anybody knowing) has one rule (`command/doubt.rs`).
//! 7. `gateway/error.rs` makes a failure a response. [`telemetry`] records the exchange: one
//!    histogram, and one log line, which a thread of its own writes.
//!
//! # The life of the process
//!
//! [`instance`] starts it (the store, what lasts, the parts, the listeners), runs it and drains it.
//! [`build`](mod@build) makes a gateway of a configuration, of its secrets, and of what lasts
//! ([`Lasting`](gateway::Lasting): memory, counts, keys, what is under way). [`reload`] reads the
//! files again, builds the next one and puts it into [`live`]. [`admin`] shows all of it, and
//! [`access`] says to whom.
//!
//! ```text
//! main → cli → instance → admin, reload → build → gateway → query, command → vendor → upstream
//!                                │           └─→ live ┘         └────────────┴─→ request → signing
//!                                └─→ server (which knows none of the others)
//! leaves: words, task, config, telemetry, body, id, state, clock, open_files, target, and signing,
//!         which imports nothing of ours;
//!         in the gateway: error, page, progress, brakes
//! simulator imports nothing of ours: the vendor's double is independent of what it judges
//! ```
//!
//! # Invariants
//!
//! - No secret, signature, token or body reaches a log, a metric, an error or the effective
//!   configuration.
//! - One tenant never reads another's page: the [`Scope`](gateway::query::cache::Scope) of a cache
//!   key has no default.
//! - A command is sent at most once, but for one that the vendor has refused unread (HTTP/2). It is
//!   cancelled only while too little of it has left to be carried out (nothing; with HTTP/2 its
//!   head and one byte of its body may have), or once it was refused (`gateway/progress.rs` is
//!   where the two sides of that race meet).
//! - Under an idempotency key one command is sent, until the key's window ends. With a state
//!   directory the key is on disk before the first byte leaves, and what it may have done is in
//!   doubt after a restart, never forgotten; where the store of before is lost, there is no start.
//!   Neither key nor parameters are kept, only hashes of them.
//! - Whoever waits, waits with a deadline; whatever a peer can stretch has a bound in the
//!   configuration. No request waits for whoever reads the log: lines that find no room are dropped
//!   and counted, those about commands last. None waits for the state disk for more than a second:
//!   a call goes on without it, a keyed command is refused. No reload waits for a file that hangs
//!   for more than five, and the end of the process for none.
//! - A page filled before an invalidation is never found after it: the generation stands in the
//!   entry and is compared at every lookup.
//! - Pages with one snapshot id do not contradict each other. (`docs/caching.md` has all that
//!   callers may rely on.)
//! - A request is answered under one configuration from its head to its answer (`reload.rs` swaps
//!   them whole). The brakes alone are live: once a reload has answered, no first byte leaves
//!   against them, and who waits is dismissed.
//! - The limits of the vendor hold within this process, and only there. A connection counts until
//!   the vendor has closed it, however it was given up (for `upstream.hold` at most: a server that
//!   works at a request may not notice that its peer has gone); an exchange whose time has passed
//!   is read to its end meanwhile, so that a late answer fills the cache or settles the doubt about
//!   a command. With a state directory a call of the day is on disk before it leaves, unless the
//!   disk hangs.
//! - Nothing that is kept is forgotten by the wall clock alone, which may be wrong by a month or be
//!   set: what grows old goes by a clock that nobody sets, and that goes on while the machine
//!   sleeps (`clock.rs`). Keys and calls of before a start count until Linksfield's `Date` agrees
//!   that they are over (`vendor/skew.rs`), or for a further window. Nor by that `Date` alone: what
//!   is written goes by the later of the two clocks, what erases by the earlier, and a fixed day
//!   begins by both.
//!
//! # Lexicon
//!
//! *downstream* the callers' side · *upstream* Linksfield · *exchange* one request and its response
//! · *tenant* one Linksfield account · *caller* a service known by its token · *route* a path and
//! its policy · *query* a route that only reads · *command* every other · *fill* the one upstream
//! call that answers a miss · *coalesced* waiting for somebody else's fill · *snapshot* the pages
//! of one query that belong together · *crawl* a fill of all pages of a query · *generation* a
//! number that an invalidation raises · *permit* the right to use a connection slot for one call ·
//! *stream* what that call goes through: one stream of the slot's connection, or with HTTP/1.1 all
//! of it · *drain* finishing what is in flight before the process ends.

pub mod access;
pub mod admin;
pub mod body;
pub mod build;
pub mod cli;
pub mod clock;
pub mod config;
pub mod gateway;
pub mod id;
pub mod instance;
pub mod live;
pub mod open_files;
pub mod reload;
pub mod server;
pub mod signing;
pub mod simulator;
pub mod state;
pub mod target;
pub mod task;
pub mod telemetry;
pub mod words;
