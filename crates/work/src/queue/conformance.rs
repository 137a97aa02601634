//! What every queue must do, checked on any of them: given cases first, then random operations against a model.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use engine::ErrorKind;
use proptest::prelude::*;

use super::{DeadLetter, Depth, Lease, Phase, Received, TaskQueue};
use crate::Task;

/// A fresh queue that gives a task up after [`RECEIVES_MAX`] receives, and the way to turn its clock.
pub(super) struct Bench {
    /// Under test.
    pub(super) queue: Box<dyn TaskQueue>,
    /// Lets that much time pass, and a little more where time cannot be turned.
    pub(super) advance: Box<dyn Fn(Duration)>,
    /// How long a task is hidden: seconds where they are real ones.
    pub(super) visibility: Duration,
    /// Kept for as long as the queue.
    pub(super) _folder: Box<dyn std::any::Any>,
}

/// The limit that a [`Bench`] queue is made with.
pub(super) const RECEIVES_MAX: u32 = 4;

/// A case.
type Case = fn(&Bench);

/// Of every queue.
const CASES: [(&str, Case); 6] = [
    ("one task, end to end", one_task_end_to_end),
    ("a lapsed lease", lapsed_lease),
    ("given back", given_back),
    ("dead letters", dead_letters),
    ("received too often", received_too_often),
    ("many", many),
];

/// Runs the whole suite; `make` gives a new, empty queue each time. Cases run side by side: where time is real, they wait.
pub(super) fn check(make: &(dyn Fn() -> Bench + Sync)) {
    std::thread::scope(|scope| {
        for (name, case) in CASES {
            std::thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, move || case(&make())).unwrap();
        }
    });
    if make().queue.keeps_tasks() {
        sent_twice(&make());
        in_order(&make());
    }
    let real_time = make().visibility < VISIBILITY;
    let cases = if real_time { 8 } else { 64 };
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let operations = proptest::collection::vec(operation(), 1..if real_time { 30 } else { 60 });
    runner.run(&operations, |operations| follows_the_model(&make(), &operations)).unwrap();
}

/// How long a task is hidden where time is turned by hand.
pub(super) const VISIBILITY: Duration = Duration::from_secs(30);

fn task(id: &str) -> Task {
    Task { id: id.to_owned(), ..Task::new(Path::new("/videos/a.mp4"), "detector").unwrap() }
}

fn depth(queue: &dyn TaskQueue) -> Depth {
    Depth { oldest_age: None, ..queue.depth().unwrap() }
}

fn lost(result: engine::Result<()>) {
    assert_eq!(result.unwrap_err().kind, ErrorKind::Cancelled);
}

impl Bench {
    fn receive(&self) -> Lease {
        match self.queue.receive(self.visibility).unwrap() {
            Received::Task(lease) => *lease,
            other => panic!("a task is visible, but receive gave {other:?}"),
        }
    }

    fn is_empty(&self) -> bool {
        self.queue.receive(self.visibility).unwrap() == Received::Nothing
    }

    /// That the task is there with a reason, as far as the queue tells.
    fn is(&self, id: &str, phase: Phase, reason: Option<&str>) {
        match self.queue.state(id) {
            Ok(state) => assert_eq!((state.phase, state.reason.as_deref()), (phase, reason), "{id}"),
            Err(error) => assert!(!self.queue.keeps_tasks() && error.kind == ErrorKind::Unsupported, "{error}"),
        }
    }

    /// Tasks that ended well are counted where they are kept.
    fn done(&self, count: u64) -> u64 {
        if self.queue.keeps_tasks() { count } else { 0 }
    }
}

fn one_task_end_to_end(bench: &Bench) {
    let queue = bench.queue.as_ref();
    assert!(bench.is_empty());
    let unknown = if bench.queue.keeps_tasks() { ErrorKind::NotFound } else { ErrorKind::Unsupported };
    assert_eq!(queue.state("a").unwrap_err().kind, unknown);
    assert_eq!(queue.depth().unwrap(), Depth::default());
    let sent = task("a");
    queue.send(&sent).unwrap();
    let mut oldest_age = None;
    if bench.queue.keeps_tasks() {
        (bench.advance)(Duration::from_secs(7));
        oldest_age = Some(Duration::from_secs(7));
    }
    assert_eq!(queue.depth().unwrap(), Depth { visible: 1, oldest_age, ..Depth::default() });
    let lease = bench.receive();
    assert_eq!((&lease.task, lease.receive_count, lease.failures), (&sent, 1, 0));
    assert_eq!(depth(queue), Depth { in_flight: 1, ..Depth::default() });
    assert!(bench.is_empty());
    queue.complete(&lease).unwrap();
    assert_eq!(depth(queue), Depth { done: bench.done(1), ..Depth::default() });
    assert!(queue.depth().unwrap().is_drained());
    bench.is("a", Phase::Done, None);
    lost(queue.complete(&lease));
    lost(queue.extend(&lease, bench.visibility));
    (bench.advance)(bench.visibility);
    assert!(bench.is_empty());
}

fn lapsed_lease(bench: &Bench) {
    let queue = bench.queue.as_ref();
    queue.send(&task("a")).unwrap();
    let first = bench.receive();
    // A part of it where time is real, so that a busy machine is not too late.
    let step =
        if bench.queue.keeps_tasks() { bench.visibility - Duration::from_millis(1) } else { bench.visibility / 3 };
    for _ in 0..4 {
        (bench.advance)(step);
        queue.extend(&first, bench.visibility).unwrap();
    }
    assert_eq!(depth(queue), Depth { in_flight: 1, ..Depth::default() });
    (bench.advance)(bench.visibility);
    bench.is("a", Phase::Visible, None);
    let second = bench.receive();
    assert_eq!(second.receive_count, 2);
    assert_ne!(second.receipt, first.receipt);
    lost(queue.extend(&first, bench.visibility * 10));
    lost(queue.complete(&first));
    lost(queue.release(&first, Duration::ZERO, "late", true));
    lost(queue.dead_letter(&first, "late"));
    assert_eq!(depth(queue), Depth { in_flight: 1, ..Depth::default() });
    queue.complete(&second).unwrap();
}

fn given_back(bench: &Bench) {
    let queue = bench.queue.as_ref();
    queue.send(&task("a")).unwrap();
    let first = bench.receive();
    let delay = bench.visibility / 3;
    queue.release(&first, delay, "the model was loading", true).unwrap();
    assert_eq!(depth(queue), Depth { delayed: 1, ..Depth::default() });
    assert!(bench.is_empty());
    (bench.advance)(delay);
    let second = bench.receive();
    assert_eq!((second.receive_count, second.failures, &second.task), (2, 1, &first.task));
    bench.is("a", Phase::InFlight, Some("the model was loading"));
    // The task is not to blame, so neither count goes up, however often.
    queue.release(&second, Duration::ZERO, "the worker was stopped", false).unwrap();
    for _ in 0..RECEIVES_MAX * 2 {
        let lease = bench.receive();
        assert_eq!((lease.receive_count, lease.failures), (2, 1));
        queue.release(&lease, Duration::ZERO, "the worker was stopped", false).unwrap();
    }
    lost(queue.complete(&second));
}

fn dead_letters(bench: &Bench) {
    let queue = bench.queue.as_ref();
    assert_eq!((queue.dead_letters(10).unwrap(), queue.redrive(&|_| true).unwrap()), (Vec::new(), 0));
    for (id, reason) in [("a", "the file is empty"), ("b", "a \u{0}; <b>\u{1f980}")] {
        queue.send(&task(id)).unwrap();
        let lease = bench.receive();
        queue.release(&lease, Duration::ZERO, "once", true).unwrap();
        let lease = bench.receive();
        queue.dead_letter(&lease, reason).unwrap();
        lost(queue.complete(&lease));
    }
    bench.is("a", Phase::Dead, Some("the file is empty"));
    assert_eq!(depth(queue), Depth { dead: 2, ..Depth::default() });
    assert!(bench.is_empty());
    // Looking takes nothing away.
    for _ in 0..2 {
        let mut found = queue.dead_letters(10).unwrap();
        found.sort_by(|a, b| a.id.cmp(&b.id));
        let input = Some("/videos/a.mp4".to_owned());
        assert_eq!(found[0], DeadLetter { id: "a".to_owned(), input, reason: "the file is empty".to_owned() });
        assert!(found.len() == 2 && found[1].reason.ends_with("; <b>\u{1f980}"), "{found:?}");
    }
    assert_eq!(queue.dead_letters(1).unwrap().len(), 1);
    assert_eq!(queue.redrive(&|id| id == "b").unwrap(), 1);
    assert_eq!(depth(queue), Depth { dead: 1, visible: 1, ..Depth::default() });
    let lease = bench.receive();
    assert_eq!((&*lease.task.id, lease.receive_count, lease.failures), ("b", 1, 0));
    queue.complete(&lease).unwrap();
    assert_eq!(queue.redrive(&|_| true).unwrap(), 1);
    assert_eq!(bench.receive().task, Task { input: "/videos/a.mp4".to_owned(), ..task("a") });
    assert_eq!(depth(queue), Depth { in_flight: 1, done: bench.done(1), ..Depth::default() });
}

fn received_too_often(bench: &Bench) {
    let (queue, visibility) = (bench.queue.as_ref(), bench.visibility / 3);
    queue.send(&task("killer")).unwrap();
    for _ in 0..RECEIVES_MAX {
        assert!(matches!(queue.receive(visibility).unwrap(), Received::Task(_)));
        (bench.advance)(visibility);
    }
    let Received::DeadLetter { id, task: Some(_), reason } = queue.receive(visibility).unwrap() else {
        panic!("received once more")
    };
    queue.send(&task("next")).unwrap();
    assert_eq!((bench.receive().task.id.as_str(), id.as_str()), ("next", "killer"));
    bench.is("killer", Phase::Dead, Some(&reason));
    assert_eq!(queue.dead_letters(10).unwrap()[0].reason, reason);
    assert!(reason.starts_with(&format!("received {RECEIVES_MAX} times without an end")), "{reason}");
}

/// Each of many is received once, whoever asks.
fn many(bench: &Bench) {
    let sent: Vec<String> = (0..24).map(|number| format!("t{number:02}")).collect();
    for id in &sent {
        bench.queue.send(&task(id)).unwrap();
    }
    let mut received = Vec::new();
    let hour = Duration::from_secs(3600);
    while let Received::Task(lease) = bench.queue.receive(hour).unwrap() {
        bench.queue.complete(&lease).unwrap();
        received.push(lease.task.id);
    }
    received.sort_unstable();
    assert_eq!(received, sent);
}

fn sent_twice(bench: &Bench) {
    let queue = bench.queue.as_ref();
    queue.send(&task("a")).unwrap();
    queue.send(&task("a")).unwrap();
    assert_eq!(depth(queue).visible, 1);
    let other = Task { model: "other".to_owned(), ..task("a") };
    assert_eq!(queue.send(&other).unwrap_err().kind, ErrorKind::AlreadyExists);
    let escaping = Task { id: "../a".to_owned(), ..task("a") };
    assert_eq!(queue.send(&escaping).unwrap_err().kind, ErrorKind::InvalidInput);
    assert_eq!(bench.receive().task, task("a"));
}

fn in_order(bench: &Bench) {
    for id in ["c", "a", "b"] {
        bench.queue.send(&task(id)).unwrap();
    }
    assert_eq!([(); 3].map(|()| bench.receive().task.id), ["c", "a", "b"]);
}

/// One step of a random run; numbers choose among the tasks and leases there are.
#[derive(Clone, Debug)]
enum Operation {
    Send(u8),
    Receive(u16),
    Extend(usize, u16),
    Complete(usize),
    Release(usize, u16, bool),
    DeadLetter(usize),
    Redrive(u8),
    Advance(u16),
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    prop_oneof![
        3 => (0..6u8).prop_map(Send),
        6 => (0..3_000u16).prop_map(Receive),
        2 => (any::<usize>(), 0..3_000u16).prop_map(|(lease, ms)| Extend(lease, ms)),
        2 => any::<usize>().prop_map(Complete),
        3 => (any::<usize>(), 0..3_000u16, any::<bool>()).prop_map(|(lease, ms, counts)| Release(lease, ms, counts)),
        1 => any::<usize>().prop_map(DeadLetter),
        1 => (0..6u8).prop_map(Redrive),
        4 => (0..2_000u16).prop_map(Advance),
    ]
}

/// The same queue in a few lines of ordinary memory.
#[derive(Default)]
struct Model {
    now_ms: u64,
    sent: u64,
    tasks: BTreeMap<String, Row>,
}

#[derive(Clone, Debug, Default)]
struct Row {
    /// When it becomes visible, and its place among those of the same time.
    due: (u64, u64),
    receipt: Option<String>,
    receives: u32,
    failures: u32,
    end: Option<Phase>,
}

impl Row {
    fn phase(&self, now_ms: u64) -> Phase {
        match (self.end, self.due.0 <= now_ms, &self.receipt) {
            (Some(end), ..) => end,
            (None, true, _) => Phase::Visible,
            (None, false, Some(_)) => Phase::InFlight,
            (None, false, None) => Phase::Delayed,
        }
    }
}

impl Model {
    /// The task that is received next, or goes to the dead letters instead.
    fn next(&mut self) -> Option<(&String, &mut Row)> {
        let now_ms = self.now_ms;
        let visible = self.tasks.iter_mut().filter(|(_, row)| row.phase(now_ms) == Phase::Visible);
        visible.min_by_key(|(_, row)| row.due)
    }

    /// The task called `id`, if it is visible: any may come first where there is no order.
    fn visible(&mut self, id: &str) -> Option<(&String, &mut Row)> {
        let now_ms = self.now_ms;
        self.tasks.iter_mut().find(|(of, row)| *of == id && row.phase(now_ms) == Phase::Visible)
    }

    fn held(&mut self, lease: &Lease) -> Option<&mut Row> {
        let row = self.tasks.get_mut(&lease.task.id)?;
        (row.receipt.as_deref() == Some(&lease.receipt) && row.end.is_none()).then_some(row)
    }
}

fn follows_the_model(bench: &Bench, operations: &[Operation]) -> Result<(), TestCaseError> {
    let (mut model, mut leases) = (Model::default(), Vec::<Lease>::new());
    for operation in operations {
        let Some(operation) = &in_real_time(bench, &model, operation) else { continue };
        step(bench, &mut model, &mut leases, operation)?;
        let mut want = Depth::default();
        for (id, row) in &model.tasks {
            let phase = row.phase(model.now_ms);
            *match phase {
                Phase::Visible => &mut want.visible,
                Phase::Delayed => &mut want.delayed,
                Phase::InFlight => &mut want.in_flight,
                Phase::Dead => &mut want.dead,
                Phase::Done => &mut want.done,
            } += 1;
            if bench.queue.keeps_tasks() {
                let state = bench.queue.state(id).unwrap();
                prop_assert_eq!((state.phase, state.failures), (phase, row.failures), "{}", id);
            }
        }
        // Never lost: the five counts together are what was sent.
        let counted = Depth { done: bench.done(want.done), ..want };
        prop_assert_eq!(depth(bench.queue.as_ref()), counted);
        prop_assert_eq!(want.visible + want.delayed + want.in_flight + want.dead + want.done, model.tasks.len() as u64);
    }
    Ok(())
}

/// What a queue that keeps messages is asked to do in place of `operation`: time stands still, and every task is sent once.
fn in_real_time(bench: &Bench, model: &Model, operation: &Operation) -> Option<Operation> {
    const LONG_MS: u16 = 60_000;
    if bench.queue.keeps_tasks() {
        return Some(operation.clone());
    }
    match *operation {
        Operation::Send(number) if model.tasks.contains_key(&format!("t{number}")) => None,
        Operation::Receive(_) => Some(Operation::Receive(LONG_MS)),
        Operation::Extend(index, _) => Some(Operation::Extend(index, LONG_MS)),
        Operation::Release(index, ms, counts) => {
            Some(Operation::Release(index, if ms % 2 == 0 { 0 } else { LONG_MS }, counts))
        }
        Operation::Advance(_) => None,
        ref other => Some(other.clone()),
    }
}

fn step(bench: &Bench, model: &mut Model, leases: &mut Vec<Lease>, operation: &Operation) -> Result<(), TestCaseError> {
    let (queue, now_ms) = (bench.queue.as_ref(), model.now_ms);
    let ms = |ms: u16| Duration::from_millis(u64::from(ms));
    let pick = |index: usize| (!leases.is_empty()).then(|| leases[index % leases.len()].clone());
    match *operation {
        Operation::Send(number) => {
            let sent = Task { input: format!("/videos/{number}.mp4"), ..task(&format!("t{number}")) };
            queue.send(&sent).unwrap();
            model.sent += 1;
            let fresh = Row { due: (now_ms, model.sent), ..Row::default() };
            model.tasks.entry(sent.id).or_insert(fresh);
        }
        Operation::Receive(visibility) => {
            let got = queue.receive(ms(visibility)).unwrap();
            let first = match &got {
                Received::Task(lease) if !bench.queue.keeps_tasks() => model.visible(&lease.task.id),
                Received::DeadLetter { id, .. } if !bench.queue.keeps_tasks() => model.visible(id),
                _ => model.next(),
            };
            match (got, first) {
                (Received::Nothing, None) => {}
                (Received::DeadLetter { id, .. }, Some((next, row))) if row.receives == RECEIVES_MAX => {
                    prop_assert_eq!(&id, next);
                    row.end = Some(Phase::Dead);
                }
                (Received::Task(lease), Some((next, row))) if row.receives < RECEIVES_MAX => {
                    row.receives += 1;
                    row.due.0 = now_ms + u64::from(visibility);
                    row.receipt = Some(lease.receipt.clone());
                    let want = (next.as_str(), row.receives, row.failures);
                    prop_assert_eq!((lease.task.id.as_str(), lease.receive_count, lease.failures), want);
                    leases.push(*lease);
                }
                (got, want) => prop_assert!(false, "{got:?}, not {want:?}"),
            }
        }
        Operation::Advance(time) => {
            (bench.advance)(ms(time));
            model.now_ms += u64::from(time);
        }
        Operation::Extend(index, visibility) => {
            let Some(lease) = pick(index) else { return Ok(()) };
            let row = model.held(&lease).map(|row| row.due.0 = now_ms + u64::from(visibility));
            agrees(queue.extend(&lease, ms(visibility)), row)?;
        }
        Operation::Complete(index) => {
            let Some(lease) = pick(index) else { return Ok(()) };
            let row = model.held(&lease).map(|row| row.end = Some(Phase::Done));
            agrees(queue.complete(&lease), row)?;
        }
        Operation::DeadLetter(index) => {
            let Some(lease) = pick(index) else { return Ok(()) };
            let row = model.held(&lease).map(|row| row.end = Some(Phase::Dead));
            agrees(queue.dead_letter(&lease, "unwanted"), row)?;
        }
        Operation::Redrive(number) => redrive(bench, model, &format!("t{number}"))?,
        Operation::Release(index, delay, counts) => {
            let Some(lease) = pick(index) else { return Ok(()) };
            let row = model.held(&lease).map(|row| {
                row.due.0 = now_ms + u64::from(delay);
                row.receipt = None;
                match counts {
                    true => row.failures += 1,
                    false => row.receives -= 1,
                }
            });
            agrees(queue.release(&lease, ms(delay), "given back", counts), row)?;
        }
    }
    Ok(())
}

fn redrive(bench: &Bench, model: &mut Model, id: &str) -> Result<(), TestCaseError> {
    let now_ms = model.now_ms;
    let dead = model.tasks.get_mut(id).filter(|row| row.end == Some(Phase::Dead));
    let want = dead.map(|row| *row = Row { due: (now_ms, row.due.1), ..Row::default() });
    prop_assert_eq!(bench.queue.redrive(&|of| of == id).unwrap(), u64::from(want.is_some()));
    Ok(())
}

fn agrees(got: engine::Result<()>, want: Option<()>) -> Result<(), TestCaseError> {
    prop_assert_eq!(got.map_err(|e| e.kind), want.ok_or(ErrorKind::Cancelled));
    Ok(())
}
