"""What streams/transport.py overrides in faust-streaming is there, is called, and takes effect."""

from __future__ import annotations

import hashlib
import inspect
from importlib.metadata import version
from typing import Any

import faust
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.fetcher import Fetcher
from faust.streams import Stream
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import Message
from intervaltree import IntervalTree

from streams.flow import raw_topic
from streams.transport import use_transport
from tests.flow.conftest import Launch, eventually, launch, wire

__all__ = ["launch", "wire"]

WAIT_MS = 77  # nobody's default


def test_the_version_is_the_one_that_was_read() -> None:
    # A new one may be right as well: read its aiokafka driver, then change this line.
    assert version("faust-streaming") == "0.15.3"


def test_the_methods_that_are_overridden_take_what_they_took() -> None:
    thread, consumer = driver.AIOKafkaConsumerThread, driver.Consumer
    assert list(inspect.signature(thread._create_worker_consumer).parameters) == [
        "self",
        "transport",
    ]
    assert list(inspect.signature(consumer._new_consumer_thread).parameters) == ["self"]
    assert "fetch_max_wait_ms=1500" in inspect.getsource(thread._create_worker_consumer)


def digest(method: Any) -> str:
    return hashlib.sha256(inspect.getsource(method).encode()).hexdigest()[:12]


OWNERS: dict[str, Any] = {
    "Consumer": driver.Consumer,
    "Fetcher": Fetcher,
    "Message": Message,
    "Producer": driver.Producer,
    "Stream": Stream,
    "Thread": driver.AIOKafkaConsumerThread,
}
# What the fast transport overrides, calls, or is called by: read each again when it has changed.
READ = {
    "Consumer.getmany": "4b168d84882a",
    "Consumer._getmany": "f9d47aa9010b",
    "Consumer._wait_next_records": "6218e1969a63",
    "Consumer._drain_messages": "44a2500309e8",
    "Consumer._add_gap": "4df2573ded7c",
    "Consumer._new_offset": "1d2c7ea89a7a",
    "Consumer._filter_committable_offsets": "dc5e9baf5d99",
    "Consumer.ack": "5fcf41cf4515",
    "Consumer.perform_seek": "0e8c130ff4b0",
    "Consumer.on_partitions_revoked": "d04b7ae72c6f",
    "Consumer._to_message": "7c24f6511b2f",
    "Thread.on_start": "38b4e8bd1e10",
    "Thread.getmany": "26fc5fc9f3b6",
    "Thread._fetch_records": "39a2c6c79fc1",
    "Message.ack": "4751b72c4ed8",
    "Stream.noack": "921a6f5c674d",
    "Stream.events": "c62f4dd3a73f",
    "Stream.ack": "32d7171a89b0",
    "Stream._py_aiter": "3a48ee257a65",
    "Fetcher._fetch_requests_routine": "2a8ec5932644",
    "Fetcher._get_actions_per_node": "1dab2cf937d1",
    "Fetcher._proc_fetch_request": "59bf948fff47",
    "Fetcher.close": "1cd24bc1c442",
    "Producer._ensure_producer": "5592a4bbdf25",
    "Producer.send": "0b5bd08f52e5",
    "Producer.flush": "36d0cb3615f6",
}


@pytest.mark.parametrize("name", READ)
def test_what_the_fast_transport_relies_on_is_what_was_read(name: str) -> None:
    owner, _, method = name.partition(".")
    assert digest(getattr(OWNERS[owner], method)) == READ[name]


async def test_the_client_of_a_running_app_has_our_fetch_wait(launch: Launch) -> None:
    async def nothing(stream: Any) -> None:
        async for _ in stream:
            pass

    def attach(app: faust.App) -> None:
        use_transport(app, fetch_wait_ms=WAIT_MS, fast=None)
        app.agent(raw_topic(app, "pinned.events"), name="nothing")(nothing)

    async with launch("pinned", attach) as role:
        consumer: Any = role.app.consumer
        client = await eventually(lambda: consumer._thread._consumer)
        assert isinstance(client, AIOKafkaConsumer)
        fetcher = await eventually(lambda: client._fetcher)
        assert fetcher._fetch_max_wait_ms == WAIT_MS


def test_gaps_that_touch_are_not_merged_so_that_a_chunk_is_committed_alone() -> None:
    tree = IntervalTree()
    tree.addi(0, 9)  # 9 is the last offset of its chunk
    tree.addi(10, 19)
    tree.merge_overlaps()
    assert [(one.begin, one.end) for one in sorted(tree.overlap(0, 9))] == [(0, 9)]
