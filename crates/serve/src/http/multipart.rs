//! Forms of several parts (RFC 7578): the files that browsers and `curl -F` send.

use bytes::Bytes;
use engine::{Error, Result};

/// Parts of one form; more are refused.
const PARTS_MAX: usize = 64;

/// One part of a form.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The field's name.
    pub(crate) name: String,
    /// Whether it is a file.
    pub(crate) is_file: bool,
    /// What it holds; shares the body's memory.
    pub(crate) content: Bytes,
}

/// The boundary that a content type states; `None` when it is no form of several parts.
pub(crate) fn boundary(content_type: &str) -> Option<&str> {
    let (kind, rest) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let stated = rest.split(';').find_map(|parameter| parameter.trim().strip_prefix("boundary="))?;
    let stated = stated.trim_matches('"');
    (!stated.is_empty() && stated.len() <= 70).then_some(stated)
}

/// The parts of `body`.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when a part is not closed by the boundary or has no head.
pub(crate) fn parts(body: &Bytes, boundary: &str) -> Result<Vec<Part>> {
    let broken = |what: &str| Error::invalid(format!("the multipart body {what}"));
    let mark = format!("--{boundary}");
    let find = |from: usize, what: &[u8]| {
        body.get(from..)?.windows(what.len()).position(|bytes| bytes == what).map(|at| from + at)
    };
    let mut at = find(0, mark.as_bytes()).ok_or_else(|| broken("has no boundary"))? + mark.len();
    let between = format!("\r\n{mark}");
    let mut parts = Vec::new();
    while !body[at..].starts_with(b"--") {
        if parts.len() == PARTS_MAX {
            return Err(broken("has too many parts"));
        }
        let head = find(at, b"\r\n").ok_or_else(|| broken("is cut off"))? + 2;
        // A part without a head has its empty line at once.
        let (head_end, content) = match body[head..].starts_with(b"\r\n") {
            true => (head, head + 2),
            false => {
                let end = find(head, b"\r\n\r\n").ok_or_else(|| broken("has a part without an end of its head"))?;
                (end, end + 4)
            }
        };
        let end = find(content, between.as_bytes()).ok_or_else(|| broken("has a part without an end"))?;
        parts.push(part(&String::from_utf8_lossy(&body[head..head_end]), body.slice(content..end)));
        at = end + between.len();
    }
    Ok(parts)
}

fn part(head: &str, content: Bytes) -> Part {
    let disposition = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("content-disposition").then_some(value)
    });
    let parameter = |wanted: &str| {
        let parameters = disposition.unwrap_or_default().split(';').skip(1);
        parameters.filter_map(|parameter| parameter.trim().split_once('=')).find(|(name, _)| *name == wanted)
    };
    let name = parameter("name").map(|(_, value)| value.trim_matches('"').to_owned()).unwrap_or_default();
    Part { name, is_file: parameter("filename").is_some(), content }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_are_taken_apart() {
        for (kind, want) in [
            ("multipart/form-data; boundary=xyz", Some("xyz")),
            ("Multipart/Form-Data; charset=utf-8; boundary=\"x y\"", Some("x y")),
            ("multipart/form-data", None),
            ("multipart/mixed; boundary=x", None),
            ("image/jpeg", None),
        ] {
            assert_eq!(boundary(kind), want, "{kind}");
        }
        let body = "--b\r\nContent-Disposition: form-data; name=\"data\"; filename=\"a.jpg\"\r\nContent-Type: image/jpeg\r\n\r\n\
                    one\r\n--two\r\n--b\r\ncontent-disposition: form-data; name=threshold\r\n\r\n0.5\r\n--b\r\n\r\nbare\r\n--b--\r\n";
        let part = |name: &str, is_file, content: &'static str| Part {
            name: name.to_owned(),
            is_file,
            content: Bytes::from_static(content.as_bytes()),
        };
        let want = [part("data", true, "one\r\n--two"), part("threshold", false, "0.5"), part("", false, "bare")];
        assert_eq!(parts(&Bytes::from_static(body.as_bytes()), "b").unwrap(), want);
        for broken in ["", "--b", "--b\r\n", "--b\r\nhead", "--b\r\nhead: x\r\n\r\ncontent", "none"] {
            assert!(parts(&Bytes::from_static(broken.as_bytes()), "b").is_err(), "{broken}");
        }
    }

    proptest! {
        #[test]
        fn hostile_forms_are_no_panic(pieces in prop::collection::vec("(\r\n|--b|--|: |;|name=|x){0,6}", 0..12)) {
            let _ = parts(&Bytes::from(pieces.concat()), "b");
        }
    }
}
