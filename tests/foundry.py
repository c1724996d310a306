"""Real releases: small heads on the real default encoder, in a real registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from schemas import Blob, GateReport, Interaction, ModelRelease

if TYPE_CHECKING:
    from learners.model import Encoder
    from learners.registry import Registry
    from schemas.fields import Label

START = datetime(2026, 1, 2, tzinfo=UTC)

INTENTS: Mapping[str, Label] = {
    "please give my money back": "refund",
    "i want a refund for this order": "refund",
    "where is my parcel": "delivery",
    "when will the package arrive": "delivery",
}
TOPICS: Mapping[str, Label] = {
    "where is my parcel, and my money back please": ("delivery", "refund"),
    "i want a refund for this order": ("refund",),
    "when will the package arrive": ("delivery",),
    "hello there": (),
}


@dataclass
class Foundry:
    """Makes real releases, one second apart."""

    registry: Registry
    encoder: Encoder
    encoder_blobs: dict[str, Blob]
    folder: Path
    made: int = 0

    def release(
        self,
        task: str = "intents",
        kind: str = "classify",
        rows: Mapping[str, Label] = INTENTS,
        *,
        head_blobs: dict[str, bytes] | None = None,
    ) -> ModelRelease:
        blobs = head_blobs if head_blobs is not None else self.head(kind, rows)
        self.made += 1
        return self.registry.publish(
            task=task,
            kind=kind,
            strategy="two-speed",
            backbone=self.encoder.name,
            blobs={**self.encoder_blobs, **self.registry.put_blobs(blobs)},
            positions={},
            learned=len(rows),
            labels=len(rows),
            gate=GateReport(accepted=True, reason="first", rows=0, challenger=1.0),
            time=START + timedelta(seconds=self.made),
        )

    def rollback(self, task: str, version: str) -> ModelRelease:
        self.made += 1
        return self.registry.rollback(task, version, START + timedelta(seconds=self.made))

    def head(self, kind: str, rows: Mapping[str, Label]) -> dict[str, bytes]:
        from learners.heads.additive import AdditiveHead
        from learners.tasks import task_kind

        tasks = task_kind(kind)
        head = AdditiveHead(features=self.encoder.width, solver=tasks.head_solver, width=64)
        touched = [tasks.label_texts(label) for label in rows.values()]
        head.add(
            self.encoder.encode(list(rows)),
            [tuple(head.row_of(text) for text in texts) for texts in touched],
        )
        head.solve()
        return head.blobs()

    def damage(self, blob: Blob) -> None:
        """Turn one byte of a stored blob over."""
        [path] = [path for path in self.folder.rglob(blob.sha256) if path.is_file()]
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """Load the default backbone once."""
    from learners.model import Encoder

    return Encoder.load(max_tokens=64, device="cpu", precision="fp32")


@pytest.fixture
def foundry(encoder: Encoder, tmp_path: Path) -> Foundry:
    """Open an empty registry that already holds the encoder."""
    from learners.registry import Registry

    registry = Registry(str(tmp_path / "store"))
    return Foundry(registry, encoder, registry.put_blobs(encoder.blobs()), tmp_path / "store")


def interaction(
    name: str, text: str | None = "where is my parcel", *, task: str = "intents"
) -> Interaction:
    return Interaction(id=name, user="u", task=task, time=START, text=text)
