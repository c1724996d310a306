"""The quality of what is learned from: texts, repeats, labels, and more of both. All optional.

::

    text ──► cleaning ──► near_duplicates

One idea a module, each with a small frozen config and no state but what its own `state` gives.
Nothing here knows the loop, strategies, Kafka or settings.
"""
