"""Read this first: which agents a role attaches to its app, in the order of the stream.

::

    interactions ──┬──► serve ───────────────────────────► predictions ──┐
                   └──► ingest ──┬──► examples ──► learn ──► models ► serve
    feedback ─────────► ingest ──┘        └───────────────────► watch ◄──┘ ──► drift
                          └──► dead-letters

`learn` is no Faust app: `streams/learn.py` is its loop. Owns what is attached to what; must not
know settings or how an agent does its work.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import faust
import redis
from aiokafka.errors import KafkaError

from serving.metrics import Metrics
from streams.batches import each_batch
from streams.decoding import Record
from streams.ingest import Ingest
from streams.lag import measure_lag
from streams.web import attach_pages

log = logging.getLogger(__name__)

# The broker or Redis is away: lag grows, nothing is lost.
TRANSIENT = (KafkaError, redis.ConnectionError, redis.TimeoutError, asyncio.TimeoutError)

TIDY_EVERY_S = 1.0


def raw_topic(app: faust.App, name: str) -> Any:  # noqa: ANN401
    """Give a Faust topic of raw bytes: decoding is ours, so that a bad message can be kept."""
    return app.topic(
        name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
    )


def ingest_flow(app: faust.App, ingest: Ingest, metrics: Metrics) -> None:
    """Attach the ingest role: two agents, a timer for what waits too long, the pages."""

    async def interactions(stream: Any) -> None:  # noqa: ANN401
        async def handle(records: list[Record]) -> None:
            await ingest.handle_interactions(app, records)

        await each_batch(stream, handle, transient=TRANSIENT)

    async def feedback(stream: Any) -> None:  # noqa: ANN401
        async def handle(records: list[Record]) -> None:
            await ingest.handle_feedback(app, records)

        await each_batch(stream, handle, transient=TRANSIENT)

    async def tidy() -> None:
        try:
            await ingest.tidy_off_the_loop()
        except TRANSIENT as error:
            log.warning("tidying: %s; trying again", error)

    app.agent(raw_topic(app, ingest.topics.interactions), name="interactions")(interactions)
    app.agent(raw_topic(app, ingest.topics.feedback), name="feedback")(feedback)
    app.timer(TIDY_EVERY_S)(tidy)
    measure_lag(app, metrics)
    attach_pages(app, metrics=metrics)
