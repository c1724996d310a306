"""A small deployment for benchmarks of serving: embedded services, a real release, real roles.

Kafka's and Redis' embedded parts and whoever uses this share the cores that the roles do not get.
Owns starting, pinning and ending; must not know what is measured.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess  # the project's own command line is called
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from confluent_kafka import Consumer, Producer, TopicPartition

from learners.library import Learner
from learners.model import Encoder
from learners.registry import Registry
from mindstream.clients import make_topics
from mindstream.sections import EMBEDDED
from mindstream.settings import Settings, load_settings, role_environment
from mindstream.up import services
from schemas import GateReport, Interaction, ModelRelease, Prediction, codec
from streams.topics import Topics

TASK = "intents"
START_S = 120.0  # a role loads its encoder and may measure engines
SETTLE_S = 0.5  # between texts: calibration has a low priority, and needs the core too
SETTLED_S = 300.0
SILENCE_S = 60.0  # a role that says nothing for so long is stuck


@dataclass(slots=True)
class Role:
    """A role's process.

    Attributes:
        name: serve, learn, ingest or watch.
        port: of its pages.
        process: its own.
        log: file of what it said.
    """

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def page(self, path: str) -> Any:  # noqa: ANN401
        """Fetch a JSON page.

        Raises:
            RuntimeError: the role has ended.
        """
        if self.process.poll() is not None:
            raise RuntimeError(
                f"{self.name} ended: {self.log.read_text(encoding='utf-8')[-2_000:]}"
            )
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}{path}", timeout=10
            ) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return json.load(error)
        except (OSError, ValueError):
            return None

    def wait_up(self) -> None:
        """Wait until it listens at its port.

        Raises:
            RuntimeError: it never did.
        """
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        raise RuntimeError(f"{self.name} did not come up: {self.log.read_text('utf-8')}")

    def wait_ready(self) -> None:
        """Wait until /readyz says so, and every task that has a release answers.

        Raises:
            RuntimeError: it never did.
        """
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            page = self.page("/readyz")
            if page and page["status"] == "ok" and all(page.get("tasks", {"": 1}).values()):
                return
            time.sleep(0.1)
        raise RuntimeError(f"{self.name} was not ready: {self.log.read_text(encoding='utf-8')}")

    def wait_settled(self, wire: Wire, texts: Sequence[str]) -> None:
        """Let a server see texts until the engine that computes stays.

        Raises:
            RuntimeError: that took too long.
        """
        end, number = time.monotonic() + SETTLED_S, 0
        while time.monotonic() < end:
            if all(task["engine_settled"] for task in self.page("/releases").values()):
                return
            some = [texts[n % len(texts)] for n in range(64 * number, 64 * (number + 1))]
            wire.send(questions(some, name=f"settle{number}"))
            wire.count(len(some))
            number += 1
            time.sleep(SETTLE_S)
        raise RuntimeError(f"{self.name} is not settled: {self.log.read_text(encoding='utf-8')}")

    def engine(self) -> str:
        """Say what a server computes with."""
        return next(str(task["engine"]) for task in self.page("/releases").values())

    def cpu_s(self) -> float:
        """Give the processor time of its process so far, seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii")
        user, system = fields.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def rss_mb(self) -> float:
        """Give its main memory, MB."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def stop(self) -> None:
        """End it in order."""
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass(slots=True)
class Deployment:
    """Services, a store, and the roles that were started.

    Attributes:
        settings: of all roles.
        overrides: addresses of the services.
        topics: names.
        folder: of data and logs.
        roles: that run.
    """

    settings: Settings
    overrides: Mapping[str, str]
    topics: Topics
    folder: Path
    roles: list[Role] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """Give what a process needs to see the settings that the roles see."""
        return role_environment(self.settings, self.overrides)

    def make_topics(self, names: Sequence[str]) -> None:
        """Make topics beside those of the roles.

        Raises:
            RuntimeError: the cluster made none.
        """
        producer = Producer({"bootstrap.servers": self.servers, "log_level": 0})
        for name in names:
            producer.list_topics(name, timeout=10)  # the embedded cluster makes what is asked for
            end = time.monotonic() + START_S
            while not producer.list_topics(name, timeout=10).topics[name].partitions:
                if time.monotonic() > end:
                    raise RuntimeError(f"topic {name} was not made")
                time.sleep(0.05)

    def wire(self) -> Wire:
        """Connect to the topics that the roles use."""
        return Wire(self.servers, self.topics.interactions, self.topics.predictions)

    @property
    def servers(self) -> str:
        """Give the brokers' addresses."""
        return self.overrides.get("kafka.servers", self.settings.kafka.servers)

    def start(self, name: str, *, cores: set[int] | None = None, group: str = "") -> Role:
        """Start a role as its command does, on some cores; it is not waited for.

        Args:
            name: of the role.
            cores: it may use; None: those of this thread.
            group: tells its log apart where there are several.
        """
        port = free_port()
        environment = role_environment(self.settings, {**self.overrides, f"{name}.port": str(port)})
        log = self.folder / f"{name}{group}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "mindstream", name],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        if cores is not None:
            pin(process.pid, cores)
        role = Role(name, port, process, log)
        self.roles.append(role)
        return role

    def release(self, learner: Learner, *, learned: int) -> ModelRelease:
        """Publish what a learner has learned, in the store and on the topic."""
        registry = Registry(self.settings.store_url)
        strategy = learner.loop.strategy
        made = registry.publish(
            task=TASK,
            kind="classify",
            strategy="two-speed",
            backbone=learner.encoder.name,
            blobs={
                **registry.put_blobs(learner.encoder.blobs()),
                **registry.put_blobs(strategy.head_blobs()),
            },
            positions={},
            learned=learned,
            labels=len(learner.labels),
            gate=GateReport(accepted=True, reason="a benchmark's", rows=0, challenger=1.0),
            time=datetime.now(UTC),
        )
        producer = Producer({"bootstrap.servers": self.servers, "log_level": 0})
        producer.produce(self.topics.models, codec.encode(made), TASK)
        producer.flush()
        return made


@contextmanager
def deployment(folder: Path, changes: Mapping[str, object]) -> Iterator[Deployment]:
    """Start embedded services with empty topics; all roles end with the block.

    On a real cluster the topics have a prefix of their own; they stay there.

    Args:
        folder: of its own.
        changes: dotted names of settings to values; `kafka.servers` names a real cluster.

    Yields:
        The deployment, without roles.
    """
    own = {"data_dir": str(folder), "kafka.prefix": f"benchmark-{os.getpid()}-{time.time_ns()}"}
    settings = load_settings(overrides={**own, **changes})
    if settings.kafka.servers != EMBEDDED:
        make_topics(settings)
    with services(settings, lambda words: None) as started:
        deployed = Deployment(settings, started.overrides, Topics(settings.kafka.prefix), folder)
        try:
            yield deployed
        finally:
            for role in deployed.roles:
                role.stop()


def taught(texts: Sequence[str], labels: Sequence[str], *, precision: str = "fp32") -> Learner:
    """Give a default learner that has learned rows, on the default encoder."""
    learner = Learner(encoder=Encoder.load(precision=precision))
    for start in range(0, len(texts), 256):
        learner.learn(texts[start : start + 256], labels[start : start + 256])
    return learner


def questions(texts: Sequence[str], *, name: str) -> list[Interaction]:
    """Make an interaction of every text, its id after a name."""
    now = datetime.now(UTC)
    return [
        Interaction(id=f"{name}-{number}", user=f"u{number}", task=TASK, time=now, text=text)
        for number, text in enumerate(texts)
    ]


class Wire:
    """A producer of interactions and a reader of predictions, cheap enough not to be measured.

    Args:
        servers: brokers.
        interactions: topic to write.
        predictions: topic to read, from its end.
    """

    def __init__(self, servers: str, interactions: str, predictions: str) -> None:
        self._interactions = interactions
        self._producer = Producer(
            {
                "bootstrap.servers": servers,
                "log_level": 0,  # it would say that the cluster is gone when all is over
                "linger.ms": 1,
                "partitioner": "murmur2_random",
                "queue.buffering.max.messages": 1_000_000,
            }
        )
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "log_level": 0,  # it would say that the cluster is gone when all is over
                "group.id": f"reader-{os.getpid()}-{time.monotonic_ns()}",
                "fetch.wait.max.ms": 5,
                "enable.auto.commit": False,
            }
        )
        known = self._consumer.list_topics(predictions, timeout=10).topics[predictions]
        self._consumer.assign(
            [TopicPartition(predictions, number, -1) for number in known.partitions]
        )
        self._consumer.poll(0.5)  # the places are looked up now, before anything is written

    def send(self, rows: Sequence[Interaction]) -> None:
        """Produce, and wait until the broker has all of it."""
        for row in rows:
            self.post(row)
        self._producer.flush()

    def post(self, row: Interaction) -> None:
        """Produce one without waiting."""
        self._producer.produce(self._interactions, codec.encode(row), row.user)
        self._producer.poll(0)

    def raw(self, timeout_s: float) -> list[bytes]:
        """Read what has come, waiting for the first at most so long."""
        first = self._consumer.poll(timeout_s)  # `consume` would wait for a thousand, or so long
        messages = [] if first is None else [first, *self._consumer.consume(1_000, 0)]
        return [value for value in (m.value() for m in messages if not m.error()) if value]

    def read(self, timeout_s: float) -> list[Prediction]:
        """Read and decode what has come."""
        return [codec.decode(Prediction, value) for value in self.raw(timeout_s)]

    def count(self, rows: int) -> None:
        """Wait for so many predictions.

        Raises:
            RuntimeError: none came for a long time.
        """
        seen, end = 0, time.monotonic() + SILENCE_S
        while seen < rows:
            came = len(self.raw(0.05))
            seen += came
            if came:
                end = time.monotonic() + SILENCE_S
            elif time.monotonic() > end:
                raise RuntimeError(f"{seen} of {rows} predictions came, then none")

    def close(self) -> None:
        """Let go of the broker."""
        self._consumer.close()


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def pin(pid: int, cores: set[int]) -> None:
    """Keep a process on some cores, where the system can do that; 0 is this one."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(pid, cores)


@contextmanager
def apart() -> Iterator[set[int]]:
    """Keep this thread, and those it starts, off one core: that is for what is measured.

    Where there is one core alone, all share it.

    Yields:
        The core that is free, as a set.
    """
    if not hasattr(os, "sched_getaffinity"):
        yield {0}
        return
    before, threads = os.sched_getaffinity(0), torch.get_num_threads()
    mine, *rest = sorted(before)
    pin(0, set(rest) or {mine})
    torch.set_num_threads(max(1, len(rest)))  # more than there are cores would wait for each other
    try:
        yield {mine}
    finally:
        torch.set_num_threads(threads)
        pin(0, before)
