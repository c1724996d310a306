"""The embedded Kafka answers every client that the roles use, and its limits are as stated."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiokafka
import confluent_kafka
import kafka
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from mindstream.embedded import kafka as embedded
from mindstream.embedded.kafka import (
    PARTITION_LOG_BYTES,
    SAFE_BATCH_BYTES,
    EmbeddedKafka,
)
from schemas.errors import EmbeddedError

LARGE = 16 * 1024 * 1024


@pytest.fixture
def cluster() -> Iterator[EmbeddedKafka]:
    with EmbeddedKafka({"one": 1, "four": 4}) as running:
        yield running


def _produce(cluster: EmbeddedKafka, topic: str, values: list[bytes], **settings: object) -> None:
    producer = KafkaProducer(
        bootstrap_servers=cluster.bootstrap,
        acks="all",
        max_request_size=LARGE,
        **settings,
    )
    for value in values:
        producer.send(topic, value=value).get(30)
    producer.close()


def _read(cluster: EmbeddedKafka, topic: str) -> list[bytes]:
    """Read what a topic of one partition still holds."""
    consumer = KafkaConsumer(
        bootstrap_servers=cluster.bootstrap,
        fetch_max_wait_ms=20,
        max_partition_fetch_bytes=LARGE,
        fetch_max_bytes=4 * LARGE,
    )
    partition = TopicPartition(topic, 0)
    consumer.assign([partition])
    consumer.seek_to_beginning(partition)
    end = consumer.end_offsets([partition])[partition]
    values: list[bytes] = []
    while consumer.position(partition) < end:
        for records in consumer.poll(timeout_ms=200).values():
            values += [record.value for record in records]
    consumer.close()
    return values


def test_topics_have_the_partitions_asked_for(cluster: EmbeddedKafka) -> None:
    consumer = KafkaConsumer(bootstrap_servers=cluster.bootstrap)
    try:
        assert consumer.partitions_for_topic("one") == {0}
        assert consumer.partitions_for_topic("four") == {0, 1, 2, 3}
    finally:
        consumer.close()


def test_a_kafka_python_group_goes_on_where_it_committed(cluster: EmbeddedKafka) -> None:
    _produce(cluster, "one", [b"%d" % number for number in range(10)])

    def take(count: int) -> list[int]:
        consumer = KafkaConsumer(
            "one",
            bootstrap_servers=cluster.bootstrap,
            group_id="readers",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            fetch_max_wait_ms=20,
            session_timeout_ms=2_000,
            heartbeat_interval_ms=500,
        )
        got: list[int] = []
        while len(got) < count:
            for records in consumer.poll(timeout_ms=200, max_records=count).values():
                got += [int(record.value) for record in records]
        consumer.commit()
        consumer.close()
        return got

    assert take(4) == [0, 1, 2, 3]
    assert take(6) == [4, 5, 6, 7, 8, 9]


async def test_an_aiokafka_group_produces_consumes_and_commits(cluster: EmbeddedKafka) -> None:
    producer = aiokafka.AIOKafkaProducer(
        bootstrap_servers=cluster.bootstrap, acks="all", compression_type="gzip"
    )
    await producer.start()
    for number in range(8):
        await producer.send_and_wait("four", b"%d" % number, partition=number % 4)
    await producer.stop()
    consumer = aiokafka.AIOKafkaConsumer(
        "four",
        bootstrap_servers=cluster.bootstrap,
        group_id="workers",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        fetch_max_wait_ms=20,
    )
    await consumer.start()
    got = {int((await asyncio.wait_for(consumer.getone(), 20)).value) for _ in range(8)}
    await consumer.commit()
    partitions = [aiokafka.TopicPartition("four", number) for number in range(4)]
    committed = [await consumer.committed(partition) for partition in partitions]
    await consumer.stop()
    assert got == set(range(8))
    assert committed == [2, 2, 2, 2]


def test_confluent_kafka_itself_is_answered(cluster: EmbeddedKafka) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": cluster.bootstrap})
    producer.produce("one", value=b"hello", key=b"k")
    assert producer.flush(10) == 0
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": cluster.bootstrap,
            "group.id": "c",
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe(["one"])
    message = consumer.poll(20)
    consumer.close()
    assert message is not None
    assert (message.key(), message.value()) == (b"k", b"hello")


def test_a_first_message_of_6_mb_comes_back_whole(cluster: EmbeddedKafka) -> None:
    noise = random.Random(6).randbytes(6_000_000)
    _produce(cluster, "one", [noise])
    assert _read(cluster, "one") == [noise]


def test_a_6_mb_message_that_compresses_survives_among_others(cluster: EmbeddedKafka) -> None:
    values = [b"before", b"x" * 6_000_000, b"after"]
    _produce(cluster, "one", values, compression_type="gzip")
    assert _read(cluster, "one") == values


def test_a_partition_keeps_its_newest_messages_up_to_the_stated_bytes(
    cluster: EmbeddedKafka,
) -> None:
    noise = random.Random(7)
    values = [noise.randbytes(500_000) for _ in range(15)]
    _produce(cluster, "one", values)
    assert _read(cluster, "one") == values[-(PARTITION_LOG_BYTES // 500_100) :]


def test_batches_up_to_the_safe_size_stay_and_larger_ones_may_be_lost(
    cluster: EmbeddedKafka,
) -> None:
    noise = random.Random(8)
    safe = [noise.randbytes(SAFE_BATCH_BYTES - 1_000) for _ in range(4)]
    _produce(cluster, "one", safe)
    assert _read(cluster, "one") == safe[-2:]
    _produce(cluster, "one", [noise.randbytes(PARTITION_LOG_BYTES + 1_000)])
    assert _read(cluster, "one") == []  # if this ever fails, LIMITS promises too little: relax it


def test_a_broker_that_went_away_comes_back_with_its_messages(cluster: EmbeddedKafka) -> None:
    _produce(cluster, "one", [b"kept"])
    cluster.go_away()
    with pytest.raises(kafka.errors.KafkaError):
        _produce(cluster, "one", [b"refused"], max_block_ms=500)
    cluster.come_back()
    assert _read(cluster, "one") == [b"kept"]


def test_it_starts_once_stops_twice_and_starts_again_empty() -> None:
    cluster = EmbeddedKafka({"one": 1})
    cluster.start()
    first = cluster.bootstrap
    cluster.start()
    assert cluster.bootstrap == first
    _produce(cluster, "one", [b"gone soon"])
    cluster.stop()
    cluster.stop()
    assert cluster.bootstrap == ""
    with pytest.raises(EmbeddedError, match="not running"):
        cluster.go_away()
    with cluster:
        assert _read(cluster, "one") == []


def test_a_topic_that_cannot_be_made_is_named_and_nothing_is_left_running() -> None:
    cluster = EmbeddedKafka({"fine": 1, "wrong": 0})
    with pytest.raises(EmbeddedError, match="'wrong' with 0 partitions"):
        cluster.start()
    assert cluster.bootstrap == ""


def test_a_missing_library_is_said_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confluent_kafka, "__file__", str(tmp_path / "pkg" / "__init__.py"))
    with pytest.raises(EmbeddedError, match=r"install the wheel.*kafka\.servers"):
        EmbeddedKafka({"one": 1}).start()
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(EmbeddedError, match="needs the confluent-kafka wheel"):
        EmbeddedKafka({"one": 1}).start()


def test_it_says_nothing_on_the_terminal_and_what_it_cannot_do_in_words() -> None:
    program = (
        "from mindstream.embedded.kafka import EmbeddedKafka\n"
        "with EmbeddedKafka({'a': 2}) as cluster: assert cluster.bootstrap\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == (b"", b"")
    for limit in ("memory only", "5 MB", "one member", "no topic admin"):
        assert limit in embedded.LIMITS
