"""Answering and watching: models in, decisions and scores out. Knows no Kafka and no Faust.

::

    metrics.py    every metric in one list
    releases.py   which release answers for each task; loads the next beside it, moves one reference
    predictor.py  interactions -> predictions, one forward pass per encoder and text
    batcher.py    one queue before the model: rows of the stream and of callers, one thread
    calibrating.py  has encoders calibrated on the texts that come
    recent.py     a bounded memory of what was computed lately
    pairing.py    predictions meet their truths in Redis
    quality.py    (truth, prediction) pairs -> prequential scores
    drift/        one detector a file
"""
