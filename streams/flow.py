"""Read this first: which agents a role attaches to its app, in the order of the stream.

::

    interactions ──┬──► serve ───────────────────────────► predictions ──┐
                   └──► ingest ──┬──► examples ──► learn ──► models ► serve
    feedback ─────────► ingest ──┘        └───────────────────► watch ◄──┘ ──► drift ──► learn
                          └──► dead-letters
    HTTP ────────► serve: the same micro-batches, for those who wait

`learn` is no Faust app: `streams/learn.py` is its loop. Owns what is attached to what; must not
know settings or how an agent does its work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import faust
import redis
from aiokafka.errors import KafkaError

from serving.metrics import Metrics
from streams.batches import DEFAULT_BATCHING, Batching, each_batch
from streams.decoding import Record
from streams.http import HttpConfig, attach_http
from streams.ingest import Ingest
from streams.lag import measure_lag
from streams.models import ModelsReader
from streams.serve import Answered, Serve
from streams.watch import Watch
from streams.web import attach_pages

log = logging.getLogger(__name__)

T = TypeVar("T")

# The broker or Redis is away: lag grows, nothing is lost.
TRANSIENT = (KafkaError, redis.ConnectionError, redis.TimeoutError, asyncio.TimeoutError)

TIDY_EVERY_S = 1.0

# One batch in the model, one being read, one on its way to the broker.
SERVE_IN_FLIGHT = 3

READ_POLL_S = 0.02


def raw_topic(app: faust.App, name: str) -> Any:  # noqa: ANN401
    """Give a Faust topic of raw bytes: decoding is ours, so that a bad message can be kept."""
    return app.topic(
        name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
    )


def _attach(
    app: faust.App,
    topic: str,
    handle: Callable[[faust.App, list[Record]], Awaitable[T]],
    publish: Callable[[faust.App, T], Awaitable[None]] | None = None,
    *,
    name: str,
    batching: Batching = DEFAULT_BATCHING,
) -> None:
    """Attach one agent: batches of raw records, handled until durable, then acknowledged.

    Args:
        app: before it starts.
        topic: to read.
        handle: as for `each_batch`.
        publish: as for `each_batch`.
        name: of the agent.
        batching: as for `each_batch`.
    """
    then = None if publish is None else partial(publish, app)

    async def agent(stream: Any) -> None:  # noqa: ANN401
        await each_batch(stream, partial(handle, app), then, batching=batching, transient=TRANSIENT)

    app.agent(raw_topic(app, topic), name=name)(agent)


def ingest_flow(app: faust.App, ingest: Ingest, metrics: Metrics) -> None:
    """Attach the ingest role: two agents, a timer for what waits too long, the pages."""

    async def tidy() -> None:
        try:
            await ingest.tidy_off_the_loop()
        except TRANSIENT as error:
            log.warning("tidying: %s; trying again", error)

    _attach(app, ingest.topics.interactions, ingest.handle_interactions, name="interactions")
    _attach(app, ingest.topics.feedback, ingest.handle_feedback, name="feedback")
    app.timer(TIDY_EVERY_S)(tidy)
    measure_lag(app, metrics)
    attach_pages(app, metrics=metrics)


def serve_flow(
    app: faust.App,
    serve: Serve,
    models: ModelsReader,
    metrics: Metrics,
    *,
    rows: int,
    within_s: float,
    http: HttpConfig | None = None,
) -> None:
    """Attach the serve role: one agent, the reader of releases, the pages, and HTTP if wanted."""
    read = asyncio.Event()

    async def follow_models(app: faust.App) -> None:
        models.start()
        while not models.ready:  # noqa: ASYNC110 - a thread's flag
            await asyncio.sleep(READ_POLL_S)
        read.set()

    async def answer(_: faust.App, records: list[Record]) -> Answered:
        await read.wait()  # else a worker that has just come would say that there is no release
        return await serve.answer(records)

    _attach(
        app,
        serve.topics.interactions,
        answer,
        serve.publish,
        name="serve",
        batching=Batching(
            rows=rows,
            within_s=within_s,
            early_rows=serve.batcher.max_rows,  # fewer gather while the model is at work
            in_flight=SERVE_IN_FLIGHT,
        ),
    )
    app.task(follow_models)
    measure_lag(app, metrics)
    attach_pages(
        app,
        metrics=metrics,
        releases=serve.releases,
        ready={"releases-read": lambda: models.ready},
        alive={"models-reader": lambda: models.alive},
    )
    if http is not None:
        attach_http(app, serve, http)


def watch_flow(app: faust.App, watch: Watch, metrics: Metrics) -> None:
    """Attach the watch role: two agents that meet in Redis, the pages."""
    _attach(app, watch.topics.predictions, watch.handle_predictions, name="predictions")
    _attach(app, watch.topics.examples, watch.handle_examples, name="examples")
    measure_lag(app, metrics)
    attach_pages(app, metrics=metrics)
