"""Connections of a deployment: Kafka clients, Redis, and the stores that live there.

Owns addresses, credentials and patience; must not know roles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mindstream.sections import EMBEDDED
from mindstream.settings import Settings
from schemas.errors import SettingsError
from streams.topics import TABLE, Topics

if TYPE_CHECKING:
    import redis
    from kafka import KafkaAdminClient, KafkaProducer

    from learners.join import LabelJoin
    from learners.replay import ReplayMemory


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
    if name in ("interactions", "feedback"):  # else a dead letter could not hold all of it
        config["max.message.bytes"] = str(8 * 1024 * 1024)
    if name == "examples":
        config["retention.ms"] = "-1"  # the log of truth: a learner may start from its beginning
    return config
