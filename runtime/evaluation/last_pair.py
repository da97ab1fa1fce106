"""What the last pair gained: the simplest prediction for another one, to hold better ones against."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from runtime.machine.cache import cache_file, exclusive, write_cache
from s2d_trt.reading import read_json

MOST = 32


class Gained(msgspec.Struct, frozen=True):
    """The speed-up that was predicted for a pair, or measured. ``pair`` holds the identities of target and draft."""

    pair: tuple[str, str]
    name: str
    speedup: float


def last_pair(gained: Gained, *setting: str) -> Gained | None:
    """Note what a pair gained in a setting (temperature, texts at a time, policy); what the last other pair gained in
    the same one, None where there is none.
    """
    path = cache_file("gained", *setting)
    with exclusive(path):
        others = [each for each in _kept(path) if each.pair != gained.pair]
        write_cache(path, json.dumps(msgspec.to_builtins([*others, gained][-MOST:])))
    return others[-1] if others else None


def _kept(path: Path) -> list[Gained]:
    try:
        return msgspec.convert(read_json(path), list[Gained])
    except (OSError, ValueError):
        return []
