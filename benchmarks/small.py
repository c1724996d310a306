"""A small piece of the default encoder, its own trained weights, for runs of very many steps.

Owns what is left of it: the first layer, a part of that layer's neurons, the frequent words, short
texts. Must not know learners.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import Tensor

from learners import backbones
from learners.model import Encoder

LAYERS = 1
NEURONS = 192  # of the layer's 1,536
WORDS = 2_700  # the vocabulary's first: letters, pieces, and whole words that are frequent
MAX_TOKENS = 16
NAME = f"{backbones.DEFAULT_BACKBONE}, layer 1 of 6"


@cache
def _parts() -> tuple[dict[str, Any], Mapping[str, Tensor], bytes]:
    """Give the architecture, the weights and the tokenizer of what is left."""
    folder = backbones.find(backbones.DEFAULT_BACKBONE)
    backbone: Any = backbones.load_model(folder)
    backbone.encoder.layer = backbone.encoder.layer[:LAYERS]
    weights = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    for name, tensor in weights.items():
        if name.endswith(("intermediate.dense.weight", "intermediate.dense.bias")):
            weights[name] = tensor[:NEURONS].clone()
        elif name.endswith("output.dense.weight") and "attention" not in name:
            weights[name] = tensor[:, :NEURONS].clone()
        elif name == "embeddings.word_embeddings.weight":
            weights[name] = tensor[:WORDS].clone()
        elif name == "embeddings.position_embeddings.weight":
            weights[name] = tensor[:MAX_TOKENS].clone()
    config = {
        **backbones.portable_config(backbone.config),
        "num_hidden_layers": LAYERS,
        "intermediate_size": NEURONS,
        "vocab_size": WORDS,
        "max_position_embeddings": MAX_TOKENS,
    }
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {word: n for word, n in vocabulary.items() if n < WORDS}
    return config, weights, json.dumps(tokenizer).encode()


def small_encoder() -> Encoder:
    """Build it: fp32, on the CPU, 1.8 million weights of its own."""
    config, weights, tokenizer = _parts()
    return Encoder(
        backbones.rebuild_model(config, weights),
        backbones.read_tokenizer(tokenizer),
        name=NAME,
        max_tokens=MAX_TOKENS,
        device="cpu",
        precision="fp32",
        pooling=f"mean-last-{LAYERS + 1}",
    )
