"""The matrix of a measurement: a TOML file of targets, drafts and settings, and the cells that follow from it."""

from __future__ import annotations

import hashlib
import itertools
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from runtime.drafting.adaptive import Adaptive
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.options import Policy
from runtime.drafting.profile import Profile
from runtime.tree.shape import TreeShape
from s2d_trt.errors import OptionError
from s2d_trt.reading import read_text, reading

NAMES = {"adaptive": Adaptive, "fixed": FixedThresholds}
MOST_BYTES = 2**20
PRECISION = "{precision}"
POLICY_KEYS = {"kind", "thresholds", "confidence", "depth", "top_k", "nodes", "lookup", "exact", "profile"}


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination. ``policy`` names an entry of the matrix's policies; ``texts`` run at a time."""

    target: str
    draft: str
    precision: str
    temperature: float
    policy: str
    texts: int

    @property
    def engines(self) -> tuple[str, str]:
        """Target and draft bundles."""
        return self.target.replace(PRECISION, self.precision), self.draft.replace(PRECISION, self.precision)

    @property
    def title(self) -> str:
        """The combination in words."""
        words = [self.target, self.draft, self.precision, f"T {self.temperature:g}", self.policy, f"{self.texts} texts"]
        return ", ".join(word for word in words if word)


@dataclass(frozen=True, slots=True)
class Matrix:
    """What is measured. ``targets`` and ``drafts`` are paths or names of bundles, in which ``{precision}`` stands for
    each of ``precisions``.
    """

    targets: tuple[str, ...]
    drafts: tuple[str, ...] = ("draft",)
    temperatures: tuple[float, ...] = (0.0,)
    precisions: tuple[str, ...] = ("",)
    policies: Mapping[str, Mapping[str, Any]] | None = None
    texts: tuple[int, ...] = (1,)
    prompts: str = "demo"
    limit: int | None = None
    max_new_tokens: int = 128
    seed: int = 0
    rounds: int = 1
    threads: int | None = None

    @classmethod
    def read(cls, path: Path) -> Matrix:
        """Read a TOML file. Raises OptionError that names the key which is wrong."""
        with reading(path, OptionError, "name a matrix in TOML"):
            try:
                data = tomllib.loads(read_text(path, MOST_BYTES))
            except RecursionError:
                raise ValueError("it is nested too deep") from None
            except tomllib.TOMLDecodeError as cause:
                raise ValueError(f"it is not TOML: {cause}") from None
        known = {field.name for field in fields(cls)}
        if unknown := sorted(data.keys() - known):
            raise OptionError(f"{path}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
        if "targets" not in data:
            raise OptionError(f'{path}: targets are missing; write targets = ["target-17m"]')
        return cls(**{name: _checked(name, value, path) for name, value in data.items()})

    def cells(self) -> Iterator[Cell]:
        """All combinations, those of the same engines after one another."""
        for target, draft, precision in itertools.product(self.targets, self.drafts, self.precisions):
            for temperature, policy, texts in itertools.product(
                self.temperatures, self.policies or {"default": {}}, self.texts
            ):
                yield Cell(target, draft, precision, temperature, policy, texts)

    def check(self, policy: str, target: str, draft: str) -> None:
        """Raise OptionError where a policy's profile is of another pair than these identities."""
        if file := (self.policies or {}).get(policy, {}).get("profile"):
            Profile.read(Path(file)).check(target, draft, file)

    def policy(self, name: str) -> tuple[Policy, bool | None]:
        """A policy by its name, and whether it decodes exactly (None: where the machine allows it)."""
        return _policy(name, (self.policies or {}).get(name, {}))

    def settings(self, cell: Cell) -> dict[str, Any]:
        """Everything of the matrix that decides what a cell measures."""
        own = {
            name: getattr(self, name) for name in ("prompts", "limit", "max_new_tokens", "seed", "rounds", "threads")
        }
        return {**asdict(cell), **own, "policy_options": dict((self.policies or {}).get(cell.policy, {}))}

    def key(self, cell: Cell) -> str:
        """A name for the cell's files; another measurement has another."""
        text = json.dumps(self.settings(cell), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _checked(name: str, value: Any, path: Path) -> Any:
    """A value of the right kind."""
    lists: dict[str, type | tuple[type, ...]] = {
        "targets": str, "drafts": str, "precisions": str, "temperatures": (int, float), "texts": int,
    }  # fmt: skip
    if name in lists:
        values = value if isinstance(value, list) else [value]
        if not values or not all(isinstance(each, lists[name]) and not isinstance(each, bool) for each in values):
            raise OptionError(f"{path}: {name} {value!r} is no list of the right kind; see --help for an example")
        if name == "texts" and min(values) < 1:
            raise OptionError(f"{path}: texts {value!r} are numbers of texts, at least 1")
        return tuple(map(float, values)) if name == "temperatures" else tuple(values)
    if name == "policies":
        if not isinstance(value, dict) or not all(isinstance(entry, dict) for entry in value.values()):
            raise OptionError(f"{path}: policies are tables, like [policies.fixed]")
        for policy, entry in value.items():
            _policy(policy, entry)
        return value
    if name == "prompts":
        return str(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < (0 if name == "seed" else 1):
        raise OptionError(f"{path}: {name} {value!r} must be a whole number of at least 1")
    return value


def _policy(name: str, entry: Mapping[str, Any]) -> tuple[Policy, bool | None]:
    try:
        return _described(entry)
    except OptionError as cause:
        raise OptionError(f"policy {name}: {cause}") from cause
    except (TypeError, ValueError) as cause:
        raise OptionError(f"policy {name}: a value of the wrong kind ({cause}); see --help for an example") from cause


def _described(entry: Mapping[str, Any]) -> tuple[Policy, bool | None]:
    if unknown := sorted(entry.keys() - POLICY_KEYS):
        raise OptionError(f"unknown key {unknown[0]!r}; known are {', '.join(sorted(POLICY_KEYS))}")
    exact, lookup = entry.get("exact"), entry.get("lookup")
    if wrong := [value for value in (exact, lookup) if not isinstance(value, bool | None)]:
        raise OptionError(f"{wrong[0]!r} is neither true nor false")
    if "profile" in entry:
        if entry.keys() - {"profile", "exact"}:
            raise OptionError("a profile holds everything; leave the other keys out")
        profile = Profile.read(Path(str(entry["profile"])))
        return profile.policy, exact if exact is not None or profile.exact else False
    kind = entry.get("kind", "fixed" if "thresholds" in entry or "confidence" in entry else "adaptive")
    if not isinstance(kind, str) or kind not in NAMES:
        raise OptionError(f"kind {kind!r} is neither adaptive nor fixed")
    fixed = FixedThresholds(entry.get("thresholds"), entry.get("confidence", "mean"))
    exit_ = fixed if kind == "fixed" else Adaptive()
    sizes = {key: entry[key] for key in ("depth", "top_k", "nodes") if key in entry}
    return Policy(exit_, TreeShape(**sizes) if sizes else None, lookup), exact
