//! A program and one model's weights joined again: the graph of a session that is that model's own. A runtime that knows
//! the numbers beforehand lays matrices out for its kernels once. So products that were turned for weights that come at
//! run time, by [`linear`](super::linear) or by the encoders of Hugging Face folders, are turned back.
//!
//! What was laid out is written to a file and given back to the kernels by the session that maps it. How a kernel takes it
//! back is its own affair, so a graph is joined only where every operator that a weight goes into was seen to do that right
//! ([`PRODUCTS`]), or lays nothing out ([`OTHERS`]).

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use engine::{DataType, Error, Result, Tensor};
use prost::Message;

use super::rewriting::{Rewritten, whole, wholes};
use super::roles;
use super::tensor::datatype_number;
use super::wire::{Attribute, Entry, Graph, Model, Node, TensorProto};
use crate::{Manifest, Store};

/// Smaller weights, in bytes, are in the graph itself, as they are in what the runtime writes.
const APART_BYTES_MIN: usize = 1024;
/// Operators that take each element by itself, so that they do not care how a matrix lies.
const ELEMENTWISE: [&str; 5] = ["FastGelu", "Gelu", "QuickGelu", "Relu", "Tanh"];

/// Operators whose matrix is laid out, and mapped as it was.
const PRODUCTS: [&str; 5] = ["FusedGemm", "FusedMatMul", "Gemm", "MatMul", "MatMulIntegerToFloat"];
/// Operators that read weights where they lie.
const OTHERS: [&str; 22] = [
    "Add",
    "BatchNormalization",
    "BiasGelu",
    "Cast",
    "Concat",
    "Div",
    "EmbedLayerNormalization",
    "Expand",
    "FastGelu",
    "Gather",
    "Gelu",
    "InstanceNormalization",
    "LayerNormalization",
    "Mul",
    "MultiHeadAttention",
    "PRelu",
    "Pow",
    "Reshape",
    "SkipLayerNormalization",
    "Slice",
    "Sub",
    "Unsqueeze",
];

/// A graph of its own for one model.
#[derive(Debug)]
pub struct Joined {
    /// Its larger weights are constants whose numbers it says are elsewhere.
    pub graph: Bytes,
    /// Those, by name, mapped where they lie.
    pub weights: Vec<(String, Tensor)>,
}

impl Store {
    /// The program of `manifest`'s first form and its `weights` as one graph.
    ///
    /// # Errors
    /// [`Unsupported`](engine::ErrorKind::Unsupported) when a session of its own would gain the model nothing, or its kernels
    /// could not be given back what they laid out; as [`program`](Self::program).
    pub fn joined(&self, manifest: &Manifest, weights: Vec<Tensor>) -> Result<Joined> {
        let of = |error: Error| error.context(format!("model '{}' version {}", manifest.name, manifest.version));
        self.program(&manifest.program).and_then(|program| join(&program, weights)).map_err(of)
    }
}

/// Joins `program` and `weights`, which are in the order of its last inputs.
///
/// # Errors
/// [`Corrupt`](engine::ErrorKind::Corrupt) when the program is no graph or has fewer inputs.
fn join(program: &[u8], weights: Vec<Tensor>) -> Result<Joined> {
    let corrupt = |what: &str| Error::corrupt(format!("the program {what}; pack the model again"));
    let mut model = Model::decode(program).map_err(|_| corrupt("is no graph"))?;
    let graph = model.graph.as_mut().ok_or_else(|| corrupt("has no graph"))?;
    let inputs = graph.input.len().checked_sub(weights.len());
    let lifted = graph.input.split_off(inputs.ok_or_else(|| corrupt("has fewer inputs than weights"))?);
    let named = lifted.into_iter().map(|input| input.name.unwrap_or_default()).zip(weights);
    let mut weights: Vec<(String, Tensor)> = named.collect();
    suited(graph, &weights)?;
    turn_back(graph, &mut weights)?;
    graph.initializer.extend(weights.iter().map(|(name, weight)| constant(name, weight)));
    weights.retain(|(_, weight)| is_apart(weight));
    Ok(Joined { graph: model.encode_to_vec().into(), weights })
}

/// That there is something to lay out, and nothing that could not be mapped then.
fn suited(graph: &Graph, weights: &[(String, Tensor)]) -> Result<()> {
    let weights: HashMap<&str, &Tensor> = weights.iter().map(|(name, weight)| (&name[..], weight)).collect();
    let (mut products, mut wrong) = (0, None);
    roles::each_node(graph, true, &mut |node, _| {
        for weight in node.input.iter().filter_map(|name| weights.get(&name[..])) {
            let operator = node.operator();
            let halves = matches!(weight.dtype(), DataType::F16 | DataType::Bf16);
            if PRODUCTS.contains(&operator) && !halves {
                products += 1;
            } else if !OTHERS.contains(&operator) || halves && operator.ends_with("Normalization") {
                wrong = Some(format!("{operator} with {:?}", weight.dtype()));
            }
        }
    });
    match wrong {
        Some(what) => {
            Err(Error::unsupported(format!("its graph has {what}, which is not mapped once it was laid out")))
        }
        None if products == 0 => Err(Error::unsupported("its graph has no products to lay weights out for")),
        None => Ok(()),
    }
}

fn is_apart(weight: &Tensor) -> bool {
    weight.data().len() >= APART_BYTES_MIN && weight.dtype() != DataType::Bytes
}

fn constant(name: &str, weight: &Tensor) -> TensorProto {
    let entry = |key: &str, value: String| Entry { key: Some(key.to_owned()), value: Some(value) };
    let mut constant = TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(datatype_number(weight.dtype())),
        dims: weight.shape().iter().map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX)).collect(),
        ..TensorProto::default()
    };
    if is_apart(weight) {
        let bytes = weight.data().len().to_string();
        // No such file: whoever builds the session gives the numbers.
        constant.external_data =
            vec![entry("location", "weights".into()), entry("offset", "0".into()), entry("length", bytes)];
        // 1 is EXTERNAL in TensorProto.DataLocation.
        constant.data_location = Some(1);
    } else {
        constant.raw_data = Some(weight.data().clone());
    }
    constant
}

/// A product `(W·xᵀ)ᵀ` or a part of one.
struct Turned {
    /// Whether `x` has rows, as opposed to columns.
    of_rows: bool,
    bias: Option<String>,
}

/// Rewrites every product of `graph` whose first factor is one of `weights` so that this is the second, and leaves out the
/// steps around it that exchanged rows and columns. Biases that were columns become rows.
fn turn_back(graph: &mut Graph, weights: &mut [(String, Tensor)]) -> Result<()> {
    let uses = uses(graph);
    let shapes: HashMap<&str, &[usize]> = weights.iter().map(|(name, weight)| (&name[..], weight.shape())).collect();
    // By value: the one that it is with rows and columns exchanged.
    let mut exchanged: HashMap<String, String> = HashMap::new();
    let mut new = Rewritten::default();
    let mut rows: HashSet<String> = HashSet::new();
    let swap = || vec![wholes("perm", vec![1, 0])];
    for node in std::mem::take(&mut graph.node) {
        let (Some(first), [output]) = (node.input.first().cloned(), &node.output[..]) else {
            new.nodes.push(node);
            continue;
        };
        let (output, known) = (output.clone(), exchanged.get(&first).cloned());
        if let Some(Turned { of_rows, bias }) = turned(&node, &shapes, &uses) {
            let x = &node.input[1];
            let x = match (of_rows, exchanged.get(x)) {
                (true, _) => x.clone(),
                (false, Some(known)) => known.clone(),
                (false, None) => new.op("Transpose", &[x], &output, "factor", swap()),
            };
            let mut input = vec![&x[..], &first];
            input.extend(bias.as_deref());
            let product = new.op("Gemm", &input, &output, "in rows", vec![whole("transB", 1)]);
            new.push("Transpose", &[&product], output.clone(), swap());
            rows.extend(bias);
            exchanged.insert(output, product);
        } else if let Some(known) = known.as_deref().filter(|_| exchanges(&node)) {
            new.push("Identity", &[known], output, Vec::new());
        } else if let Some(known) = known.filter(|_| ELEMENTWISE.contains(&node.operator()) && node.input.len() == 1) {
            let name = format!("{output} in rows");
            new.nodes.push(Node { input: vec![known], output: vec![name.clone()], ..node });
            new.push("Transpose", &[&name], output.clone(), swap());
            exchanged.insert(output, name);
        } else {
            new.nodes.push(node);
        }
    }
    graph.node = new.nodes;
    leave_out(graph);
    for (_, bias) in weights.iter_mut().filter(|(name, _)| rows.contains(name)) {
        *bias = Tensor::new(bias.dtype(), vec![bias.shape()[0]], bias.data().clone())?;
    }
    Ok(())
}

/// How often each value is used.
fn uses(graph: &Graph) -> HashMap<String, usize> {
    let mut uses = HashMap::new();
    roles::each_node(graph, true, &mut |node, _| {
        node.input.iter().for_each(|name| *uses.entry(name.clone()).or_default() += 1);
    });
    uses
}

fn turned(node: &Node, shapes: &HashMap<&str, &[usize]>, uses: &HashMap<String, usize>) -> Option<Turned> {
    if !(node.is_standard() && node.operator() == "Gemm") {
        return None;
    }
    let shape_of = |at: usize| node.input.get(at).and_then(|name| shapes.get(&name[..]).copied());
    // The second factor is no weight, or nothing would be gained.
    let (&[_, _], None) = (shape_of(0)?, shape_of(1)) else { return None };
    let bias = match (node.input.get(2).filter(|name| !name.is_empty()), shape_of(2)) {
        (None, _) => None,
        (Some(bias), Some(&[_, 1])) if uses.get(bias) == Some(&1) => Some(bias.clone()),
        _ => return None,
    };
    let mut of_rows = false;
    for attribute in &node.attribute {
        match (attribute.name.as_deref(), attribute.i, attribute.f) {
            (Some("transB"), Some(exchanged), _) => of_rows = exchanged != 0,
            (Some("transA"), None | Some(0), _) => {}
            (Some("alpha" | "beta"), _, Some(1.0)) => {}
            _ => return None,
        }
    }
    Some(Turned { of_rows, bias })
}

/// Whether `node` exchanges rows and columns.
fn exchanges(node: &Node) -> bool {
    let is_swap = |attribute: &Attribute| attribute.name.as_deref() == Some("perm") && attribute.ints == [1, 0];
    node.is_standard() && node.operator() == "Transpose" && node.attribute.iter().any(is_swap)
}

/// Leaves out of `graph` what nobody needs the outputs of.
fn leave_out(graph: &mut Graph) {
    let mut needed: HashSet<String> = graph.output.iter().filter_map(|output| output.name.clone()).collect();
    let mut kept = Vec::with_capacity(graph.node.len());
    for node in std::mem::take(&mut graph.node).into_iter().rev() {
        if node.output.iter().any(|output| needed.contains(output)) {
            needed.extend(node.input.iter().cloned());
            for inner in node.graphs() {
                roles::each_node(inner, true, &mut |node, _| needed.extend(node.input.iter().cloned()));
                needed.extend(inner.output.iter().filter_map(|output| output.name.clone()));
            }
            kept.push(node);
        }
    }
    kept.reverse();
    graph.node = kept;
}

#[cfg(test)]
mod tests {
    use engine::onnx::Onnx;
    use engine::{Engine, ErrorKind, Load};

    use super::*;
    use crate::onnx::import::tests::{node, onnx, value};
    use crate::onnx::wire::OpsetId;

    const FLOAT: i32 = 1;

    fn floats(shape: &[usize], seed: usize) -> Tensor {
        let values = (0..shape.iter().product()).map(|index: usize| ((index * 7919 + seed) % 101) as f32 / 50.0 - 1.0);
        Tensor::from_f32(shape.to_vec(), values.collect()).unwrap()
    }

    /// A program of `nodes` from `x`, which has rows of 32, to `y`; its weights have these names and shapes.
    fn program(nodes: Vec<Node>, weights: &[(&str, &[usize])]) -> (Vec<u8>, Vec<Tensor>) {
        let dims = |shape: &[usize]| shape.iter().map(|&dim| i64::try_from(dim).unwrap()).collect::<Vec<_>>();
        let inputs = weights.iter().map(|(name, shape)| value(name, FLOAT, &dims(shape)));
        let graph = Graph {
            name: Some("g".into()),
            node: nodes,
            input: [value("x", FLOAT, &[-1, 32])].into_iter().chain(inputs).collect(),
            output: vec![value("y", FLOAT, &[-1, -2])],
            ..Graph::default()
        };
        let opset = |domain: &str, version| OpsetId { domain: Some(domain.to_owned()), version: Some(version) };
        let opset_import = vec![opset("", 20), opset("com.microsoft", 1)];
        let model = Model { ir_version: Some(9), opset_import, graph: Some(graph), ..Model::default() };
        let numbers = weights.iter().enumerate().map(|(seed, (_, shape))| floats(shape, seed)).collect();
        (model.encode_to_vec(), numbers)
    }

    fn with(node: Node, attribute: Attribute) -> Node {
        Node { attribute: vec![attribute], ..node }
    }

    fn gemm(input: &[&str], output: &str, of_rows: i64) -> Node {
        with(node("Gemm", input, output), whole("transB", of_rows))
    }

    fn swap(input: &str, output: &str) -> Node {
        with(node("Transpose", &[input], output), wholes("perm", vec![1, 0]))
    }

    /// The operators of the graph that is joined of it, which answers as the program does.
    fn operators(onnx: &Onnx, nodes: Vec<Node>, shapes: &[(&str, &[usize])]) -> Vec<String> {
        let (program, weights) = program(nodes, shapes);
        let run = |session: &dyn engine::Session, weights: Vec<Tensor>| {
            session.run(onnx.bind(weights).unwrap().as_ref(), &[floats(&[3, 32], 9)], &[0]).unwrap().remove(0)
        };
        let shared = onnx.session(&program, weights.len(), Load::AsIs).unwrap();
        let want = run(shared.as_ref(), weights.clone());
        let joined = join(&program, weights).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let own = joined.session(onnx, folder.path()).unwrap();
        drop(folder);
        let got = run(own.session.as_ref(), Vec::new());
        assert_eq!(got.shape(), want.shape());
        let pairs = got.as_f32().unwrap().iter().zip(want.as_f32().unwrap());
        assert!(pairs.clone().all(|(got, want)| (got - want).abs() < 1e-4), "{got:?} {want:?}");
        let graph = Model::decode(&joined.graph[..]).unwrap().graph.unwrap();
        assert!(graph.input.len() == 1 && graph.initializer.len() == shapes.len());
        graph.node.iter().map(|node| node.operator().to_owned()).collect()
    }

    #[test]
    fn products_are_turned_back_and_what_was_around_them_goes() {
        let onnx = onnx();
        let single = vec![gemm(&["w", "x"], "p", 1), swap("p", "y")];
        assert_eq!(operators(&onnx, single, &[("w", &[48, 32])]), ["Gemm", "Identity"]);
        // As an encoder of a Hugging Face folder: columns all the way, biases as columns.
        let chain = vec![
            gemm(&["up", "x", "b"], "p", 1),
            node("Relu", &["p"], "r"),
            gemm(&["down", "r", "c"], "q", 0),
            swap("q", "y"),
        ];
        let weights: [(&str, &[usize]); 4] = [("up", &[65, 32]), ("b", &[65, 1]), ("down", &[16, 65]), ("c", &[16, 1])];
        assert_eq!(operators(&onnx, chain, &weights), ["Gemm", "Relu", "Gemm", "Identity"]);
        // Columns that somebody wants as columns, and a factor that comes as such.
        let columns = vec![swap("x", "t"), gemm(&["w", "t"], "y", 0)];
        let kept = operators(&onnx, columns, &[("w", &[48, 32])]);
        assert_eq!(kept, ["Transpose", "Transpose", "Gemm", "Transpose"]);
        // A bias that two share keeps its shape, and its product.
        let shared = vec![gemm(&["w", "x", "b"], "p", 1), node("Add", &["p", "b"], "y")];
        assert_eq!(operators(&onnx, shared, &[("w", &[48, 32]), ("b", &[48, 1])]), ["Gemm", "Add"]);
        // What was never turned stays as it is.
        let name = Some("activation".to_owned());
        let relu = Attribute { name, s: Some(Bytes::from_static(b"Relu")), r#type: Some(3), ..Attribute::default() };
        let fused = with(node("FusedGemm", &["x", "w", "b"], "y"), relu);
        let fused = Node { domain: Some("com.microsoft".to_owned()), ..fused };
        assert_eq!(operators(&onnx, vec![fused], &[("w", &[32, 48]), ("b", &[48])]), ["FusedGemm"]);
        let plain = vec![node("MatMul", &["x", "w"], "y")];
        assert_eq!(operators(&onnx, plain, &[("w", &[32, 48])]), ["MatMul"]);
    }

    #[test]
    fn a_list_of_odd_length_moves_nobody_off_his_vectors() {
        // 301 numbers lie before the matrix; where that would begin no vector may.
        let nodes = vec![
            gemm(&["v", "x"], "p", 1),
            swap("p", "q"),
            node("Add", &["q", "odd"], "r"),
            node("MatMul", &["r", "w"], "s"),
            node("MatMul", &["s", "z"], "y"),
        ];
        let weights: [(&str, &[usize]); 4] = [("v", &[301, 32]), ("odd", &[301]), ("w", &[301, 77]), ("z", &[77, 53])];
        assert_eq!(operators(&onnx(), nodes, &weights), ["Gemm", "Identity", "Add", "MatMul", "MatMul"]);
    }

    #[test]
    fn what_would_gain_nothing_or_was_never_seen_is_not_joined() {
        for (nodes, shape, says) in [
            (vec![node("Add", &["x", "w"], "y")], &[32][..], "no products"),
            (vec![node("PRelu", &["x", "w"], "y")], &[32], "no products"),
            (vec![node("Einsum", &["x", "w"], "y")], &[32, 48], "Einsum"),
        ] {
            let (program, weights) = program(nodes, &[("w", shape)]);
            let error = join(&program, weights).unwrap_err();
            assert!(error.kind == ErrorKind::Unsupported && error.message.contains(says), "{error}");
        }
        assert_eq!(join(b"no graph", Vec::new()).unwrap_err().kind, ErrorKind::Corrupt);
        let (program, _) = program(vec![node("Relu", &["x"], "y")], &[]);
        assert_eq!(join(&program, vec![floats(&[1], 0); 2]).unwrap_err().kind, ErrorKind::Corrupt);
    }
}
