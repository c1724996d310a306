"""`mindstream up` starts nothing where it would harm another, and says why."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mindstream.clients import require_topics
from mindstream.embedded.kafka import EmbeddedKafka
from mindstream.exits import FAILED, TAKEN_OVER, WRONG, status_of
from mindstream.settings import load_settings
from mindstream.up import only_one, run_up, running_overrides
from mindstream.wiring import ROLES, check_ports, state_file, topics_of
from schemas.errors import (
    EncoderError,
    FencedError,
    MessageError,
    NotRunningError,
    ReleaseError,
    SettingsError,
    UnreachableError,
)
from streams.topics import TABLE, Topics
from tests.deployment import free_ports


def test_a_second_one_in_the_same_folder_is_refused_and_the_first_keeps_its_state(
    tmp_path: Path,
) -> None:
    # Given a folder that is held
    settings = load_settings(overrides={"data_dir": str(tmp_path)})
    with only_one(settings):
        state_file(settings).write_text(f'{{"pid": {os.getpid()}, "overrides": {{"a": "b"}}}}')

        # When another process runs `up` in it
        done = subprocess.run(
            [sys.executable, "-m", "mindstream", "up", "-s", f"data_dir={tmp_path}"],
            env={"PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "200"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

        # Then it says so and touches nothing
        assert done.returncode == WRONG
        assert "another `mindstream up` runs in it" in done.stderr
        assert "Traceback" not in done.stderr
        assert running_overrides(settings) == {"a": "b"}
    with only_one(settings):  # let go of
        pass


def test_every_taken_port_is_said_before_anything_is_started(tmp_path: Path) -> None:
    with socket.socket() as first, socket.socket() as second:
        ports = []
        for taken in (first, second):
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            ports.append(taken.getsockname()[1])
        free = free_ports(2)
        settings = load_settings(
            overrides={
                "data_dir": str(tmp_path),
                "ingest.port": ports[0],
                "serve.port": ports[1],
                "learn.port": free[0],
                "watch.port": free[1],
            }
        )
        with pytest.raises(SettingsError) as caught:
            run_up(settings)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        f"ingest.port = {ports[0]}",
        f"serve.port = {ports[1]}",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["up.lock"]


def test_one_port_for_two_roles_is_said_and_0_is_any_port() -> None:
    (port,) = free_ports(1)
    ports = {"ingest.port": port, "learn.port": 0, "serve.port": 0, "watch.port": port}
    with pytest.raises(SettingsError, match=rf"watch\.port = {port}: is that of ingest too"):
        check_ports(load_settings(overrides=ports), ROLES)


def test_missing_topics_are_said_each_with_what_makes_them() -> None:
    topics = Topics("some")
    with EmbeddedKafka({topics.interactions: 1, topics.examples: 1}) as cluster:
        settings = load_settings(
            overrides={
                "kafka.servers": cluster.bootstrap,
                "kafka.prefix": "some",
                "embedded_kafka": True,
            }
        )
        require_topics(settings, ["interactions", "examples"])
        with pytest.raises(SettingsError) as caught:
            require_topics(settings, topics_of("ingest"))
    assert caught.value.problems == [
        f"topic some.{name} is not on {cluster_name(caught.value)}: "
        "`mindstream topics create` makes it"
        for name in ("dead-letters", "feedback")
    ]


def cluster_name(error: SettingsError) -> str:
    return error.problems[0].split(" is not on ")[1].split(": `")[0]


def test_every_topic_is_needed_by_a_role_or_kept_for_later() -> None:
    needed = set().union(*(topics_of(role) for role in ROLES))
    assert needed <= {row.name for row in TABLE}
    assert {"interactions", "feedback", "examples", "models", "predictions"} <= needed


def test_exit_statuses_tell_who_starts_a_process_again_whether_that_helps() -> None:
    wrong = [SettingsError(["x"]), NotRunningError("x"), ReleaseError("x"), MessageError("x")]
    assert {status_of(error) for error in wrong} == {WRONG}
    assert status_of(FencedError("x")) == TAKEN_OVER
    assert {status_of(error) for error in (UnreachableError("x"), EncoderError("x"))} == {FAILED}
