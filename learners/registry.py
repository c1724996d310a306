"""The registry of releases: public, immutable, content-addressed, on any fsspec store.

Owns the layout below and the order of publishing; must not know who serves a release or what is in
a blob. A manifest is written after all its blobs, and whole: who reads a manifest finds the rest.

::

    blobs/<aa>/<sha256>                 bytes, named by what they are
    releases/<task>/<version>.json      a ModelRelease; the versions count up within a task
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import msgspec

from schemas.codec import decode, encode
from schemas.errors import DecodeError, NoReleaseError, ReleaseError, VersionError
from schemas.models import Blob, GateReport, ModelRelease

_VERSION = re.compile(r"^(\d{6,})-[0-9a-f]{8}$")


class Registry:
    """Releases under one address. One writer a task at a time; any number of readers."""

    def __init__(self, url: str) -> None:
        """Open a registry; nothing is written until something is published.

        Args:
            url: a folder or any fsspec address, such as `s3://bucket/mindstream`.
        """
        filesystem, root = fsspec.core.url_to_fs(url)
        self._fs: Any = filesystem
        self._root = str(root).rstrip("/")
        # What `prune` read: by task and version; a manifest never changes.
        self._manifests: dict[str, dict[str, ModelRelease]] = {}
        # In a folder a rename is what is atomic; in an object store a put is.
        protocol = filesystem.protocol
        self._is_folder = "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    def put_blobs(self, blobs: Mapping[str, bytes]) -> dict[str, Blob]:
        """Store blobs under their hash; one that is there already is not written again.

        Args:
            blobs: name to content.

        Returns:
            Name to what a manifest holds of it.
        """
        stored = {}
        for name, data in blobs.items():
            blob = Blob(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
            path = self._blob_path(blob)
            if not self._fs.exists(path) or self._fs.size(path) != blob.size:
                self._write(path, data)
            stored[name] = blob
        return stored

    def read_blob(self, blob: Blob) -> bytes:
        """Read a blob and verify it.

        Raises:
            ReleaseError: it is missing, or its size or hash is not what the manifest says.
        """
        path = self._blob_path(blob)
        try:
            data: bytes = self._fs.cat_file(path)
        except FileNotFoundError as error:
            raise ReleaseError(f"blob {blob.sha256} is missing: {path}") from error
        if len(data) != blob.size:
            raise ReleaseError(
                f"blob {blob.sha256} is damaged: {len(data)} bytes, not {blob.size}: {path}"
            )
        found = hashlib.sha256(data).hexdigest()
        if found != blob.sha256:
            raise ReleaseError(f"blob {blob.sha256} is damaged: its hash is {found}: {path}")
        return data

    def publish(  # noqa: PLR0913 - a manifest has that many fields
        self,
        task: str,
        *,
        kind: str,
        strategy: str,
        backbone: str,
        blobs: Mapping[str, Blob],
        positions: Mapping[str, int],
        learned: int,
        labels: int,
        gate: GateReport,
        time: datetime,
    ) -> ModelRelease:
        """Publish a release over blobs that are stored already.

        Args:
            task: whose release.
            kind: the task's kind.
            strategy: name of the learning strategy.
            backbone: name of the encoder it started from.
            blobs: name to blob, as `put_blobs` gave them.
            positions: `topic/partition` to next offset.
            learned: examples learned in all.
            labels: how many labels it knows.
            gate: the gate's report.
            time: the wall clock, with a zone.

        Returns:
            The release, durable; its parent is the latest before it. A `ReleaseError` says that a
            blob is not stored, or that another writer took the version.
        """
        versions = self._versions(task)
        release = ModelRelease(
            task=task,
            version=_next_version(versions, blobs),
            time=time,
            kind=kind,
            strategy=strategy,
            backbone=backbone,
            blobs=dict(blobs),
            positions=dict(positions),
            learned=learned,
            labels=labels,
            gate=gate,
            parent=versions[0] if versions else None,
        )
        return self._publish(release)

    def rollback(self, task: str, version: str, time: datetime) -> ModelRelease:
        """Make an old release serve again, as a new one with the old blobs.

        Args:
            task: whose release.
            version: the release to go back to.
            time: the wall clock, with a zone.

        Returns:
            The new release; `rolled_back_from` names the one that it takes out of service.

        Raises:
            ReleaseError: there is no such release, it is damaged, or it serves already.
        """
        old, latest = self.get(task, version), self.latest(task)
        if old.version == latest.version:
            raise ReleaseError(f"{task} {version} is the latest release: there is nothing to undo")
        for blob in old.blobs.values():
            self.read_blob(blob)
        changes: dict[str, Any] = {
            "version": _next_version([latest.version], old.blobs),
            "time": time,
            "parent": latest.version,
            "rolled_back_from": latest.version,
            "gate": msgspec.structs.replace(old.gate, best=None, best_score=None),  # it is now
        }
        return self._publish(msgspec.structs.replace(old, **changes))

    def resume(self, task: str, time: datetime) -> ModelRelease:
        """End the hold of a rollback: publish the release that serves as a plain one.

        Args:
            task: whose releases.
            time: the wall clock, with a zone.

        Returns:
            The new release; candidates may replace it.

        Raises:
            ReleaseError: the latest release is not a rollback.
        """
        latest = self.latest(task)
        if latest.rolled_back_from is None:
            raise ReleaseError(f"{task} {latest.version} was not rolled back: nothing is held")
        changes: dict[str, Any] = {
            "version": _next_version([latest.version], latest.blobs),
            "time": time,
            "parent": latest.version,
            "rolled_back_from": None,
        }
        return self._publish(msgspec.structs.replace(latest, **changes))

    def latest(self, task: str) -> ModelRelease:
        """Read the newest release of a task.

        Raises:
            NoReleaseError: there is none.
        """
        versions = self._versions(task)
        if not versions:
            raise NoReleaseError(f"nothing has been released for task {task!r} in {self._root}")
        return self.get(task, versions[0])

    def get(self, task: str, version: str) -> ModelRelease:
        """Read one release.

        Raises:
            ReleaseError: it is missing or its manifest is damaged.
        """
        path = self._manifest_path(task, version)
        try:
            data: bytes = self._fs.cat_file(path)
        except FileNotFoundError as error:
            raise ReleaseError(f"task {task!r} has no release {version!r}: {path}") from error
        try:
            return decode(ModelRelease, data)
        except (DecodeError, VersionError) as error:
            raise ReleaseError(f"manifest is damaged: {error}: {path}") from error

    def releases(self, task: str) -> list[ModelRelease]:
        """Read every release of a task, newest first."""
        return [self.get(task, version) for version in self._versions(task)]

    def tasks(self) -> list[str]:
        """List the tasks that have releases, sorted."""
        return [task for task in self._names("releases") if self._versions(task)]

    def prune(self, task: str, keep: int, *, spared: Collection[str] = ()) -> int:
        """Remove old releases of a task, and every blob that no release needs any more.

        The newest half of those that stay follow each other. Of the others, those stay that are
        farthest apart for their age, so that one can go back by seconds and by days.

        Args:
            task: whose releases.
            keep: how many stay, 1 or more.
            spared: versions that stay whatever their age.

        Returns:
            How many releases were removed.

        Raises:
            ValueError: keep is below 1.
        """
        if keep < 1:
            raise ValueError(f"keep is {keep}: at least the latest release must stay")
        releases = self._known(task)
        if len(releases) <= keep:
            return 0
        old = [one for one in _crowded(releases, keep=keep) if one.version not in spared]
        for release in old:
            self._fs.rm_file(self._manifest_path(task, release.version))
        dropped = {blob.sha256: blob for release in old for blob in release.blobs.values()}
        needed = {
            blob.sha256
            for name in (self.tasks() if dropped else ())
            for release in self._known(name)
            for blob in release.blobs.values()
        }
        for sha256, blob in dropped.items():
            if sha256 not in needed and self._fs.exists(self._blob_path(blob)):
                self._fs.rm_file(self._blob_path(blob))
        return len(old)

    def _known(self, task: str) -> list[ModelRelease]:
        """Read the releases of a task, newest first; of each only what was not read before."""
        read = self._manifests.get(task, {})
        self._manifests[task] = {
            version: read.get(version) or self.get(task, version)
            for version in self._versions(task)
        }
        return list(self._manifests[task].values())

    def _publish(self, release: ModelRelease) -> ModelRelease:
        for name, blob in release.blobs.items():
            if not self._fs.exists(self._blob_path(blob)):
                raise ReleaseError(f"blob {name!r} ({blob.sha256}) is not stored: put_blobs first")
        path = self._manifest_path(release.task, release.version)
        count = release.version.split("-")[0]
        taken = [v for v in self._versions(release.task) if v.split("-")[0] == count]
        if taken:
            raise ReleaseError(
                f"{release.task} {taken[0]} exists: another writer was faster, try again"
            )
        self._write(path, encode(release))
        return release

    def _versions(self, task: str) -> list[str]:
        """List a task's versions, newest first."""
        names = [name.removesuffix(".json") for name in self._names(f"releases/{task}")]
        found = [(int(match[1]), name) for name in names if (match := _VERSION.match(name))]
        return [name for _, name in sorted(found, reverse=True)]

    def _names(self, folder: str) -> list[str]:
        # A long-lived process must see what others wrote: some stores keep listings.
        self._fs.invalidate_cache(f"{self._root}/{folder}")
        try:
            paths: list[str] = self._fs.ls(f"{self._root}/{folder}", detail=False)
        except FileNotFoundError:
            return []
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in paths)

    def _write(self, path: str, data: bytes) -> None:
        """Write a file whole or not at all."""
        if not self._is_folder:
            self._fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            self._fs.pipe_file(path, data)
            return
        final = Path(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(f"{final.name}.{uuid.uuid4().hex}.tmp")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(final)

    def _blob_path(self, blob: Blob) -> str:
        return f"{self._root}/blobs/{blob.sha256[:2]}/{blob.sha256}"

    def _manifest_path(self, task: str, version: str) -> str:
        return f"{self._root}/releases/{task}/{version}.json"


def _next_version(versions: list[str], blobs: Mapping[str, Blob]) -> str:
    """Count up from the newest version, and name the content: a hash over the blobs' hashes."""
    count = int(versions[0].split("-")[0]) + 1 if versions else 1
    names = "\n".join(f"{name} {blob.sha256}" for name, blob in sorted(blobs.items()))
    return f"{count:06d}-{hashlib.sha256(names.encode()).hexdigest()[:8]}"


def _crowded(releases: list[ModelRelease], *, keep: int) -> list[ModelRelease]:
    """Name the releases that go: those between two that are close together for their age.

    Args:
        releases: newest first.
        keep: how many stay, 1 or more.
    """
    stay, gone = list(releases), []
    newest, recent = releases[0].time, min(keep, max(2, keep // 2))  # one can always go back by one

    def room(place: int) -> float:
        """What would be missing without it, as a share of its age; the oldest is the last to go."""
        if place == len(stay) - 1:
            return float("inf")
        age = newest - stay[place].time
        return (stay[place - 1].time - stay[place + 1].time) / max(age, timedelta(microseconds=1))

    while len(stay) > keep:
        gone.append(stay.pop(min(range(recent, len(stay)), key=room)))
    return gone
