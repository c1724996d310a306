"""What goes wrong at start is said in words."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from mindstream.clients import make_redis, servers
from mindstream.settings import load_settings
from mindstream.wiring import run_role
from schemas.errors import NotRunningError, SettingsError


def test_a_taken_port_is_said_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = load_settings(overrides={"ingest.port": port})
        with pytest.raises(SettingsError, match=rf"ingest\.port = {port}: cannot be used"):
            run_role(settings, "ingest")


def test_embedded_services_that_nobody_started_are_said_with_what_to_do() -> None:
    settings = load_settings()
    with pytest.raises(NotRunningError, match="start `mindstream up` in this folder"):
        servers(settings)
    with pytest.raises(NotRunningError, match="MINDSTREAM_REDIS__URL"):
        make_redis(settings)


def test_roles_without_a_model_load_no_torch() -> None:
    """It takes seconds and half a gigabyte; what they import is as in `wiring`."""
    code = """
import sys
import learners.tasks, serving.drift.adwin, serving.metrics, serving.pairing, serving.watcher
import mindstream.wiring, streams.app, streams.flow, streams.ingest, streams.watch
print(*sorted({"torch", "transformers", "avalanche"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
