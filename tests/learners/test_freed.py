"""Freed memory goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# glibc keeps blocks up to the size of the largest that was freed, and those below the topmost.
SCRIPT = """
import numpy as np
from benchmarks.measures import memory_mb
from learners.heads.freed import give_back

np.ones(31 << 20, np.uint8)
blocks = [np.ones(4 << 20, np.uint8) for _ in range(50)]
topmost = np.ones(1 << 20, np.uint8)
del blocks
kept = memory_mb()
give_back()
print(round(kept - memory_mb()))
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc keeps memory that it can be asked for"
)
def test_blocks_that_were_freed_go_back() -> None:
    printed = subprocess.run(
        [sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True
    ).stdout
    assert int(printed) > 150
