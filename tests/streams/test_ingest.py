"""Ingest without Kafka: what a batch of records leaves to be produced, in Redis and in memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import redis as redis_client
from prometheus_client import CollectorRegistry

from learners.join import LabelJoin
from learners.replay import ReplayMemory
from learners.tasks import task_kind
from schemas import DeadLetter, Example, Feedback, Interaction, codec
from schemas.fields import Label
from serving.metrics import Metrics
from streams.decoding import Limits, Record, make_record
from streams.ingest import Absorbed, Ingest, IngestRules
from streams.topics import Topics

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
TOPICS = Topics("test")


@pytest.fixture
def ingest(redis: redis_client.Redis) -> Ingest:
    kinds = {"intents": task_kind("classify"), "slots": task_kind("multilabel")}
    return Ingest(
        topics=TOPICS,
        rules=IngestRules(kinds=kinds, limits=Limits(), held_out_share=0.0),
        join=LabelJoin(redis, namespace="t", shards=4, ttl_s=60, remember_s=120),
        memories={
            task: ReplayMemory(
                redis,
                namespace="t",
                task=task,
                max_rows=100,
                max_bytes=100_000,
                held_out_rows=100,
            )
            for task in kinds
        },
        metrics=Metrics(CollectorRegistry()),
        now=lambda: NOW,
    )


class Log:
    """Gives messages their places in the two topics."""

    def __init__(self) -> None:
        self.offsets = {TOPICS.interactions: 0, TOPICS.feedback: 0}

    def raw(self, topic: str, value: bytes) -> Record:
        self.offsets[topic] += 1
        return make_record(
            topic=topic,
            partition=0,
            offset=self.offsets[topic],
            key=b"k",
            value=value,
            headers=(),
            timestamp_s=NOW.timestamp(),
        )

    def interaction(self, id_: str, *, label: Label | None = None, task: str = "intents") -> Record:
        message = Interaction(
            id=id_, user="u", task=task, time=NOW, text=f"text {id_}", label=label
        )
        return self.raw(TOPICS.interactions, codec.encode(message))

    def feedback(self, id_: str, value: Label, *, correction: bool = False) -> Record:
        message = Feedback(
            interaction=id_, kind="correction" if correction else "label", time=NOW, value=value
        )
        return self.raw(TOPICS.feedback, codec.encode(message))


def examples(absorbed: Absorbed) -> list[Example]:
    return [codec.decode(Example, m.value) for m in absorbed.messages if m.topic == TOPICS.examples]


def letters(absorbed: Absorbed) -> list[DeadLetter]:
    return [
        codec.decode(DeadLetter, m.value)
        for m in absorbed.messages
        if m.topic == TOPICS.dead_letters
    ]


@pytest.mark.parametrize("order", ["inside", "after", "before"])
def test_a_label_joins_whenever_it_comes(ingest: Ingest, order: str) -> None:
    log = Log()
    if order == "inside":
        made = ingest.absorb([log.interaction("1", label="refund")], ingest.read_interaction)
    elif order == "after":
        first = ingest.absorb([log.interaction("1")], ingest.read_interaction)
        assert examples(first) == []
        made = ingest.absorb([log.feedback("1", "refund")], ingest.read_feedback)
    else:
        first = ingest.absorb([log.feedback("1", "refund")], ingest.read_feedback)
        assert examples(first) == []
        made = ingest.absorb([log.interaction("1")], ingest.read_interaction)
    (example,) = examples(made)
    assert (example.id, example.label, example.text) == ("1", "refund", "text 1")
    assert ingest.memories["intents"].size().rows == 1


def test_a_redelivered_batch_gives_its_examples_again_until_they_are_settled(
    ingest: Ingest,
) -> None:
    log = Log()
    records = [log.interaction(str(n), label="refund") for n in range(5)]
    first = ingest.absorb(records, ingest.read_interaction)
    again = ingest.absorb(records, ingest.read_interaction)  # it died before step 4
    assert [m.value for m in first.messages] == [m.value for m in again.messages]
    ingest.settle(again)
    assert examples(ingest.absorb(records, ingest.read_interaction)) == []
    counts = ingest.join.counters()["intents"]
    assert (counts["interactions"], counts["joined"]) == (5, 5)
    assert ingest.memories["intents"].size().rows == 5


def test_what_cannot_be_used_is_dead_with_its_bytes_and_counted_once(ingest: Ingest) -> None:
    log = Log()
    bad = [
        log.raw(TOPICS.interactions, b"\xff"),
        log.interaction("1", task="nobody"),
        log.interaction("2", label=("a", "b")),
        log.raw(TOPICS.interactions, b""),
    ]
    good = log.interaction("3", label="refund")
    for _ in range(2):  # and again, as after a crash
        absorbed = ingest.absorb([*bad, good], ingest.read_interaction)
        ingest.settle(absorbed)
        assert [letter.data for letter in letters(absorbed)] == [record.value for record in bad]
        assert all(letter.reason for letter in letters(absorbed))
    counters = ingest.join.counters()
    assert counters["-"]["dead"] == 4
    assert counters["intents"]["joined"] == 1


def test_a_correction_makes_a_new_revision_that_names_the_old_label(ingest: Ingest) -> None:
    log = Log()
    ingest.absorb([log.interaction("1", label="refund")], ingest.read_interaction)
    made = ingest.absorb([log.feedback("1", "fee", correction=True)], ingest.read_feedback)
    (example,) = examples(made)
    assert (example.revision, example.label, example.previous) == (2, "fee", "refund")
    assert ingest.memories["intents"].get("1") is not None
    assert ingest.memories["intents"].size().rows == 1


def test_a_label_of_the_wrong_kind_goes_to_dead_letters_and_the_interaction_waits(
    ingest: Ingest,
) -> None:
    log = Log()
    ingest.absorb([log.interaction("1")], ingest.read_interaction)
    wrong = log.feedback("1", ("a", "b"))
    absorbed = ingest.absorb([wrong], ingest.read_feedback)
    (letter,) = letters(absorbed)
    assert letter.data == wrong.value
    assert (letter.topic, letter.offset) == (wrong.topic, wrong.offset)
    assert "intents" in letter.reason
    ingest.settle(absorbed)
    (example,) = examples(ingest.absorb([log.feedback("1", "refund")], ingest.read_feedback))
    assert example.label == "refund"


def test_what_waits_too_long_expires_and_the_metrics_say_so(
    ingest: Ingest, redis: redis_client.Redis
) -> None:
    log = Log()
    ingest.absorb([log.interaction("1"), log.interaction("2", label="x")], ingest.read_interaction)
    ingest.now = lambda: NOW + timedelta(seconds=61)
    ingest.tidy()
    ingest.tidy()
    text = ingest.metrics.text().decode()
    assert 'mindstream_interactions_total{outcome="expired",task="intents"} 1.0' in text
    assert 'mindstream_interactions_total{outcome="joined",task="intents"} 1.0' in text
    assert 'mindstream_interactions_waiting{task="intents"} 0.0' in text
    assert 'mindstream_replay_rows{part="train",task="intents"} 1.0' in text


def test_a_late_label_that_a_dropped_task_cannot_learn_from_is_dead(ingest: Ingest) -> None:
    log = Log()
    ingest.absorb([log.interaction("2")], ingest.read_interaction)
    ingest.rules = IngestRules({"slots": task_kind("multilabel")}, Limits(), held_out_share=0.0)
    absorbed = ingest.absorb([log.feedback("2", ("a", "b"))], ingest.read_feedback)
    (letter,) = letters(absorbed)
    assert "'intents' (no longer one of this deployment)" in letter.reason
    ingest.settle(absorbed)


def test_an_example_of_a_dropped_task_goes_to_the_log_and_not_to_memory(ingest: Ingest) -> None:
    log = Log()
    ingest.absorb([log.interaction("1")], ingest.read_interaction)
    ingest.rules = IngestRules({"other": task_kind("classify")}, Limits(), held_out_share=0.0)
    absorbed = ingest.absorb([log.feedback("1", "refund")], ingest.read_feedback)
    (example,) = examples(absorbed)
    assert (example.task, example.label) == ("intents", "refund")
    assert ingest.memories["intents"].size().rows == 0


def test_the_dead_of_a_batch_are_counted_in_one_round_trip(
    ingest: Ingest, redis: redis_client.Redis
) -> None:
    log = Log()
    bad = [log.raw(TOPICS.interactions, b"\xff%d" % number) for number in range(200)]
    ingest.settle(ingest.absorb(bad[:1], ingest.read_interaction))  # the script is known now
    absorbed = ingest.absorb(bad, ingest.read_interaction)
    stats = redis.info("commandstats")
    before = stats["cmdstat_evalsha"]["calls"]
    ingest.settle(absorbed)
    after = redis.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert after - before <= 4  # one a shard, together
    assert ingest.join.counters()["-"]["dead"] == 200
