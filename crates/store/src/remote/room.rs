//! Which files of a cache go when another wants in. Pure.

/// What fetching from the store costs, as it was seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cost {
    /// Until the first byte.
    pub(super) latency_s: f64,
    /// From then on.
    pub(super) bytes_per_s: f64,
}

impl Default for Cost {
    /// A store in the same region, until it was seen.
    fn default() -> Self {
        Self { latency_s: 0.05, bytes_per_s: 100e6 }
    }
}

impl Cost {
    /// Of `bytes`, in seconds.
    pub(super) fn of(&self, bytes: u64) -> f64 {
        self.latency_s + bytes as f64 / self.bytes_per_s.max(1.0)
    }

    /// Learns that `bytes` took `seconds`.
    #[must_use]
    pub(super) fn learnt(self, bytes: u64, seconds: f64) -> Self {
        const WEIGHT: f64 = 0.1;
        let towards = |old: f64, new: f64| old + (new - old) * WEIGHT;
        // What is small tells how long one waits, what is large how fast it comes.
        if bytes < 64 << 10 {
            return Self { latency_s: towards(self.latency_s, seconds), ..self };
        }
        let moving = (seconds - self.latency_s).max(seconds / 10.0).max(1e-6);
        Self { bytes_per_s: towards(self.bytes_per_s, bytes as f64 / moving), ..self }
    }
}

/// A file of the cache.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kept {
    /// What it takes on disk.
    pub(super) bytes: u64,
    /// Since somebody needed it last.
    pub(super) idle_s: f64,
    /// Whether somebody needs it now.
    pub(super) held: bool,
}

/// Which of `kept` go so that `bytes` more fit into `budget`: those first that take most room for least good, which is how
/// long nobody needed them, by what it costs to have a byte of them back. `None` when there is not enough that may go.
pub(super) fn victims(kept: &[Kept], bytes: u64, budget: u64, cost: Cost) -> Option<Vec<usize>> {
    let all: u64 = kept.iter().map(|file| file.bytes).sum();
    let mut over = all.saturating_add(bytes).saturating_sub(budget);
    let worth = |file: &Kept| file.idle_s.max(0.001) * file.bytes as f64 / cost.of(file.bytes);
    let mut order: Vec<usize> = (0..kept.len()).filter(|&at| !kept[at].held && kept[at].bytes > 0).collect();
    order.sort_by(|&a, &b| worth(&kept[b]).total_cmp(&worth(&kept[a])));
    let mut going = Vec::new();
    for at in order {
        if over == 0 {
            break;
        }
        over = over.saturating_sub(kept[at].bytes);
        going.push(at);
    }
    (over == 0).then_some(going)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MB: u64 = 1 << 20;

    fn kept(bytes: u64, idle_s: f64) -> Kept {
        Kept { bytes, idle_s, held: false }
    }

    #[test]
    fn what_is_dear_to_have_back_stays() {
        let cost = Cost::default();
        let check = |kept: &[Kept], bytes: u64, want: Option<&[usize]>| {
            assert_eq!(victims(kept, bytes, 100 * MB, cost).as_deref(), want, "{kept:?}");
        };
        check(&[kept(50 * MB, 9.0)], 50 * MB, Some(&[]));
        // Of equals the one that nobody needed longest.
        check(&[kept(50 * MB, 5.0), kept(50 * MB, 9.0)], MB, Some(&[1]));
        // A small file costs a request however small it is, so a large one goes first.
        check(&[kept(MB, 9.0), kept(99 * MB, 5.0)], MB, Some(&[1]));
        // Not so when it was needed just now and the small ones were not for long.
        check(&[kept(10 * MB, 1e6), kept(90 * MB, 0.1)], MB, Some(&[0]));
        let held = Kept { held: true, ..kept(60 * MB, 1e9) };
        check(&[held.clone(), kept(40 * MB, 1.0)], 40 * MB, Some(&[1]));
        check(&[held, kept(40 * MB, 1.0)], 41 * MB, None);
        check(&[], 101 * MB, None);
    }

    #[test]
    fn costs_are_learnt() {
        let (mut near, mut far) = (Cost::default(), Cost::default());
        for _ in 0..200 {
            near = near.learnt(1000, 0.002).learnt(100 * MB, 0.1);
            far = far.learnt(1000, 0.3).learnt(100 * MB, 20.0);
        }
        assert!((near.latency_s - 0.002).abs() < 1e-4 && near.bytes_per_s > 9e8, "{near:?}");
        assert!((far.latency_s - 0.3).abs() < 1e-3 && far.bytes_per_s < 6e6, "{far:?}");
        assert!(far.of(MB) > 10.0 * near.of(MB));
    }

    proptest! {
        #[test]
        fn what_goes_makes_room_and_nobody_needs_it(
            files in prop::collection::vec((0u64..1000, 0.0..1e6, any::<bool>()), 0..50), bytes in 0u64..2000, budget in 0u64..20_000,
        ) {
            let kept: Vec<Kept> = files.into_iter().map(|(bytes, idle_s, held)| Kept { bytes, idle_s, held }).collect();
            let all: u64 = kept.iter().map(|file| file.bytes).sum();
            let fixed: u64 = kept.iter().filter(|file| file.held).map(|file| file.bytes).sum();
            match victims(&kept, bytes, budget, Cost::default()) {
                Some(going) => {
                    prop_assert!(going.iter().all(|&at| !kept[at].held));
                    let freed: u64 = going.iter().map(|&at| kept[at].bytes).sum();
                    prop_assert!(all - freed + bytes <= budget || all + bytes <= budget);
                }
                None => prop_assert!(fixed + bytes > budget),
            }
        }
    }
}
