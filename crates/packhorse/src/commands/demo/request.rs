//! A request that the demo's server answers, for a person to try with `curl`.

use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use pipeline::{Fit, Placement, Resample};
use work::media::{Choice, Decode, Frame, Frames, Span, Tools, probe};

use super::PERSON;
use crate::Outcome;
use crate::exit::Exit;

/// Enough for people in a street to be found, small enough for a request in plain JSON.
const WIDTH: u32 = 384;
const HEIGHT: u32 = 288;

/// Writes `request.json`: the clip's first frame for the person detector, as the Open Inference Protocol spells it.
pub(super) fn write(clip: &Path, out: &Path) -> Outcome {
    let tools = Tools::from_env();
    let probe = probe(&tools, clip)?;
    let decode = Decode {
        placement: Placement::of(Fit::Exact { width: WIDTH, height: HEIGHT }, (probe.width, probe.height))?,
        resample: Resample::Bilinear,
        stall_limit: Duration::from_secs(30),
        span: Span::default(),
        choice: Choice::All,
    };
    let frame = Frames::open(&tools, clip, &probe, &decode)?.next()?;
    let frame = frame.ok_or_else(|| Exit::Failed(format!("{}: no first frame", clip.display())))?;
    let path = out.join("request.json");
    let write = || -> std::io::Result<()> { spell(&frame, &mut BufWriter::new(std::fs::File::create(&path)?)) };
    write().map_err(|error| Exit::Failed(format!("{}: {error}", path.display())))
}

fn spell(frame: &Frame, out: &mut impl Write) -> std::io::Result<()> {
    let shape: [u32; 4] = [1, HEIGHT, WIDTH, 3];
    write!(out, r#"{{"inputs":[{{"name":"image_tensor:0","datatype":"UINT8","shape":{shape:?},"data":"#)?;
    serde_json::to_writer(&mut *out, &frame.planes.to_picture().pixels)?;
    write!(out, r#"}}],"outputs":[{{"name":"num_detections:0"}},{{"name":"detection_scores:0"}}]}}"#)?;
    out.flush()
}

/// The command line that sends it.
pub(super) fn curl(http: SocketAddr, out: &Path) -> String {
    let file = out.join("request.json");
    format!("curl -s http://{http}/v2/models/{PERSON}/infer --data-binary '@{}'", file.display())
}
