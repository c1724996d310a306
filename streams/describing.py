"""Docstrings of contracts, put where readers of a generated document look for them.

Owns how a docstring is read; must not know which document it goes into.
"""

from __future__ import annotations

import inspect
import re
from typing import Any


def describe(schema: dict[str, Any], contract: type[Any]) -> None:
    """Put the words of a contract's docstring into its JSON schema.

    Args:
        schema: of the contract; changed.
        contract: a Struct with Google-style attributes.
    """
    schema["description"], fields = docstring(contract)
    for name, words in fields.items():
        schema["properties"][name]["description"] = words


def docstring(contract: type[Any]) -> tuple[str, dict[str, str]]:
    """Split a docstring into its first paragraphs and what it says of each attribute."""
    about, _, attributes = inspect.cleandoc(contract.__doc__ or "").partition("\n\nAttributes:\n")
    fields: dict[str, str] = {}
    for entry in re.split(r"\n(?= {4}\S)", attributes):
        name, _, words = " ".join(entry.split()).partition(": ")
        if name:
            fields[name] = words
    return " ".join(about.split()), fields
