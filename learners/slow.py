"""The slow half of a learner: one consolidation beside the fast half, without losing its work.

Owns what is read from memory, how examples that come meanwhile are caught up with, and the
adoption; must not know when it is time, threads, Kafka or Redis. The numbered steps:

1. from now on, note what the fast half learns;
2. read all that memory holds of what is in the sums;
3. fine-tune a copy of the pretrained encoder on it (`learners.consolidation`), or on what rules for
   the data make of it (`learners.curation`);
4. make the sums anew for the new encoder, of memory's own rows, and let them listen to the
   classifier that was trained along;
5. catch up with what was noted;
6. let the gate decide; the fast half goes on with the new encoder, or as if nothing had been.

Steps 2 to 5 may run in another thread than the fast half; 1 and 6 are for its own.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from learners.consolidation import (
    BLEND_PULL,
    USUAL_BLEND,
    Consolidation,
    ConsolidationConfig,
)
from learners.curation import Curation, CurationReport, DataRules, Source
from learners.gate import GateRules, judge
from learners.holdout import is_held_out
from learners.loop import Learner
from learners.rehearsal import ReplayRow
from learners.released import decide_by
from learners.strategies.two_speed import TwoSpeed
from learners.tasks import Decision
from schemas import Example, GateReport
from schemas.fields import Label

CATCH_UP_ROWS = 256  # fewer are left to the fast half's own thread
OLDER_REVISIONS = 8  # of such a row, that may be on their way too
TRIED_ROWS = 8_192  # of memory, evenly spread, that tell how far the encoder should go
NEW_ROWS = 65_536  # newest rows of memory, of which some may not have reached the learner

Row = TypeVar("Row")
Progress = Callable[[int, int], None]
"""Called after every step with the steps done and the steps in all."""
Texts = Callable[[], Sequence[str]]
"""Gives texts without labels; called once a run, in the run's thread, where something needs them.
"""


class Memory(Protocol):
    """Where rows are kept."""

    def rows(self) -> Iterator[ReplayRow]:
        """Give all rows that train, oldest first."""
        ...

    def held_out(self, rows: int) -> Sequence[ReplayRow]:
        """Give up to so many held-out rows."""
        ...


class DroppedError(Exception):
    """The work was given up: somebody asked for it, or a label changed its meaning meanwhile."""


@dataclass(slots=True)
class _Summed:
    """A row that is in the new sums."""

    revision: int
    label: Label


@dataclass(frozen=True, slots=True)
class _Probe:
    """A held-out row that came meanwhile."""

    id: str
    text: str
    label: Label


class SlowHalf:
    """One consolidation of one learner.

    Args:
        learner: its strategy is `two-speed`; step 1 begins now.
        memory: of the same task.
        config: how the encoder trains.
        rules: of the gate.
        held_out_rows: held-out rows that the new head chooses and calibrates itself on, and that
            decide.
        curation: what is taken of the rows to train the encoder on; by default all, as they are.
        unlabelled: where texts without labels come from.

    Attributes:
        learner: of the fast half.
        done: steps of the fine-tuning so far.
        steps: in all; 0 until memory was read.
        curated: what became of the rows that were read; None until then.

    Raises:
        ValueError: the learner has another strategy.
    """

    def __init__(
        self,
        learner: Learner,
        memory: Memory,
        *,
        config: ConsolidationConfig,
        rules: GateRules,
        held_out_rows: int,
        curation: Curation | None = None,
        unlabelled: Texts = tuple,
    ) -> None:
        if not isinstance(learner.strategy, TwoSpeed):
            raise ValueError(f"strategy {learner.strategy.name!r} trains its encoder anyway")
        self.learner = learner
        self.done = 0
        self.steps = 0
        self.curated: CurationReport | None = None
        self._champion = learner.strategy
        self._memory = memory
        self._config = config
        self._rules = rules
        self._held_out_rows = held_out_rows
        self._curation = curation or Curation(DataRules())
        self._unlabelled = unlabelled
        self._renewed_rows = self._champion.renewed_rows()
        self._drifted = self._champion.drifted
        self._stopping = threading.Event()
        self._noted: deque[Example] = deque()
        self._summed: dict[str, _Summed] = {}
        self._newest: list[ReplayRow] = []
        self._challenger: TwoSpeed | None = None
        self._report: GateReport | None = None
        learner.listeners.append(self._note)  # 1

    def _note(self, examples: Sequence[Example]) -> None:
        self._noted.extend(examples)

    def run(self, progress: Progress | None = None) -> None:
        """Do steps 2 to 5.

        An empty memory is a `ValueError`; after `stop`, a `DroppedError` comes soon.

        Args:
            progress: is told.
        """
        rows = summed_rows(list(self._memory.rows()), self._renewed_rows)  # 2
        self._summed = {row.id: _Summed(row.revision, row.label) for row in rows}
        self._newest = rows[-NEW_ROWS:]
        held_out = shown_rows(
            self._memory.held_out(self._held_out_rows),
            self._renewed_rows,
            share=self.learner.held_out_share,
        )
        work = self._work(rows, held_out)  # 3
        self.steps = work.steps
        while work.done < work.steps:
            self._check()
            work.step()
            self.done = work.done
            if progress is not None:
                progress(work.done, work.steps)
        self._challenger = self._made(work, rows, held_out)  # 4
        left = math.inf  # 5: where the fast half is faster, what is left does not become less
        while CATCH_UP_ROWS < (noted := len(self._noted)) < left:
            left = noted
            self._catch_up()
        self._judge(held_out)

    def _made(
        self, work: Consolidation, rows: Sequence[ReplayRow], held_out: Sequence[ReplayRow]
    ) -> TwoSpeed:
        """Do step 4, for the blend by which held-out rows are likeliest, or one near the usual."""

        def made(blend: float, some: Sequence[ReplayRow]) -> TwoSpeed:
            return self._champion.on_encoder(
                work.encoder(blend), self._pairs(some), held_out, classifier=work.classifier()
            )

        tried = thinned(rows, TRIED_ROWS)
        first, *others = work.blends
        best, taken = made(first, tried), first
        least = _doubt(best, taken)
        for blend in others if least < math.inf else ():
            other = made(blend, tried)
            doubt = _doubt(other, blend)
            if doubt < least:
                best, taken, least = other, blend, doubt
            del other  # its sums are large
        return best if len(tried) == len(rows) else made(taken, rows)

    def _work(self, rows: Sequence[ReplayRow], held_out: Sequence[ReplayRow]) -> Consolidation:
        """Begin step 3 on what the rules make of the rows."""
        needed = self._curation.rules.pseudo_labels or self._config.adapt_epochs > 0
        source = Source(
            self._champion,
            self.learner.kind,
            unlabelled=self._unlabelled() if needed else (),
            apart=[row.text for row in held_out],
            check=self._check,
        )
        curated = self._curation.curate(rows, source)
        self.curated = curated.report
        return Consolidation(
            self._champion.pretrained,
            self.learner.kind,
            curated.texts,
            curated.labels,
            config=self._config,
            unlabelled=source.unlabelled,
        )

    def finish(self) -> GateReport:
        """Do the rest of step 5, and step 6: the learner may have another strategy after it.

        Returns:
            The gate's figures: `accepted` says whether the new encoder is in use now.

        Raises:
            DroppedError: a label changed its meaning meanwhile: the new sums are of the old one.
        """
        self.close()
        challenger = self._challenger
        assert challenger is not None
        assert self._report is not None
        if self._champion.drifted != self._drifted or self.learner.strategy is not self._champion:
            raise DroppedError("a label changed its meaning while the encoder was trained")
        if not self._report.accepted:
            return self._report
        self._catch_up()
        challenger.settle()
        challenger.summed.made_of(self._summed)  # what memory had given up is not in the sums
        ledger = self.learner.ledger
        for row in self._newest:  # what memory had before the learner: not to be learned twice
            for revision in range(max(1, row.revision - OLDER_REVISIONS), row.revision + 1):
                ledger.add(row.id, revision)
        self.learner.strategy = challenger
        return self._report

    def stop(self) -> None:
        """Ask `run`, in whatever thread it is, to end soon."""
        self._stopping.set()

    def close(self) -> None:
        """Stop noting what the learner learns."""
        if self._note in self.learner.listeners:
            self.learner.listeners.remove(self._note)

    def _check(self) -> None:
        if self._stopping.is_set():
            raise DroppedError("stopped")

    def _pairs(self, rows: Iterable[ReplayRow]) -> Iterator[tuple[str, Label]]:
        for row in rows:
            self._check()
            yield row.text, row.label

    def _catch_up(self) -> None:
        """Give the new sums what was noted so far, and is not in them."""
        challenger = self._challenger
        assert challenger is not None
        added: list[tuple[str, Label]] = []
        taken: list[tuple[str, Label]] = []
        probes: list[_Probe] = []
        for example in [self._noted.popleft() for _ in range(len(self._noted))]:
            text = self.learner.kind.input_text(example.text, example.features)
            label = self.learner.kind.check_label(example.label)
            if is_held_out(example.id, share=self.learner.held_out_share):
                probes.append(_Probe(example.id, text, label))
                continue
            before = self._summed.get(example.id)
            if before is not None and before.revision >= example.revision:
                continue  # memory had it already
            if before is not None:
                taken.append((text, before.label))
            added.append((text, label))
            self._summed[example.id] = _Summed(example.revision, label)
        challenger.add(added)  # first, so that what is taken out again is there
        challenger.add(taken, sign=-1)
        challenger.probe(probes)

    def _judge(self, held_out: Sequence[ReplayRow]) -> None:
        challenger = self._challenger
        assert challenger is not None
        self._report = judge(
            truths=[row.label for row in held_out],
            challenger=self._decided(challenger, held_out),
            champion=self._decided(self._champion, held_out),
            kind=self.learner.kind,
            labels=list(challenger.head.labels),
            rules=self._rules,
        )

    def _decided(self, strategy: TwoSpeed, rows: Sequence[ReplayRow]) -> list[Decision]:
        if not rows:
            return []
        head = strategy.judged_head
        features = strategy.encoder.read([row.text for row in rows])
        return decide_by(head, features, kind=self.learner.kind, top=1)


def _doubt(made: TwoSpeed, blend: float) -> float:
    """Say how unlikely a blend is, in nats, up to a constant; infinite with too few held-out rows.

    Of a few held-out rows the likeliest is mostly the luckiest: those that are far from the usual
    one must be likelier by more.
    """
    losses = made.additive_head.losses()
    if losses is None:
        return math.inf
    return float(losses.sum()) + BLEND_PULL * (blend - USUAL_BLEND) ** 2


def summed_rows(rows: Sequence[ReplayRow], renewed_rows: Mapping[str, int]) -> list[ReplayRow]:
    """Leave out held-out rows, and rows from before their label's meaning changed.

    Args:
        rows: of a memory, oldest first.
        renewed_rows: label to rows in the sums, of labels whose meaning changed: its newest.

    Returns:
        The others, oldest first.
    """
    return _newest([row for row in rows if not row.held_out], renewed_rows)


def shown_rows(
    rows: Sequence[ReplayRow], renewed_rows: Mapping[str, int], *, share: float
) -> list[ReplayRow]:
    """Leave out held-out rows that are likely from before their label's meaning changed.

    Args:
        rows: held-out ones, oldest first.
        renewed_rows: label to rows in the sums, of labels whose meaning changed: so many times
            `share / (1 - share)` are expected to have been held out since.
        share: of rows that are held out, 0 to below 1.

    Returns:
        The others, oldest first.
    """
    since = {label: int(n * share / (1.0 - share)) for label, n in renewed_rows.items()}
    return _newest(rows, since)


def thinned(rows: Sequence[Row], most: int) -> Sequence[Row]:
    """Keep so many rows at most, evenly spread and in order.

    Example:
        >>> thinned(range(7), 3)
        [0, 2, 4]
    """
    if len(rows) <= most:
        return rows
    return [rows[place * len(rows) // most] for place in range(most)]


def _newest(rows: Sequence[ReplayRow], most: Mapping[str, int]) -> list[ReplayRow]:
    """Keep the newest rows of labels that have a bound, and all of the others."""
    left, kept = dict(most), []
    for row in reversed(rows):
        if isinstance(row.label, str) and row.label in left:
            left[row.label] -= 1
            if left[row.label] < 0:
                continue
        kept.append(row)
    return kept[::-1]
