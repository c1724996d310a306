"""One published way to learn from a stream without forgetting, a file each.

Every strategy is a set of Avalanche plugins over `learners.template.StreamTemplate`, behind the
interface in `base`.

| name | what it does | memory |
|---|---|---|
| `two-speed` | frozen encoder, exact additive head: nothing is forgotten (the default) | none |
| `er` | fine-tunes everything, mixing in rows from replay memory | replay |
| `er-ace` | the same, but new labels do not push old ones aside | replay |
| `derpp` | the same, and replayed rows keep their old logits | replay, logits |
| `mir` | replays the rows that a step would harm most | replay |
| `agem` | projects gradients that would harm replayed rows | replay |
| `gdumb` | trains a fresh model on a small balanced store (baseline) | its own store |
| `ewc` | holds weights by Fisher information (Avalanche's plugin) | 2 numbers a weight |
| `mas` | holds weights by the outputs' sensitivity (Avalanche's plugin) | 2 numbers a weight |
| `si` | holds weights by what their way was worth | 3 numbers a weight |
| `rwalk` | holds weights by both | 6 numbers a weight |
| `lwf` | holds outputs near an earlier model's (Avalanche's plugin) | a copy of the model |
| `feature-distillation` | holds features near an earlier model's (Avalanche's plugin) | a copy |
| `naive` | fine-tunes everything on the stream alone: the control, which forgets | none |
| `joint` | trains on every row there ever was: the upper bound, for benchmarks only | everything |
| `plugin` | fine-tunes with any Avalanche plugin, by import path | the plugin's |

What holds weights, outputs or features does so from its last consolidation point on: every
`consolidate_every` examples, sooner when a label is found to mean something else or answers are
said to become worse, or when `consolidate` is called.
"""

from __future__ import annotations

from collections.abc import Callable

from learners.strategies.agem import averaged_gem
from learners.strategies.base import Strategy, StrategyConfig
from learners.strategies.derpp import dark_experience_replay
from learners.strategies.er import experience_replay
from learners.strategies.er_ace import er_ace
from learners.strategies.ewc import online_ewc
from learners.strategies.feature_distillation import feature_distillation
from learners.strategies.gdumb import gdumb
from learners.strategies.joint import joint
from learners.strategies.lwf import learning_without_forgetting
from learners.strategies.mas import memory_aware_synapses
from learners.strategies.mir import interfered_replay
from learners.strategies.naive import naive
from learners.strategies.plugin import plugged
from learners.strategies.rwalk import riemannian_walk
from learners.strategies.si import synaptic_intelligence
from learners.strategies.two_speed import TwoSpeed

STRATEGIES: dict[str, Callable[[StrategyConfig], Strategy]] = {
    "two-speed": TwoSpeed,
    "er": experience_replay,
    "er-ace": er_ace,
    "derpp": dark_experience_replay,
    "mir": interfered_replay,
    "agem": averaged_gem,
    "gdumb": gdumb,
    "ewc": online_ewc,
    "mas": memory_aware_synapses,
    "si": synaptic_intelligence,
    "rwalk": riemannian_walk,
    "lwf": learning_without_forgetting,
    "feature-distillation": feature_distillation,
    "naive": naive,
    "joint": joint,
    "plugin": plugged,
}

__all__ = ["STRATEGIES", "Strategy", "StrategyConfig"]
