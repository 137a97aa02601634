//! How long to wait before another try.

use std::time::Duration;

/// Pauses that double up to a limit, each shortened by chance so that those who failed together do not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pauses {
    /// The first, at most.
    pub first: Duration,
    /// Every one, at most.
    pub longest: Duration,
}

impl Pauses {
    /// The pause after so many failures, the first being 0; `chance` is from 0 to 1. Never less than half of what it could
    /// be, so that it means something.
    pub fn after(&self, failures: u32, chance: f64) -> Duration {
        let doubled = self.first.checked_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX));
        let whole = doubled.unwrap_or(self.longest).min(self.longest);
        whole.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end() {
        let ms = Duration::from_millis;
        let pauses = Pauses { first: ms(10), longest: ms(100) };
        for (failures, chance, want) in [
            (0, 1.0, 10),
            (0, 0.0, 5),
            (1, 1.0, 20),
            (3, 1.0, 80),
            (4, 1.0, 100),
            (4, 0.5, 75),
            (31, 1.0, 100),
            (32, 1.0, 100),
            (u32::MAX, 9.0, 100),
        ] {
            assert_eq!(pauses.after(failures, chance), ms(want), "{failures} {chance}");
        }
    }
}
