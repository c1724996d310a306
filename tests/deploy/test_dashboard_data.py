"""A real Prometheus that scrapes every metric has data for every query of the dashboard."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, Counter, Gauge

from serving.metrics import CONTENT_TYPE, TABLE, Metrics

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy/prometheus/check_dashboard.py"
LABELS = {"level": "drift", "task": "intents"}


class Role:
    """One process that exposes every metric, and keeps moving them as a live one would."""

    def __init__(self) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.draw = random.Random(7)

    def text(self) -> bytes:
        for row in TABLE:
            metric = getattr(self.metrics, row.name)
            if row.labels:
                metric = metric.labels(*[LABELS.get(name, name) for name in row.labels])
            if isinstance(metric, Counter):
                metric.inc(self.draw.randrange(1, 5))
            elif isinstance(metric, Gauge):
                metric.set(self.draw.random())
            else:
                metric.observe(self.draw.random())
        return self.metrics.text()


@pytest.fixture
def role_port() -> Iterator[int]:
    role = Role()

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.end_headers()
            self.wfile.write(role.text())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def prometheus(tmp_path: Path, role_port: int) -> Iterator[str]:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed (Debian package prometheus)")
    settings = {
        "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [str(ROOT / "deploy/prometheus/rules.yml")],
        "scrape_configs": [
            {
                "job_name": "mindstream",
                "scrape_timeout": "500ms",
                "static_configs": [{"targets": [f"127.0.0.1:{role_port}"]}],
            }
        ],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(settings))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={tmp_path / 'prometheus.yml'}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_ready(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=20)


def wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        assert process.poll() is None, "prometheus ended"
        try:
            with urllib.request.urlopen(f"{address}/-/ready", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    pytest.fail("prometheus was not ready in 20 s")


def check(address: str, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, SCRIPT, address, *arguments], capture_output=True, text=True, check=False
    )
    assert not done.stderr
    return done.returncode, done.stdout


def test_every_query_of_the_dashboard_has_data_once_roles_are_scraped(prometheus: str) -> None:
    deadline_s = time.monotonic() + 30
    code, said = check(prometheus, "--window", "30s", "--rate", "5s")
    while code and time.monotonic() < deadline_s:
        time.sleep(1)
        code, said = check(prometheus, "--window", "30s", "--rate", "5s")
    assert code == 0, said


def test_a_query_without_data_or_of_no_sense_is_named(prometheus: str, tmp_path: Path) -> None:
    dashboard = tmp_path / "dashboard.json"
    dashboard.write_text(
        '{"panels": [{"title": "A", "targets": [{"expr": "mindstream_absent"}]},'
        ' {"title": "B", "targets": [{"expr": "sum("}]}, {"title": "C"},'
        ' {"title": "D", "targets": [{"expr": "vector(1)"}]}]}'
    )
    code, said = check(prometheus, "--dashboard", str(dashboard))
    assert code == 1
    lines = said.splitlines()
    assert lines[0] == "A: no data: mindstream_absent"
    assert lines[1].startswith("B: refused: ")
    assert lines[2:] == ["1 of 3 queries have data"]
