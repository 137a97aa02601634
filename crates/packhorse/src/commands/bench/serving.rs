//! What the server itself costs: models asked over each API, beside the bare runtime. A model that takes no time shows
//! the server alone; one of an ordinary size shows what is left of that.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bench::{Api, Load, Pace, Question, cpu_of, load, median, table};
use engine::{Tensor, cpu};
use store::Store;

use super::peer::{self, Peer};
use super::server::Server;
use super::{Bench, all_answered};
use crate::commands::say;
use crate::exit::Exit;

/// Long enough for hundreds of requests, short enough for the rounds to see the same machine.
const TURN: Duration = Duration::from_secs(3);
const WAYS: [(Api, &str); 3] =
    [(Api::Rest, "REST, binary tensors"), (Api::RestJson, "REST, JSON"), (Api::Grpc, "gRPC, raw contents")];

/// One way's figures, a value per round.
#[derive(Default)]
struct Figures {
    per_second: Vec<f64>,
    cpu_ms: Vec<f64>,
    /// Of the bare runtime's CPU time in the same round.
    ratio: Vec<f64>,
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
}

/// A table for each model, of what a request costs the server.
pub(super) fn run(bench: &Bench) -> Result<String, Exit> {
    let store = bench.store("serving")?;
    let tables = [("mlp.onnx", 20_000, 8), ("resnet18.onnx", 60, 4)].map(|(file, runs, callers)| {
        let file = bench.models.join(file);
        Ok(format!(
            "{}\n\n{}",
            file.file_name().unwrap_or_default().display(),
            model(bench, &store, &file, (runs, callers))?
        ))
    });
    Ok(tables.into_iter().collect::<Result<Vec<_>, Exit>>()?.join("\n\n"))
}

/// The table of the model at `file`, which the bare runtime runs `runs` times on each core in a round, and so many `callers`
/// ask for.
fn model(bench: &Bench, store: &Store, file: &Path, (runs, callers): (usize, usize)) -> Result<String, Exit> {
    let inputs = super::inputs(bench, store, file)?;
    let (name, tensors) = (&inputs.model, &inputs.tensors);
    let alone: Vec<Tensor> = tensors.iter().map(|(_, tensor)| tensor.clone()).collect();
    let cores = cpu::lane_cores();
    let server = Server::start(store, &[])?;
    let questions = WAYS.map(|(api, _)| Question::infer(api, name, tensors));
    let peer = bench.peer.as_deref().map(|command| Peer::start(command, file)).transpose()?;
    let mut figures = WAYS.map(|_| Figures::default());
    let mut peer_figures = peer::WAYS.map(|_| Figures::default());
    let mut bare_ms = Vec::new();
    for round in 0..=bench.rounds {
        // The first round warms what is measured by the others.
        let counts = round > 0;
        if counts {
            say(format_args!("{name}, round {round} of {}: the bare runtime, then {callers} callers", bench.rounds));
        }
        let runs = if counts { runs } else { 1 };
        let bare = bench::runtime_fps(bench.runtimes.onnx(), file, &alone, &cores, runs)?.1.as_secs_f64() * 1e3;
        for ((question, (api, _)), figures) in questions.iter().zip(WAYS).zip(&mut figures) {
            let question = question.as_ref().map_err(Clone::clone)?;
            let (load, spent_ms) = turn((server.id(), server.listener(api)), question, callers, counts)?;
            if counts {
                figures.add(&load, spent_ms, bare);
            }
        }
        for ((_, question), figures) in peer::WAYS.iter().zip(&mut peer_figures) {
            let Some(peer) = &peer else { continue };
            let (load, spent_ms) = turn((peer.id(), peer.address), &question(tensors)?, callers, counts)?;
            if counts {
                figures.add(&load, spent_ms, bare);
            }
        }
        if counts {
            bare_ms.push(bare);
        }
    }
    let none = String::new;
    let first = format!("bare runtime, a loop on each of {} cores", cores.len());
    let mut rows = vec![vec![first, none(), format!("{:.4}", median(&bare_ms)), "1.000".to_owned(), none(), none()]];
    rows.extend(WAYS.iter().zip(&figures).map(|((_, name), figures)| figures.row(name)));
    if peer.is_some() {
        rows.extend(peer::WAYS.iter().zip(&peer_figures).map(|((name, _), figures)| figures.row(name)));
    }
    Ok(table(&["", "requests a second", "CPU ms a request", "of the bare", "p50 ms", "p99 ms"], &rows))
}

/// A load on the server at `address`, which is the process `id`, and the CPU time in ms that a request took it; a short one,
/// unless it `counts`.
fn turn(
    (id, address): (u32, SocketAddr),
    question: &Question,
    callers: usize,
    counts: bool,
) -> Result<(Load, f64), Exit> {
    let before = cpu_of(id)?;
    let time = if counts { TURN } else { Duration::from_millis(200) };
    let load = load(address, question, Pace::Closed { callers }, time)?;
    all_answered(&load)?;
    let spent_ms = cpu_of(id)?.saturating_sub(before).as_secs_f64() * 1e3 / load.answered as f64;
    Ok((load, spent_ms))
}

impl Figures {
    fn add(&mut self, load: &Load, cpu_ms: f64, bare_ms: f64) {
        self.per_second.push(load.per_second());
        self.cpu_ms.push(cpu_ms);
        self.ratio.push(cpu_ms / bare_ms);
        self.p50_ms.push(load.quantile_ms(0.5));
        self.p99_ms.push(load.quantile_ms(0.99));
    }

    fn row(&self, name: &str) -> Vec<String> {
        vec![
            name.to_owned(),
            format!("{:.0}", median(&self.per_second)),
            format!("{:.4}", median(&self.cpu_ms)),
            format!("{:.3}", median(&self.ratio)),
            format!("{:.3}", median(&self.p50_ms)),
            format!("{:.3}", median(&self.p99_ms)),
        ]
    }
}
