//! Memory of a server before and after a thousand models were loaded, asked and unloaded.

use bench::{Api, Connection, Memory, Question, memory_of, table};

use super::Bench;
use super::server::{BY_REQUEST, Server};
use crate::commands::say;
use crate::exit::Exit;

const CYCLES: usize = 1000;
/// Every model of the fleet, several times over: by then every thread that loads has its arena of the allocator, and
/// every program and segment was in memory once.
const WARM_UP: usize = 1000;

/// The table of memory before and after.
pub(super) fn run(bench: &Bench) -> Result<String, Exit> {
    let store = bench.store("cycles")?;
    let fleet = bench.fleet(&store)?;
    let inputs = super::inputs(bench, &store, &bench.models.join("fleet").join(format!("{}.onnx", fleet[0])))?;
    let mut rows = Vec::new();
    for models in [&fleet[..1], &fleet[..]] {
        let name = if models.len() == 1 { "one model, over and over" } else { "a fleet, one after the other" };
        say(format_args!("{name}: {WARM_UP} cycles to warm up and {CYCLES} to measure"));
        let server = Server::start(&store, BY_REQUEST)?;
        let questions = models.iter().map(|model| Question::infer(Api::Rest, model, &inputs.tensors));
        let questions = questions.collect::<engine::Result<Vec<_>>>()?;
        let (mut repository, mut requests) = (server.repository()?, Connection::open(server.addresses.http)?);
        let mut cycles = |count: usize| -> Result<Memory, Exit> {
            for cycle in 0..count {
                let (model, question) = (&models[cycle % models.len()], &questions[cycle % models.len()]);
                repository.load(model)?;
                if let Question::Http(request) = question {
                    requests.ask(request.clone())?;
                }
                repository.unload(model)?;
            }
            Ok(memory_of(server.id())?)
        };
        let (before, after) = (cycles(WARM_UP)?, cycles(CYCLES)?);
        rows.push(row(name, "resident", before.resident_bytes, after.resident_bytes));
        rows.push(row(name, "private", before.private_bytes, after.private_bytes));
    }
    Ok(table(&["load, ask, unload", "memory", "MB before", &format!("MB after {CYCLES} more"), "growth"], &rows))
}

fn row(name: &str, memory: &str, before: u64, after: u64) -> Vec<String> {
    let mb = |bytes: u64| format!("{:.2}", bytes as f64 / 1e6);
    let growth = (after as f64 / before as f64 - 1.0) * 100.0;
    vec![name.to_owned(), memory.to_owned(), mb(before), mb(after), format!("{growth:+.2}%")]
}
