"""A real Prometheus for tests, and what to do where it is missing."""

from __future__ import annotations

import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from mindstream.settings import environment_flag
from tests.deployment import free_ports

RULES = Path(__file__).parents[2] / "deploy/prometheus/rules.yml"
READY_S = 20.0


def need(program: str) -> str:
    """Find a program of Debian's package prometheus; without it skip, in CI fail."""
    found = shutil.which(program)
    if found is None:
        reason = f"{program} is not installed (Debian package prometheus)"
        if environment_flag("CI"):
            pytest.fail(f"{reason}, and CI skips nothing")
        pytest.skip(reason)
    return found


@contextmanager
def scraping(ports: Mapping[str, int], folder: Path) -> Iterator[str]:
    """Run a Prometheus with the rules of deploy/, every page scraped twice a second.

    Args:
        ports: of the pages on this machine, by role.
        folder: its settings, data and log.

    Yields:
        Its address.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {
                "job_name": "mindstream",
                "scrape_timeout": "500ms",
                "static_configs": [
                    {"targets": [f"127.0.0.1:{port}"], "labels": {"role": role}}
                    for role, port in ports.items()
                ],
            }
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    (port,) = free_ports(1)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                need("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_until_ready(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + READY_S
    while time.monotonic() < deadline_s:
        assert process.poll() is None, "prometheus ended"
        try:
            with urllib.request.urlopen(f"{address}/-/ready", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    pytest.fail(f"prometheus was not ready in {READY_S:.0f} s")
