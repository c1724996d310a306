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
from typing import Any

import torch
from torch import Tensor, nn

from learners.batch import IDS, MASK
from schemas.errors import EncoderError

POOLING = "mean-last-3"
VIRTUAL = ("prompt", "prefix")


class EncoderModule(nn.Module):
    """A Hugging Face encoder with its pooling: packed tokens in, unit features out.

    Features are the means over tokens of the last hidden layers, each L2-normalised, concatenated
    and normalised again.

    Args:
        backbone: the encoder.
        layers: how many of its last hidden layers.
        virtual: `prompt`, float32 [tokens, embedding], and `prefix`, float32 [backbone layers, 2
            (keys, values), heads, tokens, width of a head]; both may be missing.
    """

    prompt: nn.Parameter | None
    prefix: nn.Parameter | None

    def __init__(
        self, backbone: nn.Module, *, layers: int, virtual: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.layers = layers
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
            float32 [rows, layers * hidden], every row of length 1.
        """
        ids, mask = packed[:, IDS], packed[:, MASK]  # [rows, tokens] each
        states = self.backbone(**self._inputs(ids, mask), output_hidden_states=True).hidden_states
        hidden = [state[:, self.prompt_tokens :] for state in states[-self.layers :]]
        weights = (mask / mask.sum(dim=1, keepdim=True)).unsqueeze(1)  # float32 [rows, 1, tokens]
        means = [(weights @ layer.float()).squeeze(1) for layer in hidden]  # [rows, hidden] each
        unit = [nn.functional.normalize(mean, dim=1) for mean in means]
        return nn.functional.normalize(torch.cat(unit, dim=1), dim=1)

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


def pooled_layers(pooling: str, *, deepest: int) -> int:
    """Read how many of the last hidden layers a pooling takes.

    Raises:
        EncoderError: the pooling is not known, or takes more layers than there are.
    """
    match = re.fullmatch(r"mean-last-([1-9]\d?)", pooling)
    if match is None:
        raise EncoderError(f"pooling {pooling!r}: mean-last-N was expected, N from 1")
    if int(match[1]) > deepest:
        raise EncoderError(f"pooling {pooling!r}: this encoder has {deepest} hidden layers")
    return int(match[1])


def pooled(
    backbone: nn.Module, pooling: str, virtual: Mapping[str, Tensor] | None = None
) -> EncoderModule:
    """Join a backbone with a pooling, and with virtual tokens as `EncoderModule` takes them.

    A pooling that the backbone cannot have is an EncoderError.
    """
    config: Any = backbone.config
    layers = pooled_layers(pooling, deepest=int(config.num_hidden_layers) + 1)
    return EncoderModule(backbone, layers=layers, virtual=virtual)
