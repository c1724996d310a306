"""Does an engine still say what torch in fp32 says: nearness, answers, neighbours, accuracy.

Owns the bounds and the reasons of a rejection; must not know how engines compute or how fast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from learners.engines.base import Candidate, Engine, Floats, features

MIN_COSINE = 0.995  # to fp32 features, for all but one in a hundred probes
MIN_SAME = 0.985  # of the probes keep their answer
MAX_ALONE = 1e-3  # 1 - cosine between a text alone and in a batch
ALONE_TEXTS = 16
MEANS = 16  # classes that stand in for a head's where there is none
ROUNDS = 3
MIN_LABELLED = 100  # fewer rows say nothing about a fraction of a point

Tokens = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Labelled:
    """What answers, and texts whose answer is known.

    Attributes:
        scores: float32 [rows, width] to float32 [rows, labels].
        token_ids: of the texts; there may be none.
        truth: int64 [rows], the column of the right label.
    """

    scores: Callable[[Floats], Floats]
    token_ids: Tokens
    truth: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Probes:
    """What engines are compared on.

    Attributes:
        token_ids: of the probe texts.
        exact: float32 [probes, width], the features that torch gives in fp32.
        scores: features to float32 [probes, labels], whose largest is the answer.
        labelled: texts whose answer is known; None where there are none.
        exact_labelled: float32 [rows, width], the features of these in torch in fp32.
    """

    token_ids: Tokens
    exact: Floats
    scores: Callable[[Floats], Floats]
    labelled: Labelled | None = None
    exact_labelled: Floats | None = None


def make_probes(
    reference: Engine, token_ids: Tokens, *, width: int, labelled: Labelled | None = None
) -> Probes:
    """Compute what engines will be compared with.

    Args:
        reference: torch in fp32.
        token_ids: of the probe texts, at least one.
        width: of a feature row.
        labelled: texts whose answer is known.
    """
    exact = features(reference, token_ids, width=width)
    if labelled is None:
        means = class_means(exact, count=MEANS)
        return Probes(token_ids, exact, lambda rows: rows @ means.T)
    if len(labelled.truth) < MIN_LABELLED:
        return Probes(token_ids, exact, labelled.scores)
    known = features(reference, labelled.token_ids, width=width)
    return Probes(token_ids, exact, labelled.scores, labelled, known)


def class_means(rows: Floats, *, count: int) -> Floats:
    """Group rows around means: they stand in for the classes of a head that is not there.

    Farthest-first seeds (Gonzalez, 1985), then a few rounds of Lloyd's algorithm.

    Args:
        rows: float32 [rows, width], of length 1.
        count: of means; fewer where there are fewer rows.

    Returns:
        float32 [means, width], of length 1.

    Example:
        >>> class_means(np.eye(2, dtype=np.float32)[[0, 0, 1]], count=2).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    seeds = [0]
    nearest = rows @ rows[0]
    while len(seeds) < min(count, len(rows)):
        seeds.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, rows @ rows[seeds[-1]])
    means = rows[seeds]
    for _ in range(ROUNDS):
        mine = (rows @ means.T).argmax(axis=1)
        sums = np.stack([rows[mine == n].sum(axis=0) for n in range(len(means))])
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        means = np.where(lengths > 0, sums / np.maximum(lengths, 1e-12), means)
    return means.astype(np.float32)


def check(engine: Engine, probes: Probes, *, max_accuracy_loss: float) -> Candidate:
    """Compare an engine with torch in fp32.

    Args:
        engine: to be judged.
        probes: texts, and what torch says of them.
        max_accuracy_loss: percentage points that may be lost on labelled texts; a loss is too large
            when it is above this by more than its standard error.

    Returns:
        What was found, and why it is rejected if it is.
    """
    width = probes.exact.shape[1]
    found = features(engine, probes.token_ids, width=width)
    cosine = float(np.quantile(_cosines(found, probes.exact), 0.01))
    answers, exact = probes.scores(found).argmax(axis=1), probes.scores(probes.exact).argmax(axis=1)
    few = probes.token_ids[:ALONE_TEXTS]
    alone = np.concatenate([features(engine, [ids], width=width) for ids in few])
    candidate = Candidate(
        engine.name,
        engine.precision,
        cosine=cosine,
        same=float((answers == exact).mean()),
        alone=float(1 - _cosines(alone, found[: len(few)]).min()),
    )
    if not np.isfinite(found).all():
        return replace(candidate, rejected="its features are not finite")
    return _with_loss(candidate, engine, probes, bound=max_accuracy_loss)


def _with_loss(candidate: Candidate, engine: Engine, probes: Probes, *, bound: float) -> Candidate:
    """Measure the accuracy lost where that can be told, and say why a candidate is rejected."""
    error = 0.0
    if probes.labelled is not None and probes.exact_labelled is not None:
        width = probes.exact_labelled.shape[1]
        loss, error = accuracy_loss(
            probes.labelled.scores,
            exact=probes.exact_labelled,
            found=features(engine, probes.labelled.token_ids, width=width),
            truth=probes.labelled.truth,
        )
        candidate = replace(candidate, accuracy_loss=loss)
    return replace(candidate, rejected=_reason(candidate, error=error, bound=bound))


def _reason(candidate: Candidate, *, error: float, bound: float) -> str:
    cosine, same, alone = candidate.cosine or 0.0, candidate.same or 0.0, candidate.alone or 0.0
    if not cosine >= MIN_COSINE:
        return f"cosine {cosine:.4f} to fp32 is under {MIN_COSINE}"
    if same < MIN_SAME:
        return f"{100 * same:.1f} % of the probes keep their answer, under {100 * MIN_SAME:.1f} %"
    if alone > MAX_ALONE:
        return f"a text's features depend on its neighbours (1 - cosine {alone:.1e})"
    loss = candidate.accuracy_loss
    if loss is not None and loss - error > bound:
        return f"{loss:.2f} (± {error:.2f}) points of accuracy lost, more than {bound:g}"
    return ""


def accuracy_loss(
    scores: Callable[[Floats], Floats], *, exact: Floats, found: Floats, truth: NDArray[np.int64]
) -> tuple[float, float]:
    """Compare how often two features of the same texts are answered rightly.

    Args:
        scores: float32 [rows, width] to float32 [rows, labels].
        exact: float32 [rows, width], what the loss is counted from.
        found: the same, of an engine.
        truth: int64 [rows], the column of the right label.

    Returns:
        Percentage points lost, negative where some are won, and their standard error, of pairs.

    Example:
        >>> one, other = np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)[[0, 0]]
        >>> accuracy_loss(lambda x: x, exact=one, found=other, truth=np.array([0, 1]))
        (50.0, 50.0)
    """
    right = scores(exact).argmax(axis=1) == truth
    still = scores(found).argmax(axis=1) == truth
    lost = right.astype(np.float64) - still
    error = float(np.std(lost, ddof=1)) / len(lost) ** 0.5 if len(lost) > 1 else float("inf")
    return 100 * float(lost.mean()), round(100 * error, 6)


def _cosines(some: Floats, others: Floats) -> NDArray[np.float64]:
    lengths = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
    cosines: NDArray[np.float64] = (some * others).sum(axis=1) / np.maximum(lengths, 1e-12)
    return cosines
