//! Roles: what a constant is to the operator that reads it.

use engine::DataType;

use super::wire::{Graph, Node};

/// Whether `node` reads its input number `index`, a constant of `dtype`, as numbers that training makes.
///
/// Floats are weights unless they say how the graph is built: the runtime needs some of those before it runs, and none
/// of them is learnt. Integers are weights where an operator takes quantised ones.
pub(crate) fn is_weight(node: &Node, index: usize, dtype: DataType) -> bool {
    if needs_constants(node) {
        return false;
    }
    match dtype {
        DataType::F32 | DataType::F64 | DataType::F16 | DataType::Bf16 => !is_structural(node, index),
        DataType::U8 | DataType::I8 | DataType::U16 | DataType::I16 | DataType::I32 => {
            takes_quantised(node) || is_quantised_table(node, index, dtype)
        }
        _ => false,
    }
}

/// Operators whose constants stay inside, whatever they are.
///
/// ONNX Runtime's kernel for blockwise weights packs them when the session is built; with weights that come at run time
/// it unpacks them to floats at every call, which takes ten times as long and rounds otherwise. The generators own
/// a whole decoder, which they feed by position.
fn needs_constants(node: &Node) -> bool {
    matches!(node.operator(), "MatMulNBits" | "MatMulBnb4" | "MatMulFpQ4" | "BeamSearch" | "GreedySearch" | "Sampling")
}

/// Whether constants may move out of the graphs inside `node`: the control flow of the format sees the values around
/// it, which is not said of any other operator.
pub(crate) fn sees_around(node: &Node) -> bool {
    node.is_standard() && matches!(node.operator(), "If" | "Loop" | "Scan")
}

/// Whether this input is part of the graph's construction rather than of what it learnt.
fn is_structural(node: &Node, index: usize) -> bool {
    match node.operator() {
        "Resize" | "Upsample" | "NonMaxSuppression" | "Range" | "OneHot" | "MelWeightMatrix" => true,
        "Loop" => index < 2,
        "Clip" | "Pad" | "Dropout" | "TopK" => index > 0,
        "Pow" => index == 1,
        _ => false,
    }
}

/// Whether integers here are quantised weights, their zero points or their biases.
fn takes_quantised(node: &Node) -> bool {
    let operator = node.operator();
    operator.starts_with("QLinear")
        || matches!(
            operator,
            "ConvInteger"
                | "MatMulInteger"
                | "DequantizeLinear"
                | "QuantizeLinear"
                | "QGemm"
                | "QAttention"
                | "QEmbedLayerNormalization"
                | "DynamicQuantizeMatMul"
                | "DynamicQuantizeLSTM"
                | "MatMulIntegerToFloat"
                | "MatMulInteger16"
                | "ConvTransposeInteger"
        )
}

/// Embeddings are quantised as well; a table of bytes that is read by index says nothing of shapes.
fn is_quantised_table(node: &Node, index: usize, dtype: DataType) -> bool {
    matches!(node.operator(), "Gather" | "GatherBlockQuantized")
        && index == 0
        && matches!(dtype, DataType::U8 | DataType::I8)
}

/// Whether the runtime has a kernel for this operator that wants its numbers in blocks of the CPU's vectors.
pub(crate) fn is_laid_out_per_cpu(node: &Node) -> bool {
    matches!(node.operator(), "Conv" | "FusedConv" | "MaxPool" | "AveragePool" | "GlobalMaxPool" | "GlobalAveragePool")
}

/// Calls `visit` with every node of `graph` and of the graphs inside it, and whether its constants may leave them.
pub(crate) fn each_node<'a>(graph: &'a Graph, movable: bool, visit: &mut dyn FnMut(&'a Node, bool)) {
    for node in &graph.node {
        visit(node, movable);
        for inner in node.graphs() {
            each_node(inner, movable && sees_around(node), visit);
        }
    }
}
