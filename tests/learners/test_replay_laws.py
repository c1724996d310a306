"""Laws of what stays and what is drawn, against a real server: recency, loss and shares."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis as redis_client

from learners.rehearsal import OWN_SHARES, POLICIES, Policy, ReplayLaws, levels_told, priority
from learners.replay import ReplayMemory, ReplayRow

MakeMemory = Callable[..., ReplayMemory]


def connect(
    redis: redis_client.Redis, laws: ReplayLaws, *, task: str = "t", max_rows: int = 100
) -> ReplayMemory:
    return ReplayMemory(
        redis,
        namespace="laws",
        task=task,
        laws=laws,
        max_rows=max_rows,
        max_bytes=1_000_000,
        held_out_rows=10,
    )


def row(n: int, label: str = "a", prefix: str = "", **changes: object) -> ReplayRow:
    fields: dict[str, object] = {"id": f"{prefix}{n}", "user": f"u{n % 7}", "label": label}
    return ReplayRow(**{**fields, "text": f"text {n}", **changes})  # type: ignore[arg-type]


def draws(count: int, seed: int = 0) -> list[float]:
    chance = random.Random(seed)
    return [chance.random() for _ in range(count)]


def drawn(memory: ReplayMemory, count: int, seed: int = 0) -> Counter[int]:
    return Counter(int(each.id) for each in memory.sample(count, draws=draws(count, seed)))


def distance(seen: Counter[int], expected: dict[int, float]) -> float:
    """Chi-square of counts against expected counts; what is not expected must not be seen."""
    assert set(seen) <= set(expected)
    return sum((seen[n] - count) ** 2 / count for n, count in expected.items())


def inclusions(
    redis: redis_client.Redis,
    laws: ReplayLaws,
    *,
    offers: int,
    size: int,
    losses: Sequence[float] = (),
    memories: int = 150,
) -> Counter[int]:
    """Count how often each of `offers` rows stays in a memory; losses are told once it is full."""
    kept: Counter[int] = Counter()
    for n in range(memories):
        memory = connect(redis, laws, task=f"t{n}", max_rows=size)
        rows = [row(k, f"c{k % 3}", prefix=f"{n}/") for k in range(offers)]
        memory.offer(rows[:size])
        memory.tell([each.id for each in rows[:size]][: len(losses)], losses)
        memory.offer(rows[size:])
        kept.update(int(id_.split("/")[1]) for id_ in memory.ids())
    assert kept.total() == memories * size
    return kept


def test_recency_mixed_keeps_the_window_and_a_reservoir_of_what_left_it(
    redis: redis_client.Redis,
) -> None:
    memories, offers, size, window = 150, 60, 12, 5
    laws = ReplayLaws("recency-mixed", recent_rows=window)
    kept = inclusions(redis, laws, offers=offers, size=size, memories=memories)
    old = offers - window
    assert all(kept[k] == memories for k in range(old, offers))
    share = (size - window) / old
    expected = {k: memories * share for k in range(old)}
    seen = Counter({k: count for k, count in kept.items() if k < old})
    # The sum of 55 inclusions is fixed: 54 degrees of freedom, 91.9 is the 0.999 quantile.
    assert distance(seen, expected) / (1 - share) < 91.9


def test_recency_mixed_with_a_window_as_large_as_memory_keeps_the_newest(
    redis: redis_client.Redis,
) -> None:
    memory = connect(redis, ReplayLaws("recency-mixed", recent_rows=500), max_rows=20)
    memory.offer([row(n) for n in range(90)])
    assert [int(each.id) for each in memory.rows()] == list(range(70, 90))


def test_recency_mixed_draws_half_from_the_window(redis: redis_client.Redis) -> None:
    memory = connect(redis, ReplayLaws("recency-mixed", recent_rows=10))
    memory.offer([row(n, f"c{n % 3}") for n in range(40)])
    expected = {n: 20_000 * (0.5 / 40 + (0.5 / 10 if n >= 30 else 0)) for n in range(40)}
    # 39 degrees of freedom: 72.1 is the 0.999 quantile.
    assert distance(drawn(memory, 20_000), expected) < 72.1


def test_loss_aware_draws_in_proportion_to_priority(redis: redis_client.Redis) -> None:
    memory = connect(redis, ReplayLaws("loss-aware"))
    memory.offer([row(n, f"c{n % 3}") for n in range(20)])
    losses = [0.0, 1e-9, 1e9, *(2 ** (n / 3 - 3) for n in range(17))]
    ids = [str(n) for n in range(20)]
    assert memory.tell(ids, losses) == 20
    weights = [priority(level) for level in levels_told(ids, losses).values()]
    expected = {n: 20_000 * weight / sum(weights) for n, weight in enumerate(weights)}
    # 19 degrees of freedom: 43.8 is the 0.999 quantile.
    assert distance(drawn(memory, 20_000), expected) < 43.8


def test_a_row_of_no_known_loss_is_as_urgent_as_the_most_urgent(redis: redis_client.Redis) -> None:
    memory = connect(redis, ReplayLaws("loss-aware"))
    memory.offer([row(n) for n in range(6)])
    equal = {n: 1000.0 for n in range(6)}
    # 5 degrees of freedom: 20.5 is the 0.999 quantile.
    assert distance(drawn(memory, 6000), equal) < 20.5
    memory.tell(["0", "1", "2"], [0.01, 0.01, 4.0])
    low, high = priority(levels_told(["0"], [0.01])["0"]), priority(8)
    total = 2 * low + 4 * high
    expected = {n: 12_000 * (low if n < 2 else high) / total for n in range(6)}
    assert distance(drawn(memory, 12_000, seed=1), expected) < 20.5


def test_loss_aware_lets_rows_of_little_loss_go_first(redis: redis_client.Redis) -> None:
    losses = [0.01] * 10 + [10.0] * 10
    kept = inclusions(redis, ReplayLaws("loss-aware"), offers=30, size=20, losses=losses)
    easy, hard = (sum(kept[k] for k in range(start, start + 10)) for start in (0, 10))
    assert easy < 0.75 * hard
    assert easy > 0


def test_without_losses_loss_aware_is_a_reservoir(redis: redis_client.Redis) -> None:
    memories, offers, size = 150, 60, 12
    kept = inclusions(redis, ReplayLaws("loss-aware"), offers=offers, size=size, memories=memories)
    share = size / offers
    expected = {k: memories * share for k in range(offers)}
    # The sum of 60 inclusions is fixed: 59 degrees of freedom, 98.3 is the 0.999 quantile.
    assert distance(kept, expected) / (1 - share) < 98.3


def test_shares_mix_the_laws(redis: redis_client.Redis) -> None:
    shares: dict[str, float] = {"class-balanced": 0.4, "uniform": 0.1, "recent": 0.2, "loss": 0.3}
    memory = connect(redis, ReplayLaws("class-balanced", shares, recent_rows=4))  # type: ignore[arg-type]
    memory.offer([row(n, "rare" if n < 2 else "common") for n in range(20)])
    memory.tell([str(n) for n in range(20)], [8.0 if n == 5 else 0.5 for n in range(20)])
    weights = [priority(12 if n == 5 else -4) for n in range(20)]
    expected = {
        n: 20_000
        * (
            0.4 * (0.5 / 2 if n < 2 else 0.5 / 18)
            + 0.1 / 20
            + 0.2 * (n >= 16) / 4
            + 0.3 * weights[n] / sum(weights)
        )
        for n in range(20)
    }
    # 19 degrees of freedom: 43.8 is the 0.999 quantile.
    assert distance(drawn(memory, 20_000), expected) < 43.8


@pytest.mark.parametrize("policy", POLICIES)
def test_without_shares_a_policy_draws_by_its_own_law(
    redis: redis_client.Redis, policy: Policy
) -> None:
    memory = connect(redis, ReplayLaws(policy))
    memory.offer([row(n, f"c{n % 3}") for n in range(50)])
    named = connect(redis, ReplayLaws(policy, OWN_SHARES[policy]))
    first = memory.sample(64, draws=draws(64))
    assert named.sample(64, draws=draws(64)) == memory.sample(64, draws=draws(64)) == first
    assert memory.sample(64, draws=draws(64, seed=1)) != first
    assert len(memory.sample(2, draws=[0.0, 1.0 - 2**-53])) == 2


def test_telling_again_changes_nothing_and_what_is_not_there_is_passed_over(
    redis: redis_client.Redis,
) -> None:
    memory = connect(redis, ReplayLaws("loss-aware"))
    memory.offer([row(n, held_out=n == 3) for n in range(10)])
    assert memory.tell([], []) == 0
    assert memory.tell(["1", "2", "3", "nobody"], [0.5, 2.0, 9.0, 9.0]) == 2
    before = (memory.size(), memory.sample(50, draws=draws(50)))
    assert memory.tell(["1", "2", "1"], [7.0, 2.0, 0.5]) == 2
    assert (memory.size(), memory.sample(50, draws=draws(50))) == before
    assert redis.hlen("laws:{r.t}:3:rows") == 10


def test_a_revised_row_is_the_newest_and_of_no_known_loss(redis: redis_client.Redis) -> None:
    memory = connect(redis, ReplayLaws("loss-aware"))
    memory.offer([row(n) for n in range(3)])
    memory.tell(["0", "1", "2"], [1e9, 1e-9, 1e-9])
    memory.offer([row(0, "b", revision=2)])
    assert [each.id for each in memory.rows()] == ["1", "2", "0"]
    assert redis.hgetall("laws:{r.t}:3:levels") == {b"new": b"1", b"-32": b"2"}


@pytest.mark.parametrize("loss", [-0.1, float("nan"), float("inf")])
def test_a_loss_that_is_none_is_refused_and_nothing_is_told(
    redis: redis_client.Redis, loss: float
) -> None:
    memory = connect(redis, ReplayLaws("loss-aware"))
    memory.offer([row(0), row(1)])
    with pytest.raises(ValueError, match="the loss of '1' is .*: it must be finite"):
        memory.tell(["0", "1"], [1.0, loss])
    assert redis.hgetall("laws:{r.t}:3:levels") == {b"new": b"2"}
    with pytest.raises(ValueError, match="1 losses for 2 ids: one each is needed"):
        memory.tell(["0", "1"], [1.0])


def test_all_rows_are_read_in_order_of_arrival_in_bounded_pieces(
    redis: redis_client.Redis,
) -> None:
    memory = connect(redis, ReplayLaws("class-balanced"))
    assert list(memory.rows()) == []
    rows = [row(n, f"c{n % 3}", held_out=n % 10 == 0) for n in range(50)]
    memory.offer(rows)
    for piece_rows in (1, 7, 45, 500):
        assert list(memory.rows(piece_rows=piece_rows)) == [
            each for each in rows if each.id[-1] != "0"
        ]


def test_pieces_of_no_rows_are_refused(redis: redis_client.Redis) -> None:
    with pytest.raises(ValueError, match="piece_rows is 0: it must be 1 or more"):
        list(connect(redis, ReplayLaws()).rows(piece_rows=0))


def test_reading_all_rows_survives_writers(redis: redis_client.Redis) -> None:
    memory = connect(redis, ReplayLaws("class-balanced"))
    memory.offer([row(n) for n in range(20)])
    reading = memory.rows(piece_rows=5)
    read = [next(reading).id for _ in range(5)]
    memory.erase_user("u6")
    memory.offer([row(99)])
    read += [each.id for each in reading]
    assert read == [str(n) for n in [*range(6), *range(7, 13), *range(14, 20), 99]]


@pytest.mark.parametrize("policy", POLICIES)
def test_writers_that_offer_tell_and_erase_at_once_leave_a_bounded_whole_memory(
    redis_server: str, redis: redis_client.Redis, policy: Policy
) -> None:
    laws = ReplayLaws(policy, recent_rows=15)

    def write(worker: int) -> None:
        with redis_client.Redis.from_url(redis_server) as client:
            mine = connect(client, laws, max_rows=50)
            chance = random.Random(worker)
            for start in range(worker * 50, worker * 50 + 100, 10):
                mine.offer([row(n, f"c{n % 6}") for n in range(start, start + 10)])
                ids = [str(chance.randrange(250)) for _ in range(10)]
                mine.tell(ids, [chance.expovariate(1.0) for _ in ids])
                assert len(mine.sample(5, draws=draws(5, worker))) == 5
            mine.erase_user(f"u{worker}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    memory = connect(redis, laws, max_rows=50)
    size = memory.size().rows
    assert 0 < size <= 50
    assert len(memory.ids()) == size == len(list(memory.rows()))
    levels = redis.hvals("laws:{r.t}:3:levels")
    assert sum(int(count) for count in levels) == size
    for user in range(7):
        memory.erase_user(f"u{user}")
    assert list(redis.scan_iter()) == [b"laws:{r.t}:3:n"]


def test_wrong_laws_are_refused() -> None:
    with pytest.raises(ValueError, match="policy is 'fifo': it must be one of class-balanced, res"):
        ReplayLaws("fifo")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="recent_rows is 0: it must be 1 or more"):
        ReplayLaws(recent_rows=0)
    with pytest.raises(ValueError, match="the law 'newest': it must be one of class-balanced, uni"):
        ReplayLaws(shares={"newest": 1.0})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="the share of loss is -0.5: it must be between 0 and 1"):
        ReplayLaws(shares={"loss": -0.5, "recent": 1.5})
    with pytest.raises(ValueError, match="shares are 0.9 together: they must be 1 together"):
        ReplayLaws(shares={"loss": 0.4, "recent": 0.5})


def test_a_law_of_no_share_is_never_drawn() -> None:
    cuts = ReplayLaws(shares={"loss": 0.0, "recent": 0.5, "uniform": 0.5}).cuts()
    assert cuts == (("uniform", 0.0, 0.5), ("recent", 0.5, 0.5))
