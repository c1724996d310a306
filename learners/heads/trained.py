"""Columns that were trained by gradients beside the sums: what a consolidation's classifier says.

Owns their use beside a solve of sums; must not know sums, or how columns are trained. Sums of the
rows that an encoder was fine-tuned on are too sure of it; the classifier that was trained along
knows better where classes meet. It never learns again, so it only takes away: of the labels that it
knows, those that it likes less than its best lose by as much, and a label that came after it loses
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learners.heads.base import Arrays, Floats
from learners.heads.linear import SolvedLinear


@dataclass(frozen=True)
class TrainedColumns:
    """A linear classifier over a head's rows, rounded to half precision.

    Attributes:
        weights: float16 [labels, features]; zeros of a label that it does not know.
        constants: float32 [labels].
        known: bool [labels], labels that it has a say about.
    """

    weights: NDArray[np.float16]
    constants: Floats
    known: NDArray[np.bool_]

    @classmethod
    def empty(cls) -> TrainedColumns:
        """Columns of no label."""
        return cls(np.zeros((0, 1), np.float16), np.zeros(0, np.float32), np.zeros(0, np.bool_))

    @classmethod
    def of(cls, classifier: SolvedLinear, labels: Sequence[str]) -> TrainedColumns:
        """Take a classifier's columns, in the order of a head's rows.

        Args:
            classifier: over the same features.
            labels: of the head; others are left out.
        """
        columns = {text: column for column, text in enumerate(classifier.labels)}
        weights = np.zeros((len(labels), classifier.weights.shape[1]), dtype=np.float16)
        constants = np.zeros(len(labels), dtype=np.float32)
        known = np.array([text in columns for text in labels], dtype=np.bool_)
        places = [columns[text] for text in labels if text in columns]
        weights[known], constants[known] = classifier.weights[places], classifier.bias[places]
        return cls(weights, constants, known)

    def without(self, row: int) -> TrainedColumns:
        """Leave out a label, by its row: it means something else now."""
        if row >= len(self.known) or not self.known[row]:
            return self
        known = self.known.copy()
        known[row] = False
        return replace(self, known=known)

    @cached_property
    def _columns(self) -> Tensor:
        return torch.from_numpy(self.weights[self.known].astype(np.float32)).T

    def losses(self, features: Floats, *, labels: int) -> Floats:
        """Say how much less each label is liked than the best of those that are known.

        Args:
            features: float32 [rows, features].
            labels: columns of the answer.

        Returns:
            float32 [rows, labels], in logits, 0 or less; 0 for labels that are not known.
        """
        losses = np.zeros((len(features), labels), dtype=np.float32)
        places = np.flatnonzero(self.known[:labels])
        if len(places):
            mine = np.ascontiguousarray(features[:, : self.weights.shape[1]])
            product = torch.from_numpy(mine) @ self._columns
            logits = product.numpy()[:, : len(places)] + self.constants[places]
            losses[:, places] = logits - logits.max(axis=1, keepdims=True)
        return losses

    def arrays(self) -> Arrays:
        """Everything, as arrays."""
        return {
            "trained_weights": self.weights,
            "trained_constants": self.constants,
            "trained_known": self.known,
        }

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]]) -> TrainedColumns:
        """Take up what `arrays` gave; arrays from before there were such columns have none."""
        if "trained_weights" not in arrays:
            return cls.empty()
        return cls(
            np.array(arrays["trained_weights"]),
            np.array(arrays["trained_constants"]),
            np.array(arrays["trained_known"]),
        )
