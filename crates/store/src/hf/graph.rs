//! A graph in the making: nodes in order, weights as inputs in the order of their use.

use std::collections::HashMap;

use crate::onnx::tensor::datatype_number;
use crate::onnx::wire::{
    Attribute, Dim, Graph as Proto, Model, Node, OpsetId, Shape, TensorProto, TensorType, Type, ValueInfo,
};
use engine::DataType;

/// The operators of ONNX Runtime's own domain that are used; all others are ONNX's.
const CONTRIBUTED: [&str; 3] = ["FastGelu", "Gelu", "MultiHeadAttention"];
/// The first with LayerNormalization.
const OPSET: i64 = 17;
/// The format's version that goes with the opset.
const IR_VERSION: i64 = 8;

/// A tensor of the checkpoint that the graph takes as an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The names it goes by, the usual one first.
    pub(super) names: Vec<String>,
    /// The shape it has in the checkpoint.
    pub(super) shape: Vec<usize>,
    /// The shape the graph declares; as many elements, in the same order.
    pub(super) declared: Vec<usize>,
    /// What the graph takes: single precision, or the half precision that the checkpoint has.
    pub(super) dtype: DataType,
}

/// A value of the graph, by name.
pub(super) type Value = String;

#[derive(Default)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    inputs: Vec<ValueInfo>,
    weights: Vec<ValueInfo>,
    constants: Vec<TensorProto>,
    outputs: Vec<ValueInfo>,
    wanted: Vec<Wanted>,
}

impl Graph {
    /// An input of the signature; `-1` varies, and the same axis varies alike in all of them.
    pub(super) fn input(&mut self, name: &str, dtype: DataType, shape: &[i64]) -> Value {
        self.inputs.push(declaration(name, dtype, shape));
        name.to_owned()
    }

    /// Makes `value` an output of the signature.
    pub(super) fn output(&mut self, value: &str, dtype: DataType, shape: &[i64]) {
        self.outputs.push(declaration(value, dtype, shape));
    }

    /// The tensor of the checkpoint called one of `names`, of `shape`.
    pub(super) fn weight(&mut self, names: &[&str], shape: &[usize]) -> Value {
        self.weight_as(names, shape, shape)
    }

    /// The same, its elements read in the shape `declared`.
    pub(super) fn weight_as(&mut self, names: &[&str], shape: &[usize], declared: &[usize]) -> Value {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        self.want(Wanted { names, shape: shape.to_vec(), declared: declared.to_vec(), dtype: DataType::F32 })
    }

    /// The table called `name`, its numbers as the checkpoint has them.
    pub(super) fn table(&mut self, name: &str, shape: &[usize], dtype: DataType) -> Value {
        self.want(Wanted { names: vec![name.to_owned()], shape: shape.to_vec(), declared: shape.to_vec(), dtype })
    }

    fn want(&mut self, wanted: Wanted) -> Value {
        let name = weight_name(self.wanted.len());
        let dims: Vec<i64> = wanted.declared.iter().map(|&size| signed(size)).collect();
        self.weights.push(declaration(&name, wanted.dtype, &dims));
        self.wanted.push(wanted);
        name
    }

    /// A constant list of whole numbers.
    pub(super) fn ints(&mut self, values: &[i64]) -> Value {
        self.constant(
            &[signed(values.len())],
            DataType::I64,
            values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        )
    }

    /// A constant whole number without dimensions.
    pub(super) fn int(&mut self, value: i64) -> Value {
        self.constant(&[], DataType::I64, value.to_le_bytes().to_vec())
    }

    /// A constant number without dimensions.
    pub(super) fn float(&mut self, value: f32) -> Value {
        self.constant(&[], DataType::F32, value.to_le_bytes().to_vec())
    }

    fn constant(&mut self, dims: &[i64], dtype: DataType, bytes: Vec<u8>) -> Value {
        let known = |held: &&TensorProto| {
            held.dims == dims
                && held.data_type == Some(datatype_number(dtype))
                && held.raw_data.as_deref() == Some(&bytes[..])
        };
        if let Some(name) = self.constants.iter().find(known).and_then(|held| held.name.clone()) {
            return name;
        }
        let name = format!("constant{}", self.constants.len());
        self.constants.push(TensorProto {
            name: Some(name.clone()),
            dims: dims.to_vec(),
            data_type: Some(datatype_number(dtype)),
            raw_data: Some(bytes.into()),
            ..TensorProto::default()
        });
        name
    }

    /// A node with one output, whose name it returns.
    pub(super) fn op<const N: usize>(
        &mut self,
        operator: &str,
        inputs: [&str; N],
        attributes: &[(&str, Setting<'_>)],
    ) -> Value {
        let output = format!("value{}", self.nodes.len());
        self.node(operator, &inputs, attributes, vec![output.clone()]);
        output
    }

    /// A node that splits `input` along the first axis into two of size one.
    pub(super) fn halves(&mut self, input: &str) -> [Value; 2] {
        let outputs = [0, 1].map(|half| format!("value{}half{half}", self.nodes.len()));
        self.node("Split", &[input], &[("axis", Setting::Int(0))], outputs.to_vec());
        outputs
    }

    fn node(&mut self, operator: &str, inputs: &[&str], attributes: &[(&str, Setting<'_>)], output: Vec<Value>) {
        self.nodes.push(Node {
            op_type: Some(operator.to_owned()),
            domain: CONTRIBUTED.contains(&operator).then(|| "com.microsoft".to_owned()),
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output,
            attribute: attributes.iter().map(|&(name, setting)| attribute(name, setting)).collect(),
            ..Node::default()
        });
    }

    /// The graph as a model in which the tensors of the checkpoint go by their first names there, and are no inputs.
    pub(super) fn finish_named(self) -> (Model, Vec<Wanted>) {
        let (mut model, wanted) = self.finish();
        let first = |wanted: &Wanted| wanted.names.first().cloned().unwrap_or_default();
        let names: HashMap<String, String> =
            wanted.iter().enumerate().map(|(at, wanted)| (weight_name(at), first(wanted))).collect();
        let graph = model.graph.get_or_insert_default();
        graph.input.retain(|input| !input.name.as_ref().is_some_and(|name| names.contains_key(name)));
        for name in graph.node.iter_mut().flat_map(|node| &mut node.input) {
            if let Some(first) = names.get(name) {
                name.clone_from(first);
            }
        }
        (model, wanted)
    }

    /// The graph as a model, and the tensors that its last inputs want, in their order.
    pub(super) fn finish(self) -> (Model, Vec<Wanted>) {
        let opset = |domain: &str, version| OpsetId { domain: Some(domain.to_owned()), version: Some(version) };
        let graph = Proto {
            node: self.nodes,
            initializer: self.constants,
            input: self.inputs.into_iter().chain(self.weights).collect(),
            output: self.outputs,
            ..Proto::default()
        };
        let model = Model {
            ir_version: Some(IR_VERSION),
            opset_import: vec![opset("", OPSET), opset("com.microsoft", 1)],
            graph: Some(graph),
            ..Model::default()
        };
        (model, self.wanted)
    }
}

fn weight_name(at: usize) -> String {
    format!("weight{at}")
}

/// An attribute's value.
#[derive(Clone, Copy)]
pub(super) enum Setting<'a> {
    Int(i64),
    Float(f32),
    Ints(&'a [i64]),
}

fn attribute(name: &str, setting: Setting<'_>) -> Attribute {
    let mut attribute = Attribute { name: Some(name.to_owned()), ..Attribute::default() };
    // The numbers are those of AttributeProto.AttributeType in onnx.proto.
    match setting {
        Setting::Float(value) => (attribute.r#type, attribute.f) = (Some(1), Some(value)),
        Setting::Int(value) => (attribute.r#type, attribute.i) = (Some(2), Some(value)),
        Setting::Ints(values) => (attribute.r#type, attribute.ints) = (Some(7), values.to_vec()),
    }
    attribute
}

fn declaration(name: &str, dtype: DataType, shape: &[i64]) -> ValueInfo {
    let dim = |(axis, &size): (usize, &i64)| match size {
        0.. => Dim { dim_value: Some(size), ..Dim::default() },
        _ => Dim { dim_param: Some(format!("size{axis}")), ..Dim::default() },
    };
    let shape = Shape { dim: shape.iter().enumerate().map(dim).collect() };
    let tensor_type = TensorType { elem_type: Some(datatype_number(dtype)), shape: Some(shape) };
    ValueInfo {
        name: Some(name.to_owned()),
        r#type: Some(Type { tensor_type: Some(tensor_type), ..Type::default() }),
        doc_string: None,
    }
}

/// Sizes are bounded where a configuration is read, far below where this would saturate.
pub(super) fn signed(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
