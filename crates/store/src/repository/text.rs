//! Configurations of other servers as messages: protobuf's text form, and JSON as the repository API carries it.

use std::sync::LazyLock;

use engine::{Error, Result};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use proto::tensorflow::serving::ModelServerConfig;

/// The largest configuration that is read, in bytes; the largest in use are a thousandth of it.
const BYTES_MAX: usize = 16 << 20;

/// Every message that there is, by its full name; decoded once.
static MESSAGES: LazyLock<std::result::Result<DescriptorPool, String>> =
    LazyLock::new(|| DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).map_err(|error| error.to_string()));

/// The `ModelConfig` of a `config.pbtxt`.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the field or the word that is wrong.
pub(super) fn model_config(text: &str) -> Result<proto::inference::ModelConfig> {
    from_text("inference.ModelConfig", text)
}

/// The `ModelServerConfig` of a `models.config`.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the field or the word that is wrong.
pub(crate) fn server_config(text: &str) -> Result<ModelServerConfig> {
    from_text("tensorflow.serving.ModelServerConfig", text)
}

/// The `ModelConfig` that a client gave as JSON, with the fields' names as they are or in camel case.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the field that is unknown or wrong.
pub(super) fn model_config_json(json: &str) -> Result<proto::inference::ModelConfig> {
    limited(json)?;
    let mut from = serde_json::Deserializer::from_str(json);
    let wrong = |why: &dyn std::fmt::Display| Error::invalid(format!("the configuration cannot be read: {why}"));
    let message =
        DynamicMessage::deserialize(descriptor("inference.ModelConfig")?, &mut from).map_err(|e| wrong(&e))?;
    from.end().map_err(|error| wrong(&error))?;
    message.transcode_to().map_err(|error| wrong(&error))
}

fn from_text<T: prost::Message + Default>(name: &str, text: &str) -> Result<T> {
    limited(text)?;
    let message = DynamicMessage::parse_text_format(descriptor(name)?, &with_colons(text));
    let message = message.map_err(|error| Error::invalid(format!("the configuration cannot be read: {error}")))?;
    message.transcode_to().map_err(|error| Error::internal(format!("a configuration lost its form: {error}")))
}

/// `text` with a colon before each list of messages. The form lets it be left out, as nearly every `config.pbtxt` does
/// (`input [ { ... } ]`), and the parser insists on it.
fn with_colons(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    // The last character that is neither space nor comment, and what ends the string or comment that we are in.
    let (mut last, mut inside) = (' ', None);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match inside {
            Some(end) => {
                if character == end {
                    inside = None;
                } else if character == '\\' && end != '\n' {
                    out.push(character);
                    out.extend(characters.next());
                    continue;
                }
            }
            None => match character {
                '#' => inside = Some('\n'),
                '"' | '\'' => (inside, last) = (Some(character), character),
                '[' if last == '_' || last.is_ascii_alphanumeric() => {
                    out.push(':');
                    last = character;
                }
                _ if character.is_ascii_whitespace() => {}
                _ => last = character,
            },
        }
        out.push(character);
    }
    out
}

fn limited(text: &str) -> Result<()> {
    if text.len() > BYTES_MAX {
        return Err(Error::invalid(format!(
            "the configuration has {} bytes; at most {BYTES_MAX} are read",
            text.len()
        )));
    }
    Ok(())
}

fn descriptor(name: &str) -> Result<MessageDescriptor> {
    let messages = MESSAGES.as_ref().map_err(|why| Error::internal(format!("the messages cannot be read: {why}")))?;
    messages.get_message_by_name(name).ok_or_else(|| Error::internal(format!("there is no message {name}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_configuration_in_all_its_forms() {
        let want = model_config("max_batch_size: 8").unwrap();
        assert_eq!(want.max_batch_size, 8);
        for text in ["max_batch_size: 8 # a comment", "max_batch_size:8;", "\n\nmax_batch_size: 0x8,\n"] {
            assert_eq!(model_config(text).unwrap(), want, "{text}");
        }
        for json in [r#"{"max_batch_size": 8}"#, r#"{"maxBatchSize": 8}"#] {
            assert_eq!(model_config_json(json).unwrap(), want, "{json}");
        }
        let text = r#"input [ { name: "x" data_type: TYPE_FP32 dims: [ -1, 3 ] }, { name: "y" dims: 1 dims: 2 } ]
                      instance_group { kind: KIND_CPU count: 2 } parameters: { key: "k" value: { string_value: "v" } }
                      dynamic_batching { }"#;
        let config = model_config(text).unwrap();
        assert_eq!((config.input[0].dims.as_slice(), config.input[1].dims.as_slice()), (&[-1, 3][..], &[1, 2][..]));
        assert_eq!(config.parameters["k"].string_value, "v");
        assert!(config.scheduling_choice.is_some());
    }

    #[test]
    fn only_a_list_after_a_name_gets_a_colon() {
        for (text, want) in [
            ("a [1]", "a :[1]"),
            ("a: [1]", "a: [1]"),
            ("a # b\n [1]", "a # b\n :[1]"),
            (r#"a: "b\" [" c ["#, r#"a: "b\" [" c :["#),
            ("a: 'b [' [", "a: 'b [' ["),
            ("# a [\nb_2[", "# a [\nb_2:["),
            ("\"\\", "\"\\"),
        ] {
            assert_eq!(with_colons(text), want, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, says) in [
            ("name: \"m\"\nmax_batch: 8", "max_batch"),
            ("max_batch_size: \"8\"", "\"8\""),
            ("input [", "end of input"),
            ("max_batch_size: 99999999999", "99999999999"),
        ] {
            let error = model_config(text).unwrap_err().message;
            assert!(error.contains(says), "{text}: {error}");
        }
        for (json, says) in [("{\"max_batch\": 8}", "max_batch"), ("[]", ""), ("{} {}", ""), ("{", "")] {
            let error = model_config_json(json).unwrap_err().message;
            assert!(error.contains(says), "{json}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "[a-z_]{0,12}[:{\\[ \"0-9\\\\x'#}\\],;-]{0,20}.{0,20}") {
            let _ = model_config(&text);
            let _ = model_config_json(&text);
        }
    }
}
