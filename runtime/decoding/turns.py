"""Threads that share engines take turns on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from runtime.decoding.pair import Pair


@contextmanager
def turns(pairs: Iterable[Pair]) -> Iterator[None]:
    """Keep the engines of ``pairs`` from other threads; all take them in the same order."""
    engines = {engine for pair in pairs for engine in (pair.target, pair.draft) if engine}
    with ExitStack() as held:
        for engine in sorted(engines, key=id):
            held.enter_context(engine.turn)
        yield
