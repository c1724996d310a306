"""The one place where an agent takes records, isolates the bad one and acknowledges.

Faust commits through contiguous acknowledgements only, and an exception that escapes a batch loses
or pins its events; so nothing escapes from here but cancellation. Owns that rule; must not know
what a record means.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka.errors import MessageSizeTooLargeError

from streams.decoding import Record, record_of

log = logging.getLogger(__name__)

Handle = Callable[[list[Record]], Awaitable[None]]

RETRY_FIRST_S = 0.1
RETRY_LAST_S = 10.0


async def each_batch(
    stream: Any,  # noqa: ANN401
    handle: Handle,
    *,
    rows: int = 256,
    within_s: float = 0.02,
    transient: tuple[type[BaseException], ...] = (),
) -> None:
    """Hand records to `handle` in batches until the agent stops.

    1. Take up to `rows` records, waiting at most `within_s` for more.
    2. Handle them. A transient error (broker or Redis away) is retried with back-off for as long as
       it lasts: lag grows, nothing is lost. Any other error, a message that the broker will
       never take among them, is a fault: the process ends, and after its restart the same records
       come again.
    3. Acknowledge every record, in order.

    Args:
        stream: a Faust stream of raw bytes.
        handle: must not return before its effects are durable.
        rows: most records of a batch.
        within_s: longest wait for a batch to fill, seconds.
        transient: errors that pass by themselves.
    """
    async for events in stream.noack_take(rows, within=within_s):
        records = [record_of(event.message) for event in events]
        await _handle_until_durable(stream.app, handle, records, transient)
        for event in events:
            await stream.ack(event)


async def _handle_until_durable(
    app: Any,  # noqa: ANN401
    handle: Handle,
    records: list[Record],
    transient: tuple[type[BaseException], ...],
) -> None:
    wait_s = RETRY_FIRST_S
    while True:
        try:
            await handle(records)
            return
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
