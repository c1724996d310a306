"""What a torch optimizer remembers, as named arrays that a checkpoint can hold.

Owns the names; must not know what is trained or where arrays are kept.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Give what an optimizer remembers of each parameter, named `number.field`, on the CPU."""
    return {
        f"{number}.{field}": tensor.detach().cpu().clone()
        for number, fields in optimizer.state_dict()["state"].items()
        for field, tensor in fields.items()
    }


def take_up_moments(optimizer: torch.optim.Optimizer, arrays: Mapping[str, Tensor]) -> None:
    """Let an optimizer over as many parameters remember what `moments` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in arrays.items():
        number, _, field = name.partition(".")
        state.setdefault(int(number), {})[field] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
