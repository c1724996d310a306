"""Children that end with their parent, even when the parent is killed with SIGKILL.

On Linux the kernel sends the child a signal when its parent goes (`PR_SET_PDEATHSIG`). Elsewhere a
small watcher reads a pipe that only the parent holds open, and kills the child's group at its end.
Owns that; must not know what the child is.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1

_WATCHER = """
import os, signal, sys
sys.stdin.buffer.read()
try:
    os.killpg(int(sys.argv[1]), signal.SIGKILL)
except ProcessLookupError:
    pass
"""


def _arm(parent: int) -> None:
    """Run in the child, between fork and exec: ask for a signal at the parent's end."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it went between fork and prctl
        os._exit(1)


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    output: IO[bytes] | int | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a child in a process group of its own that cannot outlive this process.

    Linux sends the death signal when the *thread* that started the child ends: call this from the
    main thread, or from one that lives as long as the child.

    Args:
        argv: what to run.
        env: its whole environment; None: this process's.
        output: where stdout and stderr go; None: inherited.
        cwd: where it runs.

    Returns:
        The child. A Ctrl-C at the terminal does not reach it: its parent decides the order.
    """
    linux = sys.platform == "linux"
    parent = os.getpid()
    child = subprocess.Popen(
        list(argv),
        env=None if env is None else dict(env),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        cwd=cwd,
        start_new_session=True,
        # Safe here: the function only calls into libc; no lock can be held by another thread.
        preexec_fn=(lambda: _arm(parent)) if linux else None,
    )
    if not linux:
        child.watcher = subprocess.Popen(  # type: ignore[attr-defined]  # kept with the child
            [sys.executable, "-c", _WATCHER, str(child.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
    return child


def end(child: subprocess.Popen[bytes], *, timeout_s: float) -> int:
    """Stop a child and everything it started: SIGTERM, then SIGKILL at the deadline.

    Args:
        child: from `spawn`.
        timeout_s: how long it may take to stop by itself, seconds.

    Returns:
        Its exit status; negative for a signal.
    """
    if child.poll() is None:
        signal_group(child, signal.SIGTERM)
        try:
            child.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            signal_group(child, signal.SIGKILL)
            child.wait()
    signal_group(child, signal.SIGKILL)  # what the child itself left behind
    watcher: subprocess.Popen[bytes] | None = getattr(child, "watcher", None)
    if watcher is not None:
        watcher.kill()
        watcher.wait()
    return child.returncode


def signal_group(child: subprocess.Popen[bytes], number: int) -> None:
    """Signal a child's whole process group; nothing happens when it is gone."""
    try:
        os.killpg(child.pid, number)
    except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        return
