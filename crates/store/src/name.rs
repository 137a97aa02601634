//! Names are one path segment: they become folders here and URL segments in the server.

use engine::{Error, Result};

/// The longest name; what most file systems take for one segment, less room for a suffix.
pub const MAX_BYTES: usize = 200;

/// Checks that `name` can be a model's name.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the rule that it breaks.
pub fn check(name: &str) -> Result<()> {
    let rule = if name.is_empty() {
        "is empty"
    } else if name.len() > MAX_BYTES {
        "is longer than 200 bytes"
    } else if name.starts_with('.') {
        "starts with a dot"
    } else if name.contains(['/', '\\']) {
        "holds a slash"
    } else if name.chars().any(char::is_control) {
        "holds a control character"
    } else {
        return Ok(());
    };
    Err(Error::invalid(format!("the name {name:?} {rule}; a model's name is one plain path segment")))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn names_are_one_path_segment() {
        let long = "x".repeat(201);
        for (name, fits) in [
            ("nanodet", true),
            ("résumé-2 (final).v3", true),
            ("", false),
            (".", false),
            ("..", false),
            (".hidden", false),
            ("a/b", false),
            ("a\\b", false),
            ("a\0b", false),
            ("a\nb", false),
            (long.as_str(), false),
        ] {
            assert_eq!(check(name).is_ok(), fits, "{name:?}");
        }
    }
}
