//! A worker that has its frames inferred by a server beside it, and one that does it itself: what the way there costs.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bench::{cpu_of, median, table};
use remote::policy::Limits;
use remote::{Address, Remote, Settings};
use work::Inference;

use super::Bench;
use super::server::Server;
use crate::commands::demo::drain;
use crate::commands::say;
use crate::exit::Exit;
use crate::inference::{Attached, InProcess, Otherwise};
use crate::node;

/// What is measured of one way, a round each.
#[derive(Default)]
struct Figures {
    fps: Vec<f64>,
    worker_ms: Vec<f64>,
    server_ms: Vec<f64>,
    sent_bytes: Vec<f64>,
    received_bytes: Vec<f64>,
}

/// Seconds of the clip: numbers in JSON take a second a frame.
const CLIP_S: &str = "20";

/// The detectors, by file and labels: one that takes bytes, and one that takes floats.
const MODELS: [&str; 2] = ["person_ssdlite_odapi.onnx", "nanodet_g_coco80.onnx"];

pub(super) fn run(bench: &Bench) -> Result<String, Exit> {
    let clip = bench.scratch.path().join("beginning.mp4");
    let mut cut = Command::new("ffmpeg");
    cut.args(["-nostdin", "-v", "error", "-y", "-i"]).arg(bench.assets.join("street.mp4"));
    let cut = cut.args(["-t", CLIP_S, "-c", "copy", "-an"]).arg(&clip).stdin(Stdio::null()).status();
    if !cut.is_ok_and(|status| status.success()) {
        return Err(Exit::Failed("ffmpeg cannot cut the clip".to_owned()));
    }
    let mut rows = Vec::new();
    for model in MODELS {
        rows.extend(of_model(bench, model, &clip)?);
    }
    let header = [
        "model",
        "way",
        "frames a second",
        "worker CPU ms a frame",
        "server CPU ms a frame",
        "bytes to the model",
        "bytes back",
    ];
    Ok(table(&header, &rows))
}

fn of_model(bench: &Bench, file: &str, clip: &Path) -> Result<Vec<Vec<String>>, Exit> {
    let store = bench.store(&format!("remote-{file}"))?;
    let path = bench.assets.join(file);
    let model = bench.detector(&store, &path)?.manifest.name;
    let server = Server::start(&store, &[])?;
    let (grpc, http) = (server.addresses.grpc, server.addresses.http);
    let ways = [String::new(), format!("grpc://{grpc}"), format!("tfs+grpc://{grpc}"), format!("tfs+http://{http}")];
    let scheduler = node::start_for_frames(store, Arc::clone(&bench.runtimes))?;
    let mut figures: [Figures; 4] = Default::default();
    for round in 1..=bench.rounds {
        for (way, figures) in ways.iter().zip(&mut figures) {
            say(format_args!("{model}, round {round} of {}: {}", bench.rounds, name(way)));
            let here = InProcess(Arc::clone(&scheduler));
            let inference: Arc<dyn Inference> = match way.is_empty() {
                true => Arc::new(here),
                false => {
                    // No frame may be worked here after all, however slow numbers in JSON are.
                    let patience = Duration::from_secs(60);
                    let limits = Limits { call: patience, question: patience, ..Limits::default() };
                    let address: Address = way.parse()?;
                    let remote = Remote::start(&[address], Settings { limits, ..Settings::default() })?;
                    let attached = Attached::new(here, remote, Otherwise::Local);
                    attached.check(&model)?;
                    Arc::new(attached)
                }
            };
            measure((bench, clip), &model, inference, &server, figures)?;
        }
    }
    scheduler.drain(Duration::from_secs(5));
    Ok(ways.iter().zip(&figures).map(|(way, figures)| figures.row(&model, name(way))).collect())
}

fn name(way: &str) -> &str {
    way.split("://").next().filter(|scheme| !scheme.is_empty()).unwrap_or("in process")
}

fn measure(
    (bench, clip): (&Bench, &Path),
    model: &str,
    inference: Arc<dyn Inference>,
    server: &Server,
    figures: &mut Figures,
) -> Result<(), Exit> {
    let folder = bench.folder()?;
    let is_remote =
        |frames: u64, remote: Option<work::cost::Remote>| remote.is_none_or(|of| of.frames_remote == frames);
    let (worker, served) = (engine::cpu::process_cpu(), cpu_of(server.id())?);
    let (summary, cost) = drain(clip, model, folder.path(), folder.path(), inference)?;
    let (worker, served) = (engine::cpu::process_cpu() - worker, cpu_of(server.id())? - served);
    if !is_remote(summary.frames, cost.spent.remote) {
        return Err(Exit::Failed("frames were worked here that the server was to have".to_owned()));
    }
    let frames = summary.frames as f64;
    let remote = cost.spent.remote.unwrap_or_default();
    figures.fps.push(cost.fps);
    figures.worker_ms.push(worker.as_secs_f64() * 1e3 / frames);
    figures.server_ms.push(served.as_secs_f64() * 1e3 / frames);
    figures.sent_bytes.push(remote.sent_bytes as f64 / frames);
    figures.received_bytes.push(remote.received_bytes as f64 / frames);
    Ok(())
}

impl Figures {
    fn row(&self, model: &str, way: &str) -> Vec<String> {
        let bytes = |of: &[f64]| format!("{:.0}", median(of));
        vec![
            model.to_owned(),
            way.to_owned(),
            format!("{:.1}", median(&self.fps)),
            format!("{:.2}", median(&self.worker_ms)),
            format!("{:.2}", median(&self.server_ms)),
            bytes(&self.sent_bytes),
            bytes(&self.received_bytes),
        ]
    }
}
