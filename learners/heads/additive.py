"""The additive head: exact sums, and the solve of them that the stream favours.

Owns what goes into the sums and beside them, and how a head is kept; the sums, when they are
solved, each solve and the calibration are files of their own. Must not know encoders, tasks or
streams.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from learners.heads.base import Arrays, Floats, Meta
from learners.heads.choice import DEFAULT_OPTIONS, Chooser, HeadOptions
from learners.heads.class_drift import inherited, unlike
from learners.heads.held_out import held_out_losses
from learners.heads.linear import SolvedLinear
from learners.heads.names import LabelNames
from learners.heads.probes import ProbeRing
from learners.heads.projection import Projection
from learners.heads.solutions import Solutions
from learners.heads.solved import SolvedAdditive
from learners.heads.solves import CANDIDATES, Method, Solver
from learners.heads.sums import AdditiveSums
from learners.words import SLOTS
from schemas.errors import CheckpointError

LEAD = 768


class AdditiveHead:
    """Sums of random features and their solves.

    Args:
        features: length of a text's features; its words may stand behind them in a row.
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
        if solver == "least-squares":
            self.sums.word_rows.close()  # no fit is made of them
        self.names = LabelNames(features, weight=options.name_weight)
        self._hears_words = options.words
        self._ring = ProbeRing(
            rows=ring_rows, features=features + SLOTS, dimensions=projection.dimensions
        )
        chooser = Chooser(
            options.methods or CANDIDATES[solver],
            metric=options.metric,
            several=solver == "least-squares",
        )
        self._solutions = Solutions(self.sums, names=self.names, ring=self._ring, chooser=chooser)

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
        return self._solutions.chooser.method, self._solutions.chooser.strength_of_all

    @property
    def solved_labels(self) -> tuple[str, ...]:
        """The labels of the last solve: columns of `scores`."""
        return self._solutions.solved.labels

    @property
    def scale(self) -> float:
        """Factor from scores to calibrated logits."""
        return self._solutions.solved.scale

    @property
    def threshold(self) -> float:
        """Probability from which a label of several is said."""
        return self._solutions.solved.threshold

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
            features: float32 [rows, features], every magnitude at most 1, or with words behind
                them.
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
        features = self._heard(features)
        self.sums.add(features, codes, label_rows, sign=sign)
        self._solutions.unsolved = True

    def probe(
        self,
        features: Floats,
        label_rows: Sequence[tuple[int, ...]],
        *,
        codes: Tensor | None = None,
        keys: Sequence[int] = (),
    ) -> None:
        """Show rows that never enter the sums: choice and calibration are made on them.

        Rows with a key, over 0, that was shown before take the place of what they were.
        """
        codes = self.codes(features) if codes is None else codes
        features = self._heard(features)
        if self._ring.has(keys):
            self._solutions.leave_out()  # it learned these rows as they were
        self._ring.add(features, codes, label_rows, keys=keys)

    def erase(self, keys: Sequence[int]) -> None:
        """Leave nothing of shown rows with these keys, nor of rows that were taken back."""
        self._ring.erase(keys)
        self._solutions.erase()
        self.sums.fold()

    def name(self, row: int, features: Floats, *, declared: bool = False) -> None:
        """Give a label's name as a row is given; declared, it may be said before any row."""
        self.names.set(row, self._heard(features[None])[0], declared=declared)
        self._solutions.unsolved = True

    def renew(self, row: int, features: Floats) -> None:
        """Let a label mean only its newest rows, float32 [rows, features], all in the sums."""
        self.sums.renew(row, self._heard(features), self.codes(features))
        self.names.drop(row)  # it named what the label used to mean
        self._ring.forget(row)
        self._solutions.renew(row)

    def _heard(self, features: Floats) -> Floats:
        """Leave out the words of rows, where they have no say."""
        return features if self._hears_words else features[:, : self.sums.features]

    def listen(self, classifier: SolvedLinear) -> None:
        """Let a classifier of the same features have a say, as far as held-out rows trust it.

        One label a row is needed: with several, it is not heard.
        """
        if self.solver == "class-balanced":
            self._solutions.listen(classifier)

    def merge(self, other: AdditiveHead, *, sign: int = 1) -> None:
        """Add the sums of another head, labels joined by text, or take them back.

        Raises:
            ValueError: the heads' spaces, projections or solvers differ.
        """
        if self.solver != other.solver:
            raise ValueError(f"solver {other.solver!r} cannot be merged into {self.solver!r}")
        self.sums.merge(other.sums, sign=sign)
        self._solutions.unsolved = True

    def contradicts(self, row: int, features: Floats, *, heir: int | None = None) -> bool:
        """Say whether newest rows of a label tell that it means something else than before.

        They look like another label, or unlike its own mean; or what it used to mean looks like its
        heir, and not like them.

        Args:
            row: of the label.
            features: float32 [rows, features], all of them in the sums.
            heir: row of a changed label that may mean what this one used to.
        """
        means, centre = self._solutions.means(len(self.labels))
        if unlike(means, centre, features, row=row):
            return True
        older = self.sums.raw_mean_without(row, features)
        if heir is None or older is None:
            return False
        return inherited(means, centre, features, older=older, heir=heir)

    def refresh(self) -> None:
        """Solve what is due: the leading features, all of them, or nothing."""
        self._solutions.refresh()

    def settle(self) -> None:
        """Bring the leading features up to date, so that every row so far has its effect."""
        if self._solutions.unsolved:
            self._solutions.solve_lead()

    def solve(self) -> None:
        """Solve the leading features, and then all of them."""
        self._solutions.solve()

    def rest(self) -> bool:
        """Do the next thing that is left for idle time; say whether what serves changed.

        Each takes as long as a solve of all features or a few, or less. False: nothing is left.
        """
        return self._solutions.rest()

    def scores(self, features: Floats, *, codes: Tensor | None = None) -> Floats:
        """Score by the last solve: float32 [rows, features] to float32 [rows, solved labels]."""
        return self._solutions.solved.scores_of(
            features, self.codes(features) if codes is None else codes
        )

    def correct(self, probabilities: Floats) -> Floats:
        """Correct probabilities as the last solve does: float32 [rows, labels] both."""
        return self._solutions.solved.correct(probabilities)

    def unknown(self, features: Floats, scores: Floats) -> Floats | None:
        """Say how unknown inputs look: float32 [rows], 0 to 1; see `ServedHead`."""
        return self._solutions.solved.unknown(features, scores)

    def solved(self) -> SolvedAdditive:
        """Give the last solve, as it would serve."""
        return self._solutions.solved

    def judged(self) -> SolvedAdditive:
        """Give the same as it may be judged on held-out rows: it never learned any."""
        return self._solutions.judged

    def losses(self) -> NDArray[np.float64] | None:
        """Give held-out rows' negative log-likelihoods, nats, float64 [rows]; None with too few."""
        several = self.solver == "least-squares"
        return held_out_losses(
            self._solutions.judged, self._ring, counts=self.sums.counts, several=several
        )

    def blobs(self) -> dict[str, bytes]:
        """Write the last solve as it will serve: `head`, `projection`, and `judged` if it differs.

        See `learners.heads.served`.
        """
        return self._solutions.blobs()

    def state(self) -> tuple[Arrays, Meta]:
        """Give everything that later adds and solves depend on."""
        arrays, meta = self.sums.state()
        solutions, solutions_meta = self._solutions.state()
        arrays |= self._ring.state() | self.names.state() | solutions
        return arrays, {"sums": meta, "solver": self.solver, **solutions_meta}

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
        if self.solver == "least-squares":
            self.sums.word_rows.close()
        projection = self.sums.projection
        self._ring.restore(dict(arrays), dimensions=projection.dimensions)
        self.names.restore(arrays)
        self._solutions.restore(self.sums, arrays, meta)
