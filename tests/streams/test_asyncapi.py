"""The checked-in AsyncAPI document is current, and true of every message."""

from __future__ import annotations

import subprocess
import sys

import jsonschema
import pytest

from schemas import codec
from streams import asyncapi
from streams.topics import TABLE
from tests.asyncapi import PATH, document, validator
from tests.samples import SAMPLES


def test_the_checked_in_document_is_current() -> None:
    written = subprocess.run(
        [sys.executable, "-m", "streams.asyncapi"], capture_output=True, check=True, cwd=PATH.parent
    ).stdout
    assert written == PATH.read_bytes(), "run: python -m streams.asyncapi > asyncapi.yaml"


@pytest.mark.parametrize("name", SAMPLES)
def test_every_contract_is_valid_under_the_document(name: str) -> None:
    sample = SAMPLES[name]
    validator(type(sample).__name__)(codec.encode(sample), codec.cloudevents_headers(sample))


def test_the_check_refuses_what_the_document_does_not_allow() -> None:
    check = validator("Interaction")
    good = SAMPLES["interaction-least.v1"]
    for value in (b"{}", codec.encode(good).replace(b'"x"', b"5"), b'{"more": 1}'):
        with pytest.raises(jsonschema.ValidationError):
            check(value, ())
    with pytest.raises(jsonschema.ValidationError):
        check(codec.encode(good), [("ce_type", b"mindstream.feedback")])


def test_every_topic_is_a_channel_and_every_operation_has_one() -> None:
    channels = document()["channels"]
    assert list(channels) == [row.name for row in TABLE]
    for row in TABLE:
        assert list(channels[row.name]["messages"]) == [row.contract.__name__]
    for operation in document()["operations"].values():
        assert operation["channel"]["$ref"].removeprefix("#/channels/") in channels


def test_the_document_says_what_the_docstrings_say() -> None:
    schemas = document()["components"]["schemas"]
    consent = schemas["Interaction"]["properties"]["consent"]
    assert consent["description"] == "False means: predict, but never learn from it."
    assert not [name for name, schema in schemas.items() if "Attributes:" in schema["description"]]


def test_every_reference_leads_somewhere() -> None:
    def check(node: object) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                target: object = document()
                for part in str(node["$ref"]).removeprefix("#/").split("/"):
                    assert isinstance(target, dict)
                    target = target[part]
            for child in node.values():
                check(child)
        elif isinstance(node, list):
            for child in node:
                check(child)

    check(asyncapi.document())
