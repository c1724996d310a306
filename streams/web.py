"""The HTTP pages of the Faust roles: /healthz, /readyz, /metrics and, for servers, /releases.

Owns what the pages say and when a worker is ready; must not know models or agents. Port and address
are the app's settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import faust

from serving.metrics import CONTENT_TYPE, Metrics
from serving.releases import Releases

Checks = Mapping[str, Callable[[], bool]]


def attach_pages(
    app: faust.App,
    *,
    metrics: Metrics,
    releases: Releases | None = None,
    ready: Checks | None = None,
    alive: Checks | None = None,
) -> None:
    """Add the pages to an app's web server.

    Args:
        app: before it starts.
        metrics: shown at /metrics, and nothing else is.
        releases: of a server; adds /releases and the tasks' state to /readyz.
        ready: what else must hold, by name, before the worker is ready.
        alive: what must hold, by name, for the process to be worth keeping.
    """
    assigned = _watch_assignment(app)
    readiness: Checks = {"partitions-assigned": assigned, **(ready or {})}
    liveness: Checks = alive or {}

    async def healthz(page: Any, request: Any) -> Any:  # noqa: ANN401
        del request
        return _verdict(page, liveness, {}, otherwise="failing")

    async def readyz(page: Any, request: Any) -> Any:  # noqa: ANN401
        del request
        more: dict[str, Any] = {}
        if releases is not None:
            more["tasks"] = {
                task: releases.serving()[task].model.release.version
                if task in releases.serving()
                else None
                for task in sorted(releases.tasks)
            }
        return _verdict(page, readiness, more, otherwise="waiting")

    async def scrape(page: Any, request: Any) -> Any:  # noqa: ANN401
        del request
        return page.bytes(metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    app.page("/healthz", name="healthz")(healthz)
    app.page("/readyz", name="readyz")(readyz)
    app.page("/metrics", name="metrics")(scrape)
    if releases is not None:
        app.page("/releases", name="releases")(_releases_page(releases))


def _releases_page(releases: Releases) -> Callable[[Any, Any], Any]:
    async def page_of_releases(page: Any, request: Any) -> Any:  # noqa: ANN401
        del request
        return page.json(releases_shown(releases))

    return page_of_releases


def releases_shown(releases: Releases) -> dict[str, dict[str, object]]:
    """Say which release of each task answers, and what it is: ready to be written as JSON."""
    return {
        task: {
            "version": serving.model.release.version,
            "serving_since": serving.since.isoformat(),
            "released_at": serving.model.release.time.isoformat(),
            "kind": serving.model.release.kind,
            "strategy": serving.model.release.strategy,
            "backbone": serving.model.release.backbone,
            "parent": serving.model.release.parent,
            "rolled_back_from": serving.model.release.rolled_back_from,
            "learned": serving.model.release.learned,
            "labels": serving.model.release.labels,
            "gate": serving.model.release.gate.reason,
            "engine": f"{serving.model.encoder.choice.engine} "
            f"{serving.model.encoder.choice.precision}",
            "engine_settled": serving.model.encoder.engine_settled,
        }
        for task, serving in sorted(releases.serving().items())
    }


def _watch_assignment(app: faust.App) -> Callable[[], bool]:
    """Say whether the group has given this worker its share.

    A share may be empty: with more workers than partitions, the ones left over are ready to take
    over.
    """
    state = {"assigned": False}

    async def on_assigned(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        del args, kwargs
        state["assigned"] = True

    app.on_partitions_assigned.connect(on_assigned)
    return lambda: state["assigned"] and not app.rebalancing


def _verdict(
    page: Any,  # noqa: ANN401
    checks: Checks,
    more: Mapping[str, Any],
    *,
    otherwise: str,
) -> Any:  # noqa: ANN401
    results = {name: check() for name, check in checks.items()}
    good = all(results.values())
    body = {"status": "ok" if good else otherwise, "checks": results, **more}
    return page.json(body, status=200 if good else 503)
