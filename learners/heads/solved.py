"""A solve of the additive head's sums: what scores, and what is served.

Owns scoring and the blobs of one solution; must not know sums or how a solution is found. Weights
are rounded to half precision when a solution is made, so that what was gated is what is served, to
the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learners.heads.base import Arrays, Floats, Meta, pack, unpack
from learners.heads.projection import Projection

_ARRAYS = ("weights", "row_scales", "young", "young_means", "young_weights", "centre")


@dataclass(frozen=True)
class SolvedRidge:
    """Ridge scores, lifted by nearest means for young classes.

    score_c = (1 - w_c) ridge_c(x) + w_c cos(x - centre, mean_c - centre), w_c = 0 for grown
    classes.

    Attributes:
        labels: label of every row.
        scale: factor from scores to calibrated logits.
        threshold: probability from which a label is said.
        projection: of the features.
        weights: float16 [labels, width + 1], each row divided by its largest magnitude.
        row_scales: float32 [labels], those magnitudes.
        young: int32 [young], rows of young classes.
        young_means: float16 [young, features], their centred means, of length 1.
        young_weights: float32 [young], w_c of each, 0 to 1.
        centre: float32 [features], the mean of class means.
    """

    labels: tuple[str, ...]
    scale: float
    threshold: float
    projection: Projection
    weights: NDArray[np.float16]
    row_scales: Floats
    young: NDArray[np.int32]
    young_means: NDArray[np.float16]
    young_weights: Floats
    centre: Floats

    @cached_property
    def _matrix(self) -> Tensor:
        """Float32 [width + 1, labels]."""
        return torch.from_numpy(self.weights.astype(np.float32) * self.row_scales[:, None]).T

    @cached_property
    def _means(self) -> Floats:
        return self.young_means.astype(np.float32)

    def scores(self, features: Floats) -> Floats:
        """Score float32 [rows, features]: float32 [rows, labels]."""
        return self.scores_of(features, self.projection.phi(features))

    def scores_of(self, features: Floats, phi: Tensor) -> Floats:
        """Score features whose phi, float32 [rows, width + 1], is known already."""
        scores: Floats = (phi @ self._matrix).numpy()
        if len(self.young):
            centred = features - self.centre
            centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
            cosines = centred @ self._means.T  # float32 [rows, young]
            scores[:, self.young] += self.young_weights * (cosines - scores[:, self.young])
        return scores

    def arrays(self) -> Arrays:
        """Everything but projection, labels and numbers."""
        return {name: getattr(self, name) for name in _ARRAYS}

    def meta(self) -> Meta:
        """Labels and numbers, as JSON values."""
        return {"labels": list(self.labels), "scale": self.scale, "threshold": self.threshold}

    def blobs(self) -> dict[str, bytes]:
        """Write `head`, and `projection`, which is the same in every release of a task."""
        return {
            "head": pack(self.arrays(), {"type": "ridge", **self.meta()}),
            "projection": pack({"matrix": self.projection.matrix}, {"type": "projection"}),
        }

    @classmethod
    def restore(
        cls, arrays: Mapping[str, NDArray[np.generic]], meta: Meta, *, projection: Projection
    ) -> SolvedRidge:
        """Take up what `arrays` and `meta` gave."""
        fields = {name: np.array(arrays[name]) for name in _ARRAYS}
        return cls(
            labels=tuple(meta["labels"]),
            scale=float(meta["scale"]),
            threshold=float(meta["threshold"]),
            projection=projection,
            **fields,
        )

    @classmethod
    def from_blobs(cls, blobs: Mapping[str, bytes]) -> SolvedRidge:
        """Read what `blobs` wrote."""
        arrays, meta = unpack(blobs["head"])
        matrix, _ = unpack(blobs["projection"])
        return cls.restore(arrays, meta, projection=Projection(matrix["matrix"]))
