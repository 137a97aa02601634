//! A graph in the middle of a rewriting: nodes in order, constants that are put in, and what several of them share.

use std::collections::HashMap;

use bytes::Bytes;

use super::tensor::datatype_number;
use super::wire::{Attribute, Node, TensorProto};
use engine::DataType;

/// The nodes and constants of a graph that is written anew.
#[derive(Default)]
pub(super) struct Rewritten {
    pub(super) nodes: Vec<Node>,
    pub(super) constants: Vec<TensorProto>,
    /// Inputs that several products share (query, key and value do) are laid flat once: the flat one and the shape
    /// in front of the last axis.
    flat: HashMap<String, (String, String)>,
}

impl Rewritten {
    /// `x`, whose last axis has `width` elements, as rows, and the shape in front of that axis.
    pub(super) fn lay_flat(&mut self, x: &str, width: i64) -> (String, String) {
        if let Some(known) = self.flat.get(x) {
            return known.clone();
        }
        let target = self.whole_constant(x, "flat shape", &[-1, width]);
        let flat = self.op("Reshape", &[x, &target], x, "flat", Vec::new());
        let shape = self.op("Shape", &[x], x, "its shape", Vec::new());
        let (start, end) = (self.whole_constant(x, "start", &[0]), self.whole_constant(x, "end", &[-1]));
        let front = self.op("Slice", &[&shape, &start, &end], x, "its front", Vec::new());
        self.flat.insert(x.to_owned(), (flat.clone(), front.clone()));
        (flat, front)
    }

    /// Adds the node that gives `rows`, each of `width` elements, the shape `front` back; it is called `output`.
    pub(super) fn fold_back(&mut self, rows: &str, front: &str, width: i64, output: &str) {
        let width = self.whole_constant(output, "width", &[width]);
        let shape = self.op("Concat", &[front, &width], output, "shape", vec![whole("axis", 0)]);
        self.push("Reshape", &[rows, &shape], output.to_owned(), Vec::new());
    }

    /// Adds a node whose output is called after `base`. An exporter that used such a name already gets a graph that the
    /// runtime refuses, and a model that is kept whole.
    pub(super) fn op(
        &mut self,
        operator: &str,
        input: &[&str],
        base: &str,
        what: &str,
        attribute: Vec<Attribute>,
    ) -> String {
        let output = format!("{base} {what}");
        self.push(operator, input, output.clone(), attribute);
        output
    }

    /// Adds a node of the format's own or, by its name, of the runtime's domain.
    pub(super) fn push(&mut self, operator: &str, input: &[&str], output: String, attribute: Vec<Attribute>) {
        self.nodes.push(Node {
            op_type: Some(operator.to_owned()),
            domain: (operator == "MatMulIntegerToFloat").then(|| "com.microsoft".to_owned()),
            input: input.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output],
            attribute,
            ..Node::default()
        });
    }

    /// A list of whole numbers.
    pub(super) fn whole_constant(&mut self, base: &str, what: &str, values: &[i64]) -> String {
        let dims = [i64::try_from(values.len()).unwrap_or(0)];
        self.constant(base, what, DataType::I64, &dims, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// A number without dimensions.
    pub(super) fn float_constant(&mut self, base: &str, what: &str, value: f32) -> String {
        self.constant(base, what, DataType::F32, &[], value.to_le_bytes().to_vec())
    }

    pub(super) fn constant(&mut self, base: &str, what: &str, dtype: DataType, dims: &[i64], bytes: Vec<u8>) -> String {
        let name = format!("{base} {what}");
        if !self.constants.iter().any(|held| held.name.as_ref() == Some(&name)) {
            self.constants.push(TensorProto {
                name: Some(name.clone()),
                data_type: Some(datatype_number(dtype)),
                dims: dims.to_vec(),
                raw_data: Some(Bytes::from(bytes)),
                ..TensorProto::default()
            });
        }
        name
    }
}

/// An attribute of type INT, which is number 2 in `AttributeProto`.
pub(super) fn whole(name: &str, value: i64) -> Attribute {
    Attribute { name: Some(name.to_owned()), i: Some(value), r#type: Some(2), ..Attribute::default() }
}

/// An attribute of type INTS, number 7.
pub(super) fn wholes(name: &str, values: Vec<i64>) -> Attribute {
    Attribute { name: Some(name.to_owned()), ints: values, r#type: Some(7), ..Attribute::default() }
}
