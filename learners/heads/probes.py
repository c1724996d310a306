"""Recent rows that were never added to the sums: what a head chooses and calibrates itself on.

Owns the bounded ring and the fits on it; must not know sums or solves. Calibration is temperature
scaling (Guo et al., ICML 2017) for one label, Platt's logistic fit (1999) for several.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learners.heads.base import Arrays, Floats

TRUSTED = (0.25, 0.5, 0.75, 0.9)  # share of the logits that trained columns may have
WORDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)  # share of the logits that words may have
USUAL_WORDS = 0.3  # near which it is best, whatever the task
WORDS_PULL = 32.0  # nats a squared share, to that: a normal law of deviation an eighth
PRIORS = (0.0, 0.25, 0.5, 0.75, 1.0)  # share of the log prior that is added to the logits
PRIOR_PULL = 8.0  # nats a squared share, to a half: a normal law of deviation a quarter
GONE = (2**31 - 1,)  # in place of the labels of a row that is passed over: no head has so many
MIN_PROBES = 24  # below it a share of correct answers says nothing
_STEPS = 18  # of a golden section: brings the bracket to 1/5,800 of its width
_GOLDEN = (5**0.5 - 1) / 2


class ProbeRing:
    """The newest rows given to it, at most `rows`.

    Args:
        rows: bound.
        features: length of a row, its words included.
        dimensions: length of its codes.
    """

    def __init__(self, *, rows: int, features: int, dimensions: int) -> None:
        self.features: Floats = np.zeros((rows, features), dtype=np.float32)
        self.codes = torch.zeros(rows, dimensions, dtype=torch.int8)
        self.keys = np.zeros(rows, dtype=np.int64)
        self.label_rows: list[tuple[int, ...]] = []
        self.seen = 0

    def __len__(self) -> int:
        return len(self.label_rows)

    def add(
        self,
        features: Floats,
        codes: Tensor,
        label_rows: Sequence[tuple[int, ...]],
        *,
        keys: Sequence[int] = (),
    ) -> None:
        """Keep rows, replacing the oldest; those with keys, over 0, can be erased.

        A row whose key is there already was corrected: it stands here once, as it is now.
        """
        capacity = len(self.features)
        for row, labels in enumerate(label_rows):
            if keys:
                self.erase(keys[row : row + 1])
            place = self.seen % capacity
            self.features[place, : features.shape[1]] = features[row]
            self.features[place, features.shape[1] :] = 0.0
            self.codes[place] = codes[row]
            self.keys[place] = keys[row] if keys else 0
            if place < len(self.label_rows):
                self.label_rows[place] = labels
            else:
                self.label_rows.append(labels)
            self.seen += 1

    def forget(self, label_row: int) -> None:
        """Pass over the rows of a label: they are of a meaning it has no more."""
        self.label_rows = [GONE if label_row in rows else rows for rows in self.label_rows]

    def has(self, keys: Sequence[int]) -> bool:
        """Whether any row has one of these keys."""
        return bool(np.isin(self.keys, keys).any())

    def erase(self, keys: Sequence[int]) -> None:
        """Leave nothing of rows with these keys."""
        for place in np.flatnonzero(np.isin(self.keys, keys)).tolist():
            self.features[place], self.keys[place] = 0.0, 0
            self.codes[place] = 0
            self.label_rows[place] = GONE

    def state(self) -> Arrays:
        """Give the ring as arrays."""
        kept = len(self)
        lengths = [len(labels) for labels in self.label_rows]
        flat = [row for labels in self.label_rows for row in labels]
        return {
            "probe_features": self.features[:kept].copy(),
            "probe_codes": self.codes[:kept].numpy().copy(),
            "probe_keys": self.keys[:kept].copy(),
            "probe_lengths": np.array(lengths, dtype=np.int32),
            "probe_labels": np.array(flat, dtype=np.int32),
            "probe_seen": np.array([self.seen], dtype=np.int64),
        }

    def restore(self, arrays: Arrays, *, dimensions: int) -> None:
        """Take up what `state` gave, of codes of a length."""
        self.features[:], self.keys[:] = 0.0, 0
        self.codes = torch.zeros(len(self.features), dimensions, dtype=torch.int8)
        lengths = arrays["probe_lengths"].tolist()
        features = arrays["probe_features"]  # shorter where they are from before rows had words
        self.features[: len(lengths), : features.shape[1]] = features
        self.codes[: len(lengths)] = torch.from_numpy(np.array(arrays["probe_codes"]))
        self.keys[: len(lengths)] = arrays["probe_keys"]
        ends = np.cumsum([0, *lengths])
        flat = arrays["probe_labels"].tolist()
        self.label_rows = [tuple(flat[a:b]) for a, b in zip(ends[:-1], ends[1:], strict=True)]
        self.seen = int(arrays["probe_seen"][0])


def fit_softmax(
    scores: Floats, truth: NDArray[np.intp], *, bias: NDArray[np.float64]
) -> tuple[float, float]:
    """Find the scale, 0.0001 to 200, at which softmax(scale * scores + bias) is most likely.

    Args:
        scores: float32 [rows, labels], at least one row.
        truth: column of each row's label.
        bias: float64 [labels].

    Returns:
        scale, and the mean negative log-likelihood there, in nats.
    """

    def loss(log_scale: float) -> float:
        logits = np.exp(log_scale) * scores + bias
        logits -= logits.max(axis=1, keepdims=True)
        own = logits[np.arange(len(truth)), truth]
        return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - own))

    # convex in the scale, so one minimum in its log: golden section
    low, high = float(np.log(1e-4)), float(np.log(200.0))
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(_STEPS):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = loss(right)
    return float(np.exp(left)), at_left


def fit_prior(
    scores: Floats, truth: NDArray[np.intp], prior: NDArray[np.float64]
) -> tuple[float, float]:
    """Find scale and share of the prior at which softmax(scale * scores + share * prior) is best.

    Most likely, where rows are many; a few of them hardly move the share from a half.

    Args:
        scores: float32 [rows, labels], at least one row.
        truth: column of each row's label.
        prior: float64 [labels], log of each label's share of rows, up to a constant.

    Returns:
        scale, 0.0001 to 200, and share, of `PRIORS`.
    """
    best = (np.inf, 0.0, 0.0)
    for share in PRIORS:
        scale, loss = fit_softmax(scores, truth, bias=share * prior)
        best = min(best, (loss + PRIOR_PULL * (share - 0.5) ** 2 / len(truth), scale, share))
    return best[1:]


def fit_trust(scores: Floats, losses: Floats, truth: NDArray[np.intp]) -> float:
    """Find what scores lose for every logit of trained columns' losses.

    Args:
        scores: float32 [rows, labels], of the sums.
        losses: float32 [rows, labels], as `TrainedColumns.losses` gives them.
        truth: column of each row's label.

    Returns:
        0 or more; 0 where there are no trained columns, or they help nothing.
    """
    return _fit_share(scores, losses, truth, shares=TRUSTED, bias=np.zeros(scores.shape[1]))


def fit_words(
    scores: Floats,
    words: Floats,
    truth: NDArray[np.intp],
    prior: NDArray[np.float64],
    *,
    usual: float = USUAL_WORDS,
) -> float:
    """Find what scores gain per unit of words' scores; few rows hardly move their share.

    Args:
        scores: float32 [rows, labels], of the sums.
        words: float32 [rows, labels], as `WordColumns.scores` gives them.
        truth: column of each row's label.
        prior: float64 [labels], log of each label's share of rows: half of it is in the logits.
        usual: share of the logits that words have where rows do not say otherwise.

    Returns:
        0 or more; 0 where there are no words, or they help nothing.
    """
    return _fit_share(scores, words, truth, shares=WORDS, bias=0.5 * prior, usual=usual)


def _fit_share(
    scores: Floats,
    others: Floats,
    truth: NDArray[np.intp],
    *,
    shares: Sequence[float],
    bias: NDArray[np.float64],
    usual: float | None = None,
) -> float:
    """Find the share of others in the logits, and with it what is added of them to a score."""
    if not others.any():
        return 0.0
    scale, best = fit_softmax(scores, truth, bias=bias)
    other_scale, _ = fit_softmax(others, truth, bias=bias)
    pull = 0.0 if usual is None else WORDS_PULL / len(truth)
    found, usual = 0.0, usual or 0.0
    best += pull * usual**2
    for share in shares:
        trust = share * other_scale / ((1.0 - share) * scale)
        _, loss = fit_softmax(scores + np.float32(trust) * others, truth, bias=bias)
        loss += pull * (share - usual) ** 2
        if loss < best:
            best, found = loss, trust
    return found


def fit_largest(probabilities: Floats, truth: NDArray[np.intp]) -> tuple[float, float]:
    """Find slope and offset at which sigmoid(slope * logit(p) + offset) says how often p is right.

    p is the largest probability of a row. Newton's method, with a weak pull to 1 and 0, at which
    nothing changes.

    Args:
        probabilities: float32 [rows, labels].
        truth: column of each row's label.

    Returns:
        slope, 0.2 to 5, and offset.
    """
    best = probabilities.argmax(axis=1)
    top = probabilities[np.arange(len(best)), best].astype(np.float64)
    top = np.clip(top, 1e-7, 1 - 1e-7)
    design = np.stack([np.log(top / (1 - top)), np.ones_like(top)])
    y = (best == truth).astype(np.float64)
    prior = np.array([1.0, 0.0])
    theta = prior.copy()
    for _ in range(15):
        p = 1.0 / (1.0 + np.exp(-np.clip(theta @ design, -60, 60)))
        gradient = design @ (p - y) + 2.0 * (theta - prior)
        curvature = (design * (p * (1 - p))) @ design.T + 2.0 * np.eye(2)
        theta -= np.clip(np.linalg.solve(curvature, gradient), -1.0, 1.0)
    return float(np.clip(theta[0], 0.2, 5.0)), float(theta[1])


def fit_sigmoid(scores: Floats, truth: NDArray[np.bool_]) -> tuple[float, float]:
    """Find scale and offset at which sigmoid(scale * (score - offset)) is most likely.

    Newton's method on the two numbers, with a weak pull to scale 12 and offset 1/2, which decides
    while there is nothing to fit.

    Args:
        scores: float32 [rows, labels].
        truth: [rows, labels].

    Returns:
        scale, 1 to 100, and offset, 0 to 1.
    """
    x, y = scores.astype(np.float64).ravel(), truth.astype(np.float64).ravel()
    prior = np.array([12.0, -6.0])
    theta = prior.copy()
    design = np.stack([x, np.ones_like(x)])
    for _ in range(25):
        p = 1.0 / (1.0 + np.exp(-np.clip(theta @ design, -60, 60)))
        gradient = design @ (p - y) + 1e-2 * (theta - prior)
        curvature = (design * (p * (1 - p))) @ design.T + 1e-2 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        theta -= np.clip(step, -4.0, 4.0)
    scale = float(np.clip(theta[0], 1.0, 100.0))
    return scale, float(np.clip(-theta[1] / scale, 0.0, 1.0))


def fit_words_of_several(scores: Floats, words: Floats, truth: NDArray[np.bool_]) -> float:
    """Find what scores of several labels gain for every nat of words' scores.

    Args:
        scores: float32 [rows, labels], of the sums.
        words: float32 [rows, labels], as `WordColumns.scores` gives them.
        truth: [rows, labels].
    """
    if not words.any():
        return 0.0
    spread = float(scores.std()) / max(float(words.std()), 1e-9)

    def loss(weight: float) -> float:
        mixed = scores + np.float32(weight) * words
        scale, offset = fit_sigmoid(mixed, truth)
        logits = scale * (mixed - offset)
        return float(np.logaddexp(0.0, np.where(truth, -logits, logits)).mean())

    return min((share * spread / (1.0 - share) for share in (0.0, *WORDS)), key=loss)


def best_threshold(probabilities: Floats, truth: NDArray[np.bool_]) -> tuple[float, float]:
    """Find the threshold for the best micro-F1, and that F1.

    Of calibrated probabilities it is half of the best F1 that can be had (Lipton, Elkan &
    Naryanaswamy, ECML PKDD 2014), which a few rows show well: the threshold at which they
    themselves have it moves with chance from one calibration to the next.

    Args:
        probabilities: float32 [rows, labels].
        truth: [rows, labels].

    Returns:
        threshold, 0.05 to 0.5, and the best F1 at any, 0 to 1 (1 when nothing is true and nothing
        said).
    """
    best = 0.0
    for threshold in np.linspace(0.05, 0.95, 37):
        said = probabilities >= threshold
        total = int(said.sum() + truth.sum())
        best = max(best, 2 * int((said & truth).sum()) / total if total else 1.0)
    return max(0.5 * best, 0.05), best
