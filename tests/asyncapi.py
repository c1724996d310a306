"""Holds encoded messages against the checked-in AsyncAPI document."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

PATH = Path(__file__).parents[1] / "asyncapi.yaml"


@cache
def document() -> dict[str, Any]:
    """Read the checked-in document."""
    read: dict[str, Any] = yaml.safe_load(PATH.read_text(encoding="utf-8"))
    return read


@cache
def validator(contract_name: str) -> Callable[[bytes, Iterable[tuple[str, bytes]]], None]:
    """Give a check of a message's value and headers against the document.

    Args:
        contract_name: as in the code, such as `Interaction`.

    Returns:
        A function of value and headers that raises `jsonschema.ValidationError`.
    """
    payload = _checker(document()["components"]["messages"][contract_name]["payload"])
    headers = _checker(document()["components"]["messages"][contract_name]["headers"])

    def check(value: bytes, pairs: Iterable[tuple[str, bytes]] = ()) -> None:
        payload.validate(json.loads(value))
        headers.validate({name: content.decode() for name, content in pairs})

    return check


def _checker(schema: dict[str, Any]) -> Draft202012Validator:
    whole = {**schema, "components": document()["components"]}
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(whole)
