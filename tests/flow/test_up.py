"""`mindstream up`: all on one machine; a role that dies comes back; Ctrl-C ends everything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deployment import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def command(*words: str, folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mindstream", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def wait(done: Callable[[], bool], what: str, *, timeout_s: float = 120) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.5)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def descendants(pid: int) -> list[int]:
    found = subprocess.run(
        ["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    pairs = [tuple(map(int, line.split())) for line in found.splitlines()]
    family, news = [], [pid]
    while news:
        parent = news.pop()
        children = [child for child, its_parent in pairs if its_parent == parent]
        family += children
        news += children
    return family


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes through /proc")
def test_up_answers_restarts_a_dead_role_and_leaves_nothing_behind(tmp_path: Path) -> None:
    ports = free_ports(4)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("MINDSTREAM_")},
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "COLUMNS": "200",
        **{
            f"MINDSTREAM_{role}__PORT": str(port)
            for role, port in zip(("INGEST", "LEARN", "SERVE", "WATCH"), ports, strict=True)
        },
    }
    log = tmp_path / "up.log"
    with log.open("wb") as output:
        up = subprocess.Popen(
            [sys.executable, "-m", "mindstream", "up"],
            cwd=tmp_path,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:

        def status() -> dict[str, bool]:
            text = command("status", "--json", folder=tmp_path, environment=environment)
            try:
                roles: dict[str, bool] = json.loads(text)["roles"]
            except ValueError:
                return {}
            return roles

        wait(lambda: len(status()) == 4 and all(status().values()), f"up: {log.read_text()}")
        said = command("send", "interaction", "hello", folder=tmp_path, environment=environment)
        assert "no release yet" in said

        children = descendants(up.pid)
        watch = next(
            pid
            for pid in children
            if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[-2:-1] == [b"watch"]
        )
        os.kill(watch, signal.SIGKILL)
        wait(lambda: "watch" in log.read_text() and "SIGKILL" in log.read_text(), "not said")
        wait(lambda: status().get("watch", False), "watch did not come back")

        children = descendants(up.pid)
        started_s = time.monotonic()
        up.send_signal(signal.SIGINT)
        assert up.wait(timeout=15) == 0
        assert time.monotonic() - started_s <= 10.0
        assert not [pid for pid in children if alive(pid)]
        assert "Traceback" not in log.read_text()
    finally:
        if up.poll() is None:
            up.kill()
            up.wait()
