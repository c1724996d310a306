"""Interactions to predictions: features once per encoder and text, a head per task.

Owns what a prediction says, what of it may be remembered, and that one bad row harms no other; must
not know topics, batching in time or how releases change.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from learners.planning import plan
from schemas import Interaction, Prediction, Scored
from schemas.errors import MessageError
from serving.recent import Recent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from learners.model import Encoder
    from learners.released import ReleasedModel
    from learners.tasks import Decision, TaskKind

log = logging.getLogger(__name__)

MAX_TOP = 16  # what the contract holds
MAX_TOKENS = 8_192
REMEMBERED = 4_096

# A model, texts, and their features by its encoder, float32 [texts, width].
Computed = Callable[["ReleasedModel", Sequence[str], "NDArray[np.float32]"], None]


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
class Question:
    """An interaction as a model reads it.

    Attributes:
        asked: the interaction and when it came.
        text: what the model reads; None where it cannot be answered: an unknown task, or nothing
            that the task's kind can read.
        encoder: whose tokenizer made the tokens; None where the task has no release.
        tokens: ids, special ones included; empty where there is no encoder.
    """

    asked: Asked
    text: str | None = None
    encoder: Encoder | None = None
    tokens: tuple[int, ...] = ()


class Predictor:
    """Answers batches. `prepare` and `remembered` may run in any thread, `decide` in one at a time.

    Args:
        kinds: the kind of each task of this deployment.
        top: labels named in a prediction, 1 to 16.
        now: the wall clock.
        monotonic_s: the clock of durations, seconds.
        max_tokens: padded tokens of one forward pass, at most; at least 1. A longer text goes
            alone. The encoder's own bound holds too.
        remembered: texts whose features, and texts whose answers by a release, are kept in case
            they come again; 0 keeps none.
        computed: told the features that were computed, of texts that may be learned from, and a
            model whose encoder did; must return at once.

    Raises:
        ValueError: top or remembered is out of range.
    """

    def __init__(
        self,
        kinds: Mapping[str, TaskKind],
        *,
        top: int,
        now: Callable[[], datetime],
        monotonic_s: Callable[[], float],
        max_tokens: int = MAX_TOKENS,
        remembered: int = REMEMBERED,
        computed: Computed | None = None,
    ) -> None:
        if not 1 <= top <= MAX_TOP:
            raise ValueError(f"top is {top}: it must be 1 to {MAX_TOP}")
        self._kinds = kinds
        self._top = top
        self._now = now
        self._monotonic_s = monotonic_s
        self._max_tokens = max_tokens
        self._computed = computed
        self._answers: Recent[tuple[str, str, str], Decision] = Recent(remembered)
        self._features: Recent[tuple[str, tuple[int, ...]], NDArray[np.float32]] = Recent(
            remembered
        )

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
        return self.decide(self.prepare(batch, models), models)

    def prepare(
        self, batch: Sequence[Asked], models: Mapping[str, ReleasedModel]
    ) -> list[Question]:
        """Do all that needs no model's weights: read the texts and cut them into tokens.

        Args:
            batch: any tasks, in any order.
            models: whose tokenizers are used; `decide` may be given later ones.
        """
        texts = [self._text(asked.interaction) for asked in batch]
        by_encoder: dict[int, list[int]] = {}
        for place, asked in enumerate(batch):
            model = models.get(asked.interaction.task)
            if model is not None and texts[place] is not None:
                by_encoder.setdefault(id(model.encoder), []).append(place)
        questions = [Question(asked, text) for asked, text in zip(batch, texts, strict=True)]
        for places in by_encoder.values():
            encoder = models[batch[places[0]].interaction.task].encoder
            tokens = encoder.tokenize([texts[place] or "" for place in places])
            for place, ids in zip(places, tokens, strict=True):
                questions[place] = Question(batch[place], texts[place], encoder, tuple(ids))
        return questions

    def remembered(self, asked: Asked, models: Mapping[str, ReleasedModel]) -> Prediction | None:
        """Give an answer that needs no computing: the same text was answered by this release."""
        model = models.get(asked.interaction.task)
        text = self._text(asked.interaction)
        if model is None or text is None:
            return None
        decision = self._answers.get(_key(model, text))
        return None if decision is None else self._said(asked, model, decision)

    def decide(
        self, questions: Sequence[Question], models: Mapping[str, ReleasedModel]
    ) -> list[Prediction | None]:
        """Answer what `prepare` gave; see `answer`."""
        answers: list[Prediction | None] = [None] * len(questions)
        by_encoder: dict[int, list[int]] = {}  # by identity: tasks that share one hold the same
        for place, question in enumerate(questions):
            if question.text is None:
                continue
            model = models.get(question.asked.interaction.task)
            if model is None:
                answers[place] = self._silent(question.asked)
            else:
                by_encoder.setdefault(id(model.encoder), []).append(place)
        for places in by_encoder.values():
            for place, model, decision in self._decided(questions, places, models):
                answers[place] = self._said(questions[place].asked, model, decision)
        return answers

    def _text(self, interaction: Interaction) -> str | None:
        kind = self._kinds.get(interaction.task)
        if kind is None:
            return None
        try:
            return kind.input_text(interaction.text, interaction.features)
        except MessageError:
            return None

    def _decided(
        self,
        questions: Sequence[Question],
        places: Sequence[int],
        models: Mapping[str, ReleasedModel],
    ) -> list[tuple[int, ReleasedModel, Decision]]:
        """Run one encoder on what is new of its rows, then each task's head on its own rows."""
        decided: list[tuple[int, ReleasedModel, Decision]] = []
        by_task: dict[str, list[int]] = {}
        for place in places:
            model = models[questions[place].asked.interaction.task]
            known = self._answers.get(_key(model, questions[place].text or ""))
            if known is not None:
                decided.append((place, model, known))
            else:
                by_task.setdefault(questions[place].asked.interaction.task, []).append(place)
        fresh = [place for mine in by_task.values() for place in mine]
        if not fresh:
            return decided
        model = models[questions[fresh[0]].asked.interaction.task]
        rows = iter(self._encode(model, [questions[place] for place in fresh]))
        for task, mine in by_task.items():
            model = models[task]
            features = np.stack([next(rows) for _ in mine])
            for place, decision in zip(mine, model.decide(features, top=self._top), strict=True):
                self._answers.put(_key(model, questions[place].text or ""), decision)
                decided.append((place, model, decision))
        return decided

    def _encode(
        self, model: ReleasedModel, questions: Sequence[Question]
    ) -> list[NDArray[np.float32]]:
        """Read every question, float32 [row_width] each; the same text only once."""
        encoder = model.encoder
        if any(question.encoder is not encoder for question in questions):  # swapped in between
            ids = encoder.tokenize([question.text or "" for question in questions])
            tokens = [tuple(row) for row in ids]
        else:
            tokens = [question.tokens for question in questions]
        space = encoder.space_id
        found = {row: self._features.get((space, row)) for row in tokens}
        missing = [row for row, features in found.items() if features is None]
        for rows in self._passes([len(row) for row in missing]):
            encoded = encoder.read_tokens([missing[row] for row in rows])
            for row, features in zip(rows, encoded, strict=True):
                found[missing[row]] = features
                self._features.put((space, missing[row]), features.copy())
        if self._computed is not None and missing:
            self._offer(model, questions, tokens, found, set(missing))
        return [_present(found[row]) for row in tokens]

    def _passes(self, lengths: Sequence[int]) -> list[list[int]]:
        """Give what the encoder gets at once: it parts that again, as it suits its engine."""
        if len(lengths) * max(lengths, default=0) <= self._max_tokens:
            return [list(range(len(lengths)))] if lengths else []
        return plan(lengths, len(lengths), self._max_tokens)

    def _offer(
        self,
        model: ReleasedModel,
        questions: Sequence[Question],
        tokens: Sequence[tuple[int, ...]],
        found: Mapping[tuple[int, ...], NDArray[np.float32] | None],
        computed: set[tuple[int, ...]],
    ) -> None:
        """Hand on what was computed of texts that may be learned from."""
        texts = {
            question.text or "": row
            for question, row in zip(questions, tokens, strict=True)
            if row in computed and question.asked.interaction.consent
        }
        if texts and self._computed is not None:
            features = np.stack([_present(found[row]) for row in texts.values()])[
                :, : model.encoder.width
            ]
            self._computed(model, list(texts), features)

    def _silent(self, asked: Asked) -> Prediction:
        return Prediction(
            interaction=asked.interaction.id,
            task=asked.interaction.task,
            time=self._now(),
            status="no-release",
            latency_s=max(0.0, self._monotonic_s() - asked.arrived_s),
        )

    def _said(self, asked: Asked, model: ReleasedModel, decision: Decision) -> Prediction:
        now = self._now()
        return Prediction(
            interaction=asked.interaction.id,
            task=asked.interaction.task,
            time=now,
            status="ok",
            label=decision.label,
            score=_unit(decision.score),
            top=tuple(Scored(label=label, score=_unit(score)) for label, score in decision.top),
            unknown=None if decision.unknown is None else _unit(decision.unknown),
            release=model.release.version,
            # Another machine's clock made the release: never let its skew show as less than 0.
            release_age_s=max(0.0, (now - model.release.time).total_seconds()),
            latency_s=max(0.0, self._monotonic_s() - asked.arrived_s),
        )


def _key(model: ReleasedModel, text: str) -> tuple[str, str, str]:
    return model.release.task, model.release.version, text


def _present(features: NDArray[np.float32] | None) -> NDArray[np.float32]:
    assert features is not None  # every row was found or encoded
    return features


def _unit(score: float) -> float:
    """Keep float32 noise around 0 and 1 inside the contract's bounds."""
    return min(1.0, max(0.0, float(score)))
