"""Tests of the runtime: the same examples at every run."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("runtime", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("runtime")
