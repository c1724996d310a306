"""Consolidation points of strategies that hold something: every so many examples, or on drift."""

from __future__ import annotations

import copy
import random

from learners.heads.class_drift import SETTLED_ROWS
from learners.loop import Learner
from learners.strategies.finetuning import DRIFT_SHARE, FineTuning
from schemas import Example
from tests.learning import example
from tests.small import small_learner

EVERY = 1_000  # more than ever come here
WORDS = {"weather": ["rain", "sun", "wind", "snow"], "money": ["bank", "cash", "card", "price"]}
OTHER = {"weather": "money", "money": "weather"}


def rows(count: int, *, start: int, swapped: bool = False) -> list[Example]:
    chance, made = random.Random(start), []
    for n in range(start, start + count):
        meant = chance.choice(sorted(WORDS))
        text = f"the {chance.choice(WORDS[meant])} and the {chance.choice(WORDS[meant])}"
        made.append(example(f"e{n}", text, OTHER[meant] if swapped else meant))
    return made


def learn(learner: Learner, examples: list[Example]) -> None:
    for at in range(0, len(examples), 8):
        learner.learn(examples[at : at + 8])


def consolidations(learner: Learner) -> int:
    assert isinstance(learner.strategy, FineTuning)
    return int(learner.strategy._template.clock.train_exp_counter)


def head_of(learner: Learner) -> dict[str, bytes]:
    return dict(learner.strategy.head_blobs())


def fresh(strategy: str) -> Learner:
    return small_learner(strategy, held_out_share=0.0, consolidate_every=EVERY, tuning="frozen")


def taught(strategy: str) -> Learner:
    """A learner of two labels that it tells apart, long enough for their misses to be usual."""
    learner = fresh(strategy)
    learn(learner, rows(8 * SETTLED_ROWS, start=0))
    return learner


def test_a_label_that_changes_its_meaning_brings_a_consolidation_point() -> None:
    learner = taught("ewc")
    assert consolidations(learner) == 0
    again = fresh("ewc")
    again.restore(copy.deepcopy(learner.state()))
    for one in (learner, again):  # also when what was watched went through a state
        learn(one, rows(48, start=1_000, swapped=True))
        assert consolidations(one) == 1
        learn(one, rows(48, start=2_000, swapped=True))
        assert consolidations(one) == 1
    assert learner.state().meta == again.state().meta


def test_drift_does_not_bring_one_sooner_than_its_share_of_the_examples() -> None:
    learner = taught("ewc")
    strategy = learner.strategy
    assert isinstance(strategy, FineTuning)
    strategy.consolidate()
    assert consolidations(learner) == 1
    batches = rows(int(DRIFT_SHARE * EVERY) + 8, start=1_000, swapped=True)
    learn(learner, batches[:-16])
    assert strategy._drifted
    assert consolidations(learner) == 1
    learn(learner, batches[-16:])
    assert consolidations(learner) == 2
    assert not strategy._drifted


def test_answers_that_became_worse_bring_one_where_something_is_held() -> None:
    for strategy, more in (("ewc", 1), ("naive", 0)):
        learner = fresh(strategy)
        few = int(DRIFT_SHARE * EVERY)
        learn(learner, rows(few - 8, start=0))
        learner.note_drift()
        assert consolidations(learner) == 0
        learn(learner, rows(8, start=few))
        assert consolidations(learner) == more
        learn(learner, rows(2 * few, start=2 * few))
        assert consolidations(learner) == more  # once


def test_a_strategy_that_trains_again_does_so_sooner() -> None:
    learner = small_learner("gdumb", held_out_share=0.0, consolidate_every=80, tuning="frozen")
    learn(learner, rows(80, start=0))
    learner.strategy.settle()
    told = small_learner("gdumb", held_out_share=0.0, consolidate_every=80, tuning="frozen")
    told.restore(copy.deepcopy(learner.state()))
    told.note_drift()
    again = small_learner("gdumb", held_out_share=0.0, consolidate_every=80, tuning="frozen")
    again.restore(copy.deepcopy(told.state()))
    before = head_of(learner)
    for one in (learner, told, again):
        learn(one, rows(8, start=80))
        one.strategy.settle()
    assert head_of(learner) == before  # 8 of 80 rows
    assert head_of(told) == head_of(again) != before


def test_what_holds_nothing_watches_nothing() -> None:
    learner = taught("naive")
    learn(learner, rows(48, start=1_000, swapped=True))
    assert consolidations(learner) == 0
    assert learner.state().meta["state"]["drift"]["labels"] == []
