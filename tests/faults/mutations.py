"""Inputs that are nearly right: bytes of real files changed at random, and JSON with one value replaced."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

MANY = int(os.environ.get("S2D_FUZZ", "1"))
"""How many times as many cases as `make test` runs."""

NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, 255, 2**31, 2**63, 10**12, 10**30, 0.0, -0.5, 1e-300, 1e300, "", "x", "0",
    "x" * 300, "../../etc/passwd", "/etc/hostname", "\x1b[31m", "\x00", "\ud800", "图", [], {}, [[]], [None], {"": 0},
    [0] * 70, {"type": "x"}, [[[[[[]]]]]],
)  # fmt: skip


def mutated_bytes(rng: random.Random, data: bytes) -> bytes:
    """``data`` with one to four changes; now and then cut short."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, size = rng.randrange(len(changed) + 1), rng.choice((1, 1, 2, 8, 64))
        match rng.randrange(6):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                del changed[at : at + size]
            case 2:
                changed[at:at] = rng.randbytes(size)
            case 3:
                changed[at:at] = changed[at : at + size] * rng.choice((1, 9))
            case 4:
                changed[at : at + size] = rng.choice((b"\xff", b"{", b"[", b'"', b"1e999", b"-", b"NaN", b"\x00"))
            case 5 if rng.random() < 0.3:
                del changed[at:]
    return bytes(changed)


def mutated_json(rng: random.Random, text: bytes) -> bytes:
    """The JSON with one value replaced, removed, repeated or wrapped, or one key renamed; or changed bytes."""
    if rng.random() < 0.2:
        return mutated_bytes(rng, text)
    data = json.loads(text)
    parent, key = rng.choice(list(_places(data)))
    match rng.randrange(6):
        case 0 | 1 | 2:
            parent[key] = rng.choice(NASTY)
        case 3:
            del parent[key]
        case 4 if isinstance(parent, dict):
            parent[rng.choice(("x", "", key + "s", "图"))] = parent.pop(key)
        case _:
            parent[key] = [parent[key]] * rng.choice((1, 2, 100))
    return json.dumps(data).encode()


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Where a value may be replaced: a container and a key of it. Of long containers a few places are enough."""
    keys = list(data) if isinstance(data, dict) else list(range(len(data)))
    for key in (*keys[:40], *keys[-3:]):
        yield data, key
        if isinstance(data[key], (dict, list)) and data[key]:
            yield from _places(data[key])


Mutate = Callable[[random.Random, bytes], bytes]
