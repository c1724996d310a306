"""One real Apache Kafka node for the session; without Java or Maven its tests are skipped, in CI
they fail.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest
from kafka.admin import KafkaAdminClient, NewTopic

SCRIPT = Path(__file__).parents[2] / "deploy" / "kafka" / "kafka.py"


@dataclass(frozen=True)
class Broker:
    """A running node.

    Attributes:
        servers: its address, `host:port`.
        start_s: what its start took, seconds.
        stop: stops the node in order; what it holds stays.
        start: starts it again at the same address.
    """

    servers: str
    start_s: float
    stop: Callable[[], None] = field(repr=False)
    start: Callable[[], None] = field(repr=False)

    def create_topics(self, topics: Mapping[str, int], *, config: Mapping[str, str] = {}) -> None:
        """Create topics, each with so many partitions."""
        admin = KafkaAdminClient(bootstrap_servers=self.servers)
        try:
            admin.create_topics(
                [
                    NewTopic(name, partitions, 1, topic_configs=dict(config))
                    for name, partitions in topics.items()
                ]
            )
        finally:
            admin.close()


def load_script() -> ModuleType:
    """Load deploy/kafka/kafka.py, whose name is also that of a library."""
    spec = importlib.util.spec_from_file_location("mindstream_kafka_node", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def two_free_ports() -> int:
    """Give a port that is free, as is the next one."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def need_java() -> None:
    """Skip the test where Java or Maven is missing; in CI that is a failure."""
    missing = [name for name in ("java", "mvn") if shutil.which(name) is None]
    if missing:
        reason = f"real Kafka needs {' and '.join(missing)} on the PATH"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Start one node for all tests; each test makes topics of its own.

    Yields:
        Its address and verbs.
    """
    need_java()
    node = load_script().KafkaNode(
        port=two_free_ports(), data=tmp_path_factory.mktemp("kafka") / "data"
    )
    began_s = time.monotonic()
    try:
        node.start()
        yield Broker(node.bootstrap, time.monotonic() - began_s, node.stop, node.start)
    finally:
        node.stop()
