"""The memory in this process against the one in Redis: long mixed runs leave and draw the same."""

from __future__ import annotations

import random
from collections import Counter
from uuid import UUID

import pytest
import redis as redis_client

from learners.localmemory import LocalMemory
from learners.rehearsal import POLICIES, OfferReport, Policy, ReplayLaws, ReplayRow
from learners.replay import ReplayMemory
from schemas.fields import Label

MIXED = ReplayLaws(
    shares={"class-balanced": 0.1, "uniform": 0.2, "recent": 0.3, "loss": 0.4}, recent_rows=9
)


LABELS: list[Label] = ["a", "a", "a", "b", "c", ("d", "a"), ()]


def some_row(n: int, chance: random.Random, *, revision: int = 1) -> ReplayRow:
    return ReplayRow(
        id=str(UUID(int=n)) if n % 2 else str(n),
        user=f"u{chance.randrange(25)}",
        label=chance.choice(LABELS),
        text="x" * chance.randrange(1, 80),
        revision=revision,
        held_out=chance.random() < 0.1,
    )


def both(
    redis: redis_client.Redis, laws: ReplayLaws, *, max_rows: int, max_bytes: int
) -> tuple[LocalMemory, ReplayMemory]:
    local = LocalMemory(laws=laws, max_rows=max_rows, max_bytes=max_bytes, held_out_rows=8)
    remote = ReplayMemory(
        redis,
        namespace="twin",
        task="t",
        laws=laws,
        max_rows=max_rows,
        max_bytes=max_bytes,
        held_out_rows=8,
    )
    return local, remote


@pytest.mark.parametrize("max_bytes", [1_000_000, 2_500], ids=["rows-bind", "bytes-bind"])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("policy", POLICIES)
def test_both_memories_do_the_same_for_a_long_time(
    redis: redis_client.Redis, policy: Policy, seed: int, max_bytes: int
) -> None:
    laws = ReplayLaws(policy, MIXED.shares, MIXED.recent_rows)
    local, remote = both(redis, laws, max_rows=30, max_bytes=max_bytes)
    chance = random.Random(seed)
    next_id = 0
    total = OfferReport(0, 0, 0, 0, 0)
    for step in range(60):
        rows = [some_row(next_id + n, chance) for n in range(chance.randrange(12))]
        next_id += len(rows)
        known = remote.ids()
        if known:
            numbers = [
                UUID(id_).int if "-" in id_ else int(id_) for id_ in chance.choices(known, k=2)
            ]
            rows += [some_row(n, chance, revision=step) for n in numbers]
        report = local.offer(rows)
        assert report == remote.offer(rows)
        total = OfferReport(*(a + b for a, b in zip(total, report, strict=True)))
        told = [chance.choice(remote.ids() or ["nobody"]) for _ in range(10)]
        losses = [chance.expovariate(1.0) ** 2 for _ in told]
        assert local.tell(told, losses) == remote.tell(told, losses)
        if step % 12 == 11:
            user = f"u{chance.randrange(25)}"
            assert local.erase_user(user) == remote.erase_user(user)
        draws = [chance.random() for _ in range(40)]
        assert local.sample(40, draws=draws) == remote.sample(40, draws=draws)
        assert list(local.rows()) == list(remote.rows(piece_rows=11))
        assert (local.size(), local.ids()) == (remote.size(), remote.ids())
        for wanted in (0, 1, 4, 9):
            assert local.held_out(wanted) == remote.held_out(wanted)
    assert total.evicted > 50
    assert total.replaced > 20


def test_a_local_memory_needs_nothing() -> None:
    memory = LocalMemory()
    assert memory.offer([]) == OfferReport(0, 0, 0, 0, 0)
    assert memory.sample(2, draws=[0.1, 0.9]) == []
    assert memory.held_out(3) == []
    assert list(memory.rows()) == []
    assert memory.ids() == []
    assert memory.get("nobody") is None
    assert memory.erase_user("nobody") == memory.tell(["nobody"], [1.0]) == 0
    assert memory.size() == (0, 0, 0)


def test_rows_that_leave_while_all_are_read_are_passed_over() -> None:
    memory = LocalMemory()
    memory.offer([ReplayRow(f"{n}", f"u{n % 2}", "a", "text") for n in range(6)])
    reading = memory.rows()
    first = next(reading)
    memory.erase_user("u1")
    memory.offer([ReplayRow("9", "u0", "a", "text")])
    assert [first.id, *(row.id for row in reading)] == ["0", "2", "4"]


def test_a_local_memory_keeps_classes_balanced_and_draws_them_alike() -> None:
    memory = LocalMemory(max_rows=30)
    labels = ["common"] * 900 + ["rare"] * 5 + ["some"] * 95
    random.Random(0).shuffle(labels)
    memory.offer([ReplayRow(f"{n}", "u", label, "text") for n, label in enumerate(labels)])
    kept = Counter(str(row.label) for row in memory.rows())
    assert kept["rare"] == 5
    assert abs(kept["common"] - kept["some"]) <= 1
    chance = random.Random(0)
    drawn = memory.sample(3000, draws=[chance.random() for _ in range(3000)])
    counts = Counter(str(row.label) for row in drawn)
    assert all(abs(count - 1000) < 110 for count in counts.values())


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="max_bytes is -1: it must not be negative"):
        LocalMemory(max_bytes=-1)
    with pytest.raises(ValueError, match="1 draws for 2 rows"):
        LocalMemory().sample(2, draws=[0.5])
    with pytest.raises(ValueError, match="the loss of 'a' is -1.0"):
        LocalMemory().tell(["a"], [-1.0])
