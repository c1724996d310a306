"""The benchmark of many labels, on a few of them."""

from __future__ import annotations

import json

import pytest

from benchmarks import many_labels
from benchmarks.many_labels import Crowd, Texts, known_labels, memory_bound, name_of, run, words_of
from benchmarks.small import small_encoder
from learners.heads.names import words_of as words_of_name

CROWD = Crowd(rows=60, labels=6, batch_rows=8)


def nothing(done: int, total: int) -> None:
    assert 0 < done <= total


def test_every_label_comes_in_the_first_half_and_means_nothing_by_its_name() -> None:
    texts = Texts(CROWD, words_of(small_encoder()))
    _, labels = texts.batch(range(CROWD.rows))
    firsts = [labels.index(label) for label in range(CROWD.labels)]
    assert firsts == sorted(firsts)
    assert firsts[-1] <= CROWD.rows // 2
    assert [known_labels(row, CROWD) for row in firsts] == [1, 2, 3, 4, 5, 6]
    assert words_of_name(name_of(7)) is None


def test_texts_are_the_same_of_the_same_seed_and_of_words_that_the_encoder_knows() -> None:
    words = words_of(small_encoder())
    once, again = Texts(CROWD, words).text(3), Texts(CROWD, words).text(3)
    assert once == again
    assert set(once.split()) <= set(words)


def test_the_bound_grows_with_labels_and_rows() -> None:
    less = memory_bound(labels=10, width=4_096, replay_rows=0, replay_mb=0.0)
    assert memory_bound(labels=11, width=4_096, replay_rows=0, replay_mb=0.0) > less
    assert memory_bound(labels=10, width=4_096, replay_rows=9, replay_mb=1.0) > less + 1.0


@pytest.mark.parametrize("as_markdown", [False, True])
def test_a_run_is_printed_as_a_table_and_one_line_of_json(
    as_markdown: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = run(CROWD, progress=nothing)
    assert [part.examples for part in outcome.parts] == [6 * n for n in range(1, 11)]
    assert outcome.parts[-1].labels == CROWD.labels
    assert min(part.encoder_ms for part in outcome.parts) > 0.0
    assert outcome.replay_rows == CROWD.rows
    assert outcome.final > 0.5
    many_labels.report(CROWD, outcome, as_markdown=as_markdown)
    out = capsys.readouterr().out
    last = json.loads(out.splitlines()[-1])
    assert (last["labels"], last["holds"]) == (CROWD.labels, outcome.holds)
    assert ("| 60 | 6 | " in out) == as_markdown


def test_a_stream_too_short_for_its_labels_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        many_labels.main(["--rows", "30", "--labels", "20"])
    assert "--rows from 2 a label" in capsys.readouterr().err
