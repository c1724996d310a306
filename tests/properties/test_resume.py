"""A learner that is killed anywhere takes its next step as if nothing had happened, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learners.checkpoint import CheckpointStore, LearnerState
from learners.loop import Learner
from learners.replay import ReplayMemory, ReplayRow
from schemas import Example
from tests.learning import MakeLearner, example, frozen_encoder, make_learner

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
    return {
        name: tensor.contiguous().view(torch.uint8).numpy().tobytes()
        if tensor.dim()
        else tensor.reshape(1).view(torch.uint8).numpy().tobytes()
        for name, tensor in state.arrays.items()
    }


def learn_all(learner: Learner, examples: list[Example], *, batch: int) -> None:
    for start in range(0, len(examples), batch):
        learner.learn(examples[start : start + batch])


@pytest.mark.parametrize(
    ("strategy", "rows", "batch"), [("two-speed", 96, 16), ("naive", 24, 8), ("er", 24, 8)]
)
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
        max_examples={"two-speed": 6, "er": 2, "naive": 1}[strategy],
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
