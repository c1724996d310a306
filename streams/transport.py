"""Faust's Kafka transport with a fetch wait of our choosing.

faust-streaming 0.15.3 fixes `fetch_max_wait_ms` at 1,500. A real broker answers as soon as a byte
is there; the embedded cluster does not wake a parked fetch, so there every event would wait up to
1.5 s. Owns that one number; overrides `AIOKafkaConsumerThread._create_worker_consumer`, which
tests/contracts/test_faust_transport.py pins.
"""

from __future__ import annotations

from typing import Any

import faust
from faust.transport.drivers import aiokafka as driver


class _Thread(driver.AIOKafkaConsumerThread):
    fetch_wait_ms = 500

    def _create_worker_consumer(self, transport: Any) -> Any:  # noqa: ANN401
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = self.fetch_wait_ms
        return consumer


def set_fetch_wait(app: faust.App, *, fetch_wait_ms: int) -> None:
    """Give an app a transport whose consumer waits at most so long for a fetch.

    Args:
        app: before it starts.
        fetch_wait_ms: longest wait of one fetch, milliseconds.
    """
    thread = type("FetchWaitThread", (_Thread,), {"fetch_wait_ms": fetch_wait_ms})
    consumer = type(
        "FetchWaitConsumer",
        (driver.Consumer,),
        {"_new_consumer_thread": lambda self: thread(self, loop=self.loop, beacon=self.beacon)},
    )
    transport = type("FetchWaitTransport", (driver.Transport,), {"Consumer": consumer})
    app.transport = transport(app.conf.broker_consumer, app)
