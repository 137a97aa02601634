"""Every detector's head: told when it is packed, and its boxes in a video are those of an independent reading."""

import pathlib
import subprocess
import tempfile
import unittest

import numpy as np
import onnx
from PIL import Image, ImageDraw

import detector_models
import frames
import product
import reference_nanodet

SCORE_MIN = 0.5
# Ties of equal boxes and the decoder's rounding of colours leave this much.
SCORE_TOLERANCE = 0.02
BOX_TOLERANCE_PX = 1.0
LABELS = "red\ngreen\nblue\n"


def scene(size):
    """Coloured things on grey, in places that every box of which is known."""
    picture = Image.new("RGB", size, (96, 96, 96))
    draw = ImageDraw.Draw(picture)
    width, height = size
    draw.rectangle([width * 0.06, height * 0.1, width * 0.32, height * 0.45], fill=(255, 0, 0))
    draw.rectangle([width * 0.55, height * 0.2, width * 0.8, height * 0.6], fill=(0, 255, 0))
    draw.rectangle([width * 0.3, height * 0.7, width * 0.5, height * 0.95], fill=(0, 0, 255))
    return picture


class Heads(unittest.TestCase):
    """Made models, one a head."""

    def setUp(self):
        self.place = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="packhorse-heads-")))
        self.labels = self.place / "labels.txt"
        self.labels.write_text(LABELS, encoding="utf-8")

    def _pack(self, head, *flags, make=None):
        path = self.place / f"{head}.onnx"
        onnx.save((make or detector_models.HEADS[head])(), str(path))
        line = product.packhorse("pack", path, "--store", self.place / "store", "--task", "object-detection",
                                 "--labels", self.labels, *flags)
        return path, product.json_lines(line)[0]

    def _worked(self, head, video):
        queue, output = self.place / f"{head}.db", self.place / f"{head}-out"
        tasks = product.json_lines(product.packhorse("submit", video, "--queue", queue, "--model", head,
                                                     "--threshold", SCORE_MIN))
        product.packhorse("work", "--queue", queue, "--store", self.place / "store", "--output", output, "--mode",
                          "drain-once")
        return frames.read_results(output / tasks[0]["id"] / "results.jsonl")[0]

    def _partner(self, detection, others):
        return any(detection["class"] == other["class"] and abs(detection["score"] - other["score"]) <= SCORE_TOLERANCE
                   and np.abs(np.subtract(detection["box_px"], other["box_px"])).max() <= BOX_TOLERANCE_PX
                   for other in others)

    def _check(self, head, size):
        path, packed = self._pack(head)
        self.assertEqual(packed["task"]["head"], head)
        picture = scene(size)
        picture.save(self.place / "scene.png")
        video = self.place / f"{head}.mkv"
        subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-i", self.place / "scene.png", "-vf", "format=gbrp",
                        "-c:v", "ffv1", video], check=True)
        tensor, place = detector_models.prepare(head, picture)
        outputs = reference_nanodet.session(path).run(None, {"images": tensor})
        theirs = detector_models.detections(head, outputs, place, size, SCORE_MIN)
        ours = self._worked(head, video)
        self.assertEqual({found["class"] for found in theirs}, {0, 1, 2}, "the reference sees too little")
        sure = SCORE_MIN + SCORE_TOLERANCE
        alone = lambda some, others: [each for each in some if each["score"] >= sure and not self._partner(each, others)]
        self.assertEqual(alone(ours, theirs), [], "found by the worker alone")
        self.assertEqual(alone(theirs, ours), [], "missed by the worker")

    def test_wide_pictures(self):
        for head in detector_models.HEADS:
            with self.subTest(head):
                self._check(head, (640, 352))

    def test_what_is_asked_for_must_fit(self):
        for head, asked in (("yolov8", "yolov5"), ("yolov5", "yolov8"), ("yolox", "yolov5"), ("detr", "rt-detr"),
                            ("rt-detr", "detr"), ("yolov10", "yolox")):
            with self.subTest(f"{head} as {asked}"), self.assertRaisesRegex(AssertionError, f"not the head {asked}"):
                self._pack(head, "--head", asked)

    def test_what_fits_several_is_asked_for(self):
        # A name more than the one class of YOLO v5 would rule it out.
        self.labels.write_text("thing\n", encoding="utf-8")
        with self.assertRaisesRegex(AssertionError, "fit yolov5 and yolov10 alike; say which with --head"):
            self._pack("either", make=detector_models.ambiguous)
        for head in ("yolov5", "yolov10"):
            with self.subTest(head):
                _, packed = self._pack(f"either-{head}", "--head", head, make=detector_models.ambiguous)
                self.assertEqual(packed["task"]["head"], head)


if __name__ == "__main__":
    unittest.main()
