"""A learner whose place was taken ends for good: its supervisor does not make two of them fight."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis as redis_client
from kafka import KafkaProducer

from mindstream.embedded.kafka import EmbeddedKafka
from mindstream.wiring import learn_fence
from schemas import Example, codec
from streams.topics import TABLE, Topics
from tests.deployment import running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_a_learner_whose_place_was_taken_is_not_started_again(
    redis: redis_client.Redis, redis_server: str, tmp_path: Path
) -> None:
    topics = Topics("fenced")
    with EmbeddedKafka({topics.full(row.name): 1 for row in TABLE}) as cluster:
        overrides = {
            "kafka.servers": cluster.bootstrap,
            "kafka.prefix": "fenced",
            "embedded_kafka": True,
            "redis.url": redis_server,
            "redis.namespace": "fenced",
            "learn.projection_width": 64,
            "learn.checkpoint_every_s": 0.5,
            "model.max_tokens": 16,
            "model.precision": "fp32",
        }
        with running(["learn"], tmp_path, overrides) as deployment:
            fence = learn_fence(deployment.settings)
            deployment.wait("started", lambda: bool(redis.exists(fence)), timeout_s=120)
            redis.incr(fence)  # what a second learner does when it starts
            producer = KafkaProducer(bootstrap_servers=cluster.bootstrap, acks="all")
            now = datetime.now(UTC)
            for number in range(8):
                example = Example(
                    id=str(number),
                    user="u",
                    task="intents",
                    time=now,
                    labelled_at=now,
                    label="refund",
                    text="money back",
                )
                producer.send(topics.examples, codec.encode(example))
            producer.close()
            deployment.wait("ended", lambda: deployment.supervisor.state()[0].final, timeout_s=60)
    assert deployment.said[0].startswith("learn ended (exit status 3): another one has taken")
    log = (tmp_path / "learn.log").read_text()
    assert "error: another learner has taken over" in log
    assert "Traceback" not in log
