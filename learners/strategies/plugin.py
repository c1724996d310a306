"""Any Avalanche plugin, named by its import path, as the protection of fine-tuning.

A plugin sees micro-batches as iterations, and what lies between two consolidation points as an
experience (see `learners.template`). When that ends, `strategy.experience.dataset` is a plain torch
data set of a few of its rows; there is no benchmark, no data loader and no Avalanche data set. Each
plugin is tried on a tiny model first, so that one that cannot run here says so at start. What
cannot be tried out is growth: whatever a plugin keeps for ever, it keeps for ever.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from learners.batch import IDS, collate
from learners.heads.linear import LinearHead
from learners.strategies.base import StrategyConfig
from learners.strategies.finetuning import FineTuning, TrainedClassifier
from learners.strategies.wrapped import WrappedPlugin
from learners.tasks.base import TaskKind
from learners.template import MicroBatch, StreamTemplate
from schemas.errors import SettingsError
from schemas.fields import Label

# Avalanche's own that grow, stop or slow down on an endless stream: the strategy to use instead.
INSTEAD = {
    "AGEMPlugin": "agem",
    "GDumbPlugin": "gdumb",
    "GEMPlugin": "agem",
    "MIRPlugin": "mir",
    "RARPlugin": "er",
    "RWalkPlugin": "rwalk",
    "ReplayPlugin": "er",
    "SynapticIntelligencePlugin": "si",
}
DATA_WORDS = ("dataset", "dataloader", "benchmark", "stream", "classes_in_this", "task_label")
WIDTH, WORDS, ROWS = 8, 16, 4  # of the tiny model and its micro-batches


def plugged(config: StrategyConfig) -> FineTuning:
    """Fine-tune with a plugin from anywhere.

    Args:
        config: names the plugin and its arguments.
    """
    probe(config)
    return FineTuning(config, name="plugin", plugin=WrappedPlugin(make_plugin(config)))


def make_plugin(config: StrategyConfig) -> SupervisedPlugin:
    """Import and build the plugin.

    Raises:
        SettingsError: no such module or class, not a plugin, one that does not suit an endless
            stream, or arguments that its class refuses.
    """
    path = config.plugin
    module_name, _, class_name = path.partition(":")
    if not (module_name and class_name):
        raise SettingsError(_wrong(path, "package.module:Class was expected"))
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise SettingsError(_wrong(path, f"it cannot be imported: {error}")) from error
    if not (isinstance(found, type) and issubclass(found, SupervisedPlugin)):
        raise SettingsError(_wrong(path, "it is no avalanche.training.plugins.SupervisedPlugin"))
    if found.__module__.startswith("avalanche.") and class_name in INSTEAD:
        better = INSTEAD[class_name]
        raise SettingsError(
            _wrong(path, f"Avalanche's grows or fails on an endless stream: use {better!r}")
        )
    try:
        return found(**config.plugin_arguments)
    except (TypeError, ValueError, AssertionError) as error:
        given = dict(config.plugin_arguments)
        raise SettingsError(_wrong(path, f"learn.plugin_arguments {given!r}: {error}")) from error


def probe(config: StrategyConfig) -> None:
    """Run a plugin on a tiny model: experiences, a label that comes late, a checkpoint, a resume.

    Raises:
        SettingsError: it cannot run on a stream.
    """
    labels: list[Label] = ["a", "b", "a", "b"]
    if config.kind.name != "classify":
        labels = [("a",), ("a", "b"), (), ("b",)]
    try:
        plugin = WrappedPlugin(make_plugin(config))
        tiny = _Tiny(config.kind, plugin)
        for batch_labels in (labels, [*labels[:3], _late(labels)], labels):
            tiny.learn(batch_labels)
            tiny.learn(batch_labels)
            tiny.consolidate(batch_labels)
        arrays, meta = plugin.state()
        heir = WrappedPlugin(make_plugin(config))
        heir.restore(arrays, json.loads(json.dumps(meta)))
    except SettingsError:
        raise
    except Exception as error:  # a stranger's code may raise anything
        raise SettingsError(_wrong(config.plugin, _advice(error))) from error
    if not all(bool(p.isfinite().all()) for p in tiny.model.parameters()):
        raise SettingsError(_wrong(config.plugin, "it makes weights that are no finite numbers"))


def _late(labels: list[Label]) -> Label:
    return "late" if isinstance(labels[0], str) else ("late",)


def _advice(error: Exception) -> str:
    said = f"{type(error).__name__}: {error}".strip()
    if any(word in said.lower() for word in DATA_WORDS):
        return (
            f"it needs what a stream has not ({said}): keep rows from strategy.mb_x yourself, or "
            "use a strategy that draws from replay memory"
        )
    return f"it fails on the first micro-batches of a stream ({said})"


def _wrong(path: str, problem: str) -> list[str]:
    return [f"learn.plugin = {path!r}: {problem}"]


class _TinyEncoder(nn.Module):
    """Means of a few word vectors, in the encoder's shape."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.words = nn.Parameter(torch.randn(WORDS, WIDTH, generator=generator))

    def forward(self, packed: Tensor) -> Tensor:
        return nn.functional.normalize(self.words[packed[:, IDS]].mean(dim=1), dim=1)


class _Tiny:
    """A tiny model over the template, with one plugin."""

    def __init__(self, kind: TaskKind, plugin: WrappedPlugin) -> None:
        self.kind = kind
        self.plugin = plugin
        self.head = LinearHead(WIDTH)
        self.model = TrainedClassifier(_TinyEncoder(), self.head)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.template = StreamTemplate(
            model=self.model,
            optimizer=self.optimizer,
            criterion=kind.loss,
            device=torch.device("cpu"),
            plugins=[plugin.callbacks],
        )

    def _rows(self, labels: list[Label]) -> tuple[Tensor, Tensor]:
        self.head.grow(text for label in labels for text in self.kind.label_texts(label))
        self.head.fit_optimizer(self.optimizer)
        self.plugin.grown(self.model)
        index: Mapping[str, Any] = {text: row for row, text in enumerate(self.head.labels)}
        packed = collate([[row + 1, row + 2] for row in range(ROWS)])
        return packed, self.kind.targets(labels, index=index)

    def learn(self, labels: list[Label]) -> None:
        packed, targets = self._rows(labels)
        batch = MicroBatch(
            packed=packed,
            labels=tuple(labels),
            previous=(None,) * ROWS,
            held_out=(False,) * ROWS,
            ids=tuple(str(row) for row in range(ROWS)),
        )
        self.template.learn(batch, targets)

    def consolidate(self, labels: list[Label]) -> None:
        packed, targets = self._rows(labels)
        self.template.consolidate(
            TensorDataset(packed, targets, torch.zeros(ROWS, dtype=torch.long))
        )
