"""Checkpoints: bit-identical, atomic, verified; and the fence."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pytest
import redis as redis_client
import torch

from learners.checkpoint import CheckpointStore, Fence, LearnerState
from schemas.errors import CheckpointError, FencedError

DTYPES = [
    torch.bfloat16,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.int64,
    torch.uint64,
    torch.uint8,
    torch.bool,
]


def state(number: int = 1) -> LearnerState:
    return LearnerState(arrays={"w": torch.full((4, 3), float(number))}, meta={"number": number})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 5)], ids=str)
def test_arrays_survive_bit_for_bit(
    tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    rng = torch.Generator().manual_seed(0)
    count = torch.Size(shape).numel()
    width = torch.empty(0, dtype=dtype).element_size()
    top = 2 if dtype == torch.bool else 256
    bits = torch.randint(0, top, (count * width,), generator=rng, dtype=torch.uint8)  # NaNs too
    array = bits.view(dtype).reshape(shape)
    store = CheckpointStore(tmp_path)
    store.save(LearnerState(arrays={"x": array}))
    loaded = store.load()
    assert loaded is not None
    back = loaded.arrays["x"]
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert torch.equal(back.reshape(-1).view(torch.uint8), bits)


def test_meta_survives_with_a_generators_state(tmp_path: Path) -> None:
    chance = random.Random(3)
    version, words, gauss = chance.getstate()
    meta = {"positions": {"examples/0": 12}, "random": [version, list(words), gauss], "big": 2**130}
    store = CheckpointStore(tmp_path)
    store.save(LearnerState(meta=meta))
    loaded = store.load()
    assert loaded is not None
    assert loaded.meta == meta


def test_tensors_that_share_memory_are_kept(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    store = CheckpointStore(tmp_path)
    store.save(LearnerState(arrays={"whole": whole, "part": whole[1:, ::2], "again": whole}))
    loaded = store.load()
    assert loaded is not None
    assert torch.equal(loaded.arrays["part"], whole[1:, ::2])
    assert torch.equal(loaded.arrays["again"], whole)


def test_there_is_nothing_to_load_at_first(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "never made").load() is None


def test_the_newest_two_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    (tmp_path / "left by a crash.tmp").write_bytes(b"half")
    paths = [store.save(state(number)) for number in range(1, 5)]
    assert sorted(tmp_path.iterdir()) == paths[2:]
    loaded = CheckpointStore(tmp_path).load()
    assert loaded is not None
    assert loaded.meta["number"] == 4


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_checkpoint_falls_back_loudly_to_the_older(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    store = CheckpointStore(tmp_path)
    older, newest = store.save(state(1)), store.save(state(2))
    data = bytearray(newest.read_bytes())
    data[-3] ^= 1
    newest.write_bytes({"flip": bytes(data), "cut": bytes(data[:-20]), "empty": b""}[damage])
    with caplog.at_level(logging.ERROR):
        loaded = store.load()
    assert loaded is not None
    assert loaded.meta["number"] == 1
    assert f"falling back from {newest.name} to the older {older.name}" in caplog.text
    assert "do not have the hash in its name" in caplog.text
    third = store.save(state(3))
    assert older.exists(), "a damaged file must not push out a good one"
    assert sorted(tmp_path.glob("*.safetensors")) == [older, third]


def test_no_good_checkpoint_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for path in (store.save(state(1)), store.save(state(2))):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="Restore one from a backup, or move the folder away"):
        store.load()
    assert len(list(tmp_path.glob("*.safetensors"))) == 2, "the evidence stays"


def test_a_checkpoint_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="make room there or repair its permissions"):
        CheckpointStore(tmp_path / "file").save(state())


def test_the_newest_learner_has_the_place(redis: redis_client.Redis) -> None:
    paused, successor = Fence(redis, "test:fence"), Fence(redis, "test:fence")
    assert paused.acquire() == 1
    paused.check()
    assert successor.acquire() == 2
    successor.check()
    with pytest.raises(FencedError, match="another learner has taken over"):
        paused.check()


def test_a_token_that_the_server_lost_is_given_back(redis: redis_client.Redis) -> None:
    fence = Fence(redis, "test:fence")
    for _ in range(3):
        fence.acquire()
    redis.flushall()
    fence.check()
    assert Fence(redis, "test:fence").acquire() == 4


def test_a_fence_must_be_acquired_first(redis: redis_client.Redis) -> None:
    with pytest.raises(FencedError, match="was never acquired"):
        Fence(redis, "test:fence").check()
