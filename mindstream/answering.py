"""Builds the parts that answer: encoders, releases and the queue before the model.

Owns which of them gets which setting; must not know how any of them works, nor topics.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mindstream.backbone import engine_options, load_encoder
from mindstream.clients import make_memory, make_redis
from mindstream.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from learners.released import EncoderCache, ReleasedModel
    from serving.batcher import MicroBatcher
    from serving.metrics import Metrics
    from serving.predictor import Computed
    from serving.releases import Releases


def make_encoders(settings: Settings) -> EncoderCache:
    """Build what gives releases their encoders; the backbone is loaded now.

    The first release that is made of it then answers within milliseconds.
    """
    from learners.released import EncoderCache

    encoder = load_encoder(settings, serving=True)
    encoders = EncoderCache(
        device=settings.model.device,
        engines=engine_options(settings),
        encoders=len(settings.tasks) + 1,  # one each after their consolidations, and the next one
    )
    encoders.preload(encoder)
    return encoders


def make_releases(settings: Settings, metrics: Metrics) -> Releases:
    """Build what serves the newest release of every task."""
    from learners.registry import Registry
    from learners.released import ReleasedModel
    from serving.releases import Releases

    registry = Registry(settings.store_url)
    encoders = make_encoders(settings)
    return Releases(
        lambda release: ReleasedModel.load(release, registry, encoders=encoders),
        metrics=metrics,
        now=_utc_now,
        tasks=frozenset(settings.tasks),
    )


def make_batcher(settings: Settings, releases: Releases, metrics: Metrics) -> MicroBatcher:
    """Build the queue before the model, and the predictor behind it."""
    from learners.tasks import task_kind
    from serving.batcher import MicroBatcher
    from serving.predictor import Predictor
    from streams.serve import pass_observer

    predictor = Predictor(
        {name: task_kind(task.kind) for name, task in settings.tasks.items()},
        top=settings.serve.top,
        max_tokens=settings.serve.max_tokens,
        remembered=settings.serve.remembered,
        computed=_who_is_told(settings, metrics),
        now=_utc_now,
        monotonic_s=time.monotonic,
    )
    return MicroBatcher(
        predictor,
        releases.current,
        max_rows=settings.serve.pass_rows,
        max_tokens=settings.serve.max_tokens,
        max_queued=settings.serve.max_queued,
        observe=pass_observer(metrics),
    )


def _who_is_told(settings: Settings, metrics: Metrics) -> Computed:
    """Give what hands computed features on: to those who reuse them, and to calibration."""
    from mindstream.features import make_kept_later
    from serving.calibrating import Calibrator

    calibrator = Calibrator(lambda task: _labelled(settings, task))
    kept = make_kept_later(settings, metrics) if settings.features.max_bytes else None

    def computed(model: ReleasedModel, texts: Sequence[str], features: NDArray[np.float32]) -> None:
        if kept is not None:
            kept.put(model.encoder.space_id, texts, features)
        calibrator.saw(model, texts)

    return computed


def _labelled(settings: Settings, task: str) -> list[tuple[str, str]]:
    """Read rows that memory keeps apart, of one label each: no model has learned them."""
    rows = make_memory(settings, make_redis(settings), task).held_out(settings.gate.rows)
    return [(row.text, row.label) for row in rows if isinstance(row.label, str)]


def _utc_now() -> datetime:
    return datetime.now(UTC)
