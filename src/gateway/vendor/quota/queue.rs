//! Who goes first?
//!
//! Between tenants by weight: start-time fair queueing over calls. Each tenant has a tag, which a
//! call moves on by one part in `weight`; the lowest tag goes first. A tag is never behind that of
//! the call granted last, so who was idle has saved nothing up; and never ahead of it by more than
//! one call, so who had the free turns owes nothing for them. Inside a tenant by class, then by
//! deadline, then in the order of arrival; so too between tenants with one tag.

use std::time::Duration;

use tokio::time::Instant;

use super::ask::Ask;
use super::limits::Share;
use super::rate::{Turns, Window};
use crate::gateway::progress::Progress;
use crate::words::Class;

/// What a call of weight 1 moves its tenant's tag on by. Large beside the weights, and a multiple
/// of those up to 16; so small that no process lives long enough for an overflow.
const STRIDE: u64 = 20 * 720_720;

/// Those who wait, and what their tenants have had.
#[derive(Debug)]
pub(super) struct Queue<G> {
    waiting: Vec<Waiting<G>>,
    /// By the tenant's index.
    lanes: Vec<Lane>,
    /// The tag of the call that was granted last.
    tag: u64,
    arrivals: u64,
}

/// One who waits for a permit.
#[derive(Debug)]
pub(super) struct Waiting<G> {
    pub tenant: usize,
    pub asked: Class,
    pub is_listed: bool,
    pub deadline: Instant,
    pub usual: Duration,
    progress: Progress,
    pub since: Instant,
    arrival: u64,
    /// Where the permit goes.
    pub granted: G,
}

/// A tenant's part in the order.
#[derive(Debug)]
struct Lane {
    stride: u64,
    cap: Option<Turns>,
    tag: u64,
    window: Window,
}

impl<G> Waiting<G> {
    /// A refresh that somebody waits for after all is a query.
    pub fn class(&self) -> Class {
        self.asked.of(&self.progress)
    }

    fn order(&self) -> (Class, Instant, u64) {
        (self.class(), self.deadline, self.arrival)
    }
}

impl Lane {
    fn new(share: Share) -> Self {
        let mut lane = Self {
            stride: STRIDE,
            cap: None,
            tag: 0,
            window: Window::default(),
        };
        lane.change(share);
        lane
    }

    fn change(&mut self, share: Share) {
        self.stride = STRIDE / u64::from(share.weight.max(1));
        self.cap = share.per_second.map(Turns::per_second);
    }

    fn room(&self, now: Instant) -> Result<(), Option<Instant>> {
        self.cap.map_or(Ok(()), |cap| self.window.room(now, cap))
    }
}

impl<G> Queue<G> {
    pub fn new(shares: &[Share]) -> Self {
        let mut queue = Self {
            waiting: Vec::new(),
            lanes: Vec::new(),
            tag: 0,
            arrivals: 0,
        };
        queue.change(shares);
        queue
    }

    /// Other weights and caps. Tenants keep their index; one that has none in here any more has the
    /// weight 1.
    pub fn change(&mut self, shares: &[Share]) {
        if let Some(last) = shares.len().checked_sub(1) {
            self.see(last);
        }
        for (place, lane) in self.lanes.iter_mut().enumerate() {
            lane.change(shares.get(place).copied().unwrap_or_default());
        }
    }

    /// From now on the tenant has a lane.
    fn see(&mut self, tenant: usize) {
        while self.lanes.len() <= tenant {
            self.lanes.push(Lane::new(Share::default()));
        }
    }

    pub fn push(&mut self, ask: &Ask<'_>, now: Instant, granted: G) {
        self.see(ask.tenant);
        self.arrivals += 1;
        self.waiting.push(Waiting {
            tenant: ask.tenant,
            asked: ask.class,
            is_listed: ask.is_listed,
            deadline: ask.deadline,
            usual: ask.usual,
            progress: ask.progress.clone(),
            since: now,
            arrival: self.arrivals,
            granted,
        });
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Waiting<G>> {
        self.waiting.iter()
    }

    /// Takes out all to whom this applies.
    pub fn remove(&mut self, is_out: impl Fn(&Waiting<G>) -> bool) -> Vec<Waiting<G>> {
        self.waiting
            .extract_if(.., |waiting| is_out(waiting))
            .collect()
    }

    /// Takes out whose turn is next, and counts the call for its tenant. `is_crawling`: a crawl's
    /// call is under way.
    pub fn next(&mut self, now: Instant, is_crawling: bool) -> Option<Waiting<G>> {
        let places = self.waiting.iter().enumerate();
        let (place, _) = places
            .filter(|(_, waiting)| !(is_crawling && waiting.asked == Class::Crawl))
            .filter(|(_, waiting)| self.lanes[waiting.tenant].room(now).is_ok())
            .min_by_key(|(_, waiting)| (self.start(waiting.tenant), waiting.order()))?;
        let waiting = self.waiting.remove(place);
        self.begin(waiting.tenant);
        Some(waiting)
    }

    /// Counts a call for its tenant.
    pub fn begin(&mut self, tenant: usize) {
        self.see(tenant);
        let start = self.start(tenant);
        let lane = &mut self.lanes[tenant];
        lane.tag = start + lane.stride;
        lane.window.begin();
        self.tag = start;
    }

    /// The tag that the tenant's next call begins with.
    fn start(&self, tenant: usize) -> u64 {
        self.lanes[tenant].tag.max(self.tag)
    }

    /// A call that was counted for this tenant was none after all.
    pub fn abandon(&mut self, tenant: usize) {
        let lane = &mut self.lanes[tenant];
        lane.window.abandon();
        lane.tag = lane.tag.saturating_sub(lane.stride);
    }

    /// A call of this tenant has ended.
    pub fn end(&mut self, tenant: usize, now: Instant) {
        self.lanes[tenant].window.end(now);
    }

    /// May this tenant have another call in this second?
    pub fn has_room(&self, tenant: usize, now: Instant) -> bool {
        let lane = self.lanes.get(tenant);
        lane.is_none_or(|lane| lane.room(now).is_ok())
    }

    /// When a tenant that waits for its own cap may go on, if no call need end for that.
    pub fn next_room(&self, now: Instant) -> Option<Instant> {
        let rooms = self.waiting.iter();
        rooms
            .filter_map(|waiting| self.lanes[waiting.tenant].room(now).err()?)
            .min()
    }

    /// How many calls go before this newcomer, and how long its tenant's cap holds it up.
    pub fn ahead(&mut self, ask: &Ask<'_>, now: Instant, usual: Duration) -> (usize, Duration) {
        self.see(ask.tenant);
        let order = (ask.class(), ask.deadline, u64::MAX);
        let before =
            |waiting: &&Waiting<G>| waiting.tenant == ask.tenant && waiting.order() < order;
        let own = self.waiting.iter().filter(before).count();
        let lane = &self.lanes[ask.tenant];
        let start = self.start(ask.tenant) + lane.stride * own as u64;
        let cap = lane.cap.map_or(Duration::ZERO, |cap| {
            lane.window.wait(now, cap, own + 1, usual)
        });
        let others = (0..self.lanes.len()).filter(|tenant| *tenant != ask.tenant);
        let ahead: usize = others
            .map(|tenant| self.served_before(tenant, start, order))
            .sum();
        (own + ahead, cap)
    }

    /// How many calls of a tenant begin before another one's with that tag and order.
    fn served_before(&self, tenant: usize, start: u64, order: (Class, Instant, u64)) -> usize {
        let of_tenant = || {
            let of_tenant = |waiting: &&Waiting<G>| waiting.tenant == tenant;
            self.waiting.iter().filter(of_tenant)
        };
        let first = self.start(tenant);
        if first >= start {
            let goes_first = first == start && of_tenant().any(|waiting| waiting.order() < order);
            return usize::from(goes_first);
        }
        let most = (start - first).div_ceil(self.lanes[tenant].stride);
        of_tenant()
            .count()
            .min(usize::try_from(most).unwrap_or(usize::MAX))
    }

    /// Takes out the last one who would go after this newcomer, if there is one: of the last class;
    /// inside a class, of the tenant with most calls for its weight; inside a tenant, the last one.
    /// Of the newcomer's own class it must be a tenant that has more for its weight than the
    /// newcomer's would: nobody fills the queue for all. Crawls are not in question: they are
    /// bounded where they begin.
    pub fn give_way(&mut self, ask: &Ask<'_>) -> Option<Waiting<G>> {
        self.see(ask.tenant);
        let mut use_of = vec![0; self.lanes.len()];
        for waiting in &self.waiting {
            use_of[waiting.tenant] += self.lanes[waiting.tenant].stride;
        }
        let own = use_of[ask.tenant] + self.lanes[ask.tenant].stride;
        let class = ask.class();
        let gives_way = |waiting: &Waiting<G>| {
            let its = waiting.class();
            its > class || (its == class && use_of[waiting.tenant] > own)
        };
        let places = self.waiting.iter().enumerate();
        let (place, _) = places
            .filter(|(_, waiting)| waiting.asked != Class::Crawl && gives_way(waiting))
            .max_by_key(|(_, waiting)| {
                let (class, deadline, arrival) = waiting.order();
                (
                    class,
                    use_of[waiting.tenant],
                    waiting.tenant,
                    deadline,
                    arrival,
                )
            })?;
        Some(self.waiting.remove(place))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares(weights: &[u32]) -> Vec<Share> {
        let share = |weight: &u32| Share {
            weight: *weight,
            per_second: None,
        };
        weights.iter().map(share).collect()
    }

    /// A queue in which a query of each of these tenants waits.
    fn queue(weights: &[u32], tenants: impl IntoIterator<Item = usize>) -> (Queue<()>, Instant) {
        let (mut queue, now) = (Queue::new(&shares(weights)), Instant::now());
        for tenant in tenants {
            push(&mut queue, tenant, Class::Query, now);
        }
        (queue, now)
    }

    fn push(queue: &mut Queue<()>, tenant: usize, class: Class, now: Instant) {
        queue.push(&ask(&Progress::default(), tenant, class, now), now, ());
    }

    fn ask(progress: &Progress, tenant: usize, class: Class, deadline: Instant) -> Ask<'_> {
        Ask {
            tenant,
            class,
            is_listed: true,
            progress,
            deadline,
            usual: Duration::ZERO,
        }
    }

    fn serve(queue: &mut Queue<()>, now: Instant, calls: usize) -> Vec<usize> {
        let next = || Some(queue.next(now, false)?.tenant);
        std::iter::from_fn(next).take(calls).collect()
    }

    proptest! {
        /// The bound of start-time fair queueing, in any stretch in which both have something
        /// waiting.
        #[test]
        fn two_tenants_that_wait_get_calls_by_weight_to_within_one_each(
            weights in prop::collection::vec(1_u32..=1000, 2..6),
            arrivals in prop::collection::vec((0_usize..5, 1_usize..40), 10..60),
        ) {
            let (mut queue, now) = queue(&weights, []);
            let mut waiting = vec![0_usize; weights.len()];
            // Of each pair: what both have had since both wait.
            let mut had = vec![(0_i64, 0_i64); weights.len() * weights.len()];
            for (tenant, calls) in arrivals {
                let tenant = tenant % weights.len();
                waiting[tenant] += 10;
                for _ in 0..10 {
                    push(&mut queue, tenant, Class::Query, now);
                }
                for served in serve(&mut queue, now, calls) {
                    for one in 0..weights.len() {
                        for other in 0..weights.len() {
                            let pair = &mut had[one * weights.len() + other];
                            if waiting[one] == 0 || waiting[other] == 0 {
                                *pair = (0, 0);
                                continue;
                            }
                            pair.0 += i64::from(served == one);
                            pair.1 += i64::from(served == other);
                            let (its, others) = (i64::from(weights[one]), i64::from(weights[other]));
                            let lead = (pair.0 * others - pair.1 * its).abs();
                            prop_assert!(one == other || lead <= its + others + 1, "{pair:?} of {its}, {others}");
                        }
                    }
                    waiting[served] -= 1;
                }
            }
        }

        #[test]
        fn those_ahead_are_foreseen_as_they_are_served(
            weights in prop::collection::vec(1_u32..=5, 1..4),
            before in prop::collection::vec(0_usize..4, 0..30),
            had in 0_usize..10,
            newcomer in 0_usize..4,
        ) {
            let (mut queue, now) = queue(&weights, before.iter().map(|tenant| tenant % weights.len()));
            serve(&mut queue, now, had);
            let newcomer = newcomer % weights.len();
            let progress = Progress::default();
            let (ahead, _) = queue.ahead(&ask(&progress, newcomer, Class::Query, now), now, Duration::ZERO);
            let arrival = queue.arrivals + 1;
            push(&mut queue, newcomer, Class::Query, now);
            let order = std::iter::from_fn(|| Some(queue.next(now, false)?.arrival));
            let place = order.take_while(|other| *other != arrival).count();
            // Where tags are equal further back, the order of arrival is not foreseen.
            prop_assert!(place.abs_diff(ahead) < weights.len(), "{place} {ahead}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn turns_alternate_by_weight() {
        let (mut queue, now) = queue(&[1, 3], [0, 0, 0, 1, 1, 1, 1, 1, 1]);
        assert_eq!(serve(&mut queue, now, 9), [0, 1, 1, 1, 0, 1, 1, 1, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_idle_has_saved_nothing_and_who_was_alone_owes_nothing() {
        let (mut queue, now) = queue(&[1, 1], [0; 50]);
        assert_eq!(serve(&mut queue, now, 40), [0; 40]);
        for _ in 0..4 {
            push(&mut queue, 1, Class::Query, now);
        }
        assert_eq!(serve(&mut queue, now, 8), [1, 0, 1, 0, 1, 0, 1, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_crawl_that_must_wait_for_another_one_lets_others_by() {
        let (mut queue, now) = queue(&[1], []);
        push(&mut queue, 0, Class::Crawl, now);
        push(&mut queue, 0, Class::Refresh, now);
        assert_eq!(queue.next(now, true).unwrap().asked, Class::Refresh);
        assert!(queue.next(now, true).is_none());
        assert_eq!(queue.next(now, false).unwrap().asked, Class::Crawl);
    }
}
