//! Models whose weights are inside of something: of graphs in a graph, and of numbers of two bytes.

use super::tests::{floats, model, node, value};
use crate::onnx::wire::{Attribute, Graph, Model, Node, TensorProto};

/// In `AttributeProto`.
const INTEGER: i32 = 2;
const TENSOR: i32 = 4;
const GRAPH: i32 = 5;

fn body(name: &str, graph: Graph) -> Attribute {
    let graph = Graph { name: Some("b".into()), ..graph };
    Attribute { name: Some(name.into()), g: Some(graph), r#type: Some(GRAPH), ..Attribute::default() }
}

/// Branches that hold weights, one of them as a node.
pub(super) fn conditional(seed: u16) -> Model {
    let mut constant = node("Constant", &[], "w");
    let held = Some(floats("", &[4, 4], seed));
    constant.attribute =
        vec![Attribute { name: Some("value".into()), t: held, r#type: Some(TENSOR), ..Attribute::default() }];
    let branch = |name: &str, node: Vec<Node>, initializer: Vec<TensorProto>| {
        body(name, Graph { node, initializer, output: vec![value("o", 1, &[-1, 4])], ..Graph::default() })
    };
    let mut outer = node("If", &["c"], "y");
    outer.attribute = vec![
        branch("then_branch", vec![constant, node("MatMul", &["x", "w"], "o")], Vec::new()),
        branch("else_branch", vec![node("Add", &["x", "w"], "o")], vec![floats("w", &[4], seed)]),
    ];
    model(Graph {
        node: vec![outer],
        input: vec![value("x", 1, &[-1, 4]), value("c", 9, &[])],
        output: vec![value("y", 1, &[-1, 4])],
        ..Graph::default()
    })
}

/// A loop of three rounds whose body holds a weight.
pub(super) fn looped(seed: u16) -> Model {
    let rounds =
        TensorProto { name: Some("n".into()), data_type: Some(7), int64_data: vec![3], ..TensorProto::default() };
    let mut outer = node("Loop", &["n", "", "x"], "y");
    outer.attribute = vec![body(
        "body",
        Graph {
            node: vec![
                node("Identity", &["c"], "more"),
                node("MatMul", &["s", "w"], "m"),
                node("Tanh", &["m"], "next"),
            ],
            initializer: vec![floats("w", &[4, 4], seed)],
            input: vec![value("i", 7, &[]), value("c", 9, &[]), value("s", 1, &[-1, 4])],
            output: vec![value("more", 9, &[]), value("next", 1, &[-1, 4])],
            ..Graph::default()
        },
    )];
    model(Graph {
        node: vec![outer],
        initializer: vec![rounds],
        input: vec![value("x", 1, &[-1, 4])],
        output: vec![value("y", 1, &[-1, 4])],
        ..Graph::default()
    })
}

/// A scan with a learnt beginning, whose body holds a weight.
pub(super) fn scanned(seed: u16) -> Model {
    let mut outer = node("Scan", &["h", "x"], "last");
    outer.output.push("y".to_owned());
    outer.attribute = vec![
        body(
            "body",
            Graph {
                node: vec![
                    node("Add", &["before", "row"], "a"),
                    node("Mul", &["a", "w"], "m"),
                    node("Tanh", &["m"], "after"),
                    node("Identity", &["after"], "told"),
                ],
                initializer: vec![floats("w", &[4], seed)],
                input: vec![value("before", 1, &[4]), value("row", 1, &[4])],
                output: vec![value("after", 1, &[4]), value("told", 1, &[4])],
                ..Graph::default()
            },
        ),
        Attribute { name: Some("num_scan_inputs".into()), i: Some(1), r#type: Some(INTEGER), ..Attribute::default() },
    ];
    model(Graph {
        node: vec![outer],
        initializer: vec![floats("h", &[4], seed + 1)],
        input: vec![value("x", 1, &[-1, 4])],
        output: vec![value("y", 1, &[-1, 4])],
        ..Graph::default()
    })
}

/// A product of numbers of two bytes, in a model that takes and gives such of four.
pub(super) fn halves(seed: u16) -> Model {
    let cast = |from: &str, to: i64, name: &str| {
        let mut cast = node("Cast", &[from], name);
        cast.attribute =
            vec![Attribute { name: Some("to".into()), i: Some(to), r#type: Some(INTEGER), ..Attribute::default() }];
        cast
    };
    // 1 and so many thousandths: the exponent of a half is in its upper bits.
    let half = |index: u16| (0x3c00 + index + seed).to_le_bytes();
    let weight = TensorProto {
        name: Some("w".into()),
        data_type: Some(10),
        dims: vec![4, 4],
        raw_data: Some((0..16).flat_map(half).collect::<Vec<u8>>().into()),
        ..TensorProto::default()
    };
    model(Graph {
        node: vec![cast("x", 10, "x16"), node("MatMul", &["x16", "w"], "y16"), cast("y16", 1, "y")],
        initializer: vec![weight],
        input: vec![value("x", 1, &[-1, 4])],
        output: vec![value("y", 1, &[-1, 4])],
        ..Graph::default()
    })
}
