"""Micro-batches: a plan over lengths, and a coalescer of concurrent callers.

Owns the bounds (rows, tokens, wait, queue) and that no caller can harm another; must not know torch
or Kafka. Time is passed in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from schemas.errors import MindstreamError

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class OverloadError(MindstreamError):
    """Raised when the queue is full: nothing was taken, ask again later."""


def plan(lengths: Sequence[int], max_rows: int, max_tokens: int) -> list[list[int]]:
    """Group rows of similar length into batches, shortest first.

    A batch costs its rows times its longest row once it is padded: that product stays within
    `max_tokens`. A row longer than that goes alone.

    Args:
        lengths: tokens of each row, at least 0.
        max_rows: rows of a batch, at most; at least 1.
        max_tokens: padded tokens of a batch, at most; at least 1.

    Returns:
        Indices into `lengths`, each exactly once; equal lengths keep their order.

    Raises:
        ValueError: a bound is under 1.

    Examples:
        >>> plan([9, 2, 3, 30, 2], max_rows=3, max_tokens=10)
        [[1, 4, 2], [0], [3]]
    """
    if max_rows < 1 or max_tokens < 1:
        raise ValueError(f"max_rows is {max_rows} and max_tokens {max_tokens}: both at least 1")
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        # Sorted, so this row is the longest of the batch it joins.
        fits = batches and len(batches[-1]) < max_rows
        if fits and (len(batches[-1]) + 1) * lengths[index] <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


class Clock(Protocol):
    """Time, so that tests need not wait for it."""

    def now_s(self) -> float:
        """Give a monotonic time, seconds."""
        ...

    async def wait(self, event: asyncio.Event, timeout_s: float) -> None:
        """Return when the event is set or the time has passed."""
        ...


class LoopClock:
    """The running event loop's clock."""

    def now_s(self) -> float:
        """Give the loop's monotonic time, seconds."""
        return asyncio.get_running_loop().time()

    async def wait(self, event: asyncio.Event, timeout_s: float) -> None:
        """Return when the event is set or the time has passed."""
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            return


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of a micro-batch and of the queue before it.

    Attributes:
        max_rows: rows of a batch.
        max_tokens: padded tokens of a batch.
        max_wait_s: longest wait of the first caller for others, seconds.
        max_queued: callers that wait or are being answered; more are refused.
    """

    max_rows: int = 256
    max_tokens: int = 8_192
    max_wait_s: float = 0.005
    max_queued: int = 4_096


@dataclass(slots=True)
class _Caller(Generic[Question, Answer]):
    question: Question
    length: int
    since_s: float
    answer: asyncio.Future[Answer] = field(repr=False)


class MicroBatcher(Generic[Question, Answer]):
    """Answers concurrent callers together.

    Three rules keep callers apart: one that left is dropped before its batch runs; a batch that
    fails is halved until the failing question stands alone, and only its caller sees the error; an
    answer is set only where somebody still waits.

    Args:
        answer: questions to answers, in order and of the same number.
        length: tokens of a question.
        bounds: see `Bounds`.
        clock: time; the event loop's by default.
    """

    def __init__(
        self,
        answer: Callable[[list[Question]], Awaitable[Sequence[Answer]]],
        *,
        length: Callable[[Question], int],
        bounds: Bounds | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._answer = answer
        self._length = length
        self._bounds = bounds if bounds is not None else Bounds()
        self._clock = clock if clock is not None else LoopClock()
        self._queue: deque[_Caller[Question, Answer]] = deque()
        self._running = 0
        self._full = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    async def ask(self, question: Question) -> Answer:
        """Get one answer, batched with whoever asks at the same time.

        Args:
            question: what to answer.

        Returns:
            Its answer. An error of `answer` for this question comes out here.

        Raises:
            OverloadError: the queue is full.
        """
        queued = len(self._queue) + self._running
        if queued >= self._bounds.max_queued:
            raise OverloadError(
                f"{queued} questions are queued, at most {self._bounds.max_queued} may be"
            )
        caller: _Caller[Question, Answer] = _Caller(
            question=question,
            length=self._length(question),
            since_s=self._clock.now_s(),
            answer=asyncio.get_running_loop().create_future(),
        )
        self._queue.append(caller)
        if len(self._queue) >= self._bounds.max_rows:
            self._full.set()
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await caller.answer

    async def close(self) -> None:
        """Stop; callers that still wait are cancelled."""
        worker, self._worker = self._worker, None
        for caller in self._queue:
            caller.answer.cancel()
        self._queue.clear()
        if worker is not None:
            worker.cancel()
            await asyncio.wait([worker])

    async def _work(self) -> None:
        """Answer until nobody waits; the next caller starts it again."""
        while self._queue:
            wait_s = self._queue[0].since_s + self._bounds.max_wait_s - self._clock.now_s()
            if wait_s > 0 and len(self._queue) < self._bounds.max_rows:
                self._full.clear()
                await self._clock.wait(self._full, wait_s)
            taken = [
                self._queue.popleft() for _ in range(min(len(self._queue), self._bounds.max_rows))
            ]
            self._running = len(taken)
            try:
                present = [caller for caller in taken if not caller.answer.done()]
                for rows in plan(
                    [caller.length for caller in present],
                    self._bounds.max_rows,
                    self._bounds.max_tokens,
                ):
                    await self._run([present[row] for row in rows])
            finally:
                self._running = 0
                for caller in taken:
                    caller.answer.cancel()  # does nothing to one that is answered

    async def _run(self, callers: list[_Caller[Question, Answer]]) -> None:
        callers = [caller for caller in callers if not caller.answer.done()]
        if not callers:
            return
        try:
            answers = await self._answer([caller.question for caller in callers])
            if len(answers) != len(callers):
                raise RuntimeError(f"{len(callers)} questions got {len(answers)} answers")
        except Exception as error:  # noqa: BLE001  # handed to the one caller whose question it is
            if len(callers) > 1:
                middle = len(callers) // 2
                await self._run(callers[:middle])
                await self._run(callers[middle:])
            elif not callers[0].answer.done():
                callers[0].answer.set_exception(error)
            return
        for caller, answer in zip(callers, answers, strict=True):
            if not caller.answer.done():
                caller.answer.set_result(answer)
