"""Laws of replay memory: after any offers and erasures it is bounded, whole and without repeats."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import msgspec
import redis as redis_client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learners.localmemory import LocalMemory
from learners.replay import POLICIES, ReplayLaws, ReplayMemory, ReplayRow
from schemas.fields import Label

_run = itertools.count()
some_labels: st.SearchStrategy[Label] = st.sampled_from(["a", "b", "c", (), ("a", "z"), ("q",)])
rows = st.builds(
    ReplayRow,
    id=st.integers(0, 25).map(str),
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
    st.tuples(st.integers(0, 25).map(str), st.floats(0.0, 1e6) | st.sampled_from([0.0, 0.3, 3.0])),
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


def read_order(redis: redis_client.Redis, key: str) -> list[str]:
    return [str(id_, "utf-8") for id_ in redis.zrange(key, 0, -1)]  # type: ignore[arg-type]


def check_order_and_levels(redis: redis_client.Redis, base: str, training: set[str]) -> None:
    """Every row that trains has one place in the order and one slot of one level, and no other."""
    assert set(read_order(redis, f"{base}order")) == training
    levelled: list[str] = []
    for level, count in read_hash(redis, f"{base}levels").items():
        slots = read_hash(redis, f"{base}level:{level}")
        assert sorted(int(slot) for slot in slots) == list(range(int(count)))
        levelled += [id_.decode() for id_ in slots.values()]
    assert sorted(levelled) == sorted(training)
    left = {str(key, "utf-8") for key in redis.scan_iter(f"{base}level:*")}
    assert left == {f"{base}level:{level}" for level in read_hash(redis, f"{base}levels")}


def check_structure(redis: redis_client.Redis, base: str, memory: ReplayMemory) -> None:
    """Every row is in exactly one slot of its class; slots have no holes; sums are true."""
    stored = read_hash(redis, f"{base}rows")
    decoded = {id_: msgspec.msgpack.decode(row, type=ReplayRow) for id_, row in stored.items()}
    seen: list[str] = []
    for part in "th":
        for name, count in read_hash(redis, f"{base}sizes:{part}").items():
            slots = read_hash(redis, f"{base}slots:{part}:{name}")
            assert sorted(int(slot) for slot in slots) == list(range(int(count)))
            for id_ in slots.values():
                row = decoded[id_.decode()]
                label = row.label if isinstance(row.label, str) else (*row.label, "")[0]
                assert (label, "h" if row.held_out else "t") == (name, part)
                seen.append(id_.decode())
    assert sorted(seen) == sorted(stored) == memory.ids()
    check_order_and_levels(redis, base, {i for i, row in decoded.items() if not row.held_out})
    held_out = {id_ for id_, row in decoded.items() if row.held_out}
    assert set(read_order(redis, f"{base}order:h")) == held_out
    by_user: dict[str, set[str]] = {}
    for row in decoded.values():
        by_user.setdefault(row.user, set()).add(row.id)
    keys = {str(key, "utf-8") for key in redis.scan_iter(f"{base}user:*")}
    assert keys == {f"{base}user:{user}" for user in by_user}
    for user, members in by_user.items():
        assert redis.smembers(f"{base}user:{user}") == {id_.encode() for id_ in members}
    size = memory.size()
    assert size.rows == sum(not row.held_out for row in decoded.values())
    assert size.held_out_rows == sum(row.held_out for row in decoded.values())
    assert size.bytes == sum(len(row) + len(id_.encode()) for id_, row in stored.items())


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
        check_structure(redis, f"{namespace}:{{r.t}}:", memory)
    drawn = memory.sample(8, draws=[n / 8 for n in range(8)])
    assert len(drawn) == (8 if memory.size().rows else 0)
    assert all(row == memory.get(row.id) and not row.held_out for row in drawn)
    probe = memory.held_out(100)
    assert [row.id for row in probe] == read_order(redis, f"{namespace}:{{r.t}}:order:h")
    some = memory.held_out(2)
    assert some == [row for row in probe if row in some]  # in order of arrival too
    in_order = list(memory.rows(piece_rows=2))
    assert {row.id for row in in_order} == set(memory.ids()) - {row.id for row in probe}
    for user in ("u", "v", "w:x"):
        memory.erase_user(user)
    assert {bytes(key) for key in redis.scan_iter(f"{namespace}:*")} <= {
        f"{namespace}:{{r.t}}:n".encode()
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
