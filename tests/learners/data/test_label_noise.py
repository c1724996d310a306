from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from learners.data.label_noise import LabelNoise, LabelNoiseConfig, Verdict

LABELS = ["a", "b", "c"]
SMALL = LabelNoiseConfig(quantile=0.3, recent_rows=8, least_rows=3, label_rows=2)
score = st.floats(-2, 2, width=32) | st.just(float("nan"))
rows = st.lists(
    st.tuples(st.tuples(score, score, score), st.sampled_from([*LABELS, "new"])), max_size=40
)


def judge(noise: LabelNoise, some: list[tuple[tuple[float, float, float], str]]) -> list[Verdict]:
    scores = np.array([row for row, _ in some], dtype=np.float32).reshape(len(some), 3)
    return noise.observe(scores, labels=LABELS, truth=[label for _, label in some])


def noisy_stream(
    flipped: float, *, count: int = 4_000, classes: int = 10
) -> tuple[NDArray[np.float32], list[str], NDArray[np.bool_]]:
    """Scores of a head that is right for nine rows of ten, and labels of which some are flipped."""
    draws = np.random.default_rng(5)
    truth = draws.integers(classes, size=count)
    scores = draws.normal(0, 0.2, size=(count, classes)).astype(np.float32)
    scores[np.arange(count), truth] += draws.normal(0.9, 0.3, size=count).astype(np.float32)
    wrong = draws.random(count) < flipped
    given = np.where(wrong, (truth + draws.integers(1, classes, size=count)) % classes, truth)
    return scores, [str(label) for label in given], wrong


@pytest.mark.parametrize("flipped", [0.05, 0.1, 0.3])
def test_most_of_the_rows_it_lists_have_flipped_labels(flipped: float) -> None:
    scores, truth, wrong = noisy_stream(flipped)
    noise = LabelNoise(LabelNoiseConfig())
    verdicts = noise.observe(scores, labels=[str(k) for k in range(10)], truth=truth)
    listed = np.array([verdict.suspicious for verdict in verdicts])
    assert 0.03 < listed.mean() < 0.07
    assert wrong[listed].mean() > 0.9
    assert noise.disputed == pytest.approx(flipped + 0.05, abs=0.06)


def test_nothing_is_suspicious_while_the_model_agrees_with_every_label() -> None:
    scores, truth, _ = noisy_stream(0.0)
    scores += np.eye(10, dtype=np.float32)[[int(label) for label in truth]]
    verdicts = LabelNoise(LabelNoiseConfig()).observe(
        scores, labels=[str(k) for k in range(10)], truth=truth
    )
    assert not any(verdict.suspicious for verdict in verdicts)


@given(rows, st.integers(1, 7))
def test_the_cut_into_batches_makes_no_difference(
    some: list[tuple[tuple[float, float, float], str]], size: int
) -> None:
    whole, pieces = LabelNoise(SMALL), LabelNoise(SMALL)
    verdicts = [v for at in range(0, len(some), size) for v in judge(pieces, some[at : at + size])]
    assert judge(whole, some) == verdicts
    assert whole.disputed == pieces.disputed


@given(rows, rows)
def test_a_restored_monitor_judges_as_the_one_it_was_taken_from(
    before: list[tuple[tuple[float, float, float], str]],
    after: list[tuple[tuple[float, float, float], str]],
) -> None:
    noise, copy = LabelNoise(SMALL), LabelNoise(SMALL)
    judge(noise, before)
    arrays, meta = noise.state()
    copy.restore(arrays, json.loads(json.dumps(meta)))
    assert judge(noise, after) == judge(copy, after)


@given(rows)
def test_only_scored_rows_of_known_labels_are_judged_and_only_disputed_ones_suspected(
    some: list[tuple[tuple[float, float, float], str]],
) -> None:
    had: dict[str, int] = {}
    judged = 0
    for (scores, label), verdict in zip(some, judge(LabelNoise(SMALL), some), strict=True):
        if np.isnan(scores).any():
            assert verdict == Verdict()
            continue
        known = label in LABELS and had.get(label, 0) >= SMALL.label_rows
        had[label] = had.get(label, 0) + 1
        assert (verdict.margin is not None) == known
        assert (verdict.threshold is not None) == (known and judged >= SMALL.least_rows)
        judged += known
        if verdict.suspicious:
            assert verdict.margin is not None
            assert verdict.margin < SMALL.most_margin


@pytest.mark.parametrize("count", [5, 8, 20])
@pytest.mark.parametrize("size", [3, 8, 12])
def test_a_ring_of_another_size_takes_up_the_newest_margins(count: int, size: int) -> None:
    noise = LabelNoise(SMALL)
    some = [((step / 8, 0.0, 0.0), "a") for step in range(count)]
    margins = [verdict.margin for verdict in judge(noise, some) if verdict.margin is not None]
    config = LabelNoiseConfig(quantile=0.3, recent_rows=size, least_rows=3, label_rows=2)
    other = LabelNoise(config)
    other.restore(*noise.state())
    assert other.state()[0]["margins"].tolist() == margins[-min(size, 8) :]


def test_a_label_of_few_rows_is_not_judged() -> None:
    noise = LabelNoise(SMALL)
    scores = np.array([[0.0, 1.0]], dtype=np.float32)
    verdicts = [noise.observe(scores, labels=["a", "b"], truth=["a"])[0] for _ in range(3)]
    assert [verdict.margin for verdict in verdicts] == [None, None, -1.0]


def test_scores_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scores are \(1, 2\): 1 rows and 3 labels"):
        LabelNoise(SMALL).observe(np.zeros((1, 2), dtype=np.float32), labels=LABELS, truth=["a"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LabelNoiseConfig(quantile=0.0), "quantile is 0.0"),
        (LabelNoiseConfig(least_rows=0), "least_rows is 0"),
        (LabelNoiseConfig(recent_rows=10, least_rows=11), "1 to recent_rows, 10"),
        (LabelNoiseConfig(label_rows=0), "label_rows is 0"),
    ],
)
def test_numbers_out_of_range_are_refused(config: LabelNoiseConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelNoise(config)
