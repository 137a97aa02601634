//! Label files: one class a line.

use std::collections::BTreeMap;
use std::path::Path;

use engine::{Error, Result};

/// Reads a label file. A plain line names the class whose id is its line number, counted from 0; a line `N: name`
/// gives the id itself. Blank lines name nothing.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the file and the line.
pub fn read(path: &Path) -> Result<BTreeMap<u32, String>> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| Error::invalid(format!("{}: the label file cannot be read: {source}", path.display())))?;
    parse(&text).map_err(|error| error.context(path.display()))
}

fn parse(text: &str) -> Result<BTreeMap<u32, String>> {
    let mut labels = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let numbered = line.split_once(':').and_then(|(id, name)| Some((id.trim().parse::<u32>().ok()?, name.trim())));
        let (id, name) = match numbered {
            Some(pair) => pair,
            None => (u32::try_from(index).map_err(|_| Error::invalid("too many lines"))?, line.trim()),
        };
        if !name.is_empty() && labels.insert(id, name.to_owned()).is_some() {
            return Err(Error::invalid(format!("line {}: class {id} is named twice", index + 1)));
        }
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn lines_count_from_zero_unless_they_are_numbered() {
        for (text, want) in [
            ("person\nbicycle\n\ntraffic light\n", Ok(vec![(0, "person"), (1, "bicycle"), (3, "traffic light")])),
            ("1: person\n90: toothbrush\n", Ok(vec![(1, "person"), (90, "toothbrush")])),
            ("a: b\n", Ok(vec![(0, "a: b")])),
            ("", Ok(vec![])),
            ("1: a\n1: b\n", Err("line 2: class 1 is named twice")),
        ] {
            let got = parse(text);
            let want = want.map(|pairs| pairs.into_iter().map(|(id, name)| (id, name.to_owned())).collect());
            assert_eq!(got.map_err(|error| error.message), want.map_err(str::to_owned), "{text:?}");
        }
    }
}
