"""Learning without Forgetting (Li & Hoiem, ECCV 2016).

Every mini-batch is also held to what the model of the last consolidation point says of it, for the
labels that model knew. Avalanche's LwFPlugin, with two changes: the distillation is the kind's own
loss with the old probabilities as its target (softmax for one label, sigmoid for several), and the
old model is taken without asking a data set which labels it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from avalanche.training.plugins import LwFPlugin
from avalanche.training.regularization import LearningWithoutForgetting
from torch import Tensor

from learners.strategies.base import Arrays, Meta, StrategyConfig
from learners.strategies.finetuning import FineTuning, StreamPlugin
from learners.strategies.teacher import Teacher
from learners.tasks.base import TaskKind
from learners.template import StreamTemplate

ALPHA = 1.0
TEMPERATURE = 2.0
ONE_TASK = 0


class KindDistillation(LearningWithoutForgetting):  # type: ignore[misc]  # Avalanche is untyped
    """Avalanche's distillation with the loss of any kind of task.

    Args:
        kind: of the task.
        alpha: weight of the distillation.
    """

    def __init__(self, kind: TaskKind, *, alpha: float) -> None:
        super().__init__(alpha=alpha, temperature=TEMPERATURE)
        self._kind = kind

    def _distillation_loss(self, out: Tensor, prev_out: Tensor, active_units: set[int]) -> Tensor:
        """Compare logits, float32 [rows, labels], with those of the old model, which are fewer."""
        known = len(active_units)
        if known == 0:
            return out.new_zeros(())
        said = self._kind.probabilities(prev_out.cpu().numpy(), scale=1.0 / self.temperature)
        targets = torch.from_numpy(said).to(out.device)
        return self._kind.loss(out[:, :known] / self.temperature, targets)


class Distillation(StreamPlugin):
    """Avalanche's LwF, taught by the model of the last consolidation point.

    Args:
        config: shared by all strategies.
    """

    holds = True

    def __init__(self, config: StrategyConfig) -> None:
        super().__init__()
        self._inner = LwFPlugin()
        self._inner.lwf = KindDistillation(config.kind, alpha=ALPHA * config.strength)
        self._teacher: Teacher | None = None

    def attach(self, owner: FineTuning) -> None:
        """Learn whose model it is."""
        self._model = owner.model

    def before_backward(self, strategy: StreamTemplate, **kwargs: Any) -> None:  # noqa: ANN401
        """Add the distillation, once there is a teacher."""
        if self._teacher is not None:
            self._inner.before_backward(strategy, **kwargs)

    def after_training_exp(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Take the model as it is now for the teacher."""
        del strategy
        self._follow(Teacher(self._model))

    def _follow(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self._inner.lwf.prev_model = teacher.model
        self._inner.lwf.prev_classes_by_task = {ONE_TASK: set(range(teacher.known))}

    def state(self) -> tuple[Arrays, Meta]:
        """The teacher, once there is one."""
        return ({}, {}) if self._teacher is None else self._teacher.state()

    def restore(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up a state."""
        if meta:
            self._follow(Teacher.restored(self._model, arrays, meta))


def learning_without_forgetting(config: StrategyConfig) -> FineTuning:
    """Fine-tune beside the model of the last consolidation point.

    Args:
        config: shared by all strategies.
    """
    return FineTuning(config, name="lwf", plugin=Distillation(config))
