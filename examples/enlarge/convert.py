"""Turns a compact Real-ESRGAN network from ncnn's .param and .bin files into an ONNX model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Storage = Literal["float16", "float32"]
Floats = npt.NDArray[np.float32]

PARAM_MAGIC = "7767517"
FLOAT16_TAG = 0x01306B47  # what ncnn writes before weights stored as 16-bit floats
FLOAT32_TAG = 0
IR_VERSION, OPSET = 9, 17  # old enough for every onnxruntime of the last years


@dataclass(frozen=True, slots=True)
class Layer:
    """One line of a .param file."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: dict[int, str]

    def number(self, key: int, default: int) -> int:
        """The option ``key`` as an integer; ncnn also writes whole numbers as ``4.000000e+00``."""
        return int(float(self.options.get(key, default)))


class Weights:
    """Reads a .bin file from front to back."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._offset = 0

    def tagged(self, count: int) -> Floats:
        """The next ``count`` weights behind a tag that says how they are stored."""
        tag = int(self._take(1, "<u4")[0])
        if tag == FLOAT32_TAG:
            return self.raw(count)
        if tag != FLOAT16_TAG:
            raise ValueError(f"the weights are stored in a way that is not supported (tag {tag:#x})")
        padded = count + count % 2  # ncnn keeps every block aligned to 4 bytes
        return self._take(padded, "<f2")[:count].astype(np.float32)

    def raw(self, count: int) -> Floats:
        """The next ``count`` 32-bit floats."""
        return self._take(count, "<f4").astype(np.float32)

    def expect_end(self) -> None:
        """Raises ValueError when something is left, which means that the two files do not belong together."""
        if self._offset != len(self._content):
            raise ValueError(f"the weights have {len(self._content) - self._offset} bytes more than the network uses")

    def _take(self, count: int, kind: str) -> npt.NDArray[np.generic]:
        size = count * np.dtype(kind).itemsize
        if self._offset + size > len(self._content):
            raise ValueError("the weights end too early: the .bin file is not the one of this .param file")
        values: npt.NDArray[np.generic] = np.frombuffer(self._content, kind, count, self._offset)
        self._offset += size
        return values


class Graph:
    """The ONNX nodes and weights made so far."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, operator: str, layer: Layer, inputs: list[str], **attributes: int | str | list[int]) -> None:
        """Adds the node that makes the layer's first output."""
        node = helper.make_node(operator, inputs, [layer.outputs[0]], name=layer.name)
        node.attribute.extend(helper.make_attribute(name, value) for name, value in sorted(attributes.items()))
        self.nodes.append(node)

    def weight(self, name: str, values: Floats) -> str:
        """Stores a weight and returns its name; as 16-bit floats only where that loses nothing."""
        half = values.astype(np.float16)
        if self.storage == "float32" or not np.array_equal(half.astype(np.float32), values):
            self.weights.append(numpy_helper.from_array(values, name))
            return name
        self.weights.append(numpy_helper.from_array(half, f"{name}.half"))
        self.nodes.append(helper.make_node("Cast", [f"{name}.half"], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
        return name


def convert(param: str, weights: bytes, *, storage: Storage = "float16") -> bytes:
    """The network as a serialised ONNX model: ``pixels`` float32 [1,3,H,W] in 0…1 → ``enlarged`` [1,3,4H,4W].

    The bytes are the same on every call, and both kinds of ``storage`` compute the same bits.
    Raises ValueError, in one line, when the files are no ncnn network or use a layer that is not supported.
    """
    layers = parse(param)
    graph, reader = Graph(storage), Weights(weights)
    alias: dict[str, str] = {}  # ncnn copies a value that is used twice; ONNX just uses it twice
    for layer in layers:
        inputs = [alias.get(name, name) for name in layer.inputs]
        if layer.kind == "Input":
            alias[layer.outputs[0]] = "pixels"
        elif layer.kind == "Split":
            alias.update(dict.fromkeys(layer.outputs, inputs[0]))
        else:
            _add_layer(graph, reader, layer, inputs)
    reader.expect_end()
    graph.nodes.append(helper.make_node("Identity", [layers[-1].outputs[0]], ["enlarged"], name="enlarged"))
    model: bytes = _model(graph).SerializeToString(deterministic=True)
    return model


def convert_files(param: Path, weights: Path, *, storage: Storage = "float16") -> bytes:
    """``convert`` of two files; raises ValueError naming the one that cannot be read."""
    try:
        return convert(param.read_text("utf-8"), weights.read_bytes(), storage=storage)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot convert {param.name}: {error}") from error


def parse(param: str) -> tuple[Layer, ...]:
    """The layers of a .param file in order; raises ValueError when it is none."""
    lines = param.strip().splitlines()
    if len(lines) < 3 or lines[0].strip() != PARAM_MAGIC:
        raise ValueError(f"not an ncnn network: the first line must be {PARAM_MAGIC}")
    try:
        layers = tuple(_parse_layer(line) for line in lines[2:])
        announced = int(lines[1].split()[0])
    except (ValueError, IndexError) as error:
        raise ValueError("not an ncnn network: a line cannot be read") from error
    if len(layers) != announced:
        raise ValueError(f"the network announces {announced} layers but has {len(layers)}")
    return layers


def _parse_layer(line: str) -> Layer:
    kind, name, inputs, outputs, *rest = line.split()
    first, last = int(inputs), int(inputs) + int(outputs)
    options = dict(item.split("=", 1) for item in rest[last:])
    if len(rest) < last or last == first:
        raise ValueError(line)
    numbered = {int(key): value for key, value in options.items()}
    return Layer(kind, name, tuple(rest[:first]), tuple(rest[first:last]), numbered)


def _add_layer(graph: Graph, reader: Weights, layer: Layer, inputs: list[str]) -> None:
    if layer.kind == "Convolution":
        _add_convolution(graph, reader, layer, inputs)
    elif layer.kind == "PReLU":
        slopes = reader.raw(layer.number(0, 0)).reshape(-1, 1, 1)
        graph.add("PRelu", layer, [*inputs, graph.weight(f"{layer.name}.slope", slopes)])
    elif layer.kind == "PixelShuffle" and layer.number(1, 0) == 0:
        graph.add("DepthToSpace", layer, inputs, blocksize=layer.number(0, 1), mode="CRD")
    elif layer.kind == "Interp" and layer.number(0, 0) == 1:  # 1 is nearest neighbour
        factors = np.array([1, 1, layer.number(1, 1), layer.number(2, 1)], np.float32)
        graph.weights.append(numpy_helper.from_array(factors, f"{layer.name}.factors"))
        wanted = [*inputs, "", f"{layer.name}.factors"]
        plain = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        graph.add("Resize", layer, wanted, mode="nearest", **plain)
    elif layer.kind == "BinaryOp" and layer.number(0, 0) == 0 and len(inputs) == 2:  # 0 is addition
        graph.add("Add", layer, inputs)
    else:
        raise ValueError(f"layer {layer.name} ({layer.kind}) is not supported")


def _add_convolution(graph: Graph, reader: Weights, layer: Layer, inputs: list[str]) -> None:
    filters, side, count = layer.number(0, 0), layer.number(1, 0), layer.number(6, 0)
    plain = (layer.number(2, 1), layer.number(3, 1), layer.number(5, 0), layer.number(9, 0)) == (1, 1, 1, 0)
    if not plain or filters < 1 or side < 1 or count % (filters * side * side):
        raise ValueError(f"layer {layer.name} (Convolution) has options that are not supported")
    kernel = graph.weight(f"{layer.name}.kernel", reader.tagged(count).reshape(filters, -1, side, side))
    bias = graph.weight(f"{layer.name}.bias", reader.raw(filters))
    pads = [layer.number(4, 0)] * 4
    graph.add("Conv", layer, [*inputs, kernel, bias], kernel_shape=[side, side], pads=pads)


def _model(graph: Graph) -> onnx.ModelProto:
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, "height", "width"])
    enlarged = helper.make_tensor_value_info("enlarged", TensorProto.FLOAT, [1, 3, "enlarged_height", "enlarged_width"])
    body = helper.make_graph(graph.nodes, "compact", [pixels], [enlarged], graph.weights)
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(body, opset_imports=[opset], ir_version=IR_VERSION, producer_name="ncnn")
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ValueError(f"the network does not fit together: {str(error).splitlines()[0]}") from error
    return model
