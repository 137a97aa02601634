//! The parts put together: every frame in order, numbered, written, counted.

use std::time::Duration;

use engine::{Error, ErrorKind};

use super::{Job, Running, Setup, placed};
use crate::cost::Spent;
use crate::judge::{declared, judge};
use crate::media::DecodeReport;
use crate::policy::Failure;
use crate::quality::{Decoded, report};
use crate::result::{self, Labels, ModelIdentity, Summary, Tally, Video, append_line, parts_folder};
use crate::segment::{Kept, Part, PartName, Plan};

/// What the parts came to.
pub(super) struct Assembled {
    pub(super) summary: Summary,
    /// What all of them took, whoever worked them.
    pub(super) spent: Spent,
}

/// Writes a line for each frame of the video, in order, and sums up.
pub(super) fn assemble(
    running: &Running<'_>,
    results: &mut dyn FnMut(&[u8]) -> engine::Result<()>,
) -> Result<Assembled, Failure> {
    let Running { job, setup, .. } = running;
    let ledger = running.ledger();
    let labels = Labels::new(&setup.manifest.labels);
    let mut found = Found::default();
    let mut line = String::new();
    let (mut frames_before, mut before) = (0, None);
    for segment in &ledger.plan().segments {
        let access = ledger.access(segment.index);
        for Kept { name, part } in ledger.chain(access, segment.index) {
            let read;
            let part = match part {
                Some(part) => part,
                None => {
                    read = stored(job, name, true).map_err(placed)?;
                    read.as_ref()
                        .ok_or_else(|| Failure::Task(Error::unavailable(format!("part {name} was damaged"))))?
                }
            };
            for look in &part.looks {
                let (index, pts_us) = (frames_before + look.offset, look.pts_us);
                line.clear();
                append_line(&mut line, index, seconds(pts_us), &look.found, &labels).map_err(Failure::Task)?;
                results(line.as_bytes()).map_err(placed)?;
                found.tally.add(&look.found);
                found.decoded.add(index, pts_us, before);
                before = Some((index, pts_us));
            }
            found.spent += part.spent;
            if let Some(end) = &part.end {
                found.errors += end.damage_count;
                found.first_error = found.first_error.take().or_else(|| end.first_damage.clone());
            }
        }
        frames_before += ledger.progress(access, segment.index).0;
    }
    found.decoded.frames = frames_before;
    let spent = found.spent;
    Ok(Assembled { summary: sum_up(job, setup, ledger.plan(), found)?, spent })
}

/// What the parts say together.
#[derive(Default)]
struct Found {
    tally: Tally,
    decoded: Decoded,
    errors: u64,
    first_error: Option<String>,
    spent: Spent,
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

fn sum_up(job: &Job<'_>, setup: &Setup, plan: &Plan, found: Found) -> Result<Summary, Failure> {
    let Found { tally, decoded, errors, first_error, .. } = found;
    let Setup { source, probe, outline, manifest, .. } = setup;
    let frames = decoded.frames;
    let report_of_decoder =
        DecodeReport { frames, damage_count: errors, first_damage: first_error, cpu: Duration::ZERO };
    let span_s = decoded.span_us.map(|(first_us, last_us)| (seconds(first_us), seconds(last_us)));
    let damage = judge(job.task, &report_of_decoder, span_s, declared(probe, outline)).map_err(Failure::Task)?;
    source.check_unchanged().map_err(Failure::Task)?;
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
        frames,
        frames_with_detections: tally.frames_with_detections,
        detections: tally.detections,
        classes: tally.by_label(&manifest.labels),
        video: Video {
            container: probe.container.clone(),
            codec: probe.codec.clone(),
            width: probe.width,
            height: probe.height,
            frame_rate: probe.frame_rate,
            duration_s: probe.duration_s,
            frames_declared: probe.frames_declared,
        },
        quality: report((probe, outline, plan), &decoded, &damage, &job.lengths),
        damage,
    })
}
