"""The exam after the stream: the final release on held-back rows, and what was forgotten.

Owns the arithmetic of forgetting and the asking; must not know Kafka or terminals. Forgetting is
the mean over waves of the best accuracy that any wave-end release had on a wave's rows, less the
final release's (Chaudhry et al., "Riemannian walk for incremental learning", ECCV 2018, with the
final release among those compared, so that it is never negative).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from learners.released import ReleasedModel
from learners.tasks.base import TaskKind
from mindstream.demo.plan import ExamRow
from schemas.fields import Label

CHUNK_ROWS = 256  # encoded between two words about the progress
SAMPLE_ROWS = 300  # a wave, for releases with an encoder of their own: each must encode anew


@dataclass(frozen=True, slots=True)
class ExamResult:
    """What the exam found.

    Attributes:
        accuracy: of the final release over all rows, 0 to 1.
        forgetting: 0 to 1.
        final: accuracy of the final release by wave; None for a wave without rows.
        best: best accuracy by wave at any wave end, the end of the stream included.
        rows: asked of the final release.
    """

    accuracy: float
    forgetting: float
    final: tuple[float | None, ...]
    best: tuple[float | None, ...]
    rows: int


def forgetting(
    ends: Sequence[Sequence[float | None]], final: Sequence[float | None]
) -> tuple[float, list[float | None]]:
    """Compute forgetting.

    Args:
        ends: for each wave end, accuracy by wave; None for what was not asked.
        final: accuracy by wave of the final release.

    Returns:
        Mean forgetting over the waves that have rows, and the best accuracy of each.

    Examples:
        >>> forgetting([[0.9, None], [0.5, 0.8]], [0.6, 0.8])[0] == (0.9 - 0.6) / 2
        True
    """
    best: list[float | None] = []
    lost: list[float] = []
    for wave, last in enumerate(final):
        if last is None:
            best.append(None)
            continue
        seen = [end[wave] for end in ends if end[wave] is not None]
        top = max([last, *(value for value in seen if value is not None)])
        best.append(top)
        lost.append(top - last)
    return (sum(lost) / len(lost) if lost else 0.0), best


def by_wave(
    rows: Sequence[ExamRow], answers: Sequence[Label | None], *, kind: TaskKind, waves: int
) -> list[float | None]:
    """Score answers by wave; None for a wave without rows."""
    scores: list[list[float]] = [[] for _ in range(waves)]
    for row, answer in zip(rows, answers, strict=True):
        scores[row.wave].append(kind.agreement(row.label, answer))
    return [sum(found) / len(found) if found else None for found in scores]


class Exam:
    """Asks releases about held-back rows; texts are encoded once for each encoder.

    Args:
        rows: held back.
        waves: number of waves.
        kind: scores answers.
        say: told how far it is.
    """

    def __init__(
        self, rows: Sequence[ExamRow], *, waves: int, kind: TaskKind, say: Callable[[str], None]
    ) -> None:
        self.rows = tuple(rows)
        self.waves = waves
        self.kind = kind
        self._say = say
        self._sample = _sample(self.rows, waves)
        self._known: dict[str, npt.NDArray[np.float32]] = {}

    def take(
        self, final: ReleasedModel, ends: Mapping[int, Callable[[], ReleasedModel]]
    ) -> ExamResult:
        """Ask the final release everything, and each wave's the rows of the waves so far.

        Args:
            final: the release that serves at the end.
            ends: wave to what loads the release at its end; one is held at a time.
        """
        answers = self._answers(final, list(range(len(self.rows))), "final release")
        last = by_wave(self.rows, answers, kind=self.kind, waves=self.waves)
        table: list[list[float | None]] = []
        for wave, load in sorted(ends.items(), key=lambda end: end[0]):
            model = load()
            own_encoder = model.encoder.space_id != final.encoder.space_id
            asked = [
                number
                for number in (self._sample if own_encoder else range(len(self.rows)))
                if self.rows[number].wave <= wave
            ]
            said = self._answers(model, asked, f"release at the end of wave {wave + 1}")
            rows = [self.rows[number] for number in asked]
            table.append(by_wave(rows, said, kind=self.kind, waves=self.waves))
        lost, best = forgetting(table, last)
        scores = [self.kind.agreement(r.label, a) for r, a in zip(self.rows, answers, strict=True)]
        return ExamResult(
            accuracy=sum(scores) / len(scores) if scores else 0.0,
            forgetting=lost,
            final=tuple(last),
            best=tuple(best),
            rows=len(self.rows),
        )

    def _answers(self, model: ReleasedModel, asked: list[int], who: str) -> list[Label | None]:
        features = self._features(model, asked, who)
        return [decision.label for decision in model.decide(features, top=1)] if asked else []

    def _features(
        self, model: ReleasedModel, asked: list[int], who: str
    ) -> npt.NDArray[np.float32]:
        """Give float32 [asked, row_width]; those of all rows are kept."""
        space = model.encoder.space_id
        if space in self._known:
            return self._known[space][asked]
        parts = []
        for start in range(0, len(asked), CHUNK_ROWS):
            self._say(f"exam: the {who} answers {start:,} of {len(asked):,}")
            texts = [self.rows[number].text for number in asked[start : start + CHUNK_ROWS]]
            parts.append(model.encoder.read(texts))
        empty = np.zeros((0, model.encoder.row_width), dtype=np.float32)
        features = np.concatenate(parts) if parts else empty
        if len(asked) == len(self.rows):
            self._known[space] = features
        return features


def _sample(rows: Sequence[ExamRow], waves: int) -> list[int]:
    """Take up to so many rows of each wave, evenly."""
    taken: list[int] = []
    for wave in range(waves):
        mine = [number for number, row in enumerate(rows) if row.wave == wave]
        count = min(SAMPLE_ROWS, len(mine))
        taken += [mine[place * len(mine) // count] for place in range(count)]
    return taken
