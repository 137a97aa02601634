"""Videos of several codecs with bytes in their middle that are not their own: what a plain ffmpeg complains of is
refused, or told in the result where the task puts up with it, and every frame that it shows has its line."""

import json
import pathlib
import subprocess
import tempfile
import unittest

import onnx

import detector_models
import product

SOURCE = "-f lavfi -i testsrc2=s=96x64:r=20:d=2"
FRAMES = 40
# The frame that is hit, counted as they are stored; every tenth is a key frame.
HIT = 23
# Name, encoder, where in the frame as a share of it, how many bytes, and whether its decoder notices: within a picture,
# those of H.265 and VP9 take whatever bytes there are.
KINDS = [
    ("hevc-head.mp4", "-c:v libx265 -x265-params log-level=none:keyint=10", 0.0, 16, True),
    ("hevc-within.mp4", "-c:v libx265 -x265-params log-level=none:keyint=10", 0.5, 20, False),
    ("mpeg4-within.mp4", "-c:v mpeg4 -g 10 -bf 2", 0.5, 300, True),
    ("mpeg4-head.avi", "-c:v mpeg4 -g 10", 0.0, 16, True),
    ("vp9-head.mp4", "-c:v libvpx-vp9 -g 10 -deadline realtime -cpu-used 8", 0.0, 16, True),
    ("vp9-within.mp4", "-c:v libvpx-vp9 -g 10 -deadline realtime -cpu-used 8", 0.5, 20, False),
]
FIRST = KINDS[0][0]
# Of these three fifths are missing, which is more than is put up with.
CUT = [("cut-hevc.mp4", KINDS[0][1] + " -movflags +faststart"), ("cut-mpeg4.avi", "-c:v mpeg4 -g 10"),
       ("cut-hevc.mkv", KINDS[0][1]), ("cut-vp9.webm", KINDS[-1][1])]
# What is put up with, in per cent: nothing, less than there is, and more.
NONE, FEW, MANY = 0, 1, 50


def ffmpeg(*arguments):
    """What it prints, and what it complains of."""
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-threads", "1", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


def pictures(video):
    """The sum of each frame that a plain ffmpeg shows, by its time in milliseconds, and what it complains of."""
    timed = ("-fps_mode", "passthrough", "-enc_time_base", "1:1000")
    shown, complaints = ffmpeg("-i", video, *timed, "-f", "framemd5", "-")
    rows = [line.split(",") for line in shown.splitlines() if not line.startswith("#")]
    return {int(row[2]): row[-1].strip() for row in rows}, complaints


def places(video):
    """Where the bytes of each stored frame lie: place and length."""
    told = subprocess.run(["ffprobe", "-v", "error", "-show_entries", "packet=pos,size", "-of", "json", video],
                          capture_output=True, text=True, check=True)
    return [(int(packet["pos"]), int(packet["size"])) for packet in json.loads(told.stdout)["packets"]]


class Damage(unittest.TestCase):
    """All of them, each as often as it is asked for, by one worker."""

    @classmethod
    def setUpClass(cls):
        cls.place = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="packhorse-damage-")))
        cls.store, cls.queue = cls.place / "store", cls.place / "queue"
        onnx.save(detector_models.HEADS["yolov8"](), str(cls.place / "detector.onnx"))
        product.packhorse("pack", cls.place / "detector.onnx", "--store", cls.store, "--task", "object-detection")
        cls.whole, cls.ids = {}, {}
        for name, encoder, share, count, notices in KINDS:
            video = cls.place / name
            ffmpeg(*SOURCE.split(), *encoder.split(), video)
            cls.whole[name], _ = pictures(video)
            place, length = places(video)[HIT]
            content, place = bytearray(video.read_bytes()), place + int(length * share)
            content[place:place + count] = b"\x5a" * count
            video.write_bytes(content)
            cls.submit(video, (NONE, MANY, FEW)[:(3 if name == FIRST else 2) if notices else 1])
        for name, encoder in CUT:
            video = cls.place / name
            ffmpeg(*SOURCE.split(), *encoder.split(), video)
            content = video.read_bytes()
            video.write_bytes(content[:len(content) * 2 // 5])
            cls.submit(video, [MANY])
        done = subprocess.run([product.BINARY, "work", "--queue", cls.queue, "--store", cls.store, "--output",
                               cls.place / "out", "--mode", "drain-once"], capture_output=True, text=True, check=False)
        if done.returncode != 1:
            raise AssertionError(f"there are to be dead letters, and it left with {done.returncode}:\n{done.stderr}")
        letters = product.json_lines(product.packhorse("queue", "--queue", cls.queue, "dead"))
        cls.reasons = {letter["id"]: letter["reason"] for letter in letters}

    @classmethod
    def submit(cls, video, tolerances):
        """Puts it into the queue, once for each of these per cent."""
        for percent in tolerances:
            [task] = product.json_lines(product.packhorse(
                "submit", video, "--queue", cls.queue, "--model", "detector", "--tolerate-damage", percent))
            cls.ids[video.name, percent] = task["id"]

    def results(self, name, percent):
        """Summary and lines of a task that is done."""
        task = self.ids[name, percent]
        self.assertNotIn(task, self.reasons)
        folder = self.place / "out" / task
        summary, lines = (folder / "summary.json").read_text(), (folder / "results.jsonl").read_text()
        return json.loads(summary), product.json_lines(lines)

    def check_lines(self, name, summary, lines):
        """That there is a line for each frame that a plain ffmpeg shows, by the times of the whole video."""
        shown, _ = pictures(self.place / name)
        self.assertEqual((summary["frames"], len(lines)), (len(shown), len(shown)))
        times = {round(line["pts_s"] * 1000) for line in lines}
        self.assertLessEqual(times, set(self.whole[name]))
        self.assertNotEqual(shown, self.whole[name], "nothing was damaged")
        self.assertGreater(len(shown), FRAMES // 2)

    def check_refused(self, name, percent, says, damage):
        """That it is a dead letter that says so, in the decoder's words and with the way out."""
        reason = self.reasons[self.ids[name, percent]]
        for part in (says, damage["first"], "--tolerate-damage"):
            self.assertIn(part, reason)

    def test_what_a_decoder_complains_of_is_refused_or_told(self):
        for name, _, _, _, notices in KINDS:
            with self.subTest(name):
                _, complaints = pictures(self.place / name)
                self.assertEqual(bool(complaints), notices, complaints)
                if not notices:
                    continue
                summary, lines = self.results(name, MANY)
                self.check_lines(name, summary, lines)
                damage = summary["damage"]
                notes = {note["about"]: note["found"] for note in summary["quality"]}
                self.assertGreater(damage["errors"], 0)
                self.assertIn(damage["first"].split(": ", 1)[1], complaints)
                found = f"{damage['errors']} errors of the decoder, the first: {damage['first']}"
                self.assertEqual(notes["damage"], found)
                if len(lines) < FRAMES:
                    self.assertIn(f"decoded {len(lines)}", notes["frame-count"])
                self.check_refused(name, NONE, f"there are decoding errors in video '{self.place / name}'", damage)
                if name == FIRST:
                    says = f"{damage['errors']} decoding errors in {len(lines)} frames of video"
                    self.check_refused(name, FEW, says, damage)

    def test_more_than_is_put_up_with_is_missing(self):
        for name, _ in CUT:
            with self.subTest(name):
                reason = self.reasons.get(self.ids[name, MANY], "it is done")
                self.assertRegex(reason, rf"'{self.place / name}' is cut off: it ends after ")

    def test_what_no_decoder_notices_is_worked_as_it_is_shown(self):
        for name, _, _, _, notices in KINDS:
            if notices:
                continue
            with self.subTest(name):
                summary, lines = self.results(name, NONE)
                self.check_lines(name, summary, lines)
                self.assertEqual((summary["frames"], summary["damage"]["errors"]), (FRAMES, 0))


if __name__ == "__main__":
    unittest.main()
