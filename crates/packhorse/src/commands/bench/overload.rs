//! What is still answered when five times as much is asked as can be done, beside the most that can be done: by a server
//! with cores of its own, and by one that shares them with whoever asks.

use std::time::Duration;

use bench::{Api, Load, Pace, Question, cpu_of, load, median, table};
use engine::cpu;
use store::Store;

use super::server::Server;
use super::{Bench, Inputs};
use crate::commands::say;
use crate::exit::Exit;

const TURN: Duration = Duration::from_secs(4);
const TIMES: f64 = 5.0;
/// Far more than lanes and queue hold, so that the server has to refuse.
const CONNECTIONS: usize = 128;
const QUEUE_CAPACITY: &str = "16";
const WAYS: [(Api, &str); 2] = [(Api::Rest, "REST"), (Api::Grpc, "gRPC")];

/// Where the two sides run.
struct Cores {
    name: &'static str,
    server: Vec<usize>,
    generator: Vec<usize>,
}

/// One way's figures, a value per round.
#[derive(Default)]
struct Figures {
    most: Vec<f64>,
    offered: Vec<f64>,
    answered: Vec<f64>,
    ratio: Vec<f64>,
    p99_ms: Vec<f64>,
    refused: u64,
    refused_with_time: u64,
    failed: u64,
    /// Microseconds of the server's CPU time.
    refusal_us: Vec<f64>,
    generator_cores: Vec<f64>,
}

/// One load, and what it took the server.
struct Turn {
    load: Load,
    server_cpu: Duration,
}

/// The table of what is answered past capacity.
pub(super) fn run(bench: &Bench) -> Result<String, Exit> {
    let store = bench.store("overload")?;
    let inputs = super::inputs(bench, &store, &bench.models.join("convnet.onnx"))?;
    let mut rows = Vec::new();
    for cores in Cores::all() {
        rows.extend(cores.rows(bench, &store, &inputs)?);
    }
    let header = [
        "",
        "at most a second",
        "sent a second",
        "answered a second",
        "of the most",
        "p99 ms",
        "refused",
        "with Retry-After",
        "failed",
        "a refusal, us",
        "generator's cores",
    ];
    Ok(table(&header, &rows))
}

impl Cores {
    /// Apart where there are two cores or more, the last of them the generator's; and all of them for both.
    fn all() -> Vec<Self> {
        let all = cpu::lane_cores();
        let shared = Self { name: "shared cores", server: all.clone(), generator: all.clone() };
        match all.split_last() {
            Some((&last, rest @ [_, ..])) => {
                let apart = Self { name: "own cores", server: rest.to_vec(), generator: vec![last] };
                vec![apart, shared]
            }
            _ => vec![shared],
        }
    }

    fn rows(&self, bench: &Bench, store: &Store, inputs: &Inputs) -> Result<Vec<Vec<String>>, Exit> {
        let server = on(&self.server, || Server::start(store, &["--queue-capacity", QUEUE_CAPACITY]))?;
        WAYS.into_iter()
            .map(|(api, name)| {
                let question = Question::infer(api, &inputs.model, &inputs.tensors)?;
                let mut figures = Figures::default();
                for round in 1..=bench.rounds {
                    let (cores, rounds) = (self.name, bench.rounds);
                    say(format_args!("{name}, {cores}, round {round} of {rounds}: all it can do, then {TIMES} times"));
                    let most = self.turn(&server, api, &question, super::closed(self.server.len()))?;
                    super::all_answered(&most.load)?;
                    let pace = Pace::Open { per_second: most.load.per_second() * TIMES, connections: CONNECTIONS };
                    figures.add(&most, &self.turn(&server, api, &question, pace)?);
                }
                Ok(figures.row(&format!("{name}, {}", self.name)))
            })
            .collect()
    }

    fn turn(&self, server: &Server, api: Api, question: &Question, pace: Pace) -> Result<Turn, Exit> {
        let before = cpu_of(server.id())?;
        let load = on(&self.generator, || load(server.listener(api), question, pace, TURN))?;
        Ok(Turn { load, server_cpu: cpu_of(server.id())?.saturating_sub(before) })
    }
}

/// What `work` comes to on a thread that is kept to `cores`, with all that it starts.
fn on<T: Send>(cores: &[usize], work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let kept = scope.spawn(|| {
            if !cpu::keep_to(cores) {
                say(format_args!("the system does not let a thread be kept to cores {cores:?}"));
            }
            work()
        });
        kept.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

impl Figures {
    fn add(&mut self, most: &Turn, past: &Turn) {
        let load = &past.load;
        if load.failures() > 0 {
            say(format_args!("failed: {:?}", load.failed));
        }
        self.most.push(most.load.per_second());
        self.offered.push(load.sent_per_second());
        self.answered.push(load.per_second());
        self.ratio.push(load.per_second() / most.load.per_second());
        self.p99_ms.push(load.quantile_ms(0.99));
        self.refused += load.refused;
        self.refused_with_time += load.refused_with_time;
        self.failed += load.failures();
        // What is answered takes the server what it took it without the refusals.
        let answer_s = most.server_cpu.as_secs_f64() / most.load.answered as f64;
        let refusals_s = past.server_cpu.as_secs_f64() - answer_s * load.answered as f64;
        self.refusal_us.push(refusals_s * 1e6 / load.refused.max(1) as f64);
        self.generator_cores.push(load.generator_cpu.as_secs_f64() / load.wall.as_secs_f64());
    }

    fn row(&self, name: &str) -> Vec<String> {
        vec![
            name.to_owned(),
            format!("{:.0}", median(&self.most)),
            format!("{:.0}", median(&self.offered)),
            format!("{:.0}", median(&self.answered)),
            format!("{:.3}", median(&self.ratio)),
            format!("{:.1}", median(&self.p99_ms)),
            self.refused.to_string(),
            self.refused_with_time.to_string(),
            self.failed.to_string(),
            format!("{:.1}", median(&self.refusal_us)),
            format!("{:.2}", median(&self.generator_cores)),
        ]
    }
}
