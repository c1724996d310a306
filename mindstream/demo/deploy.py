"""The deployment that a demo runs: settings of its own, free ports, topics that end with it.

Owns what of the user's settings a demo keeps and what it replaces; must not know what is streamed.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mindstream.clients import make_admin, make_redis
from mindstream.demo.collector import answers
from mindstream.demo.plan import Plan
from mindstream.sections import EMBEDDED, TaskSettings
from mindstream.settings import Settings
from mindstream.supervisor import Supervisor
from mindstream.wiring import ROLES, learn_fence
from schemas.errors import MindstreamError
from streams.topics import Topics

READY_S = 240.0
LOOK_S = 0.25
CONTROL = "naive"  # the strategy that shows what forgetting is


def adjusted(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Replace settings by dotted name; None leaves one as it is.

    Examples:
        >>> from mindstream.settings import load_settings
        >>> adjusted(load_settings(), {"learn.seed": 7}).learn.seed
        7
    """
    for name, value in changes.items():
        if value is None:
            continue
        section, _, field = name.partition(".")
        if field:
            part = getattr(settings, section).model_copy(update={field: value})
            settings = settings.model_copy(update={section: part})
        else:
            settings = settings.model_copy(update={section: value})
    return settings


def demo_settings(
    settings: Settings, plan: Plan, *, folder: Path, changes: Mapping[str, Any]
) -> Settings:
    """Give the settings of a demo: the user's, with names and places of its own.

    Args:
        settings: the user's.
        plan: what will be streamed.
        folder: everything is kept here.
        changes: dotted names to values, from the demo's flags.
    """
    own = f"demo-{os.getpid()}"
    mine = adjusted(settings, changes)
    mine = adjusted(
        mine,
        {
            "data_dir": folder,
            "store.url": "",
            "store.keep": 100_000,
            "tasks": {plan.task: TaskSettings(kind=plan.kind)},
            "ingest.label_ttl_s": plan.label_ttl_s,
            "kafka.prefix": None
            if mine.kafka.servers == EMBEDDED
            else f"{mine.kafka.prefix}-{own}",
            "redis.namespace": None
            if mine.redis.url == EMBEDDED
            else f"{mine.redis.namespace}-{own}",
        },
    )
    if mine.learn.strategy == CONTROL:  # its releases forget: the gate would let none pass
        losses = ("margin", "label_loss", "slice_loss", "calibration_loss")
        mine = adjusted(mine, {f"gate.{loss}": 1.0 for loss in losses})
    taken: set[int] = set()
    return adjusted(mine, {f"{role}.port": _port(mine, role, taken) for role in ROLES})


def _port(settings: Settings, role: str, taken: set[int]) -> int:
    """Give the port of the settings where it is free, else any free one.

    Raises:
        MindstreamError: there is none.
    """
    for wanted in (int(getattr(settings, role).port), 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.web.host, wanted))
            except OSError:
                continue
            port = int(probe.getsockname()[1])
        if port not in taken:
            taken.add(port)
            return port
    raise MindstreamError(f"no free port for the pages of {role}")


def live_settings(settings: Settings, overrides: Mapping[str, str]) -> Settings:
    """Point settings at the services that were started."""
    changes: dict[str, Any] = dict(overrides)
    if "embedded_kafka" in changes:
        changes["embedded_kafka"] = changes["embedded_kafka"] == "true"
    return adjusted(settings, changes)


def pages(settings: Settings) -> dict[str, str]:
    """Give the address of each role's metrics page."""
    host = "127.0.0.1" if settings.web.host == "0.0.0.0" else settings.web.host
    return {role: f"http://{host}:{getattr(settings, role).port}/metrics" for role in ROLES}


def wait_until_ready(
    settings: Settings,
    supervisor: Supervisor,
    *,
    logs: Path,
    waiting: Callable[[str], None],
    clock_s: Callable[[], float] = time.monotonic,
) -> None:
    """Wait until every role answers.

    Args:
        settings: of the deployment.
        supervisor: of its roles.
        logs: named when a role does not come up.
        waiting: told again and again whom it waits for.
        clock_s: monotonic seconds.

    Raises:
        MindstreamError: a role does not come up.
    """
    missing = pages(settings)
    missing["serve"] = missing["serve"].replace("/metrics", "/readyz")
    redis = make_redis(settings)
    deadline_s = clock_s() + READY_S
    while missing:
        supervisor.poll()
        for role in [role for role, url in missing.items() if answers(url)]:
            # The learner answers while it still loads; it takes its fence when it is ready.
            if role != "learn" or redis.exists(learn_fence(settings)):
                del missing[role]
        waiting(f"waiting for {', '.join(missing)} to start")
        failing = [state.name for state in supervisor.state() if state.restarts >= 2 or state.final]
        if failing or clock_s() > deadline_s:
            who = failing or list(missing)
            raise MindstreamError(
                f"{', '.join(who)} did not come up; the reason is in {logs}/{who[0]}.log"
            )
        time.sleep(LOOK_S)
    redis.close()


def clear_away(settings: Settings, *, embedded_kafka: bool, user_redis: bool) -> None:
    """Remove what a demo left on a user's own Kafka and Redis."""
    if not embedded_kafka:
        admin = make_admin(settings)
        admin.delete_topics(Topics(settings.kafka.prefix).all())
        admin.close()
    if user_redis:
        client = make_redis(settings)
        for key in client.scan_iter(f"{settings.redis.namespace}:*", count=1_000):
            client.unlink(key)
        client.close()
