"""Checking the types of a dataclass's fields: Python takes anything, and a wrong type may spoil a result in silence."""

from __future__ import annotations

import types
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from s2d_trt.errors import OptionError

_ATOMS = (int, float, bool, str, type(None))


def check_fields(instance: Any) -> None:
    """Check each field that holds numbers, texts or tuples of them; call it in ``__post_init__``.

    NumPy's scalars and arrays become Python's own, lists become tuples.

    Raises:
        OptionError: a field has a value of another type.
    """
    kind: Any = type(instance)
    for name, hint in _checked_hints(kind):
        value = getattr(instance, name)
        if hasattr(value, "dtype"):
            value = value.tolist()
        try:
            converted = msgspec.convert(value, hint)
        except msgspec.ValidationError as cause:
            shown = name.replace("_", "-")
            remedy = " (write a tuple of texts)" if isinstance(value, str) and get_origin(hint) is tuple else ""
            raise OptionError(f"{shown} is {value!r}: {str(cause)[:1].lower()}{str(cause)[1:]}{remedy}") from cause
        object.__setattr__(instance, name, converted)


@cache
def _checked_hints(kind: Any) -> list[tuple[str, Any]]:
    return [(name, hint) for name, hint in get_type_hints(kind).items() if is_plain(hint)]


def is_plain(hint: Any) -> bool:
    """Whether a type is made of numbers, texts and tuples alone."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType, tuple):
        return all(part is Ellipsis or is_plain(part) for part in get_args(hint))
    return hint in _ATOMS or origin is Literal
