//! How does a log line look? One JSON object a line, or text where a person reads.

use std::fmt;
use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use serde::ser::{SerializeMap, Serializer};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON, but text on a terminal.
    Auto,
    /// One JSON object a line.
    Json,
    /// Text.
    Text,
}

/// The target of lines about commands, which no level drops.
pub const COMMANDS: &str = "linksfield_gateway::commands";

/// Sends the log to standard error: standard output belongs to the commands that print results.
///
/// `levels` is a level, or targets with their levels: `info,hyper=debug`. Does nothing if the process has a log already.
pub fn init(levels: &str, format: Format) {
    let (filter, handle) = reload::Layer::new(filter_of(levels));
    let is_terminal = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        Format::Auto if is_terminal => lines.with_target(false).with_ansi(true).boxed(),
        Format::Text => lines.with_target(false).with_ansi(is_terminal).boxed(),
        Format::Auto | Format::Json => lines.event_format(JsonLine).boxed(),
    };
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init();
    let _ = LEVELS.set(Levels {
        now: Mutex::new(levels.to_owned()),
        write: Box::new(move |levels| {
            let _ = handle.reload(filter_of(levels)); // its subscriber lives as long as the process
        }),
    });
}

/// Writes other levels from now on.
pub fn set_levels(levels: &str) {
    if let Some(all) = LEVELS.get() {
        let mut now = all.now();
        (all.write)(levels);
        levels.clone_into(&mut now);
    }
}

/// The levels that are written now; none where the process has no log of ours.
pub fn levels() -> Option<String> {
    LEVELS.get().map(|all| all.now().clone())
}

struct Levels {
    now: Mutex<String>,
    write: Box<dyn Fn(&str) + Send + Sync>,
}

impl Levels {
    fn now(&self) -> MutexGuard<'_, String> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

static LEVELS: OnceLock<Levels> = OnceLock::new();

fn filter_of(levels: &str) -> Targets {
    let levels = levels
        .parse()
        .unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO));
    levels.with_target(COMMANDS, LevelFilter::INFO)
}

/// `{"time":…,"level":…,"message":…}` and the event's fields.
struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::with_capacity(32);
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut line = Vec::with_capacity(512);
        write_fields(&mut line, &time, event).map_err(|_| fmt::Error)?;
        writer.write_str(std::str::from_utf8(&line).map_err(|_| fmt::Error)?)?;
        writer.write_char('\n')
    }
}

fn write_fields(line: &mut Vec<u8>, time: &str, event: &Event<'_>) -> serde_json::Result<()> {
    let mut serializer = serde_json::Serializer::new(line);
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("time", time)?;
    map.serialize_entry("level", event.metadata().level().as_str())?;
    let mut fields = Fields {
        map,
        result: Ok(()),
    };
    event.record(&mut fields);
    fields.result?;
    fields.map.end()
}

struct Fields<M: SerializeMap> {
    map: M,
    result: Result<(), M::Error>,
}

impl<M: SerializeMap> Fields<M> {
    fn write(&mut self, field: &Field, value: &(impl serde::Serialize + ?Sized)) {
        if self.result.is_ok() {
            self.result = self.map.serialize_entry(field.name(), value);
        }
    }
}

impl<M: SerializeMap> Visit for Fields<M> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.write(field, &format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.write(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.write(field, &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.write(field, &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.write(field, &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.write(field, &value);
    }
}
