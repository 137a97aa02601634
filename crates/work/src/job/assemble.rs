//! The parts put together: every frame in order, numbered, written, counted.

use std::collections::BTreeMap;

use engine::{Error, ErrorKind};

use super::draw::draw;
use super::listing::Video as Listed;
use super::walk::{Told, Walk};
use super::{Job, Running, Setup};
use crate::cost::Spent;
use crate::judge::{declared, judge};
use crate::media::DecodeReport;
use crate::output::files::{Files, Whole};
use crate::output::{About, Seen};
use crate::policy::Failure;
use crate::quality::{Decoded, report};
use crate::result::{self, Inferred, ModelIdentity, Summary, Tally, Video, by_name, parts_folder};
use crate::segment::{Part, PartName, Plan};

/// What the parts came to.
pub(super) struct Assembled {
    pub(super) summary: Summary,
    /// What all of them took, whoever worked them.
    pub(super) spent: Spent,
    /// The files of results, which nobody sees yet.
    pub(super) files: Vec<Whole>,
}

/// Writes every frame of the video down, in order and in every form that the task wants, and sums up.
pub(super) fn assemble(running: &Running<'_>, video: &Listed) -> Result<Assembled, Failure> {
    let Running { job, setup, .. } = running;
    let ledger = running.ledger();
    let manifest = &setup.manifest;
    let model = (manifest.name.as_str(), manifest.version);
    let about = About { task: job.task, probe: &video.probe, model, labels: &manifest.labels };
    let mut files = Files::begin(about, job.objects)?;
    let (mut tally, mut decoded) = (Tally::default(), Decoded::default());
    let mut before = None;
    let mut walk = Walk::new(job, video, &ledger);
    while let Some(Told { index, pts_us, sightings, crossings }) = walk.next()? {
        files.frame(&Seen { index, pts_us, sightings: &sightings, crossings: &crossings })?;
        tally.add(&sightings);
        decoded.add(index, pts_us, before);
        before = Some((index, pts_us));
    }
    // What was not decoded is known from the container.
    let is_listed = video.times.is_some();
    let last_us = match is_listed {
        true => video.outline.span.and_then(|(_, last)| video.probe.microseconds(last)),
        false => walk.last_us,
    };
    decoded.frames = if is_listed { video.outline.frames } else { walk.frames() };
    decoded.span_us =
        decoded.span_us.map(|(first_us, looked_us)| (first_us, last_us.unwrap_or(looked_us).max(looked_us)));
    let (spent, frames) = (walk.spent, decoded.frames);
    let found = Found { tally, decoded, errors: walk.errors, first_error: walk.first_error };
    let mut summary = sum_up(job, (setup, video), ledger.plan(), found)?;
    summary.inference = job.inference.tolerance().map(|tolerance| {
        let remote = spent.remote.unwrap_or_default();
        Inferred { tolerance, frames_remote: remote.frames_remote, frames_local: remote.frames_local }
    });
    let names = &manifest.labels;
    summary.tracks = walk.tracker.map(|tracker| tracker.numbered());
    summary.zones = by_name(walk.places.in_zones(), names);
    summary.lines = by_name(walk.places.over_lines(), names);
    let mut files = files.end()?;
    files.extend(draw((running, video), &ledger, &about, frames)?);
    setup.source.check_unchanged().map_err(Failure::Task)?;
    summary.outputs = files.iter().map(|file| file.written.clone()).collect();
    Ok(Assembled { summary, spent, files })
}

/// What the parts say together.
struct Found {
    tally: Tally,
    decoded: Decoded,
    errors: u64,
    first_error: Option<String>,
}

/// Below 2^53 microseconds, which is 285 years, the conversion is exact.
pub(super) fn seconds(us: i64) -> f64 {
    us as f64 / 1e6
}

/// The part called `name`, without its looks unless `with_looks`; `None` when it is no part, and it is removed then.
///
/// # Errors
/// About the place; [`Cancelled`](ErrorKind::Cancelled) when the part is gone: whoever finished the task removed it.
pub(super) fn stored(job: &Job<'_>, name: &PartName, with_looks: bool) -> engine::Result<Option<Part>> {
    let key = format!("{}/{name}", parts_folder(&job.task.id));
    match job.objects.open(&key).and_then(|source| Part::read(source, with_looks)) {
        Ok(part) => Ok(Some(part)),
        Err(error) if error.kind == ErrorKind::NotFound => {
            let message = format!("part {key} is gone: another attempt finished the task");
            Err(Error::new(ErrorKind::Cancelled, message))
        }
        Err(error) if error.kind == ErrorKind::Corrupt => {
            tracing::warn!(key, %error, "a part is damaged, and what it held is worked again");
            job.objects.delete(&key).map(|()| None)
        }
        Err(error) => Err(error),
    }
}

fn sum_up(job: &Job<'_>, (setup, video): (&Setup, &Listed), plan: &Plan, found: Found) -> Result<Summary, Failure> {
    let Found { tally, decoded, errors, first_error } = found;
    let Setup { source, manifest, .. } = setup;
    let Listed { probe, outline, .. } = video;
    let frames = decoded.frames;
    let report_of_decoder =
        DecodeReport { frames, damage_count: errors, first_damage: first_error, ..DecodeReport::default() };
    let span_s = decoded.span_us.map(|(first_us, last_us)| (seconds(first_us), seconds(last_us)));
    let damage = judge(
        job.task,
        &report_of_decoder,
        span_s,
        declared(probe, outline, report_of_decoder.first_damage.as_deref()),
    )
    .map_err(Failure::Task)?;
    Ok(Summary {
        format: result::FORMAT,
        task: job.task.id.clone(),
        input: source.identity.clone(),
        model: ModelIdentity {
            name: manifest.name.clone(),
            version: manifest.version,
            program: manifest.program.hash.clone(),
        },
        threshold: job.task.threshold,
        inference: None,
        sampling: job.task.sampling,
        frames,
        frames_looked: tally.frames,
        frames_with_detections: tally.frames_with_detections,
        detections: tally.detections,
        classes: tally.by_label(&manifest.labels),
        tracks: None,
        zones: BTreeMap::new(),
        lines: BTreeMap::new(),
        places: job.task.places_hash(),
        video: Video {
            container: probe.container.clone(),
            codec: probe.codec.clone(),
            width: probe.width,
            height: probe.height,
            frame_rate: probe.frame_rate,
            duration_s: probe.duration_s,
            frames_declared: probe.frames_declared,
        },
        quality: report((probe, outline, plan), &decoded, &damage, (&job.lengths, job.task.sampling)),
        damage,
        outputs: Vec::new(),
    })
}
