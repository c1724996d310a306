"""An embedded Kafka cluster: librdkafka's own, shipped in the confluent-kafka wheel.

It lives in this process, in native threads, and speaks the real protocol to any client. Owns its
start and its clean end; what it cannot do is in `LIMITS`, said at start.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from schemas.errors import EmbeddedError

LIMITS = (
    "It keeps messages in memory only, the newest 5 MB of each partition (a batch over 2.6 MB on "
    "the wire may be lost), has one member a consumer group and no topic admin. What must be kept "
    "goes to a real cluster: name one in kafka.servers."
)

# The log of a partition holds 5 MiB. A batch that pushes out all that was there is acknowledged,
# and lost too: so half of it is what always fits. A first batch may have any size.
PARTITION_LOG_BYTES = 5 * 1024 * 1024
SAFE_BATCH_BYTES = PARTITION_LOG_BYTES // 2

_PRODUCER = 0  # RD_KAFKA_PRODUCER
_CONF_OK = 0
_BROKER = 1


def _library() -> ctypes.CDLL:
    """Load the librdkafka that confluent-kafka carries.

    Raises:
        EmbeddedError: it is not where the wheel puts it.
    """
    try:
        import confluent_kafka  # loads what the library itself depends on
    except ImportError as error:
        raise EmbeddedError(
            "the embedded Kafka needs the confluent-kafka wheel: install it, or name a real "
            f"cluster in kafka.servers ({error})"
        ) from error
    package = Path(confluent_kafka.__file__).parent
    folders = [package.parent / "confluent_kafka.libs", package / ".dylibs", package / ".libs"]
    pattern = "librdkafka*.dylib" if sys.platform == "darwin" else "librdkafka*.so*"
    found = [path for folder in folders for path in sorted(folder.glob(pattern))]
    if not found:
        raise EmbeddedError(
            "the embedded Kafka needs librdkafka from the confluent-kafka wheel, and it is not in "
            f"{folders[0]}; install the wheel (not the source package), or name a real cluster in "
            "kafka.servers"
        )
    return _declare(ctypes.CDLL(str(found[0])))


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Give every function its types: without them pointers are cut to 32 bits.

    Raises:
        EmbeddedError: one of them is not there.
    """
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    number = ctypes.c_int
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "rd_kafka_conf_new": (pointer, []),
        "rd_kafka_conf_set": (number, [pointer, text, text, text, size]),
        "rd_kafka_conf_destroy": (None, [pointer]),
        "rd_kafka_new": (pointer, [number, pointer, text, size]),
        "rd_kafka_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_new": (pointer, [pointer, number]),
        "rd_kafka_mock_cluster_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_bootstraps": (text, [pointer]),
        "rd_kafka_mock_topic_create": (number, [pointer, text, number, number]),
        "rd_kafka_mock_broker_set_down": (number, [pointer, ctypes.c_int32]),
        "rd_kafka_mock_broker_set_up": (number, [pointer, ctypes.c_int32]),
        "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [pointer, ctypes.c_int32]),
    }
    for name, (result, arguments) in signatures.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise EmbeddedError(
                f"the embedded Kafka needs {name}, which this librdkafka does not export; install "
                "confluent-kafka 2.16 or newer, or name a real cluster in kafka.servers"
            ) from None
        function.restype = result
        function.argtypes = arguments
    return library


class EmbeddedKafka:
    """One broker, in this process.

    Args:
        topics: name to number of partitions.

    Examples:
        >>> with EmbeddedKafka({"greetings": 2}) as cluster:
        ...     cluster.bootstrap.startswith("127.0.0.1:")
        True
    """

    def __init__(self, topics: Mapping[str, int]) -> None:
        self.topics = dict(topics)
        self.bootstrap = ""
        self._library: ctypes.CDLL | None = None
        self._client: int | None = None
        self._cluster: int | None = None

    def start(self) -> None:
        """Start the broker and make the topics. Does nothing when it runs already.

        Raises:
            EmbeddedError: librdkafka is missing or refuses.
        """
        if self._cluster:
            return
        library = self._library = _library()
        problem = ctypes.create_string_buffer(512)
        conf = library.rd_kafka_conf_new()
        # Quiet: it would say that it has no brokers, which is true of every in-process cluster.
        if library.rd_kafka_conf_set(conf, b"log_level", b"2", problem, len(problem)) != _CONF_OK:
            library.rd_kafka_conf_destroy(conf)
            raise EmbeddedError(f"the embedded Kafka does not start: {problem.value.decode()}")
        self._client = library.rd_kafka_new(_PRODUCER, conf, problem, len(problem))
        if not self._client:
            library.rd_kafka_conf_destroy(conf)
            raise EmbeddedError(f"the embedded Kafka does not start: {problem.value.decode()}")
        self._cluster = library.rd_kafka_mock_cluster_new(self._client, 1)
        if not self._cluster:
            self.stop()
            raise EmbeddedError("the embedded Kafka does not start: it found no free port")
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)
        self.bootstrap = library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        for name, partitions in self.topics.items():
            code = library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)
            if code != 0 or partitions < 1:  # the library takes 0, and then has no such topic
                self.stop()
                raise EmbeddedError(
                    f"topic {name!r} with {partitions} partitions cannot be made (code {code})"
                )

    def go_away(self) -> None:
        """Stop answering, as a broker that has died; messages are kept."""
        self._call("rd_kafka_mock_broker_set_down")

    def come_back(self) -> None:
        """Answer again."""
        self._call("rd_kafka_mock_broker_set_up")

    def _call(self, name: str) -> None:
        """Call a function of the running cluster's one broker.

        Raises:
            EmbeddedError: it is not running, or refuses.
        """
        if self._library is None or self._cluster is None:
            raise EmbeddedError("the embedded Kafka is not running")
        code = getattr(self._library, name)(self._cluster, _BROKER)
        if code != 0:
            raise EmbeddedError(f"{name} failed (code {code})")

    def stop(self) -> None:
        """End the cluster; messages are gone. Does nothing when it is not running."""
        if self._library is None:
            return
        if self._cluster:
            self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        if self._client:
            self._library.rd_kafka_destroy(self._client)
        self._cluster = self._client = None
        self.bootstrap = ""

    def __enter__(self) -> EmbeddedKafka:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
