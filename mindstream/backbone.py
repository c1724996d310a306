"""The encoder that all tasks start from, as the settings name it.

Owns which setting it gets; must not know who uses it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mindstream.settings import Settings

if TYPE_CHECKING:
    from learners.engines import EngineOptions
    from learners.model import Encoder

log = logging.getLogger("mindstream")


def load_encoder(settings: Settings, *, serving: bool = False) -> Encoder:
    """Load the backbone, and say what was measured and chosen.

    Args:
        settings: of this process.
        serving: whether nobody will train it, so that any engine may compute.
    """
    from learners.model import Encoder

    encoder = Encoder.load(
        settings.model.backbone,
        max_tokens=settings.model.max_tokens,
        device=settings.model.device,
        precision="fp32" if serving else torch_precision(settings),
        pooling=settings.model.pooling,
    )
    if serving:
        encoder.choose_engine(engine_options(settings))
    log.info("backbone %s: %s", encoder.name, encoder.choice)
    return encoder


def torch_precision(settings: Settings) -> str:
    """Give the precision of an encoder that may be trained: torch's, whatever serves."""
    precision = settings.model.precision
    return precision if precision in ("auto", "fp32", "bf16") else "fp32"


def engine_options(settings: Settings) -> EngineOptions:
    """Give what may compute the features of an encoder that nobody trains."""
    from learners.engines import EngineOptions

    return EngineOptions(
        engine=settings.model.engine,
        precision=settings.model.precision,
        folder=settings.data_dir / "engines",
        max_accuracy_loss=settings.model.max_accuracy_loss,
    )
