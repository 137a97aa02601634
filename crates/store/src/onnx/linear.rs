//! Linear layers whose weight is an input.
//!
//! The runtime lays a constant matrix out for its kernel once; one that comes at run time it has to copy, block by
//! block, at every call, which for a short sequence costs more than the product. The copy is made of the *second* factor
//! only. So `X·W` is computed as `(Wᵀ·Xᵀ)ᵀ`: the matrix, stored as [out, in], becomes the first factor, which is read
//! where it lies, and the few rows of `X` are what is copied. Measured in docs/decisions/002-lift-by-role.md.

use std::collections::{HashMap, HashSet};

use super::lift::Weight;
use super::made::Made;
use super::rewriting::{Rewritten, whole, wholes};
use super::wire::{Graph, Model, Node};
use super::{names, roles};

/// Smaller matrices, in elements, stay as they are: the steps around the product would cost what they save.
const ELEMENTS_MIN: i64 = 1 << 16;
/// A product without a third term, which is what is put in, came with this version of the operators.
const OPSET_MIN: i64 = 11;

const FLOAT: i32 = 1;

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
    for weight in weights.iter_mut().filter(|weight| weight.made == Made::AsIs) {
        let tensor = &weight.tensor;
        let &[rows, columns] = &tensor.dims[..] else { continue };
        let large = rows.checked_mul(columns).is_some_and(|elements| elements >= ELEMENTS_MIN);
        if let Some(name) = tensor.name.clone().filter(|name| large && !other_uses.contains(name))
            && tensor.data_type == Some(FLOAT)
        {
            weight.made = Made::Turned;
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
            (Some(&shape), [x, weight], [output]) => product(&mut new, x, weight, shape, output),
            _ => new.nodes.push(node),
        }
    }
    graph.node = new.nodes;
    graph.initializer.extend(new.constants);
}

/// Adds the product of `x` by `weight`, which is stored as `[columns, rows]`.
pub(super) fn product(new: &mut Rewritten, x: &str, weight: &str, (rows, columns): (i64, i64), output: &str) {
    let (flat, front) = new.lay_flat(x, rows);
    let product = new.op("Gemm", &[weight, &flat], output, "product", vec![whole("transB", 1)]);
    let turned = new.op("Transpose", &[&product], output, "turned", vec![wholes("perm", vec![1, 0])]);
    new.fold_back(&turned, &front, columns, output);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::wire::{OpsetId, TensorProto};

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
            let mut weights = [Weight { tensor, made: Made::AsIs }];
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
            assert_eq!(weights[0].made == Made::Turned, turned, "{what}");
            let graph = model.graph.unwrap();
            assert_eq!(graph.node.iter().any(|node| node.operator() == "Gemm"), turned, "{what}");
        }
    }
}
