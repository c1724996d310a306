"""Batches that are handled at the same time: none is acknowledged before those ahead of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import faust
import pytest
from kafka import KafkaConsumer, TopicPartition

from streams.batches import Batching, each_batch
from streams.decoding import Record
from streams.flow import raw_topic
from tests.flow.conftest import Launch, Wire, eventually


def committed(wire: Wire, group: str, topic: str) -> int:
    """Add up a group's places on a topic."""
    consumer = KafkaConsumer(bootstrap_servers=wire.servers, group_id=group)
    try:
        numbers = consumer.partitions_for_topic(topic) or set()
        places = [consumer.committed(TopicPartition(topic, number)) for number in numbers]
        return sum(place or 0 for place in places)
    finally:
        consumer.close()


def attach(topic: str, handle: Callable[[list[Record]], Awaitable[None]]) -> Callable[..., None]:
    """Attach an agent with three batches in flight."""

    def to(app: faust.App) -> None:
        async def agent(stream: object) -> None:
            await each_batch(stream, handle, batching=Batching(rows=4, within_s=0.0, in_flight=3))

        app.agent(raw_topic(app, topic), name="agent")(agent)

    return to


async def test_a_batch_that_is_done_first_waits_for_the_one_before(
    wire: Wire, launch: Launch
) -> None:
    topic = group = "in-flight-order"
    wire.send(topic, [("one key", b"%d" % number) for number in range(40)])
    gate = asyncio.Event()
    begun: list[int] = []

    async def handle(records: list[Record]) -> None:
        begun.append(int(records[0].value))
        if begun[0] == int(records[0].value):  # the first is slow
            await gate.wait()

    async with launch(group, attach(topic, handle)):
        await eventually(lambda: len(begun) == 3)
        await asyncio.sleep(1.5)  # three commits would have come
        # Three were begun, no fourth; two are done, and nothing is acknowledged
        assert begun == sorted(begun)
        assert len(begun) == 3
        assert await asyncio.to_thread(committed, wire, group, topic) == 0
        gate.set()
        # With the first done, all goes on without anything more coming
        await eventually(lambda: committed(wire, group, topic) == 40)
        assert begun == sorted(begun)
        assert len(begun) == len(set(begun)) >= 10


async def test_what_was_in_flight_at_a_stop_comes_again(wire: Wire, launch: Launch) -> None:
    topic = group = "in-flight-stop"
    wire.send(topic, [("one key", b"%d" % number) for number in range(12)])
    stuck = asyncio.Event()
    seen: list[int] = []

    async def never(records: list[Record]) -> None:
        seen.extend(int(record.value) for record in records)
        await stuck.wait()

    async def quick(records: list[Record]) -> None:
        seen.extend(int(record.value) for record in records)

    async with launch(group, attach(topic, never)):
        await eventually(lambda: len(seen) == 12)
    seen.clear()
    async with launch(group, attach(topic, quick)):
        await eventually(lambda: len(seen) == 12)
        assert sorted(seen) == list(range(12))


@pytest.mark.parametrize("in_flight", [1, 3])
async def test_every_record_is_handled_once_and_all_are_acknowledged(
    wire: Wire, launch: Launch, in_flight: int
) -> None:
    topic = group = f"in-flight-{in_flight}"
    wire.send(topic, [(f"key {n}", b"%d" % n) for n in range(500)])
    seen: list[int] = []

    async def handle(records: list[Record]) -> None:
        await asyncio.sleep(0.001 * (int(records[0].value) % 7))
        seen.extend(int(record.value) for record in records)

    def to(app: faust.App) -> None:
        async def agent(stream: object) -> None:
            await each_batch(stream, handle, batching=Batching(rows=16, in_flight=in_flight))

        app.agent(raw_topic(app, topic), name="agent")(agent)

    async with launch(group, to):
        await eventually(lambda: committed(wire, group, topic) == 500)
    assert sorted(seen) == list(range(500))


async def test_little_waits_for_the_turn_of_the_batch_before_and_then_goes_together(
    wire: Wire, launch: Launch
) -> None:
    topic = group = "in-flight-turns"
    wire.send(topic, [("one key", b"0")])
    gate, published = asyncio.Event(), asyncio.Event()
    begun: list[list[int]] = []
    sent: list[list[int]] = []

    async def handle(records: list[Record]) -> list[int]:
        begun.append([int(record.value) for record in records])
        if len(begun) == 1:
            await gate.wait()
        return begun[-1]

    async def publish(numbers: list[int]) -> None:
        if not sent:
            await published.wait()
        sent.append(numbers)

    def to(app: faust.App) -> None:
        async def agent(stream: object) -> None:
            batching = Batching(rows=16, within_s=0.0, early_rows=4, in_flight=3)
            await each_batch(stream, handle, publish, batching=batching)

        app.agent(raw_topic(app, topic), name="agent")(agent)

    async with launch(group, to):
        await eventually(lambda: begun == [[0]])
        for number in (1, 2, 3):  # each in a fetch of its own
            wire.send(topic, [("one key", b"%d" % number)])
            await asyncio.sleep(0.1)
        assert begun == [[0]]
        gate.set()
        # The first is not published yet: only its turn is over
        await eventually(lambda: begun == [[0], [1, 2, 3]])
        published.set()
        await eventually(lambda: sent == [[0], [1, 2, 3]])
        await eventually(lambda: committed(wire, group, topic) == 4)


async def test_enough_for_a_batch_does_not_wait_for_a_turn(wire: Wire, launch: Launch) -> None:
    topic = group = "in-flight-early"
    gate = asyncio.Event()
    begun: list[int] = []

    async def handle(records: list[Record]) -> None:
        begun.extend(int(record.value) for record in records)
        await gate.wait()

    def to(app: faust.App) -> None:
        async def agent(stream: object) -> None:
            batching = Batching(rows=16, within_s=0.0, early_rows=4, in_flight=3)
            await each_batch(stream, handle, batching=batching)

        app.agent(raw_topic(app, topic), name="agent")(agent)

    async with launch(group, to):
        wire.send(topic, [("one key", b"0")])
        await eventually(lambda: begun == [0])
        wire.send(topic, [("one key", b"%d" % number) for number in range(1, 5)])
        await eventually(lambda: begun == [0, 1, 2, 3, 4])
        gate.set()
        await eventually(lambda: committed(wire, group, topic) == 5)


async def test_only_what_failed_is_done_again(wire: Wire, launch: Launch) -> None:
    topic = group = "in-flight-again"
    wire.send(topic, [("one key", b"0"), ("one key", b"1")])
    handled: list[int] = []
    tried: list[list[int]] = []

    async def handle(records: list[Record]) -> list[int]:
        handled.extend(int(record.value) for record in records)
        return [int(record.value) for record in records]

    async def publish(numbers: list[int]) -> None:
        tried.append(numbers)
        if len(tried) == 1:
            raise ConnectionError

    def to(app: faust.App) -> None:
        async def agent(stream: object) -> None:
            await each_batch(
                stream, handle, publish, batching=Batching(rows=2), transient=(ConnectionError,)
            )

        app.agent(raw_topic(app, topic), name="agent")(agent)

    async with launch(group, to):
        await eventually(lambda: committed(wire, group, topic) == 2)
    assert sorted(handled) == [0, 1]
    assert tried[0] == tried[1]
