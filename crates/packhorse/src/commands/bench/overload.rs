//! What is still answered when five times as much is asked as can be done, beside the most that can be done.

use std::time::Duration;

use bench::{Api, Load, Pace, Question, load, median, table};

use super::Bench;
use super::server::Server;
use crate::commands::say;
use crate::exit::Exit;

const TURN: Duration = Duration::from_secs(4);
const TIMES: f64 = 5.0;
/// Far more than lanes and queue hold, so that the server has to refuse.
const CONNECTIONS: usize = 128;
const QUEUE_CAPACITY: &str = "16";
const WAYS: [(Api, &str); 2] = [(Api::Rest, "REST"), (Api::Grpc, "gRPC")];

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
    generator_cores: Vec<f64>,
}

/// The table of what is answered past capacity.
pub(super) fn run(bench: &Bench) -> Result<String, Exit> {
    let store = bench.store("overload")?;
    let inputs = super::inputs(bench, &store, &bench.models.join("convnet.onnx"))?;
    let server = Server::start(&store, &["--queue-capacity", QUEUE_CAPACITY])?;
    let mut rows = Vec::new();
    for (api, name) in WAYS {
        let question = Question::infer(api, &inputs.model, &inputs.tensors)?;
        let mut figures = Figures::default();
        for round in 1..=bench.rounds {
            say(format_args!("{name}, round {round} of {}: what it can do, then {TIMES} times that", bench.rounds));
            let most = super::capacity(&server, api, &question)?;
            let pace = Pace::Open { per_second: most * TIMES, connections: CONNECTIONS };
            figures.add(most, &load(server.listener(api), &question, pace, TURN)?);
        }
        rows.push(figures.row(name));
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
        "generator's cores",
    ];
    Ok(table(&header, &rows))
}

impl Figures {
    fn add(&mut self, most: f64, load: &Load) {
        if load.failures() > 0 {
            say(format_args!("failed: {:?}", load.failed));
        }
        self.most.push(most);
        self.offered.push(load.sent_per_second());
        self.answered.push(load.per_second());
        self.ratio.push(load.per_second() / most);
        self.p99_ms.push(load.quantile_ms(0.99));
        self.refused += load.refused;
        self.refused_with_time += load.refused_with_time;
        self.failed += load.failures();
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
            format!("{:.2}", median(&self.generator_cores)),
        ]
    }
}
