//! A model's latency under a steady load, alone and while two hundred others are loaded and unloaded as fast as the
//! server does it; both take turns.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bench::{Api, Load, Pace, Question, load, median, table};

use super::Bench;
use super::server::{BY_REQUEST, Repository, Server};
use crate::commands::say;
use crate::exit::Exit;

const TURN: Duration = Duration::from_secs(5);
/// Of what the server can do: busy, and far from queueing for lack of lanes.
const SHARE: f64 = 0.35;
const CONNECTIONS: usize = 32;

/// One side's figures, a value per round.
#[derive(Default)]
struct Figures {
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
    max_ms: Vec<f64>,
    changes_per_second: Vec<f64>,
}

/// The table of latencies without and with other models that come and go.
pub(super) fn run(bench: &Bench) -> Result<String, Exit> {
    let store = bench.store("churn")?;
    let inputs = super::inputs(bench, &store, &bench.models.join("convnet.onnx"))?;
    let fleet = bench.fleet(&store)?;
    let server = Server::start(&store, &[BY_REQUEST, &["--load", &inputs.model]].concat())?;
    let question = Question::infer(Api::Rest, &inputs.model, &inputs.tensors)?;
    let capacity = super::capacity(&server, Api::Rest, &question)?;
    let pace = Pace::Open { per_second: capacity * SHARE, connections: CONNECTIONS };
    let steady = |time| -> Result<Load, Exit> {
        let load = load(server.addresses.http, &question, pace, time)?;
        let lost = load.refused + load.failures() + load.unsent;
        if lost == 0 { Ok(load) } else { Err(Exit::Failed(format!("{lost} requests were not answered: {load:?}"))) }
    };
    // What comes first is cold: connections, the others' files, the allocator.
    let mut others = Others { repository: server.repository()?, fleet: &fleet, turn: 0 };
    others.while_(|| steady(TURN / 2))?;

    let (mut without, mut with, mut ratios) = (Figures::default(), Figures::default(), Vec::new());
    for round in 1..=bench.rounds {
        let (rate, rounds) = (capacity * SHARE, bench.rounds);
        say(format_args!("round {round} of {rounds}: {rate:.0} requests a second, alone, then with the others"));
        let alone = steady(TURN)?;
        let (among, changes) = others.while_(|| steady(TURN))?;
        ratios.push(among.quantile_ms(0.99) / alone.quantile_ms(0.99));
        without.add(&alone, 0.0);
        with.add(&among, changes);
    }
    let header = ["", "p50 ms", "p99 ms", "lowest and highest", "max ms", "changes a second"];
    let rows = [
        without.row("alone"),
        with.row(&format!("while {} others load and unload", fleet.len())),
        vec![
            "ratio of the p99s (median of the rounds)".to_owned(),
            String::new(),
            format!("{:.2}", median(&ratios)),
            spread(&ratios),
            String::new(),
            String::new(),
        ],
    ];
    Ok(format!("{:.0} requests a second of {capacity:.0}\n\n{}", capacity * SHARE, table(&header, &rows)))
}

/// The other models: at any time half of them are loaded, and one is loaded for each that is unloaded.
struct Others<'a> {
    repository: Repository,
    fleet: &'a [String],
    /// Loads so far.
    turn: usize,
}

impl Others<'_> {
    /// Loads and unloads while `measure` runs; its result, and the changes a second.
    fn while_(&mut self, measure: impl FnOnce() -> Result<Load, Exit>) -> Result<(Load, f64), Exit> {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let changing = scope.spawn(|| -> Result<f64, Exit> {
                let (started, mut changes) = (Instant::now(), 0);
                while !over.load(Ordering::Relaxed) {
                    changes += self.next()?;
                }
                Ok(f64::from(changes) / started.elapsed().as_secs_f64())
            });
            let load = measure();
            over.store(true, Ordering::Relaxed);
            let changes = changing.join().unwrap_or_else(|_| Err(Exit::Failed("the changes panicked".to_owned())));
            Ok((load?, changes?))
        })
    }

    /// Loads the next one, and unloads the one that was loaded half a fleet ago. How many changes that were.
    fn next(&mut self) -> Result<u32, Exit> {
        let (fleet, half) = (self.fleet, self.fleet.len() / 2);
        self.repository.load(&fleet[self.turn % fleet.len()])?;
        self.turn += 1;
        let Some(old) = self.turn.checked_sub(half + 1) else { return Ok(1) };
        self.repository.unload(&fleet[old % fleet.len()])?;
        Ok(2)
    }
}

impl Figures {
    fn add(&mut self, load: &Load, changes: f64) {
        self.p50_ms.push(load.quantile_ms(0.5));
        self.p99_ms.push(load.quantile_ms(0.99));
        self.max_ms.push(load.quantile_ms(1.0));
        self.changes_per_second.push(changes);
    }

    fn row(&self, name: &str) -> Vec<String> {
        let one = |values: &[f64]| format!("{:.2}", median(values));
        let changes = format!("{:.0}", median(&self.changes_per_second));
        vec![name.to_owned(), one(&self.p50_ms), one(&self.p99_ms), spread(&self.p99_ms), one(&self.max_ms), changes]
    }
}

/// From the lowest to the highest of `values`.
fn spread(values: &[f64]) -> String {
    let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{lowest:.2} to {highest:.2}")
}
