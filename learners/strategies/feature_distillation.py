"""Feature distillation: the encoder stays near its own features of the last consolidation point.

Less-forgetting learning (Jung et al., 2016) with the cosine in place of the squared distance, as
LUCIR uses it (Hou et al., CVPR 2019, equation 6). Avalanche's FeatureDistillationPlugin, but its
old model is taken at consolidation points and frozen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from avalanche.training.plugins import FeatureDistillationPlugin
from torch import Tensor

from learners.strategies.base import Arrays, Meta, StrategyConfig
from learners.strategies.finetuning import FineTuning, StreamPlugin
from learners.strategies.teacher import Teacher
from learners.template import StreamTemplate

ALPHA = 10.0  # a cosine moves by hundredths where a loss moves by tenths


class FeatureDistillation(StreamPlugin):
    """Avalanche's feature distillation, taught by the model of the last consolidation point.

    Args:
        config: shared by all strategies.
    """

    holds = True

    def __init__(self, config: StrategyConfig) -> None:
        super().__init__()
        self._inner = FeatureDistillationPlugin(alpha=ALPHA * config.strength, mode="cosine")
        self._teacher: Teacher | None = None

    def attach(self, owner: FineTuning) -> None:
        """Learn whose model it is."""
        self._model = owner.model

    def before_backward(self, strategy: StreamTemplate, **kwargs: Any) -> None:  # noqa: ANN401
        """Add the distillation; without a teacher it is none."""
        self._inner.before_backward(strategy, **kwargs)

    def after_training_exp(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Take the model as it is now for the teacher."""
        del strategy
        self._follow(Teacher(self._model))

    def _follow(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self._inner.prev_model = teacher.model

    def state(self) -> tuple[Arrays, Meta]:
        """The teacher, once there is one."""
        return ({}, {}) if self._teacher is None else self._teacher.state()

    def restore(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up a state."""
        if meta:
            self._follow(Teacher.restored(self._model, arrays, meta))


def feature_distillation(config: StrategyConfig) -> FineTuning:
    """Fine-tune with an encoder that stays near its old features.

    Args:
        config: shared by all strategies.
    """
    return FineTuning(config, name="feature-distillation", plugin=FeatureDistillation(config))
