"""Four photographs of which everybody knows what they show, through every kind of detector, a classifier and a model that makes
vectors of them: answers are those of a plain ONNX Runtime and an independent reading of its outputs, and a cat is called a cat.

The photographs are scikit-image's; the set-up fetches them.
"""

import json
import pathlib
import platform
import tempfile
import unittest
import unittest.mock
import urllib.request

import numpy as np
import onnx
from PIL import Image

import detector_models
import efficientnet
import every_api
import product
import reference_nanodet
import reference_odapi
import test_saved_models

FOLDER = product.ROOT / ".cache" / "photographs"
WEIGHTS = product.ROOT / ".cache" / "efficientnet" / "efficientnet-lite0.pth"
# What everybody would say, in the words of COCO.
SHOWS = {"astronaut": "person", "chelsea": "cat", "coffee": "cup", "motorcycle_left": "motorcycle"}
# Classes of ImageNet of which the best must be one; it has no class for people.
IMAGENET = {"chelsea": {281: "tabby", 282: "tiger cat", 285: "Egyptian cat"},
            "coffee": {504: "coffee mug", 967: "espresso", 968: "cup"},
            "motorcycle_left": {665: "moped", 670: "motor scooter"}}
SCORE_MIN = 0.35
# So close a face is somebody to so small a model, and a cat only then.
SECOND = {"chelsea"}
# Of what sees coloured things in photographs there is little that is pure.
PURITY_MIN = 0.15
# Scaled pixels may differ by one (docs/pictures.md), and batches add in another order.
SCORE_TOLERANCE = 0.02
BOX_TOLERANCE_PX = 2.0
# The same of a vector, as a share of its length.
APART_MAX = 0.02
COLOURS = ("red", "green", "blue")
# The runtime of SavedModels is fetched for x86-64 alone.
TENSORFLOW = platform.machine() == "x86_64"


def _nanodet(outputs, size):
    """What the reference reads of NanoDet's outputs, down to the threshold that is asked for here."""
    with unittest.mock.patch.object(reference_nanodet, "SCORE_MIN", SCORE_MIN):
        return reference_nanodet.detections(outputs, *size)


class Photographs(unittest.TestCase):
    """One server with all of them."""

    @classmethod
    def setUpClass(cls):
        cls.place = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="packhorse-photographs-")))
        cls.store = cls.place / "store"
        cls._pack(reference_nanodet.MODEL, "nanodet", "--labels", product.ASSETS / "coco80.txt")
        cls._pack(reference_odapi.MODEL, "odapi", "--labels", product.ASSETS / "person.txt")
        if TENSORFLOW:
            test_saved_models.wrap_frozen(cls.place / "saved_model")
            cls._pack(cls.place / "saved_model", "saved-model", "--labels", product.ASSETS / "person.txt")
        colours = cls._file("colours.txt", "\n".join(COLOURS))
        for head, make in detector_models.HEADS.items():
            onnx.save(make(), str(cls.place / f"{head}.onnx"))
            cls._pack(cls.place / f"{head}.onnx", head, "--labels", colours)
        cls._pack_efficientnet()
        cls.pictures = {name: Image.open(FOLDER / f"{name}.png").convert("RGB") for name in SHOWS}
        cls.files = [(FOLDER / f"{name}.png").read_bytes() for name in SHOWS]
        cls.server = cls.enterClassContext(product.Server(cls.store))

    @classmethod
    def _file(cls, name, text):
        path = cls.place / name
        path.write_text(text, encoding="utf-8")
        return path

    @classmethod
    def _pack(cls, path, name, *flags, task="object-detection"):
        product.packhorse("pack", path, "--store", cls.store, "--name", name, *(("--task", task) if task else ()), *flags)

    @classmethod
    def _pack_efficientnet(cls):
        """As what it was trained for, and as what makes vectors of pictures: of length one, and as they come."""
        path = cls.place / "efficientnet.onnx"
        onnx.save(efficientnet.model(WEIGHTS), str(path))
        labels = {number: label for some in IMAGENET.values() for number, label in some.items()}
        labels = cls._file("imagenet.txt", "\n".join(f"{number}: {label}" for number, label in labels.items()))
        side, mean, std = efficientnet.SIDE_PX, [efficientnet.MEAN] * 3, [efficientnet.STD] * 3
        way_in = f"""
            [input]
            fit = {{ to = "crop", short = {efficientnet.SHORTER_PX}, width = {side}, height = {side} }}
            resample = "bicubic"
            scale = 1.0
            mean = {mean}
            std = {std}
            """
        for name, task, says, flags in (("classifier", "image-classification", 'scores = "softmax"', ("--labels", labels)),
                                        ("embedder", "image-embedding", "", ()),
                                        ("embedder-as-is", "image-embedding", "normalise = false", ())):
            cls._pack(path, name, "--task-file", cls._file(f"{name}.toml", says + way_in), *flags, task=task)

    def ask(self, model, name, **options):
        """What the server says of a photograph."""
        query = "&".join(f"{option}={value}" for option, value in options.items())
        request = urllib.request.Request(f"http://{self.server.http}/predictions/{model}?{query}",
                                         (FOLDER / f"{name}.png").read_bytes(), {"content-type": "image/png"})
        with urllib.request.urlopen(request, timeout=product.START_SECONDS_MAX) as answer:
            return json.load(answer)["detail"]

    def compare(self, ours, theirs, score_min):
        """That each has its partner, but for what is near the threshold."""
        def partner(found, others):
            return any(found["class"] == other["class"] and abs(found["score"] - other["score"]) <= SCORE_TOLERANCE
                       and np.abs(np.subtract(found["box_px"], other["box_px"])).max() <= BOX_TOLERANCE_PX
                       for other in others)

        def alone(some, others):
            return [found for found in some if found["score"] >= score_min + SCORE_TOLERANCE and not partner(found, others)]

        ours = [{"box_px": [found["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")], **found} for found in ours]
        self.assertEqual(alone(ours, theirs), [], "found by the server alone")
        self.assertEqual(alone(theirs, ours), [], "missed by the server")

    def test_nanodet_knows_what_they_show(self):
        session = reference_nanodet.session(reference_nanodet.MODEL)
        side = reference_nanodet.SIDE_PX
        for name, picture in self.pictures.items():
            with self.subTest(name):
                scaled = np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR), np.float32)[:, :, ::-1]
                tensor = ((scaled - reference_nanodet.MEAN) / reference_nanodet.STD).transpose(2, 0, 1)[np.newaxis]
                outputs = session.run(None, {"input_1:0": np.ascontiguousarray(tensor)})
                ours = self.ask("nanodet", name, threshold=SCORE_MIN)
                self.compare(ours, _nanodet(outputs, picture.size), SCORE_MIN)
                self.assertEqual(ours[1 if name in SECOND else 0]["label"], SHOWS[name])

    def test_the_object_detection_api_sees_people_and_nobody_else(self):
        session, score_min = reference_nanodet.session(reference_odapi.MODEL), reference_odapi.SCORE_MIN
        for name, picture in self.pictures.items():
            outputs = session.run(reference_odapi.OUTPUTS, {"image_tensor:0": np.asarray(picture)[np.newaxis]})
            theirs = reference_odapi.detections(outputs, *picture.size)
            # As an ONNX file, and as TensorFlow has it.
            for model in ("odapi", "saved-model") if TENSORFLOW else ("odapi",):
                with self.subTest(name, model=model):
                    ours = self.ask(model, name, threshold=score_min)
                    self.compare(ours, theirs, score_min)
                    seen = {found["label"] for found in ours}
                    self.assertEqual(seen, {"person"} if SHOWS[name] == "person" else set())

    def test_every_other_head_on_what_sees_colours(self):
        sessions = {head: reference_nanodet.session(self.place / f"{head}.onnx") for head in detector_models.HEADS}
        for head, session in sessions.items():
            seen = 0
            for name, picture in self.pictures.items():
                with self.subTest(head, picture=name):
                    tensor, place = detector_models.prepare(head, picture)
                    outputs = session.run(None, {"images": tensor})
                    theirs = detector_models.detections(head, outputs, place, picture.size, PURITY_MIN)
                    ours = self.ask(head, name, threshold=PURITY_MIN)
                    self.assertLess(len(ours), 300, "the most that is told of one picture")
                    self.compare(ours, theirs, PURITY_MIN)
                    self.assertLessEqual({found["label"] for found in ours}, set(COLOURS))
                    seen += len(theirs)
            self.assertGreater(seen, len(self.pictures), f"{head}: the reference sees too little to prove anything")

    def test_a_classifier_knows_what_they_show(self):
        session = reference_nanodet.session(self.place / "efficientnet.onnx")
        tensors = [efficientnet.prepare(picture) for picture in self.pictures.values()]
        scores = [efficientnet.scores(session.run(None, {"images": tensor})[0]) for tensor in tensors]
        for way, answers in every_api.pictures(self.server, "classifier", self.files, top_k=5):
            for name, ours, theirs in zip(SHOWS, answers, scores, strict=True):
                with self.subTest(name, way=way):
                    for found, number in zip(ours, np.argsort(-theirs), strict=False):
                        self.assertAlmostEqual(found["score"], theirs[number], delta=SCORE_TOLERANCE)
                    self.assertEqual(len(ours), 5)
                    if name in IMAGENET:
                        self.assertIn(ours[0]["label"], IMAGENET[name].values())

    def check_near(self, ours, theirs):
        """That each vector is nearly its partner."""
        self.assertEqual(np.shape(ours), theirs.shape)
        apart = np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)
        self.assertLess(apart.max(), APART_MAX)

    def test_vectors_are_those_of_the_plain_runtime(self):
        session = reference_nanodet.session(self.place / "efficientnet.onnx")
        prepared = [efficientnet.prepare(self.pictures[name]) for name in SHOWS]
        plain = np.concatenate([session.run(None, {"images": tensor})[0] for tensor in prepared])
        directions = plain / np.linalg.norm(plain, axis=1, keepdims=True)
        nearest = min(np.linalg.norm(directions[a] - directions[b]) for a in range(len(plain)) for b in range(a))
        self.assertGreater(nearest, 10 * APART_MAX, "the photographs are too alike to prove anything")
        for way, ours in every_api.pictures(self.server, "embedder", self.files):
            with self.subTest(way=way):
                self.check_near(ours, directions)
        self.check_near([self.ask("embedder-as-is", name) for name in SHOWS], plain)


if __name__ == "__main__":
    unittest.main()
