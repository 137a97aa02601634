//! What the files say that transformers keeps beside a model: `config.json`, `preprocessor_config.json` and, by being
//! there, `tokenizer.json` and sentence-transformers' `modules.json`.

use std::collections::BTreeMap;
use std::path::Path;

use engine::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use store::picture::{Channels, Fit, Resample};
use store::task::{Scores, TaskChoice};

use super::Said;
use super::wish::{InputWish, Wish};

/// A file larger than this is none of these.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What the architectures' names end in, and what such a model is for.
const OF_PICTURES: [(&str, TaskChoice); 3] = [
    ("ForObjectDetection", TaskChoice::ObjectDetection),
    ("ForImageClassification", TaskChoice::ImageClassification),
    ("VisionModelWithProjection", TaskChoice::ImageEmbedding),
];
const OF_TEXTS: [(&str, TaskChoice); 4] = [
    ("ForQuestionAnswering", TaskChoice::QuestionAnswering),
    ("ForSequenceClassification", TaskChoice::TextClassification),
    ("ForTokenClassification", TaskChoice::TokenClassification),
    ("ForMaskedLM", TaskChoice::FillMask),
];

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    id2label: BTreeMap<String, String>,
    problem_type: Option<String>,
}

/// What the files say that lie beside the model at `path`, or one folder up as optimum lays them; `None` when there is no
/// `preprocessor_config.json`.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the file and the key that is not known here.
pub(super) fn said(path: &Path) -> Result<Option<Said>> {
    let Some(folder) = near(path, "preprocessor_config.json") else { return Ok(None) };
    let mut said = Said::default();
    let file = folder.join("preprocessor_config.json");
    said.wish.input = input(&read(&file)?).map_err(|error| error.context(file.display()))?;
    said.notes.push(format!("pictures go in as {} says", file.display()));
    let file = folder.join("config.json");
    if file.is_file() {
        let config = config(&file)?;
        let label = |(id, name): (String, String)| Some((id.parse().ok()?, name));
        said.labels = config.id2label.into_iter().filter_map(label).collect();
        said.wish.task = named(&config.architectures, &OF_PICTURES);
        if said.wish.task == Some(TaskChoice::ObjectDetection) {
            said.wish.head = head(&config.architectures);
        }
        if config.problem_type.as_deref() == Some("multi_label_classification") {
            said.wish.scores = Some(Scores::Sigmoid);
        }
    }
    Ok(Some(said))
}

/// What the files say that the model is for which lie where [`said`] looks: `None` when there is no `config.json`, neither
/// a `preprocessor_config.json` nor a tokenizer beside it, or when its architecture has no head that is known.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the file.
pub(super) fn wish(path: &Path) -> Result<Option<Wish>> {
    let Some(folder) = near(path, "config.json") else { return Ok(None) };
    let has = |name: &str| folder.join(name).is_file();
    let architectures = || config(&folder.join("config.json")).map(|config| config.architectures);
    if has("preprocessor_config.json") {
        let task = named(&architectures()?, &OF_PICTURES);
        return Ok(task.map(|task| Wish { task: Some(task), ..Wish::default() }));
    }
    if !has("tokenizer.json") {
        return Ok(None);
    }
    let sentence = has("modules.json").then_some(TaskChoice::SentenceEmbedding);
    let task = sentence.map_or_else(|| Ok(named(&architectures()?, &OF_TEXTS)), |task| Ok(Some(task)))?;
    Ok(task.map(|task| Wish { task: Some(task), tokenizer: Some(folder.to_owned()), ..Wish::default() }))
}

/// The folder that has `name` in it: that of the model at `path`, or the one above, as optimum lays them.
fn near<'a>(path: &'a Path, name: &str) -> Option<&'a Path> {
    let near = [path.parent(), path.parent().and_then(Path::parent)];
    near.into_iter().flatten().find(|folder| folder.join(name).is_file())
}

fn config(file: &Path) -> Result<Config> {
    let wrong = |error: serde_json::Error| Error::invalid(format!("{}: {error}", file.display()));
    serde_json::from_value(read(file)?).map_err(wrong)
}

/// What the first of `architectures` is for whose ending is known.
fn named(architectures: &[String], endings: &[(&str, TaskChoice)]) -> Option<TaskChoice> {
    let known = |name: &String| endings.iter().find(|(end, _)| name.ends_with(end)).map(|(_, task)| *task);
    architectures.iter().find_map(known)
}

/// The head that an architecture has.
fn head(architectures: &[String]) -> Option<String> {
    const HEADS: [(&str, &str); 7] = [
        ("RTDetr", "rt-detr"),
        ("DFine", "rt-detr"),
        ("DeformableDetr", "rt-detr"),
        ("ConditionalDetr", "rt-detr"),
        ("TableTransformer", "detr"),
        ("Yolos", "detr"),
        ("Detr", "detr"),
    ];
    let found =
        |name: &String| HEADS.iter().find(|(start, _)| name.starts_with(start)).map(|(_, head)| (*head).to_owned());
    architectures.iter().find_map(found)
}

fn read(file: &Path) -> Result<Value> {
    let wrong = |what: &dyn std::fmt::Display| Error::invalid(format!("{}: {what}", file.display()));
    let bytes = std::fs::metadata(file).map_err(|error| wrong(&error))?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(wrong(&"it is too large to be what its name says"));
    }
    serde_json::from_slice(&std::fs::read(file).map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))
}

/// How pictures go in, as the processors of transformers read their settings.
pub(super) fn input(config: &Value) -> Result<InputWish> {
    let is = |key: &str, usual: bool| config.get(key).and_then(Value::as_bool).unwrap_or(usual);
    for key in ["rescale_offset", "do_crop_margin", "do_align_long_axis", "do_thumbnail"] {
        if is(key, false) {
            return Err(Error::invalid(format!("'{key}' is not known here; say with --preprocess how pictures go in")));
        }
    }
    let mut wish = InputWish {
        fit: fit(config)?,
        resample: resample(config)?,
        channels: is("do_flip_channel_order", false).then_some(Channels::Bgr),
        ..InputWish::default()
    };
    let factor = config.get("rescale_factor").and_then(Value::as_f64).map_or(1.0 / 255.0, |factor| factor as f32);
    wish.scale = Some(if is("do_rescale", true) { factor } else { 1.0 });
    if is("do_normalize", true) {
        let three = |key: &str| -> Result<Option<[f32; 3]>> {
            let Some(value) = config.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
            let one = value.as_f64().map(|value| [value as f32; 3]);
            let numbers = || serde_json::from_value::<Vec<f32>>(value.clone()).ok();
            one.or_else(|| match numbers()?[..] {
                [grey] => Some([grey; 3]),
                [a, b, c] => Some([a, b, c]),
                _ => None,
            })
            .map(Some)
            .ok_or_else(|| Error::invalid(format!("'{key}' is {value}, not three numbers")))
        };
        (wish.mean, wish.std) = (three("image_mean")?, three("image_std")?);
    }
    Ok(wish)
}

/// Pillow's number of a filter.
fn resample(config: &Value) -> Result<Option<Resample>> {
    match config.get("resample").and_then(Value::as_u64) {
        None => Ok(None),
        Some(0) => Ok(Some(Resample::Nearest)),
        Some(1) => Ok(Some(Resample::Lanczos)),
        Some(2) => Ok(Some(Resample::Bilinear)),
        Some(3) => Ok(Some(Resample::Bicubic)),
        Some(other) => Err(Error::invalid(format!("'resample' is {other}, a filter that is not known here"))),
    }
}

/// A size: a number, or an object with these keys.
struct Size {
    sides: Option<(u32, u32)>,
    shortest: Option<u32>,
    longest: Option<u32>,
}

fn size(config: &Value, key: &str) -> Option<Size> {
    let side = |value: Option<&Value>| value.and_then(Value::as_u64).and_then(|side| u32::try_from(side).ok());
    let value = config.get(key)?;
    let of = |name: &str| side(value.get(name));
    Some(match value {
        Value::Number(_) => Size { sides: None, shortest: side(Some(value)), longest: None },
        _ => Size { sides: of("width").zip(of("height")), shortest: of("shortest_edge"), longest: of("longest_edge") },
    })
}

fn fit(config: &Value) -> Result<Option<Fit>> {
    let is = |key: &str, usual: bool| config.get(key).and_then(Value::as_bool).unwrap_or(usual);
    if !is("do_resize", true) {
        return Ok(None);
    }
    let Some(size) = size(config, "size") else { return Ok(None) };
    let crop = self::size(config, "crop_size").and_then(|crop| crop.sides.or(crop.shortest.map(|side| (side, side))));
    let kind = config.get("image_processor_type").or(config.get("feature_extractor_type")).and_then(Value::as_str);
    let share = config.get("crop_pct").and_then(Value::as_f64);
    let crops = is("do_center_crop", config.get("crop_size").is_some());
    Ok(match (size.sides, size.shortest, size.longest) {
        // ConvNeXT's: the size is that of the middle, which is a share of what the picture is scaled to.
        (None, Some(side), None) if kind.is_some_and(|kind| kind.starts_with("ConvNext")) && side < 384 => {
            let short = (f64::from(side) / share.unwrap_or(0.875)) as u32;
            Some(Fit::Crop { short, width: side, height: side })
        }
        (Some((width, height)), ..) if !crops || crop.is_none() || crop == Some((width, height)) => {
            Some(Fit::Exact { width, height })
        }
        (None, Some(short), longest) => match (crops, crop, longest) {
            (true, Some((width, height)), _) => Some(Fit::Crop { short, width, height }),
            (_, _, Some(long)) => Some(Fit::Within { short, long }),
            // The older processors take a lone number for both sides.
            _ => Some(Fit::Exact { width: short, height: short }),
        },
        _ => {
            return Err(Error::invalid(
                "its 'size' and 'crop_size' are not known here; say with --preprocess how pictures go in",
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_folder_says_what_its_model_is_for() {
        let of = |architecture: &str| json!({"architectures": [architecture], "model_type": "any"}).to_string();
        let (texts, pictures) = (["tokenizer.json"], ["preprocessor_config.json"]);
        for (model, architecture, beside, want) in [
            ("model.onnx", "BertForQuestionAnswering", &texts[..], Some(TaskChoice::QuestionAnswering)),
            ("onnx/model.onnx", "BertForQuestionAnswering", &texts, Some(TaskChoice::QuestionAnswering)),
            ("onnx/fast/model.onnx", "BertForQuestionAnswering", &texts, None),
            ("model.onnx", "DebertaV2ForSequenceClassification", &texts, Some(TaskChoice::TextClassification)),
            ("model.onnx", "BertForTokenClassification", &texts, Some(TaskChoice::TokenClassification)),
            ("model.onnx", "ModernBertForMaskedLM", &texts, Some(TaskChoice::FillMask)),
            ("model.onnx", "BertModel", &["tokenizer.json", "modules.json"], Some(TaskChoice::SentenceEmbedding)),
            ("model.onnx", "BertModel", &texts, None),
            ("model.onnx", "BertForQuestionAnswering", &[], None),
            ("model.onnx", "ViTForImageClassification", &pictures, Some(TaskChoice::ImageClassification)),
            ("model.onnx", "RTDetrForObjectDetection", &pictures, Some(TaskChoice::ObjectDetection)),
            ("model.onnx", "CLIPVisionModelWithProjection", &pictures, Some(TaskChoice::ImageEmbedding)),
            ("model.onnx", "ViTModel", &pictures, None),
        ] {
            let place = tempfile::tempdir().unwrap();
            std::fs::write(place.path().join("config.json"), of(architecture)).unwrap();
            beside.iter().for_each(|name| std::fs::write(place.path().join(name), "{}").unwrap());
            let wish = wish(&place.path().join(model)).unwrap();
            let case = format!("{architecture} {model} {beside:?}");
            assert_eq!(wish.as_ref().and_then(|wish| wish.task), want, "{case}");
            let tokenizer = (want.is_some() && beside.contains(&"tokenizer.json")).then(|| place.path().to_owned());
            assert_eq!(wish.and_then(|wish| wish.tokenizer), tokenizer, "{case}");
        }
        let place = tempfile::tempdir().unwrap();
        assert_eq!(wish(&place.path().join("model.onnx")).unwrap(), None);
        std::fs::write(place.path().join("config.json"), "{").unwrap();
        std::fs::write(place.path().join("tokenizer.json"), "{}").unwrap();
        assert!(wish(&place.path().join("model.onnx")).unwrap_err().message.contains("config.json"));
    }

    #[test]
    fn processors_are_read_as_transformers_reads_them() {
        let scaled = |fit| InputWish { fit: Some(fit), scale: Some(1.0 / 255.0), ..InputWish::default() };
        let half = Some([0.5; 3]);
        let table = [
            (
                json!({"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}, "resample": 2,
                       "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}),
                InputWish {
                    resample: Some(Resample::Bilinear),
                    mean: half,
                    std: half,
                    ..scaled(Fit::Exact { width: 224, height: 224 })
                },
            ),
            (
                json!({"crop_size": {"height": 224, "width": 224}, "size": {"shortest_edge": 256}, "resample": 3, "do_normalize": false}),
                InputWish {
                    resample: Some(Resample::Bicubic),
                    ..scaled(Fit::Crop { short: 256, width: 224, height: 224 })
                },
            ),
            (
                json!({"crop_size": 224, "do_center_crop": true, "size": 224, "do_normalize": false, "do_rescale": false}),
                InputWish { scale: Some(1.0), ..scaled(Fit::Crop { short: 224, width: 224, height: 224 }) },
            ),
            (
                json!({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 0.875, "do_normalize": false}),
                scaled(Fit::Crop { short: 256, width: 224, height: 224 }),
            ),
            (
                json!({"size": {"shortest_edge": 800, "longest_edge": 1333}, "do_normalize": false, "do_flip_channel_order": true}),
                InputWish { channels: Some(Channels::Bgr), ..scaled(Fit::Within { short: 800, long: 1333 }) },
            ),
        ];
        for (config, want) in table {
            assert_eq!(input(&config).unwrap(), want, "{config}");
        }
        for (config, says) in [
            (json!({"size": {"height": 224, "width": 224}, "resample": 5}), "resample"),
            (json!({"size": {"height": 224, "width": 224}, "image_mean": [1, 2]}), "image_mean"),
            (json!({"size": {"max_area": 3}}), "size"),
            (json!({"do_thumbnail": true}), "do_thumbnail"),
        ] {
            assert!(input(&config).unwrap_err().message.contains(says), "{config}");
        }
    }
}
