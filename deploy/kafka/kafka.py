"""Start and stop one real Apache Kafka node (KRaft, no ZooKeeper) from its jars.

Needs Java 17 or newer, and Maven once to fetch the jars. Standard library only::

    python deploy/kafka/kafka.py start            # prints host:port when it answers
    python deploy/kafka/kafka.py status
    python deploy/kafka/kafka.py stop

Owns fetching, formatting, starting, stopping; must not know mindstream.
"""

from __future__ import annotations

import argparse
import base64
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import uuid
from pathlib import Path

HERE = Path(__file__).resolve().parent
JARS = HERE / "target" / "jars"
DEFAULT_PORT = 9092
DEFAULT_DATA = HERE / "target" / "data"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0


class KafkaError(Exception):
    """Raised when the node cannot be fetched, started or stopped; says what to do."""


class KafkaNode:
    """One node with its own port and data directory.

    Args:
        port: of the broker; the controller takes the next one.
        data: directory of its log, configuration and process id.
        heap: the JVM's heap, as `-Xmx` takes it.
    """

    def __init__(
        self, *, port: int = DEFAULT_PORT, data: Path = DEFAULT_DATA, heap: str = "512m"
    ) -> None:
        self.port = port
        self.data = data.resolve()
        self.heap = heap
        self.bootstrap = f"127.0.0.1:{port}"
        self._pid_file = self.data / "pid"
        self._properties = self.data / "server.properties"
        self._process: subprocess.Popen[bytes] | None = None  # when this object started it

    def start(self) -> None:
        """Start the node and wait until it answers; formats its storage the first time.

        Raises:
            KafkaError: Java, Maven or a port is missing, or it does not come up.
        """
        if self.pid() is not None:
            return
        for port in (self.port, self.port + 1):
            if _is_taken(port):
                raise KafkaError(f"port {port} is taken; choose another with --port")
        fetch_jars()
        self.data.mkdir(parents=True, exist_ok=True)
        template = (HERE / "server.properties").read_text()
        self._properties.write_text(
            template.replace("{port}", str(self.port))
            .replace("{controller_port}", str(self.port + 1))
            .replace("{data}", str(self.data))
        )
        if not (self.data / "log" / "meta.properties").exists():
            self._format()
        log = self.data / "kafka.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                self._java("kafka.Kafka", str(self._properties)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._pid_file.write_text(str(self._process.pid))
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not _answers(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self.stop()
                said = log.read_text(errors="replace")[-1500:]
                raise KafkaError(f"Kafka did not come up on {self.bootstrap}; it said:\n{said}")
            time.sleep(0.1)

    def _format(self) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        done = subprocess.run(
            self._java(
                "kafka.tools.StorageTool",
                "format",
                f"--cluster-id={cluster}",  # one may begin with a dash
                "-c",
                str(self._properties),
            ),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise KafkaError(f"formatting {self.data} failed:\n{done.stdout}{done.stderr}")

    def _java(self, main: str, *arguments: str) -> list[str]:
        java = shutil.which("java")
        if java is None:
            raise KafkaError("Kafka needs Java 17 or newer on the PATH")
        return [
            java,
            f"-Xmx{self.heap}",
            "-XX:+UseG1GC",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-XX:TieredStopAtLevel=1",  # starts in half the time; throughput suffices for tests
            "-cp",
            f"{JARS}/*",
            main,
            *arguments,
        ]

    def pid(self) -> int | None:
        """Give the node's process id, or None when it is not running."""
        try:
            pid = int(self._pid_file.read_text())
        except (OSError, ValueError):
            return None
        return pid if self._is_ours(pid) else None

    def _is_ours(self, pid: int) -> bool:
        """Say whether that process runs this node: after a crash its id may be another's."""
        if self._process is not None:
            self._process.poll()  # reaps it, should it have ended
        return str(self._properties) in _command_line(pid)

    def stop(self) -> None:
        """Stop the node in order; its data stays. Does nothing when it is not running."""
        pid = self.pid()
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            deadline_s = time.monotonic() + STOP_TIMEOUT_S
            while self._is_ours(pid):
                if time.monotonic() > deadline_s:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.1)
        if self._process is not None:
            self._process.wait()
            self._process = None
        self._pid_file.unlink(missing_ok=True)


def fetch_jars() -> None:
    """Fetch Kafka's jars with Maven, once.

    Raises:
        KafkaError: Maven is missing or fails.
    """
    if (JARS / ".complete").exists():
        return
    maven = shutil.which("mvn")
    if maven is None:
        raise KafkaError("fetching Kafka's jars needs Maven (mvn) on the PATH, once")
    done = subprocess.run(
        [
            maven,
            "-q",
            "-B",
            "-ntp",
            "-f",
            str(HERE / "pom.xml"),
            "dependency:copy-dependencies",
            "-DincludeScope=runtime",
            f"-DoutputDirectory={JARS}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise KafkaError(f"Maven could not fetch Kafka's jars:\n{done.stdout}{done.stderr}")
    (JARS / ".complete").touch()


def _command_line(pid: int) -> str:
    """Give what a process was started with; empty when it has ended."""
    if Path("/proc/self/cmdline").exists():  # Linux, where a small image may lack `ps`
        try:
            return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
        except OSError:
            return ""
    return subprocess.run(
        ["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout


def _answers(port: int) -> bool:
    """Say whether a broker there answers requests: a port that is open does not mean that yet."""
    # ApiVersions (key 18), version 0, correlation id 7, no client id.
    request = struct.pack(">ihhih", 10, 18, 0, 7, -1)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as probe:
            probe.sendall(request)
            answer = probe.recv(8, socket.MSG_WAITALL)
    except OSError:
        return False
    return answer[4:8] == request[8:12]


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description="Start and stop one real Apache Kafka node (KRaft) on this machine.\n\n"
        "  start   fetch the jars (once), format the storage (once), start in the background,\n"
        "          wait until it answers, print its address\n"
        "  stop    stop it in order; what it holds stays in --data\n"
        "  status  print its address, or 'not running' with exit status 1",
        epilog="Point mindstream at it: MINDSTREAM_KAFKA__SERVERS=127.0.0.1:9092, then\n"
        "`mindstream topics create`: the node makes no topic by itself. Two nodes side by side\n"
        "need a --port and a --data each. Its own log is kafka.log in --data.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["start", "stop", "status"])
    parser.add_argument(
        "--port",
        type=int,
        default=DEFAULT_PORT,
        help="of the broker; the controller takes the next one (default: %(default)s)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=DEFAULT_DATA,
        help="where its messages are kept (default: target/data beside this file)",
    )
    parser.add_argument(
        "--heap", default="512m", help="the JVM's heap, such as 2g (default: %(default)s)"
    )
    options = parser.parse_args()
    node = KafkaNode(port=options.port, data=options.data, heap=options.heap)
    try:
        if options.command == "start":
            node.start()
        elif options.command == "stop":
            node.stop()
    except KafkaError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    pid = node.pid()
    sys.stdout.write(f"{node.bootstrap} (process {pid})\n" if pid else "not running\n")
    return 0 if pid or options.command == "stop" else 1


if __name__ == "__main__":
    sys.exit(main())
