"""Builds the parts of each role from the settings, and runs it.

Owns which class gets which setting; must not know how any of them works. Heavy libraries are
imported by the role that needs them, not before.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server

from mindstream.clients import (
    kafka_arguments,
    make_join,
    make_memory,
    make_producer,
    make_redis,
    reaching_kafka,
    reaching_redis,
    require_topics,
    servers,
)
from mindstream.exits import FAILED
from mindstream.settings import Settings
from schemas.errors import FencedError, MindstreamError, NotRunningError, SettingsError
from streams.decoding import Limits
from streams.topics import Topics

log = logging.getLogger("mindstream")

ROLES = ("ingest", "learn", "serve", "watch")

PORT_PATIENCE_S = 3.0  # whoever had the port may just be going


def configure_logging(settings: Settings) -> None:
    """Log to stderr, one line an event, the libraries' chatter left out."""
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for noisy in ("kafka", "aiokafka", "faust", "mode", "abc", "urllib3", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))


def set_threads(settings: Settings) -> None:
    """Give torch its share of the cores: half of them, unless the settings say."""
    import torch

    torch.set_num_threads(settings.model.threads or max(1, (os.cpu_count() or 2) // 2))


def make_app(settings: Settings, role: str, *, port: int) -> Any:  # noqa: ANN401
    """Build a role's Faust app."""
    from streams.app import AppConfig, Security, make_app

    kafka = settings.kafka
    return make_app(
        AppConfig(
            name=f"{settings.kafka.prefix}-{role}",
            servers=tuple(servers(settings)),
            web_host=settings.web.host,
            web_port=port,
            data_dir=settings.data_dir / "faust",
            embedded=settings.embedded_kafka,
            session_timeout_s=settings.kafka.session_timeout_s,
            fast=settings.kafka.transport == "fast",
            security=Security(
                protocol=kafka.security,
                mechanism=kafka.sasl_mechanism,
                username=kafka.username,
                password=kafka.password,
                ca_file=kafka.ca_file,
            ),
        )
    )


def run_role(settings: Settings, role: str) -> None:
    """Run one role until it is told to stop.

    Args:
        settings: of the deployment.
        role: one of `ROLES`.

    Raises:
        SystemExit: it ended; what another start may mend is said here, with status 1.
        SettingsError: its settings are wrong.
        NotRunningError: they name no cluster, and none was started.
        FencedError: another learner has taken over.
    """
    configure_logging(settings)
    runners = {"ingest": _run_ingest, "learn": _run_learn, "serve": _run_serve, "watch": _run_watch}
    try:
        check_ports(settings, [role], patience_s=PORT_PATIENCE_S)
        if not settings.embedded_kafka:
            require_topics(settings, topics_of(role))
        with reaching_redis(settings), reaching_kafka(settings):
            runners[role](settings)
    except (SettingsError, NotRunningError, FencedError):
        raise
    except MindstreamError as error:
        log.error("%s: %s", role, error)  # noqa: TRY400  # the words are enough; DEBUG shows more
        log.debug("it came from here", exc_info=True)
        raise SystemExit(FAILED) from error


def topics_of(role: str) -> set[str]:
    """Name the topics that a role reads or writes, without the prefix."""
    from streams.asyncapi import ROLES as TABLE

    return {
        name for one, _, receives, sends in TABLE if one == role for name in (*receives, *sends)
    }


def check_ports(settings: Settings, roles: Sequence[str], *, patience_s: float = 0.0) -> None:
    """Fail at once, and in words, when the port of a role's pages is taken.

    Args:
        settings: of the deployment.
        roles: whose ports.
        patience_s: how long to wait for a port that is taken, seconds.

    Raises:
        SettingsError: a port is taken, or two roles have the same.
    """
    problems: list[str] = []
    owners: dict[int, str] = {}
    deadline_s = time.monotonic() + patience_s
    for role in roles:
        port = int(getattr(settings, role).port)
        other = owners.setdefault(port, role) if port else role
        if other != role:
            problems.append(f"{role}.port = {port}: is that of {other} too")
            continue
        while (reason := _cannot_bind(settings.web.host, port)) and time.monotonic() < deadline_s:
            time.sleep(0.2)
        if reason:
            problems.append(
                f"{role}.port = {port}: cannot be used on {settings.web.host} ({reason})"
            )
    if problems:
        raise SettingsError(problems)


def _cannot_bind(host: str, port: int) -> str | None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def _run_ingest(settings: Settings) -> None:
    from learners.tasks import task_kind
    from serving.metrics import Metrics
    from streams.app import run_worker
    from streams.flow import ingest_flow
    from streams.ingest import Ingest, IngestRules

    client = make_redis(settings)
    rules = IngestRules(
        kinds={name: task_kind(task.kind) for name, task in settings.tasks.items()},
        limits=_limits(settings),
        held_out_share=settings.replay.held_out_share,
    )
    metrics = Metrics(CollectorRegistry())
    app = make_app(settings, "ingest", port=settings.ingest.port)
    ingest = Ingest(
        topics=Topics(settings.kafka.prefix),
        rules=rules,
        join=make_join(settings, client),
        memories={name: make_memory(settings, client, name) for name in settings.tasks},
        metrics=metrics,
    )
    ingest_flow(app, ingest, metrics)
    run_worker(app, log_level=settings.log_level)


def _run_learn(settings: Settings) -> None:
    from kafka import KafkaConsumer

    from learners.checkpoint import CheckpointStore, Fence
    from learners.kept import NothingKept
    from mindstream.features import make_kept
    from serving.metrics import Metrics
    from streams.cadence import Cadence
    from streams.learn import LearnRole
    from streams.unlabelled import UnlabelledTexts

    set_threads(settings)
    client = make_redis(settings)
    metrics = Metrics(CollectorRegistry())
    if settings.learn.port:
        start_http_server(settings.learn.port, settings.web.host, metrics.registry)
    from mindstream.learning import (
        LearnMetrics,
        make_consolidators,
        make_learners,
        make_releasers,
    )

    memories = {name: make_memory(settings, client, name) for name in settings.tasks}
    kept = make_kept(settings, metrics) if settings.learn.reuse_features else NothingKept()
    learners = make_learners(settings, memories, kept=kept)
    releasers = make_releasers(settings, learners, memories, kept=kept)
    unlabelled = UnlabelledTexts(
        lambda: KafkaConsumer(
            **kafka_arguments(settings),
            enable_auto_commit=False,
            fetch_max_wait_ms=50 if settings.embedded_kafka else 500,
        ),
        topic=Topics(settings.kafka.prefix).interactions,
        kinds={name: learner.kind for name, learner in learners.items()},
        held_out_share=settings.replay.held_out_share,
        rows=settings.data.unlabelled_rows,
        clock_s=time.monotonic,
    )
    role = LearnRole(
        consumer=KafkaConsumer(
            **kafka_arguments(settings),
            group_id=f"{settings.kafka.prefix}-learn",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=20 if settings.embedded_kafka else 500,
            max_partition_fetch_bytes=8 * 1024 * 1024,
            metadata_max_age_ms=30_000,  # how soon it knows of partitions that are added
        ),
        producer=make_producer(settings),
        topics=Topics(settings.kafka.prefix),
        learners=learners,
        releasers=releasers,
        checkpoints=CheckpointStore(settings.data_dir / "checkpoints"),
        fence=Fence(client, learn_fence(settings)),
        cadence=Cadence(
            batch_rows=settings.learn.batch_rows
            or max(learner.strategy.batch_rows for learner in learners.values()),
            max_wait_s=settings.learn.max_wait_s,
            release_every_s=settings.learn.release_every_s,
            checkpoint_every_s=settings.learn.checkpoint_every_s,
            step_rows=settings.learn.batch_rows or None,
        ),
        observer=LearnMetrics(metrics, learners),
        consolidators=make_consolidators(settings, learners, memories, unlabelled),
        skipped=lambda topic: metrics.messages_skipped_total.labels(topic).inc(),
        clock_s=time.monotonic,
        now=utc_now,
    )
    signal.signal(signal.SIGTERM, role.stop)
    signal.signal(signal.SIGINT, role.stop)
    role.run()


def _run_serve(settings: Settings) -> None:
    from kafka import KafkaConsumer

    from learners.tasks import task_kind
    from mindstream.answering import make_batcher, make_releases
    from serving.metrics import Metrics
    from streams.admission import HttpLimits
    from streams.app import run_worker
    from streams.flow import serve_flow
    from streams.http import HttpConfig
    from streams.models import ModelsReader
    from streams.serve import Serve

    set_threads(settings)
    metrics = Metrics(CollectorRegistry())
    topics = Topics(settings.kafka.prefix)
    releases = make_releases(settings, metrics)
    app = make_app(settings, "serve", port=settings.serve.port)
    serve = Serve(
        topics=topics,
        batcher=make_batcher(settings, releases, metrics),
        releases=releases,
        metrics=metrics,
        limits=_limits(settings),
    )
    models = ModelsReader(
        lambda: KafkaConsumer(
            **kafka_arguments(settings),
            enable_auto_commit=False,
            fetch_max_wait_ms=100 if settings.embedded_kafka else 500,
        ),
        topic=topics.models,
        releases=releases,
        metrics=metrics,
    )
    http = HttpConfig(
        {name: task_kind(task.kind) for name, task in settings.tasks.items()},
        HttpLimits(**settings.http.model_dump(exclude={"enabled"})),
    )
    serve_flow(
        app,
        serve,
        models,
        metrics,
        rows=settings.serve.batch_rows,
        within_s=settings.serve.max_wait_s,
        http=http if settings.http.enabled else None,
    )
    run_worker(app, log_level=settings.log_level)


def _run_watch(settings: Settings) -> None:
    from learners.tasks import task_kind
    from serving.drift import adwin, page_hinkley
    from serving.metrics import Metrics
    from serving.pairing import Pairing
    from serving.watcher import Watcher
    from streams.app import run_worker
    from streams.flow import watch_flow
    from streams.watch import Watch

    metrics = Metrics(CollectorRegistry())
    app = make_app(settings, "watch", port=settings.watch.port)
    watch = Watch(
        topics=Topics(settings.kafka.prefix),
        pairing=Pairing(
            make_redis(settings),
            namespace=settings.redis.namespace,
            ttl_s=settings.watch.pair_ttl_s,
            remember_s=settings.watch.pair_ttl_s,
        ),
        watcher=Watcher(
            {name: task_kind(task.kind) for name, task in settings.tasks.items()},
            window=settings.watch.window,
            detectors={
                "error": lambda: adwin.Adwin(delta=settings.watch.adwin_delta),
                "confidence": lambda: page_hinkley.PageHinkley(
                    threshold=settings.watch.page_hinkley_threshold
                ),
            },
        ),
        metrics=metrics,
    )
    watch_flow(app, watch, metrics)
    run_worker(app, log_level=settings.log_level)


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_bytes=settings.ingest.max_message_bytes,
        max_age_s=settings.ingest.max_age_days * 86_400.0,
        max_ahead_s=settings.ingest.max_ahead_s,
    )


def utc_now() -> datetime:
    """Read the wall clock."""
    return datetime.now(UTC)


def learn_fence(settings: Settings) -> str:
    """Name the Redis key that counts up when a learner has loaded and takes its place."""
    return f"{settings.redis.namespace}:learn:fence"


def state_file(settings: Settings) -> Path:
    """Where `mindstream up` says which embedded parts run."""
    return settings.data_dir / "up.json"
