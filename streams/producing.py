"""Contracts to Kafka, in batches, awaited until the broker has them.

Owns encoding, how messages are put into batches, and the wait; must not know what is sent or why.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import faust
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.partitioner import murmur2
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from schemas import codec


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One encoded message for one topic."""

    topic: str
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


def outgoing(topic: str, key: str | bytes | None, message: codec.Contract) -> Outgoing:
    """Encode a contract with its CloudEvents headers."""
    return Outgoing(
        topic=topic,
        key=key.encode() if isinstance(key, str) else key,
        value=codec.encode(message),
        headers=tuple(codec.cloudevents_headers(message)),
    )


async def produce(app: faust.App, messages: Sequence[Outgoing]) -> None:
    """Send messages and wait until the broker has all of them.

    Each partition's are put into batches here, and given to the client whole: one by one they cost
    several times as much. Messages of one key keep their order. All answers are awaited, also when
    one is an error, so that a second try does not overtake the first.

    Args:
        app: a started app.
        messages: sent in this order. A client error comes out when the broker refused one, or when
            one is larger than the producer may send.
    """
    if not messages:
        return
    producer: Any = app.producer
    await producer.maybe_start()
    client: Any = producer._ensure_producer()
    counts = {
        topic: len(await client.partitions_for(topic)) for topic in {m.topic for m in messages}
    }
    by_partition: dict[tuple[str, int], list[Outgoing]] = defaultdict(list)
    for message in messages:
        _check_size(message, at_most=app.conf.producer_max_request_size)
        partition = partition_of(message.key, counts[message.topic])
        by_partition[message.topic, partition].append(message)
    sent = [_send(client, topic, n, mine) for (topic, n), mine in by_partition.items()]
    errors = [e for e in await asyncio.gather(*sent, return_exceptions=True) if e is not None]
    if errors:
        raise errors[0]


def partition_of(key: bytes | None, partitions: int) -> int:
    """Choose as Kafka's own clients do: by murmur2 of the key, or any partition without one."""
    return random.randrange(partitions) if key is None else _hash(key) % partitions


def _check_size(message: Outgoing, *, at_most: int) -> None:
    """Refuse what the client would refuse if it were sent by itself.

    Raises:
        MessageSizeTooLargeError: the message is larger than a request may be.
    """
    size = DefaultRecordBatchBuilder.estimate_size_in_bytes(
        message.key, message.value, list(message.headers)
    )
    if size > at_most:
        raise MessageSizeTooLargeError(
            f"a message of {size:,} bytes for {message.topic}: a request has at most {at_most:,}"
        )


@lru_cache(maxsize=65_536)
def _hash(key: bytes) -> int:
    """Give the positive hash of a key; the library's is pure Python, some 5 us a key."""
    positive: int = murmur2(key) & 0x7FFFFFFF
    return positive


async def _send(client: Any, topic: str, partition: int, messages: Sequence[Outgoing]) -> None:  # noqa: ANN401
    """Send one partition's messages in order, as many in a batch as it takes."""
    pending = []
    for batch in _batches(client, messages):
        pending.append(await client.send_batch(batch, topic, partition=partition))
    for answer in await asyncio.gather(*pending, return_exceptions=True):
        if isinstance(answer, BaseException):
            raise answer


def _batches(client: Any, messages: Sequence[Outgoing]) -> Iterator[Any]:  # noqa: ANN401
    batch = client.create_batch()
    for message in messages:
        if not _append(batch, message):
            yield batch
            batch = client.create_batch()
            _append(batch, message)  # the first one may have any size
    batch.close()  # else it would wait for more
    yield batch


def _append(batch: Any, message: Outgoing) -> bool:  # noqa: ANN401
    taken = batch.append(
        timestamp=None, key=message.key, value=message.value, headers=list(message.headers)
    )
    return taken is not None
