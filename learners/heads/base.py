"""What a head is to those who serve and score it, and how its blobs are written.

Owns the interface and the file format; must not know any head, encoders or tasks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from schemas.errors import ReleaseError

Floats = NDArray[np.float32]
Arrays = dict[str, NDArray[Any]]
Meta = dict[str, Any]

NEVER = -1e4  # score of a label that must not be said: finite, so that probabilities stay finite


class ServedHead(Protocol):
    """Rows to scores. Immutable while it serves.

    A row is an encoder's features, float32 [width], and behind them the words of the text
    (`learners.words`), which a head may leave aside, and which may be missing.
    """

    @property
    def labels(self) -> Sequence[str]:
        """Label of every row, in order of appearance."""
        ...

    @property
    def scale(self) -> float:
        """Factor that makes scores calibrated logits (`TaskKind.probabilities`)."""
        ...

    @property
    def threshold(self) -> float:
        """Probability from which a label of a multilabel task is said, 0 to 1."""
        ...

    def scores(self, features: Floats) -> Floats:
        """Score float32 [rows, width and words]: float32 [rows, labels]."""
        ...

    def correct(self, probabilities: Floats) -> Floats:
        """Correct probabilities that come of the scaled scores: float32 [rows, labels] both."""
        ...

    def unknown(self, features: Floats, scores: Floats) -> Floats | None:
        """Say how unknown inputs look, 0 (as known ones) to 1.

        Args:
            features: float32 [rows, width].
            scores: float32 [rows, labels], theirs.

        Returns:
            float32 [rows]: the share of known inputs that looked more known; None where the head
            cannot tell.
        """
        ...


def pack(arrays: Mapping[str, NDArray[Any]], meta: Meta) -> bytes:
    """Write arrays and JSON values as safetensors; the same content always gives the same bytes."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return safetensors.numpy.save(contiguous, metadata={"head": json.dumps(meta, sort_keys=True)})


def unpack(data: bytes) -> tuple[Arrays, Meta]:
    """Read what `pack` wrote.

    Raises:
        ReleaseError: the bytes are damaged.
    """
    try:
        arrays = safetensors.numpy.load(data)
        size = int.from_bytes(data[:8], "little")
        meta = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["head"])
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise ReleaseError(f"a head's blob is damaged: {error}") from error
    return arrays, dict(meta)
