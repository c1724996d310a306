"""The Faust app, its agents and the learner's consumer loop.

Decode, call, encode, acknowledge: no arithmetic here.

::

    flow.py       read this first: which agents a role attaches, in the order of the stream
    app.py        the Faust app, from explicit arguments
    topics.py     every topic in one table
    decoding.py   bytes to contract, or a dead letter
    batches.py    the one place where an agent takes, isolates and acknowledges
    producing.py  contracts to bytes, awaited until the broker has them
    ingest.py  learn.py  serve.py  watch.py      one role a file
"""
