"""Which release answers, and that no bad, late or old one ever does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry

from learners.released import EncoderCache, ReleasedModel
from schemas import ModelRelease
from serving.metrics import Metrics
from serving.releases import Releases
from tests.foundry import START, TOPICS, Foundry

NOW = START + timedelta(hours=1)
Load = Callable[[ModelRelease], ReleasedModel]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def load(foundry: Foundry) -> Load:
    encoders = EncoderCache(device="cpu", precision="fp32")
    return lambda release: ReleasedModel.load(release, foundry.registry, encoders=encoders)


@pytest.fixture
def releases(load: Load, metrics: Metrics) -> Iterator[Releases]:
    """Serve two tasks.

    Yields:
        Releases that are closed afterwards.
    """
    served = Releases(
        load, metrics=metrics, now=lambda: NOW, tasks=frozenset({"intents", "topics"})
    )
    yield served
    served.close()


def versions(releases: Releases) -> dict[str, str]:
    assert releases.settle(timeout_s=30)
    return {task: model.release.version for task, model in releases.current().items()}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"mindstream_{name}", labels)


def test_an_offered_release_answers_and_shows_in_the_metrics(
    releases: Releases, foundry: Foundry, metrics: Metrics
) -> None:
    first, second = foundry.release(), foundry.release()
    assert releases.current() == {}
    releases.offer(first)
    assert versions(releases) == {"intents": first.version}
    assert value(metrics, "release_info", task="intents", version=first.version) == 1
    releases.offer(second)
    assert versions(releases) == {"intents": second.version}
    assert value(metrics, "release_info", task="intents", version=first.version) is None
    assert value(metrics, "release_info", task="intents", version=second.version) == 1
    assert value(metrics, "release_swaps_total", task="intents") == 2
    assert value(metrics, "release_timestamp_seconds", task="intents") == second.time.timestamp()
    assert releases.serving()["intents"].since == NOW
    assert releases.current()["intents"].predict(["my money back"])[0].label == "refund"


def test_a_snapshot_is_not_changed_by_a_swap(releases: Releases, foundry: Foundry) -> None:
    first, second = foundry.release(), foundry.release()
    releases.offer(first)
    versions(releases)
    snapshot = releases.current()
    releases.offer(second)
    assert versions(releases) == {"intents": second.version}
    assert snapshot["intents"].release.version == first.version


def test_a_damaged_release_is_refused_counted_and_said_while_the_old_one_goes_on(
    releases: Releases, foundry: Foundry, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad, better = (
        foundry.release(),
        foundry.release(rows={"hello": "greeting", "bye": "farewell"}),
        foundry.release(rows={"help": "help", "stop": "stop"}),
    )
    foundry.damage(bad.blobs["head"])
    releases.offer(good)
    versions(releases)
    releases.offer(bad)
    assert versions(releases) == {"intents": good.version}
    assert value(metrics, "release_refusals_total", task="intents") == 1
    assert (
        f"release {bad.version} of task intents is refused; {good.version} goes on" in caplog.text
    )
    releases.offer(better)
    assert versions(releases) == {"intents": better.version}


def test_a_release_that_loads_but_cannot_answer_is_refused(
    releases: Releases, foundry: Foundry, metrics: Metrics
) -> None:
    releases.offer(foundry.release(rows={}, head_blobs=foundry.head("classify", {})))
    assert versions(releases) == {}
    assert value(metrics, "release_refusals_total", task="intents") == 1


def test_a_release_refused_once_may_be_offered_again(releases: Releases, foundry: Foundry) -> None:
    release = foundry.release()
    foundry.damage(release.blobs["head"])
    releases.offer(release)
    assert versions(releases) == {}
    foundry.damage(release.blobs["head"])  # turns the same byte back
    releases.offer(release)
    assert versions(releases) == {"intents": release.version}


def test_older_releases_offered_late_are_ignored(releases: Releases, foundry: Foundry) -> None:
    history = [foundry.release() for _ in range(3)]
    releases.offer(history[2])
    versions(releases)
    for late in history:
        releases.offer(late)
        assert versions(releases) == {"intents": history[2].version}


def test_a_rollback_goes_back_and_the_next_release_goes_on(
    releases: Releases, foundry: Foundry
) -> None:
    first, second = foundry.release(), foundry.release()
    back = foundry.rollback("intents", first.version)
    third = foundry.release()
    assert back.rolled_back_from == second.version
    releases.offer(second)
    versions(releases)
    releases.offer(back)
    assert versions(releases) == {"intents": back.version}
    releases.offer(second)  # read again: it was rolled back from
    assert versions(releases) == {"intents": back.version}
    releases.offer(third)
    assert versions(releases) == {"intents": third.version}
    releases.offer(back)  # read again: it is over
    assert versions(releases) == {"intents": third.version}


def test_a_restarted_server_that_reads_the_whole_topic_ends_where_the_topic_ends(
    releases: Releases, foundry: Foundry
) -> None:
    first, second = foundry.release(), foundry.release()
    back = foundry.rollback("intents", first.version)
    for release in (first, second, back):
        releases.offer(release)
    assert versions(releases) == {"intents": back.version}
    served = releases.current()["intents"].release
    assert served.rolled_back_from == second.version


def test_of_many_offered_while_one_loads_only_the_newest_is_loaded(
    load: Load, foundry: Foundry, metrics: Metrics
) -> None:
    loading, go_on, loaded = threading.Event(), threading.Event(), list[str]()

    def slow(release: ModelRelease) -> ReleasedModel:
        loading.set()
        go_on.wait(30)
        loaded.append(release.version)
        return load(release)

    releases = Releases(slow, metrics=metrics, now=lambda: NOW, tasks=frozenset({"intents"}))
    history = [foundry.release() for _ in range(5)]
    releases.offer(history[0])
    loading.wait(30)
    for release in history[1:]:
        releases.offer(release)
    assert not releases.settled
    go_on.set()
    assert versions(releases) == {"intents": history[-1].version}
    assert loaded == [history[0].version, history[-1].version]
    releases.close()


def test_releases_of_other_deployments_tasks_are_ignored(
    releases: Releases, foundry: Foundry
) -> None:
    releases.offer(foundry.release(task="elsewhere"))
    assert versions(releases) == {}


def test_tasks_over_the_same_encoder_share_it(releases: Releases, foundry: Foundry) -> None:
    releases.offer(foundry.release())
    releases.offer(foundry.release("topics", "multilabel", TOPICS))
    assert set(versions(releases)) == {"intents", "topics"}
    models = releases.current()
    assert models["intents"].encoder is models["topics"].encoder


def test_after_closing_nothing_is_loaded_and_what_serves_goes_on(
    releases: Releases, foundry: Foundry
) -> None:
    first = foundry.release()
    releases.offer(first)
    versions(releases)
    releases.close()
    releases.offer(foundry.release())
    assert versions(releases) == {"intents": first.version}
