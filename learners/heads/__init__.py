"""Heads: features to scores, one kind a file.

::

    RidgeHead   sums ── solve ──► SolvedRidge  ──► blobs ──► load_served_head
    LinearHead  gradients ──────► SolvedLinear ──► blobs ──► load_served_head
"""
