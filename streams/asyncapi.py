"""The AsyncAPI 3 document of everything that goes over the wire, made from the code.

Owns how topics, contracts and roles are written down for others: channels, messages with their
CloudEvents headers, and what each role sends and receives. Must not know how any of it is done.
The checked-in copy is written by::

    python -m streams.asyncapi > asyncapi.yaml
"""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

import msgspec

import schemas as contracts
from streams.describing import describe, docstring
from streams.topics import ANSWERED, TABLE, Topic

VERSION = "1"
_BINDING = "0.5.0"
_REF = "#/components/schemas/{name}"

ROLES: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "ingest",
        "validates interactions and feedback, joins labels",
        ("interactions", "feedback"),
        ("examples", "dead-letters"),
    ),
    (
        "learn",
        "learns from examples, and from interactions without labels where it is set to; hears of "
        "drift; releases models",
        ("examples", "interactions", "drift"),
        ("models",),
    ),
    (
        "serve",
        "answers interactions; puts what it is given over HTTP on the topics",
        ("interactions", "models"),
        ("predictions", "interactions", "feedback"),
    ),
    (
        "watch",
        "scores predictions, detects drift",
        ("predictions", "examples"),
        ("drift",),
    ),
)


def document() -> dict[str, Any]:
    """Build the document; the same code always gives the same document."""
    _, schemas = msgspec.json.schema_components(
        [topic.contract for topic in TABLE], ref_template=_REF
    )
    for name, schema in schemas.items():
        describe(schema, getattr(contracts, name))
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "mindstream",
            "version": VERSION,
            "license": {"name": "Apache-2.0"},
            "description": (
                "The messages by which mindstream learns from a stream and answers it. Values are "
                "JSON; CloudEvents attributes in Kafka headers (binary mode) are written on every "
                "message, and understood but not required on those that come in."
            ),
        },
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic) for topic in TABLE},
        "operations": _operations(),
        "components": {
            "messages": {topic.contract.__name__: _message(topic) for topic in TABLE},
            "schemas": dict(sorted(schemas.items())),
        },
    }


def _channel(topic: Topic) -> dict[str, Any]:
    name = topic.contract.__name__
    return {
        "address": "{prefix}." + topic.name,
        "description": _sentence(topic.about),
        "parameters": {
            "prefix": {
                "default": "mindstream",
                "description": "Set in the settings (kafka.prefix).",
            }
        },
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "bindings": {
            "kafka": {
                "topicConfiguration": {"cleanup.policy": [topic.cleanup]},
                "bindingVersion": _BINDING,
            }
        },
    }


def _message(topic: Topic) -> dict[str, Any]:
    contract = topic.contract
    return {
        "name": contract.ce_type,
        "title": contract.__name__,
        "summary": docstring(contract)[0],
        "contentType": "application/json",
        "headers": _headers(contract),
        "payload": {"$ref": _REF.format(name=contract.__name__)},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": _sentence(topic.key)},
                "bindingVersion": _BINDING,
            }
        },
    }


def _describe(schema: dict[str, Any], contract: type[Any]) -> None:
    """Put the words of a contract's docstring where readers of the document look for them."""
    schema["description"], fields = _docstring(contract)
    for name, words in fields.items():
        schema["properties"][name]["description"] = words


def _docstring(contract: type[Any]) -> tuple[str, dict[str, str]]:
    """Split a docstring into its first paragraphs and what it says of each attribute."""
    about, _, attributes = inspect.cleandoc(contract.__doc__ or "").partition("\n\nAttributes:\n")
    fields: dict[str, str] = {}
    for entry in re.split(r"\n(?= {4}\S)", attributes):
        name, _, words = " ".join(entry.split()).partition(": ")
        if name:
            fields[name] = words
    return " ".join(about.split()), fields


def _headers(contract: type[Any]) -> dict[str, Any]:
    made_of = ", ".join(contract.identity)
    name, value = ANSWERED
    answered = {
        "const": value.decode(),
        "description": "Its prediction is in Kafka already: servers pass it over.",
    }
    return {
        "type": "object",
        "properties": {
            **({name: answered} if contract is contracts.Interaction else {}),
            "ce_specversion": {"const": "1.0"},
            "ce_type": {"const": contract.ce_type},
            "ce_source": {"type": "string", "minLength": 1},
            "ce_id": {
                "type": "string",
                "minLength": 1,
                "description": f"Made of: {made_of}. A repeat carries the same.",
            },
            "ce_time": {"type": "string", "format": "date-time"},
            "content-type": {"const": "application/json"},
        },
    }


def _operations() -> dict[str, Any]:
    operations = {}
    for role, about, receives, sends in ROLES:
        for action, names in (("receive", receives), ("send", sends)):
            for name in names:
                words = "".join(word.title() for word in name.split("-"))
                operations[f"{role}{action.title()}s{words}"] = {
                    "action": action,
                    "channel": {"$ref": f"#/channels/{name}"},
                    "summary": f"{role}: {about}",
                }
    return operations


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:] + "."


def main() -> None:
    """Write the document as YAML to standard output."""
    import yaml  # of the development tools; not needed by any role

    sys.stdout.write("# Made by: python -m streams.asyncapi > asyncapi.yaml\n")
    yaml.safe_dump(document(), sys.stdout, sort_keys=False, allow_unicode=True, width=100)


if __name__ == "__main__":
    main()
