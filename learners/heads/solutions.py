"""When the sums of an additive head are solved, and what a solution is made of.

Owns the solves, their calibration and the order of both; must not know what adds to the sums, or
how a head is kept.

Two solves of the same sums serve together. The full one, over all random features, comes when rows
are three times as many (with several labels a row, half as many again) and whenever there is time;
another strength is looked for when held-out rows like it less than what was there. The leading
features have a Gram matrix of their own, whose solve costs little: it comes whenever a label has
grown by half, and answers for the labels that changed since the full one. Means lift labels with
few rows, and a label's own name counts as one row of it. Words, where rows have them, are solved
with the leading features; where labels are few and have rows enough, they are fitted too.

In idle time the strength is chosen on all features, and then what serves learns the held-out rows
too, as one refits on everything after a model was selected (Hastie, Tibshirani & Friedman, The
Elements of Statistical Learning, 7.10). What is calibrated and judged never learns them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learners.heads.base import NEVER, Arrays, Floats, Meta
from learners.heads.blocks import Block, Blocks
from learners.heads.calibration import Calibration
from learners.heads.choice import CHOOSE_PROBES, Chooser
from learners.heads.freed import give_back
from learners.heads.held_out import held_out_losses, usable
from learners.heads.linear import SolvedLinear
from learners.heads.names import LabelNames
from learners.heads.probes import MIN_PROBES, ProbeRing
from learners.heads.scoring import unit_of
from learners.heads.solved import Columns, SolvedAdditive
from learners.heads.solves import METHODS
from learners.heads.sums import AdditiveSums, Moments
from learners.heads.trained import TrainedColumns
from learners.heads.word_fit import WordFit
from learners.heads.words import WordColumns
from learners.heads.young import LEAD_GROWTH, any_grown, fresh_labels, mean_weights

# Growth of all rows until all features are solved again, of one label a row, and of several; and of
# a young label's until the leading features answer for it. Of several labels every one is by
# itself, and the leading features know it less well than a somewhat older solve of all.
FULL_GROWTH = {False: 3.0, True: 1.5}
FRESH_GROWTH = {False: LEAD_GROWTH, True: 3.0}
FIRST_FULL_ROWS = 256
NOTICED_LOSS = 0.02  # nats by which a new solve of all features is worse than the old answers
PASSING_STRENGTH = 0.01  # at least, while rows pass the width: a weak ridge collapses there


class Solutions:
    """The newest solution of the sums: what serves, and what held-out rows may judge.

    Args:
        sums: that are solved; another object after `restore`.
        names: of their labels.
        ring: held-out rows.
        chooser: of method, strength and calibration.

    Attributes:
        unsolved: whether anything changed since the last solve.
        solved: what serves.
        judged: the same without what it learned of held-out rows; the same object where that is
            nothing.
    """

    def __init__(
        self, sums: AdditiveSums, *, names: LabelNames, ring: ProbeRing, chooser: Chooser
    ) -> None:
        self.sums = sums
        self.chooser = chooser
        self._names = names
        self._ring = ring
        self._full_growth = FULL_GROWTH[chooser.several]
        self._blocks, self._calibration = Blocks.empty(), Calibration()
        self._trained = TrainedColumns.empty()
        self._words, self._fit = WordColumns.empty(), WordFit()
        self.solved = self.judged = self._assemble()
        self.unsolved = False

    @property
    def is_ripe(self) -> bool:
        """Whether every row had its effect in a solve of all features, and every label is there."""
        solved = self._blocks.full.rows == self.sums.rows and not self.unsolved
        return solved and len(self.judged.labels) == len(self.sums.labels)

    def refresh(self) -> None:
        """Solve what is due: the leading features, all of them, or nothing."""
        if not self.unsolved:
            return
        if self.sums.rows >= max(FIRST_FULL_ROWS, self._full_growth * self._blocks.full.rows):
            self.solve()
        elif self._lead_is_due():
            self.solve_lead()

    def solve(self) -> None:
        """Solve the leading features, and then all of them."""
        self.solve_lead(then_all=True)

    def solve_lead(self, *, then_all: bool = False) -> None:
        """Solve the leading features, and all where that is due by another method."""
        self._names.doubt(self.sums.raw_means, self.sums.counts)
        alive = self._alive()
        moments = self._moments(alive, lead=True)
        before = self.chooser.method
        if len(alive) and self.chooser.is_due(self.sums.rows):
            self.chooser.choose(
                moments,
                alive,
                self._ring,
                labels=len(self.sums.labels),
                counts=self.sums.counts,
            )
        known = len(self.sums.labels)
        self._words = self.sums.words.columns(
            self.sums.counts.numpy().astype(np.int64),
            young=self._mean_weights(self.sums.counts),
            named=self._names.words(known),
        )
        if self._fit.is_due(self.sums.word_rows, self.sums.counts):
            self._fit.make(self.sums.word_rows, self.sums.counts)
        lead = self._block(moments.single(), alive, strength=self.chooser.strength)
        self._blocks = self._blocks.with_lead(lead)
        all_too = then_all or (self._blocks.full.rows > 0 and self.chooser.method != before)
        if all_too:
            give_back()  # this takes the most that the head ever needs
            moments = self._moments(alive, lead=False)
            full = self._block(moments, alive, strength=self.chooser.strength_of_all)
            self._blocks = self._blocks.with_full(full)
        self.unsolved = False
        former = self.judged
        self._calibrate()
        if all_too and self._is_worse_than(former):
            self._choose_all()  # what the leading features chose does not suit all of them

    def rest(self) -> bool:
        """Use idle time for the next of four things; say whether what serves changed.

        All features are solved; once a tenth of the rows is new, words are fitted, and the strength
        of all features is chosen, which takes a few solves; and what serves learns the held-out
        rows too.
        """
        if not self.is_ripe:
            self.solve()
            return True
        if self._fit.is_due(self.sums.word_rows, self.sums.counts, idle=True):
            self._fit.make(self.sums.word_rows, self.sums.counts)
            self.chooser.recalibrate_soon()
            self._calibrate()
            return True
        if self.chooser.all_is_due(self.sums.rows) and self._choose_all():
            return True
        return self._blocks.refit is None and self._refit()

    def listen(self, classifier: SolvedLinear) -> None:
        """Let a classifier of the same features have a say from the next solve on."""
        self._trained = TrainedColumns.of(classifier, self.sums.labels)
        self.unsolved = True

    def renew(self, row: int) -> None:
        """Let nothing say what a label used to mean, but its rows in the sums."""
        self._trained = self._trained.without(row)
        self.judged = replace(self.judged, trained=self._trained)
        self.leave_out()
        self._fit.doubt()
        self.unsolved = True

    def erase(self) -> None:
        """Let nothing serve that learned rows which are erased, once it is solved anew."""
        self.leave_out()
        if self.sums.word_rows.taken and len(self._fit.columns.floors):  # it may have heard them
            self.unsolved = True
            self._fit.doubt()

    def leave_out(self) -> None:
        """Let nothing serve that learned held-out rows: they are others now."""
        self._blocks = self._blocks.with_refit(None)
        self.solved = self.judged

    def means(self, known: int) -> tuple[Tensor, Tensor]:
        """Give centred means of the first labels, and their centre; see `LabelNames.centred`."""
        return self._names.centred(self.sums.raw_means[:known], self.sums.counts[:known])

    def _is_worse_than(self, former: SolvedAdditive) -> bool:
        """Whether held-out rows of the labels that both know are less likely now."""
        counts, several = self.sums.counts[: len(former.labels)], self.chooser.several
        before, now = (
            held_out_losses(one, self._ring, counts=counts, several=several, most=CHOOSE_PROBES)
            for one in (former, self.judged)
        )
        return before is not None and now is not None and now.mean() > before.mean() + NOTICED_LOSS

    def _choose_all(self) -> bool:
        """Choose the strength of all features, and solve them at it; say whether it changed."""
        if len(usable(self._ring, self.sums.counts)) < MIN_PROBES:
            return False
        before, alive = self.chooser.strength_of_all, self._alive()
        moments = self._moments(alive, lead=False)
        best = self.chooser.choose_all(
            lambda strength: self._block(moments, alive, strength=strength),
            self._ring,
            least=self._least_strength(moments.dimensions),
            rows=self.sums.rows,
            counts=self.sums.counts,
        )
        if self.chooser.strength_of_all == before:
            return False
        self._blocks = self._blocks.with_full(best)
        self._calibrate()
        return True

    def _refit(self) -> bool:
        """Solve all features with the held-out rows among the others, which do not stay there."""
        places = usable(self._ring, self.sums.counts)
        if not places:
            return False
        features = self._ring.features[places, : self.sums.features]  # words are not solved here
        codes = self._ring.codes[places]
        label_rows = [self._ring.label_rows[place] for place in places]
        self.sums.add(features, codes, label_rows)
        try:
            alive = self._alive()
            moments = self._moments(alive, lead=False)
            refit = self._block(moments, alive, strength=self.chooser.strength_of_all)
        finally:
            self.sums.fold()
            self.sums.add(features, codes, label_rows, sign=-1)  # whole numbers: to the bit
        self._blocks = self._blocks.with_refit(refit)
        self.solved = self._blocks.serving(self.judged)
        return True

    def _lead_is_due(self) -> bool:
        grown = self.sums.rows >= LEAD_GROWTH * max(self._blocks.lead.rows, 1)
        return grown or any_grown(self.sums.counts, self._blocks.lead.counts)

    def _alive(self) -> Tensor:
        """Rows of labels that can be said: those with rows, and those declared by name."""
        declared = self._names.declared(len(self.sums.labels))
        return torch.nonzero((self.sums.counts > 0) | declared).flatten()

    def _moments(self, alive: Tensor, *, lead: bool) -> Moments:
        moments = self.sums.moments(alive, lead=lead)
        projection = self.sums.projection
        centres = self._names.mixed_codes(alive, moments.means, moments.counts, projection)
        return replace(moments, centres=centres)

    def _least_strength(self, dimensions: int) -> float:
        return PASSING_STRENGTH if self.sums.rows < 2 * dimensions else 0.0

    def _block(self, moments: Moments, alive: Tensor, *, strength: float) -> Block:
        """Solve one width: a column for every label, NEVER for those without rows."""
        method = self.chooser.method
        strength = max(strength, self._least_strength(moments.dimensions))
        weights = torch.zeros(len(self.sums.labels), moments.dimensions)
        weights[:, 0] = NEVER
        if len(alive):
            [solution] = METHODS[method].weights(moments, (strength,))
            solution = solution.float()
            if method in ("lda", "nearest-mean"):
                means = moments.centres.float()
                solution *= unit_of((means @ solution.T).numpy())
            weights[alive] = solution
        return Block.of(weights, self.sums.counts.clone(), self.sums.rows)

    def _calibrate(self) -> None:
        self.judged = self._assemble()
        full_rows = self._blocks.full.rows
        if self.chooser.calibration_is_due(self.sums.rows, full_rows):
            self._calibration = self.chooser.calibrate(
                self.judged, self._ring, counts=self.sums.counts, full_rows=full_rows
            )
            self.judged = self._assemble()
            give_back()
        self.solved = self._blocks.serving(self.judged)

    def _assemble(self) -> SolvedAdditive:
        """Put solves, means and calibration together, without any held-out row."""
        lead, full = self._blocks.lead, self._blocks.full
        counts = lead.counts
        known = len(counts)
        growth = FRESH_GROWTH[self.chooser.several]
        fresh = fresh_labels(counts, full.counts if full.rows else counts[:0], growth=growth)
        bias = self.chooser.bias(counts, scale=self._calibration.scale)
        constants = torch.full((known,), NEVER)  # of labels that the full solve does not know
        constants[: len(full.counts)] = torch.from_numpy(full.constants)
        leading = torch.from_numpy(lead.constants) if fresh.any() else torch.zeros(0)
        means, centre = self.means(known)
        return SolvedAdditive(
            labels=tuple(self.sums.labels[:known]),
            calibration=self._calibration,
            projection=self.sums.projection,
            full=full.columns,
            constants=(constants + bias).numpy(),
            lead=lead.columns if len(leading) else Columns.empty(),
            lead_constants=(leading + bias[: len(leading)]).numpy(),
            fresh=fresh.numpy(),
            means=means.half().numpy(),
            mean_weights=self._mean_weights(counts),
            centre=centre.float().numpy(),
            trained=self._trained,
            words=self._words,
            fitted=self._fit.columns,
        )

    def _mean_weights(self, counts: Tensor) -> Floats:
        """Give the share that each label's mean has in its score: float32 [labels]."""
        heard = ((counts > 0) | self._names.declared(len(counts))) & (not self.chooser.several)
        return mean_weights(counts, heard).numpy()

    def blobs(self) -> dict[str, bytes]:
        """Write what serves, and as `judged` what differs of it where it is judged."""
        blobs = self.solved.blobs()
        if self._blocks.refit is not None:
            blobs["judged"] = self.judged.judged_blob()
        return blobs

    def state(self) -> tuple[Arrays, Meta]:
        """Give everything, as arrays and JSON values."""
        arrays, block_rows = self._blocks.state()
        arrays |= {f"solved_{name}": array for name, array in self.judged.arrays().items()}
        return arrays, {
            "chooser": self.chooser.meta(),
            "block_rows": block_rows,
            "solved": self.judged.meta(),
            "unsolved": self.unsolved,
            "fit": self._fit.meta(self.sums.word_rows),
        }

    def restore(
        self, sums: AdditiveSums, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]
    ) -> None:
        """Take up what `state` gave, over these sums."""
        self.sums = sums
        self._blocks = Blocks.restore(arrays, meta["block_rows"])
        self.chooser.restore(meta["chooser"])
        solved = {n[7:]: a for n, a in arrays.items() if n.startswith("solved_")}
        self.judged = SolvedAdditive.restore(
            solved,
            meta["solved"],
            full=self._blocks.full.columns,
            lead=self._blocks.lead.columns if len(solved["lead_constants"]) else Columns.empty(),
            projection=sums.projection,
        )
        self._calibration, self._trained = self.judged.calibration, self.judged.trained
        self._words = self.judged.words
        self._fit.restore(self.judged.fitted, meta.get("fit", {}), sums.word_rows)
        self.solved = self._blocks.serving(self.judged)
        self.unsolved = bool(meta["unsolved"])
