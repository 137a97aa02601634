"""The worker's detections on real video are those of a plain ONNX Runtime loop over the same decoded frames."""

import pathlib
import subprocess
import tempfile
import unittest

import frames
import product
import reference_nanodet
import reference_odapi

# A detection closer to the threshold may fall on either side of it.
SURE = reference_nanodet.SCORE_MIN + 2e-3
SCORE_TOLERANCE = 1e-3
BOX_TOLERANCE_PX = 0.5


# What rounding a frame to whole levels may move, where the model's own graph does not.
ROUNDED_SCORE, ROUNDED_BOX_PX = 0.05, 8


def _partner(detection, others, apart=(SCORE_TOLERANCE, BOX_TOLERANCE_PX)):
    """Whether one of `others` is the same detection, its score and its box no further apart than this."""
    return any(detection["class"] == other["class"] and abs(detection["score"] - other["score"]) <= apart[0]
               and max(abs(a - b) for a, b in zip(detection["box_px"], other["box_px"])) <= apart[1]
               for other in others)


def _alone(ours, theirs, score_min, *apart):
    """(frame, detection) for each of ours that is surely above the threshold and has no partner among theirs."""
    return [(index, detection) for index, (mine, other) in enumerate(zip(ours, theirs)) for detection in mine
            if detection["score"] >= score_min and not _partner(detection, other, *apart)]


class Detections(unittest.TestCase):
    """Each test takes a video from the queue to its results."""

    def setUp(self):
        self.place = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="packhorse-detections-")))

    def _worked(self, model, labels, video):
        """Packs, submits, drains, and reads what came out."""
        store, queue, output = (self.place / name for name in ("store", "queue.db", "output"))
        product.packhorse("pack", model, "--store", store, "--name", "detector", "--task", "object-detection",
                          "--labels", labels)
        tasks = product.json_lines(product.packhorse("submit", video, "--queue", queue, "--model", "detector"))
        self.assertEqual(len(tasks), 1)
        product.packhorse("work", "--queue", queue, "--store", store, "--output", output, "--mode", "drain-once")
        return frames.read_results(output / tasks[0]["id"] / "results.jsonl")

    def _compare(self, ours, reference, frame_count):
        theirs = list(reference)
        self.assertEqual((len(ours), len(theirs)), (frame_count, frame_count))
        self.assertGreater(sum(map(len, theirs)), frame_count, "the reference sees too little to prove anything")
        self.assertEqual(_alone(ours, theirs, SURE), [], "found by the worker alone")
        self.assertEqual(_alone(theirs, ours, SURE), [], "missed by the worker")

    def test_nanodet_on_the_whole_clip(self):
        video = product.ASSETS / "street.mp4"
        ours = self._worked(reference_nanodet.MODEL, product.ASSETS / "coco80.txt", video)
        self._compare(ours, reference_nanodet.run(video), 795)

    def test_object_detection_api_on_a_hundred_frames(self):
        video = self.place / "short.mp4"
        subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-i", product.ASSETS / "street.mp4", "-frames:v", "100",
                        "-c:v", "libx264", "-preset", "veryfast", "-crf", "20", video], check=True)
        ours = self._worked(reference_odapi.MODEL, product.ASSETS / "person.txt", video)
        self._compare(ours, reference_odapi.run(video, prepare=reference_odapi.scaled), 100)
        whole, sure = list(reference_odapi.run(video)), reference_nanodet.SCORE_MIN + ROUNDED_SCORE
        for mine, theirs in ((ours, whole), (whole, ours)):
            self.assertEqual(_alone(mine, theirs, sure, (ROUNDED_SCORE, ROUNDED_BOX_PX)), [])


if __name__ == "__main__":
    unittest.main()
