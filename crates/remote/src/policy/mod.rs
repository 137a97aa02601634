//! What is sent where, again, twice, or not at all: plain values, and a time that is given.
//!
//! An endpoint is *in* or *out*. One that is in is asked, the one with the fewest calls under way first. It goes out when
//! calls fail one after the other, or at once when an answer shows that it is not what it was taken for; it comes back when
//! a probe ends well. All times are since a beginning of the caller's.

use std::time::Duration;

mod budget;
pub use budget::Budget;
mod latency;
pub use latency::Latencies;
mod pause;
pub use pause::Pauses;

use crate::failure::FailureKind;

/// The patience of questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For one call.
    pub call: Duration,
    /// For a question, with everything that is tried for it.
    pub question: Duration,
    /// Whether a question waits for an endpoint to come back, rather than being given up at once.
    pub waits: bool,
    /// Calls that a question may cost one after the other.
    pub tries_max: u32,
    /// Failures one after the other that send an endpoint out.
    pub failures_max: u32,
    /// Before a question is asked again.
    pub retry: Pauses,
    /// Before an endpoint that is out is probed.
    pub probe: Pauses,
    /// Questions that may be asked again: a fifth of them, and a few to begin with.
    pub retries: Budget,
    /// Questions that may be asked twice at a time: a twentieth of them.
    pub hedges: Budget,
}

impl Default for Limits {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            call: ms(2000),
            question: ms(4000),
            waits: false,
            tries_max: 3,
            failures_max: 3,
            retry: Pauses { first: ms(20), longest: ms(500) },
            probe: Pauses { first: ms(250), longest: ms(30_000) },
            retries: Budget::new(200, 10, 20),
            hedges: Budget::new(50, 0, 5),
        }
    }
}

/// The shortest wait before a question is asked twice.
const HEDGE_MIN: Duration = Duration::from_millis(1);
/// So many answers make what was before forgotten.
const WELL: u32 = 50;
/// Between two looks whether somebody came back.
const LOOK: Duration = Duration::from_millis(100);

/// What is to be done for a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Call this endpoint, which has so long; if `hedge_after` passes first, [`Policy::hedge`] says whom else to call.
    Send {
        /// Its number.
        endpoint: usize,
        /// The call's deadline, from now.
        within: Duration,
        /// When it takes longer than nearly all others did, and there is somebody else.
        hedge_after: Option<Duration>,
    },
    /// Wait, and ask [`Policy::next`] again.
    Pause(Duration),
    /// Nobody answers this one.
    GiveUp(Why),
}

/// Why a question was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Every endpoint is out.
    NobodyThere,
    /// What went wrong would go wrong again.
    NotAgain,
    /// It was asked often enough.
    TriesSpent,
    /// Too much is being asked again at present.
    BudgetSpent,
    /// Its time is over.
    TimeSpent,
}

/// A question under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    begun: Duration,
    tries: u32,
    last: Option<usize>,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// After so long.
    Answered(Duration),
    /// Not well.
    Failed(FailureKind),
    /// Nobody waits for it any more.
    Dropped,
}

/// Where an endpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    In {
        /// One after the other, up to now.
        failures: u32,
        /// Since it came in.
        answers: u32,
        /// Since it last did well for long.
        setbacks: u32,
    },
    Out {
        /// Probes that did not end well, and times that it came in for nothing.
        setbacks: u32,
    },
}

#[derive(Clone, Copy, Debug)]
struct Endpoint {
    standing: Standing,
    calls: usize,
}

/// Everything that decides.
#[derive(Clone, Debug)]
pub struct Policy {
    limits: Limits,
    endpoints: Vec<Endpoint>,
    retries: Budget,
    hedges: Budget,
    latencies: Latencies,
}

impl Policy {
    /// A policy over so many endpoints, all of them out until they are probed.
    pub fn new(limits: Limits, endpoints: usize) -> Self {
        let (retries, hedges) = (limits.retries, limits.hedges);
        let endpoints = vec![Endpoint { standing: Standing::Out { setbacks: 0 }, calls: 0 }; endpoints];
        Self { limits, endpoints, retries, hedges, latencies: Latencies::default() }
    }

    /// Whether anybody can be asked.
    pub fn anybody_in(&self) -> bool {
        self.endpoints.iter().any(Endpoint::is_in)
    }

    /// Whether this endpoint can be asked.
    pub fn is_in(&self, endpoint: usize) -> bool {
        self.endpoints.get(endpoint).is_some_and(Endpoint::is_in)
    }

    /// A new question.
    pub fn begin(&mut self, now: Duration) -> Question {
        self.retries.called();
        self.hedges.called();
        Question { begun: now, tries: 0, last: None }
    }

    /// What is to be done for a question that was just begun, or has paused.
    pub fn next(&mut self, question: &mut Question, now: Duration) -> Step {
        let left = self.left(question, now);
        if left.is_zero() {
            return Step::GiveUp(if self.anybody_in() { Why::TimeSpent } else { Why::NobodyThere });
        }
        match self.pick(question.last) {
            Some(endpoint) => {
                let within = left.min(self.limits.call);
                (question.tries, question.last) = (question.tries + 1, Some(endpoint));
                self.endpoints[endpoint].calls += 1;
                let hedge_after = self.latencies.p95().map(|p95| p95.max(HEDGE_MIN));
                let hedge_after = hedge_after.filter(|after| *after < within && self.other_than(endpoint).is_some());
                Step::Send { endpoint, within, hedge_after }
            }
            None if self.limits.waits => Step::Pause(left.min(LOOK)),
            None => Step::GiveUp(Why::NobodyThere),
        }
    }

    /// What is to be done for a question whose call failed like this; `chance` is from 0 to 1.
    pub fn after(
        &mut self,
        question: &Question,
        (kind, retry_after): (FailureKind, Option<Duration>),
        now: Duration,
        chance: f64,
    ) -> Step {
        let pause = self.limits.retry.after(question.tries.saturating_sub(1), chance);
        let pause = pause.max(retry_after.unwrap_or_default());
        // Where nobody else answers, even what is not known to help is tried.
        Step::GiveUp(if !kind.may_pass() && !self.limits.waits {
            Why::NotAgain
        } else if question.tries >= self.limits.tries_max {
            Why::TriesSpent
        } else if pause >= self.left(question, now) {
            Why::TimeSpent
        } else if !self.limits.waits && !self.anybody_in() {
            Why::NobodyThere
        } else if !self.retries.take() {
            Why::BudgetSpent
        } else {
            return Step::Pause(pause);
        })
    }

    /// Who else is to be asked, while the call for `question` takes long.
    pub fn hedge(&mut self, question: &Question) -> Option<usize> {
        let other = self.other_than(question.last?)?;
        if !self.hedges.take() {
            return None;
        }
        self.endpoints[other].calls += 1;
        Some(other)
    }

    /// A call has ended. When that sends its endpoint out: how long from now it is to be probed.
    pub fn ended(&mut self, endpoint: usize, ended: Ended, chance: f64) -> Option<Duration> {
        let of = self.endpoints.get_mut(endpoint)?;
        of.calls = of.calls.saturating_sub(1);
        let Standing::In { failures, answers, setbacks } = &mut of.standing else { return None };
        match ended {
            Ended::Answered(took) => {
                *failures = 0;
                *answers = answers.saturating_add(1);
                self.latencies.add(took);
                return None;
            }
            Ended::Dropped | Ended::Failed(FailureKind::Busy) => return None,
            Ended::Failed(FailureKind::Wrong) => {}
            Ended::Failed(FailureKind::Lost | FailureKind::Slow | FailureKind::Broken) => {
                *failures += 1;
                if *failures < self.limits.failures_max {
                    return None;
                }
            }
        }
        // One that does well in probes and fails at work would else be back at once, again and again.
        let setbacks = if *answers < WELL { setbacks.saturating_add(1) } else { 0 };
        of.standing = Standing::Out { setbacks };
        Some(self.limits.probe.after(setbacks, chance))
    }

    /// An endpoint that is out was probed. Unless that ended well and it is in again: how long from now it is to be
    /// probed next.
    pub fn probed(&mut self, endpoint: usize, well: bool, chance: f64) -> Option<Duration> {
        let of = self.endpoints.get_mut(endpoint)?;
        let Standing::Out { setbacks } = of.standing else { return None };
        if well {
            of.standing = Standing::In { failures: 0, answers: 0, setbacks };
            return None;
        }
        of.standing = Standing::Out { setbacks: setbacks.saturating_add(1) };
        Some(self.limits.probe.after(setbacks, chance))
    }

    fn left(&self, question: &Question, now: Duration) -> Duration {
        (question.begun + self.limits.question).saturating_sub(now)
    }

    /// Whoever is in and has the fewest calls; another than who failed, where there is one.
    fn pick(&self, last: Option<usize>) -> Option<usize> {
        let among = |not: Option<usize>| {
            let is_in = |(at, of): &(usize, &Endpoint)| of.is_in() && Some(*at) != not;
            self.endpoints.iter().enumerate().filter(is_in).min_by_key(|(_, of)| of.calls).map(|(at, _)| at)
        };
        among(last).or_else(|| among(None))
    }

    fn other_than(&self, endpoint: usize) -> Option<usize> {
        self.pick(Some(endpoint)).filter(|other| *other != endpoint)
    }
}

impl Endpoint {
    fn is_in(&self) -> bool {
        matches!(self.standing, Standing::In { .. })
    }
}

#[cfg(test)]
mod tests;
