"""Texts into models that know nothing of them: TorchScript modules, an ONNX file and a SavedModel, each packed with a task
and a tokenizer, answer as the reference library's pipelines do (scripts/make_traced_fixtures.py, make_saved_texts.py).
"""

import itertools
import json
import pathlib
import platform
import shutil
import subprocess
import tempfile
import unittest
import urllib.parse

import numpy as np
import openai
import tritonclient.http

import every_api
import oip_answers
import product
from test_text import FIXTURES, cases, same

TRACED = FIXTURES / "traced"
TOKENIZER = FIXTURES / "tokenizers" / "wordpiece"
REFERENCE = json.loads((TRACED / "reference.json").read_text(encoding="utf-8"))
NAMES = ["input_ids", "attention_mask", "token_type_ids"]
LENGTH = 128


def signature(path, names=None, length=LENGTH, batch=1):
    """Writes that a module takes INT64 by these names, of such rows."""
    lines = ", ".join(f"{{ name = '{name}', datatype = 'INT64', shape = [{batch}, {length}] }}" for name in names or NAMES)
    path.write_text(f"inputs = [{lines}]\n", encoding="utf-8")
    return path


def refusal(*arguments):
    """What a command that must fail says."""
    done = subprocess.run([product.BINARY, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode == 0 or "panicked" in done.stderr:
        raise AssertionError(f"it left with {done.returncode}:\n{done.stderr}")
    return done.stderr


@unittest.skipUnless(platform.machine() == "x86_64", "libtorch and TensorFlow are set up for x86-64 alone")
class TextsIntoTensors(unittest.TestCase):
    """One server with a model of each task and runtime."""

    @classmethod
    def setUpClass(cls):
        cls.place = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="packhorse-texts-")))
        cls.store = cls.place / "store"
        cls.fixed, cls.any = signature(cls.place / "fixed.toml"), signature(cls.place / "any.toml", None, -1, -1)
        cls.of_two = signature(cls.place / "pair.toml", [f"{name}__{at}" for at, name in enumerate(NAMES[:2])])
        cls.mean = cls.place / "mean.toml"
        cls.mean.write_text("pooling = 'mean'\nnormalise = true\n", encoding="utf-8")
        questions = "question-answering"
        cls.pack("qa", questions, cls.fixed)
        cls.pack("qa", questions, cls.any, "--name", "any")
        cls.pack("pair", questions, cls.of_two)
        cls.pack("sequence", "text-classification", cls.fixed, tokenizer=cls.folder_of("bert-sequence"))
        cls.pack("token", "token-classification", cls.any, tokenizer=cls.folder_of("bert-token"))
        cls.pack("mlm", "fill-mask", cls.fixed)
        cls.pack("embed", "sentence-embedding", cls.any, "--task-file", cls.mean)
        cls.pack("embed", "text-similarity", cls.fixed, "--task-file", cls.mean, "--name", "similar")
        for file, name, task in ((TRACED / "qa.onnx", "onnx", questions), (TRACED / "words", "saved", "sentence-embedding")):
            product.packhorse("pack", file, "--name", name, "--task", task, "--tokenizer", TOKENIZER, "--store", cls.store,
                              *(["--task-file", cls.mean] if name == "saved" else []))
        cls.server = cls.enterClassContext(product.Server(cls.store))

    @classmethod
    def folder_of(cls, model):
        """A tokenizer with the configuration of `model` beside it, as its library saves both, but not its weights."""
        folder = cls.place / model
        shutil.copytree(TOKENIZER, folder)
        shutil.copy(FIXTURES / "models" / model / "config.json", folder)
        return folder

    @classmethod
    def pack(cls, file, task, said, *more, tokenizer=TOKENIZER):
        """The report of packing one of the traced files."""
        [line] = product.json_lines(product.packhorse("pack", TRACED / f"{file}.pt", "--signature", said, "--task", task,
                                                      "--tokenizer", tokenizer, "--store", cls.store, *more))
        return line

    def manifest(self, name, version=1):
        return json.loads((self.store / "models" / name / f"{version}.json").read_text(encoding="utf-8"))

    def asked(self, model, case):
        """What `model` says to a question of the reference's."""
        body = {"inputs": {"question": case["question"], "context": case["context"]}, "parameters": case.get("options", {})}
        status, got = self.server.ask(f"/predictions/{model}", body)
        self.assertEqual(status, 200, got)
        return got["detail"]

    def assert_same(self, got, want):
        self.assertTrue(same(got, want), f"{got} is not {want}")

    def test_questions_are_answered_as_by_the_reference(self):
        of_bert = [case for case in cases("question_answering") if case["model"] == "bert-qa"]
        # Those that say no length are read 384 tokens at a time by the reference, which a trace of 128 has no room for.
        short = [case for case in of_bert if "max_seq_len" in case["options"] or len(case["context"]) < 100]
        for model, chosen in (("qa", short), ("any", of_bert), ("onnx", of_bert)):
            for case in chosen:
                with self.subTest(model=model, question=case["question"]):
                    self.assert_same(self.asked(model, case), case["answer"])
        for case in REFERENCE["pairs"]:
            self.assert_same(self.asked("pair", case), case["answer"])
        # A context of a thousand characters is read in windows of what was traced.
        long = [case for case in of_bert if len(case["context"]) > 1000]
        self.assertTrue(long, "no context is long")
        for case in long:
            windows = {**case, "options": {**case["options"], "max_seq_len": LENGTH}}
            self.assert_same(self.asked("qa", case), self.asked("any", windows))

    def test_rows_are_filled_up_where_they_must_be_and_batched_where_they_may(self):
        self.assertEqual((self.manifest("qa")["max_batch_size"], "padding" in self.manifest("qa")), (0, False))
        for name in ("any", "onnx", "embed", "saved"):
            told = self.manifest(name)
            self.assertGreater(told["max_batch_size"], 1, name)
            self.assertIn("padding", told, name)
        chosen = [case for case in cases("question_answering") if case["model"] == "bert-qa" and not case["options"]][:24]
        body = {"instances": [{"question": case["question"], "context": case["context"]} for case in chosen]}
        got = {}

        def ask(number):
            got[number] = self.server.ask("/v1/models/any:predict", body)

        product.at_once(ask, 4)
        for status, told in got.values():
            self.assertEqual(status, 200, told)
            self.assert_same(told["predictions"], [case["answer"] for case in chosen])

    def test_every_api_takes_words(self):
        case = REFERENCE["pairs"][0]
        query = urllib.parse.urlencode({"seq_0": case["question"], "seq_1": case["context"]})
        self.assertEqual(self.server.ask(f"/predictions/pair?{query}"), (200, {"detail": case["answer"]["answer"]}))
        for model, names in (("qa", NAMES), ("pair", [f"{name}__{at}" for at, name in enumerate(NAMES[:2])])):
            for library, client in oip_answers.clients(self.server):
                metadata, config = oip_answers.told(library, client, model)
                self.assertEqual([row["name"] for row in metadata["inputs"]], names)
                self.assertEqual(config["parameters"]["answers"]["string_value"], f"{model}:answers")
        columns = {name: [case[name].encode() for case in REFERENCE["pairs"]] for name in ("question", "context")}
        for library, client in oip_answers.clients(self.server):
            got = oip_answers.ask(library, client, "pair:answers", columns)
            self.assert_same(got, [case["answer"] for case in REFERENCE["pairs"]])
        answer = product.packhorse("predict", "pair", "--store", self.store, "--question", case["question"], "--context",
                                   case["context"], "--json")
        self.assert_same(json.loads(answer), case["answer"])

    def test_other_tasks(self):
        for task, model, name in (("text_classification", "bert-sequence", "sequence"), ("fill_mask", "bert-mlm", "mlm"),
                                  ("token_classification", "bert-token", "token")):
            chosen = [case for case in cases(task) if case["model"] == model and len(case["text"]) < 100][:12]
            self.assertTrue(chosen, task)
            for case in chosen:
                given = {"text": case["text"]} | ({"text_pair": case["text_pair"]} if case.get("text_pair") else {})
                status, got = self.server.ask(f"/predictions/{name}", {"inputs": given, "parameters": case["options"]})
                self.assertEqual(status, 200, got)
                # The reference tells a list of one as its only member.
                listed = isinstance(got["detail"], list) and isinstance(case["answer"], dict)
                self.assert_same(got["detail"], [case["answer"]] if listed else case["answer"])

    def test_vectors(self):
        client = openai.OpenAI(base_url=f"http://{self.server.http}/v1", api_key="none", max_retries=0)
        saved = json.loads((TRACED / "words.json").read_text(encoding="utf-8"))
        for model, told in (("embed", REFERENCE["vectors"]), ("saved", saved)):
            answer = client.embeddings.create(model=model, input=[case["text"] for case in told], encoding_format="float")
            for got, case in zip(answer.data, told, strict=True):
                np.testing.assert_allclose(got.embedding, case["vector"], atol=1e-5)
        # How near two texts are is told by every API.
        pairs = list(itertools.combinations(REFERENCE["vectors"], 2))[:3]
        rows = [{"text": one["text"], "text_pair": other["text"]} for one, other in pairs]
        want = [float(np.dot(one["vector"], other["vector"])) for one, other in pairs]
        for way, answers in every_api.texts(self.server, "similar", rows):
            with self.subTest(way):
                np.testing.assert_allclose([answer["score"] for answer in answers], want, atol=1e-5)

    def test_what_is_too_long_or_unknown_is_refused_and_the_next_is_answered(self):
        long = {"text": "The packhorse carried wool over the pass. " * 40}
        status, got = self.server.ask("/predictions/sequence", long)
        self.assertEqual(status, 400, got)
        self.assertIn("the model takes 128; shorten it, or ask with truncate = true", got["detail"])
        self.assertEqual(self.server.ask("/predictions/sequence?truncate=true", long)[0], 200)
        # What a client sends as tensors no tokenizer has looked at.
        client = tritonclient.http.InferenceServerClient(self.server.http)
        self.addCleanup(client.close)
        inputs = [tritonclient.http.InferInput(name, [1, 4], "INT64") for name in NAMES]
        for given, values in zip(inputs, ([2, 99_999, 5, 3], [1] * 4, [0] * 4), strict=True):
            given.set_data_from_numpy(np.array([values]))
        with self.assertRaisesRegex(Exception, "index out of range"):
            client.infer("any", inputs)
        self.assertEqual(self.server.ask("/v1/embeddings", {"model": "embed", "input": [99_999]})[0], 400)
        self.assert_same(self.asked("pair", REFERENCE["pairs"][0]), REFERENCE["pairs"][0]["answer"])

    def test_packs_travel_with_their_tokenizer(self):
        again = self.pack("qa", "question-answering", self.fixed)
        self.assertEqual((again["changed"], again["version"]), (False, 1))
        away, back = self.place / "away", self.place / "back"
        product.packhorse("push", self.store, away)
        product.packhorse("pull", away, back)
        self.assertEqual(self.manifest("pair")["files"].keys(), {"torch_script/model.pt", "tokenizer.json",
                                                                 "tokenizer_config.json"})
        product.packhorse("remove", "any", "--store", back)
        product.packhorse("gc", "--store", back, "--grace", "0")
        product.packhorse("verify", "--store", back)
        case = REFERENCE["pairs"][1]
        answer = product.packhorse("predict", "pair", "--store", back, "--question", case["question"], "--context",
                                   case["context"], "--json")
        self.assert_same(json.loads(answer), case["answer"])
        # Another tokenizer makes another model of the same file.
        alone = self.place / "own.toml"
        alone.write_text("[text]\ntokens-max = 64\n", encoding="utf-8")
        other = product.json_lines(product.packhorse(
            "pack", TRACED / "qa.pt", "--signature", self.fixed, "--task", "question-answering", "--tokenizer",
            TOKENIZER / "tokenizer.json", "--task-file", alone, "--store", back))[0]
        self.assertEqual((other["changed"], other["version"], other["task"]["text"]["tokens_max"]), (True, 2, 64))

    def test_what_cannot_be_is_refused_when_it_is_packed(self):
        larger = self.place / "larger.json"
        words = json.loads((TOKENIZER / "tokenizer.json").read_text(encoding="utf-8"))
        words["model"]["vocab"]["zebra"] = 5000
        larger.write_text(json.dumps(words), encoding="utf-8")
        odd = signature(self.place / "odd.toml", ["ids", "mask", "types"])
        places = signature(self.place / "places.toml", ["INPUT__0", "INPUT__1", "INPUT__2"])
        four = signature(self.place / "four.toml", batch=4)
        long = signature(self.place / "long.toml", length=600)
        named, wrong = self.place / "named.toml", self.place / "wrong.toml"
        wrong.write_text("[text]\nids = 'words'\n", encoding="utf-8")
        named.write_text("[text]\nids = 'INPUT__0'\nmask = 'INPUT__1'\ntypes = 'INPUT__2'\n", encoding="utf-8")
        (self.place / "empty").mkdir()
        questions, words = ("--task", "question-answering"), ("--tokenizer", TOKENIZER)
        for file, more, says in (
                ("qa.pt", ("--signature", self.fixed, *questions, "--tokenizer", larger), "refuses token 5000"),
                ("qa.pt", ("--signature", odd, *questions, *words), "input 'ids', and forward takes 'input_ids'"),
                ("qa.pt", ("--signature", places, *questions, *words), "is called input_ids; say which one takes token ids"),
                ("qa.pt", ("--signature", self.fixed, *questions, *words, "--task-file", wrong), "an input 'words'"),
                ("qa.pt", ("--signature", four, *questions, *words), "asked one by one"),
                ("qa.pt", ("--signature", long, *questions, *words), "refused them all"),
                ("qa.pt", ("--signature", self.any, *questions, "--tokenizer", TOKENIZER / "tokenizer.json"), "tokens-max"),
                ("qa.pt", ("--signature", self.fixed, *questions), "give its folder, or its tokenizer.json, as --tokenizer"),
                ("qa.pt", ("--signature", self.fixed, *words), "nothing says what it is for; give --task|say which one it is"),
                ("qa.pt", ("--signature", self.fixed, *questions, "--tokenizer", self.place / "empty"), "AutoTokenizer"),
                ("qa.pt", ("--signature", self.fixed, *questions, "--tokenizer", self.fixed), "tokenizer.json cannot be read"),
                ("qa.pt", ("--signature", self.fixed, "--task", "fill-mask", *words), "FP32 \\[1, 128, vocabulary\\]"),
                ("qa.pt", ("--signature", self.fixed, *questions, *words, "--head", "yolov8"), "mean nothing"),
                ("embed.pt", ("--signature", self.any, "--task", "sentence-embedding", *words), "say pooling = "),
                ("sequence.pt", ("--signature", self.fixed, *questions, *words), "where answers begin and end")):
            with self.subTest(says=says):
                self.assertRegex(refusal("pack", TRACED / file, *more, "--store", self.place / "none"), says)
        folder = self.folder_of("bert-qa")
        shutil.copy(FIXTURES / "models" / "bert-qa" / "model.safetensors", folder)
        self.assertIn("leave --task and --tokenizer out", refusal("pack", folder, *questions, *words, "--store",
                                                                   self.place / "none"))
        product.packhorse("pack", TRACED / "qa.pt", "--signature", places, *questions, *words, "--task-file", named, "--store",
                          self.place / "named")


if __name__ == "__main__":
    unittest.main()
