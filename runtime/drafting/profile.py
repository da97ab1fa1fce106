"""Profiles: how one pair is best drafted, found by ``runtime.tune`` and kept in a JSON file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runtime.drafting.adaptive import Adaptive
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.learned import Priors
from runtime.drafting.options import Policy
from runtime.drafting.policy import DraftingPolicy
from runtime.drafting.static import StaticTree
from runtime.tree.shape import TreeShape
from s2d_trt.errors import OptionError
from s2d_trt.files import write_result
from s2d_trt.reading import read_json

SCHEMA = 1
FIELDS = {"schema", "target", "draft", "policy", "exact", "evidence"}


@dataclass(frozen=True, slots=True)
class Profile:
    """A policy for one target and one draft. ``exact`` says whether it was tuned for exact decoding, ``evidence``
    what was measured when it was made.
    """

    target: str
    draft: str
    policy: Policy
    exact: bool
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def check(self, target: str, draft: str | None, name: str) -> None:
        """Raise OptionError where the profile, called ``name``, is not for these identities."""
        for kind, known, given in (("target", self.target, target), ("draft", self.draft, draft)):
            if given is None or known != fingerprint(given):
                raise OptionError(
                    f"{name} was tuned for another {kind}; tune this pair with runtime.tune, or leave --profile out"
                )

    def write(self, path: Path) -> None:
        """Write the file. Raises OptionError where it cannot be written."""
        data = {
            "schema": SCHEMA,
            "target": self.target,
            "draft": self.draft,
            "policy": _described(self.policy),
            "exact": self.exact,
            "evidence": self.evidence,
        }
        write_result(path, json.dumps(data, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Profile:
        """Read a file. Raises OptionError where it cannot be read or is no profile."""
        try:
            data = read_json(path)
        except OSError as cause:
            raise OptionError(
                f"{path} cannot be read ({cause.strerror}); name a file that runtime.tune wrote"
            ) from cause
        except ValueError as cause:
            raise OptionError(f"{path} is damaged ({cause}); name a file that runtime.tune wrote") from cause
        return cls.parse(data, str(path))

    @classmethod
    def parse(cls, data: Any, name: str) -> Profile:
        """A profile from its JSON. Raises OptionError."""
        if not isinstance(data, dict) or data.get("schema") != SCHEMA or not data.keys() <= FIELDS:
            raise OptionError(f"{name} is not a profile of this version; make it again with runtime.tune")
        try:
            policy = _policy(data["policy"])
            return cls(str(data["target"]), str(data["draft"]), policy, bool(data["exact"]), dict(data["evidence"]))
        except (KeyError, TypeError, ValueError, AttributeError) as cause:
            raise OptionError(f"{name} is a damaged profile ({cause}); make it again with runtime.tune") from cause


def fingerprint(identity: str) -> str:
    """A hash of a model's identity without the place where it runs: a profile outlives a change of threads."""
    _, newline, manifest = identity.partition("\n")
    return hashlib.sha256((manifest if newline else identity).encode()).hexdigest()[:32]


def _described(policy: Policy) -> dict[str, Any]:
    exit_, tree = policy.exit, policy.tree
    data: dict[str, Any] = {"lookup": policy.lookup, "tree": asdict(tree) if tree else None}
    if isinstance(exit_, StaticTree):
        frequencies = [[list(path), frequency] for path, frequency in exit_.frequencies.items()]
        data |= {"static": frequencies, "shape": asdict(exit_.shape)}
    if isinstance(exit_, FixedThresholds):
        return data | {"kind": "fixed", "thresholds": exit_.thresholds, "confidence": exit_.rule}
    assert isinstance(exit_, Adaptive)
    return data | {"kind": "adaptive", "priors": asdict(exit_.priors) if exit_.priors else None}


def _policy(data: Mapping[str, Any]) -> Policy:
    tree, lookup = data["tree"], data["lookup"]
    shape = TreeShape(**tree) if tree else None
    exit_: DraftingPolicy
    if data["kind"] == "adaptive":
        exit_ = Adaptive(priors=_priors(data["priors"]) if data["priors"] else None)
    elif data["kind"] == "fixed":
        thresholds = tuple(map(float, data["thresholds"])) if data["thresholds"] is not None else None
        if data["confidence"] not in ("mean", "max"):
            raise ValueError(f"confidence {data['confidence']!r}")
        exit_ = FixedThresholds(thresholds, data["confidence"])
        if "static" in data:
            frequencies = {tuple(map(int, path)): float(frequency) for path, frequency in data["static"]}
            exit_ = StaticTree(thresholds, data["confidence"], frequencies, TreeShape(**data["shape"]))
    else:
        raise ValueError(f"policy kind {data['kind']!r}")
    return Policy(exit_, shape, None if lookup is None else bool(lookup))


def _priors(data: Mapping[str, Any]) -> Priors:
    def pair(values: Any) -> tuple[float, float]:
        slope, offset = map(float, values)
        return slope, offset

    return Priors(
        tuple((pair(best), pair(others)) for best, others in data["calibration"]),
        tuple(tuple(map(float, gains)) for gains in data["deeper_gain"]),
        float(data["next_level"]),
    )
