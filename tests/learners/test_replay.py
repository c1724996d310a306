"""Replay memory against a real server: bounds, laws, repeats, revisions, writers, erasure."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis as redis_client

from learners import replay
from learners.localmemory import LocalMemory
from learners.replay import (
    POLICIES,
    OfferReport,
    Policy,
    ReplayLaws,
    ReplayMemory,
    ReplayRow,
)
from learners.scripts import pack

MakeMemory = Callable[..., ReplayMemory]


@pytest.fixture
def make(redis: redis_client.Redis) -> MakeMemory:
    def make_memory(
        policy: Policy = "class-balanced",
        *,
        max_rows: int = 100,
        max_bytes: int = 1_000_000,
        held_out_rows: int = 10,
    ) -> ReplayMemory:
        return ReplayMemory(
            redis,
            namespace="test",
            task="intents",
            laws=ReplayLaws(policy),
            max_rows=max_rows,
            max_bytes=max_bytes,
            held_out_rows=held_out_rows,
        )

    return make_memory


def row(n: int, label: str | tuple[str, ...] = "a", **changes: object) -> ReplayRow:
    fields: dict[str, object] = {"id": f"id{n}", "user": f"u{n % 7}", "label": label}
    return ReplayRow(**{**fields, "text": f"text {n}", **changes})  # type: ignore[arg-type]


def draws(count: int, seed: int = 0) -> list[float]:
    chance = random.Random(seed)
    return [chance.random() for _ in range(count)]


def test_rows_come_back_as_they_went_in(make: MakeMemory) -> None:
    memory = make()
    rows = [row(1, "später"), row(2, ("x", "y")), row(3, ()), row(4, held_out=True, text="\x00é")]
    assert memory.offer(rows) == OfferReport(4, 0, 0, 0, 0)
    assert [memory.get(each.id) for each in rows] == rows
    assert memory.get("nobody") is None
    assert memory.ids() == ["id1", "id2", "id3", "id4"]


def test_an_empty_memory_gives_nothing(make: MakeMemory) -> None:
    memory = make()
    assert memory.offer([]) == OfferReport(0, 0, 0, 0, 0)
    assert memory.sample(3, draws=draws(3)) == []
    assert memory.sample(0, draws=[]) == []
    assert memory.held_out(5) == []
    assert memory.size() == (0, 0, 0)


@pytest.mark.parametrize("policy", ["class-balanced", "reservoir"])
def test_a_sample_is_a_function_of_memory_and_draws(make: MakeMemory, policy: Policy) -> None:
    memory = make(policy)
    memory.offer([row(n, f"label {n % 5}") for n in range(50)])
    first = memory.sample(64, draws=draws(64))
    assert memory.sample(64, draws=draws(64)) == first
    assert memory.sample(64, draws=draws(64, seed=1)) != first
    extremes = memory.sample(2, draws=[0.0, 1.0 - 2**-53])
    assert len(extremes) == 2


def test_a_class_balanced_memory_keeps_the_rare_and_draws_classes_alike(make: MakeMemory) -> None:
    memory = make(max_rows=30)
    labels = ["common"] * 900 + ["rare"] * 5 + ["some"] * 95
    random.Random(0).shuffle(labels)
    memory.offer([row(n, label) for n, label in enumerate(labels)])
    kept = Counter(str(each.label) for id_ in memory.ids() if (each := memory.get(id_)))
    assert kept["rare"] == 5
    assert abs(kept["common"] - kept["some"]) <= 1
    drawn = Counter(str(each.label) for each in memory.sample(3000, draws=draws(3000)))
    assert all(abs(drawn[label] - 1000) < 110 for label in ("common", "rare", "some"))


def test_a_reservoir_draws_rows_alike(make: MakeMemory) -> None:
    memory = make("reservoir")
    memory.offer([row(n, "common" if n else "rare") for n in range(10)])
    drawn = Counter(each.id for each in memory.sample(10_000, draws=draws(10_000)))
    # 9 degrees of freedom: 27.9 is the 0.999 quantile.
    assert sum((count - 1000) ** 2 / 1000 for count in drawn.values()) < 27.9


def test_every_offer_is_as_likely_to_be_in_the_reservoir(redis: redis_client.Redis) -> None:
    kept: Counter[int] = Counter()
    memories, offers, size = 150, 60, 12
    for n in range(memories):
        memory = ReplayMemory(
            redis,
            namespace="law",
            task=f"t{n}",
            laws=ReplayLaws("reservoir"),
            max_rows=size,
            max_bytes=10**6,
            held_out_rows=0,
        )
        memory.offer([row(k, f"c{k % 3}", id=f"{n}/{k}") for k in range(offers)])
        kept.update(int(id_.split("/")[1]) for id_ in memory.ids())
    assert kept.total() == memories * size
    expected, share = memories * size / offers, size / offers
    statistic = sum((kept[k] - expected) ** 2 for k in range(offers)) / (expected * (1 - share))
    # The sum of 60 inclusions is fixed: 59 degrees of freedom, 98.3 is the 0.999 quantile.
    assert statistic < 98.3
    thirds = [sum(kept[k] for k in range(start, start + 20)) for start in (0, 20, 40)]
    assert max(thirds) - min(thirds) < 100


def test_offering_again_changes_nothing_and_a_newer_revision_replaces(make: MakeMemory) -> None:
    memory = make()
    rows = [row(n, f"label {n % 3}") for n in range(20)]
    memory.offer(rows)
    before = (memory.size(), memory.sample(20, draws=draws(20)))
    assert memory.offer(rows) == OfferReport(0, 0, 20, 0, 0)
    assert (memory.size(), memory.sample(20, draws=draws(20))) == before
    corrected = row(4, "label 9", revision=2, user="someone else")
    assert memory.offer([corrected]).replaced == 1
    assert memory.offer([rows[4]]).known == 1
    assert memory.get("id4") == corrected
    assert memory.size().rows == 20


def test_held_out_rows_are_never_drawn_and_have_their_own_bound(make: MakeMemory) -> None:
    memory = make(held_out_rows=6)
    memory.offer([row(n, f"label {n % 3}", held_out=n % 2 == 0) for n in range(60)])
    assert memory.size()[::2] == (30, 6)
    assert not any(each.held_out for each in memory.sample(500, draws=draws(500)))
    probe = memory.held_out(100)
    assert Counter(each.label for each in probe) == {"label 0": 2, "label 1": 2, "label 2": 2}
    assert all(each.held_out for each in probe)
    assert len({each.label for each in memory.held_out(3)}) == 3


def test_held_out_rows_come_evenly_in_classes_and_in_time_oldest_first(make: MakeMemory) -> None:
    memory = make(held_out_rows=100)
    memory.offer([row(n, "rare" if n in (3, 17) else "common", held_out=True) for n in range(20)])
    assert [each.id for each in memory.held_out(6)] == ["id0", "id3", "id6", "id12", "id17", "id19"]
    assert [each.id for each in memory.held_out(3)] == ["id0", "id17", "id19"]
    memory.offer([row(0, "common", held_out=True, revision=2)])
    in_order = [f"id{n}" for n in [*range(1, 20), 0]]
    assert [each.id for each in memory.held_out(100)] == in_order  # a revised row is the newest
    assert memory.held_out(0) == []


@pytest.mark.parametrize("policy", ["class-balanced", "reservoir"])
def test_bytes_are_a_bound_too(make: MakeMemory, policy: Policy) -> None:
    memory = make(policy, max_bytes=5_000)
    chance = random.Random(0)
    for n in range(200):
        text = "x" * chance.randrange(1, 900)
        memory.offer([row(n, f"label {n % 4}", text=text, held_out=n % 10 == 0)])
        assert memory.size().bytes <= 5_000
    assert memory.size().rows >= 4
    assert memory.offer([row(999, text="x" * 6_000)]) == OfferReport(0, 0, 0, 1, 0)


def test_a_correction_too_large_to_keep_takes_the_wrong_row_away(make: MakeMemory) -> None:
    memory = make(max_bytes=1_000)
    memory.offer([row(1)])
    assert memory.offer([row(1, text="x" * 2_000, revision=2)]).passed == 1
    assert memory.get("id1") is None
    assert memory.size() == (0, 0, 0)


def test_a_user_is_erased_from_both_parts(make: MakeMemory, redis: redis_client.Redis) -> None:
    memory = make()
    memory.offer([row(n, f"label {n % 3}", held_out=n % 4 == 0) for n in range(28)])
    assert memory.erase_user("u3") == 4
    assert memory.erase_user("u3") == 0
    assert not any("u3" in str(memory.get(id_)) for id_ in memory.ids())
    assert all(each.user != "u3" for each in memory.sample(300, draws=draws(300)))
    assert sum(memory.size()[::2]) == 24
    for user in range(7):
        memory.erase_user(f"u{user}")
    assert memory.size() == (0, 0, 0)
    assert list(redis.scan_iter()) == [b"test:{r.intents}:3:n"]


@pytest.mark.parametrize("policy", ["class-balanced", "reservoir"])
def test_several_writers_share_the_bound(
    redis_server: str, make: MakeMemory, policy: Policy
) -> None:
    memory = make(policy, max_rows=50)

    def write(worker: int) -> OfferReport:
        with redis_client.Redis.from_url(redis_server) as client:
            mine = ReplayMemory(
                client,
                namespace="test",
                task="intents",
                laws=ReplayLaws(policy),
                max_rows=50,
                max_bytes=1_000_000,
                held_out_rows=10,
            )
            reports = [
                mine.offer([row(n, f"label {n % 6}") for n in range(start, start + 20)])
                for start in range(worker * 100, worker * 100 + 200, 20)
            ]
        return OfferReport(*(sum(values) for values in zip(*reports, strict=True)))

    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(write, range(4)))
    assert memory.size().rows == 50
    assert len(memory.ids()) == 50
    assert sum(report.added - report.evicted for report in reports) == 50
    assert sum(sum(report[:4]) for report in reports) == 800


@pytest.mark.parametrize("policy", POLICIES)
def test_a_memory_that_has_seen_much_more_than_it_holds_goes_on_as_one_in_this_process(
    make: MakeMemory, policy: Policy
) -> None:
    """Its oldest rows came thousands of arrivals before its newest, and its lists were longer."""
    remote = make(policy, max_rows=700)
    local = LocalMemory(laws=ReplayLaws(policy), max_rows=700, max_bytes=10**6, held_out_rows=10)
    rows = [row(n, "rare", held_out=n % 9 == 0) for n in range(20)]
    rows += [row(n, "first") for n in range(20, 1_000)]
    rows += [row(n, f"c{n % 12}") for n in range(1_000, 7_000)]
    for start in range(0, len(rows), 500):
        assert remote.offer(rows[start : start + 500]) == local.offer(rows[start : start + 500])
        ids = [each.id for each in rows[start : start + 60]]
        losses = [0.1 * (n % 30) for n in range(60)]
        assert remote.tell(ids, losses) == local.tell(ids, losses)
    assert remote.size() == local.size()
    assert list(remote.rows()) == list(local.rows())
    assert remote.held_out(10) == local.held_out(10)
    some = draws(300)
    for shares in ({"recent": 1.0}, {"uniform": 0.5, "loss": 0.5}, {"class-balanced": 1.0}):
        remote.laws = local.laws = ReplayLaws(policy, shares, recent_rows=700)  # type: ignore[arg-type]
        remote._cuts = pack(remote.laws.cuts())
        assert remote.sample(300, draws=some) == local.sample(300, draws=some)


def test_a_list_that_has_become_short_gives_its_memory_back(
    make: MakeMemory, redis: redis_client.Redis
) -> None:
    memory = make(max_rows=2_000, max_bytes=10**7)
    memory.offer([row(n, "a") for n in range(2_000)])
    memory.offer([row(n, f"b{n % 9}") for n in range(2_000, 4_000)])
    assert redis.strlen("test:{r.intents}:3:slots:t:a") < 8 * 600


def test_two_ids_of_one_name_do_not_mix(make: MakeMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in a billion memories of the default size has such a pair; the later one stays out."""
    memory = make()
    monkeypatch.setattr(replay, "_names", lambda ids: b"the same" * len(ids))
    assert memory.offer([row(1), row(2, revision=5)]) == OfferReport(1, 0, 1, 0, 0)
    assert memory.get("id1") == row(1)
    assert memory.get("id2") is None


def test_draws_that_do_not_fit_are_refused(make: MakeMemory) -> None:
    with pytest.raises(ValueError, match="2 draws for 3 rows"):
        make().sample(3, draws=[0.1, 0.2])
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        make().sample(1, draws=[1.0])


def test_wrong_settings_are_refused(make: MakeMemory) -> None:
    with pytest.raises(ValueError, match="max_rows is -1: it must not be negative"):
        make(max_rows=-1)
    with pytest.raises(ValueError, match="policy is 'fifo': it must be one of class-balanced"):
        make("fifo")
