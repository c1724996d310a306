"""The bytes of every contract version stay what they are: read and written alike."""

from __future__ import annotations

from typing import Any

import pytest

from schemas import codec
from streams.topics import TABLE, Topics
from tests.samples import GOLDEN, SAMPLES


@pytest.mark.parametrize("name", SAMPLES)
def test_a_contract_is_written_as_its_golden_bytes(name: str) -> None:
    assert codec.encode(SAMPLES[name]) == (GOLDEN / f"{name}.json").read_bytes()


@pytest.mark.parametrize("name", SAMPLES)
def test_golden_bytes_are_read_as_their_contract(name: str) -> None:
    sample = SAMPLES[name]
    assert codec.decode(type(sample), (GOLDEN / f"{name}.json").read_bytes()) == sample


def test_every_golden_file_has_its_sample() -> None:
    assert {path.stem for path in GOLDEN.glob("*.v*.json")} == set(SAMPLES)


@pytest.mark.parametrize("topic", TABLE, ids=lambda topic: topic.name)
def test_the_contract_of_every_topic_has_a_full_golden_file(topic: Any) -> None:
    full = [
        sample
        for sample in SAMPLES.values()
        if type(sample) is topic.contract
        and all(getattr(sample, name) is not None for name in topic.contract.__struct_fields__)
    ]
    assert full, f"{topic.contract.__name__} has no golden file with every field"


def test_topics_and_the_table_name_the_same_topics() -> None:
    topics = Topics("p")
    named = {value for name, value in vars(topics).items() if name != "prefix"}
    assert named == set(topics.all())
    assert len({row.contract for row in TABLE}) == len(TABLE)


def test_every_contract_names_its_type_and_identity() -> None:
    types = set()
    for row in TABLE:
        assert row.contract.ce_type.startswith("mindstream.")
        assert set(row.contract.identity) <= set(row.contract.__struct_fields__)
        types.add(row.contract.ce_type)
    assert len(types) == len(TABLE)
