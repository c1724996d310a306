"""torch as it is, or compiled by it.

Owns precisions of a torch module; must not know other libraries or how engines are compared.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from learners.engines.base import Engine, Floats, Shape
from schemas.errors import EncoderError

# Rows and tokens are what was fastest on one core (benchmarks/RESULTS.md): larger batches leave the
# processor's caches.
CPU_SHAPE = Shape(rows=32, tokens=8_192)
# A pass starts a hundred kernels, one after the other, in which time a GPU computes some thousand
# tokens: an estimate, to be measured (benchmarks/gpu.py).
GPU_SHAPE = Shape(rows=512, tokens=65_536, batch_tokens=2_048)


def choose_device(name: str) -> torch.device:
    """Resolve a device name; `auto` is the first CUDA device where there is one.

    Raises:
        EncoderError: the device does not exist here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise EncoderError(f"device {name!r} cannot be used here: {error}") from error
    return device


def shape_on(device: torch.device) -> Shape:
    """Give the micro-batch that suits a device."""
    return GPU_SHAPE if device.type == "cuda" else CPU_SHAPE


def at_precision(module: nn.Module, *, precision: str) -> nn.Module:
    """Give the module that computes at a precision: itself for fp32, a converted copy for bf16."""
    if precision == "fp32":
        return module
    return copy.deepcopy(module).to(torch.bfloat16).eval()


def longest_text(module: Any) -> int:  # noqa: ANN401 - a backbone's configuration has no type
    """Give how many tokens a text may have for sure; 0 where the module does not say."""
    config = getattr(getattr(module, "backbone", None), "config", None)
    positions = int(getattr(config, "max_position_embeddings", 0) or 0)
    return max(0, positions - int(getattr(module, "prompt_tokens", 0)))


def torch_engine(
    module: nn.Module, *, precision: Literal["fp32", "bf16"], device: torch.device
) -> Engine:
    """Compute by a torch module.

    Args:
        module: fp32, on its device. At fp32 it is used as it is, so that what trains it is seen.
        precision: at bf16, a copy is used.
        device: where the module is.
    """
    working = at_precision(module, precision=precision)

    def run(packed: Tensor) -> Floats:
        return _forward(working, packed.to(device))

    return Engine("torch", precision, run, shape_on(device))


def compiled_engine(
    module: nn.Module, *, precision: Literal["fp32", "bf16"], device: torch.device
) -> Engine:
    """Compute by what torch.compile makes of a module; its first passes take a minute.

    Args:
        module: fp32, on its device; a copy is compiled.
        precision: as for `torch_engine`.
        device: where the module is.

    Raises:
        EncoderError: torch cannot compile here, such as without a C++ compiler.
    """
    from learners.batch import collate

    working = at_precision(copy.deepcopy(module).eval(), precision=precision)
    compiled = torch.compile(working, dynamic=True)

    def run(packed: Tensor) -> Floats:
        found: Floats = compiled(packed.to(device)).float().cpu().numpy()
        return found

    try:
        with torch.inference_mode():
            for rows in ([[1, 2, 3]] * 3, [[1, 2, 3, 4, 5], [1, 2]]):
                run(collate(rows))
    except RuntimeError as error:  # torch's own errors of compiling are among these
        reason = str(error).strip().splitlines()[0]
        raise EncoderError(f"torch cannot compile here: {reason}") from error
    return Engine("torch-compiled", precision, run, shape_on(device))


def _forward(module: nn.Module, packed: Tensor) -> Floats:
    training = module.training
    if training:
        module.eval()
    try:
        found: Floats = module(packed).float().cpu().numpy()
    finally:
        if training:
            module.train()
    return found
