//! A video and a model looked at before anybody relies on them: what is out of the ordinary, one frame with what the model
//! sees in it, and what looking at more or fewer frames would take.

use std::collections::BTreeSet;
use std::time::Duration;

use engine::cpu::thread_cpu;
use engine::{Error, Result};
use pipeline::picture::draw::{Canvas, zoom_for};
use pipeline::{Detector, Fit, Picture, Placement, detect};
use serde::Serialize;
use store::Manifest;

use crate::cost::Bottleneck;
use crate::gate::{Gate, Patches};
use crate::inference::Inference;
use crate::media::{self, Between, Choice, Decode, Frame, Frames, Input, Probe, Span, Tools};
use crate::output::{About, Sighting};
use crate::quality::{Decoded, Note, report};
use crate::ranges::Fetching;
use crate::result::Damage;
use crate::sampling::Sampling;
use crate::segment::{Keys, Lengths, Listed, Outline, Plan};
use crate::source::Source;
use crate::spool::Spool;
use crate::task::Task;

/// The longest wait for a sign of life of the decoder.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// Frames that are decoded, and frames that are looked at, to see what each takes.
const DECODED: u64 = 240;
const LOOKED: usize = 8;
/// Places of a video that are looked at to see how much moves in it, which together have as many frames.
const PLACES: i64 = 8;

/// What an examination came to.
#[derive(Debug)]
pub struct Examination {
    /// What the file says of itself.
    pub probe: Probe,
    /// Frames that the container shows.
    pub frames: u64,
    /// How many segments it is cut into, and why it is one if that is not for its length.
    pub segments: (usize, Option<&'static str>),
    /// What is out of the ordinary, as far as that shows without decoding all of it.
    pub quality: Vec<Note>,
    /// Width and height of what the model sees.
    pub seen_px: (u32, u32),
    /// The frame that was looked at, with everything drawn on it, and when it is shown, in seconds.
    pub picture: Picture,
    /// See `picture`.
    pub at_s: f64,
    /// What the model sees in it.
    pub sightings: Vec<(String, Sighting)>,
    /// What it would take to look at so many frames.
    pub predictions: Vec<Prediction>,
}

/// What looking at a video would take on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// At which frames.
    pub sampling: Sampling,
    /// How many those are.
    pub frames_looked: u64,
    /// CPU time.
    pub cpu_s: f64,
    /// From beginning to end, with nothing else to do.
    pub wall_s: f64,
    /// What the speed hangs on.
    pub bottleneck: Bottleneck,
}

/// What a frame takes, in CPU-seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Costs {
    /// Decoded, and not given out.
    decode_s: f64,
    /// Decoded, scaled and read.
    given_s: f64,
    /// A key frame, decoded with as few others as the decoder can, scaled and read.
    key_s: f64,
    /// One to which others refer, where no others are decoded, and how many of all frames those are.
    reference_s: f64,
    references: f64,
    /// Held against the frame before.
    gate_s: f64,
    /// Looked at.
    look_s: f64,
}

/// A video, as its container tells of it, with how much moves in it: by how many levels some of its frames change.
struct Film<'a> {
    probe: &'a Probe,
    outline: &'a Outline,
    /// Whether it says when each frame is shown, so that not all need be decoded to number them.
    is_listed: bool,
    changes: &'a [f64],
}

/// Looks at the video and the model of `task`: at the frame that is shown at `at_s`, or the one in the middle. A video that
/// is elsewhere is read by way of `spool`, as a worker reads it.
///
/// # Errors
/// Those of a job: the model, the video, the decoder; [`InvalidInput`](engine::ErrorKind::InvalidInput) when no frame is
/// shown at `at_s` or later.
pub fn examine(
    task: &Task,
    tools: &Tools,
    inference: &dyn Inference,
    spool: Option<&Spool>,
    at_s: Option<f64>,
) -> Result<Examination> {
    // The cheaper question, and nothing is fetched for a model that is not there.
    let manifest = inference.model(&task.model)?;
    if !task.is_remote() {
        return look_at(&Source::of(task)?, task, (tools, inference), &manifest, at_s);
    }
    let spool = spool.ok_or_else(|| {
        Error::unsupported(format!("{}: without a folder to fetch to, files alone are read", task.shown_input()))
    })?;
    let go_on = || false;
    let fetched = spool.fetch(task, tools.check_ranges().is_ok(), &go_on)?;
    std::thread::scope(|scope| {
        // They end before the scope does, which waits for them.
        let _fetching = fetched.ranges().map(|ranges| Fetching::start(ranges, scope, &go_on));
        look_at(&fetched.source, task, (tools, inference), &manifest, at_s)
    })
}

fn look_at(
    source: &Source,
    task: &Task,
    (tools, inference): (&Tools, &dyn Inference),
    manifest: &Manifest,
    at_s: Option<f64>,
) -> Result<Examination> {
    let detector = detect::for_model(manifest)?;
    let mut listed = Listed::new()?;
    let mut each = |packet: &_| listed.add(packet);
    let (probe, outline) = media::outlined(tools, &source.input, STALL_LIMIT, &mut each)?;
    let is_listed = listed.end()?.is_some() && outline.is_in_order();
    let lengths = Lengths::default();
    let entries = task.sampling.gate().map(|gate| gate.entries(&probe, &outline));
    let plan = Plan::new(&probe, &outline, &lengths, entries.as_ref());
    let placement = Placement::of(detector.input().fit, (probe.width, probe.height))?;
    let video = Video { tools, input: &source.input, probe: &probe, detector: &detector, placement };
    let frame = match at_s {
        Some(at_s) => {
            video.frame_at((at_s * 1e6) as i64, placement)?.ok_or_else(|| too_late(&video, &outline, at_s))?
        }
        None => video.frame_at_or_first(middle_us(&probe, &outline), placement)?,
    };
    let mut looks = Vec::new();
    let mut found = Vec::new();
    // Once to get ready, and some times to see what it takes.
    for _ in 0..=LOOKED {
        let mark = thread_cpu();
        let inputs = detector.prepare_planes(&frame.planes)?;
        let prepared = thread_cpu();
        let answer = inference.submit(manifest, inputs)?.wait()?;
        let answered = thread_cpu();
        found = detector.detect(&answer.outputs, &placement, task.threshold)?;
        let ours = prepared.saturating_sub(mark) + thread_cpu().saturating_sub(answered);
        looks.push((ours + answer.cpu).as_secs_f64());
    }
    let sightings: Vec<Sighting> = found.iter().map(Sighting::from).collect();
    let about = About { task, probe: &probe, model: (&manifest.name, manifest.version), labels: &manifest.labels };
    let mut whole = video
        .frame_at_or_first(frame.pts_us, Placement::of(Fit::Source, (probe.width, probe.height))?)?
        .planes
        .to_picture();
    draw(&mut whole, &about, &sightings);
    let (changes, gate_s) = video.changes(&outline)?;
    let costs = video.costs(&outline, gate_s, median(&mut looks[1..]))?;
    let film = Film { probe: &probe, outline: &outline, is_listed, changes: &changes };
    let predictions = choices(task.sampling)
        .filter_map(|sampling| predict(sampling, &film, &costs, (inference.lanes(), plan.segments.len())))
        .collect();
    let span_us = outline.span.and_then(|(first, last)| Some((probe.microseconds(first)?, probe.microseconds(last)?)));
    let decoded = Decoded { frames: outline.frames, span_us, ..Decoded::default() };
    let how = (&lengths, task.sampling);
    let quality = report((&probe, &outline, &plan), &decoded, &Damage::default(), how);
    let named = |one: Sighting| (about.label(one.class).into_owned(), one);
    let sightings = sightings.into_iter().map(named).collect();
    Ok(Examination {
        frames: outline.frames,
        segments: (plan.segments.len(), plan.whole),
        quality,
        seen_px: placement.canvas_px,
        picture: whole,
        at_s: frame.pts_s(),
        sightings,
        predictions,
        probe,
    })
}

/// A video that can be decoded.
struct Video<'a> {
    tools: &'a Tools,
    input: &'a Input,
    probe: &'a Probe,
    detector: &'a Detector,
    placement: Placement,
}

impl Video<'_> {
    fn open(&self, placement: Placement, span: Span, choice: Choice) -> Result<Frames> {
        let resample = self.detector.input().resample;
        let decode = Decode { placement, resample, stall_limit: STALL_LIMIT, span, choice };
        Frames::open(self.tools, self.input, self.probe, &decode)
    }

    /// The first frame that is shown at `at_us` or later, if there is one.
    fn frame_at(&self, at_us: i64, placement: Placement) -> Result<Option<Frame>> {
        let keep = vec![Between { from_us: Some(at_us), before_us: None }];
        let there = Span { seek_us: Some(at_us), keep, ..Span::default() };
        self.open(placement, there, Choice::All)?.next()
    }

    /// The same; where there is none, the video's first.
    fn frame_at_or_first(&self, at_us: i64, placement: Placement) -> Result<Frame> {
        if let Some(frame) = self.frame_at(at_us, placement)? {
            return Ok(frame);
        }
        let first = self.open(placement, Span::default(), Choice::All)?.next()?;
        first.ok_or_else(|| Error::invalid(format!("no frame of '{}' can be decoded", self.input)))
    }

    /// What its frames take.
    fn costs(&self, outline: &Outline, gate_s: f64, look_s: f64) -> Result<Costs> {
        let rate = self.probe.frame_rate.unwrap_or(25.0).max(1.0);
        let first_us = self.open(self.placement, Span::default(), Choice::All)?.next()?.map_or(0, |frame| frame.pts_us);
        let after = |seconds: f64| first_us.saturating_add((seconds * 1e6) as i64);
        // Of key frames there are fewer, and each stands for many.
        let (soon_us, later_us) = (after(DECODED as f64 / rate), after(DECODED as f64 / rate * 10.0));
        let each = |(cpu_s, frames): (f64, u64)| cpu_s / frames.max(1) as f64;
        // None but the first is given out, of which the decoder cannot know that it will be.
        let passed = self.decode(Choice::Where("eq(n,0)".to_owned()), soon_us)?;
        let given = self.decode(Choice::All, soon_us)?;
        let some = match Sampling::Reference.decoded(self.probe) {
            Choice::All => given,
            other => self.decode(other, soon_us)?,
        };
        let keys = Keys::of(self.probe, outline);
        // The video begins with one, if only for a decoder.
        let count = keys.between(None, Some(later_us)).len().max(1);
        let (keys_s, _) = match keys.spans {
            Some(spans) => {
                let span = Span { most: Some(count as u64), ..Span::default() };
                self.decode_span(Choice::IndexedKeys(spans), span)?
            }
            None => self.decode(Choice::KeyFrames, later_us)?,
        };
        let references = some.1 as f64 / given.1.max(1) as f64;
        let (given_s, reference_s, key_s) = (each(given), each(some), keys_s / count as f64);
        Ok(Costs { decode_s: each(passed).min(given_s), given_s, key_s, reference_s, references, gate_s, look_s })
    }

    /// By how many levels its frames change in some places, each from a key frame on, and what it takes to find out.
    fn changes(&self, outline: &Outline) -> Result<(Vec<f64>, f64)> {
        let mut changes = Vec::new();
        let mut gate_s = 0.0;
        let places = places(self.probe, outline);
        let frames_each = DECODED as usize / places.len().max(1);
        for from_us in places {
            let keep = vec![Between { from_us, before_us: None }];
            let mut frames =
                self.open(self.placement, Span { seek_us: from_us, keep, ..Span::default() }, Choice::All)?;
            let mut before: Option<Patches> = None;
            for _ in 0..frames_each {
                let Some(frame) = frames.next()? else { break };
                let mark = thread_cpu();
                let patches = Patches::of(&frame.planes);
                changes.extend(before.map(|before| patches.change(&before)));
                before = Some(patches);
                gate_s += thread_cpu().saturating_sub(mark).as_secs_f64();
                frames.recycle(frame.planes.bytes);
            }
        }
        let each_s = gate_s / changes.len().max(1) as f64;
        Ok((changes, each_s))
    }

    /// CPU-seconds that frames take from the video's beginning to `before_us`, and how many they are.
    fn decode(&self, choice: Choice, before_us: i64) -> Result<(f64, u64)> {
        let keep = vec![Between { from_us: None, before_us: Some(before_us) }];
        self.decode_span(choice, Span { keep, ..Span::default() })
    }

    /// The same, of the frames of a span.
    fn decode_span(&self, choice: Choice, span: Span) -> Result<(f64, u64)> {
        let mark = thread_cpu();
        let mut frames = self.open(self.placement, span, choice)?;
        while let Some(frame) = frames.next()? {
            frames.recycle(frame.planes.bytes);
        }
        let report = frames.finish()?;
        let cpu = thread_cpu().saturating_sub(mark) + report.cpu;
        Ok((cpu.as_secs_f64(), report.frames))
    }
}

/// Where to look how much moves: the beginning, and the last key frames before equal parts of the video.
fn places(probe: &Probe, outline: &Outline) -> BTreeSet<Option<i64>> {
    let last_key_at = |ticks: i64| {
        let key = outline.keys.partition_point(|key| key.pts <= ticks).checked_sub(1)?;
        probe.microseconds(outline.keys[key].pts)
    };
    let (first, last) = outline.span.unwrap_or_default();
    let part = last.saturating_sub(first) / PLACES;
    (0..PLACES).map(|place| last_key_at(first.saturating_add(part * place))).collect()
}

fn too_late(video: &Video<'_>, outline: &Outline, at_s: f64) -> Error {
    let last = outline.span.map(|(_, last)| format!(", the last at {:.3} s", video.probe.seconds(last)));
    let message = format!("no frame of '{}' is shown at {at_s} s or later", video.input);
    Error::invalid(format!("{message}{}: give an earlier time", last.unwrap_or_default()))
}

fn middle_us(probe: &Probe, outline: &Outline) -> i64 {
    let us = |ticks| probe.microseconds(ticks).unwrap_or_default();
    outline.span.map_or(0, |(first, last)| us(first).midpoint(us(last)))
}

fn draw(picture: &mut Picture, about: &About<'_>, sightings: &[Sighting]) {
    let (width, height) = (picture.width, picture.height);
    let marks: Vec<_> = sightings.iter().map(|one| about.mark(one)).collect();
    let mut canvas = Canvas::new(&mut picture.pixels, width as usize, height as usize);
    canvas.figures(&about.figures(), [1.0, 1.0], zoom_for(width, height));
    canvas.marks(&marks, [1.0, 1.0], zoom_for(width, height));
}

/// What is worth comparing with `wanted`, which comes first.
fn choices(wanted: Sampling) -> impl Iterator<Item = Sampling> {
    let usual = [
        Sampling::All,
        Sampling::Every(5),
        Sampling::Fps(1.0),
        Sampling::Motion(Gate::default()),
        Sampling::Reference,
        Sampling::KeyFrames,
    ];
    std::iter::once(wanted).chain(usual.into_iter().filter(move |&other| other != wanted))
}

/// What it takes to look at some frames of a video; `None` where not all would be decoded and the container does not number
/// them. Segments are decoded side by side, each by one thread.
fn predict(
    sampling: Sampling,
    &Film { probe, outline, is_listed, changes }: &Film<'_>,
    costs: &Costs,
    (lanes, segments): (usize, usize),
) -> Option<Prediction> {
    if sampling.decoded(probe) != Choice::All && !is_listed {
        return None;
    }
    let frames = outline.frames;
    let looked = match sampling {
        Sampling::All => frames,
        Sampling::Every(every) => frames.div_ceil(u64::from(every)),
        Sampling::Fps(fps) => {
            let seconds = outline.span.map_or(0.0, |(first, last)| probe.seconds(last) - probe.seconds(first));
            // A stretch of time for each, and the one that the last frame begins.
            frames.min((seconds * fps).floor() as u64 + 1)
        }
        Sampling::Motion(gate) => {
            let sure = gate.sure(probe, outline);
            let moving = changes.iter().filter(|&&change| change > gate.levels).count() as f64;
            sure + ((frames - sure) as f64 * moving / changes.len().max(1) as f64).round() as u64
        }
        Sampling::Reference => (frames as f64 * costs.references).round() as u64,
        Sampling::KeyFrames => outline.key_frames,
    };
    let decode_s = match sampling {
        Sampling::KeyFrames => looked as f64 * costs.key_s,
        Sampling::Reference => looked as f64 * costs.reference_s,
        Sampling::Motion(_) => frames as f64 * (costs.given_s + costs.gate_s),
        _ => looked as f64 * costs.given_s + (frames - looked) as f64 * costs.decode_s,
    };
    let look_s = looked as f64 * costs.look_s;
    let cpu_s = decode_s + look_s;
    let lanes = lanes.max(1) as f64;
    let wall_s = (cpu_s / lanes).max(decode_s / lanes.min(segments as f64).max(1.0));
    // Whatever takes the greater share of the time is what the other waits for.
    Some(Prediction { sampling, frames_looked: looked, cpu_s, wall_s, bottleneck: Bottleneck::of(decode_s, look_s) })
}

/// The middle one; `values` are not empty.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::Packet;

    #[test]
    fn what_frames_take_is_what_a_video_takes() {
        let mut outline = Outline::default();
        for frame in 0..1000 {
            outline.add(Packet { pts: Some(frame * 512), bytes: 1, at: None, key: frame % 100 == 0, hidden: false });
        }
        let (decode_s, given_s, key_s, reference_s) = (0.003, 0.004, 0.006, 0.005);
        let costs = Costs { decode_s, given_s, key_s, reference_s, references: 0.6, gate_s: 0.0005, look_s: 0.016 };
        let (probe, gate) = (Probe::example(), Gate { levels: 3.0, pause_s: 1.0 });
        // A quarter of them are more.
        let changes = [0.0, 2.0, 9.0, 3.0];
        let table = [
            (Sampling::All, (4, 8), (1000, 20.0, 5.0, Bottleneck::Model)),
            (Sampling::All, (4, 1), (1000, 20.0, 5.0, Bottleneck::Model)),
            (Sampling::Every(5), (4, 8), (200, 0.8 + 2.4 + 3.2, 1.6, Bottleneck::Both)),
            // One segment, which one thread decodes.
            (Sampling::Every(5), (4, 1), (200, 6.4, 3.2, Bottleneck::Both)),
            // Forty seconds less a frame.
            (Sampling::Fps(1.0), (4, 8), (40, 0.16 + 2.88 + 0.64, 0.92, Bottleneck::Decoder)),
            (Sampling::Fps(100.0), (1, 1), (1000, 20.0, 20.0, Bottleneck::Model)),
            // The first frames of forty seconds, and a quarter of the others.
            (Sampling::Motion(gate), (4, 8), (280, 4.5 + 4.48, 8.98 / 4.0, Bottleneck::Both)),
            (Sampling::Motion(Gate { pause_s: 8.0, ..gate }), (1, 1), (254, 4.5 + 4.064, 8.564, Bottleneck::Both)),
            (Sampling::Reference, (1, 1), (600, 3.0 + 9.6, 12.6, Bottleneck::Model)),
            (Sampling::KeyFrames, (1, 1), (10, 0.06 + 0.16, 0.22, Bottleneck::Model)),
        ];
        for (sampling, machine, (looked, cpu_s, wall_s, bottleneck)) in table {
            let film = Film { probe: &probe, outline: &outline, is_listed: true, changes: &changes };
            let got = predict(sampling, &film, &costs, machine).unwrap();
            assert_eq!((got.frames_looked, got.bottleneck), (looked, bottleneck), "{sampling}");
            assert!((got.cpu_s - cpu_s).abs() < 1e-9 && (got.wall_s - wall_s).abs() < 1e-9, "{sampling} {got:?}");
        }
        let film = Film { probe: &probe, outline: &outline, is_listed: false, changes: &[] };
        let is_foreseen = |sampling| predict(sampling, &film, &costs, (1, 1)).is_some();
        let asked = [Sampling::All, Sampling::Reference, Sampling::KeyFrames];
        assert_eq!(asked.map(is_foreseen), [true, false, false]);
        // Of a codec that does not tell, all are decoded.
        let probe = Probe { codec: "vp9".to_owned(), ..Probe::example() };
        let film = Film { probe: &probe, ..film };
        assert!(predict(Sampling::Reference, &film, &costs, (1, 1)).is_some());
    }
}
