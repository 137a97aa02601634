"""Every form of a task's results says the same, and what is followed and counted is what the lines come to."""

import collections
import json
import pathlib
import re
import subprocess
import tempfile
import unittest

import duckdb

import product
import reference_nanodet

FRAMES = 100
WIDTH, HEIGHT = 768, 576
LINE_X = 0.5
FORMS = ["coco", "mot", "parquet", "webvtt", "rekognition", "annotated", "contact-sheet"]
PLACES = {"zones": [{"name": "left", "polygon": [[0, 0.4], [0.5, 0.4], [0.5, 1], [0, 1]]}],
          "lines": [{"name": "middle", "from": [LINE_X, 0], "to": [LINE_X, 1]}]}


def _seconds(clock):
    hours, minutes, seconds = clock.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


class Outputs(unittest.TestCase):
    """One video, worked once for all tests."""

    @classmethod
    def setUpClass(cls):
        place = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="packhorse-outputs-")))
        video, places = place / "short.mp4", place / "places.json"
        subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-i", product.ASSETS / "street.mp4", "-frames:v",
                        str(FRAMES), "-c:v", "libx264", "-preset", "veryfast", "-crf", "20", video], check=True)
        places.write_text(json.dumps(PLACES))
        store, queue, output = (place / name for name in ("store", "queue.db", "output"))
        product.packhorse("pack", reference_nanodet.MODEL, "--store", store, "--name", "detector", "--task",
                          "object-detection", "--labels", product.ASSETS / "coco80.txt")
        [task] = product.json_lines(product.packhorse(
            "submit", video, "--queue", queue, "--model", "detector", "--sample", "every:2", "--track", "--places", places,
            "--outputs", ",".join(FORMS)))
        product.packhorse("work", "--queue", queue, "--store", store, "--output", output, "--mode", "drain-once")
        cls.folder = output / task["id"]
        cls.lines = product.json_lines((cls.folder / "results.jsonl").read_text())
        cls.summary = json.loads((cls.folder / "summary.json").read_text())
        # (frame, class, score, box) of each detection, in order.
        cls.detections = [(line["frame"], one["class"], one["score"], one["box_px"])
                          for line in cls.lines for one in line["detections"]]

    def test_every_other_frame_is_looked_at(self):
        self.assertEqual([line["frame"] for line in self.lines], list(range(0, FRAMES, 2)))
        self.assertEqual((self.summary["frames"], self.summary["frames_looked"]), (FRAMES, FRAMES // 2))
        self.assertGreater(len(self.detections), FRAMES, "too little is seen to prove anything")

    def test_coco_has_the_lines_detections(self):
        coco = json.loads((self.folder / "coco.json").read_text())
        self.assertEqual([image["id"] for image in coco["images"]], [line["frame"] for line in self.lines])
        self.assertLessEqual({one["category_id"] for one in coco["annotations"]},
                             {category["id"] for category in coco["categories"]})
        self._same([(one["image_id"], one["category_id"], one["score"], one["bbox"]) for one in coco["annotations"]])

    def test_mot_has_the_lines_detections_and_tracks(self):
        rows = [[float(cell) for cell in row.split(",")] for row in (self.folder / "mot.txt").read_text().splitlines()]
        self._same([(row[0] - 1, None, row[6], row[2:6]) for row in rows])
        tracks = [one.get("track", -1) for line in self.lines for one in line["detections"]]
        self.assertEqual([int(row[1]) for row in rows], tracks)
        self.assertEqual(self.summary["tracks"], max(tracks))
        self.assertTrue(all(row[7:] == [-1, -1, -1] for row in rows))

    def test_parquet_has_the_lines_detections_tracks_and_zones(self):
        detections = duckdb.read_parquet(str(self.folder / "detections.parquet"))
        self.assertEqual(list(zip(detections.columns, map(str, detections.types))), [
            ("frame", "BIGINT"), ("pts_s", "DOUBLE"), ("label", "VARCHAR"), ("class", "BIGINT"), ("score", "FLOAT"),
            ("left_px", "FLOAT"), ("top_px", "FLOAT"), ("width_px", "FLOAT"), ("height_px", "FLOAT"), ("track", "BIGINT"),
            ("zones", "VARCHAR[]")])
        rows = detections.fetchall()
        # To as many places as the lines have; what is right and below is another sum there.
        self._same([(row[0], row[3], float(f"{row[4]:.4f}"), row[5:9]) for row in rows])
        got = [(f"{row[1]:.6f}", row[2], f"{row[5]:.2f}", f"{row[6]:.2f}", row[9], row[10]) for row in rows]
        want = [(f"{line['pts_s']:.6f}", one["label"], *(f"{side:.2f}" for side in one["box_px"][:2]), one.get("track"),
                 one.get("zones", [])) for line in self.lines for one in line["detections"]]
        self.assertEqual(got, want)
        self.assertTrue(any(row[10] for row in rows) and not all(row[10] for row in rows))
        # As somebody would ask who has it.
        counts = duckdb.sql("select label, count(*), count(distinct frame) from detections group by label").fetchall()
        classes = {name: (one["detections"], one["frames"]) for name, one in self.summary["classes"].items()}
        self.assertEqual({name: counted for name, *counted in counts}, {name: list(one) for name, one in classes.items()})

    def _same(self, others):
        """That `others`, with left, top, width and height, are the lines' detections."""
        self.assertEqual(len(others), len(self.detections))
        for (frame, kind, score, (left, top, right, bottom)), (frame2, kind2, score2, bbox) in zip(self.detections, others):
            self.assertEqual((frame, score), (frame2, score2))
            self.assertIn(kind2, (kind, None))
            for got, want in zip(bbox, (left, top, right - left, bottom - top)):
                self.assertAlmostEqual(got, want, delta=0.011)

    def test_rekognition_has_the_lines_detections(self):
        answer = json.loads((self.folder / "rekognition.json").read_text())
        self.assertEqual((answer["VideoMetadata"]["FrameWidth"], answer["VideoMetadata"]["FrameHeight"]), (WIDTH, HEIGHT))
        got = collections.Counter((one["Timestamp"], one["Label"]["Name"]) for one in answer["Labels"]
                                  for _ in one["Label"]["Instances"])
        want = collections.Counter((int(line["pts_s"] * 1000 + 0.5), one["label"]) for line in self.lines
                                   for one in line["detections"])
        self.assertEqual(got, want)

    def test_subtitles_say_what_is_in_the_lines(self):
        text = (self.folder / "labels.vtt").read_text()
        self.assertTrue(text.startswith("WEBVTT\n\n"))
        cues = [(_seconds(begin), _seconds(end), words) for begin, end, words
                in re.findall(r"([\d:.]+) --> ([\d:.]+)\n(.+)\n", text)]
        for line in self.lines:
            counts = collections.Counter(one["label"] for one in line["detections"])
            [words] = [words for begin, end, words in cues if begin <= line["pts_s"] + 1e-6 < end]
            self.assertEqual({name: int(count) for count, name in (word.split(" ", 1) for word in words.split(", "))}, counts)

    def test_what_crosses_the_line_is_what_changes_its_side(self):
        side, want = {}, collections.Counter()
        told = collections.Counter()
        for line in self.lines:
            for one in line["detections"]:
                middle = (one["box_px"][0] + one["box_px"][2]) / 2 - LINE_X * WIDTH
                track = one.get("track")
                # A pixel's hundredth, to which boxes are told, decides nothing here.
                if track is None or abs(middle) < 0.02:
                    continue
                if side.get(track, middle) * middle < 0:
                    # Down the line, the picture's right is on the left.
                    want[(one["label"], "to_left" if middle > 0 else "to_right")] += 1
                side[track] = middle
            for crossing in line.get("crossings", []):
                told["to_" + crossing["to"]] += 1
        counts = self.summary["lines"]["middle"]
        got = collections.Counter({(label, way): number for label, ways in counts.items() for way, number in ways.items()})
        self.assertEqual(+got, want)
        self.assertEqual(sum(told.values()), sum(got.values()))

    def test_zones_are_where_feet_are(self):
        for line in self.lines:
            for one in line["detections"]:
                x, y = (one["box_px"][0] + one["box_px"][2]) / 2 / WIDTH, one["box_px"][3] / HEIGHT
                if min(abs(x - 0.5), abs(y - 0.4)) > 1e-4:
                    self.assertEqual(one.get("zones", []), ["left"] if x < 0.5 and y > 0.4 else [], (line["frame"], one))

    def test_the_annotated_video_has_every_frame(self):
        probe = subprocess.run(["ffprobe", "-v", "error", "-count_packets", "-show_entries",
                                "stream=codec_name,width,height,nb_read_packets", "-of", "csv=p=0",
                                self.folder / "annotated.mp4"], check=True, capture_output=True, text=True).stdout
        self.assertEqual(probe.strip(), f"h264,{WIDTH},{HEIGHT},{FRAMES}")

    def test_the_summary_knows_every_file(self):
        sizes = {written["file"]: written["bytes"] for written in self.summary["outputs"]}
        files = {path.name: path.stat().st_size for path in self.folder.iterdir()}
        del files["summary.json"], files["cost.json"]
        self.assertEqual(sizes, files)


if __name__ == "__main__":
    unittest.main()
