//! What every queue must do, checked on any of them: given cases first, then random operations against a model.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use engine::ErrorKind;
use proptest::prelude::*;

use super::{Depth, Lease, Phase, Received, TaskQueue};
use crate::Task;

/// A fresh queue that gives a task up after [`RECEIVES_MAX`] receives, and the way to turn its clock.
pub(super) struct Bench {
    /// Under test.
    pub(super) queue: Box<dyn TaskQueue>,
    /// Lets that much time pass.
    pub(super) advance: Box<dyn Fn(Duration)>,
    /// Kept for as long as the queue.
    pub(super) _folder: Box<dyn std::any::Any>,
}

/// The limit that a [`Bench`] queue is made with.
pub(super) const RECEIVES_MAX: u32 = 4;

const VISIBILITY: Duration = Duration::from_secs(30);

/// Runs the whole suite; `make` gives a new, empty queue each time.
pub(super) fn check(make: &dyn Fn() -> Bench) {
    for case in [one_task_end_to_end, lapsed_lease, given_back, dead_letters, received_too_often, sent_twice, in_order]
    {
        case(&make());
    }
    let config = ProptestConfig { cases: 64, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let operations = proptest::collection::vec(operation(), 1..60);
    runner.run(&operations, |operations| follows_the_model(&make(), &operations)).unwrap();
}

fn task(id: &str) -> Task {
    Task { id: id.to_owned(), ..Task::new(Path::new("/videos/a.mp4"), "detector").unwrap() }
}

fn depth(queue: &dyn TaskQueue) -> Depth {
    Depth { oldest_age: None, ..queue.depth().unwrap() }
}

fn lost(result: engine::Result<()>) {
    assert_eq!(result.unwrap_err().kind, ErrorKind::Cancelled);
}

fn receive(bench: &Bench) -> Lease {
    match bench.queue.receive(VISIBILITY).unwrap() {
        Received::Task(lease) => *lease,
        other => panic!("a task is visible, but receive gave {other:?}"),
    }
}

fn one_task_end_to_end(bench: &Bench) {
    let queue = bench.queue.as_ref();
    assert_eq!(queue.receive(VISIBILITY).unwrap(), Received::Nothing);
    assert_eq!(queue.state("a").unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(queue.depth().unwrap(), Depth::default());
    let sent = task("a");
    queue.send(&sent).unwrap();
    (bench.advance)(Duration::from_secs(7));
    assert_eq!(
        queue.depth().unwrap(),
        Depth { visible: 1, oldest_age: Some(Duration::from_secs(7)), ..Depth::default() }
    );
    let lease = receive(bench);
    assert_eq!((&lease.task, lease.receive_count, lease.failures), (&sent, 1, 0));
    assert_eq!(depth(queue), Depth { in_flight: 1, ..Depth::default() });
    assert_eq!(queue.receive(VISIBILITY).unwrap(), Received::Nothing);
    queue.complete(&lease).unwrap();
    assert_eq!(depth(queue), Depth { done: 1, ..Depth::default() });
    assert!(queue.depth().unwrap().is_drained());
    assert_eq!(queue.state("a").unwrap().phase, Phase::Done);
    lost(queue.complete(&lease));
    lost(queue.extend(&lease, VISIBILITY));
    (bench.advance)(VISIBILITY * 2);
    assert_eq!(queue.receive(VISIBILITY).unwrap(), Received::Nothing);
}

fn lapsed_lease(bench: &Bench) {
    let queue = bench.queue.as_ref();
    queue.send(&task("a")).unwrap();
    let first = receive(bench);
    for _ in 0..5 {
        (bench.advance)(VISIBILITY - Duration::from_millis(1));
        queue.extend(&first, VISIBILITY).unwrap();
    }
    assert_eq!(queue.state("a").unwrap().phase, Phase::InFlight);
    (bench.advance)(VISIBILITY);
    assert_eq!(queue.state("a").unwrap().phase, Phase::Visible);
    let second = receive(bench);
    assert_eq!(second.receive_count, 2);
    assert_ne!(second.receipt, first.receipt);
    lost(queue.extend(&first, VISIBILITY * 100));
    lost(queue.complete(&first));
    lost(queue.release(&first, Duration::ZERO, "late", true));
    lost(queue.dead_letter(&first, "late"));
    assert_eq!(depth(queue), Depth { in_flight: 1, ..Depth::default() });
    queue.complete(&second).unwrap();
}

fn given_back(bench: &Bench) {
    let queue = bench.queue.as_ref();
    queue.send(&task("a")).unwrap();
    let first = receive(bench);
    queue.release(&first, Duration::from_secs(5), "the model was loading", true).unwrap();
    assert_eq!(depth(queue), Depth { delayed: 1, ..Depth::default() });
    assert_eq!(queue.receive(VISIBILITY).unwrap(), Received::Nothing);
    (bench.advance)(Duration::from_secs(5));
    let second = receive(bench);
    assert_eq!((second.receive_count, second.failures), (2, 1));
    assert_eq!(queue.state("a").unwrap().reason.as_deref(), Some("the model was loading"));
    // The task is not to blame, so neither count goes up, however often.
    queue.release(&second, Duration::ZERO, "the worker was stopped", false).unwrap();
    for _ in 0..RECEIVES_MAX * 2 {
        let lease = receive(bench);
        assert_eq!((lease.receive_count, lease.failures), (2, 1));
        queue.release(&lease, Duration::ZERO, "the worker was stopped", false).unwrap();
    }
    lost(queue.complete(&second));
}

fn dead_letters(bench: &Bench) {
    let queue = bench.queue.as_ref();
    queue.send(&task("a")).unwrap();
    let lease = receive(bench);
    queue.dead_letter(&lease, "the file is empty").unwrap();
    let state = queue.state("a").unwrap();
    assert_eq!((state.phase, state.reason.as_deref()), (Phase::Dead, Some("the file is empty")));
    assert_eq!(depth(queue), Depth { dead: 1, ..Depth::default() });
    (bench.advance)(VISIBILITY * 2);
    assert_eq!(queue.receive(VISIBILITY).unwrap(), Received::Nothing);
    lost(queue.complete(&lease));
}

fn received_too_often(bench: &Bench) {
    let queue = bench.queue.as_ref();
    queue.send(&task("killer")).unwrap();
    for _ in 0..RECEIVES_MAX {
        receive(bench);
        (bench.advance)(VISIBILITY);
    }
    queue.send(&task("next")).unwrap();
    let Received::DeadLetter { id, reason } = queue.receive(VISIBILITY).unwrap() else { panic!("received once more") };
    assert_eq!(receive(bench).task.id, "next");
    let state = queue.state("killer").unwrap();
    assert_eq!((state.phase, state.reason.as_deref(), &*id), (Phase::Dead, Some(&*reason), "killer"));
    assert!(reason.starts_with(&format!("received {RECEIVES_MAX} times without an end")), "{reason}");
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
    assert_eq!(receive(bench).task, task("a"));
}

fn in_order(bench: &Bench) {
    for id in ["c", "a", "b"] {
        bench.queue.send(&task(id)).unwrap();
    }
    assert_eq!([(); 3].map(|()| receive(bench).task.id), ["c", "a", "b"]);
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

    fn held(&mut self, lease: &Lease) -> Option<&mut Row> {
        let row = self.tasks.get_mut(&lease.task.id)?;
        (row.receipt.as_deref() == Some(&lease.receipt) && row.end.is_none()).then_some(row)
    }
}

fn follows_the_model(bench: &Bench, operations: &[Operation]) -> Result<(), TestCaseError> {
    let (mut model, mut leases) = (Model::default(), Vec::<Lease>::new());
    for operation in operations {
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
            let state = bench.queue.state(id).unwrap();
            prop_assert_eq!((state.phase, state.failures), (phase, row.failures), "{}", id);
        }
        // Never lost: the five counts together are what was sent.
        prop_assert_eq!(depth(bench.queue.as_ref()), want);
        prop_assert_eq!(want.visible + want.delayed + want.in_flight + want.dead + want.done, model.tasks.len() as u64);
    }
    Ok(())
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
            match (got, model.next()) {
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

fn agrees(got: engine::Result<()>, want: Option<()>) -> Result<(), TestCaseError> {
    prop_assert_eq!(got.map_err(|e| e.kind), want.ok_or(ErrorKind::Cancelled));
    Ok(())
}
