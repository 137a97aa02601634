"""Pictures in, boxes out, by every API: each of them says the same of a frame of the bundled clip."""

import json
import pathlib
import struct
import subprocess
import tempfile
import unittest
import urllib.request
import zlib

import every_api
import oip_answers
import product

# Where two runs of the same model may differ: batches and threads add in another order.
TOLERANCE_PX = 0.05
# One bomb is 7 GiB, and the frame that is cut off 1.3 MiB: were it kept each time that it is refused, they would not fit in here,
# and what allocators keep at hand does several times.
GROWTH_BYTES_MAX = 64 << 20
TIMES = 64


def frame(place, name, *how):
    """A frame of the clip, in the format that `name` ends in."""
    file = place / name
    subprocess.run(["ffmpeg", "-nostdin", "-v", "error", "-ss", "10", "-i", product.ASSETS / "street.mp4", "-frames:v", "1",
                    *how, file], check=True)
    return file.read_bytes()


def chunk(kind, body):
    """A chunk of a PNG file (PNG specification, 5.3)."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb():
    """The head of a PNG file that would be 50,000 by 50,000 pixels."""
    size = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


class Pictures(unittest.TestCase):
    """One server with a detector, and a model of texts beside it."""

    @classmethod
    def setUpClass(cls):
        cls.place = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="packhorse-pictures-")))
        cls.store = cls.place / "store"
        product.packhorse("pack", product.ASSETS / "nanodet_g_coco80.onnx", "--store", cls.store, "--name", "detector",
                          "--task", "object-detection", "--labels", product.ASSETS / "coco80.txt")
        texts = product.ROOT / "crates" / "store" / "tests" / "fixtures" / "hf" / "bert-qa"
        product.packhorse("pack", texts, "--store", cls.store, "--name", "texts")
        cls.png = frame(cls.place, "street.png")
        cls.jpeg = frame(cls.place, "street.jpg", "-q:v", "2")
        cls.server = cls.enterClassContext(product.Server(cls.store))

    def assert_same(self, got, want):
        self.assertEqual([one["label"] for one in got], [one["label"] for one in want])
        for one, other in zip(got, want, strict=True):
            self.assertAlmostEqual(one["score"], other["score"], delta=1e-3)
            for side in ("xmin", "ymin", "xmax", "ymax"):
                self.assertAlmostEqual(one["box"][side], other["box"][side], delta=TOLERANCE_PX)


class Answers(Pictures):
    def want(self):
        """What the terminal says."""
        said = product.packhorse("predict", "detector", "--store", self.store, "--image", self.place / "street.png", "--json")
        return json.loads(said)

    def test_every_way_says_the_same(self):
        want = self.want()
        self.assertIn("person", {one["label"] for one in want})
        for way, answers in every_api.pictures(self.server, "detector", [self.png, self.png]):
            with self.subTest(way):
                self.assertEqual(len(answers), 2)
                for answer in answers:
                    self.assert_same(answer, want)

    def test_what_a_second_name_lists_is_what_is_sent_and_what_comes_back(self):
        want = self.want()
        for library, client in oip_answers.clients(self.server):
            [metadata, _] = oip_answers.told(library, client, "detector")
            self.assertEqual([row["datatype"] for row in metadata["inputs"]], ["FP32"])
            for answer in oip_answers.ask(library, client, "detector:answers", {"image": [self.png, self.png]}):
                self.assert_same(answer, want)
            surer = oip_answers.ask(library, client, "detector:answers", {"image": [self.png]}, threshold=want[0]["score"] - 0.01)
            self.assertTrue(1 <= len(surer[0]) < len(want))
        # A body without JSON is the one input of its model.
        request = urllib.request.Request(f"http://{self.server.http}/v2/models/detector:answers/infer", self.png,
                                         {"inference-header-content-length": "0"})
        with urllib.request.urlopen(request, timeout=product.START_SECONDS_MAX) as answer:
            length, body = int(answer.headers["inference-header-content-length"]), answer.read()
        self.assertEqual(json.loads(body[:length])["outputs"][0]["name"], "answers")
        self.assert_same(json.loads(body[length + 4:]), want)

    def test_a_threshold_leaves_the_surer_ones(self):
        want = self.want()
        # Between two of them that are far apart, so that rounding moves none across it.
        scores = sorted(one["score"] for one in want)
        least = max(range(1, len(scores)), key=lambda at: scores[at] - scores[at - 1])
        threshold = (scores[least] + scores[least - 1]) / 2
        for way, (answer,) in every_api.pictures(self.server, "detector", [self.png], threshold=threshold):
            with self.subTest(way):
                self.assert_same(answer, [one for one in want if one["score"] > threshold])

    def test_a_jpeg_and_what_is_drawn_of_it(self):
        status, got = self.server.ask("/predictions/detector", self.jpeg, "image/jpeg")
        self.assertEqual(status, 200, got)
        self.assertIn("person", {one["label"] for one in got["detail"]})
        drawn = self.place / "drawn.png"
        product.packhorse("predict", "detector", "--store", self.store, "--image", self.place / "street.jpg", "--draw", drawn)
        self.assertEqual(drawn.read_bytes()[:8], b"\x89PNG\r\n\x1a\n")
        # The same picture with boxes on it: as large, and not the same.
        self.assertEqual(drawn.read_bytes()[16:24], self.png[16:24])
        self.assertNotEqual(drawn.read_bytes(), self.png)


class Refusals(Pictures):
    """Each by its status and a word of its reason; the server goes on, and is no larger for it."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # What a right picture takes is no part of it.
        status, told = cls.server.ask("/predictions/detector", cls.png, "image/png")
        if status != 200:
            raise AssertionError(told)
        cls.enterClassContext(cls.server.growing_at_most(GROWTH_BYTES_MAX))

    def test_what_is_no_picture(self):
        for body, kind, says in TIMES * (
            (bomb(), "image/png", "50000"),
            (self.jpeg[: len(self.jpeg) // 2], "image/jpeg", "picture"),
            (self.png[:1000], "image/png", "picture"),
            (b"a text", "image/png", "picture"),
            ({"image": "no base64!"}, "application/json", "base64"),
        ):
            status, told = self.server.ask("/predictions/detector", body, kind)
            self.assertEqual(status, 400, told)
            self.assertIn(says, json.dumps(told))
        status, told = self.server.ask("/predictions/texts", self.png, "image/png")
        self.assertEqual(status, 400, told)
        self.assertIn("text", json.dumps(told))
        status, told = self.server.ask("/predictions/detector", self.png, "image/png")
        self.assertEqual(status, 200, told)


if __name__ == "__main__":
    unittest.main()
