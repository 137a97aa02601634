//! What is looked up before a video's frames are listed: the model, the video, and the name that all this has together.

use std::sync::Arc;

use engine::Result;
use pipeline::{Detector, detect};
use store::Manifest;

use super::Job;
use super::listing::Sure;
use crate::segment::Segment;
use crate::source::Source;

/// A job with everything looked up.
pub(super) struct Setup {
    pub(super) source: Source,
    pub(super) manifest: Arc<Manifest>,
    pub(super) detector: Detector,
    /// What the detections depend on, but for the video's own frames.
    settings: String,
}

impl Setup {
    pub(super) fn new(job: &Job<'_>) -> Result<Self> {
        // The model first: it is the cheaper question.
        let manifest = job.inference.model(&job.task.model)?;
        let detector = detect::for_model(&manifest)?;
        let source = job.source.clone();
        let settings = settings(job, &source, &manifest);
        Ok(Self { source, manifest, detector, settings })
    }

    /// A name for everything that decides on the detections in `segment` of a video of which `sure` is known: parts that
    /// carry it are this job's, whoever wrote them. What is known only of later segments is not in it.
    pub(super) fn hash(&self, sure: &Sure, segment: &Segment) -> String {
        let of_video = serde_json::json!([sure.probe.essence(sure.is_timed), sure.is_timed, sure.plan.whole, segment]);
        blake3::hash(format!("{}{of_video}", self.settings).as_bytes()).to_hex()[..32].to_owned()
    }
}

/// Whatever is missing here would let a part of other settings pass for one of these.
fn settings(job: &Job<'_>, source: &Source, manifest: &Manifest) -> String {
    let task = job.task;
    let model = (&manifest.source.hash, &manifest.program.hash, &manifest.task);
    let settings = (crate::segment::PART_FORMAT, job.decoder, task.threshold_of_use(), task.sampling);
    let mut all = vec![serde_json::json!([source.stamp(), model, settings])];
    // Answers that may be others than the model's own are of another kind, wherever a frame of them was worked.
    all.extend(job.inference.tolerance().map(|tolerance| serde_json::json!({ "tolerance": tolerance })));
    all.iter().map(serde_json::Value::to_string).collect()
}
