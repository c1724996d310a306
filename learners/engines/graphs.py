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
from learners.engines.eager import GPU_SHAPE, at_precision, longest_text
from schemas.errors import EncoderError

ROWS = (1, 8, 16, 32, 64, 128, 256, 512)  # 64 are a full pass of `serve` by default
TOKENS = (16, 32, 64, 128)
WARM_UPS = 3  # passes before a recording: libraries allocate and choose their kernels in these
_ONE_RECORDS = threading.Lock()  # in a process; another release's engine may be made meanwhile


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded pass.

    Attributes:
        graph: replays it.
        given: what is copied to its input, in pinned memory, int64 [rows, 2, tokens].
        packed: its input, of that shape.
        found: its output, [rows, width].
    """

    graph: torch.cuda.CUDAGraph
    given: Tensor
    packed: Tensor
    found: Tensor


class Recordings:
    """Forward passes of a module, recorded when a shape first comes.

    All take their memory from one pool, and on one stream, without which nothing of it would be
    used twice: no two of them ever run at once, and an output is read before the next begins.

    Args:
        module: at its precision, on a CUDA device, in eval mode; its weights must not move.
        device: where it is.
    """

    def __init__(self, module: nn.Module, *, device: torch.device) -> None:
        self._module = module
        self._device = device
        self._longest = longest_text(module)
        self._recordings: dict[tuple[int, int], Recording] = {}
        self._lock = threading.Lock()  # input and output of a recording are shared by its callers
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, packed: Tensor) -> Floats:
        """Compute packed int64 [rows, 2, tokens] as a recorded shape, or as it is if too large."""
        rows, _, tokens = packed.shape
        shape = padded_shape(rows, tokens, longest=self._longest)
        if shape is None:
            plain: Floats = self._module(packed.to(self._device)).float().cpu().numpy()
            return plain
        with self._lock:
            if shape not in self._recordings:
                with _ONE_RECORDS, torch.cuda.device(self._device):
                    self._recordings[shape] = self._record(*shape)
            recording = self._recordings[shape]
            pad(recording.given, packed)
            recording.packed.copy_(recording.given, non_blocking=True)
            recording.graph.replay()
            found: Floats = recording.found[:rows].float().cpu().numpy()
        return found

    def _record(self, rows: int, tokens: int) -> Recording:
        given = torch.zeros(rows, 2, tokens, dtype=torch.int64, pin_memory=True)
        given[:, MASK, 0] = 1
        packed = given.to(self._device)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                self._module(packed)
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate meanwhile: only what this one does is checked.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            found = self._module(packed)
        return Recording(graph, given, packed, found)


def padded_shape(rows: int, tokens: int, *, longest: int = 0) -> tuple[int, int] | None:
    """Give the smallest recorded shape that holds a batch; None where none does.

    Args:
        rows: of the batch.
        tokens: of its longest text.
        longest: tokens of a text at most: no shape has more; 0 where that is not known.

    Example:
        >>> padded_shape(9, 17), padded_shape(1, 129), padded_shape(9, 17, longest=20)
        ((16, 32), None, (16, 20))
    """
    holds_rows = [n for n in ROWS if n >= rows]
    holds_tokens = [min(n, longest or n) for n in TOKENS if min(n, longest or n) >= tokens]
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
    try:
        recordings = Recordings(at_precision(module, precision=precision), device=device)
        with torch.inference_mode():
            recordings.run(torch.ones(2, 2, 3, dtype=torch.int64))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise EncoderError(f"this encoder's pass cannot be recorded: {reason}") from error
    shape = Shape(ROWS[-1], GPU_SHAPE.tokens, batch_tokens=GPU_SHAPE.batch_tokens)
    return Engine("cuda-graphs", "bf16", recordings.run, shape)
