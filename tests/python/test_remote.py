"""A worker whose frames are inferred by a sidecar of another make: TensorFlow Serving's protocols over a plain ONNX Runtime."""

import json
import pathlib
import re
import subprocess
import tempfile
import unittest

import cluster
import frames
import product
import reference_odapi
from sidecar import NAME, Sidecar

FRAMES = 12
# The sidecar runs the graph as it is, the product what packing made of it.
TOLERANCE = 0.001


class Remote(unittest.TestCase):
    """Each test works the same video."""

    @classmethod
    def setUpClass(cls):
        cls.place = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="packhorse-remote-")))
        cls.video = cls.place / "short.mp4"
        subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-i", product.ASSETS / "street.mp4", "-frames:v", str(FRAMES),
                        "-c:v", "libx264", "-preset", "veryfast", "-crf", "20", cls.video], check=True)
        product.packhorse("pack", reference_odapi.MODEL, "--store", cls.place / "store", "--name", "detector", "--task",
                          "object-detection", "--labels", product.ASSETS / "person.txt")
        cls.here = cls.worked("here")[0]

    @classmethod
    def worked(cls, name, *options):
        """Detections by frame, and what became of frames."""
        queue, output = cls.place / f"{name}.sqlite", cls.place / name
        task = product.json_lines(product.packhorse("submit", cls.video, "--queue", queue, "--model", "detector"))[0]["id"]
        product.packhorse("work", "--queue", queue, "--store", cls.place / "store", "--output", output, "--mode",
                          "drain-once", *options)
        summary, cost = (json.loads((output / task / f"{name}.json").read_text()) for name in ("summary", "cost"))
        return frames.read_results(output / task / "results.jsonl"), summary, cost["spent"].get("remote")

    def compare(self, detections):
        """As those of the worker alone."""
        self.assertGreater(sum(map(len, self.here)), FRAMES)
        self.assertEqual([len(frame) for frame in detections], [len(frame) for frame in self.here])
        for ours, theirs in zip(self.here, detections):
            for one, other in zip(ours, theirs):
                self.assertEqual(one["class"], other["class"])
                self.assertAlmostEqual(one["score"], other["score"], delta=2e-3)
                for a, b in zip(one["box_px"], other["box_px"]):
                    self.assertAlmostEqual(a, b, delta=1.0)

    def test_every_frame_over_both_apis(self):
        for api, scheme in (("grpc", "tfs+grpc"), ("http", "tfs+http")):
            with self.subTest(api), Sidecar() as sidecar:
                url = f"{scheme}://{getattr(sidecar, api)}/{NAME}"
                detections, summary, remote = self.worked(
                    api, "--infer", url, "--infer-timeout", "60", "--infer-tolerance", TOLERANCE)
                self.compare(detections)
                self.assertEqual((remote["frames_remote"], remote["frames_local"], remote["calls"]), (FRAMES, 0, FRAMES))
                self.assertEqual(summary["inference"],
                                 {"tolerance": TOLERANCE, "frames_remote": FRAMES, "frames_local": 0})
                # One more to look at it.
                self.assertEqual(sidecar.answered[api], FRAMES + 1)

    def test_over_tls_to_whom_is_trusted_alone_and_with_a_token(self):
        files = [self.place / name for name in ("ca.pem", "server.pem", "server.key")]
        for path, content in zip(files, cluster.certificates()):
            path.write_bytes(content)
        authority, *tls = files
        token = self.place / "token"
        token.write_text("let-me-in\n")
        for api, scheme in (("grpc", "tfs+grpcs"), ("http", "tfs+https")):
            with self.subTest(api), Sidecar(tls=tls, entry="Bearer let-me-in") as sidecar:
                worker = ["--infer", f"{scheme}://{getattr(sidecar, api)}/{NAME}", "--infer-timeout", "60",
                          "--infer-tolerance", TOLERANCE]
                for missing, says in (([], "authority that is not trusted here: give .*--infer-ca"),
                                      (["--infer-ca", authority], "give a token that it takes as --infer-token-file")):
                    with self.assertRaisesRegex(AssertionError, f"left with 2(.|\n)*{re.escape(scheme)}://.* cannot .*{says}"):
                        self.worked(f"{api}-refused", *worker, *missing)
                self.assertEqual(sidecar.answered[api], 0)
                detections, _, remote = self.worked(
                    f"{api}-tls", *worker, "--infer-ca", authority, "--infer-token-file", token)
                self.compare(detections)
                self.assertEqual((remote["frames_remote"], remote["frames_local"], remote["calls"]), (FRAMES, 0, FRAMES))

    def test_a_sidecar_that_is_busy_is_asked_again(self):
        with Sidecar() as sidecar:
            worker = ["--infer", f"tfs+grpc://{sidecar.grpc}/{NAME}:7", "--infer-timeout", "60", "--infer-tolerance",
                      TOLERANCE, "--infer-in-flight", "1"]
            sidecar.run = _busy_after_the_first(sidecar, 2)
            detections, _, remote = self.worked("busy", *worker)
            self.compare(detections)
            self.assertEqual((remote["frames_remote"], remote["frames_local"]), (FRAMES, 0))
            self.assertEqual((remote["retries"], remote["calls"]), (2, FRAMES + 2))

    def test_another_version_is_not_there(self):
        with Sidecar() as sidecar:
            with self.assertRaisesRegex(AssertionError, "left with 2(.|\n)*cannot stand in for model 'detector': .*versions.8"):
                self.worked("other", "--infer", f"tfs+http://{sidecar.http}/{NAME}:8")


def _busy_after_the_first(sidecar, times):
    """`run`, after whose first call so many are refused: the look at the start goes well."""
    run = sidecar.run

    def first(pictures, api):
        sidecar.run, sidecar.busy = run, times
        return run(pictures, api)

    return first


if __name__ == "__main__":
    unittest.main()
