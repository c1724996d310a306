"""How much of an encoder is trained, and how what was trained becomes plain weights again.

Owns the methods, and making virtual tokens; must not know optimizers' kinds, strategies, streams,
heads or files.

| method | what is trained | in a release |
|---|---|---|
| `full` | every weight | the weights |
| `frozen` | nothing | the weights |
| `lora` | two thin matrices a linear layer (Hu et al., ICLR 2022) | merged |
| `adalora` | the same, ranks go where they matter (Zhang et al., ICLR 2023) | merged |
| `ia3` | a factor a key, value and inner activation (Liu et al., NeurIPS 2022) | merged |
| `prefix` | keys and values before a text's own, in all layers (Li & Liang, ACL 2021) | carried |
| `prompt` | embeddings before the text's words (Lester et al., EMNLP 2021) | carried |

peft makes the adapters of the middle three (`learners.adapters`). Its prefix and prompt are not
used: they live in a wrapper around the model, which a release would need too; its prefix moves the
positions of every text (see `learners.pooling.LayerPrefix`); and they start as noise, where virtual
tokens here start as what the encoder makes of words drawn from its vocabulary.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from learners import adapters
from learners.adapters import RankBudget
from learners.batch import collate
from learners.pooling import VIRTUAL, EncoderModule
from schemas.errors import CheckpointError, EncoderError

Tuning = Literal["full", "frozen", "lora", "adalora", "ia3", "prefix", "prompt"]
TUNINGS: tuple[Tuning, ...] = get_args(Tuning)

# Factors of the learning rate, which is that of `full`: a method with fewer numbers needs each of
# them to move further. With these, 60 steps on 20 labels of Banking77 bring every method that
# trains the encoder to 95 to 97 % of held-out texts.
RATES: Mapping[Tuning, float] = {
    "full": 1.0,
    "frozen": 1.0,
    "lora": 10.0,
    "adalora": 40.0,
    "ia3": 300.0,
    "prefix": 300.0,
    "prompt": 300.0,
}
WEIGHT_DECAY = 0.01
DECAYS = ("full", "lora", "adalora")  # a factor or a virtual token is not better nearer to zero

_RANKS = "ranks."
_REFUSALS = (EncoderError, RuntimeError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True, slots=True)
class TuningConfig:
    """What is trained of an encoder.

    Attributes:
        method: see the table above.
        rank: of `lora`; the mean that `adalora` comes down to.
        virtual_tokens: of `prefix` and `prompt`. An encoder that carries some already goes on with
            those.
        steps: over which `adalora` comes down to its rank.
        seed: of first values.

    Raises:
        ValueError: a value is not what is asked for.
    """

    method: Tuning = "full"
    rank: int = 8
    virtual_tokens: int = 16
    steps: int = 1_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in TUNINGS:
            raise ValueError(f"tuning {self.method!r}: one of {', '.join(TUNINGS)} was expected")
        for name in ("rank", "virtual_tokens", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: 1 or more was expected")


def tune(module: EncoderModule, config: TuningConfig, *, max_tokens: int) -> Tuned:
    """Make a module ready to be trained by a method.

    Args:
        module: changed in place: adapters of an earlier method are merged, new ones are put in, and
            exactly what the method trains asks for gradients.
        config: the method.
        max_tokens: of a text: a prompt needs positions beside them.

    Returns:
        What trains, and what its method asks for at every step.

    Raises:
        EncoderError: the method cannot work on this backbone.
    """
    adapters.merge(module.backbone)
    module.requires_grad_(False)
    try:
        ranks = _METHODS[config.method](module, config, max_tokens)
    except _REFUSALS as error:
        backbone: Any = module.backbone
        raise EncoderError(
            f"tuning {config.method!r} does not work on this {backbone.config.model_type!r} "
            f"encoder: {error}"
        ) from error
    return Tuned(module, config, ranks)


class Tuned:
    """What of a module trains, and what its method asks for at every step; `tune` makes it.

    Attributes:
        module: the module.
        config: the method.
        ranks: of AdaLoRA.
        parameters: what trains, in the module's order; empty when frozen.
    """

    def __init__(
        self, module: EncoderModule, config: TuningConfig, ranks: RankBudget | None
    ) -> None:
        self.module = module
        self.config = config
        self.ranks = ranks
        self.parameters: list[nn.Parameter] = [p for p in module.parameters() if p.requires_grad]

    def group(self, learning_rate: float) -> dict[str, Any]:
        """Give the optimizer's parameter group.

        Args:
            learning_rate: as for `full`; that of another method is a multiple of it (`RATES`).
        """
        return {
            "params": list(self.parameters),
            "lr": learning_rate * RATES[self.config.method],
            "weight_decay": WEIGHT_DECAY if self.config.method in DECAYS else 0.0,
        }

    def penalty(self) -> Tensor | None:
        """Give what the method adds to the loss of a step, a scalar; None where it adds nothing."""
        return None if self.ranks is None else self.ranks.penalty()

    def stepped(self) -> None:
        """Follow a step: to be called after the optimizer's, before gradients are cleared."""
        if self.ranks is not None:
            self.ranks.stepped()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Give what training changes, not copied: trained weights, and what ranks are chosen by.

        `full` gives the whole module; of others, weights that do not train are left out.
        """
        weights, (ranks, steps) = (
            self._weights(),
            ({}, 0) if self.ranks is None else self.ranks.state(),
        )
        arrays = weights | {_RANKS + name: tensor for name, tensor in ranks.items()}
        return arrays, {"method": self.config.method, "steps": steps}

    def _weights(self) -> dict[str, Tensor]:
        if self.config.method == "full":
            return dict(self.module.state_dict())
        return {n: p.detach() for n, p in self.module.named_parameters() if p.requires_grad}

    def restore(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up a state of the same method on the same encoder.

        Raises:
            CheckpointError: it is of another method, rank or number of virtual tokens.
        """
        weights = {name: t for name, t in arrays.items() if not name.startswith(_RANKS)}
        if meta["method"] != self.config.method or _shapes(weights) != _shapes(self._weights()):
            raise CheckpointError(
                f"the checkpoint was made with tuning {meta['method']!r}, or with another encoder, "
                f"rank or number of virtual tokens than this {self.config.method!r}: set it as it "
                "was, or delete the checkpoint to learn the examples again"
            )
        self.module.load_state_dict(weights, strict=self.config.method == "full")
        if self.ranks is not None:
            means = {n.removeprefix(_RANKS): t for n, t in arrays.items() if n.startswith(_RANKS)}
            self.ranks.restore(means, int(meta["steps"]))


def _shapes(arrays: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in arrays.items()}


def merged(module: EncoderModule) -> dict[str, Tensor]:
    """Give the weights of a plain backbone that answers as the module does; it stays as it is.

    Returns:
        All weights by name, without any adapter; not copied where nothing was to be merged. Virtual
        tokens, which no weight can hold, are `virtual.prompt` and `virtual.prefix`.
    """
    virtual = {f"virtual.{name}": tokens.detach() for name, tokens in module.virtual.items()}
    return adapters.merged_weights(module.backbone) | virtual


def unadapted(module: EncoderModule) -> EncoderModule:
    """Give the module itself where it has no adapters, else a copy with all of them merged."""
    if adapters.adapted(module.backbone):
        module = copy.deepcopy(module)
        adapters.merge(module.backbone)
    return module


def split_virtual(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Part what `merged` gave into the backbone's weights and virtual tokens by name."""
    virtual = {name: weights[f"virtual.{name}"] for name in VIRTUAL if f"virtual.{name}" in weights}
    return {n: t for n, t in weights.items() if not n.startswith("virtual.")}, virtual


def _full(module: EncoderModule, config: TuningConfig, max_tokens: int) -> None:
    del config, max_tokens
    module.requires_grad_(True)


def _frozen(module: EncoderModule, config: TuningConfig, max_tokens: int) -> None:
    del module, config, max_tokens


def _lora(module: EncoderModule, config: TuningConfig, max_tokens: int) -> None:
    del max_tokens
    adapters.lora(module.backbone, rank=config.rank, seed=config.seed)


def _adalora(module: EncoderModule, config: TuningConfig, max_tokens: int) -> RankBudget:
    del max_tokens
    return adapters.adalora(module.backbone, rank=config.rank, steps=config.steps, seed=config.seed)


def _ia3(module: EncoderModule, config: TuningConfig, max_tokens: int) -> None:
    del config, max_tokens
    adapters.ia3(module.backbone)


def _prompt(module: EncoderModule, config: TuningConfig, max_tokens: int) -> None:
    backbone: Any = module.backbone
    places = getattr(backbone.config, "max_position_embeddings", None)
    tokens = module.prompt_tokens or config.virtual_tokens
    if places is not None and tokens + max_tokens > places:
        raise EncoderError(
            f"{tokens} virtual tokens and {max_tokens} of a text are more than its {places} "
            "positions: lower virtual_tokens or max_tokens"
        )
    if module.prompt is None:
        table = backbone.get_input_embeddings().weight.detach()
        module.carry("prompt", table[_words(module, config)].clone())
    _answer_through(module, "prompt")


def _prefix(module: EncoderModule, config: TuningConfig, max_tokens: int) -> None:
    del max_tokens
    if "past_key_values" not in inspect.signature(module.backbone.forward).parameters:
        raise EncoderError("it takes no keys and values from outside")
    if module.prefix is None:
        seen = _Seen()
        with torch.no_grad():
            module.backbone(input_ids=_words(module, config)[None], past_key_values=seen)
        module.carry("prefix", torch.stack(seen.layers))
    _answer_through(module, "prefix")


class _Seen:
    """A cache that adds nothing and notes the keys and values of every layer, of the first row."""

    def __init__(self) -> None:
        self.layers: list[Tensor] = []

    def get_seq_length(self, *_: int) -> int:
        return 0

    def update(self, keys: Tensor, values: Tensor, *_: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        self.layers.append(torch.stack([keys[0], values[0]]))
        return keys, values


def _words(module: EncoderModule, config: TuningConfig) -> Tensor:
    """Draw token ids, int64 [virtual tokens], on the module's device."""
    backbone: Any = module.backbone
    table = backbone.get_input_embeddings().weight
    random = torch.Generator().manual_seed(config.seed)
    return torch.randint(len(table), (config.virtual_tokens,), generator=random).to(table.device)


def _answer_through(module: EncoderModule, name: str) -> None:
    """Let virtual tokens train.

    Raises:
        EncoderError: features do not depend on them: the backbone passes them over.
    """
    tokens = module.virtual[name].requires_grad_(True)
    with torch.enable_grad():
        features = module(collate([[1, 2, 3]]).to(tokens.device))
        (gradient,) = torch.autograd.grad(features[0, 0], tokens)
    if not bool(gradient.any()):
        raise EncoderError("its features do not depend on virtual tokens")


_METHODS: Mapping[Tuning, Callable[[EncoderModule, TuningConfig, int], RankBudget | None]] = {
    "full": _full,
    "frozen": _frozen,
    "lora": _lora,
    "adalora": _adalora,
    "ia3": _ia3,
    "prefix": _prefix,
    "prompt": _prompt,
}
