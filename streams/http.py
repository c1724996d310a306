"""The HTTP API of a server: predictions for those who wait, and another way into the topics.

What HTTP is asked is what Kafka carries: the same contracts, checked by ingest's rules, answered in
the same micro-batches. The order of a prediction, numbered here and in the code:

1. read the items; each that cannot be used has its error, the others go on;
2. answer them in the server's micro-batches, within the deadline;
3. produce the interactions and the predictions, and await the broker's answer: a 200 means that
   both are in Kafka, so that later feedback joins. Such an interaction carries a header by which
   the server's agent knows that it is answered already;
4. answer the caller.

After any other status nothing is known to be in Kafka; asking again with the same id is safe.
Owns routes and statuses; must not know models, Redis or settings.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import faust
import msgspec
from aiohttp import web
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from faust.exceptions import ProducerSendError

from learners.tasks.base import TaskKind
from schemas import Feedback, Interaction, Prediction, codec
from schemas.errors import MessageError, OverloadError
from serving.metrics import Metrics
from serving.predictor import Asked
from streams.admission import GOING, Admission, HttpLimits
from streams.bodies import (
    Accepted,
    Predictions,
    Rules,
    TooManyError,
    read_feedback,
    read_interaction,
    split,
)
from streams.openapi import document
from streams.problems import ItemError, RefusedError, RefusedNowError, answer_of
from streams.producing import Outgoing, outgoing, produce
from streams.serve import Serve
from streams.topics import ANSWERED
from streams.web import releases_shown

log = logging.getLogger(__name__)

T = TypeVar("T", Interaction, Feedback)
Handler = Callable[[web.Request], Any]

# Method, path, and the status when all is well.
ROUTES = (
    ("POST", "/v1/predict", 200),
    ("POST", "/v1/interactions", 202),
    ("POST", "/v1/feedback", 202),
    ("GET", "/v1/releases", 200),
)
JSON = "application/json"
RELEASE_AFTER_S = 5.0  # the first release of a task may take long; it is asked for no more often
KAFKA_AFTER_S = 2.0

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Items(Generic[T]):
    """The items of a request, read.

    Attributes:
        rows: in order; None where an item cannot be used.
        errors: why, by place.
        many: whether a list was sent.
    """

    rows: list[T | None]
    errors: dict[int, ItemError]
    many: bool

    def fail(self, index: int, status: int, detail: str) -> None:
        """Give an item up."""
        self.rows[index] = None
        self.errors[index] = ItemError(index=index, status=status, detail=detail)

    def require_one(self) -> None:
        """Go on only if something is left to do.

        Raises:
            RefusedError: every item has failed.
            RefusedNowError: and may not, later.
        """
        if len(self.errors) < len(self.rows):
            return
        first = self.errors[0]
        status = first.status if all(e.status == first.status for e in self.listed()) else 400
        detail = f"none of {len(self.rows):,} items can be answered" if self.many else first.detail
        errors = self.listed() if self.many else []
        if status == 503:
            raise RefusedNowError(status, detail, after_s=RELEASE_AFTER_S, errors=errors)
        raise RefusedError(status, detail, errors=errors)

    def listed(self) -> list[ItemError]:
        """List the errors in the order of the items."""
        return [self.errors[index] for index in sorted(self.errors)]


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """What the API of a server needs to know beside the server itself.

    Attributes:
        kinds: the kind of each task of this deployment.
        limits: what a request may be.
        fresh_id: gives an id that nobody has.
    """

    kinds: Mapping[str, TaskKind]
    limits: HttpLimits
    fresh_id: Callable[[], str] = field(default=lambda: uuid.uuid4().hex)


class Http:
    """The routes under /v1.

    Args:
        app: whose producer is used, and whose end is ours.
        serve: whose batcher, topics, limits and clocks are used.
        config: what may be asked, and by whom.
    """

    def __init__(self, app: faust.App, serve: Serve, config: HttpConfig) -> None:
        self.app = app
        self.topics = serve.topics
        self.batcher = serve.batcher
        self.releases = serve.releases
        self.metrics = serve.metrics
        self.monotonic_s = serve.monotonic_s
        self.limits = config.limits
        self.rules = Rules(
            kinds=config.kinds, limits=serve.limits, fresh_id=config.fresh_id, now=serve.now
        )
        self.admission = Admission(config.limits, closing=lambda: bool(app.should_stop))

    def routes(self) -> list[web.RouteDef]:
        """List what there is."""
        handlers = (self.predict, self.interactions, self.feedback, self.show_releases)
        return [
            web.route(method, path, self._admitted(handler))
            for (method, path, _), handler in zip(ROUTES, handlers, strict=True)
        ]

    def _admitted(self, handler: Handler) -> Handler:
        async def admitted(request: web.Request) -> Any:  # noqa: ANN401
            with self.admission.admit(request):
                return await handler(request)

        return admitted

    async def predict(self, request: web.Request) -> web.Response:
        """Answer one interaction or several, in the order that the module's docstring numbers."""
        arrived_s = self.monotonic_s()
        until_s = arrived_s + self.admission.time_s(request)
        publish = self._publishes(request)
        items = await self._items(  # 1
            request, until_s, many="interactions", read=read_interaction
        )
        rows = [row for row in items.rows if row is not None]
        answers = self._placed(items, await self._answers(rows, arrived_s, until_s))  # 2
        if publish:
            await self._produce(self._messages(items, answers), until_s)  # 3
        self._count([answer for answer in answers if answer is not None])
        if not items.many and answers[0] is not None:  # 4
            return web.Response(body=codec.encode(answers[0]), content_type=JSON)
        return _json(Predictions(predictions=answers, errors=items.listed()), status=200)

    async def feedback(self, request: web.Request) -> web.Response:
        """Put feedback on its topic; 202 when the broker has it."""
        until_s = self.monotonic_s() + self.admission.time_s(request)
        items = await self._items(request, until_s, many="feedback", read=read_feedback)
        topic = self.topics.feedback
        messages = [outgoing(topic, row.interaction, row) for row in items.rows if row]
        await self._produce(messages, until_s)
        return _accepted(items, [row.interaction if row else None for row in items.rows])

    async def interactions(self, request: web.Request) -> web.Response:
        """Put interactions on their topic, to be answered there; 202 when the broker has them."""
        until_s = self.monotonic_s() + self.admission.time_s(request)
        items = await self._items(request, until_s, many="interactions", read=read_interaction)
        topic = self.topics.interactions
        messages = [outgoing(topic, row.user, row) for row in items.rows if row]
        await self._produce(messages, until_s)
        return _accepted(items, [row.id if row else None for row in items.rows])

    async def show_releases(self, request: web.Request) -> web.Response:
        """Show what serves, by task."""
        del request
        return _json(releases_shown(self.releases), status=200)

    def _publishes(self, request: web.Request) -> bool:
        """Say whether this prediction goes to Kafka: the setting, unless the caller says no.

        Raises:
            RefusedError: the caller says something else.
        """
        said = request.query.get("publish", "true")
        if said not in ("true", "false"):
            raise RefusedError(400, f"publish={said[:60]!r}: true or false was expected")
        return self.limits.publish and said == "true"

    async def _items(
        self,
        request: web.Request,
        until_s: float,
        *,
        many: str,
        read: Callable[[bytes, Rules], T],
    ) -> Items[T]:
        """Read the body and every item of it.

        Raises:
            RefusedError: nothing of it can be used.
        """
        body = await self.admission.read(request, within_s=until_s - self.monotonic_s())
        try:
            raw, is_many = split(body, many=many, max_rows=self.limits.max_rows)
        except TooManyError as error:
            raise RefusedError(413, str(error)) from None
        except MessageError as error:
            raise RefusedError(400, error.reason) from None
        items: Items[T] = Items([None] * len(raw), {}, is_many)
        for index, data in enumerate(raw):
            try:
                items.rows[index] = read(data, self.rules)
            except MessageError as error:
                items.fail(index, 400, error.reason)
        items.require_one()
        return items

    async def _answers(
        self, rows: Sequence[Interaction], arrived_s: float, until_s: float
    ) -> list[Prediction | None]:
        """Do step 2.

        Raises:
            RefusedError: time is up.
            RefusedNowError: too many wait already, or the server is stopping.
            RuntimeError: the batcher was closed, and nobody knows why.
        """
        asked = [Asked(row, arrived_s) for row in rows]
        left_s = max(0.0, until_s - self.monotonic_s())
        try:
            return await self.batcher.answer(asked, deadline_s=left_s)
        except OverloadError as error:
            raise RefusedNowError(429, str(error), after_s=error.retry_after_s) from None
        except TimeoutError:
            raise RefusedError(504, "no answer was ready within the time allowed") from None
        except RuntimeError:  # the batcher was closed under it
            if not self.app.should_stop:
                raise
            raise RefusedNowError(503, GOING, after_s=1.0) from None

    def _placed(
        self, items: Items[Interaction], answers: Iterable[Prediction | None]
    ) -> list[Prediction | None]:
        """Give every answer the place of its item, None where there is no answer to give.

        Where there is none at all, the request is refused.
        """
        given = iter(answers)
        placed: list[Prediction | None] = [None] * len(items.rows)
        for index, row in enumerate(items.rows):
            answer = None if row is None else next(given)
            if row is None:
                continue
            if answer is None:
                items.fail(index, 400, "this task cannot read it")
            elif answer.status == "no-release":
                items.fail(index, 503, f"task {answer.task!r} has no release yet")
            else:
                placed[index] = answer
        items.require_one()
        return placed

    def _messages(
        self, items: Items[Interaction], answers: Sequence[Prediction | None]
    ) -> list[Outgoing]:
        messages = []
        for row, answer in zip(items.rows, answers, strict=True):
            if row is not None and answer is not None:
                messages.append(outgoing(self.topics.predictions, row.id, answer))
                message = outgoing(self.topics.interactions, row.user, row)
                messages.append(replace(message, headers=(*message.headers, ANSWERED)))
        return messages

    def _count(self, answers: Sequence[Prediction]) -> None:
        """Count answers as the server's agent counts its own."""
        for answer in answers:
            self.metrics.predictions_total.labels(answer.task, answer.status).inc()
            self.metrics.prediction_latency_seconds.labels(answer.task).observe(
                answer.latency_s or 0.0
            )

    async def _produce(self, messages: Sequence[Outgoing], until_s: float) -> None:
        """Produce, and await the broker's answer.

        Raises:
            RefusedError: one is too large for it.
            RefusedNowError: it did not take them within the time.
        """
        try:
            async with asyncio.timeout(max(0.0, until_s - self.monotonic_s())):
                await produce(self.app, messages)
        except MessageSizeTooLargeError:
            raise RefusedError(413, "an item is larger than the broker takes") from None
        except (KafkaError, ProducerSendError, TimeoutError) as error:
            log.warning("%s: %s; a request is refused", type(error).__name__, error)
            detail = "Kafka has not acknowledged it: ask again, with the same id where there is one"
            raise RefusedNowError(503, detail, after_s=KAFKA_AFTER_S) from error


def attach_http(app: faust.App, serve: Serve, config: HttpConfig) -> None:
    """Add the routes to an app's web server, its description, and problems for all its errors.

    Args:
        app: before it starts.
        serve: whose batcher answers.
        config: what may be asked, and by whom.
    """
    http = Http(app, serve, config)
    described = _encode(document())

    async def openapi(request: web.Request) -> web.Response:
        del request
        return web.Response(body=described, content_type=JSON)

    for _, route, status in ROUTES:  # there from the start: a rate shows the first request too
        http.metrics.http_requests_total.labels(route, status)
        http.metrics.http_request_seconds.labels(route)
    driver: Any = app.web
    server: web.Application = driver.web_app
    server.add_routes([*http.routes(), web.get("/openapi.json", openapi)])
    server.middlewares.append(_observed(http.metrics, http.monotonic_s))


def _observed(metrics: Metrics, monotonic_s: Callable[[], float]) -> Any:  # noqa: ANN401
    """Build what surrounds every handler: errors become problems, and requests are counted."""

    @web.middleware
    async def observed(request: web.Request, handler: Handler) -> web.StreamResponse:
        started_s = monotonic_s()
        response: web.StreamResponse
        try:
            response = await handler(request)
        except RefusedError as refused:
            response = answer_of(refused)
        except web.HTTPException as error:
            response = answer_of(_of_the_router(request, error))
        # A fault of ours: the caller gets a problem as for any other, the log the traceback.
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            response = answer_of(RefusedError(500, "a fault of this server; its log says more"))
        resource = request.match_info.route.resource
        route = "other" if resource is None else resource.canonical
        metrics.http_requests_total.labels(route, response.status).inc()
        metrics.http_request_seconds.labels(route).observe(monotonic_s() - started_s)
        return response

    return observed


def _of_the_router(request: web.Request, error: web.HTTPException) -> RefusedError:
    """Say in words what aiohttp says in numbers."""
    allowed = error.headers.get("Allow")
    if error.status == 404:
        detail = f"there is no {request.path[:200]!r} here: /openapi.json lists what there is"
    elif allowed:
        detail = f"{request.method[:20]} is not understood here, but {allowed}"
    else:
        detail = error.reason
    return RefusedError(error.status, detail, headers={"Allow": allowed} if allowed else None)


def _accepted(items: Items[Any], ids: list[str | None]) -> web.Response:
    errors = items.listed()
    return _json(Accepted(accepted=len(ids) - len(errors), ids=ids, errors=errors), status=202)


def _json(answer: object, *, status: int) -> web.Response:
    return web.Response(status=status, body=_encode(answer), content_type=JSON)
