"""Held-out rows against a solution: which of them it can answer, and how likely they are by it.

Owns both questions; must not know how a solution is found.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from learners.heads.probes import MIN_PROBES, ProbeRing
from learners.heads.scoring import indicators, sigmoid, softmax
from learners.heads.solved import SolvedAdditive


def usable(ring: ProbeRing, counts: Tensor) -> list[int]:
    """List places of held-out rows that the sums could answer, oldest first."""
    alive = (counts > 0).tolist()
    kept = len(ring)
    first = ring.seen % kept if kept and ring.seen > kept else 0
    order = [(first + n) % kept for n in range(kept)]
    return [
        place
        for place in order
        if all(row < len(alive) and alive[row] for row in ring.label_rows[place])
    ]


def held_out_losses(
    solved: SolvedAdditive,
    ring: ProbeRing,
    *,
    counts: Tensor,
    several: bool,
    most: int | None = None,
) -> NDArray[np.float64] | None:
    """Give the negative log-likelihood of each held-out row's labels, in nats.

    Args:
        solved: gives the probabilities.
        ring: of held-out rows.
        counts: rows by label, of the labels that are looked at: the first ones.
        several: rows have any number of labels: the likelihoods of all labels are multiplied.
        most: only so many rows, the newest; None for all.

    Returns:
        float64 [rows], oldest first; None where there are too few.
    """
    places = usable(ring, counts)
    places = places if most is None else places[-most:]
    if len(places) < MIN_PROBES:
        return None
    truths = [ring.label_rows[place] for place in places]
    logits = solved.scale * solved.scores_of(ring.features[places], ring.codes[places])
    if several:
        said = indicators(truths, logits.shape[1])
        likely = sigmoid(np.where(said, logits, -logits))
        return np.asarray(-np.log(np.maximum(likely, 1e-7)).sum(axis=1), dtype=np.float64)
    own = solved.correct(softmax(logits))[np.arange(len(truths)), [rows[0] for rows in truths]]
    return np.asarray(-np.log(np.maximum(own, 1e-7)), dtype=np.float64)
