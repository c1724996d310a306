"""A real wire: librdkafka's in-process cluster, and Faust apps run in the test's own loop."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import faust
import pytest
from confluent_kafka import Producer
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from schemas import codec
from streams.app import AppConfig, make_app
from tests.foundry import encoder, foundry

__all__ = ["encoder", "foundry", "launch", "wire"]

T = TypeVar("T")


@dataclass(frozen=True)
class Wire:
    """A broker's address, with the few verbs that tests need."""

    servers: str

    def send(self, topic: str, messages: list[tuple[str, codec.Contract | bytes]]) -> None:
        producer = KafkaProducer(bootstrap_servers=self.servers, acks="all")
        for key, message in messages:
            value = message if isinstance(message, bytes) else codec.encode(message)
            producer.send(topic, key=key.encode(), value=value)
        producer.flush()
        producer.close()

    def read(self, topic: str, contract: type[T]) -> list[T]:
        """Read all that is on a topic now."""
        consumer = self.consumer()
        try:
            numbers = consumer.partitions_for_topic(topic) or set()
            if not numbers:  # nobody has written to it yet
                return []
            partitions = [TopicPartition(topic, number) for number in sorted(numbers)]
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            ends = consumer.end_offsets(partitions)
            messages: list[T] = []
            while any(consumer.position(partition) < end for partition, end in ends.items()):
                for records in consumer.poll(timeout_ms=100).values():
                    messages += [codec.decode(contract, r.value, r.headers) for r in records]
            return messages
        finally:
            consumer.close()

    def consumer(self, group: str | None = None) -> KafkaConsumer:
        return KafkaConsumer(bootstrap_servers=self.servers, group_id=group, fetch_max_wait_ms=20)


@pytest.fixture(scope="session")
def wire() -> Iterator[Wire]:
    """Start one in-process cluster; every test uses topics of its own.

    Yields:
        Its address.
    """
    owner = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    broker = next(iter(owner.list_topics(timeout=10).brokers.values()))
    yield Wire(f"{broker.host}:{broker.port}")
    del owner


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass(frozen=True)
class Role:
    """A running Faust app and its pages."""

    app: faust.App
    port: int

    async def page(self, path: str) -> tuple[int, str, str]:
        """Fetch a page: status, content type, body."""
        return await asyncio.to_thread(self._page, path)

    def _page(self, path: str) -> tuple[int, str, str]:
        try:
            answer = urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["Content-Type"], error.read().decode()
        with answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()

    async def json(self, path: str) -> tuple[int, Any]:
        status, content_type, body = await self.page(path)
        assert content_type.startswith("application/json")
        return status, json.loads(body)


Launch = Callable[..., Any]


@pytest.fixture
def launch(wire: Wire, tmp_path: Path) -> Launch:
    """Give a context manager that runs a role: `async with launch(name, attach) as role`."""

    @asynccontextmanager
    async def run(
        name: str, attach: Callable[[faust.App], None], **more: Any
    ) -> AsyncIterator[Role]:
        port = free_port()
        app = make_app(
            AppConfig(
                name=name,
                servers=(wire.servers,),
                web_host="127.0.0.1",
                web_port=port,
                data_dir=tmp_path / name,
                embedded=True,
                session_timeout_s=4.0,
                **more,
            )
        )
        attach(app)
        await app.start()
        try:
            yield Role(app, port)
        finally:
            await app.stop()

    return run


async def eventually(
    check: Callable[[], Any], *, within_s: float = 40.0, every_s: float = 0.1
) -> Any:
    """Call `check` off the loop until it answers with something true, and give that back.

    Raises:
        AssertionError: it never did within the time.
    """
    end = time.monotonic() + within_s
    while True:
        found = await asyncio.to_thread(check)
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {within_s:.0f} s; the last answer was {found!r}")
        await asyncio.sleep(every_s)
