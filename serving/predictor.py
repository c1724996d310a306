"""Interactions to predictions: features once per encoder, a head per task.

Owns what a prediction says and that one bad row harms no other; must not know topics, batching in
time or how releases change.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from schemas import Interaction, Prediction, Scored
from schemas.errors import MessageError
from serving.batcher import plan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from learners.model import Encoder
    from learners.released import ReleasedModel
    from learners.tasks import Decision, TaskKind

log = logging.getLogger(__name__)

MAX_TOP = 16  # what the contract holds
MAX_TOKENS = 8_192


@dataclass(frozen=True, slots=True)
class Asked:
    """An interaction that wants an answer.

    Attributes:
        interaction: valid by its contract.
        arrived_s: when it reached this server, on the predictor's monotonic clock, seconds.
    """

    interaction: Interaction
    arrived_s: float


@dataclass(frozen=True, slots=True)
class _Row:
    place: int
    text: str
    model: ReleasedModel


class Predictor:
    """Answers batches. Stateless but for its settings; safe on any one thread at a time.

    Args:
        kinds: the kind of each task of this deployment.
        top: labels named in a prediction, 1 to 16.
        now: the wall clock.
        monotonic_s: the clock of durations, seconds.
        max_tokens: padded tokens of one forward pass, at most; at least 1. A longer text goes
            alone. The encoder's own bound holds too.

    Raises:
        ValueError: top is out of range.
    """

    def __init__(
        self,
        kinds: Mapping[str, TaskKind],
        *,
        top: int,
        now: Callable[[], datetime],
        monotonic_s: Callable[[], float],
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        if not 1 <= top <= MAX_TOP:
            raise ValueError(f"top is {top}: it must be 1 to {MAX_TOP}")
        self._kinds = kinds
        self._top = top
        self._now = now
        self._monotonic_s = monotonic_s
        self._max_tokens = max_tokens

    def answer(
        self, batch: Sequence[Asked], models: Mapping[str, ReleasedModel]
    ) -> list[Prediction | None]:
        """Answer a batch, each row by exactly one release.

        Args:
            batch: any tasks, in any order.
            models: one snapshot of what serves, by task.

        Returns:
            One answer a row: `no-release` where the task has no model yet, None where the
            interaction cannot be answered at all (unknown task, nothing its kind can read).
        """
        rows, silent = self._rows(batch, models)
        decisions = self._decide(rows)
        now, now_s = self._now(), self._monotonic_s()
        answers: list[Prediction | None] = [None] * len(batch)
        for place in silent:
            asked = batch[place]
            answers[place] = Prediction(
                interaction=asked.interaction.id,
                task=asked.interaction.task,
                time=now,
                status="no-release",
                latency_s=max(0.0, now_s - asked.arrived_s),
            )
        for row, decision in decisions:
            asked, release = batch[row.place], row.model.release
            answers[row.place] = Prediction(
                interaction=asked.interaction.id,
                task=asked.interaction.task,
                time=now,
                status="ok",
                label=decision.label,
                score=_unit(decision.score),
                top=tuple(Scored(label=label, score=_unit(score)) for label, score in decision.top),
                unknown=None if decision.unknown is None else _unit(decision.unknown),
                release=release.version,
                # Another machine's clock made the release: never let its skew show as less than 0.
                release_age_s=max(0.0, (now - release.time).total_seconds()),
                latency_s=max(0.0, now_s - asked.arrived_s),
            )
        return answers

    def _rows(
        self, batch: Sequence[Asked], models: Mapping[str, ReleasedModel]
    ) -> tuple[list[_Row], list[int]]:
        """Split a batch into rows to compute and places of tasks without a release."""
        rows: list[_Row] = []
        silent: list[int] = []
        for place, asked in enumerate(batch):
            interaction = asked.interaction
            kind = self._kinds.get(interaction.task)
            if kind is None:
                continue
            try:
                text = kind.input_text(interaction.text, interaction.features)
            except MessageError:
                continue
            model = models.get(interaction.task)
            if model is None:
                silent.append(place)
            else:
                rows.append(_Row(place, text, model))
        return rows, silent

    def _decide(self, rows: list[_Row]) -> list[tuple[_Row, Decision]]:
        """Run each encoder on all its rows at once, then each task's head on its own rows."""
        by_encoder: dict[int, list[_Row]] = {}  # by identity: tasks that share one hold the same
        for row in rows:
            by_encoder.setdefault(id(row.model.encoder), []).append(row)
        decided: list[tuple[_Row, Decision]] = []
        for mine in by_encoder.values():
            encoder = mine[0].model.encoder
            features = self._features(encoder, [row.text for row in mine])
            by_model: dict[int, list[int]] = {}
            for index, row in enumerate(mine):
                by_model.setdefault(id(row.model), []).append(index)
            for indices in by_model.values():
                model = mine[indices[0]].model
                decisions = model.decide(features[indices], top=self._top)
                decided += zip([mine[index] for index in indices], decisions, strict=True)
        return decided

    def _features(self, encoder: Encoder, texts: list[str]) -> NDArray[np.float32]:
        """Encode texts in passes of at most `max_tokens`: float32 [rows, width], input order."""
        tokens = encoder.tokenize(texts)
        features = np.empty((len(texts), encoder.width), dtype=np.float32)
        for rows in plan([len(ids) for ids in tokens], len(texts), self._max_tokens):
            features[rows] = encoder.encode_tokens([tokens[row] for row in rows])
        return features


def _unit(score: float) -> float:
    """Keep float32 noise around 0 and 1 inside the contract's bounds."""
    return min(1.0, max(0.0, float(score)))
