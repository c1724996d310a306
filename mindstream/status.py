"""What `mindstream status` shows: roles, what became of what came in, what serves and how well.

Every part is asked for on its own: one that is away hides no other. Owns what is asked and how it
is shown; must not know how roles are run.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Column, Table

from learners.registry import Registry
from mindstream.clients import make_join, make_redis, reaching_redis
from mindstream.settings import Settings
from mindstream.up import reach
from mindstream.wiring import ROLES
from schemas.errors import NoReleaseError, UnreachableError

PAGE_TIMEOUT_S = 2.0
COUNTERS = ("interactions", "joined", "waiting", "expired", "refused", "dead", "repeated")
ACCURACY = "mindstream_prequential_accuracy"

Counters = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Status:
    """One look at a deployment.

    Attributes:
        roles: whether each answers on its page.
        counters: task to counter to value; None while Redis is away.
        away: what Redis said instead.
        newest: task to the newest release in the store, in words.
        serving: task to the version that answers, as the server says.
        accuracy: task to the share of right answers in the rolling window, as the watcher says.
    """

    roles: Mapping[str, bool]
    counters: Counters | None
    away: str | None
    newest: Mapping[str, str]
    serving: Mapping[str, str]
    accuracy: Mapping[str, float]


def show_status(settings: Settings, *, as_json: bool, out: Console) -> int:
    """Show how a deployment is doing.

    Args:
        settings: of the deployment.
        as_json: one JSON object instead of tables.
        out: where to print.

    Returns:
        Exit status: 1 when a role or Redis does not answer.
    """
    settings = reach(settings)
    status = look(settings)
    if as_json:
        found = {
            "roles": status.roles,
            "counters": status.counters,
            "releases": status.newest,
            "serving": status.serving,
            "accuracy": status.accuracy,
        }
        out.print_json(json.dumps(found))
    else:
        _print(status, settings, out)
    return 0 if all(status.roles.values()) and status.counters is not None else 1


def look(settings: Settings) -> Status:
    """Ask every part of a deployment how it is doing."""
    host = "127.0.0.1" if settings.web.host == "0.0.0.0" else settings.web.host
    site = {role: f"http://{host}:{getattr(settings, role).port}" for role in ROLES}
    pages = {role: _page(f"{site[role]}/metrics") for role in ROLES}
    redis = make_redis(settings, retries=0)
    counters, away = None, None
    try:
        with reaching_redis(settings):
            counters = make_join(settings, redis).counters()
    except UnreachableError as error:
        away = str(error)
    return Status(
        roles={role: page is not None for role, page in pages.items()},
        counters=counters,
        away=away,
        newest=_newest(settings),
        serving=_serving(_page(f"{site['serve']}/releases")),
        accuracy=_accuracy(pages["watch"]),
    )


def _page(url: str) -> str | None:
    """Fetch a page; None where nobody answers, or not with it."""
    try:
        with urllib.request.urlopen(url, timeout=PAGE_TIMEOUT_S) as answer:
            text: str = answer.read().decode()
            return text
    except (urllib.error.URLError, OSError, ValueError):
        return None


def _serving(page: str | None) -> dict[str, str]:
    try:
        releases = json.loads(page or "{}")
    except ValueError:  # somebody else's page
        return {}
    return {task: str(release["version"]) for task, release in releases.items()}


def _accuracy(page: str | None) -> dict[str, float]:
    return {
        sample.labels["task"]: sample.value
        for family in text_string_to_metric_families(page or "")
        for sample in family.samples
        if sample.name == ACCURACY
    }


def _newest(settings: Settings) -> dict[str, str]:
    registry = Registry(settings.store_url)
    newest = {}
    for task in settings.tasks:
        try:
            release = registry.latest(task)
        except NoReleaseError:
            newest[task] = "nothing released yet"
        else:
            newest[task] = f"{release.version}, {release.learned:,} learned"
    return newest


def _print(status: Status, settings: Settings, out: Console) -> None:
    table = Table("role", "port", "answers", title="roles", title_justify="left")
    for role, answers in status.roles.items():
        port = str(getattr(settings, role).port)
        table.add_row(role, port, "[green]yes[/]" if answers else "[red]no[/]")
    out.print(table)
    if status.counters is None:
        out.print(f"no counters: {status.away}", style="red", markup=False)
    else:
        table = Table("task", *COUNTERS, title="interactions", title_justify="left")
        for task, counts in status.counters.items():
            table.add_row(task, *(f"{counts[name]:,}" for name in COUNTERS))
        out.print(table)
    table = Table(
        "task",
        "newest release",
        Column("serving", no_wrap=True),
        "right answers",
        title="releases",
        title_justify="left",
    )
    for task, newest in status.newest.items():
        accuracy = status.accuracy.get(task)
        share = "-" if accuracy is None else f"{100 * accuracy:.1f} % of the newest"
        table.add_row(task, newest, status.serving.get(task, "-"), share)
    out.print(table)
