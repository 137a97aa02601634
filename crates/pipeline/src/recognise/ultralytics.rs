//! What Ultralytics' exporter writes into the files of its models.

use std::collections::BTreeMap;

use store::picture::{Fit, Lies};
use store::task::{Scores, TaskChoice};

use super::Said;
use super::wish::{InputWish, Wish};

/// What `words` say; `None` when they are not that exporter's, or of a task that is not known.
pub(super) fn said(words: &BTreeMap<String, String>) -> Option<Said> {
    let names = names(words.get("names")?);
    let (height, width) = size(words.get("imgsz")?)?;
    let pixels = InputWish { scale: Some(1.0 / 255.0), ..InputWish::default() };
    let wish = match words.get("task")?.as_str() {
        "detect" => Wish {
            task: Some(TaskChoice::ObjectDetection),
            input: InputWish { fit: Some(Fit::Letterbox { width, height, fill: 114, lies: Lies::Centre }), ..pixels },
            ..Wish::default()
        },
        "classify" => Wish {
            task: Some(TaskChoice::ImageClassification),
            scores: Some(Scores::Probabilities),
            input: InputWish { fit: Some(Fit::Crop { short: width.min(height), width, height }), ..pixels },
            ..Wish::default()
        },
        _ => return None,
    };
    let notes = vec![format!("size {width}x{height} and {} class names are the model's own", names.len())];
    Some(Said { wish, labels: names, notes })
}

/// `[height, width]`.
fn size(text: &str) -> Option<(u32, u32)> {
    let (height, width) = text.trim().strip_prefix('[')?.strip_suffix(']')?.split_once(',')?;
    let side = |text: &str| text.trim().parse().ok().filter(|side| (1..=8192).contains(side));
    Some((side(height)?, side(width)?))
}

/// The names in a Python dictionary of numbers to strings, as `repr` writes it.
fn names(text: &str) -> BTreeMap<u32, String> {
    let mut names = BTreeMap::new();
    let mut rest = text;
    // A number, a colon, a quote, the name, the same quote.
    while let Some(at) = rest.find(|letter: char| letter.is_ascii_digit()) {
        let digits = rest[at..].bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest[at..].split_at(digits);
        let Some(after) = after.trim_start().strip_prefix(':').map(str::trim_start) else { break };
        let Some(quote) = after.chars().next().filter(|quote| matches!(quote, '\'' | '"')) else { break };
        let mut name = String::new();
        let mut letters = after[1..].char_indices();
        let mut end = after.len() - 1;
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\\' => name.extend(letters.next().map(|(_, letter)| letter)),
                letter if letter == quote => {
                    end = at;
                    break;
                }
                letter => name.push(letter),
            }
        }
        if let Ok(number) = number.parse() {
            names.insert(number, name);
        }
        rest = after.get(1 + end + 1..).unwrap_or_default();
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_python_writes_them() {
        for (text, want) in [
            ("{0: 'person', 1: 'traffic light'}", vec![(0, "person"), (1, "traffic light")]),
            (r#"{0: "driver's seat", 7: 'a "b" \'c\' 3: d'}"#, vec![(0, "driver's seat"), (7, r#"a "b" 'c' 3: d"#)]),
            ("{0: 'naïve', 1: '中'}", vec![(0, "naïve"), (1, "中")]),
            ("{}", vec![]),
            ("{0: 'never closed", vec![(0, "never closed")]),
            ("{0 'x'}", vec![]),
            ("{99999999999: 'x', 1: 'y'}", vec![(1, "y")]),
        ] {
            let want: BTreeMap<u32, String> = want.into_iter().map(|(id, name)| (id, name.to_owned())).collect();
            assert_eq!(names(text), want, "{text}");
        }
        assert_eq!(size("[320, 640]"), Some((320, 640)));
        assert_eq!((size("640"), size("[0, 640]"), size("[a, b]")), (None, None, None));
    }
}
