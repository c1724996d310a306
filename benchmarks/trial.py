"""One trial: a learner goes through a stream once, and is asked on the way.

Owns the order of a trial, which is the same for every strategy and scenario:

1. a batch of 32 rows is answered, then (where labels are not late) learned;
2. the newest classes are asked with a few test rows, until they are known;
3. after each task the learner rests, and every group that is due is tested;
4. at the end come calibration and unknown inputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.data import Row
from benchmarks.features import KeptFeatures
from benchmarks.measures import (
    area_under_curve,
    calibration_error,
    forgetting,
    memory_mb,
    middle,
)
from benchmarks.results import Result, Setup
from benchmarks.scenarios import Stream
from learners.library import Learner

BATCH_ROWS = 32
PROBE_ROWS = 10  # test rows a class that say whether it is known by now
KNOWN = 0.8

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Step:
    """A batch of a stream.

    Attributes:
        asked: rows that come without their labels.
        labelled: rows whose labels come.
        ends: number of the task that ends here, or None.
    """

    asked: Sequence[Row]
    labelled: Sequence[Row]
    ends: int | None


def steps(stream: Stream, batch_rows: int = BATCH_ROWS) -> Iterator[Step]:
    """Cut a stream into batches; labels that are late come with a later batch.

    Args:
        stream: of tasks.
        batch_rows: rows of a batch; a task's last may have fewer.

    Yields:
        Batches; the last also brings every label that is still on its way.
    """
    event, last = 0, len(stream.tasks) - 1
    waiting: list[tuple[int, int, Row]] = []  # event of the label, event of the text, row
    for number, task in enumerate(stream.tasks):
        for start in range(0, len(task.rows), batch_rows):
            batch = task.rows[start : start + batch_rows]
            ends = number if start + batch_rows >= len(task.rows) else None
            if not stream.delays:
                yield Step((), batch, ends)
                continue
            for row in batch:
                waiting.append((event + stream.delays[event], event, row))
                event += 1
            over = ends == last
            due = sorted(item for item in waiting if item[0] < event or over)
            waiting = [item for item in waiting if item[0] >= event and not over]
            yield Step(batch, [row for _, _, row in due], ends)


@dataclass
class Newcomers:
    """Counts the examples of each class until it is known.

    Attributes:
        probes: label to a few of its test rows.
        counts: label to examples learned.
        known: label to examples when it was known.
    """

    probes: dict[str, list[Row]]
    counts: dict[str, int] = field(default_factory=dict)
    known: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, stream: Stream) -> Newcomers:
        """Choose the first test rows of every class that is tested."""
        probes: dict[str, list[Row]] = {}
        for group in stream.groups:
            for row in group.rows:
                mine = probes.setdefault(row.label, [])
                if len(mine) < PROBE_ROWS:
                    mine.append(row)
        return cls(probes)

    def learned(self, rows: Sequence[Row], learner: Learner) -> None:
        """Count rows, and ask for the classes that came and are not known yet."""
        for row in rows:
            self.counts[row.label] = self.counts.get(row.label, 0) + 1
        fresh = sorted({row.label for row in rows} - self.known.keys() & self.probes.keys())
        asked = [row for label in fresh for row in self.probes.get(label, ())]
        if not asked:
            return
        answers = said(learner, [row.text for row in asked])
        right = {label: [0, 0] for label in fresh}
        for row, answer in zip(asked, answers, strict=True):
            right[row.label][0] += answer == row.label
            right[row.label][1] += 1
        for label, (hits, of) in right.items():
            if of and hits >= KNOWN * of:
                self.known[label] = self.counts[label]

    def rows_to_know(self) -> float | None:
        """Give the median over classes; None when most were never known."""
        return middle([self.known.get(label) for label in self.probes if label in self.counts])


def said(learner: Learner, texts: Sequence[str]) -> list[str]:
    """Answer as the learner stands, without bringing it up to date first."""
    scores = learner.loop.strategy.head.scores(learner.encoder.read(texts))
    if not scores.shape[1]:
        return [""] * len(texts)
    return [learner.labels[column] for column in scores.argmax(axis=1)]


class Trial:
    """A learner and what was measured of it so far.

    Args:
        stream: what it goes through.
        learner: fresh.
        kept: its encoder, where that is frozen and its features are kept.
    """

    def __init__(self, stream: Stream, learner: Learner, kept: KeptFeatures | None) -> None:
        self.stream = stream
        self.learner = learner
        self.kept = kept
        self.matrix: list[list[float | None]] = []
        self.curve: list[float] = []
        self.right = 0.0
        self.answered = 0
        self.learning_s = 0.0
        self.newcomers = Newcomers.of(stream)

    def run(self, setup: Setup, *, progress: Progress) -> Result:
        """Go through the stream once.

        Args:
            setup: goes into the result.
            progress: called with rows done and rows in all.

        Returns:
            What was measured.
        """
        started, done, total = time.perf_counter(), 0, len(self.stream.train)
        first_mb = 0.0
        for step in steps(self.stream, setup.batch_rows):
            self._ask(step.asked)  # 1
            self._learn(step.labelled)
            self.newcomers.learned(step.labelled, self.learner)  # 2
            done += len(step.asked) or len(step.labelled)
            first_mb = first_mb or memory_mb()
            progress(done, total)
            if step.ends is not None:
                self._test(step.ends)  # 3
        growth = memory_mb() - first_mb
        kept = self.kept
        return Result(
            setup=setup,
            tasks=[task.name for task in self.stream.tasks],
            groups=[group.name for group in self.stream.groups],
            matrix=self.matrix,
            curve=self.curve,
            prequential=self.right / max(self.answered, 1),
            final=self.curve[-1],
            average=sum(self.curve) / len(self.curve),
            forgetting=forgetting(self.matrix),
            rows_to_80=self.newcomers.rows_to_know(),
            calibration_error=self._calibration_error(),  # 4
            unknown_auroc=self._unknown(),
            strategy_ms=1e3 * self.learning_s / total,
            features_ms=1e3 * kept.computing_s / kept.computed if kept and kept.computed else None,
            seconds=time.perf_counter() - started,
            memory_growth_mb=growth,
        )

    def _ask(self, rows: Sequence[Row]) -> None:
        """Answer rows whose labels are late, as the learner stands."""
        if not rows:
            return
        answers = said(self.learner, [row.text for row in rows])
        self.right += sum(answer == row.label for answer, row in zip(answers, rows, strict=True))
        self.answered += len(rows)

    def _learn(self, rows: Sequence[Row]) -> None:
        """Learn rows; what the learner said of each before is in its report."""
        encoding_s = self.kept.seconds if self.kept else 0.0
        started = time.process_time()  # other programs on the machine do not count
        report = self.learner.learn([row.text for row in rows], [row.label for row in rows])
        self.learning_s += time.process_time() - started
        if self.kept:
            self.learning_s -= self.kept.seconds - encoding_s
        if not self.stream.delays:
            self.right += report.agreement
            self.answered += report.rows

    def _test(self, task: int) -> None:
        self.learner.rest()
        accuracies: list[float | None] = []
        right = rows = 0
        for group in self.stream.groups:
            if not group.first <= task <= group.last:
                accuracies.append(None)
                continue
            answers = self.learner.predict([row.text for row in group.rows], top=1)
            hits = sum(a.label == r.label for a, r in zip(answers, group.rows, strict=True))
            accuracies.append(hits / len(group.rows))
            right, rows = right + hits, rows + len(group.rows)
        self.matrix.append(accuracies)
        self.curve.append(right / max(rows, 1))

    def _final_rows(self) -> list[Row]:
        last = len(self.stream.tasks) - 1
        return [r for g in self.stream.groups if g.first <= last <= g.last for r in g.rows]

    def _calibration_error(self) -> float:
        rows = self._final_rows()
        decisions = self.learner.predict([row.text for row in rows], top=1)
        right = [d.label == row.label for d, row in zip(decisions, rows, strict=True)]
        return calibration_error(np.array([d.score for d in decisions]), np.array(right))

    def _unknown(self) -> float | None:
        if not self.stream.unknown:
            return None
        known = self._unknown_shares(self._final_rows())
        unknown = self._unknown_shares(self.stream.unknown)
        return None if known is None or unknown is None else area_under_curve(known, unknown)

    def _unknown_shares(self, rows: Sequence[Row]) -> NDArray[np.float32] | None:
        features = self.learner.encoder.read([row.text for row in rows])
        head = self.learner.loop.strategy.head
        return head.unknown(features, head.scores(features))
