//! A model's outputs read as classifications or regressions, one an example.

use std::collections::BTreeMap;

use engine::{DataType, Error, Result, Tensor, strings_from_wire};
use half::{bf16, f16};

/// A class and how much it is it.
pub(crate) type LabelScore = (String, f32);

/// Names that scores go by: TensorFlow Serving's own, and that of converters of classic models.
const SCORES: [&str; 2] = ["scores", "probabilities"];
/// The name that TensorFlow Serving has for class labels.
const CLASSES: &str = "classes";
/// The name that TensorFlow Serving has for regressions.
const OUTPUTS: &str = "outputs";

/// For each of `count` examples its classes in the order of the model, each with its score.
///
/// `outputs` go by alias. The scores are the output of that name or else the only one of floats `[count, n]`. Labels
/// are strings `[count, n]` called `classes`, else those of `names` by class id, else the class id.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when the outputs are not such.
pub(crate) fn classify(
    outputs: &[(String, Tensor)],
    names: &BTreeMap<u32, String>,
    count: usize,
) -> Result<Vec<Vec<LabelScore>>> {
    let is_scores = |tensor: &Tensor| tensor.shape().len() == 2 && tensor.shape()[0] == count;
    let scores = pick(outputs, &SCORES, is_scores).ok_or_else(|| {
        Error::invalid("the model does not classify: it gives no scores [examples, classes]; use predict")
    })?;
    let width = scores.shape()[1];
    let values = as_f32(scores).unwrap_or_default();
    let labels = match outputs.iter().find(|(name, tensor)| name == CLASSES && tensor.dtype() == DataType::Bytes) {
        Some((_, classes)) if classes.shape() == scores.shape() => Some(strings(classes)?),
        _ => None,
    };
    let label = |at: usize| match &labels {
        Some(labels) => labels[at].clone(),
        None => {
            let class = at % width;
            let known = u32::try_from(class).ok().and_then(|class| names.get(&class));
            known.cloned().unwrap_or_else(|| class.to_string())
        }
    };
    let pairs: Vec<LabelScore> = values.iter().enumerate().map(|(at, &score)| (label(at), score)).collect();
    if width == 0 {
        return Ok(vec![Vec::new(); count]);
    }
    Ok(pairs.chunks(width).map(<[LabelScore]>::to_vec).collect())
}

/// One number for each of `count` examples: the output called `outputs`, or else the only one of floats `[count]` or
/// `[count, 1]`.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when there is none.
pub(crate) fn regress(outputs: &[(String, Tensor)], count: usize) -> Result<Vec<f32>> {
    let is_column = |tensor: &Tensor| match tensor.shape() {
        [rows] | [rows, 1] => *rows == count,
        _ => false,
    };
    pick(outputs, &[OUTPUTS], is_column).and_then(as_f32).ok_or_else(|| {
        Error::invalid("the model does not regress: it gives no numbers [examples] or [examples, 1]; use predict")
    })
}

/// The float tensor that fits: the one of the first name that has one, or the only one.
fn pick<'a>(outputs: &'a [(String, Tensor)], names: &[&str], fits: impl Fn(&Tensor) -> bool) -> Option<&'a Tensor> {
    let fitting: Vec<_> = outputs.iter().filter(|(_, tensor)| is_float(tensor.dtype()) && fits(tensor)).collect();
    let named = names.iter().find_map(|&want| fitting.iter().find(|(name, _)| name == want));
    match (named, fitting.as_slice()) {
        (Some((_, tensor)), _) | (None, [(_, tensor)]) => Some(tensor),
        (None, _) => None,
    }
}

fn is_float(dtype: DataType) -> bool {
    matches!(dtype, DataType::F16 | DataType::Bf16 | DataType::F32 | DataType::F64)
}

/// The elements of a float tensor, at single precision; `None` of any other.
fn as_f32(tensor: &Tensor) -> Option<Vec<f32>> {
    fn each<const N: usize>(data: &[u8], value: fn([u8; N]) -> f32) -> Vec<f32> {
        data.as_chunks::<N>().0.iter().map(|&bytes| value(bytes)).collect()
    }
    let data = tensor.data();
    match tensor.dtype() {
        DataType::F32 => Some(each(data, f32::from_le_bytes)),
        #[allow(clippy::cast_possible_truncation, reason = "rounded to the width of the protocol's scores")]
        DataType::F64 => Some(each(data, |bytes| f64::from_le_bytes(bytes) as f32)),
        DataType::F16 => Some(each(data, |bytes| f16::from_le_bytes(bytes).to_f32())),
        DataType::Bf16 => Some(each(data, |bytes| bf16::from_le_bytes(bytes).to_f32())),
        _ => None,
    }
}

fn strings(tensor: &Tensor) -> Result<Vec<String>> {
    Ok(strings_from_wire(tensor.data())?.map(|string| String::from_utf8_lossy(string).into_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(name: &str, shape: &[usize], values: &[f32]) -> (String, Tensor) {
        (name.to_owned(), Tensor::from_f32(shape.to_vec(), values.to_vec()).unwrap())
    }

    fn words(name: &str, shape: &[usize], words: &[&str]) -> (String, Tensor) {
        let data = engine::strings_to_wire(words.iter().map(|word| word.as_bytes()));
        (name.to_owned(), Tensor::new(DataType::Bytes, shape.to_vec(), data.into()).unwrap())
    }

    #[track_caller]
    fn check_classes(outputs: &[(String, Tensor)], want: Option<&[&[(&str, f32)]]>) {
        let names = BTreeMap::from([(1, "one".to_owned())]);
        let got = classify(outputs, &names, 2).ok();
        let want = want.map(|rows| {
            rows.iter().map(|row| row.iter().map(|&(label, score)| (label.to_owned(), score)).collect()).collect()
        });
        assert_eq!(got, want);
    }

    #[test]
    fn scores_get_their_labels() {
        let scores = floats("y", &[2, 2], &[0.1, 0.9, 0.5, 0.5]);
        let by_id: &[&[(&str, f32)]] = &[&[("0", 0.1), ("one", 0.9)], &[("0", 0.5), ("one", 0.5)]];
        check_classes(std::slice::from_ref(&scores), Some(by_id));
        let classes = words("classes", &[2, 2], &["a", "b", "c", "d"]);
        let by_name: &[&[(&str, f32)]] = &[&[("a", 0.1), ("b", 0.9)], &[("c", 0.5), ("d", 0.5)]];
        check_classes(&[classes.clone(), scores.clone()], Some(by_name));
        check_classes(&[floats("z", &[2, 2], &[0.0; 4]), scores], None);
        let named = floats("probabilities", &[2, 2], &[0.1, 0.9, 0.5, 0.5]);
        check_classes(&[floats("z", &[2, 2], &[0.0; 4]), named], Some(by_id));
        check_classes(&[floats("y", &[3, 2], &[0.0; 6])], None);
        check_classes(&[classes], None);
        check_classes(&[floats("y", &[2, 0], &[])], Some(&[&[], &[]]));
    }

    #[test]
    fn a_column_of_numbers_is_a_regression() {
        for (outputs, want) in [
            (vec![floats("y", &[2], &[1.0, 2.0])], Some(vec![1.0, 2.0])),
            (vec![floats("y", &[2, 1], &[1.0, 2.0]), floats("z", &[2, 3], &[0.0; 6])], Some(vec![1.0, 2.0])),
            (vec![floats("y", &[2], &[1.0, 2.0]), floats("outputs", &[2], &[3.0, 4.0])], Some(vec![3.0, 4.0])),
            (vec![floats("y", &[2], &[1.0, 2.0]), floats("z", &[2], &[3.0, 4.0])], None),
            (vec![floats("y", &[1, 2], &[1.0, 2.0])], None),
        ] {
            assert_eq!(regress(&outputs, 2).ok(), want);
        }
    }
}
