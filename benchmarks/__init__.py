"""Benchmarks on real data, through the same objects that are deployed.

::

    data ──► scenarios ──► trial ──► results ──► report
              (streams)      │  └── measures
                     features (of frozen encoders, kept)

`python -m benchmarks.learn --help` says what can be run; RESULTS.md holds what was measured.
"""
