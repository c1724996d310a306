"""What streams/transport.py overrides in faust-streaming is there, is called, and takes effect."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from typing import Any

import faust
from aiokafka import AIOKafkaConsumer
from faust.transport.drivers import aiokafka as driver

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
