//! From a configuration to a program: the graph with its weights as inputs, and which tensors these are.

use engine::{DataType, Signature, TensorSpec};

use super::config::{Config, Head};
use super::encoder::{Encoder, Products};
use super::graph::{Graph, Wanted, signed};
use super::head;
use crate::onnx::canonical;
use crate::onnx::wire::Model;

/// A program before its weights are known: equal configurations give equal ones.
pub(super) struct Program {
    pub(super) model: Model,
    /// One for each weight, in the order of the program's last inputs.
    pub(super) wanted: Vec<Wanted>,
    pub(super) signature: Signature,
}

impl Program {
    /// `precision` says what numbers the checkpoint has under a tensor's name.
    pub(super) fn of(config: &Config, precision: &dyn Fn(&str) -> DataType) -> Self {
        let signature = signature(config);
        let (mut model, wanted) = graph(config, &signature, Products::Turned, precision).finish();
        // The weights are inputs of the graph already, in the order of their use.
        canonical::canonicalise(&mut model, &mut Vec::new());
        Self { model, wanted, signature }
    }

    /// The graph as an exporter would write it, all in single precision: products as they come, and weights by their first
    /// names in the checkpoint, which are neither constants nor inputs yet.
    pub(super) fn plain(config: &Config) -> (Model, Vec<Wanted>) {
        graph(config, &signature(config), Products::Plain, &|_| DataType::F32).finish_named()
    }
}

fn graph(config: &Config, signature: &Signature, products: Products, precision: &dyn Fn(&str) -> DataType) -> Graph {
    let mut graph = Graph::default();
    for input in &signature.inputs {
        graph.input(&input.name, input.dtype, &input.shape);
    }
    let mut encoder = Encoder::new(graph, config, products, precision);
    let tokens = encoder.tokens();
    let outputs = head::outputs(&mut encoder, &tokens);
    let mut graph = encoder.graph;
    for (value, output) in outputs.iter().zip(&signature.outputs) {
        graph.output(value, output.dtype, &output.shape);
    }
    graph
}

/// Inputs and outputs by the names of transformers' own ONNX export; every tensor's first dimension is the batch, and the
/// second of all inputs the sequence.
fn signature(config: &Config) -> Signature {
    let spec = |name: &str, dtype, shape: Vec<i64>| TensorSpec { name: name.to_owned(), dtype, shape, any_rank: false };
    let mut inputs = vec!["input_ids", "attention_mask"];
    if config.family.takes_token_types() {
        inputs.push("token_type_ids");
    }
    let (width, classes) = (signed(config.width), signed(config.classes));
    let outputs = match config.head {
        Head::Base => vec![("last_hidden_state", vec![-1, -1, width])],
        Head::QuestionAnswering => vec![("start_logits", vec![-1, -1]), ("end_logits", vec![-1, -1])],
        Head::SequenceClassification => vec![("logits", vec![-1, classes])],
        Head::TokenClassification => vec![("logits", vec![-1, -1, classes])],
        Head::MaskedLm => vec![("logits", vec![-1, -1, signed(config.vocabulary)])],
        Head::Discriminator => vec![("logits", vec![-1, -1])],
        Head::Sentence(_) => vec![("sentence_embedding", vec![-1, width])],
    };
    Signature {
        inputs: inputs.into_iter().map(|name| spec(name, DataType::I64, vec![-1, -1])).collect(),
        outputs: outputs.into_iter().map(|(name, shape)| spec(name, DataType::F32, shape)).collect(),
    }
}
