//! Token classification: a text in, a class for each of its tokens, words or groups of words out.
//!
//! The rules are those of transformers' token-classification pipeline, release 4.30.

use std::sync::Arc;

use engine::{Error, Result, Tensor};
use store::Manifest;
use store::task;
use tokenizers::Encoding;

use super::outputs::{softmax, values};
use super::rows::Rows;
use super::{Labels, check, wrong_input};
use crate::tokens::{Tokenizer, part, windows};
use crate::{Answer, Entity, Input, Options, Pipeline, Prepared};

const TASK: &str = "token-classification";
/// The class of what is nothing in particular, which is not told.
const NOTHING: &str = "O";

/// The two ends of token classification.
pub(crate) struct TokenClassification {
    rows: Rows,
    output: String,
    labels: Labels,
}

/// What is told of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Strategy {
    /// Each token.
    None,
    /// Tokens that follow each other with one class are one.
    Simple,
    /// The same of words; a word has the class of its first token.
    First,
    /// A word has the class that is best for its tokens on average.
    Average,
    /// A word has the class of the token that is surest.
    Max,
}

/// How one text is to be answered.
struct Asked {
    strategy: Strategy,
    /// Classes that are not told.
    ignore: Vec<String>,
    /// The tokens that two windows share, where a long text may take several.
    overlap: Option<usize>,
    cut: bool,
}

/// A token of a row that stands for some of the text.
struct Token {
    /// Which of the row it is.
    index: usize,
    word: String,
    offsets: (usize, usize),
    /// Whether it goes on with the word before it.
    continues: bool,
}

/// A token, a word or a group with its class.
struct Found {
    label: String,
    score: f32,
    /// The tokens' texts.
    words: Vec<String>,
    offsets: (usize, usize),
    index: Option<usize>,
}

impl TokenClassification {
    pub(crate) fn new(
        manifest: &Manifest,
        task: &task::TokenClassification,
        tokenizer: Arc<Tokenizer>,
    ) -> Result<Self> {
        let rows = Rows::new(manifest, &task.text, tokenizer)?;
        Ok(Self { rows, output: task.scores.clone(), labels: Labels::of(manifest) })
    }

    fn asked(&self, options: &Options) -> Result<Asked> {
        let strategies = [
            ("none", Strategy::None),
            ("simple", Strategy::Simple),
            ("first", Strategy::First),
            ("average", Strategy::Average),
            ("max", Strategy::Max),
        ];
        let options = options.reader();
        let asked = Asked {
            strategy: options.choice("aggregation_strategy", &strategies)?.unwrap_or(Strategy::None),
            ignore: options.texts("ignore_labels")?.unwrap_or_else(|| vec![NOTHING.to_owned()]),
            overlap: options.whole("stride", 0..=self.rows.tokens_max / 2)?,
            cut: options.flag("truncate")?.unwrap_or(false),
        };
        options.finish(TASK)?;
        Ok(asked)
    }

    /// The rows for `text`: one, or as many windows as it takes.
    fn row(&self, text: &str, asked: &Asked) -> Result<Vec<Encoding>> {
        let Some(overlap) = asked.overlap else { return Ok(vec![self.rows.one(text, None, asked.cut)?]) };
        let whole = self.rows.encode(text)?;
        let room = self.rows.tokens_max.saturating_sub(self.rows.tokenizer.marks(false));
        windows(whole.len(), room, overlap)
            .into_iter()
            .map(|range| self.rows.tokenizer.row(part(&whole, range), None))
            .collect()
    }

    /// The tokens of `row`, which is of `text`.
    fn tokens(&self, row: &Encoding, text: &Text<'_>, strategy: Strategy) -> Vec<Token> {
        let tokenizer = &self.rows.tokenizer;
        let mut tokens = Vec::with_capacity(row.len());
        for (index, &id) in row.get_ids().iter().enumerate() {
            if row.get_special_tokens_mask()[index] != 0 {
                continue;
            }
            let offsets = row.get_offsets()[index];
            let (mut word, mut continues) = (row.get_tokens()[index].clone(), false);
            if Some(id) == tokenizer.unknown {
                word = text.part(offsets.0, offsets.1).to_owned();
            } else if strategy >= Strategy::First {
                continues = match tokenizer.marks_continuation {
                    // What a token has more than its text is the mark that it goes on with a word.
                    true => word.chars().count() != offsets.1 - offsets.0,
                    // A guess, and the reference's: no space before it.
                    false => offsets.0 > 0 && !text.part(offsets.0 - 1, offsets.0 + 1).contains(' '),
                };
            }
            tokens.push(Token { index, word, offsets, continues });
        }
        tokens
    }

    fn answer(&self, rows: &[Vec<Tensor>], windows: &[Vec<Token>], asked: &Asked) -> Result<Answer> {
        let mut entities = Vec::new();
        for (outputs, tokens) in rows.iter().zip(windows) {
            let [scores] = &outputs[..] else { return Err(Error::internal("one output was asked for")) };
            let scores = values(scores, &self.output, 2)?;
            let classes = scores.shape[1];
            let of = |token: &Token| {
                let row = scores.values.get(token.index * classes..(token.index + 1) * classes);
                row.filter(|row| !row.is_empty()).map(softmax).ok_or_else(|| Error::internal("a token has no scores"))
            };
            let shares = tokens.iter().map(of).collect::<Result<Vec<_>>>()?;
            let found = match asked.strategy {
                Strategy::None | Strategy::Simple => self.tokens_found(tokens, &shares),
                Strategy::First | Strategy::Average | Strategy::Max => {
                    self.words_found(tokens, &shares, asked.strategy)
                }
            };
            let found = if asked.strategy == Strategy::None { found } else { groups(found) };
            let told = found.into_iter().filter(|found| !asked.ignore.contains(&found.label));
            entities.extend(told.map(|found| self.entity(found)));
        }
        Ok(Answer::Entities(if rows.len() > 1 { without_overlap(entities) } else { entities }))
    }

    fn tokens_found(&self, tokens: &[Token], shares: &[Vec<f32>]) -> Vec<Found> {
        let of = |(token, shares): (&Token, &Vec<f32>)| {
            let (label, score) = self.best(shares);
            Found { label, score, words: vec![token.word.clone()], offsets: token.offsets, index: Some(token.index) }
        };
        tokens.iter().zip(shares).map(of).collect()
    }

    fn words_found(&self, tokens: &[Token], shares: &[Vec<f32>], strategy: Strategy) -> Vec<Found> {
        let mut found = Vec::new();
        let mut begin = 0;
        while begin < tokens.len() {
            let more = tokens[begin + 1..].iter().take_while(|token| token.continues).count();
            let end = begin + 1 + more;
            let (label, score) = self.of_word(&shares[begin..end], strategy);
            let words: Vec<String> = tokens[begin..end].iter().map(|token| token.word.clone()).collect();
            found.push(Found {
                label,
                score,
                // The word is one from here on, and is joined with others as such.
                words: vec![self.rows.tokenizer.joined(&words)],
                offsets: (tokens[begin].offsets.0, tokens[end - 1].offsets.1),
                index: None,
            });
            begin = end;
        }
        found
    }

    /// The class of a word whose tokens have these shares.
    fn of_word(&self, tokens: &[Vec<f32>], strategy: Strategy) -> (String, f32) {
        let most = |shares: &Vec<f32>| shares.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        match strategy {
            Strategy::Average => {
                let count = tokens.len() as f32;
                let mean = |class: usize| tokens.iter().map(|shares| shares[class]).sum::<f32>() / count;
                self.best(&(0..tokens[0].len()).map(mean).collect::<Vec<_>>())
            }
            Strategy::Max => {
                let surest = tokens.iter().fold(&tokens[0], |a, b| if most(b) > most(a) { b } else { a });
                self.best(surest)
            }
            Strategy::None | Strategy::Simple | Strategy::First => self.best(&tokens[0]),
        }
    }

    /// The best class; of equal ones the first.
    fn best(&self, shares: &[f32]) -> (String, f32) {
        let better = |a: (usize, f32), b: (usize, f32)| if b.1 > a.1 { b } else { a };
        let (class, score) = shares.iter().copied().enumerate().fold((0, f32::NEG_INFINITY), better);
        (self.labels.name(class), score)
    }

    fn entity(&self, found: Found) -> Entity {
        let Found { label, score, mut words, offsets: (start, end), index } = found;
        // A token alone is told as it is.
        let word = if index.is_some() { words.pop().unwrap_or_default() } else { self.rows.tokenizer.joined(&words) };
        Entity { label, score, word, start, end, index }
    }
}

/// Neighbours of one class as one, named without the mark of first and other words.
fn groups(found: Vec<Found>) -> Vec<Found> {
    fn tag(label: &str) -> (bool, &str) {
        match (label.strip_prefix("B-"), label.strip_prefix("I-")) {
            (Some(tag), _) => (true, tag),
            (None, Some(tag)) => (false, tag),
            (None, None) => (false, label),
        }
    }
    let mut groups: Vec<Vec<Found>> = Vec::new();
    for one in found {
        let (begins, class) = tag(&one.label);
        match groups.last_mut() {
            Some(group) if !begins && group.last().is_some_and(|last| tag(&last.label).1 == class) => group.push(one),
            _ => groups.push(vec![one]),
        }
    }
    let joined = |group: Vec<Found>| {
        let score = group.iter().map(|one| one.score).sum::<f32>() / group.len() as f32;
        let offsets = (group[0].offsets.0, group[group.len() - 1].offsets.1);
        let label = group[0].label.rsplit('-').next().unwrap_or_default().to_owned();
        Found { label, score, words: group.into_iter().flat_map(|one| one.words).collect(), offsets, index: None }
    };
    groups.into_iter().map(joined).collect()
}

/// Of entities of several windows those that are told: where two overlap, the longer one, or else the surer.
fn without_overlap(mut entities: Vec<Entity>) -> Vec<Entity> {
    entities.sort_by_key(|entity| entity.start);
    let mut told: Vec<Entity> = Vec::new();
    for entity in entities {
        match told.last_mut() {
            Some(last) if (last.start..last.end).contains(&entity.start) => {
                let (length, known) = (entity.end - entity.start, last.end - last.start);
                if length > known || length == known && entity.score > last.score {
                    *last = entity;
                }
            }
            _ => told.push(entity),
        }
    }
    told
}

/// A text that is asked for parts by code points.
struct Text<'a> {
    text: &'a str,
    /// Where each code point begins, and the end, in bytes.
    places: Vec<usize>,
}

impl<'a> Text<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, places: text.char_indices().map(|(at, _)| at).chain([text.len()]).collect() }
    }

    /// From code point `start` to code point `end`, or to the end.
    fn part(&self, start: usize, end: usize) -> &'a str {
        let place = |at: usize| self.places.get(at).copied().unwrap_or(self.text.len());
        &self.text[place(start)..place(end.max(start))]
    }
}

impl Pipeline for TokenClassification {
    fn prepare(self: Arc<Self>, input: Input, options: &Options) -> Result<Prepared> {
        let asked = self.asked(options)?;
        let Input::Text(text) = input else { return Err(wrong_input(TASK, "one text", &input)) };
        check(&text, "text")?;
        let rows = self.row(&text, &asked)?;
        let text = Text::new(&text);
        let windows: Vec<Vec<Token>> = rows.iter().map(|row| self.tokens(row, &text, asked.strategy)).collect();
        Ok(Prepared {
            tokens: rows.iter().map(Encoding::len).sum(),
            rows: rows.iter().map(|row| self.rows.of(row)).collect::<Result<_>>()?,
            outputs: vec![self.output.clone()],
            finish: Box::new(move |rows| self.answer(&rows, &windows, &asked)),
        })
    }
}
