//! How does the simulator behave? What is given as flags at the start and can be changed at
//! `/_simulator/control` later, under the same names.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// Delay, limits, failures and the clock's window. One unknown or missing key in the JSON form is
/// an error.
#[derive(Args, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How long each answer takes. A command has its effect before the wait, a query reads before
    /// it
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde")]
    pub latency: Duration,

    /// Refuse with HTTP 429 what is over the three limits below, as counted for one source address
    #[arg(long)]
    pub enforce_limits: bool,

    /// Calls in any second; refused ones do not count
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub requests_per_second: usize,

    /// Connections, each from its first call until it is closed
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub connections: usize,

    /// Calls in any 24 hours; refused ones do not count
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    pub requests_per_day: usize,

    /// Fail with this HTTP status
    #[arg(long, value_name = "STATUS", value_parser = clap::value_parser!(u16).range(200..=599))]
    pub fail_status: Option<u16>,

    /// Fail with this `code` in the envelope
    #[arg(long, value_name = "CODE")]
    pub fail_code: Option<String>,

    /// Fail by the connection
    #[arg(long, value_enum)]
    pub fail: Option<Breakage>,

    /// The share of calls that fail, where a failure is asked for
    #[arg(long, value_name = "0.0-1.0", default_value_t = 1.0, value_parser = rate)]
    pub fail_rate: f64,

    /// How many more calls fail; without it there is no end
    #[arg(long, value_name = "N")]
    pub fail_count: Option<u64>,

    /// Only calls of this path fail, as /package/orderPackage
    #[arg(long, value_name = "PATH")]
    pub fail_path: Option<String>,

    /// When in the course of a call it fails
    #[arg(long = "fail-apply", value_enum, default_value_t = Stage::After)]
    pub apply: Stage,

    /// How far a timestamp may be from now
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde")]
    pub timestamp_window: Duration,

    /// What timestamps are in; the vendor's pages show both
    #[arg(long, value_enum, default_value_t = TimestampUnit::Auto)]
    pub timestamp_unit: TimestampUnit,
}

/// What becomes of the connection in place of an answer.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Breakage {
    /// Closed before the first byte of an answer
    Drop,
    /// Closed after the head and half of the body
    Cut,
    /// Held without an answer until the client goes, or for 5 minutes
    Hang,
    /// Reset before the first byte of an answer
    Reset,
}

/// When in the course of a call a failure strikes.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Stage {
    /// Before the signature is looked at
    Before,
    /// After the signature was found good, before anything changes
    After,
    /// After the effect: the command was executed, its answer is lost
    AfterEffect,
}

/// The unit of the timestamps that are accepted.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum TimestampUnit {
    /// Either, told apart by size
    Auto,
    /// Seconds since 1970
    Seconds,
    /// Milliseconds since 1970
    Milliseconds,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            latency: Duration::ZERO,
            enforce_limits: false,
            requests_per_second: 10,
            connections: 3,
            requests_per_day: 5_000,
            fail_status: None,
            fail_code: None,
            fail: None,
            fail_rate: 1.0,
            fail_count: None,
            fail_path: None,
            apply: Stage::After,
            timestamp_window: Duration::from_secs(600),
            timestamp_unit: TimestampUnit::Auto,
        }
    }
}

impl Settings {
    /// What the types let through and the flags' parsers do not: settings also come as JSON and
    /// from code.
    pub(super) fn check(&self) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.fail_rate) {
            return Err("fail_rate: a share is between 0.0 and 1.0".to_owned());
        }
        match self.fail_status {
            Some(status) if !(200..=599).contains(&status) => {
                Err("fail_status: the status of an answer is between 200 and 599".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// These settings with the keys of a JSON object changed.
    pub(super) fn changed(&self, patch: &[u8]) -> Result<Self, String> {
        let patch: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(patch).map_err(|error| error.to_string())?;
        let mut merged = self.to_json();
        for (key, value) in patch {
            match merged.get_mut(&key) {
                Some(current) => *current = value,
                None => return Err(format!("{key}: no such key")),
            }
        }
        let settings: Self = serde_path_to_error::deserialize(serde_json::Value::Object(merged))
            .map_err(|error| error.to_string())?;
        settings.check()?;
        Ok(settings)
    }

    /// Every key there is.
    pub(super) fn keys(&self) -> Vec<String> {
        self.to_json().into_iter().map(|(key, _)| key).collect()
    }

    fn to_json(&self) -> serde_json::Map<String, serde_json::Value> {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(map)) => map,
            _ => unreachable!("a struct of plain values becomes a JSON object"),
        }
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok();
    let rate = rate.filter(|rate| (0.0..=1.0).contains(rate));
    rate.ok_or_else(|| "a share is between 0.0 and 1.0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_touches_only_what_it_names() {
        let settings = Settings::default();
        let changed = settings
            .changed(br#"{"latency":"200ms","fail":"cut","fail_count":2,"apply":"after_effect"}"#);
        let expected = Settings {
            latency: Duration::from_millis(200),
            fail: Some(Breakage::Cut),
            fail_count: Some(2),
            apply: Stage::AfterEffect,
            ..Settings::default()
        };
        assert_eq!(changed, Ok(expected.clone()));
        let back =
            expected.changed(br#"{"latency":"0s","fail":null,"fail_count":null,"apply":"after"}"#);
        assert_eq!(back, Ok(settings));
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_key() {
        for (patch, key) in [
            (r#"{"lag":1}"#, "lag"),
            (r#"{"fail":"burn"}"#, "fail"),
            (r#"{"fail_rate":1.5}"#, "fail_rate"),
            (r#"{"fail_status":99}"#, "fail_status"),
            (r#"{"latency":null}"#, "latency"),
            (r#"{"connections":-1}"#, "connections"),
        ] {
            let error = Settings::default().changed(patch.as_bytes()).unwrap_err();
            assert!(error.starts_with(&format!("{key}:")), "{error}");
        }
        assert!(Settings::default().changed(b"[]").is_err());
    }
}
