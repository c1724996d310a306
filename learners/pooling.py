"""From a backbone's hidden states to features, with virtual tokens where an encoder carries some.

Owns the module that is trained and served: backbone, virtual tokens, pooling. Must not know files,
tokenizers, optimizers or how virtual tokens come to be (`learners.tuning` makes them).

A prompt stands before the words, as embeddings (Lester et al., EMNLP 2021); a prefix stands beside
them in every layer, as keys and values (Li & Liang, ACL 2021). Neither can be merged into weights,
so a release carries them and this module applies them by itself. Neither is ever pooled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from learners.batch import IDS, MASK
from schemas.errors import EncoderError

POOLING = "mean-last-3"
POOLING_FORM = r"^(mean|cls|max)-last-[1-9][0-9]?(\+(mean|cls|max)-last-[1-9][0-9]?)*(/joint)?$"
VIRTUAL = ("prompt", "prefix")


@dataclass(frozen=True, slots=True)
class Pooling:
    """How features come of hidden states.

    Every part takes one vector of each of the last hidden layers: the mean over a text's tokens,
    the largest of each number over them, or the first token's (`cls`: Devlin et al., NAACL 2019).

    Attributes:
        parts: `mean`, `max` or `cls`, and how many of the last hidden layers.
        joint: vectors are L2-normalised all together, so that a layer with larger numbers has more
            say; else each by itself first.

    Example:
        >>> Pooling.parse("mean-last-3+cls-last-1")
        Pooling(parts=(('mean', 3), ('cls', 1)), joint=False)
    """

    parts: tuple[tuple[str, int], ...]
    joint: bool = False

    @classmethod
    def parse(cls, pooling: str, *, deepest: int = 99) -> Pooling:
        """Read `KIND-last-N`, any number of them joined by `+`, `/joint` behind them or not.

        Args:
            pooling: what is read.
            deepest: hidden layers that there are.

        Raises:
            EncoderError: the pooling is not known, or takes more layers than there are.
        """
        if re.fullmatch(POOLING_FORM, pooling) is None:
            raise EncoderError(
                f"pooling {pooling!r}: mean-last-N, max-last-N or cls-last-N was expected, N from "
                "1, or several joined by +, as in mean-last-3+cls-last-1; /joint may follow"
            )
        listed, _, joint = pooling.partition("/")
        kinds = [part.split("-last-") for part in listed.split("+")]
        parts = tuple((kind, int(layers)) for kind, layers in kinds)
        if max(layers for _, layers in parts) > deepest:
            raise EncoderError(f"pooling {pooling!r}: this encoder has {deepest} hidden layers")
        return cls(parts, bool(joint))

    @property
    def vectors(self) -> int:
        """How many vectors of the hidden states' width features are made of."""
        return sum(layers for _, layers in self.parts)

    def __call__(self, states: tuple[Tensor, ...], mask: Tensor) -> Tensor:
        """Pool hidden states.

        Args:
            states: of every layer, the last one last, float [rows, tokens, hidden] each.
            mask: int64 [rows, tokens], 1 for a token of the text.

        Returns:
            float32 [rows, vectors * hidden], every row of length 1.
        """
        found = [
            _POOLS[kind](layer.float(), mask)
            for kind, layers in self.parts
            for layer in states[-layers:]
        ]
        if not self.joint:
            found = [nn.functional.normalize(one, dim=1) for one in found]
        return nn.functional.normalize(torch.cat(found, dim=1), dim=1)


def _mean(layer: Tensor, mask: Tensor) -> Tensor:
    weights = (mask / mask.sum(dim=1, keepdim=True)).unsqueeze(1)  # float32 [rows, 1, tokens]
    return (weights @ layer).squeeze(1)


def _max(layer: Tensor, mask: Tensor) -> Tensor:
    lowest = torch.finfo(layer.dtype).min
    return layer.masked_fill(mask.unsqueeze(2) == 0, lowest).amax(dim=1)


def _cls(layer: Tensor, mask: Tensor) -> Tensor:
    del mask  # the first token is always there
    return layer[:, 0]


_POOLS = {"mean": _mean, "max": _max, "cls": _cls}


class EncoderModule(nn.Module):
    """A Hugging Face encoder with its pooling: packed tokens in, unit features out.

    Args:
        backbone: the encoder.
        pooling: of its hidden states.
        virtual: `prompt`, float32 [tokens, embedding], and `prefix`, float32 [backbone layers, 2
            (keys, values), heads, tokens, width of a head]; both may be missing.
    """

    prompt: nn.Parameter | None
    prefix: nn.Parameter | None

    def __init__(
        self, backbone: nn.Module, *, pooling: Pooling, virtual: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        for name in VIRTUAL:
            self.carry(name, (virtual or {}).get(name))

    def carry(self, name: str, tokens: Tensor | None) -> None:
        """Take virtual tokens, or put them away.

        Args:
            name: `prompt` or `prefix`.
            tokens: of the shape said above; None for none.
        """
        self.register_parameter(name, None if tokens is None else nn.Parameter(tokens))

    @property
    def virtual(self) -> dict[str, Tensor]:
        """The virtual tokens that it carries, by name."""
        found = ((name, getattr(self, name)) for name in VIRTUAL)
        return {name: tokens for name, tokens in found if tokens is not None}

    @property
    def prompt_tokens(self) -> int:
        """How many of the backbone's positions the prompt takes."""
        return 0 if self.prompt is None else len(self.prompt)

    def forward(self, packed: Tensor) -> Tensor:
        """Encode a batch.

        Args:
            packed: int64 [rows, 2, tokens] as `learners.batch.collate` makes it.

        Returns:
            float32 [rows, pooling.vectors * hidden], every row of length 1.
        """
        ids, mask = packed[:, IDS], packed[:, MASK]  # [rows, tokens] each
        states = self.backbone(**self._inputs(ids, mask), output_hidden_states=True).hidden_states
        return self.pooling(tuple(state[:, self.prompt_tokens :] for state in states), mask)

    def _inputs(self, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        """Give what the backbone is called with: the words, and the virtual tokens as seen."""
        given: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if self.prompt is not None:
            backbone: Any = self.backbone
            words = backbone.get_input_embeddings()(ids)  # [rows, tokens, embedding]
            # Not len(ids): tracing would take it for a constant, two rows for ever.
            prompt = self.prompt.expand(ids.shape[0], -1, -1)
            given = {"inputs_embeds": torch.cat([prompt, words], dim=1)}
        if self.prefix is not None:
            given["past_key_values"] = LayerPrefix(self.prefix)
        seen = self.prompt_tokens + (0 if self.prefix is None else self.prefix.shape[3])
        given["attention_mask"] = nn.functional.pad(mask, (seen, 0), value=1)
        return given


class LayerPrefix:
    """Keys and values before a text's own, in the shape of transformers' cache.

    A cache that remembers nothing, and says that it is empty: one that says its length, as peft's
    prefix tuning has it, makes a BERT count a text's positions from there, so that every text moves
    by the prefix's length and a long one leaves the table of positions.

    Args:
        prefix: float32 [backbone layers, 2, heads, tokens, width of a head].
    """

    def __init__(self, prefix: Tensor) -> None:
        self._prefix = prefix

    def get_seq_length(self, *_: int) -> int:
        """Say 0: a text's positions start where they always do."""
        return 0

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """Put a layer's prefix before its keys and values.

        Args:
            keys: of the text, [rows, heads, tokens, width of a head].
            values: the same shape.
            layer: which one asks.
        """
        both = self._prefix[layer].unsqueeze(1).expand(-1, keys.shape[0], -1, -1, -1)
        return torch.cat([both[0], keys], dim=2), torch.cat([both[1], values], dim=2)


def pooled(
    backbone: nn.Module, pooling: str, virtual: Mapping[str, Tensor] | None = None
) -> EncoderModule:
    """Join a backbone with a pooling, and with virtual tokens as `EncoderModule` takes them.

    A pooling that the backbone cannot have is an EncoderError.
    """
    config: Any = backbone.config
    read = Pooling.parse(pooling, deepest=int(config.num_hidden_layers) + 1)
    return EncoderModule(backbone, pooling=read, virtual=virtual)
