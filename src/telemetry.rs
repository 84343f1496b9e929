//! What happened? One log line and one histogram for each exchange, counters for what a histogram
//! does not count.
//!
//! Labels come from the configuration only: a label is the place of a name in [`Labels`], whose
//! last name stands for everything that is not configured. Handles are looked up once, not for each
//! request.

mod events;
mod exchange;
mod families;
mod family;
mod labels;
mod level;
pub mod log;
mod memory;
mod metrics;
pub mod recent;
mod series;
mod snapshot;
pub mod totals;
pub mod trace;

pub use self::events::CommandEnd;
pub use self::exchange::{CallRecord, Exchange, ExchangeLabels, FailureRecord};
pub use self::families::{CacheLevels, CommandLevels, QuotaLevels, UpstreamLevels};
pub use self::labels::{CallerLabel, Labels, RouteKind, RouteLabel, TenantLabel};
pub use self::level::{Counts, Keys, Windows};
pub use self::metrics::{Metrics, REVISION};
pub use self::snapshot::{Constants, Episode, Snapshot};
pub use self::totals::Answers;
