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
    /// CPU: finding out whether anything moved, where only that is looked at.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gate_s: f64,
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
    /// What was asked of other machines, where there are any to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<Remote>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_zero(seconds: &f64) -> bool {
    *seconds == 0.0
}

/// What asking other machines took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Remote {
    /// Frames that they answered.
    pub frames_remote: u64,
    /// Frames that were worked here since nobody answered.
    pub frames_local: u64,
    /// Calls, all of them.
    pub calls: u64,
    /// Those that were sent again because one before had failed.
    pub retries: u64,
    /// Those that were sent to a second machine because the first took long.
    pub hedges: u64,
    /// Bytes of the questions that were answered, as they were sent.
    pub sent_bytes: u64,
    /// Bytes of the answers.
    pub received_bytes: u64,
    /// From question to answer, or until it was given up; of all questions, many of which were under way at a time.
    pub wait_s: f64,
}

impl AddAssign for Remote {
    fn add_assign(&mut self, other: Self) {
        self.frames_remote += other.frames_remote;
        self.frames_local += other.frames_local;
        self.calls += other.calls;
        self.retries += other.retries;
        self.hedges += other.hedges;
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
        self.wait_s += other.wait_s;
    }
}

impl Spent {
    /// CPU time of all phases.
    pub fn cpu_s(&self) -> f64 {
        self.decode_s + self.gate_s + self.prepare_s + self.infer_s + self.post_s
    }
}

impl AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        self.decode_s += other.decode_s;
        self.gate_s += other.gate_s;
        self.prepare_s += other.prepare_s;
        self.infer_s += other.infer_s;
        self.post_s += other.post_s;
        self.wait_decoder_s += other.wait_decoder_s;
        self.wait_model_s += other.wait_model_s;
        if let Some(other) = other.remote {
            *self.remote.get_or_insert_default() += other;
        }
    }
}

/// What `cost.json` says: figures of this run on this machine, which the results do not depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Frames of the video per second of wall time, of those that this attempt went through itself.
    pub fps: f64,
    /// From the probe to the durable results, of the attempt that finished.
    pub wall_s: f64,
    /// Frames that earlier attempts had decoded and that were taken over, or this one, before it began the video again; where
    /// not all are decoded, of those alone.
    pub frames_resumed: u64,
    /// Frames that were looked at, of all attempts.
    pub frames_looked: u64,
    /// What this video's speed hung on.
    pub bottleneck: Bottleneck,
    /// CPU-seconds per frame of the video.
    pub cpu_s_per_frame: CpuSplit,
    /// All attempts together, as far as they left word.
    pub spent: Spent,
}

/// What a video's speed hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bottleneck {
    /// Readers waited for pixels: more cores, or fewer frames to decode, make it faster.
    Decoder,
    /// Readers waited for room in front of the model: a faster model, more cores, or fewer frames to look at do.
    Model,
    /// They waited for one as much as for the other, or for neither.
    Both,
}

impl Bottleneck {
    /// That of readers who waited so long for their decoders, and so long for the model.
    pub fn of(wait_decoder_s: f64, wait_model_s: f64) -> Self {
        let share = wait_model_s / (wait_decoder_s + wait_model_s);
        match share {
            0.6.. => Self::Model,
            ..0.2 => Self::Decoder,
            _ => Self::Both,
        }
    }

    /// As people say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Decoder => "decoder",
            Self::Model => "model",
            Self::Both => "both",
        }
    }
}

/// CPU-seconds per frame, by phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuSplit {
    /// Decoding and scaling in the child process, and reading its pipe.
    pub decode: f64,
    /// Finding out whether anything moved, where only that is looked at.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gate: f64,
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
    /// What `spent` comes to for so many frames of the video and so many that were looked at. Of the former,
    /// `frames_resumed` were there before.
    pub fn new(spent: Spent, (frames, frames_looked): (u64, u64), frames_resumed: u64, wall: Duration) -> Self {
        let per_frame = |seconds: f64| seconds / frames.max(1) as f64;
        let cpu_s_per_frame = CpuSplit {
            decode: per_frame(spent.decode_s),
            gate: per_frame(spent.gate_s),
            prepare: per_frame(spent.prepare_s),
            infer: per_frame(spent.infer_s),
            post: per_frame(spent.post_s),
            total: per_frame(spent.cpu_s()),
        };
        let wall_s = wall.as_secs_f64();
        let fps = frames.saturating_sub(frames_resumed) as f64 / wall_s.max(1e-9);
        let bottleneck = Bottleneck::of(spent.wait_decoder_s, spent.wait_model_s);
        Self { fps, wall_s, frames_resumed, frames_looked, bottleneck, cpu_s_per_frame, spent }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_the_bottleneck() {
        for (decoder, model, want) in [
            (1.0, 0.0, Bottleneck::Decoder),
            (0.0, 1.0, Bottleneck::Model),
            (1.0, 1.0, Bottleneck::Both),
            (0.9, 0.1, Bottleneck::Decoder),
            (0.4, 0.6, Bottleneck::Model),
            (0.0, 0.0, Bottleneck::Both),
        ] {
            assert_eq!(Bottleneck::of(decoder, model), want, "{decoder} {model}");
        }
    }
}
