"""The learner as a library: texts and labels in, decisions out, in one process.

Owns what a notebook needs around `learners.loop.Learner`, which is the very object that the learn
role drives: an encoder, a memory in this process, ids, checked input, and a folder to be saved in.
Must not know Kafka, Redis or settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from learners import loop
from learners.arguments import check_arguments, checked_name, checked_text, options_of
from learners.checkpoint import CheckpointStore, LearnerState
from learners.consolidation import ConsolidationConfig
from learners.curation import Curation, CurationReport, DataRules
from learners.gate import ONE_LOOK, GateRules
from learners.holdout import is_held_out
from learners.localmemory import LocalMemory
from learners.loop import StepReport, together
from learners.model import DEFAULT_BACKBONE, Encoder
from learners.rehearsal import ReplayRow
from learners.released import TOP, decide_by
from learners.slow import SlowHalf, summed_rows
from learners.strategies import STRATEGIES, StrategyConfig
from learners.strategies.base import Rests
from learners.strategies.two_speed import TwoSpeed
from learners.tasks import Decision, task_kind
from schemas import Example, GateReport
from schemas.errors import CheckpointError, LabelError
from schemas.fields import Label

__all__ = ["Decision", "Forgotten", "Learner", "StepReport"]

ANYBODY = "anybody"  # the user of rows that were given without one
_NEVER = datetime.fromtimestamp(0, UTC)  # no strategy reads times
_MEMORY = "library.memory"
REST_ROWS, REST_GROWTH = 256, 1.25  # rows at the first rest before an answer; growth to the next

Progress = Callable[[int, int], None]
"""Called after every micro-batch or step with what is done and what is to do."""


class Forgotten(NamedTuple):
    """What `forget` did.

    Attributes:
        erased: rows that left memory.
        subtracted: of them, rows that were taken out of the head's sums.
    """

    erased: int
    subtracted: int


class Learner:
    """Learns one task from texts and labels, and answers.

    Args:
        strategy: a name of `learners.strategies.STRATEGIES`.
        kind: `classify` or `multilabel`.
        encoder: a backbone's name or folder, or a loaded one. A strategy that trains trains it.
        memory: where rows are kept for replay; by default a new one of 200,000 rows.
        held_out_share: share of rows that never train, 0 to 1: a `two-speed` head chooses and
            calibrates itself on them.
        options: fields of `StrategyConfig`, as `learning_rate` or `seed`.

    Attributes:
        loop: the learning object itself, as the learn role has it.
        memory: what was learned and is kept.
        curated: rows that the last consolidation read, and what it trained the encoder on.

    Raises:
        ValueError: an argument is not what is asked for here.

    Example:
        >>> learner = Learner("two-speed", projection_width=256)
        >>> learner.learn(["where is my parcel", "cancel my order"], ["delivery", "cancel"]).rows
        2
        >>> learner.predict(["when does the parcel come"])[0].label
        'delivery'
    """

    def __init__(
        self,
        strategy: str = "two-speed",
        kind: str = "classify",
        *,
        encoder: Encoder | str = DEFAULT_BACKBONE,
        memory: LocalMemory | None = None,
        held_out_share: float = 0.05,
        **options: Any,  # noqa: ANN401 - StrategyConfig says which
    ) -> None:
        check_arguments(strategy, held_out_share, options)
        if isinstance(encoder, str):
            encoder = Encoder.load(encoder)
        self.memory = LocalMemory() if memory is None else memory
        task = task_kind(kind)
        config = StrategyConfig(kind=task, encoder=encoder, replay=self.memory, **options)
        self.loop = loop.Learner(
            "library",
            kind=task,
            strategy=STRATEGIES[strategy](config),
            held_out_share=held_out_share,
        )
        self.curated: CurationReport | None = None
        self._options = options_of(config)
        self._given = 0  # rows that were ever given: the next id
        self._rested = 0  # of them, at the last rest

    @property
    def labels(self) -> list[str]:
        """Every label known so far, in order of appearance."""
        return list(self.loop.labels)

    @property
    def encoder(self) -> Encoder:
        """What turns texts into features."""
        return self.loop.strategy.encoder

    def learn(
        self,
        texts: Sequence[str],
        labels: Sequence[Label],
        *,
        ids: Sequence[str] | None = None,
        users: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> StepReport:
        """Learn rows in their order, in micro-batches: each is scored, then learned, then kept.

        Args:
            texts: 1 to 20,000 characters each, not only white space.
            labels: one a text: text, or for `multilabel` a list of texts.
            ids: one a text, of 1 to 128 characters. A row whose id was learned before is dropped.
                Without them, rows are numbered: nothing is a repeat.
            users: whose each text is, so that it can be forgotten.
            progress: called with rows done and rows in all.

        Returns:
            What happened; its loss is the mean over rows that were learned.

        What is not as said here is a `ValueError`; then nothing was learned.
        """
        examples = self._examples(texts, labels, ids=ids, users=users)
        self._given += len(examples)
        reports: list[StepReport] = []
        rows = self.loop.strategy.batch_rows
        for start in range(0, len(examples), rows):
            batch = examples[start : start + rows]
            fresh = [e for e in batch if not self.loop.ledger.seen(e.id, e.revision)]
            reports.append(self.loop.learn(batch))
            self.memory.offer([self._row(example) for example in fresh])
            if progress is not None:
                progress(min(start + rows, len(examples)), len(examples))
        return together(reports)

    def predict(self, texts: Sequence[str], *, top: int = TOP, rest: bool = True) -> list[Decision]:
        """Answer as a release made now would: all that was learned has its effect.

        Args:
            texts: as for `learn`.
            top: how many labels to list beside each answer.
            rest: whether to `rest` first where rows grew by a quarter since the last time, as a
                stream's pauses would have let it: that takes seconds, and the best answers.

        Returns:
            One decision a text.

        Raises:
            ValueError: a text is not as said for `learn`, or nothing was learned yet.
        """
        checked = [checked_text(text, row) for row, text in enumerate(texts)]
        if not self.loop.labels:
            raise ValueError("predict before learn: 0 labels are known, at least 1 is needed")
        if rest and self._given >= max(REST_ROWS, REST_GROWTH * self._rested):
            self.rest()
        self.loop.strategy.settle()
        features = self.encoder.read(checked)
        return decide_by(self.loop.strategy.head, features, kind=self.loop.kind, top=top)

    def rest(self) -> bool:
        """Do what is too slow while rows come, as the learn role does in idle time.

        A `two-speed` learner solves all of its features, chooses their strength, and lets what
        serves learn the held-out rows too. What `consolidate` judges never learns those.

        Returns:
            Whether it answers otherwise now. Seconds go by; nothing is left to do after it.
        """
        strategy, changed = self.loop.strategy, False
        self._rested = self._given
        while isinstance(strategy, Rests) and self.loop.labels and strategy.rest():
            changed = True
        return changed

    def consolidate(
        self,
        config: ConsolidationConfig | None = None,
        *,
        data: DataRules | None = None,
        unlabelled: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> GateReport:
        """Fine-tune the encoder of a `two-speed` learner on all that memory holds.

        The sums are then made anew for it. The old encoder stays in use when the new one does not
        hold on the held-out rows.

        Args:
            config: how it trains.
            data: what of the rows it trains on; by default all, as they are.
            unlabelled: texts that the encoder is adapted to (`config.adapt_epochs`), or trained on
                with a label that is sure (`data.pseudo_labels`), where one of both is wanted; as
                for `learn`.
            progress: called with steps done and steps in all.

        Returns:
            The gate's figures: `accepted` says whether the new encoder is in use now. Another
            strategy, or an empty memory, is a `ValueError`.
        """
        config = config or ConsolidationConfig()
        texts = [checked_text(text, row) for row, text in enumerate(unlabelled)]
        work = SlowHalf(
            self.loop,
            self.memory,
            config=config,
            rules=GateRules(errors=ONE_LOOK),
            held_out_rows=self.memory.size().held_out_rows,
            curation=Curation(data or DataRules(), seed=config.seed),
            unlabelled=lambda: texts,
        )
        try:
            work.run(progress)
            self.curated, self._rested = work.curated, 0  # a new encoder's head has not rested
            return work.finish()
        finally:
            work.close()

    def forget(self, user: str) -> Forgotten:
        """Erase a user's rows from memory, and take them out of an additive head's sums.

        Only rows still in memory can be taken out. Texts are encoded again for it; floating-point
        noise of the encoder may leave the last place of a few sums. The head keeps no features of
        these rows either, whether they trained or were held out. Weights that were trained by
        gradient keep what they learned, and so do numbers that are fitted on many rows, as those
        of the calibration.

        Args:
            user: as given to `learn`; `anybody` stands for rows that were given without one.

        Returns:
            How many rows were erased, and how many taken out.
        """
        rows = self.memory.of_user(user)
        strategy = self.loop.strategy
        summed: list[ReplayRow] = []
        if isinstance(strategy, TwoSpeed) and rows:
            summed = self._summed(rows, strategy)
            strategy.forget(rows, summed=summed)
        return Forgotten(self.memory.erase_user(user), len(summed))

    def save(self, folder: str | Path) -> Path:
        """Write everything the next step depends on: whole when this returns, or not at all.

        A frozen encoder is not written: its name is, and `load` checks that it is the same.

        Args:
            folder: of this learner alone; it keeps the newest two.

        Returns:
            The new file; a `CheckpointError` says why it cannot be written.
        """
        state = self.loop.state()
        memory = torch.from_numpy(np.frombuffer(self.memory.state(), dtype=np.uint8).copy())
        encoder = self.encoder
        meta = {
            "learner": dict(state.meta),
            "strategy": self.loop.strategy.name,
            "kind": self.loop.kind.name,
            "held_out_share": self.loop.held_out_share,
            "options": self._options,
            "given": self._given,
            "rested": self._rested,
            "encoder": {
                "name_or_folder": encoder.name,
                "max_tokens": encoder.max_tokens,
                "precision": encoder.precision,
                "pooling": encoder.pooling,
            },
        }
        return CheckpointStore(Path(folder)).save(
            LearnerState(arrays={**state.arrays, _MEMORY: memory}, meta=meta)
        )

    @classmethod
    def load(cls, folder: str | Path, *, encoder: Encoder | None = None) -> Learner:
        """Take up what `save` wrote: the next step is the same to the bit.

        Args:
            folder: as given to `save`.
            encoder: the same one, where it is loaded already.

        Returns:
            The learner.

        Raises:
            CheckpointError: there is nothing, nothing good, or it is of another encoder.
        """
        state = CheckpointStore(Path(folder)).load()
        if state is None:
            raise CheckpointError(f"no learner was saved in {str(folder)!r}")
        meta = state.meta
        if "learner" not in meta or _MEMORY not in state.arrays:
            raise CheckpointError(f"{str(folder)!r} holds a role's checkpoint, not a library's")
        arrays: Mapping[str, Any] = state.arrays
        learner = cls(
            meta["strategy"],
            meta["kind"],
            encoder=encoder or Encoder.load(**meta["encoder"]),
            memory=LocalMemory.restore(arrays[_MEMORY].numpy().tobytes()),
            held_out_share=meta["held_out_share"],
            **meta["options"],
        )
        mine = {name: array for name, array in arrays.items() if name != _MEMORY}
        learner.loop.restore(LearnerState(arrays=mine, meta=meta["learner"]))
        learner._given, learner._rested = int(meta["given"]), int(meta.get("rested", 0))
        return learner

    def _examples(
        self,
        texts: Sequence[str],
        labels: Sequence[Label],
        *,
        ids: Sequence[str] | None,
        users: Sequence[str] | None,
    ) -> list[Example]:
        count = len(texts)
        for name, given in (("texts", texts), ("labels", labels), ("ids", ids), ("users", users)):
            if isinstance(given, str):
                raise ValueError(f"{name} is the text {given!r}: a list was expected")
            if given is not None and len(given) != count:
                raise ValueError(f"{name} has {len(given)} rows: {count} were expected, one a text")
        numbered = [f"row-{self._given + row:012d}" for row in range(count)]
        return [
            Example(
                id=checked_name(numbered[row] if ids is None else ids[row], f"ids[{row}]"),
                user=checked_name(ANYBODY if users is None else users[row], f"users[{row}]"),
                task=self.loop.task,
                time=_NEVER,
                labelled_at=_NEVER,
                label=self._label(labels[row], row),
                text=checked_text(texts[row], row),
            )
            for row in range(count)
        ]

    def _label(self, label: object, row: int) -> Label:
        try:
            return self.loop.kind.check_label(label)
        except LabelError as error:
            raise ValueError(f"labels[{row}]: {error}") from error

    def _row(self, example: Example) -> ReplayRow:
        return ReplayRow(
            id=example.id,
            user=example.user,
            label=example.label,
            text=self.loop.kind.input_text(example.text, example.features),
            revision=example.revision,
            held_out=is_held_out(example.id, share=self.loop.held_out_share),
        )

    def _summed(self, rows: Sequence[ReplayRow], strategy: TwoSpeed) -> list[ReplayRow]:
        """Leave out what is not in the sums: held-out rows, and those of a former meaning."""
        there = {row.id for row in summed_rows(list(self.memory.rows()), strategy.renewed_rows())}
        return [row for row in rows if row.id in there and strategy.summed.has(row.id, row.label)]
