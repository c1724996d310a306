"""ONNX Runtime: an encoder's module as a graph for the processor, in fp32 or calibrated 8 bits.

Owns every call into onnxruntime, and into onnx but for calibration; must not know how engines are
compared. Both are imported when first needed; onnxruntime's reports on its use are switched off.
"""

from __future__ import annotations

import platform
import tempfile
import threading
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from learners.backbones import Quiet
from learners.batch import collate
from learners.engines.base import Engine, Floats, Precision, Shape
from schemas.errors import EncoderError

SHAPE = Shape(rows=32, tokens=1_024)  # as large as is fast on one core (benchmarks/RESULTS.md)
INSTALL = "pip install onnxruntime onnx"
# What tracing sees; of two lengths, so that the mask is kept as a mask.
EXAMPLE = ([5, 6, 7], [5, 6, 7, 8])
OTHER = ([5], [5, 6], [5])  # of other sizes: what tracing took for a constant is found
OPSET = 17  # the first with layer normalisation as one operation
FILES: tuple[str, ...] = ("int8.onnx",)  # of a calibrated graph
GIVEN, FOUND = "packed", "features"  # names of a graph's input and output
# One kernel for a sum and its normalisation costs more on a processor than the two that it joins.
SLOWER = ["SkipLayerNormFusion"]
_ONE_EXPORTS = threading.Lock()  # torch's exporter keeps its state in the process


@cache
def library() -> Any:  # noqa: ANN401 - the module
    """Import onnxruntime, and see that onnx is there.

    Raises:
        EncoderError: one is not installed.
    """
    try:
        import onnx  # noqa: F401 - exporting needs it
        import onnxruntime
    except ImportError as error:
        missing = error.name or "onnxruntime"
        raise EncoderError(f"{missing} is not installed: {INSTALL}") from error
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def machine() -> str:
    """Say what an engine was built for: the processor, and the version that built it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    name = next(names, platform.processor())
    kind = torch.backends.cpu.get_cpu_capability()
    return f"{name} ({platform.machine()}, {kind}); onnxruntime {library().__version__}"


def export(module: nn.Module, file: Path) -> None:
    """Write a module as a graph in fp32; batch and tokens are of any size.

    By tracing: it takes half a second where torch's newer exporter takes five, in which this
    process would answer late, and makes the faster graph of an attention.

    Args:
        module: packed int64 [rows, 2, tokens] to float32 [rows, width], fp32, on the processor.
        file: to be written.

    Raises:
        EncoderError: onnxruntime or onnx is not installed, or cannot express the module.
    """
    library()
    axes = {GIVEN: {0: "rows", 2: "tokens"}, FOUND: {0: "rows"}}
    try:
        with _ONE_EXPORTS, warnings.catch_warnings(), torch.no_grad(), Quiet():
            warnings.simplefilter("ignore")  # tracing warns of every shape that it fixes
            torch.onnx.export(
                module,
                (collate(EXAMPLE),),
                file,
                dynamo=False,
                input_names=[GIVEN],
                output_names=[FOUND],
                dynamic_axes=axes,
                opset_version=OPSET,
            )
    except (RuntimeError, ValueError, TypeError, ImportError) as error:
        raise EncoderError(f"onnx cannot express this encoder: {_first(error)}") from error


def ort_engine(module: nn.Module, *, threads: int) -> Engine:
    """Compute by ONNX Runtime in fp32, without having seen any text.

    Args:
        module: as for `export`; the engine has its weights as they are now.
        threads: of the processor.

    Returns:
        The engine. An `EncoderError` says why there is none.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fp32.onnx"
        export(module, file)
        return _engine(file, precision="fp32", threads=threads)


def calibrated_engine(folder: Path, *, threads: int) -> Engine:
    """Compute by an 8-bit graph that `learners.engines.calibrating` wrote.

    Args:
        folder: with `FILES`.
        threads: of the processor.

    Returns:
        The engine. An `EncoderError` says that the files are damaged.
    """
    return _engine(folder / FILES[0], precision="int8", threads=threads)


def _engine(file: Path, *, precision: Precision, threads: int) -> Engine:
    """Prepare a graph for this processor.

    Args:
        file: of the graph.
        precision: of the graph.
        threads: of the processor.

    Raises:
        EncoderError: the graph is damaged, has what is not known here, or holds for one size only.
    """
    ort = library()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # it would keep a plan of memory for every shape
    options.log_severity_level = 3  # errors, which are raised too
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if precision == "int8":  # tanh for erf saves a twentieth, and differs by less than rounding
        options.add_session_config_entry("optimization.enable_gelu_approximation", "1")

    def run(packed: Tensor) -> Floats:
        given = np.ascontiguousarray(packed.numpy())
        found: Floats = session.run([FOUND], {GIVEN: given})[0]
        return found

    try:
        session = ort.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOWER
        )
        run(collate(OTHER))
    except Exception as error:  # its own errors have no base but this
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise EncoderError(f"onnxruntime cannot compute this encoder: {_first(error)}") from error
    return Engine("onnxruntime", precision, run, SHAPE)


def _first(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
