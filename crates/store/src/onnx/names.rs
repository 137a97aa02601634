//! Names that are unique over all of a graph's subgraphs, so that what follows can move a constant out of a branch.

use std::collections::{HashMap, HashSet};

use super::wire::{Graph, Node};

/// Gives every value of `graph` a name that no other value has, in whatever subgraph. The format lets two branches use
/// one name for different things; the first keeps it.
pub(crate) fn make_unique(graph: &mut Graph) {
    Scopes::default().graph(graph);
}

#[derive(Default)]
struct Scopes {
    taken: HashSet<String>,
    /// The old names and the new, innermost graph last.
    open: Vec<HashMap<String, String>>,
}

impl Scopes {
    fn graph(&mut self, graph: &mut Graph) {
        self.open.push(HashMap::new());
        // All definitions first, so that a use finds its own graph's value wherever that stands.
        let inputs = graph.input.iter_mut().filter_map(|value| value.name.as_mut());
        let constants = graph.initializer.iter_mut().filter_map(|tensor| tensor.name.as_mut());
        let computed = graph.node.iter_mut().flat_map(|node| &mut node.output);
        for name in inputs.chain(constants).chain(computed) {
            self.define(name);
        }
        for node in &mut graph.node {
            node.input.iter_mut().for_each(|name| self.resolve(name));
            Node::graphs_mut(node).for_each(|inner| self.graph(inner));
        }
        for name in graph.output.iter_mut().filter_map(|value| value.name.as_mut()) {
            self.resolve(name);
        }
        self.open.pop();
    }

    fn define(&mut self, name: &mut String) {
        // The empty name stands for an optional input or output that is not there.
        let Some(here) = self.open.last_mut().filter(|_| !name.is_empty()) else { return };
        if let Some(known) = here.get(name) {
            name.clone_from(known);
            return;
        }
        let mut own = name.clone();
        let mut count = 1;
        while !self.taken.insert(own.clone()) {
            count += 1;
            own = format!("{name}.{count}");
        }
        here.insert(std::mem::replace(name, own.clone()), own);
    }

    fn resolve(&self, name: &mut String) {
        if let Some(own) = self.open.iter().rev().find_map(|scope| scope.get(name)) {
            name.clone_from(own);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::wire::{Attribute, ValueInfo};

    #[test]
    fn branches_that_use_one_name_are_told_apart() {
        let value = |name: &str| ValueInfo { name: Some(name.to_owned()), ..ValueInfo::default() };
        let branch = |input: &str| Graph {
            node: vec![Node { input: vec![input.into()], output: vec!["y".into()], ..Node::default() }],
            output: vec![value("y")],
            ..Graph::default()
        };
        let attribute = |input: &str| Attribute { g: Some(branch(input)), ..Attribute::default() };
        let mut graph = Graph {
            input: vec![value("x")],
            node: vec![Node {
                output: vec!["z".into(), String::new()],
                attribute: vec![attribute("x"), attribute("x")],
                ..Node::default()
            }],
            output: vec![value("z")],
            ..Graph::default()
        };
        make_unique(&mut graph);
        let said: Vec<_> =
            graph.node[0].graphs().map(|inner| (&inner.node[0], inner.output[0].name.as_deref())).collect();
        assert_eq!(said[0].0.output, ["y"]);
        assert_eq!(said[1].0.output, ["y.2"]);
        assert_eq!(said[1].1, Some("y.2"));
        assert!(said.iter().all(|(node, _)| node.input == ["x"]), "both read the value around them");
        assert_eq!(graph.node[0].output, ["z", ""]);
    }
}
