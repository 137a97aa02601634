//! Where a TensorFlow graph scales pictures itself.

use std::collections::HashMap;

use proto::tensorflow::attr_value::Value;
use proto::tensorflow::{GraphDef, NodeDef};

use super::forbidden::operation;
use crate::picture::Resample;
use crate::specimen::OwnSize;

/// The sizes to which `graph` and its functions bring something by `ResizeBilinear`. What is scaled may be a picture or
/// anything else.
pub(super) fn own_sizes(graph: &GraphDef) -> Vec<OwnSize> {
    let functions = graph.library.iter().flat_map(|library| &library.function);
    let bodies = std::iter::once(&graph.node).chain(functions.map(|function| &function.node_def));
    bodies.flat_map(|nodes| of_nodes(nodes)).collect()
}

fn of_nodes(nodes: &[NodeDef]) -> Vec<OwnSize> {
    let by_name: HashMap<&str, &NodeDef> = nodes.iter().map(|node| (node.name.as_str(), node)).collect();
    let value = |node: &'_ NodeDef, name: &str| node.attr.get(name).and_then(|attr| attr.value.clone());
    let is_set = |node: &NodeDef, name: &str| value(node, name) == Some(Value::B(true));
    let own_size = |node: &NodeDef| {
        let size = by_name.get(operation(node.input.get(1)?)).filter(|size| size.op == "Const")?;
        let Some(Value::Tensor(size)) = value(size, "value") else { return None };
        let packed = || size.tensor_content.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect();
        let sides: Vec<i32> = if size.int_val.is_empty() { packed() } else { size.int_val };
        // One number stands for as many as there are of it.
        let (&height, &width) = (sides.first()?, sides.last()?);
        let resample = if is_set(node, "half_pixel_centers") { Resample::HalfPixel } else { Resample::Asymmetric };
        let size = OwnSize { width: u32::try_from(width).ok()?, height: u32::try_from(height).ok()?, resample };
        (!is_set(node, "align_corners")).then_some(size)
    };
    nodes.iter().filter(|node| node.op == "ResizeBilinear").filter_map(own_size).collect()
}

#[cfg(test)]
mod tests {
    use proto::tensorflow::{AttrValue, FunctionDef, FunctionDefLibrary, TensorProto};

    use super::*;

    fn node(name: &str, op: &str, input: &[&str], attr: &[(&str, Value)]) -> NodeDef {
        let attr =
            attr.iter().map(|(name, value)| ((*name).to_owned(), AttrValue { value: Some(value.clone()) })).collect();
        let input = input.iter().map(|&input| input.to_owned()).collect();
        NodeDef { name: name.to_owned(), op: op.to_owned(), input, attr }
    }

    #[test]
    fn sizes_are_found_where_they_are_constant() {
        let packed = [20i32, 30].iter().flat_map(|side| side.to_le_bytes()).collect();
        let listed = TensorProto { int_val: vec![20, 30], ..TensorProto::default() };
        let packed = TensorProto { tensor_content: packed, ..TensorProto::default() };
        let one = TensorProto { int_val: vec![25], ..TensorProto::default() };
        let negative = TensorProto { int_val: vec![20, -30], ..TensorProto::default() };
        let size = |width, height, resample| vec![OwnSize { width, height, resample }];
        let set = |name: &'static str| (name, Value::B(true));
        for (tensor, attr, op, want) in [
            (&listed, vec![], "Const", size(30, 20, Resample::Asymmetric)),
            (&packed, vec![("align_corners", Value::B(false))], "Const", size(30, 20, Resample::Asymmetric)),
            (&one, vec![set("half_pixel_centers")], "Const", size(25, 25, Resample::HalfPixel)),
            (&listed, vec![set("align_corners")], "Const", vec![]),
            (&negative, vec![], "Const", vec![]),
            (&TensorProto::default(), vec![], "Const", vec![]),
            (&listed, vec![], "Shape", vec![]),
        ] {
            let value = ("value", Value::Tensor(Box::new(tensor.clone())));
            let nodes = vec![
                node("scaled", "ResizeBilinear", &["picture", "size:output:0"], &attr),
                node("size", op, &[], &[value]),
                node("other", "ResizeBilinear", &["picture"], &[]),
                node("another", "ResizeBilinear", &["picture", "nobody"], &[]),
            ];
            let function = FunctionDef { node_def: nodes.clone(), ..FunctionDef::default() };
            let library = Some(FunctionDefLibrary { function: vec![function] });
            assert_eq!(own_sizes(&GraphDef { node: nodes, ..GraphDef::default() }), want, "{tensor:?} {attr:?}");
            assert_eq!(own_sizes(&GraphDef { library, ..GraphDef::default() }), want, "{tensor:?} {attr:?}");
        }
    }
}
