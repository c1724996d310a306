"""How the encoder computes on this machine: device and precision, measured at load.

Owns the choice and its words; must not know files, tokenizers or heads. bf16 is up to three times
as fast as fp32 on a processor with AMX and slower on one without, whatever the flags say: so both
are timed, and bf16 is taken only when it is faster and every probe text keeps its features.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from schemas.errors import EncoderError

Precision = Literal["fp32", "bf16"]
Forward = Callable[[nn.Module, int], NDArray[np.float32]]

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
MIN_COSINE = 0.995  # to fp32 features, for every probe text; below it answers would change
MIN_GAIN = 1.1  # bf16 must be this much faster: a tie is not worth another arithmetic
PROBE_TEXTS = 64
SHARES = 5  # the first warms up, the others are timed


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """What was measured when an encoder was loaded, and what was chosen.

    Attributes:
        device: torch device the encoder runs on.
        precision: arithmetic of `Encoder.encode`.
        texts_per_s: measured speed by precision; empty when the precision was given, not measured.
        cosine: smallest cosine between bf16 and fp32 features over the probe texts; None when not
            measured.
    """

    device: str
    precision: Precision
    texts_per_s: Mapping[str, float] = field(default_factory=dict)
    cosine: float | None = None

    def __str__(self) -> str:
        """Say the choice and its reason in one line."""
        if not self.texts_per_s or self.cosine is None:
            return f"{self.precision} on {self.device} (given)"
        fp32, bf16 = self.texts_per_s["fp32"], self.texts_per_s["bf16"]
        return (
            f"{self.precision} on {self.device} (measured: fp32 {fp32:.0f} texts/s, "
            f"bf16 {bf16:.0f} texts/s, smallest cosine {self.cosine:.4f})"
        )


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


def at_precision(module: nn.Module, *, precision: Precision) -> nn.Module:
    """Give the module that computes at a precision: itself for fp32, a converted copy for bf16."""
    if precision == "fp32":
        return module
    return copy.deepcopy(module).to(torch.bfloat16).eval()


def measure(module: nn.Module, forward: Forward, *, device: torch.device) -> EngineChoice:
    """Time fp32 and bf16 on probe texts and choose.

    Args:
        module: the encoder, fp32, on its device.
        forward: runs a module over one share of the probe texts (0 to `SHARES` - 1): float32
            [texts, width], rows of length 1.
        device: where the module is; only for the words.

    Returns:
        bf16 when it is at least `MIN_GAIN` times as fast and the cosine of every probe's features
        to fp32 is at least `MIN_COSINE`; else fp32.
    """
    engines = {name: at_precision(module, precision=name) for name in PRECISIONS}
    spent_s = dict.fromkeys(PRECISIONS, 0.0)
    texts, cosine = 0, 1.0
    for engine in engines.values():
        forward(engine, 0)  # the first pass pays for allocations and kernels
    for share in range(1, SHARES):  # taking turns: a neighbour's burst of load hits both
        features = {}
        for name, engine in engines.items():
            started = time.perf_counter()
            features[name] = forward(engine, share)
            spent_s[name] += time.perf_counter() - started
        cosine = min(cosine, float(np.min(np.sum(features["fp32"] * features["bf16"], axis=1))))
        texts += len(features["fp32"])
    speed: dict[str, float] = {name: texts / max(spent_s[name], 1e-9) for name in PRECISIONS}
    accepted = cosine >= MIN_COSINE and speed["bf16"] >= MIN_GAIN * speed["fp32"]
    return EngineChoice(str(device), "bf16" if accepted else "fp32", speed, cosine)
