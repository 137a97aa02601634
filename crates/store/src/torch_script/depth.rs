//! How deep the code of an archive nests. libtorch reads code by recursion, as deep as an expression is, and ends the process
//! where the stack ends; so what is deeper than any code is refused.

use super::forbidden::leading_word;

/// What stands one within another, or one behind another, of a single expression. `engine` loads modules on a stack that
/// bears several times as much.
const STEPS_MAX: usize = 5000;

/// Columns that a line may be indented by: blocks within blocks.
const COLUMNS_MAX: usize = 400;

/// Whether an expression or a block in `code` nests deeper than it may.
pub(super) fn is_too_deep(code: &[u8]) -> bool {
    // For each open bracket, how deep it stands.
    let mut open: Vec<usize> = Vec::new();
    let (mut steps, mut at, mut column) = (0, 0, Some(0));
    while let Some(&byte) = code.get(at) {
        let rest = &code[at..];
        let mut length = 1;
        match byte {
            b' ' | b'\t' => column = column.map(|column: usize| column + 1),
            b'\\' if rest.get(1) == Some(&b'\n') => length = 2,
            b'#' => length = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len()),
            b'\n' if open.is_empty() => (steps, column) = (0, Some(0)),
            b'\r' | b'\n' => {}
            b'\'' | b'"' => {
                length = string_bytes(rest);
                steps += 1;
            }
            b'(' | b'[' | b'{' => {
                open.push(steps);
                steps += 1;
            }
            // What is beside is no deeper.
            b',' => steps = open.last().map_or(0, |steps| steps + 1),
            b')' | b']' | b'}' => steps = open.pop().unwrap_or(0) + 1,
            _ => {
                length = leading_word(rest).len().max(1);
                steps += 1;
            }
        }
        if steps > STEPS_MAX || column.is_some_and(|column| column > COLUMNS_MAX) {
            return true;
        }
        if !matches!(byte, b' ' | b'\t' | b'\n') {
            column = None;
        }
        at += length;
    }
    false
}

/// The length of the string that `text` begins with, quotes included.
fn string_bytes(text: &[u8]) -> usize {
    let quote = &text[..1];
    let triple = quote.repeat(3);
    let end = if text.starts_with(&triple) { &triple[..] } else { quote };
    let mut at = end.len();
    while at < text.len() && !text[at..].starts_with(end) {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    (at + end.len()).min(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nests_is_counted_and_what_stands_in_a_row_is_not() {
        let many = |text: &str| text.repeat(STEPS_MAX + 1);
        for (what, code, deep) in [
            ("brackets", format!("return {}x", many("(")), true),
            ("brackets with strings that close them", many("(\")\", "), true),
            ("brackets with comments", many("(x, # )\n"), true),
            ("calls", format!("return {}x", many("torch.neg(")), true),
            ("a sum", format!("return x{}", many("+x")), true),
            ("signs over several lines", format!("return {}x", many("-\\\n")), true),
            ("places of places", format!("return x{}", many("[0]")), true),
            ("words", format!("return {}x", many("not ")), true),
            ("blocks", format!("{}x = y\n", " ".repeat(COLUMNS_MAX + 1)), true),
            ("a list", format!("x = [{}]", many("-1.5, (2, 3), f(x), ")), false),
            ("lines", many("    x = torch.add(x, y)\n"), false),
            ("a long string", format!("x = \"{}\"", many("( ")), false),
            ("a string of three quotes", format!("x = '''{}'''", many("(\n' ")), false),
        ] {
            assert_eq!(is_too_deep(code.as_bytes()), deep, "{what}");
        }
    }
}
