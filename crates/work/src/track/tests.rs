//! What stays the same object, and what does not.

use proptest::prelude::*;

use super::*;

fn seen(class: u32, score: f32, x: f32, y: f32) -> Detected {
    Detected { class, score, box_px: [x - 20.0, y - 40.0, x + 20.0, y + 40.0] }
}

/// Frames of one object each, every 40 ms: its score, or none.
fn numbers(scores: &[Option<f32>]) -> Vec<Option<u64>> {
    let mut tracker = Tracker::new(0.4);
    // So that nothing is in the first frame, where one look is enough.
    tracker.step(0, &[]);
    let step = |(index, score): (i16, &Option<f32>)| {
        let found: Vec<_> = score.iter().map(|&score| seen(0, score, 100.0 + 2.0 * f32::from(index), 100.0)).collect();
        tracker.step(40_000 * (i64::from(index) + 1), &found).first().copied().flatten()
    };
    (0..).zip(scores).map(step).collect()
}

#[test]
fn an_object_has_a_number_from_its_second_look_on() {
    let (good, poor, bad) = (Some(0.9), Some(0.2), Some(0.05));
    let check = |scores: &[Option<f32>], want: &[Option<u64>]| assert_eq!(numbers(scores), want, "{scores:?}");
    check(&[good, good, good], &[None, Some(1), Some(1)]);
    // Once is nothing, and nothing begins with what is hardly seen or not much better than what is reported.
    check(&[good, None, good, good], &[None, None, None, Some(1)]);
    check(&[poor, poor, poor], &[None; 3]);
    check(&[Some(0.45), Some(0.45), Some(0.45)], &[None; 3]);
    // What is hardly seen goes on, and less than that does not.
    check(&[good, good, poor, poor, good], &[None, Some(1), Some(1), Some(1), Some(1)]);
    check(&[good, good, bad, good], &[None, Some(1), None, Some(1)]);
    check(&[good, good, None, None, good], &[None, Some(1), None, None, Some(1)]);
    // It comes back where it is well seen, not where it is hardly seen.
    check(&[good, good, None, poor, good], &[None, Some(1), None, None, Some(1)]);
}

#[test]
fn everything_in_the_first_frame_has_a_number_at_once() {
    let mut tracker = Tracker::new(0.4);
    let found = [seen(0, 0.9, 100.0, 100.0), seen(1, 0.8, 300.0, 100.0), seen(0, 0.3, 500.0, 100.0)];
    assert_eq!(tracker.step(0, &found), [Some(1), Some(2), None]);
    assert!(tracker.is_followed(2) && !tracker.is_followed(3));
}

#[test]
fn what_is_lost_is_waited_for_in_seconds() {
    let check = |gap_us: i64, every_us: i64, same: bool| {
        let mut tracker = Tracker::new(0.4);
        let found = [seen(0, 0.9, 100.0, 100.0)];
        tracker.step(0, &found);
        (1..=gap_us / every_us).for_each(|frame| drop(tracker.step(frame * every_us, &[])));
        let first = tracker.step(gap_us + every_us, &found)[0];
        let second = tracker.step(gap_us + 2 * every_us, &found)[0];
        assert_eq!((first == Some(1), second), (same, Some(if same { 1 } else { 2 })), "{gap_us} {every_us}");
    };
    check(1_000_000, 40_000, true);
    check(1_000_000, 10_000, true);
    check(1_200_000, 40_000, false);
    check(1_200_000, 10_000, false);
    // Frames that are far apart are waited for by their number.
    check(2_000_000, 2_000_000, true);
    check(6_000_000, 2_000_000, false);
}

#[test]
fn classes_are_not_mixed() {
    let mut tracker = Tracker::new(0.4);
    let at = |class| seen(class, 0.9, 100.0, 100.0);
    assert_eq!(tracker.step(0, &[at(0)]), [Some(1)]);
    assert_eq!(tracker.step(40_000, &[at(1)]), [None]);
    assert_eq!(tracker.step(80_000, &[at(1), at(0)]), [Some(2), Some(1)]);
}

/// A walker's place and speed in pixels and pixels per second; each has a lane of the picture of its own. None goes half its
/// width in the longest time without a good look, so that it is found by where it was before its speed is known.
fn walkers() -> impl Strategy<Value = Vec<(f32, f32)>> {
    prop::collection::vec((0f32..1000.0, -55f32..55.0), 1..8)
}

proptest! {
    #[test]
    fn walkers_keep_their_numbers(
        walkers in walkers(),
        frames in prop::collection::vec((10_000i64..120_000, prop::collection::vec(0u8..8, 8)), 10..60),
    ) {
        let mut tracker = Tracker::new(0.4);
        let mut time_us = 0;
        for (index, (passed_us, moods)) in frames.iter().enumerate() {
            time_us += passed_us;
            let at = |lane: usize, (start, speed): (f32, f32)| {
                // The first two looks are good; of three later ones the first is, the next may show hardly anything, the last nothing.
                let score = match moods[lane] {
                    0..=3 if index > 1 && index % 3 == 2 => return None,
                    4 if index > 1 && index % 3 == 1 => 0.2,
                    _ => 0.9,
                };
                Some((lane, seen(0, score, start + speed * time_us as f32 / 1e6, 100.0 * lane as f32)))
            };
            let found: Vec<_> = walkers.iter().enumerate().filter_map(|(lane, &walker)| at(lane, walker)).collect();
            let numbers = tracker.step(time_us, &found.iter().map(|&(_, one)| one).collect::<Vec<_>>());
            for ((lane, one), number) in found.iter().zip(numbers) {
                // What is hardly seen may have none.
                let wanted = Some(*lane as u64 + 1);
                prop_assert!(number == wanted || number.is_none() && one.score < 0.4, "{} {:?} {:?}", lane, number, one);
            }
        }
        prop_assert_eq!(tracker.numbered(), walkers.len() as u64);
    }

    #[test]
    fn whatever_is_found_each_number_is_one_objects(
        frames in prop::collection::vec(
            (-50_000i64..200_000, prop::collection::vec((0u32..2, 0f32..1.0, 0f32..200.0, 0f32..200.0, 0f32..80.0), 0..12)),
            0..20,
        )
    ) {
        let mut tracker = Tracker::new(0.4);
        let mut time_us = 0;
        for (passed_us, boxes) in frames {
            time_us += passed_us;
            let one = |&(class, score, x, y, side): &(u32, f32, f32, f32, f32)| Detected { class, score, box_px: [x, y, x + side, y + side] };
            let found: Vec<_> = boxes.iter().map(one).collect();
            let numbers = tracker.step(time_us, &found);
            prop_assert_eq!(numbers.len(), found.len());
            let mut given: Vec<u64> = numbers.iter().flatten().copied().collect();
            given.sort_unstable();
            let all = given.len();
            given.dedup();
            prop_assert_eq!(given.len(), all);
            prop_assert!(given.iter().all(|&number| (1..=tracker.numbered()).contains(&number)));
            for (number, one) in numbers.iter().zip(&found) {
                prop_assert!(number.is_none() || one.score >= LOW_SCORE);
            }
        }
    }
}
