"""Batches that are handled at the same time: none is acknowledged before those ahead of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import faust
import pytest
from kafka import KafkaConsumer, TopicPartition

from streams.batches import each_batch
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
            await each_batch(stream, handle, rows=4, within_s=0.0, in_flight=3)

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
            await each_batch(stream, handle, rows=16, in_flight=in_flight)

        app.agent(raw_topic(app, topic), name="agent")(agent)

    async with launch(group, to):
        await eventually(lambda: committed(wire, group, topic) == 500)
    assert sorted(seen) == list(range(500))
