//! Everything that is looked up before the first frame: the model, the video, where it is cut, and the name that all
//! this has together.

use std::collections::BTreeSet;
use std::sync::Arc;

use engine::{Error, Result};
use pipeline::{Detector, Placement, detect};
use store::Manifest;

use super::Job;
use crate::judge::{declared, judge};
use crate::media::{self, Choice, DecodeReport, Probe};
use crate::result::parts_folder;
use crate::segment::{Keys, Ledger, Listed, Outline, Packet, PartName, Plan, Times};
use crate::source::Source;

/// A job with everything looked up.
pub(super) struct Setup {
    pub(super) source: Source,
    pub(super) probe: Probe,
    pub(super) outline: Outline,
    pub(super) manifest: Arc<Manifest>,
    pub(super) detector: Detector,
    /// Where the video as it is displayed lies in what the model sees.
    pub(super) placement: Placement,
    /// Which frames are decoded.
    pub(super) decoded: Choice,
    /// When all frames are shown, where not all are decoded: nobody sees the others to count them.
    pub(super) times: Option<Times>,
    /// Key frames, where only those are looked at.
    pub(super) keys: Keys,
    /// Where a gate lets something through so that decoders may begin there, in microseconds; `None` without a gate.
    entries: Option<BTreeSet<i64>>,
    /// Of everything that the detections depend on: parts that carry it are this job's, whoever wrote them.
    pub(super) hash: String,
}

impl Setup {
    pub(super) fn new(job: &Job<'_>) -> Result<(Self, Plan)> {
        // The model first: it is the cheaper question.
        let manifest = job.inference.model(&job.task.model)?;
        let detector = detect::for_model(&manifest)?;
        let source = job.source.clone();
        let sampling = job.task.sampling;
        let mut listed = sampling.passes_over().then(Listed::new).transpose()?;
        let mut each = |packet: &Packet| listed.iter_mut().for_each(|listed| listed.add(packet));
        let (probe, outline) = media::survey(job.tools, &source.input, job.stall_limit, &mut each)?;
        // What is cut off for sure is refused before anything is spent on it.
        let stored = DecodeReport { frames: outline.frames, ..DecodeReport::default() };
        let span_s = outline.span.map(|(first, last)| (probe.seconds(first), probe.seconds(last)));
        if outline.untimed == 0 && span_s.is_some() {
            judge(job.task, &stored, span_s, declared(&probe, &outline))?;
        }
        let placement = Placement::of(detector.input().fit, (probe.width, probe.height))?;
        let decoded = sampling.decoded(&probe);
        let listed = listed.filter(|_| decoded != Choice::All);
        let times = listed.map(|listed| times(job, &outline, listed)).transpose()?;
        let keys = if decoded == Choice::KeyFrames { Keys::of(&probe, &outline) } else { Keys::default() };
        let entries = sampling.gate().map(|gate| gate.entries(&probe, &outline));
        let plan = Plan::new(&probe, &outline, &job.lengths, entries.as_ref());
        let hash = hash(job, &source, &manifest, &plan);
        let setup = Self { source, probe, outline, manifest, detector, placement, decoded, times, keys, entries, hash };
        Ok((setup, plan))
    }

    /// Whether a frame is the first that is shown since one of the gate's entries.
    pub(super) fn is_entry(&self, previous_us: Option<i64>, pts_us: i64) -> bool {
        let Some((entries, previous_us)) = self.entries.as_ref().zip(previous_us) else { return false };
        previous_us < pts_us && entries.range(previous_us + 1..=pts_us).next().is_some()
    }

    /// What is there of the job already.
    pub(super) fn ledger(&self, job: &Job<'_>, plan: Plan) -> Result<Ledger> {
        let folder = parts_folder(&job.task.id);
        let keys = job.objects.list(&folder)?;
        let names = keys.iter().filter_map(|key| PartName::parse(key.rsplit('/').next()?));
        let mut ledger = Ledger::new(plan);
        if self.keys.spans.is_some() {
            ledger.doubt_both();
        }
        for name in names.filter(|name| name.hash == self.hash) {
            // Both ends of a segment say whether it fits to its neighbours.
            if name.first == 0 || name.is_end {
                let Some(part) = super::assemble::stored(job, &name, false)? else { continue };
                ledger.seam(name.segment, part.head, part.end.and_then(|end| end.seam));
            }
            ledger.add(name, None);
        }
        Ok(ledger)
    }
}

/// When all frames are shown, for a task that has some of them not decoded.
fn times(job: &Job<'_>, outline: &Outline, listed: Listed) -> Result<Times> {
    let times = listed.end()?.filter(|_| outline.is_in_order());
    times.ok_or_else(|| {
        Error::invalid(format!(
            "video '{}' does not say when each of its frames is shown, so that none can be told by its number unless all are \
             decoded: submit it with --sample every:N or fps:N",
            job.task.shown_input()
        ))
    })
}

/// A name for everything that decides on the detections. Whatever is missing here would let a part of other settings
/// pass for one of these.
fn hash(job: &Job<'_>, source: &Source, manifest: &Manifest, plan: &Plan) -> String {
    let task = job.task;
    let model = (&manifest.source.hash, &manifest.program.hash, &manifest.task);
    let settings = (crate::segment::PART_FORMAT, job.decoder, task.threshold_of_use(), task.sampling);
    let mut all = vec![serde_json::json!([source.stamp(), model, settings, plan])];
    // Answers that may be others than the model's own are of another kind, wherever a frame of them was worked.
    all.extend(job.inference.tolerance().map(|tolerance| serde_json::json!({ "tolerance": tolerance })));
    let text: String = all.iter().map(serde_json::Value::to_string).collect();
    blake3::hash(text.as_bytes()).to_hex()[..32].to_owned()
}
