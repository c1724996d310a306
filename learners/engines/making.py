"""From names to engines: which pairs there are, which a setting asks for, and how each is made.

Owns the table; must not know how engines are compared.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, Literal, Protocol, cast

import torch
from torch import nn

from learners.engines import calibrating, ort, vino
from learners.engines.base import (
    CALIBRATED,
    DATA_FREE,
    ELSEWHERE,
    ENGINES,
    ON_A_GPU,
    PRECISIONS,
    REFERENCE,
    Candidate,
    Engine,
    EngineName,
    Pair,
    Precision,
)
from learners.engines.eager import compiled_engine, torch_engine
from learners.engines.graphs import graphs_engine
from schemas.errors import EncoderError

PAIRS: Mapping[EngineName, tuple[Precision, ...]] = {
    "torch": ("fp32", "bf16"),
    "torch-compiled": ("fp32", "bf16"),
    "cuda-graphs": ("bf16",),
    "openvino": ("fp32", "bf16", "int8-weights", "int8"),
    "onnxruntime": ("fp32", "int8"),
}


class Library(Protocol):
    """What a module of a library that is calibrated has."""

    FILES: tuple[str, ...]  # of a calibrated engine

    def machine(self) -> str:
        """Say what an engine was built for, and the versions that built it."""

    def calibrated_engine(self, folder: Path, *, threads: int) -> Engine:
        """Make the engine of a folder with `FILES`."""


LIBRARIES: Mapping[str, Library] = {"openvino": vino, "onnxruntime": ort}
KEPT = 4  # 23 or 59 MB each for the default encoder; every consolidation makes another
CALIBRATION_TIMEOUT_S = 900.0  # 8 seconds of one core for the default encoder


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What may compute an encoder's features.

    Attributes:
        engine: `auto`, or the only one allowed; torch in fp32 is what an encoder falls back on.
        precision: `auto`, or the only one allowed.
        folder: where calibrated engines are kept for the next start; None to keep none.
        max_accuracy_loss: percentage points that an engine may lose on labelled texts.
    """

    engine: EngineName | Literal["auto"] = "auto"
    precision: Precision | Literal["auto"] = "auto"
    folder: Path | None = None
    max_accuracy_loss: float = 0.3


def check_pair(engine: str, precision: str) -> None:
    """Refuse an engine or precision that there is not, or a pair of them.

    Raises:
        EncoderError: with the value and the rule.
    """
    if engine not in ("auto", *ENGINES):
        raise EncoderError(f"engine {engine!r}: one of auto, {', '.join(ENGINES)} was expected")
    if precision not in ("auto", *PRECISIONS):
        expected = ", ".join(PRECISIONS)
        raise EncoderError(f"precision {precision!r}: one of auto, {expected} was expected")
    if engine != "auto" and precision not in ("auto", *PAIRS[cast("EngineName", engine)]):
        raise EncoderError(
            f"engine {engine!r} does not compute in {precision}: "
            f"{', '.join(PAIRS[cast('EngineName', engine)])} are what it does"
        )


def wanted(options: EngineOptions, *, device: torch.device) -> tuple[Pair, ...]:
    """List the pairs that options allow on a device, most exact first.

    A precision alone is torch's where torch has it, so that nothing is measured.

    Example:
        >>> wanted(EngineOptions(precision="bf16"), device=torch.device("cpu"))
        (('torch', 'bf16'),)
        >>> wanted(EngineOptions(engine="openvino"), device=torch.device("cpu"))[-1]
        ('openvino', 'int8')
    """
    check_pair(options.engine, options.precision)
    if options.engine != "auto":
        precisions = PAIRS[options.engine]
        return tuple((options.engine, p) for p in precisions if options.precision in ("auto", p))
    if options.precision in PAIRS["torch"]:
        return (("torch", options.precision),)
    if options.precision != "auto":
        return tuple(pair for pair in (*DATA_FREE, *CALIBRATED) if pair[1] == options.precision)
    if device.type == "cpu":
        return (*DATA_FREE, *CALIBRATED)
    return ON_A_GPU if device.type == "cuda" else ELSEWHERE


class Maker:
    """Makes engines of one module.

    Args:
        module: fp32, on its device. Only torch in fp32 follows it when its weights change.
        plain: gives the module as a release has it, adapters merged; the same or a copy.
        device: where it is.
    """

    def __init__(
        self, module: nn.Module, *, plain: Callable[[], nn.Module], device: torch.device
    ) -> None:
        self._module = module
        self._plain = cache(plain)
        self._device = device
        self._converted = vino.Converted(self._plain)

    def make(self, pair: Pair) -> Engine:
        """Make an engine that needs no texts.

        Raises:
            EncoderError: it cannot be made here, in words for the choice.
        """
        name, precision = pair
        threads = torch.get_num_threads()
        if name in LIBRARIES and self._device.type != "cpu":
            raise EncoderError(f"{name} computes on the processor, not on {self._device}")
        if name == "openvino":
            return vino.vino_engine(self._converted, precision=precision, threads=threads)
        if name == "onnxruntime":
            return ort.ort_engine(self._plain(), threads=threads)
        makers: dict[EngineName, Callable[..., Engine]] = {
            "torch": torch_engine,
            "torch-compiled": compiled_engine,
            "cuda-graphs": graphs_engine,
        }
        module = self._module if pair == REFERENCE else self._plain()
        return makers[name](module, precision=precision, device=self._device)

    def calibrate(self, pair: Pair, token_ids: Sequence[Sequence[int]], *, folder: Path) -> Engine:
        """Make a calibrated engine, in a process of low priority.

        Args:
            pair: which one.
            token_ids: of some hundred texts such as will come.
            folder: an empty one, for the graphs; the library's `FILES` stay in it.

        Returns:
            The engine. An EncoderError says why there is none.
        """
        if pair[0] == "onnxruntime":
            ort.export(self._plain(), folder / "fp32.onnx")
        else:
            ov, _ = vino.library(), vino.compressor()
            ov.save_model(self._converted.model, folder / "fp32.xml", compress_to_fp16=False)
        library = LIBRARIES[pair[0]]
        _run(folder, [ids for ids in token_ids if ids], makes=library.FILES[0])
        return library.calibrated_engine(folder, threads=torch.get_num_threads())


def _run(folder: Path, token_ids: Sequence[Sequence[int]], *, makes: str) -> None:
    """Run `learners.engines.calibrating` on a folder; should this process go, it goes too.

    Raises:
        EncoderError: it did not end well.
    """
    command = [sys.executable, "-P", calibrating.__file__, str(folder)]
    said, late = b"", threading.Event()

    def give_up() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(CALIBRATION_TIMEOUT_S, give_up)
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    with (
        suppress(BrokenPipeError),  # it may end before it has read all, or anything
        subprocess.Popen(command, stdin=pipe, stdout=nothing, stderr=pipe) as process,
    ):
        timer.start()
        try:
            with suppress(BrokenPipeError):
                _file(process.stdin).write(calibrating.written(token_ids))
                _file(process.stdin).flush()
            said = _file(process.stderr).read()  # to its end; its input stays open until then
        finally:
            timer.cancel()
    if late.is_set():
        raise EncoderError(f"calibration did not end within {CALIBRATION_TIMEOUT_S:g} s")
    if process.returncode != 0 or not (folder / makes).is_file():
        lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
        raise EncoderError(f"calibration failed: {lines[-1] if lines else process.returncode}")


def _file(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


class KeptEngines:
    """Calibrated engines of earlier starts, by what they were made of and for.

    A kept engine is taken only on the same machine with the same libraries, with the verdict that
    was found there. No text is kept, and no more than `KEPT` engines.

    Args:
        folder: made when needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, space_id: str, built: Path, candidate: Candidate) -> None:
        """Keep what `Maker.calibrate` left in a folder.

        Args:
            space_id: of the encoder.
            built: that folder.
            candidate: what was found of it.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder) as temporary:
            parts = Path(temporary)
            library = LIBRARIES[candidate.engine]
            for name in library.FILES:
                shutil.copyfile(built / name, parts / name)
            about = {
                "machine": library.machine(),
                "sha256": _digest(parts, library.FILES),
                "candidate": asdict(candidate),
            }
            (parts / "about.json").write_text(json.dumps(about), encoding="utf-8")
            target = self._path(space_id)
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(parts, target)
        for old in sorted(self._folder.glob("*/about.json"), key=_age)[KEPT:]:
            shutil.rmtree(old.parent, ignore_errors=True)

    def find(self, space_id: str) -> tuple[Engine, Candidate] | None:
        """Give the engine of an encoder and what was found of it, or None.

        Args:
            space_id: of the encoder.
        """
        folder = self._path(space_id)
        try:
            about: dict[str, Any] = json.loads((folder / "about.json").read_text(encoding="utf-8"))
            candidate = Candidate(**about["candidate"])
            library = LIBRARIES[candidate.engine]
            if about["machine"] != library.machine():
                return None
            if about["sha256"] != _digest(folder, library.FILES):
                return None
            engine = library.calibrated_engine(folder, threads=torch.get_num_threads())
            return engine, candidate
        except (OSError, ValueError, KeyError, TypeError, EncoderError):
            return None  # none, or one that was half written: it will be made again

    def _path(self, space_id: str) -> Path:
        return self._folder / space_id[:32]


def _age(file: Path) -> float:
    return -file.stat().st_mtime


def _digest(folder: Path, files: Sequence[str]) -> str:
    parts = (folder / name for name in files)
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()
