"""Fixtures of the serving tests: real releases."""

from __future__ import annotations

from tests.foundry import encoder, foundry

__all__ = ["encoder", "foundry"]
