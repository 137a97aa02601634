//! What is known of a task beside its body, as it travels with the message.
//!
//! The service counts how often a message was received and nothing else. What it does not know, how often the task failed
//! and which receives were nobody's fault, goes along in an attribute of the message that takes the old one's place.

use aws_sdk_sqs::types::MessageAttributeValue;
use engine::{Error, Result};
use serde::{Deserialize, Serialize};

use super::service::{Attributes, Letter};

/// The attribute with a [`History`].
const HISTORY: &str = "packhorse.history";
/// The attribute of a dead letter that says why it is one.
pub(super) const REASON: &str = "packhorse.reason";
/// The most attributes that a message may have.
const ATTRIBUTES_MAX: usize = 10;
/// A reason is for a person; the rest of an error's length is in the log.
const REASON_CHARS_MAX: usize = 1_000;

/// How a task fared in earlier messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct History {
    /// How often it was given back as failed.
    pub(super) failures: u32,
    /// How often it was received, except when it was given back unharmed.
    pub(super) receives: u32,
    /// Why it was given back last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
}

impl History {
    /// The one that came with `letter`; what anybody else wrote there is none.
    pub(super) fn of(letter: &Letter) -> Self {
        let text = letter.attributes.get(HISTORY).and_then(MessageAttributeValue::string_value);
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// The attributes of the message that takes the place of the one with `attributes`.
    pub(super) fn attributes(&self, attributes: &Attributes) -> Result<Attributes> {
        let text = serde_json::to_string(self).map_err(|e| Error::internal(format!("a history is no JSON: {e}")))?;
        with(attributes, HISTORY, &text)
    }
}

/// The attributes of a message that is given up: why, for people and for whoever lists dead letters.
pub(super) fn given_up(attributes: &Attributes, reason: &str) -> Result<Attributes> {
    with(&unmarked(attributes), REASON, &sendable(reason))
}

/// `attributes` without ours: those of a message that starts anew.
pub(super) fn unmarked(attributes: &Attributes) -> Attributes {
    let foreign = attributes.iter().filter(|(name, _)| !matches!(name.as_str(), HISTORY | REASON));
    foreign.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn with(attributes: &Attributes, name: &str, text: &str) -> Result<Attributes> {
    let value = MessageAttributeValue::builder().data_type("String").string_value(text).build();
    let value = value.map_err(|e| Error::internal(format!("attribute {name}: {e}")))?;
    let mut all = attributes.clone();
    // Somebody else's go before ours do: without them a task is still the same task.
    if all.len() >= ATTRIBUTES_MAX && !all.contains_key(name) {
        all.clear();
    }
    all.insert(name.to_owned(), value);
    Ok(all)
}

/// As much of `text` as a message may carry: not empty, not too long, and only characters that XML has.
pub(super) fn sendable(text: &str) -> String {
    let text: String = text.chars().take(REASON_CHARS_MAX).map(xml_character).collect();
    if text.is_empty() { "no reason was given".to_owned() } else { text }
}

/// `c`, or what stands for it where a message may not carry it.
pub(super) fn xml_character(c: char) -> char {
    match c {
        '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'.. => c,
        _ => '\u{fffd}',
    }
}

/// Bytes that `attributes` take of a message.
pub(super) fn bytes(attributes: &Attributes) -> usize {
    let of = |(name, value): (&String, &MessageAttributeValue)| {
        let value_bytes =
            value.string_value().map_or(0, str::len) + value.binary_value().map_or(0, |b| b.as_ref().len());
        name.len() + value.data_type().len() + value_bytes
    };
    attributes.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(attributes: Attributes) -> Letter {
        let text = String::new;
        Letter { id: text(), handle: text(), body: text(), receives: 1, group: None, attributes }
    }

    #[test]
    fn a_history_travels_and_what_others_wrote_is_kept() {
        let foreign = with(&Attributes::new(), "trace", "t-1").unwrap();
        let history = History { failures: 2, receives: 5, reason: Some("why".to_owned()) };
        let marked = history.attributes(&foreign).unwrap();
        assert_eq!(History::of(&letter(marked.clone())), history);
        assert_eq!(unmarked(&marked), foreign);
        let dead = given_up(&marked, "over").unwrap();
        assert_eq!((dead.len(), dead[REASON].string_value()), (2, Some("over")));
        let scribbled = with(&Attributes::new(), HISTORY, "{}{").unwrap();
        assert_eq!(History::of(&letter(scribbled)), History::default());
        let many = (0..ATTRIBUTES_MAX).fold(Attributes::new(), |all, n| with(&all, &format!("a{n}"), "x").unwrap());
        assert_eq!(history.attributes(&many).unwrap().len(), 1);
    }

    #[test]
    fn reasons_are_cut_to_what_a_message_carries() {
        assert_eq!(sendable("a\u{0}b\u{ffff}\n"), "a\u{fffd}b\u{fffd}\n");
        assert_eq!(sendable(&"é".repeat(5_000)).chars().count(), REASON_CHARS_MAX);
        assert!(!sendable("").is_empty());
    }
}
