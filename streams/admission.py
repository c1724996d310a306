"""Which HTTP requests are let in, how long they may take, and their bytes.

Owns token, clients' shares, size and time of a request; must not know what is asked. Each rule ends
in a `RefusedError` that says what to do.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import http_exceptions, web

from streams.problems import RefusedError, RefusedNowError

GOING = "this server is stopping: another one may answer"
TIMEOUT_HEADER = "X-Request-Timeout"
_PREFERRED_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,9})\"?\s*(?=$|[,;])", re.I)
_ENCODINGS = {"identity", "gzip", "deflate"}
_BROKEN = (ConnectionError, web.RequestPayloadError, http_exceptions.BadHttpMessage)


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What a request may be.

    Attributes:
        token: that callers must show; empty: nobody is asked for one.
        timeout_s: longest time from a request to its answer, seconds; a caller may ask for less.
        max_bytes: of a body, unpacked.
        max_rows: items of one request.
        client_in_flight: requests of one address at a time.
        publish: whether what is asked goes to Kafka, too, unless the caller says no.
    """

    token: str = field(default="", repr=False)
    timeout_s: float = 5.0
    max_bytes: int = 1_048_576
    max_rows: int = 256
    client_in_flight: int = 256
    publish: bool = True


class Admission:
    """Lets requests in.

    Args:
        limits: of a request.
        closing: whether the worker is going.
    """

    def __init__(self, limits: HttpLimits, *, closing: Callable[[], bool]) -> None:
        self._limits = limits
        self._closing = closing
        self._in_flight: Counter[str] = Counter()

    @contextmanager
    def admit(self, request: web.Request) -> Iterator[None]:
        """Let a request in, and count it for as long as the block runs.

        Yields:
            Nothing.

        Raises:
            RefusedNowError: the worker is stopping, or the client has too many. A wrong token is
                refused too.
        """
        self.check_token(request)
        if self._closing():
            raise RefusedNowError(503, GOING, after_s=1.0)
        client = request.remote or ""
        most = self._limits.client_in_flight
        if self._in_flight[client] >= most:
            raise RefusedNowError(
                429, f"{most:,} requests of this client are in flight already", after_s=1.0
            )
        self._in_flight[client] += 1
        try:
            yield
        finally:
            self._in_flight[client] -= 1
            if not self._in_flight[client]:  # else it would grow with every address ever seen
                del self._in_flight[client]

    def check_token(self, request: web.Request) -> None:
        """Let only those in who know the token, where there is one.

        Raises:
            RefusedError: it is absent or another.
        """
        if not self._limits.token:
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        # Compared in constant time: the time of an answer must not tell how much was right.
        same = hmac.compare_digest(
            given.strip().encode(errors="surrogateescape"), self._limits.token.encode()
        )
        if scheme.lower() != "bearer" or not same:
            raise RefusedError(
                401,
                "a bearer token is needed here, in the header Authorization",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def time_s(self, request: web.Request) -> float:
        """Say how long a request may take, seconds: what it asks for, at most the setting.

        Raises:
            RefusedError: it asks for what is no time.
        """
        asked = self._limits.timeout_s
        preferred = _PREFERRED_WAIT.search(",".join(request.headers.getall("Prefer", ())))
        if preferred is not None:
            asked = min(asked, float(preferred[1]))
        given = request.headers.get(TIMEOUT_HEADER)
        if given is None:
            return asked
        try:
            seconds = float(given)
        except ValueError:
            seconds = math.nan
        if not seconds >= 0.0:  # not a number either
            raise RefusedError(
                400, f"{TIMEOUT_HEADER}: {given[:60]!r}: a number of seconds was expected"
            )
        return min(asked, seconds)

    async def read(self, request: web.Request, *, within_s: float) -> bytes:
        """Read the body, unpacked.

        Raises:
            RefusedError: it is not JSON, too large, too slow or broken.
        """
        _check_type(request)
        most = self._limits.max_bytes
        too_large = RefusedError(413, f"the body is too large: at most {most:,} bytes are taken")
        if (request.content_length or 0) > most:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(within_s):
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > most:
                        raise too_large
        except TimeoutError:
            raise RefusedError(408, f"the body did not come within {within_s:g} s") from None
        except _BROKEN as error:
            raise RefusedError(400, f"the body cannot be read ({type(error).__name__})") from error
        return bytes(body)


def _check_type(request: web.Request) -> None:
    """Take JSON only.

    Nothing else, and no body without a type: a page in a browser may send those to other servers
    without asking, but not JSON.

    Raises:
        RefusedError: it is something else.
    """
    try:
        kind, charset = request.content_type, request.charset or "utf-8"
    # The parsers below it fail on some headers that they cannot read, each in its own way.
    except Exception as error:
        raise RefusedError(415, "the Content-Type cannot be read") from error
    if kind != "application/json" and not kind.endswith("+json"):
        raise RefusedError(415, "the body must be JSON, with Content-Type: application/json")
    if charset.lower() not in ("utf-8", "utf8"):
        raise RefusedError(415, f"charset {charset[:60]!r}: JSON is UTF-8")
    packed = request.headers.get("Content-Encoding", "identity").lower()
    if packed not in _ENCODINGS:
        raise RefusedError(
            415, f"Content-Encoding {packed[:60]!r}: gzip and deflate are understood"
        )
