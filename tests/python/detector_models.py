"""Detectors of coloured things, one for each head: graphs that see with their own pixels, so that geometry is put to the test.

Each has three classes: what is red, what is green, what is blue. A cell's score is by how much its mean colour is purer
than grey, and its box is three cells wide and two high around its middle; grey, such as what a letterbox is filled with,
scores nothing. `HEADS` makes each graph; `decode` is an independent reading of what it answers, in pixels of the input.
"""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

SIDE_PX = 128
STRIDES = (8, 16, 32)
PLUS_STRIDES = (8, 16, 32, 64)
CLASSES = 3
BINS = 8
CHOSEN = 50
NANODET = (np.array([103.53, 116.28, 123.675], np.float32), np.array([57.375, 57.12, 58.395], np.float32))
IMAGENET = (np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32))


class _Graph:
    """Nodes and constants on their way into a model."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def constant(self, value):
        """The name of a constant."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, kind, *inputs, outputs=1, **attributes):
        """The name of a node's output, or the names."""
        names = [f"n{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def model(self, outputs):
        """The model with these outputs: name to (name inside, shape)."""
        for name, (inside, _) in outputs.items():
            self.nodes.append(helper.make_node("Identity", [inside], [name]))
        kind = TensorProto.FLOAT
        inputs = [helper.make_tensor_value_info("images", kind, ["N", 3, SIDE_PX, SIDE_PX])]
        results = [helper.make_tensor_value_info(name, kind, shape) for name, (_, shape) in outputs.items()]
        graph = helper.make_graph(self.nodes, "coloured_things", inputs, results, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

    def scores(self, strides, scale, mean=None, std=None, bgr=False):
        """[N, n, 3]: the purity of each cell, level by level. Undoes how pictures go in first."""
        pixels = "images"
        if std is not None:
            pixels = self.add("Mul", pixels, self.constant(std.reshape(1, 3, 1, 1)))
            pixels = self.add("Add", pixels, self.constant(mean.reshape(1, 3, 1, 1)))
        if scale != 1.0:
            pixels = self.add("Mul", pixels, self.constant(np.float32(scale)))
        if bgr:
            pixels = self.add("Gather", pixels, self.constant(np.array([2, 1, 0], np.int64)), axis=1)
        # By how much a channel is more than both others together.
        purer = np.full((3, 3, 1, 1), -1, np.float32)
        purer[range(3), range(3)] = 1
        levels = []
        for stride in strides:
            mean_colour = self.add("AveragePool", pixels, kernel_shape=[stride, stride], strides=[stride, stride])
            purity = self.add("Clip", self.add("Conv", mean_colour, self.constant(purer)),
                              self.constant(np.float32(0)), self.constant(np.float32(1)))
            flat = self.add("Reshape", purity, self.constant(np.array([0, CLASSES, -1], np.int64)))
            levels.append(self.add("Transpose", flat, perm=[0, 2, 1]))
        return self.add("Concat", *levels, axis=1)

    def repeated(self, constant_rows, scores):
        """[N, n, m]: the same rows for every picture."""
        zeros = self.add("ReduceSum", self.add("Mul", scores, self.constant(np.float32(0))),
                         self.constant(np.array([2], np.int64)), keepdims=1)
        return self.add("Add", zeros, self.constant(constant_rows[np.newaxis].astype(np.float32)))

    def beside(self, constant_rows, scores):
        """[N, n, m + 3]: the same rows for every picture, and the scores beside them."""
        return self.add("Concat", self.repeated(constant_rows, scores), scores, axis=2)


def cells(strides):
    """Middle x, middle y and stride of each cell, level by level, row by row."""
    rows = []
    for stride in strides:
        for y in range(SIDE_PX // stride):
            for x in range(SIDE_PX // stride):
                rows.append(((x + 0.5) * stride, (y + 0.5) * stride, stride))
    return np.array(rows, np.float32)


def _boxes(strides):
    """Middle and size of each cell's box."""
    grid = cells(strides)
    return np.stack([grid[:, 0], grid[:, 1], 3 * grid[:, 2], 2 * grid[:, 2]], axis=1)


def _yolov5():
    graph = _Graph()
    scores = graph.scores(STRIDES, 1.0)
    # Three boxes a cell, of which the second is a little larger and the third half as sure that there is anything.
    parts, begin = [], 0
    boxes = _boxes(STRIDES)
    for stride in STRIDES:
        count = (SIDE_PX // stride) ** 2
        level = graph.add("Slice", scores, graph.constant(np.array([begin], np.int64)),
                          graph.constant(np.array([begin + count], np.int64)), graph.constant(np.array([1], np.int64)))
        for size, sure in ((1.0, 0.9), (1.05, 1.0), (0.95, 0.5)):
            rows = np.concatenate([boxes[begin:begin + count] * [1, 1, size, size], np.full((count, 1), sure)], axis=1)
            parts.append(graph.beside(rows, level))
        begin += count
    return graph.model({"output0": (graph.add("Concat", *parts, axis=1), ["N", 3 * begin, 5 + CLASSES])})


def _columns(graph):
    return graph.beside(_boxes(STRIDES), graph.scores(STRIDES, 1.0))


def _yolov8():
    graph = _Graph()
    columns = graph.add("Transpose", _columns(graph), perm=[0, 2, 1])
    return graph.model({"output0": (columns, ["N", 4 + CLASSES, len(cells(STRIDES))])})


def _yolov10():
    graph = _Graph()
    scores = graph.scores(STRIDES, 1.0)
    best = graph.add("ReduceMax", scores, axes=[2], keepdims=0)
    top, index = graph.add("TopK", best, graph.constant(np.array([CHOSEN], np.int64)), outputs=2, axis=1)
    kind = graph.add("Cast", graph.add("ArgMax", scores, axis=2, keepdims=0), to=TensorProto.FLOAT)
    classes = graph.add("GatherElements", kind, index, axis=1)
    boxes = _boxes(STRIDES)
    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
    chosen = graph.add("Gather", graph.constant(corners.astype(np.float32)), index, axis=0)
    last = [graph.add("Unsqueeze", each, graph.constant(np.array([2], np.int64))) for each in (top, classes)]
    return graph.model({"output0": (graph.add("Concat", chosen, *last, axis=2), ["N", CHOSEN, 6])})


def _yolox():
    graph = _Graph()
    scores = graph.scores(STRIDES, 1 / 255, bgr=True)
    count = len(cells(STRIDES))
    rows = np.tile([0.5, 0.5, np.log(3), np.log(2), 0.9], (count, 1))
    return graph.model({"output": (graph.beside(rows, scores), ["N", count, 5 + CLASSES])})


def _nanodet_plus():
    graph = _Graph()
    scores = graph.scores(PLUS_STRIDES, 1 / 255, *NANODET, bgr=True)
    count = len(cells(PLUS_STRIDES))
    # From a cell's corner: one stride left and half of one up, two right and one and a half down; halves are two bins.
    bins = np.full((4, BINS), -50.0)
    for side, whole in ((0, [1]), (1, [0, 1]), (2, [2]), (3, [1, 2])):
        bins[side, whole] = 50.0
    rows = graph.beside(np.tile(bins.reshape(1, -1), (count, 1)), scores)
    # Scores come first.
    order = np.concatenate([np.arange(4 * BINS, 4 * BINS + CLASSES), np.arange(4 * BINS)]).astype(np.int64)
    rows = graph.add("Gather", rows, graph.constant(order), axis=2)
    return graph.model({"output": (rows, ["N", count, CLASSES + 4 * BINS])})


def _queries(graph, statistics):
    mean, std = statistics or (None, None)
    scores = graph.scores(STRIDES, 1.0, mean, std)
    boxes = (_boxes(STRIDES) / SIDE_PX).astype(np.float32)
    both = graph.beside(boxes, scores)
    split = graph.constant(np.array([4, CLASSES], np.int64))
    boxes, scores = graph.add("Split", both, split, outputs=2, axis=2)
    return boxes, scores


def _detr():
    graph = _Graph()
    boxes, scores = _queries(graph, IMAGENET)
    logits = graph.add("Mul", scores, graph.constant(np.float32(10)))
    nothing = graph.add("ReduceSum", graph.add("Mul", scores, graph.constant(np.float32(0))),
                        graph.constant(np.array([2], np.int64)), keepdims=1)
    nothing = graph.add("Add", nothing, graph.constant(np.float32(5)))
    logits = graph.add("Concat", logits, nothing, axis=2)
    count = len(cells(STRIDES))
    return graph.model({"logits": (logits, ["N", count, CLASSES + 1]), "pred_boxes": (boxes, ["N", count, 4])})


def _rt_detr():
    graph = _Graph()
    boxes, scores = _queries(graph, None)
    logits = graph.add("Sub", graph.add("Mul", scores, graph.constant(np.float32(12))), graph.constant(np.float32(6)))
    count = len(cells(STRIDES))
    return graph.model({"logits": (logits, ["N", count, CLASSES]), "pred_boxes": (boxes, ["N", count, 4])})


def ambiguous():
    """Blind, and of six values a row: a middle, a size, how sure it is and the share of its one class, as YOLO v5 has them; or two
    corners, as the size is larger than any middle, a score and the number of a class, as YOLO v10 has them."""
    graph = _Graph()
    middles = cells(STRIDES)[:, :2]
    rows = np.concatenate([middles, np.tile([1000, 1000, 0.5, 0], (len(middles), 1))], axis=1)
    return graph.model({"output0": (graph.repeated(rows, graph.scores(STRIDES, 1.0)), ["N", len(rows), 6])})


HEADS = {"yolov5": _yolov5, "yolov8": _yolov8, "yolov10": _yolov10, "yolox": _yolox, "nanodet-plus": _nanodet_plus,
         "detr": _detr, "rt-detr": _rt_detr}
IOU_MAX = {"yolov5": 0.7, "yolov8": 0.7, "yolox": 0.7, "nanodet-plus": 0.6}


def prepare(head, picture):
    """The input for a PIL picture, and (scale x, scale y, left, top) of where it lies, as the family's own tools do it."""
    from PIL import Image
    width, height = picture.size
    if head in ("yolov5", "yolov8", "yolov10", "yolox"):
        ratio = min(SIDE_PX / width, SIDE_PX / height)
        if head == "yolox":
            size, corner = (int(width * ratio), int(height * ratio)), (0, 0)
        else:
            size = (round(width * ratio), round(height * ratio))
            corner = (round((SIDE_PX - size[0]) / 2 - 0.1), round((SIDE_PX - size[1]) / 2 - 0.1))
        canvas = Image.new("RGB", (SIDE_PX, SIDE_PX), (114, 114, 114))
        canvas.paste(picture.resize(size, Image.Resampling.BILINEAR), corner)
    else:
        size, corner = (SIDE_PX, SIDE_PX), (0, 0)
        canvas = picture.resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(canvas, np.float32)
    if head in ("yolov5", "yolov8", "yolov10", "rt-detr"):
        pixels = pixels / np.float32(255)
    elif head == "detr":
        pixels = (pixels / np.float32(255) - IMAGENET[0]) / IMAGENET[1]
    elif head == "yolox":
        pixels = pixels[:, :, ::-1]
    else:
        pixels = (pixels[:, :, ::-1] - NANODET[0]) / NANODET[1]
    tensor = np.ascontiguousarray(pixels.transpose(2, 0, 1)[np.newaxis], np.float32)
    return tensor, (size[0] / width, size[1] / height, *corner)


def decode(head, outputs):
    """Corners [n, 4] in pixels of the input and scores [n, 3]."""
    if head in ("detr", "rt-detr"):
        logits, boxes = outputs[0][0].astype(np.float64), outputs[1][0] * SIDE_PX
        if head == "detr":
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            scores = (odds / odds.sum(axis=1, keepdims=True))[:, :CLASSES]
            scores = np.where(scores == scores.max(axis=1, keepdims=True), scores, 0)
        else:
            scores = 1 / (1 + np.exp(-logits))
    elif head == "yolov10":
        rows = outputs[0][0]
        scores = np.zeros((len(rows), CLASSES))
        scores[range(len(rows)), rows[:, 5].astype(int)] = rows[:, 4]
        return rows[:, :4], scores
    elif head == "yolov8":
        rows = outputs[0][0].T
        boxes, scores = rows[:, :4], _best(rows[:, 4:])
    elif head == "yolov5":
        rows = outputs[0][0]
        boxes, scores = rows[:, :4], _best(rows[:, 5:] * rows[:, 4:5])
    elif head == "yolox":
        rows, grid = outputs[0][0], cells(STRIDES)
        stride = grid[:, 2:3]
        boxes = np.concatenate([grid[:, :2] - stride / 2 + rows[:, :2] * stride, np.exp(rows[:, 2:4]) * stride], axis=1)
        scores = _best(rows[:, 5:] * rows[:, 4:5])
    else:
        rows, grid = outputs[0][0], cells(PLUS_STRIDES)
        logits = rows[:, CLASSES:].reshape(-1, 4, BINS).astype(np.float64)
        odds = np.exp(logits - logits.max(axis=2, keepdims=True))
        sides = (odds / odds.sum(axis=2, keepdims=True)) @ np.arange(BINS) * grid[:, 2:3]
        x, y = grid[:, 0] - grid[:, 2] / 2, grid[:, 1] - grid[:, 2] / 2
        corners = np.stack([x - sides[:, 0], y - sides[:, 1], x + sides[:, 2], y + sides[:, 3]], axis=1)
        return corners.clip(0, SIDE_PX), rows[:, :CLASSES]
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1), scores


def _best(scores):
    """Only the best class of a row speaks."""
    return np.where(np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, np.newaxis], scores, 0)


def detections(head, outputs, place, size, score_min):
    """What the outputs report of a picture of `size` that lies at `place`: class, score and box in its own pixels."""
    from reference_nanodet import iou
    corners, scores = decode(head, outputs)
    found = []
    for label in range(CLASSES):
        rows = np.flatnonzero(scores[:, label] >= score_min)
        order = rows[np.argsort(-scores[rows, label], kind="stable")]
        while order.size:
            best, order = order[0], order[1:]
            if head in IOU_MAX:
                order = order[iou(corners[best], corners[order]) <= IOU_MAX[head]]
            box = (corners[best] - [place[2], place[3]] * 2) / [place[0], place[1], place[0], place[1]]
            box = box.clip(0, [*size, *size])
            if box[0] < box[2] and box[1] < box[3]:
                found.append({"class": label, "score": float(scores[best, label]), "box_px": box.tolist()})
    return sorted(found, key=lambda each: -each["score"])
