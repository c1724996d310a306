"""Chunks, batches and commits: every record once and in order, no offset before its records.

The consumer is the real one, with Faust's own commit logic; what a broker would give is made up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord
from faust.types import TP
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.app import AppConfig, make_app
from streams.chunks import CHUNK_ROWS, Bounds
from streams.decoding import Record
from streams.gathering import Gathering
from streams.transport import FastConsumer, turns

TOPIC = "law"
PARTITIONS = (TP(TOPIC, 0), TP(TOPIC, 1))


@pytest.fixture(scope="module")
def consumer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastConsumer]:
    """Build a consumer that is never started.

    Yields:
        It; the loop that its thread made is closed afterwards.
    """
    app: Any = make_app(
        AppConfig(
            name="law",
            servers=("127.0.0.1:1",),
            web_host="127.0.0.1",
            web_port=6066,
            data_dir=tmp_path_factory.mktemp("law"),
            bounds=Bounds(rows=10**9),
        )
    )
    app.topics.acking_topics.add(TOPIC)
    yield app.consumer
    app.consumer._thread.thread_loop.close()


@dataclass
class World:
    """A broker's log and position of each partition, and an agent that handles batches."""

    consumer: FastConsumer
    logs: dict[TP, list[int]]
    gathering: Gathering[Any, Record]
    position: dict[TP, int] = field(default_factory=dict)
    committed: dict[TP, int | None] = field(default_factory=dict)
    handled: dict[TP, list[int]] = field(default_factory=dict)
    in_flight: list[Any] = field(default_factory=list)
    readings: int = 0

    def assign(self) -> None:
        """Begin to read at what is committed, as Faust does after a rebalance."""
        self.readings += 1
        self.consumer._begin_reading()
        self.consumer._read_offset.clear()
        self.consumer._committed_offset.clear()
        for tp, log in self.logs.items():
            committed = self.committed.setdefault(tp, None)
            self.position[tp] = next(
                (n for n, offset in enumerate(log) if offset >= (committed or 0)), len(log)
            )
            self.consumer._read_offset[tp] = committed
            if committed:
                self.consumer._committed_offset[tp] = committed

    def fetch(self, rows: int) -> None:
        """Give the agent what the next fetch gives, cut as the transport cuts it."""
        fetched = {}
        for tp, log in self.logs.items():
            start = self.position[tp]
            self.position[tp] = min(len(log), start + rows)
            fetched[tp] = [record(tp, offset) for offset in log[start : start + rows]]
        for tp, piece in turns(fetched):
            message = self.consumer._message(tp, self.consumer._unread(tp, piece), piece[-1])
            self.consumer._read_offset[tp] = message.offset  # as Faust's own loop does afterwards
            chunk: Any = message.value
            assert 0 < len(chunk.records) <= CHUNK_ROWS
            self.gathering.add(message, chunk.records)

    def handle(self) -> None:
        """Handle a batch; it is not acknowledged yet."""
        records, complete = self.gathering.take()
        assert len(records) <= self.gathering.rows
        for one in records:
            self.handled.setdefault(TP(one.topic, one.partition), []).append(one.offset)
        self.in_flight += complete

    def acknowledge(self) -> None:
        """Acknowledge what batches have completed."""
        for message in self.in_flight:
            message.value.durable = True
            self.consumer.ack(message)
        self.in_flight.clear()

    def rebalance(self) -> None:
        """Let Faust empty its queues and begin again; what is in flight is acknowledged late."""
        self.gathering = Gathering(rows=self.gathering.rows, within_s=0.0)
        self.assign()

    def skip(self) -> None:
        """Acknowledge what is handed out to nobody, as Faust does with what it leaves out."""
        rest = self.gathering.take()[1]
        self.gathering = Gathering(rows=self.gathering.rows, within_s=0.0)
        for message in rest:
            self.consumer.ack(message)
        self.commit()
        self.assign()

    def commit(self) -> None:
        """Commit as Faust does, and look whether it may."""
        for tp, offset in self.consumer._filter_committable_offsets(list(self.logs)).items():
            self.consumer._committed_offset[tp] = self.committed[tp] = offset
            below = {one for one in self.logs[tp] if one < offset}
            assert below <= set(self.handled.get(tp, [])), "committed and not handled"


def record(tp: TP, offset: int) -> ConsumerRecord[bytes, bytes]:
    value = b"%d" % offset
    return ConsumerRecord(tp.topic, tp.partition, offset, 1, 0, None, value, None, 0, 1, ())


logs = st.builds(
    lambda first, steps: [first + sum(steps[:n]) for n in range(len(steps))],
    st.integers(0, 3),
    st.lists(st.sampled_from([1, 1, 1, 1, 1, 2, 5]), min_size=8, max_size=80),
).map(lambda log: sorted(set(log)))
steps = st.lists(
    st.one_of(
        st.integers(1, 20),
        st.sampled_from([*["handle", "acknowledge", "commit"] * 3, "rebalance", "skip"]),
    ),
    min_size=5,
    max_size=60,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.tuples(logs, logs), steps, st.integers(1, 30))
def test_nothing_is_committed_before_it_was_handled_whatever_happens(
    consumer: FastConsumer, two: tuple[list[int], list[int]], events: list[int | str], rows: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streams.transport.CHUNK_ROWS", 7)
        world = World(
            consumer, dict(zip(PARTITIONS, two, strict=True)), Gathering(rows=rows, within_s=0)
        )
        world.assign()
        for event in events:
            world.fetch(event) if isinstance(event, int) else getattr(world, event)()
        world.fetch(1_000)
        while world.gathering._count:
            world.handle()
        world.acknowledge()
        world.commit()
    for tp, log in world.logs.items():
        handled = world.handled.get(tp, [])
        if world.readings == 1:
            assert handled == log  # once each, in order
        assert set(handled) == set(log)
        if log:
            assert world.committed[tp] == log[-1] + 1
    assert consumer.buffered.rows[TOPIC] == 0


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 12))
def test_batches_keep_the_order_and_an_event_is_complete_with_its_last_record(
    sizes: list[int], rows: int
) -> None:
    gathering = Gathering[int, tuple[int, int]](rows=rows, within_s=0.0)
    for event, size in enumerate(sizes):
        gathering.add(event, [(event, n) for n in range(size)])
    seen: list[tuple[int, int]] = []
    while gathering._count:
        full = gathering.full
        records, complete = gathering.take()
        assert len(records) == rows if full else 0 < len(records) <= rows
        seen += records
        done = [event for event, size in enumerate(sizes) if (event, size - 1) in records]
        assert complete == done
    assert seen == [(event, n) for event, size in enumerate(sizes) for n in range(size)]


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=6))
async def test_what_one_fetch_gave_of_a_topic_is_one_batch(fetches: list[list[int]]) -> None:
    gathering = Gathering[int, int](rows=1_000, within_s=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streams.gathering.FOLLOWS_S", 60)  # a busy machine may pause in between
        for number, sizes in enumerate(fetches):
            batch = asyncio.create_task(gathering.batch())
            for place, size in enumerate(sizes):
                await asyncio.sleep(0)  # who takes could do so now
                now_s, followed = asyncio.get_running_loop().time(), place < len(sizes) - 1
                gathering.add(number, [number] * size, now_s=now_s, followed=followed)
            assert await batch == ([number] * sum(sizes), [number] * len(sizes))


async def test_an_event_that_does_not_follow_after_all_is_not_waited_for() -> None:
    gathering = Gathering[str, int](rows=10, within_s=0.0)
    gathering.add("first", [1], now_s=asyncio.get_running_loop().time(), followed=True)
    assert await asyncio.wait_for(gathering.batch(), 20) == ([1], ["first"])
