"""Kept features as a deployment has them: its bounds, its counts, a connection in a hurry."""

from __future__ import annotations

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from mindstream.features import PATIENCE_S, make_kept, make_kept_later
from mindstream.settings import load_settings
from schemas.errors import SettingsError
from serving.metrics import Metrics


def test_what_is_found_and_what_is_not_is_counted(redis_server: str) -> None:
    metrics = Metrics(CollectorRegistry())
    settings = load_settings(
        overrides={"redis.url": redis_server, "redis.namespace": "counted", "features.ttl_s": 5.0}
    )
    kept = make_kept(settings, metrics)
    later = make_kept_later(settings, metrics)  # as serve has it
    later.put("space", ["a"], np.zeros((1, 4), dtype=np.float32))
    later.wait()
    assert [row is None for row in kept.get("space", ["a", "b", "c"])] == [False, True, True]
    assert kept.max_bytes == 134_217_728
    text = metrics.text().decode()
    assert 'mindstream_features_total{outcome="reused"} 1.0' in text
    assert 'mindstream_features_total{outcome="encoded"} 2.0' in text
    assert "mindstream_features_failures_total 0.0" in text


def test_a_server_that_is_away_is_not_waited_for() -> None:
    metrics = Metrics(CollectorRegistry())
    kept = make_kept(load_settings(overrides={"redis.url": "redis://127.0.0.1:1"}), metrics)
    arguments = kept._redis.get_connection_kwargs()
    assert arguments["socket_timeout"] == arguments["socket_connect_timeout"] == PATIENCE_S
    kept.put("space", ["a"], np.zeros((1, 4), dtype=np.float32))
    assert "mindstream_features_failures_total 1.0" in metrics.text().decode()


def test_bounds_are_of_the_settings() -> None:
    assert load_settings().learn.reuse_features
    with pytest.raises(SettingsError, match=r"features\.ttl_s"):
        load_settings(overrides={"features.ttl_s": 0.0})
