"""An Avalanche plugin as the protection of a strategy, its attributes in the checkpoint.

Owns the adapter and how a plugin's attributes are written: tensors as arrays, everything else as
JSON, nothing as pickle. Must not know any plugin or strategy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from avalanche.training.utils import ParamData
from torch import Tensor

from learners.strategies.base import Arrays, Meta
from learners.strategies.finetuning import StreamPlugin, TrainedClassifier

SAMPLED_ROWS = 128  # of an experience, for the plugin's own passes when it ends


class WrappedPlugin(StreamPlugin):
    """Lets the template call an Avalanche plugin, and keeps its state.

    Args:
        inner: the plugin. With `state_dict` and `load_state_dict` it says itself what is kept;
            else all its attributes are, see `write_attributes`.
    """

    sampled_rows = SAMPLED_ROWS
    holds = True

    def __init__(self, inner: SupervisedPlugin) -> None:
        super().__init__()
        self.inner = inner

    @property
    def callbacks(self) -> SupervisedPlugin:
        """The plugin itself."""
        return self.inner

    def grown(self, model: TrainedClassifier) -> None:
        """Pad what Avalanche keeps by parameter name: torch deprecates how it pads by itself."""
        shapes = {name: p.shape for name, p in model.named_parameters()}
        for value in vars(self.inner).values():
            _pad(value, shapes)

    def state(self) -> tuple[Arrays, Meta]:
        """Everything the plugin's next step depends on."""
        if hasattr(self.inner, "state_dict"):
            return _write({"state": self.inner.state_dict()})
        return write_attributes(self.inner)

    def restore(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up a state."""
        if hasattr(self.inner, "load_state_dict"):
            self.inner.load_state_dict(_read(meta["state"], arrays))
        else:
            read_attributes(self.inner, arrays, meta)


def _pad(kept: Any, shapes: Mapping[str, torch.Size]) -> None:  # noqa: ANN401
    """Pad with zeros, at the end, every ParamData that is shorter than its parameter."""
    if not isinstance(kept, dict):
        return
    for key, value in kept.items():
        if not isinstance(value, ParamData):
            _pad(value, shapes)
        elif key in shapes and value.shape != shapes[key]:
            padded = value.data.new_zeros(shapes[key])
            padded[: len(value.data)] = value.data
            kept[key] = ParamData(value.name, init_tensor=padded, device=value.device)


def write_attributes(plugin: SupervisedPlugin) -> tuple[Arrays, Meta]:
    """Write all attributes: numbers, texts, tensors, lists, tuples, sets and mappings of them.

    Any other attribute is a TypeError.
    """
    return _write(vars(plugin))


def read_attributes(
    plugin: SupervisedPlugin, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> None:
    """Read what `write_attributes` wrote; a mapping stays the object it is (a defaultdict)."""
    for name, written in meta.items():
        value = _read(written, arrays)
        held = getattr(plugin, name, None)
        if isinstance(held, dict) and isinstance(value, dict):
            held.clear()
            held.update(value)
        else:
            setattr(plugin, name, value)


def _write(values: Mapping[str, Any]) -> tuple[Arrays, Meta]:
    arrays: Arrays = {}
    return arrays, {name: _encode(value, name, arrays) for name, value in values.items()}


def _encode(value: Any, name: str, arrays: Arrays) -> Any:  # noqa: ANN401
    """Turn a value into JSON; tensors go into `arrays` under the name of where they were found.

    Raises:
        TypeError: a value that no checkpoint can hold.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, ParamData):
        arrays[name] = value.data.detach().cpu()
        return {"parameter": name, "named": value.name, "device": str(value.device)}
    if isinstance(value, Tensor):
        arrays[name] = value.detach().cpu()
        return {"tensor": name, "device": str(value.device)}
    if isinstance(value, Mapping):
        pairs = [[key, _encode(item, f"{name}.{key}", arrays)] for key, item in value.items()]
        if all(isinstance(key, (int, float, str)) for key in value):
            return {"mapping": pairs}
    if isinstance(value, (list, tuple, set, frozenset)):
        kind = type(value).__name__
        return {kind: [_encode(item, f"{name}.{i}", arrays) for i, item in enumerate(value)]}
    raise TypeError(f"attribute {name} is a {type(value).__name__}, which no checkpoint can hold")


def _read(written: Any, arrays: Mapping[str, Tensor]) -> Any:  # noqa: ANN401
    if not isinstance(written, Mapping):
        return written
    if "parameter" in written or "tensor" in written:
        name = written.get("parameter") or written["tensor"]
        tensor = arrays[name].clone().to(written["device"])
        if "tensor" in written:
            return tensor
        return ParamData(written["named"], init_tensor=tensor, device=written["device"])
    [(kind, items)] = written.items()
    if kind == "mapping":
        return {key: _read(item, arrays) for key, item in items}
    make = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind]
    return make(_read(item, arrays) for item in items)
