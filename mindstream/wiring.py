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
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, start_http_server

from mindstream.backbone import load_encoder
from mindstream.settings import EMBEDDED, Settings
from schemas.errors import SettingsError
from streams.decoding import Limits
from streams.topics import TABLE, Topics

if TYPE_CHECKING:
    import redis
    from kafka import KafkaAdminClient, KafkaProducer

    from learners.join import LabelJoin
    from learners.replay import ReplayMemory

log = logging.getLogger("mindstream")

ROLES = ("ingest", "learn", "serve", "watch")


def configure_logging(settings: Settings) -> None:
    """Log to stderr, one line an event, the libraries' chatter left out."""
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for noisy in ("kafka", "aiokafka", "faust", "mode", "abc", "urllib3", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))


def servers(settings: Settings) -> list[str]:
    """List the brokers.

    Raises:
        SettingsError: the settings say `embedded` and nothing has started one.
    """
    if settings.kafka.servers == EMBEDDED:
        raise SettingsError(
            [
                "kafka.servers = 'embedded': this command needs a running cluster; start "
                "`mindstream up` in this folder, or give MINDSTREAM_KAFKA__SERVERS=host:port"
            ]
        )
    return [server.strip() for server in settings.kafka.servers.split(",")]


def kafka_arguments(settings: Settings) -> dict[str, Any]:
    """Give the connection arguments that kafka-python's clients share."""
    kafka = settings.kafka
    arguments: dict[str, Any] = {
        "bootstrap_servers": servers(settings),
        "security_protocol": kafka.security.upper(),
    }
    if settings.embedded_kafka:
        arguments["api_version"] = (2, 6)  # what it answers; asking it first fails loudly
    if kafka.security.startswith("sasl"):
        arguments |= {
            "sasl_mechanism": kafka.sasl_mechanism,
            "sasl_plain_username": kafka.username,
            "sasl_plain_password": kafka.password,
        }
    if kafka.security.endswith("ssl") and kafka.ca_file:
        arguments["ssl_cafile"] = kafka.ca_file
    return arguments


def make_producer(settings: Settings) -> KafkaProducer:
    """Build a kafka-python producer that waits for all replicas."""
    from kafka import KafkaProducer

    return KafkaProducer(
        **kafka_arguments(settings), acks="all", linger_ms=2, max_request_size=16 * 1024 * 1024
    )


def make_admin(settings: Settings) -> KafkaAdminClient:
    """Build a kafka-python admin client."""
    from kafka import KafkaAdminClient

    return KafkaAdminClient(**kafka_arguments(settings))


def make_redis(settings: Settings) -> redis.Redis:
    """Build a Redis client that waits for a server that is away.

    Raises:
        SettingsError: the settings say `embedded` and nothing has started one.
    """
    import redis
    from redis.backoff import ExponentialBackoff
    from redis.retry import Retry

    if settings.redis.url == EMBEDDED:
        raise SettingsError(
            [
                "redis.url = 'embedded': this command needs a running server; start "
                "`mindstream up` in this folder, or give MINDSTREAM_REDIS__URL=redis://host:port"
            ]
        )
    return redis.Redis.from_url(
        settings.redis.url,
        socket_timeout=30,
        socket_connect_timeout=10,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=2.0, base=0.05), retries=5),
        retry_on_error=[redis.ConnectionError, redis.TimeoutError],
    )


def make_join(settings: Settings, client: redis.Redis) -> LabelJoin:
    """Build the label join."""
    from learners.join import LabelJoin

    return LabelJoin(
        client,
        namespace=settings.redis.namespace,
        shards=settings.ingest.shards,
        ttl_s=settings.ingest.label_ttl_s,
        remember_s=settings.ingest.remember_s,
    )


def make_memory(settings: Settings, client: redis.Redis, task: str) -> ReplayMemory:
    """Build the replay memory of one task."""
    from learners.replay import ReplayMemory

    return ReplayMemory(
        client,
        namespace=settings.redis.namespace,
        task=task,
        policy=settings.replay.policy,
        max_rows=settings.replay.max_rows,
        max_bytes=settings.replay.max_bytes,
        held_out_rows=settings.replay.held_out_rows,
    )


def make_topics(settings: Settings) -> list[str]:
    """Create what is missing of the topics.

    Returns:
        Names of the topics that were created.
    """
    from kafka.admin import NewTopic

    topics = Topics(settings.kafka.prefix)
    admin = make_admin(settings)
    try:
        there = set(admin.list_topics())
        missing = [row for row in TABLE if topics.full(row.name) not in there]
        admin.create_topics(
            [
                NewTopic(
                    name=topics.full(row.name),
                    num_partitions=settings.kafka.partitions,
                    replication_factor=settings.kafka.replication,
                    topic_configs=_topic_config(row.name, row.cleanup),
                )
                for row in missing
            ]
        )
        return [topics.full(row.name) for row in missing]
    finally:
        admin.close()


def _topic_config(name: str, cleanup: str) -> dict[str, str]:
    config = {"cleanup.policy": cleanup, "max.message.bytes": str(16 * 1024 * 1024)}
    if name == "examples":
        config["retention.ms"] = "-1"  # the log of truth: a learner may start from its beginning
    return config


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
    """
    configure_logging(settings)
    _check_port(settings, role)
    runners = {"ingest": _run_ingest, "learn": _run_learn, "serve": _run_serve, "watch": _run_watch}
    runners[role](settings)


def _check_port(settings: Settings, role: str) -> None:
    """Fail at once, and in words, when another process has the port of a role's pages.

    Raises:
        SettingsError: the port is taken.
    """
    port = int(getattr(settings, role).port)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.web.host, port))
        except OSError as error:
            raise SettingsError(
                [f"{role}.port = {port}: cannot be used on {settings.web.host} ({error.strerror})"]
            ) from error


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
    from serving.metrics import Metrics
    from streams.learn import Cadence, LearnRole

    set_threads(settings)
    client = make_redis(settings)
    metrics = Metrics(CollectorRegistry())
    if settings.learn.port:
        start_http_server(settings.learn.port, settings.web.host, metrics.registry)
    from mindstream.learning import LearnMetrics, make_learners, make_releasers

    memories = {name: make_memory(settings, client, name) for name in settings.tasks}
    learners = make_learners(settings, memories)
    releasers = make_releasers(settings, learners, memories)
    role = LearnRole(
        consumer=KafkaConsumer(
            **kafka_arguments(settings),
            group_id=f"{settings.kafka.prefix}-learn",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=20 if settings.embedded_kafka else 500,
            max_partition_fetch_bytes=8 * 1024 * 1024,
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
        ),
        observer=LearnMetrics(metrics, learners),
        clock_s=time.monotonic,
        now=utc_now,
    )
    signal.signal(signal.SIGTERM, role.stop)
    signal.signal(signal.SIGINT, role.stop)
    role.run()


def _run_serve(settings: Settings) -> None:
    from kafka import KafkaConsumer

    from learners.registry import Registry
    from learners.released import EncoderCache, ReleasedModel
    from learners.tasks import task_kind
    from serving.metrics import Metrics
    from serving.predictor import Predictor
    from serving.releases import Releases
    from streams.app import run_worker
    from streams.flow import serve_flow
    from streams.models import ModelsReader
    from streams.serve import Serve

    set_threads(settings)
    metrics = Metrics(CollectorRegistry())
    topics = Topics(settings.kafka.prefix)
    registry = Registry(settings.store_url)
    # Loaded now, not when the first release comes: that one then answers within milliseconds.
    encoder = load_encoder(settings)
    encoders = EncoderCache(device=settings.model.device, precision=encoder.precision)
    encoders.preload(encoder)
    releases = Releases(
        lambda release: ReleasedModel.load(release, registry, encoders=encoders),
        metrics=metrics,
        now=utc_now,
        tasks=frozenset(settings.tasks),
    )
    app = make_app(settings, "serve", port=settings.serve.port)
    serve = Serve(
        topics=topics,
        predictor=Predictor(
            {name: task_kind(task.kind) for name, task in settings.tasks.items()},
            top=settings.serve.top,
            now=utc_now,
            monotonic_s=time.monotonic,
        ),
        releases=releases,
        metrics=metrics,
        limits=_limits(settings),
    )
    models = ModelsReader(
        lambda: KafkaConsumer(
            **kafka_arguments(settings),
            enable_auto_commit=False,
            fetch_max_wait_ms=50 if settings.embedded_kafka else 500,
        ),
        topic=topics.models,
        releases=releases,
        metrics=metrics,
    )
    serve_flow(
        app,
        serve,
        models,
        metrics,
        rows=settings.serve.batch_rows,
        within_s=settings.serve.max_wait_s,
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
