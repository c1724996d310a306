"""Batches to a real wire: partitions as Kafka's clients choose, order, headers, any size."""

from __future__ import annotations

from typing import Any

import faust
import pytest
from aiokafka.errors import MessageSizeTooLargeError
from hypothesis import given
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.partitioner.default import DefaultPartitioner

from streams.batches import each_batch
from streams.decoding import Record
from streams.flow import raw_topic
from streams.producing import Outgoing, partition_of, produce
from tests.flow.conftest import Launch, Wire

TOPIC = "producing.out"
HEADERS = (("ce_id", b"1"), ("content-type", b"application/json"))


@given(st.binary(max_size=40), st.integers(1, 64))
def test_a_key_goes_where_kafkas_own_clients_send_it(key: bytes, partitions: int) -> None:
    numbers = list(range(partitions))
    assert partition_of(key, partitions) == DefaultPartitioner()(key, numbers, numbers)
    assert 0 <= partition_of(None, partitions) < partitions


def attach(app: faust.App) -> None:
    async def nothing(records: list[Record]) -> None:
        del records

    async def agent(stream: Any) -> None:
        await each_batch(stream, nothing)

    app.agent(raw_topic(app, "producing.in"), name="nothing")(agent)


def read(wire: Wire) -> dict[int, list[Any]]:
    consumer = wire.consumer()
    try:
        found: dict[int, list[Any]] = {}
        for number in sorted(consumer.partitions_for_topic(TOPIC) or ()):
            partition = TopicPartition(TOPIC, number)
            consumer.assign([partition])
            consumer.seek_to_beginning(partition)
            end = consumer.end_offsets([partition])[partition]
            found[number] = []
            while consumer.position(partition) < end:
                for rows in consumer.poll(timeout_ms=100).values():
                    found[number] += rows
        return found
    finally:
        consumer.close()


async def test_messages_arrive_whole_in_order_and_where_their_keys_belong(
    wire: Wire, launch: Launch
) -> None:
    def message(n: int, value: bytes) -> Outgoing:
        return Outgoing(TOPIC, b"user-%d" % (n % 7), value, HEADERS)

    # Many batches of small ones, and two larger than a batch may be
    many = [message(n, b"%06d" % n + b"x" * 600) for n in range(3_000)]
    large = [message(n, b"%06d" % n + bytes(range(256)) * 1_500) for n in (3_000, 3_007)]
    async with launch("producing", attach) as role:
        await produce(role.app, [*many, *large])
        await produce(role.app, [])
        await produce(role.app, [message(3_014, b"003014")])
        too_large = Outgoing(TOPIC, b"k", b"x" * 17 * 1024 * 1024, ())
        with pytest.raises(MessageSizeTooLargeError, match="17,825,8.. bytes for producing.out"):
            await produce(role.app, [message(0, b"never sent"), too_large])
        loose = [Outgoing(TOPIC, None, b"no key", ()) for _ in range(50)]
        await produce(role.app, loose)
    found = read(wire)
    count = len(found)
    keyed = [row for rows in found.values() for row in rows if row.key is not None]
    assert len(keyed) == 3_003
    assert all(tuple(row.headers) == HEADERS for row in keyed)
    for number, rows in found.items():
        mine = [row for row in rows if row.key is not None]
        assert all(partition_of(row.key, count) == number for row in mine)
        order = [int(row.value[:6]) for row in mine]
        assert order == sorted(order)
        assert all(
            row.value == [*many, *large][int(row.value[:6])].value
            for row in mine
            if int(row.value[:6]) < 3_000
        )
    assert {len(row.value) for row in keyed} == {606, 6, 6 + 256 * 1_500}
    assert sum(row.key is None for rows in found.values() for row in rows) == 50
