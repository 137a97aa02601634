"""Measures the video worker beside a client that sends frames as JSON, and over a video of two hours.

Usage: bench_video.py PACKHORSE MODEL LABELS CLIP [--hours HOURS] [--only client|sampling|long]

client: one clip of 1280x720 and one detector, twice. First a client in Python that reads frames by OpenCV and sends them five at a time as
lists of numbers to /v1/models/MODEL:predict, the way workers do that keep a model server beside them; it keeps labels alone. Then the
worker, every frame, boxes included: with the model as it is packed, given frames at the size to which its graph would bring them; with
one that is given them whole; and with one whose frames the decoder brings to that size by its own filter, which sees other things. CPU is
that of all processes, the server's and the decoder's too, from the kernel's accounting.

sampling: the same clip of 1280x720, H.264 with B frames as its encoder makes them, each choice of frames in turn.

long: the clip again and again until it is HOURS long (2 unless told), every frame, and the worker's and its decoders' resident memory
four times a second, what they share counted once.

Prints tables in Markdown.
"""

import argparse
import http.client
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

BATCH = 5
SIZE_PX = (1280, 720)
# What the detector itself brings every picture to.
INSIDE_PX = 300
# Frames that the client sends; it takes seconds for each.
CLIENT_FRAMES = 50
SCORE_MIN = 0.4
SAMPLINGS = ("all", "every:2", "reference", "key-frames")
ROUNDS = 3
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def say(text):
    """To a person, now."""
    print(text, file=sys.stderr, flush=True)


def table(header, rows):
    """A table in Markdown."""
    for row in [header, ["---"] * len(header), *rows]:
        print(f"| {' | '.join(row)} |")
    print(flush=True)


def cpu_s(pid):
    """CPU time of a process, and of its children that have ended."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(") ", 1)[1].split()
    return sum(map(int, fields[11:15])) / TICKS_PER_S


def children(pid):
    """Processes that a process has started and that run."""
    tasks = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text(encoding="utf-8").split()]


def resident_bytes(pid):
    """Memory of a process in RAM, its share of what it shares with others; 0 when it has gone."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def run(*command):
    """Runs a command to its end; what it wrote to its standard output."""
    done = subprocess.run([str(word) for word in command], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} left with {done.returncode}:\n{done.stderr}")
    return done.stdout


def frames_of(video):
    """How many frames a video has."""
    told = run("ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", "stream=nb_frames", "-of", "csv=p=0", video)
    return int(told.strip().rstrip(","))


class Place:
    """A folder with a store that holds the detector."""

    def __init__(self, arguments, folder):
        self.packhorse, self.folder = arguments.packhorse, pathlib.Path(folder)
        self.store = self.folder / "store"
        fits = {"whole": 'to = "source"', "widened": f'to = "exact", width = {INSIDE_PX}, height = {INSIDE_PX}'}
        run(self.packhorse, "pack", arguments.model, "--store", self.store, "--name", "detector", "--task", "object-detection",
            "--labels", arguments.labels)
        for name, fit in fits.items():
            task = self.folder / f"{name}.toml"
            task.write_text(f'task = "object-detection"\n[input]\nfit = {{ {fit} }}\n', encoding="utf-8")
            run(self.packhorse, "pack", arguments.model, "--store", self.store, "--name", name, "--task-file", task,
                "--labels", arguments.labels)

    def clip(self, name, source, *arguments):
        """A video made of `source`."""
        path = self.folder / name
        run("ffmpeg", "-v", "error", "-nostdin", "-y", *arguments[:arguments.index("--")], "-i", source,
            *arguments[arguments.index("--") + 1:], path)
        return path

    def work(self, video, model="detector", watch=lambda worker: None, sample="all"):
        """Works one video; its cost, its summary and its detections by frame, and the CPU time of the worker with its children."""
        queue, out = self.folder / "queue", self.folder / "out"
        run(self.packhorse, "submit", "--queue", queue, "--model", model, "--threshold", SCORE_MIN, "--sample", sample, video)
        before = os.times()
        worker = subprocess.Popen([str(word) for word in (self.packhorse, "work", "--queue", queue, "--store", self.store,
                                                          "--output", out, "--mode", "drain-once")],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            watch(worker)
            if worker.wait() != 0:
                raise SystemExit(f"the worker left with {worker.returncode}")
        finally:
            worker.kill()
        after = os.times()
        task = max(out.iterdir(), key=lambda folder: folder.stat().st_mtime)
        cost, summary = (json.loads((task / name).read_text(encoding="utf-8")) for name in ("cost.json", "summary.json"))
        lines = (task / "results.jsonl").read_text(encoding="utf-8").splitlines()
        spent_s = after.children_user + after.children_system - before.children_user - before.children_system
        return cost, summary, [json.loads(line)["detections"] for line in lines], spent_s


def send_frames(place, video):
    """The client: CPU-seconds of it and of the server, bytes sent, and frames."""
    import cv2  # Of the other part nobody needs it.

    server = subprocess.Popen([place.packhorse, "serve", "--store", place.store, "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0",
                               "--admin", "127.0.0.1:0", "--body-bytes-max", str(1 << 30)],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        address = json.loads(server.stdout.readline())["http"]
        connection = http.client.HTTPConnection(address)

        def ask(frames):
            body = json.dumps({"instances": [frame.tolist() for frame in frames]}).encode()
            connection.request("POST", "/v1/models/detector:predict", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            content = json.loads(answer.read())
            if answer.status != 200:
                raise SystemExit(f"{answer.status}: {str(content)[:300]}")
            labels = [found["detection_classes"][index] for found in content["predictions"]
                      for index, score in enumerate(found["detection_scores"]) if score >= SCORE_MIN]
            return len(body), labels

        reader = cv2.VideoCapture(str(video))
        # Once to get ready, like the worker, whose start counts though.
        ask([reader.read()[1]])
        begun_s, sent, count = time.process_time() + cpu_s(server.pid), 0, 0
        while count < CLIENT_FRAMES:
            frames = [reader.read()[1] for _ in range(BATCH)]
            count += len(frames)
            sent += ask(frames)[0]
        return time.process_time() + cpu_s(server.pid) - begun_s, sent, count
    finally:
        server.kill()
        server.wait()


def overlap(one, other):
    """What two boxes have in common, as a share of what they cover together."""
    across, down = (min(one[2 + side], other[2 + side]) - max(one[side], other[side]) for side in (0, 1))
    area = lambda box: (box[2] - box[0]) * (box[3] - box[1])
    common = max(across, 0) * max(down, 0)
    return common / (area(one) + area(other) - common)


def found_too(wanted, found):
    """How many of `wanted` are in `found`, frame by frame: a box of the class that is the same to four fifths."""
    return sum(any(one["class"] == other["class"] and overlap(one["box_px"], other["box_px"]) >= 0.8 for other in others)
               for ones, others in zip(wanted, found) for one in ones)


def clip_of(place, arguments):
    """The clip in the size that is measured."""
    width, height = SIZE_PX
    return place.clip("clip.mp4", arguments.clip, "--", "-vf", f"scale={width}:{height}", "-c:v", "libx264", "-preset", "fast", "-an")


def sampling(place, arguments):
    """What choices of frames take."""
    clip, found = clip_of(place, arguments), {sample: [] for sample in SAMPLINGS}
    for number in range(ROUNDS):
        for sample in SAMPLINGS:
            say(f"sampling: {sample}, round {number + 1} of {ROUNDS}")
            found[sample].append(place.work(clip, "widened", sample=sample))
    rows = []
    for sample, rounds in found.items():
        frames, looked = (rounds[0][1][name] for name in ("frames", "frames_looked"))
        middle = lambda of: statistics.median(of(*one) for one in rounds)
        decode, total = (middle(lambda cost, *_: cost["cpu_s_per_frame"][name] * 1e3) for name in ("decode", "total"))
        rows.append([f"`{sample}`", f"{looked} of {frames}", f"{middle(lambda cost, *_: cost['fps']):.1f}", f"{decode:.2f}", f"{total:.2f}",
                     rounds[0][0]["bottleneck"]])
    print(f"### Which frames: {SIZE_PX[0]}x{SIZE_PX[1]}, seen at {INSIDE_PX}x{INSIDE_PX}, medians of {ROUNDS}\n")
    table(["`--sample`", "frames looked at", "frames of the video a second", "decoding, CPU ms a frame", "all, CPU ms a frame", "bottleneck"],
          rows)


def compare(place, arguments):
    """The worker beside the client."""
    width, height = SIZE_PX
    clip = clip_of(place, arguments)
    say("client: frames as JSON")
    client_s, sent, count = send_frames(place, clip)
    theirs, theirs_bytes = client_s / count, sent / count
    rows = [[f"OpenCV, {BATCH} frames a request as JSON ({count} frames)", f"{theirs * 1e3:.1f}", "", f"{theirs_bytes:,.0f}", "", "", ""]]
    inside = [INSIDE_PX] * 2
    whole = None
    for name, model, size in (("packhorse work, frames whole", "whole", SIZE_PX), ("packhorse work", "detector", inside),
                              (f"packhorse work, {INSIDE_PX}x{INSIDE_PX} filtered", "widened", inside)):
        say(f"client: {name}")
        cost, summary, found, worker_s = place.work(clip, model)
        whole = whole or found
        # What the worker hands its model stays in its memory; counted is the tensor.
        ours, ours_bytes = worker_s / summary["frames"], size[0] * size[1] * 3
        rows.append([f"{name} ({summary['frames']} frames, start and all)", f"{ours * 1e3:.1f}", f"1/{theirs / ours:.1f}",
                     f"{ours_bytes:,}", f"1/{theirs_bytes / ours_bytes:.1f}", f"{summary['detections']}", f"{found_too(whole, found)}"])
        say(f"CPU-seconds of a frame: {cost['cpu_s_per_frame']}")
    print(f"### Frames as JSON to a model server, and the worker: {width}x{height}\n")
    table(["", "CPU ms a frame", "", "bytes to the model a frame", "", "detections", "of those on whole frames"], rows)


def long(place, arguments):
    """Memory over a long video."""
    begun = frames_of(arguments.clip)
    loops = round(arguments.hours * 3600 / float(run("ffprobe", "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0",
                                                     arguments.clip).strip()))
    clip = place.clip("long.mp4", arguments.clip, "-stream_loop", str(max(loops - 1, 0)), "--", "-c", "copy", "-an")
    samples = []

    def watch(worker):
        started = time.monotonic()
        while worker.poll() is None:
            samples.append((time.monotonic() - started, resident_bytes(worker.pid), sum(map(resident_bytes, safe_children(worker.pid)))))
            time.sleep(0.25)
            if len(samples) % 240 == 0:
                say(f"long: {samples[-1][0]:.0f} s, worker {samples[-1][1] / 1e6:.0f} MB, decoders {samples[-1][2] / 1e6:.0f} MB")

    cost, summary, *_ = place.work(clip, watch=watch)
    tenth = len(samples) // 10
    part = lambda from_, to, column: statistics.median(sample[column] for sample in samples[from_:to]) / 1e6
    print(f"### A video of {arguments.hours:g} hours: {summary['frames']:,} frames ({begun} again and again), {cost['fps']:.1f} a second\n")
    table(["resident memory, MB", "second tenth", "middle", "last tenth", "last to second", "most"], [
        [name, *(f"{value:.1f}" for value in (second, middle, last)), f"{last / second:.3f}",
         f"{max(sample[column] for sample in samples) / 1e6:.1f}"]
        for name, column in (("worker", 1), ("its decoders", 2))
        for second, middle, last in [(part(tenth, 2 * tenth, column), part(4 * tenth, 6 * tenth, column), part(9 * tenth, 10 * tenth, column))]
    ])
    together = max(sample[1] + sample[2] for sample in samples) / 1e6
    print(f"Together never more than {together:.1f} MB.\n")


def safe_children(pid):
    """As `children`, of a process that may end meanwhile."""
    try:
        return children(pid)
    except (FileNotFoundError, ProcessLookupError):
        return []


PARTS = {"client": compare, "sampling": sampling, "long": long}


def main():
    """Runs the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("packhorse", "model", "labels", "clip"):
        parser.add_argument(name, type=lambda path: str(pathlib.Path(path).resolve()))
    parser.add_argument("--hours", type=float, default=2)
    parser.add_argument("--only", choices=PARTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="packhorse-bench-video-") as folder:
        place = Place(arguments, folder)
        for name, part in PARTS.items():
            if arguments.only in (None, name):
                part(place, arguments)


if __name__ == "__main__":
    main()
