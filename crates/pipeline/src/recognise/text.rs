//! What the tensors of a model mean that texts go into: told by a person, said by what lies beside its tokenizer, and seen
//! from what it answers to rows of tokens.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::{Error, Result, Signature, Tensor, TensorSpec};
use store::Beside;
use store::specimen::Specimen;
use store::task::{self, Pooling, Problem, Scores, Task, TaskChoice};

use super::answers::Answers;
use super::probe::are_shares;
use super::wish::{InputWish, PoolingWish, TextWish, Wish};
use crate::text::Rows;
use crate::tokens::Tokenizer;

/// What exporters call the inputs that take token ids, the mask and which of two texts a token belongs to.
const IDS: [&str; 2] = ["input_ids", "input_word_ids"];
const MASK: [&str; 2] = ["attention_mask", "input_mask"];
const TYPES: [&str; 3] = ["token_type_ids", "input_type_ids", "segment_ids"];
/// What tokenizers call the tokens that fill up, and those that stand for a hole.
const PADS: [&str; 2] = ["[PAD]", "<pad>"];
const HOLES: [&str; 2] = ["[MASK]", "<mask>"];
/// A row has a beginning, an end and something in between.
const TOKENS_MIN: usize = 3;
/// The most tokens of a row that a model is tried on; what it takes grows with their square.
const TRIED_TOKENS: usize = 1024;
/// Where what cannot be told is said.
const SAY: &str = "in [text] of a --task-file";

/// The task of `specimen`, which is `choice`, and its classes' names: `labels` where a person gave them.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when its tensors are not those of the task, when it refuses what its
/// tokenizer makes, or when nobody says what has to be known.
pub(super) fn understand(
    specimen: &mut Specimen,
    choice: TaskChoice,
    wish: &Wish,
    (beside, labels): (&Beside, &BTreeMap<u32, String>),
    notes: &mut Vec<String>,
) -> Result<(Task, BTreeMap<u32, String>)> {
    if wish.head.is_some() || wish.iou.is_some() || wish.input != InputWish::default() {
        return Err(Error::invalid("head, iou and how pictures go in mean nothing to a task of texts; leave them out"));
    }
    let tokenizer = Arc::new(Tokenizer::of(beside)?);
    let text = text(specimen.signature(), &wish.text, beside, &tokenizer)?;
    let rows = Rows::of_signature(specimen.signature(), &text, Arc::clone(&tokenizer))?;
    let pairs = matches!(choice, TaskChoice::QuestionAnswering | TaskChoice::TextClassification);
    let answers = tried(specimen, &rows, pairs)?;
    let length = match rows.fixed {
        Some(length) => format!("of {length} tokens each, filled up to that"),
        None => format!("of at most {} tokens", text.tokens_max),
    };
    let into: Vec<&str> = specimen.signature().inputs.iter().map(|input| input.name.as_str()).collect();
    notes.push(format!("texts go into {} as rows {length}", into.join(", ")));
    let named = || if labels.is_empty() { beside.labels() } else { Ok(labels.clone()) };
    let output = wish.output.as_deref();
    let task = match choice {
        TaskChoice::QuestionAnswering => {
            let (start, end) = answers.ends(&wish.text, notes)?;
            Task::QuestionAnswering(task::QuestionAnswering { text, start, end })
        }
        TaskChoice::TextClassification => {
            let (scores, answer) = answers.one(output, "FP32 [1, classes]", &|shape| matches!(shape, [1, _]))?;
            let named = named()?;
            check_names(&named, answer.shape()[1])?;
            let problem = problem(wish.scores, beside, answer, notes)?;
            return Ok((Task::TextClassification(task::TextClassification { text, scores, problem }), named));
        }
        TaskChoice::TokenClassification => {
            let (scores, answer) = answers.by_token(output, "classes")?;
            let named = named()?;
            check_names(&named, answer.shape()[2])?;
            return Ok((Task::TokenClassification(task::TokenClassification { text, scores }), named));
        }
        TaskChoice::FillMask => {
            let (scores, _) = answers.by_token(output, "vocabulary")?;
            let said = wish.text.mask_token.clone().map_or_else(|| beside.mask_token(), |token| Ok(Some(token)))?;
            let known = || HOLES.iter().find(|token| tokenizer.id(token).is_some()).map(|token| (*token).to_owned());
            let mask_token = said.or_else(known).filter(|token| tokenizer.id(token).is_some()).ok_or_else(|| {
                Error::invalid(format!("its tokenizer has no token that stands for a hole; say mask-token {SAY}"))
            })?;
            Task::FillMask(task::FillMask { text, scores, mask_token })
        }
        TaskChoice::SentenceEmbedding => Task::SentenceEmbedding(embedding(text, &answers, wish, beside)?),
        TaskChoice::TextSimilarity => Task::TextSimilarity(embedding(text, &answers, wish, beside)?),
        TaskChoice::ObjectDetection | TaskChoice::ImageClassification | TaskChoice::ImageEmbedding => {
            return Err(Error::internal("a task of pictures was taken for one of texts"));
        }
    };
    Ok((task, BTreeMap::new()))
}

/// How texts go into a model of `signature`.
fn text(signature: &Signature, wish: &TextWish, beside: &Beside, tokenizer: &Tokenizer) -> Result<task::Text> {
    let [ids, mask, types] = [(&wish.ids, &IDS[..]), (&wish.mask, &MASK), (&wish.types, &TYPES)]
        .map(|(said, known)| input(&signature.inputs, said.as_deref(), known));
    let (ids, mask, types) = (ids?, mask?, types?);
    let names: Vec<_> = signature.inputs.iter().map(|input| format!("'{}'", input.name)).collect();
    let ids = ids.ok_or_else(|| {
        Error::invalid(format!(
            "none of its inputs {} is called {}; say which one takes token ids, as ids = \"NAME\" {SAY}, and mask and types \
             where there are some",
            names.join(", "),
            IDS[0]
        ))
    })?;
    let known = [Some(&ids), mask.as_ref(), types.as_ref()];
    if let Some(other) = signature.inputs.iter().find(|input| !known.contains(&Some(&input.name))) {
        return Err(Error::invalid(format!(
            "nothing says what its input '{}' takes; say which is which with ids, mask and types {SAY}",
            other.name
        )));
    }
    for input in &signature.inputs {
        if !matches!(input.shape.first(), Some(-1 | 1)) {
            return Err(Error::invalid(format!(
                "its input '{}' is {:?}, and texts are asked one by one: the first dimension has to be 1, or to vary (-1)",
                input.name, input.shape
            )));
        }
    }
    let fixed = signature.inputs.iter().filter_map(|input| usize::try_from(*input.shape.get(1)?).ok()).min();
    let said = match wish.tokens_max {
        Some(most) => Some(most),
        None => beside.tokens_max()?,
    };
    let tokens_max = [fixed, said].into_iter().flatten().min().ok_or_else(|| {
        Error::invalid(format!(
            "nothing says how many tokens it takes at most; say tokens-max = 512, or how many, {SAY}"
        ))
    })?;
    if tokens_max < TOKENS_MIN {
        return Err(Error::invalid(format!("rows of {tokens_max} tokens have no room for a text")));
    }
    let lowercase = wish.lowercase.map_or_else(|| beside.lowercase(), Ok)?;
    Ok(task::Text { ids, mask, types, tokens_max, pad: pad(wish, beside, tokenizer)?, lowercase, prompt: None })
}

/// The input that is called what was `said`, or as exporters do.
fn input(inputs: &[TensorSpec], said: Option<&str>, known: &[&str]) -> Result<Option<String>> {
    let found = |is: &dyn Fn(&str) -> bool| inputs.iter().find(|input| is(&input.name)).map(|input| input.name.clone());
    let Some(said) = said else { return Ok(found(&|name| known.contains(&bare(name)))) };
    found(&|name| name == said).map(Some).ok_or_else(|| {
        let names: Vec<_> = inputs.iter().map(|input| format!("'{}'", input.name)).collect();
        Error::invalid(format!("the task file names an input '{said}', and the model has {}", names.join(", ")))
    })
}

/// `name` without the place that Triton's users write behind it, as in `input_ids__0`.
pub(super) fn bare(name: &str) -> &str {
    let place = |place: &str| !place.is_empty() && place.bytes().all(|byte| byte.is_ascii_digit());
    name.rsplit_once("__").filter(|(_, end)| place(end)).map_or(name, |(name, _)| name)
}

/// The token id that rows are filled up with.
fn pad(wish: &TextWish, beside: &Beside, tokenizer: &Tokenizer) -> Result<i64> {
    let (id, token) = beside.pad()?;
    let named = || token.iter().map(String::as_str).chain(PADS).find_map(|token| tokenizer.id(token)).map(i64::from);
    wish.pad.or(id).or_else(named).ok_or_else(|| {
        Error::invalid(format!("nothing says which token fills rows up; say pad = 0, or which id it has, {SAY}"))
    })
}

/// What `specimen` answers to the longest row, of the last token that the tokenizer has.
fn tried(specimen: &mut Specimen, rows: &Rows, pairs: bool) -> Result<Answers> {
    let length = rows.tokens_max.min(TRIED_TOKENS);
    let second = if pairs { rows.tokenizer.second_type()? } else { 0 };
    let types: Vec<u32> = (0..length).map(|at| if at * 2 < length { 0 } else { second }).collect();
    let mut run = |id: u32| specimen.run(&rows.tensors(&vec![id; length], &types)?);
    let last = rows.tokenizer.last();
    let answer = run(last).map_err(|refusal| match run(0) {
        Ok(_) => refusal.context(format!("it refuses token {last}, the last one of its tokenizer; is that its tokenizer?")),
        Err(refusal) => refusal.context(format!(
            "it refuses a row of {length} tokens; say how many it takes as tokens-max {SAY}, or, where it was made for one \
             length, as its shape"
        )),
    })?;
    Ok(Answers::new(specimen.signature().outputs.clone(), answer, rows.fixed.unwrap_or(length)))
}

fn check_names(labels: &BTreeMap<u32, String>, classes: usize) -> Result<()> {
    match labels.keys().next_back().filter(|&&most| most as usize >= classes) {
        Some(most) => Err(Error::invalid(format!("it has {classes} classes, but there is a name for class {most}"))),
        None => Ok(()),
    }
}

/// What the scores of `answer` mean.
fn problem(said: Option<Scores>, beside: &Beside, answer: &Tensor, notes: &mut Vec<String>) -> Result<Problem> {
    let of = |scores| match scores {
        Scores::Probabilities => Problem::Regression,
        Scores::Softmax => Problem::SingleLabel,
        Scores::Sigmoid => Problem::MultiLabel,
    };
    if let Some(said) = said {
        return Ok(of(said));
    }
    let scores = answer.as_f32().unwrap_or_default();
    if scores.len() > 1 && are_shares(scores) && (scores.iter().sum::<f32>() - 1.0).abs() < 1e-3 {
        notes.push("its scores add up to 1 already and are told as they are; --scores says otherwise".to_owned());
        return Ok(Problem::Regression);
    }
    Ok(beside.problem()?.unwrap_or_else(|| Problem::usual(scores.len())))
}

/// The output that a text's vector is made of, and how.
fn embedding(text: task::Text, answers: &Answers, wish: &Wish, beside: &Beside) -> Result<task::Embedding> {
    let output = wish.output.as_deref();
    let is_vector = |shape: &[usize]| matches!(shape, [1, width] if *width > 1);
    let vector = || answers.one(output, "FP32 [1, width]", &is_vector).map(|(name, _)| name);
    let by_token = || answers.by_token(output, "width").map(|(name, _)| name);
    let said = match wish.pooling {
        Some(pooling) => Some((pooling.of_tokens(), false)),
        None => beside.pooling()?.map(|(pooling, normalise)| (Some(pooling), normalise)),
    };
    let (vectors, pooling, normalise) = match said {
        Some((None, normalise)) => (vector()?, None, normalise),
        Some((Some(pooling), normalise)) => (by_token()?, Some(pooling), normalise),
        None if by_token().is_ok() => {
            return Err(Error::invalid(
                "it has a vector for each token, and nothing says how they become one; say pooling = \"mean\", \"first\" or \
                 \"max\" in a --task-file, or \"none\" where another output is the text's own, or give as --tokenizer the folder \
                 that has its modules.json",
            ));
        }
        None => (vector()?, None, false),
    };
    let normalise = wish.normalise.unwrap_or(normalise);
    Ok(task::Embedding { text, vectors, pooling, normalise, shortens: beside.shortens()? })
}

impl PoolingWish {
    /// How the tokens' vectors become one; `None` where they do not have to.
    fn of_tokens(self) -> Option<Pooling> {
        match self {
            Self::None => None,
            Self::Mean => Some(Pooling::Mean),
            Self::First => Some(Pooling::First),
            Self::Max => Some(Pooling::Max),
        }
    }
}
