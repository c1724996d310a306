"""Everything that learns and what it keeps: no Kafka, no Faust, no settings, no Prometheus.

::

    join ──► examples ──► replay ──► loop ──► gate ──► registry
     (Redis)              (Redis)     │        (held-out memory)  (fsspec)
                                      └──► checkpoint, ledger
"""
