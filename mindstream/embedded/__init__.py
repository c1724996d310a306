"""Kafka and Redis without installing anything: real protocols, for one machine, in memory.

::

    kafka.py      librdkafka's in-process cluster, inside this process
    redis.py      a Valkey server, as a child of this process
    lifeline.py   children that cannot outlive their parent

What must be kept goes to a real cluster: the same settings, another address.
"""
