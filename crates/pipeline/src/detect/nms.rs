//! Non-maximum suppression: of boxes of one class that overlap too much, the best one stays.

use super::{Detected, best_first};

/// The survivors of `found`, best first. Two of one class are one object when their intersection is more than `iou`
/// of their union. Takes time that grows with the square of the number of survivors at worst.
pub(super) fn suppress(mut found: Vec<Detected>, iou: f32) -> Vec<Detected> {
    found.sort_unstable_by(best_first);
    let mut kept: Vec<Detected> = Vec::new();
    for candidate in found {
        let is_double =
            |better: &Detected| better.class == candidate.class && overlap(&better.box_px, &candidate.box_px) > iou;
        if !kept.iter().any(is_double) {
            kept.push(candidate);
        }
    }
    kept
}

/// Intersection over union, from 0 to 1; 0 for boxes without an area.
fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let area = |r: &[f32; 4]| (r[2] - r[0]).max(0.0) * (r[3] - r[1]).max(0.0);
    let both = area(&[a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    let either = area(a) + area(b) - both;
    if either > 0.0 { both / either } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn overlaps_are_those_of_squared_paper() {
        let table = [
            ([0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0], 1.0),
            ([0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], 1.0 / 3.0),
            ([0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 2.0, 2.0], 1.0 / 16.0),
            ([0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0], 0.0),
            ([0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], 0.0),
            ([2.0, 2.0, 0.0, 0.0], [2.0, 2.0, 0.0, 0.0], 0.0),
            ([f32::NAN; 4], [0.0, 0.0, 2.0, 2.0], 0.0),
        ];
        for (a, b, want) in table {
            assert_eq!((overlap(&a, &b), overlap(&b, &a)), (want, want), "{a:?} {b:?}");
        }
    }

    #[test]
    fn the_best_of_a_class_stays() {
        let at = |class, score, x: f32| Detected { class, score, box_px: [x, 0.0, x + 10.0, 10.0] };
        let found = vec![at(0, 0.5, 1.0), at(1, 0.4, 0.0), at(0, 0.9, 0.0), at(0, 0.6, 100.0)];
        assert_eq!(suppress(found, 0.5), [at(0, 0.9, 0.0), at(0, 0.6, 100.0), at(1, 0.4, 0.0)]);
    }

    fn detected() -> impl Strategy<Value = Detected> {
        // Coarse places and scores, so that overlaps and ties are common.
        (0u32..3, 0u8..5, 0u8..8, 0u8..8, 1u8..6, 1u8..6).prop_map(|(class, score, x, y, w, h)| {
            let [x, y, w, h] = [x, y, w, h].map(f32::from);
            Detected { class, score: f32::from(score) / 5.0, box_px: [x, y, x + w, y + h] }
        })
    }

    proptest! {
        #[test]
        fn survivors_stand_apart_and_stay(
            found in prop::collection::vec(detected(), 0..40),
            iou in 0.0f32..1.0,
            turn in 0usize..40,
        ) {
            let kept = suppress(found.clone(), iou);
            for (i, a) in kept.iter().enumerate() {
                for b in &kept[i + 1..] {
                    prop_assert!(a.score >= b.score);
                    prop_assert!(a.class != b.class || overlap(&a.box_px, &b.box_px) <= iou);
                }
            }
            // What went was in the shadow of something at least as good that stayed.
            for gone in found.iter().filter(|d| !kept.contains(d)) {
                let shadow = |k: &Detected| k.class == gone.class && k.score >= gone.score && overlap(&k.box_px, &gone.box_px) > iou;
                prop_assert!(kept.iter().any(shadow));
            }
            prop_assert_eq!(&suppress(kept.clone(), iou), &kept);
            let mut turned = found.clone();
            turned.rotate_left(turn.min(found.len()));
            prop_assert_eq!(&suppress(turned, iou), &kept);
        }
    }
}
