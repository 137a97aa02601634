//! How much more than asked for may be sent: a share of the calls, so that trouble is not made worse by those it meets.

/// A share of the calls, saved up to a limit.
///
/// After any number of calls, no more than `reserve + calls * per_mille / 1000` were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    per_mille: u64,
    saved_max: u64,
    /// In thousandths.
    saved: u64,
}

impl Budget {
    /// A budget of `per_mille` of the calls, with `reserve` to begin with; `saved_max` is the most that is kept.
    pub fn new(per_mille: u64, reserve: u64, saved_max: u64) -> Self {
        Self { per_mille, saved_max: saved_max * 1000, saved: reserve.min(saved_max) * 1000 }
    }

    /// Counts a call.
    pub fn called(&mut self) {
        self.saved = (self.saved + self.per_mille).min(self.saved_max);
    }

    /// Takes one more, if there is one.
    pub fn take(&mut self) -> bool {
        let left = self.saved.checked_sub(1000);
        self.saved = left.unwrap_or(self.saved);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_more_is_taken_than_its_share(per_mille in 0u64..1000, reserve in 0u64..20, spare in 0u64..20,
            wishes in prop::collection::vec(0u8..4, 0..400)) {
            let mut budget = Budget::new(per_mille, reserve, reserve + spare);
            let (mut calls, mut taken) = (0, 0);
            for wish in wishes {
                budget.called();
                calls += 1;
                taken += (0..wish).filter(|_| budget.take()).count() as u64;
                prop_assert!(taken * 1000 <= reserve * 1000 + calls * per_mille);
            }
        }
    }

    #[test]
    fn what_was_saved_can_be_had() {
        let mut budget = Budget::new(200, 1, 2);
        assert!(budget.take() && !budget.take());
        (0..5).for_each(|_| budget.called());
        assert!(budget.take() && !budget.take());
        (0..500).for_each(|_| budget.called());
        assert!(budget.take() && budget.take() && !budget.take(), "no more than two are kept");
    }
}
