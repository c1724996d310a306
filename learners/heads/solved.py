"""A solve of the additive sums: what scores, and what is served.

Owns scoring and the blobs of one solution; must not know sums or how a solution is found. Weights
are rounded to half precision when a solution is made, so that what was gated is what is served, to
the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learners.heads.base import Arrays, Floats, Meta, pack, unpack
from learners.heads.calibration import Calibration
from learners.heads.projection import CODE_STEP, Projection
from learners.heads.trained import TrainedColumns
from learners.heads.words import WordColumns
from learners.words import word_slots

_FITTED = "fitted_"
_ARRAYS = ("constants", "lead_constants", "fresh", "means", "mean_weights", "centre")


@dataclass(frozen=True)
class Columns:
    """The weights of one solve but for those of phi's constant, rounded.

    Attributes:
        weights: float16 [labels, d], each row divided by its largest magnitude; zeros come first.
        scales: float32 [labels], those magnitudes.
    """

    weights: NDArray[np.float16]
    scales: Floats

    @classmethod
    def empty(cls) -> Columns:
        """Weights of no label."""
        return cls(np.zeros((0, 1), np.float16), np.zeros(0, np.float32))

    @classmethod
    def of(cls, weights: Tensor) -> Columns:
        """Round float32 [labels, d], which is used up."""
        if not len(weights):
            return cls.empty()
        weights[:, 0] = 0.0
        scales = weights.abs().amax(dim=1).clamp_min(1e-30)
        return cls(weights.div_(scales.unsqueeze(1)).half().numpy(), scales.numpy())

    @cached_property
    def _rows(self) -> Tensor:
        """Float32 [labels, d], on codes."""
        rows = torch.from_numpy(self.weights.astype(np.float32))
        return rows.mul_(torch.from_numpy(self.scales * np.float32(CODE_STEP)).unsqueeze(1))

    def products(self, codes: Tensor) -> Floats:
        """Multiply with codes, int8 [rows, at least d]: float32 [rows, labels]."""
        leading = codes[:, : self.weights.shape[1]].float()
        return np.asarray((leading @ self._rows.T).numpy(), dtype=np.float32)


@dataclass(frozen=True)
class SolvedAdditive:
    """Linear scores of phi, lifted by nearest means for labels with few rows.

    score_c = (1 - v_c) w_c' phi(x) + v_c cos(x - centre, mean_c - centre); v_c = 0 for ripe labels.
    After a consolidation it loses `calibration.trust` times what `trained` takes away. It gains
    `calibration.words` times what the words of a row say by their counts, and `calibration.fit`
    times what their fit says, where words stand behind its features.

    Weights of one solve know of each other, so two solves are never mixed in one row: a row that
    the leading features take for a label that changed since the full solve is scored by them alone.

    Attributes:
        labels: label of every row.
        calibration: from scores to probabilities.
        projection: of the features.
        full: weights over all of phi, of the labels that the full solve knew: the first ones. The
            same object until the next full solve.
        constants: float32 [labels], weights of phi's constant, priors included.
        lead: of the newer solve of the leading features; of no label where it has nothing to add.
        lead_constants: float32 [labels], its; or none.
        fresh: bool [labels], labels that changed since the full solve.
        means: float16 [labels, features], centred means, of length 1 or 0.
        mean_weights: float32 [labels], v_c of each, 0 to 1.
        centre: float32 [features], the mean of the labels' means.
        trained: by the last consolidation, on this encoder's features.
        words: scores of words by label, by their counts.
        fitted: and as they fit labels best together; of no label where these are many.
    """

    labels: tuple[str, ...]
    calibration: Calibration
    projection: Projection
    full: Columns
    constants: Floats
    lead: Columns
    lead_constants: Floats
    fresh: NDArray[np.bool_]
    means: NDArray[np.float16]
    mean_weights: Floats
    centre: Floats
    trained: TrainedColumns = field(default_factory=TrainedColumns.empty)
    words: WordColumns = field(default_factory=WordColumns.empty)
    fitted: WordColumns = field(default_factory=WordColumns.empty)

    @property
    def scale(self) -> float:
        """Factor from scores to calibrated logits."""
        return self.calibration.scale

    @property
    def threshold(self) -> float:
        """Probability from which a label of several is said."""
        return self.calibration.threshold

    @cached_property
    def _means(self) -> Tensor:
        return torch.from_numpy(self.means.astype(np.float32)).T

    def scores(self, features: Floats) -> Floats:
        """Score float32 [rows, features], or with words behind them: float32 [rows, labels]."""
        return self.scores_of(features, self.projection.codes(features))

    def scores_of(self, features: Floats, codes: Tensor) -> Floats:
        """Score features whose codes, int8 [rows, d], are known already."""
        scores = self._summed_scores(features, codes)
        if self.calibration.trust:
            trust = np.float32(self.calibration.trust)
            scores += trust * self.trained.losses(features, labels=len(self.labels))
        if self.calibration.words:
            scores += np.float32(self.calibration.words) * self.word_scores(features)
        if self.calibration.fit:
            scores += np.float32(self.calibration.fit) * self.fitted_scores(features)
        return scores

    def word_scores(self, features: Floats) -> Floats:
        """Score the words behind features: float32 [rows, labels], 0 where there are none."""
        words = word_slots(features, width=len(self.centre))
        return self.words.scores(words, labels=len(self.labels))

    def fitted_scores(self, features: Floats) -> Floats:
        """Score them by the fit: float32 [rows, labels], 0 where there is none."""
        words = word_slots(features, width=len(self.centre))
        return self.fitted.scores(words, labels=len(self.labels))

    def _summed_scores(self, features: Floats, codes: Tensor) -> Floats:
        lift = self.cosines(features) if self.mean_weights.any() else None
        scores = self._lifted(self._full_scores(codes), lift)
        if not len(self.lead_constants):
            return scores
        newer = self._lifted(self._lead_scores(codes), lift)
        scores[:, self.fresh] = newer[:, self.fresh]
        by_lead = self.fresh[newer.argmax(axis=1)]
        scores[by_lead] = newer[by_lead]
        return scores

    def unlifted(self, codes: Tensor) -> Floats:
        """Score codes, int8 [rows, d], by the newest solve alone: float32 [rows, labels]."""
        scores = self._full_scores(codes)
        if self.fresh.any():
            scores[:, self.fresh] = self._lead_scores(codes)[:, self.fresh]
        return scores

    def _full_scores(self, codes: Tensor) -> Floats:
        scores = np.tile(self.constants, (len(codes), 1))
        if len(self.full.scales):
            scores[:, : len(self.full.scales)] += self.full.products(codes)
        return scores

    def _lead_scores(self, codes: Tensor) -> Floats:
        return self.lead.products(codes) + self.lead_constants

    def _lifted(self, scores: Floats, cosines: Floats | None) -> Floats:
        if cosines is not None:
            lift = cosines + np.float32(self.calibration.lift)
            scores = scores + self.mean_weights * (lift - scores)
        return scores

    def cosines(self, features: Floats) -> Floats:
        """Compare float32 [rows, features] with every label's mean: float32 [rows, labels]."""
        centred = features[:, : len(self.centre)] - self.centre
        centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
        return np.asarray((torch.from_numpy(centred) @ self._means).numpy(), dtype=np.float32)

    def correct(self, probabilities: Floats) -> Floats:
        """Correct the largest of each row's probabilities: float32 [rows, labels]."""
        return self.calibration.correct(probabilities)

    def unknown(self, features: Floats, scores: Floats) -> Floats | None:
        """Say how unknown inputs look: float32 [rows], 0 to 1; see `ServedHead`."""
        return self.calibration.unknown(scores, self.cosines(features))

    def with_all(self, columns: Columns, constants: Floats) -> SolvedAdditive:
        """Give the same with another solve of all of phi."""
        return replace(self, full=columns, constants=constants)

    def arrays(self) -> Arrays:
        """Everything but the columns, projection, labels and numbers."""
        mine = {name: getattr(self, name) for name in _ARRAYS}
        mine |= self.trained.arrays() | self.words.arrays()
        mine |= {f"{_FITTED}{name}": array for name, array in self.fitted.arrays().items()}
        return {**mine, "known_quantiles": self.calibration.known_quantiles}

    def meta(self) -> Meta:
        """Labels and numbers, as JSON values."""
        return {"labels": list(self.labels), **self.calibration.meta()}

    def blobs(self) -> dict[str, bytes]:
        """Write `head`, and `projection`, which is the same in every release of a task."""
        weights: Arrays = {
            "weights": self.full.weights,
            "row_scales": self.full.scales,
            "lead_weights": self.lead.weights,
            "lead_scales": self.lead.scales,
        }
        return {
            "head": pack({**self.arrays(), **weights}, {"type": "additive", **self.meta()}),
            "projection": pack({"matrix": self.projection.matrix}, {"type": "projection"}),
        }

    def judged_blob(self) -> bytes:
        """Write what this has that the head beside it, which learned held-out rows, has not."""
        arrays: Arrays = {
            "weights": self.full.weights,
            "row_scales": self.full.scales,
            "constants": self.constants,
        }
        return pack(arrays, {"type": "judged"})

    def judged(self, blob: bytes) -> SolvedAdditive:
        """Give the head that `judged_blob` wrote beside this one."""
        arrays, _ = unpack(blob)
        columns = Columns(arrays["weights"], arrays["row_scales"])
        return self.with_all(columns, arrays["constants"])

    @classmethod
    def restore(
        cls,
        arrays: Mapping[str, NDArray[np.generic]],
        meta: Meta,
        *,
        full: Columns,
        lead: Columns,
        projection: Projection,
    ) -> SolvedAdditive:
        """Take up what `arrays` and `meta` gave, with the columns that they leave out."""
        fields = {name: np.array(arrays[name]) for name in _ARRAYS}
        return cls(
            labels=tuple(meta["labels"]),
            calibration=Calibration.restore(np.array(arrays["known_quantiles"]), meta),
            projection=projection,
            full=full,
            lead=lead,
            trained=TrainedColumns.restore(arrays),
            words=WordColumns.restore(arrays),
            fitted=WordColumns.restore(
                {n.removeprefix(_FITTED): a for n, a in arrays.items() if n.startswith(_FITTED)}
            ),
            **fields,
        )

    @classmethod
    def from_blobs(cls, blobs: Mapping[str, bytes]) -> SolvedAdditive:
        """Read what `blobs` wrote."""
        arrays, meta = unpack(blobs["head"])
        matrix, _ = unpack(blobs["projection"])
        return cls.restore(
            arrays,
            meta,
            full=Columns(arrays["weights"], arrays["row_scales"]),
            lead=Columns(arrays["lead_weights"], arrays["lead_scales"]),
            projection=Projection(matrix["matrix"]),
        )
