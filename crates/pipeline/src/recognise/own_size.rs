//! Detectors that take pictures of any size and bring them to one of their own: so much of a large picture is thrown away
//! in the graph that it is worth doing before, if it is done in the same way.

use engine::Result;
use store::manifest::Io;
use store::picture::{Fit, PictureInput};
use store::specimen::{OwnSize, Specimen};
use store::task::Detection;

use super::Wish;
use super::wish::somebody;
use crate::detect::{Detected, detector};

/// The sizes that are tried, the largest first; a graph scales more than its picture.
const TRIED_MAX: usize = 4;
/// How much scores, and sides as shares of the picture, may differ. A picture that is brought to its size before is rounded
/// to whole levels, by half a level at most; one that is brought there in another way differs by several times this.
const SCORE_APART_MAX: f32 = 0.05;
const SIDE_APART_MAX: f32 = 0.02;
/// Detections that are compared: from this score on, or half the best.
const SCORE_MIN: f32 = 0.3;

/// `detection` of a model that takes pictures of any size, so that they are brought before to the size to which the graph
/// brings them itself: where `wish` leaves that open, the graph says it, and a picture of somebody is answered alike. As it
/// is, otherwise.
///
/// # Errors
/// The runtime's refusal of a picture as it is.
pub(super) fn before(
    specimen: &mut Specimen,
    wish: &Wish,
    detection: Detection,
    notes: &mut Vec<String>,
) -> Result<Detection> {
    if detection.input.fit != Fit::Source || wish.input.fit.is_some() || wish.input.resample.is_some() {
        return Ok(detection);
    }
    let mut sizes = specimen.own_sizes.clone();
    sizes.sort_by_key(|size| std::cmp::Reverse((u64::from(size.width) * u64::from(size.height), size.resample as u8)));
    sizes.dedup();
    if sizes.is_empty() {
        return Ok(detection);
    }
    let whole = found(specimen, &detection)?;
    for OwnSize { width, height, resample } in sizes.into_iter().take(TRIED_MAX) {
        let input = PictureInput { fit: Fit::Exact { width, height }, resample, ..detection.input };
        let brought = Detection { input, ..detection.clone() };
        // A graph that does not take that size is one that does not scale its pictures to it.
        let Ok(again) = found(specimen, &brought) else { continue };
        if are_alike(&whole, &again) {
            notes.push(format!(
                "it brings pictures to {width}x{height} itself; they are brought there before, in the same way (a task \
                 file with fit = {{ to = \"source\" }} gives it all of them)"
            ));
            return Ok(brought);
        }
    }
    Ok(detection)
}

/// What is found in a picture of somebody, sides as shares of it.
fn found(specimen: &mut Specimen, detection: &Detection) -> Result<Vec<Detected>> {
    let signature = specimen.signature();
    let inputs: Vec<Io> = signature.inputs.iter().map(Io::from_spec).collect();
    let outputs: Vec<Io> = signature.outputs.iter().map(Io::from_spec).collect();
    let detector = detector(&inputs, &outputs, detection)?;
    let (fitted, placement) = detector.fit(&somebody()?)?;
    let answer =
        specimen.run(&detector.prepare(&fitted)?).map_err(|error| error.context("it cannot be shown a picture"))?;
    let (width, height) = (placement.source_px.0 as f32, placement.source_px.1 as f32);
    let share = |found: Detected| {
        let [left, top, right, bottom] = found.box_px;
        Detected { box_px: [left / width, top / height, right / width, bottom / height], ..found }
    };
    Ok(detector.detect(&answer, &placement, 0.0)?.into_iter().map(share).collect())
}

/// Whether two answers, best first, are of what a detector sees as the same picture. Nothing is like nothing else.
fn are_alike(one: &[Detected], other: &[Detected]) -> bool {
    let Some(best) = one.first().filter(|best| best.score > 0.0) else { return false };
    let from = SCORE_MIN.min(best.score / 2.0);
    let has = |all: &[Detected], wanted: &Detected| {
        all.iter().any(|found| {
            let sides = found.box_px.iter().zip(&wanted.box_px);
            found.class == wanted.class
                && (found.score - wanted.score).abs() <= SCORE_APART_MAX
                && sides.map(|(a, b)| (a - b).abs()).all(|apart| apart <= SIDE_APART_MAX)
        })
    };
    let all_of = |some: &[Detected], all: &[Detected]| {
        some.iter().filter(|found| found.score >= from).all(|found| has(all, found))
    };
    all_of(one, other) && all_of(other, one)
}
