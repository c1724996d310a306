"""Predictions and truths meet in Redis, by interaction id, whoever reads them.

Predictions are keyed by interaction and truths by user, so that the two sides of a pair may be read
by two workers. Each side, in one atomic step, takes the other where it waits, or waits itself. Owns
the keys and the script; must not know scores, topics or Faust.

One key an interaction (safe for Redis Cluster): `<namespace>:pair:<id>` holds `p` or `t` and that
side's payload while it waits, `d` once the two have met. An interaction is paired once: whatever
comes again, from a redelivery or a second prediction, changes nothing. A worker that dies between
the meeting and its score loses that score; none is counted twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import redis

from schemas.fields import Label

# KEYS[1] the pair's state; ARGV: side, payload, how long it waits (ms), how long a met pair is
# remembered (ms). Returns 0 for a repeat, 1 for a side that now waits, else the other's payload.
MEET = """
local state = redis.call('GET', KEYS[1])
if not state then
  redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2], 'PX', ARGV[3])
  return 1
end
local side = string.sub(state, 1, 1)
if side == 'd' or side == ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], 'd', 'PX', ARGV[4])
return string.sub(state, 2)
"""


class Served(msgspec.Struct, frozen=True, array_like=True):
    """What was served: the part of a prediction that scoring needs.

    Attributes:
        ok: False for an answer made before any release.
        score: probability of the label, 0 to 1.
        release: version that answered.
    """

    interaction: str
    task: str
    ok: bool
    label: Label | None = None
    score: float | None = None
    release: str | None = None


class Truth(msgspec.Struct, frozen=True, array_like=True):
    """What turned out to be right.

    Attributes:
        time: when the interaction happened.
        labelled_at: when its label came.
    """

    interaction: str
    task: str
    label: Label
    time: datetime
    labelled_at: datetime

    @property
    def delay_s(self) -> float:
        """From the interaction to its label, seconds; never less than 0."""
        return max(0.0, (self.labelled_at - self.time).total_seconds())


@dataclass(frozen=True, slots=True)
class Pair:
    """A prediction and its truth."""

    served: Served
    truth: Truth


@dataclass(frozen=True, slots=True)
class Meeting:
    """What became of one offered side.

    Attributes:
        fresh: False for a repeat, which must change nothing.
        pair: set when the other side was there.
    """

    fresh: bool
    pair: Pair | None


_pack = msgspec.msgpack.Encoder().encode
_unpack_served = msgspec.msgpack.Decoder(Served).decode
_unpack_truth = msgspec.msgpack.Decoder(Truth).decode


class Pairing:
    """Where the two sides meet. Blocking: call it off the event loop.

    Args:
        client: bytes in, bytes out (no `decode_responses`).
        namespace: start of every key.
        ttl_s: how long one side waits for the other, seconds.
        remember_s: how long a met pair is known, so that redelivery does not score it again.
    """

    def __init__(
        self, client: redis.Redis, *, namespace: str, ttl_s: float, remember_s: float
    ) -> None:
        self._client = client
        self._prefix = f"{namespace}:pair:"
        self._ttl_ms = max(1, round(ttl_s * 1_000))
        self._remember_ms = max(1, round(remember_s * 1_000))
        self._script = client.register_script(MEET)

    def offer_served(self, rows: Sequence[Served]) -> list[Meeting]:
        """Offer predictions, in one pipeline.

        Args:
            rows: in any order.

        Returns:
            One meeting a row. Errors of the Redis client come out; offering again is safe, but what
            met in the failed call is not met again.
        """
        replies = self._meet("p", rows)
        return [
            Meeting(fresh=True, pair=Pair(row, _unpack_truth(reply)))
            if isinstance(reply, bytes)
            else Meeting(fresh=reply != 0, pair=None)
            for row, reply in zip(rows, replies, strict=True)
        ]

    def offer_truths(self, rows: Sequence[Truth]) -> list[Meeting]:
        """Offer truths, in one pipeline; see `offer_served`."""
        replies = self._meet("t", rows)
        return [
            Meeting(fresh=True, pair=Pair(_unpack_served(reply), row))
            if isinstance(reply, bytes)
            else Meeting(fresh=reply != 0, pair=None)
            for row, reply in zip(rows, replies, strict=True)
        ]

    def _meet(self, side: str, rows: Sequence[Served] | Sequence[Truth]) -> list[Any]:
        if not rows:
            return []
        pipeline = self._client.pipeline(transaction=False)
        for row in rows:
            self._script(
                keys=[self._prefix + row.interaction],
                args=[side, _pack(row), self._ttl_ms, self._remember_ms],
                client=pipeline,
            )
        return pipeline.execute()
