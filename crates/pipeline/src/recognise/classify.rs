//! What a classifier's and an embedding model's output holds.

use std::collections::BTreeMap;

use engine::{Error, Result, Tensor};
use store::picture::{Channels, Fit, PictureInput};
use store::specimen::Specimen;
use store::task::{ImageClassification, ImageEmbedding, PicturePooling, Scores};

use super::probe::{PictureIn, answers, are_shares, floats};
use super::wish::{PoolingWish, Wish, preset_names};

/// The share of a picture's shorter side that classifiers look at, as 224 of 256.
const MIDDLE: f64 = 0.875;
/// The side of a square input whose graph states none.
const USUAL_SIDE_PX: u32 = 224;

/// The classifier in `specimen`, whose classes are called `labels`.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when its output is none of a classifier, or when neither it nor
/// `wish` says how pictures go in.
pub(super) fn classification(
    specimen: &mut Specimen,
    wish: &Wish,
    labels: &BTreeMap<u32, String>,
    notes: &mut Vec<String>,
) -> Result<ImageClassification> {
    let picture = PictureIn::of(specimen)?;
    let input = input(&picture, wish, notes)?;
    let answers = answers(specimen, &input, &picture.io)?;
    let output = one_output(specimen, wish, &answers[0], &|shape| matches!(shape, [1, classes] if *classes > 1))?;
    let rows = answers.iter().map(|answer| floats(&output.1, &answer[output.0])).collect::<Result<Vec<_>>>()?;
    let classes = rows[0].len();
    if let Some(&most) = labels.keys().next_back().filter(|&&most| most as usize >= classes) {
        return Err(Error::invalid(format!("it has {classes} classes, but there is a name for class {most}")));
    }
    let shares = rows.iter().all(are_shares);
    let whole = rows.iter().all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-2);
    let scores = match (wish.scores, shares, whole) {
        (Some(Scores::Probabilities), false, _) => {
            return Err(Error::invalid(
                "its output is not from 0 to 1, so it holds no probabilities; say scores = \"softmax\"",
            ));
        }
        (Some(scores), ..) => scores,
        (None, true, true) => Scores::Probabilities,
        (None, false, _) => Scores::Softmax,
        (None, true, false) => {
            return Err(Error::invalid(
                "its scores are from 0 to 1 and do not add up to 1; say with --scores whether they are probabilities, each \
                 of its own, or logits for softmax or sigmoid",
            ));
        }
    };
    Ok(ImageClassification { input, output: output.1, scores })
}

/// The embedding model in `specimen`.
///
/// # Errors
/// As [`classification`].
pub(super) fn embedding(specimen: &mut Specimen, wish: &Wish, notes: &mut Vec<String>) -> Result<ImageEmbedding> {
    let picture = PictureIn::of(specimen)?;
    let input = input(&picture, wish, notes)?;
    let answers = answers(specimen, &input, &picture.io)?;
    let is_vector =
        |shape: &[usize]| shape.len() >= 2 && shape[0] == 1 && shape[1] > 1 && shape[2..].iter().all(|&side| side == 1);
    let is_any = |shape: &[usize]| matches!(shape, [1, _, _] | [1, _, _, _]);
    let vector = one_output(specimen, wish, &answers[0], &is_vector);
    let (output, usual) = match vector {
        Ok(output) => (output, Some(PicturePooling::None)),
        Err(_) => {
            let output = one_output(specimen, wish, &answers[0], &is_any)?;
            // Of a map there is only the mean; of tokens, the first one may stand for all.
            (output.clone(), (answers[0][output.0].shape().len() == 4).then_some(PicturePooling::Mean))
        }
    };
    let said = match wish.pooling {
        None => None,
        Some(PoolingWish::None) => Some(PicturePooling::None),
        Some(PoolingWish::Mean) => Some(PicturePooling::Mean),
        Some(PoolingWish::First) => Some(PicturePooling::First),
        Some(PoolingWish::Max) => return Err(Error::invalid("pooling is \"mean\", \"first\" or \"none\" of pictures")),
    };
    let pooling = said.or(usual).ok_or_else(|| {
        Error::invalid("its output holds tokens; say with a task file whether pooling is \"mean\" or \"first\"")
    })?;
    floats(&output.1, &answers[0][output.0])?;
    Ok(ImageEmbedding { input, output: output.1, pooling, normalise: wish.normalise.unwrap_or(true) })
}

/// The index and name of the one output that is asked for, or the only one whose shape `is_fitting`.
fn one_output(
    specimen: &Specimen,
    wish: &Wish,
    answer: &[Tensor],
    is_fitting: &dyn Fn(&[usize]) -> bool,
) -> Result<(usize, String)> {
    let names = specimen.signature().outputs.iter().map(|output| output.name.clone());
    let all: Vec<(usize, String)> = names.enumerate().collect();
    let fitting = |(index, name): &&(usize, String)| {
        is_fitting(answer[*index].shape()) && wish.output.as_ref().is_none_or(|asked| asked == name)
    };
    let mut found = all.iter().filter(fitting);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one.clone()),
        (none, _) => {
            let shown: Vec<String> =
                all.iter().map(|(at, name)| format!("'{name}' {:?}", answer[*at].shape())).collect();
            let why = if none.is_some() {
                "several fit; say which with output = \"...\" in a task file"
            } else {
                "none fits"
            };
            Err(Error::invalid(format!("of its outputs {} {why}", shown.join(", "))))
        }
    }
}

/// How pictures go in: what is said, and classifiers' habits where that is only the size.
fn input(picture: &PictureIn, wish: &Wish, notes: &mut Vec<String>) -> Result<PictureInput> {
    let (width, height) = match (picture.size_px, wish.input.fit) {
        ((Some(width), Some(height)), _) => (width, height),
        (
            _,
            Some(Fit::Exact { width, height } | Fit::Letterbox { width, height, .. } | Fit::Crop { width, height, .. }),
        ) => (width, height),
        _ => (USUAL_SIDE_PX, USUAL_SIDE_PX),
    };
    if !picture.is_bytes && !wish.input.says_values() {
        let presets = preset_names();
        return Err(Error::invalid(format!(
            "nothing says what becomes of a pixel's values; give --preprocess: a task file, a preprocessor_config.json, or one \
             of {presets}"
        )));
    }
    let short = (f64::from(width.max(height)) / MIDDLE).round() as u32;
    let usual = PictureInput {
        fit: Fit::Crop { short, width, height },
        channels: if picture.channels == 1 { Channels::Grey } else { Channels::Rgb },
        layout: picture.layout,
        ..PictureInput::raw()
    };
    if wish.input.fit.is_none() {
        notes.push(format!("pictures are scaled to {short} pixels of the shorter side and cut to {width}x{height}"));
    }
    let mut input = wish.input.over(usual);
    if picture.channels == 1 {
        input.channels = Channels::Grey;
    }
    Ok(input)
}
