"""The additive head: exact sums over random features, and ridge solves of them.

Owns sums, merging, solving and the choice of strength; must not know encoders, tasks or streams.
Sums are float64 and additive: exact in one pass, in any order, mergeable across learners,
subtractable when a row must be unlearned. McDonnell et al., "RanPAC", NeurIPS 2023; ours solves
with every class given the same weight, lifts young classes by their means, and chooses the
strength on rows that are not in the sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learners.heads.base import NEVER, Arrays, Floats, Meta
from learners.heads.probes import (
    MIN_PROBES,
    ProbeRing,
    best_threshold,
    fit_sigmoid,
    fit_softmax,
)
from learners.heads.projection import Projection
from learners.heads.solved import SolvedRidge
from schemas.errors import CheckpointError

Solver = Literal["class-balanced", "least-squares"]

STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # lambda = strength * trace(A) / dimensions
FIRST_STRENGTH = 0.3  # until there are probes: a weak ridge collapses while rows pass the width
FIRST_SCALE = 12.0
CHOOSE_GROWTH = 1.5  # choose again when the sums have grown by this factor
PRIORS = (0.0, 0.5, 1.0)  # share of the log prior that is added to the logits
RAREST_SHARE = 0.25  # of the mean count: no class's prior is below it, so that new ones are heard
YOUNG_ROWS = 24  # a class with fewer rows is young
HALF_YOUNG_ROWS = 12.0  # rows at which means and ridge weigh the same


class RidgeHead:
    """Random features, sums and their ridge solution.

    Args:
        features: length of a feature row.
        solver: `class-balanced` for one label a row, `least-squares` for several.
        width: number of random features.
        seed: of the projection.
        space_id: of the encoder; sums of different spaces are never mixed.
        ring_rows: probes kept.

    Attributes:
        labels: in order of appearance, never re-indexed.
        rows: rows in the sums, taken-back ones subtracted.
        strength: of the ridge, chosen on the probes.
    """

    def __init__(
        self,
        *,
        features: int,
        solver: Solver,
        width: int = 2048,
        seed: int = 0,
        space_id: str = "",
        ring_rows: int = 512,
    ) -> None:
        if solver not in ("class-balanced", "least-squares"):
            raise ValueError(f"solver {solver!r}: class-balanced or least-squares was expected")
        self.solver: Solver = solver
        self.space_id = space_id
        self.labels: list[str] = []
        self.rows = 0
        self.strength = FIRST_STRENGTH
        self._index: dict[str, int] = {}
        self._projection = Projection.draw(features=features, width=width, seed=seed)
        d = self._projection.dimensions
        self._gram = torch.zeros(d, d, dtype=torch.float64)  # sum of phi phi'
        self._sums = torch.zeros(0, d, dtype=torch.float64)  # sum of phi, by label
        self._raw_sums = torch.zeros(0, features, dtype=torch.float64)  # sum of features, by label
        self._counts = torch.zeros(0, dtype=torch.int64)
        self._ring = ProbeRing(rows=ring_rows, features=features, dimensions=d)
        self._choose_at = MIN_PROBES
        self._solved = self._solution(torch.zeros(0, d), labels=0)

    @property
    def solved_labels(self) -> tuple[str, ...]:
        """The labels of the last solve: columns of `scores`."""
        return self._solved.labels

    @property
    def scale(self) -> float:
        """Factor from scores to calibrated logits, fitted on the probes."""
        return self._solved.scale

    @property
    def threshold(self) -> float:
        """Probability from which a label is said, best for F1 on the probes."""
        return self._solved.threshold

    @property
    def counts(self) -> NDArray[np.int64]:
        """Rows in the sums by label: int64 [labels]."""
        return self._counts[: len(self.labels)].numpy().copy()

    def row_of(self, label: str) -> int:
        """Give the row of a label, a new one when it was never seen."""
        if label not in self._index:
            self._index[label] = len(self.labels)
            self.labels.append(label)
            if len(self.labels) > len(self._counts):
                self._grow(max(64, 2 * len(self._counts)))
        return self._index[label]

    def _grow(self, capacity: int) -> None:
        more = capacity - len(self._counts)
        pad = torch.nn.functional.pad
        self._sums = pad(self._sums, (0, 0, 0, more))
        self._raw_sums = pad(self._raw_sums, (0, 0, 0, more))
        self._counts = pad(self._counts, (0, more))

    def add(
        self, features: Floats, label_rows: Sequence[tuple[int, ...]], *, sign: int = 1
    ) -> None:
        """Add rows to the sums, or take them back.

        Args:
            features: float32 [rows, features].
            label_rows: rows of the head that each row's labels have; exactly one for
                `class-balanced`.
            sign: 1 to add, -1 to take back what was added before.

        Raises:
            ValueError: lengths differ, a feature is not finite, or a row has not exactly one label
                where one is needed.
        """
        if len(features) != len(label_rows):
            raise ValueError(f"{len(features)} rows of features, {len(label_rows)} of labels")
        if self.solver == "class-balanced" and any(len(rows) != 1 for rows in label_rows):
            raise ValueError("a class-balanced head takes exactly one label a row")
        if not np.isfinite(features).all():
            raise ValueError("features hold NaN or infinity: one such row would spoil the sums")
        phi = self._projection.phi(features).double()  # [rows, d]
        raw = torch.from_numpy(np.ascontiguousarray(features)).double()
        pairs = [(row, label) for row, labels in enumerate(label_rows) for label in labels]
        rows = torch.tensor([row for row, _ in pairs], dtype=torch.int64)
        labels = torch.tensor([label for _, label in pairs], dtype=torch.int64)
        self._gram.addmm_(phi.T, phi, alpha=sign)
        self._sums.index_add_(0, labels, phi[rows], alpha=sign)
        self._raw_sums.index_add_(0, labels, raw[rows], alpha=sign)
        self._counts.index_add_(0, labels, torch.ones_like(labels), alpha=sign)
        self.rows += sign * len(label_rows)

    def probe(self, features: Floats, label_rows: Sequence[tuple[int, ...]]) -> None:
        """Show rows that never enter the sums: strength, scale and threshold are chosen there."""
        phi = self._projection.phi(features)
        self._ring.add(features, phi, label_rows)

    def merge(self, other: RidgeHead, *, sign: int = 1) -> None:
        """Add the sums of another head, labels joined by text, or take them back.

        Raises:
            ValueError: the heads' spaces, projections or solvers differ.
        """
        for name in ("space_id", "solver"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(
                    f"{name} {getattr(other, name)!r} cannot be merged into {getattr(self, name)!r}"
                )
        if self._projection.id != other._projection.id:
            raise ValueError("heads with different projections cannot be merged")
        rows = torch.tensor([self.row_of(label) for label in other.labels], dtype=torch.int64)
        known = len(rows)
        self._gram.add_(other._gram, alpha=sign)
        self._sums.index_add_(0, rows, other._sums[:known], alpha=sign)
        self._raw_sums.index_add_(0, rows, other._raw_sums[:known], alpha=sign)
        self._counts.index_add_(0, rows, other._counts[:known], alpha=sign)
        self.rows += sign * other.rows

    def solve(self) -> None:
        """Solve the sums; choose the strength again once the rows have doubled."""
        problem = self._problem()
        if self.rows < self._choose_at or len(self._usable()) < MIN_PROBES:
            self._solved = self._calibrated(problem, self.strength)[0]
            return
        # Quality has one peak over the strengths: climb from the last choice, few solves a choice.
        tried = {}
        place = STRENGTHS.index(self.strength)
        while True:
            around = range(max(place - 1, 0), min(place + 2, len(STRENGTHS)))
            for near in around:
                if near not in tried:
                    tried[near] = self._calibrated(problem, STRENGTHS[near])
            best = max(around, key=lambda near: tried[near][1])
            if best == place:
                break
            place = best
        self.strength, self._solved = STRENGTHS[place], tried[place][0]
        self._choose_at = int(CHOOSE_GROWTH * self.rows)

    def _problem(self) -> tuple[Tensor, Tensor, Tensor]:
        """Give A [d, d], right-hand sides [d, alive] and the rows of alive labels."""
        alive = torch.nonzero(self._counts > 0).flatten()
        rows = float(max(self.rows, 1))
        if self.solver == "least-squares":
            return self._gram / rows, self._sums[alive].T / rows, alive
        counts = self._counts[alive].double().unsqueeze(1)  # [alive, 1]
        means = self._sums[alive] / counts  # [alive, d]
        share = 1.0 / max(len(alive), 1)
        # within-class scatter (Gram less that of the means) plus the mean over classes of mu mu'
        a = torch.addmm(self._gram / rows, means.T, (share - counts / rows) * means)
        return a, means.T * share, alive

    def _calibrated(
        self, problem: tuple[Tensor, Tensor, Tensor], strength: float
    ) -> tuple[SolvedRidge, float]:
        """Solve at a strength; give the solution and its quality on the probes."""
        a, b, alive = problem
        known = len(self.labels)
        weights = torch.zeros(known, a.shape[0])
        weights[:, -1] = NEVER
        if len(alive):
            weights[alive] = _ridge(a, b, strength=strength).T.float()
        solved = self._solution(weights, labels=known)
        usable = self._usable()
        if len(usable) < MIN_PROBES:
            return self._uncalibrated(weights, known), 0.0
        scores = solved.scores_of(self._ring.features[usable], self._ring.phi[usable])
        if self.solver == "class-balanced":
            truth = np.array([self._ring.label_rows[row][0] for row in usable])
            prior = self._log_prior(known)
            fits = [(*fit_softmax(scores, truth, bias=share * prior), share) for share in PRIORS]
            scale, loss, share = min(fits, key=lambda fit: fit[1])
            weights[:, -1] += torch.from_numpy(share * prior / scale).float()
            return self._solution(weights, labels=known, scale=scale), -loss
        indicators = np.zeros(scores.shape, dtype=np.bool_)
        for place, row in enumerate(usable):
            indicators[place, list(self._ring.label_rows[row])] = True
        scale, offset = fit_sigmoid(scores, indicators)
        logits = np.clip(scale * (scores - offset), -60, 60)
        threshold, f1 = best_threshold(1 / (1 + np.exp(-logits)), indicators)
        weights[:, -1] -= offset
        return self._solution(weights, labels=known, scale=scale, threshold=threshold), f1

    def _log_prior(self, known: int) -> NDArray[np.float64]:
        """Give the log of each label's count over the mean count: float64 [known]."""
        counts = self._counts[:known].numpy().astype(np.float64)
        mean = counts.sum() / max(int((counts > 0).sum()), 1)
        prior: NDArray[np.float64] = np.log(np.maximum(counts / max(mean, 1.0), RAREST_SHARE))
        return prior

    def _uncalibrated(self, weights: Tensor, known: int) -> SolvedRidge:
        if self.solver == "least-squares":
            weights[:, -1] -= 0.5
        return self._solution(weights, labels=known)

    def _usable(self) -> list[int]:
        """Probes that the sums could answer: every label of theirs has rows."""
        counts = self._counts.tolist()
        return [
            place
            for place, labels in enumerate(self._ring.label_rows)
            if all(counts[row] > 0 for row in labels)
        ]

    def _solution(
        self, weights: Tensor, *, labels: int, scale: float = FIRST_SCALE, threshold: float = 0.5
    ) -> SolvedRidge:
        """Round weights [labels, d] to half precision; add the means of young classes."""
        row_scales = weights.abs().amax(dim=1).clamp_min(1e-30) if labels else torch.zeros(0)
        young = torch.nonzero((self._counts > 0) & (self._counts < YOUNG_ROWS)).flatten()
        if self.solver != "class-balanced" or not labels:
            young = young[:0]
        alive = self._counts > 0
        counts = self._counts.clamp_min(1).double().unsqueeze(1)
        means = self._raw_sums / counts
        centre = means[alive].mean(dim=0) if alive.any() else torch.zeros(means.shape[1]).double()
        centred = torch.nn.functional.normalize(means[young] - centre, dim=1)
        share = HALF_YOUNG_ROWS / (HALF_YOUNG_ROWS + self._counts[young].double())
        return SolvedRidge(
            labels=tuple(self.labels[:labels]),
            scale=scale,
            threshold=threshold,
            projection=self._projection,
            weights=(weights / row_scales.unsqueeze(1)).half().numpy(),
            row_scales=row_scales.float().numpy(),
            young=young.int().numpy(),
            young_means=centred.half().numpy(),
            young_weights=share.float().numpy(),
            centre=centre.float().numpy(),
        )

    def scores(self, features: Floats) -> Floats:
        """Score by the last solve: float32 [rows, features] to float32 [rows, solved labels]."""
        return self._solved.scores(features)

    def blobs(self) -> dict[str, bytes]:
        """Write the last solve as it will serve: `head` and `projection`."""
        return self._solved.blobs()

    def state(self) -> tuple[Arrays, Meta]:
        """Give everything that later adds and solves depend on."""
        known, upper = len(self.labels), torch.triu_indices(*self._gram.shape)
        arrays: Arrays = {
            "gram": self._gram[upper[0], upper[1]].numpy(),
            "sums": self._sums[:known].numpy().copy(),
            "raw_sums": self._raw_sums[:known].numpy().copy(),
            "counts": self.counts,
            "projection": self._projection.matrix,
            **self._ring.state(),
            **{f"solved_{name}": array for name, array in self._solved.arrays().items()},
        }
        return arrays, {
            "labels": list(self.labels),
            "rows": self.rows,
            "solver": self.solver,
            "space_id": self.space_id,
            "strength": self.strength,
            "choose_at": self._choose_at,
            "solved": self._solved.meta(),
        }

    def restore(self, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> None:
        """Take up a state of a head with the same solver and space: what follows is bit-identical.

        Raises:
            CheckpointError: the state belongs to another solver or encoder.
        """
        if meta["solver"] != self.solver or meta["space_id"] != self.space_id:
            raise CheckpointError(
                f"the state is of solver {meta['solver']!r}, encoder {meta['space_id'][:12]!r}, "
                f"not of {self.solver!r} and {self.space_id[:12]!r}"
            )
        self._projection = Projection(arrays["projection"])
        d, known = self._projection.dimensions, len(meta["labels"])
        upper = torch.triu_indices(d, d)
        self._gram = torch.zeros(d, d, dtype=torch.float64)
        self._gram[upper[0], upper[1]] = torch.from_numpy(np.array(arrays["gram"]))
        self._gram = self._gram.triu() + self._gram.triu(1).T
        self.labels, self._index = [], {}
        self._counts = self._counts[:0]
        self._sums = torch.zeros(0, d, dtype=torch.float64)
        self._raw_sums = torch.zeros(0, self._projection.matrix.shape[0], dtype=torch.float64)
        for label in meta["labels"]:
            self.row_of(label)
        self._sums[:known] = torch.from_numpy(np.array(arrays["sums"]))
        self._raw_sums[:known] = torch.from_numpy(np.array(arrays["raw_sums"]))
        self._counts[:known] = torch.from_numpy(np.array(arrays["counts"]))
        self.rows, self.strength = int(meta["rows"]), float(meta["strength"])
        self._choose_at = int(meta["choose_at"])
        self._ring = ProbeRing(
            rows=len(self._ring.features), features=self._raw_sums.shape[1], dimensions=d
        )
        self._ring.restore(dict(arrays))
        solved = {n[7:]: a for n, a in arrays.items() if n.startswith("solved_")}
        self._solved = SolvedRidge.restore(solved, meta["solved"], projection=self._projection)


def _ridge(a: Tensor, b: Tensor, *, strength: float) -> Tensor:
    """Solve (A + lambda I) w = b by Cholesky, lambda = strength * trace(A) / d.

    Rounding after subtractions can leave A just off positive definite: lambda is then raised.

    Args:
        a: float64 [d, d], symmetric.
        b: float64 [d, labels].
        strength: over 0.

    Returns:
        float64 [d, labels].
    """
    ridge = max(strength * float(a.trace()) / len(a), 1e-12)
    while True:  # ends: A is finite, and a large enough lambda makes it definite
        shifted = a.clone()
        shifted.diagonal().add_(ridge)
        factor, failed = torch.linalg.cholesky_ex(shifted)
        if not int(failed):
            return torch.cholesky_solve(b, factor)
        ridge = max(10 * ridge, 1e-9)
