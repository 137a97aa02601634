//! A program cut in two where models that share most of their weights part: the *trunk*, which runs on what they share, and
//! the *head*, which runs on what each has of its own. Requests for any of these models run through the trunk together, and
//! only then each model's through its head.
//!
//! The cut goes where the first weight of a model's own comes in. Steps that only look at shapes or move numbers about go
//! to the head with what they are for, so that what passes between the two is rows of items and nothing else.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use engine::{Engine, Error, Load, Result, Session, Tensor, TensorSpec, Weights};
use prost::Message;

use super::probe::{SIZES, close, seeded};
use super::roles;
use super::tensor::datatype_number;
use super::wire::{Dim, Graph, Model, Node, Shape, TensorType, Type, ValueInfo};
use crate::{Manifest, Store};

/// Operators that compute nothing: they say how large something is, or put its numbers elsewhere.
const LIGHT: [&str; 17] = [
    "Cast",
    "Concat",
    "ConstantOfShape",
    "Equal",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Range",
    "Reshape",
    "Shape",
    "Size",
    "Slice",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
    "Where",
];

/// A program in two parts.
#[derive(Debug)]
pub struct Cut {
    trunk: Model,
    head: Model,
    /// Which of the program's weights the trunk takes, in its order.
    pub trunk_weights: Vec<usize>,
    /// Which of them the head takes, in its order; those of a model's own among them.
    pub head_weights: Vec<usize>,
    /// Which of the program's inputs the head takes as well.
    head_inputs: Vec<usize>,
}

/// Both parts, ready to run on one lane.
pub struct Halves {
    trunk: Box<dyn Session>,
    head: Box<dyn Session>,
    head_inputs: Vec<usize>,
    /// Every output of the trunk.
    between: Vec<usize>,
}

/// Neighbouring items of one model, and the weights of its head.
#[derive(Clone, Copy)]
pub struct Group<'a> {
    /// How many.
    pub items: usize,
    /// As [`Cut::head_weights`] says.
    pub head: &'a dyn Weights,
}

/// A model to hold both parts against the whole with.
#[derive(Clone, Copy)]
pub struct Example<'a> {
    /// All of its weights, for the program.
    pub whole: &'a dyn Weights,
    /// As [`Cut::head_weights`] says.
    pub head: &'a dyn Weights,
}

impl Store {
    /// The program of `manifest`'s first form, cut where the weights come in that are `own`, by their place in it.
    ///
    /// # Errors
    /// [`Unsupported`](engine::ErrorKind::Unsupported) when nothing is left for the trunk or the head, or when models that
    /// share their trunk would share an answer; as [`program`](Self::program).
    pub fn cut(&self, manifest: &Manifest, own: &[bool]) -> Result<Cut> {
        let of = |error: Error| error.context(format!("model '{}' version {}", manifest.name, manifest.version));
        self.program(&manifest.program).and_then(|program| cut(&program, own)).map_err(of)
    }
}

/// Which part a node belongs to.
#[derive(Clone, Copy, Default)]
struct Parts {
    trunk: bool,
    head: bool,
}

fn cut(program: &[u8], own: &[bool]) -> Result<Cut> {
    let corrupt = |what: &str| Error::corrupt(format!("the program {what}; pack the model again"));
    let model = Model::decode(program).map_err(|_| corrupt("is no graph"))?;
    let graph = model.graph.as_ref().ok_or_else(|| corrupt("has no graph"))?;
    let inputs = graph.input.len().checked_sub(own.len());
    let (inputs, weights) = graph.input.split_at(inputs.ok_or_else(|| corrupt("has fewer inputs than weights"))?);
    if !graph.sparse_initializer.is_empty() {
        return Err(Error::unsupported("its graph holds sparse constants"));
    }
    let needs: Vec<HashSet<&str>> = graph.node.iter().map(needs).collect();
    let parts = parts(graph, &needs, weights, own)?;
    let used = |wanted: fn(&Parts) -> bool| -> HashSet<&str> {
        let those = parts.iter().zip(&needs).filter(|(part, _)| wanted(part));
        those.flat_map(|(_, needs)| needs.iter().copied()).collect()
    };
    let (of_trunk, of_head) = (used(|part| part.trunk), used(|part| part.head));
    let made = |wanted: fn(&Parts) -> bool| -> Vec<&str> {
        let those = parts.iter().zip(&graph.node).filter(|(part, _)| wanted(part));
        those.flat_map(|(_, node)| node.output.iter().map(String::as_str)).filter(|name| !name.is_empty()).collect()
    };
    let by_head: HashSet<&str> = made(|part| part.head).into_iter().collect();
    let crosses = |name: &&str| of_head.contains(name) && !by_head.contains(name);
    let between: Vec<&str> = made(|part| part.trunk).into_iter().filter(crosses).collect();
    if graph.output.iter().any(|output| !by_head.contains(name(output))) {
        return Err(Error::unsupported("one of its outputs does not depend on what the models have of their own"));
    }
    let places = |of: &[ValueInfo], used: &HashSet<&str>| -> Vec<usize> {
        of.iter().enumerate().filter(|(_, value)| used.contains(name(value))).map(|(place, _)| place).collect()
    };
    let (trunk_weights, head_weights) = (places(weights, &of_trunk), places(weights, &of_head));
    let head_inputs = places(inputs, &of_head);
    if between.is_empty() || trunk_weights.is_empty() {
        return Err(Error::unsupported("nothing is left that the models could run together"));
    }
    let part = |wanted: fn(&Parts) -> bool, used: &HashSet<&str>, input: Vec<ValueInfo>, output: Vec<ValueInfo>| {
        let nodes = parts.iter().zip(&graph.node).filter(|(part, _)| wanted(part));
        let constants =
            graph.initializer.iter().filter(|constant| used.contains(constant.name.as_deref().unwrap_or("")));
        let (node, initializer) = (nodes.map(|(_, node)| node.clone()).collect(), constants.cloned().collect());
        let graph = Graph { node, initializer, input, output, name: graph.name.clone(), ..Graph::default() };
        Model { graph: Some(graph), ..model.clone() }
    };
    let chosen = |of: &[ValueInfo], places: &[usize]| places.iter().map(|&place| of[place].clone()).collect::<Vec<_>>();
    let outputs = between.iter().map(|&name| ValueInfo { name: Some(name.to_owned()), ..ValueInfo::default() });
    let trunk_inputs = [inputs.to_vec(), chosen(weights, &trunk_weights)].concat();
    let trunk = part(|part| part.trunk, &of_trunk, trunk_inputs, outputs.collect());
    let beside = [chosen(inputs, &head_inputs), chosen(weights, &head_weights)].concat();
    let head = part(|part| part.head, &of_head, beside, graph.output.clone());
    Ok(Cut { trunk, head, trunk_weights, head_weights, head_inputs })
}

fn name(value: &ValueInfo) -> &str {
    value.name.as_deref().unwrap_or("")
}

/// What `node` reads, the graphs inside it too.
fn needs(node: &Node) -> HashSet<&str> {
    let mut needs: HashSet<&str> = node.input.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    for inner in node.graphs() {
        roles::each_node(inner, true, &mut |node, _| needs.extend(node.input.iter().map(String::as_str)));
        needs.extend(inner.output.iter().map(name));
    }
    needs
}

/// Which part each node of `graph` belongs to. Nodes are in the order in which they run, as the format wants them.
fn parts(graph: &Graph, needs: &[HashSet<&str>], weights: &[ValueInfo], own: &[bool]) -> Result<Vec<Parts>> {
    let mut of_own: HashSet<&str> =
        weights.iter().zip(own).filter(|(_, own)| **own).map(|(weight, _)| name(weight)).collect();
    let mut parts = vec![Parts::default(); graph.node.len()];
    for ((node, needs), part) in graph.node.iter().zip(needs).zip(&mut parts) {
        part.head = !needs.is_disjoint(&of_own);
        part.trunk = !part.head;
        if part.head {
            of_own.extend(node.output.iter().map(String::as_str));
        }
    }
    if parts.iter().all(|part| part.trunk) {
        return Err(Error::unsupported("the models have nothing of their own"));
    }
    let weights: HashSet<&str> = weights.iter().map(name).collect();
    let mut users: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, needs) in needs.iter().enumerate() {
        needs.iter().for_each(|&name| users.entry(name).or_default().push(at));
    }
    for at in (0..graph.node.len()).rev().filter(|&at| LIGHT.contains(&graph.node[at].operator())) {
        if parts[at].head || !needs[at].is_disjoint(&weights) {
            continue;
        }
        let users = graph.node[at].output.iter().filter_map(|output| users.get(output.as_str())).flatten();
        let (trunk, head) =
            users.fold((false, false), |(trunk, head), &user| (trunk || parts[user].trunk, head || parts[user].head));
        // What both need of it both work out.
        parts[at] = Parts { trunk: trunk || !head, head };
    }
    Ok(parts)
}

impl Cut {
    /// Bytes of both parts as graphs: the least that a session of each takes.
    pub fn encoded_bytes(&self) -> u64 {
        (self.trunk.encoded_len() + self.head.encoded_len()) as u64
    }

    /// Both parts as sessions of `engine`.
    ///
    /// # Errors
    /// As [`Engine::session`].
    pub fn halves(&self, engine: &dyn Engine) -> Result<Halves> {
        let trunk = engine.session(&self.trunk.encode_to_vec(), self.trunk_weights.len(), Load::AsIs)?;
        let between = &trunk.signature().outputs;
        let mut head = self.head.clone();
        if let Some(graph) = head.graph.as_mut() {
            graph.input.splice(0..0, between.iter().map(declared));
        }
        let head = engine.session(&head.encode_to_vec(), self.head_weights.len(), Load::AsIs)?;
        let between = (0..between.len()).collect();
        Ok(Halves { trunk, head, head_inputs: self.head_inputs.clone(), between })
    }
}

/// An input that takes what `spec` is.
fn declared(spec: &TensorSpec) -> ValueInfo {
    let shape = (!spec.any_rank).then(|| Shape { dim: vec![Dim::default(); spec.shape.len()] });
    let tensor_type = TensorType { elem_type: Some(datatype_number(spec.dtype)), shape };
    let r#type = Some(Type { tensor_type: Some(tensor_type), ..Type::default() });
    ValueInfo { name: Some(spec.name.clone()), r#type, doc_string: None }
}

impl Halves {
    /// Runs `inputs`, the items of all `groups` one after the other, through the trunk on its `weights`, and then each group
    /// through its own head: by group, the `outputs` of the program.
    ///
    /// # Errors
    /// As [`Session::run`]; [`Internal`](engine::ErrorKind::Internal) when what comes out of the trunk is not rows of items.
    pub fn run(
        &self,
        weights: &dyn Weights,
        inputs: &[Tensor],
        groups: &[Group<'_>],
        outputs: &[usize],
    ) -> Result<Vec<Vec<Tensor>>> {
        let total = groups.iter().map(|group| group.items).sum();
        let between = self.trunk.run(weights, inputs, &self.between)?;
        let mut start = 0;
        let answer = |group: &Group<'_>| {
            let items = start..start + group.items;
            start = items.end;
            let beside = self.head_inputs.iter().map(|&input| &inputs[input]);
            let rows = between.iter().chain(beside).map(|whole| rows(whole, items.clone(), total));
            self.head.run(group.head, &rows.collect::<Result<Vec<_>>>()?, outputs)
        };
        groups.iter().map(answer).collect()
    }

    /// That items of two `examples` in one run answer as each does alone on the `whole` program, as far as made-up ones
    /// tell; `weights` are the trunk's.
    ///
    /// # Errors
    /// The reason, for a person, when they do not.
    pub fn check(
        &self,
        weights: &dyn Weights,
        whole: &dyn Session,
        examples: [Example<'_>; 2],
    ) -> std::result::Result<(), String> {
        const SEED: u64 = 23;
        let signature = whole.signature();
        let all: Vec<usize> = (0..signature.outputs.len()).collect();
        let [one, other] = examples;
        // Two of one model and one of the other.
        let models = [one, one, other];
        let mut refusal = String::new();
        for (_, size) in SIZES {
            let item = |(at, model): (usize, &Example<'_>)| {
                let inputs = seeded(signature, 1, size, SEED + 100 * at as u64)?;
                let outputs = whole.run(model.whole, &inputs, &all)?;
                Ok((inputs, outputs))
            };
            let items: Vec<(Vec<Tensor>, Vec<Tensor>)> =
                match models.iter().enumerate().map(item).collect::<Result<_>>() {
                    Ok(items) => items,
                    Err(error) => {
                        refusal = error.message;
                        continue;
                    }
                };
            let join = |index| Tensor::joined(&items.iter().map(|(inputs, _)| &inputs[index]).collect::<Vec<_>>());
            let inputs: Vec<Tensor> =
                (0..signature.inputs.len()).map(join).collect::<Result<_>>().map_err(|error| error.message)?;
            let groups = [(2, one), (1, other)].map(|(items, model)| Group { items, head: model.head });
            let answers = self.run(weights, &inputs, &groups, &all).map_err(|error| error.message)?;
            let apart = |(group, within, total): (usize, usize, usize)| {
                answers[group].iter().map(|whole| rows(whole, within..within + 1, total)).collect::<Result<Vec<_>>>()
            };
            for ((_, want), place) in items.iter().zip([(0, 0, 2), (0, 1, 2), (1, 0, 1)]) {
                let got = apart(place).map_err(|error| error.message)?;
                if !want.iter().zip(&got).all(|(want, got)| close(want, got)) {
                    return Err("cut in two, its program answers something else".to_owned());
                }
            }
            return Ok(());
        }
        Err(format!("no made-up input was accepted, so it could not be checked ({refusal})"))
    }
}

/// The rows of these items out of `whole`, which are of `total` items: as many of each.
///
/// # Errors
/// [`Internal`](engine::ErrorKind::Internal) when there are not as many of each.
fn rows(whole: &Tensor, items: Range<usize>, total: usize) -> Result<Tensor> {
    let all = whole.shape().first().copied().unwrap_or(0);
    if total == 0 || whole.shape().is_empty() || all % total != 0 || whole.dtype().size_bytes().is_none() {
        return Err(Error::internal(format!("{total} items became a tensor of shape {:?}", whole.shape())));
    }
    let (each, bytes) = (all / total, whole.data().len() / total);
    let mut shape = whole.shape().to_vec();
    shape[0] = each * items.len();
    Tensor::new(whole.dtype(), shape, whole.data().slice(items.start * bytes..items.end * bytes))
}

#[cfg(test)]
mod tests {
    use engine::ErrorKind;
    use engine::onnx::Onnx;

    use super::*;
    use crate::onnx::import::tests::{node, onnx, value};
    use crate::onnx::wire::OpsetId;

    const FLOAT: i32 = 1;

    fn floats(shape: &[usize], seed: usize) -> Tensor {
        let values =
            (0..shape.iter().product()).map(|index: usize| ((index * 7919 + seed * 31) % 101) as f32 / 50.0 - 1.0);
        Tensor::from_f32(shape.to_vec(), values.collect()).unwrap()
    }

    /// A program from `x`, [items, 2, 8], on a trunk of `v` and `b`, and on `w` behind it.
    fn program(nodes: Vec<Node>) -> Vec<u8> {
        let graph = Graph {
            name: Some("g".into()),
            node: nodes,
            input: vec![
                value("x", FLOAT, &[-1, 2, 8]),
                value("v", FLOAT, &[8, 8]),
                value("b", FLOAT, &[8]),
                value("w", FLOAT, &[8, 3]),
            ],
            output: vec![value("y", FLOAT, &[-1, 2, 3])],
            ..Graph::default()
        };
        let opset = OpsetId { domain: Some(String::new()), version: Some(17) };
        Model { ir_version: Some(8), opset_import: vec![opset], graph: Some(graph), ..Model::default() }.encode_to_vec()
    }

    /// As packed programs are: rows are laid flat for a product, and folded back by the shape that they had.
    fn flat() -> Vec<Node> {
        vec![
            node("MatMul", &["x", "v"], "p"),
            node("Add", &["p", "b"], "q"),
            node("Shape", &["q"], "shape"),
            node("Relu", &["q"], "r"),
            node("Transpose", &["r"], "t"),
            node("Transpose", &["t"], "u"),
            node("MatMul", &["u", "w"], "s"),
            node("Shape", &["s"], "there"),
            node("Equal", &["shape", "shape"], "same"),
            node("Where", &["same", "there", "shape"], "so"),
            node("Reshape", &["s", "so"], "y"),
        ]
    }

    fn operators(part: &Model) -> Vec<&str> {
        part.graph.as_ref().unwrap().node.iter().map(Node::operator).collect()
    }

    /// Both parts of `nodes` answer for two models as the whole does.
    fn check(onnx: &Onnx, nodes: Vec<Node>, own: [bool; 3]) -> Result<Cut> {
        let program = program(nodes);
        let cut = cut(&program, &own)?;
        let halves = cut.halves(onnx)?;
        let whole = onnx.session(&program, own.len(), Load::AsIs)?;
        let of = |seed: usize| -> Vec<Tensor> {
            let shapes: [&[usize]; 3] = [&[8, 8], &[8], &[8, 3]];
            let seed = |own: bool, at: usize| if own { 10 * seed + at } else { at };
            shapes.iter().zip(own).enumerate().map(|(at, (shape, own))| floats(shape, seed(own, at))).collect()
        };
        let bind = |weights: &[Tensor], places: &[usize]| {
            onnx.bind(places.iter().map(|&place| weights[place].clone()).collect()).unwrap()
        };
        let (one, other) = (of(1), of(2));
        let heads = [bind(&one, &cut.head_weights), bind(&other, &cut.head_weights)];
        let (one, other) = (bind(&one, &[0, 1, 2]), (bind(&other, &[0, 1, 2]), other));
        let trunk = bind(&other.1, &cut.trunk_weights);
        let examples = [
            Example { whole: one.as_ref(), head: heads[0].as_ref() },
            Example { whole: other.0.as_ref(), head: heads[1].as_ref() },
        ];
        halves.check(trunk.as_ref(), whole.as_ref(), examples).map_err(Error::internal)?;
        // One model's head under the other's answers is seen.
        let mixed = [examples[0], Example { head: heads[0].as_ref(), ..examples[1] }];
        let said = halves.check(trunk.as_ref(), whole.as_ref(), mixed).unwrap_err();
        assert!(said.contains("something else"), "{said}");
        Ok(cut)
    }

    #[test]
    fn both_parts_answer_as_the_whole() {
        let onnx = onnx();
        let cut = check(&onnx, flat(), [false, false, true]).unwrap();
        assert_eq!((&cut.trunk_weights[..], &cut.head_weights[..]), (&[0, 1][..], &[2][..]));
        assert_eq!(operators(&cut.trunk), ["MatMul", "Add", "Relu"]);
        assert_eq!(operators(&cut.head).len(), 8, "what only looks at shapes goes along");
        // A head that looks at the input again, and at what is shared.
        let residual = vec![
            node("MatMul", &["x", "v"], "p"),
            node("MatMul", &["x", "v"], "z"),
            node("Add", &["p", "z"], "q"),
            node("Add", &["q", "b"], "r"),
            node("Add", &["r", "x"], "s"),
            node("Add", &["s", "b"], "t"),
            node("MatMul", &["t", "w"], "y"),
        ];
        let cut = check(&onnx, residual, [false, true, true]).unwrap();
        assert_eq!(
            (&cut.trunk_weights[..], &cut.head_weights[..], &cut.head_inputs[..]),
            (&[0][..], &[1, 2][..], &[0][..])
        );
    }

    #[test]
    fn what_cannot_be_cut_says_why() {
        let onnx = onnx();
        let early = || vec![node("MatMul", &["x", "w"], "y")];
        for (nodes, own, says) in [
            (flat(), [false, false, false], "nothing of their own"),
            (flat(), [true, false, true], "nothing is left"),
            (early(), [false, false, true], "nothing is left"),
            (vec![node("MatMul", &["x", "w"], "y"), node("MatMul", &["x", "v"], "z")], [true, false, false], "outputs"),
        ] {
            let error = check(&onnx, nodes, own).map(drop).unwrap_err();
            assert!(error.kind == ErrorKind::Unsupported && error.message.contains(says), "{error}");
        }
        assert_eq!(cut(b"no graph", &[true]).unwrap_err().kind, ErrorKind::Corrupt);
        assert_eq!(cut(&program(flat()), &[true; 9]).unwrap_err().kind, ErrorKind::Corrupt);
    }

    #[test]
    fn what_is_no_rows_of_items_is_an_error() {
        let tensor = floats(&[6, 2], 1);
        assert_eq!(rows(&tensor, 1..2, 3).unwrap().as_f32().unwrap(), &tensor.as_f32().unwrap()[4..8]);
        assert!(rows(&tensor, 0..1, 4).is_err() && rows(&tensor, 0..1, 0).is_err());
    }
}
