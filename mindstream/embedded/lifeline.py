"""Children that end with their parent, even when the parent is killed with SIGKILL.

On Linux the kernel sends a child SIGKILL when its parent goes (`PR_SET_PDEATHSIG`). Elsewhere a
small watcher reads a pipe that only the parent holds open, and kills the child's group at its end.
Owns that; must not know what the child is.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import IO

# Run by a fresh interpreter that then becomes the child. `preexec_fn` would do the same in a fork
# of this process, where a native thread (librdkafka has some) may hold a lock for ever.
_ARM = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):  # the parent went before prctl
    os._exit(1)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.stderr.write(f"{sys.argv[2]}: {error.strerror}\\n")
    os._exit(127)
"""

_WATCH = """
import os, signal, sys
sys.stdin.buffer.read()
try:
    os.killpg(int(sys.argv[1]), signal.SIGKILL)
except OSError:
    pass
"""

_PYTHON = (sys.executable, "-I", "-S", "-c")  # no site-packages: up in a few hundredths of a second


class Child:
    """A running child, leader of a process group of its own."""

    def __init__(
        self, process: subprocess.Popen[bytes], watcher: subprocess.Popen[bytes] | None = None
    ) -> None:
        self._process = process
        self._watcher = watcher

    @property
    def pid(self) -> int:
        """Its process id, and its group's."""
        return self._process.pid

    def poll(self) -> int | None:
        """Give its exit status, negative for a signal; None while it runs. Leaves no zombie."""
        if self._process.returncode is None and self._process.poll() is not None:
            self._clear()
        return self._process.returncode

    def wait(self, *, timeout_s: float) -> bool:
        """Wait for its end.

        Args:
            timeout_s: for so long at most, seconds.

        Returns:
            True when it has ended.
        """
        try:
            self._process.wait(timeout=max(0.0, timeout_s))
        except subprocess.TimeoutExpired:
            return False
        self._clear()
        return True

    def signal_group(self, number: int) -> None:
        """Signal it and everything it started; nothing happens when all are gone."""
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):  # macOS says the latter of a dead group
            return

    def end(self, *, timeout_s: float) -> int:
        """Stop it and everything it started: SIGTERM, then SIGKILL at the deadline.

        Args:
            timeout_s: how long it may take to stop by itself, seconds.

        Returns:
            Its exit status; negative for a signal.
        """
        if self.poll() is None:
            self.signal_group(signal.SIGTERM)
            if not self.wait(timeout_s=timeout_s):
                self.kill()
        return self._process.returncode

    def kill(self) -> None:
        """Kill it and everything it started, and wait until it is gone."""
        if self.poll() is None:
            self.signal_group(signal.SIGKILL)
            self._process.wait()
            self._clear()

    def _clear(self) -> None:
        """End what it left behind, and its watcher."""
        self.signal_group(signal.SIGKILL)
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.kill()
            watcher.communicate()  # closes the pipe, reaps


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    output: IO[bytes] | int | None = None,
    cwd: Path | None = None,
    by_kernel: bool = sys.platform == "linux",
) -> Child:
    """Start a child in a process group of its own that cannot outlive this process.

    From any thread. Not in a session of its own: Linux shares a processor out between sessions
    first (sched_autogroup), so that a low priority of one role would mean nothing to another, and
    one that needs little may wait a tenth of a second for its turn on a busy core.

    What the child itself starts is killed when its end is noted here. The kernel's signal, when
    this process was killed, reaches the child alone.

    Args:
        argv: what to run.
        env: its whole environment; None: this process's.
        output: where stdout and stderr go; None: inherited.
        cwd: where it runs.
        by_kernel: True where the kernel ends it; False: a watcher process does.

    Returns:
        The child. A Ctrl-C at the terminal does not reach it: its parent decides the order. When
        `argv` cannot be run, the child ends with status 127 and says why (`by_kernel`), or
        `OSError` is raised here.
    """
    arm = [*_PYTHON, _ARM, str(os.getpid())] if by_kernel else []

    def start() -> Child:
        process = subprocess.Popen(
            [*arm, *argv],
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            cwd=cwd,
            process_group=0,
        )
        if by_kernel:
            return Child(process)
        watcher = subprocess.Popen(
            [*_PYTHON, _WATCH, str(process.pid)], stdin=subprocess.PIPE, process_group=0
        )
        return Child(process, watcher)

    return _forker.run(start)


class _Forker:
    """One thread that starts all children and lives as long as the process.

    Linux sends the death signal when the *thread* that started the child ends, not the process.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Child], Future[Child]]]
        self._jobs = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def run(self, start: Callable[[], Child]) -> Child:
        """Call `start` in the thread and give its result, or raise what it raised."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():  # the latter after a fork
                self._thread = threading.Thread(target=self._work, name="lifeline", daemon=True)
                self._thread.start()
        answer: Future[Child] = Future()
        self._jobs.put((start, answer))
        return answer.result()

    def _work(self) -> None:
        while True:
            start, answer = self._jobs.get()
            try:
                answer.set_result(start())
            except OSError as error:
                answer.set_exception(error)
            del start, answer


_forker = _Forker()


def is_alive(pid: int) -> bool:
    """Say whether a process of that id exists, whoever owns it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
