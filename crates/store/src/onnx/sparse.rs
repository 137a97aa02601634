//! Sparse constants, written out: the runtime makes dense tensors of them too when it loads a graph.

use std::path::Path;

use bytes::Bytes;
use engine::{DataType, Error, Result, Tensor};

use super::tensor;
use super::wire::{Graph, Node, SparseTensor, TensorProto};

/// The largest tensor that is written out, in bytes: what one protobuf message can hold.
const DENSE_BYTES_MAX: usize = i32::MAX as usize;

/// Replaces the sparse initializers of `graph`, and of the graphs inside it, by dense ones; their files are in `folder`.
///
/// # Errors
/// [`Corrupt`](engine::ErrorKind::Corrupt) when the parts of one do not fit together, naming it.
pub(crate) fn densify(graph: &mut Graph, folder: &Path) -> Result<()> {
    for sparse in std::mem::take(&mut graph.sparse_initializer) {
        let name = sparse.values.as_ref().and_then(|values| values.name.clone()).unwrap_or_default();
        let dense = dense(&sparse, folder).map_err(|error| error.context(format!("sparse tensor '{name}'")))?;
        graph.initializer.push(dense);
    }
    graph.node.iter_mut().flat_map(Node::graphs_mut).try_for_each(|inner| densify(inner, folder))
}

fn dense(sparse: &SparseTensor, folder: &Path) -> Result<TensorProto> {
    let (values, indices) =
        sparse.values.as_ref().zip(sparse.indices.as_ref()).ok_or_else(|| Error::corrupt("a part is missing"))?;
    let (elements, places) = (tensor::read(values, folder)?, tensor::read(indices, folder)?);
    let dims: Vec<usize> = sparse
        .dims
        .iter()
        .map(|&dim| usize::try_from(dim).map_err(|_| Error::corrupt("it has a negative dimension")))
        .collect::<Result<_>>()?;
    let size = elements.dtype().size_bytes().ok_or_else(|| Error::corrupt("it holds strings"))?;
    let bytes = engine::element_count(&dims)?
        .checked_mul(size)
        .filter(|&bytes| bytes <= DENSE_BYTES_MAX)
        .ok_or_else(|| Error::corrupt("written out it is larger than a graph can hold"))?;
    let mut data = vec![0u8; bytes];
    let mut put = |at: Option<usize>, element: &[u8]| {
        let place = at.and_then(|at| at.checked_mul(size)).and_then(|start| data.get_mut(start..)?.get_mut(..size));
        place.map(|place| place.copy_from_slice(element)).ok_or_else(|| Error::corrupt("an index lies outside it"))
    };
    for (which, element) in elements.data().chunks_exact(size).enumerate() {
        put(place(&places, which, &dims), element)?;
    }
    Ok(TensorProto {
        name: values.name.clone(),
        data_type: values.data_type,
        dims: sparse.dims.clone(),
        raw_data: Some(Bytes::from(data)),
        ..TensorProto::default()
    })
}

/// Which element of the dense tensor value number `which` is; the format counts either all elements or each axis.
fn place(indices: &Tensor, which: usize, dims: &[usize]) -> Option<usize> {
    // The runtime writes indices in the narrowest type that counts the elements.
    let size = match indices.dtype() {
        dtype @ (DataType::I8 | DataType::I16 | DataType::I32 | DataType::I64) => dtype.size_bytes()?,
        _ => return None,
    };
    let index = |at: usize| -> Option<usize> {
        let start = at.checked_mul(size)?;
        let bytes = indices.data().get(start..start.checked_add(size)?)?;
        // The last byte holds the sign.
        let negative = bytes.last().is_some_and(|&byte| byte > i8::MAX as u8);
        (!negative).then(|| bytes.iter().rev().fold(0usize, |value, &byte| value << 8 | usize::from(byte)))
    };
    match indices.shape() {
        [_] => index(which),
        [_, rank] if *rank == dims.len() => dims.iter().enumerate().try_fold(0usize, |place, (axis, &dim)| {
            let at = index(which.checked_mul(*rank)?.checked_add(axis)?)?;
            (at < dim).then_some(place.checked_mul(dim)?.checked_add(at)?)
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sparse_is_written_out_or_refused() {
        let tensor = |data_type, dims: &[i64], data: Vec<u8>| TensorProto {
            name: Some("w".to_owned()),
            data_type: Some(data_type),
            dims: dims.to_vec(),
            raw_data: Some(data.into()),
            ..TensorProto::default()
        };
        let indices = |dims: &[i64], places: &[i64]| {
            tensor(7, dims, places.iter().flat_map(|place| place.to_le_bytes()).collect())
        };
        for (what, dims, indices, want) in [
            ("counted through", &[2, 3][..], indices(&[2], &[1, 5]), Some([0, 7, 0, 0, 0, 9])),
            ("counted by axis", &[2, 3], indices(&[2, 2], &[0, 1, 1, 2]), Some([0, 7, 0, 0, 0, 9])),
            ("counted in bytes", &[2, 3], tensor(3, &[2], vec![1, 5]), Some([0, 7, 0, 0, 0, 9])),
            ("negative bytes", &[2, 3], tensor(3, &[2], vec![1, 255]), None),
            ("counted in floats", &[2, 3], tensor(1, &[2], vec![0; 8]), None),
            ("outside", &[2, 3], indices(&[2], &[1, 6]), None),
            ("outside its axis", &[2, 3], indices(&[2, 2], &[0, 1, 0, 5]), None),
            ("negative", &[2, 3], indices(&[2], &[1, -1]), None),
            ("too few", &[2, 3], indices(&[1], &[1]), None),
            ("another rank", &[2, 3], indices(&[2, 3], &[0; 6]), None),
            ("huge", &[i64::MAX, 2], indices(&[2], &[1, 5]), None),
        ] {
            let sparse =
                SparseTensor { values: Some(tensor(2, &[2], vec![7, 9])), indices: Some(indices), dims: dims.to_vec() };
            let mut graph = Graph { sparse_initializer: vec![sparse], ..Graph::default() };
            let done = densify(&mut graph, Path::new("/nowhere"));
            assert_eq!(done.is_ok(), want.is_some(), "{what}: {done:?}");
            let data = graph.initializer.first().and_then(|dense| dense.raw_data.as_deref());
            assert_eq!(data, want.as_ref().map(|want| &want[..]), "{what}");
        }
    }
}
