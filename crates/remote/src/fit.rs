//! Whether what is there is what was meant: names, types and shapes of a model elsewhere against those of ours, and its
//! answers against our own.

use engine::{DataType, Signature, Tensor, TensorSpec};

use crate::failure::Failure;

/// What an endpoint says of its model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offer {
    /// The version that it speaks of; empty when it does not say.
    pub(crate) version: String,
    /// What runs it, in the endpoint's words; empty when it does not say.
    pub(crate) platform: String,
    pub(crate) inputs: Vec<TensorSpec>,
    pub(crate) outputs: Vec<TensorSpec>,
}

/// What each of our inputs and outputs is called there, in the order of our signature.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) inputs: Vec<String>,
    pub(crate) outputs: Vec<String>,
}

/// What a converter leaves at the end of a TensorFlow tensor's name.
const OUTPUT_INDEX: &str = ":0";

/// The names under which `offer` has what `ours` needs.
///
/// # Errors
/// A sentence: what does not fit, there and here.
pub(crate) fn names(ours: &Signature, offer: &Offer) -> Result<Names, String> {
    let inputs = side("input", &ours.inputs, &offer.inputs)?;
    if let Some(more) = offer.inputs.iter().find(|theirs| !inputs.contains(&theirs.name)) {
        return Err(format!("it wants an input '{}' that the model here does not have", more.name));
    }
    Ok(Names { inputs, outputs: side("output", &ours.outputs, &offer.outputs)? })
}

fn side(side: &str, ours: &[TensorSpec], offered: &[TensorSpec]) -> Result<Vec<String>, String> {
    let named = |spec: &TensorSpec| {
        let short = |name: &str| name.strip_suffix(OUTPUT_INDEX).unwrap_or(name).to_owned();
        let exact = offered.iter().find(|theirs| theirs.name == spec.name);
        let near = || offered.iter().find(|theirs| short(&theirs.name) == short(&spec.name));
        // Where there is one of each, it needs no name.
        let only = || if ours.len() == 1 && offered.len() == 1 { offered.first() } else { None };
        exact.or_else(near).or_else(only).ok_or_else(|| {
            let have: Vec<&str> = offered.iter().map(|theirs| theirs.name.as_str()).collect();
            format!("it has no {side} '{}', only {have:?}", spec.name)
        })
    };
    let fitting = |spec: &TensorSpec| {
        let theirs = named(spec)?;
        if theirs.dtype != spec.dtype || !shapes_meet(theirs, spec) {
            let shown = |spec: &TensorSpec| format!("{} {:?}", spec.dtype, spec.shape);
            return Err(format!(
                "its {side} '{}' is {}, but that of the model here is {}",
                theirs.name,
                shown(theirs),
                shown(spec)
            ));
        }
        Ok(theirs.name.clone())
    };
    ours.iter().map(fitting).collect()
}

fn shapes_meet(one: &TensorSpec, other: &TensorSpec) -> bool {
    let meet = |(&one, &other): (&i64, &i64)| one < 0 || other < 0 || one == other;
    let same_rank = one.shape.len() == other.shape.len();
    one.any_rank || other.any_rank || (same_rank && one.shape.iter().zip(&other.shape).all(meet))
}

/// `answered` in the order of our signature, each as our model would give it and laid out for reading.
///
/// # Errors
/// [`FailureKind::Wrong`](crate::FailureKind::Wrong), naming the output.
pub(crate) fn outputs(
    ours: &Signature,
    names: &Names,
    mut answered: Vec<(String, Tensor)>,
) -> Result<Vec<Tensor>, Failure> {
    let output = |(spec, name): (&TensorSpec, &String)| {
        let at = answered.iter().position(|(given, _)| given == name);
        let at = at.ok_or_else(|| Failure::wrong(format!("its answer has no output '{name}'")))?;
        let (_, tensor) = answered.swap_remove(at);
        if spec.check(&tensor).is_err() {
            let (dtype, shape) = (tensor.dtype(), tensor.shape());
            let want = format!("{} {:?}", spec.dtype, spec.shape);
            return Err(Failure::wrong(format!("its output '{name}' came as {dtype} {shape:?}, and {want} is wanted")));
        }
        aligned(tensor)
    };
    ours.outputs.iter().zip(&names.outputs).map(output).collect()
}

/// Floats lie in a message wherever they come to lie; whoever reads them wants them where floats may be.
fn aligned(tensor: Tensor) -> Result<Tensor, Failure> {
    if tensor.dtype() != DataType::F32 || tensor.as_f32().is_some() {
        return Ok(tensor);
    }
    let floats = tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    Tensor::from_f32(tensor.shape().to_vec(), floats).map_err(|error| Failure::wrong(error.message))
}

/// How far an answer may be from our own: a share of the largest value of an output. 0 is bit for bit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tolerance(pub f64);

impl Tolerance {
    /// Whether `theirs` is as near to `ours` as it has to be; both are in the order of `signature`.
    ///
    /// # Errors
    /// A sentence: which output is how far off.
    pub(crate) fn check(self, signature: &Signature, ours: &[Tensor], theirs: &[Tensor]) -> Result<(), String> {
        for ((spec, ours), theirs) in signature.outputs.iter().zip(ours).zip(theirs) {
            let name = &spec.name;
            if ours.shape() != theirs.shape() || ours.dtype() != theirs.dtype() {
                let (there, here) = (theirs.shape(), ours.shape());
                return Err(format!("it answers '{name}' with shape {there:?}, and the model here with {here:?}"));
            }
            if ours.data() == theirs.data() {
                continue;
            }
            let off = match (ours.as_f32(), theirs.as_f32()) {
                (Some(ours), Some(theirs)) => off(ours, theirs),
                // Whole numbers and halves are the same or they are not.
                _ => f64::INFINITY,
            };
            if self.0 == 0.0 {
                return Err(format!(
                    "it answers '{name}' with other bits, {off:.1e} of its largest value apart at most"
                ));
            }
            if off.is_nan() || off > self.0 {
                return Err(format!(
                    "its '{name}' is {off:.1e} of its largest value off, and the tolerance is {}",
                    self.0
                ));
            }
        }
        Ok(())
    }
}

/// The largest difference as a share of the largest of our values.
fn off(ours: &[f32], theirs: &[f32]) -> f64 {
    let mut largest = (0.0f64, 0.0f64);
    for (&our, &their) in ours.iter().zip(theirs) {
        if our.to_bits() != their.to_bits() {
            let apart = (f64::from(our) - f64::from(their)).abs();
            // What is no number is as far off as can be.
            largest.0 = largest.0.max(if apart.is_nan() { f64::INFINITY } else { apart });
        }
        if our.is_finite() {
            largest.1 = largest.1.max(f64::from(our).abs());
        }
    }
    if largest.0 == 0.0 { 0.0 } else { largest.0 / largest.1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, dtype: DataType, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.to_owned(), dtype, shape: shape.to_vec(), any_rank: false }
    }

    fn ours() -> Signature {
        Signature {
            inputs: vec![spec("image:0", DataType::U8, &[-1, 4, 4, 3])],
            outputs: vec![spec("boxes:0", DataType::F32, &[-1, 2, 4]), spec("count:0", DataType::F32, &[-1])],
        }
    }

    fn offer(input: TensorSpec, outputs: &[TensorSpec]) -> Offer {
        Offer { inputs: vec![input], outputs: outputs.to_vec(), ..Offer::default() }
    }

    #[test]
    fn what_is_offered_fits_or_is_refused() {
        let image = || spec("image:0", DataType::U8, &[-1, 4, 4, 3]);
        let boxes = || spec("boxes", DataType::F32, &[1, -1, 4]);
        let count = || spec("count", DataType::F32, &[-1]);
        let any = || TensorSpec { any_rank: true, ..spec("count", DataType::F32, &[-1]) };
        for (offer, want) in [
            (offer(image(), &[boxes(), count()]), Ok("image:0")),
            (offer(spec("image", DataType::U8, &[1, 4, 4, 3]), &[count(), boxes()]), Ok("image")),
            (offer(spec("inputs", DataType::U8, &[-1, -1, -1, 3]), &[boxes(), any(), image()]), Ok("inputs")),
            (offer(spec("image", DataType::F32, &[1, 4, 4, 3]), &[boxes(), count()]), Err("'image' is FP32")),
            (offer(spec("image", DataType::U8, &[1, 3, 4, 4]), &[boxes(), count()]), Err("[1, 3, 4, 4]")),
            (offer(spec("image", DataType::U8, &[4, 4, 3]), &[boxes(), count()]), Err("[4, 4, 3]")),
            (offer(image(), &[boxes()]), Err("no output 'count:0'")),
            (
                Offer { inputs: vec![image(), count()], outputs: vec![boxes(), count()], ..Offer::default() },
                Err("'count'"),
            ),
        ] {
            match (names(&ours(), &offer), want) {
                (Ok(names), Ok(input)) => {
                    assert_eq!(
                        names,
                        Names { inputs: vec![input.to_owned()], outputs: vec!["boxes".to_owned(), "count".to_owned()] }
                    );
                }
                (Err(said), Err(words)) => assert!(said.contains(words), "{said}"),
                (got, want) => panic!("{got:?} {want:?}"),
            }
        }
    }

    #[test]
    fn answers_come_in_our_order_or_not_at_all() {
        let names = Names { inputs: Vec::new(), outputs: vec!["boxes".to_owned(), "count".to_owned()] };
        let floats = |name: &str, shape: &[usize]| {
            let count = shape.iter().product::<usize>();
            // One byte in front, so that the floats lie where floats may not.
            let data = bytes::Bytes::from(vec![0; count * 4 + 1]).slice(1..);
            (name.to_owned(), Tensor::new(DataType::F32, shape.to_vec(), data).unwrap())
        };
        let good = vec![floats("count", &[1]), floats("more", &[1]), floats("boxes", &[1, 2, 4])];
        let got = outputs(&ours(), &names, good).unwrap();
        assert!(got.iter().all(|tensor| tensor.as_f32().is_some()));
        assert_eq!(got[0].shape(), [1, 2, 4]);
        for (answered, words) in [
            (vec![floats("boxes", &[1, 2, 4])], "'count'"),
            (vec![floats("boxes", &[1, 3, 4]), floats("count", &[1])], "[1, 3, 4]"),
        ] {
            let failure = outputs(&ours(), &names, answered).unwrap_err();
            assert_eq!(failure.kind, crate::FailureKind::Wrong);
            assert!(failure.message.contains(words), "{failure}");
        }
    }

    #[test]
    fn an_answer_is_near_enough_or_refused() {
        let signature = Signature { inputs: Vec::new(), outputs: vec![spec("y", DataType::F32, &[-1])] };
        let tensor = |values: &[f32]| vec![Tensor::from_f32(vec![values.len()], values.to_vec()).unwrap()];
        for (theirs, tolerance, fits) in [
            (&[1.0, -100.0][..], 0.0, true),
            (&[1.0, -100.001], 0.0, false),
            (&[1.0, -100.001], 1e-4, true),
            (&[1.0, -100.1], 1e-4, false),
            (&[1.0, f32::NAN], 1.0, false),
            (&[1.0], 1.0, false),
        ] {
            let got = Tolerance(tolerance).check(&signature, &tensor(&[1.0, -100.0]), &tensor(theirs));
            assert_eq!(got.is_ok(), fits, "{theirs:?} {tolerance}: {got:?}");
        }
        let nan = tensor(&[f32::NAN, f32::INFINITY]);
        assert_eq!(Tolerance(0.0).check(&signature, &nan, &nan), Ok(()));
    }
}
