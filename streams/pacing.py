"""When a role that is at work fetches more.

A broker answers a fetch as soon as a record is there. To a role that works on what it has, that is
the wrong moment: records that come one by one would be a fetch each, they wait for the turn to end
anyway, and those that came first would begin the next turn without the others. So a fetch waits
until the turn ends, and then brings all that came meanwhile. Where records are left over when a
turn begins, the role has more than it can do at once, and fetches ahead.

Owns the word that passes from an agent's event loop to the client's; must not know either.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

BEGIN_S = 0.02  # what was fetched is in an agent's hands by then
HOLD_S = 0.1  # after so long a fetch is sent in the middle of a turn, for the next one


class Pace:
    """Agents of one consumer say when they work; its fetches wait for them.

    Turns begin and end on one event loop, fetches wait on another or the same.

    Example:
        >>> pace, me = Pace(), object()
        >>> pace.begin_turn(me, left=False)
        >>> pace.wanted
        False
        >>> pace.end_turn(me)
        >>> pace.wanted
        True
    """

    def __init__(self) -> None:
        self._turns: Counter[object] = Counter()
        self._begun = 0  # turns so far
        self._unbegun: int | None = None  # turns so far when records came that none has begun on
        self._ahead: set[object] = set()
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    @property
    def wanted(self) -> bool:
        """Whether a fetch would bring what can be used: nobody works, or somebody has too much."""
        return self._turns.total() <= 0 or bool(self._ahead)

    def begin_turn(self, agent: object, *, left: bool) -> None:
        """Say that an agent begins to work on records that it took.

        Args:
            agent: tells one from another.
            left: whether it has more than it took.
        """
        self._turns[agent] += 1
        self._begun += 1
        (self._ahead.add if left else self._ahead.discard)(agent)
        self._tell()

    def end_turn(self, agent: object) -> None:
        """Say that an agent has worked; once for each turn."""
        self._turns[agent] -= 1
        self._tell()

    def leave(self, agent: object) -> None:
        """Say that an agent has stopped, whatever it was at."""
        del self._turns[agent]
        self._ahead.discard(agent)
        self._tell()

    def brought(self) -> None:
        """Say that a fetch brought records; some agent will soon begin a turn on them."""
        self._unbegun = self._begun

    async def until_wanted(self) -> None:
        """Wait until it is time for a fetch: at most `BEGIN_S` and `HOLD_S`."""
        if self._unbegun is not None:
            before, self._unbegun = self._unbegun, None
            await self._until(lambda: self._begun != before, BEGIN_S)
        await self._until(lambda: self.wanted, HOLD_S)

    async def _until(self, ready: Callable[[], bool], at_most_s: float) -> None:
        changed = asyncio.Event()
        self._waiting[changed] = asyncio.get_running_loop()  # before the look: no word is missed
        try:
            async with asyncio.timeout(at_most_s):
                while not ready():
                    await changed.wait()
                    changed.clear()
        except TimeoutError:
            return
        finally:
            del self._waiting[changed]

    def _tell(self) -> None:
        for changed, loop in list(self._waiting.items()):
            try:
                loop.call_soon_threadsafe(changed.set)
            except RuntimeError:  # that loop has ended
                continue
