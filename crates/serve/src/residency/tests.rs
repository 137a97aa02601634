//! Models that come and go within a budget: what goes, what stays, what is refused, and that nobody who is served notices.

use std::sync::atomic::AtomicU64;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use engine::DataType;
use serde_json::json;
use store::Store;

use super::room::Measure;
use super::*;
use crate::fixture::Echo;
use crate::{InferRequest, InferResponse, Origin, QueueLimits, Scheduler};

/// The bytes of a program here, and so what its session is charged with.
const PROGRAM_BYTES: usize = 1000;

/// Scales on which nothing weighs anything: charges are what is known beforehand. And whatever is built takes as long, or what
/// goes would depend on how busy the machine is.
fn weightless() -> Scales {
    Scales { usage: Usage::default, heap_bytes: || 0, since: |_| Duration::from_millis(10) }
}

/// A store of models that are kept whole, each with a program of its own of [`PROGRAM_BYTES`] and named `m0`, `m1`, ...
fn whole(count: usize) -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path().to_str().unwrap()).unwrap();
    for index in 0..count {
        let mut program = format!("echo {index}").into_bytes();
        program.resize(PROGRAM_BYTES, b'.');
        let hash = blake3::hash(&[b"portable\0", &program[..]].concat()).to_hex().to_string();
        std::fs::write(store.root().join(format!("programs/{hash}.onnx")), &program).unwrap();
        add(&store, &format!("m{index}"), &hash, &json!({}));
    }
    (folder, store)
}

fn add(store: &Store, name: &str, program: &str, weights: &serde_json::Value) {
    let kind = if weights.as_object().is_some_and(serde_json::Map::is_empty) { "whole" } else { "lifted" };
    let mut manifest = json!({
        "format": 2, "name": name, "version": 1,
        "source": {"format": "onnx", "hash": "", "bytes": PROGRAM_BYTES},
        "program": {"hash": program, "kind": kind, "target": "portable"},
        "inputs": [{"name": "x", "datatype": "UINT8", "shape": [-1]}],
        "outputs": [{"name": "y", "datatype": "UINT8", "shape": [-1]}],
    });
    if kind == "lifted" {
        manifest["weights"] = weights.clone();
    }
    let folder = store.root().join("models").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("1.json"), manifest.to_string()).unwrap();
}

/// Residency of `lanes` lanes over `store` within `bytes`, in which the models named are pinned.
pub(super) fn within(store: Store, bytes: usize, lanes: usize, pinned: &[&str]) -> Residency {
    let pin = |name: &&str| ((*name).to_owned(), Serving { pin: Some(true), ..Serving::default() });
    let options = ResidencyOptions {
        overrides: pinned.iter().map(pin).collect(),
        budget: Some(Budget::new(bytes as u64)),
        ..ResidencyOptions::default()
    };
    let mut residency = Residency::open_with(store, Arc::new(Echo::new()), lanes, options).unwrap();
    residency.scales = weightless();
    residency
}

pub(super) fn model(residency: &Residency, name: &str) -> Arc<Model> {
    residency.model(name, None).unwrap()
}

/// Which of `count` models have their program in memory.
fn there(residency: &Residency, count: usize) -> Vec<usize> {
    (0..count).filter(|index| model(residency, &format!("m{index}")).program().is_some()).collect()
}

fn charged(residency: &Residency) -> u64 {
    residency.budget.figures().charged_bytes.iter().sum()
}

#[test]
fn what_is_asked_for_least_goes_and_comes_back() {
    let (_folder, store) = whole(4);
    let residency = within(store, 2 * PROGRAM_BYTES, 1, &[]);
    let ask = |index: usize, times: usize| {
        let model = model(&residency, &format!("m{index}"));
        (0..times).for_each(|_| model.traffic().asked());
        residency.load(&model).map(drop)
    };
    ask(0, 5).unwrap();
    ask(1, 50).unwrap();
    assert_eq!(there(&residency, 4), [0, 1]);
    ask(2, 20).unwrap();
    assert_eq!((there(&residency, 4), charged(&residency)), (vec![1, 2], 2000));
    ask(3, 1).unwrap();
    assert_eq!(there(&residency, 4), [1, 3]);
    ask(0, 1).unwrap();
    assert_eq!(there(&residency, 4), [0, 1]);
}

#[test]
fn what_is_in_use_stays_and_counts_until_nobody_uses_it() {
    let (_folder, store) = whole(3);
    let residency = within(store, 2 * PROGRAM_BYTES, 1, &[]);
    let held: Vec<_> = (0..2).map(|index| residency.load(&model(&residency, &format!("m{index}"))).unwrap()).collect();
    let refused = residency.load(&model(&residency, "m2")).map(drop).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Exhausted);
    for part in ["'m2'", "1000 bytes", "2000", "memory-budget-bytes"] {
        assert!(refused.message.contains(part), "{refused} does not say {part}");
    }
    // Taken out of its place, it is in memory all the same.
    drop(model(&residency, "m0").slot().take());
    assert_eq!((there(&residency, 3), charged(&residency)), (vec![1], 2000));
    assert!(residency.load(&model(&residency, "m2")).is_err());
    drop(held);
    assert_eq!(charged(&residency), 1000);
    residency.load(&model(&residency, "m2")).unwrap();
    assert_eq!((there(&residency, 3), charged(&residency)), (vec![1, 2], 2000));
}

#[test]
fn what_never_fits_is_refused_at_once_with_both_numbers() {
    let (_folder, store) = whole(2);
    let residency = within(store, PROGRAM_BYTES - 1, 1, &[]);
    let refused = residency.model("m0", None).map(drop).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::FailedPrecondition);
    for part in ["'m0'", "needs 1000 bytes", "999 can be made free", "memory-budget-bytes"] {
        assert!(refused.message.contains(part), "{refused} does not say {part}");
    }
    assert!(!residency.is_ready("m0", None));
    let reasons: Vec<_> = residency.index().into_iter().map(|line| line.reason).collect();
    assert!(reasons.iter().all(|reason| reason.contains("memory-budget-bytes")), "{reasons:?}");
}

#[test]
fn pinned_models_are_made_ready_and_never_go() {
    let (_folder, store) = whole(4);
    let residency = within(store, 3 * PROGRAM_BYTES, 1, &["m0", "m2"]);
    residency.ready_pinned().unwrap();
    assert_eq!(there(&residency, 4), [0, 2]);
    for _ in 0..3 {
        for name in ["m1", "m3"] {
            model(&residency, name).traffic().asked();
            residency.load(&model(&residency, name)).unwrap();
        }
    }
    assert_eq!(there(&residency, 4), [0, 2, 3]);
    assert!(!residency.relieve(u64::MAX, Measure::Private) || there(&residency, 4) == [0, 2]);
    assert_eq!(there(&residency, 4), [0, 2]);
}

#[test]
fn pins_that_do_not_fit_are_refused_with_their_sum() {
    let (_folder, store) = whole(4);
    let residency = within(store, 2 * PROGRAM_BYTES, 1, &["m0", "m1", "m3"]);
    let refused = residency.ready_pinned().unwrap_err();
    assert_eq!(refused.kind, ErrorKind::FailedPrecondition);
    for part in ["'m0', 'm1', 'm3'", "3000 bytes", "2000", "memory-budget-bytes"] {
        assert!(refused.message.contains(part), "{refused} does not say {part}");
    }
    // What is pinned leaves nothing to the others.
    let refused = residency.load(&model(&residency, "m2")).map(drop).unwrap_err();
    assert!(refused.message.contains("0 can be made free"), "{refused}");
}

/// Models of one program, `large0`, `large1`, ... with a segment of `bytes` each, and all of them one in common.
pub(super) fn lifted(count: usize, bytes: u64) -> (tempfile::TempDir, Store) {
    let (folder, store) = whole(1);
    let program = store.manifest("m0", 1).unwrap().program.hash;
    // One weight in each of the two segments.
    let mut table = b"PHWTBL02".to_vec();
    for segment in 0u16..2 {
        let code = DataType::ALL.iter().position(|&dtype| dtype == DataType::U8).unwrap();
        table.extend([u8::try_from(code).unwrap(), 1]);
        table.extend(segment.to_le_bytes());
        table.extend(0u64.to_le_bytes());
        table.extend(bytes.to_le_bytes());
    }
    let named = blake3::hash(&table).to_hex().to_string();
    std::fs::write(store.root().join(format!("weights/{named}.tbl")), &table).unwrap();
    let segment = |number: usize| {
        // Named by the hash of all of it, as segments of the first format are.
        let content = vec![u8::try_from(number).unwrap(); usize::try_from(bytes).unwrap()];
        let hash = blake3::hash(&content).to_hex().to_string();
        std::fs::write(store.root().join(format!("segments/{hash}.seg")), content).unwrap();
        json!({"hash": hash, "bytes": bytes, "used_bytes": bytes})
    };
    let common = segment(0);
    for index in 0..count {
        let segments = json!([common, segment(index + 1)]);
        let weights = json!({"table": named, "count": 2, "bytes": 2 * bytes, "segments": segments});
        add(&store, &format!("large{index}"), &program, &weights);
    }
    (folder, store)
}

#[test]
fn what_runs_of_a_program_cost_is_known_of_all_its_models() {
    let (_folder, store) = lifted(2, 4096);
    let residency = within(store, 1 << 30, 1, &[]);
    for _ in 0..100 {
        model(&residency, "large0").costs().learn(1, Duration::from_micros(10));
    }
    assert_eq!(model(&residency, "large1").costs().curve().reckoned(1), Duration::from_micros(10));
    let (_folder, store) = whole(2);
    let residency = within(store, 1 << 30, 1, &[]);
    model(&residency, "m0").costs().learn(1, Duration::from_micros(10));
    assert_eq!(model(&residency, "m1").costs().curve().run_s(1), None, "another program");
}

#[test]
fn weights_go_by_what_is_their_own() {
    const BYTES: u64 = 1 << 20;
    let (_folder, store) = lifted(4, BYTES);
    let files = store.clone();
    let residency = within(store, 1 << 30, 1, &[]);
    let models: Vec<_> = (0..4).map(|index| model(&residency, &format!("large{index}"))).collect();
    for (model, times) in models.iter().zip([30, 10, 40, 20]) {
        (0..times).for_each(|_| model.traffic().asked());
        residency.load(model).unwrap();
        residency.ready(model).unwrap();
    }
    let ready = || (0..4).filter(|&index| models[index].is_bound()).collect::<Vec<_>>();
    assert_eq!((ready(), files.mapped_files()), (vec![0, 1, 2, 3], 5));
    let used = residency.ready(&models[1]).unwrap();
    // One of them is in use; the least asked for of the others goes.
    assert!(residency.relieve(1, Measure::Everything));
    assert_eq!((ready(), files.mapped_files()), (vec![0, 1, 2], 4));
    drop(used);
    assert!(residency.relieve(BYTES + 1, Measure::Everything));
    assert_eq!((ready(), files.mapped_files()), (vec![2], 2));
    // Bound again, it is as it was.
    residency.ready(&models[0]).unwrap();
    assert_eq!(ready(), [0, 2]);
    // The last ones take the common segment and their program with them.
    assert!(residency.relieve(u64::MAX, Measure::Everything));
    assert_eq!((ready(), models[0].program().is_some(), charged(&residency)), (vec![], false, 0));
    assert!(!residency.relieve(u64::MAX, Measure::Everything), "nothing is left");
    assert!(residency.unmap_some() || files.mapped_files() == 0);
}

/// Callers on several threads, each asking for one model after the other and looking at every answer, while there is room
/// for few of them and the keeper is at work.
#[test]
fn nobody_notices_that_models_come_and_go() {
    const MODELS: usize = 8;
    let (_folder, store) = whole(MODELS);
    let residency = Arc::new(within(store, 3 * PROGRAM_BYTES, 2, &["m5"]));
    residency.ready_pinned().unwrap();
    let metrics = Arc::new(Metrics::default());
    let scheduler =
        Scheduler::start(Arc::clone(&residency), &[0, 0], QueueLimits::default(), Arc::clone(&metrics)).unwrap();
    let most = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for caller in 0..4u8 {
            let (scheduler, residency, most) = (&scheduler, &residency, &most);
            scope.spawn(move || {
                for turn in 0..150u8 {
                    let index = (usize::from(turn) * 7 + usize::from(caller) * 3) % MODELS;
                    let answer = ask(scheduler, &format!("m{index}"), turn);
                    assert_eq!(answer.outputs[0].1.data()[..], [turn, 1]);
                    most.fetch_max(charged(residency), Ordering::Relaxed);
                    assert!(model(residency, "m5").program().is_some());
                }
            });
        }
    });
    let most = most.into_inner();
    assert!(most <= 3 * PROGRAM_BYTES as u64, "{most} bytes were charged");
    assert!(scheduler.drain(Duration::from_secs(60)));
    let text = metrics.text();
    let evicted =
        text.lines().find_map(|line| line.strip_prefix("packhorse_evictions_total{what=\"program\"} ")).unwrap();
    assert!(evicted.parse::<u64>().unwrap() >= 10, "{evicted} programs went");
}

/// The answer of the model called `name`; one that says that there is no room at present is asked for again.
fn ask(scheduler: &Scheduler, name: &str, number: u8) -> InferResponse {
    loop {
        let (sender, receiver) = sync_channel(1);
        let tensor = engine::Tensor::new(DataType::U8, vec![2], vec![number, 1].into()).unwrap();
        let request = InferRequest {
            model: name.to_owned(),
            version: None,
            inputs: vec![("x".to_owned(), tensor)],
            outputs: Vec::new(),
            priority: 0,
            deadline: None,
            origin: Origin::default(),
        };
        scheduler.submit(request, Box::new(sender)).unwrap();
        match receiver.recv().unwrap() {
            Ok(answer) => return answer,
            Err(error) => assert_eq!(error.kind, ErrorKind::Exhausted, "{error}"),
        }
    }
}

#[test]
fn a_model_is_made_ready_when_its_request_begins_to_arrive_and_only_once() {
    let (_folder, store) = whole(1);
    let residency = Arc::new(within(store, 2 * PROGRAM_BYTES, 1, &[]));
    let expected = |name: &str| residency.expected(&model(&residency, name));
    let make_ready = expected("m0").expect("it is cold");
    assert!(expected("m0").is_none(), "one is enough");
    make_ready();
    assert!(model(&residency, "m0").is_bound());
    assert!(expected("m0").is_none(), "it is ready");
    drop(model(&residency, "m0").take_ready());
    assert!(expected("m0").is_some(), "it was taken away");
}

#[test]
fn where_nobody_says_anything_the_defaults_hold() {
    let (_folder, store) = whole(2);
    let batches = |max_batch_size| Serving { max_batch_size: Some(max_batch_size), ..Serving::default() };
    let options = ResidencyOptions {
        overrides: BTreeMap::from([("m1".to_owned(), batches(4))]),
        defaults: Serving { queue_capacity: Some(7), ..batches(1) },
        ..ResidencyOptions::default()
    };
    let residency = Residency::open_with(store, Arc::new(Echo::new()), 1, options).unwrap();
    for (name, max_batch_size) in [("m0", 1), ("m1", 4)] {
        let wanted = Serving { queue_capacity: Some(7), ..batches(max_batch_size) };
        assert_eq!(*model(&residency, name).serving(), wanted, "{name}");
    }
}
