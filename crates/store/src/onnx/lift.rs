//! Lifting: which of a graph's constants are weights, and the graph with them as inputs.

use std::collections::HashMap;

use engine::DataType;

use super::tensor::datatype;
use super::wire::{Dim, Graph, Model, Shape, TensorProto, TensorType, Type, ValueInfo};

/// What lifting makes of a graph.
pub(crate) struct Lifted {
    /// The graph; its last inputs are the weights.
    pub(crate) program: Model,
    /// The weights in the order of those inputs, numbers and all.
    pub(crate) weights: Vec<TensorProto>,
    /// Whether the graph is laid out for one kind of CPU.
    pub(crate) blocked_layout: bool,
}

/// Splits `model` into a program and its weights.
///
/// # Errors
/// The reason, for a person, when the graph has to be kept whole.
pub(crate) fn lift(mut model: Model) -> Result<Lifted, String> {
    if !model.functions.is_empty() {
        return Err("it calls functions of its own that the runtime did not inline".to_owned());
    }
    let graph = model.graph.as_mut().ok_or("it has no graph")?;
    if !graph.sparse_initializer.is_empty() {
        return Err("it holds sparse tensors".to_owned());
    }
    // Before IR version 4 every initializer was listed as an input too; as an input alone it would shadow the lifted one.
    let constants: Vec<_> = graph.initializer.iter().filter_map(|tensor| tensor.name.clone()).collect();
    graph.input.retain(|input| !input.name.as_ref().is_some_and(|name| constants.contains(name)));

    let uses = Uses::of(graph);
    let (mut lifted, kept): (Vec<_>, Vec<_>) =
        std::mem::take(&mut graph.initializer).into_iter().partition(|tensor| is_weight(tensor, &uses));
    graph.initializer = kept;
    lifted.sort_by_key(|tensor| uses.first(tensor.name.as_deref().unwrap_or("")));
    graph.input.extend(lifted.iter().map(declaration));
    let blocked_layout = any_node(graph, &|node| node.domain.as_deref() == Some("com.microsoft.nchwc"));
    Ok(Lifted { program: model, weights: lifted, blocked_layout })
}

/// A constant is a weight by its role. Numbers that training makes are weights, whatever their size: two fine-tunes
/// differ in a bias or a scale of one element as well. Numbers that say how the graph is built (shapes, axes, bounds,
/// resize factors) stay in the program, where the runtime needs some of them before it runs.
fn is_weight(tensor: &TensorProto, uses: &Uses) -> bool {
    let name = tensor.name.as_deref().unwrap_or("");
    let Some(roles) = uses.roles(name) else { return false };
    match datatype(tensor.data_type.unwrap_or(0)) {
        Some(DataType::F32 | DataType::F64 | DataType::F16 | DataType::Bf16) => {
            roles.iter().all(|role| !role.is_structural())
        }
        Some(DataType::U8 | DataType::I8 | DataType::I32) => roles.iter().all(Role::is_quantised),
        _ => false,
    }
}

/// One use of a constant: as input number `index` of an operator.
struct Role {
    operator: String,
    index: usize,
}

impl Role {
    /// Whether this input is part of the graph's construction rather than of what it learnt.
    fn is_structural(&self) -> bool {
        match self.operator.as_str() {
            "Resize" | "Upsample" | "NonMaxSuppression" | "Range" | "OneHot" | "Loop" | "Scan" | "If" => true,
            "Clip" | "Pad" | "Dropout" | "TopK" => self.index > 0,
            "Pow" => self.index == 1,
            _ => false,
        }
    }

    /// Whether an integer here is a quantised weight, its zero point or its bias.
    fn is_quantised(&self) -> bool {
        matches!(
            self.operator.as_str(),
            "QLinearConv"
                | "QLinearMatMul"
                | "ConvInteger"
                | "MatMulInteger"
                | "DequantizeLinear"
                | "QuantizeLinear"
                | "QGemm"
                | "QLinearAdd"
                | "QLinearMul"
                | "QAttention"
                | "DynamicQuantizeMatMul"
                | "MatMulIntegerToFloat"
                | "DynamicQuantizeLSTM"
        )
    }
}

/// Every use of every name in a graph and the graphs inside it.
struct Uses {
    roles: HashMap<String, (usize, Vec<Role>)>,
}

impl Uses {
    fn of(graph: &Graph) -> Self {
        let mut uses = Self { roles: HashMap::new() };
        uses.collect(graph, &mut 0);
        // A constant that is an output itself has no operator to ask; it is a number that somebody wants.
        for output in graph.output.iter().filter_map(|output| output.name.as_ref()) {
            uses.add(output, usize::MAX, "output", 0);
        }
        uses
    }

    fn collect(&mut self, graph: &Graph, order: &mut usize) {
        for node in &graph.node {
            let operator = node.op_type.as_deref().unwrap_or("");
            for (index, name) in node.input.iter().enumerate() {
                self.add(name, *order, operator, index);
                *order += 1;
            }
            for inner in node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs)) {
                self.collect(inner, order);
            }
        }
    }

    fn add(&mut self, name: &str, order: usize, operator: &str, index: usize) {
        let (_, roles) = self.roles.entry(name.to_owned()).or_insert((order, Vec::new()));
        roles.push(Role { operator: operator.to_owned(), index });
    }

    fn roles(&self, name: &str) -> Option<&[Role]> {
        self.roles.get(name).map(|(_, roles)| roles.as_slice())
    }

    /// Where `name` is used first: the order of weights follows the graph, not the exporter's list.
    fn first(&self, name: &str) -> usize {
        self.roles.get(name).map_or(usize::MAX, |(order, _)| *order)
    }
}

/// The input that stands for `tensor` once it is lifted.
fn declaration(tensor: &TensorProto) -> ValueInfo {
    let dim = tensor.dims.iter().map(|&size| Dim { dim_value: Some(size), ..Dim::default() }).collect();
    let tensor_type = TensorType { elem_type: tensor.data_type, shape: Some(Shape { dim }) };
    ValueInfo {
        name: tensor.name.clone(),
        r#type: Some(Type { tensor_type: Some(tensor_type), ..Type::default() }),
        doc_string: None,
    }
}

fn any_node(graph: &Graph, test: &dyn Fn(&super::wire::Node) -> bool) -> bool {
    graph.node.iter().any(|node| {
        test(node)
            || node
                .attribute
                .iter()
                .flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs))
                .any(|inner| any_node(inner, test))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::wire::Node;

    fn constant(name: &str, data_type: i32, dims: &[i64]) -> TensorProto {
        TensorProto {
            name: Some(name.to_owned()),
            data_type: Some(data_type),
            dims: dims.to_vec(),
            ..TensorProto::default()
        }
    }

    #[test]
    fn constants_are_lifted_by_role_not_by_size() {
        const FLOAT: i32 = 1;
        const INT8: i32 = 3;
        const INT64: i32 = 7;
        for (operator, index, data_type, dims, lifted) in [
            ("Gemm", 1, FLOAT, &[4, 4][..], true),
            ("Add", 1, FLOAT, &[1], true),
            ("Mul", 1, FLOAT, &[], true),
            ("LayerNormalization", 2, FLOAT, &[768], true),
            ("Resize", 2, FLOAT, &[4], false),
            ("Clip", 1, FLOAT, &[], false),
            ("Pow", 1, FLOAT, &[], false),
            ("Pow", 0, FLOAT, &[3], true),
            ("Reshape", 1, INT64, &[2], false),
            ("Gather", 1, INT64, &[100_000], false),
            ("QLinearConv", 3, INT8, &[8, 3, 3, 3], true),
            ("Gather", 0, INT8, &[100], false),
        ] {
            let mut input = vec!["x".to_owned(); index];
            input.push("c".to_owned());
            let node = Node { op_type: Some(operator.to_owned()), input, ..Node::default() };
            let graph =
                Graph { node: vec![node], initializer: vec![constant("c", data_type, dims)], ..Graph::default() };
            let result = lift(Model { graph: Some(graph), ..Model::default() }).unwrap();
            let graph = result.program.graph.unwrap();
            assert_eq!(result.weights.len(), usize::from(lifted), "{operator} input {index}");
            assert_eq!(graph.initializer.len(), usize::from(!lifted), "{operator} input {index}");
            assert_eq!(graph.input.len(), usize::from(lifted), "{operator} input {index}");
        }
    }

    #[test]
    fn weights_follow_the_order_of_their_use() {
        let node = |input: &str| Node {
            op_type: Some("Neg".to_owned()),
            input: vec![input.to_owned()],
            output: vec![format!("-{input}")],
            ..Node::default()
        };
        let graph = Graph {
            node: vec![node("b"), node("a")],
            initializer: vec![constant("a", 1, &[2]), constant("unused", 1, &[2]), constant("b", 1, &[2])],
            ..Graph::default()
        };
        let result = lift(Model { graph: Some(graph), ..Model::default() }).unwrap();
        let names: Vec<_> = result.weights.iter().filter_map(|weight| weight.name.as_deref()).collect();
        assert_eq!(names, ["b", "a"]);
    }
}
