"""Holds HTTP requests and answers against the checked-in OpenAPI document."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

PATH = Path(__file__).parents[1] / "openapi.yaml"


@cache
def document() -> dict[str, Any]:
    """Read the checked-in document."""
    read: dict[str, Any] = yaml.safe_load(PATH.read_text(encoding="utf-8"))
    return read


def check_request(method: str, route: str, body: bytes) -> None:
    """Raise `jsonschema.ValidationError` where a body is not what the document describes."""
    operation = document()["paths"][route][method.lower()]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    _checker(json.dumps(schema)).validate(json.loads(body))


def check_answer(method: str, route: str, status: int, kind: str, body: bytes) -> Any:
    """Hold an answer against the document, its status and media type too; give it, read."""
    responses = document()["paths"][route][method.lower()]["responses"]
    assert str(status) in responses, f"{status} is not described for {route}"
    content = responses[str(status)]["content"]
    assert list(content) == [kind]
    answer = json.loads(body)
    _checker(json.dumps(content[kind]["schema"])).validate(answer)
    return answer


@cache
def _checker(schema: str) -> Draft202012Validator:
    whole = {**json.loads(schema), "components": document()["components"]}
    Draft202012Validator.check_schema(whole)
    return Draft202012Validator(whole)
