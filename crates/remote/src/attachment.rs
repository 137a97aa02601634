//! A model of ours and the endpoints that stand in for it: who of them may, and what they are asked by.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use engine::{Signature, Tensor};
use tokio::runtime::Handle;

use crate::failure::Failure;
use crate::fit::Names;
use crate::policy::{Ended, Policy, Why};
use crate::probing::Refusal;
use crate::remote::Shared;
use crate::used::Used;
use crate::wire::Target;

/// A model as it is here.
#[derive(Clone, Debug)]
pub struct Model {
    /// What it is called, here and wherever the address does not say otherwise.
    pub name: String,
    /// What it takes and gives.
    pub signature: Signature,
    /// Something to try an endpoint with, in the signature's order.
    pub sample: Vec<Tensor>,
    /// What it answers to that here.
    pub answer: Vec<Tensor>,
}

/// An answer of an endpoint.
#[derive(Clone, Debug)]
pub struct Answered {
    /// In the signature's order.
    pub outputs: Vec<Tensor>,
    /// What it took.
    pub used: Used,
}

/// A question that no endpoint answered.
#[derive(Clone, Debug)]
pub struct Unanswered {
    /// What was asked, given back.
    pub inputs: Vec<Tensor>,
    /// Why it was given up.
    pub why: Why,
    /// The last call's failure, if there was a call.
    pub failure: Option<Failure>,
    /// What it took.
    pub used: Used,
}

/// An endpoint that was looked at and may be asked.
#[derive(Clone, Debug)]
pub(crate) struct Admitted {
    /// The version that was looked at, where that could be told.
    pub(crate) target: Target,
    pub(crate) names: Names,
    /// As its answers tell it.
    pub(crate) version: String,
}

/// A model and its endpoints.
pub struct Attachment {
    /// Itself, for what it starts and does not wait for.
    pub(crate) me: Weak<Self>,
    pub(crate) runtime: Handle,
    pub(crate) shared: Arc<Shared>,
    pub(crate) model: Model,
    /// Held for a decision, never across a call.
    policy: Mutex<Policy>,
    /// Who may be asked, and how; written by who looks.
    admitted: Mutex<Vec<Option<Arc<Admitted>>>>,
    /// What came of the last look at each endpoint, if it did not end well.
    refusals: Mutex<Vec<Option<Refusal>>>,
    begun: Instant,
}

impl Attachment {
    pub(crate) fn new(runtime: Handle, shared: Arc<Shared>, model: Model) -> Arc<Self> {
        let count = shared.endpoints.len();
        let policy = Mutex::new(Policy::new(shared.settings.limits.clone(), count));
        let (admitted, refusals) = (Mutex::new(vec![None; count]), Mutex::new(vec![None; count]));
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            runtime,
            shared,
            model,
            policy,
            admitted,
            refusals,
            begun: Instant::now(),
        })
    }

    /// Whether there is anybody to ask at present.
    pub fn anybody_in(&self) -> bool {
        self.policy().anybody_in()
    }

    /// How many endpoints can be asked at present, and how many cannot.
    pub fn in_and_out(&self) -> (usize, usize) {
        let (policy, all) = (self.policy(), self.shared.endpoints.len());
        let ins = (0..all).filter(|endpoint| policy.is_in(*endpoint)).count();
        (ins, all - ins)
    }

    /// Endpoints that are there and are not what they were taken for, and why.
    pub fn mismatches(&self) -> Vec<(String, String)> {
        let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let told = |(at, refusal): (usize, &Option<Refusal>)| match refusal {
            Some(Refusal::Mismatch(why)) => Some((self.address(at), why.clone())),
            Some(Refusal::Absent(_)) | None => None,
        };
        refusals.iter().enumerate().filter_map(told).collect()
    }

    pub(crate) fn policy(&self) -> MutexGuard<'_, Policy> {
        // No decision panics half way.
        self.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(crate) fn address(&self, endpoint: usize) -> String {
        self.shared.endpoints.get(endpoint).map_or_else(String::new, |(address, _)| address.to_string())
    }

    pub(crate) fn admitted(&self, endpoint: usize) -> Option<Arc<Admitted>> {
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner).get(endpoint).cloned().flatten()
    }

    pub(crate) fn admit(&self, endpoint: usize, admitted: Option<Admitted>) {
        let mut all = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of) = all.get_mut(endpoint) {
            *of = admitted.map(Arc::new);
        }
    }

    /// Notes what came of a look at an endpoint; whether that is news.
    pub(crate) fn refused(&self, endpoint: usize, refusal: Option<Refusal>) -> bool {
        let mut all = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(of) = all.get_mut(endpoint) else { return false };
        let is_news = *of != refusal;
        *of = refusal;
        is_news
    }

    /// Counts a call's end, and begins to look at its endpoint when that sends it out.
    pub(crate) fn ended(&self, endpoint: usize, ended: Ended, said: &dyn std::fmt::Display) {
        let (probe, anybody_in) = {
            let mut policy = self.policy();
            (policy.ended(endpoint, ended, chance()), policy.anybody_in())
        };
        let Some(pause) = probe else { return };
        self.admit(endpoint, None);
        let (model, address) = (&self.model.name, self.address(endpoint));
        tracing::warn!(%address, model, reason = %said, "an endpoint is left out until it does well again");
        if !anybody_in {
            tracing::warn!(model, "no endpoint is left to ask for this model");
        }
        self.watch(endpoint, pause);
    }
}

/// From 0 to 1, another one every time.
pub(crate) fn chance() -> f64 {
    // The standard library's only source of chance; 53 bits are what a float holds.
    (RandomState::new().build_hasher().finish() >> 11) as f64 / (1u64 << 53) as f64
}
