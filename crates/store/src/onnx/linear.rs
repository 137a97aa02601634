//! Linear layers whose weight is an input.
//!
//! The runtime lays a constant matrix out for its kernel once; one that comes at run time it has to copy, block by
//! block, at every call, which for a short sequence costs more than the product. The copy is made of the *second* factor
//! only. So `X·W` is computed as `(Wᵀ·Xᵀ)ᵀ`: the matrix, stored as [out, in], becomes the first factor, which is read
//! where it lies, and the few rows of `X` are what is copied. Measured in docs/decisions/002-lift-by-role.md.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::lift::Weight;
use super::wire::{Attribute, Graph, Model, Node, TensorProto};
use super::{names, roles};

/// Smaller matrices, in elements, stay as they are: the steps around the product would cost what they save.
const ELEMENTS_MIN: i64 = 1 << 16;
/// A product without a third term, which is what is put in, came with this version of the operators.
const OPSET_MIN: i64 = 11;

const FLOAT: i32 = 1;
const INT64: i32 = 7;

/// Rewrites every `MatMul` of `model` by a large matrix among `weights`, and marks those as transposed.
pub(crate) fn rewrite(model: &mut Model, weights: &mut [Weight]) {
    let is_standard = |domain: Option<&str>| matches!(domain, None | Some("" | "ai.onnx"));
    let opset = model.opset_import.iter().find(|opset| is_standard(opset.domain.as_deref()));
    let Some(graph) = model.graph.as_mut() else { return };
    if opset.and_then(|opset| opset.version).unwrap_or(0) < OPSET_MIN {
        return;
    }
    let mut other_uses = HashSet::new();
    roles::each_node(graph, true, &mut |node, _| {
        let uses = node.input.iter().enumerate().filter(|(index, _)| !(is_product(node) && *index == 1));
        other_uses.extend(uses.map(|(_, name)| name.clone()));
    });
    let mut matrices = HashMap::new();
    for weight in weights {
        let tensor = &mut weight.tensor;
        let &[rows, columns] = &tensor.dims[..] else { continue };
        let large = rows.checked_mul(columns).is_some_and(|elements| elements >= ELEMENTS_MIN);
        if let Some(name) = tensor.name.clone().filter(|name| large && !other_uses.contains(name))
            && tensor.data_type == Some(FLOAT)
        {
            weight.transposed = true;
            matrices.insert(name, (rows, columns));
        }
    }
    if !matrices.is_empty() {
        rewrite_graph(graph, &matrices);
        // A branch and the graph around it may both have laid the same value flat.
        names::make_unique(graph);
    }
}

fn is_product(node: &Node) -> bool {
    node.is_standard() && node.operator() == "MatMul"
}

fn rewrite_graph(graph: &mut Graph, matrices: &HashMap<String, (i64, i64)>) {
    let mut new = Rewritten::default();
    for mut node in std::mem::take(&mut graph.node) {
        node.graphs_mut().for_each(|inner| rewrite_graph(inner, matrices));
        let matrix = node.input.get(1).and_then(|name| matrices.get(name)).filter(|_| is_product(&node));
        match (matrix, &node.input[..], &node.output[..]) {
            (Some(&shape), [x, weight], [output]) => new.product(x, weight, shape, output),
            _ => new.nodes.push(node),
        }
    }
    graph.node = new.nodes;
    graph.initializer.extend(new.constants);
}

#[derive(Default)]
struct Rewritten {
    nodes: Vec<Node>,
    constants: Vec<TensorProto>,
    /// Inputs that several products share (query, key and value do) are laid flat once: the flat one and the shape
    /// in front of the last axis.
    flat: HashMap<String, (String, String)>,
}

impl Rewritten {
    fn product(&mut self, x: &str, weight: &str, (rows, columns): (i64, i64), output: &str) {
        let (flat, front) = match self.flat.get(x) {
            Some(known) => known.clone(),
            None => {
                let made = self.lay_flat(x, rows);
                self.flat.insert(x.to_owned(), made.clone());
                made
            }
        };
        let product = self.op("Gemm", &[weight, &flat], output, "product", vec![whole("transB", 1)]);
        let turned = self.op("Transpose", &[&product], output, "turned", vec![wholes("perm", vec![1, 0])]);
        let width = self.constant(output, "width", &[columns]);
        let shape = self.op("Concat", &[&front, &width], output, "shape", vec![whole("axis", 0)]);
        self.push("Reshape", &[&turned, &shape], output.to_owned(), Vec::new());
    }

    fn lay_flat(&mut self, x: &str, rows: i64) -> (String, String) {
        let target = self.constant(x, "flat shape", &[-1, rows]);
        let flat = self.op("Reshape", &[x, &target], x, "flat", Vec::new());
        let shape = self.op("Shape", &[x], x, "its shape", Vec::new());
        let (start, end) = (self.constant(x, "start", &[0]), self.constant(x, "end", &[-1]));
        let front = self.op("Slice", &[&shape, &start, &end], x, "its front", Vec::new());
        (flat, front)
    }

    /// Adds a node whose output is called after `base`. An exporter that used such a name already gets a graph that the
    /// runtime refuses, and a model that is kept whole.
    fn op(&mut self, operator: &str, input: &[&str], base: &str, what: &str, attribute: Vec<Attribute>) -> String {
        let output = format!("{base} {what}");
        self.push(operator, input, output.clone(), attribute);
        output
    }

    fn push(&mut self, operator: &str, input: &[&str], output: String, attribute: Vec<Attribute>) {
        self.nodes.push(Node {
            op_type: Some(operator.to_owned()),
            input: input.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output],
            attribute,
            ..Node::default()
        });
    }

    fn constant(&mut self, base: &str, what: &str, values: &[i64]) -> String {
        let name = format!("{base} {what}");
        self.constants.push(TensorProto {
            name: Some(name.clone()),
            data_type: Some(INT64),
            dims: vec![i64::try_from(values.len()).unwrap_or(0)],
            raw_data: Some(Bytes::from(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())),
            ..TensorProto::default()
        });
        name
    }
}

/// An attribute of type INT, which is number 2 in `AttributeProto`.
fn whole(name: &str, value: i64) -> Attribute {
    Attribute { name: Some(name.to_owned()), i: Some(value), r#type: Some(2), ..Attribute::default() }
}

/// An attribute of type INTS, number 7.
fn wholes(name: &str, values: Vec<i64>) -> Attribute {
    Attribute { name: Some(name.to_owned()), ints: values, r#type: Some(7), ..Attribute::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::wire::OpsetId;

    #[test]
    fn large_matrices_that_only_products_read_are_turned() {
        const HALF: i32 = 10;
        let product = |weight: &str| Node {
            op_type: Some("MatMul".to_owned()),
            input: vec!["x".to_owned(), weight.to_owned()],
            output: vec![format!("x{weight}")],
            ..Node::default()
        };
        for (what, dims, data_type, opset, other, turned) in [
            ("large", &[256, 512][..], FLOAT, 17, false, true),
            ("small", &[16, 16], FLOAT, 17, false, false),
            ("of three axes", &[4, 256, 256], FLOAT, 17, false, false),
            ("of halves", &[256, 512], HALF, 17, false, false),
            ("in an old graph", &[256, 512], FLOAT, 9, false, false),
            ("an embedding too", &[256, 512], FLOAT, 17, true, false),
            ("of a size that does not exist", &[i64::MAX, 512], FLOAT, 17, false, false),
        ] {
            let tensor = TensorProto {
                name: Some("w".to_owned()),
                data_type: Some(data_type),
                dims: dims.to_vec(),
                ..TensorProto::default()
            };
            let mut weights = [Weight { tensor, transposed: false }];
            let mut nodes = vec![product("w")];
            if other {
                nodes.push(Node { op_type: Some("Gather".into()), input: vec!["w".into()], ..Node::default() });
            }
            let mut model = Model {
                opset_import: vec![OpsetId { domain: Some(String::new()), version: Some(opset) }],
                graph: Some(Graph { node: nodes, ..Graph::default() }),
                ..Model::default()
            };
            rewrite(&mut model, &mut weights);
            assert_eq!(weights[0].transposed, turned, "{what}");
            let graph = model.graph.unwrap();
            assert_eq!(graph.node.iter().any(|node| node.operator() == "Gemm"), turned, "{what}");
        }
    }
}
