"""What a caller of the library may give: checked, with the value, the rule and the name.

Must not know how anything is learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from learners.strategies import STRATEGIES, StrategyConfig
from schemas.fields import MAX_ID_CHARS, MAX_TEXT_CHARS

PARTS = {"kind", "encoder", "replay", "features"}  # objects, no options
OPTIONS = sorted({f.name for f in fields(StrategyConfig)} - PARTS)


def options_of(config: StrategyConfig) -> dict[str, Any]:
    """Give what a strategy was built with, as JSON values."""
    values = {name: getattr(config, name) for name in OPTIONS}
    return {**values, "plugin_arguments": dict(config.plugin_arguments)}


def check_arguments(strategy: str, held_out_share: float, options: Mapping[str, Any]) -> None:
    """Check what a learner is made of.

    Raises:
        ValueError: an argument is not what is asked for.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy {strategy!r}: one of {', '.join(STRATEGIES)} was expected")
    if not 0.0 <= held_out_share < 1.0:
        raise ValueError(f"held_out_share {held_out_share!r}: 0 to below 1 was expected")
    for name in options:
        if name not in OPTIONS:
            raise ValueError(f"option {name!r}: one of {', '.join(OPTIONS)} was expected")


def checked_text(text: object, row: int) -> str:
    """Give a text of 1 to 20,000 characters that are not all white space.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(text, str):
        raise ValueError(f"texts[{row}]: {text!r} is {type(text).__name__}, text was expected")
    if not text.strip():
        raise ValueError(f"texts[{row}]: {text!r} is empty, text was expected")
    if len(text) > MAX_TEXT_CHARS:
        raise ValueError(
            f"texts[{row}]: {len(text):,} characters, at most {MAX_TEXT_CHARS:,} are allowed"
        )
    return text


def checked_name(value: object, name: str) -> str:
    """Give an id or a user of 1 to 128 characters.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_ID_CHARS:
        raise ValueError(f"{name}: {value!r}, 1 to {MAX_ID_CHARS} characters were expected")
    return value
