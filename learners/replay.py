"""Replay memory in Redis: what one task may rehearse, bounded exactly, by the laws of rehearsal.

Owns insertion, eviction, drawing and erasure, all on the server in one round trip a batch, atomic
under any number of writers; must not know torch, models or Kafka.

Chance comes from outside: a sample from the caller's draws, an offer from a hash of its id and
revision, so that the same offers in the same order leave the same memory. Classes are in the order
of the server's collation, which is that of their code points in the C locale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import redis

from learners.rehearsal import (
    DEFAULT_LAWS,
    POLICIES,
    OfferReport,
    Policy,
    ReplayLaws,
    ReplayRow,
    ReplaySize,
    chances,
    check_bounds,
    check_draws,
    levels_told,
)
from learners.scripts import Argument, Script, check_client, pack, run_scripts

__all__ = [
    "POLICIES",
    "OfferReport",
    "Policy",
    "ReplayLaws",
    "ReplayMemory",
    "ReplayRow",
    "ReplaySize",
]

_OFFER = Script("replay_offer", parts=["replay_state", "replay_levels"])
_SAMPLE = Script("replay_sample", parts=["replay_state", "replay_levels"])
_TELL = Script("replay_tell", parts=["replay_state"])
_ROWS = Script("replay_rows", parts=["replay_state"])
_HELD_OUT = Script("replay_held_out", parts=["replay_state"])
_ERASE = Script("replay_erase", parts=["replay_state"])

_read_row = msgspec.msgpack.Decoder(ReplayRow)


class ReplayMemory:
    """The memory of one task; any number of writers and readers may share it."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        namespace: str,
        task: str,
        laws: ReplayLaws = DEFAULT_LAWS,
        max_rows: int,
        max_bytes: int,
        held_out_rows: int,
    ) -> None:
        """Connect to the memory; other laws or bounds act from the next call on.

        Args:
            client: a connection that does not decode answers.
            namespace: start of every key.
            task: whose memory.
            laws: which rows stay and which are drawn.
            max_rows: bound of the rows that train.
            max_bytes: bound of all rows together, bytes; held-out rows take a quarter at most.
            held_out_rows: bound of the rows kept apart.

        A connection that decodes answers, or a negative bound, is a `ValueError`.
        """
        check_client(client)
        check_bounds(max_rows=max_rows, max_bytes=max_bytes, held_out_rows=held_out_rows)
        self.laws = laws
        self._redis = client
        self._base = f"{namespace}:{{r.{task}}}:"
        self._cuts = pack(self.laws.cuts())
        self._bounds: list[Argument] = [max_rows, max_bytes, held_out_rows]

    def offer(self, rows: Sequence[ReplayRow]) -> OfferReport:
        """Offer rows in order: one round trip, no effect when offered again.

        Returns:
            What became of them.
        """
        if not rows:
            return OfferReport(0, 0, 0, 0, 0)
        offers = [_packed(row) for row in rows]
        blobs = [msgspec.msgpack.encode(row) for row in rows]
        laws: list[Argument] = [self.laws.policy, self.laws.recent_rows]
        return OfferReport(*self._run(_OFFER, [*laws, *self._bounds, pack(offers), *blobs]))

    def sample(self, rows: int, *, draws: Sequence[float]) -> list[ReplayRow]:
        """Draw rows that train, with replacement: one round trip.

        Args:
            rows: how many.
            draws: as many numbers in [0, 1); the same draws of the same memory give the same rows.

        Returns:
            One row a draw; none when the memory is empty.

        Draws that are not `rows` numbers in [0, 1) are a `ValueError`.
        """
        check_draws(rows, draws)
        if rows == 0:
            return []
        packed = pack([float(draw) for draw in draws])
        drawn = self._run(_SAMPLE, [self.laws.recent_rows, self._cuts, packed])
        return [_read_row.decode(row) for row in drawn]

    def tell(self, ids: Sequence[str], losses: Sequence[float]) -> int:
        """Note the last known loss of rows: one round trip, no effect when told again.

        Args:
            ids: of rows; those that do not train, or are not there, are passed over.
            losses: one each, finite and not negative.

        Returns:
            How many of them train.

        Too few losses or too many, or one that is negative or not finite, is a `ValueError`.
        """
        told = levels_told(ids, losses)
        return int(self._run(_TELL, [pack(list(told.items()))])[0]) if told else 0

    def rows(self, *, piece_rows: int = 500) -> Iterator[ReplayRow]:
        """Read all rows that train, oldest first, in pieces of one round trip each.

        A row that is there all the while comes once. One that is revised meanwhile may come twice:
        as it was, then as it is.

        Args:
            piece_rows: rows of a piece, at most; 1 or more.

        Yields:
            Rows in order of arrival.

        Raises:
            ValueError: a piece has no rows.
        """
        if piece_rows < 1:
            raise ValueError(f"piece_rows is {piece_rows}: it must be 1 or more")
        piece: list[Any] = self._run(_ROWS, ["-inf", piece_rows])
        while piece:
            last, rows = piece
            yield from (_read_row.decode(row) for row in rows)
            piece = self._run(_ROWS, [last, piece_rows])

    def held_out(self, rows: int) -> list[ReplayRow]:
        """Read rows that are kept apart, evenly over their classes: one round trip.

        Of each class they are spread evenly from its oldest row to its newest; of one row alone, it
        is the newest.

        Args:
            rows: how many at most.

        Returns:
            Always the same rows of the same memory, no row twice, in order of arrival.
        """
        return [_read_row.decode(row) for row in self._run(_HELD_OUT, [rows])]

    def get(self, id_: str) -> ReplayRow | None:
        """Read one row by its id, of either part."""
        row = self._redis.hget(f"{self._base}rows", id_)
        return None if row is None else _read_row.decode(_bytes(row))

    def ids(self) -> list[str]:
        """List the ids of all rows, of both parts, sorted; reads in pieces, for audits."""
        pieces = self._redis.hscan_iter(f"{self._base}at", count=1000)
        return sorted({_bytes(id_).decode() for id_, _ in pieces})

    def size(self) -> ReplaySize:
        """Count what is in memory."""
        names = ["rows:t", "rows:h", "bytes:t", "bytes:h"]
        values = self._redis.hmget(f"{self._base}n", names)
        rows, held_out, bytes_t, bytes_h = (int(value or 0) for value in values)
        return ReplaySize(rows=rows, bytes=bytes_t + bytes_h, held_out_rows=held_out)

    def erase_user(self, user: str) -> int:
        """Erase every row of a user, of both parts, and all that was told of them.

        Returns:
            How many there were.
        """
        return int(self._run(_ERASE, [user])[0])

    def _run(self, script: Script, arguments: Sequence[Argument]) -> list[Any]:
        answer: list[Any] = run_scripts(self._redis, [(script, self._base, arguments)])[0]
        return answer


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value


def _packed(row: ReplayRow) -> list[object]:
    """Write what replay_offer.lua must know of a row."""
    part = "h" if row.held_out else "t"
    return [row.id, row.revision, part, row.balanced_class, row.user, *chances(row)]
