"""Decoded frames from an ffmpeg child, and a map over them that keeps their order and bounds what is held.

Shared by the references; knows nothing of the product but the decoder settings that both must use.
"""

import argparse
import collections
import concurrent.futures
import json
import subprocess
import time

import numpy as np


def size_px(video):
    """Width and height of the first video stream."""
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", "stream=width,height",
               "-of", "json", str(video)]
    stream = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["streams"][0]
    return stream["width"], stream["height"]


def decode(video, filters, size, limit=None):
    """Yields every frame, or the first `limit`, as u8 [height, width, 3], red first, after `filters`; `size` is (width, height).

    One decoder thread and no frame dropped or doubled, so that two decoders give the same bytes.
    """
    width, height = size
    # Of its ways to colours, the one that rounds; chroma, which is coarser, is interpolated as the scaler is told.
    chain = ",".join([*(filters or [f"scale={width}:{height}:flags=bilinear"]), "format=gbrp"])
    command = ["ffmpeg", "-v", "error", "-nostdin", "-threads", "1", "-i", str(video), "-map", "0:v:0",
               "-fps_mode", "passthrough", "-vf", chain, "-f", "rawvideo",
               *([] if limit is None else ["-frames:v", str(limit)]), "-"]
    frame_bytes = width * height * 3
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        while data := child.stdout.read(frame_bytes):
            if len(data) != frame_bytes:
                raise RuntimeError(f"ffmpeg ended in the middle of a frame of {video}")
            yield np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(3, height, width)[[2, 0, 1]].transpose(1, 2, 0))
    if child.returncode != 0:
        raise RuntimeError(f"ffmpeg gave up on {video} with exit code {child.returncode}")


def ordered_map(function, items, workers):
    """Like `map`, on `workers` threads, holding at most four items a thread."""
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        pending = collections.deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= 4 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def write_results(path, detections_per_frame):
    """Writes JSON lines of the worker's form: one frame a line, boxes in pixels of the source."""
    count = 0
    with open(path, "w", encoding="utf-8") as out:
        for index, detections in enumerate(detections_per_frame):
            out.write(json.dumps({"frame": index, "detections": detections}) + "\n")
            count += 1
    return count


def read_results(path):
    """A list of frames, each a list of detections; the frame numbers must count from 0 without a gap."""
    with open(path, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    numbers = [row["frame"] for row in rows]
    if numbers != list(range(len(rows))):
        raise ValueError(f"{path}: the frames are not numbered 0 to {len(rows) - 1} in order")
    return [row["detections"] for row in rows]


def command_line(purpose, run):
    """The references' command: writes what `run(video, limit)` yields and says how fast that went."""
    arguments = argparse.ArgumentParser(description=purpose)
    arguments.add_argument("video")
    arguments.add_argument("out")
    arguments.add_argument("--limit", type=int, help="stop after so many frames")
    given = arguments.parse_args()
    start = time.monotonic()
    count = write_results(given.out, run(given.video, given.limit))
    seconds = time.monotonic() - start
    print(f"{count} frames in {seconds:.1f} s, {count / seconds:.1f} frames a second")
