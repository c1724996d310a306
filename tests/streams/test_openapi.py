"""The checked-in OpenAPI document is current, and names what there is."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from schemas import Feedback, Interaction
from streams import openapi
from streams.bodies import FeedbackBody, InteractionBody
from streams.http import ROUTES
from tests.openapi import PATH, document


def test_the_checked_in_document_is_current() -> None:
    written = subprocess.run(
        [sys.executable, "-m", "streams.openapi"], capture_output=True, check=True, cwd=PATH.parent
    ).stdout
    assert written == PATH.read_bytes(), "run: python -m streams.openapi > openapi.yaml"


def test_every_reference_leads_somewhere_and_every_schema_is_described() -> None:
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

    check(openapi.document())
    for schema in document()["components"]["schemas"].values():
        assert schema["description"]
        assert "Attributes:" not in schema["description"]


def test_the_document_has_every_route_and_its_statuses_and_no_other() -> None:
    described = {
        (method.upper(), path)
        for path, operations in document()["paths"].items()
        for method in operations
    }
    assert described == {(method, path) for method, path, _ in ROUTES}
    for method, path, status in ROUTES:
        assert str(status) in document()["paths"][path][method.lower()]["responses"]


@pytest.mark.parametrize(
    ("body", "contract", "optional"),
    [
        (InteractionBody, Interaction, {"id", "user", "task", "time"}),
        (FeedbackBody, Feedback, {"time"}),
    ],
)
def test_a_body_is_its_contract_with_less_required(
    body: type[msgspec.Struct], contract: type[msgspec.Struct], optional: set[str]
) -> None:
    mine = {field.name: field for field in msgspec.structs.fields(body)}
    theirs = {field.name: field for field in msgspec.structs.fields(contract)}
    assert set(mine) == set(theirs)
    for name, field in theirs.items():
        if name in optional:
            assert mine[name].default is msgspec.UNSET
        else:
            assert (mine[name].type, mine[name].default) == (field.type, field.default)
