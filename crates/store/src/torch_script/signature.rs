//! What a module's `forward` takes and gives. The archive has the names of arguments; datatypes and shapes are said by
//! whoever packs it, in a TOML file or a Triton configuration, and what is returned is seen when the module is run.

use std::path::Path;

use engine::torch::{Argument, Module};
use engine::{DataType, Error, Outlet, Result, Tensor, TensorSpec};
use serde::{Deserialize, Serialize};

use crate::atomic;
use crate::manifest::Io;
use crate::onnx::probe;
use crate::repository::config;

/// Inputs and outputs as somebody said them. An output's datatype and shape may be left out, and outputs altogether.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declared {
    /// Named as forward's arguments, or `ANYTHING__N` for the one at place N.
    #[serde(default)]
    pub inputs: Vec<Io>,
    /// Named as the keys of what forward returns, or `ANYTHING__N`.
    #[serde(default)]
    pub outputs: Vec<Io>,
}

/// A way to say it, for messages.
const EXAMPLE: &str = "say it in a file and give that as --signature; a line for each: inputs = [{ name = \"NAME\", datatype = \
                       \"FP32\", shape = [-1, 4] }]";

impl Declared {
    /// What the file at `path` says: a Triton `config.pbtxt`, or TOML.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| atomic::io_error(path, "cannot be read", &source))?;
        let declared = if path.extension().is_some_and(|ending| ending == "pbtxt") {
            config::signature(&text)
        } else {
            toml::from_str(&text).map_err(|error| Error::invalid(error.to_string()))
        };
        declared.map_err(|error| error.context(path.display()))
    }
}

/// The inputs of `module` as `declared` says them, with the argument that each is.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) for what is not said or not there,
/// [`Unsupported`](engine::ErrorKind::Unsupported) for an argument that cannot be given.
pub(super) fn inputs(module: &Module, declared: &Declared) -> Result<Vec<Outlet>> {
    let arguments = module.arguments();
    if let Some(argument) = arguments.iter().find(|argument| !argument.is_tensor && !argument.is_optional) {
        return Err(Error::unsupported(format!(
            "its forward takes '{}', which is of the type {} and has no default, and only tensors can be given; wrap the \
             module in one that takes tensors alone",
            argument.name, argument.kind
        )));
    }
    let mut inputs: Vec<Outlet> = Vec::new();
    for io in &declared.inputs {
        let argument = argument(arguments, io)?;
        if inputs.iter().any(|known| known.tensor == argument.name || known.spec.name == io.name) {
            return Err(Error::invalid(format!("the argument '{}' is given twice", argument.name)));
        }
        inputs.push(Outlet { spec: spec(io)?, tensor: argument.name.clone() });
    }
    let said = |argument: &Argument| inputs.iter().any(|input| input.tensor == argument.name);
    let unsaid: Vec<_> = arguments.iter().filter(|argument| !argument.is_optional && !said(argument)).collect();
    if unsaid.is_empty() && !inputs.is_empty() {
        return Ok(inputs);
    }
    let all = if unsaid.is_empty() { arguments.iter().collect() } else { unsaid };
    Err(Error::invalid(format!(
        "a TorchScript file does not say datatype and shape of what its forward takes, here of {}; {EXAMPLE}",
        names(&all)
    )))
}

/// The argument that `io` stands for.
fn argument<'a>(arguments: &'a [Argument], io: &Io) -> Result<&'a Argument> {
    let by_name = arguments.iter().find(|argument| argument.name == io.name);
    let by_place = || arguments.get(place(&io.name)?);
    let found = by_name.or_else(by_place).ok_or_else(|| {
        let all: Vec<_> = arguments.iter().collect();
        let known = names(&all);
        Error::invalid(format!(
            "the signature has an input '{}', and forward takes {known}; name inputs so, or NAME__0, NAME__1 and on by place",
            io.name
        ))
    })?;
    if found.is_tensor {
        return Ok(found);
    }
    Err(Error::unsupported(format!(
        "forward's argument '{}' is of the type {}, and only tensors can be given; leave it out of the signature",
        found.name, found.kind
    )))
}

fn names(arguments: &[&Argument]) -> String {
    let names: Vec<_> = arguments.iter().map(|argument| format!("'{}'", argument.name)).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// The place in a name of the form `ANYTHING__N`.
fn place(name: &str) -> Option<usize> {
    let (_, place) = name.rsplit_once("__")?;
    place.bytes().all(|byte| byte.is_ascii_digit()).then(|| place.parse().ok())?
}

fn spec(io: &Io) -> Result<TensorSpec> {
    let incomplete = |what: &str| Error::invalid(format!("the signature does not say the {what} of '{}'", io.name));
    if io.datatype.is_empty() {
        return Err(incomplete("datatype"));
    }
    let dtype = DataType::from_name(&io.datatype).ok_or_else(|| {
        let all = DataType::ALL.map(DataType::name).join(", ");
        Error::invalid(format!("'{}' has the datatype '{}', which is none of {all}", io.name, io.datatype))
    })?;
    if io.shape.iter().any(|&dim| dim < -1 || dim == 0) {
        return Err(Error::invalid(format!(
            "'{}' has the shape {:?}; dimensions are 1 or more, or -1",
            io.name, io.shape
        )));
    }
    Ok(TensorSpec { name: io.name.clone(), dtype, shape: io.shape.clone(), any_rank: io.any_rank })
}

/// What forward returned once: a name, where it has one there, and a tensor, for each.
type Answer = Vec<(Option<String>, Tensor)>;

/// The outputs of `module` for `inputs`: as many as forward returns or as `declared` names, seen by running it on made-up
/// inputs of several sizes. A dimension that differed varies.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when the module refuses every made-up input, or returns something else
/// than `declared` says.
pub(super) fn outputs(module: &Module, inputs: &[Outlet], declared: &[Io]) -> Result<Vec<Outlet>> {
    let (size, first) = seen(module, inputs)?;
    let others = [(3, size), (1, size + 3), (1, size * 2)].map(|(batch, size)| run(module, inputs, batch, size));
    let others: Vec<Answer> = others.into_iter().filter_map(Result::ok).collect();
    let mut outputs = Vec::new();
    for (index, (name, tensor)) in first.iter().enumerate() {
        let mut dims: Vec<_> = tensor.shape().iter().map(|&dim| i64::try_from(dim).unwrap_or(-1)).collect();
        let mut any_rank = false;
        for (_, other) in others.iter().filter_map(|answer| answer.get(index)) {
            any_rank |= other.shape().len() != dims.len();
            for (dim, other) in dims.iter_mut().zip(other.shape()) {
                *dim = if i64::try_from(*other) == Ok(*dim) { *dim } else { -1 };
            }
        }
        let shape = if any_rank { vec![-1] } else { dims };
        let (place, shown) = match name {
            Some(key) => (key.clone(), key.clone()),
            None => (index.to_string(), format!("OUTPUT__{index}")),
        };
        let spec = TensorSpec { name: shown, dtype: tensor.dtype(), shape, any_rank };
        outputs.push(Outlet { spec, tensor: place });
    }
    if declared.is_empty() {
        return Ok(outputs);
    }
    declared.iter().map(|io| named(&outputs, io, declared.len())).collect()
}

/// The one of `outputs` that `io`, one of `count`, stands for, under that name.
fn named(outputs: &[Outlet], io: &Io, count: usize) -> Result<Outlet> {
    let by_key = outputs.iter().find(|output| output.tensor == io.name || output.spec.name == io.name);
    let only = || if let ([only], 1) = (outputs, count) { Some(only) } else { None };
    let found = by_key.or_else(|| outputs.get(place(&io.name)?)).or_else(only).ok_or_else(|| {
        let known: Vec<_> = outputs.iter().map(|output| format!("'{}'", output.spec.name)).collect();
        Error::invalid(format!(
            "the signature has an output '{}', and forward returns {}; name outputs so, or NAME__0, NAME__1 and on by place",
            io.name,
            known.join(", ")
        ))
    })?;
    let spec = &found.spec;
    if !io.datatype.is_empty() && io.datatype != spec.dtype.name() {
        let (says, is) = (&io.datatype, spec.dtype);
        return Err(Error::invalid(format!(
            "the signature says that output '{}' is {says}, and forward returns {is}",
            io.name
        )));
    }
    let fits = |(&said, &seen): (&i64, &i64)| said == seen || said == -1;
    let same = io.shape.len() == spec.shape.len() && io.shape.iter().zip(&spec.shape).all(fits);
    if !io.shape.is_empty() && !same && !spec.any_rank {
        let (says, is) = (&io.shape, &spec.shape);
        return Err(Error::invalid(format!(
            "the signature says that output '{}' has the shape {says:?}, the batch included where there is one, and forward \
             returns {is:?}",
            io.name
        )));
    }
    let shape = if io.shape.is_empty() { spec.shape.clone() } else { io.shape.clone() };
    let any_rank = spec.any_rank && io.shape.is_empty();
    let spec = TensorSpec { name: io.name.clone(), dtype: spec.dtype, shape, any_rank };
    Ok(Outlet { spec, tensor: found.tensor.clone() })
}

/// The first made-up input that `module` takes: its size, and what it answers.
fn seen(module: &Module, inputs: &[Outlet]) -> Result<(usize, Answer)> {
    let mut refusal = None;
    for (batch, size) in probe::SIZES {
        match run(module, inputs, batch, size) {
            Ok(answer) => return Ok((size, answer)),
            Err(error) => refusal = Some(error),
        }
    }
    let refusal = refusal.unwrap_or_else(|| Error::internal("no size was tried"));
    Err(refusal.context("it was run on made-up inputs of the signature, to see what it returns, and refused them all"))
}

fn run(module: &Module, inputs: &[Outlet], batch: usize, size: usize) -> Result<Answer> {
    let made_up = |(index, input): (usize, &Outlet)| probe::made_up_tensor(&input.spec, batch, size, index as u64);
    let tensors = inputs.iter().enumerate().map(made_up).collect::<Result<Vec<_>>>()?;
    let given = |argument: &Argument| {
        let index = inputs.iter().position(|input| input.tensor == argument.name)?;
        tensors.get(index)
    };
    module.run(&module.arguments().iter().map(given).collect::<Vec<_>>())
}
