//! Whether what a model answers can be of a head: ranges, order and places of its values.

use std::collections::BTreeMap;

use engine::{Error, Result, Tensor};
use store::specimen::Specimen;
use store::task::Head;

use super::detect::Candidate;
use super::probe::{are_shares, floats};

/// A share of what is seen that is nearly all of it.
const NEARLY_ALL: f64 = 0.9;

/// Whether `answer` can be of `candidate`'s head.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), saying what speaks against it.
pub(super) fn fits(
    specimen: &Specimen,
    candidate: &Candidate,
    labels: &BTreeMap<u32, String>,
    answer: &[Tensor],
) -> Result<()> {
    let values = |name: &str| {
        let at = specimen.signature().outputs.iter().position(|output| output.name == name);
        let tensor = at.and_then(|at| answer.get(at)).ok_or_else(|| Error::internal(format!("no output '{name}'")))?;
        Ok::<_, Error>((tensor.shape().last().copied().unwrap_or(1).max(1), floats(name, tensor)?))
    };
    let no = |what: &str| Err(Error::invalid(what.to_owned()));
    match &candidate.head {
        Head::Odapi { boxes, scores, classes, count } => {
            let rows = [values(boxes)?.1, values(scores)?.1, values(classes)?.1, values(count)?.1];
            suppressed(&rows)
        }
        Head::Yolov5 { output, .. } => {
            let (width, values) = values(output)?;
            let rows = || values.chunks_exact(width);
            if !are_shares(rows().flat_map(|row| &row[4..])) {
                return no("its scores are not from 0 to 1");
            }
            in_their_cells(candidate, rows().map(|row| (row[0], row[1])))
        }
        Head::Yolov8 { output, .. } => {
            let (count, values) = values(output)?;
            let (places, scores) = values.split_at(4 * count);
            if !are_shares(scores) {
                return no("its scores are not from 0 to 1");
            }
            in_their_cells(candidate, (0..count).map(|at| (places[at], places[count + at])))
        }
        Head::Yolox { output, .. } => {
            let (width, values) = values(output)?;
            let rows = || values.chunks_exact(width);
            if !are_shares(rows().flat_map(|row| &row[4..])) {
                return no("its scores are not from 0 to 1");
            }
            // In strides from its cell, and the logarithm of a size in strides: neither is large.
            let near = |row: &&[f32]| {
                row[..2].iter().all(|offset| offset.abs() < 8.0) && row[2..4].iter().all(|log| log.abs() < 6.0)
            };
            if (rows().filter(near).count() as f64) < rows().count() as f64 * NEARLY_ALL {
                return no("its boxes are not places in strides from their cells");
            }
            if in_their_cells(candidate, rows().map(|row| (row[0], row[1]))).is_ok() {
                return no("its boxes lie in their cells as pixels do");
            }
            Ok(())
        }
        Head::Yolov10 { output } => {
            let (width, values) = values(output)?;
            chosen(labels, values.chunks_exact(width))
        }
        Head::NanodetPlus { output, bins, .. } => {
            let (width, values) = values(output)?;
            let scores = values.chunks_exact(width).flat_map(|row| &row[..width - 4 * bins]);
            if are_shares(scores) { Ok(()) } else { no("its scores are not from 0 to 1") }
        }
        Head::Nanodet { levels, .. } => {
            for level in levels {
                if !are_shares(&values(&level.scores)?.1) {
                    return no("its scores are not from 0 to 1");
                }
            }
            Ok(())
        }
        Head::Detr { logits, boxes } | Head::RtDetr { logits, boxes } => {
            let (_, boxes) = values(boxes)?;
            let (width, logits) = values(logits)?;
            if !are_shares(&boxes) {
                return no("its boxes are not from 0 to 1");
            }
            queries(candidate, width, &logits)
        }
    }
}

/// Whether nearly every box lies by the cell that it is of: nothing but a decoded head's boxes do.
fn in_their_cells(candidate: &Candidate, middles: impl Iterator<Item = (f32, f32)>) -> Result<()> {
    /// A cell may speak for a box that is some cells away.
    const APART_CELLS: f32 = 6.0;
    let Some((strides, each)) = candidate.levels else { return Ok(()) };
    let (width, height) = candidate.canvas_px;
    let places = strides.iter().flat_map(|&stride| {
        let (columns, rows) = ((width as usize).div_ceil(stride), (height as usize).div_ceil(stride));
        let level = move || (0..rows).flat_map(move |row| (0..columns).map(move |column| (stride as f32, column, row)));
        (0..each).flat_map(move |_| level())
    });
    let (mut near, mut count) = (0u32, 0u32);
    for ((x, y), (stride, column, row)) in middles.zip(places) {
        let apart = |value: f32, cell: usize| (value / stride - (cell as f32 + 0.5)).abs() <= APART_CELLS;
        near += u32::from(apart(x, column) && apart(y, row));
        count += 1;
    }
    if f64::from(near) < f64::from(count) * NEARLY_ALL {
        return Err(Error::invalid(format!("{near} of {count} boxes lie by their cells, and nearly all should")));
    }
    Ok(())
}

/// Whether boxes, scores, classes and count are what is left when a graph has suppressed others: as many of each, of which
/// the first `count` mean something where their class is no filling, corners in order. No stricter than what reads them.
fn suppressed([boxes, scores, classes, count]: &[Vec<f32>; 4]) -> Result<()> {
    /// Sums of what is stored in few bits are rounded past one.
    const SCORES: std::ops::RangeInclusive<f32> = -0.01..=1.01;
    let no = |what: &str| Err(Error::invalid(what.to_owned()));
    let [count] = count[..] else { return no("it has more than one count of one picture's boxes") };
    if boxes.len() != 4 * scores.len() || classes.len() != scores.len() {
        return no("its boxes, scores and classes are not equally many");
    }
    if count.fract() != 0.0 || count < 0.0 {
        return Err(Error::invalid(format!("its count of boxes is {count}")));
    }
    // A cast from a float saturates.
    let rows = scores.iter().zip(classes).zip(boxes.chunks_exact(4)).take(count as usize);
    for ((score, class), corners) in rows.filter(|((_, class), _)| **class >= 0.0) {
        if !SCORES.contains(score) {
            return no("its scores are not from 0 to 1");
        }
        if corners[0] > corners[2] + 1e-3 || corners[1] > corners[3] + 1e-3 {
            return no("its boxes' corners are not in order");
        }
        if class.fract() != 0.0 {
            return no("its classes are no whole numbers");
        }
    }
    Ok(())
}

/// Whether `rows` are boxes that a graph has chosen: corners in order, scores from 0 to 1 and falling, whole classes.
fn chosen<'a>(labels: &BTreeMap<u32, String>, rows: impl Iterator<Item = &'a [f32]>) -> Result<()> {
    let no = |what: &str| Err(Error::invalid(what.to_owned()));
    let mut last = f32::INFINITY;
    for row in rows {
        let (score, class) = (row[4], row[5]);
        if row[0] > row[2] + 1e-3 || row[1] > row[3] + 1e-3 {
            return no("its boxes' corners are not in order");
        }
        if !are_shares(&[score]) || score > last + 1e-4 {
            return no("its scores do not fall from 1 to 0");
        }
        if class < 0.0 || class.fract() != 0.0 {
            return no("its classes are no whole numbers");
        }
        if labels.keys().next_back().is_some_and(|&most| class as u32 > most) {
            return no("its classes have more numbers than names");
        }
        last = score;
    }
    Ok(())
}

/// Which of DETR and RT-DETR `logits` are of: the first has a class of its own for nothing, the last one, and it is by far
/// the likeliest where there is nothing.
fn queries(candidate: &Candidate, width: usize, logits: &[f32]) -> Result<()> {
    let rows = logits.len() / width;
    let is_nothing = |row: &&[f32]| row[..width - 1].iter().all(|&other| other < row[width - 1]);
    let nothing = logits.chunks_exact(width).filter(is_nothing).count();
    let is_detr = nothing * 2 > rows;
    match (&candidate.head, is_detr) {
        (Head::Detr { .. }, false) => {
            Err(Error::invalid(format!("the last class leads in {nothing} of {rows} rows only")))
        }
        (Head::RtDetr { .. }, true) => Err(Error::invalid(format!("the last class leads in {nothing} of {rows} rows"))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_suppressed_answer_is_refused_with_what_speaks_against_it() {
        const BOXES: [f32; 8] = [0.1, 0.2, 0.3, 0.4, 0.0, 0.0, 0.0, 0.0];
        let turned = [0.3, 0.2, 0.1, 0.4, 0.0, 0.0, 0.0, 0.0];
        for (boxes, scores, classes, count, says) in [
            (BOXES, [0.9, 0.0], [1.0, 0.0], &[1.0][..], None),
            (BOXES, [0.9, 0.2], [1.0, 90.0], &[2.0], None),
            // What lies behind the count means nothing.
            (BOXES, [0.9, -5.0], [1.0, 0.5], &[1.0], None),
            (turned, [0.9, 0.2], [1.0, 1.0], &[0.0], None),
            (turned, [0.9, 0.2], [1.0, 1.0], &[1.0], Some("corners")),
            (BOXES, [3.0, 0.2], [1.0, 1.0], &[1.0], Some("scores")),
            (BOXES, [0.9, 0.2], [1.5, 1.0], &[1.0], Some("classes")),
            (BOXES, [0.9, 0.2], [1.0, 1.0], &[0.5], Some("count")),
            (BOXES, [0.9, 0.2], [1.0, 1.0], &[-1.0], Some("count")),
            // What a row is filled up with, and what is rounded.
            (turned, [7.0, 0.2], [-1.0, 1.0], &[2.0], None),
            (BOXES, [1.0002, 0.2], [1.0, 1.0], &[100.0], None),
            (BOXES, [0.9, 0.2], [1.0, 1.0], &[f32::NAN], Some("count")),
            (BOXES, [0.9, 0.2], [1.0, 1.0], &[1.0, 1.0], Some("more than one count")),
        ] {
            let case = format!("{boxes:?} {scores:?} {classes:?} {count:?}");
            let told = suppressed(&[boxes.to_vec(), scores.to_vec(), classes.to_vec(), count.to_vec()]);
            match says {
                None => assert!(told.is_ok(), "{case}: {told:?}"),
                Some(says) => assert!(told.unwrap_err().message.contains(says), "{case}"),
            }
        }
        let fewer = suppressed(&[BOXES[..4].to_vec(), vec![0.9, 0.2], vec![1.0, 1.0], vec![1.0]]);
        assert!(fewer.unwrap_err().message.contains("equally many"));
    }
}
