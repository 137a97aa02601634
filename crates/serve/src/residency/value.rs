//! What goes when memory is short: whatever is worth least there.
//!
//! Something is worth the waiting that it spares: how often it is asked for, times what bringing it back takes, for each
//! byte that it occupies. Pure: no clock, no lock, no model.

/// Something in memory that could go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Holding<K> {
    pub(crate) key: K,
    /// How often it is asked for, in requests a second.
    pub(crate) rate_hz: f64,
    /// What the request that finds it gone waits, in milliseconds.
    pub(crate) cost_ms: f64,
    /// What its going frees.
    pub(crate) bytes: u64,
    /// Its model is kept whatever happens.
    pub(crate) pinned: bool,
    /// A request needs it now, so that its going would free nothing.
    pub(crate) in_use: bool,
    /// Only quicker than what is there besides: nobody waits when it is gone, so it goes before anything else.
    pub(crate) spare: bool,
}

impl<K> Holding<K> {
    /// Whether it may go at all.
    pub(crate) fn may_go(&self) -> bool {
        !self.pinned && !self.in_use && self.bytes > 0
    }

    /// Milliseconds of waiting that each byte of it spares in a second.
    pub(crate) fn value(&self) -> f64 {
        self.rate_hz * self.cost_ms / self.bytes.max(1) as f64
    }
}

/// Which of `holdings` go, to free `bytes`: those of the least value, and none more than it takes. When all that may go is
/// not enough, all that may go.
pub(crate) fn that_go<K>(holdings: &[Holding<K>], bytes: u64) -> Vec<&Holding<K>> {
    let mut order: Vec<&Holding<K>> = holdings.iter().filter(|holding| holding.may_go()).collect();
    order.sort_by(|a, b| b.spare.cmp(&a.spare).then(a.value().total_cmp(&b.value())));
    let mut freed = 0u64;
    let enough = order.iter().position(|holding| {
        freed = freed.saturating_add(holding.bytes);
        freed >= bytes
    });
    order.truncate(match (bytes, enough) {
        (0, _) => 0,
        (_, Some(last)) => last + 1,
        (_, None) => order.len(),
    });
    // The last ones may be so large that some before them can stay; of those the most valuable.
    let mut surplus = freed.saturating_sub(bytes);
    let only_spare = order.last().is_some_and(|holding| holding.spare);
    let mut going = Vec::with_capacity(order.len());
    for holding in order.into_iter().rev() {
        if holding.bytes <= surplus && holding.spare == only_spare && enough.is_some() {
            surplus -= holding.bytes;
        } else {
            going.push(holding);
        }
    }
    going.reverse();
    going
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holding(key: usize, rate_hz: f64, cost_ms: f64, bytes: u64) -> Holding<usize> {
        Holding { key, rate_hz, cost_ms, bytes, pinned: false, in_use: false, spare: false }
    }

    fn keys(holdings: &[Holding<usize>], bytes: u64) -> Vec<usize> {
        that_go(holdings, bytes).into_iter().map(|holding| holding.key).collect()
    }

    #[test]
    fn the_least_valuable_go() {
        let all = [
            holding(0, 10.0, 1.0, 100),
            holding(1, 1.0, 1.0, 100),
            holding(2, 1.0, 50.0, 100),
            holding(3, 1.0, 1.0, 1000),
            Holding { pinned: true, ..holding(4, 0.0, 1.0, 100) },
            Holding { in_use: true, ..holding(5, 0.0, 1.0, 100) },
            holding(6, 0.0, 1.0, 0),
        ];
        for (bytes, want) in [
            (0, &[][..]),
            (1, &[3]),
            (1000, &[3]),
            (1001, &[3, 1]),
            (1100, &[3, 1]),
            (1101, &[3, 1, 0]),
            (1300, &[3, 1, 0, 2]),
            (u64::MAX, &[3, 1, 0, 2]),
        ] {
            assert_eq!(keys(&all, bytes), want, "{bytes} bytes");
        }
        assert!(keys(&[], 5).is_empty());
    }

    #[test]
    fn what_is_only_quicker_goes_first_and_what_need_not_go_stays() {
        let spare = Holding { spare: true, ..holding(0, 1000.0, 1000.0, 10) };
        assert_eq!(keys(&[holding(1, 0.0, 0.0, 10), spare], 10), [0]);
        assert_eq!(keys(&[holding(1, 0.0, 0.0, 10), spare], 11), [0, 1]);
        // The second frees all that is wanted, so the first can stay.
        assert_eq!(keys(&[holding(1, 1.0, 1.0, 1), holding(2, 10.0, 2.0, 10)], 10), [2]);
    }

    fn any_holdings() -> impl Strategy<Value = Vec<Holding<usize>>> {
        let one = (0.0f64..100.0, 0.0f64..1000.0, 0u64..1 << 40, 0u8..8).prop_map(|(rate_hz, cost_ms, bytes, bits)| {
            let (pinned, in_use, spare) = (bits & 1 == 1, bits & 2 == 2, bits & 4 == 4);
            Holding { key: 0, rate_hz, cost_ms, bytes, pinned, in_use, spare }
        });
        prop::collection::vec(one, 0..60).prop_map(|mut all| {
            all.iter_mut().enumerate().for_each(|(key, holding)| holding.key = key);
            all
        })
    }

    proptest! {
        #[test]
        fn enough_goes_and_nothing_in_vain(all in any_holdings(), bytes in 0u64..1 << 44) {
            let going = keys(&all, bytes);
            let freed: u64 = going.iter().map(|&key| all[key].bytes).sum();
            let possible: u64 = all.iter().filter(|holding| holding.may_go()).map(|holding| holding.bytes).sum();
            prop_assert!(going.iter().all(|&key| all[key].may_go()));
            prop_assert!(freed >= bytes.min(possible), "{} of {} freed", freed, bytes);
            let unique: std::collections::HashSet<_> = going.iter().collect();
            prop_assert_eq!(unique.len(), going.len());
            if freed > bytes {
                let only_spare = going.iter().all(|&key| all[key].spare);
                for &key in going.iter().filter(|&&key| all[key].spare == only_spare) {
                    prop_assert!(freed - all[key].bytes < bytes, "{} goes in vain", key);
                }
            }
        }

        #[test]
        fn nothing_that_stays_was_worth_less_unless_it_is_too_small_to_help(all in any_holdings(), bytes in 1u64..1 << 44) {
            let going = keys(&all, bytes);
            let largest = going.iter().map(|&key| all[key].bytes).max().unwrap_or(0);
            let dearest = going.iter().filter(|&&key| !all[key].spare).map(|&key| all[key].value()).fold(0.0, f64::max);
            for holding in all.iter().filter(|holding| holding.may_go() && !going.contains(&holding.key)) {
                prop_assert!(!holding.spare || going.iter().all(|&key| all[key].spare));
                if holding.value() < dearest {
                    prop_assert!(holding.bytes < largest, "{} stays", holding.key);
                }
            }
        }

        #[test]
        fn the_order_of_the_question_does_not_matter(all in any_holdings(), bytes in 0u64..1 << 44, turn in 0usize..60) {
            let mut turned = all.clone();
            let middle = turn.min(all.len());
            turned.rotate_left(middle);
            let sum = |going: Vec<usize>| going.iter().map(|&key| all[key].bytes).sum::<u64>();
            prop_assert_eq!(sum(keys(&all, bytes)), sum(keys(&turned, bytes)));
        }
    }
}
