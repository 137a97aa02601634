//! What all request bodies together may take of the memory: a budget, and each request's share of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use engine::{Error, ErrorKind, Result};

use crate::Budget;

/// The share of the memory budget that bodies may take when nobody says otherwise.
const MEMORY_SHARE: u64 = 8;

/// The bytes of request bodies that the server holds, over all APIs and connections, and the most that it may.
#[derive(Debug)]
pub struct Bodies {
    limit_bytes: usize,
    /// Every share of every request, together; changed by whoever holds a share.
    held_bytes: AtomicUsize,
}

impl Bodies {
    /// A budget of `limit_bytes`, of which nothing is held.
    pub fn new(limit_bytes: usize) -> Arc<Self> {
        Arc::new(Self { limit_bytes, held_bytes: AtomicUsize::new(0) })
    }

    /// What bodies may take when nobody says otherwise: an eighth of `budget_bytes`, which is for everything.
    pub fn default_bytes(budget_bytes: u64) -> u64 {
        budget_bytes / MEMORY_SHARE
    }

    /// The most that may be held, in bytes.
    pub fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    /// A share of nothing, which may grow.
    pub(crate) fn share(self: &Arc<Self>) -> Held {
        Held { bodies: Some(Arc::clone(self)), bytes: 0 }
    }

    /// What is held now, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes.load(Ordering::Relaxed)
    }

    /// Whether `bytes` more would be too many at present. Nothing is set aside for them.
    ///
    /// # Errors
    /// [`Exhausted`](ErrorKind::Exhausted), naming the setting.
    pub(crate) fn admits(&self, bytes: usize) -> Result<()> {
        let held = self.held_bytes.load(Ordering::Relaxed);
        if bytes > self.limit_bytes.saturating_sub(held) { Err(self.full()) } else { Ok(()) }
    }

    fn full(&self) -> Error {
        let limit = self.limit_bytes;
        let message = format!(
            "the bodies of other requests take all of the {limit} bytes that they may (bodies-bytes-max); try again soon"
        );
        Error::new(ErrorKind::Exhausted, message)
    }
}

impl Default for Bodies {
    fn default() -> Self {
        let limit_bytes = usize::try_from(Self::default_bytes(Budget::default_bytes())).unwrap_or(usize::MAX);
        Self { limit_bytes, held_bytes: AtomicUsize::new(0) }
    }
}

/// One request's share of [`Bodies`]: it grows with what arrives, and is given back when it is dropped. The default
/// one is of no budget and may grow without end, for requests that come over no network.
#[derive(Debug, Default)]
pub struct Held {
    bodies: Option<Arc<Bodies>>,
    bytes: usize,
}

impl Held {
    /// Takes `bytes` more.
    ///
    /// # Errors
    /// [`Exhausted`](ErrorKind::Exhausted) when there are not as many left; then the share is as before.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<()> {
        if let Some(bodies) = &self.bodies {
            // A sum of bytes in memory and nothing else: no other memory is read on the strength of it.
            let sum = |held: usize| held.checked_add(bytes).filter(|&sum| sum <= bodies.limit_bytes);
            bodies.held_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum).map_err(|_| bodies.full())?;
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Another share of the same budget, of `bytes`.
    ///
    /// # Errors
    /// As [`grow`](Self::grow).
    pub(crate) fn another(&self, bytes: usize) -> Result<Self> {
        let mut other = Self { bodies: self.bodies.clone(), bytes: 0 };
        other.grow(bytes)?;
        Ok(other)
    }

    /// Makes it a share of `bytes`: what a request takes is not the same after it was read.
    ///
    /// # Errors
    /// As [`grow`](Self::grow).
    pub(crate) fn resize(&mut self, bytes: usize) -> Result<()> {
        if bytes > self.bytes {
            return self.grow(bytes - self.bytes);
        }
        if let Some(bodies) = &self.bodies {
            bodies.held_bytes.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
        Ok(())
    }

    /// How many bytes it is.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// This share; what stays is one of nothing, of the same budget.
    pub(crate) fn take(&mut self) -> Self {
        let rest = Self { bodies: self.bodies.clone(), bytes: 0 };
        std::mem::replace(self, rest)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Getting smaller is never refused.
        let _ = self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_held_is_given_back_and_what_is_too_much_is_refused() {
        let bodies = Bodies::new(10);
        let mut one = bodies.share();
        one.grow(6).unwrap();
        let mut other = bodies.share();
        let refused = other.grow(5).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Exhausted);
        assert!(refused.message.contains("bodies-bytes-max"), "{refused}");
        assert_eq!((other.bytes(), bodies.held_bytes()), (0, 6));
        other.grow(4).unwrap();
        assert!(bodies.admits(0).is_ok() && bodies.admits(1).is_err());
        drop(one.take());
        assert_eq!((one.bytes(), bodies.held_bytes()), (0, 4));
        one.grow(6).unwrap();
        drop((one, other));
        assert_eq!(bodies.held_bytes(), 0);
        Held::default().grow(usize::MAX).unwrap();
    }

    proptest! {
        #[test]
        fn the_shares_add_up(steps in prop::collection::vec((0usize..4, any::<u8>()), 0..60)) {
            let bodies = Bodies::new(500);
            let mut shares: Vec<Held> = (0..4).map(|_| bodies.share()).collect();
            for (index, bytes) in steps {
                let _ = shares[index].resize(usize::from(bytes) * 2);
                let sum: usize = shares.iter().map(Held::bytes).sum();
                prop_assert_eq!(bodies.held_bytes(), sum);
                prop_assert!(sum <= 500);
            }
            drop(shares);
            prop_assert_eq!(bodies.held_bytes(), 0);
        }
    }
}
