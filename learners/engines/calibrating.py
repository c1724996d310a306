"""Calibrate an encoder's graph to 8 bits on texts: a process of its own, of low priority.

Run as a file, `python calibrating.py FOLDER`, so that it loads no torch: calibration works in
Python for seconds, and in the serving process it would hold up every answer. Owns the folder's
files: reads `fp32.xml` and `tokens.npz` (`ids` of all texts on end, `lengths`), writes `int8.xml`.
The method is nncf's post-training quantisation for transformers: 8-bit weights by channel, fixed
8-bit activations by tensor, SmoothQuant (Xiao et al., ICML 2023) and bias correction. Activation
ranges are fixed here, so that no answer depends on the other texts in its batch.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

NICE = 10  # a tenth of a busy processor: serving comes first


def batches(folder: Path) -> Iterator[NDArray[np.int64]]:
    """Read the texts.

    Args:
        folder: with `tokens.npz`.

    Yields:
        One text at a time, int64 [1, 2, tokens]: ids and mask.
    """
    with np.load(folder / "tokens.npz") as file:
        ids, lengths = file["ids"], file["lengths"]
    for row in np.split(ids, np.cumsum(lengths)[:-1]):
        yield np.stack([row, np.ones_like(row)])[None]


def main(folder: Path) -> None:
    """Read the folder's graph and texts, and write the calibrated graph."""
    os.nice(max(0, NICE - os.nice(0)))
    warnings.simplefilter("ignore")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as documented
    import nncf
    import openvino as ov

    nncf.set_log_level(logging.ERROR)
    texts = list(batches(folder))
    calibrated = nncf.quantize(
        ov.Core().read_model(folder / "fp32.xml"),
        nncf.Dataset(texts),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(texts),
    )
    ov.save_model(calibrated, folder / "int8.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
