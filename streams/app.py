"""The Faust app, built from explicit arguments: no global app, nothing at import.

Owns Faust's settings and why each has its value (measured with faust-streaming 0.15.3); must not
know agents or models.
"""

from __future__ import annotations

import gc
import logging
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faust

from streams.chunks import Bounds
from streams.transport import use_transport


@dataclass(frozen=True, slots=True)
class Security:
    """How to talk to the brokers.

    Attributes:
        protocol: plaintext, ssl, sasl_plaintext or sasl_ssl.
        mechanism: of SASL, such as SCRAM-SHA-512.
        username: for SASL.
        password: for SASL.
        ca_file: certificate authorities (PEM); empty: the system's.
    """

    protocol: str = "plaintext"
    mechanism: str = "SCRAM-SHA-512"
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: str = ""

    def credentials(self) -> Any:  # noqa: ANN401
        """Give Faust's broker credentials, or None for plain text."""
        context = None
        if self.protocol.endswith("ssl"):
            context = ssl.create_default_context(cafile=self.ca_file or None)
        if self.protocol.startswith("sasl"):
            return faust.SASLCredentials(
                username=self.username,
                password=self.password,
                mechanism=self.mechanism,
                ssl_context=context,
            )
        return faust.SSLCredentials(context=context) if context else None


@dataclass(frozen=True, slots=True)
class AppConfig:
    """What a role's Faust app needs to know.

    Attributes:
        name: consumer group, such as `mindstream-ingest`.
        servers: `host:port` of brokers.
        web_host: address of the HTTP pages.
        web_port: port of the HTTP pages.
        data_dir: where Faust may keep files (it keeps none that matter).
        embedded: True on the embedded cluster, whose parked fetches do not wake.
        session_timeout_s: how long a silent worker keeps its partitions.
        security: how to talk to the brokers.
        max_message_bytes: largest message to produce.
        fast: whether an event is a whole chunk of a partition; else one record, as in stock Faust.
        bounds: of what the fast transport keeps in memory.
    """

    name: str
    servers: tuple[str, ...]
    web_host: str
    web_port: int
    data_dir: Path
    embedded: bool = False
    session_timeout_s: float = 10.0
    security: Security = Security()
    max_message_bytes: int = 16 * 1024 * 1024
    fast: bool = True
    bounds: Bounds = Bounds()


def make_app(config: AppConfig) -> faust.App:
    """Build the Faust app of one role.

    Args:
        config: its settings.

    Returns:
        An app without agents; `streams.flow` attaches them.
    """
    config.data_dir.mkdir(parents=True, exist_ok=True)
    app = faust.App(
        config.name,
        broker=[f"kafka://{server}" for server in config.servers],
        broker_credentials=config.security.credentials(),
        datadir=str(config.data_dir),
        autodiscover=False,
        # At-least-once; effects are keyed by event id. Faust's exactly-once has open faults
        # upstream.
        processing_guarantee="at_least_once",
        # Bounds what a SIGKILL makes us read again.
        broker_commit_interval=0.5,
        broker_commit_every=10_000,
        broker_session_timeout=config.session_timeout_s,
        broker_rebalance_timeout=max(15.0, config.session_timeout_s),
        broker_heartbeat_interval=min(1.0, config.session_timeout_s / 4),
        broker_request_timeout=max(30.0, config.session_timeout_s),
        broker_max_poll_records=config.bounds.poll_rows if config.fast else 500,
        # Never lower: a full buffer stops every partition for a whole second. The fast transport
        # keeps fewer records in all.
        stream_buffer_maxsize=65_536,
        # An unacknowledged event would make the default wait for ever at SIGTERM.
        stream_wait_empty=False,
        consumer_max_fetch_size=8 * 1024 * 1024,
        consumer_auto_offset_reset="earliest",
        producer_linger=0.005,
        producer_max_batch_size=262_144,
        producer_max_request_size=config.max_message_bytes,
        producer_request_timeout=30.0,
        producer_compression_type="gzip",
        # Topics are made by `mindstream topics create`; Faust must not invent any.
        topic_allow_declare=False,
        topic_disable_leader=True,
        table_standby_replicas=0,
        web_enabled=True,
        web_bind=config.web_host,
        web_host=config.web_host,
        web_port=config.web_port,
        web_tables_enabled=False,
        web_router_enabled=False,
        web_in_thread=False,
        worker_redirect_stdouts=False,
    )
    use_transport(
        app,
        fetch_wait_ms=20 if config.embedded else 500,
        fast=config.bounds if config.fast else None,
        paced=not config.embedded,  # there a fetch brings one batch of records, not all
    )
    return app


def spare_the_collector() -> None:
    """Let the garbage collector pass over what a process has when it starts, and come less often.

    Libraries are hundreds of thousands of objects that never go away; records are made by the
    thousand and are freed without the collector. Going through them all cost a fifth of ingestion.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def run_worker(app: faust.App, *, log_level: str) -> None:
    """Run the app until SIGTERM or SIGINT, then stop in order.

    Args:
        app: with its agents attached.
        log_level: such as `INFO`.

    Raises:
        SystemExit: always, with the worker's exit status.
    """
    worker = faust.Worker(
        app, loglevel=log_level, quiet=True, redirect_stdouts=False, override_logging=False
    )
    logging.getLogger("faust").setLevel(max(logging.WARNING, logging.getLevelName(log_level)))
    spare_the_collector()
    try:
        raise SystemExit(worker.execute_from_commandline())
    finally:
        gc.unfreeze()  # else libraries say at the end that they leak
