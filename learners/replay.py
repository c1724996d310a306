"""Replay memory in Redis: what one task may rehearse, bounded exactly, sampled by a stated law.

Owns insertion, eviction, drawing and erasure, all on the server in one round trip a batch, atomic
under any number of writers; must not know torch, models or Kafka.

Laws:
    class-balanced: every row comes in; when the memory is full a row drawn at random from its
        largest class goes, the new one counted (the greedy balancing sampler of GDumb, Prabhu et
        al., ECCV 2020; ours draws the victim among the rows that were there before). A sample is
        uniform over classes, then within the class.
    reservoir: the n-th offer stays with probability size/n and replaces a row drawn at random
        (Algorithm R, Vitter, ACM TOMS 11(1), 1985). A sample is uniform over rows. Exact while rows
        are the bound that binds and no user has been erased; close to it otherwise.

Chance comes from outside: a sample from the caller's draws, an offer from a hash of its id and
revision, so that the same offers in the same order leave the same memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec
import redis

from learners.scripts import Argument, Script, check_client, pack, run_scripts
from schemas.fields import Label

Policy = Literal["class-balanced", "reservoir"]
POLICIES: tuple[Policy, ...] = ("class-balanced", "reservoir")


@dataclass(frozen=True, slots=True)
class ReplayRow:
    """One example in memory.

    Attributes:
        id: the interaction's id.
        user: whose it is, so that it can be erased.
        label: canonical label; its first text, or "" for an empty list, is the class to balance.
        text: the input as the task's kind wrote it.
        revision: of the label; a newer one replaces the row.
        held_out: kept apart for the gate, never sampled.
    """

    id: str
    user: str
    label: Label
    text: str
    revision: int = 1
    held_out: bool = False


class OfferReport(NamedTuple):
    """What became of offered rows; `added + replaced + known + passed` are all of them.

    Attributes:
        added: new in memory.
        replaced: a newer revision of a row in memory.
        known: in memory already with this revision or a newer one.
        passed: not admitted by the law, or too large to fit.
        evicted: rows that made room.
    """

    added: int
    replaced: int
    known: int
    passed: int
    evicted: int


class ReplaySize(NamedTuple):
    """What is in memory.

    Attributes:
        rows: rows that train.
        bytes: of all rows as stored, with their ids; the server's own structures come on top.
        held_out_rows: rows kept apart.
    """

    rows: int
    bytes: int
    held_out_rows: int


_OFFER = Script("replay_offer", parts=["replay_state"])
_SAMPLE = Script("replay_sample", parts=["replay_state"])
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
        policy: Policy = "class-balanced",
        max_rows: int,
        max_bytes: int,
        held_out_rows: int,
    ) -> None:
        """Connect to the memory; another policy or bound acts from the next offer on.

        Args:
            client: a connection that does not decode answers.
            namespace: start of every key.
            task: whose memory.
            policy: the law, one of `POLICIES`.
            max_rows: bound of the rows that train.
            max_bytes: bound of all rows together, bytes; held-out rows take a quarter at most.
            held_out_rows: bound of the rows kept apart.

        Raises:
            ValueError: the connection decodes answers, or a bound is negative.
        """
        check_client(client)
        bounds = {"max_rows": max_rows, "max_bytes": max_bytes, "held_out_rows": held_out_rows}
        for name, value in bounds.items():
            if value < 0:
                raise ValueError(f"{name} is {value}: it must not be negative")
        if policy not in POLICIES:
            raise ValueError(f"policy is {policy!r}: it must be one of {', '.join(POLICIES)}")
        self._redis = client
        self._base = f"{namespace}:{{r.{task}}}:"
        self._policy = policy
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
        answer = self._run(_OFFER, [self._policy, *self._bounds, pack(offers), *blobs])
        return OfferReport(*answer)

    def sample(self, rows: int, *, draws: Sequence[float]) -> list[ReplayRow]:
        """Draw rows that train, with replacement: one round trip.

        Args:
            rows: how many.
            draws: as many numbers in [0, 1); the same draws of the same memory give the same rows.

        Returns:
            One row a draw; none when the memory is empty.

        Raises:
            ValueError: the draws are not `rows` numbers in [0, 1).
        """
        if len(draws) != rows or not all(0.0 <= draw < 1.0 for draw in draws):
            raise ValueError(f"{len(draws)} draws for {rows} rows: one each is needed, in [0, 1)")
        if rows == 0:
            return []
        packed = pack([float(draw) for draw in draws])
        return [_read_row.decode(row) for row in self._run(_SAMPLE, [self._policy, packed])]

    def held_out(self, rows: int) -> list[ReplayRow]:
        """Read rows that are kept apart, evenly over their classes.

        Args:
            rows: how many at most.

        Returns:
            Always the same rows of the same memory, no row twice.
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
        """Erase every row of a user, of both parts.

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
    """Write what replay_offer.lua must know of a row; its chance is a hash of id and revision."""
    digest = hashlib.blake2b(f"{row.id}\n{row.revision}".encode(), digest_size=12).digest()
    admit = (int.from_bytes(digest[:8], "big") >> 11) / 2**53
    seed = 1 + int.from_bytes(digest[8:], "big") % 2_147_483_646
    label = row.label if isinstance(row.label, str) else next(iter(row.label), "")
    part = "h" if row.held_out else "t"
    return [row.id, row.revision, part, label, row.user, admit, seed]
