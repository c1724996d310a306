"""Kept features: what is found again, for how long, within which bound, and who may be away."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest
import redis as redis_client
from redis.backoff import NoBackoff
from redis.retry import Retry

from learners.heads.projection import Projection, fixed_point
from learners.kept import PAUSE_S, KeptFeatures, KeptLater, NothingKept, features_of
from learners.loop import Learner
from learners.model import Encoder
from learners.strategies.two_speed import TwoSpeed
from tests.learners.test_loop import EXAMPLES
from tests.learning import example
from tests.small import small_encoder, small_learner

WIDTH = 24
ENTRY = 2 * WIDTH + len("t:{f}:1:f") + 16  # bytes of one text's features and name


class Told:
    """Counts what an observer hears."""

    def __init__(self) -> None:
        self.found = self.missing = self.failures = 0

    def looked_up(self, *, found: int, missing: int) -> None:
        self.found += found
        self.missing += missing

    def failed(self) -> None:
        self.failures += 1


def kept(
    client: redis_client.Redis, *, max_bytes: int = 1_000_000, life_s: float = 60.0
) -> KeptFeatures:
    return KeptFeatures(
        client, namespace="t", max_bytes=max_bytes, life_s=life_s, clock_s=time.monotonic
    )


def some_features(rows: int, *, seed: int = 0, width: int = WIDTH) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    unit: np.ndarray = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return unit


def is_there(store: KeptFeatures, texts: Sequence[str], *, space: str = "space") -> list[bool]:
    return [row is not None for row in store.get(space, texts)]


def test_features_come_back_in_the_steps_in_which_the_head_sums(redis: redis_client.Redis) -> None:
    store, features = kept(redis), some_features(3)
    store.put("space", ["a", "b", "c"], features)
    found = store.get("space", ["c", "nobody", "a"])
    assert found[1] is None
    again = np.stack([row for row in (found[2], found[0]) if row is not None])
    assert again.dtype == np.float32
    assert np.abs(again - features[[0, 2]]).max() <= 2.0**-15
    assert np.array_equal(again, store.as_kept(features[[0, 2]]))
    assert np.array_equal(store.as_kept(again), again)
    assert np.array_equal(fixed_point(again).numpy(), fixed_point(features[[0, 2]]).numpy())
    projection = Projection.draw(features=WIDTH, width=64, seed=0)
    assert bool((projection.codes(again) == projection.codes(features[[0, 2]])).all())


def test_features_of_one_encoder_are_not_those_of_another(redis: redis_client.Redis) -> None:
    store = kept(redis)
    store.put("space", ["a"], some_features(1))
    assert is_there(store, ["a"]) == [True]
    assert is_there(store, ["a"], space="other") == [False]
    assert is_there(KeptFeatures(
        redis, namespace="elsewhere", max_bytes=10**6, life_s=9.0, clock_s=time.monotonic
    ), ["a"]) == [False]  # fmt: skip


def test_the_first_features_of_a_text_stay(redis: redis_client.Redis) -> None:
    store, first, second = kept(redis), some_features(1), some_features(1, seed=1)
    store.put("space", ["a"], first)
    before = store.bytes()
    store.put("space", ["a", "a"], np.concatenate([second, second]))
    [found] = store.get("space", ["a"])
    assert found is not None
    assert np.array_equal(found, store.as_kept(first)[0])
    assert store.bytes() == before == ENTRY


def test_the_oldest_go_when_the_bound_is_reached(redis: redis_client.Redis) -> None:
    store = kept(redis, max_bytes=3 * ENTRY)
    for n, text in enumerate("abcde"):
        store.put("space", [text], some_features(1, seed=n))
    assert is_there(store, list("abcde")) == [False, False, True, True, True]
    assert store.bytes() == 3 * ENTRY
    store.put("space", ["wide"], some_features(1, width=10 * WIDTH))  # more than all there may be
    assert is_there(store, ["wide", "e"]) == [False, True]
    narrower = kept(redis, max_bytes=ENTRY)  # a bound that was lowered acts from the next call on
    narrower.put("space", ["f"], some_features(1))
    assert is_there(store, list("abcdef")) == [False] * 5 + [True]


def test_features_are_gone_when_their_time_is_over(redis: redis_client.Redis) -> None:
    store = kept(redis, life_s=0.05)
    store.put("space", ["a", "b"], some_features(2))
    time.sleep(0.06)
    assert is_there(store, ["a", "b"]) == [False, False]
    store.put("space", ["a"], some_features(1))  # again, while its old place still counts
    assert is_there(store, ["a", "b"]) == [True, False]
    assert store.bytes() >= ENTRY
    for name in ("order", "bytes"):  # these go too, without another word from anybody
        assert 0 < redis.pttl(f"t:{{f}}:1:{name}") <= 2_050


def test_places_that_are_over_are_cleared_on_the_way(redis: redis_client.Redis) -> None:
    short, long = kept(redis, life_s=0.01), kept(redis)
    short.put("space", list("abcdef"), some_features(6))
    time.sleep(1.05)
    long.put("space", ["g"], some_features(1))
    assert long.bytes() == 3 * ENTRY  # four of six were cleared for one row
    long.put("space", ["h"], some_features(1))
    assert long.bytes() == 2 * ENTRY


def test_a_server_that_is_away_costs_a_warning(
    redis: redis_client.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    now_s, told = [100.0], Told()
    away = redis_client.Redis(port=1, retry=Retry(NoBackoff(), retries=0))
    store = KeptFeatures(
        away, namespace="t", max_bytes=10**6, life_s=9.0, clock_s=lambda: now_s[0], observer=told
    )
    store.put("space", ["a"], some_features(1))
    assert store.get("space", ["a", "b"]) == [None, None]  # nobody is asked: there is a pause
    assert (told.failures, told.missing) == (1, 2)
    now_s[0] += PAUSE_S
    assert store.get("space", ["a"]) == [None]
    assert told.failures == 2
    assert sum("encoded again" in line for line in caplog.messages) == 2
    store._redis = redis
    now_s[0] += PAUSE_S
    store.put("space", ["a"], some_features(1))
    assert is_there(store, ["a"]) == [True]
    assert (told.found, told.failures) == (1, 2)


def test_a_server_that_refuses_is_one_that_is_away(
    redis: redis_client.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    store = kept(redis)
    redis.set("t:{f}:1:order", "no list")
    store.put("space", ["a"], some_features(1))
    assert "cannot be written" in caplog.text


def test_nothing_is_kept_where_nothing_may_be(redis: redis_client.Redis) -> None:
    store = kept(redis, max_bytes=0)
    store.put("space", ["a"], some_features(1))
    assert is_there(store, ["a"]) == [False]
    assert redis.keys("*") == []
    nothing, features = NothingKept(), some_features(1)
    nothing.put("space", ["a"], features)
    assert nothing.get("space", ["a"]) == [None]
    assert nothing.as_kept(features) is features


@pytest.mark.parametrize(
    ("settings", "message"), [({"max_bytes": -1}, "max_bytes is -1"), ({"life_s": 0.0}, "life_s 0")]
)
def test_bounds_are_checked(
    redis: redis_client.Redis, settings: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kept(redis, **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 rows of features for 1 texts"):
        kept(redis).put("space", ["a"], some_features(2))


def test_the_bound_holds_under_several_writers(redis: redis_client.Redis) -> None:
    bound, writers = 40 * ENTRY, 4
    largest = 0

    def write(writer: int) -> None:
        store = kept(redis, max_bytes=bound)
        for n in range(30):
            texts = [f"{writer if n % 3 else 'all'}-{n}-{row}" for row in range(7)]
            store.put("space", texts, some_features(7, seed=n))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(writers)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        with redis.pipeline() as pipeline:  # of one moment
            pipeline.keys("t:{f}:1:f*")
            pipeline.get("t:{f}:1:bytes")
            names, said = pipeline.execute()
        largest = max(largest, len(names))
        assert len(names) * ENTRY == int(said or 0) <= bound
    for thread in threads:
        thread.join()
    assert 0 < largest <= 40
    assert len(redis.keys("t:{f}:1:f*")) == 40


class Slow(NothingKept):
    """Keeps nothing until it may."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()
        self.texts: list[str] = []

    def put(self, space_id: str, texts: Sequence[str], features: np.ndarray) -> None:
        assert self.may_go_on.wait(10.0)
        self.texts += texts


def test_whoever_hands_features_over_never_waits(redis: redis_client.Redis) -> None:
    slow, told = Slow(), Told()
    later = KeptLater(slow, waiting=2, observer=told)
    for text in "abcdef":
        later.put("space", [text], some_features(1))
    assert told.failures >= 3  # one may be on its way, two wait
    slow.may_go_on.set()
    later.wait()
    assert slow.texts[0] == "a"
    assert len(slow.texts) == 6 - told.failures
    store = kept(redis)
    later = KeptLater(store)
    later.put("space", ["a"], some_features(1))
    later.wait()
    assert is_there(store, ["a"]) == [True]


def test_only_texts_that_are_not_kept_are_encoded(redis: redis_client.Redis) -> None:
    encoder, store = small_encoder(), kept(redis)
    texts = ["my card is gone", "a new pin please", "the fee is wrong"]
    seen: list[list[str]] = []

    class Watched:
        space_id, width = encoder.space_id, encoder.width

        def encode(self, some: Sequence[str]) -> np.ndarray:
            seen.append(list(some))
            features: np.ndarray = encoder.encode(some)
            return features

    watched: Encoder = Watched()  # type: ignore[assignment]
    store.put(encoder.space_id, texts[:1], encoder.encode(texts[:1]))
    store.put(encoder.space_id, texts[1:2], some_features(1))  # of another width: not used
    first = features_of(watched, texts, kept=store, keep=True)
    assert np.array_equal(features_of(watched, texts[::2], kept=store), first[::2])
    assert seen == [texts[1:]]
    assert np.array_equal(first, store.as_kept(first))
    assert np.abs(first - encoder.encode(texts)).max() < 2.0**-14


def learner_on(store: KeptFeatures) -> Learner:
    return small_learner("two-speed", features=store)


def head_sums(learner: Learner) -> list[np.ndarray]:
    assert isinstance(learner.strategy, TwoSpeed)
    sums = learner.strategy.additive_head.sums
    sums.fold()
    return [sums._gram.numpy(), sums._sums[: len(sums.labels)].numpy(), sums.counts.numpy()]


def test_a_learner_learns_the_same_of_what_a_server_computed(redis: redis_client.Redis) -> None:
    store = kept(redis)
    computing, reusing = learner_on(kept(redis, max_bytes=0)), learner_on(store)
    texts = [e.text or "" for e in EXAMPLES]
    encoder = computing.strategy.encoder
    tokens = encoder.tokenize(texts)
    store.put(encoder.space_id, texts, encoder.encode_tokens(tokens))
    assert computing.learn(EXAMPLES) == reusing.learn(EXAMPLES)
    for one, other in zip(head_sums(computing), head_sums(reusing), strict=True):
        assert np.array_equal(one, other)


def test_a_correction_takes_back_exactly_what_was_added(redis: redis_client.Redis) -> None:
    """Its features stay what they were, whatever engine or batch would compute them now."""
    store = kept(redis)
    learner, plain = learner_on(store), learner_on(store)
    space = learner.strategy.encoder.space_id
    width = learner.strategy.encoder.width
    store.put(space, ["where is it"], some_features(1, width=width))  # by quite another engine
    learner.learn([example("a", "where is it", "card"), example("b", "my pin", "pin")])
    learner.learn([example("a", "where is it", "pin", revision=2, previous="card")])
    plain.learn([example("c", "nobody", "card"), example("b", "my pin", "pin")])
    plain.learn([example("c", "nobody", "pin", revision=2, previous="card")])
    corrected = head_sums(learner)
    assert not corrected[1][0].any()  # of `card` nothing is left
    assert corrected[2].tolist() == [0, 2]
    assert not head_sums(plain)[1][0].any()


def test_a_learner_that_resumes_takes_the_same_features_again(redis: redis_client.Redis) -> None:
    """To the bit while they are kept; else what its own engine computes, as without keeping."""
    store = kept(redis)
    learner = learner_on(store)
    encoder = learner.strategy.encoder
    texts = ["where is it", "my pin", "a fee"]
    store.put(encoder.space_id, texts[:2], some_features(2, width=encoder.width))
    examples = [example(text, text, text[-3:]) for text in texts]
    learner.learn(examples[:1])
    state = learner.state()
    learner.learn(examples[1:])
    resumed = learner_on(store)
    resumed.restore(state)
    resumed.learn(examples[1:])
    for name, array in learner.state().arrays.items():
        assert np.array_equal(array.numpy(), resumed.state().arrays[name].numpy()), name
    redis.flushall()
    alone = learner_on(store)
    alone.restore(state)
    alone.learn(examples[1:])
    assert not np.array_equal(head_sums(alone)[1][1], head_sums(learner)[1][1])  # of "my pin"
