//! What a model of texts answered once, and which of its outputs a task reads.

use engine::{DataType, Error, Result, Tensor, TensorSpec};

use super::text::bare;
use super::wish::TextWish;

/// Each output with what it held for a row.
pub(super) struct Answers {
    outputs: Vec<(String, Tensor)>,
    /// Tokens of that row.
    length: usize,
}

impl Answers {
    pub(super) fn new(specs: Vec<TensorSpec>, tensors: Vec<Tensor>, length: usize) -> Self {
        Self { outputs: specs.into_iter().map(|spec| spec.name).zip(tensors).collect(), length }
    }

    /// Those that tasks can read and whose shape `fits`.
    fn fitting(&self, fits: &dyn Fn(&[usize]) -> bool) -> Vec<(&String, &Tensor)> {
        let outputs = self.outputs.iter().map(|(name, tensor)| (name, tensor));
        outputs.filter(|(_, tensor)| tensor.dtype() == DataType::F32 && fits(tensor.shape())).collect()
    }

    /// The output that is called what was `said`, or the only one whose shape `fits`; `wants` is that shape for a person.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when none or several fit, with all that there are.
    pub(super) fn one(
        &self,
        said: Option<&str>,
        wants: &str,
        fits: &dyn Fn(&[usize]) -> bool,
    ) -> Result<(String, &Tensor)> {
        let fitting = self.fitting(fits);
        let mut found = fitting.iter().filter(|(name, _)| said.is_none_or(|said| said == *name));
        match (found.next(), found.next()) {
            (Some(&(name, tensor)), None) => Ok((name.clone(), tensor)),
            (Some(_), _) => {
                Err(self.unclear(wants, "several are that; say which one with output = \"NAME\" in a --task-file"))
            }
            (None, _) => Err(self.unclear(wants, "none is that")),
        }
    }

    /// The same of an output that has something for each token.
    ///
    /// # Errors
    /// As [`one`](Self::one).
    pub(super) fn by_token(&self, said: Option<&str>, each: &str) -> Result<(String, &Tensor)> {
        let (length, wants) = (self.length, format!("FP32 [1, {}, {each}]", self.length));
        self.one(said, &wants, &|shape| matches!(shape, [1, tokens, _] if *tokens == length))
    }

    /// The outputs that say where answers begin and end.
    ///
    /// # Errors
    /// As [`one`](Self::one).
    pub(super) fn ends(&self, wish: &TextWish, notes: &mut Vec<String>) -> Result<(String, String)> {
        let (length, wants) = (self.length, format!("FP32 [1, {}]", self.length));
        let fitting = self.fitting(&|shape| shape == [1, length]);
        let begins =
            |name: &str, word: &str| name.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word));
        let called = |said: &Option<String>, word: &str| {
            let mut found = fitting
                .iter()
                .filter(|(name, _)| said.as_ref().map_or_else(|| begins(name, word), |said| said == *name));
            found.next().filter(|_| found.next().is_none()).map(|(name, _)| (*name).clone())
        };
        if let (Some(start), Some(end)) = (called(&wish.start, "start"), called(&wish.end, "end")) {
            return Ok((start, end));
        }
        // The places of a tuple say nothing but their order, and that is the reference library's.
        match &fitting[..] {
            [(start, _), (end, _)] if wish.start.is_none() && wish.end.is_none() && bare(start) == bare(end) => {
                let (start, end) = if place(start) <= place(end) { (start, end) } else { (end, start) };
                notes.push(format!("answers begin by '{start}' and end by '{end}', the order of the reference library"));
                Ok(((*start).clone(), (*end).clone()))
            }
            _ => Err(self.unclear(
                &wants,
                "it is not clear where answers begin and end; say it with start = \"NAME\" and end = \"NAME\" in [text] of a \
                 --task-file",
            )),
        }
    }

    fn unclear(&self, wants: &str, why: &str) -> Error {
        let shown = |(name, tensor): &(String, Tensor)| format!("'{name}' {} {:?}", tensor.dtype(), tensor.shape());
        let shown: Vec<String> = self.outputs.iter().map(shown).collect();
        Error::invalid(format!("of its outputs {} the task reads {wants}, and {why}", shown.join(", ")))
    }
}

/// The place in a name of the form `ANYTHING__N`.
fn place(name: &str) -> Option<usize> {
    name.strip_prefix(bare(name))?.trim_start_matches('_').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(outputs: &[(&str, &[usize])]) -> Answers {
        let tensor = |shape: &[usize]| Tensor::from_f32(shape.to_vec(), vec![0.5; shape.iter().product()]).unwrap();
        Answers {
            outputs: outputs.iter().map(|(name, shape)| ((*name).to_owned(), tensor(shape))).collect(),
            length: 4,
        }
    }

    #[test]
    fn answers_begin_and_end_where_names_or_the_reference_say() {
        let said = |start: &str, end: &str| TextWish {
            start: Some(start.to_owned()),
            end: Some(end.to_owned()),
            ..TextWish::default()
        };
        let silent = TextWish::default;
        let (row, other): (&[usize], &[usize]) = (&[1, 4], &[1, 4, 8]);
        for (outputs, wish, want) in [
            (vec![("start_logits", row), ("end_logits", row)], silent(), Ok(("start_logits", "end_logits"))),
            (
                vec![("end_logits", row), ("start_logits", row), ("hidden", other)],
                silent(),
                Ok(("start_logits", "end_logits")),
            ),
            (vec![("END__1", row), ("START__0", row)], silent(), Ok(("START__0", "END__1"))),
            (vec![("OUTPUT__0", row), ("OUTPUT__1", row)], silent(), Ok(("OUTPUT__0", "OUTPUT__1"))),
            (vec![("OUTPUT__1", row), ("OUTPUT__0", row)], silent(), Ok(("OUTPUT__0", "OUTPUT__1"))),
            (
                vec![("OUTPUT__0", row), ("OUTPUT__1", row)],
                said("OUTPUT__1", "OUTPUT__0"),
                Ok(("OUTPUT__1", "OUTPUT__0")),
            ),
            (vec![("a", row), ("b", row)], silent(), Err("start = ")),
            (vec![("a", row), ("b", row)], said("b", "a"), Ok(("b", "a"))),
            (vec![("a", row), ("b", row)], said("b", "c"), Err("'a' FP32 [1, 4], 'b' FP32 [1, 4]")),
            (vec![("OUTPUT__0", row)], silent(), Err("it is not clear")),
            (vec![("start_logits", other), ("end_logits", row)], silent(), Err("reads FP32 [1, 4]")),
        ] {
            let got = answers(&outputs).ends(&wish, &mut Vec::new());
            match (got, want) {
                (Ok((start, end)), Ok(want)) => assert_eq!((&*start, &*end), want, "{outputs:?}"),
                (Err(error), Err(says)) => assert!(error.message.contains(says), "{outputs:?}: {error}"),
                (got, want) => panic!("{outputs:?}: {got:?}, not {want:?}"),
            }
        }
    }

    #[test]
    fn one_output_fits_or_is_named() {
        let two = answers(&[("a", &[1, 4, 8]), ("b", &[1, 4, 2]), ("c", &[1, 2])]);
        assert_eq!(two.one(None, "", &|shape| shape.len() == 2).unwrap().0, "c");
        assert_eq!(two.by_token(Some("b"), "classes").unwrap().0, "b");
        let unclear = two.by_token(None, "classes").unwrap_err().message;
        assert!(unclear.contains("FP32 [1, 4, classes]") && unclear.contains("several"), "{unclear}");
        assert!(two.by_token(Some("c"), "classes").unwrap_err().message.contains("none is that"));
    }
}
