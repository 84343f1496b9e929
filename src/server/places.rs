//! Who leaves when every place is taken?
//!
//! A connection *waits* while its peer owes it something: the first byte of a request, the rest of
//! a head, or the rest of a body that is dropped. It is *stuck* while its peer does not take an
//! answer, since the kernel first took no more of one: until all that was asked has been answered
//! and taken, no bytes that the peer reads and no requests that it sends begin that anew. It is
//! *known* once a request on it has authenticated, until then a *stranger*. The rules:
//!
//! 1. The stranger that has waited for the longest time leaves, if that is for [`GRACE`] at least.
//! 2. Else the known one that has been idle for the longest time does, where strangers, with the
//!    newcomer, have a quarter of the places at most, or one.
//! 3. Else, where no stranger waits, the stranger that has been stuck for the longest time does, if
//!    that is for [`GRACE`] at least.
//! 4. Else the newcomer waits, in turn with others, for [`GRACE`] since it was accepted; at its
//!    last look, or where too many wait, the stranger that has waited for the longest time leaves
//!    at once. Without one, the newcomer is refused.
//!
//! What they promise:
//!
//! - A request that has come whole is answered, and so is one of which a known connection has sent
//!   a byte. Only the answer to a stranger that takes a second to read it may be cut off, where
//!   nobody else can leave. Where there are no tokens, and on the admin listener, everybody is a
//!   stranger: an honest slow reader too. Who reads at once is never cut off.
//! - Whoever waits for a place has one a second after it connected, unless every stranger has a
//!   request in flight: those that came before it have had their second by then. It has one at once
//!   where somebody has said nothing for a second.
//! - One whose head comes at once is answered however many others connect, however often, and
//!   whatever they leave out: the kernel has its head when it is asked to leave, so it stays.
//! - Strangers take three quarters of the places from nobody who is known and keeps a connection
//!   between requests.
//! - Bytes one by one are worth no more than one: a stranger waits since it was accepted, since its
//!   last answer, or since the first byte of a later head, and no other byte begins that anew.
//!
//! They do not promise a place where strangers have a request in flight on each of theirs: whole
//! heads whose body stays away and that nobody refuses (there are no tokens). The times of a
//! connection bound those.
//!
//! Places are listed by since when they wait, as far as is known. A request only notes in its own
//! place that it is busy, so the list may be late: what it says is never after the truth. If it is
//! true of the first place, that one has waited for longer than all the others; if not, the place
//! is listed anew.
//!
//! Nobody but the connection itself can close it without losing a request: the place is wanted, and
//! the connection ends, or says that it stays.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

/// So long a stranger may wait for its peer while others want its place, and so long a newcomer
/// waits for one.
pub const GRACE: Duration = Duration::from_secs(1);

/// Strangers may have one place in so many at the cost of known ones.
const SHARE: usize = 4;

/// At how many busy places of a kind somebody who needs one looks: beyond them there may be one
/// that waits, for the next to find. A look at each of a million would hold everybody up. (One at a
/// waiting place is paid by the requests that made the list late.)
const MAX_BUSY: usize = 256;

/// The places of a listener's connections. Cloning is cheap.
#[derive(Debug, Clone, Default)]
pub struct Places(Arc<Mutex<Listed>>);

#[derive(Debug, Default)]
struct Listed {
    strangers: Queue,
    known: Queue,
    entered: u64,
}

/// Since when, and who.
type Since = (Instant, Arc<Standing>);

#[derive(Debug, Default)]
struct Longest {
    waiting: Option<Since>,
    stuck: Option<Since>,
}

/// By since when they wait, and by a number that tells those of one moment apart.
type Queue = BTreeMap<(Instant, u64), Arc<Standing>>;

/// The place of a connection, free again once dropped.
#[derive(Debug)]
pub struct Place {
    slot: Option<OwnedSemaphorePermit>,
    standing: Arc<Standing>,
    /// Something of a request has come, and the rest is waited for.
    has_part: AtomicBool,
    places: Places,
}

#[derive(Debug)]
struct Standing {
    number: u64,
    /// Changes with the list.
    is_known: AtomicBool,
    state: Mutex<PlacesState>,
}

/// To hold the list and a place's state, take the list first.
#[derive(Debug)]
struct PlacesState {
    /// Where it is in the list.
    listed_at: Instant,
    waits_since: Option<Instant>,
    /// Set while the kernel takes no more of an answer to a stranger.
    stuck_since: Option<Instant>,
    /// Who reads or writes, and waits for the peer.
    reader: Option<Waker>,
    /// Whoever wants the place waits for this: told that the connection stays, or dropped with it.
    wanted: Option<oneshot::Sender<()>>,
}

impl Places {
    /// A place for a connection that was accepted then. It waits: its task looks for a request when
    /// it is polled first.
    pub fn enter(&self, slot: impl Into<Option<OwnedSemaphorePermit>>, accepted: Instant) -> Place {
        let mut listed = self.listed();
        listed.entered += 1;
        let standing = Arc::new(Standing {
            number: listed.entered,
            is_known: AtomicBool::new(false),
            state: Mutex::new(PlacesState {
                listed_at: accepted,
                waits_since: Some(accepted),
                stuck_since: None,
                reader: None,
                wanted: None,
            }),
        });
        listed.list(standing.clone(), accepted);
        Place {
            slot: slot.into(),
            standing,
            has_part: AtomicBool::new(false),
            places: self.clone(),
        }
    }

    /// Asks the connection whose turn it is to end, and waits until it has. False if it stays: it
    /// was about to read a request. None if it is nobody's turn. At the `last` look of a newcomer
    /// no stranger has a grace.
    pub async fn want(&self, last: bool) -> Option<bool> {
        let wanted = self.listed().want(Instant::now(), last)?;
        Some(wanted.await.is_err())
    }

    fn listed(&self) -> MutexGuard<'_, Listed> {
        self.0.lock()
    }
}

impl Listed {
    fn want(&mut self, now: Instant, last: bool) -> Option<oneshot::Receiver<()>> {
        let has_had_grace = |since| now.saturating_duration_since(since) >= GRACE;
        let strangers = self.longest(false, now);
        let stranger = strangers.waiting;
        let whose_turn = if let Some((since, _)) = &stranger
            && has_had_grace(*since)
        {
            stranger
        } else if let Some(known) = self
            .may_have_another_stranger()
            .then(|| self.longest(true, now))
            && known.waiting.is_some()
        {
            known.waiting
        } else if stranger.is_some() {
            stranger.filter(|_| last)
        } else {
            strangers.stuck.filter(|(since, _)| has_had_grace(*since))
        };
        whose_turn.map(|(_, standing)| standing.want())
    }

    /// At the cost of a known one.
    fn may_have_another_stranger(&self) -> bool {
        let strangers = self.strangers.len();
        strangers == 0 || (strangers + 1) * SHARE <= strangers + self.known.len()
    }

    /// Those of a kind that have waited or been stuck for the longest time. Of the stuck, it is one
    /// of those that were looked at.
    fn longest(&mut self, is_known: bool, now: Instant) -> Longest {
        let mut longest = Longest::default();
        let mut busy = 0;
        while busy < MAX_BUSY
            && let Some(first) = self.queue(is_known).first_entry()
        {
            let (listed_at, _) = *first.key();
            if listed_at >= now {
                break; // all have been looked at
            }
            let standing = first.remove();
            let state = standing.state();
            let (since, stuck) = (state.free_since(), state.may_be_cut_since());
            drop(state);
            busy += usize::from(since.is_none());
            self.list(standing.clone(), since.unwrap_or(now));
            if let Some(since) = since.filter(|since| *since <= listed_at) {
                longest.waiting = Some((since, standing));
                break;
            }
            if let Some(stuck) = stuck
                && longest
                    .stuck
                    .as_ref()
                    .is_none_or(|(since, _)| stuck < *since)
            {
                longest.stuck = Some((stuck, standing));
            }
        }
        longest
    }

    fn list(&mut self, standing: Arc<Standing>, at: Instant) {
        standing.state().listed_at = at;
        let key = (at, standing.number);
        self.queue_of(&standing).insert(key, standing);
    }

    fn unlist(&mut self, standing: &Standing) {
        let at = standing.state().listed_at;
        self.queue_of(standing).remove(&(at, standing.number));
    }

    fn queue_of(&mut self, standing: &Standing) -> &mut Queue {
        self.queue(standing.is_known.load(Ordering::Relaxed))
    }

    fn queue(&mut self, is_known: bool) -> &mut Queue {
        if is_known {
            &mut self.known
        } else {
            &mut self.strangers
        }
    }
}

impl Place {
    /// Nothing of a next request has been read. Whoever wants the place wakes `reader`. True if
    /// somebody does already.
    pub fn idle(&self, since: Instant, reader: &Waker) -> bool {
        self.wait(since, reader)
    }

    /// A part of a request has been read. True if somebody wants the place, which is a stranger's.
    pub fn unfinished(&self, since: Instant, reader: &Waker) -> bool {
        if self.is_known() {
            return false;
        }
        self.has_part.store(true, Ordering::Relaxed);
        self.wait(since, reader)
    }

    fn wait(&self, since: Instant, reader: &Waker) -> bool {
        let mut state = self.standing.state();
        state.waits_since = Some(since);
        state.wake_for(reader);
        let (is_wanted, is_listed_after) = (state.wanted.is_some(), state.listed_at > since);
        drop(state);
        if is_listed_after {
            // Somebody looked while it was busy.
            let mut listed = self.places.listed();
            listed.unlist(&self.standing);
            listed.list(self.standing.clone(), since);
        }
        is_wanted
    }

    /// The kernel takes no more of an answer, and that began then. True if somebody wants the
    /// place, which is a stranger's.
    pub fn stuck(&self, since: Instant, writer: &Waker) -> bool {
        if self.is_known() {
            return false;
        }
        let mut state = self.standing.state();
        state.stuck_since = Some(since);
        state.wake_for(writer);
        state.wanted.is_some()
    }

    /// The kernel takes more. True if somebody wants the place still: so little is not enough.
    pub fn unstuck(&self) -> bool {
        let mut state = self.standing.state();
        let is_wanted = state.wanted.is_some();
        if !is_wanted {
            state.stuck_since = None;
        }
        is_wanted
    }

    /// There is something of a next request: the connection stays, whoever wants its place.
    pub fn busy(&self) {
        self.has_part.store(false, Ordering::Relaxed);
        let mut state = self.standing.state();
        state.waits_since = None;
        state.stuck_since = None;
        if let Some(wanted) = state.wanted.take() {
            let _ = wanted.send(()); // nobody may wait any more
        }
    }

    /// A request has come whole. Once one has authenticated, the connection is no stranger's.
    pub fn meet(&self, is_authenticated: impl FnOnce() -> bool) {
        if self.has_part.load(Ordering::Relaxed) {
            self.busy();
        }
        if !self.is_known() && is_authenticated() {
            let mut listed = self.places.listed();
            self.busy(); // whoever wants the stranger's
            listed.unlist(&self.standing);
            self.standing.is_known.store(true, Ordering::Relaxed);
            let at = self.standing.state().listed_at;
            listed.list(self.standing.clone(), at);
        }
    }

    fn is_known(&self) -> bool {
        self.standing.is_known.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.slot.take()); // before whoever wants it hears of it
        let mut listed = self.places.listed();
        listed.unlist(&self.standing);
        self.standing.state().wanted = None;
    }
}

impl Standing {
    fn want(&self) -> oneshot::Receiver<()> {
        let (wanted, answer) = oneshot::channel();
        let mut state = self.state();
        if state.free_since().or(state.may_be_cut_since()).is_some() {
            state.wanted = Some(wanted);
            if let Some(reader) = state.reader.take() {
                reader.wake();
            }
        } else {
            let _ = wanted.send(()); // a request has come meanwhile
        }
        answer
    }

    fn state(&self) -> MutexGuard<'_, PlacesState> {
        self.state.lock()
    }
}

impl PlacesState {
    /// Since when it waits, unless somebody wants it already.
    fn free_since(&self) -> Option<Instant> {
        self.waits_since.filter(|_| self.wanted.is_none())
    }

    /// Since when it is stuck, unless somebody wants it already.
    fn may_be_cut_since(&self) -> Option<Instant> {
        self.stuck_since.filter(|_| self.wanted.is_none())
    }

    fn wake_for(&mut self, reader: &Waker) {
        if !self.reader.as_ref().is_some_and(|it| it.will_wake(reader)) {
            self.reader = Some(reader.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn who_is_wanted(places: &[Place]) -> Option<usize> {
        let is_wanted = |place: &Place| place.standing.state().wanted.is_some();
        places.iter().position(is_wanted)
    }

    /// A connection that was accepted ten seconds ago, and what it has done since.
    #[derive(Debug, Clone, Copy)]
    enum Is {
        /// Nothing, and it was accepted as many milliseconds ago.
        Silent(u64),
        /// It has sent a part of its first head, and was accepted as many milliseconds ago.
        Part(u64),
        /// A part of a head that began as many milliseconds ago, after an answer.
        LaterPart(u64),
        /// Nothing since its last answer.
        Idle(u64),
        /// It has a request in flight.
        Busy,
        /// It has not taken an answer for as many milliseconds.
        Stuck(u64),
        /// The same, and the kernel has taken a little more just now.
        Unstuck(u64),
        /// It is known, and idle for as long.
        Known(u64),
        /// It is known, and has sent a part of a head.
        KnownPart(u64),
        KnownBusy,
        KnownStuck(u64),
    }

    impl Is {
        fn enter(self, all: &Places, now: Instant) -> Place {
            let ago = |ms| now - MS(ms);
            let place = all.enter(
                None,
                match self {
                    Self::Silent(ms) | Self::Part(ms) => ago(ms),
                    _ => ago(10_000),
                },
            );
            if !matches!(self, Self::Silent(_)) {
                place.busy();
            }
            if matches!(
                self,
                Self::Known(_) | Self::KnownPart(_) | Self::KnownBusy | Self::KnownStuck(_)
            ) {
                place.meet(|| true);
            }
            match self {
                Self::Silent(_) | Self::Busy | Self::KnownBusy => false,
                Self::Stuck(ms) | Self::KnownStuck(ms) => place.stuck(ago(ms), Waker::noop()),
                Self::Unstuck(ms) => place.stuck(ago(ms), Waker::noop()) || place.unstuck(),
                Self::Part(ms) | Self::LaterPart(ms) | Self::KnownPart(ms) => {
                    place.unfinished(ago(ms), Waker::noop())
                }
                Self::Idle(ms) | Self::Known(ms) => place.idle(ago(ms), Waker::noop()),
            };
            place
        }
    }

    #[test]
    fn strangers_leave_after_a_second_then_known_ones_where_strangers_are_few_then_a_last_look_counts()
     {
        use Is::{
            Busy, Idle, Known, KnownBusy, KnownPart, KnownStuck, LaterPart, Part, Silent, Stuck,
            Unstuck,
        };
        let known = [Known(300), Known(9_000), KnownBusy, KnownPart(9_000)];
        // Who is there, who leaves at a newcomer's first look, and who at its last.
        for (there, first, last) in [
            // Whatever a stranger leaves out, it has a second.
            (&[Silent(999), Silent(998)][..], None, Some(0)),
            (&[Silent(999), Silent(1_000)], Some(1), Some(1)),
            (&[Part(999), Part(998)], None, Some(0)),
            (&[Part(1_000), Silent(1_001)], Some(1), Some(1)),
            (&[Silent(1_000), Part(1_001)], Some(1), Some(1)),
            (&[Idle(999), Busy], None, Some(0)),
            (&[Idle(1_000), Busy], Some(0), Some(0)),
            // A head that begins late has a second too, and goes after those that wait for longer.
            (&[LaterPart(10), Idle(20), Busy], None, Some(1)),
            (&[LaterPart(1_000), Idle(900)], Some(0), Some(0)),
            // Nobody with a request in flight leaves.
            (&[Busy, Busy], None, None),
            (&[KnownBusy, KnownPart(9_000), Busy], None, None),
            // Known ones leave at once, where strangers are few and none of them has had its
            // second.
            (&known, Some(1), Some(1)),
            (&[Known(1)], Some(0), Some(0)),
            (&[&known[..], &[Silent(999)]].concat(), None, Some(4)),
            (
                &[&known[..], &known[1..], &[Silent(999)]].concat(),
                Some(1),
                Some(1),
            ),
            (
                &[&known[..], &known, &[Part(999); 2]].concat(),
                None,
                Some(8),
            ),
            (
                &[&known[..], &known, &[Part(1_000); 2]].concat(),
                Some(8),
                Some(8),
            ),
            // Else they stay, even where no stranger can leave.
            (&[&known[..], &known, &[Busy; 3]].concat(), None, None),
            (
                &[&known[..], &known, &[Busy, Busy, Idle(1)]].concat(),
                None,
                Some(10),
            ),
            // Who does not take an answer for a second leaves where nobody else does, unless it is
            // known.
            (&[Stuck(999), Busy], None, None),
            (&[Busy, Stuck(1_000), Stuck(1_001)], Some(2), Some(2)),
            (&[Unstuck(9_000), KnownStuck(9_000)], None, None),
            (&[Stuck(9_000), Silent(1_000)], Some(1), Some(1)),
            (&[Stuck(9_000), Silent(999)], None, Some(1)),
            (&[&[Stuck(9_000)], &known[..]].concat(), Some(0), Some(0)),
            (
                &[&[Stuck(9_000)], &known[..], &known].concat(),
                Some(2),
                Some(2),
            ),
        ] {
            for (is_last, expected) in [(false, first), (true, last)] {
                let now = Instant::now() + Duration::from_hours(1);
                let all = Places::default();
                let places: Vec<_> = there.iter().map(|is| is.enter(&all, now)).collect();
                let answer = all.listed().want(now, is_last);
                assert_eq!(who_is_wanted(&places), expected, "{there:?}, {is_last}");
                assert_eq!(answer.is_some(), expected.is_some());
            }
        }
    }

    #[test]
    fn one_that_waits_is_found_among_many_whatever_happened_since_they_were_listed() {
        let start = Instant::now();
        let all = Places::default();
        let places: Vec<_> = (0..3 * MAX_BUSY).map(|_| all.enter(None, start)).collect();
        for (place, number) in places.iter().zip(1..) {
            place.busy();
            place.idle(start + MS(number), Waker::noop());
        }
        let now = start + Duration::from_hours(1);
        assert!(all.listed().want(now, false).is_some());
        assert_eq!(who_is_wanted(&places), Some(0));

        let (last, others) = places.split_last().unwrap();
        for place in others {
            place.busy();
        }
        let mut looks = (1..).map(|number| now + Duration::from_secs(number));
        let mut in_vain = 0;
        while all.listed().want(looks.next().unwrap(), false).is_none() {
            in_vain += 1;
        }
        assert!(last.standing.state().wanted.is_some());
        assert_eq!(
            in_vain, 2,
            "with so many busy ones, the next looks are at the others"
        );
    }

    /// What happens on the connection with this number.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        Idle(usize),
        Byte(usize),
        Whole(usize, bool),
        /// Somebody wants a place, for the last time or not.
        Wanted(bool),
    }

    const CONNECTIONS: usize = 6;

    fn event() -> impl Strategy<Value = Event> {
        let number = || 0..CONNECTIONS;
        prop_oneof![
            number().prop_map(Event::Idle),
            number().prop_map(Event::Byte),
            (number(), prop::bool::weighted(0.2)).prop_map(|(of, known)| Event::Whole(of, known)),
            any::<bool>().prop_map(Event::Wanted),
        ]
    }

    /// What the rules are about.
    #[derive(Debug, Clone, Copy)]
    struct Expected {
        is_known: bool,
        /// Of its head, as long as that is no whole one.
        begin: Option<Instant>,
        waits_since: Option<Instant>,
    }

    impl Expected {
        fn accepted(at: Instant) -> Self {
            Self {
                is_known: false,
                begin: Some(at),
                waits_since: Some(at),
            }
        }
    }

    fn who_leaves(of: &[Expected], now: Instant, is_last: bool) -> Option<usize> {
        let longest = |is_known, until| {
            let waiting = of.iter().enumerate().filter_map(|(number, it)| {
                let since = it.waits_since.filter(|since| *since <= until);
                (it.is_known == is_known).then_some((since?, number))
            });
            waiting.min().map(|(_, number)| number)
        };
        let strangers = of.iter().filter(|it| !it.is_known).count();
        let may_be_more = strangers == 0 || 4 * (strangers + 1) <= CONNECTIONS;
        longest(false, now - GRACE)
            .or_else(|| longest(true, now).filter(|_| may_be_more))
            .or_else(|| longest(false, now).filter(|_| is_last))
    }

    proptest! {
        #[test]
        fn whoever_is_wanted_is_whose_turn_it_is_whatever_happened_before(
            events in prop::collection::vec((event(), 1_u64..300), 1..200),
        ) {
            let mut now = Instant::now() + Duration::from_hours(1);
            let all = Places::default();
            let mut places: Vec<_> = (0..CONNECTIONS).map(|_| all.enter(None, now)).collect();
            let mut expected = vec![Expected::accepted(now); CONNECTIONS];
            for (event, ms) in events {
                now += MS(ms);
                match event {
                    Event::Idle(of) if expected[of].begin.is_none() => {
                        expected[of].waits_since = Some(now);
                        places[of].idle(now, Waker::noop());
                    }
                    Event::Idle(_) => {}
                    Event::Byte(of) => {
                        let it = &mut expected[of];
                        let begin = *it.begin.get_or_insert(now);
                        it.waits_since = Some(begin).filter(|_| !it.is_known);
                        places[of].busy();
                        places[of].unfinished(begin, Waker::noop());
                    }
                    Event::Whole(of, is_authenticated) => {
                        let it = &mut expected[of];
                        (it.begin, it.waits_since) = (None, None);
                        it.is_known |= is_authenticated;
                        places[of].busy();
                        places[of].meet(|| is_authenticated);
                    }
                    Event::Wanted(is_last) => {
                        let of = who_leaves(&expected, now, is_last);
                        let answer = all.listed().want(now, is_last);
                        prop_assert_eq!(who_is_wanted(&places), of);
                        prop_assert_eq!(answer.is_some(), of.is_some());
                        if let Some(of) = of {
                            places[of] = all.enter(None, now);
                            expected[of] = Expected::accepted(now);
                        }
                    }
                }
            }
            drop(places);
            let listed = all.listed();
            prop_assert!(listed.strangers.is_empty() && listed.known.is_empty());
        }
    }
}
