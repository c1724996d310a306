"""What is wrong with settings, in words: name, value and rule, and the name that was meant.

Owns what may be shown of a value: never a secret. Must not know what settings there are.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

MASK = "***"
ELSE = "`mindstream config init` writes all of them down, with their rules"
_SECRETS = ("password", "url", "token")
_SHOWN_CHARS = 200
# Kubernetes gives every container variables of the services beside it: a service called
# `mindstream-serve` makes MINDSTREAM_SERVE_SERVICE_HOST and more.
_OF_KUBERNETES = re.compile(r"_SERVICE_(HOST|PORT)(_\w+)?$|_PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?$")
_ADDRESS = re.compile(r"^(tcp|udp|sctp)://")


def line_of(problem: Mapping[str, Any], *, known: Iterable[str], holders: Iterable[str]) -> str:
    """Write one of pydantic's problems as a line.

    Args:
        problem: as `ValidationError.errors` gives it.
        known: dotted names of all settings.
        holders: sections that hold a secret.
    """
    name = ".".join(str(part) for part in problem["loc"]) or "settings"
    if problem["type"] == "extra_forbidden":
        return f"{name}: there is no such setting; {meant(name, known)}"
    rule = str(problem["msg"]).removeprefix("Value error, ")
    rule = f"{rule[0].lower()}{rule[1:]}"
    value = problem.get("input")
    hidden = name.endswith(_SECRETS) or (name in holders and not isinstance(value, Mapping))
    shown = MASK if hidden else repr(masked(value))
    return f"{name} = {shown[:_SHOWN_CHARS]}: {rule}"


def masked(value: Any) -> Any:  # noqa: ANN401
    """Replace every secret inside a value, at any depth; anything but a mapping stays as it is."""
    if not isinstance(value, Mapping):
        return value
    return {
        name: MASK if str(name).lower().endswith(_SECRETS) and inner else masked(inner)
        for name, inner in value.items()
    }


def meant(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Say which name was probably meant; all of them begin with `prefix`."""
    short = [one.removeprefix(prefix) for one in known]
    near = difflib.get_close_matches(name.removeprefix(prefix), short, n=1, cutoff=0.7)
    return f"is {prefix}{near[0]} meant?" if near else ELSE


def is_of_kubernetes(name: str, value: str) -> bool:
    """Say whether a variable was made by Kubernetes and not by a person."""
    match = _OF_KUBERNETES.search(name)
    if match is None:
        return False
    return "_SERVICE_" in match[0] or match[0] != "_PORT" or bool(_ADDRESS.match(value))
