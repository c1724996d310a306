"""Where features are kept between the roles, and who counts it.

Owns the settings' part in it and the patience of its connection; must not know roles.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mindstream.settings import Settings

if TYPE_CHECKING:
    from learners.kept import KeptFeatures, KeptLater
    from serving.metrics import Metrics

PATIENCE_S = 1.0  # of one call: to encode a batch again takes about as long


class KeptMetrics:
    """Counts what became of texts that were looked up, and failures.

    Args:
        metrics: of this process.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._texts = metrics.features_total
        self._failures = metrics.features_failures_total

    def looked_up(self, *, found: int, missing: int) -> None:
        """Count texts."""
        self._texts.labels("reused").inc(found)
        self._texts.labels("encoded").inc(missing)

    def failed(self) -> None:
        """Count a failure."""
        self._failures.inc()


def make_kept(settings: Settings, metrics: Metrics) -> KeptFeatures:
    """Build what keeps features, over a connection of its own that waits for nobody.

    Args:
        settings: of the deployment; `redis.url` names a server.
        metrics: of this process.
    """
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    from learners.kept import KeptFeatures

    client = redis.Redis.from_url(
        settings.redis.url,
        socket_timeout=PATIENCE_S,
        socket_connect_timeout=PATIENCE_S,
        health_check_interval=30,
        retry=Retry(NoBackoff(), retries=1),  # one: the server may have closed an idle connection
    )
    return KeptFeatures(
        client,
        namespace=settings.redis.namespace,
        max_bytes=settings.features.max_bytes,
        life_s=settings.features.ttl_s,
        clock_s=time.monotonic,
        observer=KeptMetrics(metrics),
    )


def make_kept_later(settings: Settings, metrics: Metrics) -> KeptLater:
    """Build the same for a server: nothing waits until features are kept."""
    from learners.kept import KeptLater

    return KeptLater(make_kept(settings, metrics), observer=KeptMetrics(metrics))
