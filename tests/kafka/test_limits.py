"""The sizes that `mindstream topics create` gives the topics, on a real cluster."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from random import Random

import confluent_kafka
import pytest

from mindstream.clients import make_topics, require_topics
from mindstream.settings import Settings, load_settings
from schemas.errors import DecodeError, SettingsError
from streams.decoding import dead_letter, make_record
from streams.producing import outgoing
from streams.topics import TABLE, Topics

pytestmark = pytest.mark.kafka

MEBIBYTE = 1024 * 1024
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def settings_of(broker: str, prefix: str) -> Settings:
    return load_settings(overrides={"kafka.servers": broker, "kafka.prefix": prefix})


def delivered(broker: str, topic: str, value: bytes) -> bool:
    """Say whether the broker takes a value; its checksums are computed in C."""
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": broker, "message.max.bytes": 32 * MEBIBYTE}
    )
    taken: list[bool] = []
    producer.produce(topic, value, on_delivery=lambda error, _: taken.append(error is None))
    producer.flush(30)
    return taken == [True]


def test_a_message_is_refused_before_its_dead_letter_would_be(broker: str) -> None:
    # Given the topics as we make them, and 9 and 7 MiB that do not compress
    topics = Topics("limits")
    make_topics(settings_of(broker, "limits"))
    noise = Random(3).randbytes(9 * MEBIBYTE)
    assert len(zlib.compress(noise[:MEBIBYTE])) > MEBIBYTE

    # Then those who send learn that 9 are too many, and all of 7 come through as a dead letter
    for name in (topics.interactions, topics.feedback):
        assert not delivered(broker, name, noise)
        assert delivered(broker, name, noise[: 7 * MEBIBYTE])
    for size in (7 * MEBIBYTE, 9 * MEBIBYTE):
        record = make_record(
            topic=topics.interactions,
            partition=0,
            offset=0,
            key=None,
            value=noise[:size],
            headers=(),
            timestamp_s=NOW.timestamp(),
        )
        letter = dead_letter(record, DecodeError("too large", record.value), now=NOW)
        assert delivered(broker, topics.dead_letters, outgoing("x", None, letter).value)


def test_topics_are_missed_until_they_are_made_and_not_made_twice(broker: str) -> None:
    settings, names = settings_of(broker, "later"), [row.name for row in TABLE]
    with pytest.raises(SettingsError) as caught:
        require_topics(settings, names)
    assert len(caught.value.problems) == len(TABLE)
    assert f"is not on {broker}: `mindstream topics create` makes it" in caught.value.problems[0]
    assert len(make_topics(settings)) == len(TABLE)
    require_topics(settings, names)
    assert make_topics(settings) == []
