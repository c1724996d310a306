"""The additive head on a stream: exact sums, new classes, changed meanings, names, the unknown."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from learners.heads.additive import AdditiveHead
from learners.heads.base import Floats
from learners.heads.choice import HeadOptions
from learners.heads.class_drift import COMPARED_ROWS, SUSPECT_ROWS, ClassDrift, inherited
from learners.heads.solves import METHODS, Method
from learners.heads.sums import FORMER_MEANINGS
from learners.released import decide_by
from learners.tasks import task_kind
from tests.learning import MakeLearner, example, frozen_encoder, make_learner

__all__ = ["frozen_encoder", "make_learner"]

FEATURES = 32


def clusters(labels: list[int], *, seed: int, noise: float = 0.5) -> Floats:
    """Unit rows around one fixed random centre a class."""
    centres = np.random.default_rng(99).standard_normal((50, FEATURES))
    x = centres[labels] + noise * np.random.default_rng(seed).standard_normal(
        (len(labels), FEATURES)
    )
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), dtype=np.float32)


def head(**options: object) -> AdditiveHead:
    return AdditiveHead(
        features=FEATURES,
        solver="class-balanced",
        width=200,
        seed=3,
        options=HeadOptions(**options),  # type: ignore[arg-type]
    )


def learn(one: AdditiveHead, labels: list[int], *, seed: int) -> None:
    x = clusters(labels, seed=seed)
    one.add(x, [(one.row_of(f"class {label}"),) for label in labels])
    one.refresh()


def draw(classes: range, rows: int, *, seed: int) -> list[int]:
    chosen: list[int] = np.random.default_rng(seed).choice(list(classes), size=rows).tolist()
    return chosen


def test_sums_are_the_same_to_the_bit_in_any_order_and_any_batches() -> None:
    labels = draw(range(6), 300, seed=1)
    x = clusters(labels, seed=2)
    order = np.random.default_rng(3).permutation(300)
    once, pieces = head(), head()
    for one in (once, pieces):
        for label in range(6):
            one.row_of(f"class {label}")
    once.add(x, [(label,) for label in labels])
    for part in np.array_split(order, 17):
        pieces.add(x[part], [(labels[n],) for n in part])
    ours, theirs = once.sums.state()[0], pieces.sums.state()[0]
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
    pieces.add(x[:100], [(label,) for label in labels[:100]])
    pieces.add(x[:100], [(label,) for label in labels[:100]], sign=-1)
    for name, array in pieces.sums.state()[0].items():
        np.testing.assert_array_equal(array, ours[name], err_msg=name)


def test_two_learners_merged_are_one_that_saw_both_and_can_be_parted_again() -> None:
    labels = draw(range(6), 200, seed=4)
    both, left, right = head(), head(), head()
    learn(both, labels, seed=5)
    x = clusters(labels, seed=5)
    for one, rows in ((left, range(120)), (right, range(120, 200))):
        one.add(x[list(rows)], [(one.row_of(f"class {labels[n]}"),) for n in rows])
    alone = left.sums.state()[0]["gram"]
    left.merge(right)
    np.testing.assert_array_equal(left.sums.state()[0]["gram"], both.sums.state()[0]["gram"])
    assert dict(zip(left.labels, left.counts, strict=True)) == dict(
        zip(both.labels, both.counts, strict=True)
    )
    left.merge(right, sign=-1)
    np.testing.assert_array_equal(left.sums.state()[0]["gram"], alone)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_solve_of_the_same_sums_knows_the_classes(method: Method) -> None:
    one = head(methods=(method,))
    learn(one, draw(range(8), 600, seed=6), seed=7)
    one.solve()
    labels = draw(range(8), 300, seed=8)
    said = one.scores(clusters(labels, seed=9)).argmax(axis=1)
    truth = [one.row_of(f"class {label}") for label in labels]
    assert np.mean(said == truth) > 0.95
    assert one.choice[0] == method


def test_classes_that_come_later_are_said_at_once_and_earlier_ones_are_kept() -> None:
    one = head()
    for wave in range(4):
        labels = draw(range(6 * wave, 6 * wave + 6), 400, seed=wave)
        for start in range(0, 400, 32):
            learn(one, labels[start : start + 32], seed=100 * wave + start)
    labels = draw(range(24), 500, seed=50)
    truth = [one.row_of(f"class {label}") for label in labels]
    assert np.mean(one.scores(clusters(labels, seed=51)).argmax(axis=1) == truth) > 0.9
    learn(one, [30, 30, 30], seed=52)
    new = one.scores(clusters([30] * 100, seed=53)).argmax(axis=1)
    assert np.mean(new == one.row_of("class 30")) > 0.8


def test_a_label_that_changes_its_meaning_starts_again_from_its_newest_rows() -> None:
    one, drift = head(), ClassDrift(FEATURES)
    renewed: list[tuple[int, int]] = []

    def stream(labels: list[int], meaning: dict[int, int], *, seed: int) -> None:
        for n, label in enumerate(labels):
            x = clusters([meaning.get(label, label)], seed=seed + n)
            row = one.row_of(f"class {label}")
            known = row < len(one.solved_labels)
            hit = known and int(one.scores(x).argmax()) == row
            one.add(x, [(row,)])
            changed = drift.observe(row, x[0], hit=hit) if known else None
            if changed is not None and one.contradicts(row, changed):
                one.renew(row, changed)
                renewed.append((n, label))
            one.refresh()

    stream(draw(range(6), 600, seed=1), {}, seed=10_000)
    assert renewed == []
    swapped = {0: 1, 1: 0}
    stream([0, 1] * 20, swapped, seed=20_000)
    one.settle()
    assert sorted({label for _, label in renewed}) == [0, 1]
    assert max(n for n, _ in renewed) < 24  # within twelve rows of each
    for label, meaning in ((0, 1), (1, 0), (2, 2), (5, 5)):
        said = one.scores(clusters([meaning] * 200, seed=30_000 + label)).argmax(axis=1)
        assert np.mean(said == one.row_of(f"class {label}")) > 0.9, label
    again = ClassDrift(FEATURES)
    again.restore(*drift.state())
    assert again.state()[1] == drift.state()[1]


def test_held_out_rows_of_a_former_meaning_do_not_make_the_head_doubt_what_it_knows() -> None:
    one = head()
    labels = draw(range(6), 600, seed=1)
    learn(one, labels, seed=2)
    held_out = draw(range(6), 300, seed=3)
    one.probe(clusters(held_out, seed=4), [(one.row_of(f"class {n}"),) for n in held_out])
    one.settle()
    known = clusters([2, 3, 4, 5] * 50, seed=5)
    kind = task_kind("classify")

    def sure() -> float:
        decisions = decide_by(one, known, kind=kind, top=1)
        return float(np.mean([decision.score for decision in decisions]))

    before = sure()
    for label, meaning in ((0, 1), (1, 0)):
        rows = clusters([meaning] * 20, seed=6 + label)
        row = one.row_of(f"class {label}")
        one.add(rows, [(row,)] * len(rows))
        one.renew(row, rows)
    learn(one, draw(range(2, 6), 600, seed=8), seed=9)
    assert before > 0.9
    assert sure() > before - 0.03
    again = head()
    again.restore(*one.state())
    assert again.state()[1] == one.state()[1]
    assert decide_by(again, known, kind=kind, top=1) == decide_by(one, known, kind=kind, top=1)


def test_labels_that_are_hard_to_tell_apart_are_not_taken_for_changed() -> None:
    drift, random = ClassDrift(FEATURES), np.random.default_rng(5)
    row = np.zeros(FEATURES, dtype=np.float32)
    alarms = [
        drift.observe(int(label), row, hit=bool(hit)) is not None
        for label, hit in zip(
            random.integers(0, 2, 30_000), random.random(30_000) < 0.78, strict=True
        )
    ]
    assert sum(alarms) == 0


def test_probabilities_are_calibrated_and_unknown_inputs_look_unknown() -> None:
    one = head()
    learn(one, draw(range(10), 1_200, seed=1), seed=2)
    probes = draw(range(10), 600, seed=3)
    one.probe(clusters(probes, seed=4, noise=0.9), [(one.row_of(f"class {n}"),) for n in probes])
    one.solve()
    known = clusters(draw(range(10), 500, seed=5), seed=6, noise=0.9)
    strange = clusters(draw(range(20, 30), 500, seed=7), seed=8, noise=0.9)
    unknown = one.unknown(known, one.scores(known))
    stranger = one.unknown(strange, one.scores(strange))
    assert unknown is not None
    assert stranger is not None
    assert np.mean(unknown > 0.95) < 0.1  # the budget is five in a hundred
    assert np.mean(stranger) > np.mean(unknown) + 0.3


def test_a_name_makes_a_label_known_before_its_first_example(make_learner: MakeLearner) -> None:
    learner = make_learner(projection_width=512)
    strategy = learner.strategy
    strategy.declare(["lost_card", "exchange rate", "L-4711"])  # type: ignore[attr-defined]
    texts = ["i have lost my card", "what is the exchange rate today"]
    scores = strategy.head.scores(strategy.encoder.encode(texts))
    assert scores.argmax(axis=1).tolist() == [0, 1]
    assert scores[:, 2].max() < -100  # a code means nothing: it waits for its first example
    learner.learn([example("1", "the parcel code", "L-4711")])
    strategy.settle()
    assert strategy.head.scores(strategy.encoder.encode(["the parcel code"])).argmax() == 2


def test_a_label_that_answers_well_and_means_something_else_is_found_once_suspected() -> None:
    # Given labels 0 and 1, well known
    one, drift = head(), ClassDrift(FEATURES)
    learn(one, draw(range(6), 300, seed=1), seed=1)
    row = one.row_of("class 0")
    for x in clusters([0] * 30, seed=2):
        assert drift.observe(row, x, hit=True) is None
    assert drift.suspicious(row) is None

    # When 0 comes to mean what 3 does, and is said all the same, its misses tell nothing
    other = clusters([3] * 12, seed=3)
    for x in other[:COMPARED_ROWS]:
        assert drift.observe(row, x, hit=True) is None

    # Then suspicion, once there is one, does: for so many rows of it, and through a state
    drift.suspect(row, heir=one.row_of("class 5"))
    drift.suspect(one.row_of("class 1"), heir=one.row_of("class 5"))
    again = ClassDrift(FEATURES)
    again.restore(*drift.state())
    for watch in (drift, again):
        newest = watch.suspicious(row)
        assert newest is not None
        np.testing.assert_array_equal(newest, other[:COMPARED_ROWS])
        assert one.contradicts(row, newest)
        assert watch.heir(row) == one.row_of("class 5")
        watch.restart(row)
        assert watch.suspicious(row) is None
        assert watch.heir(row) is None
    for n, x in enumerate(clusters([1] * (SUSPECT_ROWS + 1), seed=4)):
        drift.observe(one.row_of("class 1"), x, hit=True)
        newest = drift.suspicious(one.row_of("class 1"))
        if COMPARED_ROWS - 1 <= n < SUSPECT_ROWS - 1:
            assert newest is not None
            assert not one.contradicts(one.row_of("class 1"), newest)  # it means what it meant
        else:
            assert newest is None


def test_a_label_that_means_two_things_is_found_by_its_heir() -> None:
    # Given label 0, whose rows are class 5's from now on, and which has rows of class 6 since,
    # enough of them that they look a little like its mean, as its old rows do
    one = head()
    learn(one, draw(range(5), 300, seed=1), seed=1)
    row, heir = one.row_of("class 0"), one.row_of("class 5")
    learn(one, [1] * 40, seed=2)
    one.add(clusters([0] * 10, seed=3), [(heir,)] * 10)
    newest = clusters([6] * 30, seed=4)
    one.add(newest, [(row,)] * len(newest))
    one.settle()

    # Then its own mean does not tell, and what it used to mean, beside its heir, does
    assert not one.contradicts(row, newest[-COMPARED_ROWS:])
    assert one.contradicts(row, newest[-COMPARED_ROWS:], heir=heir)
    for other in range(1, 5):
        same = clusters([other] * COMPARED_ROWS, seed=5 + other)
        place = one.row_of(f"class {other}")
        one.add(same, [(place,)] * len(same))
        assert not one.contradicts(place, same, heir=heir)  # it means what it meant
    assert not one.contradicts(row, clusters([0], seed=3), heir=heir)  # others were erased
    fresh = clusters([7] * 2, seed=20)
    alone = one.row_of("class 7")
    one.add(fresh, [(alone,)] * 2)
    one.settle()
    assert not one.contradicts(alone, fresh, heir=heir)  # nothing is known of before


@pytest.mark.parametrize("alike", [0.05, 0.1, 0.3])
def test_an_heir_tells_changed_labels_from_broad_ones(alike: float) -> None:
    """Broad labels, as moods are: rows of one are hardly nearer to each other than to others."""
    random = np.random.default_rng(7)
    means = random.standard_normal((20, 256)) / 16.0

    def rows(label: int, count: int) -> Floats:
        noise = random.standard_normal((count, 256)) / 16.0
        return np.asarray(alike**0.5 * means[label] + (1 - alike) ** 0.5 * noise, dtype=np.float32)

    found = {"same": 0, "changed": 0}
    for _ in range(40):
        older = rows(0, 200)
        for case, newest in (("same", rows(0, 6)), ("changed", rows(1, 6))):
            known = [
                np.concatenate([older, newest]),
                rows(0, 200),
                *(rows(n, 200) for n in range(20)),
            ]
            raw = torch.from_numpy(np.stack([one.mean(axis=0) for one in known])).double()
            centre = raw.mean(dim=0)
            centred = torch.nn.functional.normalize(raw - centre, dim=1)
            mean = torch.from_numpy(older.mean(axis=0)).double()
            found[case] += inherited(centred, centre, newest, older=mean, heir=1)
    assert found["same"] <= 1
    if alike >= 0.1:
        assert found["changed"] >= 38


def test_former_meanings_are_bounded_and_the_scatter_stays_one() -> None:
    one = head()
    rows = 0
    for turn in range(FORMER_MEANINGS + 40):
        x = clusters([turn % 5] * 3, seed=turn)
        row = one.row_of("changing")
        one.add(x, [(row,)] * 3)
        rows += 3
        one.renew(row, x[:1])
    one.settle()
    assert one.rows == rows
    moments = one.sums.moments(torch.tensor([0]), lead=True)
    assert len(moments.former) == FORMER_MEANINGS
    assert float(moments.former_counts.sum() + moments.counts.sum()) == rows
    assert float(torch.linalg.eigvalsh(moments.within()).min()) > -1e-9
