//! Tensors under TensorFlow Serving's names: aliases without the output index, and TensorFlow's element types.

use engine::{DataType, Error, Result, TensorSpec};

/// What a converter leaves at the end of a TensorFlow tensor's name, and no signature of TensorFlow Serving shows.
const OUTPUT_INDEX: &str = ":0";

/// The name that clients are told: without the output index, unless another tensor in `specs` has that name.
pub(crate) fn alias<'a>(specs: &[TensorSpec], name: &'a str) -> &'a str {
    match name.strip_suffix(OUTPUT_INDEX) {
        Some(short) if !short.is_empty() && specs.iter().all(|spec| spec.name != short) => short,
        _ => name,
    }
}

/// The tensor in `specs` that a client calls `name`, with or without the output index.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming what there is; `side` is `input` or `output`.
pub(crate) fn resolve<'a>(specs: &'a [TensorSpec], side: &str, name: &str) -> Result<&'a TensorSpec> {
    let exact = specs.iter().find(|spec| spec.name == name);
    let short = name.strip_suffix(OUTPUT_INDEX);
    let near = |spec: &&TensorSpec| {
        spec.name.strip_suffix(OUTPUT_INDEX) == Some(name) || short.is_some_and(|short| spec.name == short)
    };
    exact.or_else(|| specs.iter().find(near)).ok_or_else(|| {
        let known: Vec<_> = infos(specs).map(|(alias, _)| format!("'{alias}'")).collect();
        Error::invalid(format!("the model has no {side} '{name}'; it has {}", known.join(", ")))
    })
}

/// Each of `specs` with its alias.
pub(crate) fn infos(specs: &[TensorSpec]) -> impl Iterator<Item = (&str, &TensorSpec)> {
    specs.iter().map(|spec| (alias(specs, &spec.name), spec))
}

/// TensorFlow's number and name of `dtype`, from its `types.proto`.
pub(crate) fn wire_type(dtype: DataType) -> (i32, &'static str) {
    match dtype {
        DataType::F32 => (1, "DT_FLOAT"),
        DataType::F64 => (2, "DT_DOUBLE"),
        DataType::I32 => (3, "DT_INT32"),
        DataType::U8 => (4, "DT_UINT8"),
        DataType::I16 => (5, "DT_INT16"),
        DataType::I8 => (6, "DT_INT8"),
        DataType::Bytes => (7, "DT_STRING"),
        DataType::I64 => (9, "DT_INT64"),
        DataType::Bool => (10, "DT_BOOL"),
        DataType::Bf16 => (14, "DT_BFLOAT16"),
        DataType::U16 => (17, "DT_UINT16"),
        DataType::F16 => (19, "DT_HALF"),
        DataType::U32 => (22, "DT_UINT32"),
        DataType::U64 => (23, "DT_UINT64"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs(names: &[&str]) -> Vec<TensorSpec> {
        let spec = |name: &&str| TensorSpec {
            name: (*name).to_owned(),
            dtype: DataType::F32,
            shape: vec![-1],
            any_rank: false,
        };
        names.iter().map(spec).collect()
    }

    #[test]
    fn a_tensor_is_found_with_and_without_its_index() {
        for (names, asked, found, told) in [
            (&["image_tensor:0"][..], "image_tensor", Some("image_tensor:0"), "image_tensor"),
            (&["image_tensor:0"], "image_tensor:0", Some("image_tensor:0"), "image_tensor"),
            (&["x"], "x:0", Some("x"), "x"),
            (&["x:0", "x"], "x", Some("x"), "x"),
            (&["x:0", "x"], "x:0", Some("x:0"), "x:0"),
            (&["x:1"], "x:1", Some("x:1"), "x:1"),
            (&["x:1"], "x", None, ""),
            (&[":0"], ":0", Some(":0"), ":0"),
            (&["x"], "", None, ""),
        ] {
            let specs = specs(names);
            let got = resolve(&specs, "input", asked);
            assert_eq!(got.as_ref().ok().map(|spec| spec.name.as_str()), found, "{asked} of {names:?}");
            match got {
                Ok(spec) => assert_eq!(alias(&specs, &spec.name), told),
                Err(error) => assert!(error.message.contains(names[0]), "{error}"),
            }
        }
    }

    #[test]
    fn the_types_are_those_of_the_messages() {
        for dtype in DataType::ALL {
            let (number, name) = wire_type(dtype);
            assert_eq!(proto::tensorflow::DataType::try_from(number).unwrap().as_str_name(), name);
        }
    }
}
