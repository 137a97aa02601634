//! The manifest: everything about one version of one model but its numbers, written last.
//!
//! Format 3 may hold several forms of one model, one a CPU target. Format 2 held one; both are small whatever the model:
//! where each weight lies is in a table of its own, which is read when the model is made ready. Format 1 held that table
//! itself. All of them are read, the last alone is written.

mod v1;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use engine::{DataType, Error, Result, Signature, TensorSpec};
use serde::{Deserialize, Serialize};

use crate::atomic::io_error;
use crate::content::Content;
use crate::padding::Padding;
use crate::precision::Precision;
use crate::table::WeightRef;
use crate::task::Task;

/// The manifest format this build writes, and the newest it reads.
pub const FORMAT: u32 = 3;

/// The target of a form that every CPU computes.
pub const PORTABLE: &str = "portable";

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
    /// Which graph computes it, and how. Of several forms the first; see [`on`](Self::on).
    pub program: ProgramRef,
    /// What clients give, in graph order.
    pub inputs: Vec<Io>,
    /// What clients get, in graph order.
    pub outputs: Vec<Io>,
    /// The most items that requests are put together to, the first dimension of every tensor being the batch; 0 when
    /// the model was not seen to treat the items of a batch apart from each other.
    #[serde(default)]
    pub max_batch_size: u64,
    /// How items of different lengths are put together, when that was seen to change no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub padding: Option<Padding>,
    /// What the tensors mean, when the packer was told or could tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// Class id to name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<u32, String>,
    /// Files that come with the model, a tokenizer for one: name to BLAKE3 of the bytes in `files/`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// The program's weight inputs; empty for a program that holds its weights.
    #[serde(default, skip_serializing_if = "Weights::is_empty")]
    pub weights: Weights,
    /// Other forms of the same model, each for another CPU target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Form>,
    /// What its weights are kept as; with eight bits, how near the answers are is in the file [`crate::accuracy::FILE`].
    #[serde(default, skip_serializing_if = "Precision::is_float")]
    pub precision: Precision,
    /// Whether the graph holds what CPUs want laid out each in its own way, so that a form for one target may be quicker
    /// there than the portable one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub per_cpu: bool,
}

/// One form of a model: a graph for one CPU target, or for all of them, and the weights as that graph takes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Form {
    /// As [`Manifest::program`].
    pub program: ProgramRef,
    /// As [`Manifest::weights`].
    #[serde(default, skip_serializing_if = "Weights::is_empty")]
    pub weights: Weights,
}

/// The weights of one version of one model: how many, and which files hold them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// BLAKE3 of the table in `weights/` that says where each of them lies.
    pub table: String,
    /// How many weight inputs the program has.
    pub count: usize,
    /// The bytes of all of them, equal ones counted each time.
    pub bytes: u64,
    /// The files they lie in.
    pub segments: Vec<SegmentRef>,
    /// The table itself, where the manifest is of format 1.
    #[serde(skip)]
    pub(crate) inline: Option<Vec<WeightRef>>,
}

/// A file that holds weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentRef {
    /// The segment's name in the store; for a file outside it, BLAKE3 of its bytes.
    pub hash: String,
    /// The file's size; 0 when the manifest is of format 1, which does not say.
    pub bytes: u64,
    /// What of it are weights of this model, equal ones counted once.
    pub used_bytes: u64,
    /// Set when the file is not the store's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<External>,
}

/// A file outside the store that is mapped where it lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct External {
    /// Absolute.
    pub path: PathBuf,
    /// When it was last written, in nanoseconds since 1970.
    pub modified_ns: u64,
    /// When anything about it was last changed, likewise; 0 where a build wrote the manifest that did not look.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub changed_ns: u64,
    /// Its number in its file system; 0 likewise.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub inode: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Where a pack came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// `onnx`, `hugging-face` for such a folder, `saved-model` or `torch-script`
    pub format: String,
    /// BLAKE3 of the source's bytes, with any external data.
    pub hash: String,
    /// The source's size.
    pub bytes: u64,
}

/// The graph a model runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// What a program is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProgramKind {
    /// The graph takes its weights as inputs; many models share it.
    #[default]
    Lifted,
    /// The graph holds its weights; one model owns it.
    Whole,
    /// A TensorFlow SavedModel: which of its signatures is served, and which files it is made of.
    SavedModel,
    /// A TorchScript module: what its forward takes and gives, and which file it is.
    TorchScript,
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

impl Weights {
    /// How many weight inputs the program has.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether the program takes no weights.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
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

    pub(crate) fn to_spec(&self) -> Result<TensorSpec> {
        let dtype = datatype(&self.datatype)?;
        Ok(TensorSpec { name: self.name.clone(), dtype, shape: self.shape.clone(), any_rank: self.any_rank })
    }
}

impl Manifest {
    /// The manifest in the file at `path`, which must be of `version` of `model`.
    pub(crate) fn read(path: &Path, model: &str, version: u64) -> Result<Self> {
        let text = std::fs::read(path).map_err(|source| io_error(path, "cannot be read", &source))?;
        let manifest = Self::parse(&text).map_err(|error| error.context(path.display()))?;
        if manifest.name != model || manifest.version != version {
            let (name, version) = (&manifest.name, manifest.version);
            return Err(Error::corrupt(format!(
                "{}: it describes '{name}' version {version}; remove it ('packhorse remove') and pack the model again",
                path.display()
            )));
        }
        Ok(manifest)
    }

    /// The manifest in `text`.
    ///
    /// # Errors
    /// [`Corrupt`](engine::ErrorKind::Corrupt) when it is none, [`Unsupported`](engine::ErrorKind::Unsupported) when a
    /// newer build wrote it.
    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct FormatOnly {
            format: u32,
        }
        let corrupt = |error: serde_json::Error| {
            Error::corrupt(format!("{error}; remove it ('packhorse remove') and pack the model again"))
        };
        match serde_json::from_slice::<FormatOnly>(text).map_err(corrupt)?.format {
            1 => serde_json::from_slice::<v1::Manifest>(text).map_err(corrupt)?.into_current(),
            // What format 3 added is absent in one of format 2.
            2 | FORMAT => serde_json::from_slice(text).map_err(corrupt),
            newer => Err(Error::unsupported(format!(
                "manifest format {newer} is not known to this build, which reads up to {FORMAT}"
            ))),
        }
    }

    /// Every file of the store that the model is made of, relative to the store's root.
    ///
    /// # Errors
    /// [`Corrupt`](engine::ErrorKind::Corrupt) when a name is no content hash: it becomes part of a path.
    pub(crate) fn content(&self) -> Result<Vec<PathBuf>> {
        let of = |error: Error| error.context(format!("model '{}' version {}", self.name, self.version));
        self.named().collect::<Result<_>>().map_err(of)
    }

    /// The same, one by one.
    pub(crate) fn named(&self) -> impl Iterator<Item = Result<PathBuf>> {
        let of_form = |(program, weights): (&ProgramRef, &Weights)| {
            let inside = weights.segments.iter().filter(|segment| segment.external.is_none());
            let table = Some(&weights.table).filter(|table| !table.is_empty());
            let segments = inside.map(|segment| Content::Segment.path(&segment.hash));
            let all: Vec<_> = std::iter::once(Content::Program.path(&program.hash))
                .chain(segments)
                .chain(table.map(|table| Content::Table.path(table)))
                .collect();
            all
        };
        self.forms().flat_map(of_form).chain(self.files.values().map(|hash| Content::File.path(hash)))
    }

    /// The same model, of this build's format, with what `each` makes of the weights of every form.
    ///
    /// # Errors
    /// Those of `each`.
    pub(crate) fn with_weights(&self, mut each: impl FnMut(&Weights) -> Result<Weights>) -> Result<Self> {
        let weights = each(&self.weights)?;
        let other = |form: &Form| Ok(Form { program: form.program.clone(), weights: each(&form.weights)? });
        let others = self.others.iter().map(other).collect::<Result<_>>()?;
        Ok(Self { format: FORMAT, weights, others, ..self.clone() })
    }

    /// Every form of the model: its program and weights.
    pub fn forms(&self) -> impl Iterator<Item = (&ProgramRef, &Weights)> {
        let others = self.others.iter().map(|form| (&form.program, &form.weights));
        std::iter::once((&self.program, &self.weights)).chain(others)
    }

    /// The same model with the form first that a node of `target` runs: its own or, when it has none, the portable one.
    ///
    /// # Errors
    /// [`Unsupported`](engine::ErrorKind::Unsupported) when it has neither: a program laid out for another CPU computes
    /// nonsense.
    pub fn on(mut self, target: &str) -> Result<Self> {
        let find = |wanted: &str| self.forms().position(|(program, _)| program.target == wanted);
        let found = find(target).or_else(|| find(PORTABLE)).ok_or_else(|| {
            let there: Vec<_> = self.forms().map(|(program, _)| &program.target[..]).collect();
            Error::unsupported(format!(
                "it was packed for {}, and this node is {target}; pack the same file again here or with --target portable, \
                 which adds that form",
                there.join(" and ")
            ))
        })?;
        if let Some(form) = found.checked_sub(1).and_then(|at| self.others.get_mut(at)) {
            std::mem::swap(&mut self.program, &mut form.program);
            std::mem::swap(&mut self.weights, &mut form.weights);
        }
        Ok(self)
    }

    /// Whether the first form is the portable one though others have a form of their own: a node that is given this
    /// by [`on`](Self::on) computes the same as they, and takes longer.
    pub fn falls_back(&self) -> bool {
        self.program.target == PORTABLE && !self.others.is_empty()
    }

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
