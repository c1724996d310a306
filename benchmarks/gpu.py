"""How fast a GPU serves and learns, and what share of its matrix rate that is.

All in one process: the rate of square matrix products at each precision, the best of a few sizes
and, on a processor, of torch's two libraries; texts of Banking77 through every engine that computes
here in fp32 or bf16, tokenised before and along; full fine-tuning as a consolidation does it, in
fp32, the second of two epochs; and the default head at 4,096 random features, which computes on the
processor wherever the encoder is. The share ("model FLOPs utilisation", Chowdhery et al., "PaLM",
2022) is of the matrix rate at the same precision, by what the architecture needs for the texts' own
tokens: padding, tokenising and waiting count as lost. Beside a GPU the same is measured on the
processor, by all of torch's threads or `--threads`, and by processor time; the GPU's is the clock
on the wall. Prints tables; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.arithmetic import TRAINING, best_s, clock_of, forward_flops, matrix_rates, wait_for
from benchmarks.commands import print_last
from benchmarks.data import DEFAULT_FOLDER, DataError, Row, read
from benchmarks.results import machine
from benchmarks.scenarios import BANKING
from learners.consolidation import Consolidation, ConsolidationConfig
from learners.engines.base import REFERENCE, Engine, Pair, features
from learners.engines.eager import choose_device
from learners.engines.making import PAIRS, Maker
from learners.heads.additive import AdditiveHead
from learners.model import Encoder
from learners.tasks import task_kind
from schemas.errors import EncoderError

HEAD_ROWS, HEAD_WIDTH = 32, 4_096
TOKENISING: tuple[str, Pair] = ("tokenising", REFERENCE)
PRECISIONS = ("fp32", "bf16")  # that have a matrix rate to be a share of
NO_GPU = "error: torch sees no CUDA device here: --device cpu runs the same on the processor"


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much is measured.

    Attributes:
        sizes: rows of square matrices.
        texts: served in a turn.
        turns: of each engine.
        learned: examples of an epoch.
        batches: rows of a step of fine-tuning.
        head_rows: examples that the head learns.
        compiled: whether torch compiles the encoder, which takes minutes.
    """

    sizes: tuple[int, ...]
    texts: int
    turns: int
    learned: int
    batches: tuple[int, ...]
    head_rows: int
    compiled: bool


AMOUNTS = {  # in full, and with --quick
    "cpu": (
        Amounts((512, 1_024, 2_048), 1_024, 3, 1_024, (32, 256), 8_192, compiled=True),
        Amounts((1_024,), 128, 2, 64, (32, 64), 512, compiled=False),
    ),
    "gpu": (
        Amounts((4_096, 8_192, 16_384), 8_192, 5, 4_096, (32, 256), 8_192, compiled=True),
        Amounts((4_096, 8_192), 2_048, 3, 1_024, (32, 256), 2_048, compiled=False),
    ),
}


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """One engine.

    Attributes:
        engine: its name.
        precision: its arithmetic.
        texts_s: texts a second, tokenised before.
        with_tokenising_s: texts a second, tokenised along.
        tflops: that it needs for the texts' own tokens, TFLOP/s, by `texts_s`.
        share: of the matrix rate at its precision, 0 to 1.
    """

    engine: str
    precision: str
    texts_s: float
    with_tokenising_s: float
    tflops: float
    share: float


class Learning(msgspec.Struct, frozen=True, kw_only=True):
    """Full fine-tuning, in fp32.

    Attributes:
        batch_rows: of a step.
        examples_s: examples a second.
        tflops: TFLOP/s, three passes forward an example.
        share: of the matrix rate in fp32, 0 to 1.
    """

    batch_rows: int
    examples_s: float
    tflops: float
    share: float


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The default head, on features that are there; it computes on the processor.

    Attributes:
        rows: that it learned.
        width: random features.
        threads: of the processor.
        adds_s: examples a second into the sums.
        solve_s: seconds of one solve of all features.
        examples_s: examples a second, all adds and one solve.
    """

    rows: int
    width: int
    threads: int
    adds_s: float
    solve_s: float
    examples_s: float


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured on one device.

    Attributes:
        device: as torch names it.
        name: of the chip.
        threads: of the processor; 0 for a GPU.
        float32_matmul: torch's setting: `highest` has no TF32 in it.
        matrix_tflops: TFLOP/s by precision.
        tokens: a text, special ones included.
        gflop_a_text: of one pass forward, mean, GFLOP.
        tokenising_s: texts a second.
        serving: by engine.
        not_made: why other engines are not there.
        learning: by batch.
    """

    device: str
    name: str
    threads: int
    float32_matmul: str
    matrix_tflops: dict[str, float]
    tokens: float
    gflop_a_text: float
    tokenising_s: float
    serving: list[Serving]
    not_made: dict[str, str]
    learning: list[Learning]


def measure(encoder: Encoder, rows: Sequence[Row], amounts: Amounts) -> Side:
    """Measure one device.

    Args:
        encoder: on that device, in fp32.
        rows: that are served and learned; fewer than asked for are repeated.
        amounts: how much.
    """
    device = encoder.device
    names = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if device.type == "cuda":
        names["fp16"] = torch.float16
    with torch.inference_mode():
        rates = matrix_rates(device, names, sizes=amounts.sizes)
    texts = [row.text for row in _so_many(rows, amounts.texts)]
    lengths = [len(ids) for ids in encoder.tokenize(texts)]
    flops = 1e-12 * forward_flops(encoder.module, lengths) / len(texts)  # TFLOP
    engines, not_made = _engines(encoder, compiled=amounts.compiled)
    speeds = _serve(encoder, engines, texts, turns=amounts.turns)
    return Side(
        device=str(device),
        name=torch.cuda.get_device_name(device) if device.type == "cuda" else machine(),
        threads=torch.get_num_threads() if device.type == "cpu" else 0,
        float32_matmul=torch.get_float32_matmul_precision(),
        matrix_tflops=rates,
        tokens=sum(lengths) / len(texts),
        gflop_a_text=1e3 * flops,
        tokenising_s=speeds[TOKENISING],
        serving=[
            Serving(
                engine=pair[0],
                precision=pair[1],
                texts_s=speeds["alone", pair],
                with_tokenising_s=speeds["along", pair],
                tflops=flops * speeds["alone", pair],
                share=flops * speeds["alone", pair] / rates[pair[1]],
            )
            for pair in engines
        ],
        not_made=not_made,
        learning=[
            _fine_tune(encoder, _so_many(rows, amounts.learned), batch_rows=batch, rates=rates)
            for batch in amounts.batches
        ],
    )


def _so_many(rows: Sequence[Row], count: int) -> list[Row]:
    """Give so many rows, in a fixed order that mixes labels."""
    order = np.random.default_rng(0).permutation(len(rows))
    return [rows[order[n % len(order)]] for n in range(count)]


def _engines(encoder: Encoder, *, compiled: bool) -> tuple[dict[Pair, Engine], dict[str, str]]:
    """Make every engine of a precision that has a rate, and say why the others cannot be made."""
    maker = Maker(encoder.module, plain=lambda: encoder.module, device=encoder.device)
    made: dict[Pair, Engine] = {}
    not_made: dict[str, str] = {}
    for pair in [(name, p) for name, all_of in PAIRS.items() for p in all_of if p in PRECISIONS]:
        if pair[0] == "torch-compiled" and not compiled:
            not_made[" ".join(pair)] = "left out by --quick"
            continue
        try:
            made[pair] = maker.make(pair)
        except EncoderError as error:
            not_made[" ".join(pair)] = str(error)
    return made, not_made


def _serve(
    encoder: Encoder, engines: Mapping[Pair, Engine], texts: Sequence[str], *, turns: int
) -> dict[tuple[str, Pair], float]:
    """Let engines compute the same texts in turns.

    Returns:
        Texts a second: of the tokenizer, of each engine `alone`, and of each `along` with it.
    """
    token_ids, width = encoder.tokenize(texts), encoder.width

    def along(engine: Engine) -> None:
        features(engine, encoder.tokenize(texts), width=width)

    works: dict[tuple[str, Pair], Callable[[], object]] = {
        TOKENISING: partial(encoder.tokenize, texts)
    }
    for pair, engine in engines.items():
        works["alone", pair] = partial(features, engine, token_ids, width=width)
        works["along", pair] = partial(along, engine)
    spent = best_s(works, clock=clock_of(encoder.device), turns=turns)
    return {key: len(texts) / seconds for key, seconds in spent.items()}


def _fine_tune(
    encoder: Encoder, rows: Sequence[Row], *, batch_rows: int, rates: Mapping[str, float]
) -> Learning:
    """Fine-tune for two epochs, and time the second: every row comes once in it."""
    kind = task_kind("classify")
    texts = [row.text for row in rows]
    work = Consolidation(
        encoder,
        kind,
        texts,
        [kind.check_label(row.label) for row in rows],
        config=ConsolidationConfig(epochs=2, batch_rows=batch_rows),
    )
    clock, started = clock_of(encoder.device), 0.0
    while work.done < work.steps:
        if 2 * work.done == work.steps:
            started = clock()
        work.step()  # answers with the loss: the device is done with what came before
    wait_for(encoder.device)
    spent = clock() - started
    lengths = [len(ids) for ids in encoder.tokenize(texts)]
    tflops = 1e-12 * TRAINING * forward_flops(encoder.module, lengths) / spent
    return Learning(
        batch_rows=batch_rows,
        examples_s=len(rows) / spent,
        tflops=tflops,
        share=tflops / rates["fp32"],
    )


def measure_head(encoder: Encoder, rows: Sequence[Row], *, count: int) -> Head:
    """Let the default head learn features in batches of `HEAD_ROWS`, and solve once.

    Args:
        encoder: gives the features; that is not timed.
        rows: that are learned; fewer than `count` are repeated.
        count: of examples.
    """
    rows = _so_many(rows, count)
    found = encoder.encode([row.text for row in rows])
    head = AdditiveHead(
        features=encoder.width,
        solver="class-balanced",
        width=HEAD_WIDTH,
        seed=0,
        space_id=encoder.space_id,
    )
    labels = [(head.row_of(row.label),) for row in rows]
    clock = clock_of(torch.device("cpu"))
    started = clock()
    for start in range(0, count, HEAD_ROWS):
        head.add(found[start : start + HEAD_ROWS], labels[start : start + HEAD_ROWS])
    head.sums.fold()
    added = clock()
    head.solve()
    ended = clock()
    return Head(
        rows=count,
        width=HEAD_WIDTH,
        threads=torch.get_num_threads(),
        adds_s=count / (added - started),
        solve_s=ended - added,
        examples_s=count / (ended - started),
    )


def table(side: Side) -> Table:
    """Write what one device did for people."""
    by = f"torch threads: {side.threads}, processor time" if side.threads else "clock on the wall"
    rates = ", ".join(f"{name} {rate:.3g}" for name, rate in side.matrix_tflops.items())
    shown = Table(
        title=f"{side.device}: {side.name}; {by}\n"
        f"matrices: {rates} TFLOP/s (fp32 products: {side.float32_matmul}); "
        f"{side.tokens:.1f} tokens and {side.gflop_a_text:.3f} GFLOP a text; "
        f"tokenising {side.tokenising_s:,.0f} texts/s",
        title_justify="left",
    )
    for name in ("what", "precision", "texts/s", "with tokenising", "TFLOP/s", "share %"):
        shown.add_column(name, justify="left" if name in ("what", "precision") else "right")
    for one in side.serving:
        speeds = (f"{one.texts_s:,.0f}", f"{one.with_tokenising_s:,.0f}")
        shown.add_row(
            one.engine, one.precision, *speeds, f"{one.tflops:.3g}", f"{100 * one.share:.1f}"
        )
    for step in side.learning:
        what = f"fine-tuning, batches of {step.batch_rows}"
        figures = (f"{step.examples_s:,.0f}", "-", f"{step.tflops:.3g}", f"{100 * step.share:.1f}")
        shown.add_row(what, "fp32", *figures)
    return shown


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu; cuda by default")
    parser.add_argument("--threads", type=int, help="of the processor; as torch has it by default")
    parser.add_argument("--quick", action="store_true", help="little of everything, no compiling")
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of data sets")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; answer the exit status."""
    given = parse(arguments)
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print(NO_GPU, file=sys.stderr)
        return 2
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    try:
        device = choose_device(given.device)
        rows = [row for row in read(given.data, *BANKING) if row.split == "train"]
    except (DataError, EncoderError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    places = dict.fromkeys((device, torch.device("cpu")))
    amounts = [AMOUNTS["cpu" if p.type == "cpu" else "gpu"][given.quick] for p in places]
    encoders = [Encoder.load(device=str(place), precision="fp32") for place in places]
    sides = [measure(one, rows, much) for one, much in zip(encoders, amounts, strict=True)]
    head = measure_head(encoders[0], rows, count=amounts[0].head_rows)
    console = Console(width=150)
    for side in sides:
        console.print(table(side))
        for name, why in side.not_made.items():
            console.print(f"{name}: {why}")
    console.print(
        f"default head on the processor, torch threads: {head.threads}, {head.width:,} features: "
        f"{head.adds_s:,.0f} adds/s, {head.solve_s:.2f} s a solve; "
        f"{head.examples_s:,.0f} examples/s with one solve in {head.rows:,}"
    )
    print_last("gpu", sides=msgspec.to_builtins(sides), head=msgspec.to_builtins(head))
    return 0


if __name__ == "__main__":
    sys.exit(main())
