//! A strict JSON reader over bytes that also knows `NaN`, `Infinity` and `-Infinity`, which TensorFlow Serving's
//! clients send. It gives tokens and builds nothing, so a tensor's numbers go straight into its bytes.

use engine::{Error, Result};

/// The longest piece of a request that a message quotes, in bytes.
const QUOTE_BYTES_MAX: usize = 40;

/// A position in a JSON text.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
    /// The deepest nesting that is read.
    depth_max: usize,
}

/// What a value begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    List,
    Object,
    String,
    /// A number, `NaN` and the infinities among them.
    Number,
    /// `true`, `false` or `null`.
    Word,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a [u8], depth_max: usize) -> Self {
        Self { text, at: 0, depth_max }
    }

    /// The next byte that is not white space.
    #[inline]
    pub(super) fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.text.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    /// Goes past `byte` if it is next.
    #[inline]
    pub(super) fn eat(&mut self, byte: u8) -> bool {
        let next = self.peek() == Some(byte);
        self.at += usize::from(next);
        next
    }

    /// Goes past `byte`.
    pub(super) fn expect(&mut self, byte: u8) -> Result<()> {
        if self.eat(byte) { Ok(()) } else { Err(self.wrong(&format!("'{}' is missing", char::from(byte)))) }
    }

    /// What comes next.
    pub(super) fn kind(&mut self) -> Result<Kind> {
        match self.peek() {
            Some(b'[') => Ok(Kind::List),
            Some(b'{') => Ok(Kind::Object),
            Some(b'"') => Ok(Kind::String),
            Some(b'-' | b'0'..=b'9' | b'N' | b'I') => Ok(Kind::Number),
            Some(b't' | b'f' | b'n') => Ok(Kind::Word),
            _ => Err(self.wrong("a value is missing")),
        }
    }

    /// Goes through a list: `item` is called at each of its values and must go past it. `depth` counts the lists and
    /// objects around it.
    pub(super) fn list(&mut self, depth: usize, item: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.open_list(depth)?;
        self.rest_of_list(false, item)
    }

    /// Goes past the bracket of a list, which [`rest_of_list`](Self::rest_of_list) must follow.
    pub(super) fn open_list(&mut self, depth: usize) -> Result<()> {
        self.enter(b'[', depth)
    }

    /// Goes through an open list as [`list`](Self::list) does; after a comma there must be `more`.
    pub(super) fn rest_of_list(&mut self, more: bool, mut item: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        if !more && self.eat(b']') {
            return Ok(());
        }
        loop {
            item(self)?;
            if self.eat(b']') {
                return Ok(());
            }
            self.expect(b',')?;
        }
    }

    /// Reads whole numbers of an open list, which is most of a picture, for as long as `take` takes them: how many
    /// there were, and whether the list has ended. What is not taken is left, with all that follows.
    #[inline]
    pub(super) fn small_numbers(&mut self, mut take: impl FnMut(u64) -> bool) -> (usize, bool) {
        let mut count = 0;
        loop {
            let start = self.at + usize::from(self.text.get(self.at) == Some(&b' '));
            let (value, length) = self.whole_number(start);
            let end = start + length;
            let closes = match self.text.get(end) {
                Some(b',') => false,
                Some(b']') => true,
                _ => return (count, false),
            };
            if length == 0 || !take(value) {
                return (count, false);
            }
            count += 1;
            self.at = end + 1;
            if closes {
                return (count, true);
            }
        }
    }

    /// The digits at `start` and how many they are: none for a number that begins with a zero and is none, or that
    /// does not fit.
    #[inline]
    fn whole_number(&self, start: usize) -> (u64, usize) {
        const DIGITS_MAX: usize = 19;
        let rest = self.text.get(start..).unwrap_or_default();
        let (mut value, mut length) = (0u64, 0);
        while let Some(digit) = rest.get(length).map(|byte| byte.wrapping_sub(b'0')).filter(|&digit| digit <= 9) {
            if length == DIGITS_MAX {
                return (0, 0);
            }
            value = value * 10 + u64::from(digit);
            length += 1;
        }
        if length > 1 && rest[0] == b'0' { (0, 0) } else { (value, length) }
    }

    /// Goes through an object as [`list`](Self::list) through a list; `member` gets the key.
    pub(super) fn object(
        &mut self,
        depth: usize,
        mut member: impl FnMut(&mut Self, String) -> Result<()>,
    ) -> Result<()> {
        self.enter(b'{', depth)?;
        if self.eat(b'}') {
            return Ok(());
        }
        loop {
            let key = self.string()?;
            self.expect(b':')?;
            member(self, key)?;
            if self.eat(b'}') {
                return Ok(());
            }
            self.expect(b',')?;
        }
    }

    fn enter(&mut self, open: u8, depth: usize) -> Result<()> {
        self.expect(open)?;
        if depth >= self.depth_max {
            return Err(self.wrong(&format!("it is nested deeper than {} levels", self.depth_max)));
        }
        Ok(())
    }

    /// A string, its escapes resolved.
    pub(super) fn string(&mut self) -> Result<String> {
        let start = self.at_string()?;
        let raw = &self.text[start..self.at];
        // The grammar of escapes, surrogates and control characters is the library's to know.
        serde_json::from_slice(raw).map_err(|error| {
            self.at = start;
            self.wrong(&format!("a string is not well formed ({error})"))
        })
    }

    /// Where the string that is next begins, and the position behind it.
    fn at_string(&mut self) -> Result<usize> {
        self.expect(b'"')?;
        let start = self.at - 1;
        loop {
            match self.text.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
                None => {
                    self.at = start;
                    return Err(self.wrong("a string does not end"));
                }
            }
        }
        self.at += 1;
        Ok(start)
    }

    /// The text of a number, or of `NaN`, `Infinity` or `-Infinity`.
    #[inline]
    pub(super) fn number(&mut self) -> Result<&'a str> {
        self.peek();
        let rest = &self.text[self.at..];
        let length = number_bytes(rest).filter(|&length| !rest.get(length).is_some_and(continues));
        let Some(length) = length else {
            return Err(self.wrong("a number is missing or malformed"));
        };
        self.at += length;
        // Every byte of a number is ASCII, so the other arm is never taken.
        Ok(str::from_utf8(&rest[..length]).unwrap_or_default())
    }

    /// `true`, `false` or `null`.
    pub(super) fn word(&mut self) -> Result<&'static str> {
        self.peek();
        let rest = &self.text[self.at..];
        let word = ["true", "false", "null"].into_iter().find(|word| rest.starts_with(word.as_bytes()));
        match word {
            Some(word) if !rest.get(word.len()).is_some_and(continues) => {
                self.at += word.len();
                Ok(word)
            }
            _ => Err(self.wrong("a value is missing")),
        }
    }

    /// Goes past any value; `depth` counts the lists and objects around it.
    pub(super) fn skip(&mut self, depth: usize) -> Result<()> {
        match self.kind()? {
            Kind::List => self.list(depth, |cursor| cursor.skip(depth + 1)),
            Kind::Object => self.object(depth, |cursor, _| cursor.skip(depth + 1)),
            Kind::String => self.string().map(drop),
            Kind::Number => self.number().map(drop),
            Kind::Word => self.word().map(drop),
        }
    }

    /// Checks that nothing follows.
    pub(super) fn end(&mut self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.wrong("more follows the JSON value")),
        }
    }

    /// What is wrong here, with the place and the text.
    pub(super) fn wrong(&self, what: &str) -> Error {
        let rest = &self.text[self.at.min(self.text.len())..];
        let shown = String::from_utf8_lossy(&rest[..rest.len().min(QUOTE_BYTES_MAX)]);
        let shown = if shown.is_empty() { "the end".into() } else { shown };
        Error::invalid(format!("the request is no JSON that is understood: {what} at byte {}, at {shown}", self.at))
    }
}

/// Whether `byte` would make a number or a word longer than it is.
fn continues(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'-' | b'_')
}

/// The length of the number that `text` begins with, by the grammar of RFC 8259 and the three words besides.
fn number_bytes(text: &[u8]) -> Option<usize> {
    for word in ["NaN", "Infinity", "-Infinity"] {
        if text.starts_with(word.as_bytes()) {
            return Some(word.len());
        }
    }
    let digits = |at: usize| text[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut at = usize::from(text.first() == Some(&b'-'));
    match digits(at) {
        0 => return None,
        count if count > 1 && text[at] == b'0' => return None,
        count => at += count,
    }
    if text.get(at) == Some(&b'.') {
        let count = digits(at + 1);
        at += 1 + count;
        if count == 0 {
            return None;
        }
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        at += 1;
        at += usize::from(matches!(text.get(at), Some(b'+' | b'-')));
        let count = digits(at);
        at += count;
        if count == 0 {
            return None;
        }
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole_number(text: &str) -> Option<&str> {
        let mut cursor = Cursor::new(text.as_bytes(), 8);
        let number = cursor.number().ok()?;
        cursor.end().ok().map(|()| number)
    }

    #[test]
    fn words_and_depth() {
        for (text, reads) in [
            ("NaN", true),
            ("-Infinity", true),
            ("Infinity", true),
            ("-NaN", false),
            ("Infinit", false),
            ("NaNs", false),
            ("+1", false),
            ("01", false),
            ("1.", false),
            (".5", false),
            ("0x1", false),
            ("-", false),
            ("", false),
        ] {
            assert_eq!(whole_number(text).is_some(), reads, "{text}");
        }
        for (text, reads) in [
            ("[[[1]]]", true),
            ("[[[[]]]]", false),
            (r#"{"a":[{}]}"#, true),
            (r#"{"a":[{"b":{}}]}"#, false),
            (r#"{"a":1,}"#, false),
            ("[1,]", false),
            ("[1 2]", false),
            ("[1][", false),
            (r#""\"#, false),
            (r#""\ud800""#, false),
            ("\"\n\"", false),
            ("nul", false),
            ("nulls", false),
            (" [true , null,\t\"é\\u00e9\"] ", true),
        ] {
            let mut cursor = Cursor::new(text.as_bytes(), 3);
            let read = cursor.skip(0).and_then(|()| cursor.end());
            assert_eq!(read.is_ok(), reads, "{text}: {read:?}");
        }
    }

    proptest! {
        #[test]
        fn the_grammar_of_numbers_is_the_librarys(text in "-?[0-9]{0,3}[.]?[0-9]{0,3}([eE][+-]?[0-9]{0,2})?x?") {
            let want = serde_json::from_str::<serde_json::Number>(&text).is_ok();
            prop_assert_eq!(whole_number(&text).is_some(), want, "{}", text);
        }

        #[test]
        fn whole_numbers_are_read_as_far_as_they_go(values: Vec<u64>, tail in "(-1|1[.]5|01|x|)") {
            let mut numbers: Vec<String> = values.iter().map(u64::to_string).collect();
            let short = numbers.iter().take_while(|number| number.len() <= 19).count();
            numbers.extend((!tail.is_empty()).then_some(tail));
            let text = format!("[{}]", numbers.join(", "));
            let mut cursor = Cursor::new(text.as_bytes(), 1);
            cursor.open_list(0).unwrap();
            let mut got = Vec::new();
            let (count, ended) = cursor.small_numbers(|value| {
                got.push(value);
                true
            });
            prop_assert_eq!((count, got.as_slice()), (short, &values[..short]));
            prop_assert_eq!(ended, short > 0 && short == numbers.len());
        }

        #[test]
        fn what_the_library_takes_is_taken(text in r#"[\[\]{}:,"a\\ntrueflsu0-9. ]{0,24}"#) {
            let mut cursor = Cursor::new(text.as_bytes(), 64);
            let got = cursor.skip(0).and_then(|()| cursor.end()).is_ok();
            prop_assert_eq!(got, serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{}", text);
        }

        #[test]
        fn bytes_are_never_too_strange(text: Vec<u8>) {
            let mut cursor = Cursor::new(&text, 16);
            let _ = cursor.skip(0);
            let _ = cursor.small_numbers(|_| true);
            let _ = cursor.end();
        }
    }
}
