//! What working a video takes, measured: never part of what it comes to.

use std::ops::AddAssign;
use std::time::Duration;

use engine::{Error, Result};
use serde::{Deserialize, Serialize};

/// CPU time and waits of some work, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// CPU: decoding and scaling in the child process, and reading its pipe.
    pub decode_s: f64,
    /// CPU: from pixels to input tensors.
    pub prepare_s: f64,
    /// CPU: the model's runs.
    pub infer_s: f64,
    /// CPU: from output tensors to detections.
    pub post_s: f64,
    /// What the decoders' readers waited for pixels.
    pub wait_decoder_s: f64,
    /// What they waited for room in front of the model.
    pub wait_model_s: f64,
}

impl Spent {
    /// CPU time of all phases.
    pub fn cpu_s(&self) -> f64 {
        self.decode_s + self.prepare_s + self.infer_s + self.post_s
    }
}

impl AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        self.decode_s += other.decode_s;
        self.prepare_s += other.prepare_s;
        self.infer_s += other.infer_s;
        self.post_s += other.post_s;
        self.wait_decoder_s += other.wait_decoder_s;
        self.wait_model_s += other.wait_model_s;
    }
}

/// What `cost.json` says: figures of this run on this machine, which the results do not depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Frames looked at per second of wall time, of those that this attempt looked at itself.
    pub fps: f64,
    /// From the probe to the durable results, of the attempt that finished.
    pub wall_s: f64,
    /// Frames that were taken over from earlier attempts.
    pub frames_resumed: u64,
    /// CPU-seconds per frame.
    pub cpu_s_per_frame: CpuSplit,
    /// All attempts together, as far as they left word.
    pub spent: Spent,
}

/// CPU-seconds per frame, by phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuSplit {
    /// Decoding and scaling in the child process, and reading its pipe.
    pub decode: f64,
    /// From pixels to input tensors.
    pub prepare: f64,
    /// The model's run.
    pub infer: f64,
    /// From output tensors to detections.
    pub post: f64,
    /// The sum.
    pub total: f64,
}

impl Cost {
    /// What `spent` comes to for `frames` frames, of which `frames_resumed` were there before.
    pub fn new(spent: Spent, frames: u64, frames_resumed: u64, wall: Duration) -> Self {
        let per_frame = |seconds: f64| seconds / frames.max(1) as f64;
        let cpu_s_per_frame = CpuSplit {
            decode: per_frame(spent.decode_s),
            prepare: per_frame(spent.prepare_s),
            infer: per_frame(spent.infer_s),
            post: per_frame(spent.post_s),
            total: per_frame(spent.cpu_s()),
        };
        let wall_s = wall.as_secs_f64();
        let fps = frames.saturating_sub(frames_resumed) as f64 / wall_s.max(1e-9);
        Self { fps, wall_s, frames_resumed, cpu_s_per_frame, spent }
    }

    /// The cost in `bytes`.
    ///
    /// # Errors
    /// [`Corrupt`](engine::ErrorKind::Corrupt) when they are none.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|error| Error::corrupt(format!("not a cost: {error}")))
    }

    /// The bytes of `cost.json`, for people to read as well.
    ///
    /// # Errors
    /// [`Internal`](engine::ErrorKind::Internal) when it cannot be said in JSON.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::internal(format!("a cost cannot be written as JSON: {error}")))?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}
