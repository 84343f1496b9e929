//! The configuration as it came out: every key with its value, and what the limits amount to.
//!
//! Nothing secret can be in it: a [`Config`] holds names of files and variables only.

use std::fmt::Write as _;

use bytesize::ByteSize;

use super::limits::{CRAWLS, STREAMS};
use super::route::Kind;
use super::sections::Config;
use super::written::UNSET;

impl Config {
    /// The effective configuration as TOML: every key that means something, defaults included. It
    /// can be read again.
    pub fn effective(&self) -> String {
        // No file can say what TOML cannot: a path that is not UTF-8, set by a program.
        let text =
            toml::to_string(self).unwrap_or_else(|error| format!("# cannot be shown: {error}"));
        let unset = format!(" = {}", toml::Value::from(UNSET));
        let mut shown = String::with_capacity(text.len());
        let mut kind = None;
        for line in text.lines() {
            if line.starts_with('[') {
                kind = None;
            }
            if let Some(of_route) = line.strip_prefix("kind = ") {
                let is_named = |kind: &Kind| of_route.trim_matches('"') == kind.as_str();
                kind = [Kind::Query, Kind::Command, Kind::Refuse]
                    .into_iter()
                    .find(is_named);
            }
            let key = line.split(" = ").next().unwrap_or(line);
            // A key of another kind would be refused when it is read again.
            if kind.is_some_and(|kind| !kind.has_key(key)) {
                continue;
            }
            match line.strip_suffix(&unset) {
                Some(key) => shown.extend(["# ", key, " is not set\n"]),
                None => shown.extend([line, "\n"]),
            }
        }
        shown
    }

    /// What the vendor's limits amount to for this process, for people to read.
    pub fn arithmetic(&self) -> String {
        let mut lines = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_arithmetic(&mut lines);
        lines
    }

    fn write_weights(&self, out: &mut String) -> std::fmt::Result {
        let weights = || self.tenants.values().map(|tenant| tenant.weight.get());
        let whole: u64 = weights().map(u64::from).sum();
        if self.tenants.len() < 2 {
            return Ok(());
        }
        writeln!(
            out,
            "while all tenants want calls, each gets by its weight:"
        )?;
        if weights().min() == weights().max() {
            return writeln!(out, "  1 of {} calls", self.tenants.len());
        }
        for (name, tenant) in &self.tenants {
            writeln!(out, "  {name}: {} of {whole} calls", tenant.weight)?;
        }
        Ok(())
    }

    fn write_arithmetic(&self, out: &mut String) -> std::fmt::Result {
        let limits = &self.upstream.limits;
        let instances = limits.instances;
        writeln!(
            out,
            "limits of one source address, and the share of this process ({instances} behind the address):"
        )?;
        for (name, limit) in [
            ("requests_per_second", limits.requests_per_second),
            ("connections", limits.connections),
            ("requests_per_day", limits.requests_per_day),
        ] {
            match limits.share(limit) {
                Some(share) => writeln!(out, "  {name}: {limit} / {instances} = {share}")?,
                None => writeln!(out, "  {name}: none")?,
            }
        }
        let queries = limits
            .share(limits.requests_per_day)
            .map(|day| f64::from(day) * (1.0 - limits.command_reserve));
        if let Some(queries) = queries {
            let percent = limits.command_reserve * 100.0;
            writeln!(
                out,
                "  queries a day: {queries:.0}; {percent:.0} % of the day is kept for commands"
            )?;
        }

        self.write_weights(out)?;
        writeln!(
            out,
            "calls a day that one page costs while it is asked for all the time:"
        )?;
        for (path, route) in self
            .routes
            .iter()
            .filter(|(_, route)| route.kind == Kind::Query)
        {
            let fresh_for = humantime::format_duration(route.fresh_for);
            if route.fresh_for.is_zero() {
                writeln!(out, "  {path}: one for each question (fresh_for = \"0s\")")?;
                continue;
            }
            let calls = 86_400.0 / route.fresh_for.as_secs_f64();
            write!(out, "  {path}: {calls:.0} (fresh_for = \"{fresh_for}\")")?;
            match queries {
                Some(queries) if queries > 0.0 => {
                    writeln!(
                        out,
                        "; {:.0} % of the day's queries",
                        100.0 * calls / queries
                    )?;
                }
                _ => writeln!(out)?,
            }
        }

        // Of one connection.
        let (streams, at_a_time) = if self.has_http2() {
            (STREAMS, "calls at a time")
        } else {
            (1, "connections")
        };
        if self.has_http2() {
            writeln!(
                out,
                "http2: a connection carries up to {STREAMS} calls at a time where the vendor takes HTTP/2, which `probe` tells; else one, as without http2"
            )?;
        }
        writeln!(
            out,
            "sustained calls a second, the least of: {at_a_time} / the vendor's answer time;"
        )?;
        writeln!(
            out,
            "requests_per_second / (answer time + 1 s), as the vendor may count a call until it has answered it:"
        )?;
        let share = |limit| limits.share(limit).map_or(f64::INFINITY, f64::from);
        for answer_time in [0.2, 1.0, 5.0] {
            let by_connections = share(limits.connections) * f64::from(streams) / answer_time;
            let by_second = share(limits.requests_per_second) / (answer_time + 1.0);
            let (rate, bound) = if by_connections < by_second {
                (by_connections, "connections")
            } else {
                (by_second, "requests_per_second")
            };
            if rate.is_finite() {
                writeln!(
                    out,
                    "  answers in {answer_time} s: {rate:.1} (bound by {bound})"
                )?;
            } else {
                writeln!(out, "  answers in {answer_time} s: without bound")?;
            }
        }
        if let Some(day) = limits.share(limits.requests_per_day) {
            writeln!(
                out,
                "  all day long: {:.3} (bound by requests_per_day)",
                f64::from(day) / 86_400.0
            )?;
        }

        self.write_memory(out)
    }

    fn has_http2(&self) -> bool {
        self.upstream.http2 && self.upstream.base_url.is_https()
    }

    /// What answers and waiting requests may take together.
    fn write_memory(&self, out: &mut String) -> std::fmt::Result {
        let limits = &self.upstream.limits;
        let (pages, answer) = (self.cache.max_size, self.upstream.max_answer);
        let slots = limits.slots();
        let (streams, calls) = if self.has_http2() {
            (STREAMS, format!("{slots} connections x {STREAMS}"))
        } else {
            (1, format!("{slots} connections"))
        };
        // A crawl has its pages and, at its end, the document made of them.
        let answers = u64::from(slots) * u64::from(streams) + 2 * CRAWLS as u64;
        let most = ByteSize::b(
            pages
                .as_u64()
                .saturating_add(answers.saturating_mul(answer.as_u64())),
        );
        writeln!(
            out,
            "memory for pages: {most} at most = {pages} (cache.max_size) + {answer} (upstream.max_answer) x ({calls} + 2 x {CRAWLS} crawls)"
        )?;
        // A query that waits has its parameters and its key; crawls wait in a line of the same
        // length.
        let (queue, body) = (limits.queue as u64, self.server.max_body);
        let most = ByteSize::b(queue.saturating_mul(4).saturating_mul(body.as_u64()));
        writeln!(
            out,
            "memory for what waits: {most} at most = {body} (server.max_body) x 2 x ({queue} (upstream.limits.queue) + as many crawls)"
        )?;
        let (keys, most) = (self.idempotency.max_keys, self.idempotency.max_size);
        let place = match &self.server.state_dir {
            Some(_) => "in memory and in server.state_dir: they survive a restart",
            None => "in memory only, as server.state_dir is not set: a restart forgets them",
        };
        writeln!(
            out,
            "idempotency keys: {keys} (idempotency.max_keys) with {most} (idempotency.max_size) of answers at most, {place}"
        )
    }
}
