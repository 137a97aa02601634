"""What a plain ONNX Runtime loop says an Object Detection API model sees in a video: the yardstick for the worker.

Shares no code with the product.
"""

import os
import pathlib
import threading

import numpy as np

import frames
from reference_nanodet import SCORE_MIN, session

MODEL = pathlib.Path(__file__).resolve().parents[2] / "assets" / "person_ssdlite_odapi.onnx"
# What its graph brings every picture to.
SIDE_PX = 300
OUTPUTS = ["detection_boxes:0", "detection_scores:0", "detection_classes:0", "num_detections:0"]


def detections(outputs, width_px, height_px):
    """The worker's form: (ymin, xmin, ymax, xmax) in 0..1 become left, top, right, bottom in pixels of the source."""
    boxes, scores, labels, count = (array[0] for array in outputs)
    scale = np.array([width_px, height_px] * 2)
    boxes = (boxes[:, [1, 0, 3, 2]].astype(np.float64) * scale).clip(0, scale)
    return [{"class": int(labels[row]), "score": float(scores[row]), "box_px": boxes[row].tolist()}
            for row in range(int(count)) if scores[row] >= SCORE_MIN]


def scaled(picture, side_px=SIDE_PX):
    """The picture as the graph brings it to its own size, in whole levels: TensorFlow's first ResizeBilinear."""
    def places(length):
        at = np.arange(side_px, dtype=np.float32) * np.float32(length / side_px)
        first = at.astype(int)
        return first, np.minimum(first + 1, length - 1), at - first

    top, bottom, down = places(picture.shape[0])
    left, right, across = places(picture.shape[1])
    across, down, whole = across[:, np.newaxis], down[:, np.newaxis, np.newaxis], picture.astype(np.float32)

    def row(rows):
        begin, end = whole[rows][:, left], whole[rows][:, right]
        return begin + (end - begin) * across

    above, below = row(top), row(bottom)
    return np.rint(above + (below - above) * down).astype(np.uint8)


def run(video, limit=None, workers=os.cpu_count() or 1, prepare=lambda picture: picture):
    """Yields one list of detections a frame. `limit` stops after so many frames; the model sees what `prepare` makes of one."""
    width_px, height_px = frames.size_px(video)
    local = threading.local()

    def one(picture):
        if not hasattr(local, "session"):
            local.session = session(MODEL)
        return detections(local.session.run(OUTPUTS, {"image_tensor:0": prepare(picture)[np.newaxis]}), width_px, height_px)

    pictures = frames.decode(video, [], (width_px, height_px), limit)
    return frames.ordered_map(one, pictures, workers)


if __name__ == "__main__":
    frames.command_line(__doc__, run)
