"""The one place where an agent takes records, isolates the bad one and acknowledges.

Faust commits through contiguous acknowledgements only, and an exception that escapes a batch loses
or pins its events; so nothing escapes from here but cancellation. Owns that rule; must not know
what a record means.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from aiokafka.errors import MessageSizeTooLargeError

from streams.chunks import Chunk
from streams.decoding import Record, record_of
from streams.gathering import Gathering
from streams.pacing import Pace

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_FIRST_S = 0.1
RETRY_LAST_S = 10.0


@dataclass(frozen=True, slots=True)
class Batching:
    """How records become batches.

    Attributes:
        rows: most records of a batch.
        within_s: longest wait for a batch to fill, seconds.
        early_rows: so many records are handled beside an earlier batch; fewer would only wait for
            it there, each batch with a cost of its own. 1: any are.
        in_flight: batches that are handled at the same time, at most. With more than one, batches
            may be handled out of order.
    """

    rows: int = 256
    within_s: float = 0.02
    early_rows: int = 1
    in_flight: int = 1


DEFAULT_BATCHING = Batching()


async def each_batch(
    stream: Any,  # noqa: ANN401
    handle: Callable[[list[Record]], Awaitable[T]],
    publish: Callable[[T], Awaitable[None]] | None = None,
    *,
    batching: Batching = DEFAULT_BATCHING,
    transient: tuple[type[BaseException], ...] = (),
) -> None:
    """Hand records to `handle` in batches until the agent stops.

    1. Take up to `rows` records, of one partition or of several, waiting at most `within_s` for
       more; fewer than `early_rows` wait until no earlier batch is being handled.
    2. Handle them, then publish what came of them. A transient error (broker or Redis away) is
       retried with back-off for as long as it lasts: lag grows, nothing is lost. Any other error, a
       message that the broker will never take among them, is a fault: the process ends, and after
       its restart the same records come again.
    3. Acknowledge, in order, every event whose records have all been handled: one record each from
       the stock transport, a chunk each from the fast one. A batch that is done before an earlier
       one waits for it.

    Args:
        stream: a Faust stream of raw bytes, or of chunks.
        handle: must not return before its effects are durable, but for those of `publish`.
        publish: is given what `handle` returned; must not return before that is durable.
        batching: bounds of batches.
        transient: errors that pass by themselves.
    """
    gathering = Gathering[Any, Record](
        rows=batching.rows, within_s=batching.within_s, early_rows=batching.early_rows
    )
    pace: Pace = getattr(stream.app.consumer, "pace", None) or Pace()  # the stock one has none

    def end_turn() -> None:
        gathering.end_turn()
        pace.end_turn(gathering)

    unacknowledged = stream.noack()
    filling = asyncio.create_task(_fill(gathering, unacknowledged))
    running: deque[asyncio.Task[None]] = deque()
    try:
        while batch := await gathering.batch():  # 1
            records, complete = batch
            before = running[-1] if running else None
            gathering.begin_turn()
            pace.begin_turn(gathering, left=gathering.left)
            work = _work(stream.app, records, handle, publish, transient, end_turn)
            running.append(
                asyncio.create_task(_settle(work, before, unacknowledged, complete))  # 2, 3
            )
            while running and (running[0].done() or len(running) >= batching.in_flight):
                await running[0]
                del running[0]
        for task in running:
            await task
    finally:
        for task in (filling, *running):
            task.cancel()
        await asyncio.wait([filling, *running])
        pace.leave(gathering)  # a turn that was cancelled before its first step does not end
    filling.result()


async def _settle(
    work: Coroutine[Any, Any, None],
    before: asyncio.Task[None] | None,
    stream: Any,  # noqa: ANN401
    complete: Sequence[Any],
) -> None:
    """Handle a batch, and acknowledge the events it completes after those of the one before."""
    await work
    if before is not None:
        await asyncio.shield(before)
    for event in complete:
        if isinstance(event.value, Chunk):
            event.value.durable = True
        await stream.ack(event)


async def _fill(gathering: Gathering[Any, Record], stream: Any) -> None:  # noqa: ANN401
    loop = asyncio.get_running_loop()
    try:
        async for event in stream.events():
            chunk = event.value
            records = chunk.records if isinstance(chunk, Chunk) else [record_of(event.message)]
            followed = isinstance(chunk, Chunk) and chunk.followed
            gathering.add(event, records, now_s=loop.time(), followed=followed)
            await gathering.room()
    finally:
        gathering.close()


async def _work(
    app: Any,  # noqa: ANN401
    records: list[Record],
    handle: Callable[[list[Record]], Awaitable[T]],
    publish: Callable[[T], Awaitable[None]] | None,
    transient: tuple[type[BaseException], ...],
    handled: Callable[[], None],
) -> None:
    try:
        found = await _until_durable(app, records, partial(handle, records), transient)
    finally:
        handled()
    if publish is not None:
        await _until_durable(app, records, partial(publish, found), transient)


async def _until_durable(
    app: Any,  # noqa: ANN401
    records: list[Record],
    step: Callable[[], Awaitable[T]],
    transient: tuple[type[BaseException], ...],
) -> T:
    wait_s = RETRY_FIRST_S
    while True:
        try:
            return await step()
        except asyncio.CancelledError:
            raise
        except transient as error:
            if isinstance(error, MessageSizeTooLargeError):
                await _crash(app, error, records)
                raise
            log.warning("%s: %s; trying again in %.1f s", type(error).__name__, error, wait_s)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, RETRY_LAST_S)
        except Exception as error:
            await _crash(app, error, records)
            raise


async def _crash(app: Any, error: BaseException, records: list[Record]) -> None:  # noqa: ANN401
    log.error("a batch failed: %s to %s", records[0].position, records[-1].position, exc_info=error)
    await app.crash(error)
