//! Where a graph scales pictures itself.

use std::collections::HashMap;
use std::path::Path;

use engine::DataType;

use super::tensor;
use super::wire::{Graph, Node, TensorProto};
use crate::picture::Resample;
use crate::specimen::OwnSize;

/// The sizes to which `graph` and the graphs inside it bring something in a way that is known here. What is scaled may be
/// a picture or anything else.
pub(crate) fn own_sizes(graph: &Graph) -> Vec<OwnSize> {
    let mut known = Known::default();
    known.gather(graph);
    known.resizes.iter().filter_map(|node| known.own_size(node)).collect()
}

/// Small constants by name, and what is of interest besides, of a graph and those inside it.
#[derive(Default)]
struct Known<'a> {
    constants: HashMap<&'a str, &'a TensorProto>,
    joined: HashMap<&'a str, &'a Node>,
    resizes: Vec<&'a Node>,
}

impl<'a> Known<'a> {
    fn gather(&mut self, graph: &'a Graph) {
        self.constants.extend(graph.initializer.iter().filter_map(|tensor| Some((tensor.name.as_deref()?, tensor))));
        for node in graph.node.iter().filter(|node| node.is_standard()) {
            let output = node.output.first().map_or("", String::as_str);
            match node.operator() {
                "Constant" => {
                    let tensor = node.attribute.iter().find_map(|attribute| attribute.t.as_ref());
                    self.constants.extend(tensor.map(|tensor| (output, tensor)));
                }
                "Concat" => drop(self.joined.insert(output, node)),
                "Resize" => self.resizes.push(node),
                _ => {}
            }
            node.graphs().for_each(|inner| self.gather(inner));
        }
    }

    /// What a `Resize` brings `[N, C, H, W]` to; `None` for other ways than those known here, and for sizes that are
    /// reckoned in the graph.
    fn own_size(&self, node: &Node) -> Option<OwnSize> {
        let attribute = |name: &str| {
            let found = node.attribute.iter().find(|attribute| attribute.name.as_deref() == Some(name))?;
            found.s.as_deref()
        };
        let is_absent = |name: &str| node.attribute.iter().all(|attribute| attribute.name.as_deref() != Some(name));
        // Filters that widen, and sizes of chosen dimensions, are not known here.
        let plain = attribute("mode") == Some(b"linear") && is_absent("antialias") && is_absent("axes");
        let resample = match attribute("coordinate_transformation_mode") {
            Some(b"asymmetric") => Resample::Asymmetric,
            None | Some(b"half_pixel") => Resample::HalfPixel,
            _ => return None,
        };
        // The sizes are the fourth input; their last two may be all that is constant of them.
        let sizes = node.input.get(3)?;
        let last = self.joined.get(sizes.as_str()).and_then(|joined| joined.input.last()).unwrap_or(sizes);
        let sizes = tensor::read(self.constants.get(last.as_str())?, Path::new("")).ok()?;
        let numbers = sizes.data().as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes));
        let numbers: Vec<i64> = if sizes.dtype() == DataType::I64 { numbers.collect() } else { return None };
        let &[.., height, width] = &numbers[..] else { return None };
        let size = OwnSize { width: u32::try_from(width).ok()?, height: u32::try_from(height).ok()?, resample };
        plain.then_some(size)
    }
}

#[cfg(test)]
mod tests {
    use prost::bytes::Bytes;

    use super::super::wire::Attribute;
    use super::*;

    fn said(name: &str, value: &'static str) -> Attribute {
        Attribute { name: Some(name.to_owned()), s: Some(Bytes::from_static(value.as_bytes())), ..Attribute::default() }
    }

    fn node(operator: &str, input: &[&str], output: &str, attribute: Vec<Attribute>) -> Node {
        let input = input.iter().map(|&name| name.to_owned()).collect();
        let op_type = Some(operator.to_owned());
        Node { op_type, input, output: vec![output.to_owned()], attribute, ..Node::default() }
    }

    fn whole(name: &str, data_type: i32, numbers: &[i64]) -> TensorProto {
        let raw_data = Some(numbers.iter().flat_map(|number| number.to_le_bytes()).collect());
        let dims = vec![i64::try_from(numbers.len()).unwrap()];
        TensorProto {
            name: Some(name.to_owned()),
            data_type: Some(data_type),
            dims,
            raw_data,
            ..TensorProto::default()
        }
    }

    #[test]
    fn sizes_are_found_where_they_are_constant() {
        let (asymmetric, half_pixel) = (Some(Resample::Asymmetric), Some(Resample::HalfPixel));
        let linear = || said("mode", "linear");
        let way = |way| said("coordinate_transformation_mode", way);
        for (attributes, sizes, want) in [
            (vec![linear(), way("asymmetric")], "four", asymmetric),
            (vec![linear(), way("asymmetric")], "joined", asymmetric),
            (vec![linear(), way("asymmetric")], "constant", asymmetric),
            (vec![linear(), way("half_pixel")], "four", half_pixel),
            (vec![linear()], "four", half_pixel),
            (vec![linear(), way("align_corners")], "four", None),
            (vec![linear(), said("antialias", "1")], "four", None),
            (vec![said("mode", "cubic")], "four", None),
            (vec![], "four", None),
            (vec![linear()], "reckoned", None),
            (vec![linear()], "one", None),
            (vec![linear()], "negative", None),
            (vec![linear()], "halves", None),
            (vec![linear()], "nobody's", None),
        ] {
            let constant = Attribute { t: Some(whole("", 7, &[1, 3, 20, 30])), ..Attribute::default() };
            let initializer = vec![
                whole("four", 7, &[1, 3, 20, 30]),
                whole("two", 7, &[20, 30]),
                whole("one", 7, &[30]),
                whole("negative", 7, &[1, 3, 20, -30]),
                whole("halves", 10, &[1, 3, 20, 30]),
            ];
            let resize = node("Resize", &["x", "", "", sizes], "y", attributes.clone());
            let body = Graph { node: vec![resize], ..Graph::default() };
            let looping = Attribute { g: Some(body), ..Attribute::default() };
            let node = vec![
                node("Constant", &[], "constant", vec![constant]),
                node("Concat", &["shape", "two"], "joined", vec![]),
                node("Loop", &["x"], "z", vec![looping]),
            ];
            let found = own_sizes(&Graph { node, initializer, ..Graph::default() });
            let want: Vec<OwnSize> =
                want.map(|resample| OwnSize { width: 30, height: 20, resample }).into_iter().collect();
            assert_eq!(found, want, "{attributes:?} {sizes}");
        }
    }
}
