"""What a plain ONNX Runtime loop says NanoDet sees in a video: the yardstick for the worker.

Shares no code with the product.
"""

import os
import pathlib
import threading

import numpy as np
import onnxruntime

import frames

MODEL = pathlib.Path(__file__).resolve().parents[2] / "assets" / "nanodet_g_coco80.onnx"
SIDE_PX = 416
MEAN = np.array([103.53, 116.28, 123.675], np.float32)
STD = np.array([57.375, 57.12, 58.395], np.float32)
BINS = 11
CLASSES = 80
SCORE_MIN = 0.4
IOU_MAX = 0.6


def session(model):
    """A session that computes on the calling thread alone."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def head(outputs):
    """From the model's outputs for one picture to scores [n, 80] and boxes [n, 4] in input pixels, all levels together.

    The outputs come in no useful order, so a level is told by its number of cells: 52, 26 and 13 squared.
    """
    by_shape = {array.shape[1:]: array[0] for array in outputs}
    scores, boxes = [], []
    for stride in (8, 16, 32):
        cells = SIDE_PX // stride
        logits = by_shape[(cells * cells, 4 * BINS)].reshape(-1, 4, BINS).astype(np.float64)
        odds = np.exp(logits - logits.max(axis=2, keepdims=True))
        sides = (odds / odds.sum(axis=2, keepdims=True)) @ np.arange(BINS) * stride
        y, x = np.mgrid[0:cells, 0:cells]
        x = (x.reshape(-1) + 0.5) * stride
        y = (y.reshape(-1) + 0.5) * stride
        scores.append(by_shape[(cells * cells, CLASSES)])
        boxes.append(np.stack([x - sides[:, 0], y - sides[:, 1], x + sides[:, 2], y + sides[:, 3]], axis=1))
    return np.concatenate(scores), np.concatenate(boxes)


def iou(box, others):
    """Overlap of one box with each of the others."""
    width = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])
    height = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])
    shared = width.clip(0) * height.clip(0)
    area = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    return shared / np.maximum((box[2] - box[0]) * (box[3] - box[1]) + area - shared, 1e-9)


def suppress(boxes, scores):
    """Indices that survive non-maximum suppression, best first."""
    order = np.argsort(-scores, kind="stable")
    kept = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(best)
        order = rest[iou(boxes[best], boxes[rest]) <= IOU_MAX]
    return kept


def detections(outputs, width_px, height_px):
    """The worker's form of what the outputs say, boxes stretched back to the source and cut at its edges."""
    scores, boxes = head(outputs)
    boxes = (boxes * np.array([width_px, height_px] * 2) / SIDE_PX).clip(0, [width_px, height_px] * 2)
    found = []
    for label in np.flatnonzero((scores >= SCORE_MIN).any(axis=0)):
        rows = np.flatnonzero(scores[:, label] >= SCORE_MIN)
        for kept in suppress(boxes[rows], scores[rows, label]):
            row = rows[kept]
            found.append({"class": int(label), "score": float(scores[row, label]), "box_px": boxes[row].tolist()})
    return sorted(found, key=lambda found: -found["score"])


def run(video, limit=None, workers=os.cpu_count() or 1):
    """Yields one list of detections a frame. `limit` stops after so many frames."""
    width_px, height_px = frames.size_px(video)
    local = threading.local()

    # The model wants blue first.
    def one(picture):
        if not hasattr(local, "session"):
            local.session = session(MODEL)
        tensor = ((picture[:, :, ::-1].astype(np.float32) - MEAN) / STD).transpose(2, 0, 1)[np.newaxis]
        return detections(local.session.run(None, {"input_1:0": np.ascontiguousarray(tensor)}), width_px, height_px)

    pictures = frames.decode(video, [f"scale={SIDE_PX}:{SIDE_PX}:flags=bilinear"], (SIDE_PX, SIDE_PX), limit)
    return frames.ordered_map(one, pictures, workers)


if __name__ == "__main__":
    frames.command_line(__doc__, run)
