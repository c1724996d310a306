"""The kind `multilabel`: any number of labels a text, none included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from learners.tasks.base import Decision, Floats, HeadSolver, rank, read_label_text, read_text
from schemas.errors import LabelError
from schemas.fields import MAX_LABELS, Label, Scalar

if TYPE_CHECKING:
    from torch import Tensor


class Multilabel:
    """Every label that holds; see `TaskKind` for what each method promises.

    Examples:
        >>> kind = Multilabel()
        >>> kind.check_label(["b", "a", "b"]), kind.check_label([]), kind.check_label("a")
        (('a', 'b'), (), ('a',))
        >>> kind.agreement(("a", "b"), ("a",)), kind.agreement((), ())
        (0.6666666666666666, 1.0)
    """

    name: str = "multilabel"
    head_solver: HeadSolver = "least-squares"

    def input_text(self, text: str | None, features: Mapping[str, Scalar] | None) -> str:
        """Give the text; features are not read."""
        return read_text(text, kind=self.name)

    def check_label(self, value: object) -> Label:
        """Take texts (one alone counts as a list of one), sorted and without repeats.

        Raises:
            LabelError: not texts, or too many.
        """
        if isinstance(value, str):
            value = (value,)
        if not isinstance(value, (list, tuple, set, frozenset)):
            raise LabelError(
                f"label: {value!r} is {type(value).__name__}, and a list of texts was expected"
            )
        texts = sorted({read_label_text(item) for item in value})
        if len(texts) > MAX_LABELS:
            raise LabelError(f"label: {len(texts)} texts, at most {MAX_LABELS} are allowed")
        return tuple(texts)

    def label_texts(self, label: Label) -> tuple[str, ...]:
        """Give the texts: none or more."""
        return (label,) if isinstance(label, str) else label

    def targets(self, labels: Sequence[Label], *, index: Mapping[str, int]) -> Tensor:
        """Give float32 [rows, labels of the index]: 1 where a label holds.

        Raises:
            LabelError: a label is not in the index.
        """
        import torch

        targets = torch.zeros(len(labels), len(index), dtype=torch.float32)
        for row, label in enumerate(labels):
            for text in self.label_texts(label):
                if text not in index:
                    raise LabelError(f"label: {text!r} has no row in the head")
                targets[row, index[text]] = 1.0
        return targets

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Give binary cross-entropy: summed over labels, mean over rows.

        The sum keeps a rare label's gradient from shrinking as labels are added.
        """
        from torch.nn import functional

        loss = functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
        return loss / max(len(logits), 1)

    def probabilities(self, scores: Floats, *, scale: float) -> Floats:
        """Give sigmoid(scale * score): every label for itself; score 0 is probability 1/2."""
        logits = np.clip(scale * scores.astype(np.float64), -60.0, 60.0)
        return np.asarray(1.0 / (1.0 + np.exp(-logits)), dtype=np.float32)

    def decide(
        self, probabilities: Floats, *, labels: Sequence[str], threshold: float, top: int
    ) -> list[Decision]:
        """Say every label at or over the threshold.

        The score is that of the whole set, labels taken as independent.
        """
        decisions = []
        for row in probabilities:
            said = row >= threshold
            label = tuple(sorted(labels[int(column)] for column in np.flatnonzero(said)))
            score = float(np.prod(np.where(said, row, 1.0 - row), dtype=np.float64))
            decisions.append(Decision(label, score, tuple(rank(row, labels=labels, top=top))))
        return decisions

    def agreement(self, truth: Label, predicted: Label | None) -> float:
        """Give the example's F1: 2 |both| / (|truth| + |predicted|), 1 when both are empty."""
        if predicted is None:
            return 0.0
        true, said = set(self.label_texts(truth)), set(self.label_texts(predicted))
        if not true and not said:
            return 1.0
        return 2 * len(true & said) / (len(true) + len(said))
