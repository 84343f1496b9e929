//! One JSON object a line: `{"time":…,"level":…,"message":…}` and the event's fields.

use std::fmt;
use std::io::Write as _;
use std::time::SystemTime;

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::lines::{Bound, Lines};

/// More than the line of an exchange has.
const USUAL_LENGTH: usize = 1024;

/// Writes events as JSON, without what the library's own formatter does for spans, which there are
/// none of.
pub struct JsonLines(pub &'static Lines);

impl<S: Subscriber> Layer<S> for JsonLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Vec::with_capacity(USUAL_LENGTH);
        match write(&mut line, event) {
            Ok(()) => self.0.add(&line, Bound::of(event.metadata().target())),
            Err(_) => self.0.lose(1),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "events carry no time; the text format's is the system's too"
)]
fn write(line: &mut Vec<u8>, event: &Event<'_>) -> serde_json::Result<()> {
    let now = humantime::format_rfc3339_micros(SystemTime::now());
    write!(
        line,
        r#"{{"time":"{now}","level":"{}""#,
        event.metadata().level()
    )
    .map_err(serde_json::Error::io)?;
    let mut fields = Fields {
        line,
        result: Ok(()),
    };
    event.record(&mut fields);
    fields.result?;
    line.extend_from_slice(b"}\n");
    Ok(())
}

/// The members of an object, after the first.
struct Fields<'a> {
    line: &'a mut Vec<u8>,
    result: serde_json::Result<()>,
}

impl Fields<'_> {
    fn begin(&mut self, field: &Field) {
        // Names are written in the code, none with anything to escape.
        self.line.extend_from_slice(b",\"");
        self.line.extend_from_slice(field.name().as_bytes());
        self.line.extend_from_slice(b"\":");
    }

    fn write(&mut self, field: &Field, value: &(impl Serialize + ?Sized)) {
        if self.result.is_ok() {
            self.begin(field);
            self.result = serde_json::to_writer(&mut *self.line, value);
        }
    }
}

/// A string, as which most are written as they are: to look at each byte by itself took a third of
/// a line's time.
fn write_text(line: &mut Vec<u8>, text: &str) {
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    if text.bytes().fold(true, |all, byte| all & is_plain(byte)) {
        line.push(b'"');
        line.extend_from_slice(text.as_bytes());
        line.push(b'"');
    } else {
        serde_json::to_writer(line, text).expect("a Vec takes every write");
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.write(field, &format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.begin(field);
        write_text(self.line, value);
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

#[cfg(test)]
mod tests {
    use tracing::subscriber::with_default;
    use tracing::{info, warn};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn a_line_is_an_object_of_what_there_is_in_order() {
        let lines: &'static Lines = Box::leak(Box::new(Lines::new()));
        with_default(
            tracing_subscriber::registry().with(JsonLines(lines)),
            || {
                let (text, none) = ("a \"quoted\"\nline\u{1b}é", None::<u16>);
                let error: &(dyn std::error::Error + 'static) = &fmt::Error;
                info!(
                    text,
                    none,
                    some = Some(200_u16),
                    duration = 0.000_05,
                    error,
                    "exchange"
                );
                warn!(yes = true, less = -1, shown = %1.5, debugged = ?Some("x"));
            },
        );
        let written = lines.taken();
        let (first, second) = written.split_once('\n').unwrap();
        let (time, first) = first.split_at(r#"{"time":"2026-11-25T01:02:03.004005Z","#.len());
        assert_eq!(
            first,
            r#""level":"INFO","message":"exchange","text":"a \"quoted\"\nline\u001bé","some":200,"duration":0.00005,"error":"an error occurred when formatting an argument"}"#
        );
        assert!(
            second.ends_with(
                "\"level\":\"WARN\",\"yes\":true,\"less\":-1,\"shown\":\"1.5\",\"debugged\":\"Some(\\\"x\\\")\"}\n"
            ),
            "{second}"
        );
        let time = time.strip_prefix(r#"{"time":""#).unwrap();
        let time = time.strip_suffix(r#"","#).unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
    }
}
