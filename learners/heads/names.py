"""A label's own name as a prior: worth so many rows of it, until its rows say otherwise.

Owns the features of names and when a name is doubted; must not know encoders or solves. Names make
a label known before its first row (zero-shot), and weigh less with every row, as a prior's
pseudo-count does. After prototypes from class descriptions in few-shot learning (Xing et al.,
"Adaptive Cross-Modal Few-Shot Learning", NeurIPS 2019); ours is kept apart from the sums, so that
it can be taken away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learners.heads.base import Arrays, Floats
from learners.heads.projection import CODE_STEP, Projection
from learners.words import SLOTS

DOUBT_ROWS = 3  # with so many rows a label's mean can contradict its name
DOUBT_MARGIN = 0.1  # cosine by which another label's name must be nearer


class LabelNames:
    """Features of the labels' names.

    Args:
        features: length of a feature row.
        weight: rows that a name counts as; 0 turns names off.
    """

    def __init__(self, features: int, *, weight: float) -> None:
        self.weight = weight
        self._features = torch.zeros(0, features, dtype=torch.float64)
        self._words = torch.zeros(0, SLOTS)
        self._named = torch.zeros(0, dtype=torch.bool)
        self._declared = torch.zeros(0, dtype=torch.bool)
        self._codes: dict[int, Tensor] = {}

    def set(self, row: int, features: Floats, *, declared: bool = False) -> None:
        """Give a label's name.

        Args:
            row: of the label.
            features: float32 [features], of the name, or with its words behind them.
            declared: the label may be said before it has any row.
        """
        if self.weight <= 0:
            return
        self._grow(row + 1)
        width = self._features.shape[1]
        self._features[row] = torch.from_numpy(np.asarray(features[:width], dtype=np.float64))
        self._words[row, : len(features) - width] = torch.from_numpy(features[width:])
        self._named[row] = True
        self._declared[row] |= declared
        self._codes.pop(row, None)

    def _grow(self, rows: int) -> None:
        more = rows - len(self._named)
        if more > 0:
            pad = torch.nn.functional.pad
            self._features = pad(self._features, (0, 0, 0, more))
            self._words = pad(self._words, (0, 0, 0, more))
            self._named = pad(self._named, (0, more))
            self._declared = pad(self._declared, (0, more))

    def declared(self, labels: int) -> Tensor:
        """Say which labels may be said without any row: bool [labels]."""
        self._grow(labels)
        return self._declared[:labels] & self._named[:labels]

    def words(self, labels: int) -> tuple[NDArray[np.int64], list[tuple[int, ...]]]:
        """Give the words of the first labels' names, int64 [named, SLOTS], and the labels' rows."""
        self._grow(labels)
        rows = torch.nonzero(self._named[:labels]).flatten()
        return self._words[rows].long().numpy(), [(row,) for row in rows.tolist()]

    def doubt(self, means: Tensor, counts: Tensor) -> None:
        """Drop names that rows contradict: the label's mean is nearer to another label's name.

        Args:
            means: float64 [labels, features].
            counts: float64 [labels].
        """
        self._grow(len(counts))
        rows = torch.nonzero(self._named[: len(counts)]).flatten()
        young = rows[(counts[rows] >= DOUBT_ROWS) & (counts[rows] < 16 * DOUBT_ROWS)]
        if len(rows) < 2 or not len(young):
            return
        names = torch.nn.functional.normalize(self._features[rows], dim=1)
        cosines = torch.nn.functional.normalize(means[young], dim=1) @ names.T  # [young, named]
        own = (
            torch.nn.functional.normalize(means[young], dim=1)
            * torch.nn.functional.normalize(self._features[young], dim=1)
        ).sum(dim=1)
        self._named[young[cosines.amax(dim=1) > own + DOUBT_MARGIN]] = False

    def drop(self, row: int) -> None:
        """Take a label's name away."""
        if row < len(self._named):
            self._named[row] = False

    def follow(self, other: LabelNames) -> None:
        """Drop what another dropped, and declare what it declared, of the labels that it knows."""
        labels = len(other._named)
        self._grow(labels)
        self._named[:labels] &= other._named
        self._declared[:labels] = other._declared

    def mixed(self, means: Tensor, counts: Tensor) -> Tensor:
        """Mix names into means: float64 [labels, features]."""
        self._grow(len(counts))
        weights = self.weight * self._named[: len(counts)].double().unsqueeze(1)
        rows = counts.unsqueeze(1)
        return (rows * means + weights * self._features[: len(counts)]) / (
            rows + weights
        ).clamp_min(1e-9)

    def centred(self, means: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Mix names into means, and take their centre away.

        Args:
            means: float64 [labels, features].
            counts: float64 [labels].

        Returns:
            Rows of length 1, zeros where nothing is known, float64 [labels, features]; the centre,
            float64 [features], which is zero for a single label.
        """
        mixed = self.mixed(means, counts)
        heard = mixed.abs().sum(dim=1) > 0
        if not heard.any():
            return mixed, torch.zeros(mixed.shape[1], dtype=torch.float64)
        centre = mixed[heard].mean(dim=0)
        if int(heard.sum()) == 1:
            centre = torch.zeros_like(centre)
        centred = torch.nn.functional.normalize(mixed - centre, dim=1)
        centred[~heard] = 0.0
        return centred, centre

    def mixed_codes(
        self, rows: Tensor, means: Tensor, counts: Tensor, projection: Projection
    ) -> Tensor:
        """Mix phi of names into means of phi: float64 [labels, dimensions].

        Args:
            rows: of the labels, int64 [labels].
            means: float64 [labels, dimensions].
            counts: float64 [labels].
            projection: gives phi; more dimensions than the means have are left out.
        """
        named = self._codes_of(rows, projection, dimensions=means.shape[1])
        if named is None:
            return means
        codes, weights = named
        rows_of = counts.unsqueeze(1)
        return (rows_of * means + weights * codes) / (rows_of + weights).clamp_min(1e-9)

    def _codes_of(
        self, rows: Tensor, projection: Projection, *, dimensions: int
    ) -> tuple[Tensor, Tensor] | None:
        """Give phi of names, float64 [labels, dimensions], and weights, float64 [labels, 1].

        Returns:
            None where no label has a name.
        """
        self._grow(int(rows.max()) + 1 if len(rows) else 0)
        named = self._named[rows]
        if self.weight <= 0 or not named.any():
            return None
        missing = [row for row in rows[named].tolist() if row not in self._codes]
        if missing:
            fresh = projection.codes(self._features[missing].numpy().astype(np.float32))
            self._codes |= dict(zip(missing, fresh, strict=True))
        phi = torch.zeros(len(rows), dimensions, dtype=torch.float64)
        for place, row in enumerate(rows.tolist()):
            if named[place]:
                phi[place] = self._codes[row][:dimensions].double() * CODE_STEP
        return phi, self.weight * named.double().unsqueeze(1)

    def state(self) -> Arrays:
        """Give everything, as arrays."""
        return {
            "name_features": self._features.float().numpy(),
            "name_words": self._words.numpy(),
            "name_named": self._named.numpy(),
            "name_declared": self._declared.numpy(),
        }

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take up what `state` gave."""
        self._features = torch.from_numpy(np.array(arrays["name_features"])).double()
        self._named = torch.from_numpy(np.array(arrays["name_named"])).bool()
        self._words = torch.zeros(len(self._named), SLOTS)
        if "name_words" in arrays:  # older states lack them
            self._words[:] = torch.from_numpy(np.array(arrays["name_words"]))
        self._declared = torch.from_numpy(np.array(arrays["name_declared"])).bool()
        self._codes.clear()


def words_of(label: str) -> str | None:
    """Write a label as words, or None where it is a code and means nothing.

    Examples:
        >>> words_of("card_payment_notRecognised"), words_of("L-4711"), words_of("x")
        ('card payment not recognised', None, None)
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)
    words = re.sub(r"[\s_\-./:]+", " ", spaced).strip().lower()
    letters = sum(character.isalpha() for character in words)
    digits = sum(character.isdigit() for character in words)
    return words if letters >= 2 and letters > digits else None
