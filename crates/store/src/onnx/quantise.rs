//! Weights in eight bits: large matrices among a graph's weights, and tables that rows are looked up in.
//!
//! *Dynamic*: `X·W` becomes a product of whole numbers. Each row of `X` is rounded to eight bits when it comes, on a scale
//! of its own, so that an answer depends neither on what shares its batch nor on padding; each column of `W` was when it
//! was packed. Rows go from -127 to 127 around 128, columns from -64 to 64: two such products always fit the 16 bits that
//! CPUs without VNNI add them up in, so the answer is the same on every CPU.
//! *Weights alone*: the matrix is widened again at each request, and the product is the float one.
//! Measured in docs/decisions/015-eight-bits.md.

use std::collections::{HashMap, HashSet};

use engine::DataType;

use super::lift::Weight;
use super::made::{Axis, Grid, Made};
use super::rewriting::{Rewritten, whole, wholes};
use super::wire::{Attribute, Graph, Model, Node, OpsetId};
use super::{linear, names, roles};
use crate::precision::Precision;

/// Smaller matrices, in elements, stay floats: they hold little, and rounding their rows costs what it saves.
const ELEMENTS_MIN: i64 = 1 << 14;
/// Quantising along an axis came with this version of the operators.
const OPSET_MIN: i64 = 13;
/// Reductions take their axes as an input from this one on.
const OPSET_AXES: i64 = 18;

const FLOAT: i32 = 1;

/// Levels of what is multiplied as whole numbers; see above.
const PRODUCT_LIMIT: i8 = 64;
/// Levels of what is widened before it is used.
const STORED_LIMIT: i8 = i8::MAX;

/// What of a graph can be in eight bits.
pub(crate) struct Quantisable {
    /// Weights by name, with their rows and columns.
    matrices: HashMap<String, (i64, i64)>,
    opset: i64,
}

/// Finds what of `model` can be in eight bits: weights that only products or only look-ups read.
///
/// # Errors
/// The reason, for a person, when there is nothing.
pub(crate) fn find(model: &Model, weights: &[Weight]) -> Result<Quantisable, String> {
    let is_standard = |domain: Option<&str>| matches!(domain, None | Some("" | "ai.onnx"));
    let opset = model.opset_import.iter().find(|opset| is_standard(opset.domain.as_deref()));
    let opset = opset.and_then(|opset| opset.version).unwrap_or(0);
    if opset < OPSET_MIN {
        return Err(format!("its operators are of version {opset}; export it again with {OPSET_MIN} or newer"));
    }
    let mut uses: HashMap<&str, HashSet<Use>> = HashMap::new();
    if let Some(graph) = &model.graph {
        roles::each_node(graph, true, &mut |node, _| {
            for (index, name) in node.input.iter().enumerate() {
                uses.entry(name).or_default().insert(use_of(node, index));
            }
        });
    }
    let mut matrices = HashMap::new();
    for Weight { tensor, .. } in weights {
        let (Some(name), &[rows, columns], Some(FLOAT)) = (&tensor.name, &tensor.dims[..], tensor.data_type) else {
            continue;
        };
        let large = rows.checked_mul(columns).is_some_and(|elements| elements >= ELEMENTS_MIN);
        // A table that is a matrix as well would be there twice.
        let one_use = uses.get(&name[..]).is_some_and(|uses| uses.len() == 1 && !uses.contains(&Use::Other));
        if large && one_use {
            matrices.insert(name.clone(), (rows, columns));
        }
    }
    if matrices.is_empty() {
        return Err("it has no large matrix that only products read, and no large table".to_owned());
    }
    Ok(Quantisable { matrices, opset })
}

/// How a node reads a matrix.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Use {
    /// As the second factor; whether its rows are the channels.
    Second {
        turned: bool,
    },
    /// Row by row.
    Table,
    Other,
}

fn use_of(node: &Node, index: usize) -> Use {
    let whole_of = |name: &str| attribute(node, name).and_then(|attribute| attribute.i).unwrap_or(0);
    let is_one = |name: &str| {
        attribute(node, name).and_then(|attribute| attribute.f).is_none_or(|value| value.to_bits() == 1f32.to_bits())
    };
    let is_plain = || is_one("alpha") && is_one("beta") && whole_of("transA") == 0;
    match (node.operator(), index) {
        ("MatMul", 1) if node.is_standard() => Use::Second { turned: false },
        ("Gemm" | "FusedGemm", 1) if is_plain() && activation(node).is_some() => {
            Use::Second { turned: whole_of("transB") != 0 }
        }
        ("Gather", 0) if node.is_standard() && whole_of("axis") == 0 => Use::Table,
        _ => Use::Other,
    }
}

fn attribute<'a>(node: &'a Node, name: &str) -> Option<&'a Attribute> {
    node.attribute.iter().find(|attribute| attribute.name.as_deref() == Some(name))
}

/// What follows the product in the same node: nothing for most, `None` when it takes settings of its own.
fn activation(node: &Node) -> Option<Option<&str>> {
    let name = attribute(node, "activation").and_then(|attribute| attribute.s.as_deref());
    match name.map(std::str::from_utf8) {
        None => Some(None),
        Some(Ok(name @ ("Relu" | "Tanh" | "Sigmoid"))) => Some(Some(name)),
        _ => None,
    }
}

impl Quantisable {
    /// The names of the weights that can be in eight bits, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.matrices.keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// Rewrites `model` and `weights` to `precision`, all but those called by a name of `floats`.
    pub(crate) fn rewrite(
        &self,
        model: &mut Model,
        weights: &mut Vec<Weight>,
        precision: Precision,
        floats: &HashSet<String>,
    ) {
        let wanted = |name: &str| self.matrices.get(name).copied().filter(|_| !floats.contains(name));
        let Some(graph) = model.graph.as_mut() else { return };
        let mut rewriting = Rewriting { wanted: &wanted, precision, opset: self.opset, made: HashMap::new() };
        rewriting.graph(graph);
        let made = rewriting.made;
        let (gone, mut kept): (Vec<Weight>, Vec<Weight>) = std::mem::take(weights)
            .into_iter()
            .partition(|weight| weight.tensor.name.as_ref().is_some_and(|name| made.contains_key(name)));
        for weight in gone {
            for (name, of) in weight.tensor.name.as_ref().and_then(|name| made.get(name)).into_iter().flatten() {
                let mut tensor = weight.tensor.clone();
                tensor.name = Some(name.clone());
                kept.push(Weight { tensor, made: *of });
            }
        }
        *weights = kept;
        names::make_unique(graph);
        if !model.opset_import.iter().any(|opset| opset.domain.as_deref() == Some("com.microsoft")) {
            model.opset_import.push(OpsetId { domain: Some("com.microsoft".to_owned()), version: Some(1) });
        }
        // What stays a float is turned as in any other program.
        linear::rewrite(model, weights);
    }
}

struct Rewriting<'a> {
    wanted: &'a dyn Fn(&str) -> Option<(i64, i64)>,
    precision: Precision,
    opset: i64,
    /// What became of each weight: the names of its parts and how they are made.
    made: HashMap<String, Vec<(String, Made)>>,
}

impl Rewriting<'_> {
    fn graph(&mut self, graph: &mut Graph) {
        let mut new = Rewritten::default();
        let mut rows: HashMap<String, Rows> = HashMap::new();
        for mut node in std::mem::take(&mut graph.node) {
            node.graphs_mut().for_each(|inner| self.graph(inner));
            let found = node.input.iter().enumerate().find_map(|(index, name)| Some((index, (self.wanted)(name)?)));
            match found.map(|(index, shape)| (use_of(&node, index), shape)) {
                Some((Use::Table, _)) => self.table(&mut new, &node),
                Some((Use::Second { turned }, shape)) => {
                    let (width, channels) = if turned { (shape.1, shape.0) } else { shape };
                    match self.precision {
                        Precision::Int8 => self.product(&mut new, &mut rows, &node, turned, (width, channels)),
                        _ => self.widened(&mut new, node, turned, (width, channels)),
                    }
                }
                _ => new.nodes.push(node),
            }
        }
        graph.node = new.nodes;
        graph.initializer.extend(new.constants);
    }

    /// The names of the levels and scales of the weight `name`.
    fn parts(&mut self, name: &str, levels: Made, scales: Made) -> [String; 2] {
        let names = [format!("{name} levels"), format!("{name} scales")];
        self.made.insert(name.to_owned(), vec![(names[0].clone(), levels), (names[1].clone(), scales)]);
        names
    }

    /// Rows of levels and their scales, multiplied.
    fn table(&mut self, new: &mut Rewritten, node: &Node) {
        let ([table, ids], [output]) = (&node.input[..], &node.output[..]) else {
            new.nodes.push(node.clone());
            return;
        };
        let grid = Grid { channels: Axis::Rows, limit: STORED_LIMIT };
        let [levels, scales] = self.parts(table, Made::Levels(grid, Axis::Rows), Made::Scales(grid, true));
        let rows = new.op("Gather", &[&levels, ids], output, "row levels", Vec::new());
        let rows = new.op("Cast", &[&rows], output, "widened row", vec![whole("to", FLOAT.into())]);
        let scales = new.op("Gather", &[&scales, ids], output, "row scales", Vec::new());
        new.push("Mul", &[&rows, &scales], output.clone(), Vec::new());
    }

    /// A product of whole numbers, and what its node did besides.
    fn product(
        &mut self,
        new: &mut Rewritten,
        known: &mut HashMap<String, Rows>,
        node: &Node,
        turned: bool,
        (width, channels): (i64, i64),
    ) {
        let (x, weight, output) = (&node.input[0], &node.input[1], &node.output[0]);
        let grid = Grid { channels: if turned { Axis::Rows } else { Axis::Columns }, limit: PRODUCT_LIMIT };
        let [levels, scales] = self.parts(weight, Made::Levels(grid, Axis::Columns), Made::Scales(grid, false));
        let is_flat = node.operator() != "MatMul";
        let rows = known.entry(x.clone()).or_insert_with(|| Rows::of(new, x, width, is_flat, self.opset)).clone();
        let one = new.float_constant(output, "one", 1.0);
        let middle = new.constant(output, "middle", DataType::U8, &[], vec![MIDDLE]);
        let inputs = [&rows.levels, &levels, &one, &scales, &middle].map(|name| &name[..]);
        let product = new.op("MatMulIntegerToFloat", &inputs, output, "product", Vec::new());
        // The last step bears the output's name.
        let bias = node.input.get(2).filter(|name| !name.is_empty());
        let after: Vec<(&str, Option<&str>)> = std::iter::once(("Mul", Some(&rows.scales[..])))
            .chain(bias.map(|bias| ("Add", Some(&bias[..]))))
            .chain(activation(node).flatten().map(|name| (name, None)))
            .collect();
        let mut value = product;
        for (at, (operator, other)) in after.iter().enumerate() {
            let inputs: Vec<&str> = std::iter::once(&value[..]).chain(*other).collect();
            if at + 1 == after.len() && rows.front.is_none() {
                new.push(operator, &inputs, output.clone(), Vec::new());
            } else {
                value = new.op(operator, &inputs, output, &format!("step {at}"), Vec::new());
            }
        }
        if let Some(front) = &rows.front {
            new.fold_back(&value, front, channels, output);
        }
    }

    /// The same node over a matrix that is widened before; a product on its own is turned, as of floats.
    fn widened(&mut self, new: &mut Rewritten, mut node: Node, turned: bool, (width, channels): (i64, i64)) {
        let weight = node.input[1].clone();
        let grid = Grid { channels: if turned { Axis::Rows } else { Axis::Columns }, limit: STORED_LIMIT };
        let [levels, scales] = self.parts(&weight, Made::Levels(grid, Axis::Rows), Made::Scales(grid, false));
        let wide = new.op("DequantizeLinear", &[&levels, &scales], &node.output[0], "matrix", vec![whole("axis", 0)]);
        if node.operator() == "MatMul" {
            linear::product(new, &node.input[0], &wide, (width, channels), &node.output[0]);
            return;
        }
        node.input[1] = wide;
        node.attribute.retain(|attribute| attribute.name.as_deref() != Some("transB"));
        node.attribute.push(whole("transB", 1));
        new.nodes.push(node);
    }
}

/// Where the levels of a row lie: around the middle of what a byte holds.
const MIDDLE: u8 = 128;

/// The first factor of products, rounded row by row.
#[derive(Clone)]
struct Rows {
    /// UINT8 `[rows, width]`.
    levels: String,
    /// `[rows, 1]`.
    scales: String,
    /// The shape in front of the last axis, where the factor is not a matrix already.
    front: Option<String>,
}

impl Rows {
    fn of(new: &mut Rewritten, x: &str, width: i64, is_flat: bool, opset: i64) -> Self {
        let (flat, front) = if is_flat {
            (x.to_owned(), None)
        } else {
            let (flat, front) = new.lay_flat(x, width);
            (flat, Some(front))
        };
        let sizes = new.op("Abs", &[&flat], x, "sizes", Vec::new());
        let keep = whole("keepdims", 1);
        let largest = if opset >= OPSET_AXES {
            let axes = new.whole_constant(x, "row axes", &[-1]);
            new.op("ReduceMax", &[&sizes, &axes], x, "largest", vec![keep])
        } else {
            new.op("ReduceMax", &[&sizes], x, "largest", vec![wholes("axes", vec![-1]), keep])
        };
        let step = new.float_constant(x, "a step", 1.0 / f32::from(i8::MAX));
        let scales = new.op("Mul", &[&largest, &step], x, "steps", Vec::new());
        // A row of zeros has levels of zero on any scale but none.
        let least = new.float_constant(x, "least step", f32::MIN_POSITIVE);
        let scales = new.op("Max", &[&scales, &least], x, "scales", Vec::new());
        let list = new.whole_constant(x, "a list", &[-1]);
        let listed = new.op("Reshape", &[&scales, &list], x, "listed", Vec::new());
        let count = new.op("Shape", &[&listed], x, "rows", Vec::new());
        let middle = new.constant(x, "middle of a row", DataType::U8, &[1], vec![MIDDLE]);
        let middles = new.op("Expand", &[&middle, &count], x, "middles", Vec::new());
        let levels = new.op("QuantizeLinear", &[&flat, &listed, &middles], x, "levels", vec![whole("axis", 0)]);
        Self { levels, scales, front }
    }
}
