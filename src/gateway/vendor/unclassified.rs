//! When does an answer that no list knows become the vendor's failure?
//!
//! A code that is not configured, "0000" without success, a 4xx without an envelope, as a
//! firewall's 403: one of them is its caller's matter, and is passed on as a refusal. For many of
//! them the law is, in each route of each tenant:
//!
//! - It is the *usual* answer where there was a success before, and where nine in ten of the last
//!   answers are it, to different questions of different callers. Then it is none of theirs, and an
//!   *episode* begins: such answers are failures.
//! - An episode holds for the callers whose own answers show it: to several different questions, or
//!   to one that has succeeded before. Everybody else passes untouched.
//! - Nothing is asked for a while, then trials are made (`unclassified/episode.rs`). The first
//!   answer of another kind ends it.
//! - A success that ends it has *refuted* the meaning: a vendor that answers well answers so, too,
//!   perhaps to a job that asks for what does not exist. As long as both go on (a success follows
//!   such an answer at least once in a window), only questions that have succeeded before are
//!   evidence: five different ones, with no other answer in between, begin an episode again. Where
//!   a success comes after all, these are evidence no more until they succeed again.
//!
//! Orders are refused for their account's sake (no balance) as often as for the vendor's, so
//! commands are no evidence. They follow: during an episode of a query of their tenant that holds
//! for their caller, the same answer to a command is a failure too.

mod episode;
mod said;
mod scope;
mod settings;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use self::episode::{Callers, Episode, Heard, Pass};
pub use self::said::{Asked, Meaning, Said};
use self::scope::ScopeState;
pub use self::settings::Settings;
use super::breaker::Open;
use crate::gateway::vendor::upstream::Answer;
use crate::telemetry::{RouteLabel, TenantLabel};

/// A route and a tenant, by their labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// The label of its path.
    pub route: RouteLabel,
    /// The label of its account.
    pub tenant: TenantLabel,
}

/// What is usual in each route and tenant of a configuration.
#[derive(Debug)]
pub struct Usual {
    settings: Settings,
    /// How many there are, the unlisted paths included.
    routes: usize,
    /// Which of them are queries.
    queries: Box<[bool]>,
    /// By tenant, then by route.
    scopes: Box<[Arc<UsualScope>]>,
}

/// The scopes of the last configuration by names, tenant and route, that say the same in every one.
/// A clone is the same.
#[derive(Debug, Clone, Default)]
pub struct KnownScopes(Arc<Mutex<ByName>>);

type ByName = HashMap<(String, String), Arc<UsualScope>>;

/// One route of one tenant.
#[derive(Debug, Default)]
struct UsualScope(Mutex<ScopeState>);

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

    fn of(heard: Heard) -> Self {
        Self {
            is_failure: heard == Heard::Same,
            news: (heard == Heard::Over).then_some(News::Ends),
        }
    }

    /// A command only follows, and has an end of its own told in the log already.
    fn told_of(self, is_query: bool) -> Self {
        let news = self.news.filter(|_| is_query);
        Self { news, ..self }
    }
}

impl Usual {
    /// Of these routes (and whether each is a query) and tenants, in the order of their labels and
    /// by names that say the same in every configuration. What is known of them stays, of others it
    /// is forgotten.
    pub fn new(
        settings: Settings,
        routes: &[(String, bool)],
        tenants: &[String],
        known: &KnownScopes,
    ) -> Self {
        let mut known = known.0.lock();
        let mut by_name = ByName::new();
        let mut scopes = Vec::with_capacity(tenants.len() * routes.len());
        for tenant in tenants {
            for (route, _) in routes {
                let name = (tenant.clone(), route.clone());
                let scope = known.get(&name).cloned().unwrap_or_default();
                scopes.push(scope.clone());
                by_name.insert(name, scope);
            }
        }
        *known = by_name;
        Self {
            settings,
            routes: routes.len(),
            queries: routes.iter().map(|(_, is_query)| *is_query).collect(),
            scopes: scopes.into(),
        }
    }

    /// Is anything asked there at all, for this caller? To be looked at before a call waits for its
    /// turn.
    pub fn check(&self, at: At, asked: Asked<'_>) -> Result<(), Open> {
        let mut state = self.scope(at);
        state.pass(asked, self.settings).map(|_| ())
    }

    /// One call, right before it is made.
    pub fn admit(&self, at: At, asked: Asked<'_>) -> Result<Admission<'_>, Open> {
        let mut state = self.scope(at);
        let pass = state.pass(asked, self.settings)?;
        state.begin(pass, asked);
        Ok(Admission {
            usual: self,
            at,
            pass,
        })
    }

    /// Where an episode is, and of what.
    pub fn episodes(&self) -> Vec<(At, Meaning)> {
        let at = |place| At {
            route: RouteLabel(place % self.routes),
            tenant: TenantLabel(place / self.routes),
        };
        let all = (0..self.scopes.len()).map(at);
        let of = |at| {
            Some((
                at,
                self.scope(at).episode_now(self.settings)?.meaning.clone(),
            ))
        };
        all.filter_map(of).collect()
    }

    /// Is this what the queries of this tenant get now, for this caller? Then a command answered
    /// so, even too late to be waited for, has met the vendor's failure.
    pub fn is_usual_of_queries(
        &self,
        tenant: TenantLabel,
        caller: Option<&str>,
        answer: &Answer,
    ) -> bool {
        let caller = Asked { params: "", caller }.caller();
        let is_usual = |meaning| self.evidence(tenant, &meaning, caller).is_some();
        Meaning::of(answer).is_some_and(is_usual)
    }

    fn scope(&self, At { route, tenant }: At) -> MutexGuard<'_, ScopeState> {
        let scope = &self.scopes[tenant.0 * self.routes + route.0];
        scope.0.lock()
    }

    /// Whom the queries of this tenant are in an episode of this meaning for, each that is.
    fn queries_with(
        &self,
        tenant: TenantLabel,
        meaning: &Meaning,
    ) -> impl Iterator<Item = Callers> {
        let queries = (0..self.routes).filter(|route| self.queries[*route]);
        queries.filter_map(move |route| {
            let route = RouteLabel(route);
            let state = self.scope(At { route, tenant });
            let episode = state.episode_now(self.settings)?;
            (episode.meaning == *meaning).then(|| episode.callers.clone())
        })
    }

    /// Do queries show a command of this caller that this meaning is the vendor's failure, and for
    /// whom?
    fn evidence(&self, tenant: TenantLabel, meaning: &Meaning, caller: u64) -> Option<Callers> {
        let queries = self.queries_with(tenant, meaning);
        let queries = queries.filter(|callers| callers.contains(&caller));
        queries.reduce(|callers, more| &callers | &more)
    }

    /// An episode of a query has ended: so have those of the commands that followed it.
    fn release_commands(&self, tenant: TenantLabel) {
        for route in (0..self.routes).filter(|route| !self.queries[*route]) {
            let route = RouteLabel(route);
            let mut state = self.scope(At { route, tenant });
            let is_over = |episode: &mut Episode| {
                self.queries_with(tenant, &episode.meaning).next().is_none()
            };
            state.episode.take_if(is_over);
        }
    }
}

impl Admission<'_> {
    /// The call has ended; `now` is the present.
    pub fn end(mut self, said: &Said, asked: Asked<'_>, now: Instant) -> Verdict {
        let (At { route, tenant }, usual) = (self.at, self.usual);
        let is_query = usual.queries[route.0];
        // Commands look at queries, and queries at no other scope: no two locks are ever waited for
        // in a circle.
        let evidence = said
            .meaning()
            .filter(|_| !is_query)
            .and_then(|meaning| usual.evidence(tenant, meaning, asked.caller()));
        let pass = std::mem::replace(&mut self.pass, Pass::Free);
        let mut state = usual.scope(self.at);
        let is_answered = is_query && *said == Said::Success;
        if is_answered {
            state.know(asked);
        }
        if state.episode.is_some() {
            let is_shown = is_query || evidence.is_some();
            let heard = state.hear(said, asked, (pass, is_shown), now);
            if heard == Heard::Over {
                state.end(is_answered.then_some(asked), now);
                drop(state);
                if is_query {
                    usual.release_commands(tenant);
                }
            }
            return Verdict::of(heard).told_of(is_query);
        }
        if is_query {
            state.remember(said, asked, now, usual.settings);
        }
        let Some(meaning) = said.meaning() else {
            return Verdict::NOTHING;
        };
        let callers = if is_query {
            state.is_usual(meaning, usual.settings)
        } else {
            evidence
        };
        let Some(callers) = callers else {
            return Verdict::NOTHING;
        };
        let is_failure = callers.contains(&asked.caller());
        state.episode = Some(Episode::new(meaning.clone(), callers, is_query, now));
        let news = Some(News::Begins(meaning.clone()));
        Verdict { is_failure, news }.told_of(is_query)
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if let Some(episode) = &mut self.usual.scope(self.at).episode {
            episode.release(self.pass);
        }
    }
}

#[cfg(test)]
mod tests;
