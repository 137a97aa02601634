//! `config.json`: which architecture with which sizes, or why it cannot be packed.

use std::collections::BTreeMap;
use std::path::Path;

use engine::{Error, Result};
use serde_json::Value;

use super::json::{self, Object};
use super::sentence::{self, Sentence};
use crate::task::Problem;

/// More layers than any published encoder has; a configuration that says more builds no graph.
const LAYERS_MAX: usize = 1024;
/// Labels are made up by number when they are not named, so their count is bounded.
const CLASSES_MAX: usize = 1 << 16;

/// Everything that decides the graph.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) family: Family,
    pub(super) head: Head,
    /// Token ids are below this.
    pub(super) vocabulary: usize,
    /// Size of a token's vector between layers.
    pub(super) width: usize,
    /// Size of a token's vector in the table; other than `width` in ELECTRA alone.
    pub(super) embedding_width: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    /// Size between the two matrices of the feed-forward part.
    pub(super) inner: usize,
    /// Rows of the table of positions.
    pub(super) positions: usize,
    /// Rows of the table of token types.
    pub(super) token_types: usize,
    pub(super) norm_epsilon: f32,
    pub(super) activation: Activation,
    /// The padding's token id, which rows are filled up with, and from which RoBERTa and MPNet count positions.
    pub(super) pad: i64,
    /// Outputs of a classification head.
    pub(super) classes: usize,
    /// Class id to name, for a head that classifies.
    pub(super) labels: BTreeMap<u32, String>,
    pub(super) problem: Problem,
    /// Whether the first numbers of a sentence's vector are a good vector too, as whoever trained it says.
    pub(super) shortens: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Bert,
    /// RoBERTa and XLM-RoBERTa, which differ in vocabulary alone.
    Roberta,
    DistilBert,
    Mpnet,
    Electra,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// The last layer's vectors.
    Base,
    QuestionAnswering,
    SequenceClassification,
    TokenClassification,
    MaskedLm,
    /// ELECTRA's own: was this token replaced?
    Discriminator,
    /// One vector an item.
    Sentence(Sentence),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activation {
    /// By the error function.
    Gelu,
    /// By the hyperbolic tangent.
    GeluTanh,
    Relu,
    Tanh,
}

impl Family {
    /// What checkpoints with a head put before the names of the encoder's tensors.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Bert => "bert.",
            Self::Roberta => "roberta.",
            Self::DistilBert => "distilbert.",
            Self::Mpnet => "mpnet.",
            Self::Electra => "electra.",
        }
    }

    /// The padding's token id when the configuration does not say.
    fn pad(self) -> i64 {
        match self {
            Self::Bert | Self::DistilBert | Self::Electra => 0,
            Self::Roberta | Self::Mpnet => 1,
        }
    }

    /// Whether clients say which of two texts a token belongs to.
    pub(super) fn takes_token_types(self) -> bool {
        matches!(self, Self::Bert | Self::Electra)
    }
}

impl Config {
    /// Reads the configuration of `folder`.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) or [`Unsupported`](engine::ErrorKind::Unsupported), naming the
    /// file and the field.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let value = json::read(&path)?;
        let sentence = sentence::read(folder)?;
        Self::of(&value, sentence).map_err(|error| error.context(path.display()))
    }

    /// The configuration that `value` is, with the modules of a sentence-transformers folder where there are some.
    pub(super) fn of(value: &Value, sentence: Option<Sentence>) -> Result<Self> {
        let object = Object::of(value)?;
        let family = family(object.text("model_type")?)?;
        refuse_what_changes_the_graph(&object)?;
        let head = sentence.map_or_else(|| head(&object), |sentence| Ok(Head::Sentence(sentence)))?;
        let distil = family == Family::DistilBert;
        let named = |common: &'static str, distilled: &'static str| if distil { distilled } else { common };
        let width = object.size(named("hidden_size", "dim"))?;
        let (classes, labels) = labels(&object, head)?;
        let config = Self {
            family,
            head,
            vocabulary: object.size("vocab_size")?,
            width,
            embedding_width: if family == Family::Electra { object.size("embedding_size")? } else { width },
            layers: object.size(named("num_hidden_layers", "n_layers"))?,
            heads: object.size(named("num_attention_heads", "n_heads"))?,
            inner: object.size(named("intermediate_size", "hidden_dim"))?,
            positions: object.size("max_position_embeddings")?,
            token_types: object.size_or("type_vocab_size", 2)?,
            // The reference's DistilBERT does not ask its configuration.
            norm_epsilon: if distil { 1e-12 } else { object.number_or("layer_norm_eps", 1e-12)? as f32 },
            activation: activation(object.text(named("hidden_act", "activation"))?)?,
            // The reference's MPNet does not ask its configuration.
            pad: if family == Family::Mpnet { 1 } else { object.index_or("pad_token_id", family.pad())? },
            classes,
            labels,
            problem: problem(&object, classes)?,
            shortens: object.flag("is_matryoshka")? || object.get("matryoshka_dimensions").is_some(),
        };
        config.check(&object)?;
        Ok(config)
    }

    fn check(&self, object: &Object<'_>) -> Result<()> {
        if !self.width.is_multiple_of(self.heads) {
            return Err(Error::invalid(format!(
                "{} attention heads do not divide a width of {}",
                self.heads, self.width
            )));
        }
        if self.layers > LAYERS_MAX {
            return Err(Error::invalid(format!(
                "{} layers are more than the {LAYERS_MAX} that are taken",
                self.layers
            )));
        }
        if self.head == Head::QuestionAnswering && self.classes != 2 {
            return Err(Error::invalid(format!("question answering has 2 outputs, not {}", self.classes)));
        }
        if self.head == Head::Discriminator && self.family != Family::Electra {
            return Err(Error::unsupported(
                "a pre-training head answers two things at once; name the head to serve in 'architectures', as in \
                 [\"BertForMaskedLM\"]",
            ));
        }
        // The reference computes with 32 whatever the configuration says.
        if self.family == Family::Mpnet && object.size_or("relative_attention_num_buckets", 32)? != 32 {
            return Err(Error::unsupported("'relative_attention_num_buckets' is other than 32"));
        }
        Ok(())
    }
}

fn family(model_type: Option<&str>) -> Result<Family> {
    match model_type {
        Some("bert") => Ok(Family::Bert),
        Some("roberta" | "xlm-roberta") => Ok(Family::Roberta),
        Some("distilbert") => Ok(Family::DistilBert),
        Some("mpnet") => Ok(Family::Mpnet),
        Some("electra") => Ok(Family::Electra),
        Some(other) => Err(Error::unsupported(format!(
            "'model_type' is '{other}'; folders of bert, roberta, xlm-roberta, distilbert, mpnet and electra can be \
             packed, others as ONNX files"
        ))),
        None => Err(Error::invalid("'model_type' is missing")),
    }
}

/// Settings under which the graph would be another one than is generated here.
fn refuse_what_changes_the_graph(object: &Object<'_>) -> Result<()> {
    if let Some(kind) = object.text("position_embedding_type")?.filter(|&kind| kind != "absolute") {
        return Err(Error::unsupported(format!("'position_embedding_type' is '{kind}', and only 'absolute' is known")));
    }
    for flag in ["is_decoder", "is_encoder_decoder", "add_cross_attention"] {
        if object.flag(flag)? {
            return Err(Error::unsupported(format!("'{flag}' is true, and only encoders can be packed")));
        }
    }
    for (field, reason) in [
        ("quantization_config", "the weights are quantised; give the original checkpoint"),
        ("adapters", "adapters must be merged into the weights first"),
        ("auto_map", "the model brings code of its own, and none is run"),
        ("pruned_heads", "pruned heads are not known"),
    ] {
        let empty = |value: &Value| value.as_object().is_some_and(serde_json::Map::is_empty);
        if object.get(field).is_some_and(|value| !empty(value)) {
            return Err(Error::unsupported(format!("'{field}' is set: {reason}")));
        }
    }
    Ok(())
}

fn head(object: &Object<'_>) -> Result<Head> {
    let architectures = object.get("architectures").and_then(Value::as_array);
    let name = architectures
        .and_then(|names| names.first())
        .and_then(Value::as_str)
        .ok_or_else(|| Error::invalid("'architectures' must name the head, as in [\"BertForQuestionAnswering\"]"))?;
    // The head follows the family's name, which 'model_type' has told already.
    let heads = [
        ("ForQuestionAnswering", Head::QuestionAnswering),
        ("ForSequenceClassification", Head::SequenceClassification),
        ("ForTokenClassification", Head::TokenClassification),
        ("ForMaskedLM", Head::MaskedLm),
        ("ForPreTraining", Head::Discriminator),
        ("Model", Head::Base),
    ];
    heads.into_iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, head)| head).ok_or_else(|| {
        Error::unsupported(format!(
            "the architecture '{name}' has a head that is not known; known are ...ForQuestionAnswering, \
             ...ForSequenceClassification, ...ForTokenClassification, ...ForMaskedLM, ElectraForPreTraining and ...Model"
        ))
    })
}

fn activation(name: Option<&str>) -> Result<Activation> {
    match name {
        None | Some("gelu" | "gelu_python") => Ok(Activation::Gelu),
        Some("gelu_new" | "gelu_fast" | "gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
        Some("relu") => Ok(Activation::Relu),
        Some("tanh") => Ok(Activation::Tanh),
        Some(other) => Err(Error::unsupported(format!(
            "the activation '{other}' is not known; known are gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu and tanh"
        ))),
    }
}

/// How many classes there are and what they are called; a head that does not classify has no names.
fn labels(object: &Object<'_>, head: Head) -> Result<(usize, BTreeMap<u32, String>)> {
    let named = named_labels(object)?;
    let classes = named.as_ref().map_or_else(|| object.size_or("num_labels", 2), |named| Ok(named.len()))?;
    if classes == 0 || classes > CLASSES_MAX {
        return Err(Error::invalid(format!("{classes} classes are not between 1 and {CLASSES_MAX}")));
    }
    // What the reference calls classes that nobody named.
    let unnamed = || (0u32..).take(classes).map(|id| (id, format!("LABEL_{id}"))).collect();
    let labels: BTreeMap<u32, String> = named.unwrap_or_else(unnamed);
    if labels.keys().any(|&id| id as usize >= classes) {
        return Err(Error::invalid(format!("'id2label' names a class of {classes} or above")));
    }
    let classifies = matches!(head, Head::SequenceClassification | Head::TokenClassification);
    Ok((classes, if classifies { labels } else { BTreeMap::new() }))
}

/// Class id to name, where somebody named them.
pub(super) fn named_labels(object: &Object<'_>) -> Result<Option<BTreeMap<u32, String>>> {
    object.get("id2label").map(Object::of).transpose()?;
    let Some(names) = object.get("id2label").and_then(Value::as_object) else { return Ok(None) };
    let named = |(id, name): (&String, &Value)| {
        let id = id.parse().map_err(|_| Error::invalid(format!("'id2label' has '{id}', which is no class id")))?;
        let name = name.as_str().ok_or_else(|| Error::invalid("'id2label' must hold texts"))?;
        Ok((id, name.to_owned()))
    };
    names.iter().map(named).collect::<Result<_>>().map(Some)
}

fn problem(object: &Object<'_>, classes: usize) -> Result<Problem> {
    Ok(problem_type(object)?.unwrap_or_else(|| Problem::usual(classes)))
}

/// What the scores mean, where somebody says so.
pub(super) fn problem_type(object: &Object<'_>) -> Result<Option<Problem>> {
    match object.text("problem_type")? {
        None => Ok(None),
        Some("regression") => Ok(Some(Problem::Regression)),
        Some("single_label_classification") => Ok(Some(Problem::SingleLabel)),
        Some("multi_label_classification") => Ok(Some(Problem::MultiLabel)),
        Some(other) => Err(Error::unsupported(format!("'problem_type' is '{other}', which is not known"))),
    }
}
