"""What comes while a role is at work waits in Kafka, and comes in one fetch when the turn ends."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from aiokafka.protocol.fetch import FetchRequest
from kafka import KafkaProducer

from streams.app import AppConfig, make_app
from streams.batches import Batching, each_batch
from streams.decoding import Record
from streams.flow import raw_topic
from tests.flow.conftest import eventually, free_port
from tests.kafka.conftest import create_topics

pytestmark = pytest.mark.kafka

ROWS, PARTITIONS = 60, 4


def one_by_one(broker: str, topic: str) -> None:
    """Send records two milliseconds apart, the partitions in turn."""
    producer = KafkaProducer(bootstrap_servers=broker, acks="all", linger_ms=0)
    for number in range(ROWS):
        producer.send(topic, b"%d" % number, partition=number % PARTITIONS)
        time.sleep(0.002)
    producer.flush()
    producer.close()


@pytest.mark.timeout(120)
async def test_records_that_come_one_by_one_during_a_turn_are_the_next_one(
    broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.pacing.HOLD_S", 60.0)  # the turn here is as long as it takes
    create_topics(broker, {"one-by-one": PARTITIONS})
    app = make_app(
        AppConfig(
            name="paced",
            servers=(broker,),
            web_host="127.0.0.1",
            web_port=free_port(),
            data_dir=tmp_path,
        )
    )
    begun: list[list[int]] = []
    go_on = asyncio.Event()

    async def handle(records: list[Record]) -> None:
        begun.append(sorted(int(record.value) for record in records))
        await go_on.wait()

    async def agent(stream: object) -> None:
        await each_batch(stream, handle, batching=Batching(within_s=0.0))

    app.agent(raw_topic(app, "one-by-one"), name="agent")(agent)
    await app.start()
    try:
        consumer: Any = app.consumer
        client = await eventually(lambda: getattr(consumer._thread._consumer, "_client", None))
        fetches: list[int] = []
        send = client.send

        async def counted(node: int, request: Any, **rest: Any) -> Any:
            if isinstance(request, FetchRequest):
                fetches.append(node)
            return await send(node, request, **rest)

        client.send = counted
        producer = KafkaProducer(bootstrap_servers=broker, acks="all")
        producer.send("one-by-one", b"-1", partition=0).get(timeout=20)
        producer.close()
        await eventually(lambda: begun == [[-1]])
        fetches.clear()
        await asyncio.to_thread(one_by_one, broker, "one-by-one")
        assert not fetches
        go_on.set()
        await eventually(lambda: sum(map(len, begun)) == ROWS + 1)
        assert begun == [[-1], list(range(ROWS))]  # of all partitions, all together
    finally:
        await app.stop()
