"""Laws of the additive head and of calibrated probabilities, on any input."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learners.heads.additive import AdditiveHead
from learners.heads.base import Floats
from learners.heads.probes import ProbeRing
from learners.heads.solves import Solver
from learners.tasks import KINDS

FEATURES, LABELS = 6, 4


def head(solver: Solver) -> AdditiveHead:
    return AdditiveHead(features=FEATURES, solver=solver, width=20, seed=1, ring_rows=8)


def features(rows: int, *, seed: int) -> Floats:
    x = np.random.default_rng(seed).standard_normal((rows, FEATURES)).astype(np.float32)
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), dtype=np.float32)


label_rows = st.lists(st.integers(0, LABELS - 1), min_size=1, max_size=24)


@settings(deadline=None, max_examples=40)
@given(labels=label_rows, cuts=st.lists(st.integers(0, 24), max_size=4), data=st.data())
def test_any_order_and_any_batches_give_the_same_sums(
    labels: list[int], cuts: list[int], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(labels))))
    x, names = features(len(labels), seed=len(labels)), [f"label {n}" for n in range(LABELS)]
    once, pieces = head("class-balanced"), head("class-balanced")
    once.add(x, [(once.row_of(names[label]),) for label in labels])
    edges = sorted({0, len(labels), *(cut for cut in cuts if cut < len(labels))})
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        part = list(order[start:end])
        pieces.add(x[part], [(pieces.row_of(names[labels[n]]),) for n in part])
    once.solve()
    pieces.solve()
    columns = [pieces.solved_labels.index(label) for label in once.solved_labels]
    np.testing.assert_allclose(pieces.scores(x)[:, columns], once.scores(x), atol=2e-3)


@settings(deadline=None, max_examples=40)
@given(labels=label_rows, split=st.integers(0, 24))
def test_merged_learners_know_what_one_learner_would_and_can_be_parted_again(
    labels: list[int], split: int
) -> None:
    x, split = features(len(labels), seed=7), min(split, len(labels))
    names = [f"label {n}" for n in range(LABELS)]
    central, left, right = (head("class-balanced") for _ in range(3))
    central.add(x, [(central.row_of(names[label]),) for label in labels])
    left.add(x[:split], [(left.row_of(names[label]),) for label in labels[:split]])
    right.add(x[split:], [(right.row_of(names[label]),) for label in reversed(labels[split:])])
    counts = dict(zip(left.labels, left.counts.tolist(), strict=True))
    left.merge(right)
    assert left.rows == central.rows
    assert dict(zip(left.labels, left.counts.tolist(), strict=True)) == dict(
        zip(central.labels, central.counts.tolist(), strict=True)
    )
    left.merge(right, sign=-1)
    assert {
        label: count
        for label, count in zip(left.labels, left.counts.tolist(), strict=True)
        if count
    } == counts


@settings(deadline=None, max_examples=30)
@given(
    labels=st.lists(st.lists(st.integers(0, LABELS - 1), max_size=3, unique=True), max_size=20),
    probes=st.integers(0, 20),
    solver=st.sampled_from(["class-balanced", "least-squares"]),
)
def test_any_state_survives_and_the_same_input_gives_the_same_bits(
    labels: list[list[int]], probes: int, solver: Solver
) -> None:
    rows = [tuple(r) for r in labels if solver == "least-squares" or len(r) == 1]
    x = features(len(rows), seed=3)
    heads = [head(solver), head(solver)]
    for one in heads:
        for label in range(LABELS):
            one.row_of(str(label))
        one.add(x, rows)
        one.probe(x[:probes], rows[:probes])
        one.solve()
    restored = head(solver)
    restored.restore(*heads[0].state())
    assert heads[0].blobs() == heads[1].blobs() == restored.blobs()
    assert np.isfinite(heads[0].scores(features(5, seed=4))).all()


@given(rows=st.integers(1, 6), added=st.lists(st.integers(0, 5), max_size=6))
def test_the_probe_ring_keeps_the_newest_rows_within_its_bound(rows: int, added: list[int]) -> None:
    ring = ProbeRing(rows=rows, features=FEATURES, dimensions=3)
    total = 0
    for count in added:
        fresh = [(total + n,) for n in range(count)]
        ring.add(features(count, seed=0), torch.zeros(count, 3), fresh)
        total += count
    assert sorted(ring.label_rows) == [(n,) for n in range(max(0, total - rows), total)]


@given(
    name=st.sampled_from(sorted(KINDS)),
    scores=st.lists(
        st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3), min_size=1, max_size=5
    ),
    scale=st.floats(0.01, 200),
)
def test_probabilities_are_probabilities_and_every_decision_is_scored_by_one(
    name: str, scores: list[list[float]], scale: float
) -> None:
    kind = KINDS[name]
    probabilities = kind.probabilities(np.array(scores, dtype=np.float32), scale=scale)
    assert np.isfinite(probabilities).all()
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    for decision in kind.decide(probabilities, labels=["a", "b", "c"], threshold=0.5, top=3):
        assert 0 <= decision.score <= 1
        assert [score for _, score in decision.top] == sorted(
            (score for _, score in decision.top), reverse=True
        )
        assert kind.agreement(decision.label, decision.label) == 1.0


@given(
    true=st.lists(st.sampled_from("abcd"), max_size=6),
    said=st.lists(st.sampled_from("abcd"), max_size=6),
)
def test_agreement_of_sets_is_symmetric_bounded_and_one_only_for_equals(
    true: list[str], said: list[str]
) -> None:
    kind = KINDS["multilabel"]
    a, b = kind.check_label(true), kind.check_label(said)
    assert kind.agreement(a, b) == kind.agreement(b, a)
    assert 0.0 <= kind.agreement(a, b) <= 1.0
    assert (kind.agreement(a, b) == 1.0) == (a == b)
