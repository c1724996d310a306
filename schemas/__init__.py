"""The message contracts, their codec and the error tree: the lowest layer, known to all.

::

    interactions ─┐                       ┌─ predictions
    feedback ─────┤  bytes ◄─ codec ─► Struct  models
    examples ─────┘      (the only parser)└─ drift, alerts, dead_letters
"""

from schemas.dead_letters import DeadLetter
from schemas.drift import Alert, DriftSignal
from schemas.examples import Example
from schemas.feedback import Feedback
from schemas.interactions import Interaction
from schemas.models import Blob, GateFigures, GateReport, ModelRelease
from schemas.predictions import Prediction, Scored

__all__ = [
    "Alert",
    "Blob",
    "DeadLetter",
    "DriftSignal",
    "Example",
    "Feedback",
    "GateFigures",
    "GateReport",
    "Interaction",
    "ModelRelease",
    "Prediction",
    "Scored",
]
