"""What counts as buffered: until acknowledged, or gone; by records and by bytes."""

from __future__ import annotations

from streams.chunks import Bounds, Buffered
from streams.decoding import Record


def records(count: int, *, size: int = 10) -> list[Record]:
    return [Record("t", 0, n, b"key", b"x" * (size - 3), (), 0) for n in range(count)]


def test_a_topic_has_room_below_both_bounds() -> None:
    buffered = Buffered(Bounds(rows=5, size=100))
    few = buffered.chunk("t", records(4), epoch=0)
    assert buffered.has_room("t")
    one = buffered.chunk("t", records(1), epoch=0)
    assert not buffered.has_room("t")
    assert buffered.has_room("other")
    one.release()
    large = buffered.chunk("t", records(1, size=60), epoch=0)
    large.release()
    assert buffered.has_room("t")
    larger = buffered.chunk("t", records(1, size=61), epoch=0)
    assert not buffered.has_room("t")
    assert (buffered.rows["t"], buffered.size["t"]) == (5, 101)
    del few, larger


def test_a_chunk_counts_once_whether_it_is_released_or_gone() -> None:
    buffered = Buffered(Bounds())
    chunk = buffered.chunk("t", records(3), epoch=0)
    chunk.release()
    chunk.release()
    del chunk
    assert (buffered.rows["t"], buffered.size["t"]) == (0, 0)
    chunk = buffered.chunk("t", records(3), epoch=0)
    del chunk  # as when Faust empties its queues
    assert (buffered.rows["t"], buffered.size["t"]) == (0, 0)


async def test_who_waits_for_room_is_woken() -> None:
    buffered = Buffered(Bounds(rows=1))
    chunk = buffered.chunk("t", records(1), epoch=0)
    await buffered.wait_for_room(at_most_s=0.001)
    assert not buffered.has_room("t")
    chunk.release()
    await buffered.wait_for_room(at_most_s=0.001)
    assert buffered.has_room("t")
