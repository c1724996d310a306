"""Four ways to read interactions from Kafka, each decoded into the same contract and checked.

Every reader is a function of a `Feed`: it starts, reads until enough records have come, stops, and
gives what that took from the first batch to the last. Must not know who compares them.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faust
import msgspec
from aiokafka import AIOKafkaConsumer

from schemas import Interaction
from streams.app import AppConfig, make_app, spare_the_collector
from streams.batches import Batching, each_batch
from streams.decoding import Limits, Record, decode_record
from streams.flow import raw_topic

ROWS = 256  # of a batch: that of the roles
WITHIN_S = 0.02
FETCH_WAIT_MS = 20  # the embedded cluster does not wake a fetch that waits
GROUP_TIMEOUTS_S = 6.0


@dataclass(frozen=True, slots=True)
class Feed:
    """What is read.

    Attributes:
        servers: brokers.
        topic: interactions as JSON.
        group: a consumer group of its own.
        rows: read so many, no fewer.
    """

    servers: str
    topic: str
    group: str
    rows: int


@dataclass(slots=True)
class Reading:
    """What reading took, the first batch not counted.

    Attributes:
        rows: records that came.
        seconds: by the clock on the wall.
        cpu_s: of this process.
    """

    rows: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0


@dataclass(slots=True)
class Counting:
    """Counts records, from the end of the first batch until enough have come."""

    wanted: int
    reading: Reading = field(default_factory=Reading)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    _since: tuple[float, float] | None = None

    def add(self, rows: int) -> None:
        """Count records that were decoded."""
        now = (time.perf_counter(), time.process_time())
        if self._since is None:
            self._since = now
        elif not self.done.is_set():
            self.reading.rows += rows
            if self.reading.rows >= self.wanted:
                self.reading.seconds = now[0] - self._since[0]
                self.reading.cpu_s = now[1] - self._since[1]
                self.done.set()


class Event(faust.Record, validation=True, coerce=True, serializer="json"):
    """The contract as Faust's own users write it."""

    id: str
    user: str
    task: str
    time: datetime
    text: str


async def run_mindstream(feed: Feed) -> Reading:
    """Read as the roles do: their app, the fast transport, batches, `decode_record`."""
    limits = Limits()
    counting = Counting(feed.rows)
    with tempfile.TemporaryDirectory() as folder:
        app = make_app(
            AppConfig(
                name=feed.group,
                servers=(feed.servers,),
                web_host="127.0.0.1",
                web_port=_free_port(),
                data_dir=Path(folder),
                embedded=True,
                session_timeout_s=GROUP_TIMEOUTS_S,
            )
        )

        async def handle(records: list[Record]) -> None:
            now = datetime.now(UTC)
            for record in records:
                decode_record(Interaction, record, limits=limits, now=now)
            counting.add(len(records))

        async def agent(stream: Any) -> None:  # noqa: ANN401
            await each_batch(stream, handle, batching=Batching(rows=ROWS, within_s=WITHIN_S))

        app.agent(raw_topic(app, feed.topic), name="benchmark")(agent)
        return await _run(app, counting)


def read_with_mindstream(feed: Feed) -> Reading:
    """Read as the roles do, in a process of their own."""
    spare_the_collector()  # as `run_worker` does
    return asyncio.run(run_mindstream(feed))


def read_with_records(feed: Feed) -> Reading:
    """Read as Faust's guide shows: `async for`, the contract a `faust.Record` with validation."""

    async def agent(stream: Any, counting: Counting) -> None:  # noqa: ANN401
        async for event in stream:
            assert event.text
            counting.add(1)

    return asyncio.run(_read_stock(feed, agent, {"value_type": Event, "value_serializer": "json"}))


def read_with_take(feed: Feed) -> Reading:
    """Read with `take`, raw bytes decoded by msgspec into mindstream's contract."""
    decode = msgspec.json.Decoder(Interaction).decode

    async def agent(stream: Any, counting: Counting) -> None:  # noqa: ANN401
        async for values in stream.take(ROWS, within=WITHIN_S):
            for value in values:
                decode(value)
            counting.add(len(values))

    return asyncio.run(_read_stock(feed, agent, {"value_type": bytes, "value_serializer": "raw"}))


async def run_aiokafka(feed: Feed) -> Reading:
    """Read without Faust: `getmany`, decoded by msgspec into mindstream's contract."""
    decode = msgspec.json.Decoder(Interaction).decode
    counting = Counting(feed.rows)
    consumer = AIOKafkaConsumer(
        feed.topic,
        bootstrap_servers=feed.servers,
        group_id=feed.group,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=FETCH_WAIT_MS,
    )
    await consumer.start()
    try:
        while not counting.done.is_set():
            for records in (await consumer.getmany(timeout_ms=1000, max_records=1000)).values():
                for record in records:
                    decode(record.value)
                counting.add(len(records))
    finally:
        await consumer.stop()
    return counting.reading


def read_with_aiokafka(feed: Feed) -> Reading:
    """Read without Faust, in a process of its own."""
    return asyncio.run(run_aiokafka(feed))


async def _read_stock(
    feed: Feed,
    agent: Callable[[Any, Counting], Awaitable[None]],
    topic: dict[str, Any],
) -> Reading:
    """Run an agent in an app with Faust's own settings but for what any deployment sets."""
    counting = Counting(feed.rows)
    with tempfile.TemporaryDirectory() as folder:
        app = faust.App(
            feed.group,
            broker=f"kafka://{feed.servers}",
            datadir=folder,
            autodiscover=False,
            web_enabled=False,
            topic_disable_leader=True,
            consumer_auto_offset_reset="earliest",
            broker_session_timeout=GROUP_TIMEOUTS_S,
            broker_heartbeat_interval=1.0,
            stream_wait_empty=False,
        )

        async def counted(stream: Any) -> None:  # noqa: ANN401
            await agent(stream, counting)

        app.agent(app.topic(feed.topic, **topic), name="benchmark")(counted)
        return await _run(app, counting)


async def _run(app: faust.App, counting: Counting) -> Reading:
    await app.start()
    try:
        await counting.done.wait()
    finally:
        await app.stop()
    return counting.reading


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
