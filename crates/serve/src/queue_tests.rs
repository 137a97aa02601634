//! The decisions, one by one, and at random against what must always hold.

use proptest::prelude::*;
use store::Manifest;

use super::*;
use crate::InferResponse;

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

fn batched(id: u64, max_batch_size: u64) -> Arc<Model> {
    let manifest: Manifest = serde_json::from_value(serde_json::json!({
        "format": 1, "name": format!("m{id}"), "version": 1,
        "source": {"format": "onnx", "hash": "", "bytes": 0},
        "program": {"hash": "", "kind": "lifted", "target": "portable"},
        "inputs": [], "outputs": [], "max_batch_size": max_batch_size,
    }))
    .unwrap();
    Arc::new(Model::unloaded(id, manifest).unwrap())
}

fn job(model: &Arc<Model>) -> Job {
    Job {
        model: Arc::clone(model),
        inputs: Vec::new(),
        outputs: Vec::new(),
        priority: 0,
        deadline: None,
        submitted: Instant::now(),
        reply: Box::new(Nobody),
        held: Held::default(),
    }
}

fn limits(capacity: usize) -> QueueLimits {
    QueueLimits { capacity, ..QueueLimits::default() }
}

#[test]
fn a_cold_model_asks_the_loader_once_and_its_jobs_wait_for_it() {
    let (mut queues, cold) = (Queues::new(limits(8), 1), model(1));
    assert_eq!(queues.push(job(&cold)).unwrap(), Wake::Loader);
    assert_eq!(queues.push(job(&cold)).unwrap(), Wake::Nobody);
    assert!(matches!(queues.next_batch(), Next::Wait));
    assert!(matches!(queues.next_load(), Next::Do(model) if model.id() == 1));
    assert!(matches!(queues.next_load(), Next::Wait));
    assert!(queues.loaded(1, true).refused.is_empty());
    assert!(matches!(queues.next_batch(), Next::Do(_)));
    assert!(matches!(queues.next_batch(), Next::Do(_)));
    assert!(matches!(queues.next_batch(), Next::Wait));
    assert!(!queues.finished(1, Duration::ZERO));
    assert!(queues.finished(1, Duration::ZERO));
}

#[test]
fn a_failed_load_gives_every_waiting_job_back_and_the_next_request_tries_again() {
    let (mut queues, cold) = (Queues::new(limits(8), 1), model(1));
    queues.push(job(&cold)).unwrap();
    queues.push(job(&cold)).unwrap();
    assert!(matches!(queues.next_load(), Next::Do(_)));
    assert_eq!(queues.loaded(1, false).refused.len(), 2);
    assert!(queues.is_idle());
    assert_eq!(queues.push(job(&cold)).unwrap(), Wake::Loader);
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
    queues.loaded(model.id(), true);
    let mut taken = Vec::new();
    while let Next::Do(batch) = queues.next_batch() {
        taken.push(batch.iter().map(|job| job.inputs[0].shape().to_vec()).collect());
        queues.finished(model.id(), Duration::ZERO);
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
        assert_eq!(Queues::overdue(&limits, &job, now).map(|error| error.kind), want);
    }
}

#[test]
fn draining_takes_nothing_new_and_finishes_what_is_held() {
    let (mut queues, model) = (Queues::new(limits(8), 1), model(1));
    queues.push(job(&model)).unwrap();
    queues.push(job(&model)).unwrap();
    assert!(matches!(queues.next_load(), Next::Do(_)));
    queues.loaded(1, true);
    assert!(matches!(queues.next_batch(), Next::Do(_)));
    queues.drain();
    assert_eq!(queues.push(job(&model)).unwrap_err().kind, ErrorKind::Unavailable);
    assert!(matches!(queues.next_batch(), Next::Do(_)), "what was accepted is still run");
    assert!(!queues.finished(1, Duration::ZERO));
    assert!(queues.finished(1, Duration::ZERO));
    assert!(queues.stop().is_empty());
    assert!(matches!(queues.next_batch(), Next::Leave));
    assert!(matches!(queues.next_load(), Next::Leave));
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Push(u64),
    Load(bool),
    Start,
    Finish,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (0..5u64).prop_map(Event::Push),
        1 => any::<bool>().prop_map(Event::Load),
        3 => Just(Event::Start),
        3 => Just(Event::Finish),
    ];
    proptest::collection::vec(event, 0..200)
}

proptest! {
    /// Whatever happens in whatever order: each job accepted is run once or given back once, and nothing is kept of
    /// models that have nothing to do.
    #[test]
    fn no_job_is_lost_or_run_twice(events in events()) {
        let models: Vec<_> = (0..5).map(model).collect();
        let mut queues = Queues::new(limits(3), 2);
        let (mut accepted, mut started, mut refused) = (0, 0, 0);
        let (mut on_lanes, mut loading) = (Vec::new(), Vec::new());
        for event in events {
            match event {
                Event::Push(key) => accepted += usize::from(queues.push(job(&models[key as usize])).is_ok()),
                Event::Load(succeeded) => {
                    if let Next::Do(model) = queues.next_load() {
                        loading.push(model.id());
                    }
                    if let Some(key) = loading.pop() {
                        refused += queues.loaded(key, succeeded).refused.len();
                    }
                }
                Event::Start => if let Next::Do(batch) = queues.next_batch() {
                    started += batch.len();
                    on_lanes.push(batch[0].model.id());
                },
                Event::Finish => if let Some(key) = on_lanes.pop() {
                    queues.finished(key, Duration::from_millis(key));
                },
            }
        }
        for key in on_lanes {
            queues.finished(key, Duration::ZERO);
        }
        let left = queues.stop().len();
        prop_assert_eq!(accepted, started + refused + left);
        prop_assert!(queues.is_idle());
    }
}
