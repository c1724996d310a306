"""What an engine is, how token ids run through one, and the words of a choice.

Owns names, micro-batches and reports; must not know any library that computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learners.batch import collate
from learners.planning import BATCH_TOKENS, plan

EngineName = Literal["torch", "torch-compiled", "cuda-graphs", "openvino", "onnxruntime"]
Precision = Literal["fp32", "bf16", "int8-weights", "int8"]
Floats = NDArray[np.float32]
Pair = tuple[EngineName, Precision]

ENGINES: tuple[EngineName, ...] = (
    "torch",
    "torch-compiled",
    "cuda-graphs",
    "openvino",
    "onnxruntime",
)
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8-weights", "int8")
REFERENCE: Pair = ("torch", "fp32")
# Made of texts; until then, what computes where nothing else is allowed.
CALIBRATED: tuple[Pair, ...] = (("openvino", "int8"), ("onnxruntime", "int8"))
STAND_INS: Mapping[Pair, Pair] = {
    ("openvino", "int8"): ("openvino", "int8-weights"),
    ("onnxruntime", "int8"): ("onnxruntime", "fp32"),
}
DATA_FREE: tuple[Pair, ...] = (
    REFERENCE,
    ("torch", "bf16"),
    ("openvino", "fp32"),
    ("onnxruntime", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8-weights"),
)
ON_A_GPU: tuple[Pair, ...] = (REFERENCE, ("torch", "bf16"), ("cuda-graphs", "bf16"))
ELSEWHERE: tuple[Pair, ...] = (REFERENCE, ("torch", "bf16"))


@dataclass(frozen=True, slots=True)
class Shape:
    """What bounds a micro-batch: rows keep caches warm, tokens bound memory and caches too.

    Attributes:
        rows: at most.
        tokens: at most, padding included; one row may have more.
        batch_tokens: what a micro-batch costs beside its tokens, in tokens.
    """

    rows: int
    tokens: int
    batch_tokens: int = BATCH_TOKENS


@dataclass(frozen=True, slots=True)
class Engine:
    """One way to compute features.

    Attributes:
        name: of the library and its mode.
        precision: arithmetic of the matrix products.
        run: packed int64 [rows, 2, tokens], as `learners.batch.collate` makes it, in main memory,
            to float32 [rows, width]; safe to call from several threads at once.
        shape: of a micro-batch that suits it.
    """

    name: EngineName
    precision: Precision
    run: Callable[[Tensor], Floats]
    shape: Shape

    @property
    def pair(self) -> Pair:
        """Name and precision."""
        return self.name, self.precision


def features(engine: Engine, token_ids: Sequence[Sequence[int]], *, width: int) -> Floats:
    """Run token ids through an engine in micro-batches.

    Args:
        engine: computes.
        token_ids: any number of rows.
        width: of a feature row.

    Returns:
        float32 [rows, width], in the order given.
    """
    found = np.zeros((len(token_ids), width), dtype=np.float32)
    with torch.inference_mode():
        for rows in micro_batches([len(ids) for ids in token_ids], shape=engine.shape):
            found[rows] = engine.run(collate([token_ids[row] for row in rows]))
    return found


def micro_batches(lengths: Sequence[int], *, shape: Shape) -> list[list[int]]:
    """Split rows, shortest first, into batches that suit an engine; see `learners.planning.plan`.

    Args:
        lengths: tokens of each row.
        shape: the bounds.

    Returns:
        Row numbers of each batch.

    Example:
        >>> micro_batches([9, 2, 3, 2], shape=Shape(rows=2, tokens=16))
        [[1, 3], [2], [0]]
    """
    return plan(lengths, shape.rows, shape.tokens, batch_tokens=shape.batch_tokens)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What became known of an engine; None where it was not measured.

    Attributes:
        engine: its name.
        precision: its arithmetic.
        texts_per_s: of one processor thread, or of the device.
        cosine: to the features of torch in fp32: all but one in a hundred probe texts are nearer.
        same: share of probe texts with the same answer, 0 to 1.
        alone: largest 1 - cosine between a text's features alone and in a batch.
        accuracy_loss: on labelled texts, percentage points below torch in fp32.
        rejected: why it may not serve; empty where it may.
    """

    engine: EngineName
    precision: Precision
    texts_per_s: float | None = None
    cosine: float | None = None
    same: float | None = None
    alone: float | None = None
    accuracy_loss: float | None = None
    rejected: str = ""

    def __str__(self) -> str:
        """Say what is known in a few words."""
        said = []
        if self.texts_per_s is not None:
            said.append(f"{self.texts_per_s:.0f} texts/s")
        if self.cosine is not None:
            said.append(f"cosine {self.cosine:.4f}")
        if self.accuracy_loss is not None:
            said.append(f"{self.accuracy_loss:+.2f} points of accuracy lost")
        if self.rejected:
            said.append(f"rejected: {self.rejected}")
        return f"{self.engine} {self.precision} " + ", ".join(said)


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """What computes an encoder's features, and why.

    Attributes:
        device: torch device the encoder runs on.
        engine: chosen.
        precision: its arithmetic.
        candidates: what was checked and measured; empty when the choice was given.
        reason: why it is not the fastest of these, where that needs saying.
    """

    device: str
    engine: EngineName
    precision: Precision
    candidates: tuple[Candidate, ...] = ()
    reason: str = ""

    @property
    def chosen(self) -> Candidate | None:
        """The measured candidate that was chosen; None when the choice was given."""
        return self.of((self.engine, self.precision))

    @property
    def rejected(self) -> dict[str, str]:
        """Why candidates may not serve, by `engine precision`."""
        return {f"{c.engine} {c.precision}": c.rejected for c in self.candidates if c.rejected}

    def of(self, pair: Pair) -> Candidate | None:
        """Give what is known of an engine at a precision, or None."""
        return next((c for c in self.candidates if (c.engine, c.precision) == pair), None)

    def joined_with(self, other: EngineChoice) -> EngineChoice:
        """Give the other choice, with what only this one knows of candidates."""
        older = [c for c in self.candidates if other.of((c.engine, c.precision)) is None]
        return replace(other, candidates=(*older, *other.candidates))

    def __str__(self) -> str:
        """Say the choice and its reason in one line."""
        how = f"measured: {'; '.join(map(str, self.candidates))}" if self.candidates else "given"
        why = f"; {self.reason}" if self.reason else ""
        return f"{self.engine} {self.precision} on {self.device} ({how}{why})"
