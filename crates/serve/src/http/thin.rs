//! Long lists of numbers, taken out of a JSON text before it is parsed. Most of a request is numbers, which a parser would go
//! through to find where they end, and whoever wants them as numbers once more; a list's end is found much faster.
//!
//! What is taken out has not been parsed: who uses a [`Span`] checks it as it reads it.

/// Shorter lists are left: a parser has gone through them as soon as they are taken out.
const SPAN_BYTES_MIN: usize = 1024;
/// What stands for a list that was taken out. It is a list too, so that a text is as good with it as without.
const STAND_IN: &str = "[]";

/// A text without its long lists of numbers.
#[derive(Debug, Default)]
pub(super) struct Thinned<'a> {
    pub(super) text: String,
    pub(super) spans: Vec<Span<'a>>,
}

/// A list that was taken out: brackets, and between them nothing but brackets and what numbers are written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span<'a> {
    /// Where its stand-in begins in the thinned text.
    pub(super) at: usize,
    pub(super) text: &'a str,
}

/// `text` without its long lists; `None` when it has none. One pass, whatever the text is.
pub(super) fn thin(text: &str) -> Option<Thinned<'_>> {
    let bytes = text.as_bytes();
    let mut thinned = Thinned::default();
    // Up to where `text` was copied, and up to where it was looked through.
    let (mut copied, mut at) = (0, 0);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => at = string_end(bytes, at)?,
            b'[' => {
                let run = at + numbers(&bytes[at..]);
                match balanced(&bytes[at..run]).map(|length| at + length) {
                    Some(end) if end - at >= SPAN_BYTES_MIN => {
                        thinned.text.push_str(&text[copied..at]);
                        thinned.spans.push(Span { at: thinned.text.len(), text: &text[at..end] });
                        thinned.text.push_str(STAND_IN);
                        (copied, at) = (end, end);
                    }
                    Some(end) => at = end,
                    // Whatever begins in the run does not end in it, or is inside of what does not.
                    None => at = run,
                }
            }
            _ => at += 1,
        }
    }
    if thinned.spans.is_empty() {
        return None;
    }
    thinned.text.push_str(&text[copied..]);
    Some(thinned)
}

/// The position behind the string that begins at `at`; `None` when it does not end.
fn string_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += 1;
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 1,
            _ => {}
        }
    }
}

/// How many bytes of lists of numbers `bytes` begins with.
fn numbers(bytes: &[u8]) -> usize {
    const BLOCK: usize = 64;
    // A block at a time without a branch in it, which compilers turn into a few wide instructions.
    let blocks = bytes.chunks_exact(BLOCK);
    let whole = blocks.take_while(|block| block.iter().fold(true, |all, &byte| all & is_numeric(byte))).count() * BLOCK;
    whole + bytes[whole..].iter().take_while(|&&byte| is_numeric(byte)).count()
}

/// Whether lists of numbers are written with `byte`.
#[inline]
fn is_numeric(byte: u8) -> bool {
    // Digits and `+,-.`, of which only the slash between them is none.
    (matches!(byte, b'+'..=b'9') & (byte != b'/'))
        | (byte | 0x20 == b'e')
        | matches!(byte, b'[' | b']' | b' ' | b'\n' | b'\r' | b'\t')
}

/// The length of the list that `bytes` begins with, if it ends.
fn balanced(bytes: &[u8]) -> Option<usize> {
    let mut depth = 0usize;
    for at in memchr::memchr2_iter(b'[', b']', bytes) {
        match bytes[at] {
            b'[' => depth += 1,
            _ if depth == 1 => return Some(at + 1),
            _ => depth -= 1,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `thinned` with everything put back.
    fn whole(thinned: &Thinned<'_>) -> String {
        let (mut text, mut from) = (String::new(), 0);
        for span in &thinned.spans {
            text += &thinned.text[from..span.at];
            text += span.text;
            from = span.at + STAND_IN.len();
        }
        text + &thinned.text[from..]
    }

    #[test]
    fn long_lists_are_taken_out_and_nothing_else() {
        let numbers = vec!["-0.125e+3"; 400].join(", ");
        let list = format!("[{numbers}]");
        let nested = format!("[[{numbers}],\n[{numbers}]]");
        for (text, thin_text, spans) in [
            (format!("{{\"data\":{list},\"x\":1}}"), Some(String::from("{\"data\":[],\"x\":1}")), vec![&list]),
            (
                format!("[[{nested},{list}],\"[\",{nested}]"),
                Some(format!("[[{nested},{list}],\"[\",[]]")),
                vec![&nested],
            ),
            (format!("{{\"a\\\"[\":[{list},null]}}"), None, vec![]),
            (format!("{{\"data\":\"{list}\"}}"), None, vec![]),
            (format!("[{numbers}"), None, vec![]),
            (format!("\"{list}"), None, vec![]),
            (String::from("[1,2,3]"), None, vec![]),
        ] {
            let got = thin(&text);
            let got_spans: Vec<_> = got.iter().flat_map(|thinned| &thinned.spans).map(|span| span.text).collect();
            assert_eq!(got_spans, spans, "{text}");
            assert_eq!(got.as_ref().map(|thinned| &thinned.text), thin_text.as_ref());
            if let Some(got) = got {
                assert_eq!(whole(&got), text);
            }
        }
        // No work twice: every bracket here could begin a list.
        assert!(thin(&"[".repeat(1 << 22)).is_none());
    }

    proptest! {
        #[test]
        fn whatever_is_taken_out_can_be_put_back(
            pieces in prop::collection::vec(
                prop_oneof![Just("["), Just("]"), Just("\""), Just("\\"), Just("1.5,"), Just("{\"é\":"), Just("LONG"), Just(" ")], 0..60
            ),
        ) {
            let long = "7,".repeat(SPAN_BYTES_MIN / 2);
            let text = pieces.concat().replace("LONG", &long);
            if let Some(thinned) = thin(&text) {
                prop_assert_eq!(whole(&thinned), text);
            }
        }

        #[test]
        fn a_block_is_judged_as_its_bytes(bytes in prop::collection::vec(prop_oneof![4 => Just(b'1'), 1 => any::<u8>()], 0..200)) {
            let of_numbers = |byte: &&u8| b"0123456789+-.,eE[] \n\r\t".contains(byte);
            prop_assert_eq!(numbers(&bytes), bytes.iter().take_while(of_numbers).count());
        }
    }
}
