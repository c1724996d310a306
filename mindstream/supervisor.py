"""Keeps the role processes alive, says when one dies, and stops them in order.

A role that ends in a way that another start would not mend (`mindstream.exits.FINAL`) stays down.

Owns processes, back-off and order; must not know what a role does.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mindstream.embedded.lifeline import Child, spawn
from mindstream.exits import FINAL

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
        final: it ended in a way that another start would not mend.
    """

    name: str
    pid: int | None
    alive: bool
    restarts: int
    uptime_s: float
    final: bool = False


@dataclass(slots=True)
class _Running:
    role: RoleProcess
    child: Child | None = None
    started_s: float = 0.0
    restarts: int = 0
    wait_s: float = FIRST_WAIT_S
    restart_at_s: float | None = None
    final: bool = False


class Supervisor:
    """Runs roles until told to stop.

    Args:
        roles: stopped in this order.
        say: told about every death and restart, one line each.
        clock_s: monotonic seconds, for back-off and uptime.
        log_bytes: a log longer than this becomes the older file, which it replaces.
    """

    def __init__(
        self,
        roles: Sequence[RoleProcess],
        *,
        say: Callable[[str], None],
        clock_s: Callable[[], float] = time.monotonic,
        log_bytes: int = LOG_BYTES,
    ) -> None:
        self._roles = [_Running(role) for role in roles]
        self._say = say
        self._clock_s = clock_s
        self._log_bytes = log_bytes

    def start(self) -> None:
        """Start every role that does not run; from any thread."""
        for running in self._roles:
            if running.child is None:
                self._start(running)

    def _start(self, running: _Running) -> None:
        """Start a role; when that cannot be done now, say so and plan the next attempt."""
        role = running.role
        running.restart_at_s = None
        running.final = False
        running.started_s = self._clock_s()
        try:
            if role.log_file is None:
                running.child = spawn(role.argv, env=role.env)
                return
            role.log_file.parent.mkdir(parents=True, exist_ok=True)
            # Append mode is what lets `_bound_log` cut the file under a process that writes to it.
            with role.log_file.open("ab") as output:
                running.child = spawn(role.argv, env=role.env, output=output)
        except OSError as error:
            self._plan_restart(running, f"{role.name} cannot be started ({error})")

    def poll(self) -> None:
        """Look after every role once: note deaths, restart what is due. Returns at once."""
        for running in self._roles:
            if running.child is not None:
                _bound_log(running.role.log_file, log_bytes=self._log_bytes)
                status = running.child.poll()
                if status is not None:
                    self._note_death(running, status)
            due_s = running.restart_at_s
            if running.child is None and due_s is not None and self._clock_s() >= due_s:
                running.restarts += 1
                self._start(running)

    def _note_death(self, running: _Running, status: int) -> None:
        running.child = None
        if self._clock_s() - running.started_s >= STEADY_S:
            running.wait_s = FIRST_WAIT_S
        what = f"{running.role.name} ended ({_how(status)})"
        running.final = status in FINAL
        if running.final:
            self._say(f"{what}: {FINAL[status]}; it is not started again")
        else:
            self._plan_restart(running, what)
        for line in _tail(running.role.log_file):
            self._say(f"  {running.role.name}: {line}")

    def _plan_restart(self, running: _Running, what: str) -> None:
        running.restart_at_s = self._clock_s() + running.wait_s
        self._say(f"{what}; starting it again in {running.wait_s:g} s")
        running.wait_s = min(2 * running.wait_s, LAST_WAIT_S)

    def stop(self, *, timeout_s: float = 10.0) -> None:
        """Stop every role in order, and leave no process behind.

        1. Each in turn is asked to stop (SIGTERM), and given an equal share of the time that is
           left before the next one is asked too: who is slow delays the others, never starves them.
        2. What is left at the deadline is killed, with all that it has started.

        Args:
            timeout_s: for all of them together, seconds.
        """
        deadline_s = time.monotonic() + timeout_s
        children = []
        for running in self._roles:
            running.restart_at_s = None
            if running.child is not None:
                children.append(running.child)
        try:
            for number, child in enumerate(children):
                if child.poll() is None:
                    child.signal_group(signal.SIGTERM)
                    left_s = deadline_s - time.monotonic()
                    child.wait(timeout_s=left_s / (len(children) - number))
            for child in children:
                child.wait(timeout_s=deadline_s - time.monotonic())
        finally:  # also when a Ctrl-C cuts the waiting short
            for child in children:
                child.kill()
            for running in self._roles:
                running.child = None

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a role a signal, as an accident would.

        Raises:
            KeyError: no role has that name.
        """
        for running in self._roles:
            if running.role.name == name:
                if running.child is not None and running.child.poll() is None:
                    os.kill(running.child.pid, number)
                return
        raise KeyError(name)

    def state(self) -> list[RoleState]:
        """Say how every role is doing."""
        now_s = self._clock_s()
        states = []
        for running in self._roles:
            child = running.child
            pid = child.pid if child is not None and child.poll() is None else None
            states.append(
                RoleState(
                    name=running.role.name,
                    pid=pid,
                    alive=pid is not None,
                    restarts=running.restarts,
                    uptime_s=0.0 if pid is None else now_s - running.started_s,
                    final=running.final,
                )
            )
        return states


def _how(status: int) -> str:
    """Put an exit status into words."""
    if status >= 0:
        return f"exit status {status}"
    with suppress(ValueError):  # a real-time signal has no name
        return signal.Signals(-status).name
    return f"signal {-status}"


def _bound_log(path: Path | None, *, log_bytes: int) -> None:
    """Move a log that has grown too long aside. Its writer goes on; a line or two may be lost."""
    if path is None:
        return
    with suppress(OSError):  # a full or vanished disk must not end the supervisor
        if path.stat().st_size > log_bytes:
            shutil.copyfile(path, path.with_suffix(".old.log"))
            os.truncate(path, 0)


def _tail(path: Path | None) -> list[str]:
    """Give the last lines of a log."""
    if path is None or not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4_096))
        text = file.read().decode(errors="replace")
    return [line for line in text.splitlines() if line.strip()][-TAIL_LINES:]
