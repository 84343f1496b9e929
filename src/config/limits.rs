//! What the vendor allows one source address, and how much of it this process may use.

use std::{fmt, num::NonZeroU32};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// `[upstream.limits]`: the limits as the vendor states them, for one source address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests in any one second.
    pub requests_per_second: Limit,
    /// Connections at a time, idle ones included; with HTTP/1.1 also the requests at a time, with
    /// HTTP/2 up to [`STREAMS`] times as many.
    pub connections: Limit,
    /// Requests in a day.
    pub requests_per_day: Limit,
    /// When the vendor's day begins.
    pub day: Day,
    /// Share of the day's requests that queries may not touch, from 0 to 1.
    pub command_reserve: f64,
    /// Processes behind the same source address; every limit is divided by it.
    pub instances: NonZeroU32,
    /// Calls that may wait for their turn; the next one is refused at once.
    pub queue: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_per_second: Limit::of(10),
            connections: Limit::of(3),
            requests_per_day: Limit::of(5000),
            day: Day::default(),
            command_reserve: 0.1,
            instances: NonZeroU32::MIN,
            queue: 200,
        }
    }
}

impl Limits {
    /// What this process may use of a limit: an equal share, rounded down. `None` means unlimited.
    ///
    /// `Config::parse` refuses a share below one.
    pub fn share(&self, limit: Limit) -> Option<u32> {
        match limit {
            Limit::Of(number) => Some(number.get() / self.instances),
            Limit::None => None,
        }
    }

    /// Does it allow fewer requests a second?
    pub(super) fn is_slower_than(&self, other: &Self) -> bool {
        let most = |limits: &Self| match limits.requests_per_second {
            Limit::Of(number) => number.get(),
            Limit::None => u32::MAX,
        };
        most(self) < most(other)
    }

    /// How many connections this process may hold.
    pub fn slots(&self) -> u32 {
        self.share(self.connections).unwrap_or(UNLIMITED_SLOTS)
    }
}

/// Crawls at a time: each keeps its pages until it has all of them.
pub const CRAWLS: usize = 4;

/// Calls at a time that one connection of HTTP/2 carries, where the vendor allows so many.
pub const STREAMS: u32 = 100;

/// Slots where no limit of connections is named.
const UNLIMITED_SLOTS: u32 = 256;

/// A limit: a number above 0, or `"none"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// So many.
    Of(NonZeroU32),
    /// As many as one likes.
    None,
}

impl Limit {
    /// For defaults; 0 becomes 1.
    const fn of(number: u32) -> Self {
        match NonZeroU32::new(number) {
            Some(number) => Self::Of(number),
            None => Self::Of(NonZeroU32::MIN),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(number) => number.fmt(formatter),
            Self::None => formatter.write_str("none"),
        }
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Limit;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a whole number above 0 or \"none\"")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Limit, E> {
                let number = u32::try_from(number).ok().and_then(NonZeroU32::new);
                number
                    .map(Limit::Of)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Other("number"), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Limit, E> {
                if text == "none" {
                    return Ok(Limit::None);
                }
                Err(E::invalid_value(de::Unexpected::Other("string"), &self))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for Limit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Of(number) => number.serialize(serializer),
            Self::None => serializer.serialize_str("none"),
        }
    }
}

/// When the vendor's day begins: `"rolling"`, or a time with its offset from UTC such as
/// `"00:00+08:00"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Day {
    /// Never: the limit holds in every window of 24 hours. The careful reading while the vendor has
    /// not said.
    #[default]
    Rolling,
    /// Every day at this time.
    At {
        /// Hour of the local time, 0 to 23.
        hour: u8,
        /// Minute of the local time, 0 to 59.
        minute: u8,
        /// Minutes that the local time is ahead of UTC.
        offset_minutes: i16,
    },
}

impl Day {
    /// The second after midnight UTC at which the day begins, where it has a fixed beginning.
    pub fn begins_at_utc_second(self) -> Option<u32> {
        match self {
            Self::Rolling => None,
            Self::At {
                hour,
                minute,
                offset_minutes,
            } => {
                let local = i32::from(hour) * 60 + i32::from(minute);
                u32::try_from((local - i32::from(offset_minutes)).rem_euclid(24 * 60) * 60).ok()
            }
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if text == "rolling" {
            return Some(Self::Rolling);
        }
        let (time, offset_minutes) = if let Some(time) = text.strip_suffix('Z') {
            (time, 0)
        } else {
            let (time, offset) = text.split_at_checked(text.find(['+', '-'])?)?;
            let (hours, minutes) = hours_and_minutes(offset.get(1..)?)?;
            let ahead = i16::from(hours) * 60 + i16::from(minutes);
            let behind = offset.starts_with('-');
            (time, if behind { -ahead } else { ahead })
        };
        let (hour, minute) = hours_and_minutes(time)?;
        Some(Self::At {
            hour,
            minute,
            offset_minutes,
        })
    }
}

/// `"08:30"`, exactly.
fn hours_and_minutes(text: &str) -> Option<(u8, u8)> {
    let two_digits = |digits: &str, below: u8| {
        let plain = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits
            .parse()
            .ok()
            .filter(|number| plain && *number < below)
    };
    let (hours, minutes) = text.split_once(':')?;
    Some((two_digits(hours, 24)?, two_digits(minutes, 60)?))
}

impl fmt::Display for Day {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rolling => formatter.write_str("rolling"),
            Self::At {
                hour,
                minute,
                offset_minutes,
            } => {
                let sign = if *offset_minutes < 0 { '-' } else { '+' };
                let ahead = offset_minutes.unsigned_abs();
                write!(
                    formatter,
                    "{hour:02}:{minute:02}{sign}{:02}:{:02}",
                    ahead / 60,
                    ahead % 60
                )
            }
        }
    }
}

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).ok_or_else(|| {
            de::Error::custom("it is neither \"rolling\" nor a time such as \"00:00+08:00\"")
        })
    }
}

impl Serialize for Day {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_begins_where_the_vendor_says() {
        for (text, shown, second) in [
            ("rolling", "rolling", None),
            ("00:00+08:00", "00:00+08:00", Some(16 * 3600)),
            ("00:00Z", "00:00+00:00", Some(0)),
            ("23:30-05:30", "23:30-05:30", Some(5 * 3600)),
        ] {
            let day = Day::parse(text).unwrap();
            assert_eq!(
                (day.to_string().as_str(), day.begins_at_utc_second()),
                (shown, second)
            );
            assert_eq!(Day::parse(shown), Some(day));
        }
        for text in [
            "",
            "Rolling",
            "00:00",
            "0:00Z",
            "24:00Z",
            "00:60Z",
            "00:00+8",
            "+00:00",
            "00:00+08:00x",
            "é",
        ] {
            assert_eq!(Day::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_share_is_rounded_down() {
        let limits = Limits {
            instances: NonZeroU32::new(3).unwrap(),
            ..Limits::default()
        };
        assert_eq!(limits.share(limits.requests_per_second), Some(3));
        assert_eq!(limits.share(Limit::None), None);
    }
}
