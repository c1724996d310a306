"""The encoder that all tasks start from, as the settings name it.

Owns which setting it gets; must not know who uses it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mindstream.settings import Settings

if TYPE_CHECKING:
    from learners.model import Encoder

log = logging.getLogger("mindstream")


def load_encoder(settings: Settings) -> Encoder:
    """Load the backbone, and say what was measured and chosen."""
    from learners.model import Encoder

    encoder = Encoder.load(
        settings.model.backbone,
        max_tokens=settings.model.max_tokens,
        device=settings.model.device,
        precision=settings.model.precision,
        pooling=settings.model.pooling,
    )
    log.info("backbone %s: %s", encoder.name, encoder.choice)
    return encoder
