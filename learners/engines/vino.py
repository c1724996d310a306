"""OpenVINO: an encoder's module as a graph for the processor, in four arithmetics.

Owns every call into openvino, and into nncf but for calibration; must not know how engines are
compared. Both are imported when first needed, and neither may report on its use: their telemetry is
on unless its package is missing, so it is made to look missing.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from learners.backbones import Quiet
from learners.batch import collate, pad
from learners.engines.base import Engine, Floats, Precision, Shape
from learners.engines.eager import longest_text
from schemas.errors import EncoderError

# Rows and tokens are what was fastest on one core (benchmarks/RESULTS.md).
SHAPE = Shape(rows=32, tokens=1_024)
# Batches are padded to these: every new shape has kernels made for it, which takes time and memory.
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32)
STEPS = ((24, 2), (64, 4), (10**9, 8))  # up to so many tokens, to a multiple of
FILES: tuple[str, ...] = ("int8.xml", "int8.bin")  # of a calibrated graph
LONGEST = ["mindstream", "longest"]  # where a graph says how many tokens a text may have
INSTALL = "pip install openvino nncf"
# What conversion sees; of two lengths, so that the mask is kept as a mask.
EXAMPLE = ([5, 6, 7], [5, 6, 7, 8])


@cache
def library() -> Any:  # noqa: ANN401 - the module
    """Import openvino.

    Raises:
        EncoderError: it is not installed.
    """
    _no_telemetry()
    try:
        import openvino
    except ImportError as error:
        raise EncoderError(f"openvino is not installed: {INSTALL}") from error
    return openvino


@cache
def compressor() -> Any:  # noqa: ANN401 - the module
    """Import nncf, without its progress bars.

    Raises:
        EncoderError: it is not installed.
    """
    _no_telemetry()
    try:
        import nncf
    except ImportError as error:
        raise EncoderError(f"nncf is not installed: {INSTALL}") from error
    nncf.set_log_level(40)  # logging.ERROR
    return nncf


def _no_telemetry() -> None:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as documented


@cache
def _core() -> Any:  # noqa: ANN401 - openvino's own class
    return library().Core()


def capabilities() -> tuple[str, ...]:
    """List what the processor computes natively, as openvino names it, such as FP32, BF16, INT8.

    An EncoderError says that openvino is not installed.
    """
    return tuple(_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def machine() -> str:
    """Say what an engine was built for: the processor, and the versions that built it."""
    name = _core().get_property("CPU", "FULL_DEVICE_NAME")
    versions = f"openvino {library().__version__}, nncf {compressor().__version__}"
    return f"{name} ({', '.join(capabilities())}); {versions}"


class Converted:
    """A module as a graph in fp32, converted once when first needed.

    Args:
        module: gives it: packed int64 [rows, 2, tokens] to float32 [rows, width], fp32, on the
            processor. The graph shares its weights: it holds for as long as they do not change.
    """

    def __init__(self, module: Callable[[], nn.Module]) -> None:
        self._module = module
        self._lock = threading.Lock()
        self._model: Any = None

    @property
    def model(self) -> Any:  # noqa: ANN401 - openvino's own class
        """The graph; batch and tokens are of any size.

        An `EncoderError` says that openvino is not installed, or cannot express the module.
        """
        with self._lock:
            if self._model is None:
                self._model = _convert(self._module())
            return self._model


def _convert(module: nn.Module) -> Any:  # noqa: ANN401 - openvino's own class
    ov = library()
    batch = ov.PartialShape([-1, 2, -1])
    try:
        with warnings.catch_warnings(), torch.no_grad(), Quiet():
            warnings.simplefilter("ignore")  # tracing warns of every shape that it fixes
            model = ov.convert_model(
                module, example_input=collate(EXAMPLE), input=[(batch, ov.Type.i64)]
            )
            model.set_rt_info(str(longest_text(module)), LONGEST)
            return model
    except (RuntimeError, ValueError, TypeError, ov.Exception) as error:
        raise EncoderError(f"openvino cannot express this encoder: {_first(error)}") from error


def roomy_shape(rows: int, tokens: int, *, longest: int) -> tuple[int, int]:
    """Give the shape that a batch is padded to.

    Args:
        rows: of the batch.
        tokens: of its longest text.
        longest: tokens of a text at most; the shape never has more, but for those of the batch.

    Example:
        >>> roomy_shape(9, 13, longest=512), roomy_shape(40, 30, longest=31)
        ((10, 14), (40, 30))
    """
    step = next(step for up_to, step in STEPS if tokens <= up_to)
    wide = -(-tokens // step) * step
    tall = next((n for n in ROWS if n >= rows), rows)
    return tall, wide if wide <= longest else tokens


def vino_engine(converted: Converted, *, precision: Precision, threads: int) -> Engine:
    """Compute by OpenVINO without having seen any text.

    Args:
        converted: the module.
        precision: fp32, bf16 or int8-weights.
        threads: of the processor.

    Raises:
        EncoderError: openvino or nncf is not installed, cannot express the module, or the processor
            has no bf16.
    """
    if precision == "bf16" and "BF16" not in capabilities():
        raise EncoderError("this processor does not compute in bf16")
    model = converted.model
    if precision == "int8-weights":
        nncf = compressor()
        with warnings.catch_warnings(), redirect_stdout(StringIO()):  # it draws a progress bar
            warnings.simplefilter("ignore")
            model = nncf.compress_weights(model.clone(), mode=nncf.CompressWeightsMode.INT8_SYM)
    return compiled(model, precision=precision, threads=threads)


def calibrated_engine(folder: Path, *, threads: int) -> Engine:
    """Compute by an 8-bit graph that `learners.engines.calibrating` wrote.

    Args:
        folder: with `FILES`.
        threads: of the processor.

    Raises:
        EncoderError: the files are damaged.
    """
    ov = library()
    try:
        model = _core().read_model(folder / FILES[0])
    except (RuntimeError, ov.Exception) as error:
        raise EncoderError(f"{folder / FILES[0]} cannot be read: {_first(error)}") from error
    return compiled(model, precision="int8", threads=threads)


def compiled(model: Any, *, precision: Precision, threads: int) -> Engine:  # noqa: ANN401
    """Compile a graph for this processor.

    Args:
        model: openvino's own class.
        precision: of the graph, and of what it leaves open.
        threads: of the processor.

    Raises:
        EncoderError: the graph cannot be compiled here.
    """
    ov = library()
    coarse = precision == "bf16" or (precision == "int8" and "BF16" in capabilities())
    settings = {
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if coarse else "f32",  # else it follows the processor
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # a text's features would depend on its neighbours
    }
    try:
        graph = _core().compile_model(model, "CPU", settings)
    except (RuntimeError, ov.Exception) as error:
        raise EncoderError(f"openvino cannot compile this encoder: {_first(error)}") from error
    longest = int(model.get_rt_info(LONGEST).astype(str)) if model.has_rt_info(LONGEST) else 0
    requests = Requests(graph, longest=longest)
    return Engine("openvino", precision, requests.run, SHAPE)


class Requests:
    """Runs a compiled graph, each thread through a request of its own.

    Args:
        graph: openvino's compiled model.
        longest: tokens of a text, at most.
    """

    def __init__(self, graph: Any, *, longest: int) -> None:  # noqa: ANN401 - openvino's own class
        self._graph = graph
        self._longest = longest
        self._lock = threading.Lock()
        self._mine = threading.local()

    def run(self, packed: Tensor) -> Floats:
        """Compute packed int64 [rows, 2, tokens]: float32 [rows, width], a copy."""
        request = getattr(self._mine, "request", None)
        if request is None:
            with self._lock:
                request = self._graph.create_infer_request()
            self._mine.request = request
        rows, _, tokens = packed.shape
        shape = roomy_shape(rows, tokens, longest=self._longest)
        if shape != (rows, tokens):
            target = torch.empty(shape[0], 2, shape[1], dtype=packed.dtype)
            pad(target, packed)
            packed = target
        found: Floats = request.infer([packed.numpy()])[0][:rows].copy()
        return found


def _first(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
