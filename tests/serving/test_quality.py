"""Scores before the first pair, and their bounds."""

from __future__ import annotations

import pytest

from learners.tasks import task_kind
from serving.quality import Prequential


def test_there_are_no_figures_before_the_first_pair() -> None:
    assert Prequential(task_kind("classify")).scores() is None


def test_a_window_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="window is 0"):
        Prequential(task_kind("classify"), window=0)


def test_an_empty_list_of_labels_is_an_answer_and_silence_is_none() -> None:
    prequential = Prequential(task_kind("multilabel"))
    assert prequential.add((), (), delay_s=0.0) is True
    assert prequential.add((), None, delay_s=0.0) is False
    scores = prequential.scores()
    assert scores is not None
    assert (scores.accuracy, scores.agreement, scores.macro_f1) == (0.5, 0.5, 0.5)


def test_labels_that_left_the_window_leave_no_trace() -> None:
    prequential = Prequential(task_kind("classify"), window=10)
    for number in range(1_000):
        prequential.add(f"label {number}", f"other {number}", delay_s=0.0)
    assert len(prequential._true) == len(prequential._predicted) == 10
    assert len(prequential._both) == 0
