"""Writes the SavedModels and reference answers that the tests of TensorFlow models compare with.

Usage: make_saved_models.py OUT_FOLDER

Each fixture is a small model as `tf.saved_model.save` leaves it; `reference.json` has, for each, inputs and what TensorFlow's
own Python answers, floats as the hexadecimal of their bits. Needs tensorflow 2.21; made once, committed small.
"""

import base64
import json
import pathlib
import shutil
import sys

import numpy as np
import tensorflow as tf

NUMBERS = ["bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32",
           "float64"]


def spec(shape, dtype, name):
    return tf.TensorSpec(shape, dtype, name=name)


class Affine(tf.Module):
    """Variables, two inputs and two outputs, and a second signature."""

    def __init__(self):
        random = np.random.default_rng(5)
        self.weight = tf.Variable(random.normal(size=(4, 3)).astype("float32"))
        self.bias = tf.Variable(random.normal(size=3).astype("float32"))

    @tf.function(input_signature=[spec([None, 4], tf.float32, "x"), spec([None, 1], tf.float32, "scale")])
    def serve(self, x, scale):
        y = (tf.matmul(x, self.weight) + self.bias) * scale
        return {"y": y, "probabilities": tf.nn.softmax(y)}

    @tf.function(input_signature=[spec([None, 4], tf.float32, "x")])
    def total(self, x):
        return {"total": tf.reduce_sum(tf.matmul(x, self.weight))}


class Words(tf.Module):
    """Strings in and out, a table that is filled from an asset, and a shape that varies in two dimensions."""

    def __init__(self, vocabulary):
        initial = tf.lookup.TextFileInitializer(vocabulary, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64,
                                                tf.lookup.TextFileIndex.LINE_NUMBER)
        self.table = tf.lookup.StaticHashTable(initial, default_value=-1)

    @tf.function(input_signature=[spec([None, None], tf.string, "words")])
    def serve(self, words):
        return {"ids": self.table.lookup(words), "shouted": tf.strings.join([tf.strings.upper(words), "!"])}


class Types(tf.Module):
    """Every datatype, through an operation that keeps it."""

    @tf.function(input_signature=[spec([None, 2], getattr(tf, name), name) for name in NUMBERS])
    def serve(self, *values):
        return {f"{name}_turned": tf.reverse(value, [1]) for name, value in zip(NUMBERS, values)}


class Mixing(tf.Module):
    """Its items are not apart: each is told the mean of all."""

    @tf.function(input_signature=[spec([None, 2], tf.float32, "x")])
    def serve(self, x):
        return {"y": x - tf.reduce_mean(x, axis=0, keepdims=True)}


class Reader(tf.Module):
    """What no artefact may do: it reads a file of the machine that serves it, inside a function."""

    @tf.function(input_signature=[spec([None], tf.string, "path")])
    def serve(self, path):
        return {"content": tf.map_fn(tf.io.read_file, path)}


def told(value):
    value = tf.convert_to_tensor(value)
    dtype = value.dtype.name
    array = value.numpy()
    if dtype == "string":
        content = [base64.b64encode(word).decode() for word in array.reshape(-1)]
    else:
        content = array.tobytes().hex()
    return {"dtype": dtype, "shape": list(value.shape), "content": content}


def save(out, name, module, signatures, asks, reference):
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    tf.saved_model.save(module, str(folder), signatures=signatures)
    # What helps a debugger, and a note of what wrote it, which changes with the machine.
    for idle in ("fingerprint.pb",):
        (folder / idle).unlink(missing_ok=True)
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    reference[name] = []
    for ask in asks:
        answer = serve(**ask)
        reference[name].append({"inputs": {key: told(value) for key, value in ask.items()},
                                "outputs": {key: told(value) for key, value in answer.items()}})


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(7)
    reference = {}
    affine = Affine()
    floats = lambda *shape: tf.constant(random.normal(size=shape).astype("float32"))
    save(out, "affine", affine, {"serving_default": affine.serve, "total": affine.total},
         [{"x": floats(rows, 4), "scale": floats(rows, 1)} for rows in (1, 3)], reference)
    vocabulary = out / "vocabulary.txt"
    vocabulary.write_text("hay\noats\nwater\n")
    words = Words(str(vocabulary))
    save(out, "words", words, {"serving_default": words.serve},
         [{"words": tf.constant([["oats", "", "water"], ["a word that is longer than twenty-four bytes", "hay", "\u00e9"]])}],
         reference)
    vocabulary.unlink()
    types = Types()
    values = {name: tf.cast(tf.constant([[0, 1], [1, 1]]), getattr(tf, name)) for name in NUMBERS}
    save(out, "types", types, {"serving_default": types.serve}, [values], reference)
    mixing = Mixing()
    save(out, "mixing", mixing, {"serving_default": mixing.serve}, [{"x": floats(2, 2)}], reference)
    reader = Reader()
    save(out, "reader", reader, {"serving_default": reader.serve}, [], reference)
    (out / "reference.json").write_text(json.dumps(reference, indent=1) + "\n")


main()
