use std::collections::VecDeque;
use std::time::Duration;

use super::*;
use crate::gateway::vendor::breaker::Reason;

const SECOND: Duration = Duration::from_secs(1);
const ASKED: Asked<'_> = Asked {
    params: "1",
    caller: None,
};
const SETTINGS: Settings = Settings {
    answers: 20,
    window: Duration::from_secs(300),
    open_for: Duration::from_secs(5),
};
/// Two tenants have two queries and a command each.
const QUERY: RouteLabel = RouteLabel(0);
const OTHER_QUERY: RouteLabel = RouteLabel(1);
const COMMAND: RouteLabel = RouteLabel(2);
const TENANT: TenantLabel = TenantLabel(0);
const OTHER_TENANT: TenantLabel = TenantLabel(1);

const fn of(route: RouteLabel, tenant: TenantLabel) -> At {
    At { route, tenant }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn usual() -> Usual {
    usual_of(&KnownScopes::default())
}

fn usual_of(known: &KnownScopes) -> Usual {
    let routes = [("/q", true), ("/r", true), ("/c", false)];
    let routes = routes.map(|(name, is_query)| (name.to_owned(), is_query));
    Usual::new(SETTINGS, &routes, &names(&["P1", "P2"]), known)
}

fn code(code: &'static str) -> Said {
    Said::Unclassified(Meaning::Code(code.into()))
}

/// A question, where nobody is told from others.
fn question(params: &str) -> Asked<'_> {
    let caller = None;
    Asked { params, caller }
}

/// A question that nobody else has.
fn by(caller: Option<&str>) -> Asked<'_> {
    let params = "of no other";
    Asked { params, caller }
}

fn end(usual: &Usual, at: At, said: &Said, question: usize, caller: Option<&str>) -> Verdict {
    let params = &question.to_string();
    let asked = Asked { params, caller };
    let admission = usual.admit(at, asked).expect("it is closed");
    admission.end(said, asked, Instant::now())
}

/// Each to a question of its own.
fn answers(usual: &Usual, at: At, said: &Said, number: usize) -> Vec<Verdict> {
    let each = (0..number).map(|question| end(usual, at, said, question, None));
    each.collect()
}

fn is_open(usual: &Usual, at: At) -> bool {
    usual.check(at, by(None)).is_err()
}

#[tokio::test(start_paused = true)]
async fn the_twentieth_alike_begins_an_episode_where_there_was_a_success_before() {
    for (first, begins) in [(Said::Success, true), (Said::Refusal, false)] {
        let usual = usual();
        answers(&usual, of(QUERY, TENANT), &first, 1);
        tokio::time::advance(SECOND * 301).await;
        let verdicts = answers(&usual, of(QUERY, TENANT), &code("4711"), 19);
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::NOTHING));
        assert!(!is_open(&usual, of(QUERY, TENANT)));
        let last = end(&usual, of(QUERY, TENANT), &code("4711"), 19, None);
        assert_eq!(last.is_failure, begins);
        assert_eq!(is_open(&usual, of(QUERY, TENANT)), begins);
        for other in [
            of(OTHER_QUERY, TENANT),
            of(COMMAND, TENANT),
            of(QUERY, OTHER_TENANT),
        ] {
            assert!(!is_open(&usual, other), "{other:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_usual_begins_none() {
    let run = |rows: Vec<(Said, usize, &'static str)>| {
        let usual = usual();
        end(&usual, of(QUERY, TENANT), &Said::Success, 0, Some("a"));
        let each = rows.into_iter();
        each.map(|(said, question, caller)| {
            end(&usual, of(QUERY, TENANT), &said, question, Some(caller))
        })
        .filter(|verdict| verdict.is_failure)
        .count()
    };
    let alike = |number| move |_| (code("4711"), number, "a");
    let of =
        |caller: fn(usize) -> &'static str| move |number| (code("4711"), number, caller(number));
    assert_eq!(run((0..40).map(alike(7)).collect()), 0, "one question");
    let few = |number: usize| (code("4711"), number % 4, "a");
    assert_eq!(run((0..40).map(few).collect()), 0, "four questions");
    let mixed = |number: usize| match number % 6 {
        0 => (Said::Success, number, "a"),
        _ => (code("4711"), number, "a"),
    };
    assert_eq!(run((0..60).map(mixed).collect()), 0, "five of six");
    let other = |number: usize| (code(["1", "2"][number % 2]), number, "a");
    assert_eq!(run((0..60).map(other).collect()), 0, "two meanings");
    let nothing = |number| (Said::Nothing, number, "a");
    assert_eq!(run((0..60).map(nothing).collect()), 0, "throttled");
    let refused = |number| (Said::Refusal, number, "a");
    assert_eq!(run((0..60).map(refused).collect()), 0, "classified");
    let alone = [(Said::Success, 0, "b")].into_iter();
    let alone = alone.chain((0..40).map(of(|_| "a")));
    assert_eq!(run(alone.collect()), 0, "one of two callers");
    let both = |number: usize| ["a", "b"][number % 2];
    assert_eq!(run((0..19).map(of(both)).collect()), 1);
    assert_eq!(run((0..19).map(of(|_| "a")).collect()), 1, "the only one");
}

#[tokio::test(start_paused = true)]
async fn an_episode_of_one_caller_holds_for_another_only_if_its_answer_shows_the_same() {
    let open = Open {
        reason: Reason::UsualAnswer,
        retry_after: SECOND * 5,
    };
    for (said, is_failure, for_a, for_b) in [
        (code("4711"), true, Err(open), Err(open)),
        (Said::Failure, false, Err(open), Ok(())),
        (Said::Nothing, false, Err(open), Ok(())),
        (Said::Success, false, Ok(()), Ok(())),
        (Said::Refusal, false, Ok(()), Ok(())),
        (code("4712"), false, Ok(()), Ok(())),
    ] {
        let usual = usual();
        let at = of(QUERY, TENANT);
        end(&usual, at, &Said::Success, 0, Some("a"));
        let before = usual.admit(at, by(Some("b"))).unwrap();
        for question in 0..19 {
            end(&usual, at, &code("4711"), question, Some("a"));
        }
        assert_eq!(usual.check(at, by(Some("a"))), Err(open));
        assert_eq!(usual.check(at, by(Some("b"))), Ok(()));
        let asked = Asked {
            params: "1",
            caller: Some("b"),
        };
        before.end(&Said::Success, asked, Instant::now());
        assert_eq!(usual.check(at, by(Some("a"))), Err(open), "it began before");
        drop(usual.admit(at, by(Some("b"))).unwrap());
        let verdict = end(&usual, at, &said, 1, Some("b"));
        assert_eq!(verdict.is_failure, is_failure, "{said:?}");
        assert_eq!(usual.check(at, by(Some("a"))), for_a, "{said:?}");
        assert_eq!(usual.check(at, by(Some("b"))), for_b, "{said:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_of_an_untouched_caller_is_not_the_trial() {
    let usual = usual();
    let at = of(QUERY, TENANT);
    end(&usual, at, &Said::Success, 0, Some("a"));
    for question in 0..19 {
        end(&usual, at, &code("4711"), question, Some("a"));
    }
    tokio::time::advance(SECOND * 5).await;
    let others = [(); 2].map(|()| usual.admit(at, by(Some("b"))).unwrap());
    let trial = usual.admit(at, by(Some("a"))).unwrap();
    drop(others);
    assert!(usual.admit(at, by(Some("a"))).is_err(), "one at a time");
    drop(trial);
    assert!(usual.admit(at, by(Some("a"))).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_command_follows_only_an_episode_that_holds_for_its_caller() {
    let usual = usual();
    end(&usual, of(QUERY, TENANT), &Said::Success, 0, Some("a"));
    for question in 0..19 {
        end(
            &usual,
            of(QUERY, TENANT),
            &code("4711"),
            question,
            Some("a"),
        );
    }
    let command = |caller| end(&usual, of(COMMAND, TENANT), &code("4711"), 1, Some(caller));
    assert!(!command("b").is_failure);
    assert!(command("a").is_failure);
    assert!(usual.check(of(COMMAND, TENANT), by(Some("a"))).is_err());
    assert!(!command("b").is_failure, "not of its own queries yet");
    assert!(usual.check(of(COMMAND, TENANT), by(Some("a"))).is_err());
    assert!(end(&usual, of(QUERY, TENANT), &code("4711"), 0, Some("b")).is_failure);
    assert!(command("b").is_failure);
    assert!(usual.check(of(COMMAND, TENANT), by(Some("b"))).is_err());
}

#[tokio::test(start_paused = true)]
async fn answers_older_than_the_window_are_no_evidence() {
    let usual = usual();
    answers(&usual, of(QUERY, TENANT), &Said::Success, 1);
    for number in 0..60 {
        tokio::time::advance(SECOND * 16).await;
        let verdict = end(&usual, of(QUERY, TENANT), &code("4711"), number, None);
        assert!(!verdict.is_failure, "nineteen in five minutes");
    }
}

#[tokio::test(start_paused = true)]
async fn one_call_at_a_time_tries_and_any_other_answer_ends_it() {
    let begin = || {
        let usual = usual();
        answers(&usual, of(QUERY, TENANT), &Said::Success, 1);
        answers(&usual, of(QUERY, TENANT), &code("4711"), 18);
        usual
    };
    for (said, ends) in [
        (code("4711"), false),
        (Said::Failure, false),
        (Said::Success, true),
        (Said::Refusal, true),
        (code("4712"), true),
        (Said::Unclassified(Meaning::Status(404)), true),
    ] {
        let usual = begin();
        let under_way = usual.admit(of(QUERY, TENANT), by(None)).unwrap();
        end(&usual, of(QUERY, TENANT), &code("4711"), 99, None);
        let verdict = under_way.end(&Said::Success, ASKED, Instant::now());
        assert_eq!(verdict, Verdict::NOTHING, "it began before");
        assert_eq!(
            usual
                .check(of(QUERY, TENANT), by(None))
                .unwrap_err()
                .retry_after,
            SECOND * 5
        );
        tokio::time::advance(SECOND * 5).await;
        let trial = usual.admit(of(QUERY, TENANT), by(None)).unwrap();
        assert!(
            usual.admit(of(QUERY, TENANT), by(None)).is_err(),
            "one at a time"
        );
        drop(trial); // its caller left: the next one tries
        let trial = usual.admit(of(QUERY, TENANT), by(None)).unwrap();
        trial.end(&Said::Nothing, ASKED, Instant::now());
        let verdict = end(&usual, of(QUERY, TENANT), &said, 1, None);
        let is_same = said == code("4711");
        let news = ends.then_some(News::Ends);
        let expected = Verdict {
            is_failure: is_same,
            news,
        };
        assert_eq!(verdict, expected, "{said:?}");
        assert_eq!(
            usual.check(of(QUERY, TENANT), ASKED).is_err(),
            !ends,
            "{said:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_is_no_evidence_and_follows_the_queries_of_its_tenant() {
    let usual = usual();
    answers(&usual, of(COMMAND, TENANT), &Said::Success, 1);
    let verdicts = answers(&usual, of(COMMAND, TENANT), &code("4711"), 60);
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::NOTHING));

    answers(&usual, of(QUERY, TENANT), &Said::Success, 1);
    answers(&usual, of(QUERY, TENANT), &code("4711"), 19);
    assert_eq!(usual.episodes().len(), 1);
    let other = end(&usual, of(COMMAND, TENANT), &code("4712"), 1, None);
    assert_eq!(other, Verdict::NOTHING);
    let of_another = end(&usual, of(COMMAND, OTHER_TENANT), &code("4711"), 1, None);
    assert_eq!(of_another, Verdict::NOTHING);
    assert!(end(&usual, of(COMMAND, TENANT), &code("4711"), 1, None).is_failure);
    assert!(is_open(&usual, of(COMMAND, TENANT)));

    tokio::time::advance(SECOND * 5).await;
    assert!(end(&usual, of(COMMAND, TENANT), &code("4711"), 1, None).is_failure);
    assert_eq!(usual.episodes().len(), 2);
    tokio::time::advance(SECOND * 5).await;
    end(&usual, of(QUERY, TENANT), &Said::Success, 1, None);
    assert!(
        usual.episodes().is_empty(),
        "though nobody has ordered since"
    );
    let alone = end(&usual, of(COMMAND, TENANT), &code("4711"), 1, None);
    assert_eq!(alone, Verdict::NOTHING, "its own matter again");
}

#[tokio::test(start_paused = true)]
async fn where_nobody_asks_any_more_nothing_is_usual_and_the_next_call_tries() {
    let usual = usual();
    answers(&usual, of(QUERY, TENANT), &Said::Success, 1);
    answers(&usual, of(QUERY, TENANT), &code("4711"), 19);
    tokio::time::advance(SECOND * 300).await;
    assert_eq!(usual.episodes().len(), 1);
    tokio::time::advance(SECOND).await;
    assert_eq!(usual.episodes(), []);
    assert!(end(&usual, of(QUERY, TENANT), &code("4711"), 1, None).is_failure);
    assert_eq!(usual.episodes().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_moves_labels_keeps_what_is_known() {
    let known = KnownScopes::default();
    let before = usual_of(&known);
    answers(&before, of(QUERY, OTHER_TENANT), &Said::Success, 1);
    answers(&before, of(QUERY, OTHER_TENANT), &code("4711"), 19);
    let routes = [("/new", false), ("/q", true)];
    let routes = routes.map(|(name, is_query)| (name.to_owned(), is_query));
    let after = Usual::new(SETTINGS, &routes, &names(&["P2"]), &known);
    assert_eq!(
        after.episodes(),
        [(of(RouteLabel(1), TENANT), Meaning::Code("4711".into()))]
    );
}

/// An episode of the query shown by questions 1 to 19, after a success of question 0; nobody is
/// told from others.
fn begun() -> Usual {
    let usual = usual();
    answers(&usual, of(QUERY, TENANT), &Said::Success, 1);
    for question in 1..20 {
        end(&usual, of(QUERY, TENANT), &code("4711"), question, None);
    }
    assert_eq!(usual.episodes().len(), 1);
    usual
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_what_has_an_answer_tries_before_who_asks_for_what_has_none() {
    let at = of(QUERY, TENANT);
    let good = question("0");
    let usual = begun();
    assert!(usual.check(at, good).is_err(), "and it is remembered");
    tokio::time::advance(SECOND * 5).await;
    assert!(
        usual.check(at, by(None)).is_err(),
        "it is kept for the other"
    );
    assert!(usual.check(at, good).is_ok());
    let verdict = usual.admit(at, good).unwrap();
    let verdict = verdict.end(&Said::Success, good, Instant::now());
    assert_eq!(verdict.news, Some(News::Ends));

    let usual = begun();
    assert!(usual.check(at, good).is_err());
    tokio::time::advance(SECOND * 11).await;
    assert!(usual.check(at, by(None)).is_ok(), "nor is it kept for ever");
}

#[tokio::test(start_paused = true)]
async fn an_episode_holds_for_those_whose_own_latest_answers_show_it() {
    let at = of(QUERY, TENANT);
    let usual = usual();
    end(&usual, at, &Said::Success, 0, Some("c"));
    tokio::time::advance(SECOND * 301).await; // c is known, and nothing of it
    for (said, caller, questions) in [
        (code("4711"), "b", 3),
        (code("4711"), "d", 3),
        (Said::Success, "d", 1),
        (code("4711"), "e", 1),
        (code("4711"), "a", 12),
    ] {
        for question in 0..questions {
            end(&usual, at, &said, question + 10, Some(caller));
        }
    }
    let expected = [
        ("a", true),
        ("b", true),
        ("c", false),
        ("d", false),
        ("e", false),
    ];
    for (caller, is_refused) in expected {
        let check = usual.check(at, by(Some(caller)));
        assert_eq!(check.is_err(), is_refused, "{caller}");
        let order = |number| {
            end(
                &usual,
                of(COMMAND, TENANT),
                &code("4711"),
                number,
                Some(caller),
            )
        };
        if caller != "b" {
            assert_eq!(order(1).is_failure, is_refused, "{caller}");
        }
        let check = usual.check(of(COMMAND, TENANT), by(Some(caller)));
        assert_eq!(check.is_err(), is_refused, "{caller}");
    }
    let is_failure = |question, caller| {
        let verdict = end(&usual, at, &code("4711"), question, Some(caller));
        assert_eq!(
            usual.check(at, by(Some(caller))).is_err(),
            verdict.is_failure
        );
        verdict.is_failure
    };
    assert!(is_failure(0, "c"), "it had an answer");
    assert!(
        ![20, 20, 21]
            .map(|question| is_failure(question, "e"))
            .contains(&true)
    );
    assert!(is_failure(22, "e"), "the third that has none");
    assert!(usual.check(at, by(Some("d"))).is_ok());
    let verdict = end(&usual, at, &Said::Success, 1, Some("d"));
    assert_eq!(verdict.news, Some(News::Ends), "the vendor answers");
}

#[tokio::test(start_paused = true)]
async fn different_questions_are_tried_at_first_and_then_one_at_a_time() {
    let at = of(QUERY, TENANT);
    let usual = begun();
    let refused = |params: &str| {
        let trial = usual.admit(at, question(params)).unwrap();
        trial.end(&code("4711"), question(params), Instant::now())
    };
    assert!(usual.check(at, question("a")).is_err());
    tokio::time::advance(SECOND * 5).await;
    let first = usual.admit(at, question("a")).unwrap();
    assert!(
        usual.check(at, question("b")).is_err(),
        "the first one is alone"
    );
    first.end(&code("4711"), question("a"), Instant::now());
    assert!(
        usual.check(at, question("a")).is_err(),
        "a question is tried once"
    );
    let further: Vec<_> = (0..19)
        .map(|number| usual.admit(at, question(&number.to_string())).unwrap())
        .collect();
    assert!(usual.check(at, question("b")).is_err(), "a window's worth");
    drop(further);
    for _ in 0..10 {
        tokio::time::advance(SECOND * 5).await;
        assert!(refused("b").is_failure);
        assert!(usual.check(at, question("c")).is_err());
    }
    tokio::time::advance(SECOND * 5).await;
    let trial = usual.admit(at, question("c")).unwrap();
    let verdict = trial.end(&Said::Success, question("c"), Instant::now());
    assert_eq!(verdict.news, Some(News::Ends));
}

#[tokio::test(start_paused = true)]
async fn orders_are_tried_one_at_a_time_from_the_first() {
    let usual = begun();
    let order = |number| end(&usual, of(COMMAND, TENANT), &code("4711"), number, None);
    order(0);
    tokio::time::advance(SECOND * 5).await;
    assert!(order(1).is_failure);
    assert!(is_open(&usual, of(COMMAND, TENANT)));
}

/// What is answered, question by question.
type Script = Vec<(Said, usize)>;

/// Is an episode on, once it was refuted by the success of question 0 and this was answered?
async fn begins_again(script: Script) -> bool {
    let usual = begun();
    tokio::time::advance(SECOND * 5).await;
    end(&usual, of(QUERY, TENANT), &Said::Success, 0, None);
    for question in 200..205 {
        end(&usual, of(QUERY, TENANT), &Said::Success, question, None);
    }
    let each = script.into_iter();
    each.map(|(said, question)| end(&usual, of(QUERY, TENANT), &said, question, None))
        .any(|verdict| verdict.news.is_some())
}

#[tokio::test(start_paused = true)]
async fn of_a_refuted_meaning_only_questions_that_had_an_answer_are_evidence() {
    let alike = |questions: std::ops::Range<usize>| questions.map(|number| (code("4711"), number));
    let known = || alike(200..204);
    let last = (code("4711"), 204);
    let with = |between: (Said, usize)| known().chain([between, last.clone()]).collect::<Script>();
    let rows: [(&str, Script, bool); 10] = [
        ("new questions", alike(300..400).collect(), false),
        ("four of them", known().chain(known()).collect(), false),
        ("five known", alike(200..205).collect(), true),
        ("five and a new one", with((code("4711"), 300)), true),
        ("throttled meanwhile", with((Said::Nothing, 300)), true),
        ("a success meanwhile", with((Said::Success, 300)), false),
        (
            "five of which four were refused beside a success",
            with((Said::Success, 300))
                .into_iter()
                .chain(known())
                .collect(),
            false,
        ),
        ("a refusal meanwhile", with((Said::Refusal, 300)), false),
        ("another meaning", with((code("4712"), 300)), false),
        (
            "another one is not refuted",
            (300..320).map(|number| (code("4712"), number)).collect(),
            true,
        ),
    ];
    for (name, script, begins) in rows {
        assert_eq!(begins_again(script).await, begins, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refutation_is_forgotten_after_a_window_without_one_of_the_two() {
    for (with_alike, with_success, is_forgotten) in [
        (true, true, false),
        (false, true, true),
        (true, false, true),
    ] {
        let usual = begun();
        let at = of(QUERY, TENANT);
        tokio::time::advance(SECOND * 5).await;
        end(&usual, at, &Said::Success, 0, None);
        for number in 0..4 {
            tokio::time::advance(SECOND * 100).await;
            if with_alike {
                end(&usual, at, &code("4711"), 300 + number, None);
            }
            if with_success {
                end(&usual, at, &Said::Success, 0, None);
            }
        }
        let begins = (400..420)
            .map(|number| end(&usual, at, &code("4711"), number, None))
            .any(|verdict| verdict.is_failure);
        let row = (with_alike, with_success);
        assert_eq!(begins, is_forgotten, "{row:?}");
    }
}

/// Somebody who asks one question after the other.
struct Asker {
    /// In milliseconds.
    first: u64,
    every: u64,
    /// So many different ones, over and over.
    questions: u64,
    name: &'static str,
    said: Said,
}

/// What has become of the questions of one asker, and of the episodes.
#[derive(Debug, Default)]
struct Seen {
    asked: [u64; 2],
    refused: [u64; 2],
    begins: usize,
}

/// Two askers, for so long, of a vendor that takes so many milliseconds.
async fn simulate(usual: &Usual, askers: &[Asker; 2], seconds: u64, latency: u64) -> Seen {
    const TICK: u64 = 5;
    let at = of(QUERY, TENANT);
    let mut seen = Seen::default();
    let mut flying: VecDeque<(u64, Admission<'_>, &Said, String)> = VecDeque::new();
    for now in (0..seconds * 1000).step_by(usize::try_from(TICK).unwrap()) {
        while flying.front().is_some_and(|(ends, ..)| *ends <= now) {
            let (_, admission, said, params) = flying.pop_front().unwrap();
            let asked = question(&params);
            let verdict = admission.end(said, asked, Instant::now());
            seen.begins += usize::from(matches!(verdict.news, Some(News::Begins(_))));
        }
        for (place, asker) in askers.iter().enumerate() {
            if now < asker.first || !(now - asker.first).is_multiple_of(asker.every) {
                continue;
            }
            let number = (now - asker.first) / asker.every % asker.questions;
            let params = format!("{} {number}", asker.name);
            let asked = question(&params);
            match usual.admit(at, asked) {
                Ok(admission) => {
                    seen.asked[place] += 1;
                    flying.push_back((now + latency, admission, &asker.said, params));
                }
                Err(_) => seen.refused[place] += 1,
            }
        }
        tokio::time::advance(Duration::from_millis(TICK)).await;
    }
    seen
}

/// Twenty questions a second.
fn job(questions: u64, said: Said) -> Asker {
    Asker {
        first: 0,
        every: 50,
        questions,
        name: "device",
        said,
    }
}

/// Another question each time, and each has an answer.
fn innocent(first: u64) -> Asker {
    Asker {
        first,
        every: 600,
        questions: u64::MAX,
        name: "page",
        said: Said::Success,
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_refused_over_and_over_costs_another_a_few_seconds_in_ten_minutes() {
    for (latency, phase) in [(5, 0), (40, 5), (40, 45), (100, 20), (300, 30), (1000, 10)] {
        let usual = usual();
        let askers = [job(u64::MAX, code("4711")), innocent(phase)];
        let seen = simulate(&usual, &askers, 600, latency).await;
        assert_eq!(seen.begins, 1, "{latency} ms, {phase}: {seen:?}");
        assert!(seen.refused[1] <= 12, "{latency} ms, {phase}: {seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_devices_are_gone_has_no_trial_and_no_evidence_for_ever() {
    for (latency, phase) in [(5, 0), (40, 5), (300, 30)] {
        let usual = usual();
        simulate(&usual, &[job(30, Said::Success), innocent(phase)], 10, 5).await;
        let askers = [job(30, code("4711")), innocent(phase)];
        let seen = simulate(&usual, &askers, 600, latency).await;
        assert!(seen.refused[1] <= 100, "{latency} ms, {phase}: {seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_costs_tens_of_calls_in_four_minutes_and_each_further_one_begins_an_episode() {
    for latency in [5, 300] {
        let usual = usual();
        let ask = async |said: &Said, seconds: u64| {
            let many = |every, questions, name| Asker {
                first: 0,
                every,
                questions,
                name,
                said: said.clone(),
            };
            let askers = [many(100, 30, "page"), many(150, 1000, "device")];
            simulate(&usual, &askers, seconds, latency).await
        };
        for healthy in [10, 10, 600, 2] {
            assert_eq!(
                ask(&Said::Success, healthy)
                    .await
                    .refused
                    .iter()
                    .sum::<u64>(),
                0
            );
            let seen = ask(&code("4711"), 240).await;
            assert_eq!(seen.begins, 1, "after {healthy} s: {seen:?}");
            let calls: u64 = seen.asked.iter().sum();
            assert!(calls <= 100, "after {healthy} s: {seen:?}");
            ask(&Said::Success, 10).await;
            assert_eq!(usual.episodes(), []);
        }
    }
}
