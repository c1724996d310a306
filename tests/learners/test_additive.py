from __future__ import annotations

import numpy as np
import pytest

from learners.heads.additive import AdditiveHead
from learners.heads.base import Floats
from learners.heads.served import load_served_head
from learners.heads.solves import Solver
from schemas.errors import CheckpointError, ReleaseError

FEATURES = 24


def head(
    solver: Solver = "class-balanced", *, space_id: str = "space", width: int = 96
) -> AdditiveHead:
    return AdditiveHead(features=FEATURES, solver=solver, width=width, seed=7, space_id=space_id)


def clusters(
    rows: int, *, classes: int, seed: int = 0, noise: float = 0.6
) -> tuple[Floats, list[tuple[int, ...]]]:
    """Unit rows around one random centre a class."""
    centres = np.random.default_rng(99).standard_normal((classes, FEATURES))
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, size=rows)
    x = centres[labels] + noise * generator.standard_normal((rows, FEATURES))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x.astype(np.float32), [(int(label),) for label in labels]


def taught(rows: int = 600, *, classes: int = 6, probes: int = 200) -> AdditiveHead:
    ridge = head()
    for label in range(classes):
        ridge.row_of(f"label {label}")
    ridge.add(*clusters(rows, classes=classes, seed=1))
    ridge.probe(*clusters(probes, classes=classes, seed=2))
    ridge.solve()
    return ridge


def test_what_was_added_is_answered() -> None:
    features, labels = clusters(400, classes=6, seed=3)
    scores = taught().scores(features)
    assert scores.shape == (400, 6)
    assert scores.dtype == np.float32
    assert np.mean(scores.argmax(axis=1) == [row for (row,) in labels]) > 0.95


def test_the_solution_is_the_class_balanced_ridge_of_the_rows() -> None:
    features, labels = clusters(900, classes=3, seed=4)
    features, labels = features[60:], labels[60:]
    ridge = head()
    for label in "abc":
        ridge.row_of(label)
    ridge.add(features, labels)
    ridge.solve()
    phi = (ridge.sums.projection.codes(features).double() / 32).numpy()
    own = np.array([row for (row,) in labels])
    means = np.stack([phi[own == c].mean(axis=0) for c in range(3)])
    within = (phi - means[own]).T @ (phi - means[own]) / len(phi)
    a = within + means.T @ means / 3
    a += ridge.choice[1] * np.trace(a) / len(a) * np.eye(len(a))
    expected = phi @ np.linalg.solve(a, means.T / 3)
    np.testing.assert_allclose(ridge.scores(features), expected, atol=3e-3)


def test_taking_rows_back_leaves_the_sums_of_the_others() -> None:
    features, labels = clusters(300, classes=4)
    both, one = head(), head()
    for ridge in (both, one):
        for label in "abcd":
            ridge.row_of(label)
    both.add(features, labels)
    both.add(features[:100], labels[:100], sign=-1)
    one.add(features[100:], labels[100:])
    assert both.rows == one.rows == 200
    np.testing.assert_array_equal(both.counts, one.counts)
    both.solve()
    one.solve()
    np.testing.assert_allclose(both.scores(features), one.scores(features), atol=2e-4)


def test_a_label_without_any_row_left_is_never_said() -> None:
    ridge = taught()
    features, labels = clusters(600, classes=6, seed=1)
    gone = [n for n, label in enumerate(labels) if label == (2,)]
    ridge.add(features[gone], [(2,)] * len(gone), sign=-1)
    ridge.solve()
    assert ridge.counts[2] == 0
    assert 2 not in ridge.scores(features).argmax(axis=1)
    assert np.isfinite(ridge.scores(features)).all()


def test_one_class_alone_is_solved_and_said() -> None:
    ridge = head()
    ridge.add(clusters(3, classes=1)[0], [(ridge.row_of("only"),)] * 3)
    ridge.solve()
    assert ridge.solved_labels == ("only",)
    assert np.isfinite(ridge.scores(clusters(5, classes=2)[0])).all()


@pytest.mark.parametrize("solver", ["class-balanced", "least-squares"])
def test_a_head_that_learned_nothing_solves_and_scores_nothing(solver: Solver) -> None:
    ridge = head(solver)
    assert ridge.scores(clusters(2, classes=1)[0]).shape == (2, 0)
    ridge.row_of("never added")
    ridge.solve()
    assert (ridge.scores(clusters(2, classes=1)[0]) < -100).all()


def test_a_new_class_is_said_after_three_rows() -> None:
    ridge = taught(3_000)
    features, labels = clusters(4_000, classes=7, seed=8)
    new = np.array([label == (6,) for label in labels])
    row = ridge.row_of("new")
    ridge.add(features[new][:3], [(row,)] * 3)
    ridge.solve()
    assert np.mean(ridge.scores(features[new][3:]).argmax(axis=1) == row) > 0.8
    assert np.mean(ridge.scores(features[~new]).argmax(axis=1) != row) > 0.97


def test_the_strength_is_chosen_on_the_probes() -> None:
    ridge = head(width=150)
    for label in range(6):
        ridge.row_of(str(label))
    for seed in range(4):
        features, labels = clusters(40, classes=6, seed=seed, noise=2.5)
        ridge.add(features, labels)
    ridge.probe(*clusters(400, classes=6, seed=9, noise=2.5))
    ridge.solve()
    test, truth = clusters(2_000, classes=6, seed=10, noise=2.5)
    chosen = np.mean(ridge.scores(test).argmax(axis=1) == [row for (row,) in truth])
    strength = ridge.choice[1]
    chooser = ridge._solutions.chooser
    chooser.strength, chooser._choose_at = 1e-3, 10**9
    ridge._ring.label_rows.clear()  # nothing says that it is too weak
    ridge.solve()
    weak = np.mean(ridge.scores(test).argmax(axis=1) == [row for (row,) in truth])
    assert strength > 1e-3
    assert chosen > weak


def test_scores_are_calibrated_on_the_probes() -> None:
    ridge = taught()
    features, labels = clusters(2_000, classes=6, seed=11)
    logits = ridge.scale * ridge.scores(features).astype(np.float64)
    likely = np.exp(logits - logits.max(axis=1, keepdims=True))
    likely /= likely.sum(axis=1, keepdims=True)
    right = likely.argmax(axis=1) == [row for (row,) in labels]
    assert abs(likely.max(axis=1).mean() - right.mean()) < 0.05


def test_a_multilabel_head_says_each_label_for_itself() -> None:
    features, labels = clusters(1_500, classes=6, seed=12, noise=0.4)
    sets: list[tuple[int, ...]] = [  # two labels a class, none for the last
        () if label == 5 else (label % 3, 3 + label % 2) for (label,) in labels
    ]
    ridge = head("least-squares")
    for label in range(5):
        ridge.row_of(str(label))
    ridge.add(features[:1_000], sets[:1_000])
    ridge.probe(features[1_000:1_200], sets[1_000:1_200])
    ridge.solve()
    probabilities = 1 / (1 + np.exp(-ridge.scale * ridge.scores(features[1_200:])))
    truth = np.zeros((300, 5), dtype=bool)
    for row, rows in enumerate(sets[1_200:]):
        truth[row, list(rows)] = True
    said = probabilities >= ridge.threshold
    f1 = 2 * (said & truth).sum() / (said.sum() + truth.sum())
    assert f1 > 0.95


def test_the_served_blob_scores_to_the_bit_as_the_head_does() -> None:
    ridge = taught()
    served = load_served_head(ridge.blobs())
    features, _ = clusters(50, classes=6)
    np.testing.assert_array_equal(served.scores(features), ridge.scores(features))
    assert served.labels == ridge.solved_labels
    assert (served.scale, served.threshold) == (ridge.scale, ridge.threshold)


def test_the_projection_blob_stays_the_same_while_the_head_learns() -> None:
    ridge = taught()
    before = ridge.blobs()
    ridge.add(*clusters(64, classes=6, seed=20))
    ridge.solve()
    after = ridge.blobs()
    assert before["projection"] == after["projection"]
    assert before["head"] != after["head"]


def test_a_restored_head_goes_on_bit_for_bit() -> None:
    ridge, again = taught(), head()
    again.restore(*ridge.state())
    features, _ = clusters(50, classes=6)
    np.testing.assert_array_equal(again.scores(features), ridge.scores(features))
    for one in (ridge, again):
        one.row_of("later")
        one.add(*clusters(300, classes=7, seed=21))
        one.probe(*clusters(400, classes=7, seed=22))
        one.solve()
    assert again.blobs() == ridge.blobs()
    arrays, meta = ridge.state()
    arrays_again, meta_again = again.state()
    assert meta == meta_again
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, arrays_again[name], err_msg=name)


def test_a_state_of_another_encoder_or_solver_is_refused() -> None:
    state = taught().state()
    with pytest.raises(CheckpointError, match="not of 'class-balanced' and 'elsewhere'"):
        head(space_id="elsewhere").restore(*state)
    with pytest.raises(CheckpointError, match="not of 'least-squares'"):
        head("least-squares").restore(*state)


def test_heads_of_different_spaces_solvers_or_projections_are_not_merged() -> None:
    with pytest.raises(ValueError, match="space_id 'b'"):
        head(space_id="a").merge(head(space_id="b"))
    with pytest.raises(ValueError, match="solver 'least-squares'"):
        head().merge(head("least-squares"))
    with pytest.raises(ValueError, match="different projections"):
        head().merge(head(width=95))


def test_rows_that_cannot_be_added_are_refused_and_change_nothing() -> None:
    ridge = head()
    features = np.ones((2, FEATURES), dtype=np.float32)
    row = ridge.row_of("a")
    with pytest.raises(ValueError, match="2 rows of features, 1 of labels"):
        ridge.add(features, [(row,)])
    with pytest.raises(ValueError, match="exactly one label"):
        ridge.add(features, [(row,), ()])
    features[1, 3] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        ridge.add(features, [(row,), (row,)])
    assert ridge.rows == 0
    assert ridge.counts.tolist() == [0]
    with pytest.raises(ValueError, match="solver 'wishful'"):
        head("wishful")  # type: ignore[arg-type]


def test_damaged_or_foreign_head_blobs_are_refused() -> None:
    blobs = taught().blobs()
    with pytest.raises(ReleaseError, match="damaged"):
        load_served_head({**blobs, "head": blobs["head"][:-10]})
    with pytest.raises(ReleaseError, match="lacks 'projection'"):
        load_served_head({"head": blobs["head"]})
    with pytest.raises(ReleaseError, match="head type 'projection'"):
        load_served_head({"head": blobs["projection"]})
