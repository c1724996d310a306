"""2,000 malformed messages of many kinds among good ones, through real Kafka and a real worker."""

from __future__ import annotations

import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis as redis_client
from kafka import KafkaProducer

from mindstream.clients import make_join, make_topics
from schemas import DeadLetter, Example, Interaction, codec
from tests.deployment import running
from tests.malformed import corpus

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(300)]

BAD = 2_000
GOOD = 2_000


def test_all_bad_ones_are_dead_with_their_bytes_and_the_good_ones_unharmed(
    broker: str, redis_server: str, tmp_path: Path
) -> None:
    name = f"malformed-{os.getpid()}"
    overrides = {
        "kafka.servers": broker,
        "kafka.prefix": name,
        "redis.url": redis_server,
        "redis.namespace": name,
    }
    now = datetime.now(UTC)
    bad = list(corpus(BAD, now=now, big=8))
    with running(["ingest"], tmp_path, overrides) as deployment:
        make_topics(deployment.settings)
        producer = KafkaProducer(
            bootstrap_servers=broker, acks="all", linger_ms=5, max_request_size=16 * 1024 * 1024
        )
        for n in range(max(GOOD, BAD)):
            good = Interaction(
                id=f"g{n}", user=f"u{n}", task="intents", time=now, text=f"text {n}", label="a"
            )
            producer.send(deployment.topics.interactions, key=b"u", value=codec.encode(good))
            one = bad[n]
            producer.send(
                deployment.topics.full(one.topic),
                key=one.key,
                value=one.data,
                headers=list(one.headers),
            )
        producer.flush()
        producer.close()
        client = redis_client.Redis.from_url(redis_server)
        join = make_join(deployment.settings, client)
        sent_bad = Counter(one.topic for one in bad)

        def settled() -> bool:
            counters = join.counters()
            dead = sum(counts["dead"] for counts in counters.values())
            joined = counters.get("intents", {}).get("joined", 0)
            return (joined, dead) == (GOOD, sent_bad["interactions"])

        deployment.wait("every message has its fate", settled, timeout_s=120)
        deployment.wait(
            "feedback is read too",
            lambda: len(deployment.read_all(deployment.topics.dead_letters)) >= BAD,
            timeout_s=60,
        )
        letters = [
            codec.decode(DeadLetter, value)
            for _, _, value in deployment.read_all(deployment.topics.dead_letters)
        ]
        examples = [
            codec.decode(Example, value)
            for _, _, value in deployment.read_all(deployment.topics.examples)
        ]
        client.close()

    assert Counter(letter.data for letter in letters) == Counter(one.data for one in bad)
    words = {one.data: one.word for one in bad}
    assert all(words[letter.data] in letter.reason for letter in letters)
    assert len({one.kind for one in bad}) >= 20
    assert sorted(example.id for example in examples) == sorted(f"g{n}" for n in range(GOOD))
