//! `[log]`: what is logged, and how.

use serde::{Deserialize, Serialize};

use super::problem::Problem;

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `off`, `error`, `warn`, `info`, `debug`, `trace`; or by target: `info,hyper=debug`.
    pub level: String,
    /// How a line is written.
    pub format: LogFormat,
}

impl Log {
    /// What is wrong with the level, if anything is.
    pub fn problem(&self) -> Option<Problem> {
        let is_level = |word: &str| {
            ["off", "error", "warn", "info", "debug", "trace"]
                .contains(&word.to_lowercase().as_str())
        };
        let is_directive = |directive: &str| match directive.split_once('=') {
            None => is_level(directive),
            Some((target, level)) => {
                let allowed =
                    |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-');
                !target.is_empty() && target.bytes().all(allowed) && is_level(level)
            }
        };
        let mut directives = self.level.split(',').map(str::trim);
        (!directives.all(is_directive)).then(|| {
            Problem::new(
                "log.level",
                "it is no level and no list of targets with their levels",
                "write off, error, warn, info, debug or trace, or a list such as \"info,hyper=debug\"",
            )
        })
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::default(),
        }
    }
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}
