"""The server that one writes in ten minutes: FastAPI before a released model, a text a request.

For comparison with mindstream's own, by `benchmarks.http`; the same release, encoder and head. Two
routes, since both are written: `/def` answers in FastAPI's thread pool, `/async` in its event loop.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, Field

from benchmarks.deployment import TASK
from learners.registry import Registry
from learners.released import EncoderCache, ReleasedModel

TOP = 3  # as the server's default


class Question(BaseModel):
    """What is asked."""

    text: str = Field(min_length=1, max_length=20_000)


class Scored(BaseModel):
    """A label and its probability."""

    label: str
    score: float


class Answer(BaseModel):
    """What is answered."""

    label: str
    score: float
    top: list[Scored]
    release: str


def make_api(model: ReleasedModel) -> FastAPI:
    """Put a model behind two routes."""
    api = FastAPI()

    def decide(question: Question) -> Answer:
        [decision] = model.predict([question.text], top=TOP)
        return Answer(
            label=str(decision.label),
            score=decision.score,
            top=[Scored(label=label, score=score) for label, score in decision.top],
            release=model.release.version,
        )

    @api.get("/ready")
    def ready() -> str:
        return model.release.version

    @api.post("/def")
    def in_a_thread(question: Question) -> Answer:
        return decide(question)

    @api.post("/async")
    async def in_the_loop(question: Question) -> Answer:
        return decide(question)

    return api


def main(arguments: Sequence[str]) -> int:
    """Serve the newest release of a store until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plain_api", description=__doc__)
    parser.add_argument("--store", required=True, help="where the release is")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    registry = Registry(chosen.store)
    encoders = EncoderCache(device="cpu", precision=chosen.precision)
    model = ReleasedModel.load(registry.latest(TASK), registry, encoders=encoders)
    model.predict(["warm"])
    uvicorn.run(make_api(model), host="127.0.0.1", port=chosen.port, log_level="warning")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
