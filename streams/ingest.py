"""The ingest role: interactions and feedback in, unique labelled examples out.

Owns the order of durability of a batch, numbered here and in the code:

1. decode and check; what fails goes to dead letters, complete;
2. drop repeats, and
3. join labels, in one Redis pipeline, idempotent by id and position; then offer what joined to
   replay memory, idempotent by id;
4. produce examples and dead letters, and await the broker's answer;
5. confirm them in Redis, and acknowledge.

A worker that dies anywhere reads its records again, and every step finds its work done or does it.
Must not know how a label is learned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime

import faust
from aiokafka.errors import MessageSizeTooLargeError

from learners.holdout import is_held_out
from learners.join import (
    UNKNOWN_TASK,
    Arrival,
    DeadRecord,
    FeedbackArrival,
    InteractionArrival,
    LabelJoin,
    Outcome,
)
from learners.replay import ReplayMemory, ReplayRow
from learners.tasks.base import TaskKind
from schemas import DeadLetter, Example, Feedback, Interaction, codec
from schemas.errors import LabelError, MessageError
from schemas.fields import Label
from serving.metrics import Metrics
from streams.decoding import Limits, Record, dead_letter, decode_record, digest_of, shortened
from streams.producing import Outgoing, outgoing, produce
from streams.topics import Topics

# Kept of a dead message where the broker refuses its whole letter, bytes.
LEAST_KEPT_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class IngestRules:
    """What ingest accepts.

    Attributes:
        kinds: task name to task kind.
        limits: of a message.
        held_out_share: share of examples kept for the gate.
    """

    kinds: Mapping[str, TaskKind]
    limits: Limits
    held_out_share: float


@dataclass(slots=True)
class Absorbed:
    """What one batch left to be produced and confirmed."""

    messages: list[Outgoing] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)


class Ingest:
    """Both agents of the role; they share the join and one thread for Redis.

    Args:
        topics: names.
        rules: what is accepted.
        join: state of the join.
        memories: replay memory by task.
        metrics: counts dead letters, the join and memory.
        now: the wall clock.
    """

    def __init__(
        self,
        *,
        topics: Topics,
        rules: IngestRules,
        join: LabelJoin,
        memories: Mapping[str, ReplayMemory],
        metrics: Metrics,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.topics = topics
        self.rules = rules
        self.join = join
        self.memories = memories
        self.metrics = metrics
        self.now = now
        self._exported: dict[tuple[str, str, str], int] = {}
        # Redis is spoken to off the event loop, in order.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="redis")

    async def handle_interactions(self, app: faust.App, records: list[Record]) -> None:
        """Take in a batch of interactions; every effect is durable when this returns."""
        await self._handle(app, records, self.read_interaction)

    async def handle_feedback(self, app: faust.App, records: list[Record]) -> None:
        """Take in a batch of feedback; every effect is durable when this returns."""
        await self._handle(app, records, self.read_feedback)

    async def _handle(
        self, app: faust.App, records: list[Record], read: Callable[[Record], Arrival]
    ) -> None:
        loop = asyncio.get_running_loop()
        absorbed = await loop.run_in_executor(self._thread, self.absorb, records, read)  # 1 to 3
        try:
            await produce(app, absorbed.messages)  # 4
        except MessageSizeTooLargeError:  # waiting would not make it smaller
            await self._produce_apart(app, absorbed)
        await loop.run_in_executor(self._thread, self.settle, absorbed)  # 5

    async def _produce_apart(self, app: faust.App, absorbed: Absorbed) -> None:
        """Produce a batch again; of a letter that the broker refuses, only the beginning."""
        letters = self.topics.dead_letters
        await produce(app, [m for m in absorbed.messages if m.topic != letters])
        for letter in absorbed.dead:
            try:
                await produce(app, [outgoing(letters, letter.key, letter)])
            except MessageSizeTooLargeError:
                short = shortened(letter, kept_bytes=LEAST_KEPT_BYTES)
                await produce(app, [outgoing(letters, short.key, short)])

    def absorb(self, records: Sequence[Record], read: Callable[[Record], Arrival]) -> Absorbed:
        """Do steps 1 to 3 of a batch.

        Args:
            records: as read from Kafka.
            read: decodes and checks one of them.

        Returns:
            What is to be produced, then settled.
        """
        absorbed = Absorbed()
        arrivals: list[Arrival] = []
        sources: list[Record] = []
        for record in records:
            try:
                arrivals.append(read(record))
                sources.append(record)
            except MessageError as error:
                absorbed.dead.append(dead_letter(record, error, now=self.now()))
        if arrivals:
            now_ms = int(self.now().timestamp() * 1000)
            absorbed.outcomes = self.join.apply(arrivals, now_ms=now_ms)
        examples = [example_of(outcome) for outcome in absorbed.outcomes if outcome.example]
        self._remember(examples)
        absorbed.messages = [outgoing(self.topics.examples, e.user, e) for e in examples]
        absorbed.dead += [
            self._mismatch(outcome) for outcome in absorbed.outcomes if outcome.raw is not None
        ]
        absorbed.messages += [
            outgoing(self.topics.dead_letters, letter.key, letter) for letter in absorbed.dead
        ]
        return absorbed

    def settle(self, absorbed: Absorbed) -> None:
        """Do step 5 of a batch: what is in Kafka is never given again, and the dead are counted."""
        self.join.confirm(absorbed.outcomes)
        dead = []
        for letter in absorbed.dead:
            self.metrics.dead_letters_total.labels(letter.topic).inc()
            if letter.topic == self.topics.interactions:
                position = f"{letter.topic}:{letter.partition}:{letter.offset}"
                dead.append(DeadRecord(UNKNOWN_TASK, position, digest_of(letter)[:16]))
        self.join.count_dead(dead)

    def read_interaction(self, record: Record) -> InteractionArrival:
        """Decode and check an interaction.

        Raises:
            MessageError: it cannot be used, and why.
        """
        message = decode_record(Interaction, record, limits=self.rules.limits, now=self.now())
        kind = self.rules.kinds.get(message.task)
        if kind is None:
            known = ", ".join(sorted(self.rules.kinds))
            raise MessageError(
                f"task: {message.task!r} is not a task of this deployment ({known})", record.value
            )
        kind.input_text(message.text, message.features)
        label = None if message.label is None else kind.check_label(message.label)
        return InteractionArrival(
            id=message.id,
            task=message.task,
            kind=kind.name,
            user=message.user,
            position=record.position,
            payload=codec.encode(message),
            label=label,
            consent=message.consent,
            at_ms=record.time_ms,
        )

    def read_feedback(self, record: Record) -> FeedbackArrival:
        """Decode and check a feedback.

        Raises:
            MessageError: it cannot be used, and why.
        """
        message = decode_record(Feedback, record, limits=self.rules.limits, now=self.now())
        labels: dict[str, Label] = {}
        if message.kind in ("label", "correction"):
            reasons = []
            for kind in {kind.name: kind for kind in self.rules.kinds.values()}.values():
                try:
                    labels[kind.name] = kind.check_label(message.value)
                except LabelError as error:
                    reasons.append(error.reason)
            if not labels:
                raise MessageError("; ".join(reasons), record.value)
        return FeedbackArrival(
            interaction=message.interaction,
            position=record.position,
            verb=message.kind,
            labels=labels,
            raw=record.value,
            at_ms=record.time_ms,
        )

    def _remember(self, examples: Sequence[Example]) -> None:
        by_task: dict[str, list[ReplayRow]] = {}
        for example in examples:
            kind = self.rules.kinds.get(example.task)
            if kind is None:  # the settings have dropped its task since it came in
                continue
            row = ReplayRow(
                id=example.id,
                user=example.user,
                label=example.label,
                text=kind.input_text(example.text, example.features),
                revision=example.revision,
                held_out=is_held_out(example.id, share=self.rules.held_out_share),
            )
            by_task.setdefault(example.task, []).append(row)
        for task, rows in by_task.items():
            self.memories[task].offer(rows)

    def _mismatch(self, outcome: Outcome) -> DeadLetter:
        topic, partition, offset = outcome.position.rsplit(":", 2)
        kind = self.rules.kinds.get(outcome.task)
        name = "no longer one of this deployment" if kind is None else kind.name
        return DeadLetter(
            data=outcome.raw or b"",
            key=outcome.id.encode(),
            reason=f"value: no label that task {outcome.task!r} ({name}) can learn from",
            topic=topic,
            partition=int(partition),
            offset=int(offset),
            time=self.now(),
        )

    def tidy(self, *, limit: int = 2_000) -> None:
        """Give up on what waited too long, and bring the metrics up to date."""
        self.join.expire(now_ms=int(self.now().timestamp() * 1000), limit=limit)
        for task, counts in self.join.counters().items():
            self.metrics.interactions_waiting.labels(task).set(counts["waiting"])
            for outcome in ("joined", "expired", "refused", "repeated", "dead"):
                self._export("interactions_total", task, outcome, counts[outcome])
            for name, count in counts.items():
                if name.startswith("feedback_"):
                    self._export("feedback_total", task, name.removeprefix("feedback_"), count)
        for task, memory in self.memories.items():
            size = memory.size()
            self.metrics.replay_rows.labels(task, "train").set(size.rows)
            self.metrics.replay_rows.labels(task, "held_out").set(size.held_out_rows)
            self.metrics.replay_bytes.labels(task).set(size.bytes)

    async def tidy_off_the_loop(self) -> None:
        """Run `tidy` in the Redis thread."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self.tidy)

    def _export(self, name: str, task: str, outcome: str, count: int) -> None:
        """Bring a counter up to what Redis holds: the same total in every worker."""
        key = (name, task, outcome)
        gained = count - self._exported.get(key, 0)
        self._exported[key] = count
        if gained > 0:
            getattr(self.metrics, name).labels(task, outcome).inc(gained)


def example_of(outcome: Outcome) -> Example:
    """Write the example of an outcome; the same bytes however often it is given."""
    joined = outcome.example
    assert joined is not None
    interaction = codec.decode(Interaction, joined.payload)
    return Example(
        id=interaction.id,
        user=interaction.user,
        task=interaction.task,
        time=interaction.time,
        labelled_at=datetime.fromtimestamp(joined.labelled_at_ms / 1000, UTC),
        label=joined.label,
        text=interaction.text,
        features=interaction.features,
        context=interaction.context,
        revision=joined.revision,
        previous=joined.previous,
    )
