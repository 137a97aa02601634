//! The same graph as another exporter would have written it, for the tests.

use std::collections::{HashMap, HashSet};

use super::wire::{Entry, Graph, Model, Node};

/// `model` with every name replaced, and its nodes, constants and attributes in another valid order.
pub(crate) fn scramble(model: &Model, seed: u64) -> Model {
    let mut model = model.clone();
    let mut random = Random(seed | 1);
    let graph = model.graph.as_mut().unwrap();
    super::names::make_unique(graph);
    shuffle_graph(graph, &mut random);
    rename(graph, &mut HashMap::new(), &mut random);
    model.producer_name = Some(random.name());
    model.doc_string = Some(random.name());
    model.metadata_props = vec![Entry { key: Some(random.name()), value: Some(random.name()) }];
    random.shuffle(&mut model.opset_import);
    model
}

struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        // Xorshift (Marsaglia, 2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % below.max(1)
    }

    fn name(&mut self) -> String {
        format!("{}/{}", self.next(1 << 30), self.next(1 << 30))
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.next(index + 1));
        }
    }
}

fn shuffle_graph(graph: &mut Graph, random: &mut Random) {
    random.shuffle(&mut graph.initializer);
    graph.value_info.clear();
    graph.doc_string = Some(random.name());
    let own: HashSet<String> = graph.node.iter().flat_map(|node| node.output.iter().cloned()).collect();
    let mut waiting = std::mem::take(&mut graph.node);
    let mut there = HashSet::new();
    while !waiting.is_empty() {
        let ready: Vec<_> = (0..waiting.len())
            .filter(|&index| {
                let mut used = Vec::new();
                uses(&waiting[index], &mut used);
                used.iter().all(|name| !own.contains(name) || there.contains(name))
            })
            .collect();
        let mut node = waiting.swap_remove(ready[random.next(ready.len())]);
        there.extend(node.output.iter().cloned());
        node.name = Some(random.name());
        node.doc_string = Some(random.name());
        random.shuffle(&mut node.attribute);
        node.graphs_mut().for_each(|inner| shuffle_graph(inner, random));
        graph.node.push(node);
    }
}

fn uses(node: &Node, used: &mut Vec<String>) {
    used.extend(node.input.iter().cloned());
    for inner in node.graphs() {
        inner.node.iter().for_each(|node| uses(node, used));
        used.extend(inner.output.iter().filter_map(|output| output.name.clone()));
    }
}

fn rename(graph: &mut Graph, known: &mut HashMap<String, String>, random: &mut Random) {
    let mut new = |name: &mut String, random: &mut Random| {
        if !name.is_empty() {
            *name = known.entry(name.clone()).or_insert_with(|| random.name()).clone();
        }
    };
    let values = graph.input.iter_mut().chain(&mut graph.output).filter_map(|value| value.name.as_mut());
    let constants = graph.initializer.iter_mut().filter_map(|tensor| tensor.name.as_mut());
    let sparse = graph.sparse_initializer.iter_mut().filter_map(|tensor| tensor.values.as_mut()?.name.as_mut());
    let nodes = graph.node.iter_mut().flat_map(|node| node.input.iter_mut().chain(&mut node.output));
    values.chain(constants).chain(sparse).chain(nodes).for_each(|name| new(name, random));
    graph.node.iter_mut().flat_map(Node::graphs_mut).for_each(|inner| rename(inner, known, random));
}
