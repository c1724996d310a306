"""The registry: content-addressed, atomic, verified, rolled back."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from learners.registry import Registry
from schemas.errors import NoReleaseError, ReleaseError
from schemas.models import Blob, GateReport, ModelRelease

TIME = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture(params=["folder", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store") if request.param == "folder" else f"memory://{uuid.uuid4().hex}"


def publish(
    registry: Registry,
    content: Mapping[str, bytes],
    task: str = "intents",
    learned: int = 10,
    time: datetime = TIME,
) -> ModelRelease:
    return registry.publish(
        task,
        kind="classify",
        strategy="two-speed",
        backbone="all-MiniLM-L6-v2",
        blobs=registry.put_blobs(content),
        positions={"mindstream.examples/0": 7},
        learned=learned,
        labels=3,
        gate=GateReport(accepted=True, reason="first release", rows=0, challenger=0.0),
        time=time,
    )


def test_a_release_is_read_back_as_it_was_published(url: str) -> None:
    published = publish(Registry(url), {"head": b"weights", "encoder": b"\x00" * 1000})
    registry = Registry(url)
    assert registry.latest("intents") == registry.get("intents", published.version) == published
    assert published.version.startswith("000001-")
    assert published.parent is None
    assert registry.read_blob(published.blobs["head"]) == b"weights"
    assert registry.tasks() == ["intents"]


def test_versions_count_up_within_a_task_and_name_the_content(url: str) -> None:
    registry = Registry(url)
    first, second = publish(registry, {"head": b"1"}), publish(registry, {"head": b"2"})
    other = publish(registry, {"head": b"2"}, task="tags")
    assert [release.version[:6] for release in (first, second, other)] == [
        "000001",
        "000002",
        "000001",
    ]
    assert second.parent == first.version
    assert second.version[7:] == other.version[7:] != first.version[7:]
    assert registry.releases("intents") == [second, first]
    assert registry.tasks() == ["intents", "tags"]


def test_the_millionth_release_is_newer_than_the_one_before(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path))
    first = publish(registry, {"head": b"1"})
    manifest = tmp_path / "releases" / "intents" / f"{first.version}.json"
    old = manifest.read_text().replace("000001-", "999999-")
    (manifest.parent / f"999999{first.version[6:]}.json").write_text(old)
    assert publish(registry, {"head": b"2"}).version.startswith("1000000-")
    assert registry.latest("intents").version.startswith("1000000-")


def test_equal_blobs_are_stored_once(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path))
    publish(registry, {"encoder": b"same", "head": b"1"})
    publish(registry, {"encoder": b"same", "head": b"2"})
    assert len([path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]) == 3
    assert not list(tmp_path.rglob("*.tmp"))


def test_nothing_released_is_said(url: str) -> None:
    registry = Registry(url)
    with pytest.raises(NoReleaseError, match="nothing has been released for task 'intents'"):
        registry.latest("intents")
    assert (registry.tasks(), registry.releases("intents")) == ([], [])
    with pytest.raises(ReleaseError, match="has no release '000001-00000000'"):
        registry.get("intents", "000001-00000000")


@pytest.mark.parametrize(
    ("damage", "message"),
    [(b"weighty", "its hash is"), (b"w", "1 bytes, not 7"), (None, "is missing")],
)
def test_a_damaged_blob_is_never_given(tmp_path: Path, damage: bytes | None, message: str) -> None:
    registry = Registry(str(tmp_path))
    blob = publish(registry, {"head": b"weights"}).blobs["head"]
    path = tmp_path / "blobs" / blob.sha256[:2] / blob.sha256
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(ReleaseError, match=message):
        registry.read_blob(blob)


def test_a_damaged_manifest_is_an_error(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path))
    version = publish(registry, {"head": b"1"}).version
    (tmp_path / "releases" / "intents" / f"{version}.json").write_text('{"task": "int')
    with pytest.raises(ReleaseError, match="manifest is damaged: not JSON"):
        registry.latest("intents")


def test_a_manifest_over_blobs_that_are_not_there_is_not_published(url: str) -> None:
    registry = Registry(url)
    publish(registry, {"head": b"1"})
    with pytest.raises(ReleaseError, match="is not stored: put_blobs first"):
        registry.publish(
            "intents",
            kind="classify",
            strategy="s",
            backbone="b",
            blobs={"head": Blob(sha256="0" * 64, size=1)},
            positions={},
            learned=0,
            labels=0,
            gate=GateReport(accepted=True, reason="-", rows=0, challenger=0.0),
            time=TIME,
        )
    assert len(registry.releases("intents")) == 1


def test_a_rollback_is_a_new_release_with_the_old_blobs(url: str) -> None:
    registry = Registry(url)
    good, bad = publish(registry, {"head": b"good"}), publish(registry, {"head": b"bad"})
    again = registry.rollback("intents", good.version, TIME)
    assert registry.latest("intents") == again
    assert again.version == f"000003-{good.version[7:]}"
    assert (again.blobs, again.parent) == (good.blobs, bad.version)
    assert again.rolled_back_from == bad.version
    with pytest.raises(ReleaseError, match="there is nothing to undo"):
        registry.rollback("intents", again.version, TIME)
    with pytest.raises(ReleaseError, match="has no release"):
        registry.rollback("intents", "000009-00000000", TIME)


def test_pruning_keeps_the_newest_and_every_blob_that_is_needed(url: str) -> None:
    registry = Registry(url)
    releases = [publish(registry, {"encoder": b"e", "head": str(n).encode()}) for n in range(5)]
    other = publish(registry, {"head": b"1"}, task="tags")
    assert registry.prune("intents", keep=2) == 3
    assert registry.prune("intents", keep=2) == 0
    assert registry.releases("intents") == [releases[4], releases[3]]
    for release in (releases[4], releases[3], other):
        assert all(registry.read_blob(blob) for blob in release.blobs.values())
    for release in (releases[0], releases[2]):
        with pytest.raises(ReleaseError, match="is missing"):
            registry.read_blob(release.blobs["head"])
    with pytest.raises(ValueError, match="keep is 0"):
        registry.prune("intents", keep=0)


def test_a_clean_up_reads_what_came_since_the_last_one(url: str) -> None:
    class Counting(Registry):
        read = 0

        def get(self, task: str, version: str) -> ModelRelease:
            self.read += 1
            return super().get(task, version)

    registry = Counting(url)
    for n in range(20):
        publish(registry, {"head": str(n).encode()})
    assert registry.prune("intents", keep=10) == 10
    for n in range(20, 25):
        publish(registry, {"head": str(n).encode()})
    registry.read = 0
    assert registry.prune("intents", keep=10) == 5
    assert registry.read == 5


@pytest.mark.parametrize("keep", [1, 2, 3, 8, 20])
def test_what_is_kept_goes_back_by_seconds_and_to_the_first(keep: int, tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "releases"))
    for n in range(200):  # one every half second
        publish(registry, {"head": str(n).encode()}, time=TIME + n * timedelta(seconds=0.5))
        if n % 5 == 4:
            registry.prune("intents", keep=keep)
    ages = [int(199 - 2 * (r.time - TIME).total_seconds()) for r in registry.releases("intents")]
    assert len(ages) == keep
    recent = min(keep, max(2, keep // 2))
    assert ages[:recent] == list(range(recent))
    if keep > recent:
        assert ages[-1] == 199  # the first
    gaps = [b - a for a, b in zip(ages, ages[1:], strict=False)]
    for gap, age in zip(gaps[recent:], ages[recent + 1 :], strict=True):
        assert gap <= 0.9 * age or keep < 8  # nobody has to go back by all there is
