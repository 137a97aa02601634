//! Canonical names: a program says nothing of what its exporter called things, so that two fine-tunes of one
//! architecture give the same bytes.

use std::collections::HashMap;

use super::wire::{Dim, Graph, Model, Node, ValueInfo};

/// Renames every value of `model` by its place in the graph and drops names, notes and hints that do not compute.
///
/// The order of inputs, outputs and nodes stays. Subgraphs see the names of the graphs around them, as the format's
/// scoping rule says, and may not shadow them.
pub(crate) fn rename(model: &mut Model) {
    model.producer_name = Some("packhorse".to_owned());
    model.producer_version = None;
    model.domain = None;
    model.model_version = None;
    model.doc_string = None;
    model.metadata_props.clear();
    model.opset_import.sort_by(|a, b| a.domain.cmp(&b.domain));
    if let Some(graph) = &mut model.graph {
        let mut names = Names::default();
        names.graph(graph);
        names.dims(graph);
    }
}

#[derive(Default)]
struct Names {
    known: HashMap<String, String>,
    /// Symbolic dimensions have names too; equal ones stay equal.
    sizes: HashMap<String, String>,
}

impl Names {
    fn graph(&mut self, graph: &mut Graph) {
        graph.name = Some("g".to_owned());
        graph.doc_string = None;
        graph.metadata_props.clear();
        graph.value_info.clear();
        graph.quantization_annotation.clear();
        for value in &mut graph.input {
            self.value(value);
        }
        for tensor in &mut graph.initializer {
            tensor.doc_string = None;
            if let Some(name) = &mut tensor.name {
                self.name(name);
            }
        }
        for node in &mut graph.node {
            self.node(node);
        }
        for value in &mut graph.output {
            self.value(value);
        }
    }

    fn node(&mut self, node: &mut Node) {
        node.name = None;
        node.doc_string = None;
        node.metadata_props.clear();
        for name in &mut node.input {
            self.name(name);
        }
        node.attribute.sort_by(|a, b| a.name.cmp(&b.name));
        for attribute in &mut node.attribute {
            attribute.doc_string = None;
            for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                self.graph(graph);
            }
        }
        for name in &mut node.output {
            self.name(name);
        }
    }

    fn value(&mut self, value: &mut ValueInfo) {
        value.doc_string = None;
        if let Some(name) = &mut value.name {
            self.name(name);
        }
    }

    fn name(&mut self, name: &mut String) {
        // The empty name stands for an optional input or output that is not there.
        if name.is_empty() {
            return;
        }
        let count = self.known.len();
        let canonical = self.known.entry(std::mem::take(name)).or_insert_with(|| format!("v{count}"));
        name.clone_from(canonical);
    }

    fn dims(&mut self, graph: &mut Graph) {
        let shapes = graph
            .input
            .iter_mut()
            .chain(&mut graph.output)
            .filter_map(|value| value.r#type.as_mut()?.tensor_type.as_mut()?.shape.as_mut());
        for dim in shapes.flat_map(|shape| &mut shape.dim) {
            self.dim(dim);
        }
    }

    fn dim(&mut self, dim: &mut Dim) {
        dim.denotation = None;
        let count = self.sizes.len();
        if let Some(name) = &mut dim.dim_param {
            let canonical = self.sizes.entry(std::mem::take(name)).or_insert_with(|| format!("n{count}"));
            name.clone_from(canonical);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::wire::Attribute;

    fn node(op: &str, input: &[&str], output: &[&str]) -> Node {
        Node {
            op_type: Some(op.to_owned()),
            input: input.iter().map(|&name| name.to_owned()).collect(),
            output: output.iter().map(|&name| name.to_owned()).collect(),
            name: Some(format!("/{op}/{}", output[0])),
            ..Node::default()
        }
    }

    fn value(name: &str) -> ValueInfo {
        ValueInfo { name: Some(name.to_owned()), ..ValueInfo::default() }
    }

    /// A graph with a branch that reads a value of the graph around it, every name spelt with `prefix`.
    fn model(prefix: &str) -> Model {
        let of = |name: &str| format!("{prefix}{name}");
        let branch = Graph {
            node: vec![node("Neg", &[&of("x")], &[&of("inner")])],
            output: vec![value(&of("inner"))],
            ..Graph::default()
        };
        let mut conditional = node("If", &[&of("c")], &[&of("y")]);
        conditional.attribute = vec![Attribute { g: Some(branch), ..Attribute::default() }];
        Model {
            producer_name: Some(prefix.to_owned()),
            graph: Some(Graph {
                node: vec![conditional, node("Clip", &[&of("y"), "", &of("c")], &[&of("z")])],
                input: vec![value(&of("x")), value(&of("c"))],
                output: vec![value(&of("z"))],
                ..Graph::default()
            }),
            ..Model::default()
        }
    }

    #[test]
    fn two_exporters_names_give_one_program() {
        let (mut one, mut other) = (model("onnx::"), model("tf/"));
        rename(&mut one);
        rename(&mut other);
        assert_eq!(one, other);
        let graph = one.graph.unwrap();
        assert_eq!(graph.node[1].input[1], "", "an absent input stays absent");
        let branch = graph.node[0].attribute[0].g.as_ref().unwrap();
        assert_eq!(Some(&branch.node[0].input[0]), graph.input[0].name.as_ref(), "the branch reads the outer value");
    }
}
