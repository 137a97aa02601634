//! The JSON part of an inference request, as it is on the wire. Nothing of it is interpreted here; `data` stays text.

use std::fmt;
use std::marker::PhantomData;

use engine::Error;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// More dimensions than any runtime takes.
const DIMENSIONS_MAX: usize = 64;

/// An inference request's JSON object. What the protocol does not know is passed over.
#[derive(Debug, Default)]
pub(super) struct Document<'a> {
    pub(super) id: Option<String>,
    pub(super) parameters: Parameters<'a>,
    pub(super) inputs: Vec<Input<'a>>,
    pub(super) outputs: Vec<Output<'a>>,
}

/// The request's own parameters. Integers stay text, so that a wrong one is refused by name.
#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub(super) struct Parameters<'a> {
    pub(super) binary_data_output: bool,
    pub(super) timeout: Option<&'a RawValue>,
    pub(super) sequence_id: Option<&'a RawValue>,
}

/// One input. What is missing is found by whoever can name the input.
#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub(super) struct Input<'a> {
    pub(super) name: Option<String>,
    pub(super) datatype: Option<String>,
    pub(super) shape: Option<Shape>,
    pub(super) parameters: Option<InputParameters<'a>>,
    pub(super) data: Option<&'a RawValue>,
}

/// An input's parameters.
#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub(super) struct InputParameters<'a> {
    pub(super) binary_data_size: Option<&'a RawValue>,
    pub(super) shared_memory_region: Option<IgnoredAny>,
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
    pub(super) shared_memory_region: Option<IgnoredAny>,
}

/// Dimensions, not yet checked.
#[derive(Debug)]
pub(super) struct Shape(pub(super) Vec<i64>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        UpTo::new(DIMENSIONS_MAX, "dimensions").deserialize(deserializer).map(Self)
    }
}

/// Reads `text`, which must be one JSON object and nothing after it.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), with the line and column of what is wrong.
pub(super) fn parse(text: &str, tensors_max: usize) -> engine::Result<Document<'_>> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let document = DocumentOf { tensors_max }.deserialize(&mut reader);
    document.and_then(|document| reader.end().map(|()| document)).map_err(|error| {
        let hint = if error.is_syntax() && (text.contains("NaN") || text.contains("Infinity")) {
            "; JSON has no NaN and no Infinity: send such a tensor as binary data"
        } else {
            ""
        };
        Error::invalid(format!("the request's JSON is not what it must be: {error}{hint}"))
    })
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
