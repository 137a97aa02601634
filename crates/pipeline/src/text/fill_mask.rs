//! Fill-mask: a text with holes in, words for them out.
//!
//! The rules are those of transformers' fill-mask pipeline, release 4.30.

use std::sync::Arc;

use engine::{Error, Result, Tensor};
use store::Manifest;
use store::task;

use super::outputs::{largest, only_row, softmax, values};
use super::rows::Rows;
use super::{check, wrong_input};
use crate::tokens::Tokenizer;
use crate::{Answer, Filling, Input, Options, Pipeline, Prepared};

const TASK: &str = "fill-mask";
/// Words for a hole, unless asked otherwise.
const COUNT: usize = 5;
/// Nobody reads more.
const COUNT_MAX: usize = 1000;

/// The two ends of fill-mask.
pub(crate) struct FillMask {
    rows: Rows,
    output: String,
    mask_token: String,
    /// The id of the token that stands for a hole.
    hole: u32,
    /// The id of the token that rows are filled up with.
    pad: i64,
}

/// How one text is to be answered.
struct Asked {
    count: usize,
    /// The tokens that may stand in a hole; `None` is all.
    targets: Option<Vec<usize>>,
    cut: bool,
}

impl FillMask {
    pub(crate) fn new(manifest: &Manifest, task: &task::FillMask, tokenizer: Arc<Tokenizer>) -> Result<Self> {
        let mask_token = &task.mask_token;
        let hole = tokenizer.id(mask_token).ok_or_else(|| {
            Error::invalid(format!("its tokenizer has no token '{mask_token}', which stands for a hole; pack it again"))
        })?;
        Ok(Self {
            rows: Rows::new(manifest, &task.text, tokenizer)?,
            output: task.scores.clone(),
            mask_token: mask_token.clone(),
            hole,
            pad: task.text.pad,
        })
    }

    fn asked(&self, options: &Options) -> Result<Asked> {
        let options = options.reader();
        let targets = options.texts("targets")?.map(|words| self.targets(&words)).transpose()?;
        let asked = Asked {
            count: options.whole("top_k", 1..=COUNT_MAX)?.unwrap_or(COUNT),
            targets,
            cut: options.flag("truncate")?.unwrap_or(false),
        };
        options.finish(TASK)?;
        Ok(asked)
    }

    /// The tokens that `words` are, or begin with where the vocabulary does not have them whole.
    fn targets(&self, words: &[String]) -> Result<Vec<usize>> {
        let mut ids = Vec::with_capacity(words.len());
        for word in words {
            let id = match self.rows.tokenizer.id(word) {
                Some(id) => Some(id),
                None => self.rows.encode(word)?.get_ids().first().copied(),
            };
            ids.extend(id.map(|id| id as usize));
        }
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() { Err(Error::invalid("option 'targets' names no token of the vocabulary")) } else { Ok(ids) }
    }

    fn answer(&self, outputs: &[Tensor], ids: &[u32], asked: &Asked) -> Result<Answer> {
        let scores = values(&outputs[0], &self.output, 2)?;
        let words = scores.shape[1];
        let holes: Vec<usize> = (0..ids.len()).filter(|&at| ids[at] == self.hole).collect();
        let of = |&at: &usize| {
            let row = scores.values.get(at * words..(at + 1) * words).filter(|row| !row.is_empty());
            let shares = softmax(row.ok_or_else(|| Error::internal("a hole has no scores"))?);
            let best = match &asked.targets {
                None => largest(&shares, asked.count),
                Some(targets) => {
                    let of = |&id: &usize| shares.get(id).copied().unwrap_or_default();
                    let among: Vec<f32> = targets.iter().map(of).collect();
                    largest(&among, asked.count).into_iter().map(|index| targets[index]).collect()
                }
            };
            best.into_iter().map(|id| self.filling(ids, at, id, (shares[id], holes.len() == 1))).collect()
        };
        Ok(Answer::Fillings(holes.iter().map(of).collect::<Result<_>>()?))
    }

    /// What `ids` are with token `id` in the hole `at`.
    fn filling(&self, ids: &[u32], at: usize, id: usize, (score, alone): (f32, bool)) -> Result<Filling> {
        let token = u32::try_from(id).map_err(|_| Error::internal("a token id passes 32 bits"))?;
        let mut filled = ids.to_vec();
        filled[at] = token;
        filled.retain(|&id| i64::from(id) != self.pad);
        let tokenizer = &self.rows.tokenizer;
        // The marks of beginning and end are not told; the other holes are, and with them every mark.
        Ok(Filling { score, token, word: tokenizer.decode(&[token], false)?, text: tokenizer.decode(&filled, alone)? })
    }
}

impl Pipeline for FillMask {
    fn prepare(self: Arc<Self>, input: Input, options: &Options) -> Result<Prepared> {
        let asked = self.asked(options)?;
        let Input::Text(text) = input else { return Err(wrong_input(TASK, "one text", &input)) };
        check(&text, "text")?;
        let row = self.rows.one(&text, None, asked.cut)?;
        if !row.get_ids().contains(&self.hole) {
            let mask = &self.mask_token;
            return Err(Error::invalid(format!("the text has no hole to fill; write {mask} where one is")));
        }
        let ids = row.get_ids().to_vec();
        Ok(Prepared {
            rows: vec![self.rows.of(&row)?],
            outputs: vec![self.output.clone()],
            tokens: row.len(),
            finish: Box::new(move |rows| self.answer(&only_row(rows)?, &ids, &asked)),
        })
    }
}
