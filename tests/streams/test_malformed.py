"""Every kind of malformed message is refused by whom it should be, whole, and with a reason."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import redis as redis_client
from prometheus_client import CollectorRegistry

from learners.join import LabelJoin
from learners.tasks import task_kind
from schemas import DeadLetter, Feedback, Interaction, codec
from schemas.errors import MessageError
from serving.metrics import Metrics
from streams.decoding import Limits, Record, decode_record, make_record
from streams.ingest import Ingest, IngestRules
from streams.topics import Topics
from tests.malformed import FAULTS, Malformed, corpus, malformed

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
TOPICS = Topics("test")
CONTRACTS: dict[str, type[Interaction] | type[Feedback]] = {
    "interactions": Interaction,
    "feedback": Feedback,
}


@pytest.fixture
def ingest(redis: redis_client.Redis) -> Ingest:
    return Ingest(
        topics=TOPICS,
        rules=IngestRules(
            kinds={"intents": task_kind("classify")}, limits=Limits(), held_out_share=0.0
        ),
        join=LabelJoin(redis, namespace="t", shards=4, ttl_s=60, remember_s=120),
        memories={},
        metrics=Metrics(CollectorRegistry()),
        now=lambda: NOW,
    )


def record_of(message: Malformed, *, offset: int = 7) -> Record:
    return make_record(
        topic=TOPICS.full(message.topic),
        partition=0,
        offset=offset,
        key=message.key,
        value=message.data,
        headers=message.headers,
        timestamp_s=NOW.timestamp(),
    )


def refusal(message: Malformed) -> MessageError | None:
    """Read a message with the codec alone."""
    try:
        codec.decode(CONTRACTS[message.topic], message.data, message.headers)
    except MessageError as error:
        return error
    return None


def test_there_are_more_than_twenty_kinds() -> None:
    assert len(FAULTS) > 20


@pytest.mark.parametrize("kind", FAULTS)
def test_a_malformed_message_is_refused_by_whom_it_should_be(kind: str) -> None:
    message = malformed(kind, serial=3, now=NOW)
    contract = CONTRACTS[message.topic]
    error = refusal(message)
    if message.refuser == "codec":
        assert error is not None
        assert message.word in error.reason
        assert error.data == message.data
    elif message.refuser == "record":
        with pytest.raises(MessageError) as caught:
            decode_record(contract, record_of(message), limits=Limits(), now=NOW)
        assert message.word in caught.value.reason
        assert caught.value.data == message.data
    else:
        decode_record(contract, record_of(message), limits=Limits(), now=NOW)


def test_ingest_writes_each_kind_to_dead_letters_with_its_bytes_and_reason(ingest: Ingest) -> None:
    sent = list(corpus(2 * len(FAULTS), now=NOW, big=1))
    letters: dict[tuple[str, int], DeadLetter] = {}
    for topic, read in (
        ("interactions", ingest.read_interaction),
        ("feedback", ingest.read_feedback),
    ):
        records = [
            record_of(message, offset=offset)
            for offset, message in enumerate(sent)
            if message.topic == topic
        ]
        absorbed = ingest.absorb(records, read)
        assert absorbed.outcomes == []
        letters |= {(topic, letter.offset): letter for letter in absorbed.dead}
    assert len(letters) == len(sent)
    for offset, message in enumerate(sent):
        letter = letters[message.topic, offset]
        assert letter.data == message.data, message.kind
        assert letter.key == message.key, message.kind
        assert message.word in letter.reason, message.kind


def test_a_corpus_keeps_its_number_and_its_keys_apart() -> None:
    messages = list(corpus(500, now=NOW, big=2))
    assert len(messages) == 500
    assert len({message.key for message in messages}) == 500
    assert sum(len(message.data) for message in messages) < 25_000_000
    assert {message.kind for message in messages} == set(FAULTS)
