"""The model as it was at the last consolidation point, to learn from.

Owns the frozen copy and its place in the checkpoint; must not know losses or strategies.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from learners.heads.linear import LinearHead
from learners.strategies.base import Arrays, Meta
from learners.strategies.finetuning import TrainedClassifier, only, under


class Teacher:
    """A frozen copy of a model; its head has the first rows of the model's head.

    Args:
        model: what is copied, as it is now.
    """

    def __init__(self, model: TrainedClassifier) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)

    @property
    def known(self) -> int:
        """How many labels it knows."""
        return len(self.model.head.labels)

    def state(self) -> tuple[Arrays, Meta]:
        """Weights and labels."""
        arrays = under("encoder.", self.model.encoder.state_dict())
        arrays |= under("head.", self.model.head.state_dict())
        return arrays, {"labels": list(self.model.head.labels)}

    @classmethod
    def restored(
        cls, model: TrainedClassifier, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]
    ) -> Teacher:
        """Make the teacher of a state, of the same architecture as a model."""
        teacher = cls(model)
        head = LinearHead(teacher.model.head.weight.shape[1])
        head.grow(meta["labels"])
        head.load_state_dict(only(arrays, "head."))
        teacher.model.head = head.to(model.head.weight.device).requires_grad_(False)
        teacher.model.encoder.load_state_dict(only(arrays, "encoder."))
        return teacher
