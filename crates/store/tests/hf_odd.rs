//! Hugging Face folders that are not quite as their library writes them today, and what comes of each.

use serde_json::json;
use store::pack::pack;
use store::task::Task;

use crate::hf::{check, fixture, outside, rewritten, rows};
use crate::{onnx, place, request};

#[test]
fn a_checkpoint_whose_numbers_lie_askew_is_stored_and_answers_as_well() {
    for name in ["bert-qa", "bert-model-sentence-mean"] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("1_Pooling")).unwrap();
        for kept in ["config.json", "modules.json", "1_Pooling/config.json"] {
            if fixture(name).join(kept).exists() {
                std::fs::copy(fixture(name).join(kept), folder.path().join(kept)).unwrap();
            }
        }
        // Writers of old did not fill up the header, so that numbers began wherever it ended.
        let bytes = std::fs::read(fixture(name).join("model.safetensors")).unwrap();
        let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
        let (header, data) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
        let header = format!("{:<1$}", std::str::from_utf8(header).unwrap().trim_end(), header.len() + 1);
        let askew = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat();
        std::fs::write(folder.path().join("model.safetensors"), askew).unwrap();
        check(folder.path(), &fixture(name));
        let packed = pack(&place().store, &onnx(), &request(folder.path().to_owned(), "m")).unwrap();
        assert_eq!(outside(&packed), 0, "{name}");
        let said = |words: &str| packed.notes.iter().any(|note| note.contains(words));
        assert!(said("multiple of a number's size") && !said("half precision"), "{name}: {:?}", packed.notes);
    }
}

#[test]
fn a_default_prompt_is_part_of_the_task_or_refused() {
    let check = |prompts: serde_json::Value, pooling: serde_json::Value, want: Result<Option<&str>, &str>| {
        let (folder, place, name) = (tempfile::tempdir().unwrap(), place(), "bert-model-sentence-mean");
        std::fs::create_dir(folder.path().join("1_Pooling")).unwrap();
        for file in ["config.json", "modules.json", "model.safetensors"] {
            std::fs::copy(fixture(name).join(file), folder.path().join(file)).unwrap();
        }
        let kept = std::fs::read(fixture(name).join("1_Pooling/config.json")).unwrap();
        let mut pools: serde_json::Value = serde_json::from_slice(&kept).unwrap();
        pools.as_object_mut().unwrap().extend(pooling.as_object().unwrap().clone());
        std::fs::write(folder.path().join("1_Pooling/config.json"), pools.to_string()).unwrap();
        let first = pack(&place.store, &onnx(), &request(folder.path().to_owned(), "m")).unwrap().manifest;
        std::fs::write(folder.path().join("config_sentence_transformers.json"), prompts.to_string()).unwrap();
        let got = pack(&place.store, &onnx(), &request(folder.path().to_owned(), "m"));
        match (got, want) {
            (Ok(packed), Ok(want)) => {
                let Some(Task::SentenceEmbedding(embedding)) = packed.manifest.task else { panic!("{prompts}") };
                assert_eq!(embedding.text.prompt.as_deref(), want, "{prompts}");
                assert_eq!(packed.manifest.version, first.version + u64::from(want.is_some()), "{prompts}");
            }
            (Err(error), Err(says)) => assert!(error.message.contains(says), "{prompts}: {error}"),
            (got, want) => panic!("{prompts}: got {got:?}, want {want:?}"),
        }
    };
    let named =
        |default: serde_json::Value| json!({"prompts": {"query": "q: ", "none": ""}, "default_prompt_name": default});
    check(named(json!("query")), json!({}), Ok(Some("q: ")));
    check(named(json!("query")), json!({"include_prompt": true}), Ok(Some("q: ")));
    check(named(json!("none")), json!({"include_prompt": false}), Ok(None));
    check(named(json!(null)), json!({"include_prompt": false}), Ok(None));
    check(json!({}), json!({}), Ok(None));
    check(named(json!("other")), json!({}), Err("'default_prompt_name' is 'other'"));
    check(named(json!("query")), json!({"include_prompt": false}), Err("'include_prompt' is false"));
}

#[test]
fn a_token_that_the_model_does_not_know_is_told() {
    let folder = rewritten("bert-qa", &rows(&fixture("bert-qa")));
    let note = |id: u64| {
        let tokenizer = json!({"added_tokens": [{"id": 0, "content": "[PAD]"}, {"id": id, "content": "<new>"}]});
        std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let packed = pack(&place().store, &onnx(), &request(folder.path().to_owned(), "m")).unwrap();
        packed.notes.into_iter().find(|note| note.contains("'<new>'"))
    };
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture("bert-qa").join("config.json")).unwrap()).unwrap();
    let known = config["vocab_size"].as_u64().unwrap();
    assert_eq!(note(known - 1), None);
    assert!(note(known).unwrap().contains(&format!("the number {known}")));
}

#[test]
fn a_vocabulary_is_stored_once_when_the_decoder_is_tied_to_it() {
    let place = place();
    let manifest = pack(&place.store, &onnx(), &request(fixture("bert-mlm"), "m")).unwrap().manifest;
    let used: u64 = manifest.weights.segments.iter().map(|segment| segment.used_bytes).sum();
    assert!(used < manifest.weights.bytes);
}
