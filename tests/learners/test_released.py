from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from learners.heads.additive import AdditiveHead
from learners.model import Encoder
from learners.registry import Registry
from learners.released import EncoderCache, ReleasedModel
from schemas.errors import ReleaseError
from schemas.models import GateReport, ModelRelease

TEXTS = {
    "I want my money back": "refund",
    "please refund the payment": "refund",
    "my card was stolen": "card",
    "I lost my bank card": "card",
}
GATE = GateReport(accepted=True, reason="first release", rows=0, challenger=0.0)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(device="cpu", precision="fp32")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(str(tmp_path))


def release(
    registry: Registry, encoder: Encoder, head: AdditiveHead, *, kind: str = "classify"
) -> ModelRelease:
    return registry.publish(
        task="support",
        kind=kind,
        strategy="two-speed",
        backbone=encoder.name,
        blobs=registry.put_blobs({**encoder.blobs(), **head.blobs()}),
        positions={},
        learned=len(TEXTS),
        labels=len(head.labels),
        gate=GATE,
        time=datetime(2026, 1, 1, tzinfo=UTC),
    )


def taught(encoder: Encoder) -> AdditiveHead:
    head = AdditiveHead(features=encoder.width, solver="class-balanced", width=256)
    head.add(encoder.encode(list(TEXTS)), [(head.row_of(label),) for label in TEXTS.values()])
    head.solve()
    return head


def test_a_loaded_release_answers_as_the_head_that_was_released(
    registry: Registry, encoder: Encoder
) -> None:
    head = taught(encoder)
    made = release(registry, encoder, head)
    cache = EncoderCache(device="cpu", precision="fp32")
    model = ReleasedModel.load(made, registry, encoders=cache)
    decisions = model.predict(["give me a refund please", "someone stole my card"])
    assert [decision.label for decision in decisions] == ["refund", "card"]
    assert [label for label, _ in decisions[0].top] == ["refund", "card"]
    features = encoder.encode(list(TEXTS))
    np.testing.assert_array_equal(model.head.scores(features), head.scores(features))


def test_a_new_head_over_the_same_encoder_shares_it(registry: Registry, encoder: Encoder) -> None:
    head = taught(encoder)
    cache = EncoderCache(device="cpu", precision="fp32")
    old = ReleasedModel.load(release(registry, encoder, head), registry, encoders=cache)
    head.add(encoder.encode(["where is my parcel"]), [(head.row_of("parcel"),)])
    head.solve()
    new = ReleasedModel.load(release(registry, encoder, head), registry, encoders=cache)
    assert new.encoder is old.encoder
    assert new.head.labels == ("refund", "card", "parcel")
    assert old.head.labels == ("refund", "card")


def test_the_cache_keeps_no_more_encoders_than_its_bound(
    registry: Registry, encoder: Encoder
) -> None:
    cache = EncoderCache(device="cpu", precision="fp32", encoders=1)
    other = Encoder.load(device="cpu", precision="fp32", max_tokens=32)
    first = release(registry, encoder, taught(encoder))
    second = release(registry, other, taught(other))
    one = cache.get(first, registry)
    assert cache.get(first, registry) is one
    assert cache.get(second, registry).max_tokens == 32
    assert cache.get(first, registry) is not one


def test_a_release_of_an_unknown_kind_or_without_an_encoder_is_refused(
    registry: Registry, encoder: Encoder
) -> None:
    head = taught(encoder)
    cache = EncoderCache(device="cpu", precision="fp32")
    with pytest.raises(ReleaseError, match="of kind 'cluster'"):
        ReleasedModel.load(
            release(registry, encoder, head, kind="cluster"), registry, encoders=cache
        )
    bare = registry.publish(
        task="support",
        kind="classify",
        strategy="two-speed",
        backbone=encoder.name,
        blobs=registry.put_blobs(head.blobs()),
        positions={},
        learned=1,
        labels=2,
        gate=GATE,
        time=datetime(2026, 1, 1, tzinfo=UTC),
    )
    with pytest.raises(ReleaseError, match="lacks the blobs encoder"):
        ReleasedModel.load(bare, registry, encoders=cache)
