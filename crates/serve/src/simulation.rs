//! The scheduler's decisions over whole days of traffic, in virtual time: queues as they are, lanes that cost what they
//! are told to cost, and no clock. What docs/decisions/008-holding-back.md claims is shown here.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Result, Tensor};
use store::repository::Settings;
use store::{LatencyClass, Manifest, Serving};

use crate::bodies::Held;
use crate::job::Job;
use crate::model::Model;
use crate::queue::{Next, Queues, Wake};
use crate::reply::Reply;
use crate::residency::Program;
use crate::{InferResponse, QueueLimits};

struct Client;

impl Reply for Client {
    fn gone(&self) -> bool {
        false
    }
    fn send(self: Box<Self>, _: Result<InferResponse>) {}
}

/// A model whose run of `n` items takes `run_us + n * item_us`.
struct Load {
    serving: Serving,
    run_us: u64,
    item_us: u64,
    /// When its requests come.
    arrivals_us: Vec<u64>,
}

/// What became of the requests of one model.
#[derive(Debug, Default)]
struct Outcome {
    /// From arrival to answer, of each that was answered, in the order of answers.
    latencies_us: Vec<u64>,
    refused: usize,
    expired: usize,
    lane_us: u64,
}

impl Outcome {
    fn mean_us(&self) -> f64 {
        self.latencies_us.iter().sum::<u64>() as f64 / self.latencies_us.len().max(1) as f64
    }

    fn quantile_us(&self, quantile: f64) -> u64 {
        let mut sorted = self.latencies_us.clone();
        sorted.sort_unstable();
        sorted[((sorted.len() - 1) as f64 * quantile) as usize]
    }
}

enum Event {
    Arrives(usize),
    /// The lane is done with a batch of the model.
    Ends(usize, Vec<Job>, u64),
}

/// Lanes, and what they do.
struct World {
    begin: Instant,
    now_us: u64,
    limits: QueueLimits,
    queues: Queues,
    models: Vec<(Arc<Model>, Load)>,
    /// Events by time and then order.
    events: BinaryHeap<(Reverse<u64>, Reverse<usize>)>,
    happenings: Vec<Option<Event>>,
    /// Lanes that sleep, and until when.
    sleeping: Vec<Option<u64>>,
    outcomes: Vec<Outcome>,
}

impl World {
    fn new(lanes: usize, limits: QueueLimits, loads: Vec<Load>) -> Self {
        let models: Vec<_> =
            loads.into_iter().zip(1..).map(|(load, id)| (model(id, load.serving.clone()), load)).collect();
        let mut world = Self {
            begin: Instant::now(),
            now_us: 0,
            limits,
            queues: Queues::new(limits, lanes),
            outcomes: models.iter().map(|_| Outcome::default()).collect(),
            models,
            events: BinaryHeap::new(),
            happenings: Vec::new(),
            sleeping: vec![None; lanes],
        };
        for place in 0..world.models.len() {
            for at_us in std::mem::take(&mut world.models[place].1.arrivals_us) {
                world.plan(at_us, Event::Arrives(place));
            }
        }
        world
    }

    fn plan(&mut self, at_us: u64, event: Event) {
        self.events.push((Reverse(at_us), Reverse(self.happenings.len())));
        self.happenings.push(Some(event));
    }

    fn at(&self, us: u64) -> Instant {
        self.begin + Duration::from_micros(us)
    }

    fn now(&self) -> Instant {
        self.at(self.now_us)
    }

    /// Lets everything happen, `each` after each answer; requests of closed sets are asked for by that.
    fn run(mut self, mut again: impl FnMut(usize, u64) -> Option<u64>) -> Vec<Outcome> {
        loop {
            let wakes = self.sleeping.iter().filter_map(|&until| until).min();
            let next = self.events.peek().map(|&(Reverse(at_us), _)| at_us);
            match (next, wakes) {
                (None, None) => break,
                (next, Some(wake_us)) if next.is_none_or(|next| wake_us <= next) => {
                    self.now_us = wake_us;
                    let place = self.sleeping.iter().position(|&until| until == Some(wake_us));
                    self.sleeping.swap_remove(place.unwrap());
                    self.look();
                }
                _ => {
                    let (Reverse(at_us), Reverse(index)) = self.events.pop().unwrap();
                    self.now_us = at_us;
                    match self.happenings[index].take().unwrap() {
                        Event::Arrives(place) => self.arrives(place),
                        Event::Ends(place, batch, lane_us) => {
                            for at_us in self.ends(place, &batch, lane_us).into_iter().filter_map(|us| again(place, us))
                            {
                                self.plan(at_us, Event::Arrives(place));
                            }
                        }
                    }
                }
            }
            self.watched();
        }
        assert!(self.queues.is_idle(), "somebody was forgotten");
        self.outcomes
    }

    /// What must hold whenever nothing happens: no lane sleeps past a hold, or beside work.
    fn watched(&mut self) {
        if self.sleeping.is_empty() {
            return;
        }
        assert!(!self.queues.has_work(), "a lane sleeps beside work");
        if let Some(hold) = self.queues.next_hold() {
            let until = self.sleeping.iter().filter_map(|&until| until).min();
            assert!(
                until.is_some_and(|until| self.at(until) <= hold + Duration::from_micros(1)),
                "a lane sleeps past a hold"
            );
        }
    }

    fn arrives(&mut self, place: usize) {
        let model = Arc::clone(&self.models[place].0);
        let inputs = vec![Tensor::from_f32(vec![1, 1], vec![0.0]).unwrap()];
        let (submitted, reply) = (self.now(), Box::new(Client));
        let job = Job {
            length: None,
            model,
            inputs,
            outputs: Vec::new(),
            priority: 0,
            deadline: None,
            submitted,
            age: 0,
            was_put_back: false,
            reply,
            held: Held::default(),
        };
        match self.queues.push(job) {
            Ok(Wake::Lane) => self.wake(),
            Ok(Wake::Nobody) => {}
            Ok(Wake::Loader) => unreachable!("every model is loaded"),
            Err(_) => self.outcomes[place].refused += 1,
        }
        self.outcomes[place].expired += self.queues.swept().len();
    }

    /// Wakes one of the lanes that sleep, any; the first here.
    fn wake(&mut self) {
        if !self.sleeping.is_empty() {
            self.sleeping.remove(0);
            self.look();
        }
    }

    /// A lane looks what there is to do.
    fn look(&mut self) {
        match self.queues.next_batch(self.now()) {
            Next::Leave => unreachable!("nobody stops"),
            Next::Wait => self.sleeping.push(None),
            // A sleep may be a little too long, and is never too short.
            Next::WaitUntil(until) => {
                let us = until.duration_since(self.begin).as_nanos().div_ceil(1000);
                self.sleeping.push(Some(u64::try_from(us).unwrap()));
            }
            Next::Do(batch) => {
                let place = usize::try_from(batch[0].model.id()).unwrap() - 1;
                let (now, limits) = (self.now(), self.limits);
                let (late, batch): (Vec<_>, Vec<_>) =
                    batch.jobs.into_iter().partition(|job| job.overdue(&limits, now).is_some());
                self.outcomes[place].expired += late.len();
                let (load, items) = (&self.models[place].1, batch.len() as u64);
                let cost_us = if batch.is_empty() { 0 } else { load.run_us + items * load.item_us };
                self.plan(self.now_us + cost_us, Event::Ends(place, batch, cost_us));
                if self.queues.wants_a_look() {
                    self.wake();
                }
            }
        }
    }

    /// The lane is done, and looks for more. When each of its requests was answered.
    fn ends(&mut self, place: usize, batch: &[Job], lane_us: u64) -> Vec<u64> {
        let model = Arc::clone(&self.models[place].0);
        let (now, cost) = (self.now(), Duration::from_micros(lane_us));
        if !batch.is_empty() {
            model.costs().learn(batch.len() as u64, cost);
        }
        let outcome = &mut self.outcomes[place];
        outcome.lane_us += lane_us;
        for job in batch {
            outcome.latencies_us.push(u64::try_from((now - job.submitted).as_micros()).unwrap());
        }
        self.queues.finished(&model, cost);
        self.look();
        vec![self.now_us; batch.len()]
    }
}

fn model(id: u64, serving: Serving) -> Arc<Model> {
    let manifest: Manifest = serde_json::from_value(serde_json::json!({
        "format": 1, "name": format!("m{id}"), "version": 1,
        "source": {"format": "onnx", "hash": "", "bytes": 0},
        "program": {"hash": "", "kind": "lifted", "target": "portable"},
        "inputs": [], "outputs": [], "max_batch_size": 32,
    }))
    .unwrap();
    let model = Model::unloaded(id, manifest, Settings { serving, ..Settings::default() }.into()).unwrap();
    model.set_program(Arc::new(Program::new(Vec::new())));
    Arc::new(model)
}

/// Numbers that look like chance and are always the same.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    /// Between 0 and 1.
    pub(crate) fn unit(&mut self) -> f64 {
        // Knuth's MMIX generator; its upper bits are the better ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Exponentially distributed.
    fn pause_us(&mut self, mean_us: f64) -> f64 {
        -mean_us * self.unit().ln()
    }
}

/// `count` requests by chance, `mean_us` apart on average.
fn by_chance(count: usize, mean_us: f64, seed: u64) -> Vec<u64> {
    let (mut chance, mut at_us) = (Chance(seed), 0.0);
    let mut next = || {
        at_us += chance.pause_us(mean_us);
        at_us as u64
    };
    (0..count).map(|_| next()).collect()
}

/// `count` bursts by chance, `mean_us` apart on average, each of about `size` requests that come `gap_us` apart.
fn in_bursts(count: usize, mean_us: f64, (size, gap_us): (u64, u64), seed: u64) -> Vec<u64> {
    let mut chance = Chance(seed + 1);
    let mut sized = || size * 3 / 4 + (chance.unit() * (size / 2 + 1) as f64) as u64;
    let bursts = by_chance(count, mean_us, seed).into_iter();
    bursts.flat_map(|at_us| (0..sized()).map(move |place| at_us + place * gap_us)).collect()
}

fn delay(max_queue_delay_us: Option<u64>) -> Serving {
    Serving { max_queue_delay_us, ..Serving::default() }
}

/// One model on `lanes`, held back by itself and never.
fn both(lanes: usize, (run_us, item_us): (u64, u64), arrivals_us: &[u64]) -> (Outcome, Outcome) {
    let run = |max_queue_delay_us| {
        let arrivals_us = arrivals_us.to_vec();
        let load = Load { serving: delay(max_queue_delay_us), run_us, item_us, arrivals_us };
        let limits = QueueLimits { capacity: 1 << 20, time_limit: Duration::from_secs(3600) };
        World::new(lanes, limits, vec![load]).run(|_, _| None).remove(0)
    };
    (run(None), run(Some(0)))
}

/// Runs that cost mostly by themselves, by the item, and next to nothing.
const RUNS: [(u64, u64); 3] = [(2000, 100), (100, 1000), (50, 5)];

#[test]
fn requests_that_come_by_chance_are_as_fast_as_if_none_was_ever_held() {
    for lanes in [1, 2, 4] {
        for runs in RUNS {
            for load in [0.02, 0.2, 0.5, 0.8] {
                let mean_us = (runs.0 + runs.1) as f64 / (load * lanes as f64);
                let (auto, never) = both(lanes, runs, &by_chance(10_000, mean_us, 7));
                let what = format!("{lanes} lanes, {runs:?} us, load {load}");
                assert!(auto.mean_us() <= never.mean_us() * 1.001, "{what}");
                assert!(auto.quantile_us(0.99) as f64 <= never.quantile_us(0.99) as f64 * 1.01, "{what}");
            }
        }
    }
}

#[test]
fn saturated_lanes_do_as_much_as_if_none_was_ever_held() {
    for lanes in [1, 2, 4] {
        for runs in RUNS {
            // Three times what could be done one by one.
            let arrivals_us = by_chance(10_000, (runs.0 + runs.1) as f64 / (3 * lanes) as f64, 3);
            let (auto, never) = both(lanes, runs, &arrivals_us);
            let what = format!("{lanes} lanes, {runs:?} us");
            assert!(auto.lane_us as f64 <= never.lane_us as f64 * 1.001, "{what}");
            assert!(auto.mean_us() <= never.mean_us() * 1.001, "{what}");
        }
    }
}

#[test]
fn bursts_of_runs_that_cost_mostly_by_themselves_are_waited_for() {
    for (what, lanes, runs, burst, mean_us, want) in [
        ("one lane", 1, (2000, 100), (8, 20), 50_000.0, 0.85),
        ("one lane, often", 1, (2000, 100), (8, 20), 8_000.0, 0.99),
        ("two lanes", 2, (4000, 100), (8, 20), 50_000.0, 0.85),
        ("a lane for each", 16, (2000, 100), (8, 20), 50_000.0, 1.001),
        ("runs that cost by the item", 1, (100, 1000), (8, 20), 50_000.0, 1.001),
        ("bursts longer than a run", 1, (2000, 100), (8, 1000), 50_000.0, 1.001),
        ("pairs", 1, (2000, 100), (2, 20), 50_000.0, 0.92),
    ] {
        let (auto, never) = both(lanes, runs, &in_bursts(2000, mean_us, burst, 5));
        let ratio = auto.mean_us() / never.mean_us();
        assert!(ratio <= want, "{what}: {ratio}");
        assert!(auto.lane_us as f64 <= never.lane_us as f64 * 1.001, "{what}");
    }
}

#[test]
fn clients_that_ask_again_when_answered_get_as_much() {
    for clients in [1, 2, 8, 64] {
        for lanes in [1, 2] {
            for runs in RUNS {
                let answered = |max_queue_delay_us| {
                    let load = Load {
                        serving: delay(max_queue_delay_us),
                        run_us: runs.0,
                        item_us: runs.1,
                        arrivals_us: vec![0; clients],
                    };
                    let end_us = 1000 * (runs.0 + runs.1);
                    // Each client takes its time between answer and question.
                    let mut chance = Chance(1);
                    let again = |_, at_us: u64| (at_us < end_us).then(|| at_us + 20 + chance.pause_us(30.0) as u64);
                    World::new(lanes, QueueLimits::default(), vec![load]).run(again)[0].latencies_us.len()
                };
                let (auto, never) = (answered(None), answered(Some(0)));
                assert!(
                    auto as f64 >= never as f64 * 0.995,
                    "{clients} clients, {lanes} lanes, {runs:?} us: {auto} and {never}"
                );
            }
        }
    }
}

#[test]
fn past_capacity_no_lane_works_for_nothing_and_nobody_waits_in_vain() {
    for factor in [1.5, 5.0, 50.0] {
        let load =
            Load { serving: delay(None), run_us: 0, item_us: 1000, arrivals_us: by_chance(20_000, 1000.0 / factor, 9) };
        let limits = QueueLimits { capacity: 1 << 20, time_limit: Duration::from_millis(100) };
        let outcome = World::new(1, limits, vec![load]).run(|_, _| None).remove(0);
        let lasted_us = 20_000.0 * 1000.0 / factor;
        let goodput = outcome.latencies_us.len() as f64 * 1000.0 / lasted_us.max(outcome.lane_us as f64);
        assert!(goodput > 0.95, "{factor}: {goodput}");
        // What came before it was known what a run costs had to be taken; and a run that goes on is not counted.
        let unknown = 5.0 * factor;
        let vain = outcome.expired as f64 <= unknown + outcome.latencies_us.len() as f64 * 0.02;
        assert!(vain, "{factor}: {} waited in vain", outcome.expired);
        assert!(outcome.quantile_us(1.0) <= 104_000, "{factor}: {}", outcome.quantile_us(1.0));
    }
}

#[test]
fn classes_share_saturated_lanes_by_weight_and_the_first_hardly_waits() {
    let load = |latency_class, mean_us, seed| Load {
        serving: Serving { latency_class: Some(latency_class), max_batch_size: Some(0), ..Serving::default() },
        run_us: 1000,
        item_us: 0,
        arrivals_us: by_chance(20_000, mean_us, seed),
    };
    let limits = QueueLimits { capacity: 64, time_limit: Duration::from_secs(3600) };
    let last_us = 20_000.0 * 1000.0 / 4.0;
    for (what, urgent_us, floors) in [
        // All ask for four times the lane.
        ("all too much", 250.0, [0.75, 0.18, 0.045]),
        // The first asks for a fifth and gets it, the others share the rest four to one.
        ("little that is urgent", 5000.0, [0.19, 0.62, 0.15]),
    ] {
        let mut urgent = load(LatencyClass::Interactive, urgent_us, 1);
        urgent.arrivals_us.retain(|&at_us| (at_us as f64) < last_us);
        let others = [load(LatencyClass::Standard, 250.0, 2), load(LatencyClass::Background, 250.0, 3)];
        let outcomes = World::new(1, limits, std::iter::once(urgent).chain(others).collect()).run(|_, _| None);
        let shares: Vec<f64> = outcomes.iter().map(|outcome| outcome.lane_us as f64 / last_us).collect();
        assert!(shares.iter().zip(floors).all(|(share, floor)| *share > floor), "{what}: {shares:?}");
        if what.starts_with("little") {
            // A run that goes on is not stopped: half a run to wait on average, and one's own.
            assert!(outcomes[0].mean_us() < 2000.0, "{}", outcomes[0].mean_us());
        }
    }
}
