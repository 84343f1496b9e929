//! The station as a whole, in paused time.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use futures::future::{FutureExt, join_all};
use proptest::prelude::*;
use tokio::sync::watch;
use tokio::task::{JoinSet, yield_now};
use tokio::time::sleep;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Midnight UTC.
const WALL: SystemTime = SystemTime::UNIX_EPOCH;

#[derive(Debug, Clone)]
struct Slot(u32, Arc<AtomicUsize>, Arc<watch::Sender<bool>>);

impl Slot {
    /// Does the vendor still see a connection of it that was given up?
    fn set_closing(&self, is_closing: bool) {
        self.2.send_replace(is_closing);
    }
}

impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Shareable for Slot {
    fn capacity(&self) -> usize {
        self.1.load(Ordering::Relaxed)
    }

    fn retire(&self) {}

    fn is_ready(&self) -> bool {
        !*self.2.borrow()
    }

    async fn ready(&self) {
        let mut closing = self.2.subscribe();
        let _ = closing.wait_for(|is_closing| !is_closing).await;
    }
}

impl Default for Slot {
    fn default() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(number, Arc::default(), Arc::new(watch::Sender::new(false)))
    }
}

fn limits(connections: u32, per_second: Option<u32>, queue: usize) -> Limits {
    Limits {
        per_second,
        connections,
        per_day: None,
        day_begins_at: None,
        command_reserve: 0.1,
        queue,
        tenants: Vec::new(),
    }
}

/// One whose start is more than a second ago.
fn of(limits: &Limits) -> Quota<Slot> {
    let quota = started(limits);
    quota.0.lock().rate = Rate::new(limits.per_second);
    quota
}

fn started(limits: &Limits) -> Quota<Slot> {
    Quota::new(limits, WALL + DAY * 20_000, None)
}

fn quota(connections: u32, per_second: Option<u32>, queue: usize) -> Quota<Slot> {
    of(&limits(connections, per_second, queue))
}

fn of_day(per_day: u32, command_reserve: f64) -> Limits {
    Limits {
        per_day: Some(per_day),
        command_reserve,
        ..limits(100, None, 100)
    }
}

fn ask(progress: &Progress, class: Class, deadline: Instant) -> Ask<'_> {
    Ask {
        tenant: 0,
        class,
        is_listed: true,
        progress,
        deadline,
        usual: Duration::ZERO,
    }
}

async fn acquire_as(
    quota: &Quota<Slot>,
    class: Class,
    deadline: Instant,
) -> Result<Permit<Slot>, Error> {
    quota
        .acquire(ask(&Progress::default(), class, deadline))
        .await
}

async fn acquire(quota: &Quota<Slot>, deadline: Instant) -> Result<Permit<Slot>, Error> {
    acquire_as(quota, Class::Query, deadline).await
}

async fn at_once(quota: &Quota<Slot>) -> Result<Permit<Slot>, Error> {
    acquire(quota, Instant::now()).await
}

async fn acquire_for(quota: &Quota<Slot>, tenant: usize, deadline: Instant) -> Permit<Slot> {
    let progress = Progress::default();
    let ask = Ask {
        tenant,
        ..ask(&progress, Class::Query, deadline)
    };
    quota.acquire(ask).await.unwrap()
}

/// Makes a call that takes no time.
async fn call(quota: &Quota<Slot>, class: Class) -> Result<(), Error> {
    let mut permit = acquire_as(quota, class, Instant::now()).await?;
    permit.count(told());
    Ok(())
}

thread_local! {
    static BEGAN: Instant = Instant::now();
}

/// A wall clock that goes with the paused one; each test has a thread of its own.
fn wall(now: Instant) -> SystemTime {
    WALL + DAY * 20_000 + now.saturating_duration_since(BEGAN.with(|began| *began))
}

/// Linksfield's clock shows the same.
fn told() -> Told {
    agreed(wall(Instant::now()))
}

fn agreed(now: SystemTime) -> Told {
    Told {
        now,
        earliest: now,
        latest: now,
        is_confirmed: true,
        correction: 0,
    }
}

fn exhausted(result: Result<(), Error>) -> Duration {
    match result {
        Err(Error::QuotaExhausted { retry_after, .. }) => retry_after,
        other => panic!("{other:?}"),
    }
}

fn overloaded<P: std::fmt::Debug>(result: Result<P, Error>) -> Duration {
    match result {
        Err(Error::Overloaded { retry_after }) => retry_after,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_held_by_one_call_at_a_time() {
    let quota = quota(2, None, 10);
    let first = at_once(&quota).await.unwrap();
    let second = at_once(&quota).await.unwrap();
    assert_ne!(*first, *second);
    assert!(at_once(&quota).await.is_err());
    drop(first);
    assert!(at_once(&quota).await.is_ok());
}

/// A call of the property below.
#[derive(Debug, Clone)]
struct Trial {
    asked_at: u64,
    takes: u64,
    /// Where in the call the vendor counts it, in percent.
    counted_at: u64,
    is_throttled: bool,
}

fn trials() -> impl Strategy<Value = Vec<Trial>> {
    let trial = (0..20_000_u64, 0..1600_u64, 0..=2_u64, 0..40_u32).prop_map(
        |(asked_at, takes, counted_at, chance)| Trial {
            asked_at,
            takes,
            counted_at: counted_at * 50,
            is_throttled: chance == 0,
        },
    );
    prop::collection::vec(trial, 50..250)
}

/// When the vendor counted each call, in milliseconds, sorted. The limit of 10 is 4 from 7 s to 14
/// s.
async fn counted(trials: Vec<Trial>) -> Vec<u128> {
    let quota = quota(7, Some(10), 500);
    let began = Instant::now();
    let mut running = JoinSet::new();
    for trial in trials {
        let quota = quota.clone();
        running.spawn(async move {
            sleep(Duration::from_millis(trial.asked_at)).await;
            let permit = acquire(&quota, began + SECOND * 2000).await.unwrap();
            let start = began.elapsed().as_millis();
            sleep(Duration::from_millis(trial.takes)).await;
            let end = began.elapsed().as_millis();
            if trial.is_throttled {
                permit.throttled(Some(Duration::from_millis(trial.takes)));
            }
            start + (end - start) * u128::from(trial.counted_at) / 100
        });
    }
    for (at, per_second) in [(7, 4), (14, 10)] {
        let quota = quota.clone();
        running.spawn(async move {
            sleep(SECOND * at).await;
            quota.change(&limits(7, Some(per_second), 500));
            u128::MAX
        });
    }
    let mut counted = running.join_all().await;
    counted.sort_unstable();
    counted.truncate(counted.len() - 2);
    counted
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn in_no_second_are_there_more_calls_than_the_rate_however_the_vendor_counts(trials in trials()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let counted = runtime.block_on(counted(trials));
        for window in counted.windows(11) {
            prop_assert!(window[10] - window[0] >= 1000, "11 calls in {:?}", window);
        }
        // What was under way at the change may still count for 2.6 s.
        let under_the_lower = counted.iter().filter(|at| (9_600..14_000).contains(*at));
        let under_the_lower: Vec<_> = under_the_lower.collect();
        for window in under_the_lower.windows(5) {
            prop_assert!(window[4] - window[0] >= 1000, "5 calls in {:?}", window);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_quota_uses_all_of_its_rate() {
    let quota = quota(100, Some(10), 500);
    let start = Instant::now();
    for _ in 0..100 {
        drop(acquire(&quota, start + SECOND * 60).await.unwrap());
    }
    assert_eq!(start.elapsed().as_secs(), 9);
}

#[tokio::test(start_paused = true)]
async fn a_process_before_this_one_may_have_used_the_last_second() {
    let quota = started(&limits(100, Some(10), 500));
    let start = Instant::now();
    assert_eq!(quota.levels().second.unwrap().remaining, 0);
    assert_eq!(overloaded(at_once(&quota).await), SECOND);
    let first = join_all((0..10).map(|_| acquire(&quota, start + SECOND * 2))).await;
    assert!(first.iter().all(Result::is_ok));
    assert_eq!(start.elapsed(), SECOND);
    assert!(at_once(&quota).await.is_err());
    // Without a limit there is nothing to wait for.
    drop(at_once(&started(&limits(1, None, 0))).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn whoever_cannot_make_its_deadline_hears_so_at_once_and_when_to_come_again() {
    let quota = quota(1, Some(1), 10);
    drop(at_once(&quota).await.unwrap());
    let start = Instant::now();
    let retry_after = overloaded(acquire(&quota, start + SECOND / 4).await);
    assert_eq!(
        (start.elapsed(), retry_after),
        (Duration::ZERO, SECOND * 3 / 4)
    );
    // The same patience suffices then, and no turn was used.
    sleep(retry_after + Duration::from_millis(1)).await;
    drop(acquire(&quota, Instant::now() + SECOND / 4).await.unwrap());
    assert_eq!(start.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_the_call_itself_counts_for_its_deadline() {
    let quota = quota(1, Some(1), 10);
    let progress = Progress::default();
    let of_two_seconds = |patience| Ask {
        usual: SECOND * 2,
        ..ask(&progress, Class::Query, Instant::now() + patience)
    };
    // While there is room nobody is refused.
    drop(quota.acquire(of_two_seconds(SECOND)).await.unwrap());
    let start = Instant::now();
    let refused = quota.acquire(of_two_seconds(SECOND * 5 / 2)).await;
    assert_eq!(overloaded(refused), SECOND / 2);
    assert_eq!(
        overloaded(quota.acquire(of_two_seconds(SECOND)).await),
        SECOND
    );
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(quota.acquire(of_two_seconds(SECOND * 3)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_leaves_at_the_deadline() {
    let quota = quota(1, None, 10);
    let held = at_once(&quota).await.unwrap();
    let start = Instant::now();
    overloaded(acquire(&quota, start + SECOND / 2).await);
    assert_eq!((start.elapsed(), quota.queue_length()), (SECOND / 2, 0));
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded() {
    let quota = quota(1, None, 2);
    let held = at_once(&quota).await.unwrap();
    let later = Instant::now() + SECOND;
    let (first, second, third) =
        tokio::join!(acquire(&quota, later), acquire(&quota, later), async {
            let refused = acquire(&quota, later).await;
            assert!(Instant::now() < later, "refused at once");
            refused
        });
    assert!(first.is_err() && second.is_err() && third.is_err());
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn without_a_queue_a_permit_is_had_at_once_or_not_at_all() {
    let quota = quota(1, None, 0);
    let later = Instant::now() + SECOND;
    let held = acquire(&quota, later).await.unwrap();
    assert!(acquire(&quota, later).await.is_err());
    assert!(Instant::now() < later, "refused at once");
    drop(held);
    assert!(acquire(&quota, later).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn calls_are_served_by_deadline_then_in_the_order_they_came() {
    let quota = quota(1, None, 10);
    let held = at_once(&quota).await.unwrap();
    let order = Mutex::new(Vec::new());
    let now = Instant::now();
    let wait = async |name, patience| {
        let _permit = acquire(&quota, now + patience).await.unwrap();
        order.lock().push(name);
    };
    tokio::join!(
        wait("third", SECOND * 2),
        wait("fourth", SECOND * 2),
        wait("first", SECOND),
        wait("second", SECOND),
        wait("fifth", SECOND * 3),
        async { drop(held) }
    );
    let expected = ["first", "second", "third", "fourth", "fifth"];
    assert_eq!(*order.lock(), expected);
}

#[tokio::test(start_paused = true)]
async fn commands_go_first_and_what_nobody_waits_for_goes_last() {
    let quota = quota(1, None, 10);
    let held = at_once(&quota).await.unwrap();
    let (order, later) = (Mutex::new(Vec::new()), Instant::now() + SECOND);
    let wait = async |class, progress: Progress, name| {
        let _permit = quota.acquire(ask(&progress, class, later)).await.unwrap();
        order.lock().push(name);
    };
    let awaited = Progress::default();
    tokio::join!(
        wait(Class::Refresh, Progress::default(), "refresh"),
        wait(Class::Refresh, awaited.clone(), "refresh that is awaited"),
        wait(Class::Query, Progress::default(), "query"),
        wait(Class::Command, Progress::default(), "command"),
        async {
            let _waiter = awaited.await_it(Instant::now() + HOUR);
            drop(held);
            tokio::task::yield_now().await;
        }
    );
    let expected = ["command", "refresh that is awaited", "query", "refresh"];
    assert_eq!(*order.lock(), expected);
}

#[tokio::test(start_paused = true)]
async fn in_a_full_queue_what_nobody_waits_for_makes_room() {
    let quota = quota(1, None, 1);
    let held = at_once(&quota).await.unwrap();
    let later = Instant::now() + SECOND;
    let (refresh, query, second, ()) = tokio::join!(
        acquire_as(&quota, Class::Refresh, later),
        acquire_as(&quota, Class::Query, later),
        acquire_as(&quota, Class::Query, later),
        async { drop(held) }
    );
    assert!(refresh.is_err() && query.is_ok() && second.is_err());
}

#[tokio::test(start_paused = true)]
async fn one_crawl_runs_at_a_time_and_those_that_wait_for_it_hold_no_slot() {
    let quota = quota(3, None, 0);
    let later = Instant::now() + SECOND;
    let first = acquire_as(&quota, Class::Crawl, later).await.unwrap();
    let others = async {
        let both = (at_once(&quota).await, at_once(&quota).await);
        assert!(both.0.is_ok() && both.1.is_ok());
        drop(first);
    };
    let (second, ()) = tokio::join!(acquire_as(&quota, Class::Crawl, later), others);
    assert!(second.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_wait_to_expect_grows_with_the_queue() {
    let (quota, usual) = (quota(2, None, 10), SECOND * 4);
    assert_eq!(quota.expected_wait(0, usual), Duration::ZERO);
    let held = [at_once(&quota).await, at_once(&quota).await];
    assert_eq!(quota.expected_wait(0, usual), SECOND * 2);
    let later = Instant::now() + SECOND;
    let waiting = (0..4).map(|_| acquire(&quota, later));
    let look = async {
        yield_now().await;
        quota.expected_wait(0, usual)
    };
    let (_, expected) = tokio::join!(join_all(waiting), look);
    assert_eq!(expected, SECOND * 10);
    drop(held);
}

/// How many calls each tenant gets in a minute of 10 calls a second and 5 at a time. A tenant asks
/// so many times at once, and again as soon as it is served.
async fn served(shares: Vec<Share>, at_once: &[usize]) -> Vec<u32> {
    let quota = of(&Limits {
        tenants: shares,
        ..limits(5, Some(10), 500)
    });
    let begin = Instant::now() + SECOND * 5; // by then all of them wait
    let end = begin + SECOND * 60;
    let mut running = JoinSet::new();
    for (tenant, callers) in at_once.iter().enumerate() {
        for _ in 0..*callers {
            let quota = quota.clone();
            running.spawn(async move {
                let mut calls = 0;
                while Instant::now() < end {
                    let permit = acquire_for(&quota, tenant, end + SECOND * 3600).await;
                    calls += u32::from((begin..end).contains(&Instant::now()));
                    sleep(Duration::from_millis(200)).await;
                    drop(permit);
                }
                (tenant, calls)
            });
        }
    }
    let mut served = vec![0; at_once.len()];
    for (tenant, calls) in running.join_all().await {
        served[tenant] += calls;
    }
    served
}

fn weights(weights: &[u32]) -> Vec<Share> {
    let share = |weight: &u32| Share {
        weight: *weight,
        ..Share::default()
    };
    weights.iter().map(share).collect()
}

#[tokio::test(start_paused = true)]
async fn each_tenant_gets_its_weight_of_the_calls_however_many_callers_it_has() {
    // Ten callers of one, one hundred of another: 500 calls in the minute (one takes 1.2 s of its
    // turn).
    let served = served(weights(&[1, 2, 5]), &[100, 10, 10]).await;
    let all: u32 = served.iter().sum();
    assert!((490..=510).contains(&all), "{served:?}");
    for (calls, weight) in served.iter().zip([1, 2, 5]) {
        let share = f64::from(all) * f64::from(weight) / 8.0;
        assert!(
            f64::from(*calls) >= share - 2.0,
            "{served:?}, share {share}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_nobody_wants_is_used_by_others() {
    // The heavy tenant has one caller, who takes 0.2 s for a call: the light one has all that is
    // left.
    let served = served(weights(&[1, 1000]), &[100, 1]).await;
    let all: u32 = served.iter().sum();
    assert!((490..=510).contains(&all), "{served:?}");
    assert!(served[1] > 50, "{served:?}");
}

#[tokio::test(start_paused = true)]
async fn a_cap_holds_though_turns_are_free_and_they_are_for_others() {
    let mut shares = weights(&[1, 1]);
    shares[0].per_second = Some(2);
    let served = served(shares, &[100, 100]).await;
    assert!((95..=101).contains(&served[0]), "{served:?}"); // 2 in 1.2 s
    assert!(served[1] > 390, "{served:?}");
}

#[tokio::test(start_paused = true)]
async fn who_fills_the_queue_makes_room_for_a_tenant_with_less() {
    let quota = quota(1, None, 4);
    let held = at_once(&quota).await.unwrap();
    let (later, progress) = (Instant::now() + SECOND, Progress::default());
    let ask_for = |tenant, class| Ask {
        tenant,
        ..ask(&progress, class, later)
    };
    let acquire = async |tenant, class| {
        let granted = quota.acquire(ask_for(tenant, class)).await;
        granted.is_ok()
    };
    let (first, more, other, refresh, own, ()) = tokio::join!(
        acquire(0, Class::Query),
        join_all((0..3).map(|_| acquire(0, Class::Query))),
        acquire(1, Class::Query),
        acquire(1, Class::Refresh),
        acquire(0, Class::Query),
        async { drop(held) }
    );
    assert!(first && other);
    assert_eq!(more, [true, true, false], "the last one gives way");
    assert!(!refresh, "nobody gives way to a lower class");
    assert!(!own, "nor to another one of the same tenant");
}

#[tokio::test(start_paused = true)]
async fn the_reserve_of_the_day_is_for_commands_on_configured_paths() {
    let quota = of(&of_day(10, 0.25)); // 3 calls
    for _ in 0..7 {
        call(&quota, Class::Query).await.unwrap();
    }
    assert_eq!(quota.left_for_queries(), Some(0));
    sleep(HOUR).await;
    for class in [Class::Query, Class::Crawl, Class::Refresh] {
        assert_eq!(exhausted(call(&quota, class).await), HOUR * 23);
    }
    let progress = Progress::default();
    let unlisted = Ask {
        is_listed: false,
        ..ask(&progress, Class::Command, Instant::now())
    };
    let refused = quota.acquire(unlisted).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "Linksfield takes 10 calls a day from here, and 3 of them are kept for configured commands: 7 are made"
    );
    for _ in 0..3 {
        call(&quota, Class::Command).await.unwrap();
    }
    exhausted(call(&quota, Class::Command).await);
    // The first seven are a day old; of the queries' part four are free.
    sleep(HOUR * 23).await;
    for _ in 0..4 {
        call(&quota, Class::Query).await.unwrap();
    }
    assert_eq!(exhausted(call(&quota, Class::Query).await), HOUR);
}

#[tokio::test(start_paused = true)]
async fn a_permit_is_spent_until_it_comes_back_unused_and_who_waits_hears_when_the_day_ends() {
    let quota = of(&Limits {
        connections: 1,
        ..of_day(2, 0.0)
    });
    let mut held = at_once(&quota).await.unwrap();
    assert_eq!(quota.left_for_queries(), Some(1));
    drop(at_once(&quota).await.unwrap_err());
    held.count(told());
    held.count(told()); // once
    let later = Instant::now() + SECOND;
    let lower = async {
        quota.change(&Limits {
            connections: 1,
            ..of_day(1, 0.0)
        });
    };
    let (waiting, ()) = tokio::join!(acquire(&quota, later), lower);
    assert!(matches!(waiting, Err(Error::QuotaExhausted { .. })));
    assert!(Instant::now() < later);
    drop(held);
    quota.change(&of_day(2, 0.0));
    drop(at_once(&quota).await.unwrap()); // never counted
    assert_eq!(quota.left_for_queries(), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_fixed_day_begins_anew_when_the_vendor_says() {
    let fixed = Limits {
        day_begins_at: Some(16 * 3600),
        ..of_day(2, 0.0)
    };
    let quota = of(&fixed);
    assert!(quota.levels().day.unwrap().is_assumed);
    call(&quota, Class::Query).await.unwrap();
    sleep(SECOND * (16 * 3600 - 10)).await;
    let mut across = at_once(&quota).await.unwrap();
    across.count(told());
    assert_eq!(exhausted(call(&quota, Class::Query).await), SECOND * 10);
    sleep(SECOND * 20).await;
    // One may count in the new day: it ended there.
    drop(across);
    let day = quota.levels().day.unwrap();
    assert_eq!((day.remaining, day.is_assumed), (1, false));
    assert_eq!(day.more_in, HOUR * 23 + SECOND * 3590);
    // The wall clock is put right: the day ends sooner, and where its calls count is the same.
    let mut late = at_once(&quota).await.unwrap();
    late.count(agreed(wall(Instant::now()) + HOUR * 8));
    drop(late);
    let day = quota.levels().day.unwrap();
    assert_eq!(day.remaining, 0);
    assert_eq!(day.more_in, HOUR * 15 + SECOND * 3590);
}

#[tokio::test(start_paused = true)]
async fn the_days_history_outlives_a_restart() {
    let limits = of_day(10, 0.0);
    let first = of(&limits);
    assert!(first.levels().day.unwrap().is_assumed);
    for _ in 0..3 {
        call(&first, Class::Query).await.unwrap();
        sleep(SECOND * 90).await;
    }
    let history = first.history();
    assert_eq!(history.minutes.values().sum::<u32>(), 3);
    assert_eq!(history.minutes.len(), 3);
    drop(first);
    sleep(HOUR).await;

    let second: Quota<Slot> = Quota::new(&limits, wall(Instant::now()), Some(&history));
    let day = second.levels().day.unwrap();
    assert_eq!((day.remaining, day.is_assumed), (7, true));
    call(&second, Class::Query).await.unwrap();
    let merged = second.history();
    assert_eq!(merged.minutes.values().sum::<u32>(), 4);
    let third: Quota<Slot> = Quota::new(&limits, wall(Instant::now()), Some(&merged));
    assert_eq!(third.history(), merged);
    // Each counts for a day, and at most a minute more.
    third.learn(told());
    sleep(HOUR * 22 + SECOND * (3600 - 270)).await;
    assert_eq!(third.levels().day.unwrap().remaining, 6);
    sleep(SECOND * (270 + 60)).await;
    let day = third.levels().day.unwrap();
    assert_eq!((day.remaining, day.is_assumed), (9, false));
    sleep(DAY).await;
    assert_eq!(third.levels().day.unwrap().remaining, 10);
    assert!(third.history().minutes.is_empty());
}

/// What a store had: three calls of an hour ago, by the right clock.
fn of_an_hour_ago() -> History {
    let minute = (wall(Instant::now()) - HOUR).duration_since(SystemTime::UNIX_EPOCH);
    let minute = crate::state::Time {
        number: minute.unwrap().as_secs() / 60,
        is_confirmed: true,
    };
    History {
        known_since: 0,
        minutes: [(minute, 3)].into(),
        correction: 0,
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_wrong_forgets_no_calls_of_before_the_start() {
    let fixed = Limits {
        day_begins_at: Some(12 * 3600), // half a day ago
        ..of_day(10, 0.0)
    };
    for limits in [of_day(10, 0.0), fixed] {
        for (is_ahead, by) in [
            (true, DAY * 30),
            (false, DAY * 30),
            (true, HOUR * 25),
            (true, Duration::ZERO),
        ] {
            let (right, history) = (wall(Instant::now()), of_an_hour_ago());
            let wrong = if is_ahead { right + by } else { right - by };
            let quota: Quota<Slot> = Quota::new(&limits, wrong, Some(&history));
            let day = quota.levels().day.unwrap();
            assert_eq!(day.remaining, 7, "{wrong:?}");
            assert_eq!(day.is_assumed, wrong != right, "{wrong:?}");
            assert_eq!(quota.history(), history, "as they were");
            // Linksfield tells the right time: the earlier one of the two counts.
            quota.learn(Told {
                now: right,
                earliest: right.min(wrong),
                latest: right.max(wrong),
                is_confirmed: true,
                correction: 0,
            });
            assert_eq!(quota.levels().day.unwrap().remaining, 7, "{wrong:?}");
            assert_eq!(quota.history().minutes, history.minutes);
            let mut permit = acquire(&quota, Instant::now() + HOUR).await.unwrap();
            permit.count(Told {
                now: wall(Instant::now()),
                earliest: right.min(wrong),
                latest: right.max(wrong),
                is_confirmed: true,
                correction: 0,
            });
            drop(permit);
            let saved = quota.history();
            let third: Quota<Slot> = Quota::new(&limits, wall(Instant::now()), Some(&saved));
            assert_eq!(third.levels().day.unwrap().remaining, 6, "{wrong:?}");
            sleep(DAY).await;
            assert_eq!(quota.levels().day.unwrap().remaining, 10, "a further day");
            assert!(quota.history().minutes.is_empty());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_fixed_day_that_is_spent_begins_anew_by_no_clock_alone() {
    let limits = Limits {
        day_begins_at: Some(0), // 21 hours ago
        ..of_day(3, 0.0)
    };
    for is_confirmed in [true, false] {
        // By each, the beginning of a day lies between the calls and what is told after them.
        for (is_ahead, by) in [
            (true, HOUR * 2 + SECOND * 3570),
            (true, DAY * 30 + HOUR * 2 + SECOND * 3570),
            (false, HOUR * 21 + SECOND * 30),
            (false, DAY * 30 + HOUR * 21 + SECOND * 30),
        ] {
            let start = WALL + DAY * 20_000 + HOUR * 21;
            let quota: Quota<Slot> = Quota::new(&limits, start, None);
            quota.0.lock().rate = Rate::new(None);
            let tell = |right: SystemTime| {
                let wrong = if is_ahead { right + by } else { right - by };
                quota.learn(Told {
                    now: wrong,
                    earliest: right.min(wrong),
                    latest: right.max(wrong),
                    is_confirmed,
                    correction: 0,
                });
            };
            let began = Instant::now();
            let right = || {
                let passed = Instant::now().saturating_duration_since(began);
                start + passed
            };
            for _ in 0..3 {
                let mut permit = at_once(&quota).await.unwrap();
                permit.count(agreed(right()));
            }
            sleep(SECOND * 64).await;
            tell(right());
            let day = quota.levels().day.unwrap();
            assert_eq!(day.remaining, 0, "{is_ahead} {by:?} {is_confirmed}");
            // Once both have passed its beginning it has begun, however far they are apart.
            sleep(DAY).await;
            tell(right());
            assert_eq!(quota.levels().day.unwrap().remaining, 3);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn where_only_the_clock_says_that_a_spent_day_is_over_one_call_at_a_time_asks() {
    let history = of_an_hour_ago();
    let later = wall(Instant::now()) + DAY * 2;
    let quota: Quota<Slot> = Quota::new(&of_day(3, 0.0), later, Some(&history));
    quota.0.lock().rate = Rate::new(None);
    let day = quota.levels().day.unwrap();
    assert_eq!((day.remaining, day.is_assumed), (0, true));
    let asking = at_once(&quota).await.unwrap();
    assert_eq!(exhausted(call(&quota, Class::Query).await), SECOND);
    drop(asking); // no answer: the next one asks
    call(&quota, Class::Command).await.unwrap();
    quota.learn(agreed(later));
    let day = quota.levels().day.unwrap();
    assert_eq!((day.remaining, day.is_assumed), (2, false));
    drop(at_once(&quota).await.unwrap());

    // Linksfield's clock says that they are not over.
    let quota: Quota<Slot> = Quota::new(&of_day(3, 0.0), later, Some(&history));
    quota.0.lock().rate = Rate::new(None);
    drop(at_once(&quota).await.unwrap());
    quota.learn(told());
    assert_eq!(quota.levels().day.unwrap().remaining, 0);
    let wait = exhausted(call(&quota, Class::Query).await);
    assert!(
        wait > HOUR * 22 && wait <= HOUR * 23 + SECOND * 60,
        "{wait:?}"
    );

    // By our clock they are not, so nothing is to be asked.
    let quota: Quota<Slot> = Quota::new(&of_day(3, 0.0), wall(Instant::now()), Some(&history));
    quota.0.lock().rate = Rate::new(None);
    assert!(exhausted(call(&quota, Class::Query).await) > HOUR * 22);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_always_wrong_asks_for_the_time_no_call_of_a_spent_day() {
    let right = wall(Instant::now());
    let mut history = of_an_hour_ago();
    history.correction = -7 * 24 * 3600; // a week ahead
    let quota: Quota<Slot> = Quota::new(&of_day(3, 0.0), right + DAY * 7, Some(&history));
    quota.0.lock().rate = Rate::new(None);
    assert!(exhausted(call(&quota, Class::Query).await) > HOUR * 22);
    assert_eq!(quota.history(), history);
}

#[tokio::test(start_paused = true)]
async fn a_day_passes_while_the_machine_sleeps() {
    let quota = of(&of_day(2, 0.0));
    call(&quota, Class::Query).await.unwrap();
    crate::clock::tests::sleep_for(HOUR * 23);
    call(&quota, Class::Query).await.unwrap();
    assert_eq!(exhausted(call(&quota, Class::Query).await), HOUR);
    crate::clock::tests::sleep_for(HOUR);
    assert_eq!(quota.levels().day.unwrap().remaining, 1);
}

#[tokio::test(start_paused = true)]
async fn thrift_grows_as_the_budget_shrinks_and_refreshes_are_the_first_to_go() {
    let quota = of(&of_day(110, 0.09)); // 100 for queries
    let mut course = vec![(0, quota.levels().thrift)];
    for calls in 1..=100 {
        call(&quota, Class::Query).await.unwrap();
        if course.last().unwrap().1 != quota.levels().thrift {
            course.push((calls, quota.levels().thrift));
        }
        let refresh = call_unused(&quota, Class::Refresh).await;
        assert_eq!(
            refresh.is_ok(),
            quota.levels().thrift == Thrift::Normal,
            "{calls}"
        );
    }
    let expected = [
        (0, Thrift::Normal),
        (71, Thrift::NoRefresh),
        (81, Thrift::LongerStale),
        (91, Thrift::NoForced),
        (100, Thrift::Exhausted),
    ];
    assert_eq!(course, expected);
    let awaited = Progress::default();
    let _waiter = awaited.await_it(Instant::now() + HOUR);
    let refused = quota.acquire(ask(&awaited, Class::Refresh, Instant::now()));
    assert!(
        refused.await.is_err(),
        "a query, and these have had their part"
    );
}

async fn call_unused(quota: &Quota<Slot>, class: Class) -> Result<(), Error> {
    acquire_as(quota, class, Instant::now()).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn the_same_rest_is_plenty_at_the_end_of_a_fixed_day() {
    let quota = of(&Limits {
        day_begins_at: Some(0),
        ..of_day(100, 0.0)
    });
    for _ in 0..85 {
        call(&quota, Class::Query).await.unwrap();
    }
    assert_eq!(quota.levels().thrift, Thrift::LongerStale);
    sleep(SECOND * 15 * 3600).await; // 15 % of the calls for 37.5 % of the day
    assert_eq!(quota.levels().thrift, Thrift::Normal);
    sleep(SECOND * 9 * 3600).await;
    assert_eq!(quota.left_for_queries(), Some(100));
}

#[tokio::test(start_paused = true)]
async fn throttling_lowers_the_rate_and_quiet_raises_it_for_those_who_wait() {
    let quota = quota(20, Some(10), 500);
    let start = Instant::now();
    let first = at_once(&quota).await.unwrap();
    assert_eq!(
        first.throttled(None),
        Throttled::Foreign,
        "9 turns were free"
    );
    assert_eq!(quota.levels().allowed_rate, Some(5.0));
    drop(first);
    let mut calls = 0;
    while start.elapsed() < SECOND * 10 {
        drop(acquire(&quota, start + SECOND * 60).await.unwrap());
        calls += 1;
    }
    assert_eq!(calls, 51 - 1); // 5 a second; the first one counts too
    assert_eq!(quota.levels().allowed_rate, Some(6.0));
    sleep(SECOND * 40).await;
    assert_eq!(quota.levels().allowed_rate, Some(10.0));
    assert_eq!(
        quota.levels().second,
        Some(Level {
            limit: 10,
            remaining: 10
        })
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_is_served_when_the_rate_rises_though_no_call_ends() {
    let quota = quota(20, Some(10), 500);
    let held = at_once(&quota).await.unwrap();
    let start = Instant::now();
    for _ in 0..4 {
        held.throttled(None);
        sleep(SECOND).await;
    }
    // 0.625 calls a second after 3 s, and one more every 10 s.
    let second = acquire(&quota, start + SECOND * 60).await.unwrap();
    assert_eq!(start.elapsed(), SECOND * 23);
    drop((held, second));
}

#[tokio::test(start_paused = true)]
async fn a_throttled_call_at_the_limit_is_ours() {
    let quota = quota(20, Some(2), 500);
    let (first, second) = (
        at_once(&quota).await.unwrap(),
        at_once(&quota).await.unwrap(),
    );
    assert_eq!(second.throttled(None), Throttled::Ours);
    assert_eq!(first.throttled(None), Throttled::Ours);
    assert_eq!(quota.levels().allowed_rate, Some(1.0), "once a second");
}

#[tokio::test(start_paused = true)]
async fn retry_after_stops_all_calls_and_sends_away_who_cannot_wait_so_long() {
    let quota = quota(1, None, 10);
    let start = Instant::now();
    let held = at_once(&quota).await.unwrap();
    let (hasty, patient, ()) = tokio::join!(
        async {
            let refused = acquire(&quota, start + SECOND * 2).await;
            (overloaded(refused), start.elapsed())
        },
        async {
            let permit = acquire(&quota, start + SECOND * 4).await;
            permit.map(|_| start.elapsed())
        },
        async {
            held.throttled(Some(SECOND * 3));
            drop(held);
        }
    );
    assert_eq!(hasty, (SECOND * 3, Duration::ZERO));
    assert_eq!(patient.unwrap(), SECOND * 3);
}

#[tokio::test(start_paused = true)]
async fn fewer_connections_are_fewer_slots_and_more_are_new_ones() {
    let quota = quota(3, None, 10);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(at_once(&quota).await.unwrap());
    }
    quota.change(&limits(1, None, 10));
    held.pop();
    held.pop();
    assert!(at_once(&quota).await.is_err(), "one is the limit");
    let (waiting, ()) = tokio::join!(acquire(&quota, Instant::now() + SECOND), async {
        quota.change(&limits(2, None, 10));
    });
    assert!(waiting.is_ok(), "who waited has the new slot");
    assert_ne!(**waiting.as_ref().unwrap(), *held[0]);
    assert!(at_once(&quota).await.is_err());
    drop((waiting, held));
    let connections = quota.levels().connections;
    assert_eq!((connections.limit, connections.remaining), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_change_keeps_the_queue_and_the_counts() {
    let quota = of(&Limits {
        per_second: Some(1),
        ..of_day(10, 0.0)
    });
    call(&quota, Class::Query).await.unwrap();
    let start = Instant::now();
    let raise = async {
        quota.change(&Limits {
            per_second: Some(3),
            ..of_day(20, 0.0)
        });
    };
    let later = start + SECOND * 10;
    let (first, second, third, ()) = tokio::join!(
        acquire(&quota, later),
        acquire(&quota, later),
        async {
            drop(acquire(&quota, later).await.unwrap());
            start.elapsed()
        },
        raise
    );
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(third, SECOND, "the first call still counts in its second");
    drop((first, second));
    assert_eq!(quota.levels().day.unwrap().remaining, 19);
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_grows_is_shared_before_another_is_used_and_one_that_shrinks_takes_no_more() {
    let quota = quota(2, None, 10);
    let first = at_once(&quota).await.unwrap();
    let second = at_once(&quota).await.unwrap();
    assert_ne!(*first, *second);
    let waiting = tokio::spawn({
        let quota = quota.clone();
        async move { acquire(&quota, Instant::now() + HOUR).await }
    });
    yield_now().await;
    first.1.store(3, Ordering::Relaxed);
    first.slot_has_grown();
    let waiting = waiting.await.unwrap().unwrap();
    assert_eq!(*waiting, *first);
    drop(second);
    let third = at_once(&quota).await.unwrap();
    assert_eq!(*third, *first, "rather than the free one");
    first.1.store(0, Ordering::Relaxed); // it is being closed
    let fourth = at_once(&quota).await.unwrap();
    assert_ne!(*fourth, *first);
    assert!(at_once(&quota).await.is_err());
    drop((first, third));
    assert!(at_once(&quota).await.is_err(), "a call goes through it yet");
    drop(waiting);
    assert!(at_once(&quota).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_call_goes_over_to_another_slot_if_one_has_room() {
    let quota = quota(2, None, 10);
    let mut first = at_once(&quota).await.unwrap();
    let second = at_once(&quota).await.unwrap();
    assert!(first.change_slot().now_or_never().is_none());
    second.1.store(2, Ordering::Relaxed);
    second.slot_has_grown();
    first.change_slot().now_or_never().unwrap();
    assert_eq!(*first, *second);
    let third = at_once(&quota).await.unwrap();
    assert_ne!(*third, *first);
}

#[tokio::test(start_paused = true)]
async fn a_lowered_limit_of_connections_holds_for_slots_that_take_many_calls() {
    let quota = quota(2, None, 10);
    let first = at_once(&quota).await.unwrap();
    let second = at_once(&quota).await.unwrap();
    for permit in [&first, &second] {
        permit.1.store(100, Ordering::Relaxed);
        permit.slot_has_grown();
    }
    quota.change(&limits(1, None, 10));
    for _ in 0..5 {
        let next = at_once(&quota).await.unwrap();
        assert_eq!(*next, *first);
        std::mem::forget(next);
    }
    drop(second);
    assert_eq!(quota.levels().connections.remaining, 0);
}

#[tokio::test(start_paused = true)]
async fn who_wants_another_slot_goes_before_those_who_wait_and_keeps_none_if_it_leaves() {
    let quota = quota(2, None, 10);
    let mut first = at_once(&quota).await.unwrap();
    let second = at_once(&quota).await.unwrap();
    let place = second.clone();
    let mut waiting = std::pin::pin!(acquire(&quota, Instant::now() + HOUR));
    assert!(waiting.as_mut().now_or_never().is_none());
    {
        let mut moving = std::pin::pin!(first.change_slot());
        assert!(moving.as_mut().now_or_never().is_none());
        drop(second); // it is told, and leaves before it has heard
    }
    let second = waiting.await.unwrap();
    assert_eq!(*second, place);
    let mut waiting = std::pin::pin!(acquire(&quota, Instant::now() + HOUR));
    assert!(waiting.as_mut().now_or_never().is_none());
    let mut moving = Box::pin(first.change_slot());
    assert!(moving.as_mut().now_or_never().is_none());
    drop(second);
    assert!(waiting.as_mut().now_or_never().is_none());
    moving.now_or_never().unwrap();
    assert_ne!(*waiting.await.unwrap(), place, "the slot that was left");
    assert_eq!(*first, place);
}

#[tokio::test(start_paused = true)]
async fn slots_that_were_too_many_are_the_first_to_come_back() {
    let quota = quota(3, None, 10);
    let busy = at_once(&quota).await.unwrap();
    let known = |quota: &Quota<Slot>| {
        let state = quota.0.lock();
        let slots = state.slots.free.iter().chain(&state.slots.retired);
        slots.map(|slot| slot.0).collect::<HashSet<_>>()
    };
    let idle = known(&quota);
    quota.change(&limits(1, None, 10));
    assert_eq!(known(&quota), idle);
    quota.change(&limits(3, None, 10));
    assert_eq!(known(&quota), idle);
    quota.change(&limits(0, None, 10));
    let number = busy.0;
    drop(busy);
    quota.change(&limits(3, None, 10));
    assert!(known(&quota).contains(&number));
    assert_eq!(quota.levels().connections.remaining, 3);
}

fn is_refused_at_once(result: &Result<Permit<Slot>, Error>) -> bool {
    matches!(result, Err(Error::BreakerOpen { .. }))
}

#[tokio::test(start_paused = true)]
async fn a_slot_whose_connection_the_vendor_has_not_closed_is_given_to_nobody() {
    let quota = quota(2, None, 10);
    let given_up = at_once(&quota).await.unwrap();
    let slot = Slot::clone(&given_up);
    slot.set_closing(true);
    drop(given_up);
    let other = at_once(&quota).await.unwrap();
    assert_ne!(*other, slot);
    let deadline = Instant::now() + HOUR;
    let mut waiting = Box::pin(acquire(&quota, deadline));
    assert!(
        (&mut waiting).now_or_never().is_none(),
        "there is no third slot"
    );
    assert_eq!(quota.slots_held(), 0, "it may be closed in a moment");
    sleep(SECOND * 3).await;
    assert_eq!(quota.slots_held(), 1);
    slot.set_closing(false);
    assert_eq!(**waiting.await.as_ref().unwrap(), slot);
    assert_eq!(quota.slots_held(), 0);
}

#[tokio::test(start_paused = true)]
async fn while_every_slot_is_held_who_waits_and_who_comes_is_refused() {
    let quota = quota(2, None, 10);
    let mut one = at_once(&quota).await.unwrap();
    let mut two = at_once(&quota).await.unwrap();
    let mut waiting = Box::pin(acquire(&quota, Instant::now() + HOUR));
    assert!((&mut waiting).now_or_never().is_none());
    assert!(!one.hold() && !one.hold(), "once is enough");
    assert_eq!(quota.slots_held(), 1);
    assert!(two.hold());
    assert!(is_refused_at_once(&waiting.await));
    assert!(is_refused_at_once(
        &acquire(&quota, Instant::now() + HOUR).await
    ));
    drop(one);
    assert_eq!(quota.slots_held(), 1);
    at_once(&quota).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_crawl_whose_call_is_held_keeps_no_other_from_crawling() {
    let quota = quota(2, None, 10);
    let deadline = Instant::now() + HOUR;
    let mut held = acquire_as(&quota, Class::Crawl, deadline).await.unwrap();
    held.hold();
    let other = acquire_as(&quota, Class::Crawl, deadline).await.unwrap();
    drop(held);
    let third = acquire_as(&quota, Class::Crawl, deadline).now_or_never();
    assert!(third.is_none(), "the other one still crawls");
    drop(other);
}

proptest! {
    /// However slots are held, closed late and made fewer or more: there are never more calls and
    /// connections than slots were allowed, and in the end all of them are free.
    #[test]
    fn no_slot_is_lost_or_used_twice_while_some_are_held(
        steps in proptest::collection::vec((0_u8..7, 0_usize..4), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut connections = 3;
            let quota = quota(connections, None, 10);
            let (mut permits, mut closing): (Vec<Permit<Slot>>, Vec<Slot>) = (Vec::new(), Vec::new());
            for (step, which) in steps {
                match step {
                    0 | 1 => permits.extend(at_once(&quota).await),
                    2 if which < permits.len() => { permits[which].hold(); }
                    3 if which < permits.len() => drop(permits.remove(which)),
                    4 if which < permits.len() => {
                        let permit = permits.remove(which);
                        permit.set_closing(true);
                        closing.push(Slot::clone(&permit));
                    }
                    5 if which < closing.len() => closing.remove(which).set_closing(false),
                    6 => {
                        connections = u32::try_from(which).unwrap() + 1;
                        quota.change(&limits(connections, None, 10));
                    }
                    _ => sleep(SECOND * 3).await,
                }
                let seen = permits.len() + closing.len();
                let used: HashSet<u32> = permits.iter().map(|permit| permit.0).chain(closing.iter().map(|slot| slot.0)).collect();
                assert_eq!(used.len(), seen, "no slot is used twice");
                assert!(seen <= 4, "{seen}");
            }
            for slot in closing.drain(..) {
                slot.set_closing(false);
            }
            permits.clear();
            sleep(SECOND * 3).await;
            assert_eq!(quota.slots_held(), 0);
            let all: Vec<_> = (0..connections).map(|_| at_once(&quota).now_or_never()).collect();
            assert!(all.iter().all(|one| matches!(one, Some(Ok(_)))), "all are free");
        });
    }
}
