//! `packhorse load`

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bench::{Connection, Deck, Load, Pace, Question, load_deck};
use bytes::Bytes;
use serde_json::json;

use super::print_json;
use crate::Outcome;
use crate::exit::Exit;

/// One request a model is too few for a percentile to hide an outlier, so the latencies are kept as they are.
const PERCENTS: [(&str, f64); 4] = [("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99), ("max_ms", 1.0)];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the server listens: host and port
    server: String,
    /// Where requests are posted; {model} stands for a model's name
    #[arg(long, default_value = "/v2/models/{model}/infer")]
    path: String,
    /// The file that every request's body is
    #[arg(long, value_name = "FILE")]
    body: PathBuf,
    /// A header of every request, as 'Name: value'; may be given several times
    #[arg(long, value_name = "HEADER")]
    header: Vec<String>,
    /// A file with a model's name on each line, the most popular first
    #[arg(long, value_name = "FILE")]
    models: PathBuf,
    /// How much more popular the first models are: model k is asked in proportion to 1 / k^ZIPF; 0 asks all alike
    #[arg(long, default_value_t = 0.0)]
    zipf: f64,
    /// Requests in flight, each on a connection of its own
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=4096))]
    callers: u16,
    /// Requests a second, whatever becomes of earlier ones; as many as are answered when absent
    #[arg(long, value_name = "COUNT")]
    per_second: Option<f64>,
    /// How long
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Ask every model once instead, one after the other over one connection
    #[arg(long)]
    each: bool,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let server = address(&args.server)?;
    let requests = requests(args)?;
    if args.each {
        return each(server, requests);
    }
    let callers = usize::from(args.callers);
    let pace = match args.per_second {
        None => Pace::Closed { callers },
        Some(per_second) => Pace::Open { per_second, connections: callers },
    };
    let time = Duration::try_from_secs_f64(args.seconds)
        .map_err(|error| Exit::Configuration(format!("--seconds {}: {error}", args.seconds)))?;
    let load = load_deck(server, Deck::zipf(requests, args.zipf)?, pace, time)?;
    print_json(&outcome(&load))
}

fn outcome(load: &Load) -> serde_json::Value {
    let mut outcome = json!({
        "answered": load.answered,
        "answered_per_second": load.per_second(),
        "sent_per_second": load.sent_per_second(),
        "refused": load.refused,
        "failed": load.failed,
        "unsent": load.unsent,
        "generator_cpu_s": load.generator_cpu.as_secs_f64(),
    });
    for (name, share) in PERCENTS {
        outcome[name] = load.quantile_ms(share).into();
    }
    outcome
}

/// Every request once.
fn each(server: SocketAddr, requests: Vec<Bytes>) -> Outcome {
    let mut connection = Connection::open(server)?;
    let mut took_ms = Vec::with_capacity(requests.len());
    for request in requests {
        let started = Instant::now();
        connection.ask(request)?;
        took_ms.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let in_turn = took_ms.clone();
    took_ms.sort_unstable_by(f64::total_cmp);
    let last = took_ms.len() - 1;
    let mut outcome = json!({ "answered": took_ms.len(), "took_ms": in_turn });
    for (name, share) in PERCENTS {
        outcome[name] = took_ms[(last as f64 * share) as usize].into();
    }
    print_json(&outcome)
}

fn requests(args: &Args) -> Result<Vec<Bytes>, Exit> {
    let body = read(&args.body)?;
    let names = String::from_utf8(read(&args.models)?)
        .map_err(|error| Exit::Configuration(format!("{}: {error}", args.models.display())))?;
    let headers: String = args.header.iter().map(|header| format!("{header}\r\n")).collect();
    let names = names.lines().map(str::trim).filter(|name| !name.is_empty());
    let requests: Vec<_> =
        names.map(|name| Question::post(&args.path.replace("{model}", name), &headers, &body)).collect();
    if requests.is_empty() {
        return Err(Exit::Configuration(format!("{}: there is no name in it", args.models.display())));
    }
    Ok(requests)
}

fn read(path: &Path) -> Result<Vec<u8>, Exit> {
    std::fs::read(path).map_err(|error| Exit::Configuration(format!("{}: cannot be read: {error}", path.display())))
}

/// The address of `server`, which may be written as a URL.
fn address(server: &str) -> Result<SocketAddr, Exit> {
    let bare = server.strip_prefix("http://").unwrap_or(server).trim_end_matches('/');
    let found = bare.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    found.ok_or_else(|| {
        Exit::Configuration(format!("{server}: there is no such server; give a host and a port, as in localhost:8080"))
    })
}
