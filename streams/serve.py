"""The serve role: interactions in, predictions out.

The order of a batch, numbered here and in the code:

1. decode; what fails is skipped and counted (ingest writes it to dead letters);
2. take one snapshot of the releases, and answer all rows off the event loop;
3. produce the predictions, and await the broker's answer;
4. count; the caller acknowledges.

A worker that dies anywhere reads its records again and answers them again: at least one prediction
an interaction. Must not know models, drift or Redis.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import faust

from schemas import Interaction, Prediction
from schemas.errors import MessageError
from serving.metrics import Metrics
from serving.predictor import Asked, Predictor
from serving.releases import Releases
from streams.decoding import Limits, Record, decode_record
from streams.producing import outgoing, produce
from streams.topics import Topics


class Serve:
    """The agent's work.

    Args:
        topics: names.
        predictor: answers batches.
        releases: what answers.
        metrics: counts answers and their latency.
        limits: what a message must satisfy; the same as ingest's.
        now: the wall clock.
        monotonic_s: the clock of durations, seconds; the predictor's.
    """

    def __init__(
        self,
        *,
        topics: Topics,
        predictor: Predictor,
        releases: Releases,
        metrics: Metrics,
        limits: Limits,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.topics = topics
        self.predictor = predictor
        self.releases = releases
        self.metrics = metrics
        self.limits = limits
        self.now = now
        self.monotonic_s = monotonic_s
        # One forward pass at a time, off the event loop: torch lets go of the interpreter.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="predict")

    async def handle(self, app: faust.App, records: list[Record]) -> None:
        """Answer a batch; the predictions are in Kafka when this returns."""
        asked = self.read(records)  # 1
        answers = await asyncio.get_running_loop().run_in_executor(
            self._thread, self.answer, asked
        )  # 2
        await produce(
            app, [outgoing(self.topics.predictions, row.interaction, row) for row in answers]
        )  # 3
        self.count(records, asked, answers)  # 4

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

    def answer(self, asked: Sequence[Asked]) -> list[Prediction]:
        """Do step 2: answer every row that can be answered, from one snapshot."""
        answers = self.predictor.answer(asked, self.releases.current())
        return [answer for answer in answers if answer is not None]

    def count(
        self, records: Sequence[Record], asked: Sequence[Asked], answers: Sequence[Prediction]
    ) -> None:
        """Do step 4: bring the metrics up to date."""
        skipped = len(records) - len(answers)
        if skipped:
            self.metrics.messages_skipped_total.labels(self.topics.interactions).inc(skipped)
        if asked:
            self.metrics.prediction_batch_rows.observe(len(asked))
        counts = Counter((answer.task, answer.status) for answer in answers)
        for (task, status), rows in counts.items():
            self.metrics.predictions_total.labels(task, status).inc(rows)
        for answer in answers:
            self.metrics.prediction_latency_seconds.labels(answer.task).observe(
                answer.latency_s or 0.0
            )
