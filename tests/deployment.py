"""Whole deployments for tests: real role processes, under the real supervisor."""

from __future__ import annotations

import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from mindstream.settings import Settings, load_settings, role_environment
from mindstream.supervisor import RoleProcess, Supervisor
from streams.topics import Topics


@dataclass(frozen=True)
class Deployment:
    """Running roles.

    Attributes:
        ports: of each process's pages, by its name.
        said: what the supervisor said.
    """

    settings: Settings
    supervisor: Supervisor
    topics: Topics
    ports: Mapping[str, int]
    said: list[str]

    def wait(self, what: str, done: Callable[[], bool], *, timeout_s: float) -> None:
        """Look after the roles until something holds."""
        deadline_s = time.monotonic() + timeout_s
        while not done():
            self.supervisor.poll()
            assert time.monotonic() < deadline_s, f"still waiting: {what}; {self.said[-12:]}"
            time.sleep(0.5)

    def ready(self, *names: str) -> bool:
        """Say whether processes are ready: /readyz, or /metrics for the learner."""
        pages = {name: "metrics" if name.startswith("learn") else "readyz" for name in names}
        return all(_answers(self.ports[name], page) for name, page in pages.items())

    def metrics(self, name: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Read a process's metrics: (name, sorted labels) to value."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[name]}/metrics") as page:
            text = page.read().decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def read_all(self, topic: str) -> list[tuple[int, int, bytes]]:
        """Read a topic from its beginning to its end: (partition, offset, value) of each record."""
        consumer = KafkaConsumer(
            bootstrap_servers=self.settings.kafka.servers,
            group_id=None,
            enable_auto_commit=False,
            max_partition_fetch_bytes=32 * 1024 * 1024,
            fetch_max_bytes=64 * 1024 * 1024,
        )
        partitions = [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        records: list[tuple[int, int, bytes]] = []
        while any(consumer.position(p) < end for p, end in ends.items()):
            for batch in consumer.poll(timeout_ms=500, max_records=5_000).values():
                records += [(r.partition, r.offset, r.value) for r in batch]
        consumer.close()
        return records


@contextmanager
def running(
    names: Sequence[str], folder: Path, overrides: Mapping[str, Any]
) -> Iterator[Deployment]:
    """Run role processes: `ingest-1` and `ingest-2` are two of the role `ingest`.

    Args:
        names: of the processes, stopped in this order.
        folder: data and logs.
        overrides: settings; kafka.servers and redis.url among them.

    Yields:
        The deployment, its roles starting.
    """
    settings = load_settings(overrides={"data_dir": str(folder), **overrides})
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    said: list[str] = []
    roles = []
    for name in names:
        role = name.split("-")[0]
        environment = role_environment(settings, {f"{role}.port": str(ports[name])})
        argv = [sys.executable, "-m", "mindstream", role]
        roles.append(RoleProcess(name, argv, environment, folder / f"{name}.log"))
    supervisor = Supervisor(roles, say=said.append)
    supervisor.start()
    try:
        yield Deployment(settings, supervisor, Topics(settings.kafka.prefix), ports, said)
    finally:
        supervisor.stop(timeout_s=20)


def free_ports(count: int) -> list[int]:
    """Find ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _answers(port: int, page: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
