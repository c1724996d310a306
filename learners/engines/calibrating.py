"""Calibrate an encoder's graph to 8 bits on texts: a process of its own, of low priority.

Run as a file, `python calibrating.py FOLDER`, so that it loads no torch: calibration works in
Python for seconds, and in the serving process it would hold up every answer. Owns the folder's
files: reads `fp32.xml` or `fp32.onnx`, writes `int8.xml` or `int8.onnx`. Texts come as `written`
gives them, by standard input and never by a file. Its end is the end of who asked: the folder goes
then, and this process too. Both methods are post-training quantisation for transformers:
8-bit weights by channel, fixed 8-bit activations by tensor, SmoothQuant (Xiao et al., ICML 2023)
and bias correction; nncf's for OpenVINO, this module's own for ONNX Runtime, whose tools do not
smooth. Activation ranges are fixed here, so that no answer depends on the other texts in its batch.
"""

from __future__ import annotations

import logging
import os
import select
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

NICE = 10  # a tenth of a busy processor: serving comes first
# How much of an activation's spread its weights take over is tried out for every product.
POWERS = (0.5, 0.6, 0.7, 0.8, 0.9)
TRIED_ROWS = 256  # tokens that try it
KEPT_ROWS = 2  # tokens of a text that are kept for that, and for the bias
SMALLEST = 1e-5  # of a channel: one that is silent in all texts has no scale

Floats = NDArray[np.float32]


Texts = Sequence[NDArray[np.int64]]
"""Token ids and mask of one text each, [1, 2, tokens]."""


def written(token_ids: Sequence[Sequence[int]]) -> bytes:
    """Write token ids of texts, none of them empty, as `read_texts` reads them."""
    lengths = [len(ids) for ids in token_ids]
    parts = [np.array(part, dtype=np.int64) for part in ([len(lengths)], lengths, *token_ids)]
    return np.concatenate(parts).tobytes()


def read_texts(file: IO[bytes]) -> Texts:
    """Read what `written` gave, and no byte more; less is an `EOFError`.

    Example:
        >>> import io
        >>> read_texts(io.BytesIO(written([[7, 8], [9]])))[0].tolist()
        [[[7, 8], [1, 1]]]
    """

    def numbers(count: int) -> NDArray[np.int64]:
        data = file.read(8 * count)
        if len(data) < 8 * count:
            raise EOFError(f"{len(data)} bytes came, of {8 * count}")
        return np.frombuffer(data, dtype=np.int64)

    lengths = numbers(int(numbers(1)[0]))
    rows = np.split(numbers(int(lengths.sum())), np.cumsum(lengths)[:-1])
    return [np.stack([row, np.ones_like(row)])[None] for row in rows]


def main(folder: Path) -> None:
    """Read the folder's graph and texts, and write the calibrated graph."""
    os.nice(max(0, NICE - os.nice(0)))
    warnings.simplefilter("ignore")
    try:
        texts = read_texts(sys.stdin.buffer)
    except EOFError:
        _end(folder)
    threading.Thread(target=_end_with_input, args=(folder,), daemon=True).start()
    try:
        if (folder / "fp32.onnx").is_file():
            by_onnx(folder, texts)
        else:
            by_nncf(folder, texts)
    finally:  # a library that held the interpreter may have kept the thread from it
        if os.name == "posix" and select.select([sys.stdin], [], [], 0)[0]:
            _end(folder)


def _end_with_input(folder: Path) -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing more is ever written
    _end(folder)


def _end(folder: Path) -> NoReturn:
    # What calibrates may be writing there, and a folder that gains a file stays.
    for _ in range(100):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break
        time.sleep(0.01)
    os._exit(1)


def by_nncf(folder: Path, texts: Texts) -> None:
    """Turn `fp32.xml` into `int8.xml`."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as documented
    import nncf
    import openvino as ov

    nncf.set_log_level(logging.ERROR)
    calibrated = nncf.quantize(
        ov.Core().read_model(folder / "fp32.xml"),
        nncf.Dataset(texts),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(texts),
    )
    ov.save_model(calibrated, folder / "int8.xml", compress_to_fp16=False)


@dataclass(frozen=True, slots=True)
class Seen:
    """What went into a product while texts were read.

    Attributes:
        low: float32 [channels], the least of each.
        high: float32 [channels], the largest of each.
        rows: float32 [some, channels], of tokens by chance.
    """

    low: Floats
    high: Floats
    rows: Floats


@dataclass(frozen=True, slots=True)
class Fit:
    """How activations become 8 bits: divided by channel, then rounded to steps by tensor.

    Attributes:
        divisor: float32 [channels]; weights are multiplied by it.
        step: between two values.
        zero: the value, 0 to 255, that stands for 0.
    """

    divisor: Floats
    step: float
    zero: int

    def rounded(self, rows: Floats) -> Floats:
        """Give rows as 8 bits say them, divided: float32 [rows, channels]."""
        values = np.clip(np.round(rows / self.divisor / self.step) + self.zero, 0, 255)
        return np.asarray((values - self.zero) * self.step, dtype=np.float32)


def by_onnx(folder: Path, texts: Texts) -> None:
    """Turn `fp32.onnx` into `int8.onnx`.

    Raises:
        ValueError: nothing in the graph multiplies by weights.
    """
    import onnx

    model = onnx.load(folder / "fp32.onnx")
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer
    }
    products: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and np.ndim(constants.get(node.input[1], 0)) == 2:
            products.setdefault(node.input[0], []).append(node)
    if not products:
        raise ValueError("nothing in this graph multiplies by weights")
    seen = watch(model, list(products), texts)
    before: dict[str, list[NodeProto]] = {}
    for place, (source, nodes) in enumerate(products.items()):
        before[nodes[0].output[0]] = _quantise(
            model.graph, nodes, seen[source], constants, name=f"product{place}"
        )
    nodes = [n for node in model.graph.node for n in (*before.get(node.output[0], ()), node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    left = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(left)
    onnx.save(model, folder / "int8.onnx")


def watch(model: ModelProto, names: Sequence[str], texts: Texts) -> dict[str, Seen]:
    """Run a graph on texts, and see what some of its values are.

    Args:
        model: the graph; not changed.
        names: of values, each [..., channels].
        texts: its inputs, at least one.

    Returns:
        By name.
    """
    import onnx
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    given = session.get_inputs()[0].name
    chance = np.random.default_rng(0)
    found: dict[str, list[tuple[Floats, Floats, Floats]]] = {name: [] for name in names}
    for text in texts:
        for name, value in zip(names, session.run(names, {given: text}), strict=True):
            rows = value.reshape(-1, value.shape[-1])
            some = rows[chance.integers(len(rows), size=KEPT_ROWS)]
            found[name].append((rows.min(axis=0), rows.max(axis=0), some))
    return {
        name: Seen(
            np.min([low for low, _, _ in parts], axis=0),
            np.max([high for _, high, _ in parts], axis=0),
            np.concatenate([some for _, _, some in parts]),
        )
        for name, parts in found.items()
    }


def fit(seen: Seen, weights: Sequence[Floats]) -> Fit:
    """Choose how activations become 8 bits, so that the products differ least.

    Args:
        seen: of the activations.
        weights: float32 [channels, out] each, that they are multiplied by.
    """
    rows = seen.rows[:TRIED_ROWS]
    activations = np.maximum(np.maximum(-seen.low, seen.high), SMALLEST)
    largest = np.maximum(np.max([np.abs(w).max(axis=1) for w in weights], axis=0), SMALLEST)
    tries: list[tuple[float, Fit]] = []
    for power in POWERS:
        divisor = (activations**power / largest ** (1 - power)).astype(np.float32)
        low = min(0.0, float((seen.low / divisor).min()))
        high = max(SMALLEST, float((seen.high / divisor).max()))
        step = (high - low) / 255
        tried = Fit(divisor, step, round(-low / step))
        coarse = tried.rounded(rows)
        error = 0.0
        for exact in weights:
            values, steps = eight_bits(exact * divisor[:, None])
            error += float(((coarse @ (values * steps) - rows @ exact) ** 2).sum())
        tries.append((error, tried))
    return min(tries, key=lambda one: one[0])[1]


def eight_bits(weights: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Round weights to 8 bits by column.

    Args:
        weights: float32 [channels, out].

    Returns:
        int8 [channels, out] from -127, and the step of each column, float32 [out].

    Example:
        >>> values, steps = eight_bits(np.array([[1.27, 0.0], [-0.1, 0.0]], dtype=np.float32))
        >>> values.tolist()
        [[127, 0], [-10, 0]]
    """
    steps = np.maximum(np.abs(weights).max(axis=0) / 127, 1e-12).astype(np.float32)
    return np.round(weights / steps).astype(np.int8), steps


def _quantise(
    graph: GraphProto,
    nodes: Sequence[NodeProto],
    seen: Seen,
    constants: Mapping[str, Floats],
    *,
    name: str,
) -> list[NodeProto]:
    """Let products of one value be of 8 bits.

    Args:
        graph: gets the constants.
        nodes: the products; they get new inputs.
        seen: of the value.
        constants: of the graph, by name.
        name: what new names begin with.

    Returns:
        New nodes, to stand before the first product.
    """
    from onnx.helper import make_node

    weights = [constants[node.input[1]] for node in nodes]
    fitted = fit(seen, weights)
    divided = _constant(graph, f"{name}.divided", (1 / fitted.divisor).astype(np.float32))
    scale = [
        _constant(graph, f"{name}.step", np.float32(fitted.step)),
        _constant(graph, f"{name}.zero", np.uint8(fitted.zero)),
    ]
    smooth, whole, back = (f"{name}.{part}" for part in ("smooth", "whole", "back"))
    new = [
        make_node("Mul", [nodes[0].input[0], divided], [smooth]),
        make_node("QuantizeLinear", [smooth, *scale], [whole]),
        make_node("DequantizeLinear", [whole, *scale], [back]),
    ]
    coarse = fitted.rounded(seen.rows)
    for place, (node, exact) in enumerate(zip(nodes, weights, strict=True)):
        values, steps = eight_bits(exact * fitted.divisor[:, None])
        mine = f"{name}.{place}"
        inputs = [
            _constant(graph, f"{mine}.values", values),
            _constant(graph, f"{mine}.steps", steps),
            _constant(graph, f"{mine}.zeros", np.zeros(len(steps), dtype=np.int8)),
        ]
        new.append(make_node("DequantizeLinear", inputs, [f"{mine}.weights"], axis=1))
        node.input[0], node.input[1] = back, f"{mine}.weights"
        off = (seen.rows @ exact - coarse @ (values * steps)).mean(axis=0)
        _correct(graph, node, off, constants, name=f"{mine}.bias")
    return new


def _correct(
    graph: GraphProto, node: NodeProto, off: Floats, constants: Mapping[str, Floats], *, name: str
) -> None:
    """Add to the bias of a product what rounding takes from it in the mean, where it has one."""
    users = [other for other in graph.node if node.output[0] in other.input]
    if len(users) != 1 or users[0].op_type != "Add":
        return
    place = 1 - list(users[0].input).index(node.output[0])
    bias = constants.get(users[0].input[place])
    if bias is not None and bias.shape == off.shape:
        users[0].input[place] = _constant(graph, name, (bias + off).astype(np.float32))


def _constant(graph: GraphProto, name: str, value: Any) -> str:  # noqa: ANN401 - of any type
    from onnx.numpy_helper import from_array

    graph.initializer.append(from_array(np.asarray(value), name))
    return name


if __name__ == "__main__":
    main(Path(sys.argv[1]))
