"""A server's HTTP API without its Kafka: the real web application, batcher and releases."""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faust
from aiohttp import web
from prometheus_client import CollectorRegistry

from learners.released import EncoderCache, ReleasedModel
from learners.tasks import task_kind
from serving.batcher import MicroBatcher
from serving.metrics import Metrics
from serving.predictor import Predictor
from serving.releases import Releases
from streams.admission import HttpLimits
from streams.app import AppConfig, make_app
from streams.decoding import Limits
from streams.http import HttpConfig, attach_http
from streams.serve import Serve
from streams.topics import Topics
from tests.foundry import Foundry

JSON = {"Content-Type": "application/json"}


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def kind(self) -> str:
        return self.headers.get("Content-Type", "")


@dataclass(frozen=True)
class Parts:
    """The parts of a server, its releases and its batcher running."""

    serve: Serve
    releases: Releases
    metrics: Metrics
    kinds: Mapping[str, Any]


@contextmanager
def parts(foundry: Foundry, prefix: str, **limits: Any) -> Iterator[Parts]:
    """Build a server on real releases; it is closed afterwards.

    Yields:
        Its parts.
    """
    metrics = Metrics(CollectorRegistry())
    encoders = EncoderCache(device="cpu", precision="fp32")
    releases = Releases(
        lambda release: ReleasedModel.load(release, foundry.registry, encoders=encoders),
        metrics=metrics,
        now=now,
        tasks=frozenset({"intents", "topics"}),
    )
    kinds = {"intents": task_kind("classify"), "topics": task_kind("multilabel")}
    predictor = Predictor(kinds, top=2, now=now, monotonic_s=time.monotonic)
    batcher = MicroBatcher(predictor, releases.current, **limits)
    serve = Serve(
        topics=Topics(prefix),
        batcher=batcher,
        releases=releases,
        metrics=metrics,
        limits=Limits(max_bytes=100_000),
    )
    yield Parts(serve, releases, metrics, kinds)
    batcher.close()
    releases.close()


@dataclass(frozen=True)
class Served:
    """A web application that listens, in a thread of its own."""

    port: int

    def ask(self, route: str, body: bytes = b"", *, method: str = "POST", **headers: str) -> Answer:
        """Send one request, JSON unless the headers say otherwise."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, route, body, {**JSON, **named})
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()


def unstarted_app(folder: Path) -> faust.App:
    """Build an app whose Kafka is never spoken to."""
    return make_app(
        AppConfig(
            name="http",
            servers=("127.0.0.1:9",),
            web_host="127.0.0.1",
            web_port=1,
            data_dir=folder,
        )
    )


@contextmanager
def served(own: Parts, folder: Path, limits: HttpLimits) -> Iterator[Served]:
    """Let the API listen on a port of its own, without starting the app.

    Yields:
        Where to ask.
    """
    app = unstarted_app(folder)
    attach_http(app, own.serve, HttpConfig(own.kinds, limits))
    driver: Any = app.web
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runner = web.AppRunner(driver.web_app, access_log=None)

    async def start() -> int:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port: int = runner.addresses[0][1]
        return port

    port = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    yield Served(port)
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
