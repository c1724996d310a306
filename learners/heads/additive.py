"""The additive head: exact sums, and the solve of them that the stream favours.

Owns when the sums are solved, which solve serves, and what a solution is made of; the sums, each
solve and the calibration are files of their own. Must not know encoders, tasks or streams.

Two solves of the same sums serve together. The full one, over all random features, comes when rows
are three times as many and whenever there is time. The leading features have a Gram matrix of their
own, whose solve costs little: it comes whenever a label has grown by half, and answers for the
labels that changed since the full one. Means lift labels with few rows, and a label's own name
counts as one row of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learners.heads.base import NEVER, Arrays, Floats, Meta
from learners.heads.calibration import Calibration
from learners.heads.choice import DEFAULT_OPTIONS, Chooser, HeadOptions, held_out_loss
from learners.heads.class_drift import unlike
from learners.heads.freed import give_back
from learners.heads.linear import SolvedLinear
from learners.heads.names import LabelNames
from learners.heads.probes import ProbeRing
from learners.heads.projection import Projection
from learners.heads.scoring import unit_of
from learners.heads.solved import Block, Columns, SolvedAdditive
from learners.heads.solves import CANDIDATES, METHODS, Method, Solver
from learners.heads.sums import AdditiveSums, Moments
from learners.heads.trained import TrainedColumns
from learners.heads.young import LEAD_GROWTH, any_grown, fresh_labels, mean_weights
from schemas.errors import CheckpointError

LEAD = 768
FULL_GROWTH = 3.0  # of all rows, until all features are solved again
FIRST_FULL_ROWS = 256
PASSING_STRENGTH = 0.01  # at least, while rows pass the width: a weak ridge collapses there


class AdditiveHead:
    """Sums of random features and their solves.

    Args:
        features: length of a feature row.
        solver: `class-balanced` for one label a row, `least-squares` for several.
        width: number of random features.
        seed: of the projection.
        space_id: of the encoder; sums of different spaces are never mixed.
        ring_rows: held-out rows kept to choose and calibrate on.
        options: of the choice.

    Attributes:
        names: features of labels' names.
    """

    def __init__(
        self,
        *,
        features: int,
        solver: Solver,
        width: int = 4096,
        seed: int = 0,
        space_id: str = "",
        ring_rows: int = 2_000,
        options: HeadOptions = DEFAULT_OPTIONS,
    ) -> None:
        if solver not in CANDIDATES:
            raise ValueError(f"solver {solver!r}: class-balanced or least-squares was expected")
        self.solver: Solver = solver
        projection = Projection.draw(features=features, width=width, seed=seed)
        lead = min(LEAD, max(1, width // 2)) + 1
        self.sums = AdditiveSums(projection, lead=lead, space_id=space_id)
        self.names = LabelNames(features, weight=options.name_weight)
        self._ring = ProbeRing(rows=ring_rows, features=features, dimensions=projection.dimensions)
        self._chooser = Chooser(
            options.methods or CANDIDATES[solver],
            metric=options.metric,
            several=solver == "least-squares",
        )
        self._lead, self._full, self._calibration = Block.empty(), Block.empty(), Calibration()
        self._trained = TrainedColumns.empty()
        self._solved = self._assemble()
        self._unsolved = False

    @property
    def labels(self) -> list[str]:
        """Every label, in order of appearance, never re-indexed."""
        return self.sums.labels

    @property
    def rows(self) -> int:
        """Rows in the sums."""
        return self.sums.rows

    @property
    def choice(self) -> tuple[Method, float]:
        """The method and strength that serve."""
        return self._chooser.method, self._chooser.strength

    @property
    def solved_labels(self) -> tuple[str, ...]:
        """The labels of the last solve: columns of `scores`."""
        return self._solved.labels

    @property
    def scale(self) -> float:
        """Factor from scores to calibrated logits."""
        return self._solved.scale

    @property
    def threshold(self) -> float:
        """Probability from which a label of several is said."""
        return self._solved.threshold

    @property
    def counts(self) -> NDArray[np.int64]:
        """Rows in the sums by label: int64 [labels]."""
        return self.sums.counts.numpy().astype(np.int64)

    def row_of(self, label: str) -> int:
        """Give the row of a label, a new one when it was never seen."""
        return self.sums.row_of(label)

    def codes(self, features: Floats) -> Tensor:
        """Give phi's codes of features, int8 [rows, d]: scoring, adding and probing can share."""
        return self.sums.projection.codes(features)

    def add(
        self,
        features: Floats,
        label_rows: Sequence[tuple[int, ...]],
        *,
        sign: int = 1,
        codes: Tensor | None = None,
    ) -> None:
        """Add rows to the sums, or take them back.

        Args:
            features: float32 [rows, features], every magnitude at most 1.
            label_rows: rows of the head of each row's labels; exactly one for `class-balanced`.
            sign: 1 to add, -1 to take back what was added before.
            codes: of these features, where they are known.

        Raises:
            ValueError: lengths differ, a feature is not finite, or a row has not the one label.
        """
        if len(features) != len(label_rows):
            raise ValueError(f"{len(features)} rows of features, {len(label_rows)} of labels")
        if self.solver == "class-balanced" and any(len(rows) != 1 for rows in label_rows):
            raise ValueError("a class-balanced head takes exactly one label a row")
        if not np.isfinite(features).all():
            raise ValueError("features hold NaN or infinity: one such row would spoil the sums")
        codes = self.codes(features) if codes is None else codes
        self.sums.add(features, codes, label_rows, sign=sign)
        self._unsolved = True

    def probe(
        self,
        features: Floats,
        label_rows: Sequence[tuple[int, ...]],
        *,
        codes: Tensor | None = None,
        keys: Sequence[int] = (),
    ) -> None:
        """Show rows that never enter the sums: choice and calibration are made on them."""
        codes = self.codes(features) if codes is None else codes
        self._ring.add(features, codes, label_rows, keys=keys)

    def erase(self, keys: Sequence[int]) -> None:
        """Leave nothing of shown rows with these keys, nor of rows that were taken back."""
        self._ring.erase(keys)
        self.sums.fold()

    def name(self, row: int, features: Floats, *, declared: bool = False) -> None:
        """Give a label's name, float32 [features]; declared, it may be said before any row."""
        self.names.set(row, features, declared=declared)
        self._unsolved = True

    def renew(self, row: int, features: Floats) -> None:
        """Let a label mean only its newest rows, float32 [rows, features], all in the sums."""
        self.sums.renew(row, features, self.codes(features))
        self.names.drop(row)  # it named what the label used to mean
        self._ring.forget(row)
        self._trained = self._trained.without(row)
        self._solved = replace(self._solved, trained=self._trained)
        self._unsolved = True

    def listen(self, classifier: SolvedLinear) -> None:
        """Let a classifier of the same features have a say, as far as held-out rows trust it.

        One label a row is needed: with several, it is not heard.
        """
        if self.solver == "class-balanced":
            self._trained = TrainedColumns.of(classifier, self.labels)
            self._unsolved = True

    def merge(self, other: AdditiveHead, *, sign: int = 1) -> None:
        """Add the sums of another head, labels joined by text, or take them back.

        Raises:
            ValueError: the heads' spaces, projections or solvers differ.
        """
        if self.solver != other.solver:
            raise ValueError(f"solver {other.solver!r} cannot be merged into {self.solver!r}")
        self.sums.merge(other.sums, sign=sign)
        self._unsolved = True

    def contradicts(self, row: int, features: Floats) -> bool:
        """Say whether rows of a label look like another label, or unlike its own mean.

        Args:
            row: of the label.
            features: float32 [rows, features].
        """
        return unlike(*self._means(len(self.labels)), features, row=row)

    def refresh(self) -> None:
        """Solve what is due: the leading features, all of them, or nothing."""
        if not self._unsolved:
            return
        if self.rows >= max(FIRST_FULL_ROWS, FULL_GROWTH * self._full.rows):
            self.solve()
        elif self._lead_is_due():
            self._solve_lead()

    def settle(self) -> None:
        """Bring the leading features up to date, so that every row so far has its effect."""
        if self._unsolved:
            self._solve_lead()

    def solve(self) -> None:
        """Solve the leading features, and then all of them."""
        self._solve_lead(then_all=True)

    @property
    def is_ripe(self) -> bool:
        """Whether every row had its effect in a solve of all features."""
        return not self._unsolved and self._full.rows == self.rows

    def _lead_is_due(self) -> bool:
        grown = self.rows >= LEAD_GROWTH * max(self._lead.rows, 1)
        return grown or any_grown(self.sums.counts, self._lead.counts)

    def _alive(self) -> Tensor:
        """Rows of labels that can be said: those with rows, and those declared by name."""
        declared = self.names.declared(len(self.labels))
        return torch.nonzero((self.sums.counts > 0) | declared).flatten()

    def _moments(self, alive: Tensor, *, lead: bool) -> Moments:
        moments = self.sums.moments(alive, lead=lead)
        centres = self.names.mixed_codes(alive, moments.means, moments.counts, self.sums.projection)
        return replace(moments, centres=centres)

    def _solve_lead(self, *, then_all: bool = False) -> None:
        self.names.doubt(self.sums.raw_means, self.sums.counts)
        alive = self._alive()
        moments = self._moments(alive, lead=True)
        before = self._chooser.method
        if len(alive) and self._chooser.is_due(self.rows):
            self._chooser.choose(
                moments, alive, self._ring, labels=len(self.labels), counts=self.sums.counts
            )
        self._lead = self._block(moments.single(), alive)
        if then_all or (self._full.rows and self._chooser.method != before):
            give_back()  # this takes the most that the head ever needs
            self._full = self._block(self._moments(alive, lead=False), alive)
        self._unsolved = False
        self._calibrate()

    def _block(self, moments: Moments, alive: Tensor) -> Block:
        """Solve one width: a column for every label, NEVER for those without rows."""
        method, strength = self.choice
        if self.rows < 2 * moments.dimensions:
            strength = max(strength, PASSING_STRENGTH)
        weights = torch.zeros(len(self.labels), moments.dimensions)
        weights[:, 0] = NEVER
        if len(alive):
            [solution] = METHODS[method].weights(moments, (strength,))
            solution = solution.float()
            if method in ("lda", "nearest-mean"):
                means = moments.centres.float()
                solution *= unit_of((means @ solution.T).numpy())
            weights[alive] = solution
        return Block.of(weights, self.sums.counts.clone(), self.rows)

    def _calibrate(self) -> None:
        self._solved = self._assemble()
        if self._chooser.calibration_is_due(self.rows, self._full.rows):
            self._calibration = self._chooser.calibrate(
                self._solved, self._ring, counts=self.sums.counts, full_rows=self._full.rows
            )
            self._solved = self._assemble()
            give_back()

    def _assemble(self) -> SolvedAdditive:
        """Put solves, means and calibration together."""
        counts = self._lead.counts
        known = len(counts)
        fresh = fresh_labels(counts, self._full.counts if self._full.rows else counts[:0])
        bias = self._chooser.bias(counts, scale=self._calibration.scale)
        constants = torch.full((known,), NEVER)  # of labels that the full solve does not know
        constants[: len(self._full.counts)] = torch.from_numpy(self._full.constants)
        lead = torch.from_numpy(self._lead.constants) if fresh.any() else torch.zeros(0)
        means, centre = self._means(known)
        heard = ((counts > 0) | self.names.declared(known)) & (self.solver == "class-balanced")
        return SolvedAdditive(
            labels=tuple(self.labels[:known]),
            calibration=self._calibration,
            projection=self.sums.projection,
            full=self._full.columns,
            constants=(constants + bias).numpy(),
            lead=self._lead.columns if len(lead) else Columns.empty(),
            lead_constants=(lead + bias[: len(lead)]).numpy(),
            fresh=fresh.numpy(),
            means=means.half().numpy(),
            mean_weights=mean_weights(counts, heard).numpy(),
            centre=centre.float().numpy(),
            trained=self._trained,
        )

    def _means(self, known: int) -> tuple[Tensor, Tensor]:
        return self.names.centred(self.sums.raw_means[:known], self.sums.counts[:known])

    def scores(self, features: Floats, *, codes: Tensor | None = None) -> Floats:
        """Score by the last solve: float32 [rows, features] to float32 [rows, solved labels]."""
        return self._solved.scores_of(features, self.codes(features) if codes is None else codes)

    def correct(self, probabilities: Floats) -> Floats:
        """Correct probabilities as the last solve does: float32 [rows, labels] both."""
        return self._solved.correct(probabilities)

    def unknown(self, features: Floats, scores: Floats) -> Floats | None:
        """Say how unknown inputs look: float32 [rows], 0 to 1; see `ServedHead`."""
        return self._solved.unknown(features, scores)

    def solved(self) -> SolvedAdditive:
        """Give the last solve, as it would serve."""
        return self._solved

    def loss(self) -> float | None:
        """Give the held-out rows' mean negative log-likelihood, nats; None with too few."""
        several = self.solver == "least-squares"
        return held_out_loss(self._solved, self._ring, counts=self.sums.counts, several=several)

    def blobs(self) -> dict[str, bytes]:
        """Write the last solve as it will serve: `head` and `projection`."""
        return self._solved.blobs()

    def state(self) -> tuple[Arrays, Meta]:
        """Give everything that later adds and solves depend on."""
        arrays, meta = self.sums.state()
        arrays |= self._ring.state() | self.names.state()
        arrays |= self._lead.state("lead_") | self._full.state("full_")
        arrays |= {f"solved_{name}": array for name, array in self._solved.arrays().items()}
        return arrays, {
            "sums": meta,
            "solver": self.solver,
            "chooser": self._chooser.meta(),
            "block_rows": [self._lead.rows, self._full.rows],
            "solved": self._solved.meta(),
            "unsolved": self._unsolved,
        }

    def restore(self, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> None:
        """Take up a state of a head with the same solver and space: what follows is bit-identical.

        Raises:
            CheckpointError: the state belongs to another solver or encoder.
        """
        if meta["solver"] != self.solver or meta["sums"]["space_id"] != self.sums.space_id:
            raise CheckpointError(
                f"the state is of solver {meta['solver']!r}, encoder "
                f"{meta['sums']['space_id'][:12]!r}, not of {self.solver!r} and "
                f"{self.sums.space_id[:12]!r}"
            )
        self.sums = AdditiveSums.restore(arrays, meta["sums"])
        projection = self.sums.projection
        self._ring.restore(dict(arrays), dimensions=projection.dimensions)
        self.names.restore(arrays)
        lead_rows, full_rows = meta["block_rows"]
        self._lead = Block.restore(arrays, "lead_", lead_rows)
        self._full = Block.restore(arrays, "full_", full_rows)
        self._chooser.restore(meta["chooser"])
        solved = {n[7:]: a for n, a in arrays.items() if n.startswith("solved_")}
        self._solved = SolvedAdditive.restore(
            solved,
            meta["solved"],
            full=self._full.columns,
            lead=self._lead.columns if len(solved["lead_constants"]) else Columns.empty(),
            projection=projection,
        )
        self._calibration, self._trained = self._solved.calibration, self._solved.trained
        self._unsolved = bool(meta["unsolved"])
