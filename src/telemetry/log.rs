//! How does a log line look? One JSON object a line, or text where a person reads.

mod json;
mod lines;

use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tracing::Metadata;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use self::json::JsonLines;
pub use self::lines::COMMANDS;
use self::lines::{Bound, Lines};

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

/// How long the end of the process waits for whoever reads the log.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Sends the log to standard error: standard output belongs to the commands that print results.
///
/// `levels` is a level, or targets with their levels: `info,hyper=debug`. Does nothing if the
/// process has a log already. What is written until the end is kept back for some milliseconds: the
/// result is to be dropped last.
pub fn init(levels: &str, format: Format) -> io::Result<Flush> {
    let (filter, handle) = reload::Layer::new(filter_of(levels));
    let is_terminal = io::stderr().is_terminal();
    let text = || {
        let layer = tracing_subscriber::fmt::layer().with_target(false);
        layer.with_writer(Text(&LINES))
    };
    let lines = match format {
        Format::Auto if is_terminal => text().with_ansi(true).boxed(),
        Format::Text => text().with_ansi(is_terminal).boxed(),
        Format::Auto | Format::Json => JsonLines(&LINES).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter));
    if subscriber.try_init().is_ok() {
        let writer = thread::Builder::new().name("log".into());
        writer.spawn(|| LINES.write_to(io::stderr()))?;
    }
    let _ = LEVELS.set(Levels {
        now: Mutex::new(levels.to_owned()),
        write: Box::new(move |levels| {
            let _ = handle.reload(filter_of(levels)); // its subscriber lives as long as the process
        }),
    });
    Ok(Flush)
}

/// Flushes the log when it is dropped.
#[must_use = "lines are written a little later"]
#[derive(Debug)]
pub struct Flush;

impl Drop for Flush {
    fn drop(&mut self) {
        flush();
    }
}

/// Waits until all lines are written; not for long, where nobody reads them.
pub fn flush() {
    LINES.flush(LAST_WORDS);
}

/// How many lines have been dropped, since the start.
pub fn dropped_lines() -> u64 {
    LINES.dropped()
}

static LINES: Lines = Lines::new();

/// Takes the lines of the library's own text format.
struct Text(&'static Lines);

impl MakeWriter<'_> for Text {
    type Writer = TextLine;

    fn make_writer(&self) -> TextLine {
        TextLine(self.0, Bound::of(""))
    }

    fn make_writer_for(&self, event: &Metadata<'_>) -> TextLine {
        TextLine(self.0, Bound::of(event.target()))
    }
}

struct TextLine(&'static Lines, Bound);

impl io::Write for TextLine {
    /// The library writes a line whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.add(line, self.1);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
        self.now.lock()
    }
}

static LEVELS: OnceLock<Levels> = OnceLock::new();

fn filter_of(levels: &str) -> Targets {
    let levels = levels
        .parse()
        .unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO));
    levels.with_target(COMMANDS, LevelFilter::INFO)
}
