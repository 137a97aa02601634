//! A `TensorProto` as a tensor of ours, wherever the format lets its numbers live.

use std::path::Path;

use bytes::Bytes;
use engine::{DataType, Error, Result, Tensor};

use super::wire::TensorProto;

/// `TensorProto.DataType` numbers, from `onnx.proto`.
pub(crate) fn datatype(number: i32) -> Option<DataType> {
    Some(match number {
        1 => DataType::F32,
        2 => DataType::U8,
        3 => DataType::I8,
        4 => DataType::U16,
        5 => DataType::I16,
        6 => DataType::I32,
        7 => DataType::I64,
        8 => DataType::Bytes,
        9 => DataType::Bool,
        10 => DataType::F16,
        11 => DataType::F64,
        12 => DataType::U32,
        13 => DataType::U64,
        16 => DataType::Bf16,
        _ => return None,
    })
}

/// The number of `dtype` in `TensorProto.DataType`.
pub(crate) fn datatype_number(dtype: DataType) -> i32 {
    // The list is short, and both directions come from the one table.
    (1..=16).find(|&number| datatype(number) == Some(dtype)).unwrap_or(0)
}

/// The tensor that `proto` holds; external data is mapped from a file in `folder`.
///
/// # Errors
/// [`Corrupt`](engine::ErrorKind::Corrupt) when the parts do not fit together, naming the tensor.
pub(crate) fn read(proto: &TensorProto, folder: &Path) -> Result<Tensor> {
    let name = proto.name.as_deref().unwrap_or("");
    let of = |reason: &str| Error::corrupt(format!("tensor '{name}': {reason}"));
    let dtype = datatype(proto.data_type.unwrap_or(0)).ok_or_else(|| of("its datatype is none that can be served"))?;
    let shape = proto
        .dims
        .iter()
        .map(|&dim| usize::try_from(dim).map_err(|_| of("it has a negative dimension")))
        .collect::<Result<Vec<_>>>()?;
    // 1 is EXTERNAL in TensorProto.DataLocation.
    let data = if proto.data_location == Some(1) {
        external(proto, folder).map_err(|error| error.context(format!("tensor '{name}'")))?
    } else if let Some(raw) = &proto.raw_data {
        raw.clone()
    } else {
        typed(proto, dtype)
    };
    Tensor::new(dtype, shape, data).map_err(|error| of(&error.message))
}

/// `tensor`, a matrix of 32-bit floats, with rows and columns exchanged.
///
/// # Errors
/// [`Internal`](engine::ErrorKind::Internal) when it is something else.
pub(crate) fn transposed(tensor: &Tensor) -> Result<Tensor> {
    // Both the block that is read and the one that is written stay in the nearest cache.
    const BLOCK: usize = 32;
    const SIZE: usize = size_of::<f32>();
    let (DataType::F32, &[rows, columns]) = (tensor.dtype(), tensor.shape()) else {
        return Err(Error::internal("only matrices of 32-bit floats are transposed"));
    };
    let from = tensor.data();
    let mut data = vec![0u8; from.len()];
    for (row, column) in (0..rows).step_by(BLOCK).flat_map(|row| (0..columns).step_by(BLOCK).map(move |to| (row, to))) {
        for column in column..columns.min(column + BLOCK) {
            for row in row..rows.min(row + BLOCK) {
                let (source, target) = ((row * columns + column) * SIZE, (column * rows + row) * SIZE);
                data[target..target + SIZE].copy_from_slice(&from[source..source + SIZE]);
            }
        }
    }
    Tensor::new(DataType::F32, vec![columns, rows], data.into())
}

/// Puts the numbers of `proto` that are in a file of `folder` into itself.
///
/// # Errors
/// As [`read`].
pub(crate) fn inline(proto: &mut TensorProto, folder: &Path) -> Result<()> {
    if location(proto).is_some() {
        let read = read(proto, folder)?;
        proto.raw_data = Some(read.data().clone());
        proto.external_data.clear();
        proto.data_location = None;
    }
    Ok(())
}

/// The file that holds the numbers of `tensor`, when it is another than the graph's.
pub(crate) fn location(tensor: &TensorProto) -> Option<&str> {
    // 1 is EXTERNAL in TensorProto.DataLocation.
    (tensor.data_location == Some(1)).then_some(())?;
    tensor.external_data.iter().find(|entry| entry.key.as_deref() == Some("location"))?.value.as_deref()
}

/// The typed lists: floats and doubles have their own, everything narrow shares `int32_data`, element by element.
fn typed(proto: &TensorProto, dtype: DataType) -> Bytes {
    let narrow = |width: usize| -> Vec<u8> {
        proto.int32_data.iter().flat_map(|value| value.to_le_bytes().into_iter().take(width)).collect()
    };
    match dtype {
        DataType::F32 => proto.float_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        DataType::F64 => proto.double_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        DataType::I64 => proto.int64_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        DataType::U64 => proto.uint64_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        DataType::U32 => proto.uint64_data.iter().flat_map(|value| value.to_le_bytes().into_iter().take(4)).collect(),
        DataType::Bytes => engine::strings_to_wire(proto.string_data.iter().map(|string| &string[..])).into(),
        DataType::Bool | DataType::U8 | DataType::I8 => narrow(1).into(),
        DataType::U16 | DataType::I16 | DataType::F16 | DataType::Bf16 => narrow(2).into(),
        DataType::I32 => narrow(4).into(),
    }
}

fn external(proto: &TensorProto, folder: &Path) -> Result<Bytes> {
    let entry = |key: &str| {
        proto
            .external_data
            .iter()
            .find(|entry| entry.key.as_deref() == Some(key))
            .and_then(|entry| entry.value.as_deref())
    };
    let location = entry("location").ok_or_else(|| Error::corrupt("its external data names no file"))?;
    let path = beside(folder, location)?;
    let file = engine::map::map_file(&path)?;
    let number = |key: &str, default: usize| match entry(key) {
        None => Ok(default),
        Some(text) => text.parse::<usize>().map_err(|_| Error::corrupt(format!("its external {key} is '{text}'"))),
    };
    let start = number("offset", 0)?;
    let len = number("length", file.len().saturating_sub(start))?;
    let end = start.checked_add(len).filter(|&end| end <= file.len()).ok_or_else(|| {
        Error::corrupt(format!("its external data ends after the {} bytes of {}", file.len(), path.display()))
    })?;
    Ok(file.slice(start..end))
}

/// The file that external data names, which must stay below the model's own folder.
pub(crate) fn beside(folder: &Path, location: &str) -> Result<std::path::PathBuf> {
    let plain = Path::new(location)
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir));
    if !plain {
        return Err(Error::invalid(format!("the external data '{location}' is outside the model's folder")));
    }
    Ok(folder.join(location))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::wire::Entry;

    #[test]
    fn numbers_are_found_wherever_the_format_puts_them() {
        let of = |data_type, fill: &dyn Fn(&mut TensorProto)| {
            let mut proto = TensorProto { dims: vec![2], data_type: Some(data_type), ..TensorProto::default() };
            fill(&mut proto);
            read(&proto, Path::new("/nowhere")).map(|tensor| tensor.data().to_vec())
        };
        for (what, got, want) in [
            ("raw", of(4, &|proto| proto.raw_data = Some(Bytes::from_static(&[1, 0, 2, 0]))), vec![1, 0, 2, 0]),
            ("float", of(1, &|proto| proto.float_data = vec![1.0, -2.0]), vec![0, 0, 128, 63, 0, 0, 0, 192]),
            ("half", of(10, &|proto| proto.int32_data = vec![0x3c00, 0xc000]), vec![0, 60, 0, 192]),
            ("int8", of(3, &|proto| proto.int32_data = vec![-1, 5]), vec![255, 5]),
            ("uint32", of(12, &|proto| proto.uint64_data = vec![7, 8]), vec![7, 0, 0, 0, 8, 0, 0, 0]),
            (
                "string",
                of(8, &|proto| proto.string_data = vec!["a".into(), "".into()]),
                vec![1, 0, 0, 0, 97, 0, 0, 0, 0],
            ),
        ] {
            assert_eq!(got.unwrap(), want, "{what}");
        }
        assert!(of(1, &|proto| proto.float_data = vec![1.0]).is_err(), "one of two");
        assert!(of(14, &|_| ()).is_err(), "complex");
    }

    #[test]
    fn rows_and_columns_are_exchanged() {
        let (rows, columns) = (45, 70);
        let matrix = Tensor::from_f32(vec![rows, columns], (0u16..3150).map(f32::from).collect()).unwrap();
        let turned = transposed(&matrix).unwrap();
        assert_eq!(turned.shape(), [columns, rows]);
        assert_eq!(turned.data()[(69 * rows + 2) * 4..][..4], (2.0 * 70.0 + 69.0f32).to_le_bytes());
        assert_eq!(transposed(&turned).unwrap(), matrix);
        assert!(transposed(&Tensor::from_f32(vec![1], vec![0.0]).unwrap()).is_err());
    }

    #[test]
    fn external_data_stays_in_the_models_folder() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("w"), [0, 0, 1, 2]).unwrap();
        let of = |location: &str, offset: &str, length: &str| {
            let entry = |key: &str, value: &str| Entry { key: Some(key.into()), value: Some(value.into()) };
            let proto = TensorProto {
                dims: vec![2],
                data_type: Some(2),
                data_location: Some(1),
                external_data: vec![entry("location", location), entry("offset", offset), entry("length", length)],
                ..TensorProto::default()
            };
            read(&proto, folder.path())
        };
        assert_eq!(of("w", "2", "2").unwrap().data()[..], [1, 2]);
        for (location, offset, length) in [
            ("w", "3", "2"),
            ("w", "18446744073709551615", "2"),
            ("../w", "0", "2"),
            ("/etc/passwd", "0", "2"),
            ("x", "0", "2"),
        ] {
            assert!(of(location, offset, length).is_err(), "{location} {offset} {length}");
        }
    }
}
