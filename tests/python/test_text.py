"""Text in, answers out, by every API: the public clients get what the reference library's pipelines answered.

The models, questions and answers are those of crates/pipeline/tests/fixtures/text, which scripts/make_text_fixtures.py made.
"""

import base64
import http.client
import json
import pathlib
import shutil
import tempfile
import unittest
import urllib.parse

import grpc
import numpy
import openai
import tritonclient.grpc
import tritonclient.http

import every_api
import oip_answers
import product
import tfs_stubs

FIXTURES = product.ROOT / "crates" / "pipeline" / "tests" / "fixtures" / "text"
MINILM = product.ROOT / ".cache" / "all-minilm-l6-v2"
TOKENIZERS = {"bert": "wordpiece", "roberta": "bytes", "xlm": "unigram"}
QUESTIONS = 24
# A body of ten megabytes may be there a few times at once, as bytes and as text; as much as would be left of all refused ones
# does not fit in here.
GROWTH_BYTES_MAX = 64 << 20
TIMES = 4
# What is asked by every API: the reference's cases, their model, and the options of those that are taken.
EVERY = [
    ("question_answering", "bert-qa", {}),
    ("question_answering", "bert-qa", {"top_k": 3}),
    ("question_answering", "bert-qa", {"align_to_words": False}),
    ("text_classification", "bert-sequence", {}),
    ("text_classification", "bert-sequence", {"function_to_apply": "none", "top_k": 2}),
    ("token_classification", "bert-token", {"aggregation_strategy": "none"}),
    ("token_classification", "bert-token", {"aggregation_strategy": "average"}),
    ("fill_mask", "bert-mlm", {}),
    ("fill_mask", "bert-mlm", {"top_k": 2}),
    ("embedding", "minilm", {}),
]
NAMES = ("question", "context", "text", "text_pair")
ROWS = 3
# The longest of them are for other tests: a query has to hold these.
LENGTH_MAX = 400


def cases(task):
    """What was asked of the reference, and what it answered."""
    return json.loads((FIXTURES / f"{task}.json").read_text(encoding="utf-8"))


def folder_of(place, model):
    """The Hugging Face folder of a fixture: its model and the tokenizer of its family."""
    folder = place / model
    folder.mkdir()
    for source in (FIXTURES / "models" / model, FIXTURES / "tokenizers" / TOKENIZERS[model.split("-")[0]]):
        for file in source.iterdir():
            shutil.copy(file, folder / file.name)
    return folder


def same(got, want):
    """Whether both say the same, scores within what another order of additions makes of them."""
    if isinstance(want, dict):
        return isinstance(got, dict) and got.keys() == want.keys() and all(same(got[key], want[key]) for key in want)
    if isinstance(want, list):
        return isinstance(got, list) and len(got) == len(want) and all(map(same, got, want))
    if isinstance(want, float):
        return abs(got - want) <= 2e-4 * max(abs(want), 0.01)
    return got == want


class Text(unittest.TestCase):
    """One server with a model for each task."""

    @classmethod
    def setUpClass(cls):
        place = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="packhorse-text-")))
        store = place / "store"
        models = {"bert-qa": None, "bert-sequence": None, "bert-token": None, "bert-mlm": None, "minilm": MINILM}
        for name, folder in models.items():
            product.packhorse("pack", folder or folder_of(place, name), "--store", store, "--name", name)
        cls.server = cls.enterClassContext(product.Server(store))
        plain = [case for case in cases("question_answering") if case["model"] == "bert-qa" and not case["options"]]
        cls.questions = plain[:QUESTIONS]
        cls.vectors = cases("embedding")["vectors"][:8]

    def assert_same(self, got, want):
        self.assertTrue(same(got, want), f"{got} is not {want}")


class Answers(Text):
    def test_the_packing_systems_own_call(self):
        for case in self.questions:
            query = urllib.parse.urlencode({"seq_0": case["question"], "seq_1": case["context"]})
            status, got = self.server.ask(f"/predictions/bert-qa?{query}")
            self.assertEqual((status, got), (200, {"detail": case["answer"]["answer"]}), case)

    def test_nothing_asked_is_a_question_of_its_own(self):
        status, got = self.server.ask("/predictions/bert-qa")
        self.assertEqual(status, 200)
        self.assertIsInstance(got["detail"], str)

    def test_predictions_of_several(self):
        inputs = [{"question": case["question"], "context": case["context"]} for case in self.questions]
        status, got = self.server.ask("/predictions/bert-qa", {"inputs": inputs})
        self.assertEqual(status, 200, got)
        self.assert_same(got["detail"], [case["answer"] for case in self.questions])

    def test_predict_by_rows_and_by_columns(self):
        rows = [{"question": case["question"], "context": case["context"]} for case in self.questions]
        columns = {name: [row[name] for row in rows] for name in ("question", "context")}
        want = [case["answer"] for case in self.questions]
        for body, key in (({"instances": rows}, "predictions"), ({"inputs": columns}, "outputs")):
            status, got = self.server.ask("/v1/models/bert-qa:predict", body)
            self.assertEqual(status, 200, got)
            self.assert_same(got[key], want)

    def test_strings_by_the_open_inference_protocol(self):
        texts = {name: numpy.array([case[name].encode() for case in self.questions], dtype=object)
                 for name in ("question", "context")}
        for library, address in ((tritonclient.http, self.server.http), (tritonclient.grpc, self.server.grpc)):
            client = library.InferenceServerClient(address)
            inputs = []
            for name, column in texts.items():
                inputs.append(library.InferInput(name, column.shape, "BYTES"))
                inputs[-1].set_data_from_numpy(column)
            answers = client.infer("bert-qa", inputs).as_numpy("answers")
            self.assert_same([json.loads(answer) for answer in answers], [case["answer"] for case in self.questions])
            client.close()

    def test_what_a_second_name_lists_is_what_is_sent_and_what_comes_back(self):
        columns = {name: [case[name].encode() for case in self.questions] for name in ("question", "context")}
        texts, pairs = [b"The pass is open.", b"Nobody knows."], [b"It was closed.", b"She asked."]
        for library, client in oip_answers.clients(self.server):
            answers = oip_answers.ask(library, client, "bert-qa:answers", columns)
            self.assert_same(answers, [case["answer"] for case in self.questions])
            for model, columns_of in (("bert-sequence", {"text": texts}), ("bert-sequence", {"text": texts, "text_pair": pairs}),
                                      ("bert-token", {"text": texts}), ("bert-mlm", {"text": [b"The [MASK] is open."]}),
                                      ("minilm", {"text": texts})):
                rows = [{name: column[row].decode() for name, column in columns_of.items()}
                        for row in range(len(columns_of["text"]))]
                _, want = self.server.ask(f"/predictions/{model}", {"inputs": rows})
                self.assert_same(oip_answers.ask(library, client, f"{model}:answers", columns_of), want["detail"])
            body = {"inputs": [text.decode() for text in texts], "parameters": {"aggregation_strategy": "simple"}}
            _, want = self.server.ask("/predictions/bert-token", body)
            got = oip_answers.ask(library, client, "bert-token:answers", {"text": texts}, aggregation_strategy="simple")
            self.assert_same(got, want["detail"])
            self.assertEqual(len(oip_answers.ask(library, client, "bert-qa:answers", columns, top_k=3)[0]), 3)
            with self.assertRaisesRegex(Exception, "'colour'"):
                oip_answers.ask(library, client, "minilm:answers", {"text": texts}, colour="red")

    def test_by_its_own_name_a_model_is_its_tensors(self):
        for library, client in oip_answers.clients(self.server):
            for model, task in (("bert-qa", "question-answering"), ("minilm", "sentence-embedding")):
                metadata, config = oip_answers.told(library, client, model)
                for row in metadata["inputs"] + metadata["outputs"]:
                    self.assertIn(row["datatype"], ("INT64", "FP32"), model)
                # Where its answers are found is told without a tensor that clients of tensors would stumble over.
                parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
                self.assertEqual(parameters, {"task": task, "answers": f"{model}:answers"})
                self.assertTrue(client.is_model_ready(model) and client.is_model_ready(f"{model}:answers"))
                statistics = client.get_inference_statistics(f"{model}:answers")
                row = (statistics["model_stats"] if library is tritonclient.http else statistics.model_stats)[0]
                self.assertEqual(row["name"] if library is tritonclient.http else row.name, f"{model}:answers")
            self.assertFalse(client.is_model_ready("nobody:answers"))
            ids = library.InferInput("input_ids", [1, 4], "INT64")
            ids.set_data_from_numpy(numpy.array([[2, 31, 42, 3]]))
            with self.assertRaisesRegex(Exception, "'input_ids' is INT64.*'question', 'context'.*tensors as 'bert-qa'"):
                client.infer("bert-qa:answers", [ids])
            text = library.InferInput("text", [1], "BYTES")
            text.set_data_from_numpy(numpy.array([b"a"], dtype=object))
            with self.assertRaisesRegex(Exception, "'logits'|'answers', and not"):
                client.infer("minilm:answers", [text], outputs=[library.InferRequestedOutput("logits")])
            with self.assertRaisesRegex(Exception, "nobody"):
                client.get_model_metadata("nobody:answers")

    def test_every_api_answers_as_the_reference_does(self):
        for task, model, options in EVERY:
            told = cases(task)["vectors"] if task == "embedding" else cases(task)
            told = [case for case in told if case.get("model", model) == model and case.get("options", {}) == options
                    and sum(len(case.get(name) or "") for name in NAMES) <= LENGTH_MAX]
            self.assertTrue(told, f"{task}: nothing is asked with {options}")
            # Of one text, and of two where the task takes them.
            for paired in {bool(case.get("text_pair")) for case in told}:
                chosen = [case for case in told if bool(case.get("text_pair")) == paired][:ROWS]
                want = [case["vector"] if task == "embedding" else case["answer"] for case in chosen]
                rows = [{name: case[name] for name in NAMES if case.get(name)} for case in chosen]
                for way, answers in every_api.texts(self.server, model, rows, **options):
                    with self.subTest(way, task=task, paired=paired, **options):
                        if task == "embedding":
                            numpy.testing.assert_allclose(answers, want, atol=1e-5)
                            continue
                        # The reference tells a list of one as its only member.
                        alone = [one[0] if isinstance(one, list) and isinstance(other, dict) else one
                                 for one, other in zip(answers, want, strict=True)]
                        self.assert_same(alone, want)

    def test_other_tasks(self):
        for task, model in (("text_classification", "bert-sequence"), ("token_classification", "bert-token"),
                            ("fill_mask", "bert-mlm")):
            chosen = [case for case in cases(task) if case["model"] == model and not case.get("text_pair")][:12]
            self.assertTrue(chosen, task)
            for case in chosen:
                body = {"inputs": case["text"], "parameters": case["options"]}
                status, got = self.server.ask(f"/predictions/{model}", body)
                self.assertEqual(status, 200, got)
                # The reference tells a list of one as its only member.
                listed = isinstance(got["detail"], list) and isinstance(case["answer"], dict)
                self.assert_same(got["detail"], [case["answer"]] if listed else case["answer"])

    def test_embeddings_by_openais_client(self):
        texts = [case["text"] for case in self.vectors]
        with openai.OpenAI(base_url=f"http://{self.server.http}/v1", api_key="none", max_retries=0) as client:
            # Without a word about it, the client asks for base64 and decodes it.
            for asked in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
                got = client.embeddings.create(model="minilm", input=texts, user="somebody", **asked)
                self.assertEqual((got.object, got.model), ("list", "minilm"))
                self.assertEqual([one.index for one in got.data], list(range(len(texts))))
                for one, case in zip(got.data, self.vectors, strict=True):
                    vector = one.embedding
                    if isinstance(vector, str):
                        vector = numpy.frombuffer(base64.b64decode(vector), dtype="<f4")
                    numpy.testing.assert_allclose(vector, case["vector"], atol=1e-5)
                self.assertGreater(got.usage.prompt_tokens, len(texts))
            with self.assertRaisesRegex(openai.NotFoundError, "nobody") as refused:
                client.embeddings.create(model="nobody", input="a")
            self.assertEqual(refused.exception.code, "model_not_found")
            with self.assertRaisesRegex(openai.BadRequestError, "question-answering"):
                client.embeddings.create(model="bert-qa", input="a")


class Refusals(Text):
    """Each by its status and a word of its reason; the server goes on, and is no larger for it."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # What right texts take is no part of it.
        for model, body in (("minilm", "Hello"), ("bert-qa", {"question": "what", "context": "a pass"}), ("bert-mlm", "a [MASK]")):
            status, told = cls.server.ask(f"/predictions/{model}", body)
            if status != 200:
                raise AssertionError(told)
        cls.enterClassContext(cls.server.growing_at_most(GROWTH_BYTES_MAX))

    def check(self, path, body, status, says, kind="application/json"):
        got, told = self.server.ask(path, body, kind)
        self.assertEqual(got, status, told)
        self.assertIn(says, json.dumps(told))

    def test_ten_megabytes_of_text(self):
        text = "the packhorse carried wool " * (10 * 2**20 // 27)
        for _ in range(TIMES):
            self.check("/predictions/bert-qa", {"question": "what", "context": text}, 400, "bytes")
            self.check("/v1/models/minilm:predict", {"instances": [text]}, 400, "bytes")
            self.check("/v1/embeddings", {"model": "minilm", "input": text}, 400, "bytes")

    def test_what_is_no_text(self):
        self.check("/predictions/minilm", b'{"text": "\xff"}', 400, "UTF-8")
        self.check("/predictions/minilm", b"\xff\xfe", 400, "UTF-8", "text/plain")
        self.check("/v1/embeddings", b'{"model": "minilm", "input": "\xff"}', 400, "the body")
        client = tritonclient.http.InferenceServerClient(self.server.http)
        column = tritonclient.http.InferInput("text", [2], "BYTES")
        column.set_data_from_numpy(numpy.array([b"fine", b"\xff"], dtype=object))
        with self.assertRaisesRegex(Exception, "element 1 is no UTF-8"):
            client.infer("minilm", [column])
        client.close()

    def test_a_picture_where_text_is_wanted(self):
        picture = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
        self.check("/v1/models/minilm:predict", {"instances": [{"b64": picture}]}, 400, "takes text")
        self.check("/predictions/minilm", base64.b64decode(picture), 400, "UTF-8", "image/png")

    def test_what_the_task_does_not_know(self):
        self.check("/predictions/bert-qa", {"question": "what"}, 400, "context")
        self.check("/predictions/bert-mlm", {"text": "no hole"}, 400, "no hole")
        self.check("/predictions/minilm", {"text": "a", "colour": "red"}, 400, "colour")
        self.check("/v1/embeddings", {"model": "bert-qa", "input": "a"}, 400, "question-answering")
        self.check("/v1/embeddings", {"model": "nobody", "input": "a"}, 404, "model_not_found")
        self.check("/predictions/nobody", {"text": "a"}, 404, "nobody")

    def test_tensorflow_servings_calls_over_grpc_take_tensors_alone(self):
        stub = tfs_stubs.api("prediction_service_pb2_grpc").PredictionServiceStub(
            self.enterContext(grpc.insecure_channel(self.server.grpc)))
        predict_pb2 = tfs_stubs.api("predict_pb2")
        for model, name, says in (("minilm", "text", "no input 'text'; it has 'input_ids'"),
                                  ("minilm", "input_ids", "wants datatype INT64, but the request has BYTES")):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model
            request.inputs[name].dtype = tfs_stubs.DataType["DT_STRING"].number
            request.inputs[name].tensor_shape.dim.add(size=1)
            request.inputs[name].string_val.append(b"Hello")
            with self.assertRaises(grpc.RpcError) as refused:
                stub.Predict(request, timeout=product.START_SECONDS_MAX)
            self.assertEqual(refused.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
            self.assertIn(says, refused.exception.details())

    def test_it_still_answers(self):
        connection = http.client.HTTPConnection(self.server.http, timeout=60)
        for _ in range(3):
            connection.request("POST", "/predictions/minilm", b'"Hello"', {"content-type": "application/json"})
            answer = connection.getresponse()
            self.assertEqual((answer.status, len(json.load(answer)["detail"])), (200, 384))
        connection.close()
