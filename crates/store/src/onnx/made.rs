//! What a program takes of a tensor: the tensor itself, turned, or in eight bits.

use engine::{DataType, Error, Result, Tensor};

use super::tensor::{datatype_number, transposed};

/// How a weight is made of the tensor that an exporter wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Made {
    /// As it is.
    #[default]
    AsIs,
    /// A matrix with rows and columns exchanged.
    Turned,
    /// The nearest levels of a matrix, INT8, each of its channels on a scale of its own; where the channels are in the result.
    Levels(Grid, Axis),
    /// The scales of those levels, `[channels, 1]` when they are to stand in a column, `[channels]` otherwise.
    Scales(Grid, bool),
}

/// An axis of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Axis {
    /// The first.
    Rows,
    /// The second.
    Columns,
}

/// The levels that a matrix's numbers are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Grid {
    /// What has a scale of its own.
    pub(crate) channels: Axis,
    /// Levels go from minus this to this.
    pub(crate) limit: i8,
}

impl Made {
    /// The number in `TensorProto.DataType` and the dimensions of what is made of a tensor that has these.
    pub(crate) fn declared(self, data_type: Option<i32>, dims: &[i64]) -> (Option<i32>, Vec<i64>) {
        let turned = || dims.iter().rev().copied().collect();
        let channels = |grid: Grid| dims.get(usize::from(grid.channels == Axis::Columns)).copied().unwrap_or(0);
        match self {
            Self::AsIs => (data_type, dims.to_vec()),
            Self::Turned => (data_type, turned()),
            Self::Levels(grid, result) => {
                let dims = if result == grid.channels { dims.to_vec() } else { turned() };
                (Some(datatype_number(DataType::I8)), dims)
            }
            Self::Scales(grid, false) => (data_type, vec![channels(grid)]),
            Self::Scales(grid, true) => (data_type, vec![channels(grid), 1]),
        }
    }

    /// What is made of `tensor`.
    ///
    /// # Errors
    /// [`Internal`](engine::ErrorKind::Internal) when it is no matrix of 32-bit floats and has to be one.
    pub(crate) fn of(self, tensor: &Tensor) -> Result<Tensor> {
        match self {
            Self::AsIs => Ok(tensor.clone()),
            Self::Turned => transposed(tensor),
            Self::Levels(grid, result) => levels(&Matrix::of(tensor)?, grid, result),
            Self::Scales(grid, column) => {
                let scales = Matrix::of(tensor)?.scales(grid);
                let shape = if column { vec![scales.len(), 1] } else { vec![scales.len()] };
                Tensor::from_f32(shape, scales)
            }
        }
    }
}

/// A matrix whose bytes may lie at any address.
struct Matrix<'a> {
    rows: usize,
    columns: usize,
    numbers: &'a [[u8; 4]],
}

impl<'a> Matrix<'a> {
    fn of(tensor: &'a Tensor) -> Result<Self> {
        let (DataType::F32, &[rows, columns]) = (tensor.dtype(), tensor.shape()) else {
            return Err(Error::internal("only matrices of 32-bit floats are rounded to levels"));
        };
        Ok(Self { rows, columns, numbers: tensor.data().as_chunks().0 })
    }

    fn rows(&self) -> impl Iterator<Item = impl Iterator<Item = f32>> {
        // A matrix without columns has no rows to speak of either.
        self.numbers.chunks(self.columns.max(1)).map(|row| row.iter().map(|&number| f32::from_le_bytes(number)))
    }

    /// For each channel the size of a step between levels; 1 for a channel of zeros.
    fn scales(&self, grid: Grid) -> Vec<f32> {
        let mut largest = vec![0f32; if grid.channels == Axis::Rows { self.rows } else { self.columns }];
        for (at, row) in self.rows().enumerate() {
            for (column, number) in row.enumerate() {
                let channel = if grid.channels == Axis::Rows { at } else { column };
                largest[channel] = largest[channel].max(number.abs());
            }
        }
        let step = |largest: f32| if largest > 0.0 { largest / f32::from(grid.limit) } else { 1.0 };
        largest.into_iter().map(step).collect()
    }
}

fn levels(matrix: &Matrix<'_>, grid: Grid, result: Axis) -> Result<Tensor> {
    let scales = matrix.scales(grid);
    let (rows, columns) = (matrix.rows, matrix.columns);
    let is_turned = result != grid.channels;
    let mut bytes = vec![0u8; rows * columns];
    for (at, row) in matrix.rows().enumerate() {
        for (column, number) in row.enumerate() {
            let channel = if grid.channels == Axis::Rows { at } else { column };
            let place = if is_turned { column * rows + at } else { at * columns + column };
            // The cast saturates, and makes zero of what is no number.
            bytes[place] = ((number / scales[channel]).round() as i8).clamp(-grid.limit, grid.limit).cast_unsigned();
        }
    }
    let shape = if is_turned { vec![columns, rows] } else { vec![rows, columns] };
    Tensor::new(DataType::I8, shape, bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_channel_is_on_a_scale_of_its_own() {
        let matrix = Tensor::from_f32(vec![2, 3], vec![1.0, -200.0, 0.0, -0.5, 50.0, 0.0]).unwrap();
        let columns = Grid { channels: Axis::Columns, limit: 64 };
        let rows = Grid { channels: Axis::Rows, limit: 127 };
        for (made, dims, want) in [
            (Made::Levels(columns, Axis::Columns), &[2i64, 3][..], &[64i8, -64, 0, -32, 16, 0][..]),
            (Made::Levels(columns, Axis::Rows), &[3, 2], &[64, -32, -64, 16, 0, 0]),
            (Made::Levels(rows, Axis::Rows), &[2, 3], &[1, -127, 0, -1, 127, 0]),
        ] {
            let got = made.of(&matrix).unwrap();
            let levels: Vec<i8> = got.data().iter().map(|byte| byte.cast_signed()).collect();
            assert_eq!(levels, want, "{made:?}");
            assert_eq!(made.declared(Some(1), &[2, 3]), (Some(3), dims.to_vec()), "{made:?}");
            assert_eq!(
                got.shape().iter().map(|&dim| i64::try_from(dim).unwrap()).collect::<Vec<_>>(),
                dims,
                "{made:?}"
            );
        }
        for (made, dims, want) in [
            (Made::Scales(columns, false), &[3i64][..], &[1.0 / 64.0, 200.0 / 64.0, 1.0][..]),
            (Made::Scales(rows, true), &[2, 1], &[200.0 / 127.0, 50.0 / 127.0]),
        ] {
            assert_eq!(made.of(&matrix).unwrap().as_f32().unwrap(), want, "{made:?}");
            assert_eq!(made.declared(Some(1), &[2, 3]), (Some(1), dims.to_vec()), "{made:?}");
        }
        assert_eq!(Made::Turned.declared(Some(1), &[2, 3]), (Some(1), vec![3, 2]));
        assert!(Made::Levels(rows, Axis::Rows).of(&Tensor::from_f32(vec![1], vec![0.0]).unwrap()).is_err());
    }
}
