//! When does an answer that no list knows become the vendor's failure?
//!
//! A code that is not configured, "0000" without success, a 4xx without an envelope, as a firewall's 403: one of them is its
//! caller's matter, and is passed on as a refusal. Where it becomes the *usual* answer of a route and tenant that have succeeded before, to
//! different questions of different callers, it is none of theirs: an *episode* begins. While it lasts, such answers are
//! failures there, one call at a time asks, and the first answer of another kind ends it. No other route or tenant is
//! touched, unless its own answers show the same. Where only one caller has been answered, no other caller is touched either:
//! its next answer shows whether the episode is everybody's.
//!
//! Orders are refused for their account's sake (no balance) as often as for the vendor's, so commands are no evidence. They
//! follow: during an episode of a query of their tenant, the same answer to a command is a failure too.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use tokio::time::Instant;

use super::breaker::{End, Open, Reason};
use super::upstream::{Answer, Outcome, SUCCESS};

/// Of the last answers so many in ten are alike,
const TENTHS: usize = 9;

/// to so many different questions at least.
const QUESTIONS: usize = 5;

/// Questions that are known to have an answer: so many at most.
const KNOWN: usize = 256;

/// More answers than these are not remembered.
const REMEMBERED: usize = 1024;

/// What is usual, and for how long nothing is asked then.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// So many answers are looked at,
    pub answers: usize,
    /// none of which is older.
    pub window: Duration,
    /// How long nothing is asked.
    pub open_for: Duration,
}

/// What an answer says that nothing classifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// A `code` in none of the lists, or that of a success without one.
    Code(Cow<'static, str>),
    /// A status without an envelope.
    Status(u16),
}

impl Meaning {
    /// None for what is classified. What is no envelope with HTTP 200 is the breaker's matter already.
    fn of(answer: &Answer) -> Option<Self> {
        match answer.outcome {
            Outcome::Unknown if answer.is_envelope => answer.vendor_code.clone().map(Self::Code),
            // Its status says whose fault it is, and as long as that is not everybody's, it is believed.
            Outcome::CallerError if answer.has_unknown_code => {
                answer.vendor_code.clone().map(Self::Code)
            }
            // An envelope would be the vendor's own word on the signature.
            Outcome::Unknown | Outcome::CallerError | Outcome::BadSignature
                if !answer.is_envelope && answer.status != StatusCode::OK =>
            {
                Some(Self::Status(answer.status.as_u16()))
            }
            _ => None,
        }
    }

    /// What somebody can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Code(code) if code != SUCCESS => {
                "tell the vendor; if it is no failure, put the code into the list of upstream.codes that says what it means"
            }
            _ => {
                "tell the vendor, or whoever runs the proxy before it; no list of upstream.codes can have this"
            }
        }
    }
}

impl std::fmt::Display for Meaning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) if code == SUCCESS => write!(f, "{code:?} without success"),
            Self::Code(code) => write!(f, "code {code}"),
            Self::Status(status) => write!(f, "HTTP {status}"),
        }
    }
}

/// How a call ended, for its route and tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// A success.
    Success,
    /// Something else that is classified.
    Refusal,
    /// Something that is not.
    Unclassified(Meaning),
    /// The vendor fails, as the breaker counts it.
    Failure,
    /// Nothing, or that there were too many calls.
    Nothing,
}

impl Said {
    fn meaning(&self) -> Option<&Meaning> {
        match self {
            Self::Unclassified(meaning) => Some(meaning),
            _ => None,
        }
    }

    /// `end` is what the end of the call says of the vendor.
    pub fn of(answer: Option<&Answer>, end: End) -> Self {
        if let Some(meaning) = answer.and_then(Meaning::of) {
            return Self::Unclassified(meaning);
        }
        match end {
            End::Success => Self::Success,
            End::Refused => Self::Refusal,
            End::Failure => Self::Failure,
            End::Neither => Self::Nothing,
        }
    }
}

/// What was asked, in normal form, and by whom.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The parameters.
    pub params: &'a str,
    /// Where callers are configured.
    pub caller: Option<&'a str>,
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl Asked<'_> {
    fn caller(&self) -> Option<u64> {
        self.caller.map(hash)
    }

    fn question(&self) -> u64 {
        hash(self.params)
    }
}

/// A route and a tenant, by their labels.
pub type At = (usize, usize);

/// What is usual in each route and tenant of a configuration.
#[derive(Debug)]
pub struct Usual {
    settings: Settings,
    /// How many there are, the unlisted paths included.
    routes: usize,
    /// Which of them are queries.
    queries: Box<[bool]>,
    /// By tenant, then by route.
    scopes: Box<[Arc<Scope>]>,
    /// By what they are called in every configuration.
    by_name: HashMap<(String, String), Arc<Scope>>,
}

/// One route of one tenant.
#[derive(Debug, Default)]
struct Scope(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The oldest first.
    answers: VecDeque<Remembered>,
    has_succeeded: bool,
    /// The first caller that was answered, and whether another was.
    first_caller: Option<u64>,
    has_other_callers: bool,
    /// Questions that were answered with a success, as hashes; the youngest first.
    known: VecDeque<u64>,
    episode: Option<Episode>,
}

#[derive(Debug)]
struct Remembered {
    at: Instant,
    /// What was asked, and by whom; as hashes.
    question: u64,
    caller: Option<u64>,
    meaning: Option<Meaning>,
}

#[derive(Debug)]
struct Episode {
    meaning: Meaning,
    /// Since when nothing is asked; then one call at a time.
    since: Instant,
    is_trying: bool,
    /// The next trial is kept until then for a question that is known to have an answer: one such was refused.
    kept_until: Option<Instant>,
    whom: Whom,
}

/// Whom an episode holds for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Whom {
    /// This caller, as no other was answered.
    One(u64),
    All,
}

impl Whom {
    fn includes(self, caller: Option<u64>) -> bool {
        match self {
            Self::One(one) => caller == Some(one),
            Self::All => true,
        }
    }
}

/// By which right a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// There is no episode.
    Free,
    /// It sees whether the vendor answers otherwise again.
    Trial,
    /// The episode is another caller's.
    Untouched,
}

/// One call that may be made. Dropped without an end, it says nothing.
#[derive(Debug)]
pub struct Admission<'a> {
    usual: &'a Usual,
    at: At,
    pass: Pass,
}

/// What an answer is in its route and tenant.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    /// It is the usual answer that nothing classifies, so the vendor fails.
    pub is_failure: bool,
    /// What is to be told.
    pub news: Option<News>,
}

/// What is to be told of an episode.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// It begins with this answer.
    Begins(Meaning),
    /// Something else was answered.
    Ends,
}

impl Verdict {
    const NOTHING: Self = Self {
        is_failure: false,
        news: None,
    };

    const FAILURE: Self = Self {
        is_failure: true,
        news: None,
    };

    /// A command only follows, and has an end of its own told in the log already.
    fn told_of(self, is_query: bool) -> Self {
        let news = self.news.filter(|_| is_query);
        Self { news, ..self }
    }
}

impl Usual {
    /// Of these routes (and whether each is a query) and tenants, in the order of their labels and by names that say the
    /// same in every configuration. What was known before stays.
    pub fn new(
        settings: Settings,
        routes: &[(String, bool)],
        tenants: &[String],
        before: Option<&Self>,
    ) -> Self {
        let mut by_name = HashMap::new();
        let mut scopes = Vec::with_capacity(tenants.len() * routes.len());
        for tenant in tenants {
            for (route, _) in routes {
                let name = (tenant.clone(), route.clone());
                let known = before.and_then(|before| before.by_name.get(&name));
                let scope = known.cloned().unwrap_or_default();
                scopes.push(scope.clone());
                by_name.insert(name, scope);
            }
        }
        Self {
            settings,
            routes: routes.len(),
            queries: routes.iter().map(|(_, is_query)| *is_query).collect(),
            scopes: scopes.into(),
            by_name,
        }
    }

    /// Is anything asked there at all, for this caller? To be looked at before a call waits for its turn.
    pub fn check(&self, at: At, asked: Asked<'_>) -> Result<(), Open> {
        let mut state = self.scope(at);
        state.pass(asked, self.settings.open_for).map(|_| ())
    }

    /// One call, right before it is made.
    pub fn admit(&self, at: At, asked: Asked<'_>) -> Result<Admission<'_>, Open> {
        let mut state = self.scope(at);
        let pass = state.pass(asked, self.settings.open_for)?;
        if let Some(episode) = &mut state.episode
            && pass == Pass::Trial
        {
            episode.is_trying = true;
            episode.kept_until = None;
        }
        Ok(Admission {
            usual: self,
            at,
            pass,
        })
    }

    /// Where an episode is, and of what.
    pub fn episodes(&self) -> Vec<(At, Meaning)> {
        let all = (0..self.scopes.len()).map(|place| (place % self.routes, place / self.routes));
        let of = |at| {
            Some((
                at,
                self.scope(at).episode_now(self.settings)?.meaning.clone(),
            ))
        };
        all.filter_map(of).collect()
    }

    /// Is this what the queries of this tenant get now, for this caller? Then a command answered so, even too late to be waited
    /// for, has met the vendor's failure.
    pub fn is_usual_of_queries(
        &self,
        tenant: usize,
        caller: Option<&str>,
        answer: &Answer,
    ) -> bool {
        let is_usual = |meaning| self.evidence(tenant, &meaning, caller.map(hash)).is_some();
        Meaning::of(answer).is_some_and(is_usual)
    }

    fn scope(&self, (route, tenant): At) -> MutexGuard<'_, State> {
        let scope = &self.scopes[tenant * self.routes + route];
        scope.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whom the queries of this tenant are in an episode of this meaning for, each that is.
    fn queries_with(&self, tenant: usize, meaning: &Meaning) -> impl Iterator<Item = Whom> {
        let queries = (0..self.routes).filter(|route| self.queries[*route]);
        queries.filter_map(move |route| {
            let state = self.scope((route, tenant));
            let episode = state.episode_now(self.settings)?;
            (episode.meaning == *meaning).then_some(episode.whom)
        })
    }

    /// Do queries show a command of this caller that this meaning is the vendor's failure, and for whom?
    fn evidence(&self, tenant: usize, meaning: &Meaning, caller: Option<u64>) -> Option<Whom> {
        let queries = self.queries_with(tenant, meaning);
        queries.filter(|whom| whom.includes(caller)).max()
    }

    /// An episode of a query has ended: so have those of the commands that followed it.
    fn release_commands(&self, tenant: usize) {
        for route in (0..self.routes).filter(|route| !self.queries[*route]) {
            let mut state = self.scope((route, tenant));
            let is_over = |episode: &mut Episode| {
                self.queries_with(tenant, &episode.meaning).next().is_none()
            };
            state.episode.take_if(is_over);
        }
    }
}

impl State {
    /// What is usual, if that was seen of late: where nobody asks any more, nothing is.
    fn episode_now(&self, settings: Settings) -> Option<&Episode> {
        let episode = self.episode.as_ref()?;
        let lasts = settings.window.max(settings.open_for);
        (episode.since.elapsed() <= lasts).then_some(episode)
    }

    /// May this be asked? Somebody who asks for what does not exist, again and again, must not have all trials: a question
    /// that has succeeded before goes first.
    fn pass(&mut self, asked: Asked<'_>, open_for: Duration) -> Result<Pass, Open> {
        let Some(episode) = &mut self.episode else {
            return Ok(Pass::Free);
        };
        if !episode.whom.includes(asked.caller()) {
            return Ok(Pass::Untouched);
        }
        let now = Instant::now();
        let left = (episode.since + open_for).saturating_duration_since(now);
        let is_known = self.known.contains(&asked.question());
        let is_kept = episode.kept_until.is_some_and(|until| now < until);
        if left.is_zero() && !episode.is_trying && (is_known || !is_kept) {
            return Ok(Pass::Trial);
        }
        if is_known {
            episode.kept_until = Some(now + open_for * 2);
        }
        let retry_after = left.max(Duration::from_secs(1));
        Err(Open {
            reason: Reason::UsualAnswer,
            retry_after,
        })
    }

    fn know(&mut self, question: u64) {
        if !self.known.contains(&question) {
            self.known.truncate(KNOWN - 1);
            self.known.push_front(question);
        }
    }

    fn remember(&mut self, said: &Said, asked: Asked<'_>, now: Instant, settings: Settings) {
        if matches!(said, Said::Nothing | Said::Failure) {
            return;
        }
        let caller = asked.caller();
        let id = hash(caller);
        self.has_other_callers |= *self.first_caller.get_or_insert(id) != id;
        self.answers.push_back(Remembered {
            at: now,
            question: asked.question(),
            caller,
            meaning: said.meaning().cloned(),
        });
        let most = settings.most();
        while let Some(oldest) = self.answers.front()
            && (self.answers.len() > most || oldest.at + settings.window < now)
        {
            self.answers.pop_front();
        }
    }

    /// Is this what (nearly) everybody gets who asks, and was it otherwise before? Then for whom: where callers are told from
    /// one another and only one was heard, nobody knows what another would get.
    fn is_usual(&self, meaning: &Meaning, settings: Settings) -> Option<Whom> {
        let most = settings.most();
        if !self.has_succeeded || self.answers.len() < most {
            return None;
        }
        let alike = self.answers.iter();
        let alike = alike.filter(|answer| answer.meaning.as_ref() == Some(meaning));
        let questions: BTreeSet<_> = alike.clone().map(|answer| answer.question).collect();
        let callers: BTreeSet<_> = alike.clone().map(|answer| answer.caller).collect();
        let is_usual = alike.count() * 10 >= most * TENTHS
            && questions.len() >= QUESTIONS
            && (!self.has_other_callers || callers.len() > 1);
        let one = callers.first().copied().flatten();
        is_usual.then_some(match one {
            Some(one) if callers.len() == 1 => Whom::One(one),
            _ => Whom::All,
        })
    }

    /// A call has ended during an episode: does that go on? `evidence` tells whom its answer is known to be usual for.
    fn go_on(
        &mut self,
        said: &Said,
        caller: Option<u64>,
        evidence: Option<Whom>,
        pass: Pass,
        now: Instant,
    ) -> Verdict {
        let Some(episode) = &mut self.episode else {
            return Verdict::NOTHING;
        };
        let is_trial = pass == Pass::Trial;
        episode.is_trying &= !is_trial;
        let has_meaning = said.meaning() == Some(&episode.meaning);
        let is_same = has_meaning && evidence.is_some();
        if is_trial && (is_same || *said == Said::Failure) {
            episode.since = now;
        }
        let is_otherwise = match pass {
            Pass::Free => false, // it began before the episode did
            Pass::Trial => !is_same,
            Pass::Untouched => !has_meaning,
        };
        if is_otherwise && !matches!(said, Said::Nothing | Said::Failure) {
            self.episode = None;
            self.answers.clear();
            return Verdict {
                is_failure: false,
                news: Some(News::Ends),
            };
        }
        if !is_same {
            return Verdict::NOTHING;
        }
        if !episode.whom.includes(caller) {
            episode.whom = Whom::All;
            episode.since = now;
        }
        Verdict::FAILURE
    }

    fn begin(&mut self, meaning: Meaning, whom: Whom, now: Instant) -> Verdict {
        self.episode = Some(Episode {
            meaning: meaning.clone(),
            since: now,
            is_trying: false,
            kept_until: None,
            whom,
        });
        Verdict {
            is_failure: true,
            news: Some(News::Begins(meaning)),
        }
    }
}

impl Settings {
    fn most(&self) -> usize {
        self.answers.clamp(QUESTIONS, REMEMBERED)
    }
}

impl Admission<'_> {
    /// The call has ended; `now` is the present.
    pub fn end(mut self, said: &Said, asked: Asked<'_>, now: Instant) -> Verdict {
        let ((route, tenant), usual) = (self.at, self.usual);
        let is_query = usual.queries[route];
        let caller = asked.caller();
        // Commands look at queries, and queries at no other scope: no two locks are ever waited for in a circle.
        let evidence = if is_query {
            Some(Whom::All)
        } else {
            let meaning = said.meaning();
            meaning.and_then(|meaning| usual.evidence(tenant, meaning, caller))
        };
        let pass = std::mem::replace(&mut self.pass, Pass::Free);
        let mut state = usual.scope(self.at);
        if *said == Said::Success {
            state.has_succeeded = true;
            if is_query {
                state.know(asked.question());
            }
        }
        if state.episode.is_some() {
            let verdict = state.go_on(said, caller, evidence, pass, now);
            drop(state);
            if is_query && verdict.news == Some(News::Ends) {
                usual.release_commands(tenant);
            }
            return verdict.told_of(is_query);
        }
        if is_query {
            state.remember(said, asked, now, usual.settings);
        }
        let Some(meaning) = said.meaning() else {
            return Verdict::NOTHING;
        };
        let whom = if is_query {
            state.is_usual(meaning, usual.settings)
        } else {
            evidence
        };
        match whom {
            Some(whom) => state.begin(meaning.clone(), whom, now).told_of(is_query),
            None => Verdict::NOTHING,
        }
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if self.pass == Pass::Trial
            && let Some(episode) = &mut self.usual.scope(self.at).episode
        {
            episode.is_trying = false;
        }
    }
}

#[cfg(test)]
mod tests;
