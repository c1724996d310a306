"""What an additive head does with idle time; what is judged never learns a held-out row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import redis as redis_client
from hypothesis import given, settings
from hypothesis import strategies as st

from learners.gate import GateRules
from learners.heads.additive import AdditiveHead
from learners.heads.probes import MIN_PROBES
from learners.heads.served import load_judged_head, load_served_head
from learners.holdout import is_held_out
from learners.registry import Registry
from learners.released import EncoderCache, ReleasedModel
from learners.releasing import Releaser
from learners.replay import ReplayMemory, ReplayRow
from learners.strategies.two_speed import TwoSpeed
from schemas import Example
from schemas.errors import ReleaseError
from tests.learners.test_additive import clusters, head
from tests.learning import MakeLearner, example, frozen_encoder, make_learner

__all__ = ["frozen_encoder", "make_learner"]

CLASSES = 4
START = datetime(2026, 5, 1, tzinfo=UTC)
FEW = MIN_PROBES - 4  # nothing is chosen or calibrated on so few


def taught(*, rows: int = 400, held_out: int = FEW, noise: float = 0.6) -> AdditiveHead:
    """A head whose held-out rows have keys from 1 on."""
    one = head()
    for label in range(CLASSES):
        one.row_of(f"label {label}")
    one.add(*clusters(rows, classes=CLASSES, seed=1, noise=noise))
    features, labels = clusters(held_out, classes=CLASSES, seed=2, noise=noise)
    one.probe(features, labels, keys=range(1, held_out + 1))
    return one


def rested(one: AdditiveHead) -> AdditiveHead:
    while one.rest():
        pass
    return one


def row_of(one: Example) -> ReplayRow:
    return ReplayRow(
        one.id, one.user, one.label, one.text or "", held_out=is_held_out(one.id, share=0.5)
    )


def test_what_serves_learns_the_held_out_rows_and_what_is_judged_does_not() -> None:
    one, without, with_all = taught(), taught(held_out=0), taught(held_out=0)
    with_all.add(*clusters(FEW, classes=CLASSES, seed=2))
    features, _ = clusters(200, classes=CLASSES, seed=3)
    assert [one.rest(), one.rest(), one.rest()] == [True, True, False]  # solved, then refitted
    assert [without.rest(), without.rest()] == [True, False]
    with_all.solve()
    np.testing.assert_array_equal(one.judged().scores(features), without.scores(features))
    assert np.abs(one.scores(features) - without.scores(features)).max() > 1e-3
    np.testing.assert_array_equal(one.solved().full.weights, with_all.solved().full.weights)
    assert one.rows == 400


def test_rows_that_come_later_are_answered_beside_the_refit_until_all_is_solved_anew() -> None:
    one = rested(taught())
    refit = one.solved().full
    features, labels = clusters(200, classes=CLASSES + 1, seed=4)
    mine = np.array([row == CLASSES for (row,) in labels])
    new = one.row_of("new")
    one.add(features[mine][:8], [(new,)] * 8)
    one.refresh()
    assert one.solved().full is refit
    assert one.judged().full is not refit
    assert np.mean(one.scores(features[mine][8:]).argmax(axis=1) == new) > 0.9
    one.solve()
    assert one.solved() is one.judged()
    assert one.rest()
    assert one.solved() is not one.judged()


def test_an_erased_held_out_row_has_no_part_in_what_serves() -> None:
    one, never = rested(taught()), taught(held_out=0)
    features, labels = clusters(FEW, classes=CLASSES, seed=2)
    never.probe(features[5:], labels[5:])
    one.erase(range(1, 6))
    assert one.solved() is one.judged()
    assert one.rest()
    rested(never)
    asked, _ = clusters(100, classes=CLASSES, seed=3)
    np.testing.assert_array_equal(one.scores(asked), never.scores(asked))


def test_a_corrected_held_out_row_is_learned_as_it_is_now_alone() -> None:
    one, right = taught(held_out=0), taught(held_out=0)
    features, labels = clusters(FEW, classes=CLASSES, seed=2)
    keys = range(1, FEW + 1)
    wrong = [((label + 1) % CLASSES,) for (label,) in labels[:5]]
    one.probe(features, [*wrong, *labels[5:]], keys=keys)
    rested(one)
    one.probe(features[[0, 0, 1, 2, 3, 4]], [wrong[0], *labels[:5]], keys=[1, *keys[:5]])
    assert one.solved() is one.judged()
    assert one.rest()
    right.probe(features, labels, keys=keys)
    rested(right)
    asked, _ = clusters(100, classes=CLASSES, seed=3)
    np.testing.assert_array_equal(one.scores(asked), right.scores(asked))


def test_a_label_that_starts_again_takes_its_held_out_rows_out_of_what_serves() -> None:
    one = rested(taught())
    one.renew(2, clusters(9, classes=CLASSES, seed=7)[0])
    assert one.solved() is one.judged()


def test_a_rested_head_survives_and_is_released_to_the_bit() -> None:
    one, again = rested(taught(rows=700, held_out=200)), head()
    again.restore(*one.state())
    assert again.blobs() == one.blobs()
    blobs = one.blobs()
    served = load_served_head(blobs)
    judged = load_judged_head(blobs, served)
    features, _ = clusters(100, classes=CLASSES, seed=3)
    np.testing.assert_array_equal(served.scores(features), one.scores(features))
    np.testing.assert_array_equal(judged.scores(features), one.judged().scores(features))
    assert np.abs(served.scores(features) - judged.scores(features)).max() > 1e-4
    for each in (one, again):
        each.add(*clusters(300, classes=CLASSES, seed=8))
        rested(each)
    assert again.blobs() == one.blobs()
    with pytest.raises(ReleaseError, match="damaged"):
        load_judged_head({**blobs, "judged": blobs["judged"][:-9]}, served)


def test_a_head_without_a_refit_is_judged_as_it_serves() -> None:
    one = taught(held_out=0)
    one.solve()
    blobs = one.blobs()
    assert set(blobs) == {"head", "projection"}
    served = load_served_head(blobs)
    assert load_judged_head(blobs, served) is served


def test_the_strength_of_all_features_is_chosen_where_they_are_solved() -> None:
    one = taught(rows=900, held_out=400, noise=2.5)
    one._solutions.chooser._strength_of_all = 1e-3  # far too weak, as found when rows were others
    assert one.rest()
    weak = one.losses()
    asked, truth = clusters(2_000, classes=CLASSES, seed=10, noise=2.5)
    right_before = np.mean(one.scores(asked).argmax(axis=1) == [row for (row,) in truth])
    assert one.rest()
    chosen = one.losses()
    assert weak is not None
    assert chosen is not None
    assert chosen.mean() < weak.mean()
    assert one.choice[1] > 1e-3
    right = np.mean(one.scores(asked).argmax(axis=1) == [row for (row,) in truth])
    assert right > right_before


def test_where_labels_hardly_follow_from_features_the_shrinkage_passes_the_mean_diagonal() -> None:
    one = rested(taught(rows=900, held_out=400, noise=8.0))
    assert one.choice[1] > 1.0


def test_a_solve_that_held_out_rows_like_less_is_tried_at_other_strengths_at_once() -> None:
    one = taught(rows=900, held_out=400, noise=2.5)
    one.solve()
    good = one.losses()
    one._solutions.chooser._strength_of_all = 1e-3
    one.add(*clusters(10, classes=CLASSES, seed=30, noise=2.5))
    one.solve()
    after = one.losses()
    assert good is not None
    assert after is not None
    assert after.mean() < good.mean() + 0.05
    assert one.choice[1] > 1e-3


@settings(deadline=None, max_examples=20)
@given(
    added=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    held_out=st.integers(0, 40),
)
def test_idle_time_leaves_the_sums_as_they_were_to_the_bit(added: list[int], held_out: int) -> None:
    busy, idle = head(width=40), head(width=40)
    for seed, rows in enumerate(added):
        for one in (busy, idle):
            for label in range(3):
                one.row_of(str(label))
            one.add(*clusters(rows, classes=3, seed=seed))
            one.probe(*clusters(held_out, classes=3, seed=100 + seed))
        rested(idle)
    (expected, _), (found, _) = busy.sums.state(), idle.sums.state()
    assert busy.sums.rows == idle.sums.rows
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_the_gate_judges_what_never_learned_a_held_out_row(
    make_learner: MakeLearner, redis: redis_client.Redis, tmp_path: Path
) -> None:
    learner = make_learner(held_out_share=0.5)
    names = ("refund", "pin", "card")
    chance = np.random.default_rng(5)
    rows = [  # labels that nothing in the texts tells: only who learned a row knows it
        example(f"row {n}", f"text {chance.integers(10**9)}", names[chance.integers(3)])
        for n in range(240)
    ]
    memory = ReplayMemory(
        redis,
        namespace="rest",
        task="intents",
        max_rows=1_000,
        max_bytes=1_000_000,
        held_out_rows=500,
    )
    memory.offer([row_of(one) for one in rows])
    releases = Releaser(
        learner,
        registry=Registry(str(tmp_path)),
        memory=memory,
        rules=GateRules(margin=1.0, label_loss=1.0, slice_loss=1.0, calibration_loss=1.0),
        rows=500,
        keep=9,
    )
    learner.learn(rows)
    verdict = releases.consider(positions={}, now=START)
    while releases.rest():
        verdict = releases.consider(positions={}, now=START)
    assert verdict.release is not None
    strategy = learner.strategy
    assert isinstance(strategy, TwoSpeed)
    held_out = [one for one in rows if is_held_out(one.id, share=0.5)]
    features = strategy.encoder.read([one.text or "" for one in held_out])
    truth = [one.label for one in held_out]

    def agreement(scores: np.ndarray) -> float:
        said = [strategy.head.labels[column] for column in scores.argmax(axis=1)]
        return float(np.mean([a == b for a, b in zip(said, truth, strict=True)]))

    served = agreement(strategy.head.scores(features))
    assert served > verdict.report.challenger + 0.1  # it serves what it learned of them
    assert verdict.report.challenger == pytest.approx(
        agreement(strategy.judged_head.scores(features))
    )
    loaded = ReleasedModel.load(
        verdict.release, releases.registry, encoders=EncoderCache(device="cpu", precision="fp32")
    )
    np.testing.assert_array_equal(loaded.head.scores(features), strategy.head.scores(features))
    np.testing.assert_array_equal(
        loaded.judged.scores(features), strategy.judged_head.scores(features)
    )
    learner.learn([example("one more", "what is my pin", "pin")])
    again = releases.consider(positions={}, now=START + timedelta(seconds=1))
    assert again.report.champion is not None
    assert again.report.champion == verdict.report.challenger
