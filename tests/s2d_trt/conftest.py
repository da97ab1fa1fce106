"""Property tests give the same verdict on every run and on a busy machine."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("s2d", derandomize=True, deadline=None, database=None)
settings.load_profile("s2d")
