"""Messages too long for a dead letter: their beginning is kept, with the size and hash of all."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest
import redis as redis_client
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError
from prometheus_client import CollectorRegistry

from learners.join import LabelJoin
from learners.tasks import task_kind
from schemas import DeadLetter, codec
from schemas.errors import DecodeError
from serving.metrics import Metrics
from streams.batches import each_batch
from streams.decoding import KEPT_BYTES, Limits, Record, dead_letter, make_record, shortened
from streams.ingest import LEAST_KEPT_BYTES, Ingest, IngestRules
from streams.producing import outgoing
from streams.topics import Topics
from tests.producing import MemoryApp

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
TOPICS = Topics("large")
MOST_BYTES = 16 * 1024 * 1024


class Broker(MemoryApp):
    """Takes values up to a size."""

    consumer = None  # none fetches

    def __init__(self, *, takes_bytes: int) -> None:
        super().__init__()
        self.takes_bytes = takes_bytes
        self.crashed: list[BaseException] = []

    def refuse(self, values: list[bytes]) -> None:
        if max(map(len, values)) > self.takes_bytes:
            raise MessageSizeTooLargeError(f"{max(map(len, values))} bytes")

    async def crash(self, error: BaseException) -> None:
        self.crashed.append(error)


def record(value: bytes, *, offset: int = 0, key: bytes = b"u") -> Record:
    return make_record(
        topic=TOPICS.interactions,
        partition=0,
        offset=offset,
        key=key,
        value=value,
        headers=(),
        timestamp_s=NOW.timestamp(),
    )


def letter_of(value: bytes, *, key: bytes = b"u") -> DeadLetter:
    source = record(value, key=key)
    return dead_letter(source, DecodeError("too large", value), now=NOW)


@pytest.fixture
def ingest(redis: redis_client.Redis) -> Ingest:
    return Ingest(
        topics=TOPICS,
        rules=IngestRules({"intents": task_kind("classify")}, Limits(), held_out_share=0.0),
        join=LabelJoin(redis, namespace="large", shards=4, ttl_s=60, remember_s=120),
        memories={},
        metrics=Metrics(CollectorRegistry()),
        now=lambda: NOW,
    )


@pytest.mark.parametrize("megabytes", [9, 13, 16])
def test_the_letter_of_a_message_of_any_size_fits_in_its_topic(megabytes: int) -> None:
    data = b"x" * megabytes * 1024 * 1024
    letter = letter_of(data, key=data)
    message = outgoing(TOPICS.dead_letters, letter.key, letter)
    assert len(message.value) + len(message.key or b"") < MOST_BYTES
    read = codec.decode(DeadLetter, message.value)
    assert read.data == data[:KEPT_BYTES]
    assert (read.size, read.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert read.reason == (
        f"too large; too long for a dead letter: 8,388,608 of {len(data):,} bytes are kept"
    )


def test_a_message_that_fits_is_kept_whole_and_nothing_is_said_of_its_size() -> None:
    letter = letter_of(b"x" * KEPT_BYTES)
    assert len(letter.data) == KEPT_BYTES
    assert (letter.size, letter.sha256, letter.reason) == (None, None, "too large")


def test_what_is_shortened_twice_still_tells_of_the_whole() -> None:
    data = bytes(range(256)) * 40_000
    short = shortened(letter_of(data), kept_bytes=10)
    assert short == shortened(short, kept_bytes=10)
    assert (short.data, short.size) == (data[:10], len(data))
    assert short.sha256 == hashlib.sha256(data).hexdigest()
    assert short.reason.endswith(f": 10 of {len(data):,} bytes are kept")


async def test_a_letter_that_the_broker_refuses_is_cut_and_its_neighbours_stay_whole(
    ingest: Ingest,
) -> None:
    broker = Broker(takes_bytes=1_000_000)
    values = [b"a" * 100_000, b"b" * 2_000_000, b"c"]
    records = [record(value, offset=number) for number, value in enumerate(values)]
    for _ in range(2):  # and again, as after a crash
        broker.sent.clear()
        await ingest.handle_interactions(broker, records)  # type: ignore[arg-type]
        letters = {
            letter.offset: letter
            for letter in (codec.decode(DeadLetter, value) for _, value in broker.sent)
        }
        assert [len(letters[number].data) for number in range(3)] == [100_000, LEAST_KEPT_BYTES, 1]
        assert letters[1].size == 2_000_000
    assert ingest.join.counters()["-"]["dead"] == 3  # each once


class Stream:
    """One batch of a Faust stream."""

    def __init__(self, app: Broker) -> None:
        self.app = app
        self.acknowledged = 0

    def noack(self) -> Stream:
        return self

    async def events(self) -> Any:
        yield Event()

    async def ack(self, event: Any) -> None:
        del event
        self.acknowledged += 1


class Event:
    """A record as Faust hands it over."""

    topic = "t"
    partition = offset = 0
    key = value = b"x"
    headers = ()
    timestamp = 0.0

    @property
    def message(self) -> Event:
        return self


async def test_what_the_broker_will_never_take_ends_the_worker_and_is_not_tried_for_ever() -> None:
    tries: list[int] = []

    async def refuse(records: list[Record]) -> None:
        tries.append(len(records))
        raise KafkaConnectionError("away") if len(tries) == 1 else MessageSizeTooLargeError("big")

    stream = Stream(Broker(takes_bytes=0))
    with pytest.raises(MessageSizeTooLargeError):
        await each_batch(stream, refuse, transient=(KafkaConnectionError, MessageSizeTooLargeError))
    assert len(tries) == 2  # the broker that was away was asked again
    assert len(stream.app.crashed) == 1
    assert stream.acknowledged == 0
