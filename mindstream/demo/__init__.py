"""The demo: a producer, a collector, an exam and a view around a whole deployment."""
