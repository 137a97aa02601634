//! What the files say that transformers keeps beside a model: `config.json` and `preprocessor_config.json`.

use std::collections::BTreeMap;
use std::path::Path;

use engine::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use store::picture::{Channels, Fit, Resample};
use store::task::{Scores, TaskChoice};

use super::Said;
use super::wish::InputWish;

/// A file larger than this is none of these.
const FILE_BYTES_MAX: u64 = 16 << 20;

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
    let near = [path.parent(), path.parent().and_then(Path::parent)];
    let Some(folder) = near.into_iter().flatten().find(|folder| folder.join("preprocessor_config.json").is_file())
    else {
        return Ok(None);
    };
    let mut said = Said::default();
    let file = folder.join("preprocessor_config.json");
    said.wish.input = input(&read(&file)?).map_err(|error| error.context(file.display()))?;
    said.notes.push(format!("pictures go in as {} says", file.display()));
    let file = folder.join("config.json");
    if file.is_file() {
        let wrong = |error: serde_json::Error| Error::invalid(format!("{}: {error}", file.display()));
        let config: Config = serde_json::from_value(read(&file)?).map_err(wrong)?;
        let label = |(id, name): (String, String)| Some((id.parse().ok()?, name));
        said.labels = config.id2label.into_iter().filter_map(label).collect();
        let ends = |end: &str| config.architectures.iter().any(|name| name.ends_with(end));
        (said.wish.task, said.wish.head) = match () {
            () if ends("ForObjectDetection") => (Some(TaskChoice::ObjectDetection), head(&config.architectures)),
            () if ends("ForImageClassification") => (Some(TaskChoice::ImageClassification), None),
            () => (None, None),
        };
        if config.problem_type.as_deref() == Some("multi_label_classification") {
            said.wish.scores = Some(Scores::Sigmoid);
        }
    }
    Ok(Some(said))
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
