"""What is wrong with an HTTP request, as RFC 9457 writes it: `application/problem+json`.

Owns the shape of a problem and the one place where a refusal becomes an answer; must not know
routes or what is asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

CONTENT_TYPE = "application/problem+json"

_encode = msgspec.json.Encoder().encode


class ItemError(msgspec.Struct, frozen=True, kw_only=True):
    """Why one of several items has no answer; the others are not affected.

    Attributes:
        index: place in the request, from 0.
        status: as if the item had been alone: 400 where it is wrong, 503 where its task has no
            release yet.
        detail: one sentence: the field, the value and the rule.
    """

    index: int
    status: int
    detail: str


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that is none: what is wrong, for programs and for people (RFC 9457).

    Attributes:
        type: always `about:blank`: the status says what kind of problem it is.
        title: the status in words.
        status: of HTTP.
        detail: one sentence on this request.
        errors: where several items were sent and none of them could be used: one each.
    """

    type: Literal["about:blank"] = "about:blank"
    title: str
    status: int
    detail: str
    errors: tuple[ItemError, ...] | UnsetType = UNSET


class RefusedError(Exception):
    """Raised when a request gets a problem for an answer.

    Attributes:
        status: of HTTP.
        detail: one sentence.
        errors: by item, where there are several.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Sequence[ItemError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


class RefusedNowError(RefusedError):
    """Raised when the same request may get an answer later; the problem says when.

    Args:
        after_s: when it is worth asking again, seconds; said as a whole number, at least 1.
    """

    def __init__(
        self, status: int, detail: str, *, after_s: float, errors: Sequence[ItemError] = ()
    ) -> None:
        wait = {"Retry-After": str(max(1, math.ceil(after_s)))}
        super().__init__(status, detail, errors=errors, headers=wait)


def answer_of(refused: RefusedError) -> web.Response:
    """Write a refusal as the answer."""
    problem = Problem(
        title=HTTPStatus(refused.status).phrase,
        status=refused.status,
        detail=refused.detail,
        errors=refused.errors or UNSET,
    )
    return web.Response(
        status=refused.status,
        body=_encode(problem),
        content_type=CONTENT_TYPE,
        headers=refused.headers,
    )
