//! The token that lets us in: a file that somebody replaces before its time is over.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine::{Error, Result};
use http::HeaderValue;

/// So long a token is taken from memory: those who replace it do so minutes before the old one ends.
const KEPT: Duration = Duration::from_secs(5);

/// A bearer token in a file.
pub(crate) struct Token {
    path: PathBuf,
    /// As it was read last, and when.
    kept: Mutex<(HeaderValue, Instant)>,
}

impl Token {
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) for a file that cannot be read or holds none.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let kept = Mutex::new((header(path)?, Instant::now()));
        Ok(Self { path: path.to_owned(), kept })
    }

    /// The header's value at the time `now`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn header(&self, now: Instant) -> Result<HeaderValue> {
        // It is replaced as a whole.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(kept.1) >= KEPT {
            *kept = (header(&self.path)?, now);
        }
        Ok(kept.0.clone())
    }
}

fn header(path: &Path) -> Result<HeaderValue> {
    let wrong = |why: &dyn std::fmt::Display| Error::invalid(format!("--infer-token-file {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
    let token = text.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Err(wrong(&"it is not one token and nothing else"));
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| wrong(&"it is no token"))?;
    // Nothing that prints headers prints this one.
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_anew_and_refused_where_it_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write("first\n");
        let token = Token::read(&path).unwrap();
        write("second");
        let (now, later) = (Instant::now(), Instant::now() + KEPT);
        assert_eq!(token.header(now).unwrap(), "Bearer first");
        let second = token.header(later).unwrap();
        assert!(second == "Bearer second" && second.is_sensitive());
        for text in ["", " \n", "two words", "line\nline"] {
            write(text);
            let error = Token::read(&path).map(drop).unwrap_err();
            assert!(error.message.contains("--infer-token-file") && error.message.contains("one token"), "{error}");
            assert!(token.header(later + KEPT).is_err(), "what is there now counts");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(Token::read(&path).map(drop).unwrap_err().message.contains("No such file"));
    }
}
