//! Lifting: which of a graph's constants are weights, and the graph without them.

use std::collections::{HashMap, HashSet};

use super::made::Made;
use super::tensor::datatype;
use super::wire::{Graph, Model, Node, TensorProto};
use super::{names, roles};

/// What lifting makes of a graph.
pub(crate) struct Lifted {
    /// The graph, which names weights that it neither holds nor takes as inputs yet.
    pub(crate) program: Model,
    /// The weights, in no order that means anything.
    pub(crate) weights: Vec<Weight>,
    /// What its operators have to do with the CPU.
    pub(crate) layout: CpuLayout,
}

/// How a graph depends on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuLayout {
    /// Whether it is laid out for one kind of CPU, and computes nonsense on another.
    pub(crate) blocked: bool,
    /// Whether it holds what is laid out so where that is quicker.
    pub(crate) per_cpu: bool,
}

/// A constant that became an input.
#[derive(Clone)]
pub(crate) struct Weight {
    /// What the exporter wrote, under the name that the program uses.
    pub(crate) tensor: TensorProto,
    /// What the program takes of it.
    pub(crate) made: Made,
}

/// Splits `model` into a program and its weights.
///
/// # Errors
/// The reason, for a person, when the graph has to be kept whole.
pub(crate) fn lift(mut model: Model) -> Result<Lifted, String> {
    let graph = model.graph.as_mut().ok_or("it has no graph")?;
    names::make_unique(graph);
    // Before IR version 4 every initializer was listed as an input too; as an input alone it would shadow the lifted one.
    let constants: HashSet<_> = graph.initializer.iter().filter_map(|tensor| tensor.name.clone()).collect();
    graph.input.retain(|input| !input.name.as_ref().is_some_and(|name| constants.contains(name)));

    split_by_role(graph);
    let uses = Uses::of(graph);
    let mut weights = Vec::new();
    take(graph, &uses, &mut weights);
    let mut layout = CpuLayout::default();
    roles::each_node(graph, true, &mut |node, _| {
        let blocked = node.domain.as_deref() == Some("com.microsoft.nchwc");
        layout.blocked |= blocked;
        layout.per_cpu |= blocked || roles::is_laid_out_per_cpu(node);
    });
    model.functions.clear();
    Ok(Lifted { program: model, weights, layout })
}

/// How each name is used, over a graph and the graphs inside it.
#[derive(Default)]
struct Uses {
    /// Constants and whether every use of them is that of a weight.
    weights: HashMap<String, bool>,
}

impl Uses {
    fn of(graph: &Graph) -> Self {
        let mut uses = Self::default();
        let types = types(graph);
        roles::each_node(graph, true, &mut |node, movable| {
            for (index, name) in node.input.iter().enumerate() {
                if let Some(&dtype) = types.get(name.as_str()) {
                    uses.add(name, movable && roles::is_weight(node, index, dtype));
                }
            }
            // What a branch hands out must be its own; a number that is an answer by itself is nobody's weight.
            for name in node.graphs().flat_map(|inner| &inner.output).filter_map(|output| output.name.as_ref()) {
                uses.add(name, false);
            }
        });
        uses
    }

    fn add(&mut self, name: &str, is_weight: bool) {
        *self.weights.entry(name.to_owned()).or_insert(true) &= is_weight;
    }
}

/// The datatypes of all constants of `graph` and of the graphs inside it that a pack can hold.
fn types(graph: &Graph) -> HashMap<String, engine::DataType> {
    fn collect(graph: &Graph, types: &mut HashMap<String, engine::DataType>) {
        for tensor in &graph.initializer {
            // What has no elements was not learnt.
            let dtype = tensor.data_type.and_then(datatype).filter(|_| !tensor.dims.contains(&0));
            if let (Some(name), Some(dtype)) = (&tensor.name, dtype) {
                types.insert(name.clone(), dtype);
            }
        }
        graph.node.iter().flat_map(Node::graphs).for_each(|inner| collect(inner, types));
    }
    let mut types = HashMap::new();
    collect(graph, &mut types);
    types
}

/// Gives a constant that is a weight in one place and structure in another a second name, so that each place gets what
/// it needs: the runtime makes one constant of equal ones.
fn split_by_role(graph: &mut Graph) {
    let types = types(graph);
    let mut roles: HashMap<String, (bool, bool)> = HashMap::new();
    roles::each_node(graph, true, &mut |node, movable| {
        for (index, name) in node.input.iter().enumerate() {
            if let Some(&dtype) = types.get(name.as_str()) {
                let (weight, structure) = roles.entry(name.clone()).or_default();
                let is_weight = movable && roles::is_weight(node, index, dtype);
                *(if is_weight { weight } else { structure }) = true;
            }
        }
    });
    let second: HashMap<String, String> = roles
        .into_iter()
        .filter(|(_, (weight, structure))| *weight && *structure)
        .map(|(name, _)| (name.clone(), format!("{name} as a weight")))
        .collect();
    if !second.is_empty() {
        rename_weights(graph, true, &second, &types);
    }
}

fn rename_weights(
    graph: &mut Graph,
    movable: bool,
    second: &HashMap<String, String>,
    types: &HashMap<String, engine::DataType>,
) {
    let copies: Vec<_> = graph
        .initializer
        .iter()
        .filter_map(|tensor| {
            let name = second.get(tensor.name.as_ref()?)?;
            Some(TensorProto { name: Some(name.clone()), ..tensor.clone() })
        })
        .collect();
    graph.initializer.extend(copies);
    for node in &mut graph.node {
        for index in 0..node.input.len() {
            let name = &node.input[index];
            let Some((other, &dtype)) = second.get(name).zip(types.get(name)) else { continue };
            if movable && roles::is_weight(node, index, dtype) {
                node.input[index].clone_from(other);
            }
        }
        let movable = movable && roles::sees_around(node);
        node.graphs_mut().for_each(|inner| rename_weights(inner, movable, second, types));
    }
}

/// Moves the weights out of `graph` and the graphs inside it.
fn take(graph: &mut Graph, uses: &Uses, weights: &mut Vec<Weight>) {
    let is_weight =
        |tensor: &TensorProto| tensor.name.as_ref().and_then(|name| uses.weights.get(name)).copied().unwrap_or(false);
    let (lifted, kept) = std::mem::take(&mut graph.initializer).into_iter().partition(is_weight);
    graph.initializer = kept;
    weights.extend(Vec::into_iter(lifted).map(|tensor| Weight { tensor, made: Made::AsIs }));
    graph.node.iter_mut().flat_map(Node::graphs_mut).for_each(|inner| take(inner, uses, weights));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::wire::{Attribute, ValueInfo};

    const FLOAT: i32 = 1;
    const UINT8: i32 = 2;
    const INT8: i32 = 3;
    const INT32: i32 = 6;
    const INT64: i32 = 7;
    const HALF: i32 = 10;
    const DOUBLE: i32 = 11;
    const BFLOAT: i32 = 16;

    fn constant(name: &str, data_type: i32, dims: &[i64]) -> TensorProto {
        TensorProto {
            name: Some(name.to_owned()),
            data_type: Some(data_type),
            dims: dims.to_vec(),
            ..TensorProto::default()
        }
    }

    fn node(operator: &str, input: &[&str]) -> Node {
        Node {
            op_type: Some(operator.to_owned()),
            input: input.iter().map(|&name| name.to_owned()).collect(),
            output: vec!["y".to_owned()],
            ..Node::default()
        }
    }

    fn lifted(graph: Graph) -> (Graph, Vec<String>) {
        let result = lift(Model { graph: Some(graph), ..Model::default() }).unwrap();
        let names = result.weights.iter().map(|weight| weight.tensor.name.clone().unwrap()).collect();
        (result.program.graph.unwrap(), names)
    }

    #[test]
    fn constants_are_lifted_by_role_not_by_size() {
        for (operator, index, data_type, dims, is_lifted) in [
            ("Gemm", 1, FLOAT, &[4, 4][..], true),
            ("Gemm", 1, HALF, &[4, 4], true),
            ("MatMul", 1, BFLOAT, &[4, 4], true),
            ("Einsum", 1, DOUBLE, &[4, 4], true),
            ("Conv", 1, FLOAT, &[4, 4, 3, 3], true),
            ("ConvTranspose", 1, FLOAT, &[4, 4, 3, 3], true),
            ("BatchNormalization", 3, FLOAT, &[4], true),
            ("LayerNormalization", 2, FLOAT, &[768], true),
            ("InstanceNormalization", 1, FLOAT, &[4], true),
            ("GroupNormalization", 1, FLOAT, &[4], true),
            ("LSTM", 2, FLOAT, &[1, 4, 4], true),
            ("GRU", 1, FLOAT, &[1, 4, 4], true),
            ("RNN", 3, FLOAT, &[1, 4], true),
            ("PRelu", 1, FLOAT, &[4], true),
            ("Gather", 0, FLOAT, &[100, 4], true),
            ("Add", 1, FLOAT, &[1], true),
            ("Mul", 1, FLOAT, &[], true),
            ("Mul", 1, FLOAT, &[0], false),
            ("Scan", 1, FLOAT, &[4], true),
            ("Loop", 2, FLOAT, &[4], true),
            ("Resize", 2, FLOAT, &[4], false),
            ("Clip", 1, FLOAT, &[], false),
            ("Pow", 1, FLOAT, &[], false),
            ("Pow", 0, FLOAT, &[3], true),
            ("Reshape", 1, INT64, &[2], false),
            ("Gather", 1, INT64, &[100_000], false),
            ("Add", 1, INT32, &[1], false),
            ("QLinearConv", 3, INT8, &[8, 3, 3, 3], true),
            ("QLinearConv", 8, INT32, &[8], true),
            ("QLinearMatMul", 5, UINT8, &[], true),
            ("DequantizeLinear", 0, INT8, &[8, 8], true),
            ("DequantizeLinear", 1, FLOAT, &[], true),
            ("MatMulInteger", 1, UINT8, &[8, 8], true),
            ("ConvInteger", 1, UINT8, &[8, 8, 1, 1], true),
            ("QGemm", 3, INT8, &[8, 8], true),
            ("Gather", 0, INT8, &[100, 8], true),
            ("MatMulNBits", 1, UINT8, &[8, 1, 16], false),
            ("MatMulNBits", 2, FLOAT, &[8], false),
        ] {
            let mut input = vec!["x"; index];
            input.push("c");
            let graph = Graph {
                node: vec![node(operator, &input)],
                initializer: vec![constant("c", data_type, dims)],
                ..Graph::default()
            };
            let (graph, weights) = lifted(graph);
            assert_eq!(weights.len(), usize::from(is_lifted), "{operator} input {index}");
            assert_eq!(graph.initializer.len(), usize::from(!is_lifted), "{operator} input {index}");
        }
    }

    #[test]
    fn a_constant_in_two_roles_is_both() {
        let graph = Graph {
            node: vec![node("Clip", &["x", "c"]), node("Mul", &["x", "c"]), node("Add", &["x", "c"])],
            initializer: vec![constant("c", FLOAT, &[])],
            ..Graph::default()
        };
        let (graph, weights) = lifted(graph);
        assert_eq!(weights.len(), 1, "the factor and the term are one");
        assert_eq!(graph.initializer[0].name.as_deref(), Some("c"));
        assert_eq!(graph.node[0].input[1], "c", "the bound stays");
        assert_eq!([&graph.node[1].input[1], &graph.node[2].input[1]], [&weights[0]; 2]);
    }

    #[test]
    fn weights_leave_branches_but_not_a_generator_and_not_as_answers() {
        let value = |name: &str| ValueInfo { name: Some(name.to_owned()), ..ValueInfo::default() };
        let branch = |output: &str| Graph {
            node: vec![node("Mul", &["x", "w"])],
            initializer: vec![constant("w", FLOAT, &[2]), constant("answer", FLOAT, &[2])],
            output: vec![value(output)],
            ..Graph::default()
        };
        for (operator, domain, want) in [("If", "", 2), ("Loop", "ai.onnx", 2), ("BeamSearch", "com.microsoft", 0)] {
            let mut outer = node(operator, &[]);
            outer.domain = Some(domain.to_owned());
            let attribute = |output| Attribute { g: Some(branch(output)), ..Attribute::default() };
            outer.attribute = vec![attribute("y"), attribute("answer")];
            let (graph, weights) = lifted(Graph { node: vec![outer], ..Graph::default() });
            assert_eq!(weights.len(), want, "{operator}");
            let inner: Vec<_> = graph.node[0].graphs().collect();
            assert!(inner[1].initializer.iter().any(|tensor| tensor.name == inner[1].output[0].name), "{operator}");
            if want == 2 {
                assert_eq!(weights, ["w", "w.2"], "each branch has its own");
                assert_eq!(inner[1].node[0].input[1], "w.2");
            }
        }
    }
}
