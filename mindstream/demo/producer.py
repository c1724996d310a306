"""Sends a plan's events, paced by the clock and by how far the roles are behind.

Owns when an event is sent; must not know what is in it. The embedded Kafka keeps only the newest
5 MB of a partition: never more than a window of messages and bytes is unread, so that none is
dropped before it is read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from mindstream.demo.plan import Event, Plan
from mindstream.demo.tally import Tally
from schemas.errors import MindstreamError
from streams.producing import outgoing
from streams.topics import Topics

WINDOW_BYTES = 3_000_000
LOOK_S = 0.01
STALL_S = 180.0  # nobody reads anything for so long: something is broken


@dataclass(frozen=True, slots=True)
class Pace:
    """How much may be unread.

    Attributes:
        window: messages.
        window_bytes: bytes; all of them may be in one partition.
    """

    window: int
    window_bytes: int = WINDOW_BYTES

    def allows(self, *, unread: int, mean_bytes: float) -> bool:
        """Say whether one more message may be sent.

        Examples:
            >>> pace = Pace(window=100, window_bytes=1_000)
            >>> pace.allows(unread=9, mean_bytes=100.0), pace.allows(unread=10, mean_bytes=100.0)
            (True, False)
        """
        return unread < self.window and (unread + 1) * mean_bytes <= self.window_bytes


class DemoProducer:
    """Sends a whole plan in a thread of its own.

    Args:
        plan: what to send.
        connect: makes the Kafka producer, in the thread.
        topics: names.
        tally: told of each message before it is sent; says how far the roles are behind.
        now: the wall clock, for event times.
        clock_s: monotonic seconds.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        connect: Callable[[], Any],
        topics: Topics,
        tally: Tally,
        now: Callable[[], datetime],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan = plan
        self.waited_s = 0.0
        self.done = False
        self.error: BaseException | None = None
        self._connect = connect
        self._topics = topics
        self._tally = tally
        self._now = now
        self._clock_s = clock_s
        self._pace = Pace(window=plan.window)
        self._sent_bytes = 0
        self._sent = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo-producer", daemon=True)

    def start(self) -> None:
        """Start sending."""
        self._thread.start()

    def stop(self) -> None:
        """Stop sending, now."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        try:
            client = self._connect()
            try:
                self._send_all(client)
                client.flush(30)
            finally:
                client.close(timeout=5)
        # A thread's error would be lost: it is kept, and raised where the demo waits.
        except Exception as error:  # noqa: BLE001
            self.error = error
        finally:
            self.done = True

    def _send_all(self, client: Any) -> None:  # noqa: ANN401
        start_s = self._clock_s()
        for event in self.plan.events:
            due_s = start_s + event.at_s + self.waited_s
            while (left_s := due_s - self._clock_s()) > 0:
                if self._stopping.wait(min(left_s, 0.5)):
                    return
            self._wait_for_readers()
            if self._stopping.is_set():
                return
            self._send(client, event)

    def _send(self, client: Any, event: Event) -> None:  # noqa: ANN401
        topic = self._topics.full(event.topic)
        value, headers = event.raw, []
        if event.message is not None:
            message = msgspec.structs.replace(event.message, time=self._now())
            sent = outgoing(topic, event.key, message)
            value, headers = sent.value, list(sent.headers)
        self._tally.sending(event)
        client.send(topic, key=event.key.encode(), value=value, headers=headers).add_errback(
            self._refused
        )
        self._sent += 1
        self._sent_bytes += len(value) + sum(len(name) + len(data) for name, data in headers)

    def _refused(self, error: BaseException) -> None:
        self.error = error
        self._stopping.set()

    def _wait_for_readers(self) -> None:
        """Wait until few enough messages are unread.

        Raises:
            MindstreamError: nobody has read anything for a long time.
        """
        mean_bytes = self._sent_bytes / self._sent if self._sent else 0.0
        before_s = moved_s = self._clock_s()
        last = -1
        while not self._stopping.is_set():
            moment = self._tally.moment()
            if self._pace.allows(unread=moment.unread, mean_bytes=mean_bytes):
                break
            progress = moment.accounted + moment.answered + moment.learned
            if progress != last:
                last, moved_s = progress, self._clock_s()
            elif self._clock_s() - moved_s > STALL_S:
                raise MindstreamError(
                    f"no role has moved for {STALL_S:g} s; behind, in messages: {moment.behind}"
                )
            self._stopping.wait(LOOK_S)
        self.waited_s += self._clock_s() - before_s
