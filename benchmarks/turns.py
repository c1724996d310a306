"""Turns of the HTTP benchmark, and the figures that are made of them.

Must not know servers or how they are asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import msgspec

PLAIN = ("FastAPI, def", "FastAPI, async def")


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One side under load for a while.

    Attributes:
        side: who answered.
        connections: open at a time.
        requests_per_s: answered.
        p50_ms: half of the requests took at most so long.
        p99_ms: 99 of 100.
        cpu_ms: processor time of the server a request, all threads together.
        requests: counted.
    """

    side: str
    connections: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    requests: int


def middle(turns: Sequence[Turn]) -> list[Turn]:
    """Give, for each side and number of connections, the turn of median speed of all rounds."""
    groups: dict[tuple[int, str], list[Turn]] = {}
    for turn in turns:
        groups.setdefault((turn.connections, turn.side), []).append(turn)
    return [
        sorted(group, key=lambda turn: turn.requests_per_s)[len(group) // 2]
        for _, group in sorted(groups.items(), key=lambda item: item[0][0])
    ]


def cpu_ratio(turns: Sequence[Turn], side: str, *, connections: int) -> float:
    """Give the processor time a request of the cheaper FastAPI over that of a side.

    On a core of its own this is the ratio of requests a second; it also holds on one that is
    shared with other work, where a server with more threads is given more of the time.
    """
    spent = {
        name: median(t.cpu_ms for t in turns if (t.side, t.connections) == (name, connections))
        for name in (side, *PLAIN)
    }
    return min(spent[name] for name in PLAIN) / max(spent[side], 1e-9)


def ratio(turns: Sequence[Turn], side: str, *, connections: int) -> float:
    """Give the requests a second of a side over those of the faster FastAPI, median of rounds."""
    speeds = [
        [t.requests_per_s for t in turns if (t.side, t.connections) == (name, connections)]
        for name in (side, *PLAIN)
    ]
    found: list[float] = [mine / max(plain) for mine, *plain in zip(*speeds, strict=True)]
    return median(found)


def table(turns: Sequence[Turn]) -> list[list[str]]:
    """Write the table, headings first."""
    lines = [
        [
            "connections",
            "side",
            "requests/s",
            "over FastAPI",
            "p50 ms",
            "p99 ms",
            "cpu ms",
            "requests",
        ]
    ]
    for turn in middle(turns):
        over = ratio(turns, turn.side, connections=turn.connections)
        lines.append(
            [
                str(turn.connections),
                turn.side,
                f"{turn.requests_per_s:.0f}",
                f"{over:.2f}",
                f"{turn.p50_ms:.1f}",
                f"{turn.p99_ms:.1f}",
                f"{turn.cpu_ms:.2f}",
                f"{turn.requests:,}",
            ]
        )
    return lines
