"""A learner that is killed anywhere takes its next step as if nothing had happened, to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learners import adapters
from learners.checkpoint import CheckpointStore, LearnerState
from learners.heads import linear
from learners.loop import Learner
from learners.replay import ReplayMemory, ReplayRow
from learners.strategies import STRATEGIES
from learners.tuning import TUNINGS
from schemas import Example
from tests.learning import MakeLearner, example, frozen_encoder, make_learner
from tests.small import small_encoder, small_learner

__all__ = ["frozen_encoder", "make_learner"]

LABELS = ("refund", "card", "pin", "fee", "limit")
WORDS = ("money", "card", "stolen", "pin", "forgot", "back", "charge", "limit", "account", "help")


def stream(seed: int, *, rows: int) -> list[Example]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for n in range(rows):
        words = torch.randint(len(WORDS), (5,), generator=generator).tolist()
        label = LABELS[int(torch.randint(min(len(LABELS), 1 + n // 4), (), generator=generator))]
        made.append(example(f"{seed}-{n}", " ".join(WORDS[w] for w in words), label))
    return made


def bits(state: LearnerState) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in state.arrays.items()}


def learn_all(learner: Learner, examples: list[Example], *, batch: int) -> None:
    for start in range(0, len(examples), batch):
        learner.learn(examples[start : start + batch])


@pytest.mark.parametrize(("strategy", "rows", "batch"), [("two-speed", 96, 16), ("er", 24, 8)])
def test_the_step_after_resume_is_bit_identical(
    make_learner: MakeLearner,
    redis: object,
    tmp_path: Path,
    strategy: str,
    rows: int,
    batch: int,
) -> None:
    """One uninterrupted run against runs killed at a point that hypothesis picks."""
    memory = ReplayMemory(
        redis,  # type: ignore[arg-type]  # the fixture's client
        namespace="resume",
        task="intents",
        max_rows=100,
        max_bytes=100_000,
        held_out_rows=10,
    )
    memory.offer(
        [
            ReplayRow(id=f"m{n}", user="u", label=LABELS[n % 5], text=f"{WORDS[n % 10]} {n}")
            for n in range(30)
        ]
    )
    examples = stream(3, rows=rows)
    whole = make_learner(strategy, replay=memory)
    learn_all(whole, examples, batch=batch)
    expected = whole.state()
    steps = rows // batch

    @settings(
        max_examples={"two-speed": 6, "er": 2}[strategy],
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(saved=st.integers(0, steps - 1), lost=st.integers(0, 2))
    def check(saved: int, lost: int) -> None:
        """Checkpoint after `saved` steps, learn `lost` more, be killed, resume, go on."""
        store = CheckpointStore(tmp_path / f"{strategy}-{saved}-{lost}")
        victim = make_learner(strategy, replay=memory)
        learn_all(victim, examples[: saved * batch], batch=batch)
        store.save(victim.state())
        learn_all(victim, examples[saved * batch : (saved + lost) * batch], batch=batch)
        heir = make_learner(strategy, replay=memory)
        state = store.load()
        assert state is not None
        heir.restore(state)
        learn_all(heir, examples[saved * batch :], batch=batch)
        result = heir.state()
        assert bits(result) == bits(expected)
        assert result.meta == expected.meta

    check()


@pytest.mark.parametrize(("kind", "saved"), [("classify", 3), ("multilabel", 2)])
@pytest.mark.parametrize(
    ("strategy", "tuning"),
    [*((name, "full") for name in STRATEGIES), *(("er", method) for method in TUNINGS[1:])],
)
def test_every_strategy_resumes_to_the_bit_while_its_head_grows(
    redis: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    strategy: str,
    tuning: str,
    kind: str,
    saved: int,
) -> None:
    """On a small encoder, with consolidations on the way and a head that starts with two rows."""
    monkeypatch.setattr(linear, "FIRST_ROWS", 2)
    monkeypatch.setattr(adapters, "ALLOCATE_EVERY", 1)
    monkeypatch.setattr(adapters, "WARM_UP", 0.0)
    memory = ReplayMemory(
        redis,  # type: ignore[arg-type]  # the fixture's client
        namespace="grow",
        task="intents",
        max_rows=100,
        max_bytes=100_000,
        held_out_rows=10,
    )
    examples = stream(5, rows=48)
    if kind == "multilabel":
        examples = [msgspec.structs.replace(e, label=(e.label, "any")) for e in examples]
    memory.offer(
        [ReplayRow(id=f"m{n}", user="u", label=examples[n].label, text=f"{n}") for n in range(12)]
        + [ReplayRow(id=e.id, user="u", label=e.label, text=e.text or "") for e in examples[:12]]
    )
    batch, steps = 8, 6

    def made() -> Learner:
        return small_learner(
            strategy,
            kind=kind,
            replay=memory,
            consolidate_every=14,
            encoder=small_encoder(max_tokens=12),
            tuning=tuning,
            virtual_tokens=4,
        )

    def learn_some(learner: Learner, first: int, last: int) -> None:
        for step in range(first, last):
            learner.learn(examples[step * batch : (step + 1) * batch])
            if step % 2:
                learner.strategy.settle()

    whole = made()
    learn_some(whole, 0, saved)
    store = CheckpointStore(tmp_path)
    store.save(whole.state())
    learn_some(whole, saved, steps)  # lost by a learner that is killed; here it says what is right
    heir = made()
    state = store.load()
    assert state is not None
    heir.restore(state)
    learn_some(heir, saved, steps)
    result, expected = heir.state(), whole.state()
    assert bits(result) == bits(expected)
    assert json.loads(json.dumps(result.meta)) == json.loads(json.dumps(expected.meta))
