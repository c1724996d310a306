"""Freed memory goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# glibc keeps blocks up to the size of the largest that was freed, and those below the topmost.
SCRIPT = """
import numpy as np
import psutil
from learners.heads.freed import give_back

def megabytes():
    return psutil.Process().memory_info().rss >> 20

np.ones(31 << 20, np.uint8)
blocks = [np.ones(4 << 20, np.uint8) for _ in range(50)]
topmost = np.ones(1 << 20, np.uint8)
del blocks
kept = megabytes()
give_back()
print(kept - megabytes())
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc keeps memory that it can be asked for"
)
def test_blocks_that_were_freed_go_back() -> None:
    printed = subprocess.run(
        [sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True
    ).stdout
    assert int(printed) > 150
