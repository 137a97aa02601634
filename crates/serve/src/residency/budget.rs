//! The memory budget: what is taken, by whom, and whether there is room for more.
//!
//! Whoever keeps memory for models holds a [`Charge`], which is given back when the last user of that memory is gone and
//! not before. What nobody is charged for (the process itself, what runs in progress need, free parts of the heap) is the
//! rest of what the kernel counts, so that the sum is true whatever is left out. Pages of mapped weights count as well,
//! last: they are taken back without anybody's doing when something needs their room.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use engine::memory::{self, Usage};

use crate::Bodies;

/// Of the memory at hand so much is left to the system: page tables, sockets, what grows between two looks.
const RESERVE_SHARE: u64 = 16;
/// The reserve at least and at most, in bytes.
const RESERVE_BYTES: (u64, u64) = (64 << 20, 2 << 30);

/// What memory is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryKind {
    /// Sessions of programs that models share.
    Programs,
    /// Sessions with one model's weights inside.
    Whole,
    /// What pointing at mapped weights takes.
    Weights,
    /// Sessions of hot models, whose weights are mapped.
    Hot,
}

impl MemoryKind {
    /// Every kind, in the order of the declaration.
    pub const ALL: [Self; 4] = [Self::Programs, Self::Whole, Self::Weights, Self::Hot];
}

/// The bytes that this process may take for everything.
#[derive(Debug)]
pub struct Budget {
    limit_bytes: u64,
    /// What requests' bodies may take; set once, when the server knows its listeners.
    bodies: OnceLock<Arc<Bodies>>,
    /// Changed by whoever charges or gives back, and by each look. Locked for nanoseconds.
    books: Mutex<Books>,
    /// Something was given back.
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Books {
    /// By kind.
    charged: [u64; MemoryKind::ALL.len()],
    /// Private memory that nobody is charged for, at the last look.
    other: u64,
    /// Pages of mapped files, at the last look.
    mapped: u64,
    /// Bytes of weights that were mapped since, whose pages may have come in.
    mapping: u64,
}

impl Books {
    fn charged(&self) -> u64 {
        self.charged.iter().sum()
    }
}

/// What is taken, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryFigures {
    /// What may be.
    pub limit_bytes: u64,
    /// By [`MemoryKind`].
    pub charged_bytes: [u64; MemoryKind::ALL.len()],
    /// Requests' bodies.
    pub bodies_bytes: u64,
    /// What bodies may take and do not.
    pub set_aside_bytes: u64,
    /// Private memory that is none of these.
    pub other_bytes: u64,
    /// Pages of mapped files.
    pub mapped_bytes: u64,
}

impl MemoryFigures {
    /// What nobody but this process can give back.
    pub fn private_bytes(&self) -> u64 {
        self.charged_bytes.iter().sum::<u64>() + self.bodies_bytes + self.other_bytes
    }
}

impl Budget {
    /// A budget of `limit_bytes`.
    pub fn new(limit_bytes: u64) -> Arc<Self> {
        let (bodies, books, freed) = (OnceLock::new(), Mutex::default(), Condvar::new());
        Arc::new(Self { limit_bytes, bodies, books, freed })
    }

    /// The budget when nobody says otherwise, in bytes: the memory that this process may use but for a reserve, which is a
    /// sixteenth of it, at least 64 MiB and at most 2 GiB.
    pub fn default_bytes() -> u64 {
        let allowed = memory::allowed_bytes();
        let (least, most) = RESERVE_BYTES;
        allowed.saturating_sub((allowed / RESERVE_SHARE).clamp(least, most))
    }

    /// What everything together may take, in bytes.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// Keeps from models what `bodies` may take. The first call holds.
    pub fn set_aside(&self, bodies: &Arc<Bodies>) {
        let _ = self.bodies.set(Arc::clone(bodies));
    }

    /// What models could have if there were nothing else: the budget without what is set aside.
    pub(crate) fn for_models_bytes(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.bodies().map_or(0, |bodies| bodies.limit_bytes() as u64))
    }

    /// Takes `bytes` of private memory, when there are as many.
    ///
    /// # Errors
    /// The bytes that are missing.
    pub(crate) fn charge(self: &Arc<Self>, kind: MemoryKind, bytes: u64) -> Result<Charge, u64> {
        let mut books = self.books();
        let missing = (books.charged() + books.other + bytes).saturating_sub(self.for_models_bytes());
        if missing > 0 {
            return Err(missing);
        }
        books.charged[kind as usize] += bytes;
        Ok(Charge { budget: Arc::clone(self), kind, bytes })
    }

    /// Notes what the process takes at present.
    pub(crate) fn look(&self, usage: Usage) {
        let held = self.held_bytes();
        let mut books = self.books();
        books.other = usage.private_bytes.saturating_sub(books.charged() + held);
        (books.mapped, books.mapping) = (usage.mapped_bytes, 0);
    }

    /// Notes that weights of so many bytes were mapped. Whether there may be too much in memory with them.
    pub(crate) fn mapping(&self, bytes: u64) -> bool {
        let held = self.held_bytes();
        let mut books = self.books();
        books.mapping += bytes;
        books.charged() + books.other + held + books.mapped + books.mapping > self.limit_bytes
    }

    /// How much more is in memory than may be, pages of mapped files included, as of the last look.
    pub(crate) fn excess_bytes(&self) -> u64 {
        let figures = self.figures();
        (figures.private_bytes() + figures.mapped_bytes).saturating_sub(self.limit_bytes)
    }

    /// Waits until something is given back, at the most for `patience`.
    pub(crate) fn wait(&self, patience: Duration) {
        // Whatever woke it, the caller asks again.
        drop(self.freed.wait_timeout(self.books(), patience));
    }

    /// What is taken, as of the last look.
    pub(crate) fn figures(&self) -> MemoryFigures {
        let (held, aside) = (self.held_bytes(), self.bodies().map_or(0, |bodies| bodies.limit_bytes() as u64));
        let books = self.books();
        MemoryFigures {
            limit_bytes: self.limit_bytes,
            charged_bytes: books.charged,
            bodies_bytes: held,
            set_aside_bytes: aside.saturating_sub(held),
            other_bytes: books.other,
            mapped_bytes: books.mapped,
        }
    }

    fn held_bytes(&self) -> u64 {
        self.bodies().map_or(0, |bodies| bodies.held_bytes() as u64)
    }

    fn bodies(&self) -> Option<&Arc<Bodies>> {
        self.bodies.get()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // Sums, which are right whatever panicked between them.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory that is kept for something; given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    kind: MemoryKind,
    bytes: u64,
}

impl Charge {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes it what the memory is now known to be, which is there whether there is room or not.
    pub(crate) fn set(&mut self, bytes: u64) {
        let mut books = self.budget.books();
        let charged = &mut books.charged[self.kind as usize];
        *charged = charged.saturating_sub(self.bytes).saturating_add(bytes);
        drop(books);
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
        self.budget.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn look(budget: &Budget, private_bytes: u64, mapped_bytes: u64) {
        budget.look(Usage { private_bytes, mapped_bytes });
    }

    #[test]
    fn what_is_charged_is_never_more_than_there_is() {
        let budget = Budget::new(100);
        let mut one = budget.charge(MemoryKind::Programs, 60).unwrap();
        assert_eq!(budget.charge(MemoryKind::Whole, 50).unwrap_err(), 10);
        let other = budget.charge(MemoryKind::Whole, 40).unwrap();
        assert_eq!(budget.charge(MemoryKind::Weights, 1).unwrap_err(), 1);
        one.set(10);
        let third = budget.charge(MemoryKind::Weights, 50).unwrap();
        assert_eq!(budget.figures().charged_bytes, [10, 40, 50, 0]);
        drop((one, other));
        assert_eq!((budget.figures().charged_bytes, third.bytes()), ([0, 0, 50, 0], 50));
    }

    #[test]
    fn what_nobody_is_charged_for_takes_room_as_well() {
        let budget = Budget::new(100);
        let charge = budget.charge(MemoryKind::Weights, 30).unwrap();
        look(&budget, 70, 20);
        assert_eq!((budget.figures().other_bytes, budget.excess_bytes()), (40, 0));
        assert_eq!(budget.charge(MemoryKind::Weights, 40).unwrap_err(), 10);
        look(&budget, 70, 50);
        assert_eq!(budget.excess_bytes(), 20);
        // Pages that can be taken back do not keep anybody out.
        let second = budget.charge(MemoryKind::Weights, 30).unwrap();
        assert!(!Budget::new(100).mapping(100) && budget.mapping(1));
        drop((charge, second));
        // What was charged and is not in memory yet is no debt of the others.
        let large = budget.charge(MemoryKind::Whole, 50).unwrap();
        look(&budget, 20, 0);
        assert_eq!((budget.figures().other_bytes, large.bytes()), (0, 50));
    }

    #[test]
    fn bodies_have_their_share_whether_they_use_it_or_not() {
        let (budget, bodies) = (Budget::new(100), Bodies::new(40));
        budget.set_aside(&bodies);
        assert_eq!((budget.for_models_bytes(), budget.charge(MemoryKind::Whole, 61).unwrap_err()), (60, 1));
        let mut share = bodies.share();
        share.grow(10).unwrap();
        look(&budget, 10, 70);
        let figures = budget.figures();
        assert_eq!((figures.bodies_bytes, figures.set_aside_bytes, figures.other_bytes), (10, 30, 0));
        assert_eq!((figures.private_bytes(), budget.excess_bytes()), (10, 0));
        look(&budget, 10, 91);
        assert_eq!(budget.excess_bytes(), 1);
    }

    #[test]
    fn a_default_leaves_a_reserve() {
        let (allowed, budget) = (memory::allowed_bytes(), Budget::default_bytes());
        assert!(budget < allowed && budget > allowed / 2, "{budget} of {allowed}");
    }

    proptest! {
        #[test]
        fn charges_add_up(steps in prop::collection::vec((0usize..5, 0usize..4, 0u64..300), 0..80)) {
            let budget = Budget::new(500);
            let mut charges: Vec<Option<Charge>> = (0..5).map(|_| None).collect();
            for (place, kind, bytes) in steps {
                charges[place] = None;
                charges[place] = budget.charge(MemoryKind::ALL[kind], bytes).ok();
                let sum: u64 = charges.iter().flatten().map(Charge::bytes).sum();
                prop_assert_eq!(budget.figures().charged_bytes.iter().sum::<u64>(), sum);
                prop_assert!(sum <= 500);
            }
            drop(charges);
            prop_assert_eq!(budget.figures().charged_bytes, [0; 4]);
        }
    }
}
