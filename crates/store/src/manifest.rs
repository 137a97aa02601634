//! The manifest: everything about one version of one model but its numbers, written last.

use std::collections::BTreeMap;

use engine::{DataType, Error, Result, Signature, TensorSpec};
use serde::{Deserialize, Serialize};

use crate::task::Task;
use crate::variant::Variant;

/// The manifest format this build writes, and the newest it reads.
pub const FORMAT: u32 = 1;

/// One version of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`] at the time of writing.
    pub format: u32,
    /// One path segment; see [`crate::name::check`].
    pub name: String,
    /// Starts at 1.
    pub version: u64,
    /// The file it was packed from, so that packing it again changes nothing.
    pub source: Source,
    /// Which graph computes it, and how.
    pub program: ProgramRef,
    /// What clients give, in graph order.
    pub inputs: Vec<Io>,
    /// What clients get, in graph order.
    pub outputs: Vec<Io>,
    /// The most items that requests are put together to, the first dimension of every tensor being the batch; 0 when
    /// the model was not seen to treat the items of a batch apart from each other.
    #[serde(default)]
    pub max_batch_size: u64,
    /// What the tensors mean, when the packer was told or could tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// Class id to name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<u32, String>,
    /// The segments that `weights` point into, by content hash.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub segments: Vec<String>,
    /// One entry for each weight input of the program, in its order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<WeightRef>,
    /// The same model for other kinds of CPU; see [`Manifest::on`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Variant>,
}

/// Where a pack came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// `onnx`
    pub format: String,
    /// BLAKE3 of the source's bytes, with any external data.
    pub hash: String,
    /// The source's size.
    pub bytes: u64,
}

/// The graph a model runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramRef {
    /// BLAKE3 of the program's bytes and its CPU target.
    pub hash: String,
    /// Whether the weights were lifted out or are still inside.
    pub kind: ProgramKind,
    /// `portable`, or the CPU the graph was laid out for; see [`engine::cpu::target`].
    pub target: String,
    /// Why the graph was kept whole, when it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_whole: Option<String>,
}

/// The two forms of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProgramKind {
    /// The graph takes its weights as inputs; many models share it.
    Lifted,
    /// The graph holds its weights; one model owns it.
    Whole,
}

/// A named tensor of the signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Io {
    /// The name that clients use.
    pub name: String,
    /// The Open Inference Protocol's name of the datatype.
    pub datatype: String,
    /// Dimensions; `-1` varies.
    pub shape: Vec<i64>,
    /// The number of dimensions varies as well; `shape` is then `[-1]`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub any_rank: bool,
}

/// One weight: where its bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightRef {
    /// Index into [`Manifest::segments`].
    pub segment: u32,
    /// From the start of the segment.
    pub offset_bytes: u64,
    /// The Open Inference Protocol's name of the datatype.
    pub datatype: String,
    /// Dimensions, all known.
    pub shape: Vec<usize>,
    /// BLAKE3 of the tensor's bytes.
    pub hash: String,
}

impl Io {
    /// The file's form of `spec`.
    pub fn from_spec(spec: &TensorSpec) -> Self {
        Self {
            name: spec.name.clone(),
            datatype: spec.dtype.name().to_owned(),
            shape: spec.shape.clone(),
            any_rank: spec.any_rank,
        }
    }

    fn to_spec(&self) -> Result<TensorSpec> {
        let dtype = datatype(&self.datatype)?;
        Ok(TensorSpec { name: self.name.clone(), dtype, shape: self.shape.clone(), any_rank: self.any_rank })
    }
}

impl Manifest {
    /// The model's inputs and outputs.
    ///
    /// # Errors
    /// [`Corrupt`](engine::ErrorKind::Corrupt) when a datatype is none that this build knows.
    pub fn signature(&self) -> Result<Signature> {
        Ok(Signature {
            inputs: self.inputs.iter().map(Io::to_spec).collect::<Result<_>>()?,
            outputs: self.outputs.iter().map(Io::to_spec).collect::<Result<_>>()?,
        })
    }
}

pub(crate) fn datatype(name: &str) -> Result<DataType> {
    DataType::from_name(name).ok_or_else(|| Error::corrupt(format!("the manifest names an unknown datatype '{name}'")))
}
