"""What `benchmarks.serve` compares with, each in a process of its own.

`bare` computes answers in a loop and nothing else. `pipeline` is the consumer loop that people
write today: a transformers pipeline, one message after the other. `faust` is an agent of stock
Faust over the same model that mindstream serves. Must not know what is compared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

TAKE_ROWS = 256
TAKE_S = 0.02


def model_and_rows() -> tuple[Any, int]:
    """Load the newest release as the serve role does, and tell how many rows that takes at once.

    The settings are those in this environment.
    """
    from benchmarks.deployment import TASK
    from learners.registry import Registry
    from learners.released import ReleasedModel
    from mindstream.answering import make_encoders
    from mindstream.settings import load_settings

    settings = load_settings()
    registry = Registry(settings.store_url)
    release = registry.latest(TASK)
    model = ReleasedModel.load(release, registry, encoders=make_encoders(settings))
    return model, settings.serve.batch_rows


def run_bare(texts: Sequence[str]) -> None:
    """Answer texts at every line that comes in, as many as it says; print the seconds that took."""
    model, rows = model_and_rows()
    say({"ready": f"{model.encoder.choice.engine} {model.encoder.choice.precision}"})
    for line in sys.stdin:
        mine = texts[: int(line)]
        used = resource.getrusage(resource.RUSAGE_SELF)
        started = time.perf_counter()
        for start in range(0, len(mine), rows):
            model.predict(mine[start : start + rows], top=3)
        seconds = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
        say({"seconds": seconds, "cpu_s": cpu_s, "rows": len(mine)})


def run_pipeline(servers: str, interactions: str, predictions: str, labels: int) -> None:
    """Answer one message after the other, as tutorials show it."""
    from kafka import KafkaConsumer, KafkaProducer
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        TextClassificationPipeline,
        logging,
    )

    from learners import backbones

    logging.set_verbosity_error()  # type: ignore[no-untyped-call] # that its classifier is new is no news
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = backbones.find(backbones.DEFAULT_BACKBONE)
    pipe = TextClassificationPipeline(  # type: ignore[no-untyped-call]
        model=AutoModelForSequenceClassification.from_pretrained(folder, num_labels=labels),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        device=-1,
    )
    consumer = KafkaConsumer(
        interactions,
        bootstrap_servers=servers,
        group_id="pipeline",
        auto_offset_reset="earliest",
        fetch_max_wait_ms=20,  # the embedded cluster does not wake a fetch that waits
        value_deserializer=json.loads,
    )
    producer = KafkaProducer(
        bootstrap_servers=servers, value_serializer=lambda value: json.dumps(value).encode()
    )
    say({"ready": "torch fp32, one text at a time"})
    for message in consumer:
        answer = pipe(message.value["text"], truncation=True)[0]
        producer.send(
            predictions,
            {"id": message.value["id"], "label": answer["label"], "score": answer["score"]},
        )


def run_faust(servers: str, interactions: str, predictions: str, folder: str) -> None:
    """Answer batches in an agent of stock Faust, with the model that mindstream serves."""
    import faust

    from streams.transport import use_transport

    model, _ = model_and_rows()
    app = faust.App(
        "stock",
        broker=f"kafka://{servers}",
        datadir=folder,
        autodiscover=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        value_serializer="json",
        web_enabled=False,
    )
    use_transport(app, fetch_wait_ms=20, fast=None)  # else the embedded cluster would be slow
    questions, answers = app.topic(interactions), app.topic(predictions)
    pool = ThreadPoolExecutor(max_workers=1)

    @app.agent(questions)
    async def answer(stream: Any) -> None:  # noqa: ANN401
        loop = asyncio.get_running_loop()
        async for batch in stream.take(TAKE_ROWS, within=TAKE_S):
            decisions = await loop.run_in_executor(pool, model.predict, [e["text"] for e in batch])
            for event, decision in zip(batch, decisions, strict=True):
                sent: Any = answers.send(
                    key=event["user"],
                    value={
                        "id": event["id"],
                        "label": decision.label,
                        "score": decision.score,
                        "release": model.release.version,
                    },
                )
                await sent

    say({"ready": f"{model.encoder.choice.engine} {model.encoder.choice.precision}"})
    worker = faust.Worker(app, loglevel="WARNING", quiet=True, redirect_stdouts=False)
    worker.web_enabled = False  # type: ignore[attr-defined]
    worker.execute_from_commandline()


def say(message: dict[str, object]) -> None:
    """Tell the parent, one JSON object a line."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of them until its input or its process ends."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rivals", description=__doc__)
    parser.add_argument("side", choices=("bare", "pipeline", "faust"))
    parser.add_argument("--servers", default="")
    parser.add_argument("--interactions", default="")
    parser.add_argument("--predictions", default="")
    parser.add_argument("--labels", type=int, default=2)
    parser.add_argument("--texts", type=Path, help="JSON list, for `bare`")
    parser.add_argument("--folder", default=".")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    sides: dict[str, Callable[[], None]] = {
        "bare": lambda: run_bare(json.loads(args.texts.read_text(encoding="utf-8"))),
        "pipeline": lambda: run_pipeline(
            args.servers, args.interactions, args.predictions, args.labels
        ),
        "faust": lambda: run_faust(args.servers, args.interactions, args.predictions, args.folder),
    }
    sides[args.side]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
