"""`mindstream up`: the four roles and what they need, on one machine.

Starts an embedded Kafka and Redis where the settings name no other. Owns the order of start and
stop; must not know what the roles do.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console

from mindstream.clients import require_topics
from mindstream.embedded.kafka import LIMITS, EmbeddedKafka
from mindstream.embedded.redis import EmbeddedRedis
from mindstream.exits import WRONG
from mindstream.sections import EMBEDDED
from mindstream.settings import Settings, role_environment
from mindstream.supervisor import RoleProcess, Supervisor
from mindstream.wiring import ROLES, check_ports, state_file
from schemas.errors import SettingsError
from streams.topics import TABLE, Topics

# Stopped in this order: first who takes events in, last who needs the others' results.
STOP_ORDER = ("ingest", "serve", "watch", "learn")


@dataclass(frozen=True, slots=True)
class Services:
    """Where Kafka and Redis are.

    Attributes:
        overrides: dotted setting names to values that the roles need.
        embedded_kafka: True when the cluster is ours.
    """

    overrides: dict[str, str]
    embedded_kafka: bool


@contextmanager
def services(settings: Settings, say: Callable[[str], None]) -> Iterator[Services]:
    """Start the embedded parts that the settings ask for; they end with the block.

    Args:
        settings: `embedded` means: start one.
        say: told what starts, and what it cannot do.

    Yields:
        Addresses for the roles.
    """
    overrides: dict[str, str] = {}
    embedded_kafka = settings.kafka.servers == EMBEDDED
    with ExitStack() as stack:
        if settings.redis.url == EMBEDDED:
            server = stack.enter_context(EmbeddedRedis(settings.data_dir / "redis"))
            overrides["redis.url"] = server.url
            say("embedded Redis is up; what it holds is gone when this ends")
        if embedded_kafka:
            topics = Topics(settings.kafka.prefix)
            cluster = stack.enter_context(
                EmbeddedKafka({topics.full(row.name): settings.kafka.partitions for row in TABLE})
            )
            overrides["kafka.servers"] = cluster.bootstrap
            overrides["embedded_kafka"] = "true"
            say(f"embedded Kafka is up on {cluster.bootstrap}. {LIMITS}")
        yield Services(overrides, embedded_kafka)


def role_processes(
    settings: Settings, overrides: dict[str, str], *, log_dir: Path | None
) -> list[RoleProcess]:
    """Describe the four role processes.

    Args:
        settings: handed to every role through its environment.
        overrides: what the parent decided, such as the embedded addresses.
        log_dir: where each role's output goes; None: to this terminal.
    """
    environment = role_environment(settings, overrides)
    return [
        RoleProcess(
            name=role,
            argv=[sys.executable, "-m", "mindstream", role],
            env=environment,
            log_file=None if log_dir is None else log_dir / f"{role}.log",
        )
        for role in STOP_ORDER
    ]


def run_up(settings: Settings) -> int:
    """Run everything until Ctrl-C or SIGTERM.

    Args:
        settings: of the deployment.

    Returns:
        Exit status: 0 after an ordered stop; 2 when no role can go on. Wrong settings raise
        `SettingsError` before anything is started.
    """
    console = Console(stderr=True, highlight=False)
    stopping = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    say = console.print
    status = 0
    with only_one(settings):
        check_ports(settings, ROLES)
        if settings.kafka.servers != EMBEDDED:
            require_topics(settings, [row.name for row in TABLE])
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)
        with services(settings, say) as running:
            roles = role_processes(settings, running.overrides, log_dir=None)
            supervisor = Supervisor(roles, say=say)
            _write_state(settings, running)
            try:
                supervisor.start()
                say(f"roles {', '.join(ROLES)} are starting; Ctrl-C stops them in order")
                say(
                    f"pages: http://{settings.web.host}:{settings.serve.port}/releases and "
                    f"/metrics; look in with `mindstream status`"
                )
                while not stopping and status == 0:
                    supervisor.poll()
                    if all(state.final for state in supervisor.state()):
                        status = WRONG
                    time.sleep(0.2)
                say("stopping")
            finally:
                supervisor.stop(timeout_s=8.0)
                state_file(settings).unlink(missing_ok=True)
    say("stopped")
    return status


@contextmanager
def only_one(settings: Settings) -> Iterator[None]:
    """Hold the data_dir for this `mindstream up`: a second one would take the first one's state.

    Yields:
        Nothing.

    Raises:
        SettingsError: another one holds it.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with (settings.data_dir / "up.lock").open("a") as lock:  # let go of when this process ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingsError(
                [
                    f"data_dir = {str(settings.data_dir)!r}: another `mindstream up` runs in it; "
                    "stop that one, or give this one a data_dir and ports of its own"
                ]
            ) from error
        yield


def _write_state(settings: Settings, running: Services) -> None:
    """Leave the embedded addresses where other commands of this folder find them."""
    path = state_file(settings)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)  # it holds a password
    with os.fdopen(handle, "w") as file:
        json.dump({"pid": os.getpid(), "overrides": running.overrides}, file)


def running_overrides(settings: Settings) -> dict[str, str]:
    """Read the addresses of a running `mindstream up` of this data_dir; empty when none runs."""
    path = state_file(settings)
    try:
        state = json.loads(path.read_text())
        os.kill(int(state["pid"]), 0)
    except (OSError, ValueError, KeyError):
        return {}
    overrides: dict[str, str] = state["overrides"]
    return overrides


def reach(settings: Settings) -> Settings:
    """Point `embedded` at what a running `mindstream up` of the same data_dir has started."""
    running = running_overrides(settings)
    if settings.kafka.servers == EMBEDDED and "kafka.servers" in running:
        kafka = settings.kafka.model_copy(update={"servers": running["kafka.servers"]})
        settings = settings.model_copy(update={"kafka": kafka, "embedded_kafka": True})
    if settings.redis.url == EMBEDDED and "redis.url" in running:
        redis = settings.redis.model_copy(update={"url": running["redis.url"]})
        settings = settings.model_copy(update={"redis": redis})
    return settings
