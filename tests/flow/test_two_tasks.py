"""Two tasks of two kinds in one deployment: each has its own releases, scores and memory."""

from __future__ import annotations

import gzip
import json
import random
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client
from kafka import KafkaProducer

from learners.registry import Registry
from learners.released import EncoderCache, ReleasedModel
from learners.tasks import task_kind
from mindstream.clients import make_join, make_memory
from mindstream.embedded.kafka import EmbeddedKafka
from schemas import Interaction, Prediction, codec
from streams.learn import IDLE_S
from streams.topics import TABLE, Topics
from tests.deployment import running

DATA = Path(__file__).parents[3] / "shared" / "data"

pytestmark = [
    pytest.mark.data,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the data sets in {DATA}"),
]

ROWS = 1_000
TEST_ROWS = 200
TASKS = {"intents": "classify", "slots": "multilabel"}
SOURCES = {"intents": "banking77", "slots": "nlupp"}


def rows_of(name: str, split: str, *, count: int) -> list[dict[str, Any]]:
    with gzip.open(DATA / name / "data.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    rows = [row for row in rows if row["split"] == split]
    if name == "banking77":  # few rows must not be spread over 77 intents
        few = sorted({row["label"] for row in rows})[:10]
        rows = [row for row in rows if row["label"] in few]
    random.Random(5).shuffle(rows)
    return rows[:count]


def send(
    servers: str, topics: Topics, rows: dict[str, list[dict[str, Any]]], *, part: slice
) -> None:
    """Send some of the rows of both tasks, taking turns, each with its label."""
    producer = KafkaProducer(bootstrap_servers=servers, acks="all", linger_ms=5)
    for number, pair in [*enumerate(zip_longest(*rows.values()))][part]:
        for task, row in zip(rows, pair, strict=True):
            if row is None:
                continue
            label = row["label"]
            message = Interaction(
                id=f"{task}-{number}",
                user=f"u{number % 50}",
                task=task,
                time=datetime.now(UTC),
                text=row["text"],
                label=label if isinstance(label, str) else tuple(label),
            )
            value = codec.encode(message)
            producer.send(topics.interactions, key=message.user.encode(), value=value)
    producer.flush()
    producer.close()


def rested(registry: Registry) -> bool:
    """Say whether idle time was used, to its end: held-out rows were learned, and no more came."""
    newest = [registry.releases(task)[0] for task in TASKS]
    ages = [datetime.now(UTC) - release.time for release in newest]
    refitted = all("judged" in release.blobs for release in newest)
    return refitted and min(ages).total_seconds() > 3 * IDLE_S


def test_two_tasks_share_a_deployment_and_nothing_else(redis_server: str, tmp_path: Path) -> None:
    topics = Topics("two")
    with EmbeddedKafka({topics.full(row.name): 4 for row in TABLE}) as cluster:
        overrides = {
            "kafka.servers": cluster.bootstrap,
            "kafka.prefix": "two",
            "embedded_kafka": True,
            "redis.url": redis_server,
            "redis.namespace": "two",
            "tasks": {name: {"kind": kind} for name, kind in TASKS.items()},
            "learn.projection_width": 1024,
            "model.max_tokens": 64,
        }
        with running(["ingest", "serve", "watch", "learn"], tmp_path, overrides) as deployment:
            names = ("ingest", "serve", "watch", "learn")
            deployment.wait("ready", lambda: deployment.ready(*names), timeout_s=120)
            train = {task: rows_of(source, "train", count=ROWS) for task, source in SOURCES.items()}
            send(cluster.bootstrap, topics, train, part=slice(ROWS // 2))
            client = redis_client.Redis.from_url(redis_server)
            join = make_join(deployment.settings, client)
            counts = {task: len(rows) for task, rows in train.items()}
            registry = Registry(deployment.settings.store_url)

            def learned(task: str) -> bool:
                memory = make_memory(deployment.settings, client, task)
                done = registry.releases(task)
                return bool(done) and done[0].learned >= 0.95 * memory.size().rows

            def scored() -> bool:
                shown = deployment.metrics("watch")
                return all(
                    ("mindstream_prequential_accuracy", (("task", task),)) in shown
                    for task in TASKS
                )

            deployment.wait(
                "both serving",
                lambda: all(registry.releases(task) for task in TASKS),
                timeout_s=60,
            )
            send(cluster.bootstrap, topics, train, part=slice(ROWS // 2, None))
            deployment.wait(
                "joined",
                lambda: all(
                    join.counters().get(task, {}).get("joined") == counts[task] for task in TASKS
                ),
                timeout_s=60,
            )
            deployment.wait("released", lambda: all(map(learned, TASKS)), timeout_s=120)
            deployment.wait("rested", lambda: rested(registry), timeout_s=120)
            deployment.wait("scored", scored, timeout_s=60)
            predictions = [
                codec.decode(Prediction, value)
                for _, _, value in deployment.read_all(topics.predictions)
            ]
            sizes = {task: make_memory(deployment.settings, client, task).size() for task in TASKS}
            client.close()

        encoders = EncoderCache()
        for task, kind in TASKS.items():
            newest = ReleasedModel.load(registry.releases(task)[0], registry, encoders=encoders)
            assert newest.kind.name == kind
            exam = rows_of(SOURCES[task], "test", count=TEST_ROWS)
            answers = newest.predict([row["text"] for row in exam])
            truths = [task_kind(kind).check_label(row["label"]) for row in exam]
            agreement = sum(
                newest.kind.agreement(truth, answer.label)
                for truth, answer in zip(truths, answers, strict=True)
            ) / len(exam)
            assert agreement > (0.9 if kind == "classify" else 0.7), (task, agreement)
            assert sizes[task].rows + sizes[task].held_out_rows == counts[task]
            mine = [row for row in predictions if row.task == task]
            assert len(mine) == counts[task]
            released = {release.version for release in registry.releases(task)}
            assert {row.release for row in mine if row.status == "ok"} <= released
