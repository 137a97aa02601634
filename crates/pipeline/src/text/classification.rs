//! Text classification: a text, or two, in; the best classes out.

use std::sync::Arc;

use engine::{Result, Tensor};
use store::Manifest;
use store::task::{Problem, TextClassification};

use super::outputs::{largest, only_row, softmax, values};
use super::rows::Rows;
use super::{check, wrong_input};
use crate::tokens::Tokenizer;
use crate::{Answer, Class, Input, Options, Pipeline, Prepared};

const TASK: &str = "text-classification";

/// The two ends of text classification.
pub(crate) struct Classification {
    rows: Rows,
    output: String,
    problem: Problem,
    labels: super::Labels,
}

/// How one text is to be answered.
struct Asked {
    /// How many classes; `None` is the best alone.
    count: Option<usize>,
    problem: Problem,
}

impl Classification {
    pub(crate) fn new(manifest: &Manifest, task: &TextClassification, tokenizer: Arc<Tokenizer>) -> Result<Self> {
        Ok(Self {
            rows: Rows::new(manifest, &task.text, tokenizer)?,
            output: task.scores.clone(),
            problem: task.problem,
            labels: super::Labels::of(manifest),
        })
    }

    fn answer(&self, outputs: &[Tensor], asked: &Asked) -> Result<Answer> {
        let scores = values(&outputs[0], &self.output, 1)?;
        let scores = match asked.problem {
            Problem::Regression => scores.values.into_owned(),
            Problem::SingleLabel => softmax(&scores.values),
            Problem::MultiLabel => scores.values.iter().map(|score| 1.0 / (1.0 + (-score).exp())).collect(),
        };
        let best = largest(&scores, asked.count.unwrap_or(1));
        let mut classes = best.into_iter().map(|id| Class { label: self.labels.name(id), score: scores[id] });
        Ok(match asked.count {
            Some(_) => Answer::Classes(classes.collect()),
            None => classes.next().map_or(Answer::Classes(Vec::new()), Answer::Class),
        })
    }
}

impl Pipeline for Classification {
    fn prepare(self: Arc<Self>, input: Input, options: &Options) -> Result<Prepared> {
        let options = options.reader();
        let problems =
            [("none", Problem::Regression), ("softmax", Problem::SingleLabel), ("sigmoid", Problem::MultiLabel)];
        // As in the reference, none at all is a way to ask for all, and so is nothing; not to say it asks for one.
        let all = options.is_nothing("top_k").then_some(0);
        let count = options.whole("top_k", 0..=usize::MAX)?.or(all);
        let asked = Asked {
            count: count.map(|count| if count == 0 { usize::MAX } else { count }),
            problem: options.choice("function_to_apply", &problems)?.unwrap_or(self.problem),
        };
        let cut = options.flag("truncate")?.unwrap_or(false);
        options.finish(TASK)?;
        let row = match &input {
            Input::Text(text) => check(text, "text").and_then(|()| self.rows.one(text, None, cut))?,
            Input::Pair(first, second) => {
                check(first, "text").and_then(|()| check(second, "second text"))?;
                self.rows.one(first, Some(second), cut)?
            }
            Input::Tokens(_) | Input::Picture(_) => return Err(wrong_input(TASK, "one text or two", &input)),
        };
        Ok(Prepared {
            rows: vec![self.rows.of(&row)?],
            outputs: vec![self.output.clone()],
            tokens: row.len(),
            finish: Box::new(move |rows| self.answer(&only_row(rows)?, &asked)),
        })
    }
}
