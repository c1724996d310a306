"""Heads: features to scores.

::

    AdditiveSums  exact whole-number sums of rows ── merge, subtract, renew
         │
         ▼        balanced_ridge │ lda │ ridge │ nearest_mean      one solve a file
    AdditiveHead  when to solve, which solve serves (choice), names, calibration (probes)
         │
         ▼
    SolvedAdditive ──► blobs ──► load_served_head
    LinearHead    gradients ──► SolvedLinear ──► blobs ──► load_served_head
"""
