"""What a run file and the figures of other commands may say, checked on reading: figures divide and index by it."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

Count = Annotated[int, Meta(ge=0, le=2**53)]
Seconds = Annotated[float, Meta(ge=0, le=1e12)]
Name = Annotated[str, Meta(max_length=4096)]
Index = Annotated[str, Meta(pattern="^[0-9]{1,9}$")]


class Parts(TypedDict):
    """Seconds."""

    prefill: Seconds
    draft: Seconds
    verify: Seconds
    other: Seconds


class Side(TypedDict):
    """Texts of a unit, drafted or by the target alone."""

    seconds: Annotated[float, Meta(gt=0, le=1e12)]
    new_tokens: Annotated[int, Meta(ge=1, le=2**53)]


class Text(Side):
    """One text."""

    text: str
    tokens: list[Count]
    accept_lengths: list[Count]
    parts: Parts
    exits: dict[Index, Count]
    drafted_at_depth: list[Count]
    accepted_at_depth: list[Count]


class Turn(TypedDict):
    """A unit of one text at a time."""

    key: Annotated[str, Meta(pattern="^[0-9]+/[0-9]+/[0-9]+$")]
    category: Name
    question_id: int | Name | None
    drafted: Text
    alone: Text
    exact: bool
    identical: bool
    bit_identical: bool
    reliability: Annotated[list[tuple[float, float, float]], Meta(min_length=10, max_length=10)]


class Together(TypedDict):
    """A unit of several texts at a time."""

    key: Index
    category: Name
    drafted: Side
    alone: Side
    texts: Annotated[int, Meta(ge=1)]
    bit_identical: Count


class Settings(TypedDict):
    """Of a cell."""

    target: Name
    draft: Name
    precision: Name
    policy: Name
    temperature: Annotated[float, Meta(ge=0, le=1e6)]
    texts: Annotated[int, Meta(ge=1)]


class Environment(TypedDict):
    """Where it was measured."""

    time: Name
    bundles: dict[Name, Name]


class RunFile(TypedDict):
    """All but the units, whose form depends on ``settings``."""

    settings: Settings
    environment: Environment
    units: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    skipped: dict[Name, Count]


class Surface(TypedDict):
    """A threshold pair of a tuned profile."""

    first: float
    second: float
    speedup: float


class Setting(TypedDict):
    """A setting that was advised about."""

    setting: Name
    ms_per_token: float
    cost_per_million: float | None
    on_front: NotRequired[bool]


class Compared(TypedDict):
    """A prediction and its measurement."""

    predicted: float
    measured: float


class Tuning(TypedDict):
    """What ``tune --json`` writes."""

    surface: list[Surface]


class Advice(TypedDict):
    """What ``advise --json`` writes."""

    settings: list[Setting]


class Prediction(TypedDict):
    """What ``predict --json`` writes."""

    compared: Annotated[list[Compared], Meta(min_length=1)]


EXTRAS: dict[str, Any] = {"tuning": Tuning, "advice": Advice, "prediction": Prediction}
