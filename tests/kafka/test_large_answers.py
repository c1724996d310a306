"""A backlog of many megabytes in one answer of the broker: clients read on and do not break off."""

from __future__ import annotations

import logging
import time

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from mindstream.clients import kafka_arguments
from mindstream.settings import load_settings
from tests.kafka.conftest import create_topics

pytestmark = pytest.mark.kafka

ROWS, BYTES = 60, 100_000


def test_answers_of_more_than_a_megabyte_are_read(
    broker: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    topic = "large-answers"
    create_topics(broker, {topic: 1})
    producer = KafkaProducer(bootstrap_servers=broker, acks="all")
    for number in range(ROWS):
        producer.send(topic, b"%d" % number + b"x" * BYTES)
    producer.flush()
    producer.close()
    settings = load_settings(overrides={"kafka.servers": broker})
    consumer = KafkaConsumer(**kafka_arguments(settings), max_partition_fetch_bytes=8 * 1024 * 1024)
    partition = TopicPartition(topic, 0)
    consumer.assign([partition])
    consumer.seek_to_beginning(partition)
    seen, deadline_s = 0, time.monotonic() + 30.0
    while seen < ROWS and time.monotonic() < deadline_s:
        for records in consumer.poll(timeout_ms=200).values():
            seen += len(records)
    consumer.close()
    assert seen == ROWS
    assert "Invalid frame length" not in caplog.text
