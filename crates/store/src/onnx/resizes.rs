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
        let is_whole = |name: &str| node.attribute.iter().all(|attribute| attribute.name.as_deref() != Some(name));
        // Absent since opset 18, and zero before it: whether the filter widens, and what of the picture is scaled.
        let plain = attribute("mode") == Some(b"linear") && is_whole("antialias") && is_whole("axes");
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
