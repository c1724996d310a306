"""Connections of a deployment: Kafka clients, Redis, and the stores that live there.

Owns addresses, credentials and patience; must not know roles.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mindstream.sections import EMBEDDED
from mindstream.settings import Settings
from schemas.errors import NotRunningError, SettingsError, UnreachableError
from streams.topics import TABLE, Topics

if TYPE_CHECKING:
    import redis
    from kafka import KafkaAdminClient, KafkaProducer

    from learners.join import LabelJoin
    from learners.replay import ReplayMemory


TOPICS_PATIENCE_S = 3.0  # a topic just made is not yet known to every broker


@contextmanager
def reaching_kafka(settings: Settings) -> Iterator[None]:
    """Put what Kafka's clients raise in a block into words.

    Yields:
        Nothing.

    Raises:
        UnreachableError: the cluster does not answer, or refuses.
    """
    from kafka.errors import KafkaError, NoBrokersAvailable

    try:
        yield
    except KafkaError as error:
        where = f"Kafka at {settings.kafka.servers}"
        if isinstance(error, NoBrokersAvailable):
            raise UnreachableError(
                f"{where} does not answer: is it running, and does kafka.servers name it? "
                "(kafka.security must be what its listener speaks)"
            ) from error
        raise UnreachableError(f"{where}: {type(error).__name__}: {error}") from error


@contextmanager
def reaching_redis(settings: Settings) -> Iterator[None]:
    """Put what a Redis that is away raises in a block into words.

    Yields:
        Nothing.

    Raises:
        UnreachableError: the server does not answer, or refuses the password.
    """
    import redis

    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise UnreachableError(
            f"Redis at {redis_address(settings)} does not answer: is it running, and does "
            f"redis.url name it? ({error})"
        ) from error


def redis_address(settings: Settings) -> str:
    """Give the address of Redis for people: without user and password."""
    if settings.redis.url == EMBEDDED:
        return EMBEDDED
    parts = urlsplit(settings.redis.url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def servers(settings: Settings) -> list[str]:
    """List the brokers.

    Raises:
        NotRunningError: the settings say `embedded` and nothing has started one.
    """
    if settings.kafka.servers == EMBEDDED:
        raise NotRunningError(
            "no Kafka is running here: start `mindstream up` in this folder, or name a cluster "
            "with MINDSTREAM_KAFKA__SERVERS=host:port"
        )
    return [server.strip() for server in settings.kafka.servers.split(",")]


LARGEST_ANSWER = 256 * 1024 * 1024  # of a broker, bytes: 8 MiB of each of 32 partitions


def kafka_arguments(settings: Settings) -> dict[str, Any]:
    """Give the connection arguments that kafka-python's clients share."""
    kafka = settings.kafka
    arguments: dict[str, Any] = {
        "bootstrap_servers": servers(settings),
        "security_protocol": kafka.security.upper(),
        # By default the client breaks off where an answer is larger than 1 MB, and asks again: who
        # has that much to catch up with never would.
        "receive_message_max_bytes": LARGEST_ANSWER,
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


def make_redis(settings: Settings, *, retries: int = 5) -> redis.Redis:
    """Build a Redis client that waits for a server that is away.

    Args:
        settings: of the deployment.
        retries: how often, with back-off, before it says so.

    Raises:
        NotRunningError: the settings say `embedded` and nothing has started one.
    """
    import redis
    from redis.backoff import ExponentialBackoff
    from redis.retry import Retry

    if settings.redis.url == EMBEDDED:
        raise NotRunningError(
            "no Redis is running here: start `mindstream up` in this folder, or name a server "
            "with MINDSTREAM_REDIS__URL=redis://host:port"
        )
    return redis.Redis.from_url(
        settings.redis.url,
        socket_timeout=30,
        socket_connect_timeout=10,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=2.0, base=0.05), retries=retries),
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
    from learners.replay import ReplayLaws, ReplayMemory

    replay = settings.replay
    return ReplayMemory(
        client,
        namespace=settings.redis.namespace,
        task=task,
        laws=ReplayLaws(replay.policy, replay.shares, replay.recent_rows),
        max_rows=replay.max_rows,
        max_bytes=replay.max_bytes,
        held_out_rows=replay.held_out_rows,
    )


def make_topics(settings: Settings) -> list[str]:
    """Create what is missing of the topics.

    Returns:
        Names of the topics that were created.

    Raises:
        NotRunningError: the settings name no cluster.
    """
    from kafka.admin import NewTopic

    if settings.kafka.servers == EMBEDDED:
        raise NotRunningError(
            "kafka.servers names no cluster: `mindstream up` and `mindstream demo` make the topics "
            "of their embedded one themselves; give MINDSTREAM_KAFKA__SERVERS=host:port"
        )
    topics = Topics(settings.kafka.prefix)
    with reaching_kafka(settings):
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


def require_topics(settings: Settings, names: Collection[str]) -> None:
    """Make sure that topics are there.

    Args:
        settings: of the deployment.
        names: without the prefix.

    Raises:
        SettingsError: one is not.
    """
    topics = Topics(settings.kafka.prefix)
    deadline_s = time.monotonic() + TOPICS_PATIENCE_S
    from kafka import KafkaConsumer

    with reaching_kafka(settings):
        client = KafkaConsumer(**kafka_arguments(settings))  # needs fewer rights than an admin
        try:
            while True:
                there = client.topics()
                missing = [full for full in map(topics.full, sorted(names)) if full not in there]
                if not missing:
                    return
                if time.monotonic() > deadline_s:
                    break
                time.sleep(0.5)
        finally:
            client.close()
    raise SettingsError(
        [
            f"topic {name} is not on {settings.kafka.servers}: `mindstream topics create` makes it"
            for name in missing
        ]
    )


def _topic_config(name: str, cleanup: str) -> dict[str, str]:
    config = {"cleanup.policy": cleanup, "max.message.bytes": str(16 * 1024 * 1024)}
    if name in ("interactions", "feedback"):  # else a dead letter could not hold all of it
        config["max.message.bytes"] = str(8 * 1024 * 1024)
    if name == "examples":
        config["retention.ms"] = "-1"  # the log of truth: a learner may start from its beginning
    return config
