"""Writes a SavedModel that takes token ids, and the vectors of some texts by it, for the tests of texts into SavedModels.

Usage: make_saved_texts.py TEXT_FIXTURES

TEXT_FIXTURES are what make_text_fixtures.py wrote: its tokenizer and the table of words of one of its models, of which a text's
vector is the mean, scaled to length one. `traced/words/` is the model, which has a vector for each token, and `traced/words.json`
the vectors. Needs tensorflow 2.21, tokenizers 0.13 and safetensors; made once, committed small.
"""

import json
import pathlib
import shutil
import sys

import numpy as np
import safetensors.numpy
import tensorflow as tf
import tokenizers

TEXTS = ["The pass is open.", "A packhorse carries wool over the pass.", "Nobody knew why the bell rang at half past four!"]
WORDS = "bert.embeddings.word_embeddings.weight"


class Words(tf.Module):
    """Names and datatypes are those of the reference library's TensorFlow models."""

    def __init__(self, table):
        self.table = tf.Variable(table)

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, name="input_ids"),
                                  tf.TensorSpec([None, None], tf.int32, name="attention_mask")])
    def serve(self, input_ids, attention_mask):
        mask = tf.cast(attention_mask, tf.float32)[:, :, tf.newaxis]
        return {"last_hidden_state": tf.gather(self.table, input_ids) * mask}


def main():
    fixtures = pathlib.Path(sys.argv[1])
    table = safetensors.numpy.load_file(fixtures / "models" / "bert-qa" / "model.safetensors")[WORDS]
    folder = fixtures / "traced" / "words"
    shutil.rmtree(folder, ignore_errors=True)
    words = Words(table)
    tf.saved_model.save(words, str(folder), signatures={"serving_default": words.serve})
    (folder / "fingerprint.pb").unlink(missing_ok=True)
    tokenizer = tokenizers.Tokenizer.from_file(str(fixtures / "tokenizers" / "wordpiece" / "tokenizer.json"))
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    told = []
    for text in TEXTS:
        ids = np.array([tokenizer.encode(text).ids], np.int32)
        answer = serve(input_ids=tf.constant(ids), attention_mask=tf.ones_like(ids))["last_hidden_state"].numpy()[0]
        vector = answer.mean(0) / np.linalg.norm(answer.mean(0))
        told.append({"text": text, "vector": [round(float(value), 7) for value in vector]})
    (fixtures / "traced" / "words.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
