"""The coalescer's edges: waiting, overload, closing, a broken answerer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from serving.batcher import Bounds, LoopClock, MicroBatcher, OverloadError, plan


class HeldClock:
    """A clock that stands still until it is told to go."""

    def __init__(self) -> None:
        self.time_s = 100.0
        self.waits: list[float] = []
        self._moved = asyncio.Event()

    def now_s(self) -> float:
        return self.time_s

    def pass_by(self, seconds: float) -> None:
        self.time_s += seconds
        self._moved.set()

    async def wait(self, event: asyncio.Event, timeout_s: float) -> None:
        self.waits.append(timeout_s)
        waiters = {asyncio.create_task(event.wait()), asyncio.create_task(self._moved.wait())}
        try:
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()
            await asyncio.gather(*waiters, return_exceptions=True)


class Doubler:
    """Answers with the double, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, questions: list[int]) -> Sequence[int]:
        self.batches.append(questions)
        await self.gate.wait()
        return [2 * question for question in questions]


def batcher_of(
    answer: Doubler, clock: HeldClock | None = None, **bounds: float
) -> MicroBatcher[int, int]:
    limits = Bounds(**bounds)  # type: ignore[arg-type]
    return MicroBatcher(answer, length=lambda question: 1, bounds=limits, clock=clock)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_callers_within_the_wait_are_answered_together() -> None:
    answer, clock = Doubler(), HeldClock()
    batcher = batcher_of(answer, clock, max_wait_s=0.5)
    tasks = [asyncio.create_task(batcher.ask(number)) for number in range(3)]
    await settle()
    assert answer.batches == []
    assert clock.waits == [0.5]
    clock.pass_by(0.5)
    assert await asyncio.gather(*tasks) == [0, 2, 4]
    assert answer.batches == [[0, 1, 2]]
    await batcher.close()


async def test_a_full_batch_does_not_wait() -> None:
    answer, clock = Doubler(), HeldClock()
    batcher = batcher_of(answer, clock, max_wait_s=60.0, max_rows=2)
    answers = await asyncio.gather(*(batcher.ask(number) for number in range(4)))
    assert answers == [0, 2, 4, 6]
    assert answer.batches == [[0, 1], [2, 3]]
    await batcher.close()


async def test_a_full_queue_refuses_with_its_size_and_takes_again_later() -> None:
    answer = Doubler()
    answer.gate.clear()
    batcher = batcher_of(answer, max_wait_s=0.0, max_queued=2)
    tasks = [asyncio.create_task(batcher.ask(number)) for number in range(2)]
    await settle()
    with pytest.raises(OverloadError, match="2 questions are queued, at most 2 may be"):
        await batcher.ask(9)
    answer.gate.set()
    assert await asyncio.gather(*tasks) == [0, 2]
    assert await batcher.ask(9) == 18
    await batcher.close()


async def test_a_caller_that_left_before_its_batch_is_not_computed() -> None:
    answer, clock = Doubler(), HeldClock()
    batcher = batcher_of(answer, clock, max_wait_s=1.0)
    stays, leaves = (asyncio.create_task(batcher.ask(number)) for number in (1, 2))
    await settle()
    leaves.cancel()
    await settle()
    clock.pass_by(1.0)
    assert await stays == 2
    assert answer.batches == [[1]]
    await batcher.close()


async def test_too_few_answers_are_an_error_and_never_somebody_elses() -> None:
    async def short(questions: list[int]) -> Sequence[int]:
        return questions[:-1]

    batcher: MicroBatcher[int, int] = MicroBatcher(short, length=lambda question: 1)
    results = await asyncio.gather(batcher.ask(1), batcher.ask(2), return_exceptions=True)
    assert [str(result) for result in results] == ["1 questions got 0 answers"] * 2
    await batcher.close()


async def test_closing_cancels_who_waits_and_who_is_being_answered() -> None:
    answer = Doubler()
    answer.gate.clear()
    batcher = batcher_of(answer, max_wait_s=0.0, max_rows=1)
    tasks = [asyncio.create_task(batcher.ask(number)) for number in range(3)]
    await settle()
    await batcher.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)


async def test_the_loops_clock_ends_a_wait_by_event_and_by_time() -> None:
    clock, event = LoopClock(), asyncio.Event()
    before = clock.now_s()
    await clock.wait(event, 0.01)
    assert clock.now_s() - before >= 0.005
    event.set()
    await asyncio.wait_for(clock.wait(event, 60.0), timeout=1.0)


@pytest.mark.parametrize(("rows", "tokens"), [(0, 1), (1, 0)])
def test_a_plan_without_room_is_refused(rows: int, tokens: int) -> None:
    with pytest.raises(ValueError, match=f"max_rows is {rows} and max_tokens {tokens}"):
        plan([1], rows, tokens)
