"""The exam: forgetting is what the final release lost, and real releases answer real rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.released import EncoderCache, ReleasedModel
from learners.tasks import task_kind
from mindstream.demo.exam import Exam, by_wave, forgetting
from mindstream.demo.plan import ExamRow
from schemas import ModelRelease
from tests.foundry import Foundry, encoder, foundry

__all__ = ["encoder", "foundry"]

SHARES = st.floats(0.0, 1.0)
ROWS = (
    ExamRow("please give me my money back", "refund", 0),
    ExamRow("a refund for the order i want", "refund", 0),
    ExamRow("where is the parcel i ordered", "delivery", 1),
    ExamRow("when does my package arrive", "delivery", 1),
)


def test_forgetting_is_the_mean_loss_against_the_best_wave_end() -> None:
    ends: list[list[float | None]] = [[0.9, None, None], [0.7, 0.8, None], [0.6, 0.9, 1.0]]
    lost, best = forgetting(ends, [0.5, 0.9, 1.0])
    assert lost == pytest.approx(0.4 / 3)
    assert best == [0.9, 0.9, 1.0]


def test_a_wave_that_gets_better_has_forgotten_nothing() -> None:
    assert forgetting([[0.5, 0.1]], [0.9, 0.8]) == (0.0, [0.9, 0.8])


def test_a_wave_without_rows_does_not_count() -> None:
    assert forgetting([[0.8, None]], [0.4, None]) == (0.4, [0.8, None])
    assert forgetting([], [None]) == (0.0, [None])


@given(final=st.lists(SHARES, min_size=1, max_size=6), data=st.data())
def test_forgetting_is_never_negative_and_never_over_one(
    final: list[float], data: st.DataObject
) -> None:
    row = st.lists(st.none() | SHARES, min_size=len(final), max_size=len(final))
    lost, best = forgetting(data.draw(st.lists(row, max_size=6)), final)
    assert 0.0 <= lost <= 1.0
    assert all(b is not None and b >= f for b, f in zip(best, final, strict=True))


def test_answers_are_scored_by_wave_as_the_kind_scores_them() -> None:
    kind = task_kind("multilabel")
    rows = (ExamRow("x", ("a", "b"), 0), ExamRow("y", (), 0), ExamRow("z", ("c",), 2))
    scored = by_wave(rows, [("a",), (), None], kind=kind, waves=3)
    assert scored == [pytest.approx((2 / 3 + 1) / 2), None, 0.0]


def test_real_releases_take_it_and_texts_are_encoded_once(foundry: Foundry) -> None:
    first = foundry.release(rows={"please give my money back": "refund", "hello": "other"})
    final = foundry.release()
    encoders = EncoderCache(device="cpu", precision="fp32")

    def load(release: ModelRelease) -> ReleasedModel:
        return ReleasedModel.load(release, foundry.registry, encoders=encoders)

    said: list[str] = []
    exam = Exam(ROWS, waves=2, kind=task_kind("classify"), say=said.append)
    result = exam.take(load(final), {0: lambda: load(first)})
    assert result.rows == 4
    assert result.accuracy == 1.0
    assert result.final == (1.0, 1.0)
    assert result.forgetting == 0.0
    assert len(said) == 1

    swapped = exam.take(load(first), {0: lambda: load(final)})
    assert swapped.final[1] == 0.0
    assert swapped.best == (1.0, 0.0)
