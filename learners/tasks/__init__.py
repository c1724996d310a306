"""Kinds of task: one file a kind, met by the rest only through `TaskKind`.

To add a kind: write `learners/tasks/<kind>.py` with a class that has what `TaskKind` asks, put it
into `KINDS`, and add its file to the independence contract in pyproject.toml.
"""

from __future__ import annotations

from learners.tasks.base import Decision, TaskKind
from learners.tasks.classify import Classify
from learners.tasks.multilabel import Multilabel

__all__ = ["KINDS", "Decision", "TaskKind", "task_kind"]

KINDS: dict[str, TaskKind] = {kind.name: kind for kind in (Classify(), Multilabel())}


def task_kind(name: str) -> TaskKind:
    """Find a kind by its name.

    Raises:
        ValueError: there is no such kind.

    Examples:
        >>> task_kind("classify").head_solver
        'class-balanced'
    """
    if name not in KINDS:
        raise ValueError(f"task kind {name!r}: one of {', '.join(KINDS)} was expected")
    return KINDS[name]
