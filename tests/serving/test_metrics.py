"""The list of metrics, its names and what a scrape shows."""

from __future__ import annotations

import re

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from serving.metrics import PREFIX, TABLE, Metric, Metrics


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_every_metric_has_a_base_unit_a_help_and_no_user_ids(row: Metric) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", row.name)
    assert row.help.endswith(".")
    assert row.unit
    assert (row.kind == "counter") == row.name.endswith("_total")
    assert not re.search(r"(ms|millis|minutes|hours|kb|mb)(_|$)", row.name)
    assert not {"user", "id", "interaction"} & set(row.labels)
    assert bool(row.buckets) == (row.kind == "histogram")
    assert list(row.buckets) == sorted(set(row.buckets))


def test_attributes_and_list_name_the_same_metrics() -> None:
    assert list(Metrics.__annotations__) == [row.name for row in TABLE]


def test_a_scrape_shows_exactly_the_list_under_the_prefix() -> None:
    metrics = Metrics(CollectorRegistry())
    families = text_string_to_metric_families(metrics.text().decode())
    shown = {family.name for family in families if not family.name.endswith("_created")}
    assert shown == {PREFIX + row.name.removesuffix("_total") for row in TABLE}


def test_two_registries_in_one_process_never_meet() -> None:
    one, other = Metrics(CollectorRegistry()), Metrics(CollectorRegistry())
    one.predictions_total.labels(task="intents", status="ok").inc()
    assert b'task="intents"' in one.text()
    assert b'task="intents"' not in other.text()
