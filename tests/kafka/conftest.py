"""One real Apache Kafka node for the session; without Java or Maven its tests are skipped, in CI
they fail.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import pytest
from kafka.admin import KafkaAdminClient, NewTopic

SCRIPT = Path(__file__).parents[2] / "deploy" / "kafka" / "kafka.py"


def create_topics(
    broker: str, topics: Mapping[str, int], *, config: Mapping[str, str] | None = None
) -> None:
    """Create topics, each with so many partitions."""
    admin = KafkaAdminClient(bootstrap_servers=broker)
    try:
        admin.create_topics(
            [
                NewTopic(name, partitions, 1, topic_configs=dict(config or {}))
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
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start one node for all tests; each test makes topics of its own.

    Yields:
        Its address, `host:port`.
    """
    need_java()
    node = load_script().KafkaNode(
        port=two_free_ports(), data=tmp_path_factory.mktemp("kafka") / "data"
    )
    try:
        node.start()
        yield node.bootstrap
    finally:
        node.stop()
