//! The services in front of models that give back what they got.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;
use proto::tensorflow::serving::model_server_config::Config;
use proto::tensorflow::serving::model_service_client::ModelServiceClient;
use proto::tensorflow::serving::model_spec::VersionChoice;
use proto::tensorflow::serving::prediction_service_client::PredictionServiceClient;
use proto::tensorflow::serving::{
    ExampleList, ModelConfig, ModelConfigList, ModelServerConfig, ModelSpec, SignatureDefMap, input,
};
use proto::tensorflow::{DataType, Example, Feature, Features, FloatList, TensorProto, feature};
use tonic::Code;

use super::*;
use crate::Control;
use crate::fixture::{Served, served};

type Predictions = PredictionServiceClient<PredictionServiceServer<Prediction>>;

/// A client wired to the service itself: messages are framed and limited as on a connection.
fn predictions(served: &Served) -> Predictions {
    PredictionServiceClient::new(services(Arc::clone(&served.scheduler), &GrpcLimits::default()).0)
}

fn models(served: &Served) -> ModelServiceClient<ModelServiceServer<Models>> {
    let management = Some(Management::new(Arc::new(crate::fixture::Log::default())));
    let limits = GrpcLimits { management, ..GrpcLimits::default() };
    ModelServiceClient::new(services(Arc::clone(&served.scheduler), &limits).1)
}

fn spec(name: &str) -> ModelSpec {
    ModelSpec { name: name.to_owned(), ..ModelSpec::default() }
}

fn pixels(input: &str, filter: &[&str]) -> PredictRequest {
    let tensor = TensorProto {
        dtype: DataType::DtUint8.into(),
        tensor_shape: Some(tensor::shape_message([1, 2])),
        tensor_content: Bytes::from_static(&[3, 4]),
        ..TensorProto::default()
    };
    PredictRequest {
        model_spec: Some(spec("pixels")),
        inputs: HashMap::from([(input.to_owned(), tensor)]),
        output_filter: filter.iter().map(|&name| name.to_owned()).collect(),
    }
}

fn examples(rows: &[[f32; 3]]) -> Option<Input> {
    let feature =
        |values: &[f32]| Feature { kind: Some(feature::Kind::FloatList(FloatList { value: values.to_vec() })) };
    let example = |row: &[f32; 3]| Example {
        features: Some(Features {
            feature: [("a", feature(&row[..2])), ("b", feature(&row[2..]))]
                .map(|(name, f)| (name.to_owned(), f))
                .into(),
        }),
    };
    let list = ExampleList { examples: rows.iter().map(example).collect() };
    Some(Input { kind: Some(input::Kind::ExampleList(list)) })
}

#[tokio::test]
async fn predict_by_alias_and_filter() {
    let served = served(Control::None);
    let mut client = predictions(&served);
    for (input, filter, output) in [("x", &[][..], "y"), ("x:0", &["y"], "y"), ("x", &["y:0"], "y:0")] {
        let answer = client.predict(pixels(input, filter)).await.unwrap().into_inner();
        assert_eq!(answer.outputs[output].int_val, [3, 4]);
        let spec = answer.model_spec.unwrap();
        assert_eq!(
            (spec.signature_name.as_str(), spec.version_choice),
            ("serving_default", Some(VersionChoice::Version(10)))
        );
    }
    for (request, code, says) in [
        (pixels("z", &[]), Code::InvalidArgument, "no input 'z'; it has 'x'"),
        (pixels("x", &["z"]), Code::InvalidArgument, "no output 'z'; it has 'y'"),
        (pixels("x", &["y", "y:0"]), Code::InvalidArgument, "twice"),
        (PredictRequest { inputs: HashMap::new(), ..pixels("x", &[]) }, Code::InvalidArgument, "'x:0'"),
        (PredictRequest { model_spec: Some(spec("nobody")), ..pixels("x", &[]) }, Code::NotFound, "'nobody'"),
        (PredictRequest { model_spec: None, ..pixels("x", &[]) }, Code::InvalidArgument, "no model_spec"),
    ] {
        let refused = client.predict(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(says), "'{}' does not say '{says}'", refused.message());
    }
}

#[tokio::test]
async fn examples_to_classes_and_numbers() {
    let served = served(Control::None);
    let mut client = predictions(&served);
    let rows = examples(&[[0.25, 0.75, 7.0], [1.0, 0.0, 8.0]]);
    let request = ClassificationRequest { model_spec: Some(spec("two")), input: rows.clone() };
    let answer = client.classify(request).await.unwrap().into_inner();
    let classes: Vec<Vec<(String, f32)>> = answer
        .result
        .unwrap()
        .classifications
        .into_iter()
        .map(|row| row.classes.into_iter().map(|class| (class.label, class.score)).collect())
        .collect();
    let row = |zero, one| vec![("0".to_owned(), zero), ("cat".to_owned(), one)];
    assert_eq!(classes, [row(0.25, 0.75), row(1.0, 0.0)]);

    let request = RegressionRequest { model_spec: Some(spec("two")), input: rows.clone() };
    let answer = client.regress(request).await.unwrap().into_inner();
    let numbers: Vec<f32> = answer.result.unwrap().regressions.iter().map(|number| number.value).collect();
    assert_eq!(numbers, [7.0, 8.0]);

    let task =
        |name: &str, method: &str| InferenceTask { model_spec: Some(spec(name)), method_name: method.to_owned() };
    for (tasks, want) in [
        (vec![task("two", CLASSIFY_METHOD), task("two", REGRESS_METHOD)], Ok(2)),
        (vec![task("two", CLASSIFY_METHOD), task("pixels", REGRESS_METHOD)], Err(Code::InvalidArgument)),
        (vec![task("two", "tensorflow/serving/predict")], Err(Code::Unimplemented)),
        (vec![], Err(Code::InvalidArgument)),
    ] {
        let answer = client.multi_inference(MultiInferenceRequest { tasks, input: rows.clone() }).await;
        let got = answer.map(|answer| answer.into_inner().results.len()).map_err(|refused| refused.code());
        assert_eq!(got, want);
    }
    let request = ClassificationRequest { model_spec: Some(spec("two")), input: None };
    assert_eq!(client.classify(request).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn metadata_and_status() {
    let served = served(Control::None);
    let mut client = predictions(&served);
    let ask = |fields: &[&str]| GetModelMetadataRequest {
        model_spec: Some(spec("pixels")),
        metadata_field: fields.iter().map(|&field| field.to_owned()).collect(),
    };
    let answer = client.get_model_metadata(ask(&["signature_def"])).await.unwrap().into_inner();
    let any = &answer.metadata["signature_def"];
    assert_eq!(any.type_url, "type.googleapis.com/tensorflow.serving.SignatureDefMap");
    let map = SignatureDefMap::decode(&any.value[..]).unwrap();
    assert!(map.signature_def["serving_default"].inputs.contains_key("x"));
    for fields in [&[][..], &["signature_def", "else"]] {
        assert_eq!(client.get_model_metadata(ask(fields)).await.unwrap_err().code(), Code::InvalidArgument);
    }

    let mut client = models(&served);
    let request = GetModelStatusRequest { model_spec: Some(spec("pixels")) };
    let statuses = client.get_model_status(request).await.unwrap().into_inner().model_version_status;
    let told: Vec<_> = statuses.iter().map(|status| (status.version, status.state)).collect();
    assert_eq!(told, [(10, 30), (2, 30)]);
    let request = GetModelStatusRequest { model_spec: Some(spec("nobody")) };
    assert_eq!(client.get_model_status(request).await.unwrap_err().code(), Code::NotFound);
}

fn reload(names: &[&str]) -> ReloadConfigRequest {
    let model = |name: &&str| ModelConfig { name: (*name).to_owned(), ..ModelConfig::default() };
    let list = ModelConfigList { config: names.iter().map(model).collect() };
    ReloadConfigRequest { config: Some(ModelServerConfig { config: Some(Config::ModelConfigList(list)) }) }
}

#[tokio::test]
async fn a_reload_replaces_the_whole_list() {
    let fixed = served(Control::None);
    let refused = models(&fixed).handle_reload_config_request(reload(&["two"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);

    let served = served(Control::Explicit);
    let mut client = models(&served);
    let names = || -> Vec<String> {
        let models = served.scheduler.residency().models();
        models.iter().map(|model| format!("{}/{}", model.manifest().name, model.manifest().version)).collect()
    };
    for (wanted, want) in [
        (&["pixels", "two"][..], &["pixels/10", "pixels/2", "two/1"][..]),
        (&["two", "words"], &["two/1", "words/1"]),
        (&[], &[]),
    ] {
        let answer = client.handle_reload_config_request(reload(wanted)).await.unwrap().into_inner();
        assert_eq!(answer.status.unwrap().error_code, 0);
        let mut served = names();
        served.sort();
        assert_eq!(served, want);
    }
    let refused = client.handle_reload_config_request(reload(&["two", "nobody"])).await.unwrap_err();
    assert_eq!((refused.code(), names().len()), (Code::NotFound, 0));
}
