"""Parts that learning tests share: one real encoder a session, and small examples."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from learners.loop import Learner
from learners.model import Encoder
from learners.strategies import STRATEGIES, StrategyConfig
from learners.strategies.base import NoReplay, ReplaySource
from learners.tasks import task_kind
from schemas import Example
from schemas.fields import Label

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)

MakeLearner = Callable[..., Learner]


def example(
    id_: str, text: str, label: Label, *, revision: int = 1, previous: Label | None = None
) -> Example:
    """Write an example with what a test does not care about filled in."""
    return Example(
        id=id_,
        user="u",
        task="intents",
        time=NOW,
        labelled_at=NOW,
        label=label,
        text=text,
        revision=revision,
        previous=previous,
    )


@pytest.fixture(scope="module")
def frozen_encoder() -> Encoder:
    """Load the real default backbone, in exact arithmetic."""
    return Encoder.load(max_tokens=32, device="cpu", precision="fp32")


@pytest.fixture
def make_learner(frozen_encoder: Encoder) -> MakeLearner:
    """Build learners of any strategy; those that train get an encoder of their own."""

    def make(
        strategy: str = "two-speed",
        *,
        kind: str = "classify",
        replay: ReplaySource | None = None,
        held_out_share: float = 0.1,
        projection_width: int = 128,
    ) -> Learner:
        trains = strategy != "two-speed"
        encoder = (
            Encoder.load(max_tokens=32, device="cpu", precision="fp32")
            if trains
            else frozen_encoder
        )
        config = StrategyConfig(
            kind=task_kind(kind),
            encoder=encoder,
            replay=replay or NoReplay(),
            replay_rows=4,
            projection_width=projection_width,
            seed=7,
        )
        return Learner(
            "intents",
            kind=config.kind,
            strategy=STRATEGIES[strategy](config),
            held_out_share=held_out_share,
            ledger_rows=1_000,
        )

    return make
