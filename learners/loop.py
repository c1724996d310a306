"""One task's learner: examples in, a better model out.

Owns the order of a step: what is new, what is held out, score, learn, report. The training
iteration itself is Avalanche's, in `learners.template`; how it learns is the strategy's. Must not
know Kafka, files, clocks or Prometheus.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from learners.batch import collate
from learners.checkpoint import LearnerState
from learners.holdout import is_held_out
from learners.ledger import Ledger
from learners.strategies.base import Consolidates, StepOutcome, Strategy
from learners.tasks.base import TaskKind
from learners.template import MicroBatch
from schemas import Example
from schemas.errors import CheckpointError
from schemas.fields import Label


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one call of `learn` did.

    Attributes:
        rows: examples that were learned.
        held_out: examples kept for the gate.
        repeated: examples that had been seen before, and were dropped.
        scored: learned examples that were scored before they were learned.
        agreement: sum of their scores, each 0 to 1.
        loss: of the gradient step; 0.0 without one.
        replayed: rows mixed in from memory.
        new_labels: labels seen for the first time.
    """

    rows: int = 0
    held_out: int = 0
    repeated: int = 0
    scored: int = 0
    agreement: float = 0.0
    loss: float = 0.0
    replayed: int = 0
    new_labels: int = 0


class Learner:
    """Learns one task from its examples, each exactly once.

    Args:
        task: name of the task.
        kind: of the task.
        strategy: how it learns.
        held_out_share: share of examples that never trains.
        ledger_rows: how many of the newest examples are remembered, to drop repeats.

    Attributes:
        listeners: told the examples of every micro-batch, repeats left out, after it was learned.
    """

    def __init__(
        self,
        task: str,
        *,
        kind: TaskKind,
        strategy: Strategy,
        held_out_share: float,
        ledger_rows: int = 131_072,
    ) -> None:
        self.task = task
        self.kind = kind
        self.strategy = strategy
        self.held_out_share = held_out_share
        self.ledger = Ledger(rows=ledger_rows)
        self.learned = 0
        self.listeners: list[Callable[[Sequence[Example]], None]] = []

    @property
    def labels(self) -> Sequence[str]:
        """Every label known so far, in order of appearance."""
        return self.strategy.head.labels

    def learn(self, examples: Sequence[Example]) -> StepReport:
        """Learn one micro-batch: test, then train.

        Args:
            examples: of this task, in stream order. Repeats of (id, revision) are dropped.

        Returns:
            What happened, with the scores from before anything was learned.
        """
        fresh = [e for e in examples if self.ledger.add(e.id, e.revision)]  # repeats end here
        repeated = len(examples) - len(fresh)
        if not fresh:
            return StepReport(repeated=repeated)
        known = len(self.labels)
        batch = self._batch(fresh)
        outcome = self.strategy.step(batch)  # forward, score, loss, backward, step, head
        held_out = sum(batch.held_out)
        scored, agreement = self._agreement(batch, outcome)
        self.learned += len(fresh) - held_out
        for listener in self.listeners:
            listener(fresh)
        return StepReport(
            rows=len(fresh) - held_out,
            held_out=held_out,
            repeated=repeated,
            scored=scored,
            agreement=agreement,
            loss=outcome.loss,
            replayed=outcome.replayed,
            new_labels=len(self.labels) - known,
        )

    def note_drift(self) -> None:
        """Hear that answers became worse: a consolidation point of the strategy comes sooner."""
        if isinstance(self.strategy, Consolidates):
            self.strategy.note_drift()

    def _batch(self, examples: Sequence[Example]) -> MicroBatch:
        texts = [self.kind.input_text(e.text, e.features) for e in examples]
        return MicroBatch(
            packed=collate(self.strategy.encoder.tokenize(texts)),
            labels=tuple(self.kind.check_label(e.label) for e in examples),
            previous=tuple(
                None if e.previous is None else self.kind.check_label(e.previous) for e in examples
            ),
            held_out=tuple(is_held_out(e.id, share=self.held_out_share) for e in examples),
            ids=tuple(e.id for e in examples),
            texts=tuple(texts),
        )

    def _agreement(self, batch: MicroBatch, outcome: StepOutcome) -> tuple[int, float]:
        if outcome.scores is None:
            return 0, 0.0
        rows = [
            i
            for i, held_out in enumerate(batch.held_out)
            if not held_out and batch.previous[i] is None
        ]
        decisions = self.decisions(outcome.scores[rows], labels=outcome.labels)
        total = sum(
            (
                self.kind.agreement(batch.labels[i], decision)
                for i, decision in zip(rows, decisions, strict=True)
            ),
            start=0.0,
        )
        return len(rows), total

    def decisions(self, scores: npt.NDArray[np.float32], *, labels: Sequence[str]) -> list[Label]:
        """Turn scores into labels as serving would."""
        head = self.strategy.head
        probabilities = self.kind.probabilities(scores, scale=head.scale)
        decided = self.kind.decide(probabilities, labels=labels, threshold=head.threshold, top=1)
        return [decision.label for decision in decided]

    def state(self) -> LearnerState:
        """Everything the next step depends on."""
        arrays, meta = self.strategy.state()
        return LearnerState(
            arrays={**arrays, "ledger": self.ledger.state()},
            meta={
                "strategy": self.strategy.name,
                "kind": self.kind.name,
                "learned": self.learned,
                "ledger_total": self.ledger.total,
                "state": meta,
            },
        )

    def restore(self, state: LearnerState) -> None:
        """Take up a state; the next step is bit-identical to the one that would have come.

        Raises:
            CheckpointError: the state is of another strategy or kind of task.
        """
        for name, mine in (("strategy", self.strategy.name), ("kind", self.kind.name)):
            theirs = state.meta.get(name, mine)
            if theirs != mine:
                raise CheckpointError(
                    f"task {self.task!r}: the checkpoint is of {name} {theirs!r}, the settings say "
                    f"{mine!r}: give this one its own data_dir, or move the checkpoints away to "
                    "learn the examples again from Kafka"
                )
        arrays: Mapping[str, Tensor] = state.arrays
        self.strategy.restore(arrays, state.meta["state"])
        self.ledger.restore(arrays["ledger"], total=state.meta["ledger_total"])
        self.learned = int(state.meta["learned"])


def together(reports: Sequence[StepReport]) -> StepReport:
    """Add up the reports of micro-batches; the loss is the mean over learned rows."""
    rows = sum(report.rows for report in reports)
    return StepReport(
        rows=rows,
        held_out=sum(report.held_out for report in reports),
        repeated=sum(report.repeated for report in reports),
        scored=sum(report.scored for report in reports),
        agreement=sum(report.agreement for report in reports),
        loss=sum(report.loss * report.rows for report in reports) / max(rows, 1),
        replayed=sum(report.replayed for report in reports),
        new_labels=sum(report.new_labels for report in reports),
    )
