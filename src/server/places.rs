//! Who leaves when every place is taken? The connection that has been idle for the longest time, strangers before those who
//! have authenticated. But one that was accepted a moment ago is about to send its first request: where strangers are few, it
//! leaves last.
//!
//! Places are listed by since when they are idle, as far as is known. A request only notes in its own place that it is busy,
//! so the list may be late: what it says is never after the truth. If it is true of the first place, that one has been idle
//! for longer than all the others; if not, the place is listed anew.
//!
//! Nobody but the connection itself can close it without losing a request: the place is wanted, and the connection ends, or
//! says that it stays.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

/// At how many busy places of a kind somebody who needs one looks: beyond them there may be an idle one, for the next to
/// find. A look at each of a million would hold everybody up. (One at an idle place is paid by the requests that made the
/// list late.)
const MAX_BUSY: usize = 256;

/// So long a stranger is about to send a request.
const MOMENT: Duration = Duration::from_millis(100);

/// Strangers are few while they have one place in so many.
const FEW: usize = 4;

/// The places of a listener's connections. Cloning is cheap.
#[derive(Debug, Clone, Default)]
pub struct Places(Arc<Mutex<Listed>>);

#[derive(Debug, Default)]
struct Listed {
    strangers: Queue,
    known: Queue,
    entered: u64,
}

/// By since when they are idle, and by a number that tells those of one moment apart.
type Queue = BTreeMap<(Instant, u64), Arc<Standing>>;

/// The place of a connection, free again once dropped.
#[derive(Debug)]
pub struct Place {
    slot: Option<OwnedSemaphorePermit>,
    standing: Arc<Standing>,
    places: Places,
}

#[derive(Debug)]
struct Standing {
    number: u64,
    is_known: AtomicBool,
    state: Mutex<State>,
}

/// To hold the list and a place's state, take the list first.
#[derive(Debug)]
struct State {
    /// Where it is in the list.
    listed: (bool, Instant),
    idle_since: Option<Instant>,
    /// Who reads, and waits for the next request.
    reader: Option<Waker>,
    /// Whoever wants the place waits for this: told that the connection stays, or dropped with it.
    wanted: Option<oneshot::Sender<()>>,
}

impl Places {
    /// A place for a connection that was just accepted. It is idle: its task looks for a request when it is polled first.
    pub fn enter(&self, slot: impl Into<Option<OwnedSemaphorePermit>>) -> Place {
        let mut listed = self.listed();
        listed.entered += 1;
        let now = Instant::now();
        let standing = Arc::new(Standing {
            number: listed.entered,
            is_known: AtomicBool::new(false),
            state: Mutex::new(State {
                listed: (false, now),
                idle_since: Some(now),
                reader: None,
                wanted: None,
            }),
        });
        listed.list(standing.clone(), false, now);
        Place {
            slot: slot.into(),
            standing,
            places: self.clone(),
        }
    }

    /// Asks the connection that has been idle for the longest time to end, and waits until it has. False if it stays: it
    /// was about to read a request. None if no connection is idle.
    pub async fn want_longest_idle(&self) -> Option<bool> {
        let wanted = self.listed().want_longest_idle(Instant::now())?;
        Some(wanted.await.is_err())
    }

    fn listed(&self) -> MutexGuard<'_, Listed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listed {
    fn want_longest_idle(&mut self, now: Instant) -> Option<oneshot::Receiver<()>> {
        let are_few = self.strangers.len() * FEW <= self.strangers.len() + self.known.len();
        let a_moment_ago = now.checked_sub(MOMENT).unwrap_or(now);
        let until = if are_few { a_moment_ago } else { now };
        // The last look is for those that were listed as strangers until now.
        for (is_known, until) in [(false, until), (true, now), (false, now), (true, now)] {
            let mut busy = 0;
            while busy < MAX_BUSY
                && let Some(first) = self.queue(is_known).first_entry()
            {
                let (listed_at, _) = *first.key();
                if listed_at >= now || listed_at > until {
                    break; // all have been looked at
                }
                let standing = first.remove();
                let since = standing.state().free_since();
                busy += usize::from(since.is_none());
                let since = since.unwrap_or(now);
                let is_still_known = standing.is_known.load(Ordering::Relaxed);
                if since <= listed_at && is_still_known == is_known {
                    self.list(standing.clone(), is_known, now);
                    return Some(standing.want());
                }
                self.list(standing, is_still_known, since);
            }
        }
        None
    }

    fn list(&mut self, standing: Arc<Standing>, is_known: bool, at: Instant) {
        standing.state().listed = (is_known, at);
        self.queue(is_known).insert((at, standing.number), standing);
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
    /// Nothing of a next request has been read. Whoever wants the place wakes `reader`. True if somebody does already.
    pub fn idle(&self, since: Instant, reader: &Waker) -> bool {
        let mut state = self.standing.state();
        state.idle_since = Some(since);
        if !state.reader.as_ref().is_some_and(|it| it.will_wake(reader)) {
            state.reader = Some(reader.clone());
        }
        state.wanted.is_some()
    }

    /// There is something of a next request: the connection stays, whoever wants its place.
    pub fn busy(&self) {
        let mut state = self.standing.state();
        state.idle_since = None;
        if let Some(wanted) = state.wanted.take() {
            let _ = wanted.send(()); // nobody may wait any more
        }
    }

    /// A request has come. Once one has authenticated, the connection is no stranger's.
    pub fn meet(&self, is_authenticated: impl FnOnce() -> bool) {
        let is_known = &self.standing.is_known;
        if !is_known.load(Ordering::Relaxed) && is_authenticated() {
            is_known.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.slot.take()); // before whoever wants it hears of it
        let mut listed = self.places.listed();
        let mut state = self.standing.state();
        let (is_known, at) = state.listed;
        state.wanted = None;
        drop(state);
        listed.queue(is_known).remove(&(at, self.standing.number));
    }
}

impl Standing {
    fn want(&self) -> oneshot::Receiver<()> {
        let (wanted, answer) = oneshot::channel();
        let mut state = self.state();
        if state.free_since().is_some() {
            state.wanted = Some(wanted);
            if let Some(reader) = state.reader.take() {
                reader.wake();
            }
        } else {
            let _ = wanted.send(()); // a request has come meanwhile
        }
        answer
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Since when it is idle, unless somebody wants it already.
    fn free_since(&self) -> Option<Instant> {
        self.idle_since.filter(|_| self.wanted.is_none())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// What happens on the connection with this number, and in the end somebody wants a place.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        Idle(usize),
        Busy(usize),
        Authenticated(usize),
        Wanted,
    }

    const CONNECTIONS: usize = 6;

    fn event() -> impl Strategy<Value = Event> {
        let number = 0..CONNECTIONS;
        prop_oneof![
            number.clone().prop_map(Event::Idle),
            number.clone().prop_map(Event::Busy),
            number.prop_map(Event::Authenticated),
            Just(Event::Wanted),
        ]
    }

    fn who_is_wanted(places: &[Place]) -> Option<usize> {
        let is_wanted = |place: &Place| place.standing.state().wanted.is_some();
        places.iter().position(is_wanted)
    }

    #[test]
    fn one_that_is_idle_is_found_among_many_whatever_happened_since_they_were_listed() {
        let all = Places::default();
        let places: Vec<_> = (0..3 * MAX_BUSY).map(|_| all.enter(None)).collect();
        let start = Instant::now();
        for (place, number) in places.iter().zip(1..) {
            place.busy();
            place.idle(start + Duration::from_millis(number), Waker::noop());
        }
        let now = start + Duration::from_secs(3600);
        assert!(all.listed().want_longest_idle(now).is_some());
        assert_eq!(who_is_wanted(&places), Some(0));

        let (last, others) = places.split_last().unwrap();
        for place in others {
            place.busy();
        }
        let mut looks = (1..).map(|number| now + Duration::from_secs(number));
        let mut refused = 0;
        while all
            .listed()
            .want_longest_idle(looks.next().unwrap())
            .is_none()
        {
            refused += 1;
        }
        assert!(last.standing.state().wanted.is_some());
        assert_eq!(
            refused, 1,
            "with so many busy ones, the next one looks at the others"
        );
    }

    proptest! {
        #[test]
        fn whoever_is_wanted_is_idle_for_the_longest_time_and_a_stranger_if_there_is_one(
            events in prop::collection::vec(event(), 1..200),
        ) {
            let all = Places::default();
            let places: Vec<_> = (0..CONNECTIONS).map(|_| all.enter(None)).collect();
            // By whether it has authenticated, and since which event it is idle.
            let mut expected: Vec<_> = (0..CONNECTIONS).map(|_| (false, Some(0))).collect();
            let start = Instant::now();
            for (event, number) in events.into_iter().zip(1..) {
                let now = start + Duration::from_millis(number);
                match event {
                    Event::Idle(of) if expected[of].1.is_none() => {
                        expected[of].1 = Some(number);
                        places[of].idle(now, Waker::noop());
                    }
                    Event::Idle(_) => {}
                    Event::Busy(of) => {
                        expected[of].1 = None;
                        places[of].busy();
                    }
                    Event::Authenticated(of) => {
                        expected[of].0 = true;
                        places[of].meet(|| true);
                    }
                    Event::Wanted => {
                        let answer = all.listed().want_longest_idle(now);
                        let strangers = expected.iter().filter(|(is_known, _)| !is_known).count();
                        let are_few = strangers * FEW <= CONNECTIONS;
                        let of = who_is_wanted(&places);
                        // Who has authenticated of late may be taken for a stranger still, and among those that are idle for
                        // a moment only the list may be late.
                        let is_right = [are_few, false].into_iter().any(|are_few| {
                            let rank = |of: usize| match expected[of] {
                                (false, Some(since)) if are_few && number - since < 100 => 2,
                                (is_known, _) => usize::from(is_known),
                            };
                            let idle = (0..CONNECTIONS).filter(|of| expected[*of].1.is_some());
                            let best = idle.min_by_key(|of| (rank(*of), expected[*of].1));
                            match (of, best) {
                                (Some(of), Some(best)) => {
                                    let (since, of_best) = (expected[of].1, expected[best].1);
                                    rank(of) == rank(best) && since.unwrap() <= of_best.unwrap() + 100
                                }
                                _ => of == best,
                            }
                        });
                        prop_assert!(is_right, "{of:?}");
                        prop_assert_eq!(answer.is_some(), of.is_some());
                        if let Some(of) = of {
                            expected[of].1 = None;
                            places[of].busy();
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
