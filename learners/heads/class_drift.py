"""Labels whose meaning changes: noticed one by one, from what was predicted before it was learned.

Owns one sequential test a label and its newest rows; must not know sums or solves. Page's CUSUM
(Biometrika 41, 1954) on the Bernoulli likelihood ratio between a label's usual rate of misses and a
changed one. An alarm names the rows since the change began: the label starts again from them, which
is a window that forgets everything older, and then grows without bound again.

Where one label's rows are said to be another's, that other may have changed too, unnoticed: what it
meant is what the first means now, so that its own new rows are answered well. Such a label is under
suspicion for a while, and its newest rows are to be compared with its sums: they may look like
nothing it knew, or what it knew may look like its heir, the first label, and not like them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learners.heads.base import Arrays, Floats, Meta

CHANGED_MISSES = 0.9  # share of misses after a change
USUAL_MISSES = 0.1  # share before it, at least
USUAL_WEIGHT = 0.01  # of the newest row in a label's usual share of misses
SETTLED_ROWS = 20  # a label with fewer rows has no usual share yet
MAX_USUAL = 0.5  # a label that misses more is not known well enough to change
# A CUSUM at log n gives at most one false alarm in n rows, on average (Lorden, 1971).
ALARM = math.log(1e6)
WINDOW_ROWS = 20
SUSPECT_ROWS = 20  # of its own, for which a label stays under suspicion
COMPARED_ROWS = 6  # newest of them
CONTRADICTION = 0.3  # cosine by which newest rows are nearer to another label's mean
UNLIKE = 0.3  # cosine below which newest rows do not look like their label's mean


@dataclass(slots=True)
class _Watch:
    """One label.

    Attributes:
        rows: seen.
        misses: usual share of them, exponentially averaged.
        evidence: of a change, log likelihood ratio.
        since: rows since the evidence began.
        window: newest feature rows, each with its key.
    """

    rows: int = 0
    misses: float = 0.0
    evidence: float = 0.0
    since: int = 0
    window: deque[tuple[int, Floats]] = field(default_factory=lambda: deque(maxlen=WINDOW_ROWS))

    def newest(self, rows: int) -> Floats:
        """Give up to so many of the newest feature rows, 1 or more: float32 [rows, features]."""
        return np.stack([features for _, features in list(self.window)[-rows:]])

    def keys(self, rows: int) -> list[int]:
        """Give the keys of the same rows."""
        return [key for key, _ in list(self.window)[-rows:]]


@dataclass(slots=True)
class _Suspicion:
    """Of one label.

    Attributes:
        rows: of its own to go.
        heir: the changed label that may mean now what it used to; None in older states.
    """

    rows: int = SUSPECT_ROWS
    heir: int | None = None


class ClassDrift:
    """Watches every label of one head.

    Args:
        features: length of a feature row.
    """

    def __init__(self, features: int) -> None:
        self._features = features
        self._labels: dict[int, _Watch] = {}
        self._suspects: dict[int, _Suspicion] = {}

    def suspect(self, label: int, *, heir: int) -> None:
        """Put a label under suspicion: rows of a changed one, its heir, were said to be its."""
        self._suspects[label] = _Suspicion(heir=heir)

    def heir(self, label: int) -> int | None:
        """Give the changed label that may mean now what one under suspicion used to."""
        suspicion = self._suspects.get(label)
        return None if suspicion is None else suspicion.heir

    def suspicious(self, label: int) -> Floats | None:
        """Give the newest rows of a label under suspicion, to be compared with its sums.

        Returns:
            float32 [rows, features]; None without suspicion, or with too few rows.
        """
        watch = self._labels.get(label)
        if label not in self._suspects or watch is None or len(watch.window) < COMPARED_ROWS:
            return None
        return watch.newest(COMPARED_ROWS)

    def keys(self, label: int, rows: int) -> list[int]:
        """Give the keys of so many of a label's newest rows."""
        return self._labels[label].keys(rows)

    def restart(self, label: int) -> None:
        """Watch a label anew: it was found changed."""
        self._labels[label] = _Watch(window=self._labels[label].window)
        self._suspects.pop(label, None)

    def erase(self, keys: Collection[int]) -> None:
        """Leave no features of rows with these keys; what was counted of them stays."""
        for watch in self._labels.values():
            kept = [row for row in watch.window if row[0] not in keys]
            watch.window = deque(kept, maxlen=WINDOW_ROWS)

    def observe(self, label: int, features: Floats, *, hit: bool, key: int = 0) -> Floats | None:
        """Take a row that was scored before it was learned.

        Args:
            label: its row in the head.
            features: float32 [features].
            hit: the label was said.
            key: of the row, over 0, where it can be erased.

        Returns:
            The rows since the label's meaning changed, float32 [rows, features], this one included;
            None while it has not.
        """
        watch = self._labels.setdefault(label, _Watch())
        watch.rows += 1
        if (suspicion := self._suspects.get(label)) is not None:
            suspicion.rows -= 1
            if not suspicion.rows:
                del self._suspects[label]
        watch.window.append((key, np.array(features, dtype=np.float32)))
        doubt = math.sqrt(watch.misses * (1 - watch.misses) * max(USUAL_WEIGHT, 1 / watch.rows))
        usual = max(USUAL_MISSES, watch.misses + doubt)  # one error to the safe side
        if watch.rows > SETTLED_ROWS and usual <= MAX_USUAL:
            ratio = (
                math.log((1 - CHANGED_MISSES) / (1 - usual))
                if hit
                else math.log(CHANGED_MISSES / usual)
            )
            watch.evidence = max(0.0, watch.evidence + ratio)
            watch.since = watch.since + 1 if watch.evidence > 0 else 0
        # Also while there is evidence: leaving those rows out would make misses look rarer.
        weight = max(USUAL_WEIGHT, 1 / watch.rows)
        watch.misses += weight * ((0.0 if hit else 1.0) - watch.misses)
        if watch.evidence < ALARM:
            return None
        rows = watch.newest(watch.since)
        self.restart(label)
        return rows

    def state(self) -> tuple[Arrays, Meta]:
        """Give everything, as arrays and JSON values."""
        windows = [list(watch.window) for watch in self._labels.values()]
        rows = [features for window in windows for _, features in window]
        keys = [key for window in windows for key, _ in window]
        stacked = np.stack(rows) if rows else np.zeros((0, self._features), dtype=np.float32)
        numbers = [
            [label, watch.rows, watch.misses, watch.evidence, watch.since, len(watch.window)]
            for label, watch in self._labels.items()
        ]
        return {"drift_windows": stacked, "drift_keys": np.array(keys, dtype=np.int64)}, {
            "labels": numbers,
            "suspects": [[label, one.rows, one.heir] for label, one in self._suspects.items()],
        }

    def restore(self, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        self._labels.clear()
        self._suspects = {label: _Suspicion(*found) for label, *found in meta["suspects"]}
        start = 0
        for label, rows, misses, evidence, since, kept in meta["labels"]:
            watch = _Watch(int(rows), float(misses), float(evidence), int(since))
            for place in range(start, start + int(kept)):
                row = np.zeros(self._features, dtype=np.float32)
                found = arrays["drift_windows"][place]
                row[: len(found)] = found  # shorter where it is from before rows had words
                watch.window.append((int(arrays["drift_keys"][place]), row))
            start += int(kept)
            self._labels[int(label)] = watch


def unlike(means: Tensor, centre: Tensor, features: Floats, *, row: int) -> bool:
    """Say whether rows of a label look like another label, or unlike its own mean.

    Args:
        means: float64 [labels, width], centred, of length 1.
        centre: float64 [width], that was taken away.
        features: float32 [rows, width], of the label's newest rows.
        row: of the label.
    """
    newest = torch.from_numpy(features[:, : len(centre)]).double().mean(dim=0) - centre
    cosines = means @ torch.nn.functional.normalize(newest, dim=0)
    return bool(cosines[row] < max(float(cosines.max()) - CONTRADICTION, UNLIKE))


def inherited(means: Tensor, centre: Tensor, features: Floats, *, older: Tensor, heir: int) -> bool:
    """Say whether what a label used to mean looks like its heir, and not like its newest rows.

    A label that means two things looks a little like both: its own mean, which its newest rows are
    in, does not tell. How near to a mean its newest rows should be, they say themselves: as near as
    they are to each other allows.

    Args:
        means: float64 [labels, width], centred, of length 1.
        centre: float64 [width], that was taken away.
        features: float32 [rows, width], of the label's newest rows; one alone says nothing.
        older: float64 [width], mean of its other rows.
        heir: row of the label that changed.
    """
    unit = torch.nn.functional.normalize
    before = unit(older - centre, dim=0)
    rows = unit(torch.from_numpy(features[:, : len(centre)]).double() - centre, dim=1)
    count, length = len(rows), float(rows.mean(dim=0).norm())
    if count < 2 or length == 0.0:  # others may have been erased
        return False
    alike = max(0.0, (count * length**2 - 1) / (count - 1))  # mean cosine of two of them
    likely = alike**0.5 / length  # cosine of their mean with the mean of many such
    own = float(before @ unit(rows.mean(dim=0), dim=0))
    theirs = float(before @ means[heir])
    return bool(own < min(likely, theirs) - CONTRADICTION)
