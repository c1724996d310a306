"""The serve role: interactions in, predictions out.

The order of a batch, numbered here and in the code:

1. decode; what fails is skipped and counted (ingest writes it to dead letters), and what HTTP has
   answered is passed over;
2. answer the rows in micro-batches off the event loop, each by one snapshot of the releases;
3. produce the predictions, and await the broker's answer;
4. count; the caller acknowledges.

A worker that dies anywhere reads its records again and answers them again: at least one prediction
an interaction. Must not know models, drift or Redis.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import faust

from schemas import Interaction, Prediction
from schemas.errors import MessageError
from serving.batcher import MicroBatcher
from serving.metrics import Metrics
from serving.predictor import Asked
from serving.releases import Releases
from streams.decoding import Limits, Record, decode_record
from streams.producing import outgoing, produce
from streams.topics import ANSWERED, Topics


def pass_observer(metrics: Metrics) -> Callable[[int, float], None]:
    """Give what a batcher tells about its micro-batches to: rows and seconds become metrics."""

    def observe(rows: int, seconds: float) -> None:
        metrics.prediction_batch_rows.observe(rows)
        metrics.prediction_batch_seconds.observe(seconds)

    return observe


class Answered(NamedTuple):
    """A batch that has its answers.

    Attributes:
        rows: that asked for one.
        answers: those that have one, in order.
    """

    rows: int
    answers: list[Prediction]


class Serve:
    """The agent's work.

    Args:
        topics: names.
        batcher: answers rows.
        releases: what answers; the batcher's.
        metrics: counts answers and their latency.
        limits: what a message must satisfy; the same as ingest's.
        now: the wall clock.
        monotonic_s: the clock of durations, seconds; the predictor's.
    """

    def __init__(
        self,
        *,
        topics: Topics,
        batcher: MicroBatcher,
        releases: Releases,
        metrics: Metrics,
        limits: Limits,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.topics = topics
        self.batcher = batcher
        self.releases = releases
        self.metrics = metrics
        self.limits = limits
        self.now = now
        self.monotonic_s = monotonic_s

    async def answer(self, records: Sequence[Record]) -> Answered:
        """Do steps 1 and 2: answer a batch."""
        wanted = [record for record in records if ANSWERED not in record.headers]
        answers = await self.batcher.answer(self.read(wanted), urgent=False)
        return Answered(len(wanted), [answer for answer in answers if answer])

    async def publish(self, app: faust.App, answered: Answered) -> None:
        """Do steps 3 and 4; the predictions are in Kafka when this returns."""
        topic = self.topics.predictions
        await produce(app, [outgoing(topic, row.interaction, row) for row in answered.answers])
        self.count(answered)

    def read(self, records: Sequence[Record]) -> list[Asked]:
        """Do step 1: decode what can be decoded."""
        arrived_s = self.monotonic_s()
        asked = []
        for record in records:
            try:
                message = decode_record(Interaction, record, limits=self.limits, now=self.now())
            except MessageError:
                continue
            asked.append(Asked(message, arrived_s))
        return asked

    def count(self, answered: Answered) -> None:
        """Do step 4: bring the metrics up to date."""
        skipped = answered.rows - len(answered.answers)
        if skipped:
            self.metrics.messages_skipped_total.labels(self.topics.interactions).inc(skipped)
        answers = answered.answers
        counts = Counter((answer.task, answer.status) for answer in answers)
        for (task, status), rows in counts.items():
            self.metrics.predictions_total.labels(task, status).inc(rows)
        latency = {task: self.metrics.prediction_latency_seconds.labels(task) for task, _ in counts}
        for answer in answers:
            latency[answer.task].observe(answer.latency_s or 0.0)
        self.metrics.prediction_queue_rows.set(self.batcher.queued)
