"""Checkpoints: the learner's private state in one file, and the fence that guards its place.

Owns the atomic write, the verified read and the fallback; must not know what a position or an array
means. A checkpoint is one safetensors file with its meta as JSON in the file's own metadata; its
name holds a count and the start of the SHA-256 of every byte of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from schemas.errors import CheckpointError, FencedError

log = logging.getLogger(__name__)

_KEEP = 2
_NAME = re.compile(r"^checkpoint-(\d{10})-([0-9a-f]{32})\.safetensors$")


@dataclass(frozen=True, slots=True)
class LearnerState:
    """Everything the next step depends on.

    Attributes:
        arrays: name to tensor of any dtype, scalars included; kept bit for bit.
        meta: JSON values, integers of any size; tuples come back as lists. Holds the positions.
    """

    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)


class CheckpointStore:
    """The checkpoints of one learner, in a local folder: the newest two."""

    def __init__(self, folder: Path) -> None:
        """Open a store; the folder is made by the first `save`.

        Args:
            folder: of this learner alone.
        """
        self.folder = Path(folder)

    def save(self, state: LearnerState) -> Path:
        """Write a checkpoint: durable and whole when this returns, absent when it does not.

        1. Write all to a temporary file and force it to disk.
        2. Rename it, and force the folder to disk.
        3. Remove all but the newest two.

        Returns:
            The new file.

        Raises:
            CheckpointError: it cannot be written; the checkpoints before it are untouched.
        """
        # A copy: safetensors refuses tensors that share memory.
        arrays = {name: tensor.detach().cpu().clone() for name, tensor in state.arrays.items()}
        arrays = {name: tensor.contiguous() for name, tensor in arrays.items()}
        data = save_tensors(arrays, metadata={"meta": json.dumps(state.meta)})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for stale in self.folder.glob("*.tmp"):
                stale.unlink()
            found = self._found()
            number = found[0][0] + 1 if found else 1
            path = self.folder / f"checkpoint-{number:010d}-{_digest(data)}.safetensors"
            temporary = path.with_suffix(".tmp")
            with temporary.open("wb") as file:  # 1
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)  # 2
            self._sync_folder()
            for _, old in self._found()[_KEEP:]:  # 3
                old.unlink()
        except OSError as error:
            raise CheckpointError(
                f"cannot write a checkpoint of {len(data):,} bytes to {self.folder}: {error}; "
                "make room there or repair its permissions; the checkpoints before it are untouched"
            ) from error
        return path

    def load(self) -> LearnerState | None:
        """Read the newest good checkpoint.

        A damaged one is logged as an error and set aside as `*.damaged`; the older one is taken.

        Returns:
            None when there has never been a checkpoint.

        Raises:
            CheckpointError: there are checkpoints and none is good.
        """
        problems: list[tuple[Path, str]] = []
        for _, path in self._found():
            try:
                state = _read(path)
            except (OSError, ValueError, SafetensorError) as error:
                problems.append((path, str(error)))
                log.error("checkpoint %s cannot be used: %s", path, error)  # noqa: TRY400 - said whole
                continue
            for damaged, _ in problems:
                damaged.rename(damaged.with_suffix(".damaged"))
                log.error("falling back from %s to the older %s", damaged.name, path.name)
            return state
        if problems:
            listed = "; ".join(f"{path.name}: {reason}" for path, reason in problems)
            raise CheckpointError(
                f"no checkpoint in {self.folder} is good ({listed}). Restore one from a backup, "
                "or move the folder away to learn again from the start of the examples topic"
            )
        return None

    def _found(self) -> list[tuple[int, Path]]:
        """List checkpoints, newest first."""
        if not self.folder.is_dir():
            return []
        matches = [(_NAME.match(path.name), path) for path in self.folder.iterdir()]
        return sorted(((int(m[1]), path) for m, path in matches if m), reverse=True)

    def _sync_folder(self) -> None:
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _read(path: Path) -> LearnerState:
    data = path.read_bytes()
    match = _NAME.match(path.name)
    if match is None or _digest(data) != match[2]:
        raise ValueError(f"its {len(data):,} bytes do not have the hash in its name")
    # The format: 8 bytes, little-endian, length of the header; the header as JSON; the tensors.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return LearnerState(arrays=load_tensors(data), meta=json.loads(header["__metadata__"]["meta"]))


class Fence:
    """A token that counts up in Redis: the newest learner's is the only good one.

    It stops a learner that was paused (swapped out, a debugger, a partition) from overwriting the
    work of the one that took its place.
    """

    def __init__(self, client: redis.Redis, key: str) -> None:
        """Make a fence that has not been acquired.

        Args:
            client: any connection.
            key: one a place that must have one writer.
        """
        self._redis = client
        self._key = key
        self._token = 0

    def acquire(self) -> int:
        """Take the place: every token before is worthless from now on.

        Returns:
            The token.
        """
        self._token = int(self._redis.incr(self._key))
        return self._token

    def check(self) -> None:
        """Make sure that nobody has taken the place since.

        A server that lost the token is given it again, so that the next one counts on from it.

        Raises:
            FencedError: somebody has, or `acquire` was never called.
        """
        if self._token == 0:
            raise FencedError(f"the fence {self._key} was never acquired")
        value = self._redis.get(self._key)
        if value is None:
            self._redis.set(self._key, self._token, nx=True)
            value = self._redis.get(self._key)
        if value is None or int(value) != self._token:
            raise FencedError(
                f"another learner has taken over: {self._key} is {value!r}, ours is {self._token}"
            )
