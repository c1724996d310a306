"""Replay memory in Redis: what one task may rehearse, bounded exactly, by the laws of rehearsal.

Owns insertion, eviction, drawing and erasure, all on the server in one round trip a batch, atomic
under any number of writers; must not know torch, models or Kafka. What is stored is drawn in
`lua/replay_state.lua`.

Chance comes from outside: a sample from the caller's draws, an offer from a hash of its id and
revision, so that the same offers in the same order leave the same memory. Classes are in the order
of the server's collation, which is that of their code points in the C locale.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from typing import Any, cast

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
    read_back,
    written,
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
_NAMED = Script("replay_named", parts=["replay_state"])
_ERASE = Script("replay_erase", parts=["replay_state"])

FORMAT = 3  # of what is stored: another one is another memory

_CHANCES = struct.Struct(">dI")
_HEAD_BYTES, _NUMBER_BYTES = 18, 4  # before a row; of them the last: see replay_state.lua


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
        self._base = f"{namespace}:{{r.{task}}}:{FORMAT}:"
        self._cuts = pack(self.laws.cuts())
        self._bounds: list[Argument] = [max_rows, max_bytes, held_out_rows]

    def offer(self, rows: Sequence[ReplayRow]) -> OfferReport:
        """Offer rows in order: one round trip, no effect when offered again.

        Returns:
            What became of them.
        """
        if not rows:
            return OfferReport(0, 0, 0, 0, 0)
        laws: list[Argument] = [self.laws.policy, self.laws.recent_rows, *self._bounds]
        draws = b"".join(_CHANCES.pack(*chances(row)) for row in rows)
        stored = [written(row) for row in rows]
        names = _names([row.id for row in rows])
        classes = pack([row.balanced_class for row in rows])
        return OfferReport(*self._run(_OFFER, [*laws, names, draws, classes, *stored]))

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
        return _read(self._run(_SAMPLE, [self.laws.recent_rows, self._cuts, packed]))

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
        if not told:
            return 0
        return int(self._run(_TELL, [_names(list(told)), pack(list(told.values()))])[0])

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
        piece: list[Any] = self._run(_ROWS, [-1, piece_rows])
        while piece:
            last, rows = piece
            yield from _read(rows)
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
        return _read(self._run(_HELD_OUT, [rows]))

    def get(self, id_: str) -> ReplayRow | None:
        """Read one row by its id, of either part."""
        named = _read(self._run(_NAMED, [_names([id_])]))
        return next((row for row in named if row.id == id_), None)

    def ids(self) -> list[str]:
        """List the ids of all rows, of both parts, sorted; reads in pieces, for audits."""
        pieces = self._redis.hscan_iter(f"{self._base}rows", count=1000)
        rows = (read_back(cast("bytes", stored)[_HEAD_BYTES:], "") for _, stored in pieces)
        return sorted({row.id for row in rows})

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


def _names(ids: Sequence[str]) -> bytes:
    """Name rows by 64-bit hashes of their ids, one after the other.

    Two of `n` rows share a name with a probability of about n² / 2^65: one in a billion for the
    default bound. The later one of them is then taken for known.
    """
    digests = (hashlib.blake2b(id_.encode(), digest_size=8, person=b"ms-rows") for id_ in ids)
    return b"".join(digest.digest() for digest in digests)


def _read(answer: Sequence[Any]) -> list[ReplayRow]:
    """Read what a script answers of rows: those that are there, numbers of classes, and classes."""
    stored, numbers, classes = answer
    class_of = {n: class_.decode() for n, class_ in zip(numbers, classes, strict=True)}
    return [
        read_back(row[_HEAD_BYTES:], class_of[row[_HEAD_BYTES - _NUMBER_BYTES : _HEAD_BYTES]])
        for row in stored
        if row is not None
    ]
