"""A fetch waits for the turn at hand, and for nothing else."""

from __future__ import annotations

import asyncio
import time
from threading import Thread

import pytest

from streams.pacing import BEGIN_S, HOLD_S, Pace


async def sent(fetch: asyncio.Task[None]) -> bool:
    """Say whether a fetch is sent, once its loop has done all that it could."""
    for _ in range(5):
        await asyncio.sleep(0)
    return fetch.done()


async def test_a_fetch_of_a_role_that_has_nothing_to_do_is_sent_at_once() -> None:
    pace = Pace()
    fetch = asyncio.create_task(pace.until_wanted())
    assert await sent(fetch)


async def test_a_fetch_waits_for_the_end_of_every_turn() -> None:
    pace, one, other = Pace(), object(), object()
    pace.begin_turn(one, left=False)
    pace.begin_turn(other, left=False)
    fetch = asyncio.create_task(pace.until_wanted())
    assert not await sent(fetch)
    pace.end_turn(one)
    assert not await sent(fetch)
    pace.end_turn(other)
    assert await sent(fetch)


async def test_after_records_came_a_fetch_waits_for_the_turn_that_they_begin() -> None:
    pace, me = Pace(), object()
    pace.brought()
    fetch = asyncio.create_task(pace.until_wanted())
    assert not await sent(fetch)
    pace.begin_turn(me, left=False)
    assert not await sent(fetch)
    pace.end_turn(me)
    assert await sent(fetch)


async def test_a_turn_that_has_begun_before_the_next_fetch_is_not_waited_for_again() -> None:
    pace, me = Pace(), object()
    pace.brought()
    pace.begin_turn(me, left=False)
    fetch = asyncio.create_task(pace.until_wanted())
    assert not await sent(fetch)
    pace.end_turn(me)
    assert await sent(fetch)


async def test_who_has_more_than_a_batch_fetches_ahead() -> None:
    pace, me, other = Pace(), object(), object()
    pace.brought()
    fetch = asyncio.create_task(pace.until_wanted())
    pace.begin_turn(me, left=True)
    assert await sent(fetch)
    pace.begin_turn(other, left=False)  # says nothing of the first one
    assert await sent(asyncio.create_task(pace.until_wanted()))
    pace.begin_turn(me, left=False)
    fetch = asyncio.create_task(pace.until_wanted())
    assert not await sent(fetch)
    fetch.cancel()


@pytest.mark.parametrize("came", [False, True])
async def test_no_fetch_waits_for_ever(came: bool) -> None:
    pace = Pace()
    if came:
        pace.brought()  # and nobody begins: they were of partitions that have moved
    else:
        pace.begin_turn(object(), left=False)
    started_s = time.monotonic()
    await asyncio.wait_for(pace.until_wanted(), 20)
    assert time.monotonic() - started_s >= (BEGIN_S if came else HOLD_S) - 0.005


async def test_an_agent_that_stopped_holds_nothing_back_and_lets_nothing_through() -> None:
    pace, gone, me = Pace(), object(), object()
    pace.begin_turn(gone, left=True)
    pace.leave(gone)
    assert pace.wanted
    pace.begin_turn(me, left=False)
    assert not pace.wanted


async def test_a_word_from_another_thread_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.pacing.HOLD_S", 600.0)  # else the fetch would go anyway
    pace, me = Pace(), object()
    for _ in range(20):
        pace.begin_turn(me, left=False)
        fetch = asyncio.create_task(pace.until_wanted())
        assert not await sent(fetch)
        thread = Thread(target=pace.end_turn, args=(me,))
        thread.start()
        await asyncio.wait_for(fetch, 20)
        thread.join()
