//! The pipelines of all tasks that pictures go into.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::{Error, Result, Tensor};
use store::Manifest;

use crate::picture::{Bounds, Picture, Placement, decode};
use crate::{Answer, Class, Classifier, Detector, Embedder, Input, Object, Options, Pipeline, Prepared, detect};

/// The score from which on an object is told, unless the asker says another; the video worker's own.
const THRESHOLD: f32 = 0.4;
/// The most objects, and the most classes, that can be asked for.
const MOST: usize = 10_000;
/// Classes that are told unless the asker says how many.
const CLASSES: usize = 5;

/// A model that looks at pictures.
pub(crate) struct Sight {
    eye: Eye,
    labels: BTreeMap<u32, String>,
    /// All outputs, in signature order.
    outputs: Vec<String>,
    task: &'static str,
}

enum Eye {
    Detector(Detector),
    Classifier(Classifier),
    Embedder(Embedder),
}

/// What was asked besides, and where the picture lies.
enum Wanted {
    Objects { placement: Placement, threshold: f32, most: usize },
    Classes { most: usize },
    Vector,
}

impl Sight {
    /// The pipeline of the model that `manifest` describes, whose task is one of pictures.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when the task does not fit the model's inputs and outputs.
    pub(crate) fn of(manifest: &Manifest) -> Result<Self> {
        let eye = match (Classifier::of(manifest)?, Embedder::of(manifest)?) {
            (Some(classifier), _) => Eye::Classifier(classifier),
            (None, Some(embedder)) => Eye::Embedder(embedder),
            (None, None) => Eye::Detector(detect::for_model(manifest)?),
        };
        Ok(Self {
            eye,
            labels: manifest.labels.clone(),
            outputs: manifest.outputs.iter().map(|output| output.name.clone()).collect(),
            task: manifest.task.as_ref().map_or("a model without a task", |task| task.name()),
        })
    }

    fn label(&self, class: u32) -> String {
        self.labels.get(&class).cloned().unwrap_or_else(|| class.to_string())
    }

    /// What `options` ask for of a picture that lies at `placement`.
    fn wanted(&self, options: &Options, placement: Placement) -> Result<Wanted> {
        let reader = options.reader();
        let wanted = match self.eye {
            Eye::Detector(_) => Wanted::Objects {
                placement,
                threshold: reader.number("threshold", 0.0..=1.0)?.map_or(THRESHOLD, |threshold| threshold as f32),
                most: reader.whole("top_k", 1..=MOST)?.unwrap_or(MOST),
            },
            Eye::Classifier(_) => Wanted::Classes { most: reader.whole("top_k", 1..=MOST)?.unwrap_or(CLASSES) },
            Eye::Embedder(_) => Wanted::Vector,
        };
        reader.finish(self.task)?;
        Ok(wanted)
    }

    fn answer(&self, outputs: &[Tensor], wanted: &Wanted) -> Result<Answer> {
        Ok(match (&self.eye, wanted) {
            (Eye::Detector(detector), Wanted::Objects { placement, threshold, most }) => {
                let found = detector.detect(outputs, placement, *threshold)?;
                let (width, height) = (placement.source_px.0 as f32, placement.source_px.1 as f32);
                let object = |found: detect::Detected| {
                    let [left, top, right, bottom] = found.box_px;
                    Object {
                        label: self.label(found.class),
                        class: found.class,
                        score: found.score,
                        box_px: found.box_px,
                        box_share: [left / width, top / height, right / width, bottom / height],
                    }
                };
                Answer::Objects(found.into_iter().take(*most).map(object).collect())
            }
            (Eye::Classifier(classifier), Wanted::Classes { most }) => {
                let classes = classifier.classes(outputs, *most)?;
                let class = |(class, score)| Class { label: self.label(class), score };
                Answer::Classes(classes.into_iter().map(class).collect())
            }
            (Eye::Embedder(embedder), _) => Answer::Vector(embedder.vector(outputs)?),
            (Eye::Detector(_) | Eye::Classifier(_), _) => {
                return Err(Error::internal("an answer was asked of a model that gives another"));
            }
        })
    }

    /// The row of tensors for `picture`, and where it lies.
    fn row(&self, picture: &Picture) -> Result<(Vec<Tensor>, Placement)> {
        match &self.eye {
            Eye::Detector(detector) => {
                let (fitted, placement) = detector.fit(picture)?;
                Ok((detector.prepare(&fitted)?, placement))
            }
            Eye::Classifier(classifier) => Ok((classifier.prepare(picture)?, plain(picture))),
            Eye::Embedder(embedder) => Ok((embedder.prepare(picture)?, plain(picture))),
        }
    }
}

/// Of models whose answers know no places.
fn plain(picture: &Picture) -> Placement {
    let size = (picture.width, picture.height);
    Placement { source_px: size, scaled_px: size, at_px: (0, 0), canvas_px: size, fill: 0 }
}

impl Pipeline for Sight {
    fn prepare(self: Arc<Self>, input: Input, options: &Options) -> Result<Prepared> {
        let Input::Picture(file) = &input else {
            let (task, kind) = (self.task, input.kind());
            return Err(Error::invalid(format!("{task} takes a picture, and this is {kind}")));
        };
        // What was asked wrongly is said before the picture costs anything.
        self.wanted(
            options,
            Placement { source_px: (1, 1), scaled_px: (1, 1), at_px: (0, 0), canvas_px: (1, 1), fill: 0 },
        )?;
        let picture = decode(file, &Bounds::default(), &mut |_| Ok(()))?;
        let (row, placement) = self.row(&picture)?;
        let wanted = self.wanted(options, placement)?;
        let outputs = self.outputs.clone();
        let finish = Box::new(move |rows: Vec<Vec<Tensor>>| {
            let row = rows.first().ok_or_else(|| Error::internal("a picture came back without outputs"))?;
            self.answer(row, &wanted).map_err(|error| Error::internal(error.message))
        });
        Ok(Prepared { rows: vec![row], outputs, tokens: 0, finish })
    }
}
