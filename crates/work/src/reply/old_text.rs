//! The text that workers of the first generation sent: a line for each frame, a list of pairs of label and score, as Python
//! writes them.

use std::io::BufRead;

use engine::{Error, Result};
use serde::Deserialize;

/// The text of the `lines` of `results.jsonl` in at most `bytes_max` bytes: as many frames from the first one on as there is
/// room for, each whole, and how many there are after them.
///
/// # Errors
/// [`Corrupt`](engine::ErrorKind::Corrupt) when the lines are no results, or are cut off.
pub(super) fn old_text(lines: impl BufRead, bytes_max: usize) -> Result<(String, u64)> {
    #[derive(Deserialize)]
    struct Line {
        detections: Vec<Detection>,
    }
    #[derive(Deserialize)]
    struct Detection {
        label: String,
        score: serde_json::Value,
    }
    let corrupt = |error: &dyn std::fmt::Display| Error::corrupt(format!("not lines of results: {error}"));
    let (mut text, mut left_out) = (String::new(), 0);
    for line in lines.lines() {
        let line = line.map_err(|error| corrupt(&error))?;
        if left_out > 0 {
            left_out += 1;
            continue;
        }
        let Line { detections } = serde_json::from_str(&line).map_err(|error| corrupt(&error))?;
        let pair = |one: &Detection| format!("({}, {})", python_text(&one.label), one.score);
        let pairs: Vec<String> = detections.iter().map(pair).collect();
        let frame = format!("[{}]\n", pairs.join(", "));
        if text.len() + frame.len() > bytes_max {
            left_out = 1;
        } else {
            text += &frame;
        }
    }
    // No queue takes a message without a body.
    Ok((if text.is_empty() { "\n".to_owned() } else { text }, left_out))
}

/// `text` as Python's `repr` has it.
fn python_text(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for letter in text.chars() {
        match letter {
            '\n' => out += "\\n",
            '\r' => out += "\\r",
            '\t' => out += "\\t",
            '\\' => out += "\\\\",
            letter if letter == quote => out.extend(['\\', letter]),
            letter if letter.is_control() => out += &format!("\\x{:02x}", u32::from(letter)),
            letter => out.push(letter),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "{\"frame\":0,\"detections\":[]}\n\
        {\"frame\":1,\"detections\":[{\"label\":\"person\",\"score\":0.8312},{\"label\":\"dog's \\\"bed\\\"\\n\",\"score\":0.5000}]}\n\
        {\"frame\":2,\"detections\":[]}\n{\"frame\":3,\"detections\":[]}\n";

    #[test]
    fn frames_are_lists_of_label_and_score_and_whole_or_not_there() {
        let frames = ["[]\n", "[('person', 0.8312), ('dog\\'s \"bed\"\\n', 0.5)]\n", "[]\n", "[]\n"];
        let whole = frames.concat();
        for bytes_max in 1..whole.len() + 5 {
            let (text, left_out) = old_text(LINES.as_bytes(), bytes_max).unwrap();
            let told = frames.len() - usize::try_from(left_out).unwrap();
            let want = frames[..told].concat();
            assert_eq!(text, if told == 0 { "\n" } else { &*want }, "{bytes_max}");
            assert!(text.len() <= bytes_max, "{bytes_max}");
            // One more would not have fitted.
            assert!(told == frames.len() || want.len() + frames[told].len() > bytes_max, "{bytes_max}");
        }
        assert_eq!(old_text(&b""[..], 10).unwrap(), ("\n".to_owned(), 0));
        assert!(old_text(&LINES.as_bytes()[..40], 1000).is_err());
    }
}
