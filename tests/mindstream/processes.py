"""Looks at real processes from outside, for the tests of what starts and ends them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable


def runs(pid: int) -> bool:
    """Say whether it runs; an orphan that has ended and waits for init to reap it does not."""
    shown = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip() != "" and not shown.stdout.startswith("Z")


def within(check: Callable[[], bool], seconds: float = 10.0) -> None:
    """Ask again until the answer is yes; fail when it never is."""
    end_s = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end_s, f"not within {seconds:g} s"
        time.sleep(0.01)
