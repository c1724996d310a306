"""The learn role: a plain loop over a Kafka consumer.

Owns the order of a cycle and what is durable when; must not know how anything is learned. The
numbered steps:

1. fetch examples from where the checkpoint stands, never from a committed group offset; and what
   `watch` found drifted, which brings the next consolidation forward;
2. learn them, a micro-batch at a time;
3. look after the consolidation in the background, and begin one when it is due;
4. when it is time, put a candidate before the gate: blobs, then manifest, then the message on
   `models`;
5. when it is time, checkpoint weights, optimizer, strategy, generators and Kafka positions in one
   atomic write;
6. tell the group how far we are, for lag dashboards only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from torch import Tensor

from learners.background import Consolidator, Outcome
from learners.checkpoint import CheckpointStore, Fence, LearnerState
from learners.loop import Learner, StepReport
from learners.releasing import Releaser, Verdict
from schemas import DriftSignal, Example, codec
from schemas.errors import MessageError, SettingsError
from streams.alarms import Alarms
from streams.cadence import Cadence
from streams.producing import outgoing
from streams.topics import Topics

log = logging.getLogger(__name__)

IDLE_S = 3.0  # without an example: then there is time for what is slow
LAG_EVERY_S = 1.0
PARTITIONS_EVERY_S = 60.0  # what somebody adds to the topic is read from then on


class LearnObserver(Protocol):
    """Who is told what the loop did; metrics, in the real role."""

    def learned(self, task: str, report: StepReport, *, seconds: float) -> None:
        """A micro-batch was learned."""
        ...

    def judged(self, task: str, verdict: Verdict) -> None:
        """A candidate was judged."""
        ...

    def consolidating(self, task: str, done: int, steps: int) -> None:
        """A consolidation came so far; zeros when none runs."""
        ...

    def consolidated(self, task: str, outcome: Outcome) -> None:
        """A consolidation ended."""
        ...

    def checkpointed(self, *, size_bytes: int, at: datetime) -> None:
        """A checkpoint is durable."""
        ...

    def lag(self, topic: str, partition: int, messages: int) -> None:
        """How far behind the loop is."""
        ...


@dataclass(slots=True)
class LearnRole:
    """The learner's process.

    Attributes:
        consumer: group-less assignment; positions come from the checkpoint.
        producer: of release messages.
        topics: names.
        learners: by task.
        releasers: by task.
        checkpoints: where state is kept.
        fence: stops a learner whose successor has started.
        cadence: how often things happen.
        observer: is told.
        skipped: told the topic of a message that cannot be learned.
        consolidators: by task; none where nothing is consolidated.
        clock_s: monotonic seconds.
        now: the wall clock.
    """

    consumer: KafkaConsumer
    producer: KafkaProducer
    topics: Topics
    learners: Mapping[str, Learner]
    releasers: Mapping[str, Releaser]
    checkpoints: CheckpointStore
    fence: Fence
    cadence: Cadence
    observer: LearnObserver
    clock_s: Callable[[], float]
    now: Callable[[], datetime]
    skipped: Callable[[str], None] = lambda topic: None
    positions: dict[int, int] = field(default_factory=dict)
    stopping: bool = False
    consolidators: Mapping[str, Consolidator] = field(default_factory=dict)
    _alarms: Alarms = field(init=False)
    _idle_since_s: float = 0.0
    _next_rest_s: float = 0.0
    _next_lag_s: float = 0.0
    _next_partitions_s: float = 0.0
    _next_release_s: float = 0.0
    _next_checkpoint_s: float = 0.0
    _dirty: bool = False
    _behind: bool = False

    def __post_init__(self) -> None:
        """Let the same consumer read what `watch` found."""
        self._alarms = Alarms(self.consumer, self.topics.drift, skipped=self.skipped)

    def run(self) -> None:
        """Learn until `stop` is called, then leave a checkpoint."""
        self.fence.acquire()
        self._resume()
        self._next_checkpoint_s = self.clock_s() + self.cadence.checkpoint_every_s
        self._next_partitions_s = self.clock_s() + PARTITIONS_EVERY_S
        self._idle_since_s = self.clock_s()
        try:
            while not self.stopping:
                self._cycle()
        finally:
            for consolidator in self.consolidators.values():
                consolidator.stop()
        if self._dirty:
            self._checkpoint()
        log.info("stopped at %s", self.positions)

    def stop(self, *_: Any) -> None:  # noqa: ANN401
        """Ask the loop to end after the cycle at hand; usable as a signal handler."""
        self.stopping = True

    def _cycle(self) -> None:
        records = self._fetch()  # 1
        for record in records:
            self.positions[record.partition] = record.offset + 1
        for task, examples in self._by_task(records).items():  # 2
            self._learn(task, examples)
        if records:
            self._idle_since_s = self._next_rest_s = self.clock_s()
            self._next_rest_s += IDLE_S
        elif self.clock_s() >= self._next_rest_s:
            self._rest()
        self._consolidate()  # 3
        if self.clock_s() >= self._next_release_s:  # 4
            self._release()
        if self._dirty and self.clock_s() >= self._next_checkpoint_s:  # 5
            self._checkpoint()
        if self.clock_s() >= self._next_lag_s:
            self._measure_lag()
        if self.clock_s() >= self._next_partitions_s:
            self._take_new_partitions()

    def _fetch(self) -> list[Any]:
        polled = self.consumer.poll(
            timeout_ms=int(1000 * self.cadence.max_wait_s), max_records=self.cadence.batch_rows
        )
        records = [record for records in polled.values() for record in records]
        self._behind = len(records) >= self.cadence.batch_rows
        for signal in self._alarms.take(records):
            self._hear(signal)
        return [record for record in records if record.topic == self.topics.examples]

    def _hear(self, signal: DriftSignal) -> None:
        """Let the learner of a task whose answers became worse consolidate sooner."""
        if signal.task not in self.learners or signal.level != "drift":
            return
        log.info(
            "%s: %s says that %s drifted (%.3f after %d observations)",
            signal.task,
            signal.detector,
            signal.signal,
            signal.statistic,
            signal.rows,
        )
        self.learners[signal.task].note_drift()
        if signal.task in self.consolidators:
            self.consolidators[signal.task].note_drift(signal.signal)
        self._dirty = True

    def _by_task(self, records: list[Any]) -> dict[str, list[Example]]:
        tasks: dict[str, list[Example]] = {}
        for record in records:
            try:
                example = self._usable(record.value)
            except MessageError as error:  # only ingest writes here: a foreign message, not ours
                log.warning("examples:%d:%d: %s", record.partition, record.offset, error.reason)
                self.skipped(self.topics.examples)
                continue
            if example is not None:
                tasks.setdefault(example.task, []).append(example)
        return tasks

    def _usable(self, value: bytes | None) -> Example | None:
        """Read an example that its task can learn from; None where the task is not ours."""
        example = codec.decode(Example, value)
        learner = self.learners.get(example.task)
        if learner is None:
            return None
        learner.kind.check_label(example.label)
        learner.kind.input_text(example.text, example.features)
        return example

    def _learn(self, task: str, examples: list[Example]) -> None:
        learner = self.learners[task]
        rows = self.cadence.step_rows or learner.strategy.batch_rows
        for start in range(0, len(examples), rows):
            before_s = self.clock_s()
            report = learner.learn(examples[start : start + rows])
            self.observer.learned(task, report, seconds=self.clock_s() - before_s)
        self._dirty = True

    def _rest(self) -> None:
        """Use the time in which nothing came for what is too slow while examples wait."""
        self._next_rest_s = self.clock_s() + IDLE_S
        for releaser in self.releasers.values():
            if releaser.rest():
                self._dirty = True

    def _consolidate(self) -> None:
        """Finish the run at hand when it is done; else begin one that is due, one at a time."""
        for task, consolidator in self.consolidators.items():
            outcome = consolidator.poll()
            self.observer.consolidating(task, *consolidator.progress)
            if outcome is None:
                continue
            self.observer.consolidated(task, outcome)
            if outcome.what == "adopted":
                self._dirty = True
                if task in self.releasers:
                    self.releasers[task].stir()
        if self._behind or any(one.running for one in self.consolidators.values()):
            return
        for consolidator in self.consolidators.values():
            reason = consolidator.due(idle_s=self.clock_s() - self._idle_since_s)
            if reason is not None:
                consolidator.start(reason)
                return

    def _release(self) -> None:
        started_s = self.clock_s()
        for task, releaser in self.releasers.items():
            if not releaser.has_news:
                continue
            self.fence.check()
            verdict = releaser.consider(positions=self._named_positions(), now=self.now())
            if verdict.release is not None:
                self._announce(verdict.release)
            self.observer.judged(task, verdict)
        ended_s = self.clock_s()
        pause_s = self.cadence.pause_s(ended_s - started_s, behind=self._behind)
        self._next_release_s = ended_s + pause_s

    def _announce(self, release: Any) -> None:  # noqa: ANN401
        message = outgoing(self.topics.models, release.task, release)
        self.producer.send(
            message.topic, key=message.key, value=message.value, headers=list(message.headers)
        ).get(timeout=30)

    def _checkpoint(self) -> None:
        self.fence.check()
        path = self.checkpoints.save(self._state())
        self._next_checkpoint_s = self.clock_s() + self.cadence.checkpoint_every_s
        self._dirty = False
        self.observer.checkpointed(size_bytes=path.stat().st_size, at=self.now())
        self._tell_group()  # 6

    def _tell_group(self) -> None:
        partitions = {
            TopicPartition(self.topics.examples, p): OffsetAndMetadata(offset, "", -1)
            for p, offset in self.positions.items()
        }
        if partitions:
            self.consumer.commit_async(partitions)

    def _measure_lag(self) -> None:
        self._next_lag_s = self.clock_s() + LAG_EVERY_S
        for partition in self.consumer.assignment():
            end = self.consumer.highwater(partition)
            if end is not None and partition.topic == self.topics.examples:
                behind = end - self.positions.get(partition.partition, 0)
                self.observer.lag(partition.topic, partition.partition, max(0, behind))

    def _state(self) -> LearnerState:
        arrays: dict[str, Tensor] = {}
        tasks: dict[str, Any] = {}
        for task, learner in self.learners.items():
            state = learner.state()
            arrays |= {f"{task}/{name}": tensor for name, tensor in state.arrays.items()}
            tasks[task] = state.meta
        return LearnerState(
            arrays=arrays,
            meta={
                "tasks": tasks,
                "positions": {**self._named_positions(), **self._alarms.positions},
                "consolidators": {name: one.state() for name, one in self.consolidators.items()},
            },
        )

    def _named_positions(self) -> dict[str, int]:
        return {f"{self.topics.examples}/{p}": offset for p, offset in self.positions.items()}

    def _resume(self) -> None:
        """Go back to where the checkpoint stands, or to the beginning of the log.

        Raises:
            SettingsError: there is no log.
        """
        partitions = self._partitions()
        if not partitions:
            raise SettingsError(
                [f"topic {self.topics.examples} is not there: `mindstream topics create` makes it"]
            )
        assigned = [*partitions, *self._alarms.partitions()]
        self.consumer.assign(assigned)
        state = self.checkpoints.load()
        wanted: dict[str, int] = {}
        if state is not None:
            wanted = state.meta["positions"]
            self._restore(state)
        first = self.consumer.beginning_offsets(partitions)
        end = self.consumer.end_offsets(partitions)
        for partition in partitions:
            offset = wanted.get(f"{partition.topic}/{partition.partition}", first[partition])
            if not first[partition] <= offset <= end[partition]:
                log.warning(
                    "%s/%d was made anew (it ends at %d, the checkpoint stands at %d): reading it "
                    "from its beginning; what is known already is not learned twice",
                    partition.topic,
                    partition.partition,
                    end[partition],
                    offset,
                )
                offset = first[partition]
            self.positions[partition.partition] = offset
            self.consumer.seek(partition, offset)
        self._alarms.resume(assigned, wanted)
        for releaser in self.releasers.values():
            release = releaser.resume()
            if release is not None:
                self._announce(release)

    def _partitions(self) -> list[TopicPartition]:
        # As of the client's last refresh: to ask the cluster anew would wait for one that is away.
        numbers = self.consumer.partitions_for_topic(self.topics.examples) or ()
        return [TopicPartition(self.topics.examples, number) for number in sorted(numbers)]

    def _take_new_partitions(self) -> None:
        """Read partitions that were added to the topics from their beginning."""
        self._next_partitions_s = self.clock_s() + PARTITIONS_EVERY_S
        known = self.consumer.assignment()
        added = [p for p in (*self._partitions(), *self._alarms.partitions()) if p not in known]
        if not added:
            return
        self.consumer.assign([*known, *added])  # those it had keep their places
        for partition, offset in self.consumer.beginning_offsets(added).items():
            log.info("%s/%d is new: reading it too", partition.topic, partition.partition)
            if partition.topic == self.topics.examples:
                self.positions[partition.partition] = offset
                self.consumer.seek(partition, offset)
            else:
                self._alarms.go_to(partition, offset)

    def _restore(self, state: LearnerState) -> None:
        for task, meta in state.meta["tasks"].items():
            if task not in self.learners:
                log.warning("the checkpoint has a task %r that the settings do not: dropped", task)
                continue
            prefix = f"{task}/"
            arrays = {
                n.removeprefix(prefix): t for n, t in state.arrays.items() if n.startswith(prefix)
            }
            self.learners[task].restore(LearnerState(arrays=arrays, meta=meta))
            log.info("%s: resumed with %d examples learned", task, self.learners[task].learned)
        for task, schedule in state.meta.get("consolidators", {}).items():
            if task in self.consolidators:
                self.consolidators[task].restore(schedule)
