"""EfficientNet-Lite0 as an ONNX file, made of the numbers that were trained on ImageNet (Tan and Le, 2019; the Lite variants:
no squeeze-and-excite, ReLU6) as PyTorch's file has them. Shares no code with the product.

The file is one of PyTorch before 1.6: pickles of a magic number, a version and the machine, of the tensors, of their
storages' keys in order, and then each storage's length and numbers.
"""

import collections
import io
import pickle
import struct

import numpy as np
from onnx import TensorProto, helper, numpy_helper

SIDE_PX, SHORTER_PX = 224, 256
# As in the models' own preprocessing.
MEAN, STD = 127.0, 128.0
EPSILON = 1e-3
# The first block of each of these halves the picture.
HALVING = (1, 3, 5, 11)
BLOCKS = 16
DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class _Tensors(pickle.Unpickler):
    """Reads nothing but tensors in ordered dictionaries: whatever else is named in the file stays a name."""

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: (storage, offset, shape, strides)
        if module == "torch" and name in DTYPES:
            return name
        raise pickle.UnpicklingError(f"{module}.{name} is no tensor")

    def persistent_load(self, pid):
        _, kind, key, _, _, *_ = pid
        return kind, key


def read(path):
    """Each tensor by name."""
    file = io.BytesIO(path.read_bytes())
    for _ in range(3):
        pickle.Unpickler(file).load()
    tensors, keys = _Tensors(file).load(), pickle.Unpickler(file).load()
    kinds = {key: DTYPES[kind] for (kind, key), *_ in tensors.values()}
    storages = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        storages[key] = np.frombuffer(file.read(count * kinds[key].itemsize), kinds[key])
    read = {}
    for name, ((_, key), offset, shape, strides) in tensors.items():
        bytes_of = [stride * kinds[key].itemsize for stride in strides]
        read[name] = np.ascontiguousarray(np.lib.stride_tricks.as_strided(storages[key][offset:], shape, bytes_of))
    return read


class _Graph:
    """Nodes and weights on their way into a model."""

    def __init__(self, weights):
        self.weights, self.nodes, self.constants = weights, [], []

    def add(self, kind, *inputs, **attributes):
        """The name of the node's output."""
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, array):
        """The name of a weight."""
        self.constants.append(numpy_helper.from_array(np.asarray(array), f"w{len(self.constants)}"))
        return self.constants[-1].name

    def convolution(self, into, weight, norm, stride=1, bends=True):
        """A convolution without a bias, its batch norm, and ReLU6 where it `bends`."""
        kernel = self.weights[f"{weight}.weight"]
        groups = kernel.shape[0] if kernel.shape[1] == 1 and "depthwise" in weight else 1
        out = self.add("Conv", into, self.constant(kernel), kernel_shape=kernel.shape[2:], strides=[stride, stride],
                       auto_pad="SAME_UPPER", group=groups)
        parts = [self.weights[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]
        out = self.add("BatchNormalization", out, *map(self.constant, parts), epsilon=EPSILON)
        limits = [self.constant(np.float32(limit)) for limit in (0, 6)] if bends else []
        return self.add("Clip", out, *limits) if bends else out


def model(path):
    """The ONNX model of the numbers in `path`: `images` [N, 3, 224, 224] to `logits` [N, 1000]."""
    weights = read(path)
    graph = _Graph(weights)
    out, before = graph.convolution("images", "_conv_stem", "_bn0", 2), weights["_bn0.bias"].shape[0]
    for number in range(BLOCKS):
        block, into = f"_blocks.{number}", out
        if f"{block}._expand_conv.weight" in weights:
            out = graph.convolution(out, f"{block}._expand_conv", f"{block}._bn0")
        stride = 2 if number in HALVING else 1
        out = graph.convolution(out, f"{block}._depthwise_conv", f"{block}._bn1", stride)
        out = graph.convolution(out, f"{block}._project_conv", f"{block}._bn2", bends=False)
        channels = weights[f"{block}._project_conv.weight"].shape[0]
        if stride == 1 and channels == before:
            out = graph.add("Add", out, into)
        before = channels
    out = graph.convolution(out, "_conv_head", "_bn1")
    out = graph.add("Flatten", graph.add("GlobalAveragePool", out))
    last = graph.add("Gemm", out, graph.constant(weights["_fc.weight"]), graph.constant(weights["_fc.bias"]), transB=1)
    graph.nodes.append(helper.make_node("Identity", [last], ["logits"]))
    kind = TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info("images", kind, ["N", 3, SIDE_PX, SIDE_PX])]
    outputs = [helper.make_tensor_value_info("logits", kind, ["N", weights["_fc.bias"].shape[0]])]
    made = helper.make_graph(graph.nodes, "efficientnet_lite0", inputs, outputs, graph.constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def prepare(picture):
    """The input for a PIL picture: its middle, after its shorter side was brought to size."""
    from PIL import Image
    width, height = picture.size
    short = min(width, height)
    size = (int(SHORTER_PX * width / short), int(SHORTER_PX * height / short))
    left, top = (size[0] - SIDE_PX) // 2, (size[1] - SIDE_PX) // 2
    scaled = picture.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + SIDE_PX, top + SIDE_PX))
    pixels = (np.asarray(scaled, np.float32) - np.float32(MEAN)) / np.float32(STD)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[np.newaxis])


def scores(logits):
    """[1000]: each class's share."""
    odds = np.exp(logits[0].astype(np.float64) - logits[0].max())
    return odds / odds.sum()
