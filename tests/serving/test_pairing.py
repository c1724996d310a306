"""Predictions and truths meet once, in any order, through any worker."""

from __future__ import annotations

import itertools
import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import redis as redis_client

from serving.pairing import Meeting, Pair, Pairing, Served, Truth

THEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def pairing(client: redis_client.Redis, *, ttl_s: float = 60.0) -> Pairing:
    return Pairing(client, namespace="test", ttl_s=ttl_s, remember_s=60.0)


def served(name: str, label: str = "refund") -> Served:
    return Served(name, "intents", True, label, 0.75, "000001-0123abcd")


def truth(name: str) -> Truth:
    return Truth(name, "intents", "refund", THEN, THEN)


WAITS, REPEAT = Meeting(fresh=True, pair=None), Meeting(fresh=False, pair=None)


def test_the_second_side_meets_the_first_in_either_order(redis: redis_client.Redis) -> None:
    store = pairing(redis)
    met = Meeting(fresh=True, pair=Pair(served("a"), truth("a")))
    assert store.offer_served([served("a")]) == [WAITS]
    assert store.offer_truths([truth("a")]) == [met]
    assert store.offer_truths([truth("b")]) == [WAITS]
    assert store.offer_served([served("b")]) == [
        Meeting(fresh=True, pair=Pair(served("b"), truth("b")))
    ]


def test_what_comes_again_changes_nothing_before_and_after_the_meeting(
    redis: redis_client.Redis,
) -> None:
    store = pairing(redis)
    assert store.offer_served([served("a"), served("a", "other")]) == [WAITS, REPEAT]
    assert store.offer_truths([truth("a")])[0].pair == Pair(served("a"), truth("a"))
    assert store.offer_truths([truth("a")]) == [REPEAT]
    assert store.offer_served([served("a", "third")]) == [REPEAT]


def test_payloads_survive_whole(redis: redis_client.Redis) -> None:
    store = pairing(redis)
    answer = Served('we{i}r"d\n\x00 ünï', "topics", True, ("a", "b"), 1.0, None)
    known = Truth(answer.interaction, "topics", (), THEN, THEN)
    store.offer_truths([known])
    assert store.offer_served([answer])[0].pair == Pair(answer, known)
    unanswered = Served("early", "topics", False)
    store.offer_served([unanswered])
    assert store.offer_truths([truth("early")])[0].pair == Pair(unanswered, truth("early"))


def test_a_side_gives_up_waiting_after_its_time(redis: redis_client.Redis) -> None:
    store = pairing(redis, ttl_s=0.02)
    store.offer_served([served("a")])
    time.sleep(0.06)
    assert store.offer_truths([truth("a")]) == [WAITS]


def test_every_key_has_an_end_so_that_memory_has_one(redis: redis_client.Redis) -> None:
    store = pairing(redis)
    store.offer_served([served("a"), served("b")])
    store.offer_truths([truth("a"), truth("c")])
    keys = list(redis.scan_iter("test:pair:*"))
    assert len(keys) == 3
    assert all(0 < redis.pttl(key) <= 60_000 for key in keys)


def test_an_empty_batch_asks_nothing_of_redis() -> None:
    nowhere = redis_client.Redis(host="127.0.0.1", port=1)
    assert pairing(nowhere).offer_served([]) == []


def test_scripts_come_back_after_redis_forgot_them(redis: redis_client.Redis) -> None:
    store = pairing(redis)
    store.offer_served([served("a")])
    redis.script_flush()
    assert store.offer_truths([truth("a")])[0].pair is not None


def test_several_workers_with_redelivery_make_each_pair_exactly_once(
    redis_server: str, redis: redis_client.Redis
) -> None:
    names = [f"interaction {number}" for number in range(300)]

    def work(seed: int) -> list[str]:
        rng = random.Random(seed)
        with redis_client.Redis.from_url(redis_server) as client:
            store = pairing(client)
            sides = [*itertools.product(names, ["served", "truth"])]
            rng.shuffle(sides)
            met: list[str] = []
            for start in range(0, len(sides), 37):
                batch = sides[start : start + 37]
                answers = store.offer_served([served(n) for n, side in batch if side == "served"])
                truths = store.offer_truths([truth(n) for n, side in batch if side == "truth"])
                met += [m.pair.truth.interaction for m in answers + truths if m.pair is not None]
        return met

    with ThreadPoolExecutor(4) as pool:
        met = [name for names_met in pool.map(work, range(4)) for name in names_met]
    assert sorted(met) == sorted(names)
