//! Questions to servers that answer, do not, or answer nonsense. Nothing here depends on who is faster: where a time limit
//! matters, the other side is silent for good.

#![expect(clippy::unwrap_used, reason = "the whole of this crate is tests")]

mod security;
mod server;

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use engine::{DataType, Signature, Tensor, TensorSpec};
use remote::policy::{Budget, Limits, Pauses, Why};
use remote::{Address, Answered, Attachment, FailureKind, Model, Remote, Settings, Tolerance, Unanswered};
use tokio::runtime::Runtime;

use crate::server::{Mood, SHAPE, Server, VALUES, metadata};

/// Longer than anything takes that is not silent for good.
const LONG: Duration = Duration::from_secs(60);

fn spec(name: &str, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.to_owned(), dtype: DataType::F32, shape: shape.to_vec(), any_rank: false }
}

fn tensor(values: &[f32]) -> Tensor {
    Tensor::from_f32(vec![values.len()], values.to_vec()).unwrap()
}

/// Servers, and a model that is attached to all of them.
struct Place {
    servers: Vec<Server>,
    attachment: Arc<Attachment>,
    // In this order: what calls goes before what is called.
    _remote: Remote,
    _runtime: Runtime,
}

/// As patient as can be, with pauses that nobody notices.
fn patient() -> Limits {
    let ms = Duration::from_millis;
    let brief = Pauses { first: ms(1), longest: ms(5) };
    Limits { call: LONG, question: LONG, retry: brief, probe: brief, ..Limits::default() }
}

impl Place {
    fn new(servers: usize, limits: Limits) -> Self {
        Self::with(servers, Settings { limits, ..Settings::default() }, |_| {})
    }

    fn with(servers: usize, settings: Settings, prepare: impl Fn(&Server)) -> Self {
        let runtime = Runtime::new().unwrap();
        let servers: Vec<Server> = (0..servers).map(|_| runtime.block_on(Server::start())).collect();
        servers.iter().for_each(prepare);
        let urls: Vec<String> = servers.iter().map(|server| format!("grpc://{}/sum", server.address)).collect();
        Self::at(&urls, servers, settings, runtime)
    }

    /// With servers that run already, asked at `urls`.
    fn at(urls: &[String], servers: Vec<Server>, settings: Settings, runtime: Runtime) -> Self {
        let addresses: Vec<Address> = urls.iter().map(|url| url.parse().unwrap()).collect();
        let remote = Remote::start(&addresses, settings).unwrap();
        let signature = Signature { inputs: vec![spec("x", &[SHAPE])], outputs: vec![spec("y", &[1])] };
        let (sample, answer) = (vec![tensor(&[0.5; VALUES])], vec![tensor(&[2.0])]);
        let attachment = remote.attach(Model { name: "ours".to_owned(), signature, sample, answer }).unwrap();
        Self { servers, attachment, _remote: remote, _runtime: runtime }
    }

    /// Asks for the sum of four times `value`.
    fn ask(&self, value: f32) -> Result<Answered, Box<Unanswered>> {
        let (sender, receiver) = sync_channel(1);
        self.attachment.ask(vec![tensor(&[value; VALUES])], move |asked| sender.send(asked).unwrap());
        receiver.recv_timeout(LONG * 2).unwrap().map_err(Box::new)
    }

    #[track_caller]
    fn answered(&self, value: f32) -> Answered {
        let answered = self.ask(value).unwrap();
        assert_eq!(answered.outputs, [tensor(&[4.0 * value])]);
        answered
    }

    #[track_caller]
    fn wait_until_in(&self) {
        let begun = std::time::Instant::now();
        while !self.attachment.anybody_in() {
            assert!(begun.elapsed() < LONG);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn answers_come_and_what_they_took_is_told() {
    let place = Place::new(2, patient());
    for value in 0..20u8 {
        let used = place.answered(value.into()).used;
        assert_eq!((used.calls, used.retries, used.hedges), (1, 0, 0));
        assert!(used.sent_bytes > 16 && used.received_bytes > 4);
    }
    // A look each, and the questions.
    assert_eq!(place.servers.iter().map(Server::calls).sum::<u64>(), 22);
}

#[test]
fn what_is_busy_is_asked_again_and_elsewhere() {
    let place = Place::new(1, patient());
    place.servers[0].set(Mood::Failing(2));
    let used = place.answered(1.0).used;
    assert_eq!((used.calls, used.retries), (3, 2));
    let place = Place::new(2, patient());
    place.servers[0].set(Mood::Refusing(tonic::Code::ResourceExhausted));
    let retries: u64 = (0..6).map(|_| place.answered(1.0).used.retries).sum();
    assert!(retries <= 6, "the other one answers at once");
}

#[test]
fn questions_that_nobody_answers_come_back_whole_and_say_why() {
    for (mood, kind, why) in [
        (Mood::Refusing(tonic::Code::Unavailable), FailureKind::Lost, Why::TriesSpent),
        (Mood::Refusing(tonic::Code::ResourceExhausted), FailureKind::Busy, Why::TriesSpent),
        (Mood::Refusing(tonic::Code::Internal), FailureKind::Broken, Why::NotAgain),
        (Mood::Refusing(tonic::Code::InvalidArgument), FailureKind::Wrong, Why::NotAgain),
        (Mood::Odd(2), FailureKind::Wrong, Why::NotAgain),
        (Mood::Renewed, FailureKind::Wrong, Why::NotAgain),
    ] {
        let place = Place::new(1, Limits { failures_max: 100, ..patient() });
        place.servers[0].set(mood.clone());
        let unanswered = place.ask(1.0).unwrap_err();
        assert_eq!((unanswered.why, unanswered.failure.map(|failure| failure.kind)), (why, Some(kind)), "{mood:?}");
        assert_eq!(unanswered.inputs, [tensor(&[1.0; VALUES])]);
    }
}

#[test]
fn who_is_silent_costs_a_deadline_and_then_nothing_until_it_is_back() {
    let call = Duration::from_millis(100);
    let place =
        Place::with(1, Settings { look: call, limits: Limits { call, ..patient() }, ..Settings::default() }, |_| {});
    place.servers[0].set(Mood::Silent);
    for _ in 0..3 {
        let unanswered = place.ask(1.0).unwrap_err();
        assert_eq!(unanswered.why, Why::NotAgain);
        assert_eq!(unanswered.failure.unwrap().kind, FailureKind::Slow);
    }
    assert!(!place.attachment.anybody_in());
    let unanswered = place.ask(1.0).unwrap_err();
    assert_eq!((unanswered.why, unanswered.used.calls), (Why::NobodyThere, 0));
    place.servers[0].set(Mood::Well);
    place.wait_until_in();
    place.answered(3.0);
}

#[test]
fn who_became_another_model_is_not_asked_any_more() {
    let place = Place::new(1, patient());
    place.answered(1.0);
    place.servers[0].set(Mood::Odd(2));
    assert!(place.ask(1.0).is_err());
    place.servers[0].set(Mood::Off(0.25));
    while !place.attachment.mismatches().iter().any(|(_, why)| why.contains("'y' with other bits")) {
        std::thread::yield_now();
    }
    assert_eq!(place.ask(1.0).unwrap_err().why, Why::NobodyThere);
    place.servers[0].set(Mood::Well);
    place.wait_until_in();
    place.answered(1.0);
    assert!(place.attachment.mismatches().is_empty());
}

#[test]
fn who_waits_is_answered_when_somebody_is_back() {
    let place = Place::new(1, Limits { waits: true, tries_max: 10, ..patient() });
    place.servers[0].set(Mood::Odd(3));
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| place.answered(2.0));
        while place.servers[0].calls() < 2 {
            std::thread::yield_now();
        }
        place.servers[0].set(Mood::Well);
        asking.join().unwrap();
    });
}

#[test]
fn one_that_takes_long_is_overtaken_by_another() {
    let place = Place::new(2, Limits { hedges: Budget::new(1000, 0, 100), ..patient() });
    (0..60).for_each(|_| drop(place.answered(1.0)));
    // With nothing under way the first is asked first.
    place.servers[0].set(Mood::Silent);
    let used = place.answered(5.0).used;
    assert_eq!((used.calls, used.hedges, used.retries), (2, 1, 0));
}

#[test]
fn an_endpoint_is_looked_at_before_it_is_asked() {
    let with = |change: fn(&mut proto::inference::ModelMetadataResponse)| {
        let mut told = metadata();
        change(&mut told);
        told
    };
    for (told, mood, tolerance, said) in [
        (metadata(), Mood::Well, 0.0, None),
        (metadata(), Mood::Off(0.001), 0.0, Some("other bits")),
        (metadata(), Mood::Off(0.001), 0.01, None),
        (metadata(), Mood::Off(0.1), 0.01, Some("off, and the tolerance is 0.01")),
        (metadata(), Mood::Odd(2), 0.01, Some("[2]")),
        (with(|told| told.inputs[0].datatype = "UINT8".to_owned()), Mood::Well, 0.0, Some("UINT8")),
        (with(|told| told.inputs[0].shape = vec![5]), Mood::Well, 0.0, Some("[5]")),
        (with(|told| told.outputs.clear()), Mood::Well, 0.0, Some("no output 'y'")),
        (with(|told| told.outputs[0].datatype = "FP33".to_owned()), Mood::Well, 0.0, Some("FP33")),
        (with(|told| told.inputs[0].name = "pixels".to_owned()), Mood::Well, 0.0, None),
    ] {
        let settings = Settings { tolerance: Tolerance(tolerance), limits: patient(), ..Settings::default() };
        let place = Place::with(1, settings, |server| {
            server.say(told.clone());
            server.set(mood.clone());
        });
        let mismatches = place.attachment.mismatches();
        assert_eq!(mismatches.is_empty(), said.is_none(), "{told:?} {mood:?}: {mismatches:?}");
        assert_eq!(place.attachment.anybody_in(), said.is_none());
        if let Some(said) = said {
            let (address, why) = &mismatches[0];
            assert!(address.ends_with("/sum") && why.contains(said), "{mismatches:?}");
        }
    }
}
