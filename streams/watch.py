"""The watch role: predictions and examples in, scores and drift signals out.

The order of a batch, numbered here and in the code:

1. decode; what fails is skipped and counted;
2. let each row meet its other side in Redis, in one pipeline, idempotent by interaction;
3. score what met, and ask the detectors;
4. produce what they found, and await the broker's answer; then the caller acknowledges.

A row that comes again meets nothing, so no pair is scored twice. A signal that could not be
produced is kept and produced with the next try. Must not know how a score or a detector works.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TypeVar

import faust

from schemas import DriftSignal, Example, Prediction, codec
from schemas.errors import MessageError
from serving.metrics import Metrics
from serving.pairing import Meeting, Pair, Pairing, Served, Truth
from serving.watcher import Finding, Watcher
from streams.decoding import Record
from streams.producing import outgoing, produce
from streams.topics import Topics

T = TypeVar("T")


class Watch:
    """Both agents of the role; they share the scores and one thread for Redis.

    Args:
        topics: names.
        pairing: where predictions meet their truths.
        watcher: scores and detectors.
        metrics: shows both.
        now: the wall clock.
    """

    def __init__(
        self,
        *,
        topics: Topics,
        pairing: Pairing,
        watcher: Watcher,
        metrics: Metrics,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.topics = topics
        self.pairing = pairing
        self.watcher = watcher
        self.metrics = metrics
        self.now = now
        self._unsent: list[DriftSignal] = []
        self._sending = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="redis")

    async def handle_predictions(self, app: faust.App, records: list[Record]) -> None:
        """Take in a batch of predictions; every effect is durable when this returns."""
        served = [served_of(message) for message in self._decode(Prediction, records)]  # 1
        meetings = await self._off_the_loop(lambda: self.pairing.offer_served(served))  # 2
        for row, meeting in zip(served, meetings, strict=True):  # 3
            if meeting.fresh:
                self._say(self.watcher.served(row))
        self._score(meetings)
        await self._send(app)  # 4

    async def handle_examples(self, app: faust.App, records: list[Record]) -> None:
        """Take in a batch of examples; every effect is durable when this returns."""
        truths = [
            truth_of(message)
            for message in self._decode(Example, records)
            if message.revision == 1  # a correction came after the answer had been scored
        ]  # 1
        meetings = await self._off_the_loop(lambda: self.pairing.offer_truths(truths))  # 2
        self._score(meetings)  # 3
        await self._send(app)  # 4

    async def _off_the_loop(self, meet: Callable[[], list[Meeting]]) -> list[Meeting]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, meet)

    def _decode(self, contract: type[T], records: Sequence[Record]) -> list[T]:
        messages = []
        for record in records:
            try:
                messages.append(codec.decode(contract, record.value, record.headers))
            except MessageError:
                self.metrics.messages_skipped_total.labels(record.topic).inc()
        return messages

    def _score(self, meetings: Sequence[Meeting]) -> None:
        changed: set[str] = set()
        for meeting in meetings:
            if meeting.pair is None:
                continue
            task = meeting.pair.truth.task
            if not meeting.pair.served.ok:
                self.metrics.predictions_unscored_total.labels(task).inc()
            elif self.watcher.scores_pair(meeting.pair):
                self._say(self.watcher.met(meeting.pair))
                self._show_pair(meeting.pair)
                changed.add(task)
        for task in changed:
            self._show_scores(task)

    def _show_pair(self, pair: Pair) -> None:
        task = pair.truth.task
        self.metrics.predictions_joined_total.labels(task).inc()
        self.metrics.label_delay_seconds.labels(task).observe(pair.truth.delay_s)

    def _show_scores(self, task: str) -> None:
        scores = self.watcher.scores(task)
        if scores is None:
            return
        metrics = self.metrics
        metrics.prequential_accuracy.labels(task).set(scores.accuracy)
        metrics.prequential_agreement.labels(task).set(scores.agreement)
        metrics.prequential_macro_f1.labels(task).set(scores.macro_f1)
        metrics.prequential_accuracy_lifetime.labels(task).set(scores.lifetime_accuracy)

    def _say(self, finding: Finding | None) -> None:
        if finding is None:
            return
        self._unsent.append(signal_of(finding, time=self.now()))
        self.metrics.drift_signals_total.labels(
            finding.task, finding.signal, finding.detector, finding.level
        ).inc()

    async def _send(self, app: faust.App) -> None:
        async with self._sending:  # else both agents would send the same signals
            signals = list(self._unsent)
            await produce(app, [outgoing(self.topics.drift, row.task, row) for row in signals])
            del self._unsent[: len(signals)]


def served_of(message: Prediction) -> Served:
    """Keep what scoring needs of a prediction."""
    return Served(
        interaction=message.interaction,
        task=message.task,
        ok=message.status == "ok",
        label=message.label,
        score=message.score,
        release=message.release,
    )


def truth_of(message: Example) -> Truth:
    """Keep what scoring needs of an example."""
    return Truth(
        interaction=message.id,
        task=message.task,
        label=message.label,
        time=message.time,
        labelled_at=message.labelled_at,
    )


def signal_of(finding: Finding, *, time: datetime) -> DriftSignal:
    """Write a finding as its message."""
    return DriftSignal(
        task=finding.task,
        time=time,
        signal=finding.signal,
        detector=finding.detector,
        level=finding.level,
        statistic=finding.statistic,
        rows=finding.rows,
        release=finding.release,
    )
