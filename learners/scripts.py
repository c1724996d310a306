"""Lua on the Redis server: load a script shipped beside this module, run many in one round trip.

Owns EVALSHA and its fallback; must not know what a script does. Works on Redis 6 and later and on
every Valkey. A script is atomic; a batch of them is not, so each must be safe to run again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, cast

import msgspec
import redis
from redis.exceptions import NoScriptError

Argument = bytes | str | int | float


class Script:
    """One Lua script with its digest.

    Args:
        name: file name in `learners/lua` without its ending.
        parts: files put before it, in order.
    """

    def __init__(self, name: str, *, parts: Sequence[str] = ()) -> None:
        folder = files("learners") / "lua"
        self.text = "\n".join(
            (folder / f"{part}.lua").read_text(encoding="utf-8") for part in (*parts, name)
        )
        self.sha1 = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


def run_scripts(
    client: redis.Redis, calls: Sequence[tuple[Script, str, Sequence[Argument]]]
) -> list[Any]:
    """Run scripts in one pipeline, and once more with their text those the server did not know.

    When it raises (`redis.RedisError`) some of the scripts may have run.

    Args:
        client: a connection that does not decode answers.
        calls: script, its one key and its arguments.

    Returns:
        One answer a call, in order.
    """
    if not calls:
        return []
    with client.pipeline(transaction=False) as pipeline:
        for script, key, arguments in calls:
            pipeline.evalsha(script.sha1, 1, key, *cast("Sequence[str]", arguments))
        answers: list[Any] = pipeline.execute(raise_on_error=False)
    unknown = [n for n, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
    if unknown:
        with client.pipeline(transaction=False) as pipeline:
            for n in unknown:
                script, key, arguments = calls[n]
                pipeline.eval(script.text, 1, key, *cast("Sequence[str]", arguments))
            for n, answer in zip(unknown, pipeline.execute(raise_on_error=False), strict=True):
                answers[n] = answer
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def check_client(client: redis.Redis) -> None:
    """Refuse a connection that would decode bytes.

    Raises:
        ValueError: `decode_responses` is set.
    """
    if client.get_connection_kwargs().get("decode_responses"):
        raise ValueError("decode_responses is True: payloads are bytes, it must be False")


def pack(value: object) -> bytes:
    """Write MessagePack, which the server's Lua reads with `cmsgpack`."""
    return msgspec.msgpack.encode(value)
