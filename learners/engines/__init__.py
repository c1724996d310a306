"""How the encoder computes on this machine: libraries and arithmetics, checked and measured.

    making      names -> engines: which there are, which can be built here
    eager       torch as it is, in fp32 or bf16, or compiled by it
    graphs      CUDA graphs of fixed shapes
    vino        OpenVINO: fp32, bf16, 8-bit weights, calibrated 8-bit
    ort         ONNX Runtime: fp32, calibrated 8-bit
    calibrating the process that turns texts into a calibrated 8-bit model
    checks      does an engine still say what torch in fp32 says
    choosing    which of those that do is fastest, by processor time
    switch      the engine that computes now, and how another takes its place
    base        what an engine is, and the words of a choice

An engine turns packed token ids into features. It must give a text the same features whatever other
texts are in the batch; that rules out activations quantised by what a batch holds. Engines must not
know files of an encoder, tokenizers or heads.
"""

from learners.engines.base import Candidate, EngineChoice, EngineName, Pair, Precision
from learners.engines.checks import Labelled
from learners.engines.eager import choose_device
from learners.engines.making import EngineOptions
from learners.engines.switch import EngineSwitch, Source, weights_stamp

__all__ = [
    "Candidate",
    "EngineChoice",
    "EngineName",
    "EngineOptions",
    "EngineSwitch",
    "Labelled",
    "Pair",
    "Precision",
    "Source",
    "choose_device",
    "weights_stamp",
]
