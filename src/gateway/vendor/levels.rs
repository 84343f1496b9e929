//! What is left of the vendor's limits, and how is it reached? The values of now, for the metrics
//! and the admin page.

use std::time::SystemTime;

use super::Vendor;
use super::quota::Level;
use super::unclassified::At;
use crate::telemetry::{Episode, QuotaLevels, UpstreamLevels};

impl Vendor {
    /// The vendor's limits, and what is left of them.
    pub fn quota_levels(&self) -> QuotaLevels {
        let lasting = self.lasting();
        let levels = lasting.quota.levels();
        lasting.thriftiness.set(levels.thrift);
        let (mut limit, mut remaining) = (Vec::new(), Vec::new());
        let mut window = |name, level: Level| {
            limit.push((name, level.limit.into()));
            remaining.push((name, level.remaining.into()));
        };
        if let Some(level) = levels.second {
            window("second", level);
        }
        window("connections", levels.connections);
        let mut resets_at = Vec::new();
        if let Some(day) = levels.day {
            limit.push(("day", day.limit.into()));
            remaining.push(("day", day.remaining.into()));
            remaining.push(("day_queries", day.remaining_for_queries.into()));
            let now = self.wall_clock().duration_since(SystemTime::UNIX_EPOCH);
            let more_at = now.unwrap_or_default() + day.more_in;
            resets_at.push(("day", more_at.as_secs_f64()));
        }
        let queue = lasting.quota.queue_lengths().into_iter();
        QuotaLevels {
            queue_length: queue
                .map(|(class, number)| (class.as_str(), number))
                .collect(),
            limit,
            remaining,
            resets_at,
            assumed: levels.day.is_some_and(|day| day.is_assumed),
            allowed_rate: if levels.pause.is_zero() {
                levels.allowed_rate.unwrap_or(f64::INFINITY)
            } else {
                0.0 // the vendor wants no call now
            },
            thrift: levels.thrift as u8,
        }
    }

    /// Its connections, and what they have told.
    pub fn upstream_levels(&self) -> UpstreamLevels {
        let (lasting, upstream) = (self.lasting(), &self.0.upstream);
        let traffic = upstream.traffic().levels();
        UpstreamLevels {
            connections: traffic
                .map(|(protocol, number, _)| (protocol, number))
                .into(),
            requests_in_flight: traffic
                .map(|(protocol, _, number)| (protocol, number))
                .into(),
            slots_held: lasting.quota.slots_held(),
            clock_skew: lasting.skew.seconds(),
            certificate_expires_at: upstream.certificate_expires_at(),
        }
    }

    /// Are all calls refused, as too many have failed?
    pub fn breaker_is_open(&self) -> bool {
        self.lasting().breaker.is_open()
    }

    /// Where an answer that nothing classifies is the usual one, in words.
    pub fn episodes(&self) -> Vec<Episode> {
        let all = self.0.usual_answers.episodes().into_iter();
        all.map(|(At { route, tenant }, answer)| {
            let answer = answer.to_string();
            self.0.metrics.episode(route, tenant, answer)
        })
        .collect()
    }
}
