//! What is remembered of one route of one tenant: is an unclassified answer the usual one there?

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tokio::time::Instant;

use super::episode::{Callers, Episode, Heard, Pass};
use super::said::{Asked, Meaning, Said};
use super::settings::{OWN_QUESTIONS, QUESTIONS, Settings, TENTHS};
use crate::gateway::vendor::breaker::Open;

/// Questions that are known to have an answer: so many at most.
const KNOWN: usize = 256;

#[derive(Debug, Default)]
pub(super) struct ScopeState {
    /// The oldest first.
    answers: VecDeque<Remembered>,
    has_succeeded: bool,
    /// The first caller that was answered, and whether another was.
    first_caller: Option<u64>,
    has_other_callers: bool,
    /// Questions that were answered with a success, as hashes; the youngest first.
    known: VecDeque<u64>,
    /// Each costs a whole episode and lasts for a window, so there are few.
    refuted: Vec<Refuted>,
    pub episode: Option<Episode>,
}

#[derive(Debug)]
struct Remembered {
    at: Instant,
    /// What was asked, and by whom; as hashes.
    question: u64,
    caller: u64,
    meaning: Option<Meaning>,
}

/// A meaning that was the usual one when a success came, so that a vendor that answers well has it,
/// too.
#[derive(Debug)]
struct Refuted {
    meaning: Meaning,
    /// When a success last came after such an answer.
    at: Instant,
    /// There was such an answer since.
    is_back: bool,
    /// The questions that are known to have an answer and got this one since anything else was
    /// answered; and who asked.
    questions: BTreeSet<u64>,
    callers: Callers,
}

impl Refuted {
    fn new(meaning: Meaning, now: Instant) -> Self {
        Self {
            meaning,
            at: now,
            is_back: false,
            questions: BTreeSet::new(),
            callers: Callers::new(),
        }
    }

    /// Returns the questions that are known to have an answer no more: they got this one beside a
    /// success.
    fn hear(
        &mut self,
        said: &Said,
        asked: Asked<'_>,
        is_known: bool,
        now: Instant,
    ) -> BTreeSet<u64> {
        if said.meaning() == Some(&self.meaning) {
            self.is_back = true;
            if is_known {
                self.questions.insert(asked.question());
                self.callers.insert(asked.caller());
            }
            return BTreeSet::new();
        }
        self.callers.clear();
        let mut questions = std::mem::take(&mut self.questions);
        if *said != Said::Success {
            return BTreeSet::new();
        }
        if self.is_back {
            self.at = now;
            self.is_back = false;
        }
        questions.remove(&asked.question());
        questions
    }
}

impl ScopeState {
    /// What is usual, if that was seen of late: where nobody asks any more, nothing is.
    pub fn episode_now(&self, settings: Settings) -> Option<&Episode> {
        let episode = self.episode.as_ref()?;
        let lasts = settings.window.max(settings.open_for);
        (episode.since.elapsed() <= lasts).then_some(episode)
    }

    /// May this be asked, and by which right?
    pub fn pass(&mut self, asked: Asked<'_>, settings: Settings) -> Result<Pass, Open> {
        let is_known = self.is_known(asked);
        match &mut self.episode {
            Some(episode) => episode.pass(asked, is_known, settings.open_for),
            None => Ok(Pass::Free),
        }
    }

    /// A call is made by this right.
    pub fn begin(&mut self, pass: Pass, asked: Asked<'_>) {
        let is_known = self.is_known(asked);
        if let Some(episode) = &mut self.episode {
            episode.begin(pass, asked.question(), is_known);
        }
    }

    fn is_known(&self, asked: Asked<'_>) -> bool {
        self.known.contains(&asked.question())
    }

    /// This was answered with a success.
    pub fn know(&mut self, asked: Asked<'_>) {
        self.has_succeeded = true;
        if !self.is_known(asked) {
            self.known.truncate(KNOWN - 1);
            self.known.push_front(asked.question());
        }
    }

    /// A call has ended while there was no episode.
    pub fn remember(&mut self, said: &Said, asked: Asked<'_>, now: Instant, settings: Settings) {
        if matches!(said, Said::Nothing | Said::Failure) {
            return;
        }
        let (caller, is_known) = (asked.caller(), self.is_known(asked));
        self.has_other_callers |= *self.first_caller.get_or_insert(caller) != caller;
        self.refuted
            .retain(|refuted| refuted.at + settings.window >= now);
        for refuted in &mut self.refuted {
            let lost = refuted.hear(said, asked, is_known, now);
            self.known.retain(|question| !lost.contains(question));
        }
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

    /// A call has ended during the episode.
    pub fn hear(
        &mut self,
        said: &Said,
        asked: Asked<'_>,
        right: (Pass, bool),
        now: Instant,
    ) -> Heard {
        let is_known = self.is_known(asked);
        let episode = self.episode.as_mut();
        episode.map_or(Heard::Nothing, |episode| {
            episode.hear(said, asked, is_known, right, now)
        })
    }

    /// The episode is over, and its meaning is refuted if this question of a query was answered
    /// well.
    pub fn end(&mut self, answered: Option<Asked<'_>>, now: Instant) {
        self.answers.clear();
        let Some(Episode { meaning, .. }) = self.episode.take() else {
            return;
        };
        let Some(asked) = answered else {
            return;
        };
        for mut before in self
            .refuted
            .extract_if(.., |refuted| refuted.meaning == meaning)
        {
            let lost = before.hear(&Said::Success, asked, true, now);
            self.known.retain(|question| !lost.contains(question));
        }
        self.refuted.push(Refuted::new(meaning, now));
    }

    /// Is this what (nearly) everybody gets who asks, and was it otherwise before? Then for which
    /// callers.
    pub fn is_usual(&self, meaning: &Meaning, settings: Settings) -> Option<Callers> {
        if !self.has_succeeded {
            return None;
        }
        let mut refuted = self.refuted.iter();
        match refuted.find(|refuted| refuted.meaning == *meaning) {
            Some(refuted) => {
                let is_usual =
                    refuted.questions.len() >= QUESTIONS && self.are_enough(&refuted.callers);
                is_usual.then(|| refuted.callers.clone())
            }
            None => self.is_usual_of_all(meaning, settings),
        }
    }

    fn is_usual_of_all(&self, meaning: &Meaning, settings: Settings) -> Option<Callers> {
        let most = settings.most();
        if self.answers.len() < most {
            return None;
        }
        let is_alike = |answer: &&Remembered| answer.meaning.as_ref() == Some(meaning);
        let alike = || self.answers.iter().filter(is_alike);
        let questions: BTreeSet<_> = alike().map(|answer| answer.question).collect();
        let mut by_caller: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        for answer in alike() {
            let questions = by_caller.entry(answer.caller).or_default();
            questions.insert(answer.question);
        }
        if by_caller.len() < QUESTIONS {
            by_caller.retain(|_, questions| questions.len() >= OWN_QUESTIONS);
        }
        let mut callers: Callers = by_caller.into_keys().collect();
        let is_usual = alike().count() * 10 >= most * TENTHS
            && questions.len() >= QUESTIONS
            && self.are_enough(&callers);
        let mut heard = BTreeSet::new();
        let latest = self.answers.iter().rev();
        let latest = latest.filter(|answer| heard.insert(answer.caller));
        let shows_it: Callers = latest.filter(is_alike).map(|it| it.caller).collect();
        callers.retain(|caller| shows_it.contains(caller));
        is_usual.then_some(callers)
    }

    /// Where callers are told from one another and several were heard, one proves nothing.
    fn are_enough(&self, callers: &Callers) -> bool {
        !self.has_other_callers || callers.len() > 1
    }
}
