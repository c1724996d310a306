"""Keeps the role processes alive, says when one dies, and stops them in order.

Owns processes, back-off and order; must not know what a role does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mindstream.embedded.lifeline import end, signal_group, spawn

FIRST_WAIT_S = 0.5
LAST_WAIT_S = 30.0
STEADY_S = 60.0  # alive for so long: the back-off starts anew
LOG_BYTES = 20 * 1024 * 1024
TAIL_LINES = 5


@dataclass(frozen=True, slots=True)
class RoleProcess:
    """What to run.

    Attributes:
        name: for people.
        argv: command and arguments.
        env: its whole environment.
        log_file: where its output goes, at most 20 MB and one older file; None: to this terminal.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log_file: Path | None = None


@dataclass(frozen=True, slots=True)
class RoleState:
    """How a role is doing.

    Attributes:
        restarts: how often it was started again.
        uptime_s: seconds since its last start; 0 while it is down.
    """

    name: str
    pid: int | None
    alive: bool
    restarts: int
    uptime_s: float


@dataclass(slots=True)
class _Running:
    role: RoleProcess
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    restarts: int = 0
    wait_s: float = FIRST_WAIT_S
    restart_at_s: float | None = None


class Supervisor:
    """Runs roles until told to stop.

    Args:
        roles: stopped in this order.
        say: told about every death and restart, one line each.
        clock_s: monotonic seconds.
    """

    def __init__(
        self,
        roles: Sequence[RoleProcess],
        *,
        say: Callable[[str], None],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._roles = [_Running(role) for role in roles]
        self._say = say
        self._clock_s = clock_s

    def start(self) -> None:
        """Start every role. Call from the main thread: children end with the thread that forks."""
        for running in self._roles:
            self._start(running)

    def _start(self, running: _Running) -> None:
        role = running.role
        running.restart_at_s = None
        running.started_s = self._clock_s()
        if role.log_file is None:
            running.process = spawn(role.argv, env=role.env)
            return
        role.log_file.parent.mkdir(parents=True, exist_ok=True)
        if role.log_file.exists() and role.log_file.stat().st_size > LOG_BYTES:
            role.log_file.replace(role.log_file.with_suffix(".old.log"))
        with role.log_file.open("ab") as output:
            running.process = spawn(role.argv, env=role.env, output=output)

    def poll(self) -> None:
        """Look after every role once: note deaths, restart what is due. Returns at once."""
        for running in self._roles:
            if running.process is not None and running.process.poll() is not None:
                self._note_death(running)
            due_s = running.restart_at_s
            if running.process is None and due_s is not None and self._clock_s() >= due_s:
                running.restarts += 1
                self._start(running)

    def _note_death(self, running: _Running) -> None:
        assert running.process is not None
        status = running.process.returncode
        signal_group(running.process, signal.SIGKILL)  # what it may have left behind
        running.process = None
        now_s = self._clock_s()
        if now_s - running.started_s >= STEADY_S:
            running.wait_s = FIRST_WAIT_S
        running.restart_at_s = now_s + running.wait_s
        how = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
        self._say(f"{running.role.name} ended ({how}); starting it again in {running.wait_s:g} s")
        for line in _tail(running.role.log_file):
            self._say(f"  {running.role.name}: {line}")
        running.wait_s = min(2 * running.wait_s, LAST_WAIT_S)

    def stop(self, *, timeout_s: float = 10.0) -> None:
        """Stop every role in order; what is left at the deadline is killed.

        Args:
            timeout_s: for all of them together, seconds.
        """
        deadline_s = self._clock_s() + timeout_s
        for number, running in enumerate(self._roles):
            running.restart_at_s = None
            if running.process is None:
                continue
            left_s = max(0.0, deadline_s - self._clock_s())
            end(running.process, timeout_s=left_s / (len(self._roles) - number))
            running.process = None

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a role a signal, as an accident would.

        Raises:
            KeyError: no role has that name.
        """
        for running in self._roles:
            if running.role.name == name:
                if running.process is not None:
                    os.kill(running.process.pid, number)
                return
        raise KeyError(name)

    def state(self) -> list[RoleState]:
        """Say how every role is doing."""
        now_s = self._clock_s()
        states = []
        for running in self._roles:
            alive = running.process is not None and running.process.poll() is None
            states.append(
                RoleState(
                    name=running.role.name,
                    pid=running.process.pid if running.process is not None and alive else None,
                    alive=alive,
                    restarts=running.restarts,
                    uptime_s=now_s - running.started_s if alive else 0.0,
                )
            )
        return states


def _tail(path: Path | None) -> list[str]:
    """Give the last lines of a log."""
    if path is None or not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4_096))
        text = file.read().decode(errors="replace")
    return [line for line in text.splitlines() if line.strip()][-TAIL_LINES:]
