"""The front door: command line, settings, wiring, supervisor, the embedded parts and the demo.

Everything that reads the environment, opens a connection or starts a process is in here; the layers
below are handed what they need.
"""

__version__ = "0.1.0"
