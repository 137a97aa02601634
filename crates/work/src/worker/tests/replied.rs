//! What is told of tasks that have ended: after they are durable, before they are acknowledged, and never to whom a body
//! pleases.

use super::*;
use crate::reply::{Completion, Ending, MESSAGE_BYTES_MIN, Outbox, Reply, ReplyForm};

/// Keeps what it is told, and the phase in which the task was then; fails as its hook says.
struct Kept {
    queue: Arc<SqliteQueue>,
    objects: FolderStore,
    told: Mutex<Vec<(Reply, Phase, bool)>>,
    hook: Hook,
}

impl Outbox for Kept {
    fn body_bytes_max(&self) -> usize {
        MESSAGE_BYTES_MIN
    }

    fn send(&self, reply: &Reply) -> Result<()> {
        (self.hook)("reply")?;
        let durable = self.objects.head(&summary_key(&reply.task))?.is_some();
        let phase = self.queue.state(&reply.task)?.phase;
        self.told.lock().unwrap().push((reply.clone(), phase, durable));
        Ok(())
    }
}

fn kept(yard: &Yard, hook: Hook) -> Arc<Kept> {
    let (queue, objects) = (Arc::clone(&yard.queue), yard.objects.clone());
    Arc::new(Kept { queue, objects, told: Mutex::default(), hook })
}

fn telling(worker: Worker, outbox: &Arc<Kept>, form: ReplyForm) -> Worker {
    let usual = ("sqs://ended".to_owned(), Arc::clone(outbox) as Arc<dyn Outbox>);
    Worker { replies: Replies::new(Some(usual), Vec::new(), form), ..worker }
}

fn told(outbox: &Kept) -> Vec<(Reply, Phase, bool)> {
    std::mem::take(&mut outbox.told.lock().unwrap())
}

#[test]
fn an_end_is_told_when_it_is_durable_and_before_it_is_acknowledged() {
    let yard = Yard::new();
    yard.submit("good", &yard.video());
    yard.submit("bad", &yard.file("bad.avi", b"no video"));
    let outbox = kept(&yard, no_hook());
    let report = run(&telling(yard.worker(), &outbox, ReplyForm::Json), Mode::DrainOnce).unwrap();
    assert_eq!((report.completed, report.dead), (1, 1));
    let [(good, phase, durable), (bad, phase_bad, durable_bad)] = told(&outbox).try_into().unwrap();
    assert_eq!((good.done, phase, durable), (true, Phase::InFlight, true));
    assert_eq!((bad.done, phase_bad, durable_bad), (false, Phase::InFlight, false));
    let Completion { id, ending, .. } = serde_json::from_str(&good.body).unwrap();
    let Ending::Done { frames, detections, results, outputs, .. } = ending else { panic!("{good:?}") };
    assert_eq!((&*id, frames, detections), ("good", FRAMES, FRAMES_FOUND));
    let lines = std::fs::read(Path::new(&results).join(&outputs[0].file)).unwrap();
    assert_eq!(outputs[0].blake3, blake3::hash(&lines).to_hex().as_str());
    let Completion { ending, .. } = serde_json::from_str(&bad.body).unwrap();
    assert_eq!(ending, Ending::Failed { reason: yard.state("bad").reason.unwrap() });
}

#[test]
fn who_dies_before_the_acknowledgement_has_it_told_again() {
    let yard = Yard::new();
    yard.submit("a", &yard.video());
    let outbox = kept(&yard, no_hook());
    let dies: Hook = Box::new(|call| if call == "complete" { panic!("killed") } else { Ok(()) });
    let worker = telling(yard.hooked(dies, no_hook(), no_hook()), &outbox, ReplyForm::Json);
    let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&worker, Mode::DrainOnce)));
    assert!(died.is_err());
    yard.advance(Duration::from_secs(3600));
    let report = run(&telling(yard.worker(), &outbox, ReplyForm::Json), Mode::DrainOnce).unwrap();
    assert_eq!(report.completed, 1);
    let told: Vec<Reply> = told(&outbox).into_iter().map(|(reply, ..)| reply).collect();
    assert!(told.len() == 2 && told[0] == told[1], "{told:?}");
}

#[test]
fn what_cannot_be_told_is_not_acknowledged_and_no_task_is_to_blame() {
    for (name, content) in [("video.avi", None), ("bad.avi", Some(b"no video"))] {
        let yard = Yard::new();
        let path = content.map_or_else(|| yard.video(), |content| yard.file(name, content));
        yard.submit("a", &path);
        let broken: Hook = Box::new(|_| Err(Error::unavailable("the queue of replies is away")));
        let worker = telling(yard.worker(), &kept(&yard, broken), ReplyForm::Json);
        let error = run(&worker, Mode::DrainOnce).unwrap_err();
        assert!(error.message.contains("the queue of replies is away"), "{error}");
        let state = yard.state("a");
        assert_eq!((state.phase, state.failures), (Phase::Visible, 0), "{name}");
        let outbox = kept(&yard, no_hook());
        let report = run(&telling(yard.worker(), &outbox, ReplyForm::Json), Mode::DrainOnce).unwrap();
        assert_eq!((report.completed + report.dead, told(&outbox).len()), (1, 1), "{name}");
    }
}

#[test]
fn a_body_picks_among_the_queues_that_its_worker_has_and_no_other() {
    let yard = Yard::new();
    let video = yard.video();
    let send = |id: &str, to: Option<&str>| {
        let task =
            Task { id: id.to_owned(), reply_to: to.map(str::to_owned), ..Task::new(&video, "brightness").unwrap() };
        yard.queue.send(&task).unwrap();
    };
    let (usual, other) = (kept(&yard, no_hook()), kept(&yard, no_hook()));
    let named = |name: &str, outbox: &Arc<Kept>| (name.to_owned(), Arc::clone(outbox) as Arc<dyn Outbox>);
    let others = vec![named("https://sqs.eu-west-1.amazonaws.com/1/others", &other)];
    let replies = Replies::new(Some(named("sqs://ended", &usual)), others, ReplyForm::Json);
    let worker = Worker { replies, ..yard.worker() };
    send("none", None);
    send("name", Some("others"));
    send("address", Some("https://sqs.eu-west-1.amazonaws.com/1/others"));
    send("usual", Some("sqs://ended"));
    send("stranger", Some("https://sqs.eu-west-1.amazonaws.com/666/others"));
    let report = run(&worker, Mode::DrainOnce).unwrap();
    assert_eq!((report.completed, report.dead), (4, 1));
    let ids = |outbox: &Kept| told(outbox).into_iter().map(|(reply, ..)| reply.task).collect::<Vec<_>>();
    assert_eq!(
        (ids(&usual), ids(&other)),
        (vec!["none".into(), "usual".into()], vec!["name".into(), "address".into()])
    );
    let reason = yard.state("stranger").reason.unwrap();
    assert!(reason.contains("reply_to") && reason.contains("--reply-allow"), "{reason}");
    // Without any of it, nobody is told, and asking for it is refused all the same.
    send("another", Some("others"));
    assert_eq!(run(&yard.worker(), Mode::DrainOnce).unwrap().dead, 1);
}

#[test]
fn the_old_text_has_a_line_a_frame_and_failures_are_told_in_json() {
    let yard = Yard::new();
    yard.submit("good", &yard.video());
    yard.submit("bad", &yard.file("bad.avi", b"no video"));
    let outbox = kept(&yard, no_hook());
    run(&telling(yard.worker(), &outbox, ReplyForm::Text), Mode::DrainOnce).unwrap();
    let [(good, ..), (bad, ..)] = told(&outbox).try_into().unwrap();
    let lines: Vec<&str> = good.body.lines().collect();
    assert_eq!((lines.len() as u64, lines[0], good.frames_left_out), (FRAMES, "[]", 0));
    assert!(lines[11].starts_with("[('light', 0.9"), "{}", lines[11]);
    assert!(matches!(serde_json::from_str(&bad.body).unwrap(), Completion { ending: Ending::Failed { .. }, .. }));
}
