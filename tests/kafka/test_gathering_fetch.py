"""A role at work reads together what comes meanwhile; one that has nothing to do reads at once."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from streams.app import AppConfig, make_app
from streams.flow import raw_topic
from streams.transport import GATHER_BYTES, GATHER_MS
from tests.flow.conftest import eventually, free_port
from tests.kafka.conftest import create_topics

pytestmark = pytest.mark.kafka

ROWS = 60


def one_by_one(broker: str, topic: str) -> float:
    """Send records two milliseconds apart; give the milliseconds that it took."""
    producer = KafkaProducer(bootstrap_servers=broker, acks="all", linger_ms=0)
    started_s = time.monotonic()
    for number in range(ROWS):
        producer.send(topic, b"%d" % number)
        time.sleep(0.002)
    producer.flush()
    took_s = time.monotonic() - started_s
    producer.close()
    return 1000 * took_s


@pytest.mark.timeout(120)
async def test_a_role_at_work_lets_the_broker_gather(broker: str, tmp_path: Path) -> None:
    create_topics(broker, {"one-by-one": 1})
    app = make_app(
        AppConfig(
            name="gathers",
            servers=(broker,),
            web_host="127.0.0.1",
            web_port=free_port(),
            data_dir=tmp_path,
        )
    )
    fetched: list[int] = []
    go_on = asyncio.Event()

    async def work(stream: Any) -> None:
        mine = stream.noack()
        async for event in mine.events():
            fetched.append(len(event.value.records))
            await go_on.wait()
            event.value.durable = True
            await mine.ack(event)
            event.value.release()

    app.agent(raw_topic(app, "one-by-one"), name="work")(work)
    await app.start()
    try:
        consumer: Any = app.consumer
        fetcher = await eventually(lambda: getattr(consumer._thread._consumer, "_fetcher", None))
        assert fetcher._fetch_min_bytes == 1
        producer = KafkaProducer(bootstrap_servers=broker, acks="all")
        producer.send("one-by-one", b"first").get(timeout=20)
        producer.close()
        await eventually(lambda: fetched)
        assert (fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms) == (GATHER_BYTES, GATHER_MS)
        took_ms = await asyncio.to_thread(one_by_one, broker, "one-by-one")
        await eventually(lambda: consumer.buffered.rows["one-by-one"] == ROWS + 1)
        go_on.set()
        await eventually(lambda: sum(fetched) == ROWS + 1)
        assert len(fetched) <= 5 + took_ms / GATHER_MS  # not one for each
        await eventually(lambda: fetcher._fetch_min_bytes == 1)
        assert fetcher._fetch_max_wait_ms > GATHER_MS
    finally:
        await app.stop()
