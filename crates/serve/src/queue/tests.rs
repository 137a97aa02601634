//! The decisions, one by one, and at random against what must always hold.

use engine::{ErrorKind, Tensor};
use proptest::prelude::*;
use store::repository::Settings;
use store::{Manifest, Serving};
use tokio::sync::oneshot;

use super::*;
use crate::InferResponse;
use crate::bodies::Held;
use crate::reply::Reply;
use crate::residency::{AtHand, Program};

mod holds;
mod kin;

struct Nobody;

impl Reply for Nobody {
    fn gone(&self) -> bool {
        false
    }
    fn send(self: Box<Self>, _: Result<InferResponse>) {}
}

struct Gone;

impl Reply for Gone {
    fn gone(&self) -> bool {
        true
    }
    fn send(self: Box<Self>, _: Result<InferResponse>) {}
}

fn model(id: u64) -> Arc<Model> {
    batched(id, 0)
}

pub(crate) fn batched(id: u64, max_batch_size: u64) -> Arc<Model> {
    served(id, max_batch_size, Serving::default())
}

fn served(id: u64, max_batch_size: u64, serving: Serving) -> Arc<Model> {
    let manifest: Manifest = serde_json::from_value(serde_json::json!({
        "format": 1, "name": format!("m{id}"), "version": 1,
        "source": {"format": "onnx", "hash": "", "bytes": 0},
        "program": {"hash": "", "kind": "lifted", "target": "portable"},
        "inputs": [], "outputs": [], "max_batch_size": max_batch_size,
    }))
    .unwrap();
    Arc::new(Model::unloaded(id, manifest, Settings { serving, ..Settings::default() }.into()).unwrap())
}

pub(crate) fn job(model: &Arc<Model>) -> Job {
    Job {
        model: Arc::clone(model),
        inputs: Vec::new(),
        outputs: Vec::new(),
        length: None,
        priority: 0,
        deadline: None,
        submitted: Instant::now(),
        age: 0,
        was_put_back: false,
        reply: Box::new(Nobody),
        held: Held::default(),
    }
}

fn program() -> Option<Arc<Program>> {
    Some(Arc::new(Program::new(Vec::new())))
}

fn limits(capacity: usize) -> QueueLimits {
    QueueLimits { capacity, ..QueueLimits::default() }
}

#[test]
fn a_cold_model_asks_the_loader_once_and_its_jobs_wait_for_it() {
    let (mut queues, cold) = (Queues::new(limits(8), 1), model(1));
    assert_eq!(queues.push(job(&cold)).unwrap(), Wake::Loader);
    assert_eq!(queues.push(job(&cold)).unwrap(), Wake::Nobody);
    assert!(matches!(queues.next_batch(Instant::now()), Next::Wait));
    assert!(matches!(queues.next_load(), Next::Do(model) if model.id() == 1));
    assert!(matches!(queues.next_load(), Next::Wait));
    assert!(queues.loaded(1, program()).refused.is_empty());
    assert!(matches!(queues.next_batch(Instant::now()), Next::Do(_)));
    assert!(matches!(queues.next_batch(Instant::now()), Next::Do(_)));
    assert!(matches!(queues.next_batch(Instant::now()), Next::Wait));
    assert!(!queues.finished(&cold, Duration::ZERO));
    assert!(queues.finished(&cold, Duration::ZERO));
}

#[test]
fn a_failed_load_gives_every_waiting_job_back_and_the_next_request_tries_again() {
    let (mut queues, cold) = (Queues::new(limits(8), 1), model(1));
    queues.push(job(&cold)).unwrap();
    queues.push(job(&cold)).unwrap();
    assert!(matches!(queues.next_load(), Next::Do(_)));
    assert_eq!(queues.loaded(1, None).refused.len(), 2);
    assert!(queues.is_idle());
    assert_eq!(queues.push(job(&cold)).unwrap(), Wake::Loader);
}

#[test]
fn a_model_is_fetched_once_and_nobody_waits_longer_for_it_than_he_may() {
    let limits = QueueLimits { time_limit: Duration::from_secs(30), ..limits(8) };
    let (mut queues, far) = (Queues::new(limits, 1), model(1));
    let now = Instant::now();
    queues.push(job(&far)).unwrap();
    assert!(matches!(queues.next_load(), Next::Do(_)));
    assert!(queues.fetch(Arc::clone(&far)) && !queues.fetch(Arc::clone(&far)), "wanted twice");
    assert!(matches!(queues.next_fetch(), Next::Do(model) if model.id() == 1));
    assert!(matches!((queues.next_fetch(), queues.next_load()), (Next::Wait, Next::Wait)));
    assert!(queues.tired(now).is_empty());
    let tired = queues.tired(now + Duration::from_secs(31));
    assert_eq!(tired.into_iter().map(|(_, why)| why.kind).collect::<Vec<_>>(), [ErrorKind::DeadlineExceeded]);
    assert!(queues.is_idle(), "a drain waits for a download that nobody wants");
    // Who comes while it is fetched waits for the same.
    queues.push(job(&far)).unwrap();
    assert!(matches!(queues.next_load(), Next::Do(_)));
    assert!(!queues.fetch(Arc::clone(&far)));
    assert!(queues.fetched(1, Some(AtHand::default())).is_empty(), "nobody asked to be told");
    assert!(!queues.is_fetching() && matches!(queues.next_load(), Next::Do(_)));
    assert!(queues.loaded(1, program()).refused.is_empty());
    assert!(matches!(queues.next_batch(Instant::now()), Next::Do(_)));
    // One that cannot be had leaves nothing to wait for.
    assert!(queues.fetch(model(2)));
    assert!(queues.fetched(2, None).is_empty());
    assert!(!queues.is_fetching() && matches!(queues.next_load(), Next::Wait));
}

#[test]
fn who_waits_for_weights_is_in_line_where_he_was_and_takes_no_lane() {
    let (mut queues, away, other) = (Queues::new(limits(8), 2), model(1), model(2));
    let asked =
        |width: usize| Job { inputs: vec![Tensor::from_f32(vec![width], vec![0.0; width]).unwrap()], ..job(&away) };
    let width = |batch: &Batch| batch[0].inputs[0].shape()[0];
    for model in [&away, &other] {
        model.set_program(Arc::new(Program::new(Vec::new())));
    }
    for width in 1..=3 {
        queues.push(asked(width)).unwrap();
    }
    let take = |queues: &mut Queues| match queues.next_batch(Instant::now()) {
        Next::Do(batch) => batch,
        _ => panic!("nothing to run"),
    };
    // Two lanes have one each, and find the weights away.
    let (first, second) = (take(&mut queues), take(&mut queues));
    assert!(queues.put_back(second, &away, Duration::ZERO).is_empty());
    assert!(queues.put_back(first, &away, Duration::ZERO).is_empty());
    assert_eq!(queues.push(asked(4)).unwrap(), Wake::Nobody, "it waits for the same");
    queues.push(job(&other)).unwrap();
    let batch = take(&mut queues);
    assert_eq!(batch[0].model.id(), 2, "both lanes are free for others");
    assert!(!queues.finished(&other, Duration::ZERO));
    assert!(matches!(queues.next_batch(Instant::now()), Next::Wait) && !queues.has_work());
    assert!(matches!(queues.next_read(), Next::Do(model) if model.id() == 1));
    assert!(matches!(queues.next_read(), Next::Wait), "one reads, however many wait");
    assert!(queues.tired(Instant::now()).is_empty());
    let loaded = queues.read(1);
    assert!(loaded.refused.is_empty() && loaded.asked.is_some() && !queues.is_fetching());
    for place in 1..=4 {
        let batch = take(&mut queues);
        assert_eq!((width(&batch), batch[0].was_put_back), (place, place < 3));
        queues.finished(&away, Duration::ZERO);
    }
    assert!(queues.is_idle());
    // Who has waited too long does not wait for the disk, and who comes when everybody was sent home is given back.
    queues.push(asked(1)).unwrap();
    let batch = take(&mut queues);
    assert!(queues.put_back(batch, &away, Duration::ZERO).is_empty());
    let tired = queues.tired(Instant::now() + QueueLimits::default().time_limit * 2);
    assert_eq!(tired.into_iter().map(|(_, why)| why.kind).collect::<Vec<_>>(), [ErrorKind::DeadlineExceeded]);
    assert!(queues.read(1).asked.is_none(), "nobody waits any more");
    queues.push(asked(1)).unwrap();
    let batch = take(&mut queues);
    assert!(queues.stop().is_empty() && matches!(queues.next_read(), Next::Leave));
    assert_eq!(queues.put_back(batch, &away, Duration::ZERO).len(), 1);
}

#[test]
fn who_has_no_queue_yet_is_told_of_files_and_no_more_than_may_wait() {
    let (mut queues, far) = (Queues::new(limits(2), 1), model(1));
    let wait = |queues: &mut Queues| {
        let (waiter, files) = oneshot::channel();
        (queues.fetch_for(Arc::clone(&far), waiter).map_err(|error| error.kind), files)
    };
    let (first, second) = (wait(&mut queues), wait(&mut queues));
    assert_eq!((first.0, second.0, wait(&mut queues).0), (Ok(true), Ok(false), Err(ErrorKind::Exhausted)));
    // Somebody goes, and leaves a place.
    drop(first.1);
    let third = wait(&mut queues);
    assert_eq!(third.0, Ok(false));
    assert!(matches!(queues.next_fetch(), Next::Do(_)));
    assert_eq!(queues.fetched(1, Some(AtHand::default())).len(), 2);
    assert!(queues.fetched(1, None).is_empty(), "told twice");
    assert!(!queues.is_fetching() && matches!(queues.next_load(), Next::Wait), "there is no job to load it for");
    // Nobody comes any more, and who is there is sent home.
    let last = wait(&mut queues);
    queues.drain();
    assert_eq!((last.0, wait(&mut queues).0), (Ok(true), Err(ErrorKind::Unavailable)));
    queues.stop();
    assert!(last.1.blocking_recv().is_err());
}

#[test]
fn a_full_queue_refuses_by_name_and_another_models_queue_does_not_care() {
    let (mut queues, one, other) = (Queues::new(limits(2), 1), model(1), model(2));
    queues.push(job(&one)).unwrap();
    queues.push(job(&one)).unwrap();
    let refusal = queues.push(job(&one)).unwrap_err();
    assert_eq!(refusal.kind, ErrorKind::Exhausted);
    assert!(refusal.message.contains("'m1'"), "{refusal}");
    assert!(queues.push(job(&other)).is_ok());
}

#[test]
fn a_guest_breathes_while_lanes_have_enough_to_do() {
    for (what, capacity, cost_us, busy, want_us) in [
        ("much work", 16, 1400, true, Some(2000)),
        ("less of it", 16, 400, true, Some(800)),
        ("what is over before anybody wakes", 16, 3, true, None),
        ("a lane that has yet to come", 16, 1400, false, None),
    ] {
        let (mut queues, model) = (Queues::new(limits(capacity), 1), model(1));
        (0..8).for_each(|_| model.costs().learn(1, Duration::from_micros(cost_us)));
        queues.push(job(&model)).unwrap();
        assert!(matches!(queues.next_load(), Next::Do(_)));
        queues.loaded(1, program());
        if busy {
            assert!(matches!(queues.next_batch(Instant::now()), Next::Do(_)));
        }
        while queues.push(job(&model)).is_ok() {}
        assert_eq!(queues.breath(&model), want_us.map(Duration::from_micros), "{what}");
    }
}

fn with(model: &Arc<Model>, shape: &[usize], outputs: &[usize], priority: u32) -> Job {
    let count = shape.iter().product();
    let input = Tensor::from_f32(shape.to_vec(), vec![0.0; count]).unwrap();
    Job { inputs: vec![input], outputs: outputs.to_vec(), priority, ..job(model) }
}

/// The sizes of the batches that one lane takes, one after the other, of `jobs` that all wait already.
fn batches(model: &Arc<Model>, jobs: Vec<Job>) -> Vec<Vec<Vec<usize>>> {
    // Runs cost the same whatever their size, so the larger the better.
    for items in [1, 2, 4, 8] {
        model.costs().learn(items, Duration::from_millis(1));
    }
    let mut queues = Queues::new(limits(100), 1);
    for job in jobs {
        queues.push(job).unwrap();
    }
    assert!(matches!(queues.next_load(), Next::Do(_)));
    queues.loaded(model.id(), program());
    let mut taken = Vec::new();
    while let Next::Do(batch) = queues.next_batch(Instant::now()) {
        taken.push(batch.iter().map(|job| job.inputs[0].shape().to_vec()).collect());
        queues.finished(model, Duration::ZERO);
    }
    taken
}

#[test]
fn requests_that_fit_go_together_and_the_others_wait_their_turn() {
    let many = |shapes: &[&[usize]], model: &Arc<Model>| {
        shapes.iter().map(|shape| with(model, shape, &[0], 0)).collect::<Vec<_>>()
    };
    let sizes = |taken: Vec<Vec<Vec<usize>>>| taken.iter().map(Vec::len).collect::<Vec<_>>();
    for (what, max, shapes, want) in [
        ("alike", 8, &[&[1, 4][..]; 5][..], &[5][..]),
        ("more than fit", 4, &[&[1, 4][..]; 5], &[4, 1]),
        ("no batches", 0, &[&[1, 4][..]; 3], &[1, 1, 1]),
        ("two lengths", 8, &[&[1, 4], &[1, 7], &[1, 4], &[1, 7]], &[2, 2]),
        ("items count, not requests", 8, &[&[3, 4], &[4, 4], &[3, 4], &[1, 4]], &[3, 1]),
        ("larger than the largest runs alone", 4, &[&[9, 4], &[1, 4]], &[1, 1]),
        ("nothing in it", 8, &[&[0, 4], &[1, 4], &[1, 4]], &[1, 2]),
    ] {
        let model = batched(1, max);
        let jobs = many(shapes, &model);
        assert_eq!(sizes(batches(&model, jobs)), want, "{what}");
    }
    let model = batched(1, 8);
    let jobs = vec![with(&model, &[1, 4], &[0], 0), with(&model, &[1, 4], &[1], 0), with(&model, &[1, 4], &[0], 0)];
    assert_eq!(sizes(batches(&model, jobs)), [2, 1], "other outputs");
}

#[test]
fn a_priority_goes_ahead_of_whoever_has_none() {
    let model = batched(1, 0);
    let job = |length: usize, priority: u32| with(&model, &[1, length], &[0], priority);
    let jobs = vec![job(10, 0), job(11, u32::MAX), job(12, 2), job(13, 1), job(14, 1)];
    let order: Vec<_> = batches(&model, jobs).into_iter().map(|batch| batch[0][1]).collect();
    assert_eq!(order, [13, 14, 12, 10, 11]);
}

#[test]
fn overdue_jobs_are_told_why() {
    let now = Instant::now();
    let limits = QueueLimits { capacity: 1, time_limit: Duration::from_secs(30) };
    let model = model(1);
    let late = |age_s: u64, deadline: Option<Instant>, reply: Box<dyn Reply>| Job {
        submitted: now.checked_sub(Duration::from_secs(age_s)).unwrap(),
        deadline,
        reply,
        ..job(&model)
    };
    let later = Some(now + Duration::from_secs(1));
    for (job, want) in [
        (late(0, None, Box::new(Nobody)), None),
        (late(29, later, Box::new(Nobody)), None),
        (late(31, None, Box::new(Nobody)), Some(ErrorKind::DeadlineExceeded)),
        (late(0, Some(now), Box::new(Nobody)), Some(ErrorKind::DeadlineExceeded)),
        (late(0, later, Box::new(Gone)), Some(ErrorKind::Cancelled)),
    ] {
        assert_eq!(job.overdue(&limits, now).map(|error| error.kind), want);
    }
}

#[test]
fn draining_takes_nothing_new_and_finishes_what_is_held() {
    let (mut queues, model) = (Queues::new(limits(8), 1), model(1));
    queues.push(job(&model)).unwrap();
    queues.push(job(&model)).unwrap();
    assert!(matches!(queues.next_load(), Next::Do(_)));
    queues.loaded(1, program());
    assert!(matches!(queues.next_batch(Instant::now()), Next::Do(_)));
    queues.drain();
    assert_eq!(queues.push(job(&model)).unwrap_err().kind, ErrorKind::Unavailable);
    assert!(matches!(queues.next_batch(Instant::now()), Next::Do(_)), "what was accepted is still run");
    assert!(!queues.finished(&model, Duration::ZERO));
    assert!(queues.finished(&model, Duration::ZERO));
    assert!(queues.stop().is_empty());
    assert!(matches!(queues.next_batch(Instant::now()), Next::Leave));
    assert!(matches!(queues.next_load(), Next::Leave));
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Push(u64),
    Load(bool),
    Start,
    Finish,
    PutBack,
    Read,
    Pass(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (0..5u64).prop_map(Event::Push),
        1 => any::<bool>().prop_map(Event::Load),
        3 => Just(Event::Start),
        3 => Just(Event::Finish),
        1 => Just(Event::PutBack),
        1 => Just(Event::Read),
        2 => (0..800u64).prop_map(Event::Pass),
    ];
    proptest::collection::vec(event, 0..200)
}

proptest! {
    /// Whatever happens in whatever order: each job accepted is run once or given back once, one that is held back is
    /// waited for by a lane, and nothing is kept of models that have nothing to do.
    #[test]
    fn no_job_is_lost_or_run_twice(events in events()) {
        let held = Serving { preferred_batch_sizes: vec![3], max_queue_delay_us: Some(1000), ..Serving::default() };
        let models: Vec<_> =
            (0..5).map(|id| if id % 2 == 0 { model(id) } else { served(id, 8, held.clone()) }).collect();
        let mut queues = Queues::new(limits(3), 2);
        let mut now = Instant::now();
        let (mut accepted, mut started, mut refused) = (0, 0, 0);
        let (mut on_lanes, mut loading, mut reading) = (Vec::<Batch>::new(), Vec::new(), Vec::new());
        for event in events {
            match event {
                Event::Push(key) => {
                    let job = Job { submitted: now, ..with(&models[key as usize], &[1, 4], &[0], 0) };
                    accepted += usize::from(queues.push(job).is_ok());
                }
                Event::Load(succeeded) => {
                    if let Next::Do(model) = queues.next_load() {
                        loading.push(model.id());
                    }
                    if let Some(key) = loading.pop() {
                        refused += queues.loaded(key, program().filter(|_| succeeded)).refused.len();
                    }
                }
                Event::Start => match queues.next_batch(now) {
                    Next::Do(batch) => {
                        started += batch.len();
                        on_lanes.push(batch);
                    }
                    Next::WaitUntil(until) => {
                        prop_assert!(until > now);
                        prop_assert_eq!(Some(until), queues.next_hold());
                    }
                    Next::Wait | Next::Leave => prop_assert!(queues.next_hold().is_none() && !queues.has_work()),
                },
                Event::Finish => if let Some(batch) = on_lanes.pop() {
                    queues.finished(&batch[0].model, Duration::from_millis(batch[0].model.id()));
                },
                Event::PutBack => if let Some(batch) = on_lanes.pop() {
                    started -= batch.len();
                    let model = Arc::clone(&batch[0].model);
                    prop_assert!(queues.put_back(batch, &model, Duration::ZERO).is_empty());
                    prop_assert!(queues.is_fetching() && !queues.is_idle());
                },
                Event::Read => {
                    if let Next::Do(model) = queues.next_read() {
                        reading.push(model.id());
                    }
                    if let Some(key) = reading.pop() {
                        prop_assert!(queues.read(key).refused.is_empty());
                    }
                }
                Event::Pass(us) => now += Duration::from_micros(us),
            }
        }
        for batch in on_lanes {
            queues.finished(&batch[0].model, Duration::ZERO);
        }
        let left = queues.stop().len();
        prop_assert_eq!(accepted, started + refused + left);
        prop_assert!(queues.is_idle() && queues.next_hold().is_none());
    }
}

#[test]
fn a_queue_full_of_what_nobody_waits_for_makes_room() {
    let now = Instant::now();
    let model = model(1);
    let earlier = |s: u64| now.checked_sub(Duration::from_secs(s)).unwrap();
    let waits = || Job { submitted: earlier(1), ..job(&model) };
    for (what, first, second, accepted, swept) in [
        ("clients that wait", waits(), waits(), false, vec![]),
        ("one has gone", waits(), Job { reply: Box::new(Gone), ..waits() }, true, vec![ErrorKind::Cancelled]),
        (
            "one too late, one too old",
            Job { deadline: Some(now), ..waits() },
            Job { submitted: earlier(60), ..waits() },
            true,
            vec![ErrorKind::DeadlineExceeded; 2],
        ),
    ] {
        let mut queues = Queues::new(limits(2), 1);
        queues.push(first).unwrap();
        queues.push(second).unwrap();
        let pushed = queues.push(Job { submitted: now, ..job(&model) });
        let kinds: Vec<_> = queues.swept().into_iter().map(|(_, why)| why.kind).collect();
        assert_eq!((pushed.is_ok(), kinds), (accepted, swept), "{what}");
    }
}

#[test]
fn a_long_queue_is_not_looked_through_for_every_refusal() {
    let model = model(1);
    let mut queues = Queues::new(limits(1000), 1);
    let gone = || Job { reply: Box::new(Gone), ..job(&model) };
    for _ in 0..1000 {
        queues.push(gone()).unwrap();
    }
    let accepted: Vec<bool> = (0..4).map(|_| queues.push(gone()).is_ok()).collect();
    assert_eq!((accepted, queues.swept().len()), (vec![false, false, false, true], 1000));
}

#[test]
fn what_would_wait_too_long_is_refused_at_once() {
    let model = |limit_ms| served(1, 0, Serving { queue_time_limit_ms: limit_ms, ..Serving::default() });
    // Runs of 10 ms; so many are taken, and the next is told to come back after so long.
    for (what, capacity, lanes, limit_ms, taken, retry_s) in [
        ("as many as end in time", 1000, 1, Some(1000), 101, 1.01),
        ("on two lanes", 1000, 2, Some(1000), 201, 1.005),
        ("a full queue", 50, 1, Some(1000), 50, 1.0),
        ("a full queue of much work", 1000, 1, None, 1000, 10.0),
        ("never later than in half a minute", 10_000, 1, Some(60_000), 6001, 30.0),
    ] {
        let model = model(limit_ms);
        (0..8).for_each(|_| model.costs().learn(1, Duration::from_millis(10)));
        let mut queues = Queues::new(limits(capacity), lanes);
        let refusal = (0..).find_map(|count| queues.push(job(&model)).err().map(|refusal| (count, refusal)));
        let (count, Error { kind, retry_after, .. }) = refusal.unwrap();
        assert_eq!((count, kind), (taken, ErrorKind::Exhausted), "{what}");
        assert!((retry_after.unwrap().as_secs_f64() - retry_s).abs() < 0.02, "{what}: {retry_after:?}");
    }
    let unknown = model(Some(1));
    let mut queues = Queues::new(limits(2), 1);
    (0..2).for_each(|_| assert!(queues.push(job(&unknown)).is_ok()));
    assert_eq!(queues.push(job(&unknown)).unwrap_err().retry_after, None, "nothing is known of its runs");
}

#[test]
fn only_what_is_certain_to_be_late_is_refused_for_its_deadline() {
    let now = Instant::now();
    let model = model(1);
    let due = |us: u64| Job { submitted: now, deadline: Some(now + Duration::from_micros(us)), ..job(&model) };
    let mut queues = Queues::new(limits(100), 1);
    assert!(queues.push(due(1)).is_ok(), "nothing is known of its runs");
    model.costs().learn(1, Duration::from_millis(8));
    (0..15).for_each(|_| model.costs().learn(1, Duration::from_millis(20)));
    for (us, taken) in [(3_900, false), (4_100, true), (30_000, true)] {
        let pushed = queues.push(due(us)).map_err(|error| error.kind);
        assert_eq!(pushed.err(), (!taken).then_some(ErrorKind::DeadlineExceeded), "{us} us");
    }
    assert_eq!(due(3_900).overdue(&limits(1), now).unwrap().kind, ErrorKind::DeadlineExceeded);
}

#[test]
fn priorities_are_those_of_the_model() {
    let order = |serving: Serving| {
        let model = served(1, 0, serving);
        let job = |length: usize, priority: u32| with(&model, &[1, length], &[0], priority);
        let jobs = vec![job(0, 0), job(9, 9), job(3, 3), job(1, 1), job(2, 2)];
        batches(&model, jobs).into_iter().map(|batch| batch[0][1]).collect::<Vec<_>>()
    };
    for (default_priority, priority_levels, want) in [
        (None, None, [1, 2, 3, 9, 0]),
        (Some(2), None, [1, 0, 2, 3, 9]),
        (None, Some(0), [0, 9, 3, 1, 2]),
        (None, Some(3), [1, 0, 2, 9, 3]),
        (Some(3), Some(3), [1, 2, 0, 9, 3]),
        (Some(1), Some(2), [0, 1, 9, 3, 2]),
    ] {
        let serving = Serving { default_priority, priority_levels, ..Serving::default() };
        assert_eq!(order(serving.clone()), want, "{serving:?}");
    }
}
