"""The benchmark of a GPU, on the processor: what is counted, and what a run prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu
from benchmarks.arithmetic import forward_flops, matrix_rates
from benchmarks.data import read
from benchmarks.scenarios import BANKING
from learners.batch import collate
from learners.model import Encoder
from tests.benchmarks.intents import write_intents
from tests.small import MAX_TOKENS, small_encoder

LITTLE = gpu.Amounts((64,), 32, 1, 16, (4, 8), 40, compiled=False)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return small_encoder()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_intents(tmp_path / "data", rows_of_label=12)


@given(rows=st.integers(1, 4), tokens=st.integers(1, MAX_TOKENS))
@settings(deadline=None, max_examples=20)
def test_operations_are_those_that_torch_counts_where_nothing_is_padded(
    encoder: Encoder, rows: int, tokens: int
) -> None:
    packed = collate([[5] * tokens] * rows)
    with (
        torch.inference_mode(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        encoder.module(packed)
    assert forward_flops(encoder.module, [tokens] * rows) == counter.get_total_flops()


@given(st.lists(st.integers(0, MAX_TOKENS), max_size=8))
def test_operations_of_texts_add_up(encoder: Encoder, lengths: list[int]) -> None:
    alone = [forward_flops(encoder.module, [length]) for length in lengths]
    assert forward_flops(encoder.module, lengths) == sum(alone)
    assert alone == sorted(alone) or lengths != sorted(lengths)


def test_a_training_step_takes_about_three_passes_forward(encoder: Encoder) -> None:
    module = encoder.with_weights(encoder.weights()).module.requires_grad_(True)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(collate([[5] * MAX_TOKENS] * 4)).sum().backward()
    forward = forward_flops(encoder.module, [MAX_TOKENS] * 4)
    assert counter.get_total_flops() == pytest.approx(3 * forward, rel=0.02)


def test_a_rate_is_there_for_every_precision() -> None:
    cpu = torch.device("cpu")
    rates = matrix_rates(cpu, {"fp32": torch.float32, "bf16": torch.bfloat16}, sizes=(32, 64))
    assert rates.keys() == {"fp32", "bf16"}
    assert all(rate > 0.0 for rate in rates.values())


def test_shares_are_of_the_matrix_rate_at_the_same_precision(encoder: Encoder, data: Path) -> None:
    rows = read(data, *BANKING)
    side = gpu.measure(encoder, rows, LITTLE)
    assert ("torch", "fp32") in {(one.engine, one.precision) for one in side.serving}
    assert "cuda-graphs bf16" in side.not_made
    for one in side.serving:
        assert one.share == pytest.approx(one.tflops / side.matrix_tflops[one.precision])
        assert one.tflops == pytest.approx(1e-3 * side.gflop_a_text * one.texts_s)
    assert [step.batch_rows for step in side.learning] == [4, 8]
    for step in side.learning:
        assert step.share == pytest.approx(step.tflops / side.matrix_tflops["fp32"])


@pytest.mark.slow
def test_a_run_on_the_processor_prints_a_table_and_one_line_of_json(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main(["--device", "cpu", "--quick", "--threads", "1", "--data", str(data)]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    [side] = last["sides"]
    assert side["threads"] == last["head"]["threads"] == 1
    assert last["head"]["width"] == 4_096
    assert last["head"]["examples_s"] < last["head"]["adds_s"]
    assert all(one["texts_s"] > 0.0 for one in side["serving"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_one_sentence_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert said.err == f"{gpu.NO_GPU}\n"
    assert "no CUDA device" in said.err
    assert "--device cpu" in said.err


def test_absent_data_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--device", "cpu", "--data", str(tmp_path)]) == 2
    assert "banking77/data.jsonl.gz is not there: give the folder" in capsys.readouterr().err
