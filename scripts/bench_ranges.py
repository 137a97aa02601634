"""Measures a video that is elsewhere: read while it is decoded, beside a copy that is fetched first.

Usage: bench_ranges.py PACKHORSE MODEL LABELS [--seconds SECONDS] [--rates MB_A_SECOND ...] [--videos NAME ...] [--samples FRAMES ...]

The video is H.264 of 1280x720 with noise in it, so that it is large, as MP4 with its index at the end, as Matroska, as MP4 in
fragments and as a transport stream. A web server in this process gives it, in ranges, no faster than a rate in all, and counts
what it gives. One frame in 25 is looked at, or key frames, of which there is one in 50. The first frame is there when the first
part of the results is. Prints a table in Markdown.
"""

import argparse
import http.server
import itertools
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time

PIECE_BYTES = 64 << 10
# Looked at so often whether there is a part.
LOOK_S = 0.01


class Web(http.server.ThreadingHTTPServer):
    """Gives the files of a folder in ranges, `rate` bytes a second in all."""

    daemon_threads = True

    def __init__(self, folder, rate):
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder, self.rate = folder, rate
        self.lock, self.free_at, self.given = threading.Lock(), 0.0, 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def take(self, count):
        """Waits for the turn of so many bytes."""
        with self.lock:
            self.given += count
            now = time.monotonic()
            self.free_at = max(self.free_at, now) + count / self.rate
            wait = self.free_at - now
        time.sleep(max(wait, 0))


class Answer(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Says nothing."""

    def do_HEAD(self):  # The name is the library's.
        """How large it is, and which."""
        self.begin(200, (self.server.folder / self.path[1:]).stat().st_size)

    def do_GET(self):  # The name is the library's.
        """A range of it, or all."""
        path = self.server.folder / self.path[1:]
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, end = (int(asked[1]), int(asked[2]) + 1) if asked else (0, size)
        self.begin(206 if asked else 200, end - start, **{"Content-Range": f"bytes {start}-{end - 1}/{size}"})
        with path.open("rb") as file:
            file.seek(start)
            while start < end:
                piece = file.read(min(PIECE_BYTES, end - start))
                self.server.take(len(piece))
                try:
                    self.wfile.write(piece)
                except ConnectionError:
                    self.close_connection = True
                    return
                start += len(piece)

    def begin(self, status, length, **headers):
        """The head of an answer."""
        self.send_response(status)
        for name, value in {"ETag": '"1"', "Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()


def run(*command):
    """Runs a command to its end."""
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def measure(binary, store, url, sample, whole_bytes):
    """Works one video; seconds to the first part and to the end."""
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        run(binary, "submit", url, "--queue", place / "queue.db", "--model", "detector", "--sample", sample)
        command = [binary, "work", "--queue", place / "queue.db", "--store", store, "--output", place / "out", "--mode", "one-job",
                   "--checkpoint", "0.01", "--spool", place / "spool", "--spool-whole", whole_bytes]
        begun = time.monotonic()
        worker = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        first = None
        while worker.poll() is None:
            if first is None and any((place / "out").glob("*/parts/*.jsonl")):
                first = time.monotonic() - begun
            time.sleep(LOOK_S)
        if worker.returncode != 0:
            raise SystemExit(f"the worker left with {worker.returncode}")
        return first, time.monotonic() - begun


def main():
    """Makes the videos, and measures."""
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("labels", type=pathlib.Path)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--rates", type=int, nargs="+", default=[40, 1000])
    parser.add_argument("--videos", nargs="+", default=["video.mp4", "video.mkv", "fragments.mp4", "video.ts"])
    parser.add_argument("--samples", nargs="+", default=["every:25", "key-frames"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        run(args.binary, "pack", args.model, "--store", folder / "store", "--name", "detector", "--task", "object-detection",
            "--labels", args.labels)
        source = f"testsrc2=s=1280x720:r=25:d={args.seconds},noise=alls=24:allf=t"
        run("ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, "-c:v", "libx264", "-preset", "ultrafast", "-qp", "20", "-g", "50",
            folder / "video.mp4")
        fragments = ["-movflags", "+frag_keyframe+empty_moov+default_base_moof"]
        for name, how in [("video.mkv", []), ("fragments.mp4", fragments), ("video.ts", [])]:
            run("ffmpeg", "-v", "error", "-i", folder / "video.mp4", "-c", "copy", *how, folder / name)
        print("| video | MB | `--sample` | at most, MB/s | | first frame, s | all, s | fetched, MB |")
        print("|---|---|---|---|---|---|---|---|")
        ways = [("copy first", 10**12), ("in ranges", 0)]
        for video, sample, rate, (name, whole_bytes) in itertools.product(args.videos, args.samples, args.rates, ways):
            size = (folder / video).stat().st_size
            web = Web(folder, rate * 1e6)
            first, total = measure(args.binary, folder / "store", f"http://127.0.0.1:{web.server_port}/{video}", sample, whole_bytes)
            web.shutdown()
            first = "" if first is None else f"{first:.2f}"
            print(f"| {video} | {size / 1e6:.0f} | `{sample}` | {rate} | {name} | {first} | {total:.1f} | {web.given / 1e6:.0f} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
