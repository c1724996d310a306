"""What a kind of task is: everything in which kinds differ, as one interface.

Owns the Protocol and the shape of a decision; must not know any kind, head, Kafka or the loop. What
only checks labels, as `ingest` does, needs no torch: a kind imports it where it trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.errors import LabelError, MessageError
from schemas.fields import MAX_LABEL_CHARS, Label, Scalar

if TYPE_CHECKING:
    from torch import Tensor

HeadSolver = Literal["class-balanced", "least-squares"]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a model answers for one text.

    Attributes:
        label: the answer: a text, or a sorted tuple of texts for kinds with several.
        score: probability of the whole label, 0 to 1.
        top: the most probable single labels with their probabilities, best first.
        unknown: share of known inputs that looked more known, 0 to 1; None where the head cannot
            tell.
    """

    label: Label
    score: float
    top: tuple[tuple[str, float], ...]
    unknown: float | None = None


class TaskKind(Protocol):
    """A kind of task. Stateless: one instance serves every task of its kind.

    Attributes:
        name: as settings and releases write it.
        head_solver: which solve of the additive head fits the kind.
    """

    name: str
    head_solver: HeadSolver

    def input_text(self, text: str | None, features: Mapping[str, Scalar] | None) -> str:
        """Give the text a model reads.

        Raises:
            MessageError: the interaction has nothing this kind can read.
        """
        ...

    def check_label(self, value: object) -> Label:
        """Turn a label from outside into the canonical one.

        Raises:
            LabelError: the value is no label of this kind.
        """
        ...

    def label_texts(self, label: Label) -> tuple[str, ...]:
        """Give the single labels (rows of a head) that a label touches."""
        ...

    def targets(self, labels: Sequence[Label], *, index: Mapping[str, int]) -> Tensor:
        """Turn labels into what `loss` compares logits with.

        Args:
            labels: canonical labels.
            index: label text to its row in the head.

        Raises:
            LabelError: a label is not in the index.
        """
        ...

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Give the mean loss over rows: a float32 scalar; logits are float32 [rows, labels]."""
        ...

    def probabilities(self, scores: Floats, *, scale: float) -> Floats:
        """Turn a head's scores into probabilities: float32 [rows, labels] both."""
        ...

    def decide(
        self, probabilities: Floats, *, labels: Sequence[str], threshold: float, top: int
    ) -> list[Decision]:
        """Turn probabilities into one decision a row.

        Args:
            probabilities: float32 [rows, labels].
            labels: the text of every column.
            threshold: probability from which a label is said; ignored by kinds that say exactly
                one.
            top: how many single labels to list.
        """
        ...

    def agreement(self, truth: Label, predicted: Label | None) -> float:
        """Say how far a prediction agrees with the truth, 0 to 1; None never agrees."""
        ...


def read_text(text: str | None, *, kind: str) -> str:
    """Give the text of an interaction for kinds that read text alone.

    Raises:
        MessageError: there is no text, or only white space.
    """
    if text is None:
        raise MessageError(f"text: absent, and a {kind} task reads text")
    if not text.strip():
        raise MessageError(f"text: only white space, and a {kind} task reads text")
    return text


def read_label_text(value: object) -> str:
    """Give one label's text without white space around it.

    Raises:
        LabelError: not text, empty, or too long.
    """
    if not isinstance(value, str):
        raise LabelError(f"label: {value!r} is {type(value).__name__}, and text was expected")
    label = value.strip()
    if not label:
        raise LabelError(f"label: {value!r} is empty")
    if len(label) > MAX_LABEL_CHARS:
        raise LabelError(f"label: {len(label)} characters, at most {MAX_LABEL_CHARS} are allowed")
    return label


def rank(probabilities: Floats, *, labels: Sequence[str], top: int) -> list[tuple[str, float]]:
    """List the `top` most probable labels of one row ([labels]), best first; ties by column."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    return [(labels[column], float(probabilities[column])) for column in order]
