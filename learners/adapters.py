"""Adapters that peft puts into a backbone: made, followed while they train, merged.

Owns every call into peft; must not know methods that need none, pooling or optimizers. peft takes
seconds to import, so that happens where adapters are made; merging them needs no import, and a
process that only serves never does either.

AdaLoRA plans for a last step; a stream has none. So its `steps` are only how long the budget of
ranks takes to fall, from one and a half times the target to the target. From then on the budget
stays, and every `ALLOCATE_EVERY` steps it goes to the ranks that matter most by then: a rank that
was taken away keeps its vectors, and comes back when the stream needs it.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from schemas.errors import EncoderError

ALLOCATE_EVERY = 10  # steps
WARM_UP = 0.1  # share of AdaLoRA's steps before ranks are first taken away
ORTHOGONALITY = 0.1  # weight of its regulariser (gamma of equation 4 there)

_ADAPTER = "default"
_KEYS_VALUES = r"(.*\.)?(key|value|key_proj|value_proj|k_lin|v_lin|k_proj|v_proj|k|v)"
_FEED_FORWARD = r"(.*\.)?(layer\.\d+\.output\.dense|ffn\.lin2|ffn_output|mlp\.down_proj)"

Draw = Callable[[str, Tensor, torch.Generator], Tensor]


def lora(backbone: nn.Module, *, rank: int, seed: int) -> None:
    """Put two thin matrices beside every linear layer; their product starts at zero."""
    import peft

    _inject(backbone, peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))

    def first(name: str, values: Tensor, random: torch.Generator) -> Tensor:
        bound = 1.0 / math.sqrt(values.shape[1])  # as torch draws a linear layer of these inputs
        return values.uniform_(-bound, bound, generator=random) if "lora_A" in name else values

    _draw(backbone, first, seed=seed)


def adalora(backbone: nn.Module, *, rank: int, steps: int, seed: int) -> RankBudget:
    """Put a singular value decomposition beside every linear layer; its values start at zero.

    Args:
        backbone: what gets the adapters.
        rank: the mean that is left to a layer.
        steps: after which it is.
        seed: of first vectors.

    Returns:
        What is to follow every step.
    """
    import peft
    from peft.tuners.adalora.layer import RankAllocator

    first_rank = rank + max(1, rank // 2)
    config = peft.AdaLoraConfig(
        init_r=first_rank,
        target_r=rank,
        lora_alpha=2 * first_rank,
        target_modules="all-linear",
        tinit=int(WARM_UP * steps),
        total_step=steps + 1,
    )
    _inject(backbone, config)

    def first(name: str, values: Tensor, random: torch.Generator) -> Tensor:
        return values if "lora_E" in name else values.normal_(0.0, 0.02, generator=random)

    _draw(backbone, first, seed=seed)
    make: Any = RankAllocator
    return RankBudget(backbone, make(backbone, config, _ADAPTER))


def ia3(backbone: nn.Module) -> None:
    """Put a factor, 1 at first, before every key, value and inner activation.

    Raises:
        EncoderError: these layers are not known by their names.
    """
    import peft

    linear = [name for name, layer in backbone.named_modules() if isinstance(layer, nn.Linear)]
    for kind in (_KEYS_VALUES, _FEED_FORWARD):
        if not any(re.fullmatch(kind, name) for name in linear):
            raise EncoderError("its keys, values and inner layers are not known by name")
    targets = f"{_KEYS_VALUES}|{_FEED_FORWARD}"
    _inject(backbone, peft.IA3Config(target_modules=targets, feedforward_modules=_FEED_FORWARD))


def _inject(backbone: nn.Module, config: Any) -> None:  # noqa: ANN401 - peft's own class
    """Put adapters into a backbone, and let exactly them train.

    Raises:
        EncoderError: peft finds no layer for them.
    """
    import peft

    library: Any = peft
    try:
        with torch.random.fork_rng(devices=[]):  # first values are drawn here, and then replaced
            library.inject_adapter_in_model(config, backbone, _ADAPTER)
    except ValueError as error:
        raise EncoderError(str(error)) from error
    backbone.eval()


@torch.no_grad()
def _draw(backbone: nn.Module, first: Draw, *, seed: int) -> None:
    """Give adapters first values that the seed alone decides, the same on any device.

    Args:
        backbone: with adapters.
        first: fills zeros for a parameter of that name.
        seed: of the generator it is given.
    """
    random = torch.Generator().manual_seed(seed)
    for name, parameter in backbone.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(first(name, torch.zeros(parameter.shape), random))


class RankBudget:
    """AdaLoRA's ranks among the layers of a backbone, without a last step.

    Args:
        backbone: with its adapters.
        allocator: peft's, which scores and masks; when, is decided here.
    """

    def __init__(self, backbone: nn.Module, allocator: Any) -> None:  # noqa: ANN401 - peft's own class
        self._backbone = backbone
        self._allocator = allocator
        self._adapters = {n: p for n, p in backbone.named_parameters() if "lora_" in n}
        self._steps = 0

    def penalty(self) -> Tensor:
        """Say how far singular vectors are from orthogonal: a scalar for the loss of a step.

        So that a rank's worth is its own. peft adds this inside its own forward pass, which does
        not run here.
        """
        terms = [_skewness(n, p) for n, p in self._adapters.items() if "lora_E" not in n]
        return ORTHOGONALITY * torch.stack(terms).mean()

    @torch.no_grad()
    def stepped(self) -> None:
        """Follow a step, before its gradients are cleared; without any it was none."""
        if all(parameter.grad is None for parameter in self._adapters.values()):
            return
        for parameter in self._adapters.values():
            if parameter.grad is None:  # of a layer that the features do not need
                parameter.grad = torch.zeros_like(parameter)
        self._steps += 1
        self._allocator.update_ipt(self._backbone)
        budget, due = self._allocator.budget_schedule(self._steps)
        if due and self._steps % ALLOCATE_EVERY == 0:
            self._allocator.mask_to_budget(self._backbone, budget)

    def ranks(self) -> dict[str, int]:
        """Give the ranks that every layer has now, by the layer's path."""
        return {
            name.partition(".lora_E")[0]: int(values.count_nonzero())
            for name, values in self._adapters.items()
            if "lora_E" in name
        }

    def state(self) -> tuple[dict[str, Tensor], int]:
        """Give the running means that ranks are chosen by, and the steps so far."""
        kept = {f"importance.{n}": t for n, t in self._allocator.exp_avg_ipt.items()}
        return kept | {f"doubt.{n}": t for n, t in self._allocator.exp_avg_unc.items()}, self._steps

    def restore(self, arrays: Mapping[str, Tensor], steps: int) -> None:
        """Take up a state."""
        self._steps = steps
        self._allocator.reset_ipt()
        for name, tensor in arrays.items():
            kind, _, adapter = name.partition(".")
            kept = tensor.clone().to(self._adapters[adapter].device)
            means = {
                "importance": self._allocator.exp_avg_ipt,
                "doubt": self._allocator.exp_avg_unc,
            }
            means[kind][adapter] = kept
            self._allocator.ipt[adapter] = torch.zeros_like(kept)  # made anew at every step


def _skewness(name: str, vectors: Tensor) -> Tensor:
    products = vectors @ vectors.T if "lora_A" in name else vectors.T @ vectors  # [rank, rank]
    apart: Tensor = products - torch.eye(len(products), device=products.device)
    return apart.square().sum().sqrt()


def merged_weights(backbone: nn.Module) -> dict[str, Tensor]:
    """Give all weights by name as those of a backbone without adapters, which answers the same.

    They are not copied where there was nothing to merge; the backbone stays as it is.
    """
    weights = {name: tensor.detach() for name, tensor in backbone.state_dict().items()}
    for path, layer in adapted(backbone):
        for name in [name for name in weights if name.startswith(f"{path}.")]:
            del weights[name]
        plain = _merge(copy.deepcopy(layer))
        weights |= {f"{path}.{name}": t.detach() for name, t in plain.state_dict().items()}
    return weights


def merge(backbone: nn.Module) -> None:
    """Merge all adapters in place: the backbone is plain then."""
    for path, layer in adapted(backbone):
        parent, _, name = path.rpartition(".")
        setattr(backbone.get_submodule(parent), name, _merge(layer))
    if hasattr(backbone, "peft_config"):
        del backbone.peft_config


def adapted(backbone: nn.Module) -> list[tuple[str, Any]]:
    """List the layers that peft has put adapters around, with their paths."""
    return [
        (path, layer) for path, layer in backbone.named_modules() if hasattr(layer, "base_layer")
    ]


def _merge(layer: Any) -> nn.Module:  # noqa: ANN401 - peft's own class
    layer.merge()
    plain: nn.Module = layer.get_base_layer()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.mul_(1.0)  # peft writes past torch's count of changes: this counts it
    return plain
