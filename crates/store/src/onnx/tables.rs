//! Tables: weights of which a run reads a row here and a row there, as it does of embeddings.

use std::collections::HashMap;

use prost::Message;

use super::roles::each_node;
use super::wire::{Model, Node};

/// Which of the last `count` inputs of `program`, its weights, are tables to every operator that reads them. None of what is no
/// graph.
pub fn tables(program: &[u8], count: usize) -> Vec<bool> {
    let graph = Model::decode(program).ok().and_then(|model| model.graph).unwrap_or_default();
    let Some(first) = graph.input.len().checked_sub(count) else { return vec![false; count] };
    let mut uses: HashMap<&str, (usize, usize)> = HashMap::new();
    each_node(&graph, true, &mut |node, _| {
        for (index, name) in node.input.iter().enumerate() {
            let (rows, all) = uses.entry(name).or_default();
            (*rows, *all) = (*rows + usize::from(reads_rows(node, index)), *all + 1);
        }
    });
    let is_given = |name: &str| graph.output.iter().any(|output| output.name.as_deref() == Some(name));
    let is_table = |name: &str| uses.get(name).is_some_and(|(rows, all)| rows == all) && !is_given(name);
    graph.input[first..].iter().map(|input| input.name.as_deref().is_some_and(is_table)).collect()
}

/// Whether `node` reads rows of its input number `index`, those that other inputs say.
fn reads_rows(node: &Node, index: usize) -> bool {
    let axis = node.attribute.iter().find(|attribute| attribute.name.as_deref() == Some("axis"));
    match node.operator() {
        "Gather" => index == 0 && axis.and_then(|axis| axis.i).unwrap_or(0) == 0,
        "EmbedLayerNormalization" | "QEmbedLayerNormalization" => (2..5).contains(&index),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::import::tests::{node, value};
    use crate::onnx::wire::{Attribute, Graph};

    const FLOAT: i32 = 1;

    #[test]
    fn what_is_read_by_row_alone_is_a_table() {
        let along = |axis| Attribute { name: Some("axis".into()), i: Some(axis), ..Attribute::default() };
        let gather = |table: &str, axis: Option<i64>| {
            let mut gather = node("Gather", &[table, "ids"], "y");
            gather.attribute = axis.into_iter().map(along).collect();
            gather
        };
        let embed = ["ids", "types", "words", "places", "sorts", "scale", "bias"];
        let branch = Graph { node: vec![node("Add", &["inner", "x"], "z")], ..Graph::default() };
        let mut choice = node("If", &["x"], "z");
        choice.attribute = vec![Attribute { g: Some(branch), ..Attribute::default() }];
        let nodes = vec![
            gather("plain", None),
            gather("first", Some(0)),
            gather("columns", Some(1)),
            gather("tied", None),
            node("MatMul", &["x", "tied"], "y"),
            gather("inner", None),
            choice,
            gather("given", None),
            node("EmbedLayerNormalization", &embed, "y"),
        ];
        let weights =
            ["plain", "first", "columns", "tied", "inner", "given", "words", "places", "sorts", "scale", "unused"];
        let inputs = ["x", "ids", "types"].into_iter().chain(weights);
        let graph = Graph {
            node: nodes,
            input: inputs.map(|name| value(name, FLOAT, &[2, 2])).collect(),
            output: vec![value("y", FLOAT, &[2, 2]), value("given", FLOAT, &[2, 2])],
            ..Graph::default()
        };
        let program = Model { graph: Some(graph), ..Model::default() }.encode_to_vec();
        let found = tables(&program, weights.len());
        let tables_of: Vec<&str> = weights.into_iter().zip(found).filter_map(|(name, is)| is.then_some(name)).collect();
        assert_eq!(tables_of, ["plain", "first", "words", "places", "sorts"]);
        assert_eq!(tables(b"none", 2), [false, false]);
        assert_eq!(tables(&program, 100).len(), 100);
    }
}
