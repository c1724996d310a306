"""Each rule decides what the encoder trains on, and nothing of what is in the sums."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learners.consolidation import ConsolidationConfig
from learners.curation import Curation, CurationReport, DataRules, Source, named_function
from learners.data.adversarial import fgm
from learners.data.left_out import LeftOutRidge
from learners.gate import GateRules
from learners.localmemory import LocalMemory
from learners.loop import Learner
from learners.rehearsal import ReplayRow
from learners.slow import DroppedError, SlowHalf
from learners.strategies.two_speed import TwoSpeed
from schemas.errors import SettingsError
from tests.small import small_learner

CONFIG = ConsolidationConfig(epochs=1, batch_rows=16, learning_rate=3e-4)
THINGS = {"water": ("river", "lake", "sea"), "money": ("bank", "price", "cost")}
ENDS = ("today", "again", "now", "here", "later", "soon", "there", "still", "then", "once")


def shout(text: str) -> list[str]:
    """Say a text in other words: a stand-in for two translators."""
    return [text.upper()]


def rows_of(count: int) -> list[ReplayRow]:
    rows = []
    for n in range(count):
        label = ("water", "money")[n % 2]
        thing = THINGS[label][n // 2 % 3]
        text = f"the {thing} {ENDS[n % 10]} {ENDS[n // 10 % 10]}"
        rows.append(ReplayRow(id=f"e{n}", user="u", label=label, text=text))
    return rows


def learner_of(rows: list[ReplayRow]) -> tuple[Learner, LocalMemory]:
    learner, memory = small_learner("two-speed", held_out_share=0.0), LocalMemory()
    memory.offer(rows)
    assert isinstance(learner.strategy, TwoSpeed)
    learner.strategy.add([(row.text, row.label) for row in rows if not row.held_out])
    learner.strategy.settle()
    return learner, memory


def consolidate(
    rows: list[ReplayRow],
    rules: DataRules,
    *,
    config: ConsolidationConfig = CONFIG,
    unlabelled: tuple[str, ...] = (),
) -> tuple[CurationReport, TwoSpeed]:
    """Run the real slow half; give what the rules did, and the strategy that came out."""
    learner, memory = learner_of(rows)
    work = SlowHalf(
        learner,
        memory,
        config=config,
        rules=GateRules(),
        held_out_rows=50,
        curation=Curation(rules),
        unlabelled=lambda: unlabelled,
    )
    work.run()
    assert work.finish().accepted
    strategy = learner.strategy
    assert isinstance(strategy, TwoSpeed)
    assert work.curated is not None
    return work.curated, strategy


def curated(
    rows: list[ReplayRow], rules: DataRules, **changes: object
) -> tuple[list[str], CurationReport]:
    learner, _ = learner_of(rows)
    assert isinstance(learner.strategy, TwoSpeed)
    source = replace(Source(learner.strategy, learner.kind), **changes)  # type: ignore[arg-type]
    made = Curation(rules).curate(rows, source)
    assert len(made.texts) == len(made.labels) == made.report.trained
    return made.texts, made.report


def test_without_rules_the_encoder_trains_on_memory_as_it_is() -> None:
    rows = rows_of(20)
    report, strategy = consolidate(rows, DataRules())
    assert report == CurationReport(20, trained=20)
    assert strategy.additive_head.counts.sum() == 20


def test_wrong_labels_are_left_out_and_stay_in_the_sums() -> None:
    rows = rows_of(80)
    wrong = set(Random(3).sample(range(80), 12))
    other = {"water": "money", "money": "water"}
    noisy = [
        replace(row, label=other[str(row.label)]) if n in wrong else row
        for n, row in enumerate(rows)
    ]
    report, strategy = consolidate(noisy, DataRules(label_noise=True))
    texts, again = curated(noisy, DataRules(label_noise=True))
    assert again == report
    assert strategy.additive_head.counts.sum() == 80
    left = {row.text for n, row in enumerate(noisy) if row.text not in texts and n in wrong}
    assert len(left) >= 8
    assert report.suspicious == 80 - report.trained <= 20


def test_clean_rows_lose_little_to_the_suspicion() -> None:
    _, report = curated(rows_of(80), DataRules(label_noise=True))
    assert report.suspicious <= 4


def test_texts_are_cleaned_and_one_that_is_all_markup_stays() -> None:
    rows = rows_of(4)
    rows[1] = replace(rows[1], text="<p>the  bank</p>")
    rows[2] = replace(rows[2], text="<br>")
    texts, report = curated(rows, DataRules(clean=True))
    assert report == CurationReport(4, cleaned=1, trained=4)
    assert texts[1:3] == ["the bank", "<br>"]


def test_only_repeats_of_the_same_label_go() -> None:
    text = "where in the world is the old river bank that we saw yesterday"
    rows = [
        ReplayRow(id=f"{n}", user="u", label=label, text=one)
        for n, (one, label) in enumerate(
            [(text, "a"), (text + "!", "a"), (text + "?", "b"), ("another text", "a")]
        )
    ]
    texts, report = curated(rows, DataRules(near_duplicates=True))
    assert texts == [text, text + "?", "another text"]
    assert report.repeats == 1


def test_wordings_come_from_edits_and_from_a_function_by_its_name() -> None:
    rows = rows_of(12)
    rules = DataRules(augment=4, back_translate=f"{__name__}:shout")
    report, strategy = consolidate(rows, rules)
    texts, again = curated(rows, rules)
    assert again == report
    assert 12 + 12 < report.trained <= 12 + 12 * 5
    assert {row.text.upper() for row in rows} <= set(texts)
    assert texts[:12] == [row.text for row in rows]
    assert strategy.additive_head.counts.sum() == 12


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("nowhere", "package.module:function was expected"),
        ("nowhere.at_all:it", "cannot be imported"),
        (f"{__name__}:CONFIG", "it is no function"),
    ],
)
def test_a_function_that_is_none_is_said_at_once(path: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        named_function(path)


def test_sure_texts_without_a_label_are_taken_but_never_known_or_held_out_ones() -> None:
    rows = rows_of(20)
    fresh = [f"the {thing} before" for thing in ("river", "lake", "sea", "bank", "price", "cost")]
    offered = (*fresh, rows[0].text, "the sea apart", fresh[0])
    rules = DataRules(pseudo_labels=True)
    texts, report = curated(rows, rules, unlabelled=offered, apart=["the sea apart"])
    assert report.pseudo_labelled == report.trained - 20
    assert report.pseudo_labelled > 0
    assert set(texts[20:]) <= set(fresh)
    assert len(set(texts[20:])) == len(texts[20:])


def test_rows_of_several_labels_pass_what_is_for_one() -> None:
    rows = [replace(row, label=(str(row.label), "more")) for row in rows_of(60)]
    learner, _ = small_learner("two-speed", kind="multilabel", held_out_share=0.0), None
    assert isinstance(learner.strategy, TwoSpeed)
    source = Source(learner.strategy, learner.kind, unlabelled=["the river before"])
    made = Curation(DataRules(label_noise=True, pseudo_labels=True)).curate(rows, source)
    assert made.report == CurationReport(60, trained=60)


def test_adaptation_and_harder_batches_go_through_the_slow_half() -> None:
    config = replace(CONFIG, adapt_epochs=1, adapt="contrastive", adversarial=fgm(0.3))
    learner, memory = learner_of(rows_of(16))
    asked: list[int] = []

    def texts() -> tuple[str, ...]:
        asked.append(1)
        return tuple(f"the old {word}" for word in ENDS)

    work = SlowHalf(
        learner, memory, config=config, rules=GateRules(), held_out_rows=50, unlabelled=texts
    )
    work.run()
    assert work.finish().accepted
    assert work.steps == 1 + 1  # 26 texts in one batch, then 16 rows
    assert asked == [1]


def test_nobody_is_asked_for_texts_that_no_rule_needs() -> None:
    learner, memory = learner_of(rows_of(8))

    def texts() -> tuple[str, ...]:
        raise AssertionError("not needed")

    rules = Curation(DataRules(clean=True))
    work = SlowHalf(
        learner,
        memory,
        config=CONFIG,
        rules=GateRules(),
        held_out_rows=50,
        curation=rules,
        unlabelled=texts,
    )
    work.run()
    assert work.finish().accepted


def test_a_stop_ends_a_curation() -> None:
    learner, memory = learner_of(rows_of(8))
    work = SlowHalf(
        learner,
        memory,
        config=CONFIG,
        rules=GateRules(),
        held_out_rows=50,
        curation=Curation(DataRules(augment=1)),
    )
    work.stop()
    with pytest.raises(DroppedError):
        work.run()
    work.close()
    assert work.done == 0


def test_a_report_says_only_what_was_done() -> None:
    assert str(CurationReport(5, trained=5)) == "trained on 5 of 5 rows"
    said = str(CurationReport(9, repeats=2, pseudo_labelled=3, trained=10))
    assert said == "trained on 10 of 9 rows, 2 repeats, 3 pseudo-labelled"
    with pytest.raises(ValueError, match="augment is -1"):
        Curation(DataRules(augment=-1))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(4, 20), width=st.integers(1, 6))
def test_a_row_left_out_scores_as_the_solve_without_it(seed: int, rows: int, width: int) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, width)).astype(np.float32)
    columns = [n % 2 for n in range(rows)]
    ridge = LeftOutRidge(x, columns, labels=2)
    y = np.eye(2)[columns]
    counts = np.bincount(columns)
    weights = rows / 2 / counts[columns]
    z = np.hstack([x, np.ones((rows, 1))]).astype(np.float64)
    unit = float(np.trace((z * weights[:, None]).T @ z)) / z.shape[1]
    penalty = ridge.strength * unit * np.eye(z.shape[1])
    for row in range(rows):
        rest = np.arange(rows) != row
        weighted = (z[rest] * weights[rest, None]).T
        solved = np.linalg.solve(weighted @ z[rest] + penalty, weighted @ y[rest])
        np.testing.assert_allclose(ridge.left_out[row], z[row] @ solved, atol=2e-3)
