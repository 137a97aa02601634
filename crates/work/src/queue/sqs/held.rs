//! The messages that this process holds.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::history::History;
use super::service::Letter;
use crate::task::nonce;

/// A message that is hidden for us.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) letter: Letter,
    pub(super) history: History,
    /// The service counts how long it is held from here on.
    pub(super) received: Instant,
    /// Until then nobody else gets it. Servers differ in what they make of a receipt after that, from an error to deleting
    /// what another holds; so none is shown one.
    until: Instant,
}

impl Held {
    pub(super) fn new(letter: Letter, history: History, visibility: Duration) -> Self {
        let received = Instant::now();
        Self { letter, history, received, until: received + visibility }
    }
}

/// The messages of one queue by the receipts of their leases.
#[derive(Default)]
pub(super) struct Leases(Mutex<HashMap<String, Held>>);

impl Leases {
    /// Says the receipt. What ran out meanwhile is forgotten, so that there are never more than are worked on.
    pub(super) fn add(&self, held: Held) -> String {
        let receipt = format!("{:016x}{:016x}", nonce(), nonce());
        let mut all = self.lock();
        all.retain(|_, held| Instant::now() < held.until);
        all.insert(receipt.clone(), held);
        receipt
    }

    /// The one with `receipt`, unless it ran out.
    pub(super) fn get(&self, receipt: &str) -> Option<Held> {
        self.lock().get(receipt).filter(|held| Instant::now() < held.until).cloned()
    }

    pub(super) fn extend(&self, receipt: &str, until: Instant) {
        if let Some(held) = self.lock().get_mut(receipt) {
            held.until = until;
        }
    }

    pub(super) fn remove(&self, receipt: &str) {
        self.lock().remove(receipt);
    }

    /// No panic leaves a map half written.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
