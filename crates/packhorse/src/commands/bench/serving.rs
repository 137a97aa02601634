//! What the server itself costs: a model that takes no time, asked by eight callers over each API, beside the bare
//! runtime. The server is a process of its own, so that its CPU time can be told from the callers'.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bench::{Load, cpu_of, grpc_load, http_load, median, table};
use engine::onnx::Onnx;
use engine::{Tensor, cpu};
use serde::Deserialize;
use store::Store;

use super::packed;
use crate::commands::say;
use crate::exit::Exit;

const CALLERS: usize = 8;
/// Long enough for thousands of requests, short enough for the rounds to see the same machine.
const TURN: Duration = Duration::from_secs(3);
const INPUTS: usize = 64;

/// The ways in that are measured.
#[derive(Clone, Copy)]
enum Way {
    HttpBinary,
    HttpJson,
    Grpc,
}

/// One way's figures, a value per round.
#[derive(Default)]
struct Figures {
    per_second: Vec<f64>,
    cpu_ms: Vec<f64>,
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
}

/// The table of what a request costs the server, for the model at `file`.
pub(super) fn run(store: &Store, onnx: &Onnx, file: &Path, rounds: u32) -> Result<String, Exit> {
    let name = packed(store, onnx, file, None)?.manifest.name;
    let values: Vec<f32> = (0..INPUTS).map(|index| index as f32 / 8.0 - 3.0).collect();
    let input = Tensor::from_f32(vec![1, INPUTS], values.clone())?;
    let requests =
        [(Way::HttpBinary, binary(&name, &input)), (Way::HttpJson, json(&name, &values)), (Way::Grpc, Vec::new())];
    let mut server = Server::start(store)?;
    let mut figures = [Figures::default(), Figures::default(), Figures::default()];
    let mut bare_ms = Vec::new();
    for round in 1..=rounds {
        say(format_args!("round {round} of {rounds}: the bare runtime, then {CALLERS} callers over each API"));
        let (_, cpu) = bench::runtime_fps(onnx, file, &input, &cpu::lane_cores()[..1], 50_000)?;
        bare_ms.push(cpu.as_secs_f64() * 1e3);
        for ((way, request), figures) in requests.iter().zip(&mut figures) {
            let before = cpu_of(server.child.id())?;
            let load = server.load(*way, &name, request, &input)?;
            let spent = cpu_of(server.child.id())?.saturating_sub(before);
            if load.refused > 0 || load.answered == 0 {
                return Err(Exit::Failed(format!("{} requests were refused", load.refused)));
            }
            figures.per_second.push(load.per_second());
            figures.cpu_ms.push(spent.as_secs_f64() * 1e3 / load.answered as f64);
            figures.p50_ms.push(load.quantile_ms(0.5));
            figures.p99_ms.push(load.quantile_ms(0.99));
        }
    }
    server.stop();
    let bare = median(&bare_ms);
    let mut rows = vec![vec![
        "bare runtime, one thread".to_owned(),
        String::new(),
        format!("{bare:.4}"),
        String::new(),
        String::new(),
    ]];
    for (name, figures) in ["REST, binary tensors", "REST, JSON", "gRPC, raw contents"].iter().zip(&figures) {
        rows.push(vec![
            (*name).to_owned(),
            format!("{:.0}", median(&figures.per_second)),
            format!("{:.4}", median(&figures.cpu_ms)),
            format!("{:.3}", median(&figures.p50_ms)),
            format!("{:.3}", median(&figures.p99_ms)),
        ]);
    }
    Ok(table(&["", "requests a second", "CPU ms a request", "p50 ms", "p99 ms"], &rows))
}

/// `packhorse serve` as a child, on free ports.
struct Server {
    child: Child,
    addresses: Addresses,
}

#[derive(Deserialize)]
struct Addresses {
    http: SocketAddr,
    grpc: SocketAddr,
}

impl Server {
    fn start(store: &Store) -> Result<Self, Exit> {
        let failed = |reason: &dyn std::fmt::Display| Exit::Failed(format!("the server did not start: {reason}"));
        let program = std::env::current_exe().map_err(|error| failed(&error))?;
        let mut child = Command::new(program)
            .args(["serve", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--store"])
            .arg(store.root())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed(&error))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).map_err(|error| failed(&error))?;
        }
        let addresses = serde_json::from_str(&line).map_err(|error| failed(&error));
        addresses.map(|addresses| Self { child, addresses })
    }

    fn load(&self, way: Way, model: &str, request: &[u8], input: &Tensor) -> Result<Load, Exit> {
        Ok(match way {
            Way::HttpBinary | Way::HttpJson => http_load(self.addresses.http, request, CALLERS, TURN)?,
            Way::Grpc => grpc_load(self.addresses.grpc, model, ("x", input), CALLERS, TURN)?,
        })
    }

    fn stop(&mut self) {
        // The measurement is over; how its server ends is of no interest.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn binary(model: &str, input: &Tensor) -> Vec<u8> {
    let size = input.data().len();
    let head = format!(
        r#"{{"inputs":[{{"name":"x","shape":[1,{INPUTS}],"datatype":"FP32","parameters":{{"binary_data_size":{size}}}}}],"parameters":{{"binary_data_output":true}}}}"#
    );
    let body = [head.as_bytes(), input.data()].concat();
    post(model, &format!("Inference-Header-Content-Length: {}\r\n", head.len()), &body)
}

fn json(model: &str, values: &[f32]) -> Vec<u8> {
    let body = format!(r#"{{"inputs":[{{"name":"x","shape":[1,{INPUTS}],"datatype":"FP32","data":{values:?}}}]}}"#);
    post(model, "", body.as_bytes())
}

fn post(model: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /v2/models/{model}/infer HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}
