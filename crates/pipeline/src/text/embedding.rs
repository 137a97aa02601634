//! Sentence embedding: a text in, one vector out; and how near two texts are, which is the cosine of theirs.

use std::sync::Arc;

use engine::{Error, Result, Tensor};
use store::Manifest;
use store::task::{self, Pooling};

use super::outputs::{only_row, values};
use super::rows::Rows;
use super::{check, wrong_input};
use crate::tokens::Tokenizer;
use crate::{Answer, Input, Options, Pipeline, Prepared};

const EMBEDDING: &str = "sentence-embedding";
const SIMILARITY: &str = "text-similarity";

/// The two ends of sentence embedding and of text similarity.
pub(crate) struct Embedding {
    rows: Rows,
    task: task::Embedding,
    /// Whether two texts are always compared, and one alone means nothing.
    compares: bool,
}

impl Embedding {
    pub(crate) fn new(manifest: &Manifest, task: &task::Embedding, tokenizer: Arc<Tokenizer>) -> Result<Self> {
        Ok(Self { rows: Rows::new(manifest, &task.text, tokenizer)?, task: task.clone(), compares: false })
    }

    pub(crate) fn similarity(manifest: &Manifest, task: &task::Embedding, tokenizer: Arc<Tokenizer>) -> Result<Self> {
        Ok(Self { compares: true, ..Self::new(manifest, task, tokenizer)? })
    }

    fn name(&self) -> &'static str {
        if self.compares { SIMILARITY } else { EMBEDDING }
    }

    /// The vector in `outputs`, of `tokens` tokens, cut to `dimensions`.
    fn vector(&self, outputs: &[Tensor], tokens: usize, dimensions: Option<usize>) -> Result<Vec<f32>> {
        let name = &self.task.vectors;
        let mut vector = match self.task.pooling {
            None => values(&outputs[0], name, 1)?.values.into_owned(),
            Some(pooling) => {
                let each = values(&outputs[0], name, 2)?;
                pooled(&each.values, each.shape[1], tokens, pooling)
            }
        };
        let width = vector.len();
        if let Some(dimensions) = dimensions.filter(|&dimensions| dimensions > width) {
            return Err(Error::invalid(format!("'dimensions' is {dimensions}, and the model's vectors have {width}")));
        }
        if let Some(dimensions) = dimensions.filter(|&dimensions| dimensions < width) {
            vector.truncate(dimensions);
        } else if !self.task.normalise {
            return Ok(vector);
        }
        normalise(&mut vector);
        Ok(vector)
    }

    /// The row for `text`, and how many tokens it has.
    fn row(&self, text: &str, cut: bool) -> Result<(Vec<Tensor>, usize)> {
        let row = check(text, "text").and_then(|()| self.rows.one(text, None, cut))?;
        Ok((self.rows.of(&row)?, row.len()))
    }

    /// The row for `ids`.
    fn row_of(&self, ids: &[u32]) -> Result<(Vec<Tensor>, usize)> {
        let (given, most) = (ids.len(), self.rows.tokens_max);
        if ids.is_empty() || given > most {
            return Err(Error::invalid(format!("{given} tokens are not between 1 and {most}")));
        }
        let size = self.rows.tokenizer.size();
        if let Some(id) = ids.iter().find(|&&id| id as usize >= size) {
            return Err(Error::invalid(format!("token {id} is none of the {size} of the vocabulary")));
        }
        Ok((self.rows.tensors(ids, &vec![0; given])?, given))
    }

    /// One row, whose vector is the answer.
    fn embed(self: Arc<Self>, (row, tokens): (Vec<Tensor>, usize), dimensions: Option<usize>) -> Prepared {
        Prepared {
            rows: vec![row],
            outputs: vec![self.task.vectors.clone()],
            tokens,
            finish: Box::new(move |rows| Ok(Answer::Vector(self.vector(&only_row(rows)?, tokens, dimensions)?))),
        }
    }

    /// Two rows, whose vectors are compared.
    fn compare(self: Arc<Self>, rows: [(Vec<Tensor>, usize); 2], dimensions: Option<usize>) -> Prepared {
        let tokens = rows.each_ref().map(|(_, tokens)| *tokens);
        Prepared {
            rows: rows.into_iter().map(|(row, _)| row).collect(),
            outputs: vec![self.task.vectors.clone()],
            tokens: tokens.iter().sum(),
            finish: Box::new(move |rows| {
                let [first, second] = &rows[..] else { return Err(Error::internal("two rows have two answers")) };
                let first = self.vector(first, tokens[0], dimensions)?;
                Ok(Answer::Similarity(cosine(&first, &self.vector(second, tokens[1], dimensions)?)))
            }),
        }
    }
}

/// The cosine of the angle between `a` and `b`.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    product(a, b) / (product(a, a) * product(b, b)).sqrt().max(1e-12)
}

/// One vector of `tokens` vectors of `width`, which stand first in `each`.
fn pooled(each: &[f32], width: usize, tokens: usize, pooling: Pooling) -> Vec<f32> {
    let mut rows = each.chunks_exact(width.max(1)).take(tokens);
    let first = rows.next().map(<[f32]>::to_vec).unwrap_or_default();
    match pooling {
        Pooling::First => first,
        Pooling::Max => rows.fold(first, |mut most, row| {
            most.iter_mut().zip(row).for_each(|(most, value)| *most = most.max(*value));
            most
        }),
        Pooling::Mean => {
            let mut sum = rows.fold(first, |mut sum, row| {
                sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                sum
            });
            sum.iter_mut().for_each(|value| *value /= tokens as f32);
            sum
        }
    }
}

/// Scales `vector` to length one; one of zeros stays.
fn normalise(vector: &mut [f32]) {
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|value| *value /= length);
}

impl Pipeline for Embedding {
    fn prepare(self: Arc<Self>, input: Input, options: &Options) -> Result<Prepared> {
        let options = options.reader();
        let dimensions = options.whole("dimensions", 1..=usize::MAX)?;
        // As in the reference, the end of a long text does not count unless somebody minds.
        let cut = options.flag("truncate")?.unwrap_or(true);
        options.finish(self.name())?;
        if dimensions.is_some() && !self.task.shortens {
            return Err(Error::invalid(
                "the model does not say that its vectors can be shortened; leave 'dimensions' out, or write \
                 \"is_matryoshka\": true into its config.json and pack it again",
            ));
        }
        match input {
            Input::Pair(first, second) => {
                let rows = [self.row(&first, cut)?, self.row(&second, cut)?];
                Ok(self.compare(rows, dimensions))
            }
            Input::Text(text) if !self.compares => {
                let row = self.row(&text, cut)?;
                Ok(self.embed(row, dimensions))
            }
            Input::Tokens(ids) if !self.compares => {
                let row = self.row_of(&ids)?;
                Ok(self.embed(row, dimensions))
            }
            Input::Text(_) | Input::Tokens(_) => Err(wrong_input(SIMILARITY, "two texts", &input)),
            Input::Picture(_) => Err(wrong_input(self.name(), "texts", &input)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_of_tokens_become_one() {
        let each = [1.0, -2.0, 3.0, 4.0, 100.0, 100.0];
        for (pooling, want) in [(Pooling::First, [1.0, -2.0]), (Pooling::Mean, [2.0, 1.0]), (Pooling::Max, [3.0, 4.0])]
        {
            assert_eq!(pooled(&each, 2, 2, pooling), want, "{pooling:?}");
        }
        let mut vector = [3.0, 4.0];
        normalise(&mut vector);
        assert_eq!(vector, [0.6, 0.8]);
        let mut zeros = [0.0, 0.0];
        normalise(&mut zeros);
        assert_eq!(zeros, [0.0, 0.0]);
        assert_eq!(
            [cosine(&[1.0, 0.0], &[2.0, 0.0]), cosine(&[1.0, 0.0], &[0.0, 3.0]), cosine(&zeros, &vector)],
            [1.0, 0.0, 0.0]
        );
    }
}
