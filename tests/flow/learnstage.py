"""A stage for learn roles: real wire, real Redis, an observer that keeps what it is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client

from learners.background import Consolidator, Outcome, Schedule
from learners.checkpoint import CheckpointStore, Fence
from learners.consolidation import ConsolidationConfig
from learners.gate import GateRules
from learners.holdout import is_held_out
from learners.localmemory import LocalMemory
from learners.loop import Learner, StepReport
from learners.rehearsal import ReplayRow
from learners.releasing import Releaser, Verdict
from learners.slow import SlowHalf
from streams.cadence import Cadence
from streams.learn import LearnRole
from streams.topics import Topics
from tests.flow.conftest import Wire
from tests.learning import example


class Observer:
    """Keeps what it is told; stops the role when enough was learned."""

    def __init__(self) -> None:
        self.rows = 0
        self.lags: list[tuple[int, int]] = []
        self.outcomes: list[Outcome] = []
        self.verdicts: list[Verdict] = []

    def learned(self, task: str, report: StepReport, *, seconds: float) -> None:
        del task, seconds
        self.rows += report.rows

    def judged(self, task: str, verdict: Verdict) -> None:
        del task
        self.verdicts.append(verdict)

    def consolidating(self, task: str, done: int, steps: int) -> None:
        """Keep nothing."""

    def consolidated(self, task: str, outcome: Outcome) -> None:
        del task
        self.outcomes.append(outcome)

    def checkpointed(self, *, size_bytes: int, at: datetime) -> None:
        """Keep nothing."""

    def lag(self, topic: str, partition: int, messages: int) -> None:
        del topic
        self.lags.append((partition, messages))


class Clock:
    """Real seconds, and those that a test adds."""

    def __init__(self) -> None:
        self.added_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.added_s


class Stage:
    """Builds learn roles over the wire."""

    def __init__(self, wire: Wire, redis: redis_client.Redis, folder: Path) -> None:
        self.wire, self.redis, self.folder = wire, redis, folder
        self.observer, self.clock = Observer(), Clock()
        self.skipped: list[str] = []
        self.roles: list[LearnRole] = []

    def role(
        self,
        prefix: str,
        learners: dict[str, Learner],
        *,
        releasers: dict[str, Releaser] | None = None,
        **changes: Any,
    ) -> LearnRole:
        from kafka import KafkaConsumer, KafkaProducer

        consumer = KafkaConsumer(
            bootstrap_servers=self.wire.servers,
            group_id=f"{prefix}-learn",
            enable_auto_commit=False,
            fetch_max_wait_ms=20,
        )
        role = LearnRole(
            consumer=consumer,
            producer=KafkaProducer(bootstrap_servers=self.wire.servers),
            topics=Topics(prefix),
            learners=learners,
            releasers=releasers or {},
            checkpoints=CheckpointStore(self.folder / "checkpoints"),
            fence=Fence(self.redis, f"{prefix}:fence"),
            cadence=Cadence(
                batch_rows=16, max_wait_s=0.05, release_every_s=1.0, checkpoint_every_s=60.0
            ),
            observer=self.observer,
            skipped=self.skipped.append,
            clock_s=self.clock,
            now=lambda: datetime.now(UTC),
            **changes,
        )
        self.roles.append(role)
        return role

    def run_until(self, role: LearnRole, done: Callable[[], bool]) -> None:
        """Run the role; it is stopped when `done`, asked at every fetch, says so."""
        end_s = time.monotonic() + 30.0
        poll = role.consumer.poll

        def look(**arguments: Any) -> Any:
            if done() or time.monotonic() > end_s:
                role.stop()
            return poll(**arguments)

        role.consumer.poll = look
        role.run()
        assert done()


@pytest.fixture
def stage(wire: Wire, redis: redis_client.Redis, tmp_path: Path) -> Iterator[Stage]:
    built = Stage(wire, redis, tmp_path)
    yield built
    for role in built.roles:
        role.consumer.close()
        role.producer.close()


def give(wire: Wire, topics: Topics, memory: LocalMemory, *, first: int = 0) -> None:
    """Put 40 examples on the wire and in memory; half are held out."""
    words = ("red cup", "blue mug")
    rows = [
        example(f"e{n}", f"the {words[n % 2]} {n}", words[n % 2]) for n in range(first, first + 40)
    ]
    memory.offer(
        [
            ReplayRow(
                id=one.id,
                user="u",
                label=one.label,
                text=str(one.text),
                held_out=is_held_out(one.id, share=0.5),
            )
            for one in rows
        ]
    )
    wire.send(topics.examples, [("u", row) for row in rows])


def slow_half(
    stage: Stage, learner: Learner, memory: LocalMemory, schedule: Schedule
) -> Consolidator:
    """Give a learner a slow half that really trains."""
    begin = partial(
        SlowHalf,
        learner,
        memory,
        config=ConsolidationConfig(epochs=2, batch_rows=8),
        rules=GateRules(),
        held_out_rows=50,
    )
    return Consolidator(learner, begin, schedule=schedule, clock_s=stage.clock)
