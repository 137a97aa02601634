//! The classification extension: an output's largest values with their indices and labels, in place of the output.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Display;

use bytes::Bytes;
use engine::{DataType, Error, Result, Tensor, strings_to_wire};
use half::{bf16, f16};

/// The `classes` largest values of each item of `tensor`, as a BYTES tensor of `value:index` or `value:index:label`,
/// largest first; of equal values the lower index first, and what is not a number last. With `batched`, dimension 0
/// counts items and the answer's shape is `[items, classes]`, otherwise `[classes]`; never more classes than an item
/// has values.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) for a datatype that has no order.
pub(super) fn classify(
    tensor: &Tensor,
    classes: usize,
    batched: bool,
    labels: &BTreeMap<u32, String>,
) -> Result<Tensor> {
    let items = if batched { tensor.shape().first().copied().unwrap_or(1) } else { 1 };
    let item_values = tensor.len().checked_div(items).unwrap_or(0);
    let classes = classes.min(item_values);
    let rank = Rank { tensor, items, item_values, classes, labels };
    let strings = match tensor.dtype() {
        DataType::U8 => rank.of(u8::from_le_bytes, u8::cmp),
        DataType::U16 => rank.of(u16::from_le_bytes, u16::cmp),
        DataType::U32 => rank.of(u32::from_le_bytes, u32::cmp),
        DataType::U64 => rank.of(u64::from_le_bytes, u64::cmp),
        DataType::I8 => rank.of(i8::from_le_bytes, i8::cmp),
        DataType::I16 => rank.of(i16::from_le_bytes, i16::cmp),
        DataType::I32 => rank.of(i32::from_le_bytes, i32::cmp),
        DataType::I64 => rank.of(i64::from_le_bytes, i64::cmp),
        DataType::F16 => rank.of(|bytes| f16::from_le_bytes(bytes).to_f32(), number_first),
        DataType::Bf16 => rank.of(|bytes| bf16::from_le_bytes(bytes).to_f32(), number_first),
        DataType::F32 => rank.of(f32::from_le_bytes, number_first),
        DataType::F64 => rank.of(f64::from_le_bytes, number_first),
        DataType::Bool | DataType::Bytes => {
            return Err(Error::invalid(format!("classification ranks numbers, and {} are none", tensor.dtype())));
        }
    };
    let shape = if batched { vec![items, classes] } else { vec![classes] };
    let data = strings_to_wire(strings.iter().map(String::as_bytes));
    Tensor::new(DataType::Bytes, shape, Bytes::from(data))
}

/// The order of numbers, with everything that is none below them.
fn number_first<T: PartialOrd>(left: &T, right: &T) -> Ordering {
    let is_number = |value: &T| value.partial_cmp(value).is_some();
    left.partial_cmp(right).unwrap_or_else(|| is_number(left).cmp(&is_number(right)))
}

struct Rank<'a> {
    tensor: &'a Tensor,
    items: usize,
    item_values: usize,
    classes: usize,
    labels: &'a BTreeMap<u32, String>,
}

impl Rank<'_> {
    fn of<T: Copy + Display, const N: usize>(
        &self,
        value: fn([u8; N]) -> T,
        order: fn(&T, &T) -> Ordering,
    ) -> Vec<String> {
        let (elements, _) = self.tensor.data().as_chunks::<N>();
        if self.classes == 0 {
            return Vec::new();
        }
        let item = |index: usize| {
            let values: Vec<T> =
                elements[index * self.item_values..][..self.item_values].iter().map(|&bytes| value(bytes)).collect();
            let best_first =
                |&left: &usize, &right: &usize| order(&values[right], &values[left]).then(left.cmp(&right));
            let mut indices: Vec<usize> = (0..values.len()).collect();
            if self.classes < indices.len() {
                indices.select_nth_unstable_by(self.classes - 1, best_first);
                indices.truncate(self.classes);
            }
            indices.sort_unstable_by(best_first);
            indices.into_iter().map(|index| self.line(values[index], index)).collect::<Vec<_>>()
        };
        (0..self.items).flat_map(item).collect()
    }

    fn line(&self, value: impl Display, index: usize) -> String {
        match u32::try_from(index).ok().and_then(|index| self.labels.get(&index)) {
            Some(label) => format!("{value}:{index}:{label}"),
            None => format!("{value}:{index}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use engine::strings_from_wire;
    use proptest::prelude::*;

    use super::*;

    fn labels() -> BTreeMap<u32, String> {
        BTreeMap::from([(0, "cat".to_owned()), (2, "a:dog".to_owned())])
    }

    fn strings(tensor: &Tensor) -> Vec<String> {
        let strings = strings_from_wire(tensor.data()).unwrap();
        strings.map(|string| String::from_utf8(string.to_vec()).unwrap()).collect()
    }

    #[track_caller]
    fn check(tensor: &Tensor, classes: usize, batched: bool, shape: &[usize], want: &[&str]) {
        let answer = classify(tensor, classes, batched, &labels()).unwrap();
        assert_eq!((answer.shape(), strings(&answer)), (shape, want.iter().map(|&text| text.to_owned()).collect()));
    }

    #[test]
    fn the_largest_values_with_index_and_label() {
        let floats = Tensor::from_f32(vec![2, 3], vec![0.25, 0.5, 0.25, -1.0, f32::NAN, 1e-9]).unwrap();
        check(&floats, 2, true, &[2, 2], &["0.5:1", "0.25:0:cat", "0.000000001:2:a:dog", "-1:0:cat"]);
        check(
            &floats,
            9,
            true,
            &[2, 3],
            &["0.5:1", "0.25:0:cat", "0.25:2:a:dog", "0.000000001:2:a:dog", "-1:0:cat", "NaN:1"],
        );
        check(&floats, 2, false, &[2], &["0.5:1", "0.25:0:cat"]);
        let integers = Tensor::new(DataType::I8, vec![1, 3], Bytes::from_static(&[5, 0x80, 7])).unwrap();
        check(&integers, 3, true, &[1, 3], &["7:2:a:dog", "5:0:cat", "-128:1"]);
        let scalar = Tensor::from_f32(vec![], vec![2.0]).unwrap();
        check(&scalar, 4, false, &[1], &["2:0:cat"]);
        let none = Tensor::from_f32(vec![0, 3], vec![]).unwrap();
        check(&none, 4, true, &[0, 0], &[]);
        let no_values = Tensor::from_f32(vec![2, 0], vec![]).unwrap();
        check(&no_values, 4, true, &[2, 0], &[]);
        let halves = Tensor::new(DataType::F16, vec![2], Bytes::from_static(&[0, 0x3c, 0, 0x40])).unwrap();
        check(&halves, 1, false, &[1], &["2:1"]);
    }

    #[test]
    fn what_has_no_order_is_refused() {
        for dtype in [DataType::Bool, DataType::Bytes] {
            let tensor = Tensor::new(dtype, vec![0], Bytes::new()).unwrap();
            assert!(classify(&tensor, 1, false, &labels()).unwrap_err().message.contains(dtype.name()));
        }
    }

    proptest! {
        #[test]
        fn the_chosen_are_the_front_of_a_full_sort(values: Vec<i32>, classes in 1usize..20) {
            let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let tensor = Tensor::new(DataType::I32, vec![values.len()], Bytes::from(data)).unwrap();
            let mut sorted: Vec<_> = values.iter().copied().enumerate().collect();
            sorted.sort_by_key(|&(index, value)| (std::cmp::Reverse(value), index));
            let want: Vec<_> =
                sorted.into_iter().take(classes).map(|(index, value)| format!("{value}:{index}")).collect();
            let got = strings(&classify(&tensor, classes, false, &BTreeMap::new()).unwrap());
            prop_assert_eq!(got, want);
        }
    }
}
