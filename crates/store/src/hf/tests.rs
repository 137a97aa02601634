//! Folders that lie: hostile weights and configurations that ask for another graph.

use std::path::Path;

use engine::{DataType, ErrorKind};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::checkpoint::Checkpoint;
use super::config::Config;
use super::program::Program;

fn safetensors(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

fn open(bytes: &[u8]) -> engine::Result<Checkpoint> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    Checkpoint::open(folder.path(), "bert.")
}

fn wanted(name: &str, shape: &[usize]) -> super::graph::Wanted {
    super::graph::Wanted {
        names: vec![name.to_owned()],
        shape: shape.to_vec(),
        declared: shape.to_vec(),
        dtype: DataType::F32,
    }
}

#[test]
fn safetensors_that_lie_are_refused() {
    let one =
        |offsets: &str, shape: &str| format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#);
    let two = |first: &str, second: &str| {
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{first}}},"b":{{"dtype":"F32","shape":[2],"data_offsets":{second}}}}}"#
        )
    };
    // 2^61 - 1 bytes each, so that the sum of eight wraps round to a small number in 64 bits.
    let huge: Vec<String> = (0..9u128)
        .map(|index| {
            let size = (1u128 << 61) - 1;
            let (start, end) = (index * size, (index + 1) * size);
            format!(r#""t{index}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{start},{end}]}}"#)
        })
        .collect();
    for (what, bytes) in [
        ("nothing", vec![]),
        ("seven bytes", vec![0; 7]),
        ("a header of 2^60 bytes", [(1u64 << 60).to_le_bytes().as_slice(), b"{}"].concat()),
        ("a header of 2^64 - 1 bytes", vec![255; 100]),
        ("no JSON", safetensors(b"not json", &[])),
        ("no UTF-8", safetensors(&[0xff, 0xfe], &[])),
        ("data past the end", safetensors(one("[0,8]", "[2]").as_bytes(), &[0; 4])),
        ("data after the end", safetensors(one("[0,8]", "[2]").as_bytes(), &[0; 12])),
        ("a gap before the first", safetensors(one("[4,12]", "[2]").as_bytes(), &[0; 12])),
        ("an end before the start", safetensors(one("[8,0]", "[2]").as_bytes(), &[0; 8])),
        ("a shape that is not the size", safetensors(one("[0,8]", "[3]").as_bytes(), &[0; 8])),
        ("a shape that overflows", safetensors(one("[0,8]", "[4294967296,4294967296,4]").as_bytes(), &[0; 8])),
        ("offsets beyond an integer", safetensors(one("[0,36893488147419103232]", "[2]").as_bytes(), &[0; 8])),
        ("tensors that overlap", safetensors(two("[0,8]", "[4,12]").as_bytes(), &[0; 12])),
        ("tensors in one place", safetensors(two("[0,8]", "[0,8]").as_bytes(), &[0; 8])),
        ("sizes that wrap round", safetensors(format!("{{{}}}", huge.join(",")).as_bytes(), &[0; 8])),
        (
            "two spellings of one name",
            safetensors(
                two("[0,8]", "[8,16]").replace("\"a\"", "\"n.gamma\"").replace("\"b\"", "\"bert.n.weight\"").as_bytes(),
                &[0; 16],
            ),
        ),
    ] {
        let error = open(&bytes).expect_err(what);
        assert_eq!(error.kind, ErrorKind::InvalidInput, "{what}: {error}");
        assert!(error.message.contains("model.safetensors"), "{what}: {error}");
    }
}

#[test]
fn a_tensor_is_where_the_header_says_or_refused_by_name() {
    let header = r#"{"bert.x.LayerNorm.gamma":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
        "h":{"dtype":"BF16","shape":[2],"data_offsets":[8,12]},"i":{"dtype":"I32","shape":[1],"data_offsets":[12,16]}}"#;
    // Filled up with spaces, as writers do, so that numbers start at a multiple of their size.
    let header = format!("{header:0$}", header.len().next_multiple_of(8));
    let data = [1.5f32.to_le_bytes(), (-2.0f32).to_le_bytes(), [0x80, 0x3f, 0, 0xc0], [0; 4]].concat();
    let bytes = safetensors(header.as_bytes(), &data);
    let checkpoint = open(&bytes).unwrap();
    let (tensor, origin) = checkpoint.tensor(&wanted("x.LayerNorm.weight", &[2])).unwrap();
    assert_eq!(tensor.data()[..], data[..8]);
    let origin = origin.expect("a single-precision tensor is used where it lies");
    assert_eq!(origin.offset_bytes, (8 + header.len()) as u64);
    assert!(origin.path.is_absolute() && origin.path.ends_with("model.safetensors"));
    let (halves, origin) = checkpoint.tensor(&wanted("h", &[2])).unwrap();
    assert_eq!((halves.as_f32().unwrap(), origin), (&[1.0, -2.0][..], None));
    for (name, shape, kind) in [
        ("gone", &[2][..], ErrorKind::InvalidInput),
        ("h", &[3], ErrorKind::InvalidInput),
        ("i", &[1], ErrorKind::Unsupported),
    ] {
        let error = checkpoint.tensor(&wanted(name, shape)).unwrap_err();
        assert!(error.kind == kind && error.message.contains(&format!("'{name}'")), "{error}");
    }
}

#[test]
fn an_index_names_files_of_its_own_folder() {
    for index in [
        json!({}),
        json!({"weight_map": {}}),
        json!({"weight_map": {"a": 1}}),
        json!({"weight_map": {"a": "../a.safetensors"}}),
        json!({"weight_map": {"a": "/etc/passwd"}}),
        json!([]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
        assert_eq!(Checkpoint::open(folder.path(), "").unwrap_err().kind, ErrorKind::InvalidInput, "{index}");
    }
}

fn bert() -> Value {
    json!({"model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 61, "hidden_size": 16,
        "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 40})
}

#[test]
fn a_configuration_that_asks_for_another_graph_is_refused_by_name() {
    Config::of(&bert(), None).unwrap();
    for (field, value) in [
        ("model_type", json!("gpt2")),
        ("model_type", json!(null)),
        ("architectures", json!(["BertForMultipleChoice"])),
        ("architectures", json!([])),
        ("architectures", json!(["BertForPreTraining"])),
        ("position_embedding_type", json!("relative_key")),
        ("is_decoder", json!(true)),
        ("add_cross_attention", json!(true)),
        ("quantization_config", json!({"bits": 4})),
        ("adapters", json!({"a": 1})),
        ("auto_map", json!({"AutoModel": "code.Model"})),
        ("pruned_heads", json!({"1": [0]})),
        ("hidden_act", json!("swish")),
        ("problem_type", json!("ranking")),
        ("vocab_size", json!(null)),
        ("vocab_size", json!(-1)),
        ("hidden_size", json!("wide")),
        ("hidden_size", json!(u64::MAX)),
        ("num_hidden_layers", json!(1_000_000_000)),
        ("num_labels", json!(1_000_000_000)),
        ("id2label", json!({"5": "five"})),
        ("id2label", json!({"one": "1"})),
    ] {
        let mut config = bert();
        config[field] = value.clone();
        let error = Config::of(&config, None).expect_err(field);
        assert!(matches!(error.kind, ErrorKind::InvalidInput | ErrorKind::Unsupported), "{field}: {error}");
    }
    let mut config = bert();
    config["num_attention_heads"] = json!(3);
    assert!(Config::of(&config, None).unwrap_err().message.contains("3 attention heads"));
}

#[test]
fn what_no_number_depends_on_does_not_change_the_program() {
    let plain = Program::of(&Config::of(&bert(), None).unwrap(), &|_| DataType::F32);
    let mut other = bert();
    other["id2label"] = json!({"0": "no", "1": "yes"});
    other["transformers_version"] = json!("9.0");
    let same = Program::of(&Config::of(&other, None).unwrap(), &|_| DataType::F32);
    assert!(plain.model == same.model && plain.wanted == same.wanted);
    other["layer_norm_eps"] = json!(1e-5);
    assert!(plain.model != Program::of(&Config::of(&other, None).unwrap(), &|_| DataType::F32).model);
}

#[test]
fn modules_that_are_not_known_are_refused_by_name() {
    let modules = |types: &[&str], pooling: Value| {
        let folder = tempfile::tempdir().unwrap();
        let list: Vec<_> = types
            .iter()
            .map(|kind| {
                json!({"type": format!("sentence_transformers.models.{kind}"),
            "path": if *kind == "Pooling" { "1_Pooling" } else { "" }})
            })
            .collect();
        std::fs::write(folder.path().join("modules.json"), json!(list).to_string()).unwrap();
        std::fs::create_dir(folder.path().join("1_Pooling")).unwrap();
        std::fs::write(folder.path().join("1_Pooling/config.json"), pooling.to_string()).unwrap();
        super::sentence::read(folder.path())
    };
    let mean = || json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false});
    assert!(modules(&["Transformer", "Pooling", "Normalize"], mean()).unwrap().unwrap().normalise);
    for (types, pooling, named) in [
        (&["Transformer", "Pooling", "Dense"][..], mean(), "Dense"),
        (&["CLIPModel"], mean(), "CLIPModel"),
        (&["Transformer", "Pooling"], json!({"pooling_mode_lasttoken": true}), "lasttoken"),
        (&["Transformer", "Pooling"], json!({}), "pooling_mode_"),
        (&["Transformer", "Pooling"], json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true}), "and"),
    ] {
        let error = modules(types, pooling).expect_err(named);
        assert!(error.message.contains(named), "{error}");
    }
    assert_eq!(super::sentence::read(Path::new("/nowhere")).unwrap(), None);
}

proptest! {
    #[test]
    fn any_bytes_are_opened_or_refused(
        length in prop_oneof![0u64..200, any::<u64>()],
        header in prop_oneof![any::<Vec<u8>>(), r#"\{"[ab]":\{"dtype":"F(16|32)","shape":\[[0-9]{0,20}\],"data_offsets":\[[0-9]{1,20},[0-9]{1,20}\]\}\}"#
            .prop_map(String::into_bytes)],
        data in prop::collection::vec(any::<u8>(), 0..64),
        honest in any::<bool>(),
    ) {
        let length = if honest { header.len() as u64 } else { length };
        let bytes = [&length.to_le_bytes()[..], &header, &data].concat();
        if let Ok(checkpoint) = open(&bytes) {
            for name in ["a", "b"] {
                let _ = checkpoint.tensor(&wanted(name, &[1]));
            }
        }
    }

    #[test]
    fn any_configuration_makes_a_program_or_is_refused(
        field in prop::sample::select(vec!["model_type", "architectures", "vocab_size", "hidden_size", "num_hidden_layers",
            "num_attention_heads", "intermediate_size", "max_position_embeddings", "type_vocab_size", "layer_norm_eps",
            "hidden_act", "pad_token_id", "num_labels", "id2label", "problem_type", "is_decoder"]),
        value in prop_oneof![any::<i64>().prop_map(Value::from), any::<f64>().prop_map(Value::from),
            ".{0,9}".prop_map(Value::from), Just(json!(null)), Just(json!([1])), Just(json!({"0": 1}))],
    ) {
        let mut config = bert();
        config[field] = value;
        if let Ok(config) = Config::of(&config, None) {
            prop_assert!(!Program::of(&config, &|_| DataType::F32).wanted.is_empty());
        }
    }
}
