"""Learners whose strategies train a part of the encoder: what learns, is kept and is released."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learners import adapters
from learners.gate import GateRules
from learners.library import Learner as LibraryLearner
from learners.localmemory import LocalMemory
from learners.loop import Learner
from learners.model import Encoder
from learners.registry import Registry
from learners.rehearsal import ReplayRow
from learners.releasing import Releaser
from learners.strategies.base import ReplaySource
from learners.tuning import TUNINGS, Tuning
from schemas.errors import CheckpointError
from tests.learning import NOW, example
from tests.small import small_encoder, small_learner

TEXTS = {
    "refund": ["give me my money back", "i want my money", "please return my payment"],
    "card": ["my card was stolen", "i lost my card", "block my card please"],
    "call": ["i want to speak to someone", "please call me", "can you phone me"],
}
ALL = [text for texts in TEXTS.values() for text in texts]
VIRTUAL = 4


def fresh() -> Encoder:
    return small_encoder(max_tokens=12)  # of 16 places: a prompt takes the others


def learner(method: str, strategy: str = "naive", *, replay: ReplaySource | None = None) -> Learner:
    return small_learner(
        strategy,
        replay=replay,
        encoder=fresh(),
        tuning=method,
        tuning_rank=4,
        virtual_tokens=VIRTUAL,
        held_out_share=0.0,
    )


def learn(target: Learner, steps: range) -> list[float]:
    losses = []
    for step in steps:
        rows = [
            example(f"{label}-{n}-{step}", text, label)
            for label, texts in TEXTS.items()
            for n, text in enumerate(texts)
        ]
        losses.append(target.learn(rows).loss)
    return losses


@pytest.mark.parametrize("method", TUNINGS)
def test_every_method_learns_through_a_strategy(method: Tuning) -> None:
    target = learner(method)
    encoder = target.strategy.encoder
    before = {name: tensor.clone() for name, tensor in encoder.module.state_dict().items()}
    space = encoder.space_id
    losses = learn(target, range(8))
    assert losses[-1] < 0.8 * losses[0]
    changed = {n for n, t in encoder.module.state_dict().items() if not torch.equal(t, before[n])}
    assert changed <= {n for n, p in encoder.module.named_parameters() if p.requires_grad}
    assert (encoder.space_id != space) == bool(changed) == (method != "frozen")
    assert target.strategy.trains_encoder == (method != "frozen")


def test_a_checkpoint_holds_only_what_is_trained() -> None:
    sizes = {}
    for method in ("full", "lora", "frozen"):
        target = learner(method)
        learn(target, range(1))
        arrays = target.state().arrays
        sizes[method] = sum(t.numel() for n, t in arrays.items() if "encoder." in n)
    assert sizes["frozen"] == 0
    assert 0 < sizes["lora"] < 0.2 * sizes["full"]


@pytest.mark.parametrize("method", ["adalora", "frozen", "prompt"])
def test_the_library_saves_and_loads_it(method: Tuning, tmp_path: Path) -> None:
    options: dict[str, Any] = {"tuning": method, "tuning_rank": 4, "virtual_tokens": VIRTUAL}
    mine = LibraryLearner("naive", encoder=fresh(), held_out_share=0.0, **options)
    mine.learn(ALL, [label for label, texts in TEXTS.items() for _ in texts])
    mine.save(tmp_path)
    again = LibraryLearner.load(tmp_path, encoder=fresh())
    assert again.encoder.space_id == mine.encoder.space_id
    assert again.predict(ALL) == mine.predict(ALL)


def test_a_checkpoint_of_another_method_rank_or_backbone_is_refused() -> None:
    saved = learner("lora")
    learn(saved, range(1))
    for other in ("full", "frozen", "prefix"):
        with pytest.raises(CheckpointError, match="tuning 'lora'"):
            learner(other).restore(saved.state())
    config: dict[str, Any] = {"encoder": fresh(), "virtual_tokens": VIRTUAL, "held_out_share": 0.0}
    with pytest.raises(CheckpointError, match="rank"):
        small_learner("naive", tuning="lora", tuning_rank=5, **config).restore(saved.state())
    moved = fresh().weights()
    moved["embeddings.LayerNorm.bias"] = moved["embeddings.LayerNorm.bias"] + 0.1
    elsewhere = {**config, "encoder": fresh().with_weights(moved)}
    with pytest.raises(CheckpointError, match="another backbone"):
        small_learner("naive", tuning="lora", tuning_rank=4, **elsewhere).restore(saved.state())


def test_a_checkpoint_from_before_there_were_methods_is_taken_up() -> None:
    saved = learner("full")
    learn(saved, range(2))
    state = saved.state()
    meta = json.loads(json.dumps(state.meta))
    del meta["state"]["tuning"]
    heir = learner("full")
    heir.restore(type(state)(arrays=state.arrays, meta=meta))
    assert heir.strategy.encoder.space_id == saved.strategy.encoder.space_id


@pytest.mark.parametrize("strategy", ["agem", "mir", "derpp", "ewc", "mas", "si", "lwf", "gdumb"])
def test_gradient_strategies_train_adapters_and_leave_the_rest(strategy: str) -> None:
    memory = LocalMemory()
    memory.offer(
        [ReplayRow(id=text, user="u", label=label, text=text) for label in TEXTS for text in ALL]
    )
    target = learner("lora", strategy, replay=memory)
    module = target.strategy.encoder.module
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    learn(target, range(5))  # past a consolidation point
    target.strategy.settle()
    changed = {n for n, t in module.state_dict().items() if not torch.equal(t, before[n])}
    assert changed
    assert all("lora_" in name for name in changed)


@pytest.mark.parametrize("method", ["frozen", "lora", "adalora", "prefix", "prompt"])
def test_what_is_released_answers_as_what_learned(method: Tuning, tmp_path: Path) -> None:
    memory = LocalMemory()
    memory.offer(
        [
            ReplayRow(id=text, user="u", label=label, text=text, held_out=True)
            for label, texts in TEXTS.items()
            for text in texts
        ]
    )
    target = learner(method)
    releaser = Releaser(
        target,
        registry=Registry(str(tmp_path)),
        memory=memory,
        rules=GateRules(margin=1.0, label_loss=1.0),
        rows=9,
        keep=5,
    )
    stored = []
    for first in (0, 2):
        learn(target, range(first, first + 2))
        verdict = releaser.consider(positions={}, now=NOW)
        assert verdict.release is not None, verdict.report
        stored.append(verdict.release.blobs["encoder"].sha256)
        assert releaser.champion is not None
        served, trained = releaser.champion.encoder, target.strategy.encoder
        assert not adapters.adapted(served.module.backbone)
        assert (served is trained) == (method == "frozen")
        served.use_precision("fp32")  # the registry's readers measure their own
        np.testing.assert_allclose(served.encode(ALL), trained.encode(ALL), atol=2e-6)
    assert (stored[0] == stored[1]) == (method == "frozen")
