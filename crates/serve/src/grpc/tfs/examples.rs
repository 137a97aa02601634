//! Example messages to examples, and results to their messages.

use engine::{Error, Result};
use proto::tensorflow::feature::Kind;
use proto::tensorflow::serving::input;
use proto::tensorflow::serving::{
    Class, ClassificationResult, Classifications, ExampleListWithContext, Input, Regression, RegressionResult,
};

use crate::tfs::{Example, Feature, LabelScore, merge};

/// The examples in `input`, each with the features of the context.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when there are none.
pub(super) fn decode(input: Option<Input>) -> Result<Vec<Example>> {
    let (examples, context) = match input.and_then(|input| input.kind) {
        None => return Err(Error::invalid("the request has no input; give it examples")),
        Some(input::Kind::ExampleList(list)) => (list.examples, None),
        Some(input::Kind::ExampleListWithContext(ExampleListWithContext { examples, context })) => (examples, context),
    };
    let mut examples: Vec<Example> = examples.into_iter().map(example).collect();
    if let Some(context) = context {
        merge(&mut examples, &example(context));
    }
    Ok(examples)
}

/// A feature without a kind is one that is not there.
fn example(message: proto::tensorflow::Example) -> Example {
    let features = message.features.unwrap_or_default().feature;
    let feature = |(name, feature): (String, proto::tensorflow::Feature)| {
        let feature = match feature.kind? {
            Kind::BytesList(list) => Feature::Strings(list.value),
            Kind::FloatList(list) => Feature::Floats(list.value),
            Kind::Int64List(list) => Feature::Integers(list.value),
        };
        Some((name, feature))
    };
    features.into_iter().filter_map(feature).collect()
}

/// The message of classes with their scores, one list an example.
pub(super) fn classes(results: Vec<Vec<LabelScore>>) -> ClassificationResult {
    let class = |(label, score)| Class { label, score };
    let list = |classes: Vec<LabelScore>| Classifications { classes: classes.into_iter().map(class).collect() };
    ClassificationResult { classifications: results.into_iter().map(list).collect() }
}

/// The message of numbers, one an example.
pub(super) fn numbers(results: Vec<f32>) -> RegressionResult {
    RegressionResult { regressions: results.into_iter().map(|value| Regression { value }).collect() }
}
