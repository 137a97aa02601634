"""The clients of the systems replaced go on as they were: what they send and read on the wire is made again by old_clients.py.

Questions and answers are those of the reference library, detections those of a plain ONNX Runtime.
"""

import ast
import collections
import pathlib
import shutil
import tempfile
import unittest

import numpy as np

import frames
import old_clients
import product
import reference_nanodet
import reference_odapi
import test_text

MODELS = 3
REQUESTS = 60
FRAMES = 6
# What is asked where nobody asks anything; see crates/serve/src/http/tfs/packing.rs.
DEFAULT_QUESTION = ("What does a packhorse carry?",
                    "On narrow mountain paths no cart could pass. There a packhorse would carry wool, salt and letters from one "
                    "valley to the next, in all weathers and on little hay.")
CONFIGURATION = f"""huggingface_model_name=acme/squad
huggingface_tokenizer_class=BertTokenizer
huggingface_model_class=BertForQuestionAnswering
processor=cpu
sequence_length=128
num_models={MODELS}
service_port=8080
"""


class OldSystems(unittest.TestCase):
    """One server with what both systems had: models for questions by number, and a detector called default."""

    @classmethod
    def setUpClass(cls):
        cls.place = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="packhorse-old-")))
        store = cls.place / "store"
        shutil.move(test_text.folder_of(cls.place, "bert-qa"), cls.place / "squad")
        (cls.place / "config.properties").write_text(CONFIGURATION, encoding="utf-8")
        product.packhorse("pack", "--from", cls.place / "config.properties", "--store", store)
        # That it knows what it is for as well changes nothing for who sends tensors.
        product.packhorse("pack", reference_odapi.MODEL, "--store", store, "--name", "default", "--task", "object-detection",
                          "--labels", product.ASSETS / "person.txt")
        cls.server = cls.enterClassContext(product.Server(store))
        cls.packing = old_clients.Packing(cls.server.http, MODELS)
        asked = [case for case in test_text.cases("question_answering") if case["model"] == "bert-qa" and not case["options"]]
        cls.asked = [((case["question"], case["context"]), case["answer"]["answer"]) for case in asked]

    def test_one_model_after_the_other(self):
        self.assertTrue(self.packing.healthy())
        for question, answer in self.asked[:8]:
            self.assertEqual(self.packing.sequential(*question), [answer] * MODELS, question)

    def test_models_at_random(self):
        question, answer = self.asked[8]
        for number, got in self.packing.randomly(REQUESTS, *question):
            self.assertEqual(got, answer, f"model{number}")

    def test_a_closed_loop_of_two_threads(self):
        question, answer = self.asked[9]
        got = self.packing.benchmark(REQUESTS, *question)
        # None is lost and none is another's.
        self.assertEqual(collections.Counter(got), {(number, answer): REQUESTS // MODELS for number in range(MODELS)})

    def test_a_bare_call_asks_the_question_that_is_built_in(self):
        answer = self.packing.ask("model0", *DEFAULT_QUESTION)
        self.assertTrue(answer)
        self.assertEqual(self.packing.sequential(), [answer] * MODELS)
        self.assertEqual(collections.Counter(self.packing.benchmark(REQUESTS)),
                         {(number, answer): REQUESTS // MODELS for number in range(MODELS)})

    def test_a_model_that_is_not_there(self):
        with self.assertRaisesRegex(ValueError, f'^404: {{"detail":".*model{MODELS}'):
            self.packing.ask(f"model{MODELS}")

    def test_the_videos_worker(self):
        street, labels = product.ASSETS / "street.mp4", {0: "nothing", 1: "person"}
        size = frames.size_px(street)
        pictures = list(frames.decode(street, [], size, FRAMES))
        worker = old_clients.Video(self.server.http, labels)
        session = reference_nanodet.session(reference_odapi.MODEL)
        persons = 0
        # A frame a call, and then several in one.
        for some in ([picture] for picture in pictures), [pictures]:
            lines = [line for call in some for line in worker.lines(call)]
            self.assertEqual(len(lines), FRAMES)
            for line, picture in zip(lines, pictures, strict=True):
                _, scores, classes, count = session.run(reference_odapi.OUTPUTS, {"image_tensor:0": picture[np.newaxis]})
                got = ast.literal_eval(line)
                self.assertEqual(len(got), int(count[0]))
                np.testing.assert_allclose([score for _, score in got], scores[0][: len(got)], atol=1e-4)
                # Equal scores may come in another order.
                sure = [number for number, score in enumerate(scores[0][: len(got)]) if score >= 0.3]
                self.assertEqual([got[number][0] for number in sure], [labels[int(classes[0][number])] for number in sure])
                persons += len(sure)
        self.assertGreater(persons, FRAMES, "the reference sees too little to prove anything")


if __name__ == "__main__":
    unittest.main()
