//! Rust source as the checks see it: comments and literals blanked out, unit tests cut off, lines kept.

/// `text` with every comment, string and character replaced by spaces. Line breaks stay, so a line number found in the
/// result is a line number of the file.
pub(crate) fn without_prose(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        // A raw string's prefix counts only where an identifier cannot be going on.
        let fresh = !out.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let prose = prose_length(rest, fresh);
        let taken = if prose == 0 { first.len_utf8() } else { prose };
        let (piece, tail) = rest.split_at(taken);
        if prose == 0 {
            out.push_str(piece);
        } else {
            out.extend(piece.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        }
        rest = tail;
    }
    out
}

/// Bytes of the comment or literal that `text` starts with; 0 if it starts with code.
fn prose_length(text: &str, fresh: bool) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment_length(text);
    }
    if text.starts_with('"') {
        return quoted_length(text, '"');
    }
    if text.starts_with('\'') {
        return character_length(text);
    }
    if fresh {
        return raw_string_length(text);
    }
    0
}

fn block_comment_length(text: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < text.len() {
        let here = &text.as_bytes()[at..];
        if here.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

fn quoted_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// A character literal, or 0 for a lifetime, which has no closing quote after one character.
fn character_length(text: &str) -> usize {
    let mut chars = text.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) => quoted_length(text, '\''),
        (Some(c), Some('\'')) => c.len_utf8() + 2,
        _ => 0,
    }
}

fn raw_string_length(text: &str) -> usize {
    let Some(after) = ["br", "cr", "r"].iter().find_map(|prefix| text.strip_prefix(prefix)) else {
        return 0;
    };
    let hashes = after.len() - after.trim_start_matches('#').len();
    if !after[hashes..].starts_with('"') {
        return 0;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    let body = text.len() - after.len() + hashes + 1;
    text[body..].find(&close).map_or(text.len(), |at| body + at + close.len())
}

/// Lines of `text` outside its inline `#[cfg(test)]` modules. Formatted code closes such a module with a brace at the
/// module's own indentation, which is what this looks for.
pub(crate) fn lines_outside_tests(text: &str) -> usize {
    let code = without_prose(text);
    let mut lines = code.lines().peekable();
    let mut count = 0;
    while let Some(line) = lines.next() {
        let indent = &line[..line.len() - line.trim_start().len()];
        let opens_module = |next: &&str| next.trim_start().starts_with("mod ") && next.trim_end().ends_with('{');
        if !is_test_gate(line.trim_start()) || lines.peek().filter(|next| opens_module(next)).is_none() {
            count += 1;
            continue;
        }
        let close = format!("{indent}}}");
        let _module = lines.by_ref().take_while(|line| line.trim_end() != close).count();
    }
    count
}

/// Names of the modules that `text` declares for tests alone and keeps in files of their own.
pub(crate) fn test_modules(text: &str) -> Vec<String> {
    let code = without_prose(text);
    let lines: Vec<&str> = code.lines().map(str::trim).collect();
    let declared = |pair: &[&str]| {
        let module = pair[1].strip_prefix("pub(crate) ").unwrap_or(pair[1]).strip_prefix("mod ")?.strip_suffix(';')?;
        is_test_gate(pair[0]).then(|| module.to_owned())
    };
    lines.windows(2).filter_map(declared).collect()
}

fn is_test_gate(line: &str) -> bool {
    line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test,")
}

/// Line numbers, from 1, at which `word` stands alone in `code`.
pub(crate) fn lines_with_word(code: &str, word: &str) -> Vec<usize> {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    let found = |line: &str| {
        line.match_indices(word).any(|(at, _)| {
            !line[..at].ends_with(part_of_name)
                && (word.ends_with('!') || !line[at + word.len()..].starts_with(part_of_name))
        })
    };
    code.lines().enumerate().filter(|(_, line)| found(line)).map(|(index, _)| index + 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_is_left() {
        for (text, want) in [
            ("a // unsafe\nb", "a          \nb"),
            ("a /* x /* y */ z */ b", "a                   b"),
            ("f(\"unsafe \\\" still\") + g", "f(                 ) + g"),
            ("r#\"unsafe \" still\"# + g", "                    + g"),
            ("for_r\"s\"", "for_r   "),
            ("&'a str, 'x', '\\'', '\"'", "&'a str,    ,     ,    "),
            ("b\"bytes\" c\"c\"", "b        c   "),
            ("\"never closed", "             "),
            ("r#type", "r#type"),
        ] {
            assert_eq!(without_prose(text), want, "{text}");
        }
    }

    #[test]
    fn words_are_found_whole() {
        for (code, word, want) in [
            ("unsafe {\n}\nunsafe_code\nunsafe fn", "unsafe", vec![1, 4]),
            ("todo!()\nmy_todo!()\n  todo!{}", "todo!", vec![1, 3]),
            ("status::unimplemented(x)", "unimplemented!", vec![]),
        ] {
            assert_eq!(lines_with_word(code, word), want, "{code}");
        }
    }

    #[test]
    fn test_modules_in_files_of_their_own() {
        for (text, want) in [
            ("#[cfg(test)]\nmod tests;\nmod other;\n", &["tests"][..]),
            ("#[cfg(test)]\npub(crate) mod tests;\n", &["tests"][..]),
            ("#[cfg(all(test, unix))]\nmod a;\n#[cfg(test)]\nmod b {\n}\n", &["a"]),
            ("// #[cfg(test)]\nmod tests;\n", &[]),
        ] {
            assert_eq!(test_modules(text), want, "{text}");
        }
    }

    #[test]
    fn test_modules_do_not_count() {
        for (text, want) in [
            ("//! doc\nfn a() {}\n\n#[cfg(test)]\nmod tests {\n    fn b() {\n    }\n}\n", 3),
            ("fn a() {}\n#[cfg(test)]\nmod tests;\nfn b() {}\n", 4),
            ("#[cfg(test)]\nmod tests {\n    const X: &str = \"\n}\n\";\n}\nfn after() {}\n", 1),
            ("#[cfg(test)]\nfn only_in_tests() {}\n", 2),
        ] {
            assert_eq!(lines_outside_tests(text), want, "{text}");
        }
    }
}
