"""A classifier that was trained along, beside the sums: heard as far as held-out rows trust it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learners.heads.additive import AdditiveHead
from learners.heads.base import Floats
from learners.heads.linear import SolvedLinear
from learners.heads.probes import fit_softmax, fit_trust
from learners.heads.served import load_served_head
from learners.heads.trained import TrainedColumns
from tests.learners.test_additive import FEATURES, clusters, head

CLASSES = 6
NAMES = tuple(f"label {n}" for n in range(CLASSES))


def classifier(*, knows: int = CLASSES, wrong: bool = False) -> SolvedLinear:
    """Know the centres of `clusters`, of the first classes; or take each for the one before."""
    centres = np.random.default_rng(99).standard_normal((CLASSES, FEATURES)).astype(np.float32)
    order = np.roll(np.arange(CLASSES), 1) if wrong else np.arange(CLASSES)
    weights = 8.0 * centres[order][:knows]
    return SolvedLinear(NAMES[:knows], 1.0, 0.5, weights, np.zeros(knows, np.float32))


def confused(rows: int = 60) -> AdditiveHead:
    """A head of which a third of the rows that it learned were given the next label."""
    ridge = head()
    for name in NAMES:
        ridge.row_of(name)
    features, labels = clusters(rows, classes=CLASSES, seed=1, noise=1.2)
    ridge.add(
        features,
        [((row + (n % 3 == 0)) % CLASSES,) for n, (row,) in enumerate(labels)],
    )
    ridge.probe(*clusters(150, classes=CLASSES, seed=2, noise=1.2))
    return ridge


def right(ridge: AdditiveHead) -> float:
    features, labels = clusters(600, classes=CLASSES, seed=3, noise=1.2)
    return float(np.mean(ridge.scores(features).argmax(axis=1) == [row for (row,) in labels]))


def loss(ridge: AdditiveHead) -> float:
    found = ridge.losses()
    assert found is not None
    return float(found.mean())


def test_a_good_classifier_is_heard_and_a_bad_one_is_not() -> None:
    alone, helped, misled = confused(), confused(), confused()
    helped.listen(classifier())
    misled.listen(classifier(wrong=True))
    for ridge in (alone, helped, misled):
        ridge.solve()
    assert right(helped) > right(alone) + 0.1
    assert loss(helped) < loss(alone)
    assert helped.solved().calibration.trust > 0
    assert misled.solved().calibration.trust == 0
    assert right(misled) == right(alone)


def test_a_label_that_came_after_the_classifier_is_still_said() -> None:
    ridge = head()
    for name in NAMES:
        ridge.row_of(name)
    rows, labels = clusters(300, classes=CLASSES, seed=1)
    old = [place for place, (row,) in enumerate(labels) if row < CLASSES - 1]
    ridge.add(rows[old], [labels[place] for place in old])
    ridge.probe(*clusters(150, classes=CLASSES, seed=2))
    ridge.listen(classifier(knows=CLASSES - 1))
    ridge.solve()
    new = [place for place, (row,) in enumerate(labels) if row == CLASSES - 1]
    ridge.add(rows[new], [labels[place] for place in new])
    ridge.settle()
    features, truths = clusters(400, classes=CLASSES, seed=5)
    said = ridge.scores(features).argmax(axis=1)
    of_new = np.array([row == CLASSES - 1 for (row,) in truths])
    assert np.mean(said[of_new] == CLASSES - 1) > 0.9
    assert np.mean(said == [row for (row,) in truths]) > 0.9


def test_what_was_listened_to_is_served_and_taken_up_to_the_bit() -> None:
    ridge = confused()
    ridge.listen(classifier())
    ridge.solve()
    features, labels = clusters(40, classes=CLASSES, seed=7)
    served = load_served_head(ridge.blobs())
    np.testing.assert_array_equal(served.scores(features), ridge.scores(features))
    heir = head()
    arrays, meta = ridge.state()
    heir.restore(arrays, json.loads(json.dumps(meta)))
    for one in (ridge, heir):
        one.add(features, labels)
        one.solve()
    assert heir.solved().calibration.trust > 0
    np.testing.assert_array_equal(heir.scores(features), ridge.scores(features))


def test_states_and_releases_from_before_there_were_classifiers_are_read() -> None:
    ridge = confused()
    ridge.solve()
    arrays, meta = ridge.state()
    del meta["solved"]["trust"]
    kept = {name: array for name, array in arrays.items() if "trained" not in name}
    assert len(kept) == len(arrays) - 3
    heir = head()
    heir.restore(kept, meta)
    features, _ = clusters(40, classes=CLASSES, seed=7)
    np.testing.assert_array_equal(heir.scores(features), ridge.scores(features))


def test_a_label_that_means_something_else_is_the_classifier_s_no_more() -> None:
    ridge = confused()
    ridge.listen(classifier())
    ridge.solve()
    features, _ = clusters(30, classes=CLASSES, seed=8)
    ridge.add(features, [(2,)] * 30)
    ridge.renew(2, features)
    trained = ridge.solved().trained
    assert trained.known.tolist() == [n != 2 for n in range(CLASSES)]
    assert not trained.losses(features, labels=CLASSES)[:, 2].any()


def test_a_head_of_several_labels_does_not_listen() -> None:
    several = head("least-squares")
    for name in NAMES:
        several.row_of(name)
    several.add(*clusters(200, classes=CLASSES, seed=1))
    several.probe(*clusters(60, classes=CLASSES, seed=2))
    several.listen(classifier())
    several.solve()
    assert not len(several.solved().trained.known)
    assert loss(several) > 0


def test_too_few_held_out_rows_tell_nothing() -> None:
    ridge = head()
    ridge.row_of("a")
    features, _ = clusters(30, classes=1)
    ridge.add(features, [(0,)] * 30)
    ridge.probe(features[:5], [(0,)] * 5)
    ridge.solve()
    assert ridge.losses() is None


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.sets(st.integers(0, CLASSES - 1), min_size=1),
    st.integers(0, 2**16),
    st.floats(-5, 5, allow_nan=False),
)
def test_nothing_is_gained_by_what_is_taken_away(known: set[int], seed: int, shift: float) -> None:
    """Losses are 0 for the best of the known labels and for unknown ones; a shift changes none."""
    chance = np.random.default_rng(seed)
    weights = chance.standard_normal((len(known), FEATURES)).astype(np.float32)
    names = tuple(NAMES[n] for n in sorted(known, reverse=True))
    plain, shifted = (
        TrainedColumns.of(
            SolvedLinear(names, 1.0, 0.5, weights, np.full(len(known), bias, np.float32)), NAMES
        )
        for bias in (0.0, shift)
    )
    features = chance.standard_normal((9, FEATURES)).astype(np.float32)
    losses = plain.losses(features, labels=CLASSES)
    assert (losses <= 0).all()
    assert not losses[:, [n for n in range(CLASSES) if n not in known]].any()
    assert (losses[:, sorted(known)].max(axis=1) == 0).all()
    np.testing.assert_allclose(shifted.losses(features, labels=CLASSES), losses, atol=1e-4)
    cut = plain.losses(features, labels=2)
    assert cut.shape == (9, 2)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 2**16), st.integers(2, 5), st.integers(24, 60))
def test_trust_never_makes_held_out_rows_less_likely(seed: int, labels: int, rows: int) -> None:
    chance = np.random.default_rng(seed)
    truth = chance.integers(0, labels, rows)
    scores: Floats = chance.standard_normal((rows, labels)).astype(np.float32)
    losses: Floats = -np.abs(chance.standard_normal((rows, labels))).astype(np.float32)
    trust = fit_trust(scores, losses, truth)
    flat = np.zeros(labels)
    assert trust >= 0
    before = fit_softmax(scores, truth, bias=flat)[1]
    after = fit_softmax(scores + np.float32(trust) * losses, truth, bias=flat)[1]
    assert after <= before
    assert fit_trust(scores, np.zeros_like(losses), truth) == 0


@pytest.mark.parametrize("row", [0, 7])
def test_a_label_without_columns_can_be_left_out_too(row: int) -> None:
    none = TrainedColumns.empty()
    assert none.without(row) is none
