"""Benchmarks on real data, through the same objects that are deployed.

::

    data ──► scenarios ──► trial ──► results ──► report     learn: how well, and how fast
      │       (streams)      │  └── measures
      │              features (of frozen encoders, kept)
      ├────► endurance, stock                               forever: no slower, no larger
      │        (small encoder) ──► many_labels              many_labels: in bounded memory
      ├────► overhead, reuse, two_engines                   overhead: what the machinery costs
      │        (stopwatch)                                  reuse: what kept features save
      │                                                     two_engines: what differing ones cost
      ├────► memory                                         memory: the replay memory itself
      │        (writers, buffers)
      ├────► engines                                        engines: what computes the encoder
      └────► gpu (arithmetic)                               gpu: what share of a GPU is used
    deployment ─┬► serve (rivals)                           serve: what is left of the model's speed
      │         └► latency, swap, staleness                 what users notice
      │              (load, commands)
      └────────► http (turns, plain_api)                    http: beside plain FastAPI
    readers ──► ingest                                      ingest: how many events a second come in

`python -m benchmarks.NAME --help` says what can be run; RESULTS.md holds what was measured.
"""
