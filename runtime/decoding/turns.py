"""Threads that share engines take turns on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.decoding.decoder import Decoder


@contextmanager
def turns(decoders: Iterable[Decoder]) -> Iterator[None]:
    """Keep the engines of ``decoders`` from other threads; all take them in the same order."""
    engines = {engine for decoder in decoders for engine in (decoder.target, decoder.draft) if engine}
    with ExitStack() as held:
        for engine in sorted(engines, key=id):
            held.enter_context(engine.turn)
        yield
