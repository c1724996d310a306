"""The kind `classify`: exactly one label a text (sentiment, intents, topics)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from learners.tasks.base import Decision, Floats, HeadSolver, rank, read_label_text, read_text
from schemas.errors import LabelError
from schemas.fields import Label, Scalar

if TYPE_CHECKING:
    from torch import Tensor


class Classify:
    """One label out of those seen so far; see `TaskKind` for what each method promises.

    Examples:
        >>> kind = Classify()
        >>> kind.check_label(" refund "), kind.agreement("refund", "refund")
        ('refund', 1.0)
        >>> kind.decide(np.float32([[0.2, 0.8]]), labels=["a", "b"], threshold=0.5, top=1)[0].label
        'b'
    """

    name: str = "classify"
    head_solver: HeadSolver = "class-balanced"

    def input_text(self, text: str | None, features: Mapping[str, Scalar] | None) -> str:
        """Give the text; features are not read."""
        return read_text(text, kind=self.name)

    def check_label(self, value: object) -> Label:
        """Take one text of 1 to 200 characters, white space around it removed."""
        return read_label_text(value)

    def label_texts(self, label: Label) -> tuple[str, ...]:
        """Give the label itself: exactly one."""
        return (label,) if isinstance(label, str) else label

    def targets(self, labels: Sequence[Label], *, index: Mapping[str, int]) -> Tensor:
        """Give int64 [rows]: the row of each label.

        Raises:
            LabelError: a label is not in the index.
        """
        import torch

        try:
            return torch.tensor([index[str(label)] for label in labels], dtype=torch.int64)
        except KeyError as error:
            raise LabelError(f"label: {error.args[0]!r} has no row in the head") from error

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Give softmax cross-entropy."""
        from torch.nn import functional

        return functional.cross_entropy(logits, targets)

    def probabilities(self, scores: Floats, *, scale: float) -> Floats:
        """Give softmax(scale * score): every row sums to 1."""
        if scores.shape[1] == 0:
            return scores.astype(np.float32)
        logits = scale * scores.astype(np.float64)
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True), dtype=np.float32)

    def decide(
        self, probabilities: Floats, *, labels: Sequence[str], threshold: float, top: int
    ) -> list[Decision]:
        """Say the most probable label of every row.

        Raises:
            LabelError: there is no label to say.
        """
        if not labels:
            raise LabelError("no label has been learned yet: nothing can be said")
        decisions = []
        for row in probabilities:
            best = rank(row, labels=labels, top=max(top, 1))
            decisions.append(Decision(best[0][0], best[0][1], tuple(best[:top])))
        return decisions

    def agreement(self, truth: Label, predicted: Label | None) -> float:
        """Give 1 for the very same label, else 0."""
        return float(truth == predicted)
