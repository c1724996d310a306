"""Which release answers for each task: loads the next beside it, warms it, moves one reference.

Owns the order of releases and the swap; must not know why a release exists or where its message
came from. Loading happens on one background thread; answering never waits for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

from schemas import ModelRelease
from serving.metrics import Metrics

if TYPE_CHECKING:
    from learners.released import ReleasedModel

log = logging.getLogger(__name__)

WARM_TEXT = "one forward pass, so that the first real one is not the slow one"


@dataclass(frozen=True, slots=True)
class Serving:
    """A release that answers.

    Attributes:
        model: loaded and warm.
        since: when it began to answer.
    """

    model: ReleasedModel
    since: datetime


class Releases:
    """The releases being served, at most one a task.

    Args:
        load: a manifest to a loaded model; blocking. `ReleaseError` (or any other error) refuses
            the release.
        metrics: where swaps and refusals are counted.
        now: the wall clock.
        tasks: the tasks of this deployment; releases of others are ignored.
    """

    def __init__(
        self,
        load: Callable[[ModelRelease], ReleasedModel],
        *,
        metrics: Metrics,
        now: Callable[[], datetime],
        tasks: frozenset[str],
    ) -> None:
        self._load = load
        self._metrics = metrics
        self._now = now
        self.tasks = tasks
        self._models: Mapping[str, ReleasedModel] = MappingProxyType({})
        self._serving: Mapping[str, Serving] = MappingProxyType({})
        self._highest: dict[str, int] = {}
        self._offered: dict[str, ModelRelease] = {}
        self._changed = threading.Condition()
        self._busy = self._closed = False
        self._thread: threading.Thread | None = None

    def current(self) -> Mapping[str, ReleasedModel]:
        """Give the models by task, as one snapshot that no swap changes: take it once a batch."""
        return self._models

    def serving(self) -> Mapping[str, Serving]:
        """Give what serves and since when, by task."""
        return self._serving

    def offer(self, release: ModelRelease) -> None:
        """Take note of a release, to be loaded soon; returns at once.

        Of several offered while one loads, only the newest of each task is loaded.
        """
        if release.task not in self.tasks:
            log.info("release %s of task %s: no such task here", release.version, release.task)
            return
        with self._changed:
            if self._closed or not self._is_newer(release, self._offered.get(release.task)):
                return
            self._offered[release.task] = release
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="releases", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def settle(self, timeout_s: float) -> bool:
        """Wait until everything offered is loaded or refused.

        Args:
            timeout_s: longest wait, seconds.

        Returns:
            Whether it is.
        """
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._offered and not self._busy, timeout=timeout_s
            )

    @property
    def settled(self) -> bool:
        """Whether everything offered is loaded or refused."""
        with self._changed:
            return not self._offered and not self._busy

    def close(self) -> None:
        """Stop loading; what serves goes on serving."""
        with self._changed:
            self._closed = True
            self._offered.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._offered or self._closed)
                if self._closed:
                    return
                release = self._offered.pop(next(iter(self._offered)))
                self._busy = True
            try:
                if self._is_newer(release, None):
                    self._try(release)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _try(self, release: ModelRelease) -> None:
        try:
            model = self._load(release)
            model.predict([WARM_TEXT])
        # Whatever is wrong with a release, the one before it goes on answering.
        except Exception:
            self._metrics.release_refusals_total.labels(release.task).inc()
            log.exception(
                "release %s of task %s is refused; %s",
                release.version,
                release.task,
                self._still(release.task),
            )
            return
        self._swap(model)

    def _swap(self, model: ReleasedModel) -> None:
        task, release = model.release.task, model.release
        before = self._models.get(task)
        since = self._now()
        self._serving = MappingProxyType({**self._serving, task: Serving(model, since)})
        self._highest[task] = _count(release)
        # The one assignment that a batch can see: before it the old, after it the new release.
        self._models = MappingProxyType({**self._models, task: model})
        metrics = self._metrics
        if before is not None:
            metrics.release_info.remove(task, before.release.version)
        metrics.release_info.labels(task, release.version).set(1)
        metrics.release_timestamp_seconds.labels(task).set(release.time.timestamp())
        metrics.release_swaps_total.labels(task).inc()
        metrics.labels.labels(task).set(release.labels)
        log.info("task %s: release %s answers", task, release.version)

    def _is_newer(self, release: ModelRelease, waiting: ModelRelease | None) -> bool:
        """Say whether a release comes after both what served and what waits to be loaded.

        Releases of a task are ordered by the count in their version. A rollback is a release with
        a count of its own over old blobs, so that one read again later changes nothing.
        """
        highest = self._highest.get(release.task, 0)
        return _count(release) > max(highest, _count(waiting) if waiting is not None else 0)

    def _still(self, task: str) -> str:
        served = self._models.get(task)
        if served is None:
            return "the task has no other"
        return f"{served.release.version} goes on"


def _count(release: ModelRelease) -> int:
    """Give a release's place in its task's order."""
    return int(release.version.split("-")[0])
