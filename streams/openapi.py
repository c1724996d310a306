"""The OpenAPI 3.1 document of the HTTP API, made from the code.

Owns how routes and statuses are written down for others; must not know how any of it is done. A
server gives it at /openapi.json; the checked-in copy is written by::

    python -m streams.openapi > openapi.yaml
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from schemas import Prediction
from streams import bodies, problems
from streams.describing import describe
from streams.problems import CONTENT_TYPE, Problem

VERSION = "1"
_REF = "#/components/schemas/{name}"
_JSON = "application/json"

_ROOTS = (
    bodies.InteractionBody,
    bodies.ManyInteractions,
    bodies.FeedbackBody,
    bodies.ManyFeedback,
    Prediction,
    bodies.Predictions,
    bodies.Accepted,
    Problem,
)

# Statuses of every route under /v1, and what each says.
_EVERYWHERE = {
    401: "A token is set, and the request does not carry it.",
    429: "Too much is asked already, by this client or of the model. Nothing was taken.",
    500: "A fault of the server.",
    503: "The server is stopping.",
}
# Of those that take a body.
_OF_BODIES = {
    400: "The body, or every item of it, cannot be used; the detail says why.",
    408: "The body did not come in time.",
    413: "The body is too large, has too many items, or an item is larger than the broker takes.",
    415: "The body is not JSON.",
}
_KAFKA_AWAY = (
    "Kafka has not acknowledged it in time, or the server is stopping. Asking again is safe, with "
    "the same id."
)
_WAITS = (429, 503)


def document() -> dict[str, Any]:
    """Build the document; the same code always gives the same document."""
    _, schemas = msgspec.json.schema_components(_ROOTS, ref_template=_REF)
    for name, schema in schemas.items():
        describe(schema, _contract(name))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mindstream",
            "version": VERSION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": (
                "Predictions for callers who wait, and another way into the topics. What is asked "
                "here is what Kafka carries: the same contracts, in the same micro-batches. Every "
                "error is a problem of RFC 9457."
            ),
        },
        "security": [{}, {"token": []}],
        "paths": {
            "/v1/predict": {"post": _predict()},
            "/v1/interactions": {"post": _interactions()},
            "/v1/feedback": {"post": _feedback()},
            "/v1/releases": {"get": _releases()},
        },
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Asked for where http.token is set.",
                }
            },
            "parameters": {
                "timeout": {
                    "name": "X-Request-Timeout",
                    "in": "header",
                    "description": "Longest wait, seconds; at most http.timeout_s of the settings.",
                    "schema": {"type": "number", "minimum": 0},
                },
                "prefer": {
                    "name": "Prefer",
                    "in": "header",
                    "description": "`wait=SECONDS` (RFC 7240): the same, in whole seconds.",
                    "schema": {"type": "string"},
                },
            },
        },
    }


def _contract(name: str) -> type[Any]:
    for module in (bodies, problems):
        if hasattr(module, name):
            found: type[Any] = getattr(module, name)
            return found
    import schemas

    contract: type[Any] = getattr(schemas, name)
    return contract


def _predict() -> dict[str, Any]:
    return {
        "operationId": "predict",
        "summary": "Answer one interaction or several",
        "description": (
            "One interaction is answered by its prediction; a list by a list, in which an item "
            "that cannot be answered is null and has an error, and the others are answered. With "
            "http.publish (the default) a 200 means that the interactions and the predictions are "
            "in Kafka: feedback on their ids joins. Asking again with the same id is safe."
        ),
        "parameters": [
            {
                "name": "publish",
                "in": "query",
                "description": "`false` keeps this request out of Kafka: feedback on it is lost.",
                "schema": {"type": "boolean", "default": True},
            },
            *_times(),
        ],
        "requestBody": _body("InteractionBody", "ManyInteractions"),
        "responses": {
            "200": _answer("The answer, or the answers.", "Prediction", "Predictions"),
            **_problems(
                {
                    **_EVERYWHERE,
                    **_OF_BODIES,
                    503: f"The task has no release yet. Or: {_KAFKA_AWAY}",
                    504: "No answer was ready in time.",
                }
            ),
        },
    }


def _interactions() -> dict[str, Any]:
    return {
        "operationId": "sendInteractions",
        "summary": "Send interactions without waiting for their answers",
        "description": (
            "Puts them on the topic, as any producer may: labelled ones to learn from, those of "
            "before the first release, and those whose predictions are read from Kafka."
        ),
        "parameters": _times(),
        "requestBody": _body("InteractionBody", "ManyInteractions"),
        "responses": _taken(),
    }


def _feedback() -> dict[str, Any]:
    return {
        "operationId": "sendFeedback",
        "summary": "Send what became known about interactions",
        "description": "Before or after the interaction itself, as on the topic.",
        "parameters": _times(),
        "requestBody": _body("FeedbackBody", "ManyFeedback"),
        "responses": _taken(),
    }


def _releases() -> dict[str, Any]:
    # What one release says is that of the page /releases.
    about = "By task: version, serving_since, released_at, kind, strategy, labels, gate and more."
    return {
        "operationId": "releases",
        "summary": "Say which release of each task answers",
        "responses": {
            "200": {
                "description": about,
                "content": {
                    _JSON: {
                        "schema": {
                            "type": "object",
                            "additionalProperties": {
                                "type": "object",
                                "properties": {"version": {"type": "string"}},
                                "required": ["version"],
                            },
                        }
                    }
                },
            },
            **_problems(_EVERYWHERE),
        },
    }


def _taken() -> dict[str, Any]:
    return {
        "202": _answer("The broker has every item that has no error.", "Accepted"),
        **_problems({**_EVERYWHERE, **_OF_BODIES, 503: _KAFKA_AWAY}),
    }


def _times() -> list[dict[str, Any]]:
    return [{"$ref": f"#/components/parameters/{name}"} for name in ("timeout", "prefer")]


def _body(*names: str) -> dict[str, Any]:
    return {"required": True, "content": {_JSON: {"schema": _one_of(names)}}}


def _answer(about: str, *names: str) -> dict[str, Any]:
    return {"description": about, "content": {_JSON: {"schema": _one_of(names)}}}


def _one_of(names: tuple[str, ...]) -> dict[str, Any]:
    references = [{"$ref": _REF.format(name=name)} for name in names]
    return references[0] if len(references) == 1 else {"oneOf": references}


def _problems(statuses: dict[int, str]) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for status in sorted(statuses):
        answer: dict[str, Any] = {
            "description": statuses[status],
            "content": {CONTENT_TYPE: {"schema": {"$ref": _REF.format(name="Problem")}}},
        }
        if status in _WAITS:
            about = "Seconds after which to ask again."
            answer["headers"] = {
                "Retry-After": {"description": about, "schema": {"type": "integer"}}
            }
        answers[str(status)] = answer
    return answers


def main() -> None:
    """Write the document as YAML to standard output."""
    import yaml  # of the development tools; not needed by any role

    sys.stdout.write("# Made by: python -m streams.openapi > openapi.yaml\n")
    yaml.safe_dump(document(), sys.stdout, sort_keys=False, allow_unicode=True, width=100)


if __name__ == "__main__":
    main()
