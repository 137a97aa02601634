//! Graphs that are kept whole, and why.

use super::tests::{floats, model, node, onnx, value};
use super::*;
use crate::onnx::wire::Graph;

#[test]
fn what_answers_otherwise_or_cannot_be_compared_is_kept_whole_with_the_reason() {
    let (onnx, folder) = (onnx(), tempfile::tempdir().unwrap());
    // The runtime seeds chance by a node's number, which is another when what comes before it was worked out.
    let by_chance = vec![
        node("Neg", &["w"], "v"),
        node("MatMul", &["x", "v"], "m"),
        node("RandomUniformLike", &["m"], "r"),
        node("Add", &["m", "r"], "y"),
    ];
    for (what, node, dims, says) in [
        (
            "its answers are left to chance",
            by_chance,
            &[-1, 37][..],
            "with its weights lifted its output 'y' differs by ",
        ),
        // It says that it takes rows of any length, and takes none that are tried.
        ("rows of 37", vec![node("MatMul", &["x", "w"], "y")], &[-1, -2], "no made-up input was accepted"),
    ] {
        let (input, output) = (vec![value("x", 1, dims)], vec![value("y", 1, &[-1, 4])]);
        let graph = Graph { node, input, output, initializer: vec![floats("w", &[37, 4], 3)], ..Graph::default() };
        let path = folder.path().join("model.onnx");
        std::fs::write(&path, model(graph).encode_to_vec()).unwrap();
        let imported = import(&onnx, &path, Targets::Both).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let [form] = <[Compiled; 1]>::try_from(imported.forms).ok().unwrap();
        assert_eq!((form.kind, form.weights.len()), (ProgramKind::Whole, 0), "{what}");
        let why = form.why_whole.unwrap();
        assert!(why.contains(says), "{what}: {why}");
        assert_eq!(form.program[..], std::fs::read(&path).unwrap(), "{what}: it is the file as it was");
    }
}
