"""A small piece of the real encoder: its own weights, fewer of them, for long runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import nn

from learners import backbones
from learners.loop import Learner
from learners.model import Encoder
from learners.strategies import STRATEGIES, StrategyConfig
from learners.strategies.base import NoReplay, ReplaySource
from learners.tasks import task_kind

LAYERS = 2
NEURONS = 192  # of a layer's 1,536
WORDS = 2_700  # the vocabulary's first: letters, and whole words that are frequent
MAX_TOKENS = 16


@cache
def _parts() -> tuple[dict[str, Any], Mapping[str, torch.Tensor], bytes]:
    folder = backbones.find(backbones.DEFAULT_BACKBONE)
    backbone: Any = backbones.load_model(folder)
    backbone.encoder.layer = backbone.encoder.layer[:LAYERS]
    for layer in backbone.encoder.layer:
        inner, outer = layer.intermediate.dense, layer.output.dense
        inner.weight = nn.Parameter(inner.weight.detach()[:NEURONS])
        inner.bias = nn.Parameter(inner.bias.detach()[:NEURONS])
        outer.weight = nn.Parameter(outer.weight.detach()[:, :NEURONS])
    embeddings = backbone.embeddings
    words = embeddings.word_embeddings.weight.detach()[:WORDS].clone()
    embeddings.word_embeddings = nn.Embedding(WORDS, words.shape[1], _weight=words)
    places = embeddings.position_embeddings.weight.detach()[:MAX_TOKENS].clone()
    config = {
        **backbones.portable_config(backbone.config),
        "num_hidden_layers": LAYERS,
        "intermediate_size": NEURONS,
        "vocab_size": WORDS,
        "max_position_embeddings": MAX_TOKENS,
    }
    weights = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    weights["embeddings.position_embeddings.weight"] = places
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {w: n for w, n in vocabulary.items() if n < WORDS}
    return config, weights, json.dumps(tokenizer).encode()


def small_encoder(*, max_tokens: int = MAX_TOKENS) -> Encoder:
    """Build the small encoder, in exact arithmetic; it has 16 places for tokens."""
    torch.set_num_threads(1)  # so small that a second thread only waits for the first
    config, weights, tokenizer = _parts()
    return Encoder(
        backbones.rebuild_model(config, {n: t.clone() for n, t in weights.items()}),
        backbones.read_tokenizer(tokenizer),
        name="small",
        max_tokens=max_tokens,
        device="cpu",
        precision="fp32",
    )


def small_learner(
    strategy: str,
    *,
    kind: str = "classify",
    replay: ReplaySource | None = None,
    held_out_share: float = 0.1,
    **settings: Any,
) -> Learner:
    """Build a learner of any strategy on a small encoder of its own."""
    config = StrategyConfig(
        **{
            "kind": task_kind(kind),
            "encoder": small_encoder(),
            "replay": replay or NoReplay(),
            "replay_rows": 4,
            "learning_rate": 2e-4,
            "head_learning_rate": 1e-2,
            "projection_width": 64,
            "consolidate_every": 32,
            "epochs": 2,
            "stored_rows": 48,
            "stored_logits": 400,
            "plugin": "tests.plugins:Centroids",
            "seed": 7,
            **settings,
        }
    )
    return Learner(
        "intents",
        kind=config.kind,
        strategy=STRATEGIES[strategy](config),
        held_out_share=held_out_share,
        ledger_rows=1_000,
    )
