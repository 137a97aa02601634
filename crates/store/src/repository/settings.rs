//! [`Settings`]: what a repository says about one model, and how that is held against the file.

use std::collections::BTreeMap;

use engine::{Error, Result};

use super::listing::VersionPolicy;
use crate::manifest::Io;
use crate::torch_script::Declared as Signature;
use crate::{Manifest, Serving};

/// What a repository says about one model. A plain store of packs says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// How its requests are queued and put together.
    pub serving: Serving,
    /// Its configuration, where it has one.
    pub declared: Option<Declared>,
    /// Class id to name.
    pub class_names: BTreeMap<u32, String>,
    /// Parts of the configuration that change nothing here, by name.
    pub ignored: Vec<String>,
}

/// A model's own configuration, in Triton's terms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Declared {
    /// 0 when the first dimension is no batch; `None` when that is left to the server.
    pub max_batch_size: Option<u64>,
    /// Inputs, with the dimension of the batch where there is one; an empty datatype or shape is left to the file.
    pub inputs: Vec<Io>,
    /// Outputs, likewise.
    pub outputs: Vec<Io>,
    /// The shapes that the model itself has of inputs that come in another shape, by name, with the dimension of the batch
    /// where there is one.
    pub input_reshapes: BTreeMap<String, Vec<i64>>,
    /// The same of outputs that go out in another shape.
    pub output_reshapes: BTreeMap<String, Vec<i64>>,
    /// Which versions are served, when it says so.
    pub policy: Option<VersionPolicy>,
    /// Files of class names, by output.
    pub label_files: BTreeMap<String, String>,
    /// Its parameters; of these only `pin` means anything here.
    pub parameters: BTreeMap<String, String>,
    /// The name of the file in a version's folder; empty for the usual.
    pub model_file: String,
    /// Whether it names libtorch as what runs the model.
    pub is_torch_script: bool,
}

impl Declared {
    /// Inputs and outputs as the model itself has them.
    pub(super) fn signature(&self) -> Signature {
        let own = |tensors: &[Io], reshapes: &BTreeMap<String, Vec<i64>>| {
            tensors.iter().map(|io| of_the_model(io, reshapes.get(&io.name))).collect()
        };
        Signature {
            inputs: own(&self.inputs, &self.input_reshapes),
            outputs: own(&self.outputs, &self.output_reshapes),
        }
    }
}

impl Settings {
    /// Makes `manifest` what the settings say it is: names of classes, and dimensions where the file leaves them open.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when the file is not what the configuration says, naming the
    /// tensor and both sides.
    pub fn apply(&self, manifest: &mut Manifest) -> Result<()> {
        if !self.class_names.is_empty() {
            manifest.labels.clone_from(&self.class_names);
        }
        let Some(declared) = &self.declared else { return Ok(()) };
        let batched = declared.max_batch_size.is_some_and(|size| size > 0);
        if batched {
            let all =
                manifest.inputs.iter().map(|io| ("input", io)).chain(manifest.outputs.iter().map(|io| ("output", io)));
            for (side, io) in all {
                check_batch(side, io)?;
            }
        }
        if !declared.inputs.is_empty() && declared.inputs.len() != manifest.inputs.len() {
            return Err(Error::invalid(format!(
                "the configuration has {} inputs and the file {} ({})",
                declared.inputs.len(),
                manifest.inputs.len(),
                names(&manifest.inputs)
            )));
        }
        for want in &declared.inputs {
            let io = find("input", &mut manifest.inputs, want)?;
            let reshape = declared.input_reshapes.get(&want.name);
            let shape = checked("input", io, &of_the_model(want, reshape), Compare::WhereKnown)?;
            io.shape = reshape.map_or(shape, |_| want.shape.clone());
            io.any_rank &= want.shape.is_empty();
        }
        for want in &declared.outputs {
            let io = find("output", &mut manifest.outputs, want)?;
            let reshape = declared.output_reshapes.get(&want.name);
            checked("output", io, &of_the_model(want, reshape), Compare::Exactly)?;
            if reshape.is_some() {
                (io.shape, io.any_rank) = (want.shape.clone(), false);
            }
        }
        Ok(())
    }
}

/// The tensor `want` as the model itself has it.
fn of_the_model(want: &Io, reshape: Option<&Vec<i64>>) -> Io {
    Io { shape: reshape.unwrap_or(&want.shape).clone(), ..want.clone() }
}

/// How dimensions are held against each other: Triton's runtime for ONNX lets the configuration say more of an input than
/// the file does, and nothing else of an output.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compare {
    WhereKnown,
    Exactly,
}

/// The dimensions that hold.
fn checked(side: &str, io: &Io, want: &Io, compare: Compare) -> Result<Vec<i64>> {
    let name = &io.name;
    if !want.datatype.is_empty() && want.datatype != io.datatype {
        let (file, config) = (&io.datatype, &want.datatype);
        return Err(Error::invalid(format!("{side} '{name}' is {file} in the file and {config} in the configuration")));
    }
    if want.shape.is_empty() {
        return Ok(io.shape.clone());
    }
    let dimension = |(&file, &config): (&i64, &i64)| file == config || (file < 0 && compare == Compare::WhereKnown);
    let fits = io.shape.len() == want.shape.len() && io.shape.iter().zip(&want.shape).all(dimension);
    if fits || io.any_rank {
        return Ok(want.shape.clone());
    }
    let (file, config) = (&io.shape, &want.shape);
    Err(Error::invalid(format!(
        "{side} '{name}' has the shape {file:?} in the file and {config:?} in the configuration, the batch included \
         where there is one"
    )))
}

fn check_batch(side: &str, io: &Io) -> Result<()> {
    if io.any_rank || io.shape.first() == Some(&-1) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the configuration has a max_batch_size, so the first dimension of every tensor must vary, but {side} '{}' has \
         the shape {:?} in the file; set max_batch_size to 0, or export the model with a batch that varies",
        io.name, io.shape
    )))
}

fn find<'a>(side: &str, tensors: &'a mut [Io], want: &Io) -> Result<&'a mut Io> {
    let known = names(tensors);
    tensors.iter_mut().find(|io| io.name == want.name).ok_or_else(|| {
        Error::invalid(format!("the configuration has an {side} '{}', and the file has {known}", want.name))
    })
}

fn names(tensors: &[Io]) -> String {
    let names: Vec<_> = tensors.iter().map(|io| format!("'{}'", io.name)).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io(name: &str, datatype: &str, shape: &[i64]) -> Io {
        Io { name: name.to_owned(), datatype: datatype.to_owned(), shape: shape.to_vec(), any_rank: false }
    }

    #[test]
    fn a_configuration_is_held_against_the_file() {
        let file = |shape: &[i64]| {
            serde_json::from_value::<Manifest>(serde_json::json!({
                "format": 1, "name": "m", "version": 1, "source": {"format": "onnx", "hash": "", "bytes": 0},
                "program": {"hash": "", "kind": "whole", "target": "portable"},
                "inputs": [{"name": "x", "datatype": "FP32", "shape": shape}],
                "outputs": [{"name": "y", "datatype": "INT64", "shape": [-1, 3]}],
            }))
            .unwrap()
        };
        for (what, shape, batch, input, output, want) in [
            ("nothing is said", &[-1, 4][..], None, None, None, Ok(&[-1, 4][..])),
            ("the very same", &[-1, 4], Some(0), Some(io("x", "FP32", &[-1, 4])), None, Ok(&[-1, 4])),
            ("more than the file says", &[-1, -1], Some(8), Some(io("x", "FP32", &[-1, 4])), None, Ok(&[-1, 4])),
            ("less than the file says", &[-1, 4], Some(8), Some(io("x", "FP32", &[-1, -1])), None, Err("[-1, 4]")),
            ("the batch is left out", &[-1, 4], Some(0), Some(io("x", "FP32", &[4])), None, Err("[4]")),
            ("another type", &[-1, 4], Some(0), Some(io("x", "FP16", &[-1, 4])), None, Err("FP16")),
            ("only a name", &[-1, 4], Some(0), Some(io("x", "", &[])), None, Ok(&[-1, 4])),
            ("another name", &[-1, 4], Some(0), Some(io("z", "", &[])), None, Err("'z'")),
            ("no batch in the file", &[1, 4], Some(8), None, None, Err("max_batch_size")),
            ("an output", &[-1, 4], Some(8), None, Some(io("y", "INT64", &[-1, 3])), Ok(&[-1, 4])),
            ("an output that says more", &[-1, 4], Some(8), None, Some(io("y", "INT64", &[2, 3])), Err("output 'y'")),
            ("an input in another shape", &[-1, 4], Some(8), Some(io("x", "FP32", &[-1, 1, 4])), None, Ok(&[-1, 1, 4])),
            ("another than the file's", &[-1, 5], Some(8), Some(io("x", "FP32", &[-1, 1, 4])), None, Err("[-1, 4]")),
            ("an output in another shape", &[-1, 4], Some(8), None, Some(io("y", "INT64", &[-1, 3, 1])), Ok(&[-1, 4])),
            ("an output that is none", &[-1, 4], Some(8), None, Some(io("w", "INT64", &[-1, 3])), Err("'w'")),
        ] {
            // A dimension of 1 is one that the model itself does not have.
            let reshapes = |io: &Option<Io>| {
                let reshaped = io.iter().filter(|io| io.shape == [-1, 1, 4] || io.shape == [-1, 3, 1]);
                reshaped
                    .map(|io| (io.name.clone(), io.shape.iter().copied().filter(|&dim| dim != 1).collect()))
                    .collect()
            };
            let declared = Declared {
                max_batch_size: batch,
                input_reshapes: reshapes(&input),
                output_reshapes: reshapes(&output),
                inputs: input.into_iter().collect(),
                outputs: output.into_iter().collect(),
                ..Declared::default()
            };
            let settings = Settings { declared: Some(declared), ..Settings::default() };
            let mut manifest = file(shape);
            match (settings.apply(&mut manifest), want) {
                (Ok(()), Ok(want)) => assert_eq!(manifest.inputs[0].shape, want, "{what}"),
                (Err(error), Err(says)) => assert!(error.message.contains(says), "{what}: {error}"),
                (got, _) => panic!("{what}: {got:?}"),
            }
        }
    }
}
