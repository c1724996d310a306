"""Every detector through every check, and each one's exact answers on seeded streams."""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Callable

import pytest

from serving.drift import DETECTORS, Detector, Level, make_detector


def bernoulli(seed: int, *parts: tuple[int, float]) -> list[float]:
    rng = random.Random(seed)
    return [float(rng.random() < share) for rows, share in parts for _ in range(rows)]


def confidences(seed: int, *parts: tuple[int, float]) -> list[float]:
    rng = random.Random(seed)
    return [min(1.0, max(0.0, rng.gauss(mean, 0.1))) for rows, mean in parts for _ in range(rows)]


def said(detector: Detector, stream: list[float]) -> list[tuple[int, Level]]:
    levels = [detector.update(x) for x in stream]
    return [(index, level) for index, level in enumerate(levels) if level is not None]


# What each detector is for: a stream that stays, and one that gets worse at 1,000.
STEADY: dict[str, Callable[[int], list[float]]] = {
    "adwin": lambda seed: bernoulli(seed, (4_000, 0.2)),
    "page-hinkley": lambda seed: confidences(seed, (4_000, 0.8)),
    "none": lambda seed: bernoulli(seed, (4_000, 0.2)),
}
WORSE: dict[str, Callable[[int], list[float]]] = {
    "adwin": lambda seed: bernoulli(seed, (1_000, 0.1), (1_000, 0.6)),
    "page-hinkley": lambda seed: confidences(seed, (1_000, 0.8), (1_000, 0.4)),
    "none": lambda seed: bernoulli(seed, (1_000, 0.1), (1_000, 0.6)),
}
BETTER: dict[str, Callable[[int], list[float]]] = {
    "adwin": lambda seed: bernoulli(seed, (1_000, 0.6), (1_000, 0.1)),
    "page-hinkley": lambda seed: confidences(seed, (1_000, 0.4), (1_000, 0.8)),
    "none": lambda seed: bernoulli(seed, (1_000, 0.6), (1_000, 0.1)),
}
SLOWLY_WORSE: dict[str, Callable[[int], list[float]]] = {
    "adwin": lambda seed: bernoulli(
        seed, (1_000, 0.1), *((200, 0.1 + 0.03 * step) for step in range(10))
    ),
    "page-hinkley": lambda seed: confidences(
        seed, (1_000, 0.8), *((200, 0.8 - 0.05 * step) for step in range(10))
    ),
}
every_detector = pytest.mark.parametrize("name", DETECTORS)
every_finder = pytest.mark.parametrize("name", [name for name in DETECTORS if name != "none"])


@every_detector
def test_a_detector_knows_its_own_name_and_counts_its_rows(name: str) -> None:
    detector = make_detector(name)
    said(detector, STEADY[name](0))
    assert detector.name == name
    assert detector.rows == 4_000
    assert math.isfinite(detector.statistic)


@every_detector
def test_a_detector_stays_silent_on_a_stream_that_stays(name: str) -> None:
    drifts = [
        index
        for seed in range(10)
        for index, level in said(make_detector(name), STEADY[name](seed))
        if level == "drift"
    ]
    assert drifts == []


@every_finder
def test_a_detector_finds_what_got_worse_and_not_before_it_did(name: str) -> None:
    for seed in range(10):
        drifts = [
            i for i, level in said(make_detector(name), WORSE[name](seed)) if level == "drift"
        ]
        assert drifts
        assert 1_000 <= drifts[0] < 1_250


@every_detector
def test_getting_better_is_no_drift(name: str) -> None:
    for seed in range(10):
        assert "drift" not in [level for _, level in said(make_detector(name), BETTER[name](seed))]


@every_finder
def test_what_gets_worse_slowly_is_warned_of_before_it_is_drift(name: str) -> None:
    for seed in range(5):
        levels = [level for _, level in said(make_detector(name), SLOWLY_WORSE[name](seed))]
        assert "warning" in levels[: levels.index("drift")]


@every_finder
def test_a_detector_starts_anew_after_a_drift(name: str) -> None:
    detector = make_detector(name)
    twice = WORSE[name](0) + WORSE[name](1)
    drifts = [index for index, level in said(detector, twice) if level == "drift"]
    assert any(index < 2_000 for index in drifts)
    assert any(index >= 3_000 for index in drifts)


@every_detector
def test_the_same_stream_gives_the_same_answers(name: str) -> None:
    assert said(make_detector(name), WORSE[name](3)) == said(make_detector(name), WORSE[name](3))


@every_detector
def test_a_pickled_detector_goes_on_as_if_nothing_had_been(name: str) -> None:
    stream = WORSE[name](4)
    whole = said(make_detector(name), stream)
    detector = make_detector(name)
    before = said(detector, stream[:1_010])
    after = said(pickle.loads(pickle.dumps(detector)), stream[1_010:])
    assert before + [(index + 1_010, level) for index, level in after] == whole


# Recorded with river 0.26.1; a change here changes when deployments alarm.
GOLDEN: dict[str, list[tuple[int, Level]]] = {
    "adwin": [(1_055, "drift")],
    "page-hinkley": [(1_059, "warning"), (1_131, "drift")],
    "none": [],
}


@every_detector
def test_answers_on_seeded_streams_are_the_recorded_ones(name: str) -> None:
    assert said(make_detector(name), WORSE[name](12_345)) == GOLDEN[name]


def test_a_smaller_delta_alarms_no_sooner() -> None:
    stream = bernoulli(7, (1_000, 0.1), (1_000, 0.3))
    first = {
        delta: next(
            i for i, lvl in said(make_detector("adwin", delta=delta), stream) if lvl == "drift"
        )
        for delta in (0.2, 0.002, 1e-6)
    }
    assert first[0.2] <= first[0.002] <= first[1e-6]


def test_a_higher_threshold_alarms_later() -> None:
    stream = confidences(7, (1_000, 0.8), (1_000, 0.4))
    first = {
        threshold: next(
            i
            for i, lvl in said(make_detector("page-hinkley", threshold=threshold), stream)
            if lvl == "drift"
        )
        for threshold in (10.0, 40.0)
    }
    assert first[10.0] < first[40.0]


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0])
def test_a_delta_that_is_no_chance_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match=f"delta is {delta}"):
        make_detector("adwin", delta=delta)


def test_a_threshold_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="threshold is 0"):
        make_detector("page-hinkley", threshold=0.0)


def test_an_unknown_detector_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match="'nope': there are adwin, page-hinkley, none"):
        make_detector("nope")
