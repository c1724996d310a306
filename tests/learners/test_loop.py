"""The learner: test then train, each example once, corrections taken back exactly."""

from __future__ import annotations

import numpy as np
import pytest

from learners.holdout import is_held_out
from learners.strategies.two_speed import TwoSpeed
from tests.learning import MakeLearner, example, frozen_encoder, make_learner

__all__ = ["frozen_encoder", "make_learner"]

TEXTS = {
    "refund": ["give me my money back", "i want a refund", "please return my payment"],
    "card": ["my card was stolen", "i lost my card", "block my debit card please"],
    "pin": ["i forgot my pin", "how do i change my pin", "the pin is not accepted"],
}
EXAMPLES = [
    example(f"{label}-{n}-{copy}", f"{text} {copy}", label)
    for copy in range(8)
    for label, texts in TEXTS.items()
    for n, text in enumerate(texts)
]


@pytest.mark.parametrize("strategy", ["two-speed", "er", "naive"])
def test_every_strategy_learns_and_its_scores_come_from_before_learning(
    make_learner: MakeLearner, strategy: str
) -> None:
    learner = make_learner(strategy)
    first = learner.learn(EXAMPLES[:16])
    assert first.scored == 0  # nothing was known: nothing to score
    assert first.new_labels == 3
    later = [learner.learn(EXAMPLES[n : n + 16]) for n in range(16, len(EXAMPLES), 16)]
    held_out = sum(is_held_out(e.id, share=0.1) for e in EXAMPLES)
    reports = [first, *later]
    assert sum(r.held_out for r in reports) == held_out
    assert sum(r.rows for r in reports) == len(EXAMPLES) - held_out == learner.learned
    assert later[-1].agreement / later[-1].scored > 0.9


def test_a_repeat_is_learned_once(make_learner: MakeLearner) -> None:
    learner = make_learner()
    learner.learn(EXAMPLES[:20])
    before = learner.learned
    report = learner.learn([*EXAMPLES[:20], *EXAMPLES[:20]])
    assert (report.rows, report.repeated, learner.learned) == (0, 40, before)


def test_held_out_examples_never_enter_the_sums(make_learner: MakeLearner) -> None:
    learner = make_learner(held_out_share=0.5)
    learner.learn(EXAMPLES)
    strategy = learner.strategy
    assert isinstance(strategy, TwoSpeed)
    train = sum(not is_held_out(e.id, share=0.5) for e in EXAMPLES)
    assert strategy._head.rows == train < len(EXAMPLES)


def test_a_correction_leaves_the_model_that_never_saw_the_wrong_label(
    make_learner: MakeLearner,
) -> None:
    wrong = make_learner(held_out_share=0.0)
    right = make_learner(held_out_share=0.0)
    slip = example("slip", "my money never came back", "pin")
    mend = example("slip", "my money never came back", "refund", revision=2, previous="pin")
    truth = example("slip", "my money never came back", "refund")
    wrong.learn([*EXAMPLES, slip])
    unmended = wrong.strategy.state()[0]["head.sums"]
    wrong.learn([mend])
    right.learn([*EXAMPLES, truth])
    heads = [learner.strategy for learner in (wrong, right)]
    assert all(isinstance(head, TwoSpeed) for head in heads)
    arrays = [head.state()[0] for head in heads]
    for name in ("head.gram", "head.sums", "head.raw_sums"):
        # Equal but for the float32 noise of features that were computed in another batch.
        np.testing.assert_allclose(arrays[0][name], arrays[1][name], atol=1e-4)
    np.testing.assert_array_equal(arrays[0]["head.counts"], arrays[1]["head.counts"])
    assert np.abs(unmended.numpy() - arrays[1]["head.sums"].numpy()).max() > 0.1
