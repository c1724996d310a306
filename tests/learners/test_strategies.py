"""What every strategy promises: each strategy by each check, on a piece of the real encoder."""

from __future__ import annotations

import json
from itertools import count

import pytest
import redis as redis_client
import torch
from torch import Tensor

from learners.heads import linear
from learners.holdout import is_held_out
from learners.loop import Learner
from learners.replay import ReplayMemory, ReplayRow
from learners.strategies import STRATEGIES
from learners.strategies.base import Consolidates
from schemas import Example
from schemas.fields import Label
from tests.learning import example
from tests.small import small_learner

TEXTS = {
    "refund": ["give me my money back", "i want my money", "please return my payment"],
    "card": ["my card was stolen", "i lost my card", "block my card please"],
    "call": ["i want to speak to someone", "please call me", "can you phone me"],
}
# Their weights are trained on the stream, or on what they stored of it.
TRAINED = sorted(set(STRATEGIES) - {"two-speed"})
BOUNDED = sorted(set(STRATEGIES) - {"joint"})
KINDS = ("classify", "multilabel")


def labelled(label: str, kind: str) -> Label:
    return label if kind == "classify" else (label,)


def examples(kind: str = "classify", *, copies: int = 9) -> list[Example]:
    return [
        example(f"{label}-{n}-{copy}", f"{text} {copy}", labelled(label, kind))
        for copy in range(copies)
        for label, texts in TEXTS.items()
        for n, text in enumerate(texts)
    ]


@pytest.fixture
def memory(redis: redis_client.Redis) -> ReplayMemory:
    return ReplayMemory(
        redis,
        namespace="strategies",
        task="intents",
        max_rows=60,
        max_bytes=100_000,
        held_out_rows=10,
    )


def learn(learner: Learner, batch: list[Example], memory: ReplayMemory) -> None:
    """Learn, settle as a release would, and let memory have the rows, as the stream does."""
    learner.learn(batch)
    learner.strategy.settle()
    memory.offer(
        [
            ReplayRow(id=e.id, user="u", label=e.label, text=e.text or "")
            for e in batch
            if not is_held_out(e.id, share=learner.held_out_share)
        ]
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_it_learns_and_its_scores_come_from_before_learning(
    strategy: str, kind: str, memory: ReplayMemory
) -> None:
    learner = small_learner(strategy, kind=kind, replay=memory)
    rows = examples(kind)
    reports = []
    for start in range(0, len(rows), 16):
        reports.append(learner.learn(rows[start : start + 16]))
        learn(learner, rows[start : start + 16], memory)  # a repeat: only memory takes it
    held_out = sum(is_held_out(e.id, share=0.1) for e in rows)
    assert (reports[0].scored, reports[0].new_labels) == (0, 3)  # nothing was known
    assert sum(r.held_out for r in reports) == held_out
    assert sum(r.rows for r in reports) == len(rows) - held_out == learner.learned
    last = reports[-2:]
    assert sum(r.agreement for r in last) / sum(r.scored for r in last) > 0.8  # a guess is 1/3


@pytest.mark.parametrize("strategy", TRAINED)
def test_held_out_examples_change_no_weight(strategy: str) -> None:
    """With them and without them, the same weights come out, to the bit."""
    words = ("home", "back", "call", "help", "life", "city")  # one token each
    share = 0.4
    rows = [
        example(f"e{n}", f"{words[n % 6]} {words[n % 5]} {words[n % 4]}", f"label {n % 3}")
        for n in range(48)
    ]
    with_them, without = (small_learner(strategy, held_out_share=share) for _ in range(2))
    for start in range(0, len(rows), 12):
        batch = rows[start : start + 12]
        with_them.learn(batch)
        without.learn([e for e in batch if not is_held_out(e.id, share=share)])
        with_them.strategy.settle()
        without.strategy.settle()
    assert with_them.learned == without.learned < len(rows)
    assert with_them.strategy.head_blobs() == without.strategy.head_blobs()
    weights = [learner.strategy.encoder.module.parameters() for learner in (with_them, without)]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def size(arrays: dict[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in arrays.values())


@pytest.mark.parametrize("strategy", BOUNDED)
def test_two_hundred_micro_batches_leave_it_finite_and_its_state_as_large(
    strategy: str, memory: ReplayMemory
) -> None:
    """With a label that comes late; settled now and then, as releases do."""
    learner = small_learner(strategy, replay=memory, replay_rows=2, held_out_share=0.0)
    names = count()
    sizes: dict[int, tuple[int, int]] = {}
    for batch in range(1, 201):
        labels = [*TEXTS, "late"] if batch > 100 else list(TEXTS)
        rows = []
        for place in range(4):
            label = labels[(batch + place) % len(labels)]
            text = TEXTS.get(label, ["the weather is fine today"])[
                batch % len(TEXTS[labels[0]]) - 1 if label in TEXTS else 0
            ]
            rows.append(example(f"e{next(names)}", f"{text} {batch % 7}", label))
        learner.learn(rows)
        memory.offer([ReplayRow(id=e.id, user="u", label=e.label, text=e.text or "") for e in rows])
        if batch % 20 == 0:
            learner.strategy.settle()
        if batch in (50, 200):
            arrays, meta = learner.strategy.state()
            sizes[batch] = size(arrays), len(json.dumps(meta))
            floats = [a for a in arrays.values() if a.is_floating_point()]
            assert all(bool(a.isfinite().all()) for a in floats)
    (tensors_then, meta_then), (tensors_now, meta_now) = sizes[50], sizes[200]
    if strategy == "two-speed":  # its sums have rows a label
        assert tensors_now < 1.4 * tensors_then
    else:
        assert tensors_now <= 1.001 * tensors_then
    assert meta_now < 1.3 * meta_then + 400


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", TRAINED)
def test_a_head_grows_past_its_rows(
    strategy: str, kind: str, memory: ReplayMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second micro-batch a new label, from a head that has room for two."""
    monkeypatch.setattr(linear, "FIRST_ROWS", 2)
    learner = small_learner(strategy, kind=kind, replay=memory, held_out_share=0.0)
    words = ("money", "card", "call", "help", "home")
    for batch in range(10):
        rows = [
            example(
                f"e{batch}-{n}",
                f"{words[n % (1 + batch // 2)]} please {n}",
                labelled(words[n % (1 + batch // 2)], kind),
            )
            for n in range(6)
        ]
        learn(learner, rows, memory)
    if isinstance(learner.strategy, Consolidates):
        learner.strategy.consolidate()
    assert tuple(learner.labels) == words
    arrays, _ = learner.strategy.state()
    assert all(bool(a.isfinite().all()) for a in arrays.values() if a.is_floating_point())
    heads = [a for name, a in arrays.items() if name.endswith("head.weight")]
    assert heads
    assert {len(a) for a in heads} <= {4, 8}  # what was kept of a smaller head is padded when used


def test_every_trained_strategy_can_be_asked_to_consolidate() -> None:
    for strategy in TRAINED:
        made = small_learner(strategy).strategy
        assert isinstance(made, Consolidates), strategy
        made.consolidate()  # nothing learned yet: nothing happens
