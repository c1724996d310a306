"""Every role is killed with SIGKILL once, on a real cluster; every event has one effect.

20,000 interactions with late labels, four partitions, two ingest workers and one of each other
role. The checks read the topics from their beginning, replay memory and the checkpoint.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis as redis_client
from kafka import KafkaProducer

from learners.checkpoint import CheckpointStore
from learners.holdout import is_held_out
from learners.join import LabelJoin
from mindstream.clients import make_join, make_memory, make_topics
from mindstream.settings import load_settings
from schemas import DeadLetter, Example, Feedback, Interaction, Prediction, codec
from tests.deployment import Deployment, running

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(900)]

EVENTS = 20_000
REPEATS = 200
MALFORMED = 100
LABELS = ("refund", "stolen card", "new pin", "fee", "limit", "statement", "loan", "transfer")
ROLES = ("ingest-1", "ingest-2", "serve", "watch", "learn")
# Role to the share of the stream after which it is killed.
KILLS = {"ingest-1": 0.15, "learn": 0.35, "serve": 0.5, "watch": 0.65, "ingest-2": 0.8}
DRAIN_S = 420.0


@pytest.fixture
def deployment(broker: str, redis_server: str, tmp_path: Path) -> Iterator[Deployment]:
    """Run five processes against Kafka and Redis.

    Yields:
        The deployment, its topics made and its roles starting.
    """
    name = f"kill-{os.getpid()}"
    overrides = {
        "kafka.servers": broker,
        "kafka.prefix": name,
        "kafka.partitions": 4,
        "kafka.session_timeout_s": 3,
        "redis.url": redis_server,
        "redis.namespace": name,
        "model.max_tokens": 16,
        "learn.projection_width": 256,
        "learn.checkpoint_every_s": 5,
    }
    make_topics(load_settings(overrides=overrides))
    with running(ROLES, tmp_path, overrides) as deployment:
        yield deployment


def _stream(draw: random.Random) -> Iterator[tuple[str, str, bytes]]:
    """Give (topic name, key, value) in order: interactions, repeats, rubbish, late labels.

    Yields:
        One message.
    """
    late: list[tuple[int, str, str]] = []
    for n in range(EVENTS):
        label = draw.choice(LABELS)
        now = datetime.now(UTC)
        inside = n % 10 < 3
        interaction = Interaction(
            id=f"i{n}",
            user=f"u{n % 97}",
            task="intents",
            time=now,
            text=f"{label} please {n % 50}",
            label=label if inside else None,
        )
        if not inside:
            late.append((n + draw.randrange(-50, 2_000), interaction.id, label))
        yield "interactions", interaction.user, codec.encode(interaction)
        if n < REPEATS:
            yield "interactions", interaction.user, codec.encode(interaction)
        if n % (EVENTS // MALFORMED) == 0:
            yield "interactions", "x", b"\xff not a message %d" % n
        if n % 500 == 0:
            late.sort()
            while late and late[0][0] <= n:
                _, id_, truth = late.pop(0)
                feedback = Feedback(interaction=id_, kind="label", time=now, value=truth)
                yield "feedback", id_, codec.encode(feedback)
    for _, id_, truth in sorted(late):
        feedback = Feedback(interaction=id_, kind="label", time=datetime.now(UTC), value=truth)
        yield "feedback", id_, codec.encode(feedback)


def _send_and_kill(deployment: Deployment) -> Counter[str]:
    sent: Counter[str] = Counter()
    producer = KafkaProducer(
        bootstrap_servers=deployment.settings.kafka.servers, linger_ms=5, acks="all"
    )
    due = dict(KILLS)
    for topic, key, value in _stream(random.Random(11)):
        full = deployment.topics.full(topic)
        producer.send(full, key=key.encode(), value=value)
        sent[topic] += 1
        if sent["interactions"] % 200 == 0:
            deployment.supervisor.poll()
            time.sleep(0.15)  # about 1,000 a second: the roles work while the stream runs
        share = sent["interactions"] / (EVENTS + REPEATS + MALFORMED)
        for role in [role for role, at in due.items() if share >= at]:
            del due[role]
            deployment.supervisor.kill(role)
    producer.flush()
    producer.close()
    assert not due
    return sent


def test_every_id_has_one_effect_though_every_role_was_killed(deployment: Deployment) -> None:
    settings, topics = deployment.settings, deployment.topics
    client = redis_client.Redis.from_url(settings.redis.url)
    join = make_join(settings, client)
    deployment.wait("all roles up", lambda: deployment.ready(*ROLES), timeout_s=120)
    sent = _send_and_kill(deployment)

    def drained() -> bool:
        counts = join.counters().get("intents", {})
        return counts.get("joined", 0) == EVENTS

    deployment.wait("all labels joined", drained, timeout_s=DRAIN_S)
    deployment.wait(
        "all interactions answered",
        lambda: len(_predicted(deployment)) == EVENTS,
        timeout_s=DRAIN_S,
    )
    deployment.wait(
        "all roles were started again", lambda: _restarts(deployment) >= len(KILLS), timeout_s=60
    )

    _counters_reconcile_to_zero(join, sent)
    ends = _every_example_is_there_and_its_copies_are_equal(deployment)
    held_out = sum(
        is_held_out(f"i{n}", share=settings.replay.held_out_share) for n in range(EVENTS)
    )
    size = make_memory(settings, client, "intents").size()
    assert (size.rows, size.held_out_rows) == (EVENTS - held_out, held_out)

    deployment.wait(
        "the learner has read to the end",
        lambda: _learner_is_at(deployment, ends),
        timeout_s=DRAIN_S,
    )
    deployment.supervisor.stop(timeout_s=30)
    state = CheckpointStore(settings.data_dir / "checkpoints").load()
    assert state is not None
    meta = state.meta["tasks"]["intents"]
    assert (meta["learned"], meta["ledger_total"]) == (EVENTS - held_out, EVENTS)
    assert int(state.arrays["intents/head.counts"].sum()) == EVENTS - held_out

    letters = {
        codec.decode(DeadLetter, value).data
        for _, _, value in deployment.read_all(topics.dead_letters)
    }
    assert len(letters) == MALFORMED
    client.close()


def _counters_reconcile_to_zero(join: LabelJoin, sent: Counter[str]) -> None:
    totals: Counter[str] = Counter()
    for counts in join.counters().values():
        totals.update(counts)
    fates = ("joined", "waiting", "expired", "refused", "dead")
    assert totals["interactions"] - sum(totals[fate] for fate in fates) == 0
    assert totals["interactions"] + totals["repeated"] == sent["interactions"]
    assert (totals["joined"], totals["dead"], totals["repeated"]) == (EVENTS, MALFORMED, REPEATS)
    assert totals["feedback"] == totals["feedback_joined"] == sent["feedback"]


def _every_example_is_there_and_its_copies_are_equal(deployment: Deployment) -> dict[int, int]:
    """Check the log of truth; give how far each of its partitions goes."""
    examples = deployment.read_all(deployment.topics.examples)
    copies: dict[str, set[bytes]] = {}
    for _, _, value in examples:
        copies.setdefault(codec.decode(Example, value).id, set()).add(value)
    assert copies.keys() == {f"i{n}" for n in range(EVENTS)}
    assert all(len(variants) == 1 for variants in copies.values())
    ends: dict[int, int] = {}
    for partition, offset, _ in examples:
        ends[partition] = max(ends.get(partition, 0), offset + 1)
    return ends


def _predicted(deployment: Deployment) -> set[str]:
    return {
        codec.decode(Prediction, value).interaction
        for _, _, value in deployment.read_all(deployment.topics.predictions)
    }


def _restarts(deployment: Deployment) -> int:
    return sum(state.restarts > 0 and state.alive for state in deployment.supervisor.state())


def _learner_is_at(deployment: Deployment, ends: dict[int, int]) -> bool:
    state = CheckpointStore(deployment.settings.data_dir / "checkpoints").load()
    if state is None:
        return False
    topic = deployment.topics.examples
    positions = state.meta["positions"]
    return all(positions.get(f"{topic}/{partition}", 0) >= end for partition, end in ends.items())
