"""A solve of the additive sums: what scores, and what is served.

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
from learners.heads.calibration import Calibration
from learners.heads.projection import CODE_STEP, Projection

_ARRAYS = (
    "weights",
    "row_scales",
    "lead_weights",
    "lead_scales",
    "fresh",
    "means",
    "mean_weights",
    "centre",
)


@dataclass(frozen=True)
class SolvedAdditive:
    """Linear scores of phi, lifted by nearest means for labels with few rows.

    score_c = (1 - v_c) w_c' phi(x) + v_c cos(x - centre, mean_c - centre); v_c = 0 for ripe labels.

    Weights of one solve know of each other, so two solves are never mixed in one row: a row that
    the leading features take for a label that changed since the full solve is scored by them alone.

    Attributes:
        labels: label of every row.
        calibration: from scores to probabilities.
        projection: of the features.
        weights: float16 [labels, d], each row divided by its largest magnitude.
        row_scales: float32 [labels], those magnitudes.
        lead_weights: float16 [labels, lead], of the newer solve of the leading features; no rows
            where it has nothing to add.
        lead_scales: float32 [labels], its magnitudes; or none.
        fresh: bool [labels], labels that changed since the full solve.
        means: float16 [labels, features], centred means, of length 1 or 0.
        mean_weights: float32 [labels], v_c of each, 0 to 1.
        centre: float32 [features], the mean of the labels' means.
    """

    labels: tuple[str, ...]
    calibration: Calibration
    projection: Projection
    weights: NDArray[np.float16]
    row_scales: Floats
    lead_weights: NDArray[np.float16]
    lead_scales: Floats
    fresh: NDArray[np.bool_]
    means: NDArray[np.float16]
    mean_weights: Floats
    centre: Floats

    @property
    def scale(self) -> float:
        """Factor from scores to calibrated logits."""
        return self.calibration.scale

    @property
    def threshold(self) -> float:
        """Probability from which a label of several is said."""
        return self.calibration.threshold

    @cached_property
    def _matrix(self) -> Tensor:
        """Float32 [d, labels], on codes."""
        return _columns(self.weights, self.row_scales)

    @cached_property
    def _lead_matrix(self) -> Tensor:
        """Float32 [lead, labels], on codes."""
        return _columns(self.lead_weights, self.lead_scales)

    @cached_property
    def _means(self) -> Tensor:
        return torch.from_numpy(self.means.astype(np.float32)).T

    def scores(self, features: Floats) -> Floats:
        """Score float32 [rows, features]: float32 [rows, labels]."""
        return self.scores_of(features, self.projection.codes(features))

    def scores_of(self, features: Floats, codes: Tensor) -> Floats:
        """Score features whose codes, int8 [rows, d], are known already."""
        lift = self.cosines(features) if self.mean_weights.any() else None
        scores = self._lifted((codes.float() @ self._matrix).numpy(), lift)
        if not len(self.lead_weights):
            return scores
        leading = codes[:, : self.lead_weights.shape[1]].float()
        newer = self._lifted((leading @ self._lead_matrix).numpy(), lift)
        scores[:, self.fresh] = newer[:, self.fresh]
        by_lead = self.fresh[newer.argmax(axis=1)]
        scores[by_lead] = newer[by_lead]
        return scores

    def unlifted(self, codes: Tensor) -> Floats:
        """Score codes, int8 [rows, d], by the newest solve alone: float32 [rows, labels]."""
        scores: Floats = (codes.float() @ self._matrix).numpy()
        if self.fresh.any():
            leading = codes[:, : self.lead_weights.shape[1]].float()
            newer: Floats = (leading @ self._lead_matrix).numpy()
            scores[:, self.fresh] = newer[:, self.fresh]
        return scores

    def _lifted(self, scores: Floats, cosines: Floats | None) -> Floats:
        if cosines is not None:
            lift = cosines + np.float32(self.calibration.lift)
            scores = scores + self.mean_weights * (lift - scores)
        return scores

    def cosines(self, features: Floats) -> Floats:
        """Compare float32 [rows, features] with every label's mean: float32 [rows, labels]."""
        centred = features - self.centre
        centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
        return np.asarray((torch.from_numpy(centred) @ self._means).numpy(), dtype=np.float32)

    def correct(self, probabilities: Floats) -> Floats:
        """Correct the largest of each row's probabilities: float32 [rows, labels]."""
        return self.calibration.correct(probabilities)

    def unknown(self, features: Floats, scores: Floats) -> Floats | None:
        """Say how unknown inputs look: float32 [rows], 0 to 1; see `ServedHead`."""
        return self.calibration.unknown(scores, self.cosines(features))

    def arrays(self) -> Arrays:
        """Everything but projection, labels and numbers."""
        mine = {name: getattr(self, name) for name in _ARRAYS}
        return {**mine, "known_quantiles": self.calibration.known_quantiles}

    def meta(self) -> Meta:
        """Labels and numbers, as JSON values."""
        return {"labels": list(self.labels), **self.calibration.meta()}

    def blobs(self) -> dict[str, bytes]:
        """Write `head`, and `projection`, which is the same in every release of a task."""
        return {
            "head": pack(self.arrays(), {"type": "additive", **self.meta()}),
            "projection": pack({"matrix": self.projection.matrix}, {"type": "projection"}),
        }

    @classmethod
    def restore(
        cls, arrays: Mapping[str, NDArray[np.generic]], meta: Meta, *, projection: Projection
    ) -> SolvedAdditive:
        """Take up what `arrays` and `meta` gave."""
        fields = {name: np.array(arrays[name]) for name in _ARRAYS}
        return cls(
            labels=tuple(meta["labels"]),
            calibration=Calibration.restore(np.array(arrays["known_quantiles"]), meta),
            projection=projection,
            **fields,
        )

    @classmethod
    def from_blobs(cls, blobs: Mapping[str, bytes]) -> SolvedAdditive:
        """Read what `blobs` wrote."""
        arrays, meta = unpack(blobs["head"])
        matrix, _ = unpack(blobs["projection"])
        return cls.restore(arrays, meta, projection=Projection(matrix["matrix"]))


def _columns(weights: NDArray[np.float16], scales: Floats) -> Tensor:
    rows = torch.from_numpy(weights.astype(np.float32) * (scales[:, None] * CODE_STEP))
    return rows.T.contiguous()


def halved(weights: Tensor) -> tuple[NDArray[np.float16], Floats]:
    """Round rows to half precision, each divided by its largest magnitude."""
    if not weights.numel():
        return np.zeros(tuple(weights.shape), np.float16), np.zeros(len(weights), np.float32)
    scales = weights.abs().amax(dim=1).clamp_min(1e-30)
    return (weights / scales.unsqueeze(1)).half().numpy(), scales.float().numpy()
