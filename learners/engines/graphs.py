"""CUDA graphs: one recorded forward pass a shape, replayed without a kernel launch from Python.

Owns shapes, recordings and their buffers; must not know how engines are compared. A batch is padded
to the next shape; what pads it is masked, or cut off, so that features do not change.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from learners.batch import MASK, pad
from learners.engines.base import Engine, Floats, Shape
from learners.engines.eager import GPU_SHAPE, at_precision
from schemas.errors import EncoderError

ROWS = (1, 8, 32, 128, 512)
TOKENS = (16, 32, 64, 128)
WARM_UPS = 3  # passes before a recording: libraries allocate and choose their kernels in these


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded pass.

    Attributes:
        graph: replays it.
        packed: its input, int64 [rows, 2, tokens].
        found: its output, [rows, width].
    """

    graph: torch.cuda.CUDAGraph
    packed: Tensor
    found: Tensor


class Recordings:
    """Forward passes of a module, recorded when a shape first comes.

    Args:
        module: at its precision, on a CUDA device, in eval mode; its weights must not move.
        device: where it is.
    """

    def __init__(self, module: nn.Module, *, device: torch.device) -> None:
        self._module = module
        self._device = device
        self._recordings: dict[tuple[int, int], Recording] = {}
        self._lock = threading.Lock()  # input and output of a recording are shared by its callers

    def run(self, packed: Tensor) -> Floats:
        """Compute packed int64 [rows, 2, tokens] as a recorded shape, or as it is if too large."""
        rows, _, tokens = packed.shape
        shape = padded_shape(rows, tokens)
        if shape is None:
            plain: Floats = self._module(packed.to(self._device)).float().cpu().numpy()
            return plain
        with self._lock:
            if shape not in self._recordings:
                self._recordings[shape] = self._record(*shape)
            recording = self._recordings[shape]
            pad(recording.packed, packed)
            recording.graph.replay()
            found: Floats = recording.found[:rows].float().cpu().numpy()
        return found

    def _record(self, rows: int, tokens: int) -> Recording:
        packed = torch.zeros(rows, 2, tokens, dtype=torch.int64, device=self._device)
        packed[:, MASK, 0] = 1
        beside = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                self._module(packed)
        torch.cuda.current_stream(self._device).wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = self._module(packed)
        return Recording(graph, packed, found)


def padded_shape(rows: int, tokens: int) -> tuple[int, int] | None:
    """Give the smallest recorded shape that holds a batch; None where none does.

    Example:
        >>> padded_shape(9, 17), padded_shape(1, 129)
        ((32, 32), None)
    """
    holds_rows = [n for n in ROWS if n >= rows]
    holds_tokens = [n for n in TOKENS if n >= tokens]
    return (holds_rows[0], holds_tokens[0]) if holds_rows and holds_tokens else None


def graphs_engine(module: nn.Module, *, precision: str, device: torch.device) -> Engine:
    """Compute by CUDA graphs.

    Args:
        module: fp32, on its device; a copy is recorded.
        precision: only bf16.
        device: must be a CUDA device.

    Raises:
        EncoderError: the device is none, or the module's pass cannot be recorded.
    """
    if device.type != "cuda":
        raise EncoderError(f"CUDA graphs need a CUDA device; this encoder is on {device}")
    recordings = Recordings(at_precision(module, precision=precision), device=device)
    try:
        with torch.inference_mode():
            recordings.run(torch.ones(2, 2, 3, dtype=torch.int64))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise EncoderError(f"this encoder's pass cannot be recorded: {reason}") from error
    shape = Shape(rows=ROWS[-1], tokens=GPU_SHAPE.tokens)
    return Engine("cuda-graphs", "bf16", recordings.run, shape)
