//! How much may one source address do? The vendor's three limits, and the highest that was seen of
//! each, enforced or not.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::code::{self, Code};
use super::settings::Settings;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
/// Above it, addresses that left nothing behind are forgotten.
const MANY_SOURCES: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct Limits {
    sources: HashMap<IpAddr, Source>,
    highest_calls: usize,
    highest_connections: usize,
}

#[derive(Debug, Default)]
struct Source {
    /// Of the last second, refused ones too: what the highest is taken of.
    arrived: VecDeque<Instant>,
    /// Of the last day, while limits are enforced; never longer than the day's limit.
    granted: VecDeque<Instant>,
    connections: usize,
}

impl Limits {
    /// A call arrives at `now`, which never goes back.
    pub(super) fn call(
        &mut self,
        source: IpAddr,
        now: Instant,
        settings: &Settings,
    ) -> Result<(), &'static Code> {
        let source = self.source(source);
        forget(&mut source.arrived, now, SECOND);
        source.arrived.push_back(now);
        let arrived = source.arrived.len();
        let outcome = if settings.enforce_limits {
            source.grant(now, settings)
        } else {
            Ok(())
        };
        self.highest_calls = self.highest_calls.max(arrived);
        outcome
    }

    /// A connection makes its first call. One that is refused does not count.
    pub(super) fn connect(
        &mut self,
        source: IpAddr,
        settings: &Settings,
    ) -> Result<(), &'static Code> {
        let source = self.source(source);
        let connections = source.connections + 1;
        let outcome = if settings.enforce_limits && connections > settings.connections {
            Err(&code::TOO_MANY_CONNECTIONS)
        } else {
            source.connections = connections;
            Ok(())
        };
        self.highest_connections = self.highest_connections.max(connections);
        outcome
    }

    /// A connection that was counted is closed.
    pub(super) fn disconnect(&mut self, source: IpAddr) {
        let source = self.source(source);
        source.connections = source.connections.saturating_sub(1);
    }

    /// Forgets every call. Connections that are open stay open.
    pub(super) fn reset(&mut self) {
        for source in self.sources.values_mut() {
            source.arrived.clear();
            source.granted.clear();
        }
        self.highest_calls = 0;
        self.highest_connections = self.connections();
    }

    /// Open now, of the address that has most.
    pub(super) fn connections(&self) -> usize {
        let open = self.sources.values().map(|source| source.connections);
        open.max().unwrap_or(0)
    }

    pub(super) const fn highest_calls(&self) -> usize {
        self.highest_calls
    }

    pub(super) const fn highest_connections(&self) -> usize {
        self.highest_connections
    }

    fn source(&mut self, address: IpAddr) -> &mut Source {
        if self.sources.len() > MANY_SOURCES {
            self.sources
                .retain(|_, source| source.connections > 0 || !source.granted.is_empty());
        }
        self.sources.entry(address).or_default()
    }
}

impl Source {
    fn grant(&mut self, now: Instant, settings: &Settings) -> Result<(), &'static Code> {
        forget(&mut self.granted, now, DAY);
        let newest = self.granted.iter().rev();
        let in_second = newest
            .take_while(|at| now.duration_since(**at) < SECOND)
            .count();
        if in_second >= settings.requests_per_second {
            return Err(&code::TOO_MANY_IN_A_SECOND);
        }
        if self.granted.len() >= settings.requests_per_day {
            return Err(&code::TOO_MANY_IN_A_DAY);
        }
        self.granted.push_back(now);
        Ok(())
    }
}

/// Drops what is `window` old or older.
fn forget(calls: &mut VecDeque<Instant>, now: Instant, window: Duration) {
    while let Some(oldest) = calls.front() {
        if now.duration_since(*oldest) < window {
            break;
        }
        calls.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

    fn enforced() -> Settings {
        Settings {
            enforce_limits: true,
            ..Settings::default()
        }
    }

    #[test]
    fn ten_calls_pass_in_any_second_and_the_eleventh_is_refused() {
        let (mut limits, start) = (Limits::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        for call in 0..10 {
            assert_eq!(limits.call(HERE, at(call * 90), &enforced()), Ok(()));
        }
        let refused = Err(&code::TOO_MANY_IN_A_SECOND);
        assert_eq!(limits.call(HERE, at(999), &enforced()), refused);
        // Another address has limits of its own.
        assert_eq!(limits.call(THERE, at(999), &enforced()), Ok(()));
        // The call at 0 ms is out of the window, the one at 90 ms is not; no bucket has been
        // refilled in between.
        assert_eq!(limits.call(HERE, at(1_000), &enforced()), Ok(()));
        assert_eq!(limits.call(HERE, at(1_089), &enforced()), refused);
        assert_eq!(limits.call(HERE, at(1_090), &enforced()), Ok(()));
        assert_eq!(limits.highest_calls(), 12);
    }

    #[test]
    fn the_day_ends_a_day_after_its_calls() {
        let (mut limits, start) = (Limits::default(), Instant::now());
        let settings = Settings {
            requests_per_day: 2,
            ..enforced()
        };
        let mut call = |seconds| limits.call(HERE, start + Duration::from_secs(seconds), &settings);
        assert_eq!(call(0), Ok(()));
        assert_eq!(call(10), Ok(()));
        assert_eq!(call(86_399), Err(&code::TOO_MANY_IN_A_DAY));
        assert_eq!(call(86_400), Ok(()));
        assert_eq!(call(86_401), Err(&code::TOO_MANY_IN_A_DAY));
    }

    #[test]
    fn without_enforcement_all_pass_and_are_counted() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        for _ in 0..50 {
            assert_eq!(limits.call(HERE, now, &Settings::default()), Ok(()));
            assert_eq!(limits.connect(HERE, &Settings::default()), Ok(()));
        }
        assert_eq!(limits.highest_calls(), 50);
        assert_eq!(limits.highest_connections(), 50);
    }

    #[test]
    fn a_closed_connection_makes_room() {
        let mut limits = Limits::default();
        for _ in 0..3 {
            assert_eq!(limits.connect(HERE, &enforced()), Ok(()));
        }
        assert!(limits.connect(HERE, &enforced()).is_err());
        limits.disconnect(HERE);
        assert_eq!(limits.connect(HERE, &enforced()), Ok(()));
        assert_eq!(limits.highest_connections(), 4);
        limits.reset();
        assert_eq!(limits.highest_connections(), 3);
    }
}
