//! The JSON part of an inference request, as it is on the wire. Nothing of it is interpreted here; `data` stays text, and
//! where it is long it is not even parsed.

use std::fmt;
use std::marker::PhantomData;

use engine::Error;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::thin::{Span, Thinned, thin};

/// More dimensions than any runtime takes.
const DIMENSIONS_MAX: usize = 64;
/// More options than any task has.
const OPTIONS_MAX: usize = 64;

/// An inference request's JSON object. What the protocol does not know is passed over.
#[derive(Debug, Default)]
pub(super) struct Document<'a> {
    pub(super) id: Option<String>,
    pub(super) parameters: Parameters<'a>,
    pub(super) inputs: Vec<Input<'a>>,
    pub(super) outputs: Vec<Output<'a>>,
}

/// The request's own parameters. Integers stay text, so that a wrong one is refused by name.
#[derive(Debug, Default)]
pub(super) struct Parameters<'a> {
    pub(super) binary_data_output: bool,
    pub(super) priority: Option<&'a RawValue>,
    pub(super) timeout: Option<&'a RawValue>,
    pub(super) sequence_id: Option<&'a RawValue>,
    pub(super) sequence_start: Option<&'a RawValue>,
    pub(super) sequence_end: Option<&'a RawValue>,
    /// What the protocol does not know, as the options of a task.
    pub(super) others: Vec<(String, &'a RawValue)>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Parameters<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ParametersOf)
    }
}

struct ParametersOf;

impl<'de> Visitor<'de> for ParametersOf {
    type Value = Parameters<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of parameters")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut read, mut binary) = (Parameters::default(), None);
        while let Some(name) = map.next_key::<String>()? {
            let known = match name.as_str() {
                "binary_data_output" => {
                    if binary.replace(map.next_value::<bool>()?).is_some() {
                        return Err(A::Error::custom("'binary_data_output' is given twice"));
                    }
                    continue;
                }
                "priority" => &mut read.priority,
                "timeout" => &mut read.timeout,
                "sequence_id" => &mut read.sequence_id,
                "sequence_start" => &mut read.sequence_start,
                "sequence_end" => &mut read.sequence_end,
                _ if read.others.len() == OPTIONS_MAX => {
                    return Err(A::Error::custom(format_args!("more than {OPTIONS_MAX} parameters")));
                }
                _ => {
                    read.others.push((name, map.next_value()?));
                    continue;
                }
            };
            let value = map.next_value::<Option<&'de RawValue>>()?;
            if known.is_some() {
                return Err(A::Error::custom(format_args!("'{name}' is given twice")));
            }
            *known = value;
        }
        read.binary_data_output = binary.unwrap_or_default();
        Ok(read)
    }
}

/// One input. What is missing is found by whoever can name the input.
#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub(super) struct Input<'a> {
    pub(super) name: Option<String>,
    pub(super) datatype: Option<String>,
    pub(super) shape: Option<Shape>,
    pub(super) parameters: Option<InputParameters<'a>>,
    pub(super) data: Option<Data<'a>>,
}

/// The text of an input's elements: a JSON value, or what looks like a list of numbers and may be none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Data<'a>(pub(super) &'a str);

impl<'de: 'a, 'a> Deserialize<'de> for Data<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(deserializer).map(|raw| Self(raw.get()))
    }
}

/// An input's parameters.
#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub(super) struct InputParameters<'a> {
    pub(super) binary_data_size: Option<&'a RawValue>,
    pub(super) shared_memory_region: Option<String>,
    pub(super) shared_memory_offset: Option<&'a RawValue>,
    pub(super) shared_memory_byte_size: Option<&'a RawValue>,
}

/// An output that is asked for.
#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub(super) struct Output<'a> {
    pub(super) name: Option<String>,
    pub(super) parameters: Option<OutputParameters<'a>>,
}

/// An output's parameters.
#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub(super) struct OutputParameters<'a> {
    pub(super) binary_data: Option<bool>,
    pub(super) classification: Option<&'a RawValue>,
    pub(super) shared_memory_region: Option<String>,
    pub(super) shared_memory_offset: Option<&'a RawValue>,
    pub(super) shared_memory_byte_size: Option<&'a RawValue>,
}

/// Dimensions, not yet checked.
#[derive(Debug)]
pub(super) struct Shape(pub(super) Vec<i64>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        UpTo::new(DIMENSIONS_MAX, "dimensions").deserialize(deserializer).map(Self)
    }
}

/// Where a text is rewritten before it is parsed.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    thinned: String,
    words: String,
}

/// Reads `text`, which must be one JSON object and nothing after it; `scratch` is written to where the text has to be
/// rewritten for it.
///
/// Strict JSON has no `NaN` and no `Infinity`, but Triton and its clients read and write both words for floats. They
/// are rare, so they are only looked for where strict JSON fails.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), with the line and column of what is wrong.
pub(super) fn parse<'a>(text: &'a str, scratch: &'a mut Scratch, tensors_max: usize) -> engine::Result<Document<'a>> {
    if let Some(Thinned { text: thinned, spans }) = thin(text) {
        scratch.thinned = thinned;
        if let Some(document) = with_spans(&scratch.thinned, spans, tensors_max) {
            return Ok(document);
        }
    }
    match strict(text, tensors_max) {
        Err(error) if error.is_syntax() && WORDS.iter().any(|(word, _, _)| text.contains(word)) => {
            scratch.words = words_as_numbers(text);
            strict(&scratch.words, tensors_max)
        }
        read => read,
    }
    .map_err(|error| Error::invalid(format!("the request's JSON is not what it must be: {error}")))
}

/// The document in a text out of which `spans` were taken, if it is one and each of them is the data of an input. Whatever
/// else it is, the whole text says better.
fn with_spans<'a>(thinned: &'a str, spans: Vec<Span<'a>>, tensors_max: usize) -> Option<Document<'a>> {
    let mut document = strict(thinned, tensors_max).ok()?;
    let mut spans = spans.into_iter().peekable();
    // Both are in the order of the text.
    for data in document.inputs.iter_mut().filter_map(|input| input.data.as_mut()) {
        let at = data.0.as_ptr().addr() - thinned.as_ptr().addr();
        if let Some(span) = spans.next_if(|span| span.at == at) {
            *data = Data(span.text);
        }
    }
    spans.next().is_none().then_some(document)
}

fn strict(text: &str, tensors_max: usize) -> serde_json::Result<Document<'_>> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let document = DocumentOf { tensors_max }.deserialize(&mut reader)?;
    reader.end().map(|()| document)
}

/// The words for what is no finite number, the numbers that stand for them in rewritten text, and what they mean. The
/// numbers are too large for any datatype, so no other request can mean anything by them.
const WORDS: [(&str, &str, f32); 3] =
    [("NaN", "8e999", f32::NAN), ("-Infinity", "-9e999", f32::NEG_INFINITY), ("Infinity", "9e999", f32::INFINITY)];

/// The word that `number` stands for, and what it means.
pub(super) fn word(number: &str) -> Option<(&'static str, f32)> {
    WORDS.iter().find(|(_, known, _)| *known == number).map(|&(word, _, value)| (word, value))
}

/// `text` with the words outside its strings replaced.
fn words_as_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 2);
    let (mut rest, mut in_string) = (text, false);
    while let Some(at) = rest.find(['"', '\\', 'N', '-', 'I']) {
        let (before, here) = rest.split_at(at);
        out.push_str(before);
        let word = WORDS.iter().find(|(word, _, _)| !in_string && here.starts_with(word));
        let (taken, written) = match word {
            Some(&(word, number, _)) => (word.len(), number),
            // What is escaped is no end of a string; it may be longer than a byte.
            None if here.starts_with('\\') => {
                let end = here.char_indices().nth(2).map_or(here.len(), |(end, _)| end);
                (end, &here[..end])
            }
            None => {
                in_string ^= here.starts_with('"');
                (1, &here[..1])
            }
        };
        out.push_str(written);
        rest = &here[taken..];
    }
    out + rest
}

/// The whole number of at least 0 in `raw`, when there is one.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the parameter and what it is a number of.
pub(super) fn whole(raw: Option<&RawValue>, name: &str, of: &str) -> engine::Result<Option<u64>> {
    let number = |raw: &RawValue| {
        let text = raw.get();
        let shown = &text[..text.floor_char_boundary(40)];
        text.parse()
            .map_err(|_| Error::invalid(format!("parameter '{name}' is {shown}, which is not a whole number of {of}")))
    };
    raw.map(number).transpose()
}

struct DocumentOf {
    tensors_max: usize,
}

impl<'de> DeserializeSeed<'de> for DocumentOf {
    type Value = Document<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for DocumentOf {
    type Value = Document<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an inference request object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let tensors = self.tensors_max;
        let (mut id, mut parameters, mut inputs, mut outputs) = (None, None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            let again = match key.as_str() {
                "id" => id.replace(map.next_value::<Option<String>>()?).is_some(),
                "parameters" => parameters.replace(map.next_value::<Option<Parameters<'de>>>()?).is_some(),
                "inputs" => inputs.replace(map.next_value_seed(UpTo::new(tensors, "inputs"))?).is_some(),
                "outputs" => outputs.replace(map.next_value_seed(UpTo::new(tensors, "outputs"))?).is_some(),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    false
                }
            };
            if again {
                return Err(A::Error::custom(format_args!("'{key}' is given twice")));
            }
        }
        Ok(Document {
            id: id.flatten(),
            parameters: parameters.flatten().unwrap_or_default(),
            inputs: inputs.unwrap_or_default(),
            outputs: outputs.unwrap_or_default(),
        })
    }
}

/// A list that is refused when it grows past `max`: a few bytes of JSON would otherwise make a large thing each.
struct UpTo<T> {
    max: usize,
    what: &'static str,
    item: PhantomData<T>,
}

impl<T> UpTo<T> {
    fn new(max: usize, what: &'static str) -> Self {
        Self { max, what, item: PhantomData }
    }
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for UpTo<T> {
    type Value = Vec<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for UpTo<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of {}", self.what)
    }

    /// `null` stands for an empty list, as some clients write one.
    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            if items.len() == self.max {
                return Err(A::Error::custom(format_args!("more than {} {}", self.max, self.what)));
            }
            items.push(item);
        }
        Ok(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_only_words_outside_strings() {
        for (text, want) in [
            ("[NaN,Infinity,-Infinity,-1]", "[8e999,9e999,-9e999,-1]"),
            (r#"{"id":"NaN","a\\":NaN}"#, r#"{"id":"NaN","a\\":8e999}"#),
            (r#"["\"NaN","\\",NaN]"#, r#"["\"NaN","\\",8e999]"#),
            ("[Nan, inf, \"é\", NaN]", "[Nan, inf, \"é\", 8e999]"),
            ("\"NaN", "\"NaN"),
            ("\"\\", "\"\\"),
            ("\\é NaN", "\\é 8e999"),
        ] {
            assert_eq!(words_as_numbers(text), want, "{text}");
        }
    }
}
