"""Open-loop load: texts at random times, whether or not the earlier ones were answered.

Latency counts from the time at which a text was due, so that a stall is not hidden by a sender that
waits too. Owns the clock and the pairing of answers; must not know what is measured.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.deployment import Wire, questions
from schemas import Interaction, Prediction
from streams.app import spare_the_collector

PATIENCE_S = 20.0


@dataclass(slots=True)
class Answered:
    """What came of one text.

    Attributes:
        due_s: when it was to be sent, monotonic seconds.
        answers: arrival in monotonic seconds, and the prediction; one, where all is well.
    """

    due_s: float
    answers: list[tuple[float, Prediction]] = field(default_factory=list)

    @property
    def latency_s(self) -> float:
        """Seconds to the first answer."""
        return self.answers[0][0] - self.due_s


def drive(
    wire: Wire,
    texts: Sequence[str],
    *,
    rate: float,
    seconds: float,
    name: str,
    meanwhile: Callable[[], None] | None = None,
) -> list[Answered]:
    """Send texts at a rate, and pair the answers.

    Args:
        wire: to the topics.
        texts: in turn, again from the beginning after the last.
        rate: rows a second, at exponential intervals.
        seconds: how long.
        name: before the ids, of this drive alone.
        meanwhile: runs on a thread of its own as long as rows are sent.

    Returns:
        One entry a text, in the order of sending; answers are waited for some seconds.
    """
    rng = random.Random(name)
    count = max(1, round(rate * seconds))
    rows = questions([texts[n % len(texts)] for n in range(count)], name=name)
    asked: dict[str, Answered] = {}
    spare_the_collector()  # else it would stop sender and reader for half a second
    begin = time.monotonic() + 0.05
    due_s = begin
    for row in rows:
        due_s += rng.expovariate(rate)
        asked[row.id] = Answered(due_s)

    threads = [threading.Thread(target=_send, args=(wire, rows, asked))]
    if meanwhile is not None:
        threads.append(threading.Thread(target=meanwhile))
    for thread in threads:
        thread.start()
    left, end = set(asked), due_s + PATIENCE_S
    while (left or any(t.is_alive() for t in threads)) and time.monotonic() < end:
        for answer in wire.read(0.01):
            if answer.interaction in asked:
                asked[answer.interaction].answers.append((time.monotonic(), answer))
                left.discard(answer.interaction)
    for thread in threads:
        thread.join()
    return list(asked.values())


def _send(wire: Wire, rows: Sequence[Interaction], asked: Mapping[str, Answered]) -> None:
    for row in rows:
        wait_s = asked[row.id].due_s - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)
        wire.post(row)


def quantile(values: Sequence[float], share: float) -> float:
    """Give the smallest value that at least a share of all do not exceed."""
    ordered = sorted(values)
    return ordered[
        min(len(ordered) - 1, max(0, -(-round(share * 1e6) * len(ordered) // 10**6) - 1))
    ]
