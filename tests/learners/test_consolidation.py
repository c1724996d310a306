"""Consolidation trains a copy, learns, and goes on where it stopped, to the bit."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from learners.consolidation import Consolidation, ConsolidationConfig
from learners.data.adversarial import ADVERSARIES, AdversarialConfig
from learners.heads.additive import AdditiveHead
from learners.model import Encoder
from learners.tasks import task_kind
from learners.tuning import Tuning, TuningConfig
from schemas.errors import CheckpointError
from tests.learning import frozen_encoder
from tests.small import small_encoder

__all__ = ["frozen_encoder"]

# Words that a pretrained encoder finds alike; only these labels tell them apart.
TEXTS = [f"the {colour} {thing}" for thing in ("cup", "mug") for colour in ("red", "blue", "green")]
LABELS = ["first" if "cup" in text else "second" for text in TEXTS]
CONFIG = ConsolidationConfig(epochs=4, batch_rows=4, seed=3)


def consolidation(encoder: Encoder, config: ConsolidationConfig = CONFIG) -> Consolidation:
    return Consolidation(encoder, task_kind("classify"), TEXTS, LABELS, config=config)


def features_apart(encoder: Encoder) -> float:
    """Distance of the two labels' means over the spread within them."""
    x = encoder.encode(TEXTS)
    first, second = x[:3], x[3:]
    within = np.mean([np.linalg.norm(part - part.mean(axis=0)) for part in (first, second)])
    return float(np.linalg.norm(first.mean(axis=0) - second.mean(axis=0)) / within)


def test_it_trains_a_copy_that_tells_the_labels_apart(frozen_encoder: Encoder) -> None:
    before, space = features_apart(frozen_encoder), frozen_encoder.space_id
    work = consolidation(
        frozen_encoder, ConsolidationConfig(epochs=12, batch_rows=6, learning_rate=3e-4)
    )
    losses = [work.step() for _ in range(work.steps)]
    assert losses[-1] < losses[0] / 2
    assert features_apart(work.encoder()) > 1.5 * before
    assert frozen_encoder.space_id == space != work.encoder().space_id
    with pytest.raises(ValueError, match="all 12 steps are done"):
        work.step()


def test_it_goes_on_where_it_stopped_to_the_bit(frozen_encoder: Encoder) -> None:
    whole = consolidation(frozen_encoder)
    for _ in range(whole.steps):
        whole.step()
    stopped = consolidation(frozen_encoder)
    for _ in range(3):
        stopped.step()
    taken_up = consolidation(frozen_encoder)
    taken_up.restore(*stopped.state())
    while taken_up.done < taken_up.steps:
        taken_up.step()
    ours, theirs = taken_up.state()[0], whole.state()[0]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_work_of_another_encoder_or_on_other_rows_is_refused(frozen_encoder: Encoder) -> None:
    state = consolidation(frozen_encoder).state()
    longer = consolidation(frozen_encoder, ConsolidationConfig(epochs=5, batch_rows=4, seed=3))
    with pytest.raises(CheckpointError, match="start it again"):
        longer.restore(*state)
    with pytest.raises(ValueError, match="0 texts and 0 labels"):
        Consolidation(frozen_encoder, task_kind("classify"), [], [], config=CONFIG)


def test_sums_are_made_anew_for_the_new_encoder(frozen_encoder: Encoder) -> None:
    work = consolidation(frozen_encoder)
    work.step()
    encoder = work.encoder()
    head = AdditiveHead(
        features=encoder.width, solver="class-balanced", width=64, space_id=encoder.space_id
    )
    head.add(encoder.encode(TEXTS), [(head.row_of(label),) for label in LABELS])
    head.solve()
    old = AdditiveHead(
        features=encoder.width, solver="class-balanced", width=64, space_id=frozen_encoder.space_id
    )
    with pytest.raises(ValueError, match="space_id"):
        old.merge(head)


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_adaptation_and_harder_batches_go_on_where_they_stopped_to_the_bit(steps: int) -> None:
    encoder = small_encoder()
    config = replace(CONFIG, epochs=2, adapt_epochs=2, adversarial=ADVERSARIES["freelb"])

    def work() -> Consolidation:
        more = ["a red mug", "an old cup"]
        kind = task_kind("classify")
        return Consolidation(encoder, kind, TEXTS, LABELS, config=config, unlabelled=more)

    whole, stopped, taken_up = work(), work(), work()
    assert whole.steps == 2 + 4  # twice 8 texts in one batch, then twice 6 rows, 4 a step
    while whole.done < whole.steps:
        whole.step()
    for _ in range(steps):
        stopped.step()
    torch.rand(3)  # the global state must not matter
    taken_up.restore(*stopped.state())
    while taken_up.done < taken_up.steps:
        taken_up.step()
    ours, theirs = taken_up.state()[0], whole.state()[0]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_adaptation_and_harder_batches_change_what_is_learned_not_the_encoder_given() -> None:
    encoder = small_encoder()
    space = encoder.space_id
    spaces = set()
    for config in (
        CONFIG,
        replace(CONFIG, adapt_epochs=1, adapt="contrastive"),
        *(replace(CONFIG, adversarial=ADVERSARIES[name]) for name in ("fgm", "pgd", "freelb")),
    ):
        work = consolidation(encoder, replace(config, epochs=1))
        while work.done < work.steps:
            work.step()
        spaces.add(work.encoder().space_id)
    assert len(spaces) == 5
    assert encoder.space_id == space
    with pytest.raises(ValueError, match="epsilon is -1"):
        consolidation(encoder, replace(CONFIG, adversarial=AdversarialConfig(epsilon=-1)))


def test_the_encoder_that_is_given_lies_between_the_pretrained_and_the_trained_one(
    frozen_encoder: Encoder,
) -> None:
    given = {}
    for blend in (0.25, 1.0):
        work = consolidation(frozen_encoder, replace(CONFIG, blend=blend))
        while work.done < work.steps:
            work.step()
        given[blend] = work.encoder().weights()
    start = frozen_encoder.weights()
    for name, tensor in given[1.0].items():
        if tensor.is_floating_point():
            between = torch.lerp(start[name], tensor, 0.25)
            assert torch.equal(given[0.25][name], between), name
    assert any(not torch.equal(start[name], given[1.0][name]) for name in start)


@pytest.mark.parametrize("method", ["lora", "adalora", "ia3", "prompt", "prefix"])
def test_a_part_of_the_encoder_is_trained_given_merged_and_taken_up(
    method: Tuning, frozen_encoder: Encoder
) -> None:
    source = frozen_encoder
    config = replace(CONFIG, tuning=TuningConfig(method=method, rank=2, virtual_tokens=2))
    whole = consolidation(source, config)
    stopped = consolidation(source, config)
    losses = [whole.step() for _ in range(whole.steps)]
    for _ in range(2):
        stopped.step()
    arrays, meta = stopped.state()
    taken_up = consolidation(source, config)
    taken_up.restore(arrays, json.loads(json.dumps(meta)))
    assert [taken_up.step() for _ in range(taken_up.steps - 2)] == losses[2:]
    weights = whole.encoder().weights()
    assert not any("lora" in name or "ia3" in name for name in weights)
    theirs = taken_up.encoder().encode(TEXTS)
    np.testing.assert_array_equal(theirs, whole.encoder().encode(TEXTS))
    assert not np.array_equal(theirs, source.encode(TEXTS))


def test_what_cannot_be_consolidated_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="blend 0: auto, or over 0 to 1"):
        ConsolidationConfig(blend=0)
    with pytest.raises(ValueError, match="would train nothing"):
        ConsolidationConfig(tuning=TuningConfig(method="frozen"))
    with pytest.raises(ValueError, match="an adaptation trains the full encoder"):
        ConsolidationConfig(tuning=TuningConfig(method="lora"), adapt_epochs=1)
