//! The canonical form: a program says nothing of what its exporter called things or in which order it wrote them, so
//! that two fine-tunes of one architecture give the same bytes.
//!
//! A graph's inputs and outputs are in an order that callers see, and so are the inputs of each node. A walk from the
//! outputs back to what they need, depth first, therefore meets every node at the same point whatever the file's order
//! was: no two nodes are alike to it. What the walk does not meet computes nothing.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use engine::DataType;

use super::lift::Weight;
use super::tensor::datatype;
use super::wire::{Dim, Graph, Model, Node, OpsetId, Shape, TensorProto, TensorType, Type, ValueInfo};

/// The version of the format that programs are written in: what it changed after the fourth, by which constants are no
/// inputs, are types of elements.
const IR_VERSION: i64 = 10;

/// Brings `model` into its canonical form, with `weights` as its last inputs, in their order of use. Every value of the
/// model must have a name of its own, and every constant its numbers within. Returns the names that were given.
pub(crate) fn canonicalise(model: &mut Model, weights: &mut Vec<Weight>) -> Names {
    let mut names = Names::default();
    let Some(graph) = &mut model.graph else { return names };
    plain(graph);
    merge_constants(graph);
    order(graph);
    names.graph(graph);
    weights.retain_mut(|weight| names.known_name(&mut weight.tensor.name));
    weights.sort_by_key(|weight| number(weight.tensor.name.as_deref()));
    graph.input.extend(weights.iter().map(declaration));

    let mut domains = HashSet::new();
    super::roles::each_node(graph, true, &mut |node, _| {
        domains.insert(node.domain.clone().unwrap_or_default());
    });
    let mut opsets: Vec<OpsetId> = std::mem::take(&mut model.opset_import);
    for opset in &mut opsets {
        opset.domain = Some(standard_is_empty(opset.domain.take()).unwrap_or_default());
    }
    // A model names the format's own operators even when it uses none.
    opsets.retain(|opset| opset.domain.as_deref().is_some_and(|name| name.is_empty() || domains.contains(name)));
    opsets.sort_by(|a, b| a.domain.cmp(&b.domain));
    *model = Model {
        ir_version: model.ir_version.max(Some(IR_VERSION)),
        producer_name: Some("packhorse".to_owned()),
        graph: model.graph.take(),
        opset_import: opsets,
        ..Model::default()
    };
    names
}

/// Drops names, notes and hints that do not compute, and writes what remains in one way.
fn plain(graph: &mut Graph) {
    graph.name = Some("g".to_owned());
    graph.doc_string = None;
    graph.metadata_props.clear();
    graph.value_info.clear();
    graph.quantization_annotation.clear();
    for value in graph.input.iter_mut().chain(&mut graph.output) {
        value.doc_string = None;
        if let Some(r#type) = &mut value.r#type {
            r#type.denotation = None;
        }
    }
    graph.initializer.iter_mut().for_each(plain_tensor);
    for node in &mut graph.node {
        node.name = None;
        node.doc_string = None;
        node.metadata_props.clear();
        node.domain = standard_is_empty(node.domain.take());
        while node.input.last().is_some_and(String::is_empty) {
            node.input.pop();
        }
        node.attribute.sort_by(|a, b| a.name.cmp(&b.name));
        for attribute in &mut node.attribute {
            attribute.doc_string = None;
            for tensor in attribute.t.iter_mut().chain(&mut attribute.tensors) {
                plain_tensor(tensor);
                tensor.name = None;
            }
        }
        node.graphs_mut().for_each(plain);
    }
}

fn standard_is_empty(domain: Option<String>) -> Option<String> {
    domain.filter(|name| !name.is_empty() && name != "ai.onnx")
}

/// The format has two places for a tensor's numbers; strings alone have only one.
fn plain_tensor(tensor: &mut TensorProto) {
    tensor.doc_string = None;
    if tensor.raw_data.is_some() || tensor.data_type.and_then(datatype) == Some(DataType::Bytes) {
        return;
    }
    if let Ok(read) = super::tensor::read(tensor, std::path::Path::new("")) {
        *tensor = TensorProto {
            name: tensor.name.take(),
            dims: std::mem::take(&mut tensor.dims),
            data_type: tensor.data_type,
            raw_data: Some(read.data().clone()),
            ..TensorProto::default()
        };
    }
}

/// Makes one of equal constants of a graph: whether an exporter shares them is its own affair.
fn merge_constants(graph: &mut Graph) {
    let mut first: HashMap<(Option<i32>, Vec<i64>, Bytes), Option<String>> = HashMap::new();
    let mut same: HashMap<String, String> = HashMap::new();
    for tensor in &graph.initializer {
        let (Some(data), Some(name)) = (&tensor.raw_data, &tensor.name) else { continue };
        let kept = first.entry((tensor.data_type, tensor.dims.clone(), data.clone()));
        if let Some(kept) = kept.or_insert_with(|| tensor.name.clone()).as_ref().filter(|kept| *kept != name) {
            same.insert(name.clone(), kept.clone());
        }
    }
    if !same.is_empty() {
        rename_uses(graph, &same);
    }
    graph.node.iter_mut().flat_map(Node::graphs_mut).for_each(merge_constants);
}

fn rename_uses(graph: &mut Graph, same: &HashMap<String, String>) {
    let outputs = graph.output.iter_mut().filter_map(|output| output.name.as_mut());
    for name in graph.node.iter_mut().flat_map(|node| &mut node.input).chain(outputs) {
        if let Some(kept) = same.get(name) {
            name.clone_from(kept);
        }
    }
    graph.node.iter_mut().flat_map(Node::graphs_mut).for_each(|inner| rename_uses(inner, same));
}

/// Orders the nodes of `graph` as the walk from its outputs leaves them, and drops those that it does not meet.
/// Returns the names that the graph uses and does not define, in the order of the walk.
fn order(graph: &mut Graph) -> Vec<String> {
    let captured: Vec<Vec<String>> =
        graph.node.iter_mut().map(|node| node.graphs_mut().flat_map(order).collect()).collect();
    let producers: HashMap<&str, usize> = graph
        .node
        .iter()
        .enumerate()
        .flat_map(|(index, node)| node.output.iter().map(move |name| (name.as_str(), index)))
        .collect();
    let needs = |index: usize| -> Vec<usize> {
        let names = graph.node[index].input.iter().chain(&captured[index]);
        names.filter_map(|name| producers.get(name.as_str()).copied()).collect()
    };
    let mut placed = Vec::with_capacity(graph.node.len());
    let mut met = vec![false; graph.node.len()];
    // Graphs are thousands of nodes deep, so the walk keeps its own stack.
    let mut open: Vec<std::vec::IntoIter<usize>> = Vec::new();
    let mut path = Vec::new();
    let wanted = graph.output.iter().filter_map(|output| producers.get(output.name.as_deref()?).copied());
    open.push(wanted.collect::<Vec<_>>().into_iter());
    while let Some(next) = open.last_mut() {
        match next.next() {
            Some(index) if !met[index] => {
                met[index] = true;
                path.push(index);
                open.push(needs(index).into_iter());
            }
            Some(_) => {}
            None => {
                open.pop();
                placed.extend(path.pop());
            }
        }
    }
    drop(producers);
    let mut nodes: Vec<_> = std::mem::take(&mut graph.node).into_iter().map(Some).collect();
    graph.node = placed.iter().filter_map(|&index| nodes[index].take()).collect();
    free_names(graph, &placed, &captured)
}

fn free_names(graph: &Graph, placed: &[usize], captured: &[Vec<String>]) -> Vec<String> {
    let defined: HashSet<&String> = graph
        .input
        .iter()
        .filter_map(|value| value.name.as_ref())
        .chain(graph.initializer.iter().filter_map(|tensor| tensor.name.as_ref()))
        .chain(graph.node.iter().flat_map(|node| &node.output))
        .collect();
    let inner = placed.iter().filter_map(|&index| captured.get(index));
    let used = graph.node.iter().zip(inner).flat_map(|(node, captured)| node.input.iter().chain(captured));
    used.filter(|name| !defined.contains(name)).cloned().collect()
}

/// The names that the canonical form gave.
#[derive(Default)]
pub(crate) struct Names {
    known: HashMap<String, String>,
    /// Symbolic dimensions have names too; equal ones stay equal.
    sizes: HashMap<String, String>,
}

impl Names {
    /// The names that the exporter gave, by those of the program.
    pub(crate) fn originals(&self) -> HashMap<&str, &str> {
        self.known.iter().map(|(old, new)| (&new[..], &old[..])).collect()
    }

    /// `text`, which speaks of a program, in the words of the file that the program was made from.
    pub(crate) fn translate(&self, text: &str) -> String {
        let old = self.originals();
        let parts = text.split_inclusive(|letter: char| !letter.is_ascii_alphanumeric());
        let translated = parts.map(|part| {
            let word = part.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
            old.get(word).map_or_else(|| part.to_owned(), |old| format!("{old}{}", &part[word.len()..]))
        });
        translated.collect()
    }

    fn graph(&mut self, graph: &mut Graph) {
        for value in &mut graph.input {
            self.value(value);
        }
        for node in &mut graph.node {
            node.input.iter_mut().for_each(|name| self.name(name));
            node.graphs_mut().for_each(|inner| self.graph(inner));
            node.output.iter_mut().for_each(|name| self.name(name));
        }
        for value in &mut graph.output {
            self.value(value);
        }
        // By now each constant that is used has met its use.
        graph.initializer.retain_mut(|tensor| self.known_name(&mut tensor.name));
        graph.initializer.sort_by_key(|tensor| number(tensor.name.as_deref()));
    }

    fn value(&mut self, value: &mut ValueInfo) {
        if let Some(name) = &mut value.name {
            self.name(name);
        }
        let tensor = value.r#type.as_mut().and_then(|r#type| r#type.tensor_type.as_mut());
        for dim in tensor.and_then(|tensor| tensor.shape.as_mut()).into_iter().flat_map(|shape| &mut shape.dim) {
            self.dim(dim);
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

    /// Renames what was met; says whether it was.
    fn known_name(&self, name: &mut Option<String>) -> bool {
        *name = name.as_ref().and_then(|name| self.known.get(name)).cloned();
        name.is_some()
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

/// The number in a canonical name.
fn number(name: Option<&str>) -> usize {
    name.and_then(|name| name.strip_prefix('v')?.parse().ok()).unwrap_or(usize::MAX)
}

/// The input that stands for `weight`.
fn declaration(weight: &Weight) -> ValueInfo {
    let tensor = &weight.tensor;
    let (elem_type, dims) = weight.made.declared(tensor.data_type, &tensor.dims);
    let dim = dims.into_iter().map(|size| Dim { dim_value: Some(size), ..Dim::default() }).collect();
    let tensor_type = TensorType { elem_type, shape: Some(Shape { dim }) };
    ValueInfo {
        name: tensor.name.clone(),
        r#type: Some(Type { tensor_type: Some(tensor_type), ..Type::default() }),
        doc_string: None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::onnx::lift::lift;
    use crate::onnx::scramble::scramble;
    use crate::onnx::{linear, sparse};

    /// The program and the hashes of its weights.
    fn program(model: Model) -> (Vec<u8>, Vec<blake3::Hash>) {
        let mut model = model;
        sparse::densify(model.graph.as_mut().unwrap(), Path::new("")).unwrap();
        let mut lifted = lift(model).unwrap();
        linear::rewrite(&mut lifted.program, &mut lifted.weights);
        canonicalise(&mut lifted.program, &mut lifted.weights);
        let weights = lifted
            .weights
            .iter()
            .map(|weight| blake3::hash(crate::onnx::tensor::read(&weight.tensor, Path::new("")).unwrap().data()));
        (lifted.program.encode_to_vec(), weights.collect())
    }

    fn asset(name: &str) -> Model {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets").join(name);
        Model::decode(Bytes::from(std::fs::read(path).unwrap())).unwrap()
    }

    #[test]
    fn names_and_order_of_a_real_graph_do_not_matter() {
        // The last has loops and branches.
        for file in ["bert_tiny_qa.onnx", "nanodet_g_coco80.onnx", "person_ssdlite_odapi.onnx"] {
            let model = asset(file);
            let want = program(model.clone());
            assert!(want.1.len() > 10, "{file}: {} weights", want.1.len());
            proptest!(ProptestConfig::with_cases(8), |(seed: u64)| {
                let got = program(scramble(&model, seed));
                prop_assert!(got == want, "{file} scrambled by {seed} is another program");
            });
        }
    }

    #[test]
    fn another_graph_is_another_program() {
        let model = asset("bert_tiny_qa.onnx");
        let (want, _) = program(model.clone());
        let mut seen = HashSet::from([want]);
        let count = model.graph.as_ref().unwrap().node.len();
        for index in 0..count {
            let mut other = model.clone();
            let node = &mut other.graph.as_mut().unwrap().node[index];
            let was = node.clone();
            match node.operator() {
                "Add" => node.op_type = Some("Sub".to_owned()),
                "MatMul" => node.input.swap(0, 1),
                "Transpose" => node.attribute[0].ints.reverse(),
                _ => continue,
            }
            if *node != was {
                assert!(seen.insert(program(other).0), "node {index} {:?} changed nothing", was.op_type);
            }
        }
        assert!(seen.len() > 20, "{} programs", seen.len());
    }

    #[test]
    fn a_message_is_told_in_the_files_words() {
        let known = [("bert/query", "v1"), ("w", "v12")].map(|(old, new)| (old.to_owned(), new.to_owned()));
        let names = Names { known: known.into(), ..Names::default() };
        assert_eq!(names.translate("Add(v1,v12): 'v12' v3 conv1 v1"), "Add(bert/query,w): 'w' v3 conv1 bert/query");
    }

    #[test]
    fn what_no_answer_needs_is_dropped_and_equal_constants_are_one() {
        let value = |name: &str| ValueInfo { name: Some(name.to_owned()), ..ValueInfo::default() };
        let node = |operator: &str, input: &[&str], output: &str| Node {
            op_type: Some(operator.to_owned()),
            input: input.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output.to_owned()],
            ..Node::default()
        };
        let shape = |name: &str, raw: bool| TensorProto {
            name: Some(name.to_owned()),
            data_type: Some(7),
            dims: vec![1],
            raw_data: raw.then(|| Bytes::from_static(&[9, 0, 0, 0, 0, 0, 0, 0])),
            int64_data: if raw { Vec::new() } else { vec![9] },
            ..TensorProto::default()
        };
        let of = |constants: Vec<TensorProto>, other: &str, dead: bool| {
            let mut nodes = vec![node("Reshape", &["x", "s"], "a"), node("Reshape", &["a", other, ""], "y")];
            if dead {
                nodes.insert(0, node("Neg", &["x"], "unused"));
            }
            Model {
                graph: Some(Graph {
                    node: nodes,
                    initializer: constants,
                    input: vec![value("x")],
                    output: vec![value("y")],
                    ..Graph::default()
                }),
                ..Model::default()
            }
        };
        let want = program(of(vec![shape("s", true)], "s", false));
        assert_eq!(program(of(vec![shape("t", false), shape("s", true)], "t", true)), want);
    }
}
