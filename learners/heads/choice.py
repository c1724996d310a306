"""Which solve serves: chosen on the stream, on held-out rows, for a named metric.

Owns the choice of method, strength and prior, and the fits of the calibration; must not know sums
or blobs. The choice is made on the leading features, where a solve is cheap, at doublings of the
rows: the best strength falls as rows grow, and differs between tasks by two orders of magnitude.
All features can ask for another strength than the leading ones: it is chosen on them in idle time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learners.heads.base import NEVER, Floats, Meta
from learners.heads.blocks import Block
from learners.heads.calibration import QUANTILES, Calibration
from learners.heads.held_out import usable
from learners.heads.probes import (
    MIN_PROBES,
    USUAL_WORDS,
    ProbeRing,
    best_threshold,
    fit_largest,
    fit_prior,
    fit_sigmoid,
    fit_softmax,
    fit_trust,
    fit_words,
    fit_words_of_several,
)
from learners.heads.projection import CODE_STEP
from learners.heads.scoring import indicators, macro_f1, sigmoid, softmax, unit_of
from learners.heads.solved import SolvedAdditive
from learners.heads.solves import METHODS, Method
from learners.heads.sums import Moments
from learners.heads.young import RIPE_ROWS, fit_lift

Metric = Literal["log-loss", "accuracy", "macro-f1"]

STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
FIRST_STRENGTH = 0.1  # until there are probes: a weak ridge collapses while rows pass the width
CHOOSE_GROWTH = 2.0
CHOOSE_ALL_GROWTH = 1.1  # idle time costs nothing, and the best strength falls fast past the width
CALIBRATE_GROWTH = 1.25
CHOOSE_PROBES = 512  # the newest of the ring
RAREST_SHARE = 0.25  # of the mean count: no label's prior is below it, so that new ones are heard


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """What may be chosen about a head.

    Attributes:
        methods: solves to choose among; none for those that fit the solver.
        metric: what the choice is made for.
        name_weight: rows that a label's own name counts as; 0 turns names off.
        words: whether words have a say beside features, as far as held-out rows trust them.
    """

    methods: tuple[Method, ...] = ()
    metric: Metric = "log-loss"
    name_weight: float = 1.0
    words: bool = True


DEFAULT_OPTIONS = HeadOptions()


@dataclass(frozen=True, slots=True)
class _Trial:
    """One method at one strength, on held-out rows.

    Attributes:
        strength: tried.
        quality: for the metric, higher is better.
        losses: float64 [rows], of each row.
    """

    strength: float
    quality: float
    losses: NDArray[np.float64]

    def beats(self, other: _Trial) -> bool:
        """Whether this is better by more than two standard errors of the paired difference."""
        gains = other.losses - self.losses
        error = float(gains.std()) / max(len(gains), 1) ** 0.5
        return self.quality > other.quality and float(gains.mean()) > 2 * error


def _climb(
    trial: Callable[[float], _Trial], *, start: float, strengths: Sequence[float] = STRENGTHS
) -> _Trial:
    """Find the best strength from a start: quality has one peak, so few are tried."""
    tried: dict[int, _Trial] = {}
    place = min(range(len(strengths)), key=lambda n: abs(strengths[n] - start))
    while True:
        near = range(max(place - 1, 0), min(place + 2, len(strengths)))
        for one in near:
            if one not in tried:
                tried[one] = trial(strengths[one])
        best = max(near, key=lambda one: tried[one].quality)
        if best == place:
            return tried[place]
        place = best


class Chooser:
    """Method, strength, prior and calibration of one head.

    Args:
        methods: to choose among.
        metric: for which.
        several: rows have any number of labels, not exactly one.

    Attributes:
        method: that serves.
        strength: of its shrinkage.
        prior: share of the log prior in the logits.
        offset: score at which a label of several is as likely as not.
    """

    def __init__(self, methods: Sequence[Method], *, metric: Metric, several: bool) -> None:
        self.methods = tuple(methods)
        self.several = several
        self.metric: Metric = metric
        self.method: Method = self.methods[0]
        self.strength = FIRST_STRENGTH
        self.prior = 0.0
        self.offset = 0.5
        self._strength_of_all: float | None = None
        self._choose_at = MIN_PROBES
        self._choose_all_at = 0
        self._calibrate_at = 0
        self._calibrated_full = 0

    @property
    def strength_of_all(self) -> float:
        """Strength of a solve of all features: `strength`, until it was chosen on them."""
        return self.strength if self._strength_of_all is None else self._strength_of_all

    def is_due(self, rows: int) -> bool:
        """Whether the rows have doubled since the last choice."""
        return rows >= self._choose_at

    def calibration_is_due(self, rows: int, full_rows: int) -> bool:
        """Whether rows grew by a quarter, or all features were solved, since the last one."""
        return rows >= self._calibrate_at or full_rows != self._calibrated_full

    def choose(
        self, moments: Moments, alive: Tensor, ring: ProbeRing, *, labels: int, counts: Tensor
    ) -> None:
        """Choose method and strength on the newest held-out rows; too few leave it as it is."""
        places = usable(ring, counts)[-CHOOSE_PROBES:]
        if len(places) < MIN_PROBES:
            return
        codes = ring.codes[places][:, : moments.dimensions].float() * CODE_STEP
        truths = [ring.label_rows[place] for place in places]
        found: dict[Method, _Trial] = {}
        before = self.method
        ripe = bool((counts[alive] >= RIPE_ROWS).all())
        methods = self.methods if ripe else self.methods[:1]
        for method in methods:

            def trial(strength: float, method: Method = method) -> _Trial:
                [weights] = METHODS[method].weights(moments, (strength,))
                scores = torch.full((len(codes), labels), NEVER)
                scores[:, alive] = codes @ weights.T.float()
                return self._try(strength, scores.numpy(), alive.numpy(), truths)

            found[method] = _climb(trial, start=self.strength)
        self.method = methods[0]
        for method in methods[1:]:  # another must be better by more than chance
            if found[method].beats(found[self.method]):
                self.method = method
        self.strength = found[self.method].strength
        self._choose_at = int(CHOOSE_GROWTH * moments.rows)
        self._calibrate_at = 0
        if self.method != before:
            self._strength_of_all, self._choose_all_at = None, 0

    def all_is_due(self, rows: int) -> bool:
        """Whether rows grew by a tenth since the strength of all features was chosen."""
        return rows >= self._choose_all_at

    def choose_all(
        self,
        solve: Callable[[float], Block],
        ring: ProbeRing,
        *,
        least: float,
        rows: int,
        counts: Tensor,
    ) -> Block:
        """Choose the strength of all features on the newest held-out rows; give the best solve.

        Args:
            solve: gives a solve at a strength; called twice at least, and at most once for each of
                `STRENGTHS`.
            ring: held-out rows, enough of them to choose on.
            least: strength below which nothing is tried.
            rows: in the sums.
            counts: rows by label.
        """
        places = usable(ring, counts)[-CHOOSE_PROBES:]
        codes = ring.codes[places]
        truths = [ring.label_rows[place] for place in places]
        alive = np.flatnonzero((counts > 0).numpy())
        solves: dict[float, Block] = {}

        def trial(strength: float) -> _Trial:
            solves[strength] = block = solve(strength)
            scores = block.columns.products(codes) + block.constants
            return self._try(strength, scores, alive, truths)

        strengths = tuple(one for one in STRENGTHS if one >= least)
        best = _climb(trial, start=self.strength_of_all, strengths=strengths)
        self._strength_of_all = best.strength
        self._choose_all_at = int(CHOOSE_ALL_GROWTH * rows)
        self._calibrate_at = 0
        return solves[best.strength]

    def _try(
        self,
        strength: float,
        scores: Floats,
        alive: NDArray[np.intp],
        truths: Sequence[tuple[int, ...]],
    ) -> _Trial:
        """Judge scores, float32 [rows, labels], for the metric."""
        if self.several:
            said = indicators(truths, scores.shape[1])
            scale, offset = fit_sigmoid(scores, said)
            f1 = best_threshold(sigmoid(scale * (scores - offset)), said)[1]
            return _Trial(strength, f1, np.zeros(1))
        unit = unit_of(scores[:, alive])
        truth = np.array([rows[0] for rows in truths])
        scale, loss = fit_softmax(unit * scores, truth, bias=np.zeros(scores.shape[1]))
        logits = scale * unit * scores.astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(truth)), truth]
        decided = scores.argmax(axis=1)
        if self.metric == "log-loss":
            return _Trial(strength, -loss, losses)
        if self.metric == "accuracy":  # log-loss decides between equals
            quality = float(np.mean(decided == truth)) - 1e-3 * loss
        else:
            quality = macro_f1(decided, truth) - 1e-3 * loss
        return _Trial(strength, quality, (decided != truth).astype(np.float64))

    def bias(self, counts: Tensor, *, scale: float) -> Tensor:
        """Give what is added to each label's score: float32 [labels]."""
        if self.several:
            return torch.full((len(counts),), -self.offset)
        return (self.prior / scale * log_prior(counts)).float()

    def recalibrate_soon(self) -> None:
        """Let the next calibration be due."""
        self._calibrate_at = 0

    def calibrate(
        self, solved: SolvedAdditive, ring: ProbeRing, *, counts: Tensor, full_rows: int
    ) -> Calibration:
        """Fit prior, scale and threshold on held-out rows; keep the old where there are too few.

        Args:
            solved: assembled with the last prior or offset, which are taken out again here.
            ring: held-out rows.
            counts: rows by label.
            full_rows: rows at the last solve of all features.
        """
        self._calibrate_at = int(CALIBRATE_GROWTH * float(counts.sum())) + 1
        self._calibrated_full = full_rows
        places = usable(ring, counts)
        if len(places) < MIN_PROBES:
            return solved.calibration
        features = ring.features[places]
        truths = [ring.label_rows[place] for place in places]
        if self.several:
            return self._calibrate_several(solved, features, ring.codes[places], truths)
        plain, cosines = solved.unlifted(ring.codes[places]), solved.cosines(features)
        truth = np.array([labels[0] for labels in truths])
        lift = fit_lift(plain, cosines, truth, counts=counts.numpy())
        plainly = replace(solved.calibration, lift=lift, trust=0.0, words=0.0, fit=0.0)
        solved = replace(solved, calibration=plainly)
        scores = solved.scores_of(features, ring.codes[places])
        losses = solved.trained.losses(features, labels=scores.shape[1])
        trust = fit_trust(scores, losses, truth)
        scores += np.float32(trust) * losses
        grown = 1.0 - solved.mean_weights  # a lifted label has only this much of its bias
        scores -= grown * self.bias(counts, scale=solved.scale).numpy()
        prior = log_prior(counts).numpy() * grown
        usual = 0.0 if losses.any() else USUAL_WORDS  # an encoder that was taught knows words
        said = solved.word_scores(features)
        words = fit_words(scores, said, truth, prior, usual=usual)
        scores += np.float32(words) * said
        fitted = solved.fitted_scores(features)
        fit = fit_words(scores, fitted, truth, prior, usual=usual)
        scores += np.float32(fit) * fitted
        plain += np.float32(words) * said + np.float32(fit) * fitted
        lift_with = fit_lift(plain, cosines, truth, counts=counts.numpy())  # as rivals are now
        scores += solved.mean_weights * np.float32(lift_with - lift)
        scale, self.prior = fit_prior(scores, truth, prior)
        scores = scores + (self.prior / scale * prior).astype(np.float32)
        slope, offset = fit_largest(softmax(scale * scores), truth)
        weighed = replace(solved.calibration, lift=lift_with, trust=trust, words=words, fit=fit)
        calibration = replace(weighed, scale=scale, slope=slope, offset=offset)
        return _with_known(calibration, scores, cosines)

    def _calibrate_several(
        self,
        solved: SolvedAdditive,
        features: Floats,
        codes: Tensor,
        truths: Sequence[tuple[int, ...]],
    ) -> Calibration:
        solved = replace(solved, calibration=replace(solved.calibration, words=0.0))
        raw = solved.scores_of(features, codes) + np.float32(self.offset)
        said, heard = indicators(truths, raw.shape[1]), solved.word_scores(features)
        words = fit_words_of_several(raw, heard, said)
        raw += np.float32(words) * heard
        scale, self.offset = fit_sigmoid(raw, said)
        scores = raw - np.float32(self.offset)
        threshold, _ = best_threshold(sigmoid(scale * scores), said)
        calibration = Calibration(scale=scale, threshold=threshold, words=words)
        return _with_known(calibration, scores, solved.cosines(features))

    def meta(self) -> Meta:
        """Everything, as JSON values."""
        return {name: getattr(self, name) for name in _STATE}

    def restore(self, meta: Mapping[str, Any]) -> None:
        """Take up what `meta` gave."""
        for name in _STATE:
            if name in meta:  # older states lack the newer ones
                setattr(self, name, meta[name])


_STATE = (
    "method",
    "strength",
    "prior",
    "offset",
    "_strength_of_all",
    "_choose_at",
    "_choose_all_at",
    "_calibrate_at",
    "_calibrated_full",
)


def log_prior(counts: Tensor) -> Tensor:
    """Give the log of each label's count over the mean count: float64 [labels]."""
    mean = counts.sum() / (counts > 0).sum().clamp_min(1)
    return torch.log((counts / mean.clamp_min(1.0)).clamp_min(RAREST_SHARE))


def _with_known(calibration: Calibration, scores: Floats, cosines: Floats) -> Calibration:
    best, near = scores.max(axis=1), cosines.max(axis=1)
    placed = replace(
        calibration,
        score_mean=float(best.mean()),
        score_spread=float(max(best.std(), 1e-6)),
        cosine_mean=float(near.mean()),
        cosine_spread=float(max(near.std(), 1e-6)),
    )
    known = np.quantile(placed.known(scores, cosines), np.linspace(0, 1, QUANTILES))
    return replace(placed, known_quantiles=known.astype(np.float32))
