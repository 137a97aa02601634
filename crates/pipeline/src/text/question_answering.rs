//! Question answering: a question and a context in, passages of the context out.
//!
//! A context that is too long for one row is gone over in windows that overlap, and the best passage of all wins. The
//! rules are those of transformers' question-answering pipeline, release 4.30.

use std::sync::Arc;

use engine::{Error, Result, Tensor};
use store::Manifest;
use store::task;
use tokenizers::Encoding;

use super::outputs::values;
use super::rows::Rows;
use super::{check, wrong_input};
use crate::tokens::{Tokenizer, part, windows};
use crate::{Answer, Input, Options, Passage, Pipeline, Prepared};

const TASK: &str = "question-answering";
/// The most tokens of a row, unless asked otherwise or the model takes fewer.
const ROW_TOKENS: usize = 384;
/// The most tokens that two windows share, unless asked otherwise.
const OVERLAP_TOKENS: usize = 128;
/// The most tokens of an answer, unless asked otherwise.
const ANSWER_TOKENS: usize = 15;
/// Nobody reads more.
const COUNT_MAX: usize = 1000;

/// The two ends of question answering.
pub(crate) struct QuestionAnswering {
    rows: Rows,
    start: String,
    end: String,
}

/// How one question is to be answered.
struct Asked {
    /// How many passages; `None` is the best alone.
    count: Option<usize>,
    answer_tokens: usize,
    row_tokens: usize,
    overlap: Option<usize>,
    /// Whether "there is no answer" is an answer.
    may_have_none: bool,
    /// Whether an answer begins and ends with whole words.
    whole_words: bool,
}

/// A window of the context: what of it is needed when its outputs come.
struct Window {
    tokens: Vec<Token>,
}

/// A token of a window.
struct Token {
    /// Where it lies in the context, in code points.
    offsets: (usize, usize),
    /// The word that it is part of, where the tokenizer knows words.
    word: Option<(usize, usize)>,
    /// Whether an answer may begin or end here.
    candidate: bool,
}

impl QuestionAnswering {
    pub(crate) fn new(manifest: &Manifest, task: &task::QuestionAnswering, tokenizer: Arc<Tokenizer>) -> Result<Self> {
        let rows = Rows::new(manifest, &task.text, tokenizer)?;
        Ok(Self { rows, start: task.start.clone(), end: task.end.clone() })
    }

    fn asked(&self, options: &Options) -> Result<Asked> {
        let options = options.reader();
        let asked = Asked {
            count: options.whole("top_k", 1..=COUNT_MAX)?,
            answer_tokens: options.whole("max_answer_len", 1..=usize::MAX)?.unwrap_or(ANSWER_TOKENS),
            row_tokens: options.whole("max_seq_len", 1..=self.rows.tokens_max)?.unwrap_or(ROW_TOKENS),
            overlap: options.whole("doc_stride", 0..=self.rows.tokens_max)?,
            may_have_none: options.flag("handle_impossible_answer")?.unwrap_or(false),
            whole_words: options.flag("align_to_words")?.unwrap_or(true),
        };
        options.finish(TASK)?;
        Ok(Asked { row_tokens: asked.row_tokens.min(self.rows.tokens_max), ..asked })
    }

    /// The rows for `question` over each window of `context`, and the windows.
    fn windows(&self, question: &str, context: &str, asked: &Asked) -> Result<(Vec<Encoding>, Vec<Window>)> {
        let question = self.rows.encode(question)?;
        let context = self.rows.encode(context)?;
        let taken = question.len() + self.rows.tokenizer.marks(true);
        let overlap = asked.overlap.unwrap_or_else(|| OVERLAP_TOKENS.min(asked.row_tokens / 2));
        let room = asked.row_tokens.saturating_sub(taken);
        let fits = context.len() <= room;
        if room == 0 || !fits && overlap >= room {
            let row = asked.row_tokens;
            return Err(Error::invalid(format!(
                "the question takes {taken} of {row} tokens, which leaves no room for a window of the context beside an \
                 overlap of {overlap}; shorten the question, or ask with a larger max_seq_len or a smaller doc_stride"
            )));
        }
        let mut rows = Vec::new();
        for range in windows(context.len(), room, overlap) {
            rows.push(self.rows.tokenizer.row(question.clone(), Some(part(&context, range)))?);
        }
        let windows = rows.iter().map(Window::of).collect();
        Ok((rows, windows))
    }

    fn answer(&self, rows: &[Vec<Tensor>], windows: &[Window], context: &str, asked: &Asked) -> Result<Answer> {
        let mut found = Vec::new();
        let mut none = f32::INFINITY;
        let count = asked.count.unwrap_or(1);
        for (outputs, window) in rows.iter().zip(windows) {
            let [start, end] = &outputs[..] else { return Err(Error::internal("two outputs were asked for")) };
            let (start, end) = (values(start, &self.start, 1)?, values(end, &self.end, 1)?);
            let shares = |scores: &[f32]| window.shares(scores);
            let (mut start, mut end) = (shares(&start.values)?, shares(&end.values)?);
            none = none.min(start[0] * end[0]);
            (start[0], end[0]) = (0.0, 0.0);
            for (score, first, last) in best(&start, &end, count, asked.answer_tokens) {
                found.push((score, window.offsets(first, last, asked.whole_words)));
            }
        }
        if asked.may_have_none {
            found.push((none, (0, 0)));
        }
        found.sort_by(|a, b| b.0.total_cmp(&a.0));
        found.truncate(count);
        let passage = |(score, (start, end)): (f32, (usize, usize))| Passage {
            text: context.chars().skip(start).take(end.saturating_sub(start)).collect(),
            score,
            start,
            end,
        };
        let mut passages = found.into_iter().map(passage);
        Ok(match asked.count {
            Some(_) => Answer::Passages(passages.collect()),
            // A context in which nothing scores at all is as good as one without an answer.
            None => Answer::Passage(passages.next().unwrap_or_else(|| passage((0.0, (0, 0))))),
        })
    }
}

impl Window {
    fn of(row: &Encoding) -> Self {
        let beginning = row.get_ids().first();
        let sequences = row.get_sequence_ids();
        let token = |index: usize| {
            let of_context = sequences[index] == Some(1);
            let word = || row.word_to_chars(row.get_word_ids()[index]?, 1);
            Token {
                offsets: row.get_offsets()[index],
                word: if of_context { word() } else { None },
                // The row's beginning stands for "no answer here", wherever its token comes again.
                candidate: of_context || row.get_ids().get(index) == beginning,
            }
        };
        Self { tokens: (0..row.len()).map(token).collect() }
    }

    /// What share of the candidates' scores each has, zero for the others.
    fn shares(&self, scores: &[f32]) -> Result<Vec<f32>> {
        let (got, tokens) = (scores.len(), self.tokens.len());
        let scores = scores
            .get(..tokens)
            .ok_or_else(|| Error::internal(format!("{got} scores came back for a row of {tokens} tokens")))?;
        let candidates =
            || scores.iter().zip(&self.tokens).filter(|(_, token)| token.candidate).map(|(score, _)| *score);
        let largest = candidates().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = candidates().map(|score| (score - largest).exp()).sum();
        let share = |(score, token): (&f32, &Token)| if token.candidate { (score - largest).exp() / sum } else { 0.0 };
        Ok(scores.iter().zip(&self.tokens).map(share).collect())
    }

    /// Where the passage from token `first` to token `last` lies in the context.
    fn offsets(&self, first: usize, last: usize, whole_words: bool) -> (usize, usize) {
        let (first, last) = (&self.tokens[first], &self.tokens[last]);
        match (whole_words, first.word, last.word) {
            (true, Some(first), Some(last)) => (first.0, last.1),
            _ => (first.offsets.0, last.offsets.1),
        }
    }
}

/// The `count` best passages of at most `length_max` tokens, as score, first and last token, best first.
fn best(start: &[f32], end: &[f32], count: usize, length_max: usize) -> Vec<(f32, usize, usize)> {
    let mut found: Vec<(f32, usize, usize)> = Vec::new();
    let better =
        |a: &(f32, usize, usize), b: &(f32, usize, usize)| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2)));
    for (first, &begins) in start.iter().enumerate().filter(|(_, begins)| **begins > 0.0) {
        let ends = end.iter().enumerate().skip(first).take(length_max);
        for (last, score) in ends.map(|(last, ends)| (last, begins * ends)).filter(|(_, score)| *score > 0.0) {
            let candidate = (score, first, last);
            if found.len() == count && found.last().is_some_and(|worst| better(worst, &candidate).is_lt()) {
                continue;
            }
            let place = found.partition_point(|known| better(known, &candidate).is_lt());
            found.insert(place, candidate);
            found.truncate(count);
        }
    }
    found
}

impl Pipeline for QuestionAnswering {
    fn prepare(self: Arc<Self>, input: Input, options: &Options) -> Result<Prepared> {
        let asked = self.asked(options)?;
        let Input::Pair(question, context) = input else {
            return Err(wrong_input(TASK, "a question and a context", &input));
        };
        check(&question, "question")?;
        check(&context, "context")?;
        let (rows, windows) = self.windows(&question, &context, &asked)?;
        Ok(Prepared {
            tokens: rows.iter().map(Encoding::len).sum(),
            rows: rows.iter().map(|row| self.rows.of(row)).collect::<Result<_>>()?,
            outputs: vec![self.start.clone(), self.end.clone()],
            finish: Box::new(move |rows| self.answer(&rows, &windows, &context, &asked)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::best;

    #[test]
    fn passages_are_short_begin_before_they_end_and_come_best_first() {
        let (start, end) = ([0.0, 0.5, 0.1, 0.4], [0.0, 0.1, 0.5, 0.4]);
        let spans = |count, length| best(&start, &end, count, length).iter().map(|s| (s.1, s.2)).collect::<Vec<_>>();
        assert_eq!(spans(1, 15), [(1, 2)]);
        assert_eq!(spans(3, 15), [(1, 2), (1, 3), (3, 3)]);
        assert_eq!(spans(9, 1), [(3, 3), (1, 1), (2, 2)]);
        assert_eq!(best(&[0.0; 3], &[0.0; 3], 1, 15), []);
    }
}
