"""HTTP beside the stream, on a real wire: answered once, recorded once, and joined later."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import faust
import msgspec
import redis as redis_client
from kafka import TopicPartition
from prometheus_client import CollectorRegistry

from learners.join import LabelJoin
from learners.replay import ReplayMemory
from schemas import Example, Interaction, Prediction
from serving.metrics import Metrics
from streams.admission import HttpLimits
from streams.decoding import Limits
from streams.flow import ingest_flow, serve_flow
from streams.http import HttpConfig
from streams.ingest import Ingest, IngestRules
from streams.models import ModelsReader
from tests.flow.conftest import Launch, Role, Wire, eventually
from tests.foundry import Foundry, interaction
from tests.httpserver import Answer, Parts, Served, parts
from tests.openapi import check_answer

TEXT = {"text": "where is my parcel", "task": "intents"}


def server(wire: Wire, own: Parts) -> tuple[ModelsReader, Callable[[faust.App], None]]:
    serve = own.serve
    reader = ModelsReader(
        wire.consumer, topic=serve.topics.models, releases=own.releases, metrics=own.metrics
    )
    http = HttpConfig(own.kinds, HttpLimits(timeout_s=30.0))

    def attach(app: faust.App) -> None:
        serve_flow(app, serve, reader, own.metrics, rows=64, within_s=0.02, http=http)

    return reader, attach


async def post(role: Role, route: str, body: object) -> tuple[int, Any]:
    def ask() -> Answer:
        return Served(role.port).ask(route, json.dumps(body).encode())

    answer = await asyncio.to_thread(ask)
    path = route.partition("?")[0]
    return answer.status, check_answer("POST", path, answer.status, answer.kind, answer.body)


def keyed(wire: Wire, topic: str) -> list[tuple[bytes, dict[str, bytes]]]:
    """Read keys and headers of all that is on a topic."""
    consumer = wire.consumer()
    try:
        found = []
        for number in consumer.partitions_for_topic(topic) or ():
            partition = TopicPartition(topic, number)
            consumer.assign([partition])
            consumer.seek_to_beginning(partition)
            [end] = consumer.end_offsets([partition]).values()
            while consumer.position(partition) < end:
                for records in consumer.poll(timeout_ms=100).values():
                    found += [(record.key, dict(record.headers)) for record in records]
        return found
    finally:
        consumer.close()


async def ask_and_tell(role: Role) -> tuple[Prediction, str]:
    """Ask with an id and without, for several, and in private; then say what was right.

    Returns:
        The first answer, and the id that the second was given.
    """
    status, mine = await post(role, "/v1/predict", {**TEXT, "id": "mine", "user": "me"})
    assert (status, mine["label"]) == (200, "delivery")
    two = {"interactions": [TEXT, {**TEXT, "colour": "blue"}]}
    status, answered = await post(role, "/v1/predict", two)
    assert status == 200
    other = answered["predictions"][0]["interaction"]
    status, _ = await post(role, "/v1/predict?publish=false", {**TEXT, "id": "private"})
    assert status == 200
    status, sent = await post(role, "/v1/interactions", {**TEXT, "id": "sent"})
    assert (status, sent["ids"], sent["accepted"]) == (202, ["sent"], 1)
    feedback = [
        {"interaction": "mine", "kind": "label", "value": "delivery"},
        {"interaction": other, "kind": "label", "value": 7},
        {"interaction": other, "kind": "correction", "value": "refund"},
    ]
    status, taken = await post(role, "/v1/feedback", {"feedback": feedback})
    assert (status, taken["accepted"], taken["ids"]) == (202, 2, ["mine", None, other])
    assert "label" in taken["errors"][0]["detail"]
    return msgspec.convert(mine, Prediction), other


def memory(redis: redis_client.Redis, task: str) -> ReplayMemory:
    return ReplayMemory(
        redis, namespace="http", task=task, max_rows=10, max_bytes=10_000, held_out_rows=1
    )


def ingest_of(own: Parts, redis: redis_client.Redis) -> Ingest:
    return Ingest(
        topics=own.serve.topics,
        rules=IngestRules(kinds=own.kinds, limits=Limits(), held_out_share=0.0),
        join=LabelJoin(redis, namespace="http", shards=2, ttl_s=600.0, remember_s=600.0),
        memories={task: memory(redis, task) for task in own.kinds},
        metrics=Metrics(CollectorRegistry()),
    )


async def test_what_is_asked_over_http_is_answered_once_recorded_once_and_joined_by_feedback(
    wire: Wire, launch: Launch, foundry: Foundry, redis: redis_client.Redis
) -> None:
    with parts(foundry, "http-flow") as own:
        # Given a server and an ingest worker on one stream
        topics, ingest = own.serve.topics, ingest_of(own, redis)
        reader, attach_server = server(wire, own)
        wire.send(topics.models, [("intents", foundry.release())])
        wire.send(topics.interactions, [("u", interaction("kafka-0"))])

        def attach_ingest(app: faust.App) -> None:
            ingest_flow(app, ingest, ingest.metrics)

        async with (
            launch("http-serve", attach_server) as role,
            launch("http-ingest", attach_ingest),
        ):
            await eventually(lambda: bool(own.releases.current()))
            await eventually(lambda: len(wire.read(topics.predictions, Prediction)) == 1)
            # When callers ask it while interactions come from others too
            mine, other = await ask_and_tell(role)
            wire.send(topics.interactions, [("u", interaction("kafka-1"))])
            await eventually(lambda: len(wire.read(topics.predictions, Prediction)) >= 5)
            await eventually(lambda: len(wire.read(topics.examples, Example)) == 2)
            assert await role.json("/v1/releases") == await role.json("/releases")
        reader.stop()

        # Then each was answered once, whoever answered
        expected = sorted(["kafka-0", "kafka-1", "mine", other, "sent"])
        answers = wire.read(topics.predictions, Prediction)
        assert sorted(answer.interaction for answer in answers) == expected
        assert mine in answers
        # and is on the stream once, under its user's key; those answered already say so
        assert sorted(row.id for row in wire.read(topics.interactions, Interaction)) == expected
        marked = {
            headers["ce_id"].decode(): key
            for key, headers in keyed(wire, topics.interactions)
            if "mindstream_answered" in headers
        }
        assert marked == {"mine": b"me", other: other.encode()}
        # and feedback has the interaction's key, and became the examples that the learner reads
        keys = [key for key, _ in keyed(wire, topics.feedback)]
        assert sorted(keys) == sorted([b"mine", other.encode()])
        labels = {row.id: row.label for row in wire.read(topics.examples, Example)}
        assert labels == {"mine": "delivery", other: "refund"}
        # and every answer is counted, and nothing as skipped
        counted = own.metrics.registry.get_sample_value
        labelled = [{"task": "intents", "status": status} for status in ("ok", "no-release")]
        counts = [counted("mindstream_predictions_total", one) or 0 for one in labelled]
        assert sum(counts) == 6
        skipped = {"topic": topics.interactions}
        assert counted("mindstream_messages_skipped_total", skipped) is None
