"""A real Prometheus has data for every query of the dashboard: from made-up pages, from a demo."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from serving.metrics import CONTENT_TYPE, TABLE, Metrics
from tests.deploy.scraping import need, scraping
from tests.deployment import free_ports

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
    with scraping({"ingest": role_port}, tmp_path / "prometheus") as address:
        yield address


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


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_a_real_demo_gives_every_query_of_the_dashboard_data(tmp_path: Path) -> None:
    need("prometheus")  # before the demo, which takes its time
    roles = ("ingest", "learn", "serve", "watch")
    ports = dict(zip(roles, free_ports(len(roles)), strict=True))
    settings: dict[str, object] = {f"{role}.port": port for role, port in ports.items()}
    settings["watch.page_hinkley_threshold"] = 1  # so that the watcher has a drift to tell
    settings["replay.held_out_share"] = 0.3  # so that the gate has its oldest and newest rows
    settings |= {"consolidation.enabled": "true", "consolidation.rows": 60}  # so that one ends
    settings |= {"consolidation.growth": 100, "consolidation.epochs": 1}
    settings |= {"consolidation.blend": 0.7}  # one new encoder, not three: it ends in time
    settings |= {"model.engine": "torch", "model.precision": "fp32"}  # nothing is calibrated beside
    command = [sys.executable, "-m", "mindstream", "demo", "--duration", "120", "--json"]
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    with scraping(ports, tmp_path / "prometheus") as address:
        demo = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=460, check=False
        )
        assert demo.returncode == 0, demo.stderr[-3_000:]
        code, said = check(address, "--window", "5m", "--rate", "5s")
    assert code == 0, said
    found = json.loads(demo.stdout.splitlines()[-1])
    assert found["dead"] > 0
    assert found["drift_signals"] > 0
