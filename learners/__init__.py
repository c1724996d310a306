"""Everything that learns and what it keeps: no Kafka, no Faust, no settings, no Prometheus.

::

    join ──► examples ──► replay ──► loop ──► gate ──► registry
     (Redis)              (Redis)     │        (held-out memory)  (fsspec)
                                      └──► checkpoint, ledger

    library: the same loop with a memory in this process, for notebooks and scripts

Example:
    >>> from learners import Learner
    >>> learner = Learner("two-speed")
    >>> report = learner.learn(
    ...     ["my card was stolen", "lost my card", "what is my balance", "how much money is left"],
    ...     ["lost card", "lost card", "balance", "balance"],
    ... )
    >>> report.rows + report.held_out, report.new_labels
    (4, 2)
    >>> [decision.label for decision in learner.predict(["somebody took my card"])]
    ['lost card']
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from learners.library import Decision, Forgotten, Learner, StepReport

__all__ = ["Decision", "Forgotten", "Learner", "StepReport"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the names above
    """Import the library at its first use: it takes seconds, and most modules do not need it.

    Raises:
        AttributeError: this package has no such name.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from learners import library

    return getattr(library, name)
