//! What is held back for company, and which requests are company.

use super::*;

/// Until when a queue of `jobs` is held at `now`, in microseconds from it, with one lane; and the sizes of the batches
/// that it then gives, one after the other.
fn held(model: &Arc<Model>, jobs: Vec<Job>, now: Instant) -> (Option<u128>, Vec<usize>) {
    for items in [1, 2, 4, 8, 16] {
        model.costs().learn(items, Duration::from_millis(1));
    }
    let mut queue = Queue::new(Arc::clone(model));
    jobs.into_iter().zip(0..).for_each(|(job, age)| queue.push(Job { age, ..job }));
    let until = queue.hold(now, 1);
    let mut sizes = Vec::new();
    while queue.hold(now, 1).is_none() && !queue.is_empty() {
        sizes.push(queue.take(now, 1, u64::MAX).iter().map(Job::items).sum());
    }
    (until.map(|until| (until - now).as_micros()), sizes)
}

#[test]
fn a_batch_leaves_at_a_preferred_size_or_when_its_oldest_has_waited_long_enough() {
    let now = Instant::now();
    let us = Duration::from_micros;
    for (what, preferred, delay_us, ages_us, want) in [
        ("too few", &[4, 8][..], Some(1000), &[100, 0][..], (Some(900), vec![])),
        ("as many as preferred", &[4, 8], Some(1000), &[100; 4], (None, vec![4])),
        ("the largest that is reached; the rest waits", &[4, 8], Some(1000), &[100; 9], (None, vec![8])),
        ("more than one that is preferred", &[4, 8], Some(1000), &[100; 13], (None, vec![8, 4])),
        ("long enough", &[4, 8], Some(1000), &[1000, 0], (None, vec![2])),
        ("long enough, with everybody", &[4], Some(1000), &[1000, 0, 0, 0, 0], (None, vec![5])),
        ("no preference: until it is full", &[], Some(1000), &[0; 15], (Some(1000), vec![])),
        ("full", &[], Some(1000), &[0; 17], (None, vec![16])),
        ("never held, but of a preferred size", &[4], Some(0), &[0; 6], (None, vec![4, 2])),
        ("out of reach", &[32], Some(0), &[0; 3], (None, vec![3])),
        ("by itself: nothing known, nothing held", &[], None, &[0; 3], (None, vec![3])),
    ] {
        let serving =
            Serving { preferred_batch_sizes: preferred.to_vec(), max_queue_delay_us: delay_us, ..Serving::default() };
        let model = served(1, 16, serving);
        let job =
            |age_us: &u64| Job { submitted: now.checked_sub(us(*age_us)).unwrap(), ..with(&model, &[1, 4], &[0], 0) };
        assert_eq!(held(&model, ages_us.iter().map(job).collect(), now), want, "{what}");
    }
}

#[test]
fn what_cannot_go_together_or_has_no_time_is_not_held() {
    let now = Instant::now();
    let delayed = || served(1, 16, Serving { max_queue_delay_us: Some(50_000), ..Serving::default() });
    let at = |ms: u64| Some(now + Duration::from_millis(ms));
    let model = delayed();
    let job = |length: usize| Job { submitted: now, ..with(&model, &[1, length], &[0], 0) };
    assert_eq!(held(&model, vec![job(4), job(7)], now).0, None, "two lengths");
    assert_eq!(held(&model, vec![job(4), job(4)], now).0, Some(50_000), "one length");
    for (deadline, want_us) in [(at(1000), Some(50_000)), (at(21), Some(19_500)), (at(1), None)] {
        // A run of 16 takes 1 ms, of which half as much again is kept.
        let model = delayed();
        let job = Job { submitted: now, deadline, ..with(&model, &[1, 4], &[0], 0) };
        let other = Job { submitted: now, ..with(&model, &[1, 4], &[0], 0) };
        assert_eq!(held(&model, vec![other, job], now).0, want_us, "{deadline:?}");
    }
    let unknown = delayed();
    let mut queue = Queue::new(Arc::clone(&unknown));
    queue.push(Job { deadline: at(1000), ..with(&unknown, &[1, 4], &[0], 0) });
    assert_eq!(queue.hold(now, 1), None, "a deadline, and nothing known of runs");
}

/// A model that takes texts of any length, of whose runs it is known that each takes 30 ms and 1 ms a token.
fn padded(serving: Serving) -> Arc<Model> {
    let manifest: Manifest = serde_json::from_value(serde_json::json!({
        "format": 3, "name": "m", "version": 1, "source": {"format": "hugging-face", "hash": "", "bytes": 0},
        "program": {"hash": "", "kind": "lifted", "target": "portable"},
        "inputs": [], "outputs": [], "max_batch_size": 8, "padding": {"fill": [0], "mask": 0, "cut": [true]},
    }))
    .unwrap();
    let model = Model::unloaded(1, manifest, Settings { serving, ..Settings::default() }.into()).unwrap();
    for tokens in [10, 20, 100, 500].repeat(8) {
        model.lengths().learn(tokens, Duration::from_millis(30 + tokens as u64));
    }
    Arc::new(model)
}

#[test]
fn short_texts_go_with_short_ones_and_long_ones_alone() {
    let wanted = || Serving { preferred_batch_sizes: vec![2], ..Serving::default() };
    let (short, long) = ([1usize, 10], [1usize, 500]);
    for (what, serving, lengths, want) in [
        ("by length", Serving::default(), [Some(10), Some(500), Some(12), Some(9)], vec![vec![10, 9, 12], vec![500]]),
        (
            "what cannot be filled up",
            Serving::default(),
            [None, Some(500), Some(12), None],
            vec![vec![10, 10], vec![500], vec![12]],
        ),
        (
            "sizes that were asked for",
            wanted(),
            [Some(10), Some(500), Some(12), Some(10)],
            vec![vec![10, 10], vec![500], vec![12]],
        ),
    ] {
        let model = padded(serving);
        let job = |length: &Option<usize>| {
            let shape = length.map_or(short, |length| if length == 500 { long } else { [1, length] });
            Job { length: *length, ..with(&model, &shape, &[0], 0) }
        };
        let got = batches(&model, lengths.iter().map(job).collect());
        let got: Vec<Vec<usize>> = got.iter().map(|batch| batch.iter().map(|shape| shape[1]).collect()).collect();
        assert_eq!(got, want, "{what}");
    }
}

#[test]
fn texts_of_other_lengths_are_company_where_a_model_waits_for_some() {
    let now = Instant::now();
    for (delay_us, want) in [(Some(50_000), Some(50_000)), (None, None)] {
        let model = padded(Serving { max_queue_delay_us: delay_us, ..Serving::default() });
        let job = |length| Job { length: Some(length), submitted: now, ..with(&model, &[1, length], &[0], 0) };
        assert_eq!(held(&model, vec![job(4), job(7)], now).0, want);
    }
}

#[test]
fn a_lane_wakes_for_what_is_held_and_others_are_not_kept_from_it() {
    let serving = Serving { preferred_batch_sizes: vec![3], max_queue_delay_us: Some(1000), ..Serving::default() };
    let (model, other) = (served(1, 16, serving), model(2));
    [&model, &other].iter().for_each(|model| model.set_program(Arc::new(Program::new(Vec::new()))));
    let (mut queues, now) = (Queues::new(limits(8), 2), Instant::now());
    let later = |us: u64| now + Duration::from_micros(us);
    let waits = |us: u64| Job { submitted: later(us), ..with(&model, &[1, 4], &[0], 0) };
    assert_eq!(queues.push(waits(0)).unwrap(), Wake::Lane);
    assert!(matches!(queues.next_batch(now), Next::WaitUntil(until) if until == later(1000)));
    assert_eq!(queues.push(waits(10)).unwrap(), Wake::Nobody, "the lane wakes in time");
    // Another model does not wait for it, and the lane that takes it leaves the watch to one that sleeps.
    queues.push(Job { submitted: later(20), ..job(&other) }).unwrap();
    assert!(matches!(queues.next_batch(later(20)), Next::Do(batch) if batch[0].model.id() == 2));
    assert!(queues.wants_a_look());
    assert!(matches!(queues.next_batch(later(30)), Next::WaitUntil(until) if until == later(1000)));
    // A deadline brings the end forward; the third lets it go.
    let hurried = Job { deadline: Some(later(500)), ..waits(40) };
    model.costs().learn(1, Duration::from_micros(20));
    assert_eq!(queues.push(hurried).unwrap(), Wake::Lane);
    assert!(matches!(queues.next_batch(later(50)), Next::Do(batch) if batch.len() == 3));
    queues.finished(&other, Duration::ZERO);
    queues.finished(&model, Duration::ZERO);
    // At the end of a hold it goes with whoever is there; draining holds nothing back.
    queues.push(waits(100)).unwrap();
    assert!(matches!(queues.next_batch(later(100)), Next::WaitUntil(until) if until == later(1100)));
    assert!(matches!(queues.next_batch(later(1100)), Next::Do(batch) if batch.len() == 1));
    assert!(queues.finished(&model, Duration::ZERO));
    queues.push(waits(2000)).unwrap();
    assert!(matches!(queues.next_batch(later(2000)), Next::WaitUntil(_)));
    queues.drain();
    assert!(matches!(queues.next_batch(later(2001)), Next::Do(_)));
    assert!(queues.finished(&model, Duration::ZERO));
}
