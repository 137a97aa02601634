//! `packhorse doctor`: a video and a model, looked at before anybody relies on them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use comfy_table::{Table, presets};
use engine::ErrorKind;
use serde::Serialize;
use serve::{Control, LoadOptions, QueueLimits, ResidencyOptions};
use work::examine::{Examination, Prediction, examine};
use work::media::{Tools, write_png};
use work::quality::Note;
use work::{Sighting, Task};

use super::look::Look;
use super::spool::SpoolArgs;
use super::{counted, print_json, say};
use crate::Outcome;
use crate::exit::Exit;
use crate::inference::InProcess;
use crate::node::{self, Place};
use crate::places::Outside;

/// Objects that are named in a line.
const NAMED_MAX: usize = 5;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The video: a file, or an object in a bucket or on a web server
    video: PathBuf,
    /// The model that looks at it
    model: String,
    /// The models: a store of packs in a folder or a bucket, another server's repository, or .onnx files
    #[arg(long, env = "PACKHORSE_STORE")]
    store: String,
    /// The frame that is drawn is the first at this time or later [default: the middle of the video]
    #[arg(long, value_name = "SECONDS")]
    at: Option<f64>,
    /// Where that frame is drawn, with what the model sees in it
    #[arg(long, default_value = "packhorse-doctor.png", value_name = "FILE")]
    picture: PathBuf,
    #[command(flatten)]
    spool: SpoolArgs,
    #[command(flatten)]
    look: Look,
}

/// What a program reads.
#[derive(Serialize)]
struct Line<'a> {
    video: &'a str,
    model: &'a str,
    picture: &'a Path,
    at_s: f64,
    frames: u64,
    segments: usize,
    quality: &'a [Note],
    detections: Vec<Detection<'a>>,
    predictions: &'a [Prediction],
}

#[derive(Serialize)]
struct Detection<'a> {
    label: &'a str,
    score: f32,
    box_px: [f32; 4],
}

pub(crate) fn run(args: &Args) -> Outcome {
    let tools = Tools::from_env();
    let decoder = tools.check().map_err(|error| Exit::Configuration(error.message))?;
    let task = Task::new(&args.video, &args.model).map_err(|error| Exit::configuration(&error))?;
    if !task.is_remote() {
        let path = task.input_path().map_err(|error| Exit::configuration(&error))?;
        if !path.is_file() {
            let is = if path.is_dir() { "this is a folder" } else { "there is no such file" };
            let fix = "give a video's file, or s3://, gs://, az:// or http(s)://";
            return Err(Exit::Configuration(format!("{}: {is}: {fix}", args.video.display())));
        }
    }
    let folder = args.picture.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        let fix = "make it, or give another file as --picture";
        return Err(Exit::Configuration(format!("{}: there is no such folder: {fix}", folder.display())));
    }
    let spool = if task.is_remote() { args.spool.open(&Arc::new(Outside::default()))? } else { None };
    let spool = spool.as_deref().map(Result::as_ref).transpose().map_err(Exit::configuration)?;
    let task = args.look.with(task)?;
    // This model alone: of another server's repository no other is packed for it.
    let options = ResidencyOptions { control: Control::Explicit, ..node::for_frames() };
    let scheduler = node::start(Place::of(&args.store, None), QueueLimits::default(), options)?;
    let loaded = scheduler.residency().load_named(&args.model, &LoadOptions::default());
    loaded.map_err(|error| Exit::configuration(&error))?;
    let examined = examine(&task, &tools, &InProcess(Arc::clone(&scheduler)), spool, args.at);
    scheduler.drain(Duration::from_secs(5));
    let examined = examined.map_err(|error| match error.kind {
        ErrorKind::NotFound => Exit::configuration(&error),
        _ => error.into(),
    })?;
    let picture = &examined.picture;
    write_png(&args.picture, [picture.width, picture.height].map(|side| side as usize), &picture.pixels)?;
    tell(args, &tools, &decoder, &examined);
    print_json(&Line {
        video: &if task.is_remote() { task.shown_input() } else { args.video.to_string_lossy() },
        model: &args.model,
        picture: &args.picture,
        at_s: examined.at_s,
        frames: examined.frames,
        segments: examined.segments.0,
        quality: &examined.quality,
        detections: examined.sightings.iter().map(detection).collect(),
        predictions: &examined.predictions,
    })
}

fn detection((label, one): &(String, Sighting)) -> Detection<'_> {
    Detection { label, score: one.score, box_px: one.box_px }
}

/// Says it for people, each check on a line: what is fine, and what they should know and may do about it.
fn tell(args: &Args, tools: &Tools, decoder: &str, examined: &Examination) {
    let fine = |what: String| say(format_args!("  ok    {what}"));
    let note = |what: String| say(format_args!("  note  {what}"));
    fine(format!("decoder: {decoder}"));
    match tools.confined {
        true => fine("it runs without network, other processes and files to write".to_owned()),
        false => note("it runs unconfined: unset PACKHORSE_UNCONFINED unless it is a script of yours".to_owned()),
    }
    let probe = &examined.probe;
    let duration = probe.duration_s.map(|seconds| format!(", {seconds:.1} s")).unwrap_or_default();
    let (width, height, frames) = (probe.width, probe.height, examined.frames);
    fine(format!("video: {} in {}, {width}x{height}, {frames} frames{duration}", probe.codec, probe.container));
    match examined.segments {
        (segments, None) => fine(format!("it is worked in {}", counted(segments, "segment"))),
        (_, Some(why)) => note(format!(
            "it is one segment, since {why}: one decoder works it, and begins anew when it is taken up again; for a long \
             video, put it into MP4 or Matroska"
        )),
    }
    for Note { about, found, treated } in &examined.quality {
        note(format!("{}: {found}: {treated}", about.name()));
    }
    let (across, down) = examined.seen_px;
    fine(format!("model: {} sees {across}x{down} pixels", args.model));
    let (seen, at_s) = (&examined.sightings, examined.at_s);
    let mut named: Vec<String> =
        seen.iter().take(NAMED_MAX).map(|(label, one)| format!("{label} {:.2}", one.score)).collect();
    named.extend((seen.len() > NAMED_MAX).then(|| "...".to_owned()));
    match seen.len() {
        0 => {
            let fix = "look elsewhere with --at, or further down with --threshold";
            note(format!("it sees nothing at {at_s:.3} s: {fix}"));
        }
        objects => fine(format!("it sees {} at {at_s:.3} s: {}", counted(objects, "object"), named.join(", "))),
    }
    say(format_args!("        drawn in {}", args.picture.display()));
    say(format_args!("\nwhat looking would take on this machine:\n{}", table(&examined.predictions)));
}

fn table(predictions: &[Prediction]) -> Table {
    let mut table = Table::new();
    let header = ["--sample", "frames", "CPU seconds", "seconds", "bottleneck"];
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header);
    for one in predictions {
        table.add_row([
            one.sampling.to_string(),
            one.frames_looked.to_string(),
            format!("{:.1}", one.cpu_s),
            format!("{:.1}", one.wall_s),
            one.bottleneck.name().to_owned(),
        ]);
    }
    table
}
