"""One queue before the model: rows of the stream and of callers become micro-batches on one thread.

There is no waiting for a batch to fill. While the model works, rows gather; when it is free, all
that waits is sorted by length and cut into micro-batches. So a batch is one row when little comes
and full when much does. Two lanes take turns where both wait: callers, who can be told that the
queue is full, and the stream, which never is.

Owns the thread, the lanes and that no row harms another; must not know Kafka, HTTP or what an
answer is made of.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas.errors import OverloadError
from serving.predictor import Asked, Predictor, Question

if TYPE_CHECKING:
    from learners.released import ReleasedModel
    from schemas import Prediction

log = logging.getLogger(__name__)

MAX_ROWS = 64
MAX_TOKENS = 8_192
MAX_QUEUED = 1_024
INLINE_ROWS = 4  # fewer are cut into tokens at once: another thread would cost more
FIRST_ROW_S = 0.005  # what a row is taken to cost before one was timed


@dataclass(eq=False, slots=True)
class _Call:
    """Rows that were handed over together, and who waits for their answers."""

    answers: list[Prediction | None]
    left: int
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]
    error: Exception | None = None
    gone: bool = False  # nobody waits any more


@dataclass(eq=False, slots=True)
class _Row:
    call: _Call
    place: int
    question: Question


class _Lane:
    """Rows of one sort. A window closes over all that waits, so that nothing waits for ever."""

    def __init__(self, max_rows: int, max_tokens: int) -> None:
        self._max_rows = max_rows
        self._max_tokens = max_tokens
        self._waiting: list[_Row] = []
        self._sorted: list[_Row] = []  # the window, longest first
        self.rows = 0

    def put(self, rows: Sequence[_Row]) -> None:
        self._waiting.extend(rows)
        self.rows += len(rows)

    def take(self) -> list[_Row]:
        """Give the next micro-batch, of rows of similar length; only where there are rows."""
        if not self._sorted:
            self._waiting.sort(key=lambda row: len(row.question.tokens), reverse=True)
            self._sorted, self._waiting = self._waiting, []
        batch = [self._sorted.pop()]
        while self._sorted and len(batch) < self._max_rows:
            longest = len(self._sorted[-1].question.tokens)
            if (len(batch) + 1) * longest > self._max_tokens:
                break
            batch.append(self._sorted.pop())
        self.rows -= len(batch)
        return batch


class MicroBatcher:
    """Answers rows from any event loop with one model thread.

    Args:
        predictor: its `decide` runs on the model thread alone.
        models: gives the snapshot that answers; asked once a micro-batch.
        max_rows: rows of a micro-batch, at most.
        max_tokens: padded tokens of a micro-batch, at most.
        max_queued: rows of callers that wait, at most; more are refused.
        observe: told the rows and the seconds of every micro-batch, on the model thread.

    Attributes:
        max_rows: as given.

    Raises:
        ValueError: a bound is under 1.
    """

    def __init__(
        self,
        predictor: Predictor,
        models: Callable[[], Mapping[str, ReleasedModel]],
        *,
        max_rows: int = MAX_ROWS,
        max_tokens: int = MAX_TOKENS,
        max_queued: int = MAX_QUEUED,
        observe: Callable[[int, float], None] = lambda rows, seconds: None,
    ) -> None:
        if min(max_rows, max_tokens, max_queued) < 1:
            raise ValueError("max_rows, max_tokens and max_queued must be at least 1")
        self.max_rows = max_rows
        self._predictor = predictor
        self._models = models
        self._max_queued = max_queued
        self._observe = observe
        self._callers, self._stream = _Lane(max_rows, max_tokens), _Lane(max_rows, max_tokens)
        self._row_s = FIRST_ROW_S
        self._changed = threading.Condition()
        self._calls: set[_Call] = set()
        self._closed = False
        self._stream_is_next = False
        self._thread: threading.Thread | None = None
        # Tokens are cut while the model computes; both let go of the interpreter.
        self._preparing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prepare")

    @property
    def queued(self) -> int:
        """Rows that wait for the model."""
        return self._callers.rows + self._stream.rows

    async def answer(
        self, asked: Sequence[Asked], *, deadline_s: float | None = None, urgent: bool = True
    ) -> list[Prediction | None]:
        """Answer rows, together with whatever else is asked.

        Args:
            asked: any number, of any tasks.
            deadline_s: longest wait, seconds; rows that are not begun by then never are.
            urgent: a caller waits; False for rows of the stream.

        Returns:
            One answer a row, as `Predictor.answer` gives it; None also for a row that fails alone.

        Raises:
            OverloadError: too many urgent rows wait; nothing was taken. A `TimeoutError` says that
                the deadline has passed, a `RuntimeError` that the batcher is closed.
        """
        models = self._models()
        answers = [self._predictor.remembered(row, models) for row in asked]
        places = [place for place, answer in enumerate(answers) if answer is None]
        if not places:
            return answers
        if urgent and self._callers.rows + len(places) > self._max_queued:
            raise OverloadError(
                f"{self._callers.rows} rows wait for the model, at most {self._max_queued} may",
                retry_after_s=self.queued * self._row_s,
            )
        loop = asyncio.get_running_loop()
        call = _Call(answers, len(places), loop, loop.create_future())
        try:
            async with asyncio.timeout(deadline_s):
                fresh = [asked[place] for place in places]
                if len(fresh) <= INLINE_ROWS:
                    questions = self._predictor.prepare(fresh, models)
                else:
                    questions = await loop.run_in_executor(
                        self._preparing, self._predictor.prepare, fresh, models
                    )
                self._put(call, places, questions, urgent=urgent)
                await call.done
        finally:
            call.gone = True
        if call.error is not None:
            raise call.error
        return answers

    def close(self) -> None:
        """Stop; whoever still waits gets a RuntimeError."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._preparing.shutdown()
        closed = RuntimeError("the server is stopping")
        for call in list(self._calls):
            call.error = closed
            self._tell([call])

    def _put(
        self, call: _Call, places: Sequence[int], questions: Sequence[Question], *, urgent: bool
    ) -> None:
        rows = [_Row(call, *row) for row in zip(places, questions, strict=True)]
        with self._changed:
            if self._closed:
                raise RuntimeError("the server is stopping")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="model", daemon=True)
                self._thread.start()
            self._calls.add(call)
            (self._callers if urgent else self._stream).put(rows)
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self.queued)
                if self._closed:
                    return
                rows = self._next()
            self._compute([row for row in rows if not row.call.gone])
            self._settle(rows)

    def _next(self) -> list[_Row]:
        """Take a micro-batch of one lane; of each in turn where rows wait in both."""
        both = bool(self._callers.rows and self._stream.rows)
        stream = self._stream_is_next if both else not self._callers.rows
        self._stream_is_next = both and not stream
        return (self._stream if stream else self._callers).take()

    def _compute(self, rows: list[_Row]) -> None:
        if not rows:
            return
        started = time.perf_counter()
        self._decide(rows, self._models())
        seconds = time.perf_counter() - started
        self._row_s += 0.1 * (seconds / len(rows) - self._row_s)
        self._observe(len(rows), seconds)

    def _decide(self, rows: list[_Row], models: Mapping[str, ReleasedModel]) -> None:
        """Answer rows; where that fails, halve them until the one that fails stands alone."""
        try:
            answers = self._predictor.decide([row.question for row in rows], models)
        except Exception as error:
            if len(rows) > 1:
                middle = len(rows) // 2
                self._decide(rows[:middle], models)
                self._decide(rows[middle:], models)
                return
            [row] = rows
            asked = row.question.asked.interaction
            log.exception("interaction %s of task %s cannot be answered", asked.id, asked.task)
            if not self._works(asked.task, models):
                row.call.error = error
            return
        for row, answer in zip(rows, answers, strict=True):
            row.call.answers[row.place] = answer

    def _works(self, task: str, models: Mapping[str, ReleasedModel]) -> bool:
        """Say whether a task's model answers at all: then it was the row that was at fault."""
        try:
            models[task].predict([CHECK_TEXT])
        except Exception:  # noqa: BLE001  # whatever is wrong, the answer is no
            return False
        return True

    def _settle(self, rows: list[_Row]) -> None:
        """Count rows off their calls, and wake those that wait for no other."""
        finished: list[_Call] = []
        for row in rows:
            row.call.left -= 1
            if row.call.left == 0:
                finished.append(row.call)
        if finished:
            self._tell(finished)

    def _tell(self, calls: Sequence[_Call]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[_Call]] = {}
        for call in calls:
            self._calls.discard(call)
            by_loop.setdefault(call.loop, []).append(call)
        for loop, mine in by_loop.items():
            try:
                loop.call_soon_threadsafe(_wake, mine)
            except RuntimeError:  # that loop has ended, and with it all that waited
                log.debug("answers for an event loop that has ended are dropped")


CHECK_TEXT = "does this model answer at all"


def _wake(calls: Sequence[_Call]) -> None:
    for call in calls:
        if not call.done.done():
            call.done.set_result(None)
