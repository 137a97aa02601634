//! Thousands of fine-tunes of one model, each with a head of its own: what a fleet of a shared trunk is.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use engine::{Error, Tensor};
use store::Store;
use store::variant::variant;

use crate::Outcome;
use crate::exit::Exit;

/// Packs into the store at `place` one model for every head in the file `heads` but the first, which is that of the model
/// `base` and tells where a head lies: in FP32, the last matrix `[in, out]` and then its bias. They are called `base` and
/// their position, in five digits.
pub(super) fn run(place: &str, base: &str, heads: &Path) -> Outcome {
    let store = Store::open(place).map_err(|error| Exit::configuration(&error))?;
    let version = store.versions(base)?.into_iter().max().unwrap_or(1);
    let manifest = store.manifest(base, version)?.on(&engine::cpu::target())?;
    let all = std::fs::read(heads).map_err(|error| Exit::Configuration(format!("{}: {error}", heads.display())))?;
    let weights = store.weights(&manifest)?;
    let head = Head::find(&weights, &all).ok_or_else(|| {
        Error::invalid(format!("{}: it does not begin with the head of model '{base}'", heads.display()))
    })?;
    for (number, own) in all.chunks_exact(head.len_bytes()).enumerate().skip(1) {
        variant(&store, &manifest, &format!("{base}{number:05}"), &head.of(own)?)?;
    }
    Ok(())
}

/// Where a model has its head.
struct Head {
    matrix: usize,
    bias: usize,
    /// Columns of the matrix as the model has it; the program may have turned it.
    out: usize,
    rows: usize,
    turned: bool,
}

impl Head {
    /// The head that `all` begins with, among `weights`.
    fn find(weights: &[Tensor], all: &[u8]) -> Option<Self> {
        weights.iter().enumerate().find_map(|(bias, tensor)| {
            let [out] = *tensor.shape() else { return None };
            weights.iter().enumerate().find_map(|(matrix, tensor)| {
                let &[first, second] = tensor.shape() else { return None };
                let turned = first == out && second != out;
                let rows = if turned { second } else { first };
                let head = Self { matrix, bias, out, rows, turned };
                let own = all.get(..head.len_bytes())?;
                let found = head.of(own).ok()?;
                let same =
                    |at: usize| found[&at].shape() == weights[at].shape() && found[&at].data() == weights[at].data();
                (same(matrix) && same(bias)).then_some(head)
            })
        })
    }

    fn len_bytes(&self) -> usize {
        (self.rows + 1) * self.out * size_of::<f32>()
    }

    /// The weights that `own` says, as the program takes them.
    fn of(&self, own: &[u8]) -> engine::Result<BTreeMap<usize, Tensor>> {
        let (matrix, bias) = own.split_at(self.rows * self.out * size_of::<f32>());
        let element = |at: usize| &matrix[at * size_of::<f32>()..][..size_of::<f32>()];
        let (matrix, shape) = match self.turned {
            false => (matrix.to_vec(), vec![self.rows, self.out]),
            true => {
                let column = |column| (0..self.rows).flat_map(move |row| element(row * self.out + column));
                ((0..self.out).flat_map(column).copied().collect(), vec![self.out, self.rows])
            }
        };
        let tensor = |shape: Vec<usize>, bytes: Vec<u8>| Tensor::new(engine::DataType::F32, shape, Bytes::from(bytes));
        let bias_tensor = tensor(vec![self.out], bias.to_vec())?;
        Ok(BTreeMap::from([(self.matrix, tensor(shape, matrix)?), (self.bias, bias_tensor)]))
    }
}
