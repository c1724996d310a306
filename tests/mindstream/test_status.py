"""What `status` gathers: from the roles' own pages, from Redis and from the store."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from rich.console import Console

from mindstream.settings import Settings, load_settings
from mindstream.status import look, show_status
from serving.metrics import Metrics
from tests.deployment import free_ports


class ReleasesPage(BaseHTTPRequestHandler):
    """What a server says at /releases, and an empty page elsewhere."""

    def do_GET(self) -> None:
        body = {"intents": {"version": "000007-00112233"}} if self.path == "/releases" else {}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def pages(settings: Settings) -> Iterator[Metrics]:
    metrics = Metrics(CollectorRegistry())
    watch, watch_thread = start_http_server(settings.watch.port, registry=metrics.registry)
    serve = HTTPServer(("127.0.0.1", settings.serve.port), ReleasesPage)
    thread = threading.Thread(target=serve.serve_forever)
    thread.start()
    try:
        yield metrics
    finally:
        for server, runner in ((watch, watch_thread), (serve, thread)):
            server.shutdown()
            server.server_close()
            runner.join()


def test_status_says_what_serves_and_how_well(redis_server: str, tmp_path: Path) -> None:
    names = ("ingest", "learn", "serve", "watch")
    ports = dict(zip(names, free_ports(4), strict=True))
    settings = load_settings(
        overrides={
            "data_dir": str(tmp_path),
            "redis.url": redis_server,
            "kafka.servers": "127.0.0.1:1",
            **{f"{role}.port": port for role, port in ports.items()},
        }
    )
    with pages(settings) as metrics:
        metrics.prequential_accuracy.labels("intents").set(0.875)
        status = look(settings)
        text = io.StringIO()
        shown = show_status(settings, as_json=False, out=Console(file=text, width=120))
    assert status.roles == {"ingest": False, "learn": False, "serve": True, "watch": True}
    assert status.serving == {"intents": "000007-00112233"}
    assert status.accuracy == {"intents": 0.875}
    assert status.newest == {"intents": "nothing released yet"}
    assert shown == 1  # two roles do not answer
    assert "000007-00112233" in text.getvalue()
    assert "87.5 %" in text.getvalue()
