"""One published way to learn from a stream without forgetting, a file each.

Every strategy is a set of Avalanche plugins over `learners.template.StreamTemplate`, behind the
interface in `base`.

| name | what it does |
|---|---|
| `two-speed` | frozen encoder, exact additive head: nothing is forgotten (the default) |
| `er` | fine-tunes everything, mixing in rows from replay memory |
| `naive` | fine-tunes everything on the stream alone: the control, which forgets |
"""

from __future__ import annotations

from collections.abc import Callable

from learners.strategies.base import Strategy, StrategyConfig
from learners.strategies.er import experience_replay
from learners.strategies.naive import naive
from learners.strategies.two_speed import TwoSpeed

STRATEGIES: dict[str, Callable[[StrategyConfig], Strategy]] = {
    "two-speed": TwoSpeed,
    "er": experience_replay,
    "naive": naive,
}

__all__ = ["STRATEGIES", "Strategy", "StrategyConfig"]
