"""Laws of replay memory: after any offers and erasures it is bounded, whole and without repeats."""

from __future__ import annotations

import hashlib
import itertools
import struct
from typing import NamedTuple
from uuid import UUID

import redis as redis_client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learners.localmemory import LocalMemory
from learners.rehearsal import read_back
from learners.replay import POLICIES, ReplayLaws, ReplayMemory, ReplayRow
from schemas.fields import Label

_run = itertools.count()
some_labels: st.SearchStrategy[Label] = st.sampled_from(["a", "b", "c", (), ("a", "z"), ("q",)])


def id_numbered(number: int) -> str:
    """Give a UUID, one written in another way, or another id."""
    uuid = str(UUID(int=number << 64, version=4))
    return (uuid, uuid.upper(), str(number))[number % 3]


some_ids = st.integers(0, 25).map(id_numbered)
rows = st.builds(
    ReplayRow,
    id=some_ids,
    user=st.sampled_from(["u", "v", "w:x"]),
    label=some_labels,
    text=st.text(min_size=1, max_size=60),
    revision=st.integers(1, 3),
    held_out=st.booleans(),
)


class Told(NamedTuple):
    """Losses told of rows."""

    ids: list[str]
    losses: list[float]


Step = list[ReplayRow] | str | Told
told = st.lists(
    st.tuples(some_ids, st.floats(0.0, 1e6) | st.sampled_from([0.0, 0.3, 3.0])),
    min_size=1,
    max_size=12,
).map(lambda pairs: Told([id_ for id_, _ in pairs], [loss for _, loss in pairs]))
steps = st.lists(
    st.lists(rows, max_size=12) | st.sampled_from(["u", "v", "w:x", "nobody"]) | told, max_size=12
)
shares = st.sampled_from(
    [
        {},
        {"recent": 1.0},
        {"loss": 1.0},
        {"class-balanced": 0.1, "uniform": 0.2, "recent": 0.3, "loss": 0.4},
    ]
)
laws = st.builds(ReplayLaws, st.sampled_from(POLICIES), shares, st.integers(1, 9))


def read_hash(redis: redis_client.Redis, key: str) -> dict[str, bytes]:
    return {str(name, "utf-8"): bytes(value) for name, value in redis.hgetall(key).items()}  # type: ignore[arg-type]


NAME, HEAD, ENTRY = 8, struct.Struct(">IbI"), 9  # as in replay_state.lua
HEAD_BYTES = 18  # the number of the class last


def read_rows(redis: redis_client.Redis, base: str) -> dict[bytes, ReplayRow]:
    """Read every row by its name; classes have a number each, and no others are kept."""
    classes = {number: class_ for class_, number in read_hash(redis, f"{base}numbers").items()}
    named: dict[bytes, bytes] = redis.hgetall(f"{base}classes")  # type: ignore[assignment]
    assert {number: class_.decode() for number, class_ in named.items()} == classes
    rows: dict[bytes, bytes] = redis.hgetall(f"{base}rows")  # type: ignore[assignment]
    read = {
        name: read_back(value[HEAD_BYTES:], classes[value[HEAD_BYTES - 4 : HEAD_BYTES]])
        for name, value in rows.items()
    }
    assert {row.balanced_class for row in read.values()} == set(classes.values())
    return read


def names_in(packed: bytes, *, start: int = 0, step: int = NAME) -> list[bytes]:
    return [packed[n : n + NAME] for n in range(start, len(packed), step)]


def read_list(redis: redis_client.Redis, key: str, size: int) -> list[bytes]:
    return names_in(bytes(redis.get(key) or b"")[: NAME * size])  # type: ignore[arg-type]


def read_order(redis: redis_client.Redis, key: str) -> list[bytes]:
    pages = sorted((int(page), entries) for page, entries in read_hash(redis, key).items())
    offsets = [[entries[n] for n in range(0, len(entries), ENTRY)] for _, entries in pages]
    assert all(sorted(set(some)) == some for some in offsets)
    return [name for _, entries in pages for name in names_in(entries, start=1, step=ENTRY)]


def check_levels(redis: redis_client.Redis, base: str, stored: dict[bytes, bytes]) -> set[bytes]:
    """Every row that trains is in one slot of one level, as its head says."""
    levelled: set[bytes] = set()
    for level, count in read_hash(redis, f"{base}levels").items():
        for slot, name in enumerate(read_list(redis, f"{base}level:{level}", int(count))):
            expected = 127 if level == "new" else int(level)
            assert HEAD.unpack_from(stored[name])[1:] == (expected, slot)
            levelled.add(name)
    left = {str(key, "utf-8") for key in redis.scan_iter(f"{base}level:*")}
    assert left == {f"{base}level:{level}" for level in read_hash(redis, f"{base}levels")}
    return levelled


def check_structure(redis: redis_client.Redis, base: str, memory: ReplayMemory) -> None:
    """Every row is in exactly one slot of its class; lists have no holes; sums are true."""
    stored: dict[bytes, bytes] = redis.hgetall(f"{base}rows")  # type: ignore[assignment]
    decoded = read_rows(redis, base)
    seen: list[bytes] = []
    for part in "th":
        for class_, count in read_hash(redis, f"{base}sizes:{part}").items():
            for slot, name in enumerate(
                read_list(redis, f"{base}slots:{part}:{class_}", int(count))
            ):
                row = decoded[name]
                assert (row.balanced_class, "h" if row.held_out else "t") == (class_, part)
                assert HEAD.unpack_from(stored[name])[0] == slot
                seen.append(name)
        mine = {name for name, row in decoded.items() if row.held_out == (part == "h")}
        assert set(read_order(redis, f"{base}order:{part}")) == mine
    assert sorted(seen) == sorted(stored)
    assert sorted(row.id for row in decoded.values()) == memory.ids()
    training = {name for name, row in decoded.items() if not row.held_out}
    assert check_levels(redis, base, stored) == training
    buckets: dict[str, set[bytes]] = {}
    for name, row in decoded.items():
        digest = hashlib.sha1(row.user.encode(), usedforsecurity=False).hexdigest()
        buckets.setdefault(str(int(digest[:3], 16) // 4), set()).add(name)
    users = read_hash(redis, f"{base}users")
    assert {bucket: set(names_in(names)) for bucket, names in users.items()} == buckets
    assert sum(len(names) for names in users.values()) == NAME * len(stored)
    size = memory.size()
    assert size.rows == len(training)
    assert size.held_out_rows == len(decoded) - len(training)
    assert size.bytes == sum(NAME + len(value) for value in stored.values())


@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    laws=laws,
    max_rows=st.integers(0, 8),
    max_bytes=st.integers(0, 1500),
    held_out_rows=st.integers(0, 4),
    steps=steps,
)
def test_memory_is_bounded_and_whole_after_any_steps(
    redis: redis_client.Redis,
    laws: ReplayLaws,
    max_rows: int,
    max_bytes: int,
    held_out_rows: int,
    steps: list[Step],
) -> None:
    namespace = f"p{next(_run)}"
    memory = ReplayMemory(
        redis,
        namespace=namespace,
        task="t",
        laws=laws,
        max_rows=max_rows,
        max_bytes=max_bytes,
        held_out_rows=held_out_rows,
    )
    for step in steps:
        before = len(memory.ids())
        if isinstance(step, str):
            erased = memory.erase_user(step)
            assert len(memory.ids()) == before - erased
            assert all((row := memory.get(id_)) and row.user != step for id_ in memory.ids())
        elif isinstance(step, Told):
            training = {row.id for row in memory.rows(piece_rows=3)}
            assert memory.tell(step.ids, step.losses) == len(training & set(step.ids))
            assert len(memory.ids()) == before
        else:
            report = memory.offer(step)
            assert sum(report[:4]) == len(step)
            size = memory.size()
            assert size.rows <= max_rows
            assert size.bytes <= max_bytes
            assert size.held_out_rows <= held_out_rows
        check_structure(redis, f"{namespace}:{{r.t}}:3:", memory)
    drawn = memory.sample(8, draws=[n / 8 for n in range(8)])
    assert len(drawn) == (8 if memory.size().rows else 0)
    assert all(row == memory.get(row.id) and not row.held_out for row in drawn)
    probe = memory.held_out(100)
    ordered = read_order(redis, f"{namespace}:{{r.t}}:3:order:h")
    rows = read_rows(redis, f"{namespace}:{{r.t}}:3:")
    assert probe == [rows[name] for name in ordered]
    some = memory.held_out(2)
    assert some == [row for row in probe if row in some]  # in order of arrival too
    in_order = list(memory.rows(piece_rows=2))
    assert {row.id for row in in_order} == set(memory.ids()) - {row.id for row in probe}
    for user in ("u", "v", "w:x"):
        memory.erase_user(user)
    assert {bytes(key) for key in redis.scan_iter(f"{namespace}:*")} <= {
        f"{namespace}:{{r.t}}:3:n".encode()
    }


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(offers=st.lists(rows, max_size=30))
def test_with_room_the_newest_revision_stays_whatever_the_order(
    redis: redis_client.Redis, offers: list[ReplayRow]
) -> None:
    memory = ReplayMemory(
        redis,
        namespace=f"q{next(_run)}",
        task="t",
        max_rows=100,
        max_bytes=1_000_000,
        held_out_rows=100,
    )
    memory.offer(offers)
    memory.offer(offers[::-1])
    for id_ in {row.id for row in offers}:
        newest = max(row.revision for row in offers if row.id == id_)
        kept = memory.get(id_)
        assert kept is not None
        assert kept == next(r for r in offers if r.id == id_ and r.revision == newest)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    laws=laws,
    max_rows=st.integers(0, 8),
    max_bytes=st.integers(0, 1500),
    held_out_rows=st.integers(0, 4),
    steps=steps,
)
def test_the_memory_in_this_process_does_what_the_one_in_redis_does(
    redis: redis_client.Redis,
    laws: ReplayLaws,
    max_rows: int,
    max_bytes: int,
    held_out_rows: int,
    steps: list[Step],
) -> None:
    local = LocalMemory(
        laws=laws, max_rows=max_rows, max_bytes=max_bytes, held_out_rows=held_out_rows
    )
    remote = ReplayMemory(
        redis,
        namespace=f"l{next(_run)}",
        task="t",
        laws=laws,
        max_rows=max_rows,
        max_bytes=max_bytes,
        held_out_rows=held_out_rows,
    )
    draws = [n / 64 for n in range(64)] + [1 - 2**-53]
    for step in steps:
        if isinstance(step, str):
            assert local.erase_user(step) == remote.erase_user(step)
        elif isinstance(step, Told):
            assert local.tell(*step) == remote.tell(*step)
        else:
            assert local.offer(step) == remote.offer(step)
        assert local.size() == remote.size()
        assert local.ids() == remote.ids()
        assert list(local.rows()) == list(remote.rows(piece_rows=3))
        assert local.sample(len(draws), draws=draws) == remote.sample(len(draws), draws=draws)
        assert local.held_out(3) == remote.held_out(3)
        assert local.held_out(100) == remote.held_out(100)
        assert [local.get(id_) for id_ in remote.ids()] == [remote.get(i) for i in local.ids()]
