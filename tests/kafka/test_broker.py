"""The node that deploy/kafka/kafka.py starts does what mindstream asks of a cluster."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import confluent_kafka
import kafka
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import RebalanceInProgressError

from tests.kafka.conftest import SCRIPT, create_topics, load_script, need_java, two_free_ports
from tests.mindstream.processes import runs, within

pytestmark = pytest.mark.kafka

LARGE = 16 * 1024 * 1024


def _produce(broker: str, topic: str, values: list[bytes]) -> None:
    producer = KafkaProducer(bootstrap_servers=broker, acks="all")
    for number, value in enumerate(values):
        producer.send(topic, value=value, key=b"%d" % number)
    producer.flush()
    producer.close()


def _read(broker: str, topic: str, partitions: int) -> list[bytes]:
    consumer = KafkaConsumer(bootstrap_servers=broker)
    try:
        assigned = [TopicPartition(topic, number) for number in range(partitions)]
        consumer.assign(assigned)
        consumer.seek_to_beginning(*assigned)
        ends = consumer.end_offsets(assigned)
        values: list[bytes] = []
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            for records in consumer.poll(timeout_ms=200).values():
                values += [record.value for record in records]
        return values
    finally:
        consumer.close()


def test_what_is_produced_is_consumed(broker: str) -> None:
    create_topics(broker, {"plain": 4})
    values = [b"%d" % number for number in range(1_000)]
    _produce(broker, "plain", values)
    assert sorted(_read(broker, "plain", 4)) == sorted(values)


def test_a_message_of_12_mb_comes_back_whole_and_one_over_16_is_refused(broker: str) -> None:
    create_topics(broker, {"large": 1})
    # Its checksums are computed in C; those of kafka-python take half a minute here.
    client = {"bootstrap.servers": broker, "message.max.bytes": 2 * LARGE, "log_level": 0}
    outcomes: list[confluent_kafka.KafkaError | None] = []
    producer = confluent_kafka.Producer(client)
    noise = random.Random(12).randbytes(12_000_000)
    for value in (noise, b"x" * (LARGE + 1_000)):
        producer.produce("large", value=value, on_delivery=lambda error, _: outcomes.append(error))
        assert producer.flush(30) == 0
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": broker,
            "group.id": "large",
            "auto.offset.reset": "earliest",
            "fetch.max.bytes": LARGE,
        }
    )
    consumer.assign([confluent_kafka.TopicPartition("large", 0, 0)])
    message = consumer.poll(30)
    consumer.close()
    assert message is not None
    assert message.value() == noise
    assert outcomes[0] is None
    assert outcomes[1] is not None
    assert outcomes[1].code() == confluent_kafka.KafkaError.MSG_SIZE_TOO_LARGE


def test_a_topic_nobody_made_does_not_come_into_being(broker: str) -> None:
    producer = KafkaProducer(bootstrap_servers=broker, max_block_ms=1_000)
    with pytest.raises(kafka.errors.KafkaError):
        producer.send("misspelt", value=b"x").get(5)
    producer.close()
    admin = KafkaAdminClient(bootstrap_servers=broker)
    assert "misspelt" not in admin.list_topics()
    admin.close()


class _Member(threading.Thread):
    """One member of a group, in a thread of its own."""

    def __init__(self, broker: str, topic: str) -> None:
        super().__init__()
        self.consumer = KafkaConsumer(
            topic,
            bootstrap_servers=broker,
            group_id=f"{topic}-group",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            session_timeout_ms=2_000,
            heartbeat_interval_ms=500,
        )
        self.got: list[bytes] = []
        self.partitions: set[int] = set()
        self.leave = threading.Event()

    def run(self) -> None:
        while not self.leave.is_set():
            for records in self.consumer.poll(timeout_ms=100).values():
                self.got += [record.value for record in records]
            self.partitions = {partition.partition for partition in self.consumer.assignment()}
            if self.partitions:
                with contextlib.suppress(RebalanceInProgressError):  # the next round commits
                    self.consumer.commit()
        self.consumer.close()


def test_two_members_share_the_partitions_and_one_takes_over_when_the_other_leaves(
    broker: str,
) -> None:
    create_topics(broker, {"shared": 4})
    first, second = _Member(broker, "shared"), _Member(broker, "shared")
    first.start()
    try:
        within(lambda: first.partitions == {0, 1, 2, 3}, 30.0)
        second.start()
        within(lambda: len(first.partitions) == len(second.partitions) == 2, 30.0)
        assert first.partitions | second.partitions == {0, 1, 2, 3}
        values = [b"%d" % number for number in range(400)]
        _produce(broker, "shared", values)
        within(lambda: sorted(first.got + second.got) == sorted(values), 30.0)
        assert first.got
        assert second.got
        second.leave.set()
        second.join()
        within(lambda: first.partitions == {0, 1, 2, 3}, 30.0)
        _produce(broker, "shared", [b"last"])
        within(lambda: b"last" in first.got, 30.0)
    finally:
        for member in (first, second):
            member.leave.set()
            if member.is_alive():
                member.join()


@pytest.mark.slow
def test_the_command_line_starts_says_where_stops_and_keeps_the_messages(tmp_path: Path) -> None:
    need_java()
    port, data = two_free_ports(), tmp_path / "its data"

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(SCRIPT), command, "--port", str(port), "--data", str(data)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    assert (run("status").returncode, run("status").stdout) == (1, "not running\n")
    try:
        started = run("start")
        assert started.returncode == 0, started.stderr
        assert started.stdout.startswith(f"127.0.0.1:{port} (process ")
        assert run("start").stdout == run("status").stdout == started.stdout
        broker = f"127.0.0.1:{port}"
        create_topics(broker, {"kept": 1})
        _produce(broker, "kept", [b"still here"])
        stopped = run("stop")
        assert (stopped.returncode, stopped.stdout) == (0, "not running\n")
        pid = int(started.stdout.split("process ")[1].rstrip(")\n"))
        assert not runs(pid)
        assert run("start").returncode == 0
        assert _read(broker, "kept", 1) == [b"still here"]
    finally:
        run("stop")


def test_a_process_that_merely_has_the_old_id_is_never_signalled(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        node = load_script().KafkaNode(port=two_free_ports(), data=tmp_path)
        (tmp_path / "pid").write_text(str(stranger.pid))
        assert node.pid() is None
        node.stop()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_cluster_s_id_may_begin_with_a_dash(
    broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert broker  # so the jars are there
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(bytes=b"\xfb" * 16))
    node = load_script().KafkaNode(port=two_free_ports(), data=tmp_path / "data")
    try:
        node.start()
    finally:
        node.stop()
    assert "cluster.id=-" in (tmp_path / "data" / "log" / "meta.properties").read_text()


def test_a_taken_port_is_said(broker: str, tmp_path: Path) -> None:
    script = load_script()
    port = int(broker.split(":")[1])
    with pytest.raises(script.KafkaError, match=f"port {port} is taken"):
        script.KafkaNode(port=port, data=tmp_path).start()


def test_help_teaches() -> None:
    shown = subprocess.run(
        [sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, check=True
    ).stdout
    for word in ("start", "stop", "status", "--port", "--data", "MINDSTREAM_KAFKA__SERVERS"):
        assert word in shown
